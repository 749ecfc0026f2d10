"""What a study will cost: every rule of the plan is named, and the numbers follow the sizes."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from factfinding.config import Config, validate
from factfinding.cost import (
    EFFICIENCY,
    GATHERED,
    ORDER,
    Asked,
    Rates,
    Shape,
    Study,
    estimate,
    page,
    rule_of,
    study_of,
)
from factfinding.errors import InputError
from helpers.workflow import dry_run, planned, snakemake

PYTHIA = Shape(
    layers=32, width=2560, heads=32, head=80, neurons=10240, vocabulary=50304, block=78_676_480, ends=257_561_600
)  # fmt: skip
ASKED = Asked(
    subjects=300,
    known=300,
    answers=3,
    full=17,
    name_only=4,
    zero_shot=9,
    name=3,
    after=5,
    facts=40,
    of_people=10,
)
SAMPLES = {"patched_subjects": 30, "node_subjects": 4}
ALL_RUN = SAMPLES | {"screen": "never"}
EVERY = {"engine": "auto", "screen": "never"}
"""Every neuron replaced, by differences."""
H200 = Rates(start=6, products=51e12, gpu=True)
AS_FAST = replace(H200, gpu=False, products=H200.products * EFFICIENCY["gpu"] / EFFICIENCY["processor"])
"""A processor on which whole passes take as long."""


def config(**keys) -> Config:
    return validate({"interventions": SAMPLES} | keys)


def cost(shape: Shape = PYTHIA, asked: Asked = ASKED, rates: Rates = H200, **keys) -> pl.DataFrame:
    study = Study(config=config(**keys), shape=shape, asked=asked)
    jobs = [*study.works(), "figure_ladder", "total_effects_shard_0", "neuron_effects_shard_0"]
    return estimate(
        study,
        [job for job in jobs if job not in ("figure", "total_effects_shard", "neuron_effects_shard")],
        rates,
    )


def of(table: pl.DataFrame, rule: str, column: str = "seconds") -> float:
    return table.filter(rule=rule)[column].item()


def test_the_table_names_every_rule_of_the_plan(study):
    code, output = dry_run(study.folder, "--forceall")
    assert code == 0, output[-3000:]
    given = ("--set-resources", "cost:gflops=50", "cost:start=5")
    said = snakemake(study.folder, "cost", "--cores", "1", *given)
    table = said[said.index("Study small, about") :].splitlines()
    assert "50 GFLOP/s" in table[0] and "5.0 s" in table[0]
    assert table[1].split()[:3] == ["rule", "jobs", "seconds"] and "measured" in table[1]
    rows = {
        line.split()[0]: int(line.split()[1])
        for line in table[2:]
        if line.split()[1:2] and line.split()[1].isdigit()
    }
    assert rows.keys() == planned(output)
    assert all(len(line.split()) > 3 for line in table[2 : 2 + len(rows)]), "the cost of a rule is not known"
    assert rows["activations"] == rows["activations_shard"] == 2
    assert rows["figure"] > 20 and rows["neuron_effects_shard"] == 2
    assert any(line.startswith("all, one after the other") for line in table)


def test_what_was_measured_at_the_shape_of_pythia_is_met_within_a_factor_of_two():
    """On one GPU, 300 names, 30 patched and 4 ablated (docs/performance.md). Activations were then run and put together by
    one job for each of two conditions."""
    table = cost(circuit={"lookup": [2, 6]}, interventions=ALL_RUN)
    measured = {"recall": 24, "readers": 21, "total_effects_shard": 188, "adopt_model": 32}
    found = {rule: of(table, rule) for rule in measured}
    measured["activations"] = 64
    found["activations"] = both(table, "seconds") * 2 / 3  # here all three conditions
    for rule, seconds in measured.items():
        assert seconds / 2 <= found[rule] <= 2 * seconds, rule
    assert 11 < of(table, "recall", "gpu_gb") < 14
    assert 2.5 < both(table, "disk_gb") < 8


def both(table: pl.DataFrame, column: str) -> float:
    """Of the rules that run activations and put them together."""
    return of(table, "activations_shard", column) + of(table, "activations", column)


def test_the_numbers_grow_with_subjects_and_layers():
    """Beyond starting and loading, which do not."""
    idle = cost(asked=replace(ASKED, subjects=1, known=1))
    one, twice = cost(), cost(asked=replace(ASKED, subjects=600, known=600))
    for rule in ("recall", "circuit_checks", "activations_shard", "activations", "context", "mlp_norms"):
        grown = (of(twice, rule) - of(idle, rule)) / (of(one, rule) - of(idle, rule))
        assert 1.8 < grown < 2.2, rule
        assert of(twice, rule, "disk_gb") >= of(one, rule, "disk_gb")
    assert both(twice, "disk_gb") == pytest.approx(2 * both(one, "disk_gb"), rel=0.01)
    assert of(twice, "toy_models") == of(one, "toy_models")
    # a pass is as many times longer as there are layers; with nodes of each layer replaced, the square of that
    deep = replace(PYTHIA, layers=64)
    for rule, power in (("locality", 1), ("residual_patching", 2), ("total_effects_shard", 2)):
        assert products_of(rule, deep) / products_of(rule) == pytest.approx(2**power, rel=0.1), rule
    assert of(cost(shape=deep), "recall", "gpu_gb") > 1.8 * of(one, "recall", "gpu_gb")


def products_of(rule: str, shape: Shape = PYTHIA, **keys) -> float:
    """Seconds that the products of a rule take: what a machine a hundred times as slow in them takes more."""
    slow = replace(H200, products=H200.products / 100)
    return (of(cost(shape=shape, rates=slow, **keys), rule) - of(cost(shape=shape, **keys), rule)) / 99


def test_the_rate_of_the_machine_and_of_the_products_count():
    expected = operations() / (EFFICIENCY["gpu"] * H200.products)
    every, screened = cost(interventions=ALL_RUN), cost()
    assert products_of("total_effects_shard", interventions=ALL_RUN) == pytest.approx(expected, rel=1e-6)
    assert of(every, "total_effects_shard") > 2 * of(screened, "total_effects_shard")
    shared = of(cost(interventions=ALL_RUN | {"shards": 4}), "total_effects_shard")
    assert shared < 0.5 * of(every, "total_effects_shard")
    assert products_of("activations_shard", activations={"shards": 4}) == pytest.approx(
        products_of("activations_shard") / 4
    )
    tf32 = cost(interventions=ALL_RUN, compute={"engine": "auto", "products": "tf32"})
    assert of(tf32, "total_effects_shard") < 0.5 * of(every, "total_effects_shard")
    assert of(tf32, "recall") == of(every, "recall"), "whole prompts are run by values"
    full, fast = (
        of(cost(neurons=EVERY | {"products": products}), "neuron_effects_shard")
        for products in ("full", "bfloat16")
    )
    assert full > 5 * fast
    few = of(cost(neurons=EVERY | {"screen": "always"}), "neuron_effects_shard")
    assert few < full / 20
    on_processor = of(
        cost(rates=AS_FAST, neurons=EVERY | {"products": "bfloat16"}),
        "neuron_effects_shard",
    )
    assert on_processor == pytest.approx(full)


def test_shuffled_weights_are_brought_to_their_places_by_a_processor_only():
    """20 shuffles of two matrices in each of 32 layers (P3.7); a GPU needs the random orders alone."""
    on_processor = of(cost(rates=AS_FAST), "linear_structure")
    matrix = PYTHIA.neurons * PYTHIA.width
    assert on_processor - of(cost(), "linear_structure") == pytest.approx(20 * 64 * matrix * GATHERED)
    more = of(cost(names={"shuffles": 40}), "linear_structure") - of(cost(), "linear_structure")
    assert more > 20 * matrix * ORDER


def operations() -> float:
    """Of P2.7, counted anew: each node at each position from the name on, by the layers above it up to END."""
    layers_above = sum(PYTHIA.layers - 1 - layer for layer in range(PYTHIA.layers))
    slots = range(1, round(ASKED.name + ASKED.after))
    replaced = 30 + 4 * 4
    return 2 * PYTHIA.block * replaced * (PYTHIA.heads + 2) * layers_above * sum(slots)


def test_a_model_that_is_not_here_yet_is_asked_for(tmp_path):
    hub = config(
        model={"source": "hub", "id": "some/model", "revision": "main"},
        subjects={"table": "resources/athletes.csv"},
    )
    with pytest.raises(InputError, match="'hub' that is not here yet; allowed: its files first: `snakemake"):
        study_of(hub, tmp_path)


def test_the_embedded_models_shape_comes_from_the_configuration(tmp_path):
    found = study_of(config(), tmp_path)
    assert (found.shape.layers, found.shape.width, found.shape.neurons) == (6, 64, 128)
    assert found.shape.block == 33_472 and found.asked.subjects == 1500 and found.asked.answers == 3


def test_the_page_says_what_is_not_known_as_nothing():
    study = Study(config=config(), shape=PYTHIA, asked=ASKED)
    own = estimate(study, ["my_experiment", "recall"], H200)
    assert own["seconds"].to_list()[0] is None and own["rule"].to_list() == ["my_experiment", "recall"]
    assert "my_experiment" in page(own, "mine", H200, {}).splitlines()[3]
    table = cost()
    text = page(table, "mine", H200, {"recall": 24.0})
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert "24" in lines["recall"].split() and len(lines["circuit"].split()) == 4
    assert rule_of("figure_ladder") == "figure" and rule_of("neuron_effects") == "neuron_effects"
