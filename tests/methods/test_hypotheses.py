"""The methods of post 3 tell the hypotheses apart, on models of which it is known which one holds."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations, product
from math import inf

import polars as pl
import pytest

from factfinding.declarations import declarations
from factfinding.files import read_json
from factfinding.ledger import CONTRADICTED, SUPPORTED
from factfinding.methods.circuit import Circuit
from factfinding.synthesis import synthesis, together
from helpers import ROOT
from helpers.declared import judged
from helpers.figures import telling
from helpers.hypotheses import MODELS
from helpers.hypothesis_tables import STORED, Tables, planted_numbers, tables

Bounds = tuple[float, float] | None


def cell(table: str, column: str, **where) -> Callable[[Tables], float]:
    """The number that stands in one cell of a table."""
    return lambda found: found[table].filter(**where)[column].item()


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A number that a method gives, and between which bounds it must lie for each model, in the order of `MODELS`."""

    experiment: str
    says: str
    number: Callable[[Tables], float]
    must: tuple[Bounds, ...]


def exactly(value: float, tolerance: float = 1e-9) -> Bounds:
    return value - tolerance, value + tolerance


def _path(metric: str, kind: str, column: str) -> Callable[[Tables], float]:
    return cell("mlp_paths", column, source=1, target=2, metric=metric, kind=kind)


def _alike(statistic: str, *, layers: str = "all", subjects: str = "same") -> Callable[[Tables], float]:
    """Mean over pairs of facts."""
    where = {"fact": "all", "kind": "mean", "statistic": statistic, "subjects": subjects, "layers": layers}
    return cell("fact_correlations", "value", **where)


def _concentrated(measure: str, top: int | None) -> Callable[[Tables], float]:
    same = pl.col("top").eq_missing(top)
    where = {"fact": "all", "kind": "mean", "measure": measure}
    return lambda found: found["effect_concentration"].filter(same, **where)["value"].item()


def _share_of_layer(layer: int) -> Callable[[Tables], float]:
    return cell("effect_concentration", "value", fact="all", kind="mean", measure="layer", layer=layer)


def _excess(column: str, layers: str = "all") -> Callable[[Tables], float]:
    return cell("nonlinear_excess", column, probe="head", names="known", layers=layers)


def _passed_by_mlp_2(found: Tables) -> float:
    return _excess("passed", "2")(found) / _excess("excess")(found)


def _auc(layer: int) -> Callable[[Tables], float]:
    return cell("mlp_norms", "auc", output="mlp", layer=layer)


def _broken(layer: int, names: str = "known", output: str = "mlp") -> Callable[[Tables], float]:
    return cell("linear_structure", "median", names=names, output=output, layer=layer)


