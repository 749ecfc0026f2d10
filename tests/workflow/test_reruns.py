"""What reruns when what is edited: every leaf of the configuration, every module of the library, held to a map.

One small study is run once in a copy of the project; then each edit is made in that copy and Snakemake is asked, in a
dry run, what it would do. The map below is the expectation: which rules read a leaf or a module *directly*; what
follows from them is given by the graph.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import yaml

from factfinding.config import Config
from factfinding.digest import Digests
from helpers import ROOT
from helpers.workflow import would_run

FIGURES = {"figure"}
EVERY = {
    "train_organism", "athletes", "prompts", "recall", "activations", "layer_probes", "direct_effects", "head_probes",
    "readers", "total_effects", "circuit", "ladder", "effective_model", "context", "probe_patching",
    "model_card", "figure", "ledger", "report",
}  # fmt: skip
INTERVENTIONS = {
    "total_effects",
    "ladder",
    "effective_model",
    "context",
    "probe_patching",
}  # those that run the model
FEEDS = {  # which rules read what a rule writes
    "train_organism": {
        "athletes",
        "prompts",
        "recall",
        "activations",
        "layer_probes",
        "direct_effects",
        "head_probes",
        "readers",
        "model_card",
        "figure",
        "report",
    }
    | INTERVENTIONS,
    "athletes": {"prompts"},
    "prompts": {"recall", "activations", "layer_probes", "direct_effects", "head_probes", "model_card"}
    | INTERVENTIONS,
    "recall": {"layer_probes", "direct_effects", "head_probes", "readers", "model_card", "figure", "report"}
    | INTERVENTIONS,
    "activations": {"layer_probes", "direct_effects", "head_probes", "readers"},
    "layer_probes": {"model_card", "figure", "report"},
    "direct_effects": {"head_probes", "figure", "report"},
    "head_probes": {"figure", "report"},
    "readers": INTERVENTIONS,
    "total_effects": {"circuit", "figure", "report"},
    "circuit": {"ladder", "effective_model", "probe_patching", "figure", "report"},
    "ladder": {"figure", "report"},
    "effective_model": {"figure", "report"},
    "context": {"figure", "report"},
    "probe_patching": {"figure", "report"},
    "model_card": {"figure", "report"},
    "figure": {"report"},
    "ledger": {"report"},
    "report": set(),
}
LEAVES = {  # leaf or section of the configuration -> rules that are given it; the longest match counts
    "study": set(),
    "studies": set(),
    "model": set(),
    "compute": {"recall", "activations", "direct_effects", "head_probes", "model_card"} | INTERVENTIONS,
    "organism": {"train_organism"},
    "athletes": {"athletes"},
    "recall": {"recall", "model_card"},
    "activations": {"activations"},
    "circuit": {"circuit"},
    "circuit.lookup": {"activations", "circuit"},
    "circuit.extract": {"direct_effects", "head_probes", "circuit"},
    "heads": {"direct_effects", "head_probes"},
    "probes": {"layer_probes", "readers"},
    "interventions": INTERVENTIONS,
    "interventions.athletes": INTERVENTIONS | {"readers"},
}
EVERYWHERE = EVERY
HEADS = {"direct_effects", "head_probes"}
RUN_MODEL = {"recall", "activations", "model_card"}
LOAD_MODEL = RUN_MODEL | HEADS | INTERVENTIONS
FITTED = {"ladder", "effective_model", "probe_patching"}  # those that are read by probes and use the circuit
MODULES = {  # module of the library -> rules whose script reaches it
    "__init__": EVERYWHERE,
    "errors": EVERYWHERE,
    "files": EVERYWHERE,
    "config": set(),
    "config_yaml": set(),
    "studies": set(),
    "digest": {"activations"},
    "known": {"train_organism", "recall", "probe_patching", "figure"},
    "model_folder": set(),
    "preflight": set(),
    "stats": {"recall", "layer_probes", "readers", "model_card"} | HEADS | INTERVENTIONS,
    "store": {"activations", "recall", "layer_probes", "readers", "model_card"} | HEADS,
    "report": {"report"},
    "page": {"report"},
    "comparison": set(),  # of several studies; this is one
    "ledger": {"ledger", "report"},
    "findings/*": {"report"},
    "data/__init__": {"train_organism", "athletes", "prompts"} | LOAD_MODEL,
    "data/prompts": {"train_organism", "prompts"} | LOAD_MODEL,
    "data/athletes": {"athletes"},
    "data/csv_rows": {"athletes"},
    "data/facts": set(),
    "model/__init__": {"train_organism", "prompts"} | LOAD_MODEL,
    "model/anatomy": {"train_organism", "prompts"} | LOAD_MODEL,
    "model/source": {"train_organism"} | LOAD_MODEL,
    "model/tiny": set(),
    "model/weights": set(),
    "organism/*": {"train_organism"},
    "engine/__init__": LOAD_MODEL,
    "engine/sites": LOAD_MODEL,
    "engine/trace": LOAD_MODEL - {"context"},
    "engine/batches": RUN_MODEL,
    "engine/capture": RUN_MODEL,
    "engine/tokens": RUN_MODEL | INTERVENTIONS,
    "engine/answers": {"recall"},
    "engine/cached": HEADS,
    "engine/direct": HEADS | {"ladder", "probe_patching"},
    "engine/head_probe": {"head_probes", "ladder", "probe_patching"},
    "engine/clean": INTERVENTIONS,
    "engine/readings": {"total_effects", "probe_patching"},
    "engine/suffix": {"total_effects", "probe_patching"},
    "engine/groups": {"total_effects", "probe_patching"},
    "engine/closed_forms": HEADS | {"ladder", "probe_patching"},
    "engine/*": set(),
    "methods/__init__": {"recall", "layer_probes", "readers", "circuit", "model_card"}
    | HEADS
    | INTERVENTIONS,
    "methods/recall": {"recall"},
    "methods/probes": {"layer_probes", "head_probes"},
    "methods/logistic": {"layer_probes", "head_probes", "readers"} | INTERVENTIONS,
    "methods/attention": {"direct_effects"},
    "methods/direct": HEADS,
    "methods/estimates": HEADS | INTERVENTIONS,
    "methods/groups": HEADS | INTERVENTIONS | {"model_card"},
    "methods/readers": INTERVENTIONS | {"readers"},
    "methods/head_reader": {"ladder", "probe_patching"},
    "methods/name_stream": INTERVENTIONS,
    "methods/simplified": {"ladder", "effective_model"},
    "methods/ladder": {"ladder"},
    "methods/scan": {"total_effects"},
    "methods/total_effects": {"total_effects"},
    "methods/patched": {"total_effects", "probe_patching"},
    "methods/residual_patching": {"total_effects"},
    "methods/proposal": FITTED | {"circuit"},
    "methods/effective": {"effective_model"},
    "methods/effective_table": {"effective_model"},
    "methods/context": {"context"},
    "methods/probe_patching": {"probe_patching"},
    "methods/head_probes": {"head_probes"},
    "methods/checks": {"model_card"},
    "methods/card": {"model_card"},
    "figures/__init__": {"figure"},  # and the report, which follows it anyway
    "figures/*": {"figure"},
}


def adds(rule: str, *, reads: set[str], feeds: set[str], given: set[str], reaches: set[str]) -> None:
    """One more rule on the map: whose output it reads, who reads its own, its sections, the modules of its script."""
    EVERY.add(rule)
    FEEDS[rule] = feeds
    for other in reads:
        FEEDS[other] = FEEDS[other] | {rule}
    for section in given:
        LEAVES[section] = LEAVES.get(section, set()) | {rule}
    for module in reaches:
        MODULES[module] = MODULES.get(module, set()) | {rule}


adds(
    "sport_neurons",
    reads={"train_organism", "activations", "prompts", "recall", "readers", "circuit"},
    feeds={"figure", "report"},
    given={"compute", "sport_neurons"},
    reaches={f"{room}/__init__" for room in ("data", "model", "engine", "methods")}
    | {"stats", "store", "data/dossier", "data/prompts", "model/anatomy", "model/source"}
    | {
        f"engine/{name}"
        for name in ("cached", "clean", "direct", "head_probe", "readings", "sites", "suffix")
    }
    | {"engine/closed_forms", "engine/groups", "engine/tokens", "engine/trace"}
    | {f"methods/dossier{name}" for name in ("", "_ablation", "_texts", "_weights")}
    | {f"methods/{name}" for name in ("estimates", "groups", "head_probes", "probes", "proposal", "readers")}
    | {"methods/logistic", "methods/sport_neurons"},
)
MODULES["data/dossier"].add("report")


NAMES_IN_MODEL = {
    "stats", "data/__init__", "data/prompts", "data/strangers", "model/__init__", "model/anatomy", "engine/__init__",
    "engine/sites", "engine/trace", "engine/tokens", "methods/__init__", "methods/groups", "methods/estimates",
    "methods/intervals",
}  # fmt: skip
adds(
    "effective_lookup",
    reads={"effective_model", "prompts", "recall"},
    feeds={"figure", "report"},
    given={"compute", "lookup", "probes"},
    reaches=NAMES_IN_MODEL
    | {"engine/clean"}
    | {
        f"methods/{name}"
        for name in ("effective", "effective_probes", "excess", "excess_measure", "grid_means")
    }
    | {
        f"methods/{name}"
        for name in ("logistic", "name_pairs", "name_stream", "probes", "proposal", "simplified")
    },
)


adds(
    "name_structure",
    reads={"train_organism", "prompts", "recall", "sport_neurons"},
    feeds={"figure", "report"},
    given={"compute", "names"},
    reaches=NAMES_IN_MODEL
    | {"model/source", "engine/closed_forms", "engine/direct", "engine/head_probe"}
    | {f"methods/{name}" for name in ("linearity", "name_sites", "norms", "remainder")},
)


adds(
    "toy_models",
    reads=set(),
    feeds={"figure", "report"},
    given={"toys"},
    reaches={"stats", "methods/__init__", "methods/estimates"}
    | {
        f"methods/toys/{name}"
        for name in (
            "__init__",
            "illustrations",
            "measure",
            "networks",
            "schemas",
            "tables",
            "tasks",
            "verdict",
        )
    },
)

LOADS_A_MODEL = {f"{room}/__init__" for room in ("data", "model", "engine", "methods")} | {
    "stats", "data/prompts", "model/anatomy", "model/source", "methods/proposal", "engine/clean", "engine/closed_forms",
    "engine/groups", "engine/readings", "engine/sites", "engine/suffix", "engine/tokens", "engine/trace",
}  # fmt: skip
adds(
    "mlp_paths",
    reads={"train_organism", "prompts", "recall", "readers", "circuit"},
    feeds={"figure", "report"},
    given={"compute", "mlp_paths"},
    reaches=LOADS_A_MODEL
    | {"engine/direct", "engine/head_probe"}
    | {f"methods/{name}" for name in ("estimates", "groups", "head_reader", "mlp_paths", "name_stream")}
    | {f"methods/{name}" for name in ("logistic", "readers", "simplified")},
)
adds(
    "neuron_effects_shard",
    reads={"train_organism", "recall", "circuit"},
    feeds={"neuron_effects", "report"},
    given={"compute", "neurons"},
    reaches=LOADS_A_MODEL
    | {
        "digest",
        "store",
        "data/csv_rows",
        "data/facts",
        "data/fact_prompts",
        "known",
        "methods/neuron_effects",
    }
    | {
        f"engine/{name}"
        for name in ("answers", "attribution", "capture", "difference", "products", "response")
    }
    | {f"engine/{name}" for name in ("batches", "shards", "slopes", "sweep", "sweep_neurons")},
)
adds(
    "neuron_effects",
    reads=set(),
    feeds={"figure", "report"},
    given={"neurons"},
    reaches={
        f"methods/{name}"
        for name in ("__init__", "effect_concentration", "effect_vectors", "estimates", "fact_correlations")
    }
    | {"stats"},
)


adds(
    "locality",
    reads={"train_organism"},
    feeds={"figure", "report"},
    given={"compute", "locality"},
    reaches={f"{room}/__init__" for room in ("data", "model", "engine", "methods")}
    | {"data/prompts", "data/texts", "model/anatomy", "model/source", "engine/sites", "engine/trace"}
    | {"methods/locality", "stats"},
)


MODULES["families"] = MODULES["model/anatomy"]


def closure(rules: set[str]) -> set[str]:
    """The rules and all that follow from them."""
    found: set[str] = set()
    waiting = list(rules)
    while waiting:
        rule = waiting.pop()
        if rule not in found:
            found.add(rule)
            waiting += FEEDS[rule]
            waiting += ["ledger"] * ("figure" in FEEDS[rule])  # it reads every table that has a figure
    return found


def leaves(values, prefix=()):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key), value


CHANGED = {  # leaves whose other value must fit the rest of the configuration
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
    ("mlp_paths", "athletes"): "known",
    ("neurons", "facts"): "resources/facts.csv",
    ("neurons", "athletes"): "known",
    ("neurons", "first"): ["Somebody"],
    ("neurons", "engine"): "auto",
    ("neurons", "products"): "tf32",
    ("sport_neurons", "athletes"): "known",
    ("sport_neurons", "neurons"): ["L0N1"],
    ("sport_neurons", "texts"): "README.md",
    ("study",): None,
    ("studies",): None,
    ("names", "athletes"): "known",
    ("names", "conditions"): ["full"],
    ("model", "source"): None,
    ("organism", "world"): None,
    ("athletes", "table"): None,
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
    ("heads", "athletes"): "known",
    ("heads", "conditions"): ["full"],
    ("compute", "device"): "cpu",
    ("compute", "dtype"): "float64",
    ("model", "id"): "a/b",
    ("model", "revision"): "main",
    ("model", "folder"): "elsewhere",
    ("model", "family"): "gpt2",
    ("organism", "width"): 48,
    ("organism", "heads"): 4,
    ("organism", "last_names"): 20,
    ("organism", "installed_heads"): 1,
    ("lookup", "athletes"): "known",
    ("lookup", "name_tokens"): 2,
    ("lookup", "probe_folds"): ["random"],
    ("athletes", "two_sports"): "first",
    ("probes", "athletes"): "known",
    ("interventions", "athletes"): "known",
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


def test_the_map_lists_every_section_and_module():
    assert {name.split(".")[0] for name in LEAVES} == set(Config.model_fields)
    library = ROOT / "scripts" / "factfinding"
    for path in library.rglob("*.py"):
        assert rules_of_module(path.relative_to(library).with_suffix("").as_posix()) is not None


def rules_of_module(name: str) -> set[str]:
    return MODULES[name] if name in MODULES else MODULES[f"{name.split('/')[0]}/*"]


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


def test_each_leaf_of_the_configuration_reruns_the_rules_that_read_it(edited):
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
        expected = closure(LEAVES.get(".".join(leaf), LEAVES[leaf[0]]))
        if found != expected:
            wrong[".".join(leaf)] = (sorted(found), sorted(expected))
    assert not wrong


def scripts_of(rule: str) -> list[Path]:
    """The files whose digest a rule is given (`code=`); for `figure`, those of all figures."""
    texts = [path.read_text() for path in sorted((ROOT / "rules").glob("*.smk"))]
    body = next(re.search(rf"^rule {rule}:\n(.*?)(?=^rule |^\S|\Z)", text, re.MULTILINE | re.DOTALL) for text in texts
                if re.search(rf"^rule {rule}:", text, re.MULTILINE))[1]  # fmt: skip
    files = re.findall(r'"([^"]+\.py)"', body[body.index("code=") :].split("script:")[0])
    scripts = ROOT / "scripts"
    return [path for file in files for path in scripts.glob(file.replace("{wildcards.figure}", "*"))]


def test_each_module_of_the_library_counts_for_the_rules_whose_scripts_reach_it():
    digests = Digests(ROOT / "scripts")
    reached = {rule: digests.reachable(*scripts_of(rule)) for rule in EVERY}
    library, wrong = ROOT / "scripts" / "factfinding", {}
    for path in sorted(library.rglob("*.py")):
        name = path.relative_to(library).with_suffix("").as_posix()
        found, expected = {rule for rule in EVERY if path in reached[rule]}, rules_of_module(name)
        if closure(found) != closure(expected):
            wrong[name] = (sorted(found), sorted(expected))
    assert not wrong


def test_an_edited_module_reruns_these_rules_and_what_follows(edited):
    """Two modules of each room, by a real dry run."""
    library, wrong = edited / "scripts" / "factfinding", {}
    rooms = [library, *sorted(path.parent for path in library.rglob("__init__.py") if path.parent != library)]
    for path in [path for room in rooms for path in sorted(room.glob("*.py"))[1:3]]:
        text = path.read_text()
        path.write_text(text + "\n_EDITED = 1\n")
        found = would_run(edited)
        path.write_text(text)
        name = path.relative_to(library).with_suffix("").as_posix()
        expected = closure(rules_of_module(name))
        if found != expected:
            wrong[name] = (sorted(found), sorted(expected))
    assert not wrong


def test_each_script_reruns_its_own_rule(edited):
    wrong = {}
    for path in sorted((edited / "scripts").glob("*.py")):
        text = path.read_text()
        path.write_text(text + "\n_EDITED = 1\n")
        found = would_run(edited)
        path.write_text(text)
        others = {"download_model", "download_texts", "adopt_model", "tiny_model", "comparison"}
        expected = set() if path.stem in others else EVERY if path.stem == "job" else closure({path.stem})
        if found != expected:
            wrong[path.stem] = (sorted(found), sorted(expected))
    assert not wrong


def test_reordered_keys_of_the_configuration_rerun_nothing(edited):
    small = yaml.safe_load((edited / "tests/fixtures/small.yaml").read_text())
    small["organism"] = dict(reversed(small["organism"].items()))
    (edited / "edit.yaml").write_text(yaml.safe_dump(dict(reversed(small.items())), sort_keys=False))
    assert would_run(edited, "edit.yaml") == set()
