"""P3.5: where in the effective model a probe reads the answer."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import entropy

from factfinding.figures import style
from factfinding.figures.style import FOLDS
from factfinding.findings.words import Row, Tables, most, not_surely_more, number, percent, share

PARTS = {
    "random": FOLDS["random"],
    "first_name": "no first part of a name in two folds",
    "last_name": "no last token in two folds",
}


NO_FIT = "There is no effective model, or too few <subjects> with names of one length to fit a probe on it."


@style.styled
def draw_effective_probes(*, effective_probes: pl.DataFrame, effective_confusion: pl.DataFrame) -> Figure:
    """Accuracy and loss, in the sum of the name's parts and after each lookup MLP; the second table says how common each
    answer is, and so what guessing costs."""
    if effective_probes.is_empty():
        return style.nothing_to_draw("no effective model, or too few names for a probe")
    layers = effective_probes["layer"].drop_nulls().unique().sort().to_list()
    figure = style.new_figure(3.7)
    left, right = figure.subplots(1, 2)
    handles = _lines(left, effective_probes, layers, "accuracy", 100)
    _lines(right, effective_probes, layers, "loss", 1)
    label = "always the commonest <answer>"
    rate = 100 * effective_probes["majority_rate"][0]
    handles[label] = left.axhline(rate, label=label, **style.COMMONEST)
    n, length = effective_probes["n"].max(), effective_probes["n_name_tokens"][0]
    asked = effective_confusion.filter(n_name_tokens=length).group_by("answer").agg(pl.col("subjects").sum())
    if asked.height:
        label = "guessing by the shares of the <answers>"
        guess = entropy(asked["subjects"].to_numpy())
        handles[label] = right.axhline(guess, label=label, **(style.COMMONEST | {"ls": ":"}))
    style.percent_axis(left, "accuracy, held out (% of <subjects>)")
    right.set_ylabel("loss, held out (nats)")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        _stages(axes, layers)
        style.panel_title(axes, f"names of {length} tokens", n)
    style.legend_above(figure, list(handles.values()), columns=2)
    return figure


def _lines(axes: Axes, table: pl.DataFrame, layers: list[int], column: str, unit: float) -> dict[str, object]:
    """A line for each kind of folds, and its control on shuffled labels."""
    handles: dict[str, object] = {}
    for folds, words in PARTS.items():
        for labels in ("true", "shuffled"):
            rows = table.filter(folds=folds, labels=labels).sort("layer", nulls_last=False)
            if rows.is_empty():
                continue
            at = np.arange(rows.height)
            value, low, high = (unit * rows[f"{column}{end}"].to_numpy() for end in ("", "_low", "_high"))
            true = labels == "true"
            label = f"probe, {words}" if true else f"shuffled labels, {words}"
            look = style.look(folds)
            look |= {} if true else {"color": style.GREY, "marker": "x"}
            (handles[label],) = axes.plot(at, value, markersize=4, label=label, **look)
            axes.fill_between(at, low, high, color=look["color"], alpha=0.18, linewidth=0)
    return handles


def _stages(axes: Axes, layers: list[int]) -> None:
    """The sum of the parts, then the lookup MLPs by layer; not all of many are labelled."""
    step = 1 + len(layers) // 9
    shown = list(range(0, len(layers) + 1, step))
    axes.set_xticks(shown, ["sum" if i == 0 else str(layers[i - 1]) for i in shown])
    axes.set(xlabel="sum of the name's parts, then after MLP", xlim=(-0.4, len(layers) + 0.4))


def sentences(tables: Tables) -> list[str]:
    """What the table says, the sentence of the summary first."""
    return probe_findings(tables["effective_probes"])


def probe_findings(effective_probes: pl.DataFrame) -> list[str]:
    """From the table `effective_probes` (P3.5), under the strictest folds."""
    if effective_probes.is_empty():
        return [NO_FIT]
    folds = [kind for kind in PARTS if kind in effective_probes["folds"]][-1]
    rows = effective_probes.filter(folds=folds, labels="true").sort("layer", nulls_last=False)
    first, *after = rows.iter_rows(named=True)
    control = effective_probes.filter(folds=folds, labels="shuffled").sort("layer", nulls_last=False)
    chance = f", with shuffled labels {percent(control['accuracy'][0])}" if control.height else ""
    found = (
        f"On the sum of a name's parts, before the lookup, a probe is right for {share(first, 'accuracy')} of "
        f"{first['n']:,} held-out <subjects> with names of {first['n_name_tokens']} tokens ({PARTS[folds]}; commonest <answer> "
        f"{percent(first['majority_rate'])}{chance}), after the last lookup MLP, {after[-1]['layer']}, for "
        f"{share(after[-1], 'accuracy')}."
    )
    return [found, _steps(after), _losses(first, after)]


def _steps(after: list[Row]) -> str:
    ordered = sorted(after, key=lambda row: -row["step"])
    largest = ordered[0]
    told = f"The largest step is that of MLP {largest['layer']}: {_points(largest)} (paired, n = {largest['n']:,})"
    if largest["step_low"] <= 0:
        return f"{told}, not surely a step up at all."
    rest = [row for row in ordered[1:] if row["from_largest_high"] is None or row["from_largest_high"] >= 0]
    if rest:
        return f"{told}, not surely larger than that of MLP {rest[0]['layer']}: {_points(rest[0])}."
    follows = "".join(f"; next comes MLP {row['layer']}: {_points(row)}" for row in ordered[1:2])
    return f"{told}{follows}."


def _losses(first: Row, after: list[Row]) -> str:
    best, *_ = leaders = most(pl.DataFrame(after), "loss_step", lowest=True)
    tied = not_surely_more(leaders, lambda row: f"at MLP {row['layer']}")
    return (
        f"The loss goes from {_nats(first)} to {_nats(after[-1])}; it falls most at MLP {best['layer']}{tied}: by "
        f"{number(best, 'loss_step', '+.3f')} nats."
    )


def _points(row: Row) -> str:
    return f"{number(row, 'step', '+.1f', scale=100)} points of accuracy"


def _nats(row: Row) -> str:
    return f"{number(row, 'loss', '.3f')} nats"