def statements() -> list[Statement]:
    """What each method must say, with bounds from the construction (docstrings of the models)."""
    one, zero, half, trace = exactly(1), exactly(0), exactly(0.5), (0, 0.01)
    any_, near_0, near_1 = None, (-0.05, 0.05), (0.99, 1)
    shared, spread = (0.5, 0.95), (-0.05, 0.15)
    rows = [
        # MLP 2 reads nothing, or the code: the mean code is nobody's, another's is that of another answer
        ("P3.1", "accuracy without MLP 1 -> 2 (mean)", _path("accuracy", "mean", "value"),
         one, one, one, (0, 0.4)),
        ("P3.1", "KL, nats (mean)", _path("kl", "mean", "value"),
         (0, 1e-6), (0, 1e-6), (0, 1e-6), (1, 1.1)),
        ("P3.1", "change of loss, nats (another's)", _path("loss", "resample_other", "change"),
         exactly(0, 1e-4), exactly(0, 1e-4), exactly(0, 1e-4), (5, 6)),
        # one neuron; four; one per fact; one per fact and the bits, which every fact needs
        ("P3.2", "correlation between facts", _alike("pearson"), near_1, shared, near_0, near_0),
        ("P3.2", "the same, MLP 1 alone", _alike("pearson", layers="1"), near_1, shared, near_0, near_1),
        ("P3.2", "the same, MLP 2 alone", _alike("pearson", layers="2"), any_, any_, any_, near_0),
        ("P3.2", "share of the effects in MLP 2", _share_of_layer(2), trace, trace, trace, (0.7, 0.9)),
        ("P3.2", "correlation, different subjects", _alike("pearson", subjects="different"),
         spread, spread, spread, spread),
        ("P3.2", "rank correlation between facts", _alike("spearman"), any_, any_, any_, any_),
        ("P3.2", "facts with the same top neuron", _alike("top_neuron"), one, any_, zero, zero),
        ("P3.2", "share of the top neuron", _concentrated("top", 1), (0.95, 1), (0.25, 0.55), (0.95, 1), (0.7, 0.9)),
        ("P3.2", "participation ratio", _concentrated("participation_ratio", None),
         (1, 1.1), (3, 6), (1, 1.1), (1.2, 2)),
        # inputs of MLP 1 are sums; those of the lookup neurons are not
        ("P3.3", "made by activations / excess", _excess("ratio"),
         exactly(122 / 144, 0.02), exactly(112 / 144, 0.02), exactly(122 / 144, 0.02), (-0.05, 0.1)),
        ("P3.3", "the same, both signs", _excess("ratio_both"), near_1, near_1, near_1, (0, 0.2)),
        ("P3.3", "excess that passes through MLP 2", _passed_by_mlp_2, zero, zero, zero, (0.9, 1.05)),
        ("P3.3", "neurons that make it", _excess("neurons"),
         exactly(1.38, 0.1), exactly(7.17, 0.3), exactly(1.38, 0.1), any_),
        # who writes for known pairs alone
        ("P3.6", "AUC of MLP 0", _auc(0), half, half, half, half),
        ("P3.6", "AUC of MLP 1", _auc(1), one, one, one, (0.35, 0.65)),
        ("P3.6", "AUC of MLP 2", _auc(2), (0.3, 0.55), (0.3, 0.55), (0.3, 0.55), one),
        # known: facts, or bits, are no sums; unknown: bits alone
        ("P3.7", "MLP 0, known", _broken(0), zero, zero, zero, zero),
        ("P3.7", "MLP 1, known", _broken(1), (0.9, 1.05), (0.9, 1.05), (0.9, 1.05), (0.8, 1.15)),
        ("P3.7", "MLP 1, unknown", _broken(1, "unknown"), trace, trace, trace, (0.8, 1.15)),
        ("P3.7", "MLP 2, known", _broken(2), (0, 0.1), (0, 0.1), (0, 0.1), (0.9, 1.05)),
        ("P3.7", "MLP 2, unknown", _broken(2, "unknown"), trace, trace, trace, trace),
        ("P3.7", "residual after layer 0, known", _broken(0, output="resid"), zero, zero, zero, zero),
        ("P3.7", "residual after layer 2, known", _broken(2, output="resid"),
         (0.5, 0.9), (0.5, 0.9), (0.5, 0.9), (0.5, 0.9)),
    ]  # fmt: skip
    return [Statement(experiment=e, says=s, number=n, must=tuple(must)) for e, s, n, *must in rows]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("statement", statements(), ids=lambda s: f"{s.experiment} {s.says}")
def test_the_methods_say_what_they_must(statement, name):
    low, high = statement.must[list(MODELS).index(name)] or (-inf, inf)
    assert low <= statement.number(tables(name)) <= high


