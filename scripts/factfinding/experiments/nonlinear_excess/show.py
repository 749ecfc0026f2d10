"""P3.3: how much of what the probe's output has beyond a sum of the name's parts is made by activation functions."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from factfinding.figures import style
from factfinding.findings.words import Row, Tables, number, percent, share

RULES = {
    "ratio_both": ("both signs", style.DASHES[0], "s", style.BLUE),
    "ratio": ("above zero only", style.DASHES[3], "o", style.PAPER),
}
"""How what is made is counted: words, dash, marker and what fills it."""
PROBES = {"head": "the head probe", "logistic": "the logistic probe"}
"""What reads the output, the study's first: the figure and the sentences are about the first that there is."""
MOST = 0.5
"""The ledger's threshold: what is surely more is most of it."""
NAMES = {"known": "known names", "unknown": "unknown names"}
"""Their colours are those of known and unknown names in every figure; all that is about known names alone is blue."""
KNOWN = style.LOOKS["known"][0]
SHOWN = (-50, 150)
"""Per cent of the excess: ratios to a small excess may lie anywhere."""
TOPS = (1, 10, 100)
"""Neurons of a single name whose share is drawn: those of the table."""
LISTED = 10
"""Neurons by name."""


NO_MODEL = "No lookup at the name was found, or too few <subjects> are known: there is no effective model to look into."


@style.styled
def draw_nonlinear_excess(
    *,
    nonlinear_excess: pl.DataFrame,
    nonlinear_excess_subjects: pl.DataFrame,
    nonlinear_excess_neurons: pl.DataFrame,
) -> Figure:
    """Ratios over names; shares by layer; the neurons that make most; how many make how much."""
    if nonlinear_excess.is_empty():
        return style.nothing_to_draw("no effective model, or too few names to pair")
    nonlinear_excess, nonlinear_excess_subjects, nonlinear_excess_neurons = (
        table.filter(probe=_probe(nonlinear_excess))
        for table in (nonlinear_excess, nonlinear_excess_subjects, nonlinear_excess_neurons)
    )
    figure = style.new_figure(6.9)
    panels = figure.subplots(2, 2).flatten()
    handles = _ratios(panels[0], nonlinear_excess_subjects.filter(layers="all"))
    handles |= _layers(panels[1], nonlinear_excess.filter(names="known"))
    neurons = nonlinear_excess_neurons.filter(answer="all").sort("rank")
    _neurons(panels[2], neurons)
    handles |= _cumulative(panels[3], neurons, nonlinear_excess.filter(names="known", layers="all"))
    style.legend_above(figure, list(handles.values()), columns=2)
    return figure


def _probe(summary: pl.DataFrame) -> str:
    """The probe that the page is about."""
    return min(summary["probe"].unique(), key=list(PROBES).index)


def _ratios(axes: Axes, names: pl.DataFrame) -> dict[str, object]:
    """Share of names at or below each ratio."""
    handles: dict[str, object] = {}
    for group, words in NAMES.items():
        rows, colour = names.filter(names=group), style.LOOKS[group][0]
        for column, (rule, dash, *_) in RULES.items():
            values = 100 * rows[column].drop_nulls().sort().to_numpy()
            if len(values):
                share = 100 * np.arange(1, len(values) + 1) / len(values)
                label = f"made, {rule}: {words}"
                (handles[label],) = axes.step(values, share, where="post", color=colour, ls=dash, label=label)
    axes.axvline(100, color=style.INK, linewidth=0.8)
    axes.set(xlim=SHOWN, ylim=(-3, 103), xlabel="made by activations (% of the output's excess)")
    axes.set_ylabel("names (%), cumulative")
    read_by = PROBES[names["probe"][0]]
    style.panel_title(axes, f"each name, {read_by}", names.filter(names="known").height)
    return handles


def _layers(axes: Axes, rows: pl.DataFrame) -> dict[str, object]:
    """By layer: what passes through its neurons, and what they make, as shares of the mean excess of the output."""
    handles: dict[str, object] = {}
    whole = rows.filter(layers="all").row(0, named=True)
    rows = rows.filter(pl.col("layers") != "all").with_columns(pl.col("layers").cast(pl.Int64)).sort("layers")
    layers = rows["layers"].to_numpy()
    shown = (
        ("passed", "all that passes through neurons", style.GREY, "D", style.GREY),
        *(
            (column, f"made there, {words}", KNOWN, marker, fill)
            for column, (words, _, marker, fill) in zip(("made_both", "made"), RULES.values(), strict=True)
        ),
    )
    unit = 100 / whole["excess"] if whole["excess"] else 0.0
    for i, (column, words, colour, marker, fill) in enumerate(shown):
        value, low, high = (unit * rows[f"{column}{end}"].to_numpy() for end in ("", "_low", "_high"))
        at = layers + (i - 1) * 0.15
        look = {"color": colour, "marker": marker, "mfc": fill, "ls": "", "capsize": 2, "markersize": 4}
        ends = np.abs((value - low, high - value))
        handles[words] = axes.errorbar(at, value, yerr=ends, label=words, **look)
    axes.axhline(0, color=style.INK, linewidth=0.8)
    style.layer_axis(axes, layers.tolist(), "lookup MLP (layer)")
    axes.set_xlim(layers.min() - 0.7, layers.max() + 0.7)
    if len(layers) <= 10:
        axes.set_xticks(layers, [str(layer) for layer in layers])
    axes.set_ylabel("mean (% of the output's excess)")
    style.panel_title(axes, "by layer, known names", whole["n"])
    return handles


