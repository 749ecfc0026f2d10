"""What the tables on the lookup's MLPs say (P3.3, P3.5), in sentences; the rules for them stand in findings/__init__.py."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from factfinding.figures.effective_probes import PARTS
from factfinding.findings.words import Row, Tables, number, percent, share

NO_MODEL = "No lookup at the name was found, or too few athletes are known: there is no effective model to look into."
NO_FIT = "There is no effective model, or too few athletes with names of one length to fit a probe on it."


def excess_findings(nonlinear_excess: pl.DataFrame, nonlinear_excess_neurons: pl.DataFrame) -> list[str]:
    """From the tables `nonlinear_excess` and `nonlinear_excess_neurons` (P3.3)."""
    if nonlinear_excess.is_empty():
        return [NO_MODEL]
    known, unknown = (
        {row["layers"]: row for row in nonlinear_excess.filter(names=names).iter_rows(named=True)}
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
    last = next(found for found in known.values() if found["last"])
    base = unknown.get("all")
    alone = f"; those of the last lookup MLP, {last['layers']}, alone make {share(last, 'ratio')}"
    beside = _unknown(base, "ratio", "unknown names of the same parts")
    found = [
        (
            f"Of what the probe's output for the own sport has beyond a sum of the name's parts, the activation functions of "
            f"the lookup's neurons make {share(row, 'ratio')} in the median athlete (names of {row['n_name_tokens']} tokens; "
            f"n = {row['n']:,}{beside}){alone if len(known) > 2 else ''}."
        ),
        _both_signs(row, base),
        _size(row, base),
    ]
    return found + _layers(known) + [_few(row, nonlinear_excess_neurons)]


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
        f"{first['n']:,} held-out athletes with names of {first['n_name_tokens']} tokens ({PARTS[folds]}; commonest sport "
        f"{percent(first['majority_rate'])}{chance}), after the last lookup MLP, {after[-1]['layer']}, for "
        f"{share(after[-1], 'accuracy')}."
    )
    return [found, _steps(after), _losses(first, after)]


def _both_signs(row: Row, base: Row | None) -> str:
    """The same with neurons that fire less than a sum counted too, and which hypothesis that is nearer to."""
    beside = _unknown(base, "ratio_both", "unknown names") if base and _has_shares(base) else ""
    if row["ratio_both_low"] is None:
        what = "from one name alone there is no saying which is more"
    elif row["ratio_both_low"] > 0.5:
        what = "most of it is made by activation functions, as single-step detokenization has it"
    elif row["ratio_both_high"] < 0.5:
        what = "most of it comes in with the neurons' inputs, from MLPs below or from norms, as hash and lookup has it"
    else:
        what = "about as much is made by activation functions as comes in with the neurons' inputs"
    return (
        "That counts neurons that fire more than a sum of parts would have it, as the study does. With those that fire less "
        f"counted as well it is {share(row, 'ratio_both')} (n = {row['n']:,}{beside}): {what}.{_in_logits(row, base)}"
    )


def _unknown(base: Row | None, name: str, words: str) -> str:
    """The baseline's share, where most unknown names have an excess that a share can be of."""
    if not base:
        return ""
    if not _has_shares(base):
        return (
            f"; {words}: no share, as only {base['n']:,} of {base['n_names']:,} have an excess that is not next to nothing "
            "beside that of known names"
        )
    return f"; {words}: {share(base, name)}, n = {base['n']:,}"


def _has_shares(base: Row) -> bool:
    """Whether half of the unknown names or more have an excess that is not next to nothing."""
    return 2 * base["n"] >= base["n_names"]


def _in_logits(row: Row, base: Row | None) -> str:
    """What is made, not as a share: known and unknown names have not the same excess."""
    if not base:
        return ""
    less = _apart(row, base, "made_both") and base["made_both"] < row["made_both"]
    alike = "" if less else "; unknown names have surely no less of it, so it is no sign of being known"
    return (
        f" In logits that is {_units(row, 'made_both')} for known names and {_units(base, 'made_both')} for unknown ones "
        f"(means over {row['n_names']:,} and {base['n_names']:,} names){alike}."
    )


def _size(row: Row, base: Row | None) -> str:
    told = (
        f"The excess itself is {_units(row, 'excess')} in the mean over {row['n_names']:,} known names (in logits of the "
        f"probe, own sport minus the mean of the others), and above zero for {share(row, 'positive')}"
    )
    if not base:
        return f"{told}."
    apart = "" if _apart(row, base, "excess") else "; the intervals overlap"
    return (
        f"{told}; over {base['n_names']:,} unknown names, held to the sport that the model answers, it is "
        f"{_units(base, 'excess')}{apart}."
    )


def _layers(known: dict[str, Row]) -> list[str]:
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
    everybody = neurons.filter(sport="all").sort("rank")
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


def _steps(after: list[Row]) -> str:
    ordered = sorted(after, key=lambda row: -row["step"])
    largest = ordered[0]
    told = f"The largest step is that of MLP {largest['layer']}: {_points(largest)} (paired, n = {largest['n']:,})"
    if largest["step_low"] <= 0:
        return f"{told}, not surely a step up at all."
    rest = [row for row in ordered[1:] if row["step_high"] >= largest["step_low"]]
    if rest:
        return f"{told}, not surely larger than that of MLP {rest[0]['layer']}: {_points(rest[0])}."
    follows = "".join(f"; next comes MLP {row['layer']}: {_points(row)}" for row in ordered[1:2])
    return f"{told}{follows}."


def _losses(first: Row, after: list[Row]) -> str:
    best = min(after, key=lambda row: row["loss_step"])
    return (
        f"The loss goes from {_nats(first)} to {_nats(after[-1])}; it falls most at MLP {best['layer']}, where it changes by "
        f"{number(best, 'loss_step', '+.3f')} nats."
    )


def _points(row: Row) -> str:
    return f"{number(row, 'step', '+.1f', scale=100)} points of accuracy"


def _nats(row: Row) -> str:
    return f"{number(row, 'loss', '.3f')} nats"


def _units(row: Row, name: str) -> str:
    return number(row, name, "+.3f")


def _apart(row: Row, other: Row, name: str) -> bool:
    """Whether two intervals do not overlap."""
    ends = [row[f"{name}_low"], row[f"{name}_high"], other[f"{name}_low"], other[f"{name}_high"]]
    return None not in ends and (ends[0] > ends[3] or ends[1] < ends[2])


FINDINGS: dict[str, Callable[[Tables], list[str]]] = {
    "nonlinear_excess": lambda tables: excess_findings(
        tables["nonlinear_excess"], tables["nonlinear_excess_neurons"]
    ),
    "effective_probes": lambda tables: probe_findings(tables["effective_probes"]),
}
