"""P3.6-P3.8: unknown names and swaps are what they say, planted models give the planted answer, and every fast way agrees
with a slow one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

from factfinding.data.prompts import prompt_table
from factfinding.data.strangers import COLUMNS, paired, swaps, unknown_pairings
from factfinding.engine.sites import Site
from factfinding.engine.trace import Read, run
from factfinding.experiments.linear_structure import show as linear_show
from factfinding.experiments.linear_structure.compute import (
    linear_structure,
    ratios,
    resample,
    resampled,
    shuffled_mlps,
)
from factfinding.experiments.mlp_norms import show as norms_show
from factfinding.experiments.mlp_norms.compute import SCHEMA as NORMS
from factfinding.experiments.mlp_norms.compute import mlp_norms, name_norms
from factfinding.experiments.orthogonal_remainder import show as remainder_show
from factfinding.experiments.orthogonal_remainder.compute import (
    LEVERAGE,
    best_neurons,
    input_weights,
    mlp_inputs,
    norm_scale,
    orthogonal_remainder,
    remainders,
)
from factfinding.experiments.orthogonal_remainder.compute import SCHEMA as REMAINDER
from factfinding.ledger import CONTRADICTED, NOT_APPLICABLE, SUPPORTED, UNDECIDED
from factfinding.methods.circuit import Circuit
from factfinding.methods.groups import groups_of
from factfinding.methods.intervals import auc_intervals, median_intervals, resampled_medians
from factfinding.methods.name_sites import read_last
from factfinding.model.anatomy import load
from factfinding.stats import auc
from factfinding.tables import schema_of
from helpers import hypotheses, planted
from helpers.declared import judged
from helpers.models import FAMILIES, random_anatomy, save_model, tokenizer
from helpers.name_tables import NEURONS, SIZE, name_tables

LINEAR = schema_of("linear_structure")
FIRSTS, LASTS = range(100, 120), range(200, 225)
SHOWS = {
    "mlp_norms": norms_show,
    "linear_structure": linear_show,
    "orthogonal_remainder": remainder_show,
}


def prompts_of(names: list[tuple[int, ...]], *, before: int = 1, after: int = 0) -> pl.DataFrame:
    """A prompts table of names given as tokens; BOS is 0, the tokens around a name 1."""
    rows = []
    for i, name in enumerate(names):
        ids = [0] + [1] * (before - 1) + list(name) + [1] * after
        final = before + len(name) - 1
        rows.append(
            {"subject": f"A{i}", "answer": ("x", "y")[i % 2], "token_ids": ids, "roles": [""] * len(ids)}
            | {"n_tokens": len(ids), "n_name_tokens": len(name), "first_name": before, "final_name": final}
            | {"end": len(ids) - 1}
        )
    return pl.DataFrame(rows)


def name_of(prompts: pl.DataFrame) -> list[tuple[int, ...]]:
    columns = prompts.select("token_ids", "first_name", "final_name").iter_rows()
    return [tuple(ids[first : final + 1]) for ids, first, final in columns]


def random_names(n: int, seed: int = 0) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(seed)
    cells = rng.choice(len(FIRSTS) * len(LASTS), n, replace=False)
    return [(FIRSTS[cell // len(LASTS)], LASTS[cell % len(LASTS)]) for cell in cells.tolist()]


# unknown names


@given(
    st.lists(st.lists(st.integers(2, 6), min_size=1, max_size=4).map(tuple), unique=True, max_size=25),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_unknown_pairings_are_in_no_table_and_made_of_known_parts_of_one_layout(names, data):
    table = prompts_of(names or [(2, 3)], before=2, after=1)
    known = table.head(data.draw(st.integers(0, table.height)))
    made = unknown_pairings(known, table, seed=data.draw(st.integers(0, 3)))
    found = name_of(made)
    assert len(set(found)) == len(found) and not set(found) & set(name_of(table))
    of = name_of(known)
    for name, prefix, last in zip(found, made["prefix_of"], made["last_of"], strict=True):
        assert name[:-1] == of[prefix][:-1] and name[-1] == of[last][-1] and len(of[prefix]) == len(of[last])
    assert made["prefix_of"].n_unique() == made["last_of"].n_unique() == made.height
    for row in made.iter_rows(named=True):  # everything but the name is as it was
        assert (
            row["token_ids"][:2] == [0, 1]
            and row["token_ids"][-1] == 1
            and len(row["token_ids"]) == row["n_tokens"]
        )


def test_every_token_is_as_common_among_unknown_names_as_among_known_ones():
    known = prompts_of(random_names(100))
    made = unknown_pairings(known, known, seed=0)
    assert made.height == 100
    for part in (slice(0, -1), slice(-1, None)):
        assert sorted(name[part] for name in name_of(made)) == sorted(name[part] for name in name_of(known))
    again, other = (unknown_pairings(known, known, seed=seed) for seed in (0, 1))
    assert again.equals(made) and not other.equals(made)


def test_subjects_that_the_model_does_not_know_are_no_unknown_names():
    grid = [(first, last) for first in FIRSTS[:4] for last in LASTS[:4]]
    assert unknown_pairings(prompts_of(grid[:6]), prompts_of(grid), seed=0).is_empty()


def test_the_only_permutation_that_there_is_gets_found():
    known = [
        (f, n) for f in range(6) for n in range(10, 16) if (f + n) % 2 == 0
    ]  # as many with odd sums are free
    assert unknown_pairings(prompts_of(known), prompts_of(known), seed=0).height == len(known)


def test_names_of_different_layouts_are_not_paired():
    with pytest.raises(ValueError, match="one layout"):
        paired(prompts_of([(1, 2), (1, 2, 3)]), np.array([0]), np.array([1]))


@given(st.integers(2, 80), st.integers(0, 5), st.integers(1, 20))
@settings(max_examples=15, deadline=None)
def test_swaps_exchange_last_tokens_and_are_unknown(n, seed, pairs):
    known = prompts_of([*random_names(n, seed), (7, 8, 9), (9, 8, 7), (8, 7, 9)])
    unknown = unknown_pairings(known, known, seed=seed)
    for names in (known, unknown):
        drawn = swaps(names, known, unknown, pairs=pairs, seed=seed)
        assert len(drawn) <= pairs and len({table.height for table in drawn.tables}) == 1
        a, b, c, d, other_c, other_d = map(name_of, drawn.tables)
        taken = set(name_of(known))
        assert len(set(a) | set(b)) == 2 * len(drawn), "each name is in one pair"
        for row in zip(a, b, c, d, other_c, other_d, strict=True):
            assert row[2] == row[0][:-1] + row[1][-1:] and row[3] == row[1][:-1] + row[0][-1:]
            assert len(set(row)) == 6 and not set(row[2:]) & taken and len({len(name) for name in row}) == 1
    if n >= 60:
        assert len(swaps(known, known, unknown, pairs=20, seed=seed)) == 20


# intervals


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=12), st.lists(st.integers(0, 5), min_size=1, max_size=12)
)
@settings(max_examples=60, deadline=None)
def test_auc_intervals_are_those_of_resampling_each_side(above, below):
    above, below = np.array(above, dtype=float), np.array(below, dtype=float)
    found = auc_intervals(above[:, None], below[:, None], seed=3, n_resamples=50)
    labels = np.arange(len(above) + len(below)) < len(above)
    assert found.value[0] == pytest.approx(auc(np.concatenate([above, below]), labels))
    rng = np.random.default_rng(3)
    counts = [
        rng.multinomial(len(side), np.full(len(side), 1 / len(side)), size=50) for side in (above, below)
    ]
    draws = [
        auc(np.concatenate([np.repeat(above, a), np.repeat(below, b)]), labels)
        for a, b in zip(*counts, strict=True)
    ]
    if min(len(above), len(below)) > 1:
        assert [found.low[0], found.high[0]] == pytest.approx(np.quantile(draws, [0.025, 0.975]))
    else:
        assert np.isnan(found.low[0])


def test_auc_intervals_do_not_depend_on_the_chunks(monkeypatch):
    rng = np.random.default_rng(0)
    above, below = rng.normal(0.5, 1, (200, 3)), rng.normal(size=(150, 3))
    whole = auc_intervals(above, below, seed=0)
    assert (whole.low < whole.value).all() and (whole.value < whole.high).all() and whole.n == 350
    sigma = np.sqrt(1 / (12 * 200) + 1 / (12 * 150))  # of an AUC near one half
    assert np.allclose(whole.high - whole.low, 2 * 1.96 * sigma, rtol=0.2)


def test_median_intervals_contain_the_median_and_one_row_has_none():
    values = np.random.default_rng(0).normal(size=(400, 2))
    found = median_intervals(values, seed=0)
    assert np.allclose(found.value, np.median(values, axis=0))
    assert np.allclose(found.high - found.low, 2 * 1.96 * 1.2533 / 20, rtol=0.25)
    assert np.isnan(median_intervals(values[:1], seed=0).low).all()


@given(st.lists(st.integers(0, 6), min_size=1, max_size=9), st.data())
@settings(max_examples=60, deadline=None)
def test_medians_of_resamples_are_those_of_the_rows_repeated(values, data):
    """NaN rows (here 6) have no ratio and are left out."""
    values = np.array(values, dtype=float)
    values[values == 6] = np.nan
    n = len(values)
    counts = np.array([data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)) for _ in range(3)])
    for row, found in zip(counts, resampled_medians(values, counts), strict=True):
        rows = np.repeat(values, row)
        rows = rows[~np.isnan(rows)]
        assert found == np.median(rows) if len(rows) else np.isnan(found)


# planted models


@pytest.fixture(scope="module")
def agreeing():
    """All names whose hidden signs agree are subjects; those that differ are nobody, and the neurons stay silent."""
    made = planted.at_name(firsts=8, lasts=8)
    known = made.prompts.filter(answer=planted.ANSWERS[1])
    return made, known, name_tables(made.anatomy, known, known)


def test_a_neuron_that_fires_for_known_pairs_alone_gives_an_auc_of_one_at_its_layer(agreeing):
    _, known, tables = agreeing
    norms = tables["mlp_norms"]
    assert norms["n_unknown"].to_list() == [known.height] * norms.height
    by_layer = dict(norms.filter(output="mlp").select("layer", "auc").iter_rows())
    assert by_layer == {0: 0.5, 1: 1.0, 2: 0.5, 3: 0.5}
    row = norms.filter(output="mlp", layer=1).row(0, named=True)
    assert (
        row["known"] == pytest.approx(2**0.5, rel=1e-4) and row["unknown"] == 0 and row["auc_control"] == 0.5
    )
    assert norms.filter(output="attn")["auc"].to_list() == [0.5] * 4, (
        "attention moves a sign, whatever the pair"
    )
    said = norms_show.norm_findings(norms)[0]
    assert "at layer 1: most in layer 1" in said and "100.0" in said


def test_the_planted_and_breaks_the_sum_wholly_and_attention_does_not_at_all(agreeing):
    known = agreeing[2]["linear_structure"].filter(names="known")
    mlp = known.filter(output="mlp", layer=1).row(0, named=True)
    assert mlp["median"] == pytest.approx(1) and mlp["mean"] == pytest.approx(1) and mlp["n"] > 8
    assert known.filter(output="resid", layer=0)["mean"].to_list() == [0]
    assert known.filter(output="mlp").filter(pl.col("layer") != 1)["n"].to_list() == [0, 0, 0]
    shuffled = agreeing[2]["linear_structure"].filter(names="shuffled", output="mlp", layer=1)
    assert shuffled["median"][0] is None or shuffled["median"][0] < 1


def test_names_drawn_without_regard_to_what_fires_do_not_differ_from_unknown_ones():
    """The neurons fire for half of all pairs, known or not: no memory of these names, and the table says so."""
    made = planted.at_name(firsts=20, lasts=20)
    known = pl.concat([made.prompts.filter(answer=answer).sample(30, seed=0) for answer in planted.ANSWERS])
    table = mlp_norms(made.anatomy, known, unknown_pairings(known, known, seed=0), **SIZE)
    row = table.filter(output="mlp", layer=1).row(0, named=True)
    assert (
        row["auc_low"] <= 0.5 <= row["auc_high"] and row["auc_control_low"] <= 0.5 <= row["auc_control_high"]
    )
    assert "At no layer" in norms_show.norm_findings(table)[0]


def test_a_model_without_mlps_adds_up_the_parts_of_a_name():
    """Attention moves a term of the first name to the last: C and D have the terms that A and B have."""
    made = planted.at_name(firsts=12, lasts=12)
    for block in made.anatomy.blocks:
        block.mlp_out.weight.zero_()
    known = made.prompts.sample(60, seed=0)
    table = linear_structure(made.anatomy, known, known, pairs=20, shuffles=2, **SIZE)
    resid = table.filter(output="resid")
    assert resid["median"].to_list() == [0] * resid.height and resid["n"].max() > 5
    assert table.filter(output="mlp")["n"].to_list() == [0] * resid.height
    assert table.filter(output="mlp")["median"].null_count() == resid.height


# random models


def random_study(family: str, dtype=torch.float64, n: int = 90):
    """A random model of any family and subjects with names of two and three tokens, in three answers."""
    anatomy = random_anatomy(family, dtype=dtype)
    rng = np.random.default_rng(0)
    names = {tuple(rng.integers(5, 25 if i % 3 else 15, 2 + (i % 3 == 0)).tolist()) for i in range(2 * n)}
    prompts = prompts_of(sorted(names)[:n], before=2)
    return anatomy, prompts.with_columns(pl.Series("answer", np.resize(["x", "y", "z"], n)))


@pytest.mark.parametrize(
    "family", FAMILIES[:4]
)  # about names: in others the last bit may part values that are equal
def test_a_random_model_knows_no_name_from_another(family):
    anatomy, known = random_study(family)
    unknown = unknown_pairings(known, known, seed=0)
    table = mlp_norms(anatomy, known, unknown, condition="full", batch_size=16, seed=0)
    assert table.height == 2 * anatomy.n_layers and table.schema == NORMS
    assert table["auc"].is_between(0.35, 0.65).all() and table["auc_control"].is_between(0.3, 0.7).all()
    if anatomy.parallel:  # MLP 0 reads the last token alone, and these are the same on both sides
        row = table.filter(output="mlp", layer=0).row(0, named=True)
        if unknown.height == known.height:
            assert row["auc"] == pytest.approx(0.5) and row["known"] == pytest.approx(row["unknown"])


def test_a_random_model_breaks_the_sum_as_much_for_unknown_names():
    """It hashes: what it makes of a pair has nothing to do with which pairs are known."""
    anatomy, known = random_study("gpt_neox", n=150)
    table = linear_structure(
        anatomy, known, known, condition="full", pairs=60, shuffles=3, batch_size=64, seed=0
    )
    wide = table.pivot("names", index=["output", "layer"], values=["median", "median_low", "median_high"])
    broken = wide.filter(pl.col("median_known") > 1e-6)  # parallel blocks: MLP 0 reads one token alone
    assert broken.height >= 2 * anatomy.n_layers - 2
    assert (broken["median_low_known"] < broken["median_high_unknown"]).all()
    assert (broken["median_low_unknown"] < broken["median_high_known"]).all()
    assert "no sign that it is more than a mixing" in " ".join(linear_show.linear_findings(table))


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_and_ratios_are_those_of_whole_prompts_one_at_a_time(family):
    anatomy, known = random_study(family, n=40)
    unknown = unknown_pairings(known, known, seed=0)
    drawn = swaps(known, known, unknown, pairs=6, seed=0)

    def slow(row: dict, kind: str) -> torch.Tensor:
        tokens, at = torch.tensor([row["token_ids"] + [3, 4]]), torch.tensor([row["final_name"]])
        reads = [Read(site=Site(kind, layer), at=at) for layer in range(anatomy.n_layers)]
        return torch.cat(run(anatomy, tokens, reads=reads).values).double()

    fast = name_norms(anatomy, known, batch_size=7)
    for i, row in enumerate(known.head(5).iter_rows(named=True)):
        expected = torch.cat([slow(row, kind).norm(dim=-1) for kind in ("mlp_out", "attn_out")])
        assert np.allclose(fast[i], expected.numpy(), atol=1e-10)
    found = ratios(anatomy, drawn, batch_size=8)
    assert np.array_equal(found, ratios(anatomy, drawn, batch_size=8))
    for i in range(len(drawn)):
        six = [table.row(i, named=True) for table in drawn.tables]
        for k, kind in enumerate(("mlp_out", "resid_post")):
            a, b, c, d, e, f = (slow(row, kind) for row in six)
            expected = (((a + b - c - d) / 2).norm(dim=-1) / ((a + b - e - f) / 2).norm(dim=-1)).numpy()
            here = found[i, k * anatomy.n_layers : (k + 1) * anatomy.n_layers]
            kept = expected > 1e-8
            assert np.allclose(here[kept], expected[kept], rtol=1e-6) and (here[~kept] == 0).all()


def test_the_table_says_the_same_in_batches_of_any_size():
    anatomy, known = random_study("gpt_neox", n=60)
    tables = [
        linear_structure(
            anatomy, known, known, condition="full", pairs=10, shuffles=2, batch_size=size, seed=0
        )
        for size in (1, 6, 500)
    ]
    assert tables[0].schema == LINEAR and set(tables[0]["names"]) == {"known", "unknown", "shuffled"}
    for one, other in pairwise(tables):
        for name in ("median", "mean_low", "median_high"):
            assert np.allclose(one[name].to_numpy(), other[name].to_numpy(), rtol=1e-8)


def weights_of(anatomy) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in anatomy.model.named_parameters()}


def shuffled_weights(anatomy, *, seed: int) -> dict[str, torch.Tensor]:
    with shuffled_mlps(anatomy, seed=seed):
        return weights_of(anatomy)


@pytest.mark.parametrize("family", FAMILIES)
def test_shuffling_keeps_the_entries_of_each_mlp_matrix_and_the_rest_of_the_model(family):
    anatomy = random_anatomy(family)
    before, shuffled = weights_of(anatomy), shuffled_weights(anatomy, seed=0)
    inside = {id(weight) for block in anatomy.blocks for weight in block.mlp.parameters()}
    changed = 0
    for name, weight in anatomy.model.named_parameters():
        assert torch.equal(weight, before[name]), "the model is as it was"
        if id(weight) in inside:
            assert torch.equal(shuffled[name].flatten().sort().values, before[name].flatten().sort().values)
            changed += not torch.equal(shuffled[name], before[name])
        else:
            assert torch.equal(shuffled[name], before[name])
    assert changed >= 2 * anatomy.n_layers
    again, other = (shuffled_weights(anatomy, seed=seed) for seed in (0, 1))
    assert all(torch.equal(again[name], weight) for name, weight in shuffled.items())
    assert sum(not torch.equal(other[name], weight) for name, weight in shuffled.items()) == changed


def test_no_two_weights_of_a_shuffle_are_permuted_alike():
    """Matrices and biases of one size, whose entries are numbered: each is in another order, beside its neighbours too."""
    anatomy = random_anatomy("gpt_neox", layers=4)
    kinds: dict[int, list[torch.Tensor]] = {}
    with torch.no_grad():
        for block in anatomy.blocks:
            for weight in block.mlp.parameters():
                weight.copy_(torch.arange(weight.numel()).view_as(weight))
    with shuffled_mlps(anatomy, seed=0):
        for block in anatomy.blocks:
            for weight in block.mlp.parameters():
                kinds.setdefault(weight.numel(), []).append(weight.flatten().clone())
    largest = kinds[max(kinds)]
    assert len(largest) == 8
    for i, one in enumerate(largest):
        others = torch.stack(largest[:i] + largest[i + 1 :])
        assert (others == one).float().mean() < 0.01


def test_every_place_of_a_weight_is_as_likely_for_every_entry():
    """Over many seeds, of a weight that is not the first of its size: the offset alone would leave neighbours together."""
    anatomy, seeds = random_anatomy("gpt_neox", layers=2), 2000
    bias = anatomy.blocks[1].mlp_out.bias
    entries = bias.numel()
    with torch.no_grad():
        bias.copy_(torch.arange(entries))
    first, apart = np.zeros(entries), 0
    for seed in range(seeds):
        with shuffled_mlps(anatomy, seed=seed):
            first[int(bias[0])] += 1
            apart += int(bias[1] == (bias[0] + 1) % entries)
    expected = seeds / entries
    assert ((first - expected) ** 2 / expected).sum() < 2 * entries
    assert apart < 2 * expected


def test_an_error_within_leaves_the_model_as_it_was():
    anatomy = random_anatomy("gpt_neox")
    before = weights_of(anatomy)
    with pytest.raises(ZeroDivisionError), shuffled_mlps(anatomy, seed=0):
        raise ZeroDivisionError
    assert all(torch.equal(weight, before[name]) for name, weight in anatomy.model.named_parameters())


def test_a_model_that_was_loaded_is_shuffled_in_memory_only(tmp_path):
    """Weights of the precision asked for may be the file itself, mapped into memory."""
    file = save_model(tmp_path) / "model.safetensors"
    saved = file.read_bytes()
    shuffled_weights(load(tmp_path, device="cpu"), seed=0)
    assert file.read_bytes() == saved


def test_the_interval_of_shuffled_weights_holds_other_shuffles():
    """One shuffle's interval over pairs does not: nearly all its likes lie outside."""
    rng, pairs = np.random.default_rng(0), 400
    values = 0.5 + 0.05 * rng.normal(size=(60, 1, 1)) + 0.1 * rng.normal(size=(60, pairs, 1))
    counts = resampled(pairs, rng)
    found, others = resample(values[:20], counts, rng), np.median(values[20:, :, 0], axis=1)
    low, high = np.quantile(found.median[1:, 0], (0.025, 0.975))
    assert ((others > low) & (others < high)).mean() > 0.8
    low, high = np.quantile(found.pairs[1:, 0], (0.025, 0.975))
    assert ((others > low) & (others < high)).mean() < 0.4
    assert found.median[0, 0] == pytest.approx(np.median(values[:20, :, 0], axis=1).mean())