def _neurons(axes: Axes, neurons: pl.DataFrame) -> None:
    """The neurons that make most, on average over the known subjects."""
    rows = neurons.head(LISTED)
    value, low, high = (rows[f"made{end}"].to_numpy() for end in ("", "_low", "_high"))
    at = np.arange(rows.height)
    axes.barh(at, value, color=KNOWN, height=0.7)
    if rows["made_low"].null_count() == 0:
        ends = np.abs((value - low, high - value))
        axes.errorbar(value, at, xerr=ends, fmt="none", ecolor=style.INK, elinewidth=1, capsize=2)
    axes.axvline(0, color=style.INK, linewidth=0.8)
    labels = [f"L{layer}N{neuron}" for layer, neuron in rows.select("layer", "neuron").iter_rows()]
    axes.set_yticks(at, labels)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set(xlabel="made, above zero only (logits)", ylabel="neuron (layer, number)")
    style.panel_title(axes, "the largest neurons", rows["n"][0])


def _cumulative(axes: Axes, neurons: pl.DataFrame, whole: pl.DataFrame) -> dict[str, object]:
    """Share of what all neurons make, signs apart, that the largest k have: a line for what they make in the mean over
    subjects, and points for one subject's own largest, of which the sentences speak."""
    share = 100 * np.cumsum(neurons["share"].fill_null(0).to_numpy())
    counts = np.arange(1, len(share) + 1)
    words = "largest in the mean over names"
    handles: dict[str, object] = {}
    (handles[words],) = axes.plot(counts, share, color=KNOWN, ls=style.DASHES[2], label=words)
    words, row = "largest of one name (mean of names)", whole.row(0, named=True)
    tops = [top for top in TOPS if top <= len(share) and row[f"top_{top}"] is not None]
    value, low, high = (
        np.array(
            [100 * row[f"top_{top}{end}"] if row[f"top_{top}{end}"] is not None else np.nan for top in tops]
        )
        for end in ("", "_low", "_high")
    )
    look = {"color": style.INK, "marker": "^", "ls": "", "capsize": 2, "markersize": 4.5}
    if tops:
        handles[words] = axes.errorbar(
            tops, value, yerr=np.abs((value - low, high - value)), label=words, **look
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(ylim=(-3, 103), xlabel="largest neurons (number)", ylabel="of what all make, signs apart (%)")
    style.panel_title(axes, f"how many neurons make it, of {len(share):,}", neurons["n"][0])
    return handles


def sentences(tables: Tables) -> list[str]:
    """What the tables say, the sentence of the summary first."""
    return excess_findings(tables["nonlinear_excess"], tables["nonlinear_excess_neurons"])


def excess_findings(nonlinear_excess: pl.DataFrame, nonlinear_excess_neurons: pl.DataFrame) -> list[str]:
    """From the tables `nonlinear_excess` and `nonlinear_excess_neurons` (P3.3)."""
    if nonlinear_excess.is_empty():
        return [NO_MODEL]
    probe = _probe(nonlinear_excess)
    known, unknown = (
        {
            row["layers"]: row
            for row in nonlinear_excess.filter(names=names, probe=probe).iter_rows(named=True)
        }
        for names in ("known", "unknown")
    )
    row = known["all"]
    if not row["n"]:
        return [
            (
                f"The effective model's output is a sum of a term for each part of the name, up to rounding "
                f"({row['n_names']:,} names of {row['n_name_tokens']} tokens): there is no excess that neurons could make."
            )
        ]
    base = unknown.get("all")
    found = [_made(row, base), _one_sign(known, base)]
    others = nonlinear_excess.filter(pl.col("probe") != probe, pl.col("n") > 0, names="known", layers="all")
    found += [_other_probe(other) for other in others.iter_rows(named=True)]
    found += [_size(row, base), *_layers_in_words(known)]
    return [*found, _few(row, nonlinear_excess_neurons.filter(probe=probe))]


def _made(row: Row, base: Row | None) -> str:
    """How much is made, both signs counted, and which hypothesis that is nearer to; as the ledger decides."""
    beside = _unknown(base, "ratio_both", "unknown names of the same parts")
    low, high = row["ratio_both_low"], row["ratio_both_high"]
    if low is None:
        what = "one name alone cannot say which is more"
    elif low > MOST:
        what = "most of it is made by activation functions, as single-step detokenization predicts"
    elif high < MOST:
        what = "most of it comes in with the neurons' inputs, from MLPs below or from norms, as hash and lookup predicts"
    else:
        what = "about as much is made by activation functions as comes in with the neurons' inputs"
    return (
        f"Of what {PROBES[row['probe']]}'s output for the own <answer> has beyond a sum of the name's parts, the activation "
        f"functions of the lookup's neurons make {share(row, 'ratio_both')} in the median <subject> (names of "
        f"{row['n_name_tokens']} tokens; n = {row['n']:,}{beside}): {what}.{_in_logits(row, base)}"
    )


def _one_sign(known: dict[str, Row], base: Row | None) -> str:
    """The study's number, which decides nothing."""
    row = known["all"]
    last = next(found for found in known.values() if found["last"])
    beside = _unknown(base, "ratio", "unknown names") if base and _has_shares(base) else ""
    alone = f"; those of the last lookup MLP, {last['layers']}, alone: {share(last, 'ratio')}"
    return (
        f"Counting only neurons that fire more than a sum would have it, as the study does, it is {share(row, 'ratio')} "
        f"(n = {row['n']:,}{beside}){alone if len(known) > 2 else ''}. That is for comparison with the study alone: neurons "
        "that are quiet where a sum would have them fire make an excess too."
    )


def _other_probe(row: Row) -> str:
    held_out = ", fitted without the <subject> whom it reads," if row["probe"] == "logistic" else ""
    return (
        f"Read by {PROBES[row['probe']]} instead{held_out} it is {share(row, 'ratio_both')}, and counting only those that "
        f"fire more {share(row, 'ratio')} (n = {row['n']:,})."
    )


def _unknown(base: Row | None, name: str, words: str) -> str:
    """The baseline's share, where most unknown names have an excess that a share can be of."""
    if not base:
        return ""
    if not _has_shares(base):
        return (
            f"; {words}: no share, as only {base['n']:,} of {base['n_names']:,} have an excess that is not negligible "
            "beside that of known names"
        )
    return f"; {words}: {share(base, name)}, n = {base['n']:,}"


def _has_shares(base: Row) -> bool:
    """Whether half of the unknown names or more have an excess that is not negligible."""
    return 2 * base["n"] >= base["n_names"]


def _in_logits(row: Row, base: Row | None) -> str:
    """What is made, not as a share: known and unknown names have not the same excess."""
    if not base:
        return ""
    less = _apart(row, base, "made_both") and base["made_both"] < row["made_both"]
    alike = "" if less else "; unknown names have not surely less of it, so it is no sign of being known"
    return (
        f" In logits that is {_units(row, 'made_both')} for known names and {_units(base, 'made_both')} for unknown ones "
        f"(means over {row['n_names']:,} and {base['n_names']:,} names){alike}."
    )


def _size(row: Row, base: Row | None) -> str:
    told = (
        f"The excess itself is {_units(row, 'excess')} in the mean over {row['n_names']:,} known names (in logits of the "
        f"probe, own <answer> minus the mean of the others), and above zero for {share(row, 'positive')}"
    )
    if not base:
        return f"{told}."
    apart = "" if _apart(row, base, "excess") else "; the intervals overlap"
    return (
        f"{told}; over {base['n_names']:,} unknown names, held to the <answer> that the model answers, it is "
        f"{_units(base, 'excess')}{apart}."
    )


def _layers_in_words(known: dict[str, Row]) -> list[str]:
    """What passes through each layer, where there are several and there is surely something that passes."""
    row = known["all"]
    layers = [name for name in known if name != "all"]
    if len(layers) < 2 or row["excess_low"] is None or row["excess_low"] <= 0:
        return []
    parts = ", ".join(
        f"{percent(known[layer]['passed'] / row['excess'])} is written by MLP {layer} "
        f"({percent(known[layer]['made_both'] / row['excess'])} made there)"
        for layer in layers
    )
    return [f"Of it {parts} (means over n = {row['n_names']:,}; both signs)."]


def _few(row: Row, neurons: pl.DataFrame) -> str:
    """How few neurons make it."""
    everybody = neurons.filter(answer="all").sort("rank")
    if row["neurons"] is None:
        return f"No activation function of these {everybody.height:,} neurons makes any of it (n = {row['n_names']:,})."
    first = everybody.row(0, named=True)
    return (
        f"For one name it is spread as over {number(row, 'neurons', '.1f')} neurons "
        f"that make alike, of {everybody.height:,}; the ten that make most have {share(row, 'top_10')}, signs apart "
        f"(n = {row['n_names']:,}). In the mean over all names L{first['layer']}N{first['neuron']} makes most, "
        f"{_units(first, 'made')}."
        if row["neurons_low"] is not None
        else f"It is spread as over {row['neurons']:.1f} neurons that make alike, of {everybody.height:,} (one name)."
    )


def _units(row: Row, name: str) -> str:
    return number(row, name, "+.3f")


def _apart(row: Row, other: Row, name: str) -> bool:
    """Whether two intervals do not overlap."""
    ends = [row[f"{name}_low"], row[f"{name}_high"], other[f"{name}_low"], other[f"{name}_high"]]
    return None not in ends and (ends[0] > ends[3] or ends[1] < ends[2])
