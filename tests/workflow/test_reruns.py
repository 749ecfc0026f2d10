"""What reruns when what is edited: every leaf of the configuration, every module of the library.

One small study is run once in a copy of the project; then each edit is made in that copy and Snakemake is asked, in a
dry run, what it would do. What is expected is derived: which rules are given a key (`settings=`) or reach a module
(`code=`) stands in the rules, and what follows from them in Snakemake's own graph of rules. Rows written by hand
(BY_HAND) check what is derived.
"""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

from factfinding.config import Config
from factfinding.declarations import declarations
from factfinding.digest import Digests
from helpers import ROOT
from helpers.workflow import snakemake, would_run

SCRIPTS = ROOT / "scripts"
RUN_THE_MODEL = {
    *(
        "activations_shard",
        "recall",
        "model_card",
        "circuit_checks",
        "circuit_scan",
        "residual_patching",
        "total_effects_shard",
    ),
    *(
        "ladder",
        "effective_model",
        "context",
        "probe_patching",
        "mlp_paths",
        "paraphrases",
        "multi_token",
        "extraction_unasked",
        "neuron_facts",
        "neuron_effects_shard",
    ),
    *(
        "effective_probes",
        "nonlinear_excess",
        "dossiers",
        "linear_structure",
        "mlp_norms",
        "orthogonal_remainder",
        "linear_relation",
        "entity_cells",
        "name_unit",
        "emergence",
    ),
    "locality",
}
READ_ITS_WEIGHTS = {"direct_effects", "attention_roles", "head_inputs", "head_probes", "dictionaries"}
REPLACE_PARTS = {
    *("total_effects_shard", "residual_patching", "circuit_scan", "ladder", "probe_patching", "mlp_paths"),
}
BY_HAND = {  # leaf, or module of the library -> rules that are given it, or whose script reaches it
    "organism.seed": {"train_organism"},
    "subjects.min_per_answer": {"subjects"},
    "activations.conditions": set(),  # in another order: each is a job of its own
    "compute.batch_size": RUN_THE_MODEL,
    "compute.dtype": RUN_THE_MODEL - {"effective_probes"} | READ_ITS_WEIGHTS,
    "model.family": {"tiny_model"},
    "model.bos": {
        *("tiny_model", "adopt_model", "convert_gguf", "download_model"),
        *("adopt_checkpoints", "download_checkpoints"),
    },
    "organism.checkpoints": {"train_organism"},
    "emergence.revisions": {"download_checkpoints"},
    "emergence.folders": {"adopt_checkpoints"},
    "emergence.seed": {"emergence"},
    "neurons.draws": {"neuron_effects_shard"},
    "compute.engine": REPLACE_PARTS,
    "interventions.screen_below": {"total_effects_shard", "total_effects"},
    "neurons.subjects": {"neuron_facts", "neuron_effects_shard"},
    "neurons.asked_subjects": {"neuron_facts"},
    "neurons.seed": {"neuron_facts", "neuron_effects_shard", "fact_correlations", "effect_concentration"},
    "recall.seed": {"recall", "circuit_checks"},
    "recall.known": {"recall", "neuron_facts", "probe_patching", "paraphrases", "multi_token"},
    "recall.at_most": {"recall"},
    "recall.beyond_spelling": {"recall"},
    "subjects.few": {"subjects"},
    "circuit.lookup": {"activations_shard", "circuit"},
    "activations.datasets": {"activations_shard"},
    "activations.shards": {"activations_shard"},
    "toys.max_steps": {"toy_models"},
    "locality.k": {"locality"},
    "mlp_paths.draws": {"mlp_paths"},
    "linear_relation.ranks": {"linear_relation"},
    "dictionaries.steps": {"dictionaries"},
    "entity_cells.neurons": {"entity_cells"},
    "relation.paraphrases": {"paraphrases"},
    "relation.title": {"context", "figure", "report"},
    "multi_token.layers": {"multi_token"},
    "extraction_unasked.mostly": {"extraction_unasked"},
    "methods/attributes": {"multi_token", "extraction_unasked", "dictionaries"},
    "methods/head_reader": {"ladder", "probe_patching", "mlp_paths"},
    "experiments/context/compute": {"context"},
    "experiments/context/show": {"figure"},
    "organism/corpus": {"train_organism"},
    "figures/style": {"figure", "report"},
}


