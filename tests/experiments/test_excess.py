"""P3.3 and P3.5: excess against explicit loops, planted neurons, what adds up exactly, and probes on planted names."""

from __future__ import annotations

from itertools import product

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factfinding.experiments.effective_model.compute import effective_model
from factfinding.experiments.effective_probes.compute import SCHEMA as PROBES
from factfinding.experiments.effective_probes.compute import effective_probes
from factfinding.experiments.effective_probes.show import NO_FIT, probe_findings
from factfinding.experiments.nonlinear_excess import show
from factfinding.experiments.nonlinear_excess.compute import (
    NEURONS_SCHEMA,
    SCHEMA,
    SUBJECTS_SCHEMA,
    nonlinear_excess,
)
from factfinding.experiments.nonlinear_excess.grid import GridMeans, Network, against_others, grid_means
from factfinding.experiments.nonlinear_excess.measure import (
    LEAST,
    concentration,
    made_by_activation,
    made_of_both_signs,
)
from factfinding.experiments.nonlinear_excess.probes import logistic_probe
from factfinding.experiments.nonlinear_excess.show import NO_MODEL, excess_findings
from factfinding.ledger import CONTRADICTED, SUPPORTED
from factfinding.methods.circuit import AT_NAME, Circuit
from factfinding.methods.effective import EffectiveModel
from factfinding.methods.name_pairs import NamePairs, pairs_for, unknown_for
from factfinding.methods.probes import ProbeSettings
from factfinding.methods.readers import Readers
from factfinding.methods.simplified import Parts
from helpers import planted
from helpers.declared import judged
from helpers.effective_models import ANSWERS, made
from helpers.effective_tables import effective_tables
from helpers.head_tables import planted_candidates
from helpers.intervention_tables import readers_of
from helpers.models import FAMILIES

KINDS = ("known", "unknown")
FOLDS = ProbeSettings(n_folds=4, folds=("last_name",), control_folds=("last_name",))


def random_names(family: str, *, length: int = 2, dtype=torch.float64):
    """A random effective model with two lookup layers, its anatomy, and twelve subjects."""
    anatomy, model, _, tokens, _, _ = made(
        family, Parts(concatenate=0, lookup=(1, 2)), lengths=(length,), dtype=dtype
    )
    ids = tokens[length][:, 1:].unique(dim=0)
    return anatomy, model, NamePairs.of(ids, [ANSWERS[i % 3] for i in range(len(ids))])


@pytest.fixture(scope="module")
def known():
    """The planted model whose two neurons look the fact up; its effective model and names, of which all exist."""
    made = planted.at_name(firsts=8, lasts=8)
    name_only = planted.prompt_table(
        made.prompts.select("subject", "answer"),
        made.anatomy.tokenizer,
        made.anatomy.bos_token_id,
        "name_only",
    )
    prompts = {"full": made.prompts, "name_only": name_only}
    reader, parts = readers_of(made.anatomy, made.prompts), Parts(concatenate=0, lookup=(1, 1))
    result = effective_model(made.anatomy, prompts, reader, parts, batch_size=16, seed=0)
    return result.model, pairs_for(result.model, name_only), name_only


def looped(x: torch.Tensor, begin: int, last: int) -> torch.Tensor:
    """The definition: x `[begins, lasts, ...]`, averaged over all other beginnings and all other last tokens."""
    rows = [row for row in range(x.shape[0]) if row != begin]
    columns = [column for column in range(x.shape[1]) if column != last]
    terms = [
        x[begin, last] - x[row, last] - x[begin, column] + x[row, column]
        for row, column in product(rows, columns)
    ]
    return torch.stack(terms).mean(0)


