"""P2.1: how sure the model is of each subject's answer, and whether long names are recalled less."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from factfinding.data.prompts import in_parts
from factfinding.figures import style
from factfinding.findings.words import FEW, Row, Tables, known_rule, number, percent, share
from factfinding.known import Rule
from factfinding.least import BETTER_NATS, BETTER_POINTS

SHOWN = ("full", "zero_shot")
TURNED = 4
"""Groups up to which their words stand level."""
_TITLES = {
    "probability": "P(own <answer>) > <above>",
    "first": "own <answer> the likeliest token of all",
    "best": "own <answer> the likeliest of the candidates",
}


@style.styled
def draw_recall(*, recall: pl.DataFrame, recall_summary: pl.DataFrame, known_filters: pl.DataFrame) -> Figure:
    """Above, the share of subjects whose P(own answer) exceeds each value; below, recall by answer and, where names differ in
    length, by number of name tokens.

    Where recall is decided by a probability, the upper curves cross a vertical line at the share that is recalled. Frames:
    the tables `recall`, `recall_summary` and `known_filters`.
    """
    if recall.is_empty():
        return style.nothing_to_draw("no <subject> was asked about")
    several = recall["answer"].n_unique() > TURNED  # their words stand upright, and need room
    figure = style.new_figure(6.1 if several else 5.4)
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    answers, rule = recall["answer"].unique().sort().to_list(), known_rule({"known_filters": known_filters})
    panels = upper.subplots(1, 2, sharey=True)
    for axes, condition in zip(panels, SHOWN, strict=True):
        _survival(axes, recall, condition, answers, rule)
    panels[1].set_ylabel("")
    _groups(lower, recall_summary, rule)
    style.legend_above(upper, _legend(answers, rule), columns=3)
    return figure


def _survival(axes: Axes, recall: pl.DataFrame, condition: str, answers: list[str], rule: Rule) -> None:
    for answer, (colour, dash, _) in style.marks(answers).items():
        p = np.sort(recall.filter(pl.col("answer") == answer)[f"{condition}_p"].to_numpy())
        above = 100 * np.arange(len(p), -1, -1) / len(p)  # above the first 0, 1, 2, ... of the sorted values
        axes.step([0, *p, 1], [*above, 0], where="post", color=colour, ls=dash)
    if rule.how == "probability":
        axes.axvline(rule.above, color=style.GREY, linewidth=1.2, linestyle=":")
    axes.set(xlim=(-0.02, 1.02), xlabel="x, a probability")
    style.panel_title(axes, style.CONDITIONS[condition], recall.height)
    style.percent_axis(axes, "P(own <answer>) > x\n(% of <subjects>)")


def _groups(figure: SubFigure, summary: pl.DataFrame, rule: Rule) -> None:
    """A panel by answer, and one by number of name tokens if there are several; each as wide as it has groups."""
    levels = {group: _levels(summary.filter(group=group)) for group in ("answer", "n_name_tokens")}
    shown = {group: found for group, found in levels.items() if group == "answer" or len(found) > 1}
    widths = [max(3, len(found)) for found in shown.values()]
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False, width_ratios=widths)[0]
    for axes, (group, found) in zip(panels, shown.items(), strict=True):
        _points(axes, summary.filter(group=group), found)
        axes.set(xlabel="<answer>" if group == "answer" else "number of name tokens")
    style.percent_axis(panels[0], "recalled\n(% of <subjects>)")
    figure.suptitle(
        f"recalled: {_TITLES[rule.how]}, with 95 % intervals; below each group its n".replace(
            "<above>", f"{rule.above:g}"
        ),
        fontsize=9,
    )


def _levels(rows: pl.DataFrame) -> list[str]:
    """The groups in their order: numbers by size, words by the alphabet."""
    return sorted(
        rows["level"].unique(),
        key=lambda level: (not level.isdigit(), int(level) if level.isdigit() else 0, level),
    )


def _points(axes: Axes, rows: pl.DataFrame, levels: list[str]) -> None:
    """Recall of each group in both conditions."""
    apart = 0.012 * (len(levels) + 1)  # the same on the page, however many groups there are
    for shift, condition, colour, marker in zip(
        (-apart, apart), SHOWN, (style.INK, style.GREY), style.MARKERS, strict=False
    ):
        part = rows.filter(condition=condition)
        at = [levels.index(level) + shift for level in part["level"]]
        value, low, high = (
            100 * part[name].to_numpy() for name in ("recalled", "recalled_low", "recalled_high")
        )
        axes.errorbar(
            at, value, yerr=(value - low, high - value), color=colour, fmt=marker, elinewidth=1.4, capsize=2.5
        )
    counts = dict(rows.filter(condition=SHOWN[0]).select("level", "n").iter_rows())
    turned = len(levels) > TURNED and not all(level.isdigit() for level in levels)
    between = "  " if turned else "\n"
    words = [f"{level}{between}{counts[level]:,}" for level in levels]
    axes.set_xticks(
        range(len(levels)), words, rotation=90 if turned else 0, fontsize=8 if len(levels) > TURNED else None
    )
    axes.set(xlim=(-0.6, len(levels) - 0.4))
    axes.grid(False, axis="x")


def _legend(answers: list[str], rule: Rule) -> list[Line2D]:
    curves = [
        Line2D([], [], color=colour, ls=dash, label=answer)
        for answer, (colour, dash, _) in style.marks(answers).items()
    ]
    said = f"P = {rule.above:g}; above it: recalled"
    threshold = Line2D([], [], color=style.GREY, ls=":", linewidth=1.2, label=said)
    points = [
        Line2D([], [], color=colour, marker=marker, ls="", label=f"below: {style.CONDITIONS[condition]}")
        for condition, colour, marker in zip(SHOWN, (style.INK, style.GREY), style.MARKERS, strict=False)
    ]
    return [*curves, *([threshold] if rule.how == "probability" else []), *points]


def sentences(tables: Tables) -> list[str]:
    """How many subjects are known, with the example and without, by answer and by length of the name."""
    recall_summary, rule = tables["recall_summary"], known_rule(tables)
    whole = {row["condition"]: row for row in recall_summary.filter(group="all").iter_rows(named=True)}
    full, zero_shot = whole["full"], whole["zero_shot"]
    recalled = round(full["recalled"] * full["n"])
    found = [
        (
            f"After one example the model recalls the <answer> of {recalled:,} of {full['n']:,} <subjects> "
            f"({share(full, 'recalled')}: {rule.words}). Among the candidate <answers> its "
            "likeliest is right for "
            f"{share(full, 'accuracy')}; always naming the commonest <answer> is right for {percent(full['majority_rate'])}."
        )
    ]
    if full["accuracy_low"] <= full["majority_rate"]:
        found.append(
            "That is no better than always naming the commonest <answer>: nothing here shows that the model knows these "
            "<subjects>, so the other sections have no recall to explain."
        )
    found.append(
        f"Without the example it recalls {share(zero_shot, 'recalled')} of the same <subjects>, "
        f"{_compared(zero_shot)}."
    )
    found += _extremes(recall_summary.filter(group="answer"), "By <answer>", lambda level: level)
    lengths = recall_summary.filter(group="n_name_tokens", condition="full")
    if lengths.height == 1:
        found.append(f"All names have {_tokens(lengths['level'][0])}.")
    else:
        found += _extremes(recall_summary.filter(group="n_name_tokens"), "By length of the name", _tokens)
    return (
        found
        + _asked_by(tables["candidates"])
        + _given_away(tables["known_filters"])
        + _not_drawn(tables["known_filters"])
        + bos_findings(tables)
    )


def _asked_by(candidates: pl.DataFrame) -> list[str]:
    """Which answers are asked by a part of them."""
    parts = in_parts(candidates)
    if not parts:
        return []
    return [
        (
            f"<Answers> of several tokens are asked by their first, whatever may follow it: {parts}. What is measured of these is "
            "that token."
        )
    ]


def _given_away(known_filters: pl.DataFrame) -> list[str]:
    """Whom the filter on spelling leaves out, and what the classifier on letters is worth."""
    found = known_filters.filter(filter="beyond_spelling", answer="all")
    if found.is_empty():
        return []
    row = found.row(0, named=True)
    worth = (
        f"On all {row['n_classified']:,} names it is right for {share(row, 'accuracy')}, where the commonest <answer> is right "
        f"for {percent(row['majority_rate'])} (difference {number(row, 'over_majority', '+.3f')})."
    )
    if not row["n"]:
        return [f"Nobody is recalled whose letters could give the <answer> away. {worth}"]
    return [
        (
            f"A classifier on the letters of the name, fitted on other names, gives the <answer> of {row['removed']:,} of the "
            f"{row['n']:,} recalled ({share(row, 'share')}). These are left out, and {row['left']:,} are known: no random sample, "
            f"but names whose letters say nothing or mislead. {worth}"
        )
    ]


def _not_drawn(known_filters: pl.DataFrame) -> list[str]:
    """How many are left out only because the study is kept small."""
    found = known_filters.filter(filter="at_most", answer="all")
    return [
        (
            f"To keep the study small, {row['left']:,} of the {row['n']:,} <subjects> that are left are drawn, as evenly over "
            "the <answers> as there are; where later sections say known, they mean these."
        )
        for row in found.iter_rows(named=True)
    ]


def bos_findings(tables: Tables) -> list[str]:
    """Which token prompts should begin with, where another than the one in use is clearly better (`least.py`)."""
    return bos_warnings(tables) or _bos_is_good(tables)


def bos_warnings(tables: Tables) -> list[str]:
    """A sentence for the best of the beginnings that are clearly better than the one in use; none at all is one of them.

    It has the numbers and the line to write. Empty where no other is.
    """
    if "bos_check" not in tables or tables["bos_check"].is_empty():
        return []
    table = tables["bos_check"]
    used = table.filter("used").row(0, named=True)
    better = table.filter(
        ~pl.col("used"),
        (pl.col("recalled_from_used_low") > BETTER_POINTS)
        | (pl.col("accuracy_from_used_low") > BETTER_POINTS)
        | (pl.col("logp_from_used_low") > BETTER_NATS),
    ).sort("logp", descending=True, maintain_order=True)
    return [_better(row, used) + _line(row["token"]) for row in better.head(1).iter_rows(named=True)]


def _better(row: Row, used: Row) -> str:
    return (
        f"Prompts that begin {_with(row)} do clearly better than those {_with(used)}, which this study uses: of {row['n']:,} "
        f"<subjects> the model recalls {share(row, 'recalled')} instead of {share(used, 'recalled')} (in pairs "
        f"{number(row, 'recalled_from_used', '+.1f', scale=100)} points), its likeliest <answer> is right for "
        f"{share(row, 'accuracy')} instead of {share(used, 'accuracy')} (the commonest: {percent(row['majority_rate'])}), and the "
        f"log probability of the right one changes by {number(row, 'logp_from_used', '+.2f')} nats."
    )


def _with(row: Row) -> str:
    return f"with {row['token']}" if row["token_id"] is not None else "with no token before their words"


def _line(token: str) -> str:
    return f" Write `model: {{bos: {json.dumps(token, ensure_ascii=False)}}}` into the configuration."


def _bos_is_good(tables: Tables) -> list[str]:
    if "bos_check" not in tables or tables["bos_check"].is_empty():
        return []
    used = tables["bos_check"].filter("used").row(0, named=True)
    others = tables["bos_check"].filter(~pl.col("used"))["token"].to_list()
    with_them = ", ".join("no token" if token == "none" else token for token in others)
    recalls = f"of {used['n']:,} <subjects> the model recalls {share(used, 'recalled')} so"
    return [
        f"Prompts begin {_with(used)}; {recalls}, and no other beginning is clearly better (tried: {with_them})."
    ]


def _tokens(level: str) -> str:
    return "1 token" if level == "1" else f"{level} tokens"


def _compared(row: Row) -> str:
    """Higher, lower or neither than under `full`, subject by subject."""
    if row["from_full_low"] > 0:
        return "more than after it"
    if row["from_full_high"] < 0:
        return "fewer than after it"
    return "no clear difference"


def _extremes(summary: pl.DataFrame, by: str, words) -> list[str]:
    """The groups with the least and the most recalled under `full`, groups of a few subjects left out."""
    rows = summary.filter((pl.col("condition") == "full") & (pl.col("n") >= FEW)).sort(
        "recalled", maintain_order=True
    )
    if rows.height < 2:
        return []
    least, most = rows.row(0, named=True), rows.row(-1, named=True)
    ends = [f"{share(row, 'recalled')} ({words(row['level'])}, n = {row['n']:,})" for row in (least, most)]
    if least["recalled_high"] >= most["recalled_low"]:
        return [f"{by} there is no clear difference: at least {ends[0]} and at most {ends[1]} are recalled."]
    return [f"{by}, the recalled share runs from {ends[0]} to {ends[1]}."]