def rule_bodies() -> dict[str, str]:
    """The text of each rule."""
    texts = [path.read_text() for path in sorted((ROOT / "rules").glob("*.smk"))]
    found = re.compile(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
    return {name: body for text in texts for name, body in found.findall(text)}


def given(rule: str) -> set[str]:
    """The sections of the configuration, or keys of them, that a rule is given."""
    found = re.search(r"settings=settings\((.*?)\)", BODIES[rule], re.DOTALL)
    return set(re.findall(r'"([\w.]+)"', found[1])) if found else set()


def scripts_of(rule: str) -> list[Path]:
    """The files whose digest a rule is given; for `figure`, what draws any of them."""
    if rule == "figure":
        return [SCRIPTS / "figure.py", *SCRIPTS.glob("factfinding/experiments/*/show.py")]
    computed = re.search(r'code=computes\("(\w+)"\)', BODIES[rule])
    if computed:
        return [SCRIPTS / "experiment.py", SCRIPTS / f"factfinding/experiments/{computed[1]}/compute.py"]
    return [SCRIPTS / name for name in re.findall(r'code\("([^"]+)"', BODIES[rule])]


def own_code(rule: str) -> str:
    """What a rule's scripts say; of an experiment, all modules of its folder."""
    folders = [path.parent for path in scripts_of(rule) if "experiments" in path.parts]
    paths = [path for folder in folders for path in folder.glob("*.py")]
    return "".join(path.read_text() for path in paths or scripts_of(rule))


BODIES = rule_bodies()


@pytest.fixture(scope="module")
def graph(study) -> dict[str, set[str]]:
    """Which rules of the small study read what a rule writes, as Snakemake says."""
    text = snakemake(study.folder, "--rulegraph", "dot")
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', text))
    edges = re.findall(r"(\d+) -> (\d+)", text)
    feeds = {name: {names[b] for a, b in edges if names[a] == name} - {"all"} for name in names.values()}
    del feeds["all"]
    return feeds


BRINGS = {"activations": {"activations_shard"}}
"""Rules that cannot run without others: what these leave for them is removed when it has been used (`temp`)."""


def closure(graph: dict[str, set[str]], rules: set[str]) -> set[str]:
    """Those of the rules that the study has, all that follow from them, and what they bring."""
    found: set[str] = set()
    waiting = [rule for rule in rules if rule in graph]
    while waiting:
        rule = waiting.pop()
        if rule not in found:
            found.add(rule)
            waiting += graph[rule] | BRINGS.get(rule, set())
    return found


TOGETHER = {
    "RUN": {f"compute.{key}" for key in ("dtype", "device", "batch_size")},
    "REPLACING": {f"compute.{key}" for key in ("engine", "products", "twin_rows")},
    "WORDS": {f"relation.{key}" for key in ("subject", "subjects", "answer", "answers")},
    "QUOTED": {"relation.title", "relation.before"},
}
"""Given as one, by the names that rules/common.smk has for them."""


def rules_given(leaf: str) -> set[str]:
    """The rules that are given a leaf, or the section or key that it stands in."""
    names = [name for name, leaves in TOGETHER.items() if leaf in leaves]
    together = {rule for rule, body in BODIES.items() if any(f"*{name}" in body for name in names)}
    return together | {
        rule for rule in BODIES if any(f"{leaf}.".startswith(f"{key}.") for key in given(rule))
    }


@cache
def reached() -> dict[str, set[Path]]:
    digests = Digests(SCRIPTS)
    return {rule: digests.reachable(*scripts_of(rule)) for rule in BODIES}


def rules_reaching(path: Path) -> set[str]:
    return {rule for rule, paths in reached().items() if path.resolve() in paths}


def module(name: str) -> Path:
    return SCRIPTS / "factfinding" / f"{name}.py"


def leaves(values, prefix=()):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key), value