def test_every_two_hypotheses_are_told_apart_and_by_which_methods():
    """`pytest tests/methods/test_hypotheses.py -s -k told_apart` prints the table of docs/hypotheses.md."""
    print("\n| | number | " + " | ".join(MODELS) + " |\n|---|---|" + "---:|" * len(MODELS))
    for row in statements():
        values = " | ".join(f"{row.number(tables(name)):.3g}" for name in MODELS)
        print(f"| {row.experiment} | {row.says} | {values} |")
    by = {pair: set() for pair in combinations(MODELS, 2)}
    for (one, other), row in product(by, statements()):
        a, b = (row.must[list(MODELS).index(name)] for name in (one, other))
        if a and b and (a[1] < b[0] or b[1] < a[0]):
            by[one, other].add(row.experiment)
    print(*(f"{one} | {other}: {sorted(methods)}" for (one, other), methods in by.items()), sep="\n")
    everything, last = {"P3.1", "P3.2", "P3.3", "P3.6", "P3.7"}, "hash and lookup"
    for (_, other), methods in by.items():
        # one step is one step: from outside the MLP's neurons those three are the same model
        assert methods == everything if other == last else methods <= {"P3.2", "P3.3"} and methods


def test_the_page_says_what_the_methods_say():
    """Each number of docs/hypotheses.md, to the digits that are written there; of those like 8e-8, that they are tiny."""
    page = (ROOT / "docs/hypotheses.md").read_text()
    rows = re.findall(r"^\| (P[\d.]+) \| ([^|]+) \| (.*) \|$", page, re.MULTILINE)
    written = {
        (experiment, says): cells.split(" | ") for experiment, says, cells in rows if cells.count("|") == 3
    }
    said = {(row.experiment, row.says): row.number for row in statements()}
    assert len(written) > 15 and set(written) <= set(said)
    for key, cells in written.items():
        for name, cell_text in zip(MODELS, cells, strict=True):
            text, value = cell_text.strip("()"), said[key](tables(name))
            digits = len(text.partition(".")[2]) or 2  # 0 and 1 stand for themselves
            close = abs(value) < 1e-6 if "e" in text else abs(value - float(text)) <= 0.6 * 10**-digits
            assert close, (key, name, value)


def test_low_correlation_between_facts_does_not_mean_a_hash():
    """A single step whose neurons are not shared shows none either; what the study leaves open, P3.1 decides."""
    says = {(row.says, name): row.number(tables(name)) for row in statements() for name in MODELS}
    low, path = "correlation between facts", "accuracy without MLP 1 -> 2 (mean)"
    assert abs(says[low, "fact cells"]) < 0.05 and abs(says[low, "hash and lookup"]) < 0.05
    assert says[path, "fact cells"] == 1 and says[path, "hash and lookup"] < 0.4


def test_rank_correlation_orders_the_hypotheses_the_wrong_way_round():
    """Most neurons hardly matter, and what they do hardly matters to all facts alike (LayerNorm; bits of a code)."""
    ranks = {name: _alike("spearman")(tables(name)) for name in MODELS}
    assert ranks["hash and lookup"] > 0.2 + max(ranks["entity cells"], ranks["detokenization"])


# what the report says

ONE_STEP = [name for name in MODELS if name != "hash and lookup"]


def said(section: str, name: str) -> str:
    return " ".join(telling(section)(tables(name)))


@pytest.mark.parametrize("name", ONE_STEP)
def test_a_path_that_costs_next_to_nothing_is_not_called_needed(name):
    """Its loss "surely" rises, by 7e-6 nats."""
    (row,) = tables(name)["mlp_paths"].filter(metric="loss", kind="mean", source=1).to_dicts()
    assert 0 < row["change_low"] < row["change"] < 1e-4
    text = said("mlp_paths", name)
    assert "0 surely raise the loss by more than 5 % of what" in text and "no later MLP surely needs" in text
    assert "For 1 the loss surely rises, but not surely by that much" in text


def test_a_path_from_a_hash_to_its_lookup_is_called_needed():
    text = said("mlp_paths", "hash and lookup")
    assert "1 surely raises the loss by more than 5 % of what" in text and "a later MLP needs what" in text


def test_norms_are_judged_at_the_first_mlp_of_the_lookup():
    knows, hashes = "as no hash of the name alone would", "nothing there speaks against a hash"
    for name in ONE_STEP:
        text = said("mlp_norms", name)
        assert "The first MLP of the lookup, in layer 1, surely writes more" in text and knows in text
    text = said("mlp_norms", "hash and lookup")
    assert "most in layer 2" in text and knows not in text
    assert "The first MLP of the lookup, in layer 1, does not surely" in text and hashes in text


