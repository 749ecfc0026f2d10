"""What is readable is read: probes and readers of sparse activations, of which a held-out name uses parts of its own."""

from __future__ import annotations

from itertools import product

import numpy as np
import polars as pl
import pytest

from factfinding.experiments.layer_probes.compute import layer_probes, with_name_groups
from factfinding.methods.logistic import ROUNDING, Scale
from factfinding.methods.probes import ProbeSettings, cross_validated
from factfinding.stats import grouped_folds
from helpers import sparse
from helpers.intervention_tables import intervention_tables

NOISE = (0.0, 1e-9, 1e-6, 1e-4, 1e-3, 1e-2, 3e-2, 0.1)
"""From nothing over rounding to a tenth of what the features themselves are."""
WEIGHT_NOISE = (0.0, 1e-5, 1e-3)


def one_hot(n_names: int, noise: float, *, unused: int = 0):
    """Names and answers as axes, and labels: every name has as many subjects of each answer. unused: further columns."""
    pairs = [(i, j) for i, j in product(range(n_names), repeat=2) if (i + j) % 2 == 0]
    first, last = np.array(pairs).T
    labels = (first + last) // 2 % 3
    rows = np.concatenate([np.eye(n_names)[first], np.eye(n_names)[last], np.eye(3)[labels]], axis=1)
    rows = np.pad(rows, ((0, 0), (0, unused)))
    return rows + noise * np.random.default_rng(0).normal(size=rows.shape), labels, last


@pytest.mark.parametrize(
    ("noise", "unused"), [(noise, 0) for noise in NOISE] + [(noise, 400) for noise in NOISE if noise <= 0.01]
)
def test_a_answer_with_an_axis_of_its_own_is_read_off_names_that_were_held_out(noise, unused):
    rows, labels, last = one_hot(12, noise, unused=unused)
    folds = grouped_folds(last, labels, n_folds=5, seed=0)
    scores = cross_validated(rows, [labels], folds, ProbeSettings())[0]
    assert scores.hits.mean() >= 0.97 and scores.losses.mean() < 0.3 and scores.losses.max() < 3


def test_no_difference_is_stretched_by_more_than_one_over_the_typical_deviation():
    rng = np.random.default_rng(0)
    train = rng.normal(size=(50, 30)) * 10.0 ** rng.integers(-9, 1, 30)
    scale = Scale.of(train)
    typical = np.sqrt(train.var(axis=0).mean())
    assert (scale(train) ** 2).sum(1).mean() == pytest.approx(1)
    length = np.sqrt((train.var(axis=0) / (train.var(axis=0) + typical**2)).sum())
    assert (scale.scale / length >= typical * (1 - 1e-12)).all()


def test_one_huge_column_leaves_the_others_readable():
    rows, labels, last = one_hot(12, 0.05)
    huge = 1e3 * np.random.default_rng(1).normal(size=(len(rows), 1))
    folds = grouped_folds(last, labels, n_folds=5, seed=0)
    wide = np.concatenate([np.tile(rows, (1, 20)), huge], axis=1)
    assert cross_validated(wide, [labels], folds, ProbeSettings())[0].hits.mean() >= 0.97


def test_a_constant_column_is_left_out_whatever_a_held_out_row_holds_there():
    train = np.random.default_rng(0).normal(size=(20, 3))
    train[:, 1] = 5 + 0.1 * ROUNDING * train[:, 0]
    scale = Scale.of(train)
    assert np.isinf(scale.scale).tolist() == [False, True, False]
    assert (scale(np.full((1, 3), 1e6))[0, 1], scale(train)[0, 1]) == (0, 0)
    assert (Scale.of(np.ones((4, 2)))(np.zeros((1, 2))) == 0).all()


def test_columns_that_vary_alike_are_standardised():
    train = np.random.default_rng(0).normal(size=(400, 9)) + 3
    train = (train - train.mean(0)) / train.std(0) * 2 + 7
    np.testing.assert_allclose(Scale.of(train)(train), (train - 7) / 2 / 3, atol=1e-12)


@pytest.mark.parametrize("noise", WEIGHT_NOISE)
@pytest.mark.parametrize(("model", "role"), [("at_name", "final_name"), ("at_end", "end")])
def test_probes_read_a_planted_lookup_where_it_is_and_nowhere_before(model, role, noise):
    planted = getattr(sparse, model)(noise)
    layers = [("full", layer, planted.resid(layer, role)) for layer in range(-1, sparse.LAYERS)]
    settings = ProbeSettings(control_folds=())
    table = layer_probes(layers, with_name_groups(planted.subjects), settings=settings, seed=0)
    known = table.filter(pl.col("layer") >= 1)
    assert known["accuracy"].min() >= 0.98 and known["loss"].max() < 0.3
    before = table.filter(pl.col("layer") < 1)
    assert before["accuracy"].max() < 0.45 and before["loss"].max() < 5


@pytest.mark.parametrize("noise", WEIGHT_NOISE)
def test_the_ladder_and_the_effective_model_s_probes_read_a_planted_lookup(noise):
    planted = sparse.at_name(noise)
    tables = intervention_tables(planted.anatomy, planted.prompts(), planted.candidates)
    ladder = tables["ladder"].filter(~pl.col("step").str.starts_with("attention_"), reader="logistic")
    read = ladder.filter(pl.col("layer") >= 1)
    assert set(read["step"]) == {"full", "name_only", "late_attention", "both", "frozen"}
    assert read["accuracy"].min() >= 0.98 and read["loss"].max() < 0.3
    assert tables["effective_model"]["accuracy"].min() >= 0.98
    probes = tables["effective_probes"].filter(labels="true")
    resid = probes.filter(input="resid", layer=1)
    assert resid["accuracy"].item() >= 0.98 and resid["loss"].item() < 0.3
    assert probes.filter(input="token_sum")["accuracy"].item() < 0.45 and probes["loss"].max() < 5
