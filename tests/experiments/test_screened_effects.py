"""P2.7 with a screen: what is run is what `total_effects` gives, what is not is an estimate, and says how far it is off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from factfinding.config import ComputeConfig, InterventionsConfig
from factfinding.data.prompts import prompt_table
from factfinding.engine.certified import against_values, certified
from factfinding.engine.engines import engine_of
from factfinding.engine.sites import parse
from factfinding.engine.trace import Edit, Read, run
from factfinding.experiments.circuit.compute import extracting
from factfinding.experiments.total_effects import effects as experiment
from factfinding.experiments.total_effects.compute import compute
from factfinding.experiments.total_effects.effects import Part, measured, parts_of, screen_of
from factfinding.experiments.total_effects.show import draw_total_effects, sentences
from factfinding.files import write_table
from factfinding.findings.words import told
from factfinding.inputs import Inputs, Settings
from factfinding.least import LEAST_SHARE
from factfinding.methods.groups import CORRUPT, KINDS
from factfinding.methods.patched import sample
from factfinding.methods.screen import Screen, certificate, choose
from factfinding.tables import empty
from helpers import planted
from helpers.figures import assert_readable
from helpers.head_tables import planted_candidates
from helpers.inputs import quiet
from helpers.intervention_tables import total_effects_of
from helpers.models import random_anatomy, tokenizer
from helpers.patching import attribute, logit_difference

SCREEN = Screen(below=LEAST_SHARE, sample=25, seed=0)
COARSE = Screen(below=0.3, sample=25, seed=0)
"""For random weights, in which every node does something and the whole swap is little."""
NAMES = ["Tiger Woods", "Tom Brady", "Babe Ruth", "Michael Jordan", "Bo Li", "Al Oz", "Bo Oz", "Al Li"]
WHERE = ["node", "role", "number", "kind"]


def drawn_of(family: str):
    """A random model, and prompts of names of several lengths in two answers."""
    tokens = tokenizer()
    anatomy = random_anatomy(family, dtype=torch.float64, vocabulary=len(tokens))
    anatomy.tokenizer = tokens
    subjects = pl.DataFrame({"subject": NAMES, "answer": ["baseball", "basketball"] * 4})
    ids = tokens.convert_tokens_to_ids(["Ġbaseball", "Ġbasketball"])
    candidates = pl.DataFrame({"answer": ["baseball", "basketball"], "token_id": ids})
    return anatomy, sample(prompt_table(subjects, tokens, 0, "full"), candidates, subjects=8, draws=1, seed=0)


def both(anatomy, drawn, **options) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The effects under a screen, and what those drawn say of it."""
    found = total_effects_of(anatomy, drawn, **options)
    return found.table, found.screen


def drawn_planted(answer: str | None = None):
    """A planted model, and its subjects, of one answer or of both."""
    model = planted.at_name(firsts=6, lasts=6)
    drawn = sample(model.prompts, planted_candidates(model), subjects=36, draws=1, seed=0)
    if answer is not None:
        drawn = replace(drawn, rows=np.flatnonzero(model.prompts["answer"] == answer))
    return model.anatomy, drawn


@pytest.fixture(scope="module", params=["gpt_neox", "llama"])
def screened(request):
    anatomy, drawn = drawn_of(request.param)
    options = {"batch_size": 3, "seed": 0}
    table, screen = both(anatomy, drawn, screen=COARSE, **options)
    return anatomy, drawn, table, screen, total_effects_of(anatomy, drawn, **options).table


def test_what_is_run_is_what_the_whole_table_has_and_the_rest_is_small(screened):
    _, _, table, screen, whole = screened
    assert table.select(WHERE).equals(whole.select(WHERE)) and whole["exact"].all()
    assert 0.2 < table["exact"].mean() < 0.95
    numbers = ["effect", "effect_low", "effect_high", "whole_swap", "share", "n"]
    assert_frame_equal(
        table.filter("exact").select(numbers), whole.filter(table["exact"]).select(numbers), abs_tol=1e-9
    )
    rest = table.filter(~pl.col("exact"))
    assert (rest["effect"].abs() < COARSE.below * rest["whole_swap"].abs()).all()
    assert rest["behind"].null_count() == rest.height and rest["error"].null_count() == 0
    assert table.filter("exact")["error"].null_count() == table["exact"].sum()
    together = screen.filter(type="all")
    assert (together["large"] + together["n"]).sum() == table["exact"].sum()
    assert together["estimated"].sum() == rest.height and (together["n"] == COARSE.sample).all()


