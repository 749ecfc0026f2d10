"""P3.2: planted neurons are found, facts that share them are seen to, and a killed sweep goes on where it was."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from itertools import combinations, permutations, product

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factfinding.data.fact_prompts import donor_prompts, fact_prompts, subject_order
from factfinding.data.facts import no_facts
from factfinding.engine.engines import engine_of
from factfinding.engine.sites import Site
from factfinding.engine.suffix import Suffix
from factfinding.engine.sweep import Sweeping
from factfinding.engine.trace import Read, run
from factfinding.errors import InputError
from factfinding.experiments.effect_concentration import show as concentration_show
from factfinding.experiments.effect_concentration.compute import CONCENTRATION, effect_concentration
from factfinding.experiments.fact_correlations import show as correlations_show
from factfinding.experiments.fact_correlations.compute import (
    CORRELATIONS,
    asked_by_one_token,
    fact_correlations,
    neuron_pairs,
)
from factfinding.experiments.neuron_effects.compute import joined
from factfinding.experiments.neuron_effects.effects import (
    EFFECTS,
    donors_after,
    neuron_effects,
    shard_layers,
)
from factfinding.experiments.neuron_effects.show import asked_findings
from factfinding.experiments.neuron_facts.compute import ask_facts, facts_table
from factfinding.known import Rule
from factfinding.model.anatomy import load
from factfinding.stats import pearson, spearman
from factfinding.tables import schema_of
from helpers import ROOT, planted
from helpers.models import random_anatomy, tokenizer
from helpers.neuron_tables import planted_facts
from helpers.wild import digits, save_wild, texts

NO_FACTS = pl.DataFrame(schema={"subject": pl.String, "fact": pl.String, "fact_answer": pl.String})
"""No answers: no fact follows from another."""


def quiet(_message):
    pass


def table_of(rows) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["subject", "relation", "prompt", "answer"], orient="row")


@pytest.fixture(scope="module")
def model():
    return planted.at_name(firsts=4, lasts=4)


@pytest.fixture(scope="module")
def asked(model):
    facts, people = planted_facts(model), model.prompts
    return ask_facts(model.anatomy, facts, people, subjects=5, seed=1, batch_size=8)


@pytest.fixture(scope="module")
def sweep(model, asked):
    how = Sweeping(engine=Suffix(model.anatomy), twin_rows=6, log=quiet)
    return neuron_effects(model.anatomy, asked.filter("used"), model.prompts, [0, 1, 2], how, draws=6)


# prompts of facts


def test_positions_and_answers_are_found_by_the_tokenizer():
    tokens = tokenizer()
    facts = table_of(
        [
            ("Michael Jordan", "answer", "Fact: Michael Jordan plays the sport of", "basketball"),
            ("Babe Ruth", "team", "A golf fact: Babe Ruth plays the sport of", "baseball and more"),
            ("Tom Brady", "bare", "Tom Brady plays", "football"),
        ]
    )
    prompts = fact_prompts(facts, tokens, 0)
    for row, fact in zip(prompts.to_dicts(), facts.to_dicts(), strict=True):
        name = tokens.decode(row["token_ids"][row["first_name"] : row["final_name"] + 1])
        assert name.strip() == fact["subject"]
        assert row["n_name_tokens"] == row["final_name"] - row["first_name"] + 1
        assert row["end"] == len(row["token_ids"]) - 1 == row["n_tokens"] - 1
        assert tokens.decode(row["token_ids"][1:]) == fact["prompt"]
        assert tokens.decode([row["target"]]) == " " + fact["answer"].split()[0]
    assert prompts["prefix"].to_list() == ["Fact: ", "A golf fact: ", ""]


def test_a_donor_stands_where_the_subject_stands():
    tokens = tokenizer()
    people = pl.DataFrame({"subject": ["Tom Brady", "Al Oz"], "answer": ["football", None]})
    donors = donor_prompts(people, "A golf fact: ", tokens, 0)
    facts = table_of([("Tom Brady", "x", "A golf fact: Tom Brady plays", "football")])
    own = fact_prompts(facts, tokens, 0).row(0, named=True)
    assert donors["token_ids"][0].to_list() == own["token_ids"][: own["final_name"] + 1]
    assert donors["final_name"][0] == own["final_name"] == donors["n_tokens"][0] - 1
    assert donors["answer"].to_list() == ["football", None]


def test_a_name_or_an_answer_without_tokens_of_its_own_is_refused_by_name():
    class Merging:
        """A tokenizer that writes the last word and the answer as one token."""

        def __call__(self, texts, **_):
            return {
                "input_ids": [[len(text)] for text in texts],
                "offset_mapping": [[(0, len(text))] for text in texts],
            }

    facts = table_of([("Tom Brady", "team", "Fact: Tom Brady plays", "golf")])
    with pytest.raises(InputError, match=r"fact 'team' of 'Tom Brady': found an answer whose tokens merge"):
        fact_prompts(facts, Merging(), 0)


def test_subjects_with_most_facts_come_first_in_an_order_of_the_seed():
    facts = table_of(
        [
            (who, str(i), f"{who} is", "x")
            for who, n in (("A", 1), ("B", 3), ("C", 2), ("D", 3))
            for i in range(n)
        ]
    )
    orders = {tuple(subject_order(facts, seed=seed)) for seed in range(20)}
    assert orders == {("B", "D", "C", "A"), ("D", "B", "C", "A")}
    assert subject_order(facts, first=["C"], seed=0)[0] == "C"
    with pytest.raises(InputError, match=r"neurons\.first: found 'Z'"):
        subject_order(facts, first=["Z"], seed=0)


# asking


def test_only_known_facts_of_subjects_with_two_of_them_are_used(model):
    facts = planted_facts(model)
    wrong = pl.when(pl.col("subject") == "F0 L0").then(pl.lit("L3")).otherwise("answer")
    one = (pl.col("subject") == "F0 L1") & (pl.col("relation") == "again")
    facts = facts.with_columns(answer=wrong).filter(~one)
    asked = ask_facts(model.anatomy, facts, model.prompts, subjects=None, seed=0, batch_size=5)
    assert asked.height == facts.height and (asked["known"] == (asked["p"] > 0.5)).all()
    left_out = set(asked.filter(~pl.col("used"))["subject"])
    assert left_out == {"F0 L0", "F0 L1"}
    assert asked.filter(subject="F0 L0")["known"].to_list() == [False, False]
    everything = ask_facts(
        model.anatomy, facts, model.prompts, subjects=None, known_only=False, seed=0, batch_size=5
    )
    assert set(everything.filter(~pl.col("used"))["subject"]) == {"F0 L1"}
    said = asked_findings(facts_table(asked), pl.DataFrame())
    assert "Of 31 facts asked of 16 <subjects>, 29 are known" in said[0]
    assert "Not known: " in said[1] and "sport of F0 L0" in said[1] and "again of F0 L0" in said[1]


def test_facts_are_known_by_the_rule_of_recall(model):
    facts = planted_facts(model)
    wrong = (
        pl.when(pl.int_range(pl.len()) % 3 == 0).then(pl.lit("L3")).otherwise("answer")
    )  # no answer: a last name
    facts = facts.with_columns(answer=wrong).vstack(
        table_of([("F1 L1", "alone", "F1 L1", "L2"), ("F2 L2", "alone", "F2 L2", "L2")])
    )
    tables = {
        rule: ask_facts(model.anatomy, facts, model.prompts, subjects=None, seed=0, batch_size=5, rule=rule)
        for rule in (Rule(), Rule(above=0.999999), Rule(how="first"), Rule(how="best"))
    }
    rivals = {fact: set(part["target"]) for (fact,), part in tables[Rule()].group_by("fact")}
    for rule, table in tables.items():
        assert table.drop("known", "used").equals(tables[Rule()].drop("known", "used"))
        for row in table.iter_rows(named=True):
            at = torch.tensor([row["end"]])
            logits = run(model.anatomy, torch.tensor([row["token_ids"]]), logits_at=at).logits[0]
            p, own = logits.softmax(-1)[row["target"]].item(), logits[row["target"]]
            first = bool(logits.argmax() == row["target"])
            others = rivals[row["fact"]]
            best = first if len(others) == 1 else bool(own == max(logits[token] for token in others))
            assert row["known"] == {"probability": p > rule.above, "first": first, "best": best}[rule.how], (
                rule,
                row,
            )
    known = {rule: table["known"].sum() for rule, table in tables.items()}
    assert 0 < known[Rule(how="first")] < facts.height
    assert (
        asked_findings(facts_table(table), pl.DataFrame(), Rule(how="best"))[0].count(
            "the likeliest of the answers"
        )
        == 1
    )


def test_asking_stops_when_enough_subjects_are_found(asked):
    assert asked.filter("used")["subject"].n_unique() == 5
    assert asked["subject"].n_unique() == 5


def test_a_model_that_knows_nothing_is_asked_everything_and_gives_empty_tables(model):
    facts = planted_facts(model).with_columns(answer=pl.lit("golf"))
    asked = ask_facts(model.anatomy, facts, model.prompts, subjects=3, seed=0, batch_size=8)
    assert asked.height == facts.height and not asked["used"].any()
    how = Sweeping(engine=Suffix(model.anatomy))
    sweep = neuron_effects(model.anatomy, asked.filter("used"), model.prompts, [1], how)
    assert sweep.table.is_empty() and sweep.table.schema == pl.Schema(EFFECTS)
    correlations = fact_correlations(sweep.table, NO_FACTS, seed=0)
    concentration = effect_concentration(sweep.table, seed=0)
    assert correlations.schema == pl.Schema(CORRELATIONS) and correlations.is_empty()
    assert concentration.schema == pl.Schema(CONCENTRATION) and concentration.is_empty()
    assert neuron_pairs(sweep.table, correlations).is_empty()
    tables = {"fact_correlations": correlations, "effect_concentration": concentration}
    for show in (correlations_show, concentration_show):
        assert show.sentences(tables)[0].startswith("There are no effects of single neurons")


# effects


def test_of_a_relation_without_facts_none_are_asked(model):
    people = model.prompts.select("subject", "answer").head(3)
    none = ask_facts(model.anatomy, no_facts(), people, subjects=None, seed=0, batch_size=8)
    assert none.is_empty() and facts_table(none).schema == pl.Schema(schema_of("neuron_facts"))
    (said,) = asked_findings(none, pl.DataFrame({"rows": []}))
    assert said == "No facts were asked; `neurons.facts` names a table of facts."


def test_the_planted_neurons_have_the_effects_and_no_others(model, asked, sweep):
    table = sweep.table
    assert table.schema == pl.Schema(EFFECTS)
    assert table.height == asked.filter("used").height * 3 * model.anatomy.d_mlp * 2
    active = table.filter(pl.col("effect").abs() > 1e-6).select("layer", "neuron").unique()
    assert set(active.rows()) <= {(1, n) for n in planted.PAIR} and active.height == 2
    draws = table.filter(kind="resample_other")
    assert (draws["n"] == 6).all() and draws["standard_error"].null_count() == 0
    assert (table.filter(kind="mean")["n"] == 1).all()
    assert sweep.twin["relative_error"].max() < 1e-3 and sweep.twin["rows"].sum() >= 6
    assert sweep.twin["prefix"].n_unique() == 2  # each prefix has donors of its own


def test_donors_are_recorded_after_the_words_before_the_name(model):
    """What is put in is what the model has there in the donor's own prompt of that wording."""
    prefix = "Fact: Tiger Woods plays the sport of golf\nFact: "
    donors = donors_after(model.anatomy, model.prompts, prefix, [0, 1], batch_size=5)
    tokens = torch.tensor(model.prompts["token_ids"].to_list())
    for layer in (0, 1):
        read = Read(site=Site("post", layer), at=model.final_name)
        truth = run(model.anatomy, tokens, reads=[read]).values[0]
        assert torch.allclose(donors.values(layer, "final_name"), truth, atol=1e-12)
    assert donors.subjects == model.prompts["subject"].to_list()


