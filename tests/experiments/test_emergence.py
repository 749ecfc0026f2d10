"""P1.5 on lists of planted models: which stage comes when is known."""

from __future__ import annotations

import json
import os
import runpy
import shutil
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from factfinding.config import Config, validate
from factfinding.errors import InputError
from factfinding.experiments.emergence.compute import (
    FIRST,
    LATER,
    MEASURES,
    TABLES,
    cohorts_of,
    compute,
    emergence,
    where,
)
from factfinding.experiments.emergence.measure import seen
from factfinding.experiments.emergence.order import Course, Gap, gap, half_steps, whole
from factfinding.experiments.emergence.show import draw_emergence, draw_emergence_layers
from factfinding.files import read_json
from factfinding.findings.words import told
from factfinding.inputs import Inputs, Settings
from factfinding.methods.circuit import Circuit
from factfinding.model.anatomy import rotate
from factfinding.model.checkpoints import NONE, Checkpoints, read_checkpoints, write_checkpoints
from factfinding.model.source import describe, load_source
from factfinding.preflight import preflight
from factfinding.tables import schema_of
from helpers import ROOT, planted, variants
from helpers.figures import assert_readable
from helpers.head_tables import planted_candidates
from helpers.planted_course import CIRCUIT, FITTING, course, in_order, with_stages

STAGES = ("concatenation", "lookup", "extraction")
ON_CPU = SimpleNamespace(dtype="float32", device="cpu")
NOISY = planted.at_name(firsts=6, lasts=6, noise=0.05)


@cache
def tables_of(*stages: str) -> dict[str, pl.DataFrame]:
    return course(in_order(*stages))


def halves(tables: dict[str, pl.DataFrame]) -> dict[str, dict]:
    return {row["measure"]: row for row in tables["emergence_halves"].iter_rows(named=True)}


@pytest.mark.parametrize(
    "stages",
    [
        ("concatenation", "lookup", "extraction"),
        ("extraction", "concatenation", "lookup"),
        ("concatenation", "extraction", "lookup"),
    ],
)
def test_the_planted_order_is_found(stages):
    """Whatever is planted first, each stage is seen at the checkpoint that has it, and not before."""
    tables, found = tables_of(*stages), halves(tables_of(*stages))
    for place, stage in enumerate(stages, 1):
        assert (found[stage]["after_step"], found[stage]["by_step"]) == (100 * (place - 1), 100 * place), (
            stage
        )
    assert (found["recall"]["after_step"], found["recall"]["by_step"]) == (200, 300)
    for row in tables["emergence_order"].iter_rows(named=True):
        if not {row["measure"], row["other"]} <= set(stages):
            continue
        one, other = (stages.index(row[name]) for name in ("measure", "other"))
        assert not row["same_gap"] and row["n"] == 64
        assert row["later_low"] > 0 if other > one else row["later_high"] < 0, row


def test_what_the_answer_loses_without_a_stage_comes_with_the_answer_whatever_came_first():
    """Why knocking out alone cannot tell the order."""
    for stages in (("concatenation", "lookup", "extraction"), ("extraction", "concatenation", "lookup")):
        found = halves(tables_of(*stages))
        for name in ("concatenation_used", "lookup_used", "extraction_used"):
            assert found[name]["by_step"] == 300 and found[name]["final"] == pytest.approx(16, abs=0.01)


def test_the_values_are_those_that_were_planted():
    table = tables_of("extraction", "concatenation", "lookup")["emergence"]
    last, first = (
        table.filter(step=step).rows_by_key("measure", named=True, unique=True) for step in (300, 0)
    )
    assert last["recall"]["value"] == last["lookup"]["value"] == 1 and first["recall"]["value"] == 0.5
    assert last["concatenation"]["value"] == last["attends"]["value"] == pytest.approx(1)
    assert first["concatenation"]["value"] == pytest.approx(first["concatenation"]["baseline"]) == 1 / 13
    assert first["extraction"]["value"] == first["extraction"]["baseline"] == 0
    assert last["logit_difference"]["value"] == pytest.approx(2 * planted.LOGIT, abs=0.01)
    assert {row["of_final"] for row in last.values()} == {1.0}
    assert table["told"].null_count() == table.height and set(table["cohort"]) == {"all"}
    layers = tables_of("extraction", "concatenation", "lookup")["emergence_layers"]
    by_layer = {step: layers.filter(step=step).sort("layer")["accuracy"].to_list() for step in (0, 300)}
    assert (
        by_layer[300][0] == by_layer[0][0] and max(by_layer[300][:2]) < 0.6 and by_layer[300][2:] == [1] * 3
    )