def test_known_names_and_shuffled_weights_are_compared_over_the_same_pairs():
    """Pairs that differ widely and networks that differ by a shift of all pairs: the difference has no spread."""
    rng = np.random.default_rng(0)
    one = rng.uniform(0, 1, (1, 200, 1))
    counts = resampled(200, rng)
    known, shuffled = (resample(values, counts, rng) for values in (one, np.repeat(one - 0.2, 5, axis=0)))
    assert np.allclose(known.median - shuffled.median, 0.2)


def linear_tables(anatomy, known: pl.DataFrame, table: pl.DataFrame, lookup: tuple[int, int] | None):
    circuit = Circuit(lookup_at="final_name", concatenate=None, lookup=lookup, extract=())
    found = linear_structure(anatomy, known, table, pairs=200, shuffles=8, **SIZE)
    return {"linear_structure": found, "circuit": circuit.to_table()}


def mixing() -> dict[str, pl.DataFrame]:
    """A random model: what it makes of a pair has nothing to do with which pairs are known."""
    known = prompts_of(random_names(200), before=2)
    anatomy = random_anatomy("gpt_neox", dtype=torch.float64, vocabulary=300)
    return linear_tables(anatomy, known, known, (1, 2))


def test_unknown_names_break_as_much_where_mlps_mix_any_pair_and_not_where_they_know_pairs():
    row = judged("unknown-names-break-as-much", mixing())
    assert row["verdict"] == SUPPORTED and row["high"] < 0.1 and row["n"] > 30
    cells = hypotheses.entity_cells()
    prompts = cells.prompts()
    found = linear_tables(cells.anatomy, prompts, prompts, (1, 1))
    row = judged("unknown-names-break-as-much", found)
    assert row["verdict"] == CONTRADICTED and row["value"] > 0.9