def test_with_people_of_one_answer_only_the_mean_is_left(model, asked):
    people = model.prompts.filter(pl.col("answer") == "baseball")
    how = Sweeping(engine=Suffix(model.anatomy), log=quiet)
    sweep = neuron_effects(model.anatomy, asked.filter("used").head(1), people, [1], how)
    assert set(sweep.table["kind"]) == {"mean"}


def test_engines_by_name():
    for family in ("gpt_neox", "llama"):
        assert engine_of(random_anatomy(family), "auto").name.startswith("difference")
    assert engine_of(random_anatomy("gpt2"), "suffix").name == "suffix"
    mish = random_anatomy("llama")
    for block in mish.blocks:
        block.mlp_act = block.mlp.act_fn = torch.nn.Mish()
    assert engine_of(mish, "auto").name == "suffix"
    with pytest.raises(InputError, match="activation 'Mish'"):
        engine_of(mish, "difference")


@given(first=st.integers(0, 9), more=st.integers(0, 9), shards=st.integers(1, 7))
def test_every_layer_is_in_one_shard(first, more, shards):
    lookup = (first, first + more)
    parts = [shard_layers(lookup, k, shards) for k in range(shards)]
    assert sorted(layer for part in parts for layer in part) == list(range(first, first + more + 1))
    assert shard_layers(None, 0, shards) == []


