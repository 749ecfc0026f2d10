"""P2.12: the question in other words: recall, probes, heads, and how far the wordings agree."""

from __future__ import annotations

import textwrap

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from factfinding.figures import style
from factfinding.findings.words import Row, Tables, logits, number, percent, share
from factfinding.least import LEAST_SHARE

POSITIONS = {"final_name": "at the final name token", "end": "at the last token"}
PARTS = {
    ("heads", "rank_correlation"): "heads, rank correlation",
    ("heads", "jaccard"): "leading heads, Jaccard",
    ("mlps", "rank_correlation"): "MLPs, rank correlation",
    ("layers_at_final_name", "rank_correlation"): "layers at the name, rank correlation",
    ("layers_at_end", "rank_correlation"): "layers at the end, rank correlation",
    ("neurons", "rank_correlation"): "neurons, rank correlation",
    ("neurons", "jaccard"): "leading neurons, Jaccard",
}
LARGEST = 8
"""Heads that are drawn."""
WRITE = (
    "There is one wording, and it is a sample of one. To compare it with others, write them into the configuration: "
    "`relation: {paraphrases: [{shot: …, before: …, after: …}]}`; a key that is left out is the relation's own."
)


@style.styled
def draw_paraphrases(
    *,
    paraphrases: pl.DataFrame,
    paraphrase_layers: pl.DataFrame,
    paraphrase_nodes: pl.DataFrame,
    paraphrase_agreement: pl.DataFrame,
) -> Figure:
    """Above, probes by layer at both positions; below, leading heads in each wording, and the agreement with the first."""
    if paraphrases.height < 2:
        return style.nothing_to_draw("there is one wording of the question")
    if paraphrase_nodes.is_empty() and paraphrase_layers.is_empty():
        return style.nothing_to_draw("too few <subjects> are recalled in every wording")
    looks = style.marks(paraphrases["wording"].to_list())
    figure = style.new_figure(6.4 + 0.35 * max(0, len(looks) - 3))
    above, below = figure.add_gridspec(2, 1)  # so that long names below do not push the panels above aside
    above = above.subgridspec(1, 2).subplots(sharey=True)
    below = below.subgridspec(1, 2).subplots()
    for axes, position in zip(above, POSITIONS, strict=True):
        _probes(axes, paraphrase_layers.filter(position=position, probe="logistic"), position, looks)
    _heads(below[0], paraphrase_nodes, looks)
    _agreement(below[1], paraphrase_agreement, looks)
    style.legend_above(figure, _legend(paraphrases, looks), columns=1)
    return figure


def _probes(axes: Axes, rows: pl.DataFrame, position: str, looks: dict) -> None:
    for wording, (colour, dash, marker) in looks.items():
        one = rows.filter(wording=wording)
        if not one.is_empty():
            style.band(axes, one, "layer", "accuracy", color=colour, ls=dash, marker=marker, markersize=3.5)
    if rows.is_empty():
        _nothing(axes, "too few <subjects> to fit a probe")
    else:
        axes.axhline(100 * rows["majority_rate"][0], **style.COMMONEST)
        style.layer_axis(axes, rows["layer"].unique().sort().to_list())
    style.panel_title(axes, f"probes {POSITIONS[position]}", rows["n"][0] if rows.height else 0)
    style.percent_axis(axes, "right <answers> (% of <subjects>)" if position == "final_name" else "")


def _heads(axes: Axes, nodes: pl.DataFrame, looks: dict) -> None:
    """The heads that do most in any wording, with an interval for each wording."""
    heads = nodes.filter(kind="head")
    names = _leading(heads, LARGEST)
    axes.set_title("direct effect of the leading heads")
    if not names:
        return _nothing(axes, "no head does a hundredth of the whole")
    for shift, wording, (colour, _, marker) in _shifted(looks):
        rows = heads.filter(pl.col("node").is_in(names), wording=wording)
        at = [names.index(node) + shift for node in rows["node"]]
        _points(axes, rows, "exact", at, color=colour, marker=marker)
    axes.axvline(0, color=style.INK, linewidth=0.8)
    _rows_of(axes, names)
    axes.set(xlabel="change of the logit difference (logits)")
    return None


