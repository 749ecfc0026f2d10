"""P2.11: are the directions that probes read the ones that the model reads?"""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.figures import style
from factfinding.findings.words import NO_PROBE, Tables, most, not_surely_better, share

PATCHED = {
    "whole": "all of the residual stream",
    "logistic": "what the logistic probe reads",
    "head": "what the head probe reads",
    "logistic_complement": "all but what the logistic probe reads",
    "head_complement": "all but what the head probe reads",
    "random": "as many random dimensions (baseline)",
}
ERASED = {
    "leace": "the <answer> erased (LEACE)",
    "random_erased": "as many random dimensions erased (baseline)",
}
HOLLOW = {"mfc": style.PAPER, "ls": (0, (1, 1.2))}
OWN_LOOKS = {
    "whole": {"color": style.INK, "ls": "-", "marker": "D"},
    "logistic": style.look("logistic"),
    "head": style.look("head"),
    "logistic_complement": style.look("logistic") | HOLLOW,
    "head_complement": style.look("head") | HOLLOW,
    "random": style.look("control"),
    "leace": {"color": style.PURPLE, "ls": "-", "marker": "*", "markersize": 6},
    "random_erased": {"color": style.GREY, "ls": "-.", "marker": "+", "markersize": 5},
}
"""All but what a probe reads has the probe's colour, hollow; what is erased looks like nothing that is replaced."""


@style.styled
def draw_probe_patching(*, probe_patching: pl.DataFrame) -> Figure:
    """Left, answers that follow the donor by what is replaced; right, recall that is left by what is erased."""
    if probe_patching.is_empty():
        return style.nothing_to_draw("too few known <subjects> to fit a probe")
    figure = style.new_figure(3.9)
    left, right = figure.subplots(1, 2, sharey=True)
    handles = _curves(left, probe_patching, PATCHED, "follows")
    handles |= _curves(right, probe_patching, ERASED, "recalled")
    label = "donors' commonest <answer>"
    rate = 100 * probe_patching["majority_rate"][0]
    handles[label] = left.axhline(rate, label=label, **style.COMMONEST)
    style.panel_title(left, "replaced by a donor's", probe_patching["n"][0])
    style.panel_title(right, "erased (unchanged, all are recalled)", probe_patching["n"][0])
    style.percent_axis(left, "answers that follow the donor (%)")
    right.set(ylabel="<subjects> still recalled (%)")
    right.yaxis.set_tick_params(labelleft=True)
    for axes in (left, right):
        style.layer_axis(axes, probe_patching["layer"].unique().to_list())
    style.legend_above(figure, list(handles.values()), columns=2)
    return figure


def _curves(axes: Axes, table: pl.DataFrame, names: dict[str, str], measure: str) -> dict[str, object]:
    handles: dict[str, object] = {}
    for name, words in names.items():
        rows = table.filter(change=name)
        if rows.height:
            look = {"markersize": 3.5} | OWN_LOOKS[name]
            handles[words] = style.band(axes, rows, "layer", measure, label=words, **look)
    return handles


def sentences(tables: Tables) -> list[str]:
    """At the layer where the logistic probe's directions do most; then what is left when the answer is erased."""
    probe_patching = tables["probe_patching"]
    if probe_patching.is_empty():
        return [NO_PROBE]
    logistic = probe_patching.filter(change="logistic")
    best = logistic.sort("follows", descending=True, maintain_order=True).row(0, named=True)
    rows = {row["change"]: row for row in probe_patching.filter(layer=best["layer"]).iter_rows(named=True)}
    used = best["over_random_low"] > 0
    verdict = (
        "the model reads what the probe reads"
        if used
        else "no sign that the model reads what the probe reads"
    )
    found = [
        (
            f"With only the {best['dimensions']} dimensions that the logistic probe reads taken from a donor after layer "
            f"{best['layer']}, {share(best, 'follows')} of {best['n']:,} answers are the donor's; with as many random ones "
            f"{share(rows['random'], 'follows')}, with all the other dimensions "
            f"{share(rows['logistic_complement'], 'follows')}, with all {share(rows['whole'], 'follows')}: {verdict}."
        )
    ]
    erased = probe_patching.filter(change="leace").sort("recalled", maintain_order=True).row(0, named=True)
    control = probe_patching.filter(change="random_erased", layer=erased["layer"]).row(0, named=True)
    found.append(
        f"With the <answer> erased (LEACE) after layer {erased['layer']}, {share(erased, 'recalled')} of {erased['n']:,} "
        f"<subjects> are still recalled; with as many random dimensions erased {share(control, 'recalled')}."
    )
    if "head" in rows:
        row, *_ = leaders = most(probe_patching.filter(change="head"), "follows")
        found.append(
            f"The head probe's directions do most after layer {row['layer']}{not_surely_better(leaders)}: "
            f"{share(row, 'follows')} of {row['n']:,} "
            "follow the donor."
        )
    return found
