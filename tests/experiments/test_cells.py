"""P2.2, P2.7-P2.9, P2.11 and P3.1 on planted models of three answers: what must be said is worked out by hand.

With one neuron per subject, all that is written at a place is the logit 8 of one answer. A donor of the partner's answer moves
the difference "own minus partner's" by -16, one of a third answer by -8, no answer at all by -8.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl
import pytest

from factfinding.experiments.circuit.compute import looking_up
from factfinding.experiments.circuit_checks.compute import circuit_checks
from factfinding.experiments.circuit_checks.show import sentences as checks_in_words
from factfinding.experiments.circuit_scan.show import sentences as circuit_in_words
from factfinding.experiments.direct_effects.show import sentences as direct_in_words
from factfinding.experiments.mlp_paths.compute import Paths, mlp_paths
from factfinding.experiments.mlp_paths.show import sentences as paths_in_words
from factfinding.experiments.residual_patching.show import sentences as residual_in_words
from factfinding.experiments.total_effects.show import sentences as total_in_words
from factfinding.methods.circuit import Circuit
from factfinding.methods.direct import extracting_heads
from factfinding.methods.estimates import behind
from factfinding.methods.patched import sample
from factfinding.methods.simplified import Parts
from helpers import planted_cells
from helpers.head_tables import head_tables
from helpers.intervention_tables import circuit_of, intervention_tables, readers_of, total_effects_of
from helpers.models import FAMILIES, PARALLEL, random_anatomy
from helpers.planted_cells import LOGIT, Cells

MAJORITY = 1 / 3
MODELS = {
    "at_name": planted_cells.at_name,
    "at_name_spelled": lambda: planted_cells.at_name(spelled=True),
    "at_end": planted_cells.at_end,
    "at_end_spelled": lambda: planted_cells.at_end(spelled=True),
    "in_block_0": planted_cells.in_block_0,
}


@cache
def model_of(name: str) -> Cells:
    return MODELS[name]()


@cache
def tables_of(name: str) -> dict[str, pl.DataFrame]:
    model = model_of(name)
    given = (model.anatomy, model.prompts, model.candidates)
    checks = circuit_checks(*given, batch_size=16, seed=0)
    return intervention_tables(*given) | head_tables(*given) | {"circuit_checks": checks}


def plain(sentence: str) -> str:
    return sentence.replace("\N{NO-BREAK SPACE}", " ")


# donors and what is measured (P2.7)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_resampled_from_another_answer_is_from_the_partner_s(seed):
    model = model_of("at_name")
    drawn = sample(model.prompts, model.candidates, subjects=36, draws=4, seed=seed)
    partner = drawn.labels[drawn.corrupt]
    assert (partner != drawn.labels).all()
    for donors in drawn.donors["resample_other"]:
        assert (drawn.labels[donors] == partner).all() and (donors != np.arange(36)).all()
    assert len({tuple(donors) for donors in drawn.donors["resample_other"]}) == 4, "each draw is another"
    for donors in drawn.donors["resample_same"]:
        assert (drawn.labels[donors] == drawn.labels).all()


BY_HAND = {
    "resample_same": 0.0,  # the same answer is written
    "resample_other": -2
    * LOGIT,  # the own logit falls from 8 to 0, the partner's rises from 0 to 8, for every subject
    "corrupt": -2 * LOGIT,
    "zero": -LOGIT,
    "mean": -LOGIT,  # a third of 8 each: own and partner's are equal
}


@pytest.mark.parametrize("kind", BY_HAND)
@pytest.mark.parametrize(
    ("name", "node", "role"),
    [("at_name", "mlp_out:1", "final_name"), ("at_end", "mlp_out:2", "end"), ("in_block_0", "mlp_out:0", "final_name")],
)  # fmt: skip
def test_the_lookup_s_mlp_does_what_is_worked_out_by_hand(name, node, role, kind):
    row = tables_of(name)["total_effects"].filter(node=node, role=role, kind=kind).row(0, named=True)
    for end in ("", "_low", "_high"):  # the same for every subject, so the interval has no width
        assert row[f"effect{end}"] == pytest.approx(BY_HAND[kind], abs=1e-3)
    assert row["whole_swap"] == pytest.approx(-2 * LOGIT, abs=1e-3)
    assert row["donor"] == {"resample_same": "own answer", "resample_other": "partner's answer", "corrupt": "partner"}.get(kind)  # fmt: skip


def test_where_only_the_own_answer_is_measured_donors_are_of_both_other_answers():
    """P3.1 measures the own answer's loss and accuracy, and the whole prediction: no other answer is singled out."""
    model = model_of("at_name")
    reader = readers_of(model.anatomy, model.prompts)
    given = (model.anatomy, model.prompts, model.candidates, [reader])
    runs = Paths(*given, 1, draws=12, batch_size=16, seed=0)
    drawn = np.stack([runs.labels[donors] for donors in runs.donors["resample_other"]])
    assert (drawn != runs.labels).all()
    assert all(len(set(of_one)) == 2 for of_one in drawn.T)


