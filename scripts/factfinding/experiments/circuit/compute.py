"""The circuit, proposed from the tables: which layers concatenate, which MLPs look up, which heads extract.

Accuracies of answers are compared as *kept* shares: (accuracy - majority rate) / (unchanged accuracy - majority rate),
1 where nothing is lost and 0 where guessing is left. The rules, each with its threshold:

- The fact is looked up at the final name token if the answer can be read there (the interval of the best layer's
  accuracy lies above `READABLE` of the way from the majority rate to 1), and if swapping the residual stream there at
  some layer above the concatenating ones does `CARRIED` of what swapping the whole name does. If it cannot be read
  there, and one MLP swapped at END does `CARRIED_END` of that, it is looked up at END. Otherwise it is unclear, and
  nothing is proposed. So it is where the unchanged model's own answers are no better than always the commonest one:
  where nothing can be lost, no border can be drawn.
- Concatenating layers end below the first layer from which on all attention can be ablated at the final name token
  with `KEPT` of the accuracy kept; they begin at the first one that loses more than that when ablated alone.
- The lookup begins at the highest layer below which all MLPs can be ablated with `KEPT` kept, and ends below the first
  layer from which on all can. MLP 0 of a parallel block reads one token: alone it is no lookup.
- Extracting heads are those whose output at END, swapped alone, does `EXTRACTS` of the whole swap or more (and surely
  some of it: the interval lies above zero). They are named only where there is something at the name to extract.

Borders are where accuracy is lost, not where work is done: a layer whose work others can do as well lies outside.
`KEPT` is a convention, not a measurement: what lies outside the borders should cost no more than the sampling error at
400 subjects, two to three points. At 0.9 one MLP alone would be the embedded model's lookup, and a twentieth of what it
knows outside; docs/experiments/p2-8.md says more.
Reads tables only; imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods import borders
from factfinding.methods.borders import KEPT
from factfinding.methods.circuit import AT_END, AT_NAME, UNCLEAR, Circuit, Evidence

READABLE, CARRIED, CARRIED_END, EXTRACTS = 0.5, 0.5, 0.25, 0.05
THRESHOLDS = {
    "readable": READABLE,
    "carried": CARRIED,
    "carried_end": CARRIED_END,
    "kept": KEPT,
    "extracts": EXTRACTS,
}
_SWAPPED = pl.col("whole_swap") < 0
"""Without an answer that comes from the name, nothing is a share of swapping it."""


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame | Circuit]:
    """The circuit as a table, `circuit`, and as a file with the numbers that it rests on, `circuit_yaml`."""
    tables = (inputs.table(name) for name in ("circuit_scan", "residual_patching", "total_effects"))
    circuit = settle(propose(*tables), **settings.circuit.model_dump())
    for row in circuit.evidence:
        value = "" if row.value is None else f": {row.value:.3f} (threshold {row.threshold})"
        inputs.log(f"{row.claim}{value}")
    say(
        f"looked up at: {circuit.lookup_at} (found: {circuit.found.lookup_at}); attention {circuit.concatenate} concatenates, "
        f"MLPs {circuit.lookup} look up, "
        f"{', '.join(circuit.extract) or 'no head'} extract(s); fixed: {', '.join(circuit.fixed) or 'nothing'}"
    )
    return {"circuit": circuit.to_table(), "circuit_yaml": circuit}


def propose(scan: pl.DataFrame, residual: pl.DataFrame, total: pl.DataFrame) -> Circuit:
    """The circuit that the tables circuit_scan, residual_patching and total_effects speak for."""
    if scan.is_empty() or residual.is_empty():
        unmeasured = {"value": None, "low": None, "high": None, "n": 0, "threshold": READABLE}
        claim = "too few known subjects: nothing can be proposed"
        nobody = Evidence(claim=claim, table="circuit_scan", **unmeasured)
        return Circuit(lookup_at=UNCLEAR, concatenate=None, lookup=None, extract=(), evidence=(nobody,))
    evidence: list[Evidence] = []
    readable = _readable(scan, evidence)
    bordered = readable and _answers(scan, evidence)
    concatenate = concatenating(scan, evidence) if bordered else None
    carried = _carried(residual, 0 if concatenate is None else concatenate[1] + 1, evidence)
    if bordered and carried:
        parts = {"lookup": looking_up(scan, evidence), "extract": extracting(total, evidence)}
        return Circuit(lookup_at=AT_NAME, concatenate=concatenate, evidence=tuple(evidence), **parts)
    at_end = not readable and _looked_up_at_end(total, evidence)
    place = AT_END if at_end else UNCLEAR
    return Circuit(lookup_at=place, concatenate=None, lookup=None, extract=(), evidence=tuple(evidence))


def settle(
    proposal: Circuit,
    *,
    concatenate: tuple[int, int] | None,
    lookup: tuple[int, int] | None,
    extract: Sequence[str] | None,
) -> Circuit:
    """The circuit that is used: what the configuration fixes, and the proposal for the rest; with it, the whole proposal.

    Who sets the MLPs of the lookup says that it is at the name. The tables may say otherwise: then both stand in the record.
    """
    place = None if lookup is None else AT_NAME
    given = {"lookup_at": place, "concatenate": concatenate, "lookup": lookup, "extract": extract}
    fixed = tuple(name for name, value in given.items() if value is not None)
    proposed = {name: getattr(proposal, name) for name in given}
    return Circuit(
        lookup_at=place or proposal.lookup_at,
        concatenate=concatenate if concatenate is not None else proposal.concatenate,
        lookup=lookup if lookup is not None else proposal.lookup,
        extract=tuple(extract) if extract is not None else proposal.extract,
        fixed=fixed,
        proposed=proposed,
        evidence=proposal.evidence,
        thresholds=THRESHOLDS,
    )


def concatenating(scan: pl.DataFrame, evidence: list[Evidence]) -> tuple[int, int] | None:
    """First and last concatenating attention layer; None where no attention is needed."""
    kept_from, kept_alone = (_kept_by_layer(scan, name) for name in ("attention_from", "attention_alone"))
    found = borders.concatenating(kept_from, kept_alone)
    needless = borders.first_kept(kept_from)
    said = f"attention from layer {needless} on ablated: accuracy"
    evidence.append(_evidence(scan, _row(scan, "attention_from", needless), said, KEPT))
    if found is not None and kept_alone[found[0]] < KEPT:
        said = f"attention {found[0]} alone ablated: accuracy"
        evidence.append(_evidence(scan, _row(scan, "attention_alone", found[0]), said, KEPT))
    return found


def looking_up(scan: pl.DataFrame, evidence: list[Evidence]) -> tuple[int, int] | None:
    """First and last MLP of the lookup; None where all that read more than one token can be ablated."""
    kept_from, kept_below = (_kept_by_layer(scan, name) for name in ("mlps_from", "mlps_below"))
    first = scan.filter(scan="mlps_below")["layer"].min()
    found, end = borders.looking_up(kept_from, kept_below, first), borders.first_kept(kept_from)
    said = f"MLPs from layer {end} on ablated: accuracy"
    evidence.append(_evidence(scan, _row(scan, "mlps_from", end), said, KEPT))
    if found is not None:
        begin = first + borders.last_kept(kept_below)
        said = f"MLPs below layer {begin} ablated: accuracy"
        evidence.append(_evidence(scan, _row(scan, "mlps_below", begin), said, KEPT))
    return found


def extracting(total: pl.DataFrame, evidence: list[Evidence]) -> tuple[str, ...]:
    """Heads whose output at END, swapped alone, does a good part of the whole swap; the largest first."""
    rows = total.filter(_SWAPPED, "exact", type="head", role="end", kind="corrupt")
    rows = rows.sort("share", descending=True)
    surely = pl.min_horizontal(pl.col("effect_low", "effect_high") / pl.col("whole_swap")) > 0
    found = rows.filter((pl.col("share") >= EXTRACTS) & surely)
    evidence += [
        _share(row, f"{row['node']} swapped at END", EXTRACTS) for row in found.iter_rows(named=True)
    ]
    return tuple(found["node"])


def _readable(scan: pl.DataFrame, evidence: list[Evidence]) -> bool:
    best = scan.filter(scan="probe").sort("accuracy", descending=True, maintain_order=True).row(0, named=True)
    bar = best["majority_rate"] + READABLE * (1 - best["majority_rate"])
    said = f"answer read at the final name token after layer {best['layer']}: accuracy"
    evidence.append(_evidence(scan, best, said, bar))
    return best["accuracy_low"] > bar


def _answers(scan: pl.DataFrame, evidence: list[Evidence]) -> bool:
    """Whether the unchanged model's own answers beat the commonest one: else nothing can be lost, and no border drawn."""
    clean = _unchanged(scan)
    if clean["accuracy"] > clean["majority_rate"]:
        return True
    evidence.append(_evidence(scan, clean, "unchanged model's own answers: accuracy", clean["majority_rate"]))
    return False