def neurons_of(
    anatomy, model: EffectiveModel, tokens: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pre- and post-activations by the blocks' own formulas, no hooks: the stream before each MLP, then its neurons."""
    places = model.names[str(len(tokens))](*tokens)
    after, found, before = model.stream(*tokens), [], places[:, 0]
    for i, layer in enumerate(range(model.shape.lookup[0], model.shape.lookup[1] + 1)):
        block = anatomy.blocks[layer]
        resid = before if model.shape.parallel else before + places[:, i + 1]
        found.append(block.neurons(block.norm_mlp(resid)))
        before = after[:, i]
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [2, 3])
def test_it_equals_explicit_loops_over_all_other_names(family, length):
    anatomy, model, names = random_names(family, length=length)
    rows, columns = names.shape
    cells = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).T
    tokens = names.tokens(*cells)
    scores = model(*tokens).unflatten(0, (rows, columns))
    neurons = [
        [value.unflatten(0, (rows, columns)) for value in pair] for pair in neurons_of(anatomy, model, tokens)
    ]
    table = nonlinear_excess(model, names, batch_size=7).subjects
    sizes = table.filter(layers="all")["excess"].abs()
    assert (sizes >= LEAST * sizes.mean()).mean() > 0.8
    for i, answer in list(enumerate(names.answers))[::4]:
        own, cell = ANSWERS.index(answer), (int(names.begin[i]), int(names.last[i]))
        others = [k for k in range(3) if k != own]
        direction = model.weight[:, own] - model.weight[:, others].mean(1)
        output = scores[..., own] - scores[..., others].mean(-1)
        expected = {"excess": float(looped(output, *cell)), "made": 0.0, "made_both": 0.0, "passed": 0.0}
        for (pre, post), layer in zip(neurons, (1, 2), strict=True):
            weight = anatomy.blocks[layer].neuron_out @ direction
            before, after = looped(pre, *cell), looped(post, *cell)
            here = {
                "made": float((torch.relu(after - torch.relu(before)) * weight).sum()),
                "made_both": float(
                    sum(w * both(a, b) for w, a, b in zip(weight, after, before, strict=True))
                ),
                "passed": float((after * weight).sum()),
            }
            row = table.filter(subject=names.subjects[i], layers=str(layer)).row(0, named=True)
            assert all(row[key] == pytest.approx(value, rel=1e-7, abs=1e-10) for key, value in here.items())
            assert row["last"] == (layer == 2)
            expected = {key: value + here.get(key, 0.0) for key, value in expected.items()}
        row = table.filter(subject=names.subjects[i], layers="all").row(0, named=True)
        assert all(row[key] == pytest.approx(value, rel=1e-7, abs=1e-10) for key, value in expected.items())
        if abs(expected["excess"]) < LEAST * sizes.mean():  # a ratio to next to nothing is none
            assert row["ratio"] is None
        else:
            assert row["ratio"] == pytest.approx(expected["made"] / expected["excess"], rel=1e-6)


def both(after: torch.Tensor, before: torch.Tensor) -> float:
    """What is new in an output's excess, by cases: nothing of the other sign, and no more than there is, was there."""
    after, before = float(after), float(before)
    there = 0.0 if after * before <= 0 else min(abs(after), abs(before))
    return after - np.sign(after) * there


def test_all_that_the_probe_has_passes_through_neurons():
    for family in ("gpt_neox_sequential", "llama"):
        _, model, names = random_names(family)
        tables = nonlinear_excess(model, names)
        assert (tables.summary["largest_error"] < 1e-9).all()
        parts = (
            tables.subjects.filter(pl.col("layers") != "all")
            .group_by("subject")
            .agg(pl.sum("passed", "made"))
        )
        whole = tables.subjects.filter(layers="all").join(parts, on="subject", suffix="_sum")
        assert np.allclose(whole["passed_sum"], whole["excess"], atol=1e-9)
        assert np.allclose(whole["made_sum"], whole["made"], atol=1e-9)
        neurons = tables.neurons.filter(answer="all")
        assert neurons["passed"].sum() == pytest.approx(whole["excess"].mean(), abs=1e-9)
        assert neurons["made"].sum() == pytest.approx(whole["made"].mean(), abs=1e-9)
        assert neurons["share"].sum() == pytest.approx(1)
        assert neurons["rank"].to_list() == list(range(1, neurons.height + 1))


@given(rows=st.integers(2, 6), columns=st.integers(2, 6), seed=st.integers(0, 100), additive=st.booleans())
@settings(max_examples=40, deadline=None)
def test_excess_is_the_definition_sums_to_zero_and_is_zero_for_sums(rows, columns, seed, additive):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 1, 2)) + rng.normal(size=(1, columns, 2))
    x = torch.from_numpy(x if additive else x + rng.normal(size=(rows, columns, 2)))
    means = GridMeans(begin=x.mean(1), last=x.mean(0), grid=x.mean((0, 1)))
    begin, last = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).T
    excess = means.excess(x[begin, last], begin, last).unflatten(0, (rows, columns))
    assert excess.sum((0, 1)).abs().max() < 1e-9
    assert excess.sum(0).abs().max() < 1e-9 and excess.sum(1).abs().max() < 1e-9
    cell = rng.integers(rows), rng.integers(columns)
    assert torch.allclose(excess[cell], looped(x, *cell), atol=1e-9)
    if additive:
        assert excess.abs().max() < 1e-9