def test_few_pairs_show_no_equivalence():
    """The same model and hardly any names: the ratios are as near, but not surely."""
    known = prompts_of(random_names(26), before=2)
    anatomy = random_anatomy("gpt_neox", dtype=torch.float64, vocabulary=300)
    row = judged("unknown-names-break-as-much", linear_tables(anatomy, known, known, (1, 2)))
    assert row["verdict"] in (UNDECIDED, NOT_APPLICABLE)


def test_mlps_that_know_pairs_break_more_than_shuffled_ones_and_shuffled_ones_do_not():
    cells = hypotheses.entity_cells()
    prompts, claim = cells.prompts(), "mlp-outputs-break-structure"
    assert judged(claim, linear_tables(cells.anatomy, prompts, prompts, (1, 1)))["verdict"] == SUPPORTED
    with shuffled_mlps(cells.anatomy, seed=99):
        found = linear_tables(cells.anatomy, prompts, prompts, (1, 1))
    assert judged(claim, found)["verdict"] in {UNDECIDED, CONTRADICTED}


def test_the_residual_breaks_with_depth_where_pairs_are_looked_up_and_not_in_a_sum():
    cells = hypotheses.entity_cells()
    prompts = cells.prompts()
    claim = "residual-structure-breaks-with-depth"
    assert judged(claim, linear_tables(cells.anatomy, prompts, prompts, (1, 1)))["verdict"] == SUPPORTED
    for block in (made := planted.at_name(firsts=12, lasts=12)).anatomy.blocks:
        block.mlp_out.weight.zero_()
    known = made.prompts.sample(60, seed=0)
    row = judged(claim, linear_tables(made.anatomy, known, known, (1, 1)))
    assert row["verdict"] == UNDECIDED and row["value"] == row["low"] == row["high"] == 0