def _agreement(axes: Axes, table: pl.DataFrame, looks: dict) -> None:
    """Of each other wording with the first; ticks for chance, crosses for one wording on two halves."""
    first = table.filter(pl.col("value").is_not_null(), wording=1)
    kept = [key for key in PARTS if not first.filter(part=key[0], measure=key[1]).is_empty()]
    axes.set_title("agreement with wording 1")
    if not kept:
        return _nothing(axes, "nothing to compare")
    for shift, wording, (colour, _, marker) in _shifted(looks):
        rows = first.filter(other_wording=wording)
        keys = list(zip(rows["part"], rows["measure"], strict=True))
        at = [kept.index(key) + shift for key in keys]
        _points(axes, rows, "value", at, color=colour, marker=marker)
        axes.scatter(rows["within"].to_numpy(), at, color=colour, marker="x", s=16, linewidths=0.9)
        chance = rows["chance"].to_numpy()
        axes.vlines(chance, np.array(at) - 0.09, np.array(at) + 0.09, color=style.GREY, linewidth=1.6)
    _rows_of(axes, [PARTS[key] for key in kept])
    axes.set(xlabel="agreement (1: the same)", xlim=(min(-0.05, _least(first)), 1.05))
    return None


def _points(axes: Axes, rows: pl.DataFrame, name: str, at: list[float], *, color: str, marker: str) -> None:
    value, low, high = (rows[f"{name}{end}"].cast(pl.Float64).to_numpy() for end in ("", "_low", "_high"))
    error = np.abs(np.stack([value - low, high - value])) if len(value) else None
    axes.errorbar(value, at, xerr=error, fmt=marker, color=color, elinewidth=1.3, markersize=4)


