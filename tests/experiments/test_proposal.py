"""The borders of the circuit: where they are drawn, on tables made up for it, and that the page on them says the same."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factfinding.consistency import contradictions
from factfinding.declarations import declarations
from factfinding.experiments.circuit.compute import KEPT, concatenating, looking_up, propose, settle
from factfinding.experiments.circuit_scan import show as circuit_show
from factfinding.experiments.residual_patching import show as residual_show
from factfinding.ledger import is_met
from factfinding.tables import empty
from helpers import ROOT, planted
from helpers.head_tables import planted_candidates
from helpers.intervention_tables import circuit_of, readers_of
from helpers.planted_claims import rows

MAJORITY, N = 1 / 3, 400
PAGE = ROOT / "docs/experiments/p2-8.md"


def scan(**accuracies: list[float]) -> pl.DataFrame:
    """A circuit_scan table of kept shares by scan and layer: 1 is the unchanged model, 0 is guessing."""
    rows = []
    for name, kept in accuracies.items():
        for layer, share in enumerate(kept):
            accuracy = MAJORITY + share * (1 - MAJORITY)
            rows.append(
                {"scan": name, "layer": layer, "accuracy": accuracy, "accuracy_low": accuracy - 0.02,
                 "accuracy_high": min(1.0, accuracy + 0.02), "n": N, "majority_rate": MAJORITY,
                 "change_high": (share - 1) * (1 - MAJORITY) + 0.02}
            )  # fmt: skip
    return pl.DataFrame(rows)


EMBEDDED = {  # the shape of the embedded model: nearly all is done by MLP 1, and a twentieth by MLP 2
    "attention_from": [0.1, 1.0, 1.0, 1.0, 1.0],
    "attention_alone": [0.16, 1.0, 1.0, 1.0],
    "mlps_from": [0.05, 0.2, 0.943, 0.999, 1.0],
    "mlps_below": [1.0, 1.0, 0.3, 0.25, 0.2],
    "probe": [0.2, 0.99, 1.0, 1.0],
}


def effects() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tables residual_patching and total_effects in which the name carries all, and one head fetches it."""
    numbers = {"effect": -10.0, "effect_low": -11.0, "effect_high": -9.0, "whole_swap": -10.0, "n": 96}
    residual = pl.DataFrame(
        [{"layer": layer, "role": "final_name", "share": 1.0, **numbers} for layer in range(4)]
    )
    nodes = {"L3H0": 0.9, "L3H1": 0.04}
    total = pl.DataFrame(
        [
            {
                "node": node,
                "type": "head",
                "layer": 3,
                "role": "end",
                "kind": "corrupt",
                "share": share,
                "exact": True,
                **numbers,
            }
            for node, share in nodes.items()
        ]
    )
    return residual, total


def test_a_border_may_cost_a_twentieth_of_what_is_known_and_no_more():
    circuit = propose(scan(**EMBEDDED), *effects())
    assert (circuit.lookup_at, circuit.concatenate, circuit.lookup) == ("final_name", (0, 0), (1, 2))
    assert circuit.extract == ("L3H0",)
    enough = EMBEDDED | {"mlps_from": [0.05, 0.2, 0.955, 0.999, 1.0]}
    assert propose(scan(**enough), *effects()).lookup == (1, 1)
    borders = [row for row in circuit.evidence if "kept" in row.claim]
    assert len(borders) == 4 and {row.threshold for row in borders} == {KEPT}
    assert "MLPs from layer 3 on ablated: accuracy (99.9 % kept)" in [row.claim for row in borders]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_outside_the_borders_enough_is_kept_and_one_layer_less_keeps_too_little(above, below):
    layers = min(len(above), len(below))
    table = scan(
        attention_from=[*sorted(above[:layers]), 1.0], attention_alone=[1.0] * layers,
        mlps_from=[*above[:layers], 1.0], mlps_below=[1.0, *below[:layers]],
    )  # fmt: skip
    kept = {name: [*above[:layers], 1.0] for name in ("mlps_from",)} | {"below": [1.0, *below[:layers]]}
    found = looking_up(table, [])
    if found is None:
        assert kept["mlps_from"][0] >= KEPT - 1e-9
    else:
        first, last = found
        assert first <= last and kept["mlps_from"][last + 1] >= KEPT - 1e-9
        assert all(share < KEPT for share in kept["mlps_from"][: last + 1])
        assert kept["below"][first] >= KEPT - 1e-9 or first == last
    gathering = concatenating(table, [])
    needless = next(i for i, share in enumerate([*sorted(above[:layers]), 1.0]) if share >= KEPT - 1e-9)
    assert gathering is None if needless == 0 else gathering == (0, needless - 1)