def test_shards_put_together_are_the_whole_whatever_their_number(model, asked, sweep):
    used, facts = asked.filter("used"), facts_table(asked)
    how = Sweeping(engine=Suffix(model.anatomy), twin_rows=0, log=quiet)
    shards = [
        neuron_effects(model.anatomy, used, model.prompts, part, how, draws=6).table
        for part in ([0, 2], [1], [])
    ]
    together = joined(shards, facts)
    assert together.select("subject", "fact", "layer", "neuron", "kind").equals(
        sweep.table.select("subject", "fact", "layer", "neuron", "kind")
    )
    assert np.allclose(together["effect"], sweep.table["effect"], atol=1e-12)
    other = facts.with_columns(used=pl.lit(False))
    with pytest.raises(InputError, match="shard 1 of the neuron effects: found facts that are not those of"):
        joined([shards[1].head(0), shards[1]], other)


# comparing


def effects_of(
    vectors: dict[tuple[str, str], np.ndarray], *, error: float | None = None, tokens: dict | None = None
) -> pl.DataFrame:
    """tokens: by which facts are asked; each by its own where nothing is said."""
    kind, n = ("mean", 1) if error is None else ("resample_other", 64)
    rows = [
        (
            subject,
            fact,
            (tokens or {}).get((subject, fact), f" {fact}"),
            0,
            i,
            kind,
            float(value),
            error,
            n,
            3,
            0.0,
        )
        for (subject, fact), values in vectors.items()
        for i, value in enumerate(values)
    ]
    return pl.DataFrame(rows, schema=EFFECTS, orient="row")


