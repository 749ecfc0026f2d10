"""What others made is data, never code: models, YAML, HDF5, paths. And analysis needs no network.

Names and texts of unknown origin are escaped in the report: test_names_of_unknown_origin_are_escaped in test_report.py.
"""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from factfinding.config import validate
from factfinding.declarations import read_experiment
from factfinding.errors import InputError
from factfinding.methods.circuit import read_circuit
from factfinding.model.anatomy import load
from factfinding.model_folder import check_model_folder
from factfinding.store import FORMAT, NUMBERS, TEXT, Activations, ShardStore, Source, StoreLayout, check_own
from factfinding.studies import studies_of
from factfinding.tables import read_table
from helpers import ROOT
from helpers.models import save_model
from helpers.workflow import copy_project, dry_run, unshared

RUN_ON_IMPORT = (
    "from pathlib import Path\nPath({mark!r}).write_text('run')\nclass Config: pass\nclass Model: pass\n"
)


class Mischief:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


# ---------------------------------------------------------------- models


@pytest.fixture
def mark(tmp_path):
    """A file that must not be there in the end."""
    path = tmp_path / "was-run"
    yield path
    assert not path.exists(), "code of the model was run"


def with_code(folder: Path, mark: Path, **changes) -> Path:
    """A model folder that brings its own code and says that it is to be used."""
    save_model(folder)
    for name in ("evil.py", "configuration_evil.py", "modeling_evil.py", "tokenization_evil.py"):
        (folder / name).write_text(RUN_ON_IMPORT.format(mark=str(mark)))
    for name, classes in (
        ("config.json", {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["evil.Model", "evil.Model"]}),
    ):
        values = json.loads((folder / name).read_text()) | {"auto_map": classes}
        (folder / name).write_text(json.dumps(values | (changes if name == "config.json" else {})))
    return folder


def test_code_that_a_model_brings_is_not_run(tmp_path, mark):
    folder = with_code(tmp_path / "model", mark)
    check_model_folder(folder)
    assert load(folder, device="cpu").n_layers == 3


def test_a_model_that_is_nothing_without_its_code_is_refused(tmp_path, mark):
    folder = with_code(tmp_path / "model", mark, model_type="evil")
    for look in (check_model_folder, load):
        with pytest.raises(InputError, match="model_type 'evil'; allowed: one of .*gpt2, gpt_neo, gpt_neox"):
            look(folder)


def test_pickled_weights_are_not_opened(tmp_path, mark):
    folder = save_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Mischief(mark)))
    for look in (check_model_folder, load):
        with pytest.raises(InputError, match=re.escape("pickle weights (*.bin) only")):
            look(folder)


def test_pickled_weights_beside_safetensors_are_not_opened(tmp_path, mark):
    folder = save_model(tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Mischief(mark)))
    assert load(folder, device="cpu").n_layers == 3


# ---------------------------------------------------------------- YAML

TAGS = [
    "!!python/object/apply:os.system ['touch {mark}']",
    "a: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{mark}']]",
    "a: !!python/name:os.system",
]
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
"""9^12 values in 12 lines."""
MAPPINGS = "a0: &a0 {b: x}\n" + "".join(
    f"a{i}: &a{i} {{{', '.join(f'{key}: *a{i - 1}' for key in 'bcdefghij')}}}\n" for i in range(1, 12)
)


@pytest.mark.parametrize("tag", TAGS)
def test_yaml_is_no_program(tag, tmp_path, mark):
    path = tmp_path / "study.yaml"
    path.write_text(tag.format(mark=mark))
    for read in (read_circuit, read_experiment, lambda _: studies_of({"studies": ["study"]}, tmp_path)):
        with pytest.raises(InputError, match=re.escape(str(path))):
            read(path)