def test_without_a_circuit_the_lowest_mlp_that_differs_is_named_and_nothing_concluded():
    found = tables("hash and lookup")
    nowhere = replace(Circuit.from_table(found["circuit"]), lookup=None).to_table()
    for circuit in ({}, {"circuit": nowhere}):
        text = " ".join(telling("mlp_norms")({"mlp_norms": found["mlp_norms"]} | circuit))
        assert "lowest MLP whose norms differ is that of layer 2" in text and "it is open whether" in text
        assert "as no hash" not in text and "first MLP of the lookup" not in text


@pytest.mark.parametrize("name", MODELS)
def test_mlps_that_know_nothing_are_not_said_to_make_something_of_known_names(name):
    layer = 2 if name == "hash and lookup" else 1
    text = said("linear_structure", name)
    what = "surely higher than for unknown names only by more than 10 points"
    assert f"{what} at layer {layer}: there the model makes something of names that it knows" in text
    after = "At layer 3 it is" if layer == 2 else "From layer 2 on it is"
    assert f"{after} surely higher, but not surely by that much" in text


@pytest.mark.parametrize("name", MODELS)
def test_no_share_is_told_of_next_to_no_excess(name):
    unknown = tables(name)["nonlinear_excess"].filter(probe="head", names="unknown", layers="all")
    unknown = unknown.row(0, named=True)
    text = said("nonlinear_excess", name)
    assert unknown["n"] == 0 and unknown["ratio_both"] is None
    assert "no share, as only 0 of 36 have an excess that is not negligible" in text
    assert "In logits that is" in text and "not surely less" not in text


@pytest.mark.parametrize("name", MODELS)
def test_the_ledger_and_the_page_say_the_same_of_the_excess(name):
    row, text = judged("excess-not-in-one-step", tables(name)), said("nonlinear_excess", name)
    hashes = name == "hash and lookup"
    assert row["verdict"] == (SUPPORTED if hashes else CONTRADICTED)
    assert ("as hash and lookup predicts" in text) == hashes
    assert ("as single-step detokenization predicts" in text) != hashes


def test_layers_of_which_one_shares_neurons_and_one_does_not_are_told_apart():
    differ = "facts share neurons more in MLP 1 than in MLP 2, as where single facts are looked up"
    for name in MODELS:
        text = said("fact_correlations", name)
        assert (differ in text) == (name == "hash and lookup")
        assert ("left out, as they have hardly any of the effects, MLP 2" in text) == (name in ONE_STEP)
        assert "rank" not in text and "spearman" not in text


# the synthesis on a study's page


def test_the_planted_numbers_that_the_page_shows_are_those_of_the_planted_models():
    stored, now = read_json(STORED), planted_numbers()
    assert stored.keys() == now.keys()
    for name, numbers in now.items():
        assert numbers == pytest.approx(stored[name], abs=0.01), f"{name}: `make planted` writes them anew"


@pytest.mark.parametrize("name", MODELS)
def test_the_synthesis_calls_every_planted_model_what_it_is(name):
    """All that decides is like the model itself; a single step is never like a hash where every single step differs from it."""
    rows = synthesis(declarations(), tables(name), read_json(STORED))
    decided = [row for row in rows if row.like]
    assert len(decided) >= 5 and all(name in row.like for row in decided)
    first, _ = together(rows)
    assert f"{len(decided)} like {name}" in first and "all that decide are like" in first and name in first


def test_where_nothing_was_measured_the_synthesis_says_nothing():
    rows = synthesis(declarations(), {}, read_json(STORED))
    assert all(row.found is None and row.here == "" and row.says.startswith("Not measured: ") for row in rows)
    assert together(rows) == [
        f"Single step or hash? Nothing can be said: of {len(rows)} numbers on which the planted models differ, none was measured."
    ]


def test_every_prediction_parts_the_planted_models_widely():
    for name, numbers in read_json(STORED).items():
        assert max(numbers.values()) - min(numbers.values()) > 0.4, name