@given(seed=st.integers(0, 1000))
def test_what_is_made_is_a_part_of_what_comes_out(seed):
    pre, post = torch.randn(2, 50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    above, signed = made_by_activation(pre, post), made_of_both_signs(pre, post)
    assert torch.equal(above, torch.where(post > 0, signed, torch.zeros_like(post)))
    assert (signed * post >= 0).all() and (signed.abs() <= post.abs()).all()
    assert torch.equal(made_of_both_signs(-pre, -post), -signed)
    assert not made_of_both_signs(post, post).any() and torch.equal(made_of_both_signs(-post, post), post)
    assert torch.equal(made_of_both_signs(torch.zeros_like(post), post), post)


def test_without_its_mlps_the_model_is_a_sum_and_has_no_excess():
    _, model, names = random_names("gpt_neox")
    for mlp in model.mlps:
        mlp.dense_4h_to_h.weight.zero_()
    tables = nonlinear_excess(model, names)
    assert tables.subjects["excess"].abs().max() < 1e-12
    row = tables.summary.filter(layers="all").row(0, named=True)
    assert row["n"] == 0 and row["n_names"] == len(names.subjects) and row["ratio"] is row["pooled"] is None
    assert tables.subjects["ratio"].null_count() == tables.subjects.height
    assert "is a sum of a term for each part" in excess_findings(tables.summary, tables.neurons)[0]


def test_planted_neurons_make_all_of_it_where_they_fire_for_the_answer(known):
    """Two neurons fire where the signs agree: `basketball`. Where they do not, nothing fires, which is an excess too."""
    model, names, _ = known
    tables = nonlinear_excess(model, names)
    rows = tables.subjects.filter(layers="all")
    agree, differ = (rows.filter(answer=answer) for answer in ("basketball", "baseball"))
    assert rows["excess"].min() > 0
    assert np.allclose(agree["ratio"], 1, atol=1e-3) and np.allclose(differ["ratio"], 0, atol=1e-3)
    assert np.allclose(rows["ratio_both"], 1, atol=1e-3)
    found = tables.neurons.filter(answer="basketball").sort("rank").head(2)
    assert set(found["neuron"]) == set(planted.PAIR) and (found["layer"] == 1).all()
    assert found["share"].sum() == pytest.approx(1, abs=1e-3)
    whole = tables.summary.filter(layers="all").row(0, named=True)
    assert whole["neurons"] <= 2 + 1e-3 and whole["top_10"] == pytest.approx(1, abs=1e-3)
    assert whole["ratio_both_low"] > 0.99 and whole["positive"] == 1
    said = excess_findings(tables.summary, tables.neurons)
    assert "as single-step detokenization predicts" in said[0]


def planted_tables(made: planted.Planted, parts: Parts) -> dict[str, pl.DataFrame]:
    """All tables of P3.3 and P3.5 of a planted model that looks up at the name, both probes among them."""
    tokens = made.anatomy.tokenizer
    about = made.prompts.select("subject", "answer"), tokens, made.anatomy.bos_token_id, "name_only"
    prompts = {"full": made.prompts, "name_only": planted.prompt_table(*about)}
    reader = readers_of(made.anatomy, made.prompts)
    result = effective_model(made.anatomy, prompts, reader, parts, batch_size=16, seed=0)
    extract = tuple(f"L{site.layer}H{site.index}" for site in made.extract)
    circuit = Circuit(
        lookup_at=AT_NAME, concatenate=(0, parts.concatenate), lookup=parts.lookup, extract=extract
    )
    candidates = planted_candidates(made)
    read_by = {"anatomy": made.anatomy, "candidates": candidates, "readers": reader, "circuit": circuit}
    return effective_tables(result.model, prompts["name_only"], **read_by)


@pytest.mark.parametrize(
    ("plant", "lookup", "made", "fitted", "verdict", "said"),
    [
        (planted.at_name, (1, 1), 1.0, 1.0, CONTRADICTED, "as single-step detokenization predicts"),
        (planted.in_two_steps, (1, 2), 0.0, 0.5, SUPPORTED, "as hash and lookup predicts"),
    ],
)
def test_a_single_step_and_two_are_told_apart(plant, lookup, made, fitted, verdict, said):
    """The study's ratio is 0 % for one answer and 100 % for the other where a pair of neurons does all in one step. A
    fitted probe reads the code, which is made in one step, as well as the fact that the head reads."""
    tables = planted_tables(plant(firsts=8, lasts=8), Parts(concatenate=0, lookup=lookup))
    rows = tables["nonlinear_excess_subjects"].filter(names="known", layers="all")
    assert set(rows["probe"]) == {"head", "logistic"}
    for probe, expected in (("head", made), ("logistic", fitted)):
        assert np.allclose(rows.filter(probe=probe)["ratio_both"], expected, atol=1e-3)
    if made:
        assert set(rows.filter(probe="head")["ratio"].round(2)) == {0.0, 1.0}
    assert judged("excess-not-in-one-step", tables)["verdict"] == verdict
    told = show.sentences(tables)
    assert said in told[0] and "the head probe" in told[0] and "by the logistic probe instead" in told[2]


def test_each_subject_is_read_by_the_probe_that_has_not_seen_it():
    """Written out: the excess of the scores of the subject's own fold; unknown names by the last, fitted on all known."""
    _, model, names = random_names("gpt_neox")
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(4, 3, model.weight.shape[0], 3)), rng.normal(size=(4, 3, 3))
    subjects = names.subjects[:-2]  # the last two are in no fold
    fold = np.arange(len(subjects)) % 3
    readers = Readers(
        name="logistic", weight=weight, bias=bias, subjects=subjects, fold=fold, answers=model.shape.answers
    )
    taken = set(zip(names.begin.tolist(), names.last.tolist(), strict=True))
    free = [cell for cell in product(*map(range, names.shape)) if cell not in taken][:4]
    unknown = names.tokens(*torch.tensor(free).T).T
    tables = nonlinear_excess(model, names, [logistic_probe(model, readers, names)], unknown=unknown)
    cells = torch.cartesian_prod(*map(torch.arange, names.shape)).T
    resid = model.stream(*names.tokens(*cells))[:, -1]
    scores = resid @ torch.from_numpy(weight[:, model.shape.lookup[1]])
    output = against_others(scores).unflatten(1, names.shape)
    rows = {row["subject"]: row for row in tables.subjects.filter(layers="all").iter_rows(named=True)}
    for i, subject in enumerate(names.subjects):
        reads = fold[i] if i < len(fold) else 3
        answer = ANSWERS.index(names.answers[i])
        expected = looped(output[reads], int(names.begin[i]), int(names.last[i]))[answer]
        assert rows[subject]["excess"] == pytest.approx(float(expected), abs=1e-9)
    said = scores[3] + torch.from_numpy(bias[3, model.shape.lookup[1]])
    for cell, tokens in zip(free, unknown.tolist(), strict=True):
        row = rows[" ".join(map(str, tokens))]
        answer = int(said.unflatten(0, names.shape)[cell].argmax())
        assert row["answer"] == ANSWERS[answer]
        assert row["excess"] == pytest.approx(float(looped(output[3], *cell)[answer]), abs=1e-9)


