"""P3.2: how alike the neurons behind different facts of one subject are."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.figures import style
from factfinding.findings.single_neurons import NO_EFFECTS, NO_PAIRS, ORDER, reading
from factfinding.findings.words import Row, Tables, most, not_surely_more, number, percent

KINDS = {"mean": "at the mean", "resample_other": "resampled"}
STATISTICS = {"pearson": "effects", "absolute": "sizes of effects"}
NUMBERED = 10
"""Facts up to which each cell has its number."""
SHOWN = 24
"""Facts that are drawn: those that most subjects have."""


IDLE = 0.1
"""A layer with a smaller part of an equal share of the effects does nothing for the facts, and its correlation is left out."""
APART = 0.1
"""How far apart the correlations of two layers must surely be to be called different."""


@style.styled
def draw_fact_correlations(*, fact_correlations: pl.DataFrame) -> Figure:
    """Facts by facts: correlation over all neurons of their effects (above) and of their sizes (below), for both readings;
    titles: the baseline, one fact of two subjects, and means over pairs of facts, the neurons of single layers alone.

    fact_correlations: the table of that name.
    """
    pairs = fact_correlations.filter(pl.col("fact") != "all")
    if pairs.filter(subjects="same").is_empty():
        return style.nothing_to_draw(NO_EFFECTS)
    facts, kinds = shown(pairs), [k for k in KINDS if k in fact_correlations["kind"]]
    figure = style.new_figure(3.0 + 3.6)
    panels = figure.subplots(len(STATISTICS), len(kinds), sharex=True, sharey=True, squeeze=False)
    for line, (statistic, words) in zip(panels, STATISTICS.items(), strict=True):
        for axes, kind in zip(line, kinds, strict=True):
            layers = by_layer(fact_correlations.filter(kind=kind, statistic=statistic))
            rows = pairs.filter(kind=kind, statistic=statistic)
            values = matrix(rows.filter(subjects="same"), facts)
            mesh = axes.pcolormesh(values, **style.correlations())
            _numbers(axes, values)
            title = f"{words}, {KINDS[kind]}\nn = {rows['n'].max():,} <subjects>{layers}"
            axes.set_title(f"{title}{_between(rows, facts)}")
            axes.set_aspect("equal")
            axes.grid(False)
    at = np.arange(len(facts)) + 0.5
    size = 8 if len(facts) <= 12 else 5.5
    for axes in panels[:, 0]:
        axes.set_yticks(at, facts, fontsize=size)
        axes.set(ylabel="fact (by name)")
    for axes in panels[-1]:
        axes.set_xticks(at, facts, rotation=90, fontsize=size)
        axes.set(xlabel="fact")
    panels[0, 0].invert_yaxis()
    figure.colorbar(mesh, ax=panels, label="correlation over neurons (1: the same)", shrink=0.6, pad=0.02)
    return figure


def _numbers(axes: Axes, values: np.ndarray) -> None:
    """The values in their cells, where there is room for them."""
    if len(values) > NUMBERED:
        return
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            text = f"{value:.1f}".replace("-0.0", "0.0")
            axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=5.5, color=style.ON_PALE)


def _between(rows: pl.DataFrame, facts: list[str]) -> str:
    """The baseline, as the line of a title: the same fact of two subjects."""
    apart = rows.filter(pl.col("fact") == pl.col("other_fact"), subjects="different")
    apart = apart.filter(pl.col("fact").is_in(facts))["value"].drop_nulls().drop_nans()
    return f"\none fact of two <subjects>: {apart.mean():.2f}" if len(apart) else ""


def by_layer(rows: pl.DataFrame) -> str:
    """The mean over pairs of facts in each layer alone, as the line of a title; of more than two, highest and lowest."""
    layers = rows.filter(pl.col("layers") != "all", subjects="same").sort("value", descending=True)
    if layers.height < 2:
        return ""
    few = layers.height == 2
    named = (
        layers.sort(pl.col("layers").cast(pl.Int64)) if few else pl.concat([layers.head(1), layers.tail(1)])
    )
    each = (f"MLP {layer} {value:.2f}" for layer, value in named.select("layers", "value").iter_rows())
    return "\n" + (", " if few else " to ").join(each)


def shown(table: pl.DataFrame) -> list[str]:
    """The facts that are drawn, in the table's order."""
    counts = table.filter(subjects="same").unpivot(["fact", "other_fact"], index="n", value_name="name")
    most = counts.group_by("name", maintain_order=True).agg(pl.col("n").max())
    most = most.sort("n", descending=True, maintain_order=True).head(SHOWN)["name"].to_list()
    order = list(dict.fromkeys([*table["fact"], *table["other_fact"]]))
    return [fact for fact in order if fact in most]


def matrix(rows: pl.DataFrame, facts: list[str]) -> np.ndarray:
    """Values by fact and fact, symmetric; the diagonal is between subjects. NaN where there is none."""
    values = np.full((len(facts), len(facts)), np.nan)
    for fact, other, value in rows.select("fact", "other_fact", "value").iter_rows():
        if fact in facts and other in facts:
            i, j = facts.index(fact), facts.index(other)
            values[i, j] = values[j, i] = np.nan if value is None else value
    return values