def random_vectors(people=4, facts=("a", "b", "c"), n=40, seed=0):
    rng = np.random.default_rng(seed)
    return {(f"P{i}", fact): rng.standard_normal(n) for i in range(people) for fact in facts}


def test_correlations_are_those_of_the_vectors_by_hand():
    vectors = random_vectors()
    table = fact_correlations(effects_of(vectors), NO_FACTS, seed=0)
    people = [f"P{i}" for i in range(4)]
    for statistic, by_hand in (
        ("pearson", pearson),
        ("spearman", spearman),
        ("absolute", lambda x, y: pearson(np.abs(x), np.abs(y))),
        ("top_neuron", lambda x, y: float(np.abs(x).argmax() == np.abs(y).argmax())),
    ):
        rows = table.filter(statistic=statistic)
        same = rows.filter(subjects="same", fact="a", other_fact="c").row(0, named=True)
        expected = np.mean([by_hand(vectors[p, "a"], vectors[p, "c"]) for p in people])
        assert same["value"] == pytest.approx(expected, abs=1e-12) and same["n"] == 4
        apart = rows.filter(subjects="different", fact="b", other_fact="b").row(0, named=True)
        pairs = [(p, q) for p in people for q in people if p != q]
        expected = np.mean([by_hand(vectors[p, "b"], vectors[q, "b"]) for p, q in pairs])
        assert apart["value"] == pytest.approx(expected, abs=1e-12) and apart["n"] == 4
    assert table["ceiling"].null_count() == table.height  # no draws, no noise of theirs


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(1e-6, 1e6), flip=st.booleans(), seed=st.integers(0, 99))
def test_a_fact_that_is_another_times_a_number_is_alike_with_its_sign(scale, flip, seed):
    vectors = random_vectors(2, ("a",), seed=seed)
    sign = -1 if flip else 1
    vectors |= {(p, "b"): sign * scale * v for (p, _), v in list(vectors.items())}
    table = fact_correlations(effects_of(vectors), NO_FACTS, seed=0).filter(subjects="same", fact="a")
    found = dict(table.select("statistic", "value").iter_rows())
    assert found["pearson"] == pytest.approx(sign) and found["spearman"] == pytest.approx(sign)
    assert found["absolute"] == pytest.approx(1) and found["top_neuron"] == 1


