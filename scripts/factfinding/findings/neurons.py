"""What the table on paths says (P3.1), in sentences; the rules stand in findings/__init__.py."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from factfinding.findings.words import Row, Tables, number, percent, share

NO_PATHS = "No path between MLPs was removed: no lookup of two MLPs or more was found at the name, or too few athletes are known."
NEEDED = 0.05
"""Nats of loss that removing a path must surely cost for the path to be called needed. A sign is not enough: through
LayerNorm every MLP feels every earlier one a little (7e-6 nats in models whose later MLPs read nothing of it)."""


def path_findings(mlp_paths: pl.DataFrame) -> list[str]:
    """From the table `mlp_paths` (P3.1): which path is missed most, and how the metrics differ."""
    removed = mlp_paths.drop_nulls("source")
    if removed.is_empty():
        return [NO_PATHS]
    found = [_worst(mlp_paths, kind) for kind in ("mean", "resample_other") if kind in removed["kind"]]
    return [*found, _needed(removed.filter(pl.col("metric") == "loss", pl.col("kind") == removed["kind"][0]))]


def _needed(loss: pl.DataFrame) -> str:
    """How many paths surely cost enough, and how many surely cost something."""
    surely = loss.filter(pl.col("change_low") > NEEDED).height
    little = loss.filter(pl.col("change_low") > 0).height - surely
    what = "a later MLP needs" if surely else "no later MLP surely needs"
    told = (
        f"Of {loss.height:,} path{'s' if loss.height > 1 else ''} removed one at a time, with the mean of what is written "
        f"put in, {surely:,} surely raise{'s' if surely == 1 else ''} the loss by more than {NEEDED} nats (the whole "
        f"interval lies above that): {'there, ' if surely else ''}{what} what an earlier one wrote."
    )
    if little:
        told += (
            f" For {little:,}{' more' if surely else ''} the loss surely rises, but not surely by so much; that is not "
            "counted, since through LayerNorm every MLP feels every earlier one a little."
        )
    return told


def _worst(table: pl.DataFrame, kind: str) -> str:
    rows = table.filter(pl.col("kind") == kind)
    worst = rows.filter(metric="loss").sort("change", descending=True, maintain_order=True).row(0, named=True)
    here = rows.filter(source=worst["source"], target=worst["target"])
    measured = {row["metric"]: row for row in here.sort("reader", nulls_last=True).iter_rows(named=True)}
    probe = measured.get("probe_accuracy")
    put_in = {"mean": "the mean", "resample_other": "that of an athlete of another sport"}[kind]
    said = (
        f"With {put_in} put in place of what MLP {worst['source']} writes, as MLP {worst['target']} alone reads it at the "
        f"final name token, the loss changes most: by {_nats(worst)}; the answer is still right for "
        f"{share(measured['accuracy'], 'value')}, it is the best of the sports for {share(measured['sport_accuracy'], 'value')}"
    )
    said += f", and the sport is read at the name for {share(probe, 'value')}" if probe else ""
    return (
        f"{said} (divergence from the unchanged model {measured['kl']['value']:.2g} nats; n = {worst['n']:,}; the commonest "
        f"sport gives {percent(worst['majority_rate'])})."
    )


def _nats(row: Row) -> str:
    return f"{number(row, 'change', '+.3g')} nats"


FINDINGS: dict[str, Callable[[Tables], list[str]]] = {
    "mlp_paths": lambda tables: path_findings(tables["mlp_paths"])
}