CHANGED = {  # leaves whose other value must fit the rest of the configuration
    ("relation", "subject"): "player",
    ("relation", "subjects"): "players",
    ("relation", "answer"): "game",
    ("relation", "answers"): "games",
    ("relation", "shot"): "Fact: Tiger Woods plays golf\n",
    ("relation", "before"): "True:",
    ("relation", "after"): " plays",
    ("relation", "paraphrases"): [{"before": "News:"}],
    ("relation", "title"): " Dr",
    ("relation", "sentence"): "It rained.",
    ("locality", "texts"): "README.md",
    ("locality", "dataset"): None,
    ("locality", "dataset_config"): "other",
    ("locality", "dataset_split"): "test",
    ("locality", "dataset_revision"): "main",
    ("locality", "field"): "words",
    ("locality", "k"): [1, 2],
    ("toys", "sizes"): [12],
    ("toys", "widths"): [2],
    ("toys", "depths"): [2],
    ("toys", "classes"): 2,
    ("mlp_paths", "subjects"): "known",
    ("paraphrases", "subjects"): "known",
    ("multi_token", "subjects"): "known",
    ("multi_token", "layer"): 0,
    ("extraction_unasked", "subjects"): "known",
    ("linear_relation", "subjects"): "known",
    ("linear_relation", "betas"): [1.0, 2.0],
    ("linear_relation", "ranks"): [2],
    ("dictionaries", "subjects"): "known",
    ("dictionaries", "resid_layers"): [-1, 1],
    ("dictionaries", "mlp_layers"): [1],
    ("dictionaries", "features"): [16],
    ("entity_cells", "subjects"): "known",
    ("name_unit", "subjects"): "known",
    ("emergence", "subjects"): "known",
    ("emergence", "revisions"): None,  # of the hub's models; BY_HAND says who is given them
    ("emergence", "folders"): None,  # of the user's folders
    ("emergence", "last_step"): 1000,
    ("entity_cells", "neurons"): [1, 2],
    ("neurons", "facts"): "resources/facts.csv",
    ("neurons", "subjects"): "known",
    ("neurons", "first"): ["Somebody"],
    ("neurons", "engine"): "auto",
    ("neurons", "products"): "tf32",
    ("answer_neurons", "subjects"): "known",
    ("answer_neurons", "neurons"): ["L0N1"],
    ("answer_neurons", "texts"): "README.md",
    ("study",): None,
    ("studies",): None,
    ("names", "subjects"): "known",
    ("names", "conditions"): ["full"],
    ("model", "source"): None,
    ("organism", "world"): None,
    ("subjects", "table"): None,
    ("activations", "conditions"): ["name_only", "full"],
    ("activations", "datasets"): [
        *({"site": site} for site in ("resid", "attn_out", "mlp_out", "z", "pattern")),
        {"site": "post", "roles": ["final_name"]},
    ],  # without `pre`, which no rule needs
    ("probes", "conditions"): ["full"],
    ("probes", "folds"): ["first_name", "last_name", "random"],
    ("probes", "control_folds"): ["random"],
    ("circuit", "concatenate"): [0, 1],
    ("circuit", "lookup"): [0, 1],
    ("circuit", "extract"): ["L0H1"],
    ("heads", "subjects"): "known",
    ("heads", "conditions"): ["full"],
    ("compute", "device"): "cpu",
    ("compute", "dtype"): "float64",
    ("model", "id"): "a/b",
    ("model", "revision"): "main",
    ("model", "folder"): "elsewhere",
    ("model", "file"): "elsewhere.gguf",
    ("model", "bos"): None,  # the embedded model has its own; BY_HAND says who is given it
    ("model", "family"): "gpt2",
    ("organism", "width"): 48,
    ("organism", "heads"): 4,
    ("organism", "last_names"): 20,
    ("organism", "installed_heads"): 1,
    ("lookup", "subjects"): "known",
    ("lookup", "name_tokens"): 2,
    ("lookup", "probe_folds"): ["random"],
    ("subjects", "two_answers"): "first",
    ("subjects", "few"): "drop",
    ("recall", "known"): "best",
    ("recall", "at_most"): 20,
    ("probes", "subjects"): "known",
    ("interventions", "subjects"): "known",
    ("interventions", "screen"): "never",
    ("compute", "engine"): "auto",
    ("compute", "products"): "tf32",
    ("neurons", "screen"): "never",
    ("mlp_paths", "ablated_subjects"): 5,
    ("activations", "stored"): "float16",
}


def changed(leaf, value):
    if leaf in CHANGED:
        return CHANGED[leaf]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.99
    raise AssertionError(f"config leaf {'.'.join(leaf)}: say in CHANGED what else it may be")


def test_every_rule_says_its_code_and_every_experiment_has_its_rule():
    for rule in BODIES:
        assert all(path.is_file() for path in scripts_of(rule)) and scripts_of(rule), rule
    for name in declarations().experiments:
        if (SCRIPTS / f"factfinding/experiments/{name}/compute.py").exists():
            assert f'code=computes("{name}")' in BODIES[name]