# MLP 0 reads one token in parallel blocks (P2.8)


@pytest.mark.parametrize("family", FAMILIES)
def test_whether_mlp_0_reads_one_token_follows_from_the_anatomy(family):
    anatomy = random_anatomy(family)
    assert anatomy.mlps_of_several_tokens == range(1 if anatomy.parallel else 0, anatomy.n_layers)
    assert anatomy.parallel == (family in PARALLEL)


@pytest.mark.parametrize(
    ("name", "mlps", "mlp_0", "after"),
    [
        ("at_name", MAJORITY, 1.0, 1.0),
        ("at_name_spelled", MAJORITY, MAJORITY, 1.0),
        ("at_end", 1.0, 1.0, MAJORITY),
        ("at_end_spelled", 1.0, MAJORITY, MAJORITY),  # MLP 0 is needed, and is no lookup
        ("in_block_0", MAJORITY, None, 1.0),  # here MLP 0 reads what attention brought, and counts
    ],
)
def test_mlp_0_is_no_test_of_the_lookup_where_it_reads_one_token(name, mlps, mlp_0, after):
    table = tables_of(name)["circuit_checks"]
    accuracy = dict(table.select("check", "accuracy").rows())
    assert accuracy["clean"] == 1.0 and accuracy.get("mlp_0_at_name") == mlp_0
    assert accuracy["mlps_at_name"] == accuracy["mlps_at_name_frozen"] == pytest.approx(mlps)
    assert accuracy["mlps_after_name"] == pytest.approx(after)
    first, second = map(plain, checks_in_words({"circuit_checks": table})[:2])
    assert ("the lookup needs these MLPs" in first) and ("no sign" in first) == (mlps == 1.0)
    assert ("not MLP 0, which reads this token alone" in first) == (mlp_0 is not None)
    assert ("MLP 0" in second) == (mlp_0 is not None)


@pytest.mark.parametrize(
    ("name", "place", "lookup"),
    [
        ("at_name", "final_name", (1, 1)),
        ("at_name_spelled", "final_name", (1, 1)),
        ("at_end", "end", None),
        ("at_end_spelled", "end", None),
        ("in_block_0", "final_name", (0, 0)),
    ],
)
def test_the_circuit_that_was_planted_is_proposed(name, place, lookup):
    circuit = Circuit.from_table(tables_of(name)["circuit"])
    assert (circuit.lookup_at, circuit.lookup) == (place, lookup)
    assert circuit.extract == (("L2H2",) if place == "final_name" else ())
    assert circuit.concatenate == ((0, 0) if place == "final_name" else None)


def test_mlp_0_alone_is_no_lookup_where_it_reads_one_token():
    """Averaged, it takes the token away; all MLPs above it can be averaged."""
    scan = tables_of("at_end_spelled")["circuit_scan"]
    assert scan.filter(scan="mlps_from", layer=0)["accuracy"].item() < 0.5
    assert looking_up(scan, []) is None
    told = plain(circuit_in_words(tables_of("at_end_spelled"))[-1])
    assert "of layer 0 (which reads one token, so that this is no test of a lookup)" in told


# what is set, and what was found


def test_a_range_that_is_set_does_not_hide_what_was_found():
    model = model_of("at_end")
    reader = readers_of(model.anatomy, model.prompts)
    circuit, tables = circuit_of(model.anatomy, model.prompts, model.candidates, reader, lookup=(1, 2))
    rows = {row["part"]: row for row in tables["circuit"].iter_rows(named=True)}
    place, lookup = rows["lookup_at"], rows["lookup"]
    assert (place["set"], place["found"], place["place"], place["proposed_place"], place["fixed"]) == (
        "final_name", "end", "final_name", "end", True,
    )  # fmt: skip
    assert (lookup["set"], lookup["found"], lookup["first"], lookup["last"]) == ("1-2", None, 1, 2)
    assert rows["extract"]["set"] is None and not rows["extract"]["fixed"]
    assert circuit.found.lookup_at == "end" and circuit.lookup == (1, 2)
    said = circuit_in_words(tables)[0]
    assert said.startswith(
        "The fact is not looked up at the name: it cannot be read there, and an MLP at END"
    )
    assert "not what the tables say): MLPs 1 to 2 look it up (found: nothing)." in said
    assert "is looked up at the final name token" not in said


