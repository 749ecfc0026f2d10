"""P1.4 on models whose final name token holds known directions, and its dictionaries beside a plain twin."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from factfinding.config import Config, DictionariesConfig, validate
from factfinding.errors import InputError
from factfinding.experiments.dictionaries.autoencoder import Training, trained
from factfinding.experiments.dictionaries.clouds import TRUE, cloud_of, shuffled, summed
from factfinding.experiments.dictionaries.compute import (
    NAMES,
    attributes_of,
    compute,
    dictionaries,
    halved,
    places,
)
from factfinding.experiments.dictionaries.explanations import Attribute, Explanations
from factfinding.experiments.dictionaries.show import draw_dictionaries, draw_dictionary_kinds
from factfinding.findings.words import told
from factfinding.inputs import Inputs, Settings
from factfinding.methods.circuit import AT_NAME, Circuit
from factfinding.stats import share_difference, share_interval
from factfinding.tables import schema_of
from helpers import planted
from helpers.figures import assert_readable
from helpers.inputs import RunActivations, quiet
from helpers.planted_directions import NO_FACTS, planted_with, tables_with

NARROW = {"features": (32,), "active": 2}
RNG = np.random.default_rng(0)


def kind(tables: dict[str, pl.DataFrame], name: str, features: int, data: str = TRUE) -> dict:
    return tables["dictionary_kinds"].filter(kind=name, features=features, data=data).row(0, named=True)


# --- the autoencoder ------------------------------------------------------------------------------------------------------


def twin_codes(dictionary, rows: np.ndarray) -> np.ndarray:
    """Codes by loops, one feature of one row after the other."""
    codes = np.zeros((len(rows), len(dictionary.encoder)), dtype=np.float32)
    for r, row in enumerate(rows):
        scores = [
            float(encoder @ torch.tensor(row)) + float(bias)
            for encoder, bias in zip(dictionary.encoder, dictionary.bias, strict=True)
        ]
        for feature in sorted(range(len(scores)), key=lambda i: -scores[i])[: dictionary.k]:
            codes[r, feature] = max(0.0, scores[feature])
    return codes


def some_rows(n: int = 40, d: int = 10) -> np.ndarray:
    rows = np.random.default_rng(1).normal(size=(n, d)).astype(np.float32)
    return rows / np.sqrt((rows**2).sum(1).mean())


def test_the_code_of_loops_and_what_it_rebuilds_are_the_same():
    rows = some_rows()
    made = trained(rows, 24, Training(k=3, steps=40, batch=16, rate=0.01), seed=0)
    codes = made.activations(rows)
    np.testing.assert_allclose(codes, twin_codes(made, rows), atol=1e-5)
    assert ((codes > 0).sum(1) <= 3).all()
    plain = made.mean.numpy() + sum(codes[:, [i]] * made.decoder[i].numpy() for i in range(24))
    np.testing.assert_allclose(made.rebuilt(codes), plain, atol=1e-5)
    torch.testing.assert_close(made.decoder.norm(dim=1), torch.ones(24))


def test_training_takes_the_steps_of_a_plain_loop():
    """Dense codes, plain products and Adam written out; fewer steps than make a feature dead."""
    rows, steps = torch.tensor(some_rows()), 8
    made = trained(rows.numpy(), 12, Training(k=2, steps=steps, batch=40, rate=0.01), seed=3)
    generator = torch.Generator().manual_seed(3)
    decoder = torch.nn.functional.normalize(torch.randn(12, 10, generator=generator), dim=1)
    parts = [decoder.clone(), torch.zeros(12), decoder, torch.zeros(10)]
    first, second = ([torch.zeros_like(part) for part in parts] for _ in range(2))
    for step in range(steps):
        encoder, bias, decoder, mean = parts = [part.detach().requires_grad_() for part in parts]
        scores = rows @ encoder.T + bias
        least = scores.sort(dim=1, descending=True).values[:, 1:2]
        code = torch.where(scores >= least, scores, torch.zeros(())).relu()
        loss = ((rows - mean - code @ decoder) ** 2).sum() / len(rows)
        slopes = list(torch.autograd.grad(loss, parts))
        slopes[2] = slopes[2] - (slopes[2] * decoder).sum(1, keepdim=True) * decoder
        rate = 0.01 * min(1.0, (steps - step) / (0.3 * steps))
        moved = []
        for i, (part, slope) in enumerate(zip(parts, slopes, strict=True)):
            first[i] = 0.9 * first[i] + 0.1 * slope
            second[i] = 0.999 * second[i] + 0.001 * slope**2
            size = (second[i] / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
            moved.append((part - rate * first[i] / (1 - 0.9 ** (step + 1)) / size).detach())
        moved[2] = moved[2] / moved[2].norm(dim=1, keepdim=True)
        parts = moved
    for found, plain in zip((made.encoder, made.bias, made.decoder, made.mean), parts, strict=True):
        torch.testing.assert_close(found, plain, atol=1e-4, rtol=1e-3)


def test_the_same_seed_gives_the_same_dictionary_and_another_another():
    rows, how = some_rows(), Training(k=2, steps=30, batch=16, rate=0.01)
    one, again, other = (trained(rows, 16, how, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.encoder, again.encoder) and torch.equal(one.decoder, again.decoder)
    assert not torch.equal(one.decoder, other.decoder)


def test_dead_features_are_asked_for_what_the_others_leave():
    """Rows of one direction: two features do it all, and the auxiliary loss brings others to the few rows of a second one."""
    rows = np.zeros((64, 6), dtype=np.float32)
    rows[:60, 0], rows[60:, 1] = 1.0, 1.0
    made = trained(rows, 8, Training(k=1, steps=200, batch=64, rate=0.02), seed=0)
    codes = made.activations(rows)
    assert ((made.rebuilt(codes) - rows) ** 2).sum() < 0.01 * (rows**2).sum()


# --- the rows -------------------------------------------------------------------------------------------------------------


def small_cloud(components: int = 128):
    full = RNG.normal(size=(40, 6)) @ RNG.normal(size=(6, 12)) + 5.0
    training = halved([f"name {i}" for i in range(40)], seed=0)
    return cloud_of(full, full + 1.0, training, components=components)


def test_rows_are_centred_of_unit_size_and_lose_nothing_but_what_is_left_out():
    cloud = small_cloud()
    inside = cloud.rows[cloud.training]
    assert cloud.rows.shape[1] == 6 and np.allclose(inside.mean(0), 0)
    assert (inside**2).sum(1).mean() == pytest.approx(1)
    np.testing.assert_allclose(cloud.rows, cloud.elsewhere, atol=1e-9)  # the prompts differ by a constant
    assert cloud.explained(cloud.rows) == pytest.approx((1, 1))
    assert cloud.principal(6) == pytest.approx(1)
    fewer = small_cloud(components=2)
    assert fewer.explained(fewer.rows)[0] == pytest.approx(fewer.principal(2)) and fewer.principal(2) < 1


def test_shuffled_rows_keep_every_component_within_each_half_and_alike_in_both_prompts():
    cloud = small_cloud()
    mixed = shuffled(cloud, seed=0)
    for half in (cloud.training, ~cloud.training):
        np.testing.assert_allclose(np.sort(mixed.rows[half], axis=0), np.sort(cloud.rows[half], axis=0))
    np.testing.assert_allclose(mixed.rows, mixed.elsewhere, atol=1e-9)
    assert not np.allclose(mixed.rows, cloud.rows)


def test_the_sum_is_the_least_squares_fit_of_its_parts():
    cloud = small_cloud()
    first, last = [f"F{i % 5}" for i in range(40)], [f"L{i % 3}" if i % 7 else None for i in range(40)]
    made = summed(cloud, [first, last])
    design = np.array([[name == f"F{i}" for i in range(5)] + [one == f"L{i}" for i in range(3)] for name, one in zip(first, last, strict=True)], dtype=float)  # fmt: skip
    best = design @ np.linalg.lstsq(design[cloud.training], cloud.rows[cloud.training], rcond=None)[0]
    best /= np.sqrt((best[cloud.training] ** 2).sum(1).mean())
    np.testing.assert_allclose(made.rows[cloud.training], best[cloud.training], atol=2e-3)


def test_rows_that_are_all_alike_make_no_cloud():
    training = np.arange(20) < 10
    assert cloud_of(np.ones((20, 4)), np.ones((20, 4)), training, components=4) is None


# --- the explanations -----------------------------------------------------------------------------------------------------


def judged_by_hand():
    """Eight subjects, four of each half; two answers, two last tokens."""
    subjects = [f"s{i}" for i in range(8)]
    training = np.array([True, True, True, True, False, False, False, False])
    attributes = [
        Attribute(kind="answer", name="answer", values=list("aabbaabb")),
        Attribute(kind="last_token", name="last_token", values=["x", "y", "x", "y", "x", "y", "x", "y"]),
        Attribute(kind="first_token", name="first_token", values=["p", "p", "q", "q", "p", "p", "r", "q"]),
        Attribute(kind="relation", name="town", values=["m", "n", None, None, "m", "n", None, None]),
    ]
    return Explanations.of(subjects, attributes, training, least=1)


def test_sets_are_values_of_several_and_no_set_stands_twice():
    sets = judged_by_hand()
    assert list(zip(sets.kinds, sets.values, strict=True)) == [
        ("answer", "a"), ("answer", "b"), ("last_token", "x"), ("last_token", "y"), ("first_token", "q"),
    ]  # fmt: skip
    # p are those of answer a; the towns are the last tokens again; r has one subject
    assert sets.alone.tolist() == [False] * 6 + [True, False]


def test_features_are_judged_on_what_was_not_seen():
    sets = judged_by_hand()
    a, x, one, pair = ([0, 1, 4, 5], [0, 2, 4, 6], [3], [1, 2])
    fires = np.zeros((8, 5), dtype=bool)
    for feature, who in enumerate((a, x, one, pair, [0, 1, 6, 7])):
        fires[who, feature] = True
    found = sets.judged(fires, fires, holds_from=0.7)
    assert found.kinds.tolist() == ["answer", "last_token", "entity", "group", "group"]
    assert found.f1.tolist() == [1, 1, 1, pytest.approx(2 / 3), 0] and found.fires.tolist() == [2, 2, 1, 2, 2]
    assert found.covered["answer"].tolist() == [True, True, False, False]
    assert found.covered["entity"].tolist() == [False, False, False, True]
    elsewhere = fires.copy()
    elsewhere[:, 2], elsewhere[:, 3] = True, False  # fires for all under the other prompt, or for nobody
    assert sets.judged(fires, elsewhere, holds_from=0.7).kinds.tolist()[2:4] == ["none", "none"]


def test_who_stands_alone_by_a_token_is_not_told_from_it():
    training = np.array([True, True, True, False, False, False])
    values = ["x", "y", "x", "y", "z", "x"]
    attribute = Attribute(kind="last_token", name="last_token", values=["w", *values[1:]])
    sets = Explanations.of([f"s{i}" for i in range(6)], [attribute], training, least=1)
    fires = np.zeros((6, 1), dtype=bool)
    fires[0, 0] = True
    assert sets.judged(fires, fires, holds_from=0.7).kinds.tolist() == ["token_or_entity"]
    assert sets.counted("entity").tolist() == [False, True, True, False, False, False]


def test_shares_of_two_samples_are_compared_with_both_intervals():
    few, many = np.array([True, False] * 5), np.array([True] * 30 + [False] * 10)
    found = share_difference(few, many)
    assert found.value == pytest.approx(-0.25) and found.n == 10
    one, two = share_interval(few), share_interval(many)
    assert -0.25 - found.low == pytest.approx(np.hypot(0.5 - one.low, two.high - 0.75))
    assert share_difference(few[:0], many) is None


# --- the whole ------------------------------------------------------------------------------------------------------------


def test_of_planted_names_nearly_every_feature_is_found_and_nothing_in_shuffled_rows():
    tables = tables_with("first", "last", **NARROW)
    for name in ("first_token", "last_token"):
        row = kind(tables, name, 32)
        assert row["covered"] > 0.7 and row["over_shuffled_low"] > 0.5 and row["values"] == 12, name
        assert row["n_subjects"] == 72
        assert kind(tables, name, 32, "shuffled")["covered"] == 0
    assert kind(tables, "answer", 32)["covered"] == 0
    named = tables["dictionary_features"].filter(kind="first_token")
    assert set(named["best"]) == {"first_token"} and named["value"].str.contains(r"^ F\d+$").all()
    assert named["f1"].min() >= 0.7


def test_planted_entities_are_found_by_a_wide_dictionary_alone():
    tables = tables_with("first", "last", "answer", "entity", features=(8, 256))
    wide, narrow = (kind(tables, "entity", width) for width in (256, 8))
    assert narrow["covered"] == 0 and wide["covered"] > 0.4 and wide["over_sum_low"] > 0.1
    assert wide["from_narrowest"] == pytest.approx(wide["over_sum"] - narrow["over_sum"])
    assert narrow["from_narrowest"] is None


def test_planted_groups_are_left_unexplained():
    tables = tables_with("first", "last", "group", features=(64,))
    assert kind(tables, "group", 64)["share_over_sum_low"] > 0.1


def test_what_dictionaries_explain_stands_beside_principal_components():
    table = tables_with("first", "last", **NARROW)["dictionaries"]
    rows = {row["data"]: row for row in table.iter_rows(named=True)}
    assert rows["true"]["explained"] > 0.8 > rows["true"]["principal"] + 0.3
    assert rows["shuffled"]["explained"] < rows["true"]["explained"] - 0.2
    assert rows["true"]["n"] == 3 and rows["sum"]["n"] == 1 and rows["true"]["training"] == 72


def test_the_words_and_the_figures_are_those_of_the_tables():
    tables = tables_with("first", "last", "answer", "entity", features=(8, 256))
    said = told("dictionaries", tables)
    assert said[0].startswith(
        "Athletes, held out, for whom a feature fires that stands for their last token "
    )
    assert "of 72 athletes have one for themselves alone" in said[1]
    assert_readable(draw_dictionaries(dictionary_kinds=tables["dictionary_kinds"]))
    assert_readable(draw_dictionary_kinds(dictionary_kinds=tables["dictionary_kinds"]))


@pytest.mark.parametrize("answers", [1, 2, 20])
def test_any_number_of_answers_and_names_of_one_token_are_taken(answers):
    n = 400
    prompts = pl.DataFrame(
        {"subject": [f"N{i}" for i in range(n)], "answer": [f"a{i % answers}" for i in range(n)]}
        | {"token_ids": [[0, i % 40] for i in range(n)], "first_name": [1] * n, "final_name": [1] * n}
    )
    attributes = attributes_of(prompts, NO_FACTS, lambda ids: f" {ids[0]}")
    full = np.random.default_rng(0).normal(size=(n, 8))
    section = DictionariesConfig(features=(8,), steps=5, seeds=1, least_subjects=1)
    names = prompts["subject"].to_list()
    tables = dictionaries(iter([(("resid", 0), full, full)]), names, attributes, section, quiet)
    assert kind(tables, "first_token", 8)["covered"] is None
    assert kind(tables, "answer", 8)["values"] == (answers if answers > 1 else 0)
    for name, table in tables.items():
        assert table.schema == pl.Schema(schema_of(name))
    assert (
        told("dictionaries", tables) and draw_dictionaries(dictionary_kinds=tables["dictionary_kinds"]).axes
    )


@cache
def computed(n: int) -> dict[str, pl.DataFrame]:
    """By `compute`, of the first subjects of a planted model."""
    made = planted_with("first", "last")
    prompts, alone = (made.prompts(condition)[:n] for condition in ("full", "name_only"))
    facts = NO_FACTS.with_columns(known=pl.lit(True))
    circuit = Circuit(lookup_at=AT_NAME, concatenate=(0, 0), lookup=(1, 1), extract=())
    held = {
        "anatomy": made.anatomy,
        "prompts/full": prompts,
        "attribute_prompts": facts,
        "circuit.yaml": circuit,
    }
    recall = prompts.select("subject", "answer").with_columns(known=True, left_out=pl.lit(None, pl.String))
    held |= {"recall": recall}
    held |= {
        f"activations/{name}": RunActivations(made.anatomy, table)
        for name, table in {"full": prompts, "name_only": alone}.items()
    }
    section = DictionariesConfig(features=(8,), steps=5, seeds=1, mlp_layers=()).model_dump(mode="json")
    inputs = Inputs(Path("nowhere"), declared=(), held=held)
    return compute(inputs, Settings({"dictionaries": section}), quiet)


def test_the_rule_s_function_reads_the_caches_of_both_prompts():
    tables = computed(40)
    assert tables["dictionaries"]["layer"].unique().sort().to_list() == [0, 1]
    assert tables["dictionaries"]["training"].unique().to_list() == [20]


@pytest.mark.parametrize("n", [0, 19])
def test_few_subjects_give_empty_tables_a_figure_and_a_sentence(n):
    tables = computed(n)
    assert set(tables) == set(NAMES)
    for name, table in tables.items():
        assert table.is_empty() and table.schema == pl.Schema(schema_of(name))
    assert not draw_dictionaries(dictionary_kinds=tables["dictionary_kinds"]).axes
    assert not draw_dictionary_kinds(dictionary_kinds=tables["dictionary_kinds"]).axes
    assert len(told("dictionaries", tables)) == 1


@pytest.mark.parametrize(
    ("lookup", "found"),
    [
        ((1, 1), [("resid", 0), ("resid", 1), ("resid", 2), ("mlp_out", 1)]),
        ((0, 1), [("resid", -1), ("resid", 1), ("resid", 2), ("mlp_out", 1)]),
        (None, [("resid", 0), ("resid", 1), ("resid", 2), ("mlp_out", 1)]),
    ],
)
def test_places_follow_the_lookup(lookup, found):
    assert places(lookup, planted.at_name().anatomy, None, None) == found


def test_places_that_are_asked_for_must_be_there():
    anatomy = planted.at_name().anatomy
    assert places((1, 1), anatomy, [-1, 3], []) == [("resid", -1), ("resid", 3)]
    for resid, mlp in (([4], []), ([], [4])):
        with pytest.raises(InputError, match="layer 4"):
            places((1, 1), anatomy, resid, mlp)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"active": 32}, "fewer than the 32 features"),
        ({"features": [64, 32]}, "do not ascend"),
        ({"features": [32, 32]}, "do not ascend"),
        ({"resid_layers": [-2]}, "greater than or equal to -1"),
        ({"holds_from": 0}, "greater than 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(values, said):
    with pytest.raises(InputError, match=said):
        validate({"dictionaries": values}, Config)
