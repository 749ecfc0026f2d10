"""What the tables on sport neurons say (P3.4), in sentences; the rules for them stand in findings/__init__.py.

A neuron is said to tell its sport if the best of all neurons does as well under shuffled sports in fewer than 5 % of
the shufflings, and to matter more than others if no random neuron of its layer changes the loss as much.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from factfinding.findings.words import Row, Tables, number, percent, share

NO_NEURON = (
    "No neuron was chosen: no lookup was found at the name, or too few athletes are known to choose on one half and score "
    "on the other."
)
SURE = 0.05
KINDS = {"mean": "at its mean over athletes", "zero": "at zero"}


def scan_findings(sport_neurons: pl.DataFrame) -> list[str]:
    """From the table `sport_neurons`: the best neuron of each sport, and whether both halves choose it."""
    if sport_neurons.is_empty():
        return [NO_NEURON]
    best = sport_neurons.filter(rank=1, chosen_on="first")
    rows = list(best.sort("auc", descending=True).iter_rows(named=True))
    told = [row for row in rows if row["p_corrected"] < SURE]
    named = "; ".join(f"{row['sport']}: {_who(row)}, {_auc(row)}" for row in rows[:4])
    chance = max(row["chance_best"] for row in rows)
    found = [
        (
            f"For {len(told)} of {len(rows)} sports one neuron tells the sport better than the best of all "
            f"{rows[0]['neurons_tried']:,} does by chance (p < {SURE}, corrected). Chosen on one half of the athletes and "
            f"scored on the other (AUC; chance 0.5, the best on shuffled sports up to {chance:.2f}; "
            f"n = {rows[0]['n']:,}): {named}."
        )
    ]
    again = {row["sport"]: row["neuron"] for row in _best(sport_neurons, "second")}
    same = sum(again.get(row["sport"]) == row["neuron"] for row in rows)
    found.append(f"The other half chooses the same neuron for {same} of {len(rows)} sports.")
    several = {row["neuron"] for row in rows if sum(row["neuron"] == r["neuron"] for r in rows) > 1}
    found += [
        f"{neuron} is the best for more than one sport, so it is no neuron of one sport alone."
        for neuron in sorted(several)
    ]
    return found


def ablation_findings(ablations: pl.DataFrame) -> list[str]:
    """From the table `sport_neuron_ablations`: losses without the neuron, beside random neurons of its layer."""
    found = []
    neurons = ablations.select("neuron", "sport", "chosen_by").unique(maintain_order=True)
    for neuron, sport, chosen_by in neurons.head(4).iter_rows():
        rows = {
            row["kind"]: row
            for row in ablations.filter(neuron=neuron, sport=sport, chosen_by=chosen_by).iter_rows(named=True)
        }
        found.append(_loss(rows))
    if found:
        left = ablations.filter(pl.col("kind") != "none").sort("accuracy").row(0, named=True)
        found.append(
            f"Without any one of them the model still names the right sport for {share(left, 'accuracy')} or more "
            f"(n = {left['n']:,}; the sport's share of all athletes: {percent(left['base_rate'])})."
        )
    return found


def _loss(rows: dict[str, Row]) -> str:
    none = rows["none"]
    parts = []
    for kind, words in KINDS.items():
        row = rows[kind]
        change = _signed(row, "change")
        beside = ""
        if row["random_as_large"] is not None:
            count = round(row["random_as_large"] * row["random_neurons"])
            beside = f"; {count} of {row['random_neurons']} random neurons of its layer change it as much"
        parts.append(f"{words} it is {_nats(row, 'loss')} (change {change}{beside})")
    return (
        f"On athletes of {none['sport']} (n = {none['n']:,}) the loss is {_nats(none, 'loss')} nats; with {none['neuron']} "
        f"{'; '.join(parts)}."
    )


def projection_findings(projections: pl.DataFrame) -> list[str]:
    """From the table `sport_neuron_projections`: what is left without the directions of the sport."""
    found = []
    for who in projections.select("neuron", "sport", "chosen_by").unique(maintain_order=True).head(4).rows():
        mine = projections.filter(neuron=who[0], sport=who[1], chosen_by=who[2])
        rows = {row["removed"]: row for row in mine.iter_rows(named=True)}
        last = next(row for name, row in reversed(rows.items()) if name != "random directions")
        whole, random = rows["nothing"], rows["random directions"]
        left = last["auc_low"] is not None and last["auc_low"] > 0.5
        meaning = "what is left it reads elsewhere" if left else "nothing is left for sure"
        found.append(
            f"With {last['removed']} projected out of its input weights ({last['dimensions']} dimensions), the AUC of "
            f"{whole['neuron']} for {whole['sport']} before its activation function goes from {_auc(whole)} to {_auc(last)} "
            f"(n = {whole['n']:,}; chance 0.5; as many random directions: {_auc(random)}): {meaning}."
        )
    return found or [NO_NEURON]


def cosine_findings(cosines: pl.DataFrame) -> list[str]:
    """From the table `sport_neuron_cosines`: which cosines lie outside those of most neurons of the layer."""
    if cosines.is_empty():
        return []
    outside = cosines.filter(
        (pl.col("cosine") < pl.col("layer_low")) | (pl.col("cosine") > pl.col("layer_high"))
    )
    named = "; ".join(
        f"{row['neuron']} for {row['sport']}, {row['first']} with {row['second']}: {row['cosine']:+.2f} "
        f"[{row['layer_low']:+.2f}, {row['layer_high']:+.2f}]"
        for row in outside.head(4).iter_rows(named=True)
    )
    told = f"{outside.height} of {cosines.height} cosines lie outside the range of 95 % of the neurons of the layer"
    return [f"{told}{f', among them (range in brackets) {named}' if named else ''}."]


def _best(scan: pl.DataFrame, half: str) -> list[Row]:
    return list(scan.filter(rank=1, chosen_on=half).iter_rows(named=True))


def _who(row: Row) -> str:
    return f"{row['neuron']}{' (low on it)' if row['sign'] < 0 else ''}"


def _auc(row: Row) -> str:
    return number(row, "auc", ".2f")


def _nats(row: Row, name: str) -> str:
    return number(row, name, ".3f")


def _signed(row: Row, name: str) -> str:
    return number(row, name, "+.3f")


FINDINGS: dict[str, Callable[[Tables], list[str]]] = {
    "sport_neurons": lambda tables: [
        *scan_findings(tables["sport_neurons"]),
        *ablation_findings(tables["sport_neuron_ablations"]),
    ],
    "dossiers": lambda tables: [
        *projection_findings(tables["sport_neuron_projections"]),
        *cosine_findings(tables["sport_neuron_cosines"]),
    ],
}