# noise is neither counted nor named (P2.2, P2.4, P2.7)


def test_a_head_of_rounding_noise_is_not_counted():
    """All heads but one change the difference by 1e-8 logits, surely and alike for all subjects."""
    tables = dict(tables_of("at_name"))
    effects = tables["direct_effects"]
    other = (pl.col("kind") == "head") & (pl.col("node") != "L2H2")
    noise = {name: pl.when(other).then(pl.lit(-1e-8)).otherwise(name) for name in ("exact", "exact_low", "exact_high")}  # fmt: skip
    whole = effects.filter(kind="all", answer="all")["exact"].item()
    share = pl.when(other).then(-1e-8 / whole).otherwise("share")
    tables["direct_effects"] = effects.with_columns(**noise, share=share)
    anatomy = model_of("at_name").anatomy
    heads = extracting_heads(anatomy, tables["direct_effects"], fixed=None, count=4)
    assert [str(head) for head in heads] == ["L2H2"]
    said = plain(direct_in_words(tables)[0])
    assert "1 of 16 heads lowers the logit difference by 1.0 % or more of what" in said
    assert "most of all L2H2 by -16.00 [-16.00, -16.00] (100.0 %)." in said


@pytest.mark.parametrize("name", ["at_name", "at_end"])
def test_no_sentence_names_a_node_that_does_nothing(name):
    """What works is the lookup, the heads that concatenate, and the head that extracts; nothing else is named."""
    tables = tables_of(name)
    works = {"at_name": {"L0H1", "MLP 1", "L2H2"}, "at_end": {"L1H1", "L1H3", "MLP 2"}}[name]
    said = plain(" ".join([*direct_in_words(tables), *total_in_words(tables)]))
    heads = {f"L{layer}H{head}" for layer in range(4) for head in range(4)}
    named = {node for node in heads | {f"MLP {layer}" for layer in range(4)} if f"{node} " in said}
    assert named == works
    assert "0.0000" not in said


def test_where_all_heads_are_noise_none_is_named():
    tables = dict(tables_of("at_end"))
    effects = tables["direct_effects"]
    surely = {name: pl.when(kind_is_head()).then(pl.lit(-1e-8)).otherwise(name) for name in ("exact", "exact_low", "exact_high")}  # fmt: skip
    tables["direct_effects"] = effects.with_columns(**surely, share=pl.when(kind_is_head()).then(1e-9).otherwise("share"))  # fmt: skip
    said = plain(direct_in_words(tables)[0])
    assert "none of 16 heads lowers the logit difference by 1.0 % or more" in said and "L0H0" not in said


def kind_is_head() -> pl.Expr:
    return pl.col("kind") == "head"


# who leads is told by pairs


def test_both_names_matter_alike_before_layer_0_and_no_place_is_called_first():
    """Answer (first + last) mod 3: either name alone, swapped, changes it in the same share of cases."""
    told = plain(residual_in_words(tables_of("at_name"))[0])
    assert "before layer 0 at the first name token (" in told
    assert "and the final name token (" in told and "which cannot be told apart; before layers 1 to 2" in told
    assert "before layers 1 to 2 at the final name token (100.0 %, n = 24); before layer 3 at END" in told


