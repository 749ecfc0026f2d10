"""What the tables on simplified models say (P2.8-P2.11), in sentences; the rules for them stand in findings/__init__.py."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from factfinding.figures.context import CONTEXTS
from factfinding.figures.ladder import READERS, STEPS
from factfinding.findings.words import NO_PROBE, Row, Tables, number, percent, share


def ladder_findings(ladder: pl.DataFrame) -> list[str]:
    """From the table `ladder` (P2.8): each step's cost where the unchanged model is read best, mean ablation."""
    if ladder.is_empty():
        return [NO_PROBE]
    found = []
    for reader in ladder["reader"].unique(maintain_order=True):
        rows = ladder.filter(reader=reader)
        full = (
            rows.filter(step="full").sort("accuracy", descending=True, maintain_order=True).row(0, named=True)
        )
        here = rows.filter((pl.col("layer") == full["layer"]) & pl.col("kind").is_in(["none", "mean"]))
        steps = [row for row in here.iter_rows(named=True) if row["step"] in STEPS and row["step"] != "full"]
        told = "; ".join(f"{STEPS[row['step']]} {share(row, 'accuracy')}" for row in steps)
        found.append(
            f"Read by the {READERS.get(reader, reader)} after layer {full['layer']}: unchanged {share(full, 'accuracy')}; "
            f"{told} (commonest sport {percent(full['majority_rate'])}, n = {full['n']:,})."
        )
    if ladder.filter(kind="mean").is_empty():
        return [*found, "No lookup at the name was found, so there is no ladder below these steps."]
    return found + _contrasts(ladder) + _disagreement(ladder)


def effective_findings(effective_model: pl.DataFrame) -> list[str]:
    """From the table `effective_model` (P2.9)."""
    if effective_model.is_empty():
        return [
            "No lookup at the name was found, or too few athletes are known: there is no effective model."
        ]
    found = []
    for length in effective_model["n_name_tokens"].unique().sort():
        rows = {
            row["model"]: row for row in effective_model.filter(n_name_tokens=length).iter_rows(named=True)
        }
        row, full = rows["effective"], rows["full"]
        found.append(
            f"On names of {length} tokens the effective model is right for {share(row, 'accuracy')} of {row['n']:,}; the "
            f"same probe of the unchanged model for {share(full, 'accuracy')}, the commonest sport for "
            f"{percent(row['majority_rate'])}."
        )
    error = effective_model["largest_error"].max()
    return [
        *found,
        f"It differs from the ablated model by {error:.0e} of the largest value at most, which is rounding.",
    ]


def context_findings(context: pl.DataFrame) -> list[str]:
    """From the table `context` (P2.10): the first and the last layer of each context."""
    if context.is_empty():
        return [NO_PROBE]
    last, found = context["layer"].max(), []
    for name in context["context"].unique(maintain_order=True):
        first, end = (context.filter(context=name, layer=layer).row(0, named=True) for layer in (0, last))
        found.append(
            f"After {CONTEXTS[name]} the cosine to the residual stream of the question after one example is "
            f"{first['cosine']:.3f} after layer 0 and {_plain(end, 'cosine')} after layer {last} (another athlete's: "
            f"{end['cosine_other']:.3f}; n = {end['n']:,}), and probes of that one are right for {share(end, 'accuracy')}."
            + (" The tokenizer does not know all words of this context." if end["unknown_tokens"] else "")
        )
    return found


def patching_findings(probe_patching: pl.DataFrame) -> list[str]:
    """From the table `probe_patching` (P2.11), at the layer where the logistic probe's directions do most."""
    if probe_patching.is_empty():
        return [NO_PROBE]
    logistic = probe_patching.filter(change="logistic")
    best = logistic.sort("follows", descending=True, maintain_order=True).row(0, named=True)
    rows = {row["change"]: row for row in probe_patching.filter(layer=best["layer"]).iter_rows(named=True)}
    used = best["follows_low"] > rows["random"]["follows_high"]
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
        f"With the sport erased (LEACE) after layer {erased['layer']}, {share(erased, 'recalled')} of {erased['n']:,} "
        f"athletes are still recalled; with as many random dimensions erased {share(control, 'recalled')}."
    )
    if "head" in rows:
        head = probe_patching.filter(change="head").sort("follows", descending=True, maintain_order=True)
        row = head.row(0, named=True)
        found.append(
            f"The head probe's directions do most after layer {row['layer']}: {share(row, 'follows')} follow the donor."
        )
    return found


def _contrasts(ladder: pl.DataFrame) -> list[str]:
    """What one concatenating attention layer alone costs, by the first reader where it costs most."""
    alone = ladder.filter(
        pl.col("step").str.starts_with("attention_"), kind="mean", reader=ladder["reader"][0]
    )
    worst = (
        alone.sort("drop", descending=True, maintain_order=True).group_by("step", maintain_order=True).first()
    )
    return [
        (
            f"Attention {row['step'].removeprefix('attention_')} alone averaged at the final name token costs at most "
            f"{_points(row)} (after layer {row['layer']}, {share(row, 'accuracy')} left)."
        )
        for row in worst.sort("step").iter_rows(named=True)
    ]


def _disagreement(ladder: pl.DataFrame) -> list[str]:
    """Where the kinds of ablation differ most below the contrast rows, by the first reader."""
    rows = ladder.filter(
        pl.col("step").is_in(list(STEPS)), pl.col("kind") != "none", reader=ladder["reader"][0]
    )
    spread = (
        rows.group_by("step", "layer", maintain_order=True)
        .agg(pl.col("accuracy").max() - pl.col("accuracy").min())
        .sort("accuracy", descending=True, maintain_order=True)
        .row(0, named=True)
    )
    here = rows.filter(step=spread["step"], layer=spread["layer"]).sort("accuracy")
    low, high = here.row(0, named=True), here.row(-1, named=True)
    return [
        (
            f"The kinds of ablation differ most in “{STEPS[spread['step']]}” after layer {spread['layer']}: "
            f"{low['kind']} {share(low, 'accuracy')}, {high['kind']} {share(high, 'accuracy')}."
        )
    ]


def _points(row: Row) -> str:
    return f"{number(row, 'drop', '.1f', scale=100)} points"


def _plain(row: Row, name: str) -> str:
    return number(row, name, ".3f")


FINDINGS: dict[str, Callable[[Tables], list[str]]] = {
    "ladder": lambda tables: ladder_findings(tables["ladder"]),
    "effective_model": lambda tables: effective_findings(tables["effective_model"]),
    "context": lambda tables: context_findings(tables["context"]),
    "probe_patching": lambda tables: patching_findings(tables["probe_patching"]),
}
