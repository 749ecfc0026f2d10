"""What is the same bit by bit, what is the same to a stated tolerance, and where two runs part: docs/numerics.md."""

from __future__ import annotations

import copy
import json
from functools import cache

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from factfinding.data.prompts import prompt_table
from factfinding.engine.answers import answers
from factfinding.engine.capture import Wanted, capture
from factfinding.engine.compare import LOGITS, differences, first_difference, sites_of
from factfinding.errors import InputError
from factfinding.experiments.recall.compute import AnswerScores, recall_summary, recall_table
from factfinding.methods.patched import sample
from factfinding.model.anatomy import Anatomy
from factfinding.model.tiny import random_model
from factfinding.store import AXES, Activations, Source, assemble
from helpers import planted
from helpers.head_tables import planted_candidates
from helpers.intervention_tables import total_effects_of
from helpers.models import FAMILIES, random_anatomy, tokenizer
from helpers.workflow import assert_close

TOKENS = torch.randint(0, 360, (3, 9), generator=torch.Generator().manual_seed(1))
NAMES = [
    "Bo Lee",
    "Michael Jordan",
    "Al X",
    "Babe Ruth",
    "Tom Brady",
    "Ann Li",
    "Jo Fox",
    "Cy Day",
    "Ed Hall",
]
ANSWERS = ["baseball", "basketball", "football"]
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
"""Of the largest value in a column: batch sizes and threads change a table by no more (docs/numerics.md)."""


@cache
def people(count: int = 24) -> pl.DataFrame:
    names = [f"{first} {i}" for i, first in zip(range(count), NAMES * 3, strict=False)]
    return pl.DataFrame({"subject": names, "answer": [ANSWERS[i % 3] for i in range(count)]})


@cache
def anatomy(family: str, dtype: str) -> Anatomy:
    return Anatomy(random_model(family, vocabulary=360).to(getattr(torch, dtype)), tokenizer())


def recall(model: Anatomy, batch_size: int) -> dict[str, pl.DataFrame]:
    candidates = pl.DataFrame({"answer": ANSWERS, "token_id": [300, 301, 302], "answer_token": ANSWERS})
    scores, full = {}, None
    for condition in ("full", "zero_shot"):
        prompts = prompt_table(people(), model.tokenizer, model.bos_token_id, condition)
        full = prompts if condition == "full" else full
        said = answers(model, prompts, candidates["token_id"].to_list(), batch_size=batch_size)
        top = [str(token) for token in said.top_token_id]
        scores[condition] = AnswerScores(logits=said.logits, logp=said.logp, top_token=top)
    table = recall_table(full, candidates, scores)
    return {"recall": table, "recall_summary": recall_summary(table, seed=0)}


def activations(model: Anatomy, batch_size: int, folder) -> dict[str, pl.DataFrame]:
    """Every stored value as one column per dataset."""
    dtype = str(model.dtype).removeprefix("torch.")
    prompts = prompt_table(people(), model.tokenizer, model.bos_token_id, "full")
    wanted = [Wanted(site=site, role=role) for site in AXES for role in ("final_name", "end")]
    source = Source(model="m", revision="", dtype=dtype, condition="full", code=folder.name, stored=dtype)
    listing, shards = folder / "full_shard_0.h5", folder / "shards"
    capture(
        model, prompts, wanted, listing, source=source, shards=shards,
        batch_size=batch_size, shard_rows=16, attributes={}, log=lambda _: None,
    )  # fmt: skip
    assemble(folder / "full.h5", prompts, [listing], shards=shards, log=lambda _: None)
    with Activations(folder / "full.h5") as file:
        return {
            name: pl.DataFrame({name: file.file[name][:].ravel()}).fill_nan(None) for name in file.names()
        }


def effects(batch_size: int, dtype: str) -> dict[str, pl.DataFrame]:
    """Total effects on a model with a circuit, so that there are effects large and nil."""
    made = planted.at_name()
    model = Anatomy(copy.deepcopy(made.anatomy.model).to(getattr(torch, dtype)), made.anatomy.tokenizer)
    drawn = sample(made.prompts, planted_candidates(made), subjects=12, draws=1, seed=0)
    return {"total_effects": total_effects_of(model, drawn, batch_size=batch_size, seed=0).table}


