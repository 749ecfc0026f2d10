"""Differences that are checked by values: who is drawn, what is compared, and that an error shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from factfinding.config import ComputeConfig
from factfinding.engine.certified import Certified, Sample, against_values, certified
from factfinding.engine.clean import prepare
from factfinding.engine.difference import Difference
from factfinding.engine.readings import Logits, LogProbs, Resid
from factfinding.engine.replaced import Replaced
from factfinding.engine.suffix import Edits, Suffix
from helpers.models import FAMILIES, random_anatomy

TABLE = "mlp_paths_twin"
TOKENS = torch.randint(0, 360, (3, 7), generator=torch.Generator().manual_seed(1))
END = 6
ANSWERS = torch.tensor([[5, 17], [200, 3], [359, 0]])


def quiet(message):
    pass


def some_edits(layers, dtype=torch.float32, size=1.0, seed=3, kind="mlp_out"):
    """Edits of several layers, prompts and numbers of rows, some of which add nothing."""
    generator, found = torch.Generator().manual_seed(seed), []
    for i, layer in enumerate(layers):
        prompt = torch.tensor([2, 0, 0, 1, 2, 0][: 3 + i])
        delta = torch.randn(len(prompt), 32, generator=generator, dtype=dtype) * size
        delta[1] = 0
        found.append(Edits(kind=kind, layer=layer, at=3, prompt=prompt, delta=delta))
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["mlp_out", "attn_out", "resid_pre"])
def test_edits_of_several_layers_in_one_pass_are_those_of_one_after_another(family, kind):
    anatomy = random_anatomy(family, dtype=torch.float64)
    clean, engine = prepare(anatomy, TOKENS, start=2), Difference(anatomy)
    many = some_edits((2, 0, 1, 0), torch.float64, kind=kind)
    for reading in (Logits(at=END, tokens=ANSWERS), LogProbs(at=END), Resid(at=3, layer=2)):
        for edits, found in zip(many, engine.joint_effects(clean, many, reading), strict=True):
            assert torch.allclose(found, engine.effects(clean, edits, reading), atol=1e-12)
            assert torch.allclose(found, Suffix(anatomy).effects(clean, edits, reading), atol=1e-10)
            assert (found[1] == 0).all()
        for edits, found in zip(many, engine.joint_values(clean, many, reading), strict=True):
            assert torch.allclose(found, Suffix(anatomy).values(clean, edits, reading), atol=1e-10)


def test_every_row_that_comes_by_is_as_likely_to_be_drawn():
    drawn = np.zeros(60)
    for seed in range(3000):
        sample, rows = Sample(5, seed), np.arange(60)
        kept = {}
        for part in np.split(rows, [3, 10, 11, 40]):
            kept |= {place: int(part[row]) for row, place in sample.places(len(part))}
        assert len(kept) == 5
        drawn[list(kept.values())] += 1
    expected = 3000 * 5 / 60
    assert abs(drawn - expected).max() < 5 * np.sqrt(expected)


@pytest.mark.parametrize("product, limit", [("full", 1e-5), ("tf32", 1e-2), ("bfloat16", 1e-1)])
def test_what_was_run_lies_near_values_in_float64(product, limit):
    anatomy = random_anatomy("gpt_neox", dtype=torch.float32)
    clean = prepare(anatomy, TOKENS, start=2)
    engine = certified(anatomy, ComputeConfig(engine="auto", products=product, twin_rows=9), seed=0)
    for reading in (Logits(at=END, tokens=ANSWERS), LogProbs(at=END), Resid(at=3, layer=2)):
        engine.joint_effects(clean, some_edits((0, 1)), reading)
        engine.values(clean, some_edits((2,), seed=4)[0], reading)
    value = torch.randn(2, 32, generator=torch.Generator().manual_seed(5))
    instead = Replaced.of(torch.tensor([1, 2]), attn={1: value}, mlp={0: value, 2: value})
    engine.replaced(clean, instead, [LogProbs(at=END)])
    twin = against_values(TABLE, engine, quiet)
    assert twin["reading"].to_list() == ["logits", "log_probs", "resid"]
    assert twin["rows"].to_list() == [7, 9, 7], "rows that add nothing are not drawn"
    assert (twin["dtype"] == "float64").all() and (twin["engine"] == f"difference, {product} products").all()
    assert (twin["relative_error"] < limit).all() and (twin["rank_correlation"] > 0.98).all()
    assert (twin["relative_error"] > (1e-4 if product != "full" else 0)).all(), "rounded products are seen"


def test_an_engine_that_is_wrong_is_found_out(monkeypatch):
    anatomy = random_anatomy("gpt_neox", dtype=torch.float32)
    clean = prepare(anatomy, TOKENS, start=2)
    right = Difference.joint_effects
    monkeypatch.setattr(
        Difference, "joint_effects", lambda *given: [change * 1.5 for change in right(*given)]
    )
    engine = Certified(anatomy, "full", rows=4, seed=0)
    engine.effects(clean, some_edits((0,))[0], Logits(at=END))
    assert against_values(TABLE, engine, quiet)["median_relative_error"].item() == pytest.approx(
        0.5, abs=1e-3
    )


def test_values_need_no_certificate_and_no_rows_make_none():
    anatomy = random_anatomy("gpt_neox", dtype=torch.float32)
    clean = prepare(anatomy, TOKENS, start=2)
    values = certified(anatomy, ComputeConfig(engine="suffix"), seed=0)
    assert isinstance(values, Suffix) and against_values(TABLE, values, quiet).is_empty()
    unchecked = certified(anatomy, ComputeConfig(engine="difference", twin_rows=0), seed=0)
    unchecked.effects(clean, some_edits((0,))[0], Logits(at=END))
    assert against_values(TABLE, unchecked, quiet).is_empty()
