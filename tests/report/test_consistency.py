"""Tables that contradict one another are told on top of the page; those that agree are not."""

from __future__ import annotations

import polars as pl
import pytest

from factfinding.consistency import contradictions
from factfinding.declarations import declarations
from factfinding.errors import InputError
from factfinding.methods.circuit import AT_END, AT_NAME, Circuit
from helpers.declared import written
from helpers.planted_claims import near, rows

DECLARED = declarations()


def circuit(place: str = AT_NAME, found: str = AT_NAME, lookup=(1, 2)) -> dict[str, pl.DataFrame]:
    proposed = {"lookup_at": found, "concatenate": (0, 0), "lookup": (1, 2), "extract": ("L3H0",)}
    table = Circuit(lookup_at=place, concatenate=(0, 0), lookup=lookup, extract=("L3H0",), proposed=proposed)
    return {"circuit": table.to_table()}


def probes(accuracy: float, loss: float = 0.5) -> dict[str, pl.DataFrame]:
    common = {
        "input": "resid",
        "labels": "true",
        "condition": "full",
        "folds": "random",
        "majority_rate": 0.5,
    }
    told = [
        common | {"layer": layer, "accuracy": near(accuracy), "loss": near(loss), "n": 400}
        for layer in range(4)
    ]
    return rows("layer_probes", *told)


def head_probe(accuracy: float) -> dict[str, pl.DataFrame]:
    return rows("head_probe_layers", {"condition": "full", "layer": 2, "accuracy": near(accuracy), "n": 400})


def checks(clean: float, averaged: float) -> dict[str, pl.DataFrame]:
    told = {"clean": clean, "mlps_at_name": averaged}
    return rows(
        "circuit_checks",
        *({"check": name, "accuracy": near(value), "n": 400} for name, value in told.items()),
    )


def rung(ladder: float, effective: float) -> dict[str, pl.DataFrame]:
    step = {"step": "frozen", "kind": "mean", "reader": "logistic", "layer": 2, "accuracy": near(ladder)}
    model = {"model": "effective", "n_name_tokens": 2, "accuracy": near(effective), "n": 400}
    return rows("ladder", step) | rows("effective_model", model)


def attention(to_name: float) -> dict[str, pl.DataFrame]:
    role = {"head": "L3H0", "answer": "all", "role": "final_name", "attention": near(to_name), "uniform": 0.1}
    return rows("attention_roles", role)


def swapped(follows: float) -> dict[str, pl.DataFrame]:
    return rows(
        "probe_patching", {"change": "whole", "layer": 2, "follows": near(follows), "majority_rate": 0.4}
    )


def borders(same: float) -> dict[str, pl.DataFrame]:
    return rows("circuit_borders", {"part": "lookup", "end": "last", "layer": 2, "same": same, "n": 400})


PLANTED = {
    "borders-stay-with-other-subjects": (circuit() | borders(0.9), circuit() | borders(0.4)),
    "readable-where-looked-up": (circuit() | probes(0.9), circuit() | probes(0.5)),
    "looked-up-where-found": (circuit(), circuit(found=AT_END)),
    "mlps-needed-where-they-look-up": (circuit() | checks(1.0, 0.5), circuit() | checks(1.0, 1.0)),
    "effective-model-right-if-the-ladder-is": (circuit() | rung(0.9, 0.88), circuit() | rung(0.9, 0.5)),
    "fitted-probe-reads-what-an-unfitted-one-reads": (
        probes(0.95) | head_probe(1.0),
        probes(0.6) | head_probe(1.0),
    ),
    "probes-do-not-break": (probes(0.9), probes(0.9, loss=1e6)),
    "known-subjects-are-answered": (checks(1.0, 0.5), checks(0.8, 0.5)),
    "extracting-heads-look-at-the-name": (circuit() | attention(0.9), circuit() | attention(0.01)),
    "swapped-where-looked-up": (circuit() | swapped(0.9), circuit() | swapped(0.1)),
}
"""For each rule tables that agree, and tables that contradict one another."""


@pytest.mark.parametrize("rule", DECLARED.consistency)
def test_a_planted_contradiction_is_told_and_an_agreement_is_not(rule):
    agree, contradict = PLANTED[rule]
    sentence = DECLARED.consistency[rule].sentence
    assert contradictions(DECLARED, agree) == []
    assert contradictions(DECLARED, contradict) == [sentence]


@pytest.mark.parametrize("rule", DECLARED.consistency)
def test_where_nothing_was_measured_nothing_contradicts(rule):
    _, contradict = PLANTED[rule]
    assert contradictions(DECLARED, {}) == []
    assert contradictions(DECLARED, {name: table.clear() for name, table in contradict.items()}) == []


def test_a_rule_that_cannot_be_used_is_refused_by_its_name(tmp_path):
    folder, stages = written(tmp_path)
    text = "odd: {sentence: It is odd., tables: [t], query: SELECT value FROM t}"
    (folder / "consistency.yaml").write_text(text)
    with pytest.raises(InputError, match=r"consistency\.odd"):
        contradictions(declarations(folder, stages), {"t": pl.DataFrame({"value": [1.0]})})
    (folder / "consistency.yaml").write_text(text.replace("[t]", "[unheard_of]"))
    with pytest.raises(InputError, match="unheard_of"):
        declarations.__wrapped__(folder, stages)