def test_the_ceiling_is_what_two_measurements_of_one_truth_correlate_at():
    rng, n, noise = np.random.default_rng(0), 4000, 0.7
    truth = rng.standard_normal(n)
    vectors = {("P", fact): truth + noise * rng.standard_normal(n) for fact in "ab"}
    row = (
        fact_correlations(effects_of(vectors, error=noise), NO_FACTS, seed=0)
        .filter(statistic="pearson")
        .row(0, named=True)
    )
    assert row["ceiling"] == pytest.approx(1 / (1 + noise**2), abs=0.03)
    assert row["value"] == pytest.approx(row["ceiling"], abs=0.03)


def test_the_mean_over_all_pairs_resamples_subjects_with_all_their_pairs():
    """Against a bootstrap written out: the same subjects for all pairs. Averaging the pairs' own intervals is too wide."""
    people, pairs = [f"P{i}" for i in range(12)], list(combinations("abcd", 2))
    vectors = random_vectors(12, "abcd")
    table = fact_correlations(effects_of(vectors), NO_FACTS, seed=0)
    table = table.filter(layers="all", subjects="same", statistic="pearson")
    mean = table.filter(fact="all", other_fact="all").row(0, named=True)
    by_pair = table.filter(pl.col("fact") != "all")
    assert by_pair.height == len(pairs) and mean["n"] == 12 and mean["interval"] == "subjects"
    assert mean["value"] == pytest.approx(by_pair["value"].mean())
    alike = np.array([[pearson(vectors[p, a], vectors[p, b]) for p in people] for a, b in pairs])
    drawn = np.random.default_rng(1).integers(0, 12, (20_000, 12))
    low, high = np.quantile(alike[:, drawn].mean(axis=(0, 2)), (0.025, 0.975))
    assert (mean["value_low"], mean["value_high"]) == pytest.approx((low, high), abs=0.006)
    assert high - low < 0.6 * (by_pair["value_high"] - by_pair["value_low"]).mean()


def test_the_mean_over_the_pairs_of_one_subject_resamples_neurons():
    vectors = random_vectors(1, "abcd", n=300)
    table = fact_correlations(effects_of(vectors), NO_FACTS, seed=0).filter(layers="all", statistic="pearson")
    mean, by_pair = table.filter(fact="all"), table.filter(pl.col("fact") != "all")
    assert mean["interval"].to_list() == ["neurons"] and set(by_pair["interval"]) == {"neurons"}
    assert mean["value"][0] == pytest.approx(by_pair["value"].mean())
    assert mean["value_low"][0] < mean["value"][0] < mean["value_high"][0]
    width = pl.col("value_high") - pl.col("value_low")
    assert mean.select(width).item() < 0.6 * by_pair.select(width.mean()).item()


def test_one_subject_alone_has_an_interval_over_neurons_that_holds_the_truth():
    rng, hits = np.random.default_rng(1), 0
    for seed in range(12):
        x = rng.standard_normal(300)
        vectors = {("P", "a"): x, ("P", "b"): 0.5 * x + np.sqrt(0.75) * rng.standard_normal(300)}
        table = fact_correlations(effects_of(vectors), NO_FACTS, seed=seed)
        row, mean = table.filter(statistic="pearson", layers="all").sort("fact").to_dicts()
        ends = ("value", "value_low", "value_high", "interval")
        assert mean["fact"] == "all" and [mean[end] for end in ends] == [row[end] for end in ends]  # one pair
        assert row["interval"] == "neurons" and row["n"] == 1
        assert row["value_low"] < row["value"] < row["value_high"]
        hits += row["value_low"] < 0.5 < row["value_high"]
    assert hits >= 9
    assert table.filter(subjects="different").is_empty()
    assert (
        "over neurons (mean over 1 pair of facts, n = 1 <subject>; one fact of two <subjects>: there are no two"
        in told_of(effects_of(vectors))[0]
    )