def test_every_section_is_given_to_a_rule():
    whole = {"study", "studies"}
    assert {key.split(".")[0] for rule in BODIES for key in given(rule)} == set(Config.model_fields) - whole


@pytest.mark.parametrize("rule", sorted(rule for rule in BODIES if given(rule)))
def test_a_rule_is_given_no_key_that_its_code_does_not_name(rule):
    values = Config().model_dump(mode="json")
    keys = {key for leaf in given(rule) for key in leaf.split(".")[1:] or values[leaf]}
    assert keys <= {word for path in reached()[rule] for word in re.findall(r"\w+", path.read_text())}
    assert "batch_size" not in keys or re.search(r"\bcompute\.(batch_size|model_dump)", own_code(rule))


@pytest.mark.parametrize("what", BY_HAND)
def test_what_is_derived_agrees_with_what_is_known(what):
    found = rules_reaching(module(what)) if "/" in what else rules_given(what)
    assert found == BY_HAND[what]


def test_finished_means_nothing_to_do_however_files_are_touched(edited):
    """Again; after a touch of every file; after a git checkout of every file; with comments edited everywhere."""
    assert would_run(edited) == set()
    for path in edited.rglob("*"):
        if path.is_file() and not {".snakemake", "results"} & set(path.relative_to(edited).parts):
            os.utime(path)
    assert would_run(edited) == set()
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["commit", "-qm", "all"],
        ["rm", "-rq", "--cached", "."],
        ["checkout", "-f", "HEAD", "--", "."],
    ):
        subprocess.run([*git, *command], cwd=edited, check=True, capture_output=True)
    assert would_run(edited) == set()
    for path in (edited / "scripts").rglob("*.py"):
        path.write_text(path.read_text() + "\n# a comment\n\n\n")
    assert would_run(edited) == set()


def test_each_leaf_of_the_configuration_reruns_the_rules_that_read_it(edited, graph):
    small = yaml.safe_load((edited / "tests/fixtures/small.yaml").read_text())
    values = yaml.safe_load((edited / "config.yaml").read_text())
    wrong = {}
    for leaf, default in leaves(values):
        here = small
        for key in leaf[:-1]:
            here = here.get(key, {})
        value = changed(leaf, here.get(leaf[-1], default))
        if value is None:
            continue
        edit = yaml.safe_load(yaml.safe_dump(small))
        place = edit
        for key in leaf[:-1]:
            place = place.setdefault(key, {})
        place[leaf[-1]] = value
        (edited / "edit.yaml").write_text(yaml.safe_dump(edit))
        found = would_run(edited, "edit.yaml")
        expected = closure(graph, rules_given(".".join(leaf)))
        if found != expected:
            wrong[".".join(leaf)] = (sorted(found), sorted(expected))
    assert not wrong


def test_an_edited_module_reruns_these_rules_and_what_follows(edited, graph):
    """Two modules of each room, by a real dry run."""
    library, wrong = edited / "scripts" / "factfinding", {}
    rooms = [library, *sorted(path.parent for path in library.rglob("__init__.py") if path.parent != library)]
    for path in [path for room in rooms for path in sorted(room.glob("*.py"))[1:3]]:
        text = path.read_text()
        path.write_text(text + "\n_EDITED = 1\n")
        found = would_run(edited)
        path.write_text(text)
        name = path.relative_to(library).with_suffix("").as_posix()
        expected = closure(graph, rules_reaching(module(name)))
        if found != expected:
            wrong[name] = (sorted(found), sorted(expected))
    assert not wrong


def test_each_script_reruns_its_own_rules(edited, graph):
    wrong = {}
    for path in sorted((edited / "scripts").glob("*.py")):
        text = path.read_text()
        path.write_text(text + "\n_EDITED = 1\n")
        found = would_run(edited)
        path.write_text(text)
        expected = closure(graph, rules_reaching(SCRIPTS / path.name))
        if found != expected:
            wrong[path.stem] = (sorted(found), sorted(expected))
    assert not wrong


def test_reordered_keys_of_the_configuration_rerun_nothing(edited):
    small = yaml.safe_load((edited / "tests/fixtures/small.yaml").read_text())
    small["organism"] = dict(reversed(small["organism"].items()))
    (edited / "edit.yaml").write_text(yaml.safe_dump(dict(reversed(small.items())), sort_keys=False))
    assert would_run(edited, "edit.yaml") == set()