def _rows_of(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(False, axis="y")


def _shifted(looks: dict) -> list[tuple[float, int, tuple]]:
    """The wordings one below the other within a row."""
    apart = 0.6 / len(looks)
    return [
        (apart * (i - (len(looks) - 1) / 2), wording, look) for i, (wording, look) in enumerate(looks.items())
    ]


def _least(rows: pl.DataFrame) -> float:
    ends = [rows[name].drop_nulls().drop_nans().min() for name in ("value", "value_low", "within", "chance")]
    return min(float(end) for end in ends if end is not None) - 0.05  # type: ignore[arg-type]


def _leading(heads: pl.DataFrame, most: int) -> list[str]:
    """Heads that do a hundredth of the whole in some wording, the largest first."""
    does = heads.filter(pl.col("share") >= LEAST_SHARE)
    ordered = does.group_by("node", maintain_order=True).agg(pl.col("exact").min()).sort("exact", "node")
    return ordered["node"].head(most).to_list()


def _nothing(axes: Axes, words: str) -> None:
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", fontsize=8)
    axes.set(xticks=[], yticks=[])


def _legend(paraphrases: pl.DataFrame, looks: dict) -> list[Line2D]:
    handles = []
    for row in paraphrases.iter_rows(named=True):
        colour, dash, marker = looks[row["wording"]]
        words = textwrap.shorten(row["question"], 52, placeholder=" …")
        label = f"{row['wording']}: “{words}” (recalled {percent(row['recalled'])} of {row['n']:,})"
        handles.append(Line2D([], [], color=colour, ls=dash, marker=marker, markersize=4, label=label))
    label = "always the commonest <answer>"
    return [*handles, Line2D([], [], color=style.INK, ls=":", linewidth=1, label=label)]


def sentences(tables: Tables) -> list[str]:
    """How many wordings there are and how far they agree; then recall, layers and heads one by one."""
    paraphrases, agreement = tables["paraphrases"], tables["paraphrase_agreement"]
    others = list(paraphrases.filter(pl.col("wording") > 1).iter_rows(named=True))
    if not others:
        return [WRITE]
    found = [_whole(paraphrases.height, agreement), *_recall(paraphrases.row(0, named=True), others)]
    if agreement.is_empty():
        return found
    heads = tables["paraphrase_nodes"].filter(kind="head")
    return [*found, *_layers(tables["paraphrase_layers"]), *_leaders(heads), *_about(agreement)]


def _whole(wordings: int, agreement: pl.DataFrame) -> str:
    """The summary: the least agreement about heads, of all pairs of wordings."""
    asked = f"Asked in {wordings} wordings"
    heads = agreement.filter(pl.col("value").is_not_null(), part="heads").sort("value", maintain_order=True)
    ranks, leading = (heads.filter(measure=name) for name in ("rank_correlation", "jaccard"))
    if ranks.is_empty():
        return f"{asked}, too few <subjects> are recalled in all of them to compare heads."
    least = ranks.row(0, named=True)
    pairs = (
        "the two agree"
        if ranks.height == 1
        else f"any two of them agree (of {ranks.height:,} pairs, the least)"
    )
    text = (
        f"{asked}, {pairs} about which heads write the <answer> with a rank correlation of {number(least, 'value', '.2f')} over "
        f"all of them ({least['units']:,}; chance: {least['chance']:.2f}, 95 % below {least['chance_95']:.2f}; "
        f"n = {least['n']:,})"
    )
    if leading.is_empty():
        return f"{text}."
    row = leading.row(0, named=True)
    return f"{text}, and share {number(row, 'value', '.2f')} of their first {row['top']} (Jaccard; chance: {row['chance']:.2f})."


def _recall(own: Row, others: list[Row]) -> list[str]:
    found = []
    for row in others:
        how = "no clear difference"
        if row["recalled_from_own_low"] > 0:
            how = "more"
        if row["recalled_from_own_high"] < 0:
            how = "fewer"
        found.append(
            f"In wording {row['wording']} (“{row['question']}”) the model recalls {share(row, 'recalled')} of {row['n']:,} "
            f"<subjects>, in the first {share(own, 'recalled')}: {how}, in pairs "
            f"{number(row, 'recalled_from_own', '+.1f', scale=100)} points. {row['known_in_both']:,} are known in both; always "
            f"naming the commonest <answer> is right for {percent(row['majority_rate'])}."
        )
    return found


def _layers(layers: pl.DataFrame) -> list[str]:
    """At each position, the layer at which a wording differs most from the first."""
    found = []
    for position, words in POSITIONS.items():
        rows = layers.filter(pl.col("wording") > 1, position=position, probe="logistic")
        rows = rows.sort(pl.col("from_own").abs(), descending=True, maintain_order=True)
        for row in rows.head(1).iter_rows(named=True):
            clear = row["from_own_low"] > 0 or row["from_own_high"] < 0
            layer = "in the embeddings" if row["layer"] < 0 else f"after layer {row['layer']}"
            found.append(
                f"Probes {words} differ most from those of the first wording {layer}, in wording {row['wording']}: by "
                f"{number(row, 'from_own', '+.1f', scale=100)} points (in pairs; n = {row['n']:,}; the commonest <answer>: "
                f"{percent(row['majority_rate'])}){'' if clear else ', which is no clear difference'}."
            )
    return found


def _leaders(heads: pl.DataFrame) -> list[str]:
    """The head that does most, in each wording."""
    first = heads.filter(pl.col("rank") == 1, pl.col("share") >= LEAST_SHARE).sort("wording")
    if first.is_empty():
        return ["In no wording does a head write a hundredth of the whole effect."]
    told = [
        f"{row['node']} by {logits(row, 'exact')} in wording {row['wording']}"
        for row in first.iter_rows(named=True)
    ]
    same = first["node"].n_unique() == 1 and first.height > 1
    leads = (
        "The same head lowers the logit difference most in each"
        if same
        else "The head that lowers the logit difference most"
    )
    return [f"{leads}: {'; '.join(told)} (n = {first['n'][0]:,})."]


def _about(agreement: pl.DataFrame) -> list[str]:
    """Of each other part, the pair of wordings that agrees least."""
    found = []
    for (part, measure), words in PARTS.items():
        rows = agreement.filter(pl.col("value").is_not_null(), part=part, measure=measure)
        if part == "heads" or rows.is_empty():
            continue
        row = rows.sort("value", maintain_order=True).row(0, named=True)
        noise = (
            ""
            if row["within"] is None
            else f"; one wording on two halves of the <subjects>: {row['within']:.2f}"
        )
        found.append(
            f"{words[0].upper()}{words[1:]}: {number(row, 'value', '.2f')} of wordings {row['wording']} and "
            f"{row['other_wording']}, the least of {rows.height:,} (chance: {row['chance']:.2f}{noise}; {row['units']:,} units, "
            f"n = {row['n']:,})."
        )
    return found