def test_effects_of_zero_have_no_correlation_and_do_not_count():
    vectors = random_vectors() | {("P0", "a"): np.zeros(40)}
    table = fact_correlations(effects_of(vectors), NO_FACTS, seed=0)
    table = table.filter(statistic="pearson", subjects="same", layers="all")
    assert dict(zip(table["other_fact"], table["n"], strict=True)) == {"all": 4, "b": 3, "c": 4}
    shares = effect_concentration(effects_of(vectors), seed=0).filter(measure="participation_ratio")
    assert dict(shares.select("fact", "n").iter_rows()) == {"all": 4, "a": 3, "b": 4, "c": 4}


def two_layers(vectors: dict[tuple[str, str], np.ndarray], split: int) -> pl.DataFrame:
    """The first `split` neurons in layer 3, the others in layer 4."""
    upper = pl.col("neuron") >= split
    neuron = pl.when(upper).then(pl.col("neuron") - split).otherwise("neuron")
    return effects_of(vectors).with_columns(layer=pl.when(upper).then(4).otherwise(3), neuron=neuron)


def test_each_layer_alone_is_the_mean_over_pairs_of_facts_of_its_own_neurons():
    vectors, people = random_vectors(), [f"P{i}" for i in range(4)]
    del vectors["P3", "c"]
    table = fact_correlations(two_layers(vectors, 15), NO_FACTS, seed=0)
    assert table.filter(layers="all").equals(
        fact_correlations(effects_of(vectors), NO_FACTS, seed=0).filter(layers="all")
    )
    assert set(table["layers"]) == {"all", "3", "4"}
    facts = {p: [fact for fact in "abc" if (p, fact) in vectors] for p in people}
    for layer, part in (("3", slice(0, 15)), ("4", slice(15, None)), ("all", slice(None))):
        rows = table.filter(layers=layer, statistic="pearson", fact="all")
        same, different = (rows.filter(subjects=kind).row(0, named=True) for kind in ("same", "different"))
        assert rows.height == 2 and set(rows["other_fact"]) == {"all"}
        own = [
            np.mean([pearson(vectors[p, a][part], vectors[p, b][part]) for a, b in combinations(facts[p], 2)])
            for p in people
        ]
        assert same["value"] == pytest.approx(np.mean(own)) and same["n"] == 4
        assert same["value_low"] < same["value"] < same["value_high"] and same["n_neurons"] in (15, 25, 40)
        apart = [
            np.mean([pearson(vectors[p, f][part], vectors[q, f][part]) for f in facts[p] if f in facts[q]])
            for p, q in permutations(people, 2)
        ]
        assert different["value"] == pytest.approx(np.mean(apart)) and different["n"] == 4


def told_of(effects: pl.DataFrame) -> list[str]:
    """What the page says of how alike the effects on different facts are."""
    correlations = fact_correlations(effects, NO_FACTS, seed=0)
    concentration = effect_concentration(effects, seed=0)
    return correlations_show.sentences(
        {"fact_correlations": correlations, "effect_concentration": concentration}
    )


def test_a_hash_and_its_lookup_are_told_apart_and_a_layer_that_does_nothing_is_left_out():
    rng = np.random.default_rng(0)
    shared, vectors = {p: rng.standard_normal(30) for p in "PQRS"}, {}
    for person, fact in product("PQRS", "abc"):
        vectors[person, fact] = np.concatenate([shared[person], 2 * rng.standard_normal(60)])
    effects = two_layers(vectors, 30)
    shares = effect_concentration(effects, seed=0).filter(measure="layer", fact="all").sort("layer")
    assert shares["layer"].to_list() == [3, 4] and shares["value"].sum() == pytest.approx(1)
    assert shares["value"][0] == pytest.approx(1 / 5, abs=0.05)
    assert shares["gaussian"][0] == pytest.approx(1 / 3, abs=0.02)
    told = told_of(effects)
    assert (
        "MLP 3 1.00 [1.00, 1.00]" in told[-1] and "more in MLP 3 than in MLP 4, as where single" in told[-1]
    )
    idle = effects.with_columns(effect=pl.when(layer=4).then(pl.col("effect") / 1000).otherwise("effect"))
    told = told_of(idle)
    assert "hardly any of the effects, MLP 4" in told[-1] and "more in MLP" not in told[-1]