def test_where_the_model_s_own_answers_are_guesses_no_border_is_drawn():
    """A reader may find the answer at the name though the model does not say it: with nothing to lose, nothing is kept."""
    guesses = scan(
        **{name: [0.0] * len(kept) for name, kept in EMBEDDED.items()} | {"probe": EMBEDDED["probe"]}
    )
    circuit = propose(guesses, *effects())
    assert (circuit.lookup_at, circuit.concatenate, circuit.lookup, circuit.extract) == (
        "unclear",
        None,
        None,
        (),
    )
    (own,) = [row for row in circuit.evidence if "own answers" in row.claim]
    assert own.value == own.threshold == MAJORITY and own.n == N


def test_the_threshold_stands_in_the_file_and_on_the_page(tmp_path):
    circuit = settle(propose(scan(**EMBEDDED), *effects()), concatenate=None, lookup=None, extract=None)
    circuit.save(tmp_path / "circuit.yaml")
    assert f"kept: {KEPT}" in (tmp_path / "circuit.yaml").read_text()
    assert f"**{100 * KEPT:.0f} %** is kept" in PAGE.read_text(), "the page explains another threshold"


@pytest.mark.parametrize(
    ("lookup", "words"), [((1, 1), "MLP 1 looks it up"), ((1, 2), "MLPs 1 to 2 look it up")]
)
def test_one_layer_and_several_are_told_in_words(lookup, words):
    fixed = {"concatenate": None, "lookup": lookup, "extract": ["L3H0", "L3H1"]}
    circuit = settle(propose(scan(**EMBEDDED), *effects()), **fixed)
    tables = {"circuit": circuit.to_table(), "circuit_scan": scan(**EMBEDDED)}
    said = circuit_show.sentences(tables | {"circuit_borders": empty("circuit_borders")})[0]
    assert words in said and "attention 0 gathers the name" in said and "L3H0, L3H1 extract" in said
    assert "The configuration sets, and the experiments use: " in said
    beside = "as found" if lookup == (1, 2) else "found: MLPs 1 to 2 look it up"
    assert f"{words} ({beside}); L3H0, L3H1 extract (found: L3H0 extracts)." in said


@pytest.mark.parametrize(("model", "found"), [(planted.at_name, True), (planted.at_end, False)])
def test_claims_follow_what_was_found_and_not_the_range_that_is_set(model, found):
    """A lookup at the name that the user sets makes none: the tables say whether there is one."""
    made = model(firsts=6, lasts=6)
    candidates, reader = planted_candidates(made), readers_of(made.anatomy, made.prompts)
    circuit, tables = circuit_of(made.anatomy, made.prompts, candidates, reader, lookup=(1, 1))
    assert circuit.lookup_at == "final_name" and (circuit.proposed["lookup_at"] == "final_name") == found
    needs, (broken,) = declarations().needs, [declarations().consistency["looked-up-where-found"].sentence]
    assert is_met("looks_up_at_name", needs["looks_up_at_name"], tables) == found
    assert (broken in contradictions(declarations(), {"circuit": tables["circuit"]})) == (not found)


def test_a_position_that_hardly_any_name_has_is_not_singled_out():
    common = {"number": 0, "token": None, "whole_swap": -10.0, "effect": -5.0, "follows": 0.5}
    rows = [{"layer": layer, "role": "final_name", "share": 0.5, "n": 400, **common} for layer in range(3)]
    rows.append(common | {"layer": 1, "role": "middle_name", "number": 9, "share": 1.0, "n": 1})
    said = residual_show.sentences({"residual_patching": pl.DataFrame(rows)})[0]
    assert "before layers 0 to 2 at the final name token" in said and "n = 400" in said
    assert "middle" not in said


def test_the_page_says_how_far_the_borders_move():
    circuit = settle(propose(scan(**EMBEDDED), *effects()), concatenate=None, lookup=None, extract=None)
    tables = {"circuit": circuit.to_table(), "circuit_scan": scan(**EMBEDDED)} | rows(
        "circuit_borders",
        {"part": "concatenate", "end": "first", "layer": 0, "earliest": 0, "latest": 0, "same": 1.0, "n": N},
        {"part": "concatenate", "end": "last", "layer": 0, "earliest": 0, "latest": 1, "same": 0.9, "n": N},
        {"part": "lookup", "end": "first", "layer": 1, "earliest": 1, "latest": 1, "same": 1.0, "n": N},
        {"part": "lookup", "end": "last", "layer": 2, "earliest": 1, "latest": 3, "same": 0.55, "n": N},
    )
    said = circuit_show.sentences(tables)[1]
    assert (
        "attention gathers from layer 0 [0, 0] to 0 [0, 1] and MLPs look up from layer 1 [1, 1] to 2 [1, 3]"
        in said
    )
    assert said.endswith("the border that moves most stays in 55.0\N{NO-BREAK SPACE}% of the resamples.")