def test_readers_of_other_answers_are_refused():
    _, model, names = random_names("gpt_neox")
    empty = {"weight": np.zeros((1, 3, model.weight.shape[0], 2)), "bias": np.zeros((1, 3, 2))}
    other = Readers(name="logistic", subjects=(), fold=np.zeros(0, int), answers=("a", "b"), **empty)
    with pytest.raises(ValueError, match="readers of"):
        logistic_probe(model, other, names)


def test_an_excess_that_only_passes_is_not_made():
    """ReLU far above zero passes its input on: with a norm the input has an excess, and nothing is added to it."""
    _, model, names = random_names("gpt_neox")
    for mlp in model.mlps:
        mlp.act = torch.nn.Identity()
    network = Network(model)
    _, *neurons = network(names.tokens(names.begin, names.last))
    assert all(torch.equal(pre, post) for pre, post in zip(neurons[::2], neurons[1::2], strict=True))
    row = nonlinear_excess(model, names).summary.filter(layers="all").row(0, named=True)
    assert row["n"] == len(names.subjects) and row["made"] == row["made_both"] == 0
    assert row["neurons"] is None and row["passed"] == pytest.approx(row["excess"])


def test_the_grid_in_batches_is_the_grid():
    _, model, names = random_names("gpt2")
    whole = grid_means(Network(model), names, 10_000)
    for size in (1, 5, 13):
        for a, b in zip(whole, grid_means(Network(model), names, size), strict=True):
            assert all(
                torch.allclose(getattr(a, name), getattr(b, name)) for name in ("begin", "last", "grid")
            )
    seen = torch.cat([cells for *_, cells in names.blocks(5, torch.cartesian_prod)])
    assert len(seen.unique(dim=0)) == len(seen) == names.shape[0] * names.shape[1]