def test_a_model_that_looks_the_fact_up_elsewhere_has_no_lookup_at_the_name():
    found = halves(course([with_stages(firsts=10), variants.at_end()]))
    assert found["recall"]["by_step"] == 100
    for stage in STAGES:
        assert found[stage]["half"] is None and found[stage]["from_start"] is None
    said = told("emergence", course([with_stages(firsts=10), variants.at_end()]))
    assert said[0].endswith("not surely above the baseline in concatenation, extraction and the lookup.")


def plain(made, row: int, *, hide=(), shut=(), average=None, place=None, move=None):
    """One prompt through the blocks by hand. hide, shut: (layers, queries, keys) that see nothing. average: the MLP's mean
    output at the name by layer. place: a layer after which `move` is added to the residual stream there. The logits at END; the
    residual stream at the name by layer, its MLP outputs, and the patterns."""
    model, tokens = made.anatomy, made.tokens[row][None]
    name, end = int(made.final_name[row]), int(made.end[row])
    n = tokens.shape[1]
    rotary, resid = model.rotary(torch.arange(n)[None]), model.embedding(tokens)
    stream, mlps, patterns = [resid[0, name]], [], []
    for layer, block in enumerate(model.blocks):
        normed = block.norm_attn(resid)
        q, k, v = block.family.project(block.attn, normed, block.d_head)
        q, k = (rotate(x, *rotary) for x in (q, k))
        scores = (q @ k.transpose(-1, -2))[0] * block.scale
        for layers, queries, keys in (*hide, *shut):
            if layer in layers:
                for query in queries:
                    scores[:, query, list(keys)] = -torch.inf
        scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf)
        pattern = scores.softmax(-1)
        patterns.append(pattern)
        attn = block.out_proj((pattern @ v[0]).transpose(0, 1).flatten(1))[None]
        mlp = block.mlp_out(block.mlp_act(block.mlp.dense_h_to_4h(block.norm_mlp(resid)))).clone()
        mlps.append(mlp[0, name].clone())
        if average is not None and layer in average:
            mlp[0, name] = average[layer]
        resid = resid + attn + mlp
        if layer == place:
            resid = resid.clone()
            resid[0, name] = resid[0, name] + move
        stream.append(resid[0, name])
    logits = model.unembed(model.final_norm(resid[0, end]))
    return logits, stream, mlps, patterns