def _carried(residual: pl.DataFrame, start: int, evidence: list[Evidence]) -> bool:
    rows = residual.filter(_SWAPPED, pl.col("role") == "final_name", pl.col("layer") >= start)
    if rows.is_empty():
        return False
    best = rows.sort("share", descending=True, maintain_order=True).row(0, named=True)
    said = f"residual stream before layer {best['layer']} swapped at the final name token"
    evidence.append(_share(best, said, CARRIED, table="residual_patching"))
    return best["share"] >= CARRIED


def _looked_up_at_end(total: pl.DataFrame, evidence: list[Evidence]) -> bool:
    rows = total.filter(_SWAPPED, "exact", type="mlp", role="end", kind="corrupt")
    rows = rows.sort("share", descending=True, maintain_order=True)
    if rows.is_empty():
        return False
    best = rows.row(0, named=True)
    evidence.append(_share(best, f"MLP {best['layer']} swapped at END", CARRIED_END))
    return best["share"] >= CARRIED_END


def _kept(scan: pl.DataFrame, accuracy: float) -> float:
    """The part of what the unchanged model has over the majority rate that is left."""
    clean = _unchanged(scan)
    return (accuracy - clean["majority_rate"]) / (clean["accuracy"] - clean["majority_rate"])


def _unchanged(scan: pl.DataFrame) -> dict[str, Any]:
    """The row that ablates nothing."""
    return scan.filter(pl.col("scan") == "attention_from").sort("layer").row(-1, named=True)