# the orthogonal remainder


def slow_remainders(x: np.ndarray) -> np.ndarray:
    """Each row minus its projection on the others, by least squares, one at a time."""
    found = np.empty_like(x)
    for i, row in enumerate(x):
        others = np.delete(x, i, axis=0)
        found[i] = row - others.T @ np.linalg.lstsq(others.T, row, rcond=1e-10)[0]
    return found


@given(st.integers(2, 14), st.integers(1, 14), st.integers(1, 14), st.integers(0, 100))
@settings(max_examples=80, deadline=None)
def test_remainders_are_what_projection_leaves_for_any_rank(n, d, rank, seed):
    rng = np.random.default_rng(seed)
    rank = min(rank, n, d)
    x = rng.normal(size=(n, rank)) @ rng.normal(size=(rank, d))
    kept = np.linalg.svd(x, full_matrices=False)[0][:, :rank]
    assume(rank == n or (kept**2).sum(axis=1).max() < 1 - 10 * LEVERAGE)  # no row is all but independent
    found, slow = remainders(x, eps=1e-12), slow_remainders(x)
    assert found.rank == rank and np.allclose(found.vectors, slow, atol=1e-6)
    assert found.independent.all() if rank == n else not found.independent.any()


def test_a_row_apart_from_dependent_ones_has_a_remainder_of_its_own():
    x = np.array([[1.0, 0, 0], [2, 0, 0], [1, 1, 0]])
    found = remainders(x, eps=1e-12)
    assert found.independent.tolist() == [False, False, True] and found.rank == 2
    assert np.allclose(found.vectors, [[0, 0, 0], [0, 0, 0], [0, 1, 0]])
    assert remainders(np.zeros((3, 4)), eps=1e-12).rank == 0