def test_a_plain_loop_over_one_checkpoint_says_the_same():
    made, candidates = NOISY, planted_candidates(NOISY)
    drawn, _ = cohorts_of(made.prompts, candidates, NONE, most=36, seed=0)
    found = seen(made.anatomy, drawn, where(CIRCUIT, made.anatomy), batch_size=7, seed=3)
    answers = candidates["token_id"].to_list()
    own, partner = drawn.labels[drawn.rows], drawn.labels[drawn.corrupt[drawn.rows]]
    runs = [plain(made, row) for row in range(36)]
    mean = {layer: torch.stack([run[2][layer] for run in runs]).mean(0) for layer in (1, 2, 3)}
    first, name, end = int(made.first_name[0]), int(made.final_name[0]), int(made.end[0])
    changes = {
        "concatenation_used": {"hide": [(range(4), [name], range(first, name))]},
        "lookup_used": {"average": mean},
        "extraction_used": {"shut": [((2, 3), range(name + 1, end + 1), [name])]},
    }

    def difference(i: int, logits) -> float:
        return float(logits[answers[own[i]]] - logits[answers[partner[i]]])

    clean = [difference(i, runs[row][0]) for i, row in enumerate(drawn.rows)]
    assert np.allclose(found.values["logit_difference"], clean)
    assert found.values["recall"].mean() == np.mean(np.array(clean) > 0)
    for what, change in changes.items():
        lost = [clean[i] - difference(i, plain(made, row, **change)[0]) for i, row in enumerate(drawn.rows)]
        assert np.allclose(found.values[what], lost, atol=1e-6), what
    gathered = np.array(
        [[float(run[3][0][head, name, first:name].sum()) for head in range(4)] for run in runs]
    )
    assert np.allclose(found.values["concatenation"], gathered[drawn.rows, gathered.mean(0).argmax()])
    assert np.allclose(found.values["attends"], [float(runs[row][3][2][2, end, name]) for row in drawn.rows])
    for layer in range(5):
        assert np.allclose(found.resid[:, layer], np.stack([runs[row][1][layer] for row in drawn.rows]))

    # the push: slopes of the other half's subjects, by autograd through the loop
    half = np.random.default_rng(3).permutation(np.arange(36) % 2)
    slopes = np.zeros((36, 2, made.anatomy.d_model))
    for i, row in enumerate(drawn.rows):
        for answer in (0, 1):
            push = torch.zeros(made.anatomy.d_model, dtype=torch.float64, requires_grad=True)
            logits = plain(made, row, place=1, move=push)[0]
            (logits[answers[answer]] - logits[answers].mean()).backward()
            slopes[i, answer] = push.grad
    for i, row in enumerate(drawn.rows):
        toward = slopes[half != half[i]].mean(0)
        way = toward[partner[i]] - toward[own[i]]
        move = 0.1 * float(runs[row][1][2].norm()) * torch.from_numpy(way / np.linalg.norm(way))
        pushed = clean[i] - difference(i, plain(made, row, place=1, move=move)[0])
        assert found.values["extraction"][i] == pytest.approx(pushed, rel=1e-6), row


def test_subjects_are_one_group_or_those_told_about_first_and_later():
    made = planted.at_name(firsts=8, lasts=8)
    names = made.prompts["subject"].to_list()
    checkpoints = Checkpoints(sources={0: {}, 5: {}, 9: {}}, told=tuple(names), active={0: 12, 5: 12, 9: 64})
    drawn, cohorts = cohorts_of(made.prompts, planted_candidates(made), checkpoints, most=20, seed=0)
    first, later = cohorts
    assert (first.name, later.name) == (FIRST, LATER) and len(drawn.rows) == 12 + 20
    assert set(first.subjects["subject"]) == set(names[:12]) and not set(later.subjects["subject"]) & set(
        names[:12]
    )
    assert np.bincount(later.labels).tolist() == [10, 10]
    assert [names[row] for row in drawn.rows[later.at]] == later.subjects["subject"].to_list()
    pairs = [
        (step, model.anatomy)
        for step, model in zip((0, 5, 9), in_order("extraction", "concatenation")[:2] + [made], strict=True)
    ]
    found = emergence(pairs, drawn, cohorts, CIRCUIT, checkpoints, fitting=FITTING, batch_size=80, seed=0)
    shares = found["emergence"].filter(cohort="later", measure="recall")["told"].to_list()
    assert shares == [0.0, 0.0, 1.0]
    assert found["emergence"].filter(cohort="first", measure="recall")["told"].to_list() == [1.0, 1.0, 1.0]
    said = told("emergence", found)
    assert said[0].startswith(
        "Of 12 athletes told about from the beginning, half of what the finished model has is there"
    )
    assert any(sentence.startswith("Of 20 athletes told about later") for sentence in said)
    assert_readable(draw_emergence(emergence=found["emergence"], emergence_halves=found["emergence_halves"]))