def _kept_by_layer(scan: pl.DataFrame, name: str) -> Float[np.ndarray, " scanned"]:
    """What is kept under one scan, in the order of its layers."""
    rows = scan.filter(pl.col("scan") == name).sort("layer")
    return np.array([_kept(scan, accuracy) for accuracy in rows["accuracy"]])


def _row(scan: pl.DataFrame, name: str, layer: int) -> dict[str, Any]:
    return scan.filter(pl.col("scan") == name, pl.col("layer") == layer).row(0, named=True)


def _evidence(scan: pl.DataFrame, row: Mapping[str, Any], claim: str, threshold: float) -> Evidence:
    numbers = {"value": row["accuracy"], "low": row["accuracy_low"], "high": row["accuracy_high"]}
    if threshold == KEPT:
        claim = f"{claim} ({100 * _kept(scan, row['accuracy']):.1f} % kept)"
    return Evidence(claim=claim, table="circuit_scan", n=row["n"], threshold=threshold, **numbers)


def _share(row: Mapping[str, Any], what: str, threshold: float, *, table: str = "total_effects") -> Evidence:
    """A share of the whole swap, with the interval of the effect over the same swap."""
    low, high = (
        None if row[f"effect_{end}"] is None else row[f"effect_{end}"] / row["whole_swap"]
        for end in ("high", "low")
    )
    claim = f"{what}: share of what swapping the whole name does"
    return Evidence(
        claim=claim, table=table, value=row["share"], low=low, high=high, n=row["n"], threshold=threshold
    )