def test_missing_neurons_are_an_error():
    with pytest.raises(ValueError, match="some miss"):
        fact_correlations(effects_of(random_vectors()).head(-1), NO_FACTS, seed=0)


def test_how_concentrated_one_neuron_and_equal_neurons_are():
    one, alike = np.zeros(200), np.ones(200)
    one[17] = -3.0
    table = effect_concentration(
        effects_of({("P", "one"): one, ("P", "alike"): alike, ("Q", "one"): one}), seed=0
    )
    ratio = dict(table.filter(measure="participation_ratio").select("fact", "value").iter_rows())
    assert ratio == pytest.approx({"one": 1.0, "alike": 200.0, "all": (100.5 + 1) / 2})
    top = dict(table.filter(measure="top", fact="alike").select("top", "value").iter_rows())
    assert top == pytest.approx({k: k / 200 for k in (1, 2, 5, 10, 20, 50, 100, 200)})
    gaussian = table.filter(measure="participation_ratio")["gaussian"][0]
    assert gaussian == pytest.approx(200 * 2 / np.pi, rel=0.03)
    said = concentration_show.sentences({"effect_concentration": table})
    assert "Of 200 neurons replaced by their mean, the largest one carries" in said[0]


def test_pairs_for_the_eye_are_the_most_and_the_least_alike():
    vectors = random_vectors(3, ("a", "b"), 1500)
    vectors |= {(p, "c"): 2 * vectors[p, "a"] for p in ("P0", "P1", "P2")}
    effects = effects_of(vectors)
    pairs = neuron_pairs(effects, fact_correlations(effects, NO_FACTS, seed=0))
    most = pairs.filter(pair="most")
    assert most.height == 1000 and most["subject"].unique().to_list() == ["P0"]
    assert set(most.select("fact", "other_fact").unique().row(0)) == {"a", "c"}
    assert np.allclose(most["other_effect"], 2 * most["effect"])


# killed


KILLED = """
import sys, time
sys.path[:0] = {paths}
from pathlib import Path
from factfinding.experiments.neuron_effects.effects import neuron_effects
from factfinding.experiments.neuron_facts.compute import ask_facts
from factfinding.engine.suffix import Suffix
from factfinding.engine.sweep import Sweeping
from helpers import planted
from helpers.neuron_tables import planted_facts
model = planted.at_name(firsts=4, lasts=4)
asked = ask_facts(model.anatomy, planted_facts(model), model.prompts, subjects=5, seed=1, batch_size=8)
def step(done, total):
    print(done, flush=True)
    time.sleep(0.02)
how = Sweeping(engine=Suffix(model.anatomy), folder=Path(sys.argv[1]), twin_rows=0, progress=step, log=lambda _: None)
neuron_effects(model.anatomy, asked.filter("used"), model.prompts, [0, 1, 2], how, draws=6)
"""


class Counting(Suffix):
    calls = 0

    def effects(self, clean, edits, reading):
        type(self).calls += 1
        return super().effects(clean, edits, reading)


@pytest.mark.slow
def test_killed_at_a_random_moment_it_goes_on_and_gives_the_same_table(model, asked, sweep, tmp_path):
    folder = tmp_path / "shards"
    script = KILLED.format(paths=[str(ROOT / "scripts"), str(ROOT / "tests")])
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )  # fmt: skip
    draw = random.Random(time.time_ns())
    for _ in range(draw.randrange(1, 20)):
        process.stdout.readline()
    time.sleep(0.02 * draw.random())
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    assert finished and len(finished) < 30
    how = Sweeping(engine=Counting(model.anatomy), folder=folder, twin_rows=0, log=quiet)
    layers, used = [0, 1, 2], asked.filter("used")
    Counting.calls = 0
    again = neuron_effects(model.anatomy, used, model.prompts, layers, how, draws=6)
    assert again.table.equals(sweep.table)
    assert Counting.calls > 0
    for name, written in finished.items():
        assert (folder / name).stat().st_mtime_ns == written
    Counting.calls = 0
    third = neuron_effects(model.anatomy, used, model.prompts, layers, how, draws=6)
    assert Counting.calls == 0 and third.table.equals(again.table)
    assert len(list(folder.glob("*.parquet"))) == 30 and not list(folder.glob(".*.part"))