def test_rounding_of_the_model_s_dtype_is_no_rank():
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(20, 3)) @ rng.normal(size=(3, 30))
    rounded = exact.astype(np.float32).astype(np.float64)
    assert remainders(rounded, eps=np.finfo(np.float32).eps).rank == 3
    assert remainders(rounded, eps=np.finfo(np.float64).eps).rank == 20


@pytest.mark.parametrize("family", FAMILIES)
def test_the_score_is_the_remainder_s_part_of_the_pre_activation(family):
    anatomy, known = random_study(family, n=30)
    layer, index = 1, 5
    (resid,) = mlp_inputs(anatomy, known, [layer], 8)
    into, scale = input_weights(anatomy, layer, index), norm_scale(anatomy, layer, resid)
    pre = np.empty(known.height)
    for group in groups_of(known):
        tokens = torch.tensor(known["token_ids"][group.rows].to_list())
        at = torch.full((len(tokens),), group.layout.final_name)
        pre[group.rows] = run(anatomy, tokens, reads=[Read(site=Site("pre", layer), at=at)]).values[0][
            :, index
        ]
    offset = pre - resid @ into / scale
    assert np.allclose(offset, offset[0], atol=1e-6), "up to the bias, which is the same for all"


def test_with_more_subjects_than_dimensions_nothing_is_left_and_the_table_says_so():
    anatomy, known = random_study("gpt_neox", n=90)
    assert known.height > anatomy.d_model
    neurons = NEURONS.with_columns(pl.Series("answer", ["x", "y"]))
    table = orthogonal_remainder(anatomy, known, neurons, **SIZE)
    assert table.schema == REMAINDER
    whole = table.filter(others="all")
    assert set(whole["status"]) == {"undefined: rank is full"} and whole["rank"][0] == anatomy.d_model
    assert whole["auc"].null_count() == 2 and whole["n"].to_list() == [0, 0]
    block = table.filter(others="block")
    assert set(block["status"]) == {"defined"} and block["n"].to_list() == [90, 90]
    assert block["spanned"].max() < anatomy.d_model // 2 and block["auc"].is_between(0.3, 0.7).all()
    said = remainder_show.remainder_findings(table)
    assert "span all" in said[0] and "withdrawn" in said[0] and "block" not in " ".join(said)
    few = orthogonal_remainder(anatomy, known.head(10), neurons, **SIZE)
    assert (
        set(few["others"]) == {"all"} and few["rank"].to_list() == [10, 10] and few["n"].to_list() == [10, 10]
    )
    assert few["length_high"].max() < 1


