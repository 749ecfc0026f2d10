"""What several seeds of one study say together: the verdicts counted, and each claim's value with an interval over seeds.

A study's own interval is over subjects, tokens or pairs, with the trained model held fixed: it says nothing of another
training. Here seeds are drawn as well. The two-level bootstrap has of each seed only its ledger, a value with its interval:

    level 1   seeds are drawn with replacement, one fewer than there are (the variance of a mean of so few that are drawn is
              then that of the mean of all, and not too small; Rao and Wu, 1988)
    level 2   for each, a value from a normal distribution whose halves fit the interval: its standard deviation is
              (value - low) / 1.96 below the value and (high - value) / 1.96 above it; thresholds that are measured likewise

and takes their mean. A verdict over seeds is judged as one within a study, on value less threshold, each seed's own. It is
about the mean of such trainings; the counts say how much they differ. With three to five seeds the interval is still a
little narrow, as a percentile interval of so few is; below three there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from factfinding.ledger import VERDICTS, decide

LEAST = 3
"""Seeds with a value, below which there is no interval."""
RESAMPLES = 10_000
NORMAL = 1.959964
"""Standard deviations from the middle of a normal distribution to either end of its 95 % interval."""

COUNTED = tuple(verdict.replace(" ", "_") for verdict in VERDICTS)
SCHEMA = (
    {"study": pl.String, "claim": pl.String, "seeds": pl.Int64}
    | dict.fromkeys((*COUNTED, "n"), pl.Int64)
    | dict.fromkeys(("value", "low", "high", "threshold"), pl.Float64)
    | {"supported_if": pl.String, "verdict": pl.String}
)
"""The table `seeds`: study is the first of the seeds; n counts those with a value."""

Numbers = Float[np.ndarray, " seeds"]


def across_seeds(ledger: pl.DataFrame, families: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """The table `seeds`: a row for each claim about the model and each family of seeds, in the ledger's order.

    ledger: long, with a column `study`. families: names of the studies that differ in their seed alone, by the name that
    they are shown under. Claims about toy networks are left out: they are the same whatever the seed of the model.
    """
    of_model = ledger.filter(about="model")
    rows = [
        _row(name, part)
        for name, members in families.items()
        for part in of_model.filter(pl.col("study").is_in(members)).partition_by("claim", maintain_order=True)
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


def _row(name: str, part: pl.DataFrame) -> dict[str, Any]:
    """One claim's rows in the ledgers of the seeds, as one row."""
    row: dict[str, Any] = {"study": name, "claim": part["claim"][0], "seeds": part.height}
    row |= {
        column: part.filter(verdict=verdict).height for column, verdict in zip(COUNTED, VERDICTS, strict=True)
    }
    part = part.drop_nulls(["value", "low", "high", "threshold"])
    row |= {"n": part.height, "value": part["value"].mean(), "threshold": part["threshold"].mean()}
    row["supported_if"] = part["supported_if"][0] if part.height else None
    if part.height < LEAST:
        return row
    columns = [("value", "low", "high"), ("threshold", "threshold_low", "threshold_high")]
    values, lines = resampled_means([tuple(part[end].to_numpy() for end in ends) for ends in columns])
    low, high = np.quantile(values, [0.025, 0.975]).tolist()
    margin_low, margin_high = np.quantile(values - lines, [0.025, 0.975]).tolist()
    verdict = decide(row["supported_if"], margin_low, margin_high, (0.0, 0.0))
    return row | {"low": low, "high": high, "verdict": verdict}


def resampled_means(
    estimates: Sequence[tuple[Numbers, Numbers, Numbers]], *, seed: int = 0, n_resamples: int = RESAMPLES
) -> list[Float[np.ndarray, " resamples"]]:
    """Means over seeds in each resample of the two-level bootstrap; see the module's docstring.

    estimates: (value, low, high) of each seed, for one or several quantities, which see the same draws of seeds.
    """
    count, rng = len(estimates[0][0]), np.random.default_rng(seed)
    drawn = rng.integers(0, count, (n_resamples, count - 1))
    found = []
    for value, low, high in estimates:
        noise = rng.standard_normal(drawn.shape)
        spread = np.where(noise < 0, (value - low)[drawn], (high - value)[drawn]) / NORMAL
        found.append((value[drawn] + noise * spread).mean(axis=1))
    return found
