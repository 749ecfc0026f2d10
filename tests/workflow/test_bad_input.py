"""Whatever a user may bring: it works, or is refused before anything runs, in words that say where, what, and what is allowed."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from factfinding.data.facts import read_facts
from factfinding.data.texts import read_texts
from factfinding.declarations import read_experiment
from factfinding.errors import InputError
from factfinding.families import TINY
from factfinding.files import read_json
from factfinding.methods.circuit import Circuit, read_circuit
from factfinding.model.anatomy import Anatomy, load
from factfinding.model.tiny import random_model
from factfinding.model.weights import check_finite
from factfinding.model_folder import ACTIVATIONS, ROTARY, check_model_folder
from factfinding.preflight import preflight, tiny_sizes
from factfinding.studies import merged, studies_of
from helpers import ROOT, bad_input
from helpers.bad_input import ADOPTED, CASES, FOLDER, GOOD
from helpers.declared import experiment_with
from helpers.models import FAMILIES, MORE, save_model
from helpers.workflow import copy_project, dry_run, planned, snakemake

DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())


def look(values) -> None:
    """What rules/common.smk does with a configuration, before it knows any rule."""
    for study in studies_of(merged(merged(DEFAULT, GOOD), values), ROOT / "studies").values():
        preflight(study)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder with its size and time of change."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_there_are_enough_cases_of_every_kind():
    kinds = Counter(case.kind for case in CASES + ADOPTED)
    assert len({(case.kind, case.name) for case in CASES + ADOPTED}) == len(CASES + ADOPTED) >= 60
    assert set(kinds) == {
        "subjects", "facts", "texts", "config", "layers and heads", "activations", "paths", "study list", "model folder",
        "relation file",
    }  # fmt: skip
    assert min(kinds.values()) >= 8


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}, {case.name}")
def test_it_is_refused_before_anything_runs(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = bad_input.folder_for(case, tmp_path)
    before = files(tmp_path)
    with pytest.raises(InputError) as error:
        look(values)
    where, _, rest = str(error.value).partition(": found ")
    found, _, allowed = rest.rpartition("; allowed: ")
    assert case.where in where and case.found in found and case.allowed in allowed, str(error.value)
    assert files(tmp_path) == before


@pytest.mark.parametrize("case", ADOPTED, ids=lambda case: case.name)
def test_weights_that_are_no_numbers_are_seen_when_the_model_is_adopted(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    look(bad_input.folder_for(case, tmp_path))
    with pytest.raises(InputError) as error:
        check_finite(Path("model"))
    for part in (case.where, case.found, case.allowed):
        assert part in str(error.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_whole_is_let_through(family, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "subjects.csv").write_text(bad_input.SUBJECTS)
    (tmp_path / "facts.csv").write_text(bad_input.FACTS)
    (tmp_path / "text.txt").write_text("A text.")
    save_model(tmp_path / "model", family)
    os.symlink(tmp_path / "model", tmp_path / "link")
    assert check_finite(tmp_path / "model") > 20
    for folder in ("model", "link", str(tmp_path / "model")):
        look(
            {
                "model": {"source": "folder", "folder": folder},
                "neurons": {"facts": "facts.csv", "first": ["Ann Lee"]},
                "locality": {"texts": str(tmp_path / "text.txt")},
                "answer_neurons": {"texts": "text.txt", "neurons": ["L2N95"]},
                "circuit": {"concatenate": [0, 1], "lookup": [2, 2], "extract": ["L2H3"]},
            }
        )


def test_what_no_rule_reads_need_not_be_stored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "subjects.csv").write_text(bad_input.SUBJECTS)
    least = bad_input.stored()["activations"]["datasets"]
    look({"activations": {"datasets": least}})
    name, *others = least
    resid = [name | {"roles": ["final_name"]}, name | {"roles": ["end"], "layers": [3]}]
    look({"activations": {"datasets": resid + others}})
    post = {"site": "post", "roles": ["final_name"], "layers": [1, 2]}
    chosen = {"circuit": {"lookup": [2, 2]}, "answer_neurons": {"neurons": ["L1N3"]}}
    look({"activations": {"datasets": [*others[:-1], post, *resid]}} | chosen)


def test_a_circle_of_links_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "subjects.csv").symlink_to("other.csv")
    (tmp_path / "other.csv").symlink_to("subjects.csv")
    with pytest.raises(InputError, match=r"config\.subjects\.table of study 'mine'"):
        look({})


def test_files_that_the_run_itself_may_make_are_looked_at_when_they_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    look({"subjects": {"table": "results/other/model/athletes.csv"}})
    look(
        {**FOLDER, "model": {"source": "folder", "folder": "results/other/model"}}
        | {"subjects": {"table": "results/a.csv"}}
    )
    (tmp_path / "results").mkdir()
    (tmp_path / "results/a.csv").write_text("athlete,sport\n")
    with pytest.raises(InputError, match="a header and no rows"):
        look({"subjects": {"table": "results/a.csv"}})


def test_pickled_weights_are_let_through_where_the_configuration_says_so(tmp_path):
    save_model(tmp_path / "model")
    bad_input.pickled(tmp_path / "model")
    assert check_model_folder(tmp_path / "model", allow_pickle=True).layers == 3


VARIANTS = [
    ("gpt_neox", {}),
    ("gpt_neox", {"attention_bias": False}),
    ("gpt_neox", {"tie_word_embeddings": True}),
    ("gpt2", {}),
    ("gpt2", {"tie_word_embeddings": True, "n_inner": 48}),
    ("llama", {}),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"tie_word_embeddings": True, "head_dim": 16}),
    ("mistral", {"head_dim": 16}),
    ("qwen2", {}),
    *((kind, {}) for kind in MORE),
    ("qwen3", {"attention_bias": True, "head_dim": 16}),
    ("phi3", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    ("gemma", {"tie_word_embeddings": True, "head_dim": 16}),
    ("gptj", {"n_inner": 48}),
    ("gpt_neo", {"tie_word_embeddings": True, "intermediate_size": 48}),
    ("opt", {"tie_word_embeddings": True, "ffn_dim": 48}),
    ("phi", {"num_key_value_heads": 2}),
    ("falcon", {"bias": True, "ffn_hidden_size": 48}),
]


@pytest.mark.parametrize(("kind", "changes"), VARIANTS)
def test_every_weight_of_every_known_model_is_looked_for_and_no_other(kind, changes, tmp_path):
    """What transformers saves of a model is whole; without any one of its weights it is refused, by name."""
    folder = save_model(tmp_path / "model", kind)
    config = read_json(folder / "config.json") | {"model_type": kind} | changes
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).save_pretrained(folder)
    assert check_model_folder(folder).layers == 3
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        save_file({other: weights[other] for other in weights if other != name}, folder / "model.safetensors")
        with pytest.raises(InputError, match=f"found no weight {re.escape(name)}; "):
            check_model_folder(folder)


@pytest.mark.parametrize("lacks", ["model.", "model.decoder."])
def test_names_that_lack_their_beginning_are_known(lacks, tmp_path):
    """As in files that were saved from a model without its unembedding, or from its decoder."""
    folder = save_model(tmp_path / "model", "opt")
    weights = load_file(folder / "model.safetensors")
    bare = {name.removeprefix(lacks): weight for name, weight in weights.items()}
    save_file(bare, folder / "model.safetensors")
    assert any(name.startswith(("decoder.", "layers.")) for name in bare)
    assert check_model_folder(folder).layers == 3


def shards(folder: Path, weights: dict) -> None:
    random_model("gpt_neox", vocabulary=328).save_pretrained(folder, max_shard_size="100KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert len(list(folder.glob("model-*.safetensors"))) > 2


def published_gpt2(folder: Path, weights: dict) -> None:
    """The hub's GPT-2 has no `transformer.` before its names, no unembedding, and its masks."""
    masks = {f"h.{layer}.attn.bias": np.ones((1, 1, 128, 128), np.float32) for layer in range(3)}
    bare = {name.removeprefix("transformer."): weight for name, weight in weights.items()}
    bare.pop("lm_head.weight")
    save_file(bare | masks, folder / "model.safetensors", metadata={"format": "pt"})
    bad_input.edit_json("config.json", tie_word_embeddings="gone")(folder)