def test_an_answer_written_in_a_direction_of_its_own_is_found_in_the_remainder():
    """Residuals of noise in more dimensions than subjects: what the neuron reads survives the projection."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 400))
    positive = np.arange(60) < 20
    x[positive, 0] += 6
    scores = remainders(x, eps=1e-12).vectors[:, 0]
    assert auc(scores, positive) > 0.8
    assert remainders(np.concatenate([x, np.eye(400)]), eps=1e-12).rank == 400


def test_the_best_neuron_of_each_answer_is_that_of_the_first_half():
    scan = pl.DataFrame(
        [("first", "x", 1, 2, 7, -1), ("first", "x", 2, 2, 8, 1), ("second", "x", 1, 3, 9, 1)],
        schema=["chosen_on", "answer", "rank", "layer", "index", "sign"],
        orient="row",
    )
    assert best_neurons(scan).rows() == [("x", 2, 7, -1)]


# nothing to see, and how it looks


def empty_tables() -> dict[str, pl.DataFrame]:
    anatomy, known = random_study("gpt_neox", n=8)
    return name_tables(anatomy, known.head(0), known)


def test_nobody_known_gives_empty_tables_figures_and_sentences_that_say_so():
    tables = empty_tables()
    assert [tables[name].schema for name in tables] == [NORMS, LINEAR, REMAINDER]
    assert all(table.is_empty() for table in tables.values())
    for name, said in SHOWS.items():
        (sentence,) = said.sentences(tables)
        assert sentence.endswith("."), name
    draw(tables)


def test_one_known_subject_and_one_pair_have_no_interval():
    anatomy, known = random_study("gpt_neox", n=40)
    two = known.head(2)
    tables = name_tables(anatomy, two, known, NEURONS.with_columns(answer=pl.lit("x")))
    for name, said in SHOWS.items():
        assert said.sentences(tables), name
    draw(tables)
    assert name_tables(anatomy, known.head(1), known)["orthogonal_remainder"].is_empty()


def draw(tables: dict[str, pl.DataFrame], lookup: tuple[int, int] | None = (1, 2)) -> None:
    circuit = Circuit(lookup_at="final_name", concatenate=None, lookup=lookup, extract=()).to_table()
    figures = [
        norms_show.draw_mlp_norms(mlp_norms=tables["mlp_norms"], circuit=circuit),
        linear_show.draw_linear_structure(linear_structure=tables["linear_structure"], circuit=circuit),
        remainder_show.draw_orthogonal_remainder(orthogonal_remainder=tables["orthogonal_remainder"]),
    ]
    for figure in figures:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        for legend in figure.legends:
            box, page = legend.get_window_extent(canvas.get_renderer()), figure.bbox
            assert box.x0 >= -0.5 and box.x1 <= page.x1 + 0.5 and box.y1 <= page.y1 + 0.5


@pytest.mark.parametrize("layers", [1, 40])
def test_figures_hold_models_of_any_depth_and_two_conditions(agreeing, layers):
    tables = {}
    for name in ("mlp_norms", "linear_structure"):
        row = agreeing[2][name].filter(layer=1)
        deep = pl.concat([row.with_columns(layer=pl.lit(i, dtype=pl.Int64)) for i in range(layers)])
        both = ("full", "name_only")
        tables[name] = pl.concat([deep.with_columns(condition=pl.lit(condition)) for condition in both])
    tables["orthogonal_remainder"] = agreeing[2]["orthogonal_remainder"]
    draw(tables, lookup=None)


def test_sentences_carry_n_interval_and_baseline(agreeing):
    _, _, tables = agreeing
    for name, needed in (
        ("mlp_norms", ("n = 32", "chance 50.0", "[")),
        ("linear_structure", ("pairs", "0 %", "[")),
    ):
        text = " ".join(SHOWS[name].sentences(tables))
        assert all(part in text for part in needed), text


def test_prompts_of_a_real_tokenizer_are_paired_token_by_token():
    tokens = tokenizer()
    names = [
        "Tiger Woods",
        "Tom Brady",
        "Babe Ruth",
        "Michael Jordan",
        "Bo Li",
        "Al Oz",
        "Bo Oz",
        "Cy Li",
        "Al Uh",
    ]
    subjects = pl.DataFrame({"subject": names, "answer": ["golf"] * len(names)})
    for condition in ("full", "name_only"):
        prompts = prompt_table(subjects, tokens, 0, condition)
        made = unknown_pairings(prompts, prompts, seed=0)
        assert made.height and set(made.columns) == {*COLUMNS, "prefix_of", "last_of"}
        for row in made.iter_rows(named=True):
            own, other = (prompts.row(row[part], named=True) for part in ("prefix_of", "last_of"))
            at = row["final_name"]
            assert row["token_ids"][:at] == own["token_ids"][:at]
            assert row["token_ids"][at:] == other["token_ids"][at:]
        anatomy = random_anatomy("gpt_neox", vocabulary=len(tokens))
        values = read_last(anatomy, torch.tensor(made["token_ids"][:1].to_list()), ["mlp_out"])
        assert values[0].shape == (1, anatomy.n_layers, anatomy.d_model)