def tables(family: str, dtype: str, batch_size: int, threads: int, folder) -> dict[str, pl.DataFrame]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = anatomy(family, dtype)
        folder.mkdir()
        return recall(model, batch_size) | activations(model, batch_size, folder)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("family", "dtype", "others"),
    [
        ("gpt_neox", "float32", [(1, 1), (7, 1), (128, 2)]),
        ("gpt_neox", "float64", [(1, 1), (7, 1)]),
        ("gpt2", "float32", [(7, 1)]),
        ("llama", "float32", [(7, 1)]),
    ],
)
def test_batch_sizes_and_threads_change_tables_within_the_tolerance(family, dtype, others, tmp_path):
    first = tables(family, dtype, 128, 1, tmp_path / "first")
    for number, (batch_size, threads) in enumerate(others):
        assert_close(
            first, tables(family, dtype, batch_size, threads, tmp_path / str(number)), TOLERANCE[dtype]
        )


def test_two_runs_alike_are_the_same_bit_by_bit(tmp_path):
    for threads in (1, 2):
        first = tables("gpt_neox", "float32", 7, threads, tmp_path / f"{threads}-first")
        again = tables("gpt_neox", "float32", 7, threads, tmp_path / f"{threads}-again")
        for name, frame in first.items():
            assert_frame_equal(frame, again[name], check_exact=True)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_batch_sizes_change_interventions_within_the_tolerance(dtype):
    first = effects(128, dtype)
    assert first["total_effects"].height > 100
    for batch_size in (1, 7):
        assert_close(first, effects(batch_size, dtype), 10 * TOLERANCE[dtype])
    assert_frame_equal(first["total_effects"], effects(128, dtype)["total_effects"], check_exact=True)


# ---------------------------------------------------------------- where two runs part


def perturbed(family: str, change) -> tuple[Anatomy, Anatomy]:
    """A model in float64, and a copy in which `change(anatomy)` was made."""
    one = random_anatomy(family, dtype=torch.float64)
    other = Anatomy(copy.deepcopy(one.model))
    with torch.no_grad():
        change(other)
    return one, other


CHANGES = {
    "resid_pre:0": lambda a: a.embedding.weight.mul_(1.001),
    "z:1": lambda a: a.blocks[1].norm_attn.weight.mul_(1.001),
    "attn_out:1": lambda a: a.blocks[1].out_proj.weight.mul_(1.001),
    "pre:2": lambda a: a.blocks[2].norm_mlp.weight.mul_(1.001),
    "mlp_out:0": lambda a: a.blocks[0].mlp_out.weight.mul_(1.001),
    LOGITS: lambda a: a.final_norm.weight.mul_(1.001),
}


@pytest.mark.parametrize("place", CHANGES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_place_that_differs_is_the_one_that_was_changed(family, place):
    one, other = perturbed(family, CHANGES[place])
    found = first_difference(one, other, TOKENS, 1e-9)
    one_norm = (
        one.blocks[2].norm_mlp is one.blocks[2].norm_attn
    )  # attention, whose values come first, reads it too
    expected = "z:2" if place == "pre:2" and one_norm else place
    assert found is not None and found.place == expected and 1e-6 < found.size < 1
    assert str(found).startswith(f"{expected} differs by ")
    assert first_difference(one, other, TOKENS, 10.0) is None


def test_a_model_does_not_differ_from_itself():
    one, other = perturbed("gpt2", lambda _: None)
    assert first_difference(one, other, TOKENS, 0.0) is None
    assert [found.size for found in differences(one, other, TOKENS)] == [0.0] * (len(sites_of(one)) + 1)


def test_the_prompt_and_the_position_are_those_of_the_largest_difference():
    """One token's embedding was changed: only where it stands, and after it, can anything differ."""
    token = int(TOKENS[1, 4])
    one, other = perturbed("llama", lambda a: a.embedding.weight[token].mul_(2))
    found = first_difference(one, other, TOKENS, 0.0)
    assert TOKENS[found.prompt, found.position] == token and found.place == "resid_pre:0"


def test_numbers_that_are_none_differ_without_end():
    one, other = perturbed("gpt_neox", lambda a: a.blocks[1].mlp_out.weight[0].fill_(float("nan")))
    found = first_difference(one, other, TOKENS, 1e300)
    assert found.place == "mlp_out:1" and found.size == float("inf")


def test_models_of_other_sizes_are_not_compared():
    with pytest.raises(InputError, match="other model: found n_layers 3; allowed: 2"):
        first_difference(random_anatomy("gpt2", layers=2), random_anatomy("gpt2"), TOKENS, 1.0)


def test_precisions_part_by_as_much_as_they_have_digits():
    """The goal of each precision on a model of three layers; `python benchmarks/numerics.py FOLDER` measures it on any."""
    one = random_anatomy("gpt_neox", dtype=torch.float64)
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 0.2), (torch.float16, 0.02)):
        other = Anatomy(copy.deepcopy(one.model).to(dtype))
        worst = max(found.size for found in differences(one, other, TOKENS))
        assert bound / 1000 < worst < bound, (dtype, worst)
        json.dumps(worst)
