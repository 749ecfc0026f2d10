"""P3.2: how few neurons carry the effects on a fact."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from factfinding.figures import style
from factfinding.findings.single_neurons import NO_EFFECTS, NO_PAIRS, ORDER, reading
from factfinding.findings.words import Row, Tables, number, percent

KINDS = {"mean": "its mean instead", "resample_other": "that of another <answer>'s <subject> instead"}
SHOWN = 16
"""Facts of the right panel: those that most subjects have."""


@style.styled
def draw_effect_concentration(*, effect_concentration: pl.DataFrame) -> Figure:
    """Left, share of the summed absolute effect that the largest neurons carry, over all facts; right, the
    participation ratio by fact. Dashed: effects drawn from one normal distribution.

    effect_concentration: the table of that name.
    """
    if effect_concentration.is_empty():
        return style.nothing_to_draw(NO_EFFECTS)
    ratios = effect_concentration.filter(measure="participation_ratio")
    facts = ratios.filter(pl.col("fact") != "all").sort("n", descending=True, maintain_order=True)
    facts = ["all", *facts["fact"].unique(maintain_order=True).head(SHOWN)]
    figure = style.new_figure(1.6 + max(2.4, 0.22 * len(facts)))
    left, right = figure.subplots(1, 2)
    looks = {kind: style.look(kind) for kind in KINDS if kind in effect_concentration["kind"]}
    handles = _curves(left, effect_concentration.filter(measure="top", fact="all"), looks)
    _ratios(right, ratios, facts, looks)
    style.legend_above(figure, handles, columns=3)
    return figure


def _curves(axes: Axes, rows: pl.DataFrame, looks: dict) -> list:
    handles = []
    for kind, look in looks.items():
        part = rows.filter(kind=kind)
        handles.append(style.band(axes, part, "top", "value", label=KINDS[kind], **look))
    expected = part.sort("top")
    handles += axes.plot(
        expected["top"], 100 * expected["gaussian"], color=style.INK, lw=1, ls=":", label="normal effects"
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel=f"largest neurons (of {rows['n_neurons'].max():,})")
    style.percent_axis(axes, "share of the summed effect (%)")
    axes.set_title(f"each <subject>'s mean over facts\nn = {rows['n'].max():,} <subjects>")
    return handles


def _ratios(axes: Axes, rows: pl.DataFrame, facts: list[str], looks: dict) -> None:
    for i, (kind, look) in enumerate(looks.items()):
        part = rows.filter(pl.col("fact").is_in(facts), kind=kind)
        at = [facts.index(fact) + 0.26 * (i - (len(looks) - 1) / 2) for fact in part["fact"]]
        ends = (part[f"value{end}"].fill_null(float("nan")) for end in ("", "_low", "_high"))
        value, low, high = (end.to_numpy() for end in ends)
        axes.errorbar(value, at, xerr=(value - low, high - value), capsize=2, **(look | {"ls": ""}))
    axes.axvline(rows["gaussian"][0], color=style.INK, lw=1, ls=":")
    axes.set_yticks(range(len(facts)), ["all facts" if fact == "all" else fact for fact in facts])
    axes.set(xlabel="participation ratio (neurons)", ylim=(len(facts) - 0.4, -0.6))
    axes.set_xlim(left=0)
    axes.grid(False, axis="y")
    axes.set_title("neurons that share the effect")


def sentences(tables: Tables) -> list[str]:
    """The share of the largest neurons, and the participation ratio (P3.2).

    tables: `effect_concentration`, and `neuron_effects_screen` where it is there."""
    effect_concentration = tables["effect_concentration"]
    if effect_concentration.is_empty():
        return [NO_PAIRS]
    kinds = [kind for kind in ORDER if kind in effect_concentration["kind"]]
    return [
        _concentrated(effect_concentration.filter(fact="all", kind=kind), reading(kind, tables))
        for kind in kinds
    ]


def _concentrated(rows: pl.DataFrame, put_in: str) -> str:
    shares = {row["top"]: row for row in rows.filter(measure="top").iter_rows(named=True)}
    ratio = rows.filter(measure="participation_ratio").row(0, named=True)
    told = [
        f"the largest {'one' if top == 1 else f'{top:,}'} {'carries' if top == 1 else 'carry'} {_interval(shares[top], 100)} %"
        for top in (1, 10, 100)
        if top in shares
    ]
    return (
        f"Of {ratio['n_neurons']:,} neurons {put_in}, {', '.join(told)} of the summed absolute effect on a fact; it "
        f"is spread as over {_interval(ratio, 1)} neurons of equal effect (participation ratio; n = {ratio['n']:,} <subjects>; "
        f"effects from one normal distribution: {percent(shares[min(shares)]['gaussian'])} for the largest, and "
        f"{ratio['gaussian']:.0f})."
    )


def _interval(row: Row, scale: float) -> str:
    return number(row, "value", ".1f", scale=scale)