def test_half_is_passed_for_good_on_a_straight_line_between_two_checkpoints():
    shares = np.array(
        [
            [0.0, 0.25, 0.75, 1.0],
            [0.6, 0.2, 0.9, 1.0],
            [0.0, 0.0, 0.5, 1.0],
            [0.5, 0.7, 0.9, 1.0],
            [np.nan] * 4,
        ]
    )
    steps = [0, 10, 30, 100]
    assert half_steps(shares, steps)[:4] == pytest.approx([20, 10 + 20 * 3 / 7, 30, 0])
    assert np.isnan(half_steps(shares, steps)[4])
    assert gap(shares[0], steps) == Gap(after=10, by=30, first=30)
    assert gap(shares[1], steps) == Gap(after=10, by=30, first=0), "reached, and lost again"
    assert gap(shares[3], steps) == Gap(after=None, by=0, first=0)
    values = np.array([[1.0, 3.0, np.nan], [5.0, 7.0, 1.0]])
    one = Course(values=values, baselines=np.ones((2, 3)))
    assert one.has.tolist() == [True, True, False] and one.shares(whole(3)).tolist() == [[0.2, 1.0]]
    assert np.isnan(Course(values=-values, baselines=np.ones((2, 3))).shares(whole(3))).all()


def test_the_words_and_the_figures_are_those_of_the_tables():
    tables = tables_of("extraction", "concatenation", "lookup")
    said = told("emergence", tables)
    assert (
        said[0].startswith("Of 64 athletes known to the finished model")
        and "(between the checkpoints 100 and 200)" in said[0]
    )
    assert (
        "END to the name before concatenation (by 100 [" in said[1]
        and "concatenation before recall (by " in said[1]
    )
    assert said[2].endswith(
        "the same two checkpoints: extraction and attention from END to the name; recall and the lookup."
    )
    assert said[3].count("100.0\N{NO-BREAK SPACE}%, half of that from step 250 [250, 250] on") == 3
    drawn = (
        draw_emergence(emergence=tables["emergence"], emergence_halves=tables["emergence_halves"]),
        draw_emergence_layers(emergence_layers=tables["emergence_layers"]),
    )
    for figure in drawn:
        assert_readable(figure)


def given(folder: Path, made, checkpoints: Path | None, *, subjects: str = "all") -> tuple[Inputs, Settings]:
    values = {"emergence": {"subjects": subjects}, "compute": {"device": "cpu", "dtype": "float64"}}
    own = validate(values | {"model": {"source": "tiny"}, "subjects": {"table": "x.csv"}}, Config)
    settings = Settings(own)
    recall = made.prompts.select("subject", known=pl.lit(False))
    held = {"prompts/full": made.prompts, "candidates": planted_candidates(made), "recall": recall}
    named = {"checkpoints": str(checkpoints) if checkpoints else []}
    return Inputs(folder, settings=settings, named=named, held=held | {"circuit.yaml": CIRCUIT}), settings


def quiet(_message: str) -> None:
    """Nobody is told."""


def saved(folder: Path, *stages: str) -> Path:
    """The planted models as folders, and an index of them."""
    sources = {}
    for i, made in enumerate(in_order(*stages)):
        planted.save(made, folder / f"step{100 * i}")
        sources[100 * i] = describe(folder / f"step{100 * i}", kind="folder")
    write_checkpoints(sources, folder / "index.json")
    return folder / "index.json"


def test_checkpoints_of_the_disk_give_what_their_models_do(tmp_path):
    index = saved(tmp_path, *STAGES)
    made = with_stages(*STAGES)
    found = compute(*given(tmp_path, made, index), quiet)
    for name, table in tables_of(*STAGES).items():
        assert found[name].equals(table), name