def test_the_same_input_gives_the_same_tables():
    _, model, names = random_names("llama", dtype=torch.float32)
    first, again = (
        nonlinear_excess(model, names, unknown=names.begins.new_zeros(0, 2), seed=3) for _ in "ab"
    )
    assert first.summary.equals(again.summary) and first.neurons.equals(again.neurons)
    assert first.subjects.equals(again.subjects)


def test_half_precision_is_worked_with_in_single():
    _, model, names = random_names("gpt_neox", dtype=torch.float32)
    exact = nonlinear_excess(model, names).summary.filter(layers="all")
    half = nonlinear_excess(model.to(torch.bfloat16), names).summary.filter(layers="all")
    assert half["largest_error"][0] < 1e-3
    assert half["excess"][0] == pytest.approx(exact["excess"][0], abs=0.1 * exact["excess_high"][0])


def test_without_a_model_or_names_the_tables_are_empty_and_say_so():
    _, model, names = random_names("gpt_neox")
    for arguments in ((None, names), (model, None), (None, None)):
        tables = nonlinear_excess(*arguments)
        assert tables.summary.is_empty() and tables.summary.schema == pl.Schema(SCHEMA)
        assert tables.subjects.schema == pl.Schema(SUBJECTS_SCHEMA)
        assert tables.neurons.schema == pl.Schema(NEURONS_SCHEMA)
        assert excess_findings(tables.summary, tables.neurons) == [NO_MODEL]
        probes = effective_probes(*arguments, settings=FOLDS, repeats=2, seed=0)
        assert probes.is_empty() and probes.schema == pl.Schema(PROBES)
        assert probe_findings(probes) == [NO_FIT]
    assert pairs_for(None, pl.DataFrame()) is None and unknown_for(None, pl.DataFrame(), seed=0) is None


def test_unknown_names_are_the_baseline_with_the_answer_that_the_model_answers():
    _, model, names = random_names("gpt_neox")
    taken = set(zip(names.begin.tolist(), names.last.tolist(), strict=True))
    free = [cell for cell in product(*map(range, names.shape)) if cell not in taken][:5]
    tokens = names.tokens(*torch.tensor(free).T).T
    tables = nonlinear_excess(model, names, unknown=tokens)
    rows = tables.subjects.filter(names="unknown", layers="all")
    answers = model(*tokens.T)
    assert rows["answer"].to_list() == [ANSWERS[i] for i in answers.argmax(1).tolist()]
    assert rows["subject"].to_list() == [" ".join(map(str, ids)) for ids in tokens.tolist()]
    x = against_others(answers)
    grid = grid_means(Network(model), names, 100)[0]
    expected = against_others(grid.excess(answers, *names.cells(tokens)))
    assert np.allclose(rows["excess"], expected.gather(1, x.argmax(1, keepdim=True))[:, 0])
    assert set(tables.neurons["n"]) <= {4, 12, len(names.subjects)} and tables.summary.height == 6
    known, base = (tables.summary.filter(names=kind, layers="all").row(0, named=True) for kind in KINDS)
    assert base["made_both_low"] < known["made_both_high"], "five names of a random model differ little"
    assert "have not surely less of it" in excess_findings(tables.summary, tables.neurons)[0]
    with pytest.raises(ValueError, match="no part of these names"):
        names.cells(torch.tensor([[-1, -1]]))


def test_few_neurons_are_told_from_many():
    values = torch.zeros(3, 200, dtype=torch.float64)
    values[0, :4], values[1, 7] = torch.tensor([1.0, -1.0, 1.0, -1.0]), 3.0
    found = concentration(values)
    assert found["neurons"][:2].tolist() == [4, 1] and found["neurons"][2].isnan()
    assert found["top_1"][:2].tolist() == [0.25, 1] and found["top_10"][:2].tolist() == [1, 1]


def prompts_of(lengths: dict[int, int]) -> pl.DataFrame:
    """So many prompts of names of so many tokens, which are all the same token 1 but the last."""
    rows = [
        {
            "subject": f"{length} {i:03d}",
            "answer": ANSWERS[i % 3],
            "n_name_tokens": length,
            "n_tokens": length + 1,
        }
        | {"token_ids": [0, *[1 + i % 2] * (length - 1), 10 + i], "first_name": 1, "final_name": length}
        for length, count in lengths.items()
        for i in range(count)
    ]
    return pl.DataFrame(rows)


