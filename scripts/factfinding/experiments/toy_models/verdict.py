"""Post 4: means over the seeds, and the verdict on what memorising networks have inside.

The claim: memorising networks show no meaningful intermediate representation, generalising ones do. The rule, written
down before the networks were looked at:

- *Intermediate* are the embeddings and the residual stream after every layer but the last.
- A network's score there is how well a linear reading tells the class of a and of b for tokens that it was not fitted on
  (mean of the two), from 0 (chance) to 1 (always right), at the best intermediate layer. The classes are the hidden ones
  for a task that has them; for the memorising task they are drawn at random, for there are no others to look for.
- Counted are networks that learnt every trained pair, and of the generalising ones those that are right on `GENERALISES`
  of the held-out pairs. Networks of one task, size, width and depth are a group; fewer than `FEWEST` are no group.
- A linear reading of k classes of each of two tokens needs 2 (k - 1) dimensions. Narrower networks are in the table and
  count for nothing. (This line was added when a first run had networks of width 2 that generalise; the others were not
  changed.)
- A group's representation is `shown` if the 95 % interval of its mean score over seeds is above `HALF`, `none` if below.
- The claim is supported if all memorising groups are `none` and all generalising ones `shown`, contradicted if a group is
  the opposite, undecided otherwise; without groups of both tasks it is not applicable.

That a memorising network has no *given* classes is so by construction. What is not: that its own classes (clusters of its
embeddings) tell no labels of other pairs, that its first layer's output is no sum of a part of a and a part of b, and that
its neurons do not follow any classes. These stand beside it in the tables.
"""

from __future__ import annotations

import polars as pl

from factfinding.experiments.toy_models.measure import KINDS
from factfinding.experiments.toy_models.schemas import GROUP, MODELS, NETWORK
from factfinding.methods.estimates import estimate_columns, estimate_schema
from factfinding.stats import mean_interval

HALF, GENERALISES, FEWEST = 0.5, 0.9, 3

SUMMARY = (
    {name: NETWORK[name] for name in GROUP}
    | {"measure": pl.String, "layer": pl.Int64}
    | estimate_schema("value")
    | {"n": pl.Int64, "baseline": pl.Float64}
)
VERDICT = (
    {name: NETWORK[name] for name in GROUP}
    | {"expected": pl.String}
    | estimate_schema("score")
    | {"n": pl.Int64, "networks": pl.Int64, "baseline": pl.Float64, "found": pl.String, "verdict": pl.String}
)


def summarise(models: pl.DataFrame, readings: pl.DataFrame, *, seed: int) -> pl.DataFrame:
    """Means over the seeds of each group with bootstrap intervals; `n` counts networks.

    Measures: the columns of `models` that are shares or bits, `reached`, and of `readings` classes, random_classes (mean
    of a and b) and label, by layer. baseline: what chance, the majority or a random order gives; null where nothing does.
    """
    rows = []
    baselines = {
        "accuracy": "majority_rate",
        "held_out_accuracy": "majority_rate",
        "own_classes": "majority_rate",
    }
    baselines |= {f"needed_{kind}": f"needed_random_{kind}" for kind in KINDS}
    measures = [name for name, kind in MODELS.items() if kind == pl.Float64 and "random" not in name]
    for group, part in models.group_by(GROUP, maintain_order=True):
        name = dict(zip(GROUP, group, strict=True))
        for measure in ["reached", *(one for one in measures if one not in ("majority_rate", "bits"))]:
            column = baselines.get(measure)
            level = None if column is None else part[column].mean()
            rows += _estimate(name | {"measure": measure}, part[measure].cast(pl.Float64), level, seed)
    measure = pl.col("feature").str.replace("class_.", "classes").str.replace("random_.", "random_classes")
    of_network = readings.with_columns(measure.alias("measure")).group_by(
        [*NETWORK, "layer", "measure"], maintain_order=True
    )
    read = of_network.agg(pl.col("accuracy", "chance").mean())
    for group, part in read.group_by([*GROUP, "measure", "layer"], maintain_order=True):
        name = dict(zip([*GROUP, "measure", "layer"], group, strict=True))
        rows += _estimate(name, part["accuracy"], part["chance"].mean(), seed)
    return pl.DataFrame(rows, schema=SUMMARY)


def _estimate(name: dict, values: pl.Series, baseline: float | None, seed: int) -> list[dict]:
    values = values.drop_nulls()
    if values.is_empty():
        return []
    estimate = estimate_columns("value", mean_interval(values.to_numpy(), seed=seed))
    return [name | estimate | {"n": len(values), "baseline": baseline}]


def scores(readings: pl.DataFrame) -> pl.DataFrame:
    """Each network's score by the rule above: columns of `NETWORK` and `score`."""
    return (
        readings.filter(pl.col("feature").is_in(["class_a", "class_b"]), pl.col("layer") < pl.col("depth"))
        .with_columns(((pl.col("accuracy") - pl.col("chance")) / (1 - pl.col("chance"))).alias("score"))
        .group_by([*NETWORK, "layer"], maintain_order=True)
        .agg(pl.col("score").mean())
        .group_by(list(NETWORK), maintain_order=True)
        .agg(pl.col("score").max())
    )


def verdict(models: pl.DataFrame, readings: pl.DataFrame, *, seed: int) -> pl.DataFrame:
    """A row per group (the exceptions for comparison, without anything expected), and last the row of the claim."""
    known = models.join(scores(readings), on=list(NETWORK), maintain_order="left")
    counted = pl.col("reached") & (
        (pl.col("task") != "generalising") | (pl.col("held_out_accuracy") >= GENERALISES)
    )
    rows, room = [], 2 * (_classes(readings) - 1)
    for group, part in known.group_by(GROUP, maintain_order=True):
        used = part.filter(counted)["score"]
        estimate = mean_interval(used.to_numpy(), seed=seed) if len(used) >= FEWEST else None
        row = dict(zip(GROUP, group, strict=True)) | estimate_columns("score", estimate)
        expected = {"memorising": "none", "generalising": "shown"}.get(row["task"])
        row |= {"expected": expected, "n": len(used), "networks": part.height, "baseline": 0.0}
        row["found"] = _found(row) if row["width"] >= room else None
        row["verdict"] = "not applicable" if expected is None else _agrees(row)
        rows.append(row)
    counted_rows = [row for row in rows if row["expected"] and row["found"]]
    claim = dict.fromkeys(VERDICT) | {"task": "claim", "verdict": _claim(counted_rows)}
    claim |= {"n": sum(row["n"] for row in counted_rows)}
    claim |= {"networks": sum(row["networks"] for row in rows if row["expected"])}
    return pl.DataFrame([*rows, claim], schema=VERDICT)


def _classes(readings: pl.DataFrame) -> int:
    """How many classes the tasks have, of which chance knows."""
    return round(1 / readings.filter(feature="class_a")["chance"][0])


def _found(row: dict) -> str | None:
    if row["score"] is None:
        return None
    return "shown" if row["score_low"] > HALF else "none" if row["score_high"] < HALF else "unclear"


def _agrees(row: dict) -> str:
    if row["found"] is None:
        return "not applicable"
    if row["found"] == "unclear":
        return "undecided"
    return "supported" if row["found"] == row["expected"] else "contradicted"


def _claim(rows: list[dict]) -> str:
    verdicts = {row["verdict"] for row in rows}
    if len({row["task"] for row in rows}) < 2:
        return "not applicable"
    if "contradicted" in verdicts:
        return "contradicted"
    return "undecided" if "undecided" in verdicts else "supported"