def sentences(tables: Tables) -> list[str]:
    """How alike two facts of a subject are, against two subjects, and in which layers (P3.2).

    tables: `fact_correlations`, `effect_concentration`, and `neuron_effects_screen` where it is there. Rank correlations are
    left alone: they are decided by the many neurons that hardly matter."""
    fact_correlations, effect_concentration = tables["fact_correlations"], tables["effect_concentration"]
    if fact_correlations.filter(subjects="same").is_empty():
        return [NO_PAIRS]
    told = []
    for kind in (kind for kind in ORDER if kind in fact_correlations["kind"]):
        rows = fact_correlations.filter(kind=kind)
        told += _alike(rows.filter(layers="all"), reading(kind, tables))
        told += _by_layer(rows.filter(pl.col("layers") != "all"), effect_concentration.filter(kind=kind))
    return told


def _alike(table: pl.DataFrame, put_in: str) -> list[str]:
    """The mean over all pairs of facts, with its interval, and the pairs that are most and least alike."""
    pairs = table.filter(pl.col("fact") != "all", subjects="same", statistic="pearson")
    mean = table.filter(fact="all", subjects="same", statistic="pearson").row(0, named=True)
    of_pairs = f"{pairs.height:,} pair{'s' if pairs.height > 1 else ''} of facts"
    found = [
        (
            f"With single neurons {put_in}, the effects on two facts of one <subject> correlate at "
            f"{_mean(table, 'same', 'pearson')} (mean over {of_pairs}, n = {mean['n']:,} "
            f"{'<subjects>' if mean['n'] > 1 else '<subject>'}; one fact of "
            f"two <subjects>: {_mean(table, 'different', 'pearson')}{_ceiling(mean)}), their sizes at "
            f"{_mean(table, 'same', 'absolute')} (one fact of two <subjects>: {_mean(table, 'different', 'absolute')})."
        )
    ]
    if pairs.height > 1:
        first, last = most(pairs, "value"), most(pairs, "value", lowest=True)
        found.append(
            f"Most alike are {_pair(first[0])}{not_surely_more(first, _names)}; least, {_pair(last[0])}"
            f"{not_surely_more(last, _names, less=True)}."
        )
    return found


def _by_layer(table: pl.DataFrame, concentration: pl.DataFrame) -> list[str]:
    """Pearson's correlation over the neurons of single layers that do something for the facts, and how these differ."""
    sizes = concentration.filter(measure="layer", fact="all").select("layer", share="value")
    rows = table.filter(subjects="same", statistic="pearson").with_columns(
        layer=pl.col("layers").cast(pl.Int64)
    )
    rows = rows.join(sizes, on="layer").sort("layer")
    if rows.height < 2:
        return []
    works = rows.filter(pl.col("share") * rows.height >= IDLE)
    idle = rows.filter(pl.col("share") * rows.height < IDLE)["layer"].to_list()
    told = "Over the neurons of one MLP alone (each <subject>'s mean over pairs of facts): "
    told += "; ".join(_layer(row) for row in works.iter_rows(named=True))
    if idle:
        told += f"; left out, as they have hardly any of the effects, MLP {', '.join(map(str, idle))}"
    if works.height < 2:
        return [f"{told}."] if works.height else []
    ranked = works.sort("value", descending=True, maintain_order=True)
    most, least = ranked.row(0, named=True), ranked.row(-1, named=True)
    if most["value_low"] - least["value_high"] <= APART:
        return [f"{told}. They do not surely differ by more than {APART}."]
    hashed = ", as where single facts are looked up by what a hash of the name wrote" * (
        most["layer"] < least["layer"]
    )
    return [
        f"{told}. So facts share neurons more in MLP {most['layer']} than in MLP {least['layer']}{hashed}."
    ]


def _layer(row: Row) -> str:
    return f"MLP {row['layer']} {_correlation(row)} (n = {row['n']:,}; {percent(row['share'])} of the summed effects)"


def _mean(table: pl.DataFrame, subjects: str, statistic: str) -> str:
    """The mean over all pairs of facts, with its interval."""
    rows = table.filter(fact="all", subjects=subjects, statistic=statistic)
    return "there are no two" if rows.is_empty() else _correlation(rows.row(0, named=True))


def _ceiling(mean: Row) -> str:
    return "" if mean["ceiling"] is None else f"; the noise of the draws allows {mean['ceiling']:.2f}"


def _names(row: Row) -> str:
    return f"{row['fact']} with {row['other_fact']}"


def _pair(row: Row) -> str:
    return f"{row['fact']} and {row['other_fact']} at {_correlation(row)} (n = {row['n']:,})"


def _correlation(row: Row) -> str:
    over = " over neurons" if row["interval"] == "neurons" else ""
    return f"{number(row, 'value', '.2f')}{over}"
