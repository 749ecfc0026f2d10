"""How far the circuit's borders move with the subjects: not at all where all agree, and as far as they disagree."""

from __future__ import annotations

import numpy as np
import pytest

from factfinding.methods.borders import KEPT, border_rows, concatenating, looking_up

N, LAYERS = 60, 6
LABELS = np.arange(N) % 3


def hits(lookup_ends: np.ndarray, *, parallel: bool = True) -> dict[str, np.ndarray]:
    """Who is right: attention 0 gathers; a subject needs MLP 1 and all up to its own last one, and is lost without any."""
    guess, first = LABELS == 0, 1 if parallel else 0
    always, layers = np.ones((N, 1), dtype=bool), np.arange(LAYERS)
    attention = np.where(layers > 0, True, guess[:, None])
    return {
        "attention_from": np.hstack([attention, always]),
        "attention_alone": attention,
        "mlps_from": np.hstack([(layers > lookup_ends[:, None]) | guess[:, None], always]),
        "mlps_below": np.arange(first, LAYERS + 1) <= 1 | guess[:, None],
    }


def by_border(rows: list[dict]) -> dict[tuple[str, str], dict]:
    return {(row["part"], row["end"]): row for row in rows}


@pytest.mark.parametrize("parallel", [True, False])
def test_where_all_subjects_agree_no_border_moves(parallel):
    rows = border_rows(hits(np.full(N, 2), parallel=parallel), LABELS, first_mlp=int(parallel), seed=0)
    found = by_border(rows)
    expected = {
        ("concatenate", "first"): 0,
        ("concatenate", "last"): 0,
        ("lookup", "first"): 1,
        ("lookup", "last"): 2,
    }
    for key, layer in expected.items():
        row = found[key]
        assert (row["layer"], row["earliest"], row["latest"], row["same"], row["none"]) == (
            layer,
            layer,
            layer,
            1,
            0,
        )
        assert row["n"] == N


def test_a_border_that_hangs_on_a_few_subjects_moves_with_them():
    """Three of 40 who can be lost need MLP 4 too: 7.5 % of what is kept, on either side of 5 % by chance."""
    ends = np.full(N, 2)
    ends[np.flatnonzero(LABELS != 0)[:3]] = 4
    last = by_border(border_rows(hits(ends), LABELS, first_mlp=1, seed=0))["lookup", "last"]
    assert (last["layer"], last["earliest"], last["latest"]) == (4, 2, 4)
    assert 0.6 < last["same"] < 0.95 and last["none"] == 0
    again = by_border(border_rows(hits(ends), LABELS, first_mlp=1, seed=0))["lookup", "last"]
    other = by_border(border_rows(hits(ends), LABELS, first_mlp=1, seed=1))["lookup", "last"]
    assert last == again and last["same"] != other["same"]


def test_a_resample_s_borders_are_those_drawn_from_its_subjects_alone():
    """The slow twin: subjects repeated as often as they were drawn, and the rules applied to their shares."""
    rng = np.random.default_rng(3)
    made = {
        name: right & (rng.random(right.shape) < 0.97) for name, right in hits(rng.integers(1, 5, N)).items()
    }
    made["attention_from"][:, -1] = made["mlps_from"][:, -1] = made["mlps_below"][:, 0] = True
    counts = np.random.default_rng(5).multinomial(N, np.full(N, 1 / N), size=2000)
    lasts = []
    for count in counts:
        people = np.repeat(np.arange(N), count)
        commonest = np.bincount(LABELS[people]).max() / N
        kept = {name: (right[people].mean(0) - commonest) / (1 - commonest) for name, right in made.items()}
        lookup = looking_up(kept["mlps_from"], kept["mlps_below"], 1)
        lasts.append(None if lookup is None else lookup[1])
    row = by_border(border_rows(made, LABELS, first_mlp=1, seed=5))["lookup", "last"]
    assert row["same"] == np.mean([last == row["layer"] for last in lasts])
    there = [last for last in lasts if last is not None]
    assert [row["earliest"], row["latest"]] == np.quantile(
        there, [0.025, 0.975], method="inverted_cdf"
    ).tolist()


def test_where_nothing_can_be_lost_there_is_no_border():
    made = hits(np.full(N, 2))
    guessing = {
        name: np.repeat((LABELS == 0)[:, None], right.shape[1], axis=1) for name, right in made.items()
    }
    for row in border_rows(guessing, LABELS, first_mlp=1, seed=0):
        assert row["layer"] is None and row["earliest"] is None and row["none"] == row["same"] == 1
    alone = border_rows({name: right[:1] for name, right in made.items()}, LABELS[:1], first_mlp=1, seed=0)
    assert all(row["layer"] is None and row["n"] == 1 for row in alone)


def test_the_rules_are_those_of_the_threshold():
    enough, too_little = KEPT, KEPT - 1e-9
    assert concatenating(np.array([0, too_little, enough, 1.0]), np.array([1, too_little, 0])) == (1, 1)
    assert concatenating(np.array([0, 0, 1.0]), np.array([1.0, 1.0])) == (0, 1), "none alone is missed"
    assert concatenating(np.array([1.0, 1.0]), np.array([1.0])) is None
    assert looking_up(np.array([0, 0, too_little, enough]), np.array([1, enough, 0.5]), 1) == (2, 2)
    assert looking_up(np.array([0.5, 1.0, 1.0]), np.array([1.0, 0.0]), 1) is None, "MLP 0 alone is no lookup"