class Tables:
    """Of an effective model nothing but the tokens of its tables: all up to 500, or those of `lasts` at the end."""

    def __init__(self, lengths, lasts=range(500)):
        every, last = torch.arange(500), torch.tensor(list(lasts))
        self.names = {
            str(k): type(
                "Table", (), {f"tokens_{i}": every for i in range(k - 1)} | {f"tokens_{k - 1}": last}
            )
            for k in lengths
        }


def test_names_of_two_tokens_are_taken_where_there_are_enough_and_else_the_commonest_length():
    lengths = {1: 300, 2: 100, 3: 200, 5: 200}
    prompts = prompts_of(lengths)
    assert pairs_for(Tables(lengths), prompts).n_name_tokens == 2
    few = prompts_of(lengths | {2: 99})
    chosen = pairs_for(Tables(lengths), few)
    assert chosen.n_name_tokens == 3 and len(chosen.subjects) == 200 and chosen.shape == (2, 200)
    assert pairs_for(Tables(lengths), few, name_tokens=5).n_name_tokens == 5
    assert pairs_for(Tables((2, 5)), few).n_name_tokens == 5, "no tables for three"
    assert pairs_for(Tables(lengths), few, name_tokens=4) is None
    assert pairs_for(Tables((1,)), prompts) is None
    some = pairs_for(Tables(lengths, lasts=range(10, 15)), prompts)
    assert len(some.subjects) == 5, "those whose tokens stand in the tables"
    assert list(some.subjects) == sorted(some.subjects)


def test_probes_find_the_fact_after_the_mlp_that_looks_it_up_and_not_before(known):
    model, names, _ = known
    table = effective_probes(model, names, settings=FOLDS, repeats=3, seed=0)
    rows = {row["input"]: row for row in table.filter(labels="true").iter_rows(named=True)}
    assert rows["token_sum"]["accuracy"] < 0.6 and rows["resid"]["accuracy"] == 1
    assert rows["token_sum"]["layer"] is None and rows["resid"]["layer"] == 1
    assert rows["resid"]["step"] == pytest.approx(1 - rows["token_sum"]["accuracy"])
    assert rows["resid"]["step_low"] > 0.3 and rows["resid"]["loss_step_high"] < 0
    assert rows["resid"]["n_groups"] == names.shape[1] and rows["resid"]["majority_rate"] == 0.5
    control = table.filter(labels="shuffled", input="resid").row(0, named=True)
    assert control["accuracy"] < 0.75
    assert rows["resid"]["selectivity"] == pytest.approx(1 - control["accuracy"])
    assert rows["resid"]["from_largest"] == 0 and rows["token_sum"]["from_largest"] is None
    assert "largest step is that of MLP 1" in probe_findings(table)[1]
    assert table.equals(effective_probes(model, names, settings=FOLDS, repeats=3, seed=0))


def test_more_draws_of_the_folds_make_shares_of_hits_and_too_few_subjects_no_table(known):
    _, model, names = random_names("gpt_neox")
    few = ProbeSettings(n_folds=2, folds=("first_name", "last_name", "random"), control_folds=("random",))
    table = effective_probes(model, names, settings=few, repeats=5, seed=0)
    assert table.height == 3 * 3 + 3 and set(table["repeats"]) == {5}
    assert table.filter(labels="shuffled")["folds"].unique().to_list() == ["random"]
    assert table.filter(labels="true", folds="last_name")["selectivity"].null_count() == 3
    for kind in few.folds:
        steps = table.filter(pl.col("step").is_not_null(), labels="true", folds=kind)
        behind = (steps["step"] - steps["step"].max()).to_list()
        assert steps["from_largest"].to_list() == pytest.approx(behind, abs=1e-12)
        assert (steps["from_largest"] <= steps["from_largest_high"]).all()
    hits = table["accuracy"].to_numpy() * 5 * len(names.subjects)
    assert np.allclose(hits, hits.round())
    strict = ProbeSettings(n_folds=5, folds=("random",), control_folds=())
    assert effective_probes(model, names, settings=strict, repeats=1, seed=0).is_empty()


def test_the_order_of_the_prompts_does_not_matter(known):
    model, names, prompts = known
    turned = pairs_for(model, prompts.reverse())
    assert turned.subjects == names.subjects and turned.answers == names.answers
    assert torch.equal(turned.begin, names.begin) and torch.equal(turned.last, names.last)