def test_the_distance_from_the_leader_is_paired():
    """Two columns that move together are told apart by pairs, though their own intervals overlap."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=200)
    values = np.stack(
        [common, common + 0.1 + 0.01 * rng.normal(size=200), rng.normal(size=200) * 0.01], axis=1
    )
    near, leader, _ = behind(values, ["a", "a", "b"], lowest=False, seed=0)
    assert (leader.value, leader.low, leader.high) == (0.0, 0.0, 0.0)
    assert near.value == pytest.approx(-0.1, abs=0.01) and near.high < 0
    lowest = behind(values, ["a", "a", "b"], lowest=True, seed=0)
    assert lowest[0].value == 0.0 and lowest[1].low > 0 and lowest[2].value == 0.0


def test_a_leader_is_compared_on_the_subjects_that_both_have():
    values = np.array([[1.0, 5.0], [2.0, np.nan]] + [[0.0, np.nan]] * 10)
    first, second = behind(values, ["a", "a"], lowest=False, seed=0)
    assert first.value == 0.0 and first.n == 12, "a column of one subject does not lead"
    assert (second.value, second.n) == (4.0, 1) and np.isnan(second.low)
    apart = np.array([[1.0, np.nan], [np.nan, 1.0]])
    assert behind(apart, ["a", "a"], lowest=False, seed=0)[1] is None


# ladder, effective model, the probed direction, paths between MLPs (P2.8, P2.9, P2.11, P3.1)


def test_the_ladder_loses_nothing_but_where_a_planted_part_is_taken_away():
    ladder = tables_of("at_name_spelled")["ladder"].filter(layer=2, reader="head")
    for row in ladder.filter(~pl.col("step").str.starts_with("attention_")).iter_rows(named=True):
        assert row["accuracy"] == 1 and row["drop"] in (None, 0), row
    alone = ladder.filter(step="attention_0", kind="mean").row(0, named=True)
    assert alone["accuracy"] < 0.5 and alone["drop_low"] > 0.2


def test_the_effective_model_is_right_for_every_subject_and_exact():
    table = tables_of("at_name")["effective_model"]
    assert table.filter(model="effective")["accuracy"].to_list() == [1.0]
    assert table["largest_error"].max() < 1e-6
    assert tables_of("at_end")["effective_model"].is_empty()


def test_the_probed_direction_is_used_after_the_lookup_and_not_where_nothing_is_read():
    table = tables_of("at_name")["probe_patching"]
    follows = dict(table.filter(layer=1).select("change", "follows").iter_rows())
    assert follows["whole"] == follows["head"] == 1 and follows["head_complement"] == 0
    assert follows["random"] < 0.2
    assert table.filter(layer=3)["follows"].max() == 0


def test_between_mlps_nothing_flows_where_one_neuron_knows_one_subject():
    """P3.1: MLPs 1 and 2 at the name. Only MLP 1 works, so no path is missed, and no accuracy moves."""
    model = model_of("at_name")
    given = (model.anatomy, model.prompts, model.candidates)
    reader = readers_of(model.anatomy, model.prompts)
    table = mlp_paths(*given, [reader], Parts(concatenate=0, lookup=(1, 3)), draws=2, batch_size=16, seed=0)
    removed = table.drop_nulls("source")
    assert removed.filter(metric="accuracy")["value"].unique().to_list() == [1.0]
    assert removed.filter(pl.col("metric").is_in(["loss", "kl"]))["change"].abs().max() < 1e-5
    assert "no later MLP surely needs" in paths_in_words({"mlp_paths": table})[-1]


def test_the_path_that_the_lookup_needs_is_the_one_that_is_missed():
    """P3.1: MLP 0 spells the last name, MLP 1 looks it up: without the path 0 -> 1 guessing is left, the others cost nothing.

    On the mean of the six last names the six neurons of the first name fire alike, at 1 + 1/6 - 1 = 1/6, two for each answer: all
    answers get the same, and the prior answers.
    """
    model = model_of("at_name_spelled")
    given = (model.anatomy, model.prompts, model.candidates)
    reader = readers_of(model.anatomy, model.prompts)
    table = mlp_paths(*given, [reader], Parts(concatenate=0, lookup=(0, 2)), draws=2, batch_size=16, seed=0)
    right = {(i, j): value for i, j, value in table.filter(metric="accuracy", kind="mean").drop_nulls("source").select("source", "target", "value").iter_rows()}  # fmt: skip
    assert right == {(0, 1): pytest.approx(MAJORITY), (0, 2): 1.0, (1, 2): 1.0}
    loss = table.filter(metric="loss", kind="mean").drop_nulls("source")
    assert loss.filter(source=0, target=1)["behind"].item() == 0
    assert loss.filter(pl.col("target") == 2)["behind_high"].max() < -1
    assert "what MLP 0 writes, as MLP 1 alone reads it" in paths_in_words({"mlp_paths": table})[0]
    assert "not surely more" not in paths_in_words({"mlp_paths": table})[0]


def test_one_subject_has_no_interval_and_is_told_all_the_same():
    model = model_of("at_name")
    drawn = sample(model.prompts, model.candidates, subjects=1, draws=1, seed=0)
    kinds = ["mean", "corrupt", "resample_same"]
    table = total_effects_of(model.anatomy, drawn, kinds=kinds, batch_size=4, seed=0).table
    assert table["effect_low"].null_count() == table.height == table["behind_low"].null_count()
    assert all(total_in_words({"total_effects": table}))
