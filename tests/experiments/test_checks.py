"""The circuit checks: they say where a fact is looked up in models whose answer is known."""

from __future__ import annotations

import polars as pl
import pytest
import torch

from factfinding.data.prompts import candidates, prompt_table
from factfinding.engine.capture import positions_of, tokens_of
from factfinding.engine.sites import Site
from factfinding.engine.trace import Edit, Read, run
from factfinding.experiments.circuit_checks.compute import circuit_checks, donor_answers, same_length
from helpers import planted
from helpers.models import FAMILIES, random_anatomy, tokenizer

TOKENIZER = tokenizer()
ANSWERS = ["baseball", "basketball", "football"]
NAMES = [f"{a} {b}" for a in ("Al", "Bo", "Cy", "Di") for b in ("Lee", "May", "Noe", "Orr", "Poe")] + [
    "Onlyone Longestname"
]


@pytest.fixture(scope="module")
def table():
    answers = [ANSWERS[i % 3] for i in range(len(NAMES))]
    return prompt_table(pl.DataFrame({"subject": NAMES, "answer": answers}), TOKENIZER, 0, "full")


def test_groups_have_equal_lengths_and_at_least_two_prompts(table):
    groups = list(same_length(table))
    rows = sorted(row for group in groups for row in group)
    assert len(rows) == len(set(rows)) and all(len(group) > 1 for group in groups)
    assert NAMES.index("Onlyone Longestname") not in rows
    for group in groups:
        assert table[group]["n_tokens"].n_unique() == 1 and table[group]["final_name"].n_unique() == 1


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama"])
def test_every_check_runs_on_every_family_and_a_model_that_knows_nothing_shows_nothing(table, family):
    anatomy = random_anatomy(family)
    answers = candidates(ANSWERS, table["text"][0], TOKENIZER)
    checks = circuit_checks(anatomy, table, answers, batch_size=4, seed=0)
    assert checks["check"].to_list()[:2] == ["clean", "mlps_at_name"]
    assert checks.filter(pl.col("check").str.starts_with("donor")).height == anatomy.n_layers
    assert (checks["accuracy_low"] <= checks["accuracy"]).all() and (
        checks["accuracy"] <= checks["accuracy_high"]
    ).all()
    assert checks["accuracy"].max() < 0.75, "nothing was learnt, so nothing can be right but by chance"
    again = circuit_checks(anatomy, table, answers, batch_size=64, seed=0)
    assert checks.equals(again), "the batch size changes no answer"


@pytest.mark.parametrize("family", FAMILIES)
def test_donors_by_suffixes_give_the_answers_of_whole_runs(table, family):
    anatomy = random_anatomy(family, dtype=torch.float64)
    answers = candidates(ANSWERS, table["text"][0], TOKENIZER)
    rows = next(group for group in same_length(table) if len(group) > 3)
    donors = rows[1:] + rows[:1]
    tokens, names, ends = (
        tokens_of(table, rows, anatomy.device),
        positions_of(table, rows, "final_name", anatomy.device),
        positions_of(table, rows, "end", anatomy.device),
    )
    wanted = torch.tensor(answers["token_id"].to_list())
    for layer, found in enumerate(donor_answers(anatomy, table, answers, rows, donors)):
        site = Site("resid_post", layer)
        read = run(
            anatomy, tokens_of(table, donors, anatomy.device), reads=[Read(site=site, at=names)]
        ).values[0]
        whole = run(anatomy, tokens, edits=[Edit(site=site, at=names, value=read)], logits_at=ends).logits
        assert found.tolist() == whole[:, wanted].argmax(-1).tolist()


def test_nobody_known_gives_an_empty_table(table):
    answers = candidates(ANSWERS, table["text"][0], TOKENIZER)
    assert circuit_checks(random_anatomy("gpt_neox"), table[:0], answers, batch_size=4, seed=0).is_empty()


def accuracies(model):
    """Accuracy by check on a planted model; two answers, so what is destroyed leaves a half."""
    ids = {
        row["subject"]: int(token)
        for row, token in zip(model.prompts.iter_rows(named=True), model.answer, strict=True)
    }
    answers = pl.DataFrame(
        {
            "answer": list(planted.ANSWERS),
            "token_id": [
                ids[model.prompts.filter(answer=answer)["subject"][0]] for answer in planted.ANSWERS
            ],
        }
    )
    checks = circuit_checks(model.anatomy, model.prompts, answers, batch_size=8, seed=0)
    assert (checks["majority_rate"] == 0.5).all()
    paired = checks.filter(~pl.col("check").str.starts_with("donor"))
    clean = paired.filter(check="clean")["accuracy"].item()
    assert (paired["change"] - (paired["accuracy"] - clean)).abs().max() < 1e-12
    assert (paired["over_half"] - (paired["accuracy"] - (clean + 0.5) / 2)).abs().max() < 1e-12
    assert checks.filter(pl.col("check").str.starts_with("donor"))["change"].is_null().all()
    return dict(checks.select("check", "accuracy").rows())


def test_a_lookup_at_the_name_is_found_there():
    found = accuracies(planted.at_name())
    assert found["clean"] == found["mlps_after_name"] == found["late_attention_at_name"] == 1.0
    assert found["name_pattern_frozen"] == found["earlier_name_hidden"] == 1.0
    assert found["mlps_at_name"] == found["mlps_at_name_frozen"] == 0.5
    # the fact stands in the residual from layer 1 on; the head that extracts it reads it in layer 2
    assert found["donor_1"] == 1.0 and found["donor_2"] == 0.0


def test_a_lookup_at_the_end_is_not_taken_for_one_at_the_name():
    found = accuracies(planted.at_end())
    assert found["clean"] == found["mlps_at_name"] == found["mlps_at_name_frozen"] == 1.0
    assert found["mlps_after_name"] == found["earlier_name_hidden"] == 0.5
    assert max(accuracy for check, accuracy in found.items() if check.startswith("donor")) < 1.0
