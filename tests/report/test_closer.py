"""Looking closer: what is said of single subjects is what the tables hold, and the picker works without a script."""

from __future__ import annotations

import json
import re
from html import unescape
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from factfinding.closer import HEADS, NEURONS, bars, chosen, people_of
from factfinding.experiments.layer_probes.compute import of_subjects, probe_rows, table_of, with_name_groups
from factfinding.methods.probes import ProbeSettings

TEXTS = [
    "[BOS]",
    "Fact:",
    " Tiger",
    " golf",
    "\n",
    " Ann",
    " Lee",
    " Bo",
    " Cox",
    " plays",
    " of",
    " <b>Eve",
    "[UNK]",
]
ASKED = {
    "Ann Lee": ("golf", (5, 6)),
    "Bo Cox": ("tennis", (7, 8)),
    "<b>Eve Cox": ("golf", (11, 8)),
    "Ann Cox": ("tennis", (5, 8)),
}
ROLES = ["bos", "shot", "shot", "shot", "shot", "fact", "first_name", "final_name", "relation", "end"]
FINER = ["bos", "shot", "newline", "fact", "first_name", "final_name", "relation_1", "end"]
LAYERS = range(-1, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder of which only the tokenizer is there."""
    folder = tmp_path_factory.mktemp("model")
    vocabulary = {text: i for i, text in enumerate(TEXTS)}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}
    parts = dict.fromkeys(
        ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    )
    (folder / "tokenizer.json").write_text(
        json.dumps({"version": "1.0", "added_tokens": [], "model": model, **parts})
    )
    return folder


def prompts() -> pl.DataFrame:
    rows = [
        {"subject": name, "answer": answer, "token_ids": [0, 1, 2, 3, 4, 1, *tokens, 9, 10], "roles": ROLES}
        for name, (answer, tokens) in ASKED.items()
    ]
    return pl.DataFrame(rows)


def tables(*, heads: int = 2) -> dict[str, pl.DataFrame]:
    recall = [
        {"subject": name, "answer": answer, "known": name != "Ann Cox", "full_p": 0.875, "zero_shot_p": 0.25, "full_answer": answer}
        for name, (answer, _) in ASKED.items()
    ]  # fmt: skip
    attention = [
        {"subject": name, "answer": answer, "head": f"L2H{head}", "role": role, "attention": 0.93 if role == "final_name" else 0.004}
        for head in range(heads) for name, (answer, _) in ASKED.items() for role in FINER if name != "Ann Cox"
    ]  # fmt: skip
    excess = [
        {"subject": "Ann Lee", "probe": probe, "names": "known", "layers": layers, "excess": 4.0, "ratio_both": share, "neurons": 3.25}
        for probe, share in (("logistic", 0.1), ("head", 0.6)) for layers in ("1", "all")
    ]  # fmt: skip
    return {
        "recall": pl.DataFrame(recall),
        "attention_subjects": pl.DataFrame(attention),
        "layer_probes": pl.DataFrame({"majority_rate": [0.5]}),
        "nonlinear_excess_subjects": pl.DataFrame(excess),
    }


def neurons() -> pl.LazyFrame:
    rows = [
        {"subject": "Bo Cox", "fact": fact, "kind": kind, "layer": 1, "neuron": neuron,
         "effect": (-1) ** neuron * 0.01 * neuron * (1 if kind == "mean" else 10),
         "standard_error": None if kind == "mean" else 0.05, "n": 1 if kind == "mean" else 64}
        for fact in ("sport", "team") for kind in ("mean", "resample_other") for neuron in range(12)
    ]  # fmt: skip
    return pl.LazyFrame(rows, infer_schema_length=None)


def probed() -> pl.DataFrame:
    rows = [
        {"condition": condition, "subject": name, "answer": ASKED[name][0], "layer": layer, "p": 0.2 + 0.25 * (layer + 1), "right": layer > 0}
        for condition in ("full", "name_only") for name in ("Ann Lee", "Bo Cox") for layer in LAYERS
    ]  # fmt: skip
    return pl.DataFrame(rows)


def people(folder, *, most: int = 24, **given):
    given = {
        "prompts": prompts(),
        "tables": tables(),
        "neurons": neurons(),
        "probed": probed(),
        "folder": folder,
    } | given
    return people_of(*given.values(), fact="sport", most=most)


def test_the_swept_come_first_then_the_known_and_answers_take_turns():
    recall = pl.DataFrame(
        {
            "subject": list("abcdefg"),
            "answer": ["x", "x", "x", "y", "y", "x", "y"],
            "known": [True, True, False, True, True, True, False],
        }
    )
    assert chosen(recall, ["f", "e"], 7) == ["f", "e", "a", "d", "b", "c", "g"]
    assert chosen(recall, [], 2) == ["a", "d"] and chosen(recall, ["c"], 1) == ["c"]


def test_all_that_is_said_is_what_the_tables_hold(folder):
    swept, ann, eve, cox = people(folder)
    assert [one.name for one in (swept, ann, eve, cox)] == ["Bo Cox", "Ann Lee", "<b>Eve Cox", "Ann Cox"]
    assert [role for role, _ in ann.words] == FINER
    assert dict(ann.words)["final_name"] == (" Lee",) and dict(ann.words)["shot"] == ("Fact:  Tiger  golf",)
    assert [head for head, _ in ann.heads] == ["L2H0", "L2H1"]
    assert dict(zip(FINER, ann.heads[0][1], strict=True))["final_name"] == 0.93
    assert (
        "P = 87.5\xa0% after the example and 25.0\xa0% without it" in ann.said[0]
        and "counts as known" in ann.said[0]
    )
    assert (
        "does not count as known" in cox.said[0] and not cox.heads and cox.probe is None and not cox.neurons
    )
    assert "make 60.0\xa0%" in ann.said[1] and "3.2 neurons" in ann.said[1], (
        "by the probe of the figure, all layers"
    )
    assert [name for name, _, _ in swept.neurons] == [f"L1N{n}" for n in range(11, 11 - NEURONS, -1)]
    assert swept.neurons[0][1] == "-1.100 [-1.198, -1.002] nats, n = 64 draws" and not ann.neurons


def test_only_so_many_heads_subjects_and_no_tokenizer_no_people(folder, tmp_path):
    assert len(people(folder, tables=tables(heads=9))[0].heads) == HEADS
    assert len(people(folder, most=2)) == 2 and people(folder, most=0) == []
    assert people(tmp_path) == []
    alone = people(
        folder, tables=tables() | {"attention_subjects": pl.DataFrame()}, neurons=neurons().filter(False)
    )
    assert len(alone) == 4 and not any(one.heads or one.neurons for one in alone)


@pytest.mark.parametrize("layers", [1, 6, 32, 80])
def test_the_bars_are_as_tall_as_p_and_their_labels_do_not_touch(layers):
    rows = pl.DataFrame(
        {
            "layer": list(range(-1, layers)),
            "p": np.linspace(0, 1, layers + 1),
            "right": [layer > 0 for layer in range(-1, layers)],
        }
    )
    drawn = bars(rows, 0.4)
    tall = [float(one) for one in re.findall(r'<rect [^>]*height="([\d.]+)"', drawn)]
    assert tall == pytest.approx(96 * rows["p"].to_numpy(), abs=0.06) and len(tall) == layers + 1
    assert drawn.count('class="wrong"') == min(2, layers + 1)
    at = [float(one) for one in re.findall(r'<text x="([\d.]+)" y="112"', drawn)]
    assert len(at) <= 15 and all(b - a >= 20 for a, b in pairwise(at))
    assert f"after layer {layers - 1}: 100.0\xa0%" in unescape(drawn)


def test_the_probes_of_subjects_are_those_of_the_table():
    rng = np.random.default_rng(0)
    names = [f"F{i % 9} L{i // 2}" for i in range(60)]
    subjects = with_name_groups(
        pl.DataFrame({"subject": [f"{name} {i}" for i, name in enumerate(names)], "answer": ["x", "y"] * 30})
    )
    values = rng.normal(size=(60, 4)) + 1.5 * (subjects["answer"] == "x").to_numpy()[:, None]
    settings = ProbeSettings(control_folds=(), tolerance=1e-2)
    rows = list(
        probe_rows([("full", 0, values), ("name_only", 3, values)], subjects, settings=settings, seed=0)
    )
    table, each = table_of(rows, seed=0), of_subjects(rows, subjects)
    assert each.height == 120 and each.filter(condition="full")["subject"].to_list() == sorted(
        subjects["subject"]
    )
    for condition, layer in (("full", 0), ("name_only", 3)):
        there = each.filter(condition=condition)
        row = table.filter(condition=condition, folds="last_name").row(0, named=True)
        assert set(there["layer"]) == {layer}
        assert there["right"].mean() == pytest.approx(row["accuracy"])
        assert -there["p"].log().mean() == pytest.approx(row["loss"])
        assert dict(there.select("subject", "answer").iter_rows()) == dict(
            subjects.select("subject", "answer").iter_rows()
        )
    assert of_subjects([], subjects).is_empty()
