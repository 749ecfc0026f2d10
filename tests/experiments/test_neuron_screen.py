"""P3.2 with a screen: what is run is what the whole sweep gives, the rest are slopes, and those drawn tell on the slopes."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from factfinding.config import NeuronsConfig
from factfinding.engine.slopes import neuron_slopes
from factfinding.engine.suffix import Suffix
from factfinding.engine.sweep import Sweeping
from factfinding.engine.sweep_neurons import neuron_index, neuron_sweep, straight_effects
from factfinding.experiments.neuron_effects import effects as experiment
from factfinding.experiments.neuron_effects.effects import (
    donors_after,
    multiplications,
    neuron_effects,
    screen_of,
)
from factfinding.experiments.neuron_effects.screen import Screen, certificate, chosen
from factfinding.experiments.neuron_effects.show import sentences
from factfinding.experiments.neuron_facts.compute import ask_facts
from factfinding.findings.single_neurons import reading
from factfinding.least import EVALUATIONS
from factfinding.tables import empty
from helpers import planted
from helpers.inputs import quiet
from helpers.neuron_tables import planted_facts

LAYERS, DRAWS = [0, 1, 2], 4
SCREEN = Screen(largest=3, sample=5, seed=0)


@pytest.fixture(scope="module")
def model():
    return planted.at_name(firsts=4, lasts=4)


@pytest.fixture(scope="module")
def used(model):
    asked = ask_facts(model.anatomy, planted_facts(model), model.prompts, subjects=5, seed=1, batch_size=8)
    return asked.filter("used")


def swept(model, used, layers=LAYERS, screen=None):
    how = Sweeping(engine=Suffix(model.anatomy), twin_rows=4, log=quiet)
    return neuron_effects(model.anatomy, used, model.prompts, layers, how, draws=DRAWS, screen=screen)


@pytest.fixture(scope="module")
def whole(model, used):
    return swept(model, used)


@pytest.fixture(scope="module")
def screened(model, used):
    return swept(model, used, screen=SCREEN)


def test_an_estimate_is_the_slope_times_what_is_put_in(model, used):
    prefix = used["prefix"][0]
    prompts = used.filter(prefix=prefix)
    donors = donors_after(model.anatomy, model.prompts, prefix, LAYERS, batch_size=8)
    index = neuron_index(prompts=[1, 0], layers=[1], neurons=[5, *planted.PAIR], kinds={"mean": 1})
    how = Sweeping(engine=Suffix(model.anatomy), log=quiet)
    found = straight_effects(model.anatomy, prompts, index, donors, how)
    for row, estimate in zip(index.iter_rows(named=True), found["effect"], strict=True):
        about = prompts.row(row["prompt"], named=True)
        where = {"at": about["final_name"], "end": about["end"], "answer": about["target"]}
        slope = neuron_slopes(model.anatomy, torch.tensor([about["token_ids"]]), **where)[1, row["neuron"]]
        values = donors.values(1, "final_name")[:, row["neuron"]]
        own = values[donors.subjects.index(about["subject"])]
        assert estimate == pytest.approx(float(slope * (values.mean() - own)), abs=1e-9)


def test_where_little_is_put_in_the_estimate_is_the_effect(model, used):
    """The donors are moved to within a thousandth of the clean values: a curve is its tangent there."""
    prefix = used["prefix"][0]
    prompts = used.filter(prefix=prefix).head(2)
    donors = donors_after(model.anatomy, model.prompts, prefix, LAYERS, batch_size=8)
    own = {name: donors.subjects.index(name) for name in prompts["subject"]}
    near = {layer: donors.values(layer, "final_name") for layer in LAYERS}
    for i, name in enumerate(prompts["subject"]):
        index = neuron_index(
            prompts=[i], layers=LAYERS, neurons=planted.PAIR, kinds={"resample_other": DRAWS}
        )
        close = {layer: v[own[name]] + 1e-3 * (v - v[own[name]]) for layer, v in near.items()}
        few = type(donors)(
            subjects=donors.subjects,
            answers=donors.answers,
            values=lambda layer, role, close=close: close[layer],
        )
        how = Sweeping(engine=Suffix(model.anatomy), twin_rows=0, tolerance=0, log=quiet)
        exact = neuron_sweep(model.anatomy, prompts, index, few, how).table["effect"].to_numpy()
        straight = straight_effects(model.anatomy, prompts, index, few, how)
        assert np.abs(exact).max() > 1e-5
        assert np.allclose(straight["effect"], exact, atol=1e-2 * np.abs(exact).max())


def test_what_is_run_is_what_the_whole_sweep_has_and_the_planted_neurons_are_run(whole, screened):
    keys = ["subject", "fact", "answer_token", "layer", "neuron", "kind"]
    assert screened.table.select(keys).equals(whole.table.select(keys))
    run = screened.table["certificate"].is_not_null()
    assert 0 < run.mean() < 0.5 and screened.table.filter(~run)["evaluations"].sum() == 0
    columns = [*keys, "effect", "standard_error", "n"]
    assert_frame_equal(
        screened.table.filter(run).select(columns), whole.table.filter(run).select(columns), abs_tol=1e-9
    )
    facts = whole.table.select("subject", "fact").unique().height
    assert run.sum() == facts * len(LAYERS) * (SCREEN.largest + SCREEN.sample) * 2
    acting = (whole.table["effect"].abs() > 1e-6).to_numpy()
    assert acting.any() and run.to_numpy()[acting].all()
    assert screened.table.filter(~run)["effect"].abs().max() < 1e-6


def test_every_fact_and_layer_has_the_largest_and_a_sample_whatever_the_jobs(model, used, screened):
    apart = [swept(model, used, layers, SCREEN) for layers in ([0, 2], [1])]
    where = ["subject", "fact", "layer", "neuron", "kind"]
    together = pl.concat([part.run for part in apart]).sort(where)
    assert_frame_equal(together, screened.run.sort(where), abs_tol=1e-9)
    counts = screened.run.group_by("subject", "fact", "layer", "kind").agg(pl.col("drawn").sum(), n=pl.len())
    assert set(counts["drawn"]) == {SCREEN.sample} and set(counts["n"]) == {SCREEN.sample + SCREEN.largest}


def test_another_seed_draws_others_and_the_same_largest(whole):
    estimates = whole.table.select("subject", "fact", "layer", "neuron", "kind", "effect")
    one, two = (chosen(estimates, Screen(largest=3, sample=5, seed=seed)) for seed in (0, 1))
    assert not one.filter("drawn").equals(two.filter("drawn"))
    assert one.filter(~pl.col("drawn")).equals(two.filter(~pl.col("drawn")))
    everyone = chosen(estimates, Screen(largest=10_000, sample=5, seed=0))
    assert not everyone["drawn"].any() and everyone.height == estimates.height // 2


def test_the_pages_on_single_neurons_say_how_many_were_run(screened):
    tables = {"neuron_effects_screen": certificate(screened.run, screened.table.height // 2)}
    assert reading("mean", tables).endswith(
        "a sample, 33.3\N{NO-BREAK SPACE}% of them, in earnest, and the others by estimate)"
    )
    assert reading("mean", {}) == reading("mean", {"neuron_effects_screen": empty("neuron_effects_screen")})


def run_of(effects, estimates, drawn) -> pl.DataFrame:
    n = len(effects)
    about = {"subject": ["A B"] * n, "fact": ["sport"] * n, "layer": [1] * n, "neuron": list(range(n))}
    return pl.DataFrame(
        about | {"kind": ["mean"] * n, "drawn": drawn, "estimate": estimates, "effect": effects}
    )


def test_the_certificate_by_hand():
    run = run_of([4.0, -2.0, 0.5, 0.1], [4.0, -1.0, 0.4, 0.1], [False, False, True, True])
    together, layer = certificate(run, 100).iter_rows(named=True)
    assert together["layer"] is None and layer["layer"] == 1
    assert together["effects"] == 100 and together["largest"] == 2 and together["n"] == 2
    assert together["missed"] == 0 and together["missed_high"] > 0.5
    assert together["error"] == pytest.approx(np.quantile([0.1, 0.0], 0.95))
    assert together["error_share"] == pytest.approx(np.quantile([0.1, 0.0], 0.95) / 4)
    assert certificate(run.clear(), 0).is_empty()


def test_slopes_that_are_blind_are_told_by_those_drawn():
    """A neuron with no slope and a large effect, such as one far below its threshold."""
    blind = run_of([0.3, 0.2, 5.0, 4.0, 3.0], [0.3, 0.2, 0.0, 0.0, 0.0], [False, False, True, True, True])
    row = certificate(blind, 50).row(0, named=True)
    assert row["missed"] == 1.0 and row["missed_low"] > 0.2 and row["error_share"] > 10
    facts = pl.DataFrame(
        {"left_out": [None], "known": [True], "used": [True]}, schema_overrides={"left_out": pl.String}
    )
    facts = facts.with_columns(subject=pl.lit("A B"), fact=pl.lit("sport"), fact_answer=pl.lit("golf"))
    twin = pl.DataFrame({"rows": [4], "largest_error": [0.0], "relative_error": [1e-6]})
    tables = {"neuron_facts": facts, "neuron_effects_twin": twin, "known_filters": empty("known_filters")}
    said = sentences(tables | {"neuron_effects_screen": certificate(blind, 50)})
    assert "Of 50 effects 5 were run (10.0\N{NO-BREAK SPACE}%); the others are estimates by slopes." in said
    assert any(
        "100.0\N{NO-BREAK SPACE}% [" in sentence and "larger than the smallest" in sentence
        for sentence in said
    )


def test_auto_screens_what_would_take_long(model, used, monkeypatch):
    weights = sum(weight.numel() for weight in model.anatomy.blocks[0].module.parameters())
    length = sum(row["end"] - row["final_name"] + 1 for row in used.iter_rows(named=True))
    above = model.anatomy.n_layers + model.anatomy.n_layers - 1
    work = multiplications(model.anatomy, used, [0, 1])
    assert work == weights * above * model.anatomy.d_mlp * length * EVALUATIONS

    def screen(choice):
        section = NeuronsConfig(screen=choice, screen_largest=3, screen_sample=5, seed=0)
        return screen_of(model.anatomy, used, [0, 1], section)

    monkeypatch.setattr(experiment, "EXACT_UP_TO", work)
    assert screen("auto") is None and screen("never") is None and screen("always") == SCREEN
    monkeypatch.setattr(experiment, "EXACT_UP_TO", work - 1)
    assert screen("auto") == SCREEN and screen("never") is None