@pytest.mark.parametrize("text", [LAUGHS, MAPPINGS, "a: &a [*a]\n", "&a {b: *a}\n", "[" * 5000])
def test_a_few_lines_of_yaml_cannot_fill_the_memory(text, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    for read in (read_circuit, read_experiment, lambda _: studies_of({"studies": ["study"]}, tmp_path)):
        with pytest.raises(InputError) as error:
            read(path)
        assert len(str(error.value)) < 10_000


@pytest.mark.parametrize("value", ["2024-01-01", "!!binary aGk=", "!!set {a}", "{1: x}", "{null: x}"])
def test_what_no_configuration_can_hold_is_refused_by_its_place(value):
    with pytest.raises(InputError, match=r"config\.probes\.seed"):
        validate({"probes": {"seed": yaml.safe_load(value)}})


# ---------------------------------------------------------------- HDF5


def activation_file(folder: Path, put) -> Path:
    """An activation file that looks finished, with one more entry."""
    with h5py.File(folder / "secret.h5", "w") as secret:
        secret["numbers"] = np.arange(6.0)
    (folder / "secret.bin").write_bytes(np.arange(6.0).tobytes())
    path = folder / "full.h5"
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": FORMAT, "complete": True, "model": "m", "condition": "full"})
        for name in (*NUMBERS, *TEXT, "prompt_key"):
            file[name] = np.array([3 if name in NUMBERS else b"Ann"])
        put(file)
    return path


def external_storage(file: h5py.File) -> None:
    name = str(Path(file.filename).parent / "secret.bin")
    file.create_dataset("resid@end", shape=(6,), dtype="f8", external=[(name, 0, 48)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(6,), dtype="f8")
    layout[:] = h5py.VirtualSource("secret.h5", "numbers", shape=(6,))
    file.create_virtual_dataset("resid@end", layout)


ELSEWHERE = {
    "an external link": lambda file: file.__setitem__("resid@end", h5py.ExternalLink("secret.h5", "/numbers")),
    "a soft link": lambda file: file.__setitem__("resid@end", h5py.SoftLink("/n_tokens")),
    "a broken link": lambda file: file.__setitem__("resid@end", h5py.SoftLink("/nothing")),
    "external storage": external_storage,
    "a virtual dataset": virtual,
    "a group": lambda file: file.create_group("resid@end"),
    "references": lambda file: file.create_dataset("resid@end", data=[file["subject"].ref], dtype=h5py.ref_dtype),
}  # fmt: skip


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_an_activation_file_holds_its_own_data_or_is_refused_by_name(kind, tmp_path):
    path = activation_file(tmp_path, ELSEWHERE[kind])
    with pytest.raises(InputError, match=r"full\.h5: found 'resid@end' .*; allowed: an activation file"):
        Activations(path)
    with h5py.File(path) as file, pytest.raises(ValueError, match="'resid@end'"):
        check_own(file)


def test_an_honest_file_opens(tmp_path):
    with Activations(activation_file(tmp_path, lambda file: None)) as file:
        assert file.names() == []


def test_a_shard_that_points_elsewhere_is_made_again(tmp_path):
    values = {"model": "m", "revision": "", "dtype": "float32", "condition": "full"}
    source = Source(**values, code="c", stored="float32")
    layout = StoreLayout(name="resid@end", shape=(1, 2), axes=("layer", "d_model"), layers=(0,), units="")
    said: list[str] = []
    store = ShardStore(tmp_path, source, [layout], said.append)
    path = store.add(["a"], {"resid@end": np.zeros((1, 1, 2), dtype=np.float32)})
    assert set(store.rows()) == {"a"} and not said
    with h5py.File(path, "r+") as shard:
        del shard["resid@end"]
        shard["resid@end"] = h5py.ExternalLink("/etc/secret.h5", "/numbers")
    assert store.rows() == {} and not path.exists()
    assert "'resid@end' is no dataset of this file (ExternalLink)" in said[0]


# ---------------------------------------------------------------- paths

OUTPUTS = re.findall(
    r"^    (?:output|log|benchmark):\n((?:        .*\n)+)",
    "\n".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk"))),
    re.MULTILINE,
)


def test_every_rule_writes_below_results_whatever_the_configuration_says():
    """The only part of an output's path that a configuration gives is the study's name, and that is a plain word."""
    paths = [path for block in OUTPUTS for path in re.findall(r'"([^"]*/[^"]*)"', block)]
    paths = [path for path in paths if not path.endswith(".rst")]  # captions, which are read
    assert len(paths) > 60
    for path in paths:
        assert re.match(r"results/(\{study\}|comparison)/", path) and ".." not in path, path
    for name in ("..", "../x", "/x", "a/b", ".x", "", "a\\b", "~", "a b", "a\0", "x" * 101):
        with pytest.raises(InputError, match=r"config\.study"):
            validate({"study": name})


# ---------------------------------------------------------------- the code

RUNS_DATA = {"eval", "exec", "compile", "__import__"}
NEVER = {
    "pickle", "marshal", "shelve", "joblib", "subprocess", "socket", "requests", "urllib.request", "http", "ftplib", "dill",
}  # fmt: skip
STARTS_PROGRAMS = {"scripts/cost.py", "scripts/factfinding/gpus.py"}
"""Python itself, to time how long it takes to start, and nvidia-smi, to list the GPUs; with no word of the user's."""
DOWNLOADS = {"scripts/factfinding/model/source.py", "scripts/factfinding/data/texts.py"}


def calls(tree: ast.AST) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "scripts").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_nothing_in_the_project_runs_what_it_reads_or_opens_a_connection(path):
    tree = ast.parse(path.read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    never = NEVER - {"subprocess"} if str(path.relative_to(ROOT)) in STARTS_PROGRAMS else NEVER
    assert not (imported | {name.split(".")[0] for name in imported}) & never
    assert not calls(tree) & (
        RUNS_DATA | {"torch.load", "np.load", "yaml.load", "yaml.unsafe_load", "os.system"}
    )
    keywords = [node for node in ast.walk(tree) if isinstance(node, ast.keyword)]
    for node in keywords:
        if node.arg in ("trust_remote_code", "allow_dangerous"):
            assert ast.unparse(node.value) == "False"
    if any(name.startswith("huggingface_hub") for name in imported):
        assert str(path.relative_to(ROOT)) in DOWNLOADS


# ---------------------------------------------------------------- the network


def test_analysis_runs_where_there_is_no_network(tmp_path):
    """In a network namespace without routes, not even to the machine itself: a model is made, loaded and asked."""
    alone = unshared()
    if alone is None:
        pytest.skip("this system lets nobody make a network namespace (`unshare -n`): run as root to test it")
    reach = "import socket; socket.create_connection(('127.0.0.1', 9), timeout=2)"
    refused = subprocess.run(
        [*alone, sys.executable, "-c", reach], capture_output=True, text=True, check=False
    )
    assert "Network is unreachable" in refused.stderr
    project = copy_project(tmp_path)
    (project / "net.yaml").write_text(
        "study: net\nmodel: {source: tiny}\nsubjects: {table: tests/fixtures/subjects.csv}\n"
    )
    command = [
        *alone,
        sys.executable,
        "tests/helpers/forked.py",
        ".",
        "net.yaml",
        "--",
        "results/net/tables/recall.csv",
        "--cores",
        "1",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert read_table(project / "results/net/tables/recall.csv").height == 60


def test_a_configuration_file_is_no_program_either(tmp_path, mark):
    """Snakemake reads this one itself."""
    project = copy_project(tmp_path / "project")
    for tag in TAGS:
        (project / "evil.yaml").write_text(tag.format(mark=mark) + "\n")
        code, output = dry_run(project, study="evil.yaml")
        assert code != 0, output[-1000:]


def test_a_configuration_file_cannot_fill_the_memory_with_lists(tmp_path):
    """Mappings of mappings it can: Snakemake merges them before our code is reached (README)."""
    project = copy_project(tmp_path / "project")
    (project / "laughs.yaml").write_text(LAUGHS)
    code, output = dry_run(project, study="laughs.yaml")
    assert code != 0 and "config: found more than 100000 values" in output, output[-1000:]


def test_a_table_of_links_is_only_text(tmp_path):
    """Polars opens what it is told to open, and no URL in a cell."""
    (tmp_path / "subjects.csv").write_text("subject,answer\nhttp://127.0.0.1:9/x,=HYPERLINK(1)\n")
    assert read_table(tmp_path / "subjects.csv").rows() == [("http://127.0.0.1:9/x", "=HYPERLINK(1)")]