# answers that share a token, or have none


def test_facts_that_no_token_stands_for_are_left_out_and_named(tmp_path):
    people = [("Michael Jordan", "basketball"), ("Kobe Bryant", "basketball"), ("Tom Brady", "football")]
    folder = save_wild(tmp_path / "model", "llama", digits(texts(people)))
    facts = table_of(
        [
            (name, relation, f"Fact: {name} {words}", answer)
            for name, answer in people
            for relation, words, answer in (
                ("sport", "plays the sport of", answer),
                ("born", "was born in the year", "1963"),
                ("number", "wears number", "7777"),
                ("rings", "has rings, in number", "6"),
            )
        ]
    )
    table = pl.DataFrame(people, schema=["subject", "answer"], orient="row")
    anatomy = load(folder, device="cpu")
    asked = ask_facts(anatomy, facts, table, subjects=None, known_only=False, seed=0, batch_size=4)
    for row in facts_table(asked).iter_rows(named=True):
        number = row["fact"] in ("born", "number")
        assert (row["left_out"] is not None) == (row["p"] is None) == number, row
        assert not (number and (row["known"] or row["used"]))
        assert row["answer_token"].strip() != ""
    said = asked_findings(facts_table(asked), pl.DataFrame())
    assert said[0].startswith("Of 6 facts asked of 3 <subjects>")
    assert (
        "Not asked, for want of a token" in said[-1]
        and "'1963': its first token '1' is a part of a number" in said[-1]
    )
    six = asked.filter(subject="Tom Brady", fact="rings").row(0, named=True)
    logits = anatomy.model(torch.tensor([six["token_ids"]])).logits[0, -1].log_softmax(-1)
    assert anatomy.tokenizer.decode(six["token_ids"][-1:]) == " ", "the space is in the prompt"
    assert six["log_p"] == pytest.approx(float(logits[six["target"]]), abs=1e-5)


def test_two_facts_of_one_subject_that_share_their_token_are_no_pair():
    vectors = random_vectors(people=3, facts=("team", "league", "city"))
    tokens = {
        ("P0", "team"): " Nets",
        ("P0", "league"): " Nets",
        ("P1", "team"): " Bulls",
        ("P1", "league"): " NBA",
    }
    effects = effects_of(vectors, tokens=tokens)
    table = fact_correlations(effects, NO_FACTS, seed=0)
    row = table.filter(fact="team", other_fact="league", subjects="same", statistic="pearson").row(
        0, named=True
    )
    own = [pearson(vectors[f"P{i}", "team"], vectors[f"P{i}", "league"]) for i in (1, 2)]
    assert row["n"] == 2 and row["value"] == pytest.approx(np.mean(own))
    assert table.filter(fact="team", other_fact="city", statistic="pearson", subjects="same")["n"].item() == 3
    assert asked_by_one_token(effects) == [("P0", ["team", "league"], " Nets")]
    for pair in neuron_pairs(effects, table).iter_rows(named=True):
        assert pair["answer_token"] != pair["other_answer_token"]
    alone = fact_correlations(effects.filter(subject="P0").filter(pl.col("fact") != "city"), NO_FACTS, seed=0)
    assert alone.filter(subjects="same").is_empty(), "one answer is no pair of facts"


def test_a_subject_is_found_among_the_subjects_in_another_spelling(model):
    facts = planted_facts(model)
    people = model.prompts.with_columns(subject=pl.col("subject").str.to_uppercase() + "\u200d")
    asked = ask_facts(model.anatomy, facts, people, subjects=2, seed=0, batch_size=8)
    assert asked["answer"].null_count() == 0