def test_whole_layers_where_claims_look_and_the_leader_of_each_position_are_run(screened):
    _, _, table, _, _ = screened
    layers = table.filter(pl.col("type") != "head", pl.col("role").is_in(["final_name", "end"]))
    assert layers.height and layers["exact"].all()
    places = table.group_by("role", "number", "kind", pl.col("type") == "attention").agg(
        pl.col("exact").any()
    )
    assert places["exact"].all()
    leaders = table.filter(pl.col("behind") == 0).group_by("role", "number", "kind").len()
    assert (leaders["len"] >= 2).all(), "one among the layers' attention, one among heads and MLPs"


@pytest.mark.parametrize("kind", [CORRUPT, "zero"])
def test_an_estimate_is_the_gradient_times_what_is_put_in(screened, kind):
    anatomy, drawn, table, _, _ = screened
    rows = table.filter(pl.col("role").is_in(["final_name", "end"]), ~pl.col("exact"), kind=kind, number=0)
    assert rows.height
    for row in rows.gather_every(max(1, rows.height // 3)).iter_rows(named=True):
        assert row["effect"] == pytest.approx(slow_estimate(anatomy, drawn, row), abs=1e-10), row["node"]


def slow_estimate(anatomy, drawn, row):
    """One estimate, subject by subject, by the attribution of the tests."""
    site, found = parse(row["node"]), []
    ids = torch.tensor(drawn.candidates["token_id"].to_list())
    for subject in drawn.rows:
        prompt = drawn.prompts.row(int(subject), named=True)
        at, end = torch.tensor([prompt[row["role"]]]), torch.tensor([prompt["end"]])
        partner = drawn.prompts.row(int(drawn.corrupt[subject]), named=True)
        tokens, other = (torch.tensor([some["token_ids"]]) for some in (prompt, partner))
        value = run(anatomy, other, reads=[Read(site=site, at=at)]).values[0]
        value = torch.zeros_like(value) if row["kind"] == "zero" else value
        answers = (ids[drawn.labels[[s]]] for s in (subject, drawn.corrupt[subject]))
        edit = Edit(site=site, at=at, value=value)
        found.append(attribute(anatomy, tokens, [edit], logit_difference(*answers), logits_at=end).item())
    return np.mean(found)


def test_the_error_beside_an_estimate_is_that_of_those_drawn(screened):
    _, _, table, screen, whole = screened
    heads = screen.filter(type="head", kind=CORRUPT)
    assert heads["n"].item() >= 10
    error = table.filter(~pl.col("exact"), type="head", kind=CORRUPT)
    assert np.allclose(error["error"], heads["error"].item() * error["whole_swap"].abs())
    off = (table["effect"] - whole["effect"]).abs() / table["whole_swap"].abs()
    share_off = (off > table["error"] / table["whole_swap"].abs()).filter(~table["exact"]).mean()
    assert share_off < 0.2, "95 % of those drawn; the others are of the same kind"


def test_with_every_estimate_checked_nothing_is_estimated(screened):
    anatomy, drawn, _, _, whole = screened
    everything = replace(COARSE, sample=100_000)
    table, screen = both(anatomy, drawn, screen=everything, batch_size=8, seed=0)
    assert table["exact"].all() and (screen["estimated"] == 0).all()
    assert_frame_equal(table, whole, abs_tol=1e-9)
    counted = (whole["share"].abs() >= LEAST_SHARE).sum()
    assert screen.filter(type="all")["found"].sum() == counted


# planted


def test_the_planted_nodes_are_found_among_few_that_are_run():
    anatomy, drawn = drawn_planted()
    few = replace(SCREEN, sample=20)
    table, screen = both(anatomy, drawn, kinds=[CORRUPT], screen=few, batch_size=16, seed=0)
    found = table.filter(pl.col("share").abs() >= LEAST_SHARE)
    assert found["exact"].all() and set(found.select("node", "role").rows()) == {
        ("L0H1", "final_name"), ("attn_out:0", "final_name"), ("mlp_out:1", "final_name"), ("L2H2", "end"),
        ("attn_out:2", "end"),
    }  # fmt: skip
    together = screen.filter(type="all").row(0, named=True)
    assert together["estimated"] > together["large"] + together["n"]
    assert together["found"] == 5 and together["missed"] == 0 < together["missed_high"]
    assert extracting(table, []) == ("L2H2",)


def test_where_attribution_is_blind_the_sample_says_so():
    """Of names whose signs differ both neurons of the lookup are off, and nothing has a gradient through them: what the head of
    layer 0 brings would switch one on, but its estimate is zero."""
    anatomy, drawn = drawn_planted("baseball")
    options = {"kinds": [CORRUPT], "batch_size": 16, "seed": 0}
    checked, screen = both(anatomy, drawn, screen=replace(SCREEN, sample=1000), **options)
    head = screen.filter(type="head").row(0, named=True)
    assert head["missed"] * head["n"] == pytest.approx(1) and head["missed_low"] > 0
    blind = {"node": "L0H1", "role": "final_name"}
    share = checked.filter(**blind)["share"].item()
    assert share > 0.3 and head["largest_error"] == pytest.approx(share, abs=1e-3)
    estimated = [
        table.filter(**blind, exact=False)
        for seed in range(9)
        for table, _ in [both(anatomy, drawn, screen=Screen(below=0.01, sample=5, seed=seed), **options)]
    ]
    missed = [row for row in estimated if row.height]
    assert missed and all(row["effect"].item() == pytest.approx(0, abs=1e-6) for row in missed)


def test_the_page_says_what_is_estimated_and_warns_where_the_screen_is_blind():
    anatomy, drawn = drawn_planted()
    few = replace(SCREEN, sample=20)
    table, screen = both(anatomy, drawn, screen=few, batch_size=16, seed=0)
    said = " ".join(sentences({"total_effects": table, "total_effects_screen": screen}))
    assert "are estimates, each below 1\N{NO-BREAK SPACE}% of the whole swap" in said
    assert "Attribution is blind" not in said
    blind = screen.with_columns(missed=0.3, missed_low=0.2, missed_high=0.4, estimated=400)
    assert (
        "Attribution is blind to many effects"
        in sentences({"total_effects": table, "total_effects_screen": blind})[-1]
    )
    assert_readable(draw_total_effects(total_effects=table, total_effects_screen=screen))


# by differences


@pytest.mark.parametrize("screen", [None, COARSE])
@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_differences_give_what_values_give(family, screen):
    anatomy, drawn = drawn_of(family)
    part = Part(name="all", drawn=drawn, kinds=(*KINDS, CORRUPT), batch_size=3)
    engine = engine_of(anatomy, "difference")
    values, changes = (measured(anatomy, part, engine=one, screen=screen) for one in (None, engine))
    assert_frame_equal(changes, values, abs_tol=1e-9)


def test_the_page_says_how_effects_were_run_and_how_far_off_they_are():
    anatomy, drawn = drawn_planted()
    part = Part(name="patched", drawn=drawn, kinds=(CORRUPT,), batch_size=16)
    engine = certified(anatomy, ComputeConfig(engine="difference", twin_rows=12), seed=0)
    measured(anatomy, part, engine=engine)
    twin = against_values("total_effects_twin", engine, quiet)
    table = total_effects_of(anatomy, drawn, batch_size=16, seed=0).table
    said = told("total_effects", {"total_effects": table, "total_effects_twin": twin})
    assert "difference, full products; 12 rows, run again by values in float64, differ by" in said[-1]


# by several jobs


@pytest.mark.parametrize("screen", [None, COARSE])
def test_jobs_that_share_the_layers_give_the_same_table_together(screen):
    anatomy, drawn = drawn_of("gpt_neox")
    options = {"screen": screen, "batch_size": 3, "seed": 0}
    alone, together = (total_effects_of(anatomy, drawn, shards=shards, **options) for shards in (1, 3))
    assert_frame_equal(together.table, alone.table, abs_tol=1e-9)
    assert_frame_equal(together.screen, alone.screen, abs_tol=1e-9)
    part = Part(name="all", drawn=drawn, kinds=(CORRUPT,), batch_size=3)
    for shard in (0, 2):
        layers = measured(anatomy, part, screen=screen, shard=shard, shards=3)["layer"].unique().to_list()
        assert layers and all(layer % 3 == shard for layer in layers)


# when


@pytest.mark.parametrize("screen, most, screened", [
    ("auto", 1e15, False), ("auto", 1.0, True), ("never", 1.0, False), ("always", 1e15, True),
])  # fmt: skip
def test_the_screen_is_used_where_the_work_is_large_or_as_the_configuration_says(
    monkeypatch, screen, most, screened
):
    monkeypatch.setattr(experiment, "EXACT_UP_TO", most)
    model = planted.at_name()
    section = InterventionsConfig(screen=screen, node_subjects=4, patched_subjects=8, screen_sample=20)
    parts = parts_of(model.prompts, planted_candidates(model), section, batch_size=16)
    assert [(part.name, part.kinds, len(part.drawn.rows)) for part in parts] == [
        ("ablated", KINDS, 4), ("patched", (CORRUPT,), 8),
    ]  # fmt: skip
    expected = Screen(below=section.screen_below, sample=20, seed=0) if screened else None
    assert screen_of(model.anatomy, parts, section, quiet) == expected


@pytest.mark.parametrize("screen", [None, SCREEN])
def test_the_files_of_two_jobs_make_the_tables(screen, tmp_path):
    model, section = (
        planted.at_name(),
        InterventionsConfig(node_subjects=4, patched_subjects=8, screen_sample=25),
    )
    parts = parts_of(model.prompts, planted_candidates(model), section, batch_size=16)
    files = []
    for shard in (0, 1):
        files.append(tmp_path / f"{shard}_effects.parquet")
        found = [measured(model.anatomy, part, screen=screen, shard=shard, shards=2) for part in parts]
        write_table(pl.concat(found), files[-1])
    write_table(empty("total_effects_twin"), tmp_path / "twin.parquet")
    inputs = Inputs(tmp_path, declared=(), named={"effects": files, "twins": [tmp_path / "twin.parquet"]})
    tables = compute(inputs, Settings({"interventions": section.model_dump()}), quiet)
    assert tables["total_effects"]["exact"].all() == (screen is None)
    assert (
        set(tables["total_effects"]["kind"]) == {*KINDS, CORRUPT} and tables["total_effects_twin"].is_empty()
    )
    kinds = tables["total_effects_screen"].filter(type="all")["kind"].to_list()
    assert kinds == ([] if screen is None else [*KINDS, CORRUPT])


def test_the_work_is_counted_from_shapes():
    model = planted.at_name()
    drawn = sample(model.prompts, planted_candidates(model), subjects=7, draws=2, seed=0)
    layout = drawn.sampled[0].layout
    positions = layout.end - layout.first_name + 1
    weights = sum(w.numel() for w in model.anatomy.blocks[0].module.parameters())
    once = 7 * (4 + 2) * (3 + 2 + 1) * weights * positions * (positions + 1) / 2
    assert experiment.multiplications(model.anatomy, drawn, [CORRUPT]) == once
    assert experiment.multiplications(model.anatomy, drawn, KINDS) == 6 * once, "two draws of two kinds"


# the choice


def estimates(**values) -> dict:
    """Estimates at one position, by node: heads `h0` and so on."""
    subjects = np.arange(4)
    return {
        (0, "relation", 0, int(name[1:]), CORRUPT): (np.array(given_, dtype=float), subjects)
        for name, given_ in values.items()
    }


def chosen(found: dict, *, below=0.01, n=0, swap=-10.0, rival=lambda key: 0):
    whole = dict.fromkeys(range(4), swap)
    options = {"always": lambda key: False, "rivals": rival}
    choice = choose(found, whole, Screen(below=below, sample=n, seed=0), **options)
    return {key[3] for key in choice.large}, {key[3] for key in choice.drawn}


def test_estimates_that_cancel_over_subjects_are_large_all_the_same():
    found = estimates(h0=[1, 1, 1, 1], h1=[0.5, -0.5, 0.5, -0.5], h2=[0.05, 0.05, 0.05, 0.05])
    assert chosen(found) == ({0, 1}, set())
    assert chosen(found, n=9) == ({0, 1}, {2})
    assert chosen(found, below=0.5) == ({0}, set()), "the largest of the position"
    assert chosen(found, swap=0.0) == ({0, 1, 2}, set()), "nothing is small against nothing"


def test_an_estimate_on_the_border_moves_itself_and_leaves_the_sample_as_it_is():
    small = {f"h{i}": [0.01] * 4 for i in range(1, 60)}
    _, one = chosen(estimates(h0=[1] * 4, **small), n=20)
    _, other = chosen(estimates(h0=[1] * 4, **small | {f"h{min(one)}": [0.2] * 4}), n=20)
    assert len(one) == len(other) == 20 and len(one & other) == 19 and min(one) not in other


def test_the_certificate_counts_what_was_missed_and_how_far_the_estimates_were_off():
    found = estimates(h0=[1] * 4, **{f"h{i}": [0.01] * 4 for i in range(1, 41)})
    whole = dict.fromkeys(range(4), -10.0)
    screen = Screen(below=0.01, sample=40, seed=0)
    choice = choose(found, whole, screen, always=lambda key: False, rivals=lambda key: 0)
    exact = {key: (values + (0.5 if key[3] in (3, 4) else 0.0), who) for key, (values, who) in found.items()}
    row = next(row for row in certificate(found, exact, choice, whole, screen) if row["type"] == "all")
    assert (row["replacements"], row["large"], row["n"], row["estimated"]) == (41, 1, 40, 0)
    assert row["missed"] == 2 / 40 and row["missed_low"] < 0.05 < row["missed_high"]
    assert row["found"] == 3 and row["largest_error"] == pytest.approx(0.05)
    none = certificate(found, found, choice, whole, screen)[0]
    assert none["missed"] == 0 and none["missed_high"] > 0.05 and none["largest_error"] == 0