def test_without_checkpoints_or_subjects_the_tables_are_empty(tmp_path):
    made = with_stages(*STAGES)
    one = tmp_path / "one.json"
    planted.save(made, tmp_path / "step300")
    write_checkpoints({300: describe(tmp_path / "step300", kind="folder")}, one)
    for inputs in (
        given(tmp_path, made, None),
        given(tmp_path, made, one),
        given(tmp_path, made, one, subjects="known"),
    ):
        found = compute(*inputs, quiet)
        assert list(found) == list(TABLES)
        for name, table in found.items():
            assert table.is_empty() and table.schema == pl.Schema(schema_of(name))
        assert len(told("emergence", found)) == 1
        assert not draw_emergence(
            emergence=found["emergence"], emergence_halves=found["emergence_halves"]
        ).axes
        assert not draw_emergence_layers(emergence_layers=found["emergence_layers"]).axes


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    made = with_stages(*STAGES)
    planted.save(made, tmp_path / "step300")
    planted.save(variants.later(1), tmp_path / "step100")
    sources = {step: describe(tmp_path / f"step{step}", kind="folder") for step in (100, 300)}
    write_checkpoints(sources, tmp_path / "index.json")
    with pytest.raises(InputError, match="step100: found other sizes than the finished model"):
        compute(*given(tmp_path, made, tmp_path / "index.json"), quiet)
    (tmp_path / "broken.json").write_text('{"checkpoints": 3}')
    with pytest.raises(InputError, match="no index of checkpoints"):
        read_checkpoints(tmp_path / "broken.json")


def test_no_circuit_and_few_subjects_are_no_obstacle():
    """Without a lookup the middle layer stands for its end, without heads nothing attends; too few for folds, no probes."""
    nothing = Circuit(lookup_at="unclear", concatenate=None, lookup=None, extract=())
    made = with_stages(*STAGES)
    few = made.prompts.filter(pl.col("subject").str.contains("F[01] L[012]"))
    drawn, cohorts = cohorts_of(few, planted_candidates(made), NONE, most=80, seed=0)
    pairs = [(0, with_stages().anatomy), (7, made.anatomy)]
    found = emergence(pairs, drawn, cohorts, nothing, NONE, fitting=FITTING, batch_size=80, seed=0)
    assert set(found["emergence"]["measure"]) == set(MEASURES) - {"attends", "lookup"}
    assert found["emergence"]["n"].unique().to_list() == [6] and found["emergence_layers"].is_empty()
    assert (
        told("emergence", found)
        and not draw_emergence_layers(emergence_layers=found["emergence_layers"]).axes
    )


@pytest.mark.parametrize("rule", ["adopt_checkpoints", "download_checkpoints"])
def test_the_user_s_checkpoints_are_described_in_order_with_the_model_as_the_last(
    rule, tmp_path, monkeypatch
):
    """A folder for each, or revisions of a hub that serves such folders."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for step, made in zip((100, 200, 300), in_order("extraction", "concatenation"), strict=True):
        planted.save(made, tmp_path / f"step{step}")
    fetched = []

    def snapshot(_id, *, revision, local_dir, **_options):
        fetched.append(revision)
        shutil.copytree(tmp_path / revision, local_dir)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    write_source = tmp_path / "source.json"
    write_source.write_text(json.dumps(describe(tmp_path / "step300", kind="folder")))
    named = {
        "revisions": ["step100", "step200"],
        "folders": [str(tmp_path / f"step{step}") for step in (100, 200)],
    }
    model = {"id": "someone/model", "allow_pickle": False, "bos": "auto"}
    output = tmp_path / "checkpoints/index.json"
    snakemake = SimpleNamespace(
        rule=rule, input=Given(source=str(write_source)),
        output=Output(checkpoints=str(output)), wildcards={}, threads=1, log=[],
        params=SimpleNamespace(settings=json.dumps({"model": model, "emergence": named}), template="", last_step=300),
    )  # fmt: skip
    runpy.run_path(str(ROOT / f"scripts/{rule}.py"), init_globals={"snakemake": snakemake})
    found = read_checkpoints(output)
    assert found.steps == [100, 200, 300] and found.told_by(100) is None
    assert fetched == ([] if rule.startswith("adopt") else ["step100", "step200"])
    assert found.sources[300] == read_json(write_source)
    kind = "hub" if fetched else "folder"
    assert (
        found.sources[100]["kind"] == kind
        and found.sources[100]["files"] == describe(tmp_path / "step100", kind=kind)["files"]
    )


class Given(SimpleNamespace):
    """A rule's inputs."""

    def __iter__(self):
        return iter(vars(self).values())

    def items(self):
        return vars(self).items()


