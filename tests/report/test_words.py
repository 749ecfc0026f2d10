"""What leads is told with all that cannot be told apart from it, and small shares are not named."""

from __future__ import annotations

import polars as pl
import pytest

from factfinding.findings.words import (
    after_layers,
    best_layer,
    most,
    not_surely_more,
    worth_a_word,
)
from factfinding.least import LEAST_SHARE


def rows(*values: tuple[float, float | None, float | None], **more: list) -> pl.DataFrame:
    """Rows 0, 1, ... with values and the ends of their intervals."""
    schema = {"value": pl.Float64, "value_low": pl.Float64, "value_high": pl.Float64}
    table = pl.DataFrame(list(values), schema=schema, orient="row")
    return table.with_row_index("row").with_columns(
        **{name: pl.Series(column) for name, column in more.items()}
    )


def leaders(table: pl.DataFrame, **options) -> list[int]:
    return [row["row"] for row in most(table, "value", **options)]


def test_where_intervals_overlap_no_row_leads_alone():
    table = rows((0.5, 0.4, 0.6), (0.9, 0.8, 1.0), (0.85, 0.75, 0.95), (0.1, 0.0, 0.2))
    assert leaders(table) == [1, 2]
    assert leaders(table, lowest=True) == [3]
    assert leaders(table.filter(pl.col("row") != 2)) == [1]
    assert leaders(table.clear()) == []


def test_pairs_tell_apart_what_overlapping_intervals_do_not():
    values = ((0.9, 0.5, 1.0), (0.8, 0.4, 0.95), (0.7, 0.3, 0.9))
    paired = {"behind": [0.0, -0.1, -0.2], "behind_low": [0.0, -0.2, -0.3], "behind_high": [0.0, 0.01, -0.1]}
    assert leaders(rows(*values)) == [0, 1, 2]
    assert leaders(rows(*values, **paired)) == [0, 1]


def test_a_difference_that_is_measured_from_a_row_left_out_is_not_used():
    values = ((0.9, 0.85, 1.0), (0.8, 0.75, 0.85), (0.7, 0.68, 0.78))
    paired = {"behind": [0.0, -0.1, -0.2], "behind_low": [0.0, -0.2, -0.3], "behind_high": [0.0, -0.01, -0.1]}
    table = rows(*values, **paired)
    assert leaders(table) == [0]
    assert leaders(table.filter(pl.col("row") > 0)) == [1, 2], "their own intervals overlap"


def test_what_has_no_interval_cannot_be_told_apart():
    assert leaders(rows((0.9, None, None), (0.1, None, None))) == [0, 1]
    one = {"behind": [0.0, -0.8], "behind_low": [None, None], "behind_high": [None, None]}
    columns = {name: pl.Series(values, dtype=pl.Float64) for name, values in one.items()}
    assert leaders(rows((0.9, 0.9, 0.9), (0.1, 0.1, 0.1)).with_columns(**columns)) == [0, 1]


@pytest.mark.parametrize(
    ("n", "told"),
    [
        (1, ""),
        (2, ", not surely more than 1"),
        (4, ", not surely more than 1, 2 and 3"),
        (5, ", not surely more than 1, 2, 3 and 4"),
        (9, ", not surely more than 1, 2, 3 and 5 others"),
    ],
)
def test_the_others_are_named_as_far_as_there_is_room(n, told):
    found = not_surely_more([{"row": i} for i in range(n)], lambda row: str(row["row"]))
    assert found == told


def test_the_best_layer_of_a_curve_is_told_with_its_rivals():
    table = rows((0.4, 0.3, 0.5), (0.98, 0.9, 1.0), (1.0, 0.95, 1.0), (0.97, 0.9, 1.0))
    curve = table.select(
        layer=pl.col("row").cast(pl.Int64) - 1,
        accuracy="value",
        accuracy_low="value_low",
        accuracy_high="value_high",
    )
    said = best_layer(curve).replace("\N{NO-BREAK SPACE}", " ")
    assert said == "100.0 % [95.0, 100.0] after layer 1, not surely more than after layers 0 and 2"
    assert after_layers([-1]) == "in the embeddings"
    assert after_layers([3, -1]) == "in the embeddings and after layer 3"


def test_a_share_below_a_hundredth_is_not_named():
    table = pl.DataFrame({"share": [0.5, LEAST_SHARE, 0.9 * LEAST_SHARE, 1e-9, -0.3, None]})
    assert table.filter(worth_a_word())["share"].to_list() == [0.5, LEAST_SHARE]