def old_pythia(folder: Path, weights: dict) -> None:
    """Pythia's files hold its masks, as truth values, and its rotary frequencies."""
    buffers = {"bias": np.ones((1, 1, 128, 128), bool), "masked_bias": np.array(-1e9, np.float32)}
    buffers["rotary_emb.inv_freq"] = np.ones(1, np.float32)
    held = {
        f"gpt_neox.layers.{layer}.attention.{name}": value
        for layer in range(3)
        for name, value in buffers.items()
    }
    save_file(weights | held, folder / "model.safetensors", metadata={"format": "pt"})


def tied_by_its_unembedding(folder: Path, weights: dict) -> None:
    """Of two names for one weight, safetensors itself keeps the first of the alphabet."""
    weights.pop("model.embed_tokens.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    bad_input.edit_json("config.json", tie_word_embeddings=True)(folder)


@pytest.mark.parametrize(
    ("family", "publish"),
    [
        ("gpt_neox", shards),
        ("gpt2", published_gpt2),
        ("gpt_neox", old_pythia),
        ("llama", tied_by_its_unembedding),
    ],
)
def test_the_ways_in_which_models_are_published_are_let_through(family, publish, tmp_path):
    folder = save_model(tmp_path / "model", family)
    publish(folder, load_file(folder / "model.safetensors"))
    assert check_model_folder(folder).layers == load(folder, device="cpu").n_layers == 3


def test_the_rule_that_adopts_a_model_reads_its_weights(tmp_path):
    project = copy_project(tmp_path)
    study = merged(GOOD, bad_input.folder_for(ADOPTED[0], project))
    (project / "nan.yaml").write_text(yaml.safe_dump(study))
    output = snakemake(
        project, "results/mine/model/source.json", "--cores", "1", study="nan.yaml", check=False
    )
    assert (
        "adopt_model: model/model.safetensors: found numbers that are not finite in gpt_neox.layers.1"
        in output
    )
    assert not (project / "results/mine/model/source.json").exists()


def test_what_is_known_without_torch_is_what_the_models_say():
    for family in ("gpt_neox", "gpt2", "llama"):
        sizes, anatomy = (
            tiny_sizes(family),
            Anatomy(random_model(family, vocabulary=64, layers=TINY["layers"])),
        )
        assert (sizes.family, sizes.layers) == (anatomy.family.name, anatomy.n_layers)
        assert (sizes.heads, sizes.neurons) == (anatomy.n_heads, anatomy.d_mlp)
    assert ACTIVATIONS == set(ACT2FN) - {"prelu", "xielu"}, "all but those with weights of their own"
    assert ROTARY == set(ROPE_INIT_FUNCTIONS) | {"default"}


def test_the_pre_flight_imports_no_torch():
    import subprocess
    import sys

    code = (
        "import sys; sys.path.insert(0, 'scripts'); import factfinding.preflight; print(sorted(sys.modules))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert "'torch'" not in printed.stdout and "'transformers'" not in printed.stdout


BY_COMMAND = [
    {"subjects": {"table": "none.csv"}},
    {"circuit": {"lookup": [1, 7]}},
    {"model": {"source": "folder", "folder": "tests"}},
    {"probes": {"regularisation": "1e-3"}},
    {"study": "../up"},
    {"locality": {"texts": "pyproject.tml"}},
    {"locality": {"texts": "a\0b"}},
    {"activations": {"datasets": [{"site": "resid"}]}},
]
SAID = [
    "none.csv (config.subjects.table of study 'mine'): found no such file; allowed: a CSV file",
    "config.circuit.lookup of study 'mine': found [1, 7]; allowed: layers 0-3 of this model",
    "tests (config.model.folder of study 'mine'): found no config.json; allowed: a model folder",
    "config.probes.regularisation: found '1e-3'; allowed: input should be a valid number",
    "config.study: found '../up'; allowed: string should match pattern",
    "pyproject.tml (config.locality.texts of study 'mine'): found no such file; allowed: a text file",
    "config.locality.texts: found 'a\\x00b'; allowed: string should match pattern",
    "config.activations.datasets of study 'mine': found no attn_out at final_name; allowed: attn_out at final_name among",
]


def test_snakemake_says_so_and_plans_nothing(tmp_path):
    project = copy_project(tmp_path)
    good = merged(GOOD, {"subjects": {"table": "tests/fixtures/subjects.csv"}})
    for change, said in zip(BY_COMMAND, SAID, strict=True):
        (project / "bad.yaml").write_text(yaml.safe_dump(merged(good, change)))
        code, output = dry_run(project, study="bad.yaml")
        assert code != 0 and said in output, output[-2000:]
        assert "Traceback" not in output
        assert not (project / "results").exists() and not (project.parent / "up").exists()
    (project / "good.yaml").write_text(yaml.safe_dump(good))
    code, output = dry_run(project, study="good.yaml")
    assert code == 0 and "report" in planned(output)


cells = st.text(max_size=8) | st.sampled_from(["Ann", "Ann plays", "golf", "", " ", '"', "\n", "a\x00"])
rows = st.lists(st.lists(cells, min_size=3, max_size=5), max_size=5)
raw = st.binary(max_size=60) | st.text(alphabet='subjectrelation,"\r\n \x00é\ufeff', max_size=60).map(
    str.encode
)
fuzzed = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@fuzzed
@given(rows=rows, header=st.booleans(), tail=raw)
def test_any_facts_load_or_are_refused(tmp_path_factory, rows, header, tail):
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([["subject", "relation", "prompt", "answer"]] * header + rows)
    path = tmp_path_factory.getbasetemp() / "fuzz-facts.csv"
    path.write_bytes(buffer.getvalue().encode("utf-8", "surrogatepass") + tail)
    try:
        frame = read_facts(path)
    except InputError as error:
        assert str(path) in str(error) and "; allowed: " in str(error)
        return
    assert frame.select("subject", "relation").is_unique().all()
    assert all(row["prompt"].count(row["subject"]) == 1 for row in frame.iter_rows(named=True))


@fuzzed
@given(
    suffix=st.sampled_from([".txt", ".jsonl", ".parquet"]),
    content=st.binary(max_size=60)
    | st.lists(
        st.sampled_from(['{"text": "a"}', '{"text": 1}', "{}", "null", '{"text": null}', "[", ""])
    ).map(lambda lines: "\n".join(lines).encode()),
)
def test_any_texts_load_or_are_refused(tmp_path_factory, suffix, content):
    path = tmp_path_factory.getbasetemp() / f"fuzz-texts{suffix}"
    path.write_bytes(content)
    try:
        texts = read_texts(path)
    except InputError as error:
        assert str(path) in str(error) and "; allowed: " in str(error)
        return
    assert texts and all(isinstance(text, str) and text.strip() for text in texts)


ODD_YAML = [
    "2024-13-45", "!!float x", "9" * 5000, '!!int ""', "!!bool x", "!!timestamp x", "0x" + "f" * 5000,
    "{0x" + "f" * 5000 + ": 1}", "!!set {0x" + "f" * 5000 + "}", "!!python/object:os.system x",
]  # fmt: skip
"""Values on which the YAML library, or Python on printing them, raises what is no YAMLError."""


@pytest.mark.parametrize("value", ODD_YAML, ids=lambda value: value[:20])
def test_odd_yaml_is_refused_by_the_name_of_its_file(value, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(f"a: {value}")
    for read in (read_circuit, read_experiment, lambda _: studies_of({"studies": ["study"]}, tmp_path)):
        with pytest.raises(InputError, match=re.escape(str(path))) as error:
            read(path)
        assert len(str(error.value)) < 1000


def spoilt(text: str, data) -> str:
    """A good file with one line dropped, doubled, indented or given another value."""
    lines = text.splitlines()
    at = data.draw(st.integers(0, len(lines) - 1))
    other = data.draw(st.sampled_from(["", "x", "[", "null", "- 1", "{a: 1}", "\x00", "*a", *ODD_YAML]))
    change = data.draw(st.sampled_from(["drop", "double", "indent", "value", "line"]))
    line = lines[at]
    lines[at : at + 1] = {
        "drop": [], "double": [line, line], "indent": ["   " + line], "line": [other],
        "value": [line.split(":")[0] + ": " + other],
    }[change]  # fmt: skip
    return "\n".join(lines)


CIRCUIT = """lookup_at: final_name
concatenate: [0, 1]
lookup: [2, 6]
extract: [L16H20, L21H9]
fixed: []
proposed: {lookup_at: final_name}
evidence:
- {claim: it is read, table: circuit_scan, value: 0.9, low: 0.8, high: 1.0, n: 400, threshold: 0.5}
thresholds: {kept: 0.95}
"""


@settings(fuzzed, max_examples=100)
@given(data=st.data(), whole=st.booleans(), noise=st.text(max_size=40))
def test_any_circuit_is_read_or_refused(tmp_path_factory, data, whole, noise):
    path = tmp_path_factory.getbasetemp() / "fuzz-circuit.yaml"
    path.write_text(spoilt(CIRCUIT, data) if whole else noise, encoding="utf-8", errors="surrogatepass")
    try:
        circuit = read_circuit(path)
    except InputError as error:
        assert str(error).startswith(f"{path}: found no circuit")
        return
    assert isinstance(circuit, Circuit) and all(isinstance(head, str) for head in circuit.extract)
    assert circuit.lookup is None or [type(layer) for layer in circuit.lookup] == [int, int]


DECLARATION = yaml.safe_dump(experiment_with(), sort_keys=False)


@settings(fuzzed, max_examples=100)
@given(data=st.data(), whole=st.booleans(), noise=st.text(max_size=40))
def test_any_declaration_is_read_or_refused(tmp_path_factory, data, whole, noise):
    path = tmp_path_factory.getbasetemp() / "fuzz/experiment.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(spoilt(DECLARATION, data) if whole else noise, encoding="utf-8", errors="surrogatepass")
    try:
        experiment = read_experiment(path)
    except InputError as error:
        assert str(error).startswith(str(path)) and "; allowed: " in str(error)
        return
    assert experiment.name == "fuzz" and experiment.title


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.dates()
    | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=6) | st.integers() | st.sampled_from(["study", "like", "organism", "seed"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@settings(fuzzed, max_examples=60)
@given(entries=values | st.lists(values | st.sampled_from(["mine", "untrained", "pythia-410m"]), max_size=3))
def test_any_study_list_is_used_or_refused_by_its_place(entries):
    try:
        found = studies_of(merged(DEFAULT, GOOD) | {"studies": entries}, ROOT / "studies")
    except InputError as error:
        assert str(error).startswith("config.studies") and "; allowed: " in str(error)
        return
    assert found and all(name == study.study for name, study in found.items())