class Output(SimpleNamespace):
    """A rule's outputs."""

    def get(self, name, default=None):
        return getattr(self, name, default)


HUB = {"source": "hub", "id": "a/b", "revision": "step143000"}
FOLDER = {"source": "folder", "folder": "models/step900"}


@pytest.mark.parametrize(
    ("model", "emergence", "message"),
    [
        (HUB, {"revisions": ["main"]}, r"revisions\.0: found 'main'; allowed: string should match pattern"),
        (HUB, {"revisions": ["step2000", "step1000"]}, "each once, in ascending order"),
        (HUB, {"revisions": ["step143000"]}, "step 143000, not after the last of its checkpoints, 143000"),
        (HUB | {"revision": "main"}, {"revisions": ["step1000"]}, r"emergence\.last_step is needed"),
        (HUB, {"folders": ["x/step1"]}, r"emergence\.folders are of models from source 'folder', not 'hub'"),
        (FOLDER, {"folders": ["x/checkpoint-500", "x/checkpoint-500"]}, "each once"),
        ({"source": "tiny"}, {"revisions": ["step1000"]}, "of models from source 'hub', not 'tiny'"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(model, emergence, message):
    with pytest.raises(InputError, match=message):
        validate({"model": model, "emergence": emergence, "subjects": {"table": "x.csv"}}, Config)


def test_the_last_step_is_said_or_read_off_the_name():
    def last(model, **emergence):
        return validate(
            {"model": model, "emergence": emergence, "subjects": {"table": "x.csv"}}, Config
        ).last_step

    assert last(HUB, revisions=["step1000"]) == 143000 and last(FOLDER, folders=["checkpoint-500"]) == 900
    assert last(HUB | {"revision": "main"}, revisions=["step1000"], last_step=143000) == 143000
    assert last({"source": "tiny"}) is None


def looked_at(tmp_path, monkeypatch, folders: list[str]) -> None:
    """The pre-flight of a study whose model and checkpoints are folders here."""
    monkeypatch.chdir(tmp_path)
    rows = [
        f"F{first} L{last},{planted.ANSWERS[(first + last) % 2]}" for first in range(8) for last in range(8)
    ]
    Path("people.csv").write_text("\n".join(["athlete,sport", *rows]) + "\n")
    values = {
        "model": {"source": "folder", "folder": "step300"},
        "subjects": {"table": "people.csv"},
        "relation": {"shot": "", "paraphrases": []},
        "neurons": {"facts": None},
        "emergence": {"folders": folders},
    }
    preflight(validate(values, Config))


def test_folders_of_checkpoints_are_looked_at_before_anything_runs(tmp_path, monkeypatch):
    """One that is laid out as the hub's cache is, by links, is let through."""
    made = with_stages(*STAGES)
    planted.save(made, tmp_path / "step300")
    cache = tmp_path / "models--a--b"
    blobs = planted.save(with_stages("extraction"), cache / "blobs")
    snapshot = cache / "snapshots/0123abcd"
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(path)
    (tmp_path / "step100").symlink_to(snapshot)
    looked_at(tmp_path, monkeypatch, ["step100"])
    assert load_source(describe(Path("step100"), kind="folder"), ON_CPU, quiet).n_layers == planted.LAYERS
    with pytest.raises(
        InputError, match=r"step200 \(config\.emergence\.folders\.1 of study .*no such folder"
    ):
        looked_at(tmp_path, monkeypatch, ["step100", "step200"])
    planted.save(variants.extracted_early(), tmp_path / "step200")
    with pytest.raises(
        InputError, match=r"step200 .*a model of other sizes; allowed: checkpoints of the study's own"
    ):
        looked_at(tmp_path, monkeypatch, ["step100", "step200"])
