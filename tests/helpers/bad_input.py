"""Inputs that cannot be used, one by one: what is wrong with each, and what must be said about it.

A case makes its files in a folder and gives what its configuration says other than `GOOD`, on top of config.yaml.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors.numpy import load_file, save_file

from helpers.models import save_model
from helpers.wild import texts, words

GOOD = {
    "study": "mine",
    "model": {"source": "tiny"},
    "subjects": {"table": "subjects.csv", "min_per_answer": 2},
    "probes": {"n_folds": 2},
}
SUBJECTS = "athlete,sport\nAnn Lee,baseball\nBo Li,baseball\nCy Day,football\nDi May,football\n"
WORDS = texts([("Ann Lee", "baseball"), ("Bo Li", "football")])
ALIKE = "athlete,sport\nAnn Lee,football\nBo Li,football\nCy Day,football match\nDi May,football match\n"
"""Sports that begin with one token of the tokenizer of tests/helpers/models.py."""
RECORDS = [
    {"athlete": "Ann Lee", "sport": "baseball"},
    {"athlete": "Bo Li", "sport": "baseball"},
    {"athlete": "Cy Day", "sport": "football"},
    {"athlete": "Di May", "sport": "football"},
]
SAMPLES = [{"subject": row["athlete"], "object": row["sport"]} for row in RECORDS]
MANY = "athlete,sport\n" + "".join(
    f"A{i} B{j},sport {i:02d}\n" for i in range(23) for j in range(2 + (i < 3))
)
"""23 sports, three of them with three athletes."""
FACTS = "subject,relation,prompt,answer\nAnn Lee,sport,Ann Lee plays,baseball\n"
FOLDER = {"model": {"source": "folder", "folder": "model"}}
PYTHIA = {"model": {"source": "hub", "id": "a/b", "revision": "main"}}
BOTH = ("final_name", "end")
LEAST = dict.fromkeys(("resid", "attn_out", "mlp_out", "z"), BOTH) | {
    "pattern": ("end",),
    "post": ("final_name",),
}
"""The sites that the rules read, with their roles."""
PARTS = {
    "gpt_neox": ("embed_in", "embed_out", "final_layer_norm", "attention.dense.bias", ".mlp."),
    "gpt2": ("wte", "wpe", "ln_f", "lm_head", "attn.c_attn.bias", ".mlp."),
    "llama": ("embed_tokens", "lm_head", "model.norm", "input_layernorm", "k_proj", ".mlp.up_proj"),
}
"""Of what a model can lack every weight, so that no other layer's weight tells of it; by family."""
SIZE_KEYS = {
    "gpt_neox": (
        "num_hidden_layers",
        "num_attention_heads",
        "hidden_size",
        "intermediate_size",
        "vocab_size",
    ),
    "gpt2": ("n_layer", "n_head", "n_embd", "n_positions"),
}
PATHS = (
    "subjects.table",
    "model.folder",
    "model.file",
    "locality.texts",
    "answer_neurons.texts",
    "neurons.facts",
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """kind and name: of the test. make: writes files, gives configuration. The message must hold the three texts."""

    kind: str
    name: str
    make: Callable[[Path], dict[str, Any]]
    where: str
    found: str
    allowed: str


def file_case(kind, name, file, content, values, found, allowed, where=""):
    """A case that is one file's content: text, bytes, or None for no file at all."""

    def make(folder: Path) -> dict[str, Any]:
        (folder / file).unlink(missing_ok=True)
        if content is not None:
            (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
        return values

    return Case(kind=kind, name=name, make=make, where=where or file, found=found, allowed=allowed)


def subjects(name, content, found, allowed, where="", more=None, **settings):
    values = {"subjects": settings} | (more or {})
    return file_case("subjects", name, "subjects.csv", content, values, found, allowed, where)


def facts(name, content, found, allowed, where="", **settings):
    values = {"neurons": {"facts": "facts.csv", **settings}}
    return file_case("facts", name, "facts.csv", content, values, found, allowed, where)


def text(name, file, content, found, allowed, section="locality", where="", **settings):
    return file_case(
        "texts", name, file, content, {section: {"texts": file, **settings}}, found, allowed, where
    )


def users_table(name, file, content, found, allowed, where="", more=None, kind="subjects", **settings):
    """A case that is a table of subjects in another format: its text or bytes, a frame, or JSON rows, one in each line."""
    if isinstance(content, list):
        content = "\n".join(json.dumps(row) for row in content)
    if isinstance(content, pl.DataFrame):
        buffer = io.BytesIO()
        content.write_parquet(buffer)
        content = buffer.getvalue()
    values = {"subjects": {"table": file} | settings} | (more or {})
    return file_case(kind, name, file, content, values, found, allowed, where)


def relation_file(name, content, found, allowed, where="", **settings):
    """A case that is a relation file: its text, its content, or its samples."""
    if isinstance(content, list):
        content = {"name": "plays", "prompt_templates": ["{} plays"], "samples": content}
    text = content if isinstance(content, str) else json.dumps(content)
    return users_table(name, "plays.json", text, found, allowed, where, kind="relation file", **settings)


def config(name, values, where, found, allowed, kind="config"):
    return Case(kind=kind, name=name, make=lambda _: values, where=where, found=found, allowed=allowed)


def stored(**changes: dict[str, Any]) -> dict[str, Any]:
    """The least that must be stored, but for what is said of some sites: roles (none: left out) and layers."""
    groups = [{"site": site, "roles": list(roles)} | changes.get(site, {}) for site, roles in LEAST.items()]
    return {"activations": {"datasets": [group for group in groups if group["roles"]]}}


def not_stored(name, found, allowed, settings=None, **changes):
    values = stored(**changes) | (settings or {})
    return config(
        name, values, "config.activations.datasets of study 'mine'", found, allowed, kind="activations"
    )


def path(key: str, name: str, found: str, allowed: str, kind: str = "paths"):
    """A key that names a file, and a name that no file can have."""
    section, _, last = key.partition(".")
    source = {"model.folder": {"source": "folder"}, "model.file": {"source": "gguf"}}
    values = {section: {last: name} | source.get(key, {})}
    return config(f"{key}, {found}", values, f"config.{key}", found, allowed, kind=kind)


def folder(name, spoil, where, found, allowed, *, family="gpt_neox", facts=None, **model):
    """A model folder that was whole until `spoil` was at it; facts: what else the configuration says of neurons."""

    def make(here: Path) -> dict[str, Any]:
        save_model(here / "model", family)
        spoil(here / "model")
        return {"model": {**FOLDER["model"], **model}} | ({"neurons": facts} if facts else {})

    return Case(kind="model folder", name=name, make=make, where=where, found=found, allowed=allowed)


def bare(**relation: str) -> Callable[[Path], dict[str, Any]]:
    """A whole model folder, asked without BOS in these words."""

    def make(here: Path) -> dict[str, Any]:
        save_model(here / "model")
        return {"model": FOLDER["model"] | {"bos": "none"}, "relation": relation}

    return make


def edit_json(name: str, **changes: Any) -> Callable[[Path], None]:
    def spoil(model: Path) -> None:
        values = json.loads((model / name).read_text()) | changes
        (model / name).write_text(json.dumps({k: v for k, v in values.items() if v != "gone"}))

    return spoil


def edit_weights(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], None]:
    def spoil(model: Path) -> None:
        weights = load_file(model / "model.safetensors")
        change(weights)
        save_file(weights, model / "model.safetensors", metadata={"format": "pt"})

    return spoil


def write(name: str, content: str) -> Callable[[Path], None]:
    return lambda model: (model / name).write_text(content)


def cut(name: str, keep: int) -> Callable[[Path], None]:
    return lambda model: (model / name).write_bytes((model / name).read_bytes()[:keep])


def remove(*names: str) -> Callable[[Path], None]:
    return lambda model: [(model / name).unlink() for name in names] and None


def pickled(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def sharded(index: dict[str, str]) -> Callable[[Path], None]:
    """The weights as one shard, and an index that says `index` on top of the truth."""

    def spoil(model: Path) -> None:
        shard = "model-00001-of-00001.safetensors"
        (model / "model.safetensors").rename(model / shard)
        held = dict.fromkeys(load_file(model / shard), shard)
        (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": held | index}))

    return spoil


def nan_weights(weights: dict[str, np.ndarray]) -> None:
    weights["gpt_neox.layers.1.mlp.dense_h_to_4h.weight"][3, 2] = np.nan


def infinite_weights(weights: dict[str, np.ndarray]) -> None:
    weights["gpt_neox.final_layer_norm.bias"][0] = np.inf


def whole_numbers(weights: dict[str, np.ndarray]) -> None:
    name = "gpt_neox.layers.1.mlp.dense_h_to_4h.weight"
    weights[name] = weights[name].astype(np.int64)


def reshape(name: str, *shape: int) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda weights: weights.update({name: np.zeros(shape, np.float32)})


def lack(part: str) -> Callable[[Path], None]:
    """Every weight with this in its name is gone."""
    return edit_weights(lambda weights: [weights.pop(name) for name in list(weights) if part in name])


def few_positions(model: Path) -> None:
    """A GPT-2 of 16 positions."""
    edit_json("config.json", n_positions=16)(model)
    edit_weights(lambda w: w.update({"transformer.wpe.weight": w["transformer.wpe.weight"][:16]}))(model)


def table(path: Path, frame: pl.DataFrame) -> None:
    frame.write_parquet(path) if path.suffix == ".parquet" else frame.write_ndjson(path)


def parquet(name, frame, found, allowed, **settings):
    def make(here: Path) -> dict[str, Any]:
        table(here / "texts.parquet", frame)
        return {"locality": {"texts": "texts.parquet", **settings}}

    return Case(kind="texts", name=name, make=make, where="texts.parquet", found=found, allowed=allowed)


CASES = [
    subjects("missing", None, "no such file", "a CSV file", where="config.subjects.table of study 'mine'"),
    subjects("empty", "", "an empty file", "columns athlete, sport"),
    subjects("only a header", "athlete,sport\n", "a header and no rows", "at least one row"),
    subjects("other columns", "name,sport\nAnn,baseball\n", "no column 'athlete' among 'name'", "athlete, sport"),
    subjects("semicolons", "athlete;sport\nAnn;baseball\n", "among 'athlete;sport'", "columns athlete, sport"),
    subjects("tabs", "athlete\tsport\nAnn\tbaseball\n", "no column 'athlete'", "columns athlete, sport"),
    subjects("a column twice", "athlete,sport,sport\nA,b,c\n", "'sport' more than once", "named once"),
    subjects("no sport", SUBJECTS + "Ed Fox,\n", "an empty cell", "text", where="row 5 (sport of Ed Fox)"),
    subjects("no name", SUBJECTS + " ,baseball\n", "an empty cell", "text", where="row 5 (athlete)"),
    subjects("a cell too many", SUBJECTS + "Ed,baseball,1\n", "3 cells", "2 cells", where="row 5"),
    subjects("a cell too few", SUBJECTS + "Ed\n", "1 cells", "2 cells", where="row 5"),
    subjects("an open quote", SUBJECTS + '"Ed,baseball\n', "a broken row", "quoted", where="row 5"),
    subjects("a newline in a name", SUBJECTS + '"E\nd",baseball\n', "U+000A", "one line", where="row 5"),
    subjects("an invisible letter", SUBJECTS + "E\u200bd,baseball\n", "U+200B", "control characters"),
    subjects("one sport", "athlete,sport\nA,baseball\nB,baseball\n", "1 sports (baseball)", "at least two sports"),
    subjects("two spellings", SUBJECTS + "Ed,Baseball\n", "'Baseball' and 'baseball'", "one spelling"),
    subjects("too few", SUBJECTS, "2 athletes of the sport", "at least 3", min_per_answer=3),
    subjects("all in two sports", "athlete,sport\nA,baseball\nA,chess\n", "no athlete is left", "two sports"),
    subjects("latin-1", "athlete,sport\nJosé,baseball\n".encode("latin-1"), "not UTF-8 (at byte 17)", "UTF-8"),
    subjects("utf-16", SUBJECTS.encode("utf-16"), "not UTF-8", "text in UTF-8: a CSV file"),
    subjects("a spreadsheet", b"PK\x03\x04\x14\x00\x06\x00\x08\x00!\xff", "not UTF-8", "UTF-8"),
    Case(
        kind="subjects", name="a folder", make=lambda here: {"subjects": {"table": str(here)}},
        where="config.subjects.table", found="cannot be read", allowed="a CSV file",
    ),
    subjects("too few for the folds", SUBJECTS, "3 folds, but 2 athletes of the sport 'baseball'", "at most 2 folds",
             where="config.probes.n_folds of study 'mine'", more={"probes": {"n_folds": 3}}),
    facts("missing", None, "no such file", "a CSV file", where="config.neurons.facts of study 'mine'"),
    facts("no answers", "subject,relation,prompt\nA,b,A is\n", "no column 'answer'", "prompt, answer"),
    facts("empty subject", FACTS + ",sport,X is,y\n", "an empty cell", "text", where="row 2 (subject)"),
    facts("empty answer", FACTS + "Bo,sport,Bo plays,\n", "an empty answer", "text", where="Bo, sport"),
    facts("a space at the end", FACTS + "Bo,sport,Bo plays ,baseball\n", "ends in whitespace", "the last word"),
    facts("a space before", FACTS + "Bo,sport,Bo plays, baseball\n", "the answer ' baseball'", "without whitespace"),
    facts("no subject in it", FACTS + "Bo,sport,He plays,baseball\n", "its subject 0 times", "exactly once"),
    facts("two subjects in it", FACTS + "Bo,sport,Bo and Bo play,baseball\n", "2 times", "exactly once"),
    facts("twice", FACTS + "Ann Lee,sport,Ann Lee loves,baseball\n", "as in row 1", "each once", where="row 2"),
    facts("nobody's first", FACTS, "'Michael Jordan'", "subjects of facts.csv",
          where="config.neurons.first", first=["Michael Jordan"]),
    subjects("somebody's facts without a table of facts", "city,country\nLyon,France\nNice,France\nRome,Italy\nPisa,Italy\n",
             "'Lyon'", "neurons.facts: a table of facts of cities", where="config.neurons.first of study 'mine'",
             more={"relation": {"subject": "city", "subjects": "cities", "answer": "country", "answers": "countries"},
                   "neurons": {"first": ["Lyon"]}}),
    text("missing", "t.txt", None, "no such file", "a text file", where="config.locality.texts"),
    text("empty", "t.txt", " \n", "no text", "at least one text"),
    text("latin-1", "t.txt", "Jos\xe9".encode("latin-1"), "no UTF-8 (at 3)", "UTF-8"),
    text("broken jsonl", "t.jsonl", '{"text": "a"}\n{"text": \n', "a damaged table", "the format .jsonl"),
    text("no parquet", "t.parquet", b"PAR1 no PAR1", "a damaged table", "the format .parquet"),
    text("another column", "t.jsonl", '{"body": "a"}\n', "no column 'text'", "one of body"),
    text("a row without", "t.jsonl", '{"text": "a"}\n{"text": null}\n', "no text in 'text'", "every row",
         where="t.jsonl, row 2"),
    text("firing, missing", "f.txt", None, "no such file", "UTF-8", section="answer_neurons",
         where="config.answer_neurons.texts of study 'mine'"),
    text("firing, no text", "f.txt", b"\xff\xfe\x00", "no readable text", "UTF-8", section="answer_neurons"),
    text("firing, empty", "f.txt", "", "no text", "not empty", section="answer_neurons"),
    parquet("numbers", pl.DataFrame({"text": [1, 2]}), "Int64", "texts"),
    parquet("field", pl.DataFrame({"text": ["a"]}), "no column 'body'", "one of text", field="body"),
    config("unknown section", {"probs": {}}, "config.probs", "an unknown key", "listed in config.yaml"),
    config("unknown key", {"probes": {"n_fold": 5}}, "config.probes.n_fold", "an unknown key", "config.yaml"),
    config("text for a number", {"probes": {"n_folds": "5"}}, "probes.n_folds", "'5'", "a valid integer"),
    config("1e-3", {"probes": {"regularisation": "1e-3"}}, "probes.regularisation", "'1e-3'", "valid number"),
    config("too small", {"probes": {"n_folds": 1}}, "config.probes.n_folds", "1", "or equal to 2"),
    config("too large", {"heads": {"top": 9}}, "config.heads.top", "9", "less than or equal to 8"),
    config("a section that is empty", {"compute": None}, "config.compute", "None", "an object"),
    config("a list for a section", {"compute": [1]}, "config.compute", "[1]", "an object"),
    config("yes for true", {"model": {"allow_pickle": "yes"}}, "model.allow_pickle", "'yes'", "valid boolean"),
    config("1 for true", {"model": {"allow_pickle": 1}}, "model.allow_pickle", "1", "valid boolean"),
    config("not a number", {"probes": {"tolerance": float("nan")}}, "probes.tolerance", "nan", "finite number"),
    config("infinite", {"organism": {"rotary_theta": float("inf")}}, "rotary_theta", "inf", "finite number"),
    config("a seed of no generator", {"recall": {"seed": 2**64}}, "recall.seed", str(2**64), "less than"),
    config("precision", {"compute": {"dtype": "float8"}}, "compute.dtype", "'float8'", "'bfloat16'"),
    config("device", {"compute": {"device": "gpu"}}, "config.compute.device", "'gpu'", "cuda"),
    config("source", {"model": {"source": "web"}}, "config.model.source", "'web'", "'folder', 'gguf' or 'tiny'"),
    config("hub without revision", {"model": {"source": "hub", "id": "a/b"}}, "config.model", "impossible",
           "needs `id` and `revision`"),
    config("folder without folder", {"model": {"source": "folder"}}, "config.model", "impossible", "`folder`"),
    config("gguf without file", {"model": {"source": "gguf"}}, "config.model", "impossible", "`file`"),
    config("gguf that is not there", {"model": {"source": "gguf", "file": "no.gguf"}},
           "no.gguf (config.model.file of study", "no such file", "a GGUF file"),
    config("gguf that is none", {"model": {"source": "gguf", "file": "subjects.csv"}},
           "subjects.csv (config.model.file of study", "begins with b'athl'", "a GGUF file"),
    config("nothing after the name", {"relation": {"after": ""}}, "config.relation of study 'mine'.after", "''", "between the name and the answer"),
    config("nothing but a space", {"relation": {"after": " "}}, "config.relation of study 'mine'.after", "' '", "what is read at END"),
    config("no prompt at all", {"relation": {"shot": "", "before": "", "after": ""}}, "config.relation", "''", "between the name"),
    config("a space at the end", {"relation": {"after": " plays "}}, "'mine'.after", "ends in white space", "its last word"),
    config("a line break at the end", {"relation": {"after": " plays\n"}}, "'mine'.after", "ends in white space", "its last word"),
    config("a space before the name", {"relation": {"before": "Fact: "}}, "'mine'.before", "ends in a space", "belongs to the name"),
    config("an example without an end", {"relation": {"shot": "Fact: Tiger Woods plays golf"}}, "'mine'.shot",
           "runs into the question ('Fact: Tiger Woods plays golfFact:')", "a line break"),
    config("an example of nothing", {"relation": {"shot": "\n"}}, "'mine'.shot", "'\\n'", "'' for none"),
    config("an example with an answer", {"relation": {"shot": "Fact: Bo Diddley plays baseball\n"}}, "sport 'baseball'",
           "a word of the example", "does not name"),
    config("a paraphrase with an answer", {"relation": {"paraphrases": [{"shot": "Bo Diddley: football\n", "before": ""}]}},
           "sport 'football'", "a word of the example", "does not name"),
    config("a paraphrase with a name", {"relation": {"paraphrases": [{"shot": "Fact: Ann Lee plays golf\n"}]}},
           "athlete 'Ann Lee'", "a word of the example", "does not name"),
    config("a paraphrase that is none", {"relation": {"paraphrases": [{}]}}, "config.relation.paraphrases.0 of study 'mine'",
           "the same as config.relation of study 'mine'", "a wording of its own"),
    config("one paraphrase twice", {"relation": {"paraphrases": [{"after": " plays"}, {"after": " plays"}]}},
           "config.relation.paraphrases.1", "the same as config.relation.paraphrases.0", "a wording of its own"),
    config("a paraphrase that asks nothing", {"relation": {"paraphrases": [{"after": ""}]}},
           "config.relation.paraphrases.0 of study 'mine'.after", "''", "between the name and the answer"),
    config("a paraphrase's key", {"relation": {"paraphrases": [{"prompt": "x"}]}}, "config.relation.paraphrases.0.prompt",
           "an unknown key", "config.yaml"),
    config("a paraphrase in words", {"relation": {"paraphrases": ["{} plays"]}}, "config.relation.paraphrases.0", "'{} plays'",
           "an object"),
    config("paraphrases without end", {"relation": {"paraphrases": [{"after": f" plays {i} of"} for i in range(9)]}},
           "config.relation.paraphrases", "[{'after'", "at most 8"),
    config("no athletes", {"subjects": {"table": None}}, "config", "impossible", "subjects.table may be null"),
    config("condition", {"probes": {"conditions": ["bare"]}}, "probes.conditions.0", "'bare'", "'name_only'"),
    config("condition not stored", {"probes": {"conditions": ["zero_shot"]}}, "config", "impossible",
           "['zero_shot'] are not among activations.conditions"),
    config("site", {"activations": {"datasets": [{"site": "resid_post"}]}}, "datasets.0.site", "'resid_post'",
           "'resid'"),
    config("two texts", {"locality": {"texts": "a", "dataset": "b"}}, "config.locality", "impossible",
           "one of them"),
    config("a head's name", {"circuit": {"extract": ["5.3"]}}, "circuit.extract.0", "'5.3'", "pattern"),
    config("a name upwards", {"study": "../elsewhere"}, "config.study", "'../elsewhere'", "pattern"),
    config("an absolute name", {"study": "/tmp/x"}, "config.study", "'/tmp/x'", "pattern"),
    config("a hidden name", {"study": ".shards"}, "config.study", "'.shards'", "pattern"),
    config("a name of two lines", {"study": "a\n"}, "config.study", "'a\\n'", "pattern"),
    config("a name without end", {"study": "a" * 300}, "config.study", "'aaa", "at most 100 characters"),
    config("the name of comparisons", {"study": "comparison"}, "config.study", "'comparison'", "any other name"),
    config("concatenating layers", {"circuit": {"concatenate": [0, 4]}}, "config.circuit.concatenate of study",
           "[0, 4]", "layers 0-3 of this model", kind="layers and heads"),
    config("lookup", {"circuit": {"lookup": [2, 6]}}, "circuit.lookup", "[2, 6]", "layers 0-3",
           kind="layers and heads"),
    config("backwards", {"circuit": {"lookup": [2, 1]}}, "circuit.lookup", "[2, 1]", "not above the last",
           kind="layers and heads"),
    config("below zero", {"circuit": {"lookup": [-1, 1]}}, "circuit.lookup", "[-1, 1]", "a first and a last",
           kind="layers and heads"),
    config("backwards, any model", {"circuit": {"lookup": [6, 2]}, **PYTHIA}, "circuit.lookup", "[6, 2]",
           "not above the last", kind="layers and heads"),
    config("a head's layer", {"circuit": {"extract": ["L16H0"]}}, "circuit.extract", "L16H0", "layers 0-3",
           kind="layers and heads"),
    config("a head", {"circuit": {"extract": ["L1H4"]}}, "circuit.extract", "L1H4", "heads 0-3 of a layer",
           kind="layers and heads"),
    config("a stored layer", {"activations": {"datasets": [{"site": "resid", "layers": [0, 4]}]}},
           "config.activations.datasets.0.layers", "4", "layers 0-3", kind="layers and heads"),
    config("a stored layer below zero", {"activations": {"datasets": [{"site": "z", "layers": [-1]}]}, **PYTHIA},
           "activations.datasets.0.layers", "-1", "0 and up", kind="layers and heads"),
    config("a neuron's layer", {"answer_neurons": {"neurons": ["L5N6045"]}}, "answer_neurons.neurons", "L5N6045",
           "layers 0-3", kind="layers and heads"),
    config("a neuron", {"answer_neurons": {"neurons": ["L1N128"]}}, "answer_neurons.neurons", "L1N128",
           "neurons 0-127", kind="layers and heads"),
    config("a Llama's neuron", {"answer_neurons": {"neurons": ["L1N96"]}, "model": {"family": "llama"}},
           "answer_neurons.neurons", "L1N96", "neurons 0-95", kind="layers and heads"),
    config("a neuron outside the lookup", {"answer_neurons": {"neurons": ["L0N1"]}, "circuit": {"lookup": [1, 2]}},
           "answer_neurons.neurons", "L0N1", "stored (1, 2", kind="layers and heads"),
    config("differences in half precision", {"neurons": {"engine": "difference"}, "compute": {"dtype": "float16"}},
           "config.neurons.engine", "compute.dtype 'float16'", "float32 or float64", kind="layers and heads"),
    config("the same for all experiments", {"compute": {"engine": "difference", "dtype": "bfloat16"}},
           "config.compute.engine", "compute.dtype 'bfloat16'", "float32 or float64", kind="layers and heads"),
    config("of the embedded model", {"model": {"source": "organism"}, "subjects": {"table": None},
           "circuit": {"extract": ["L6H0"]}}, "circuit.extract", "L6H0", "layers 0-5", kind="layers and heads"),
    config("a layer of thousands of digits", {"circuit": {"extract": ["L" + "1" * 5000 + "H0"]}}, "circuit.extract.0",
           "'L1111", "pattern"),
    config("a layer in other digits", {"circuit": {"extract": ["L1\u0663H0"]}}, "circuit.extract.0", "'L1", "pattern"),
    config("layers without end", {"circuit": {"lookup": [0, 10**18]}, **PYTHIA}, "circuit.lookup.1", str(10**18),
           "less than 10000"),
    config("a number of thousands of digits", {"probes": {"seed": 16**5000}}, "config.probes.seed",
           "thousands of digits", "less than 64 bits"),
    config("such a number as a key", {"probes": {16**5000: 1}}, "config.probes", "the key a number of thousands",
           "text as keys"),
    config("such a number in a set", {"probes": {"seed": {16**5000}}}, "config.probes.seed", "(a set)", "numbers, true"),
    not_stored("the residual stream", "no resid at final_name", "layer_probes, readers", resid={"roles": []}),
    not_stored("the residual stream at the name", "no resid at final_name", "layer_probes", resid={"roles": ["end"]}),
    not_stored("the residual stream at END", "no resid at end", "direct_effects and head_inputs read", resid={"roles": ["final_name"]}),
    not_stored("its first layer alone", "resid at final_name without layer 1", "or all", resid={"layers": [0]}),
    not_stored("no layer", "no mlp_out at final_name", "among them", mlp_out={"layers": []}),
    not_stored("heads", "no z at final_name", "head_inputs", z={"roles": []}),
    not_stored("attention at END", "no attn_out at end", "direct_effects", attn_out={"roles": ["final_name"]}),
    not_stored("MLPs", "no mlp_out at final_name", "head_inputs", mlp_out={"roles": []}),
    not_stored("patterns at END", "no pattern at end", "attention_roles and head_inputs", pattern={"roles": ["final_name"]}),
    not_stored("neurons", "no post at final_name", "answer_neurons read", post={"roles": []}),
    not_stored("neurons of a named neuron's layer", "no post at final_name", "answer_neurons", post={"roles": []},
               settings={"answer_neurons": {"neurons": ["L1N1"]}}),
    not_stored("a layer of the lookup", "post at final_name without layer 2", "or all", post={"layers": [1]},
               settings={"circuit": {"lookup": [1, 2]}}),
    not_stored("of a model that is not there yet", "z at final_name without layer 0", "or all", z={"layers": [1]},
               settings=PYTHIA),
    config("one site twice", {"activations": {"datasets": [{"site": "z"}, {"site": "z", "roles": ["end"]}]}},
           "config.activations", "z at end more than once", "each site and role once", kind="activations"),
    config("layers out of order", {"activations": {"datasets": [{"site": "resid", "layers": [2, 0, 1]}]}},
           "config.activations.datasets.0", "[2, 0, 1]", "in ascending order", kind="activations"),
    *(path(key, "a\0b", "'a\\x00b'", "pattern") for key in PATHS),
    *(path(key, "", "''", "pattern") for key in PATHS),
    *(path(key, "a" * 300, "name too long", "the path of a file") for key in PATHS),
    *(path(key, "a/" * 600, "'a/a/a/", "at most 1000 characters") for key in PATHS),
    config("no list", {"studies": "organism"}, "config.studies", "'organism'", "a list", kind="study list"),
    config("nobody", {"studies": ["nobody"]}, "config.studies[0]", "'nobody'", "one of", kind="study list"),
    config("twice", {"studies": ["mine", "mine"]}, "config.studies[1]", "a second time", "once", kind="study list"),
    config("without a name", {"studies": [{"organism": {"seed": 1}}]}, "config.studies[0]", "seed",
           "a name under `study`", kind="study list"),
    config("like nobody", {"studies": [{"study": "x", "like": "nobody"}]}, "config.studies[0].like", "'nobody'",
           "one of", kind="study list"),
    config("a number", {"studies": [3]}, "config.studies[0]", "3", "a name, or a mapping", kind="study list"),
    config("upwards", {"studies": [{"study": "a/../../b"}]}, "config.studies[0].study", "'a/../../b'", "pattern",
           kind="study list"),
    config("an overlay elsewhere", {"studies": ["../config"]}, "config.studies[0]", "'../config'", "one of",
           kind="study list"),
    config("a wrong layer in the second", {"studies": ["mine", {"study": "b", "circuit": {"lookup": [9, 9]}}]},
           "config.circuit.lookup of study 'b'", "[9, 9]", "layers 0-3", kind="study list"),
    config("missing", FOLDER, "model (config.model.folder of study 'mine')", "no such folder", "Hugging Face",
           kind="model folder"),
    folder("no config.json", remove("config.json"), "config.model.folder", "no config.json", "Hugging Face"),
    folder("broken config.json", write("config.json", "{"), "model/config.json", "no valid JSON", "JSON"),
    folder("config.json is a list", write("config.json", "[]"), "model/config.json", "'list'", "gpt_neox"),
    folder("unknown family", edit_json("config.json", model_type="bert"), "config.json", "'bert'", "gpt2, gpt_neo"),
    folder("no family", edit_json("config.json", model_type="gone"), "config.json", "model_type None", "llama"),
    folder("layers in words", edit_json("config.json", num_hidden_layers="three"), "num_hidden_layers", "'three'",
           "a whole number"),
    folder("no tokenizer", remove("tokenizer.json"), "model (", "no tokenizer.json", "a fast tokenizer"),
    folder("broken tokenizer", cut("tokenizer.json", 500), "model/tokenizer.json", "no tokenizer", "as it was saved"),
    folder("vocabulary", edit_json("config.json", vocab_size=100), "model/tokenizer.json", "an embedding of 100",
           "no larger than the embedding"),
    folder("embedding", edit_json("config.json", vocab_size=400), "gpt_neox.embed_in.weight", "the shape 328 x 32",
           "400 x 32 (vocabulary x width), as config.json says"),
    folder("two sports of one first token", lambda model: (model.parent / "subjects.csv").write_text(ALIKE) and None,
           "answers 'football' and 'football match' (config.subjects.table of study 'mine')", "the same first token ' football'",
           "differ in their first token"),
    folder("a sport that begins with a token of white space",
           lambda model: (model.parent / "subjects.csv").write_text(SUBJECTS.replace("football", "sepak takraw")) and None,
           "answer 'sepak takraw' (config.subjects.table", "a first token of white space alone", "its first letters"),
    Case(kind="model folder", name="no BOS, and a question that begins with the name", make=bare(before=""), found="''",
         where="config.relation of study 'mine'.before", allowed="words that begin with the token of the example"),
    Case(kind="model folder", name="no BOS, and a question that begins otherwise", make=bare(before="The truth:"),
         where="config.relation of study 'mine'.before", found="'The truth:'", allowed="on which heads rest in every prompt"),
    folder("a BOS that is no token", lambda model: None, "config.model.bos of study 'mine'", "'<|im_start|>'",
           "auto, none, or a special token: <|endoftext|>", bos="<|im_start|>"),
    folder("no weights", remove("model.safetensors"), "model (", "no weights", "*.safetensors"),
    folder("pickled weights", pickled, "model (", "pytorch_model.bin", "model.allow_pickle: true"),
    folder("cut off", cut("model.safetensors", 40_000), "model/model.safetensors", "no whole safetensors file",
           "as they were saved"),
    folder("header cut off", cut("model.safetensors", 6), "model/model.safetensors", "no whole safetensors file",
           "download them again"),
    folder("a Git LFS pointer", write("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid x\n"),
           "model/model.safetensors", "no whole safetensors file", "download them again"),
    folder("a layer missing", edit_weights(lambda w: [w.pop(n) for n in list(w) if ".layers.2." in n]), "model (",
           "no weight gpt_neox.layers.2.", "weights of 3 layers"),
    folder("one weight missing", edit_weights(lambda w: w.pop("transformer.h.1.attn.c_proj.bias")), "model (",
           "no weight transformer.h.1.attn.c_proj.bias", "weights of 3 layers", family="gpt2"),
    folder("a layer too many", edit_json("config.json", num_hidden_layers=2), "model (", "weights of 3 layers",
           "2, as config.json says", family="llama"),
    folder("weights of another name", lambda m: (m / "model.safetensors").rename(m / "my.safetensors"), "model (",
           "weights named my.safetensors", "model.safetensors.index.json"),
    folder("a shard missing", sharded({"x": "model-00002-of-00002.safetensors"}), "model (",
           "no model-00002-of-00002.safetensors", "every shard"),
    folder("a shard without its weight", sharded({"x": "model-00001-of-00001.safetensors"}),
           "model-00001-of-00001.safetensors", "no weight x", "index.json says"),
    folder("a shard elsewhere", sharded({"x": "../../secret.safetensors"}), "model.safetensors.index.json",
           "'../../secret.safetensors'", "the same folder"),
    folder("an index of nothing", lambda m: sharded({})(m) or write("model.safetensors.index.json", "{}")(m),
           "model.safetensors.index.json", "no weight_map", "which shard"),
    *(folder(f"no {key}", edit_json("config.json", **{key: "gone"}), "model/config.json", f"no {key}",
             "the sizes of the model", family=family)
      for family, keys in SIZE_KEYS.items() for key in keys),
    folder("layers of a slip", edit_json("config.json", num_hidden_layers=3_000_000), "config.json, num_hidden_layers",
           "3000000", "at most 1000"),
    folder("heads", edit_json("config.json", num_attention_heads=5), "model/config.json",
           "5 heads for a width of 32", "divides it"),
    folder("groups of heads", edit_json("config.json", num_key_value_heads=3), "model/config.json",
           "3 key-value heads for 4 heads", "divides it", family="llama"),
    folder("activation", edit_json("config.json", hidden_act="swoosh"), "config.json, hidden_act", "'swoosh'", "gelu_new"),
    folder("differences of an activation", edit_json("config.json", hidden_act="mish"), "config.neurons.engine of study 'mine'",
           "'difference' for a model whose activation is 'mish'", "suffix or auto; differences need one of gelu",
           family="llama", facts={"engine": "difference"}),
    folder("no activation", edit_json("config.json", activation_function=None), "config.json, activation_function",
           "None", "gelu_new", family="gpt2"),
    folder("rotary embedding", edit_json("config.json", rope_scaling={"type": "bend", "factor": 2.0}),
           "config.json, rope_scaling", "'bend'", "linear", family="llama"),
    folder("rotary parameters", edit_json("config.json", rope_parameters=[1]), "config.json, rope_parameters", "[1]",
           "a rope_type", family="llama"),
    folder("quantized", edit_json("config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
           "model/config.json", "a quantization_config", "not quantized"),
    folder("broken tokenizer settings", write("tokenizer_config.json", "{"), "model/tokenizer_config.json",
           "no valid JSON", "a JSON file"),
    folder("a list of tokenizer settings", write("tokenizer_config.json", "[]"), "model/tokenizer_config.json",
           "no mapping", "as they were saved"),
    folder("broken special tokens", write("special_tokens_map.json", "{"), "model/special_tokens_map.json",
           "no valid JSON", "a JSON file"),
    *(folder(f"{family} with no {part} anywhere", lack(part), "model (", part, "every weight of a", family=family)
      for family, parts in PARTS.items() for part in parts),
    folder("size of the MLP", edit_json("config.json", intermediate_size=64), "layers.0.mlp.dense_h_to_4h.weight",
           "the shape 128 x 32", "64 x 32 (neurons x width)"),
    folder("unembedding", edit_weights(reshape("embed_out.weight", 300, 32)), "model, embed_out.weight",
           "the shape 300 x 32", "328 x 32 (vocabulary x width)"),
    folder("a block's weight", edit_weights(reshape("transformer.h.1.attn.c_proj.weight", 32, 30)),
           "model, transformer.h.1.attn.c_proj.weight", "the shape 32 x 30", "32 x 32 (width x width)", family="gpt2"),
    folder("keys", edit_json("config.json", num_key_value_heads=4), "model, model.layers.0.self_attn.k_proj.weight",
           "the shape 16 x 32", "32 x 32 (keys x width)", family="llama"),
    folder("whole numbers", edit_weights(whole_numbers), "gpt_neox.layers.1.mlp.dense_h_to_4h.weight",
           "the type I64", "F64, F32, F16, BF16"),
]  # fmt: skip
WILD = [
    subjects("golf", SUBJECTS + "Ed Fox,golf\nFlo Gil,golf\n", "a word of the example", "does not name",
             where="sport 'golf' (config.subjects.table of study 'mine')"),
    subjects("Golf in wide letters", SUBJECTS + "Ed Fox,\uff27olf\nFlo Gil,\uff27olf\n", "'Fact: Tiger Woods plays", "gives them away",
             where="sport '\uff27olf'"),
    subjects("the golfer of the example", SUBJECTS + "TIGER WOODS,football\n", "a word of the example", "leave these rows out",
             where="athlete 'TIGER WOODS'"),
    subjects("a name of nothing", SUBJECTS + "\u3164,football\n", "invisible characters", "text", where="row 5 (athlete)"),
    subjects("look-alikes of two sports", "athlete,sport\nO'Neal,baseball\nO\u2019Neal,football\nBo,baseball\nBo,football\n",
             "no athlete is left", "at least two sports"),
    subjects("two spellings of a sport", SUBJECTS + "Ed,foot-ball\nFay,foot\u2011ball\n", "'foot-ball' and 'foot\u2011ball'",
             "one spelling"),
    facts("twice in other letters", FACTS + "ann lee,Sport,ann lee loves,baseball\n", "as in row 1", "each once", where="row 2"),
    folder("weights that it does not use", edit_weights(lambda w: w.update({"model.layers.1.self_attn.q_proj.bias": np.ones(32, np.float32)})),
           "model (config.model.folder", "the weight model.layers.1.self_attn.q_proj.bias, which the model does not use",
           "attention_bias of config.json is not true", family="llama"),
    folder("a head of another kind", edit_weights(lambda w: w.update({"score.weight": np.ones((2, 32), np.float32)})),
           "model (", "the weight score.weight", "no others", family="gpt2"),
    folder("an adapter", write("adapter_config.json", "{}"), "adapter_config.json", "an adapter", "merged"),
    folder("too few positions", few_positions,
           "the prompt of", "tokens, BOS included", "at most 16, the positions of the model", family="gpt2"),
    folder("too few rotated positions", edit_json("config.json", max_position_embeddings=12), "the prompt of 'Ann Lee'",
           "tokens, BOS included", "at most 12", family="llama"),
    folder("a name that it cannot write", lambda model: words(WORDS).save_pretrained(model) and None, "names under 'full': 'Cy Day'",
           "'<|unknown|>', which stands for no text", "names that the tokenizer writes"),
    folder("a fact longer than the model", lambda model: (model.parent / "facts.csv").write_text(
               FACTS.replace("Ann Lee plays", "Ann Lee " + "and so on " * 40 + "plays")) and None,
           "fact 'sport' of 'Ann Lee' (config.neurons.facts", "tokens, BOS included", "at most 128", facts={"facts": "facts.csv", "first": []}),
]  # fmt: skip
FORMATS = [
    users_table("a TSV with commas", "s.tsv", SUBJECTS, "no column 'athlete' among 'athlete,sport'", "columns athlete, sport"),
    users_table("a TSV row too short", "s.tsv", SUBJECTS.replace(",", "\t") + "Ed\n", "1 cells", "2 cells", where="s.tsv, row 5"),
    users_table("no such Parquet", "s.parquet", None, "no such file", ".parquet", where="config.subjects.table of study 'mine'"),
    users_table("damaged Parquet", "s.parquet", b"PAR1 no PAR1", "a damaged Parquet file", "as it was saved"),
    users_table("Parquet of other columns", "s.parquet", pl.DataFrame({"name": ["A"], "sport": ["b"]}),
                "no column 'athlete' among 'name', 'sport'", "columns athlete, sport"),
    users_table("Parquet of numbers", "s.parquet", pl.DataFrame({"athlete": [1, 2], "sport": ["a", "b"]}), "Int64", "texts",
                where="s.parquet, column athlete"),
    users_table("Parquet with a null", "s.parquet", pl.DataFrame({"athlete": ["A", "B"], "sport": ["a", None]}), "null",
                "a text in every row", where="s.parquet, row 2 (sport)"),
    users_table("Parquet without rows", "s.parquet", pl.DataFrame({"athlete": [], "sport": []}), "no rows", "at least one row"),
    users_table("no JSON in a line", "s.jsonl", json.dumps(RECORDS[0]) + "\n{]\n", "no JSON", '{"athlete": "..."', where="row 2"),
    users_table("half a character", "s.jsonl", '{"athlete": "\\ud800", "sport": "a"}', "no JSON", "athlete", where="row 1"),
    users_table("nested without end", "s.jsonl", "[" * 100_000, "no JSON", "athlete", where="row 1"),
    users_table("lines of lists", "s.jsonl", [["Ann Lee", "baseball"]], "['Ann Lee', 'baseball']", '{"athlete"', where="row 1"),
    users_table("lines of other keys", "s.jsonl", [{"name": "A", "sport": "b"}], "no column 'athlete' among 'name', 'sport'",
                "columns athlete, sport"),
    users_table("a line without a key", "s.jsonl", [*RECORDS, {"athlete": "Ed"}], "no 'sport' among 'athlete'", '"sport": "..."',
                where="s.jsonl, row 5"),
    users_table("a line with a null", "s.jsonl", [*RECORDS, {"athlete": "Ed", "sport": None}], "null, which is no text",
                "a text in quotes", where="s.jsonl, row 5 (sport)"),
    users_table("a line with a number", "s.jsonl", [*RECORDS, {"athlete": 7, "sport": "golf"}], "7, which is no text",
                "a text in quotes", where="row 5 (athlete)"),
    users_table("no lines", "s.jsonl", "\n \n", "an empty file", "in each line"),
    subjects("too many sports", MANY, "23 sports", "at most 20 sports: leave rows out of the table, or keep the 3 commonest by "
             "subjects: {few: drop, min_per_answer: 3}"),
    subjects("too many sports alike", "\n".join(line for line in MANY.splitlines() if "B2" not in line), "23 sports",
             "at most 20 sports: leave rows out of the table"),
    subjects("no sport is left", SUBJECTS, "0 sports (no athlete is left)", "at least two sports", few="drop", min_per_answer=3),
    subjects("too few, and how to drop them", SUBJECTS + "Ed Fox,chess\n", "1 athletes of the sport 'chess'",
             "subjects.few: drop leaves such sports out"),
    relation_file("no JSON", "{", "no JSON", "a relation file"),
    relation_file("a list", json.dumps(SAMPLES), "a list instead of an object", "ends in .jsonl"),
    relation_file("no samples", {"name": "plays", "prompt_templates": []}, "no 'samples' among 'name', 'prompt_templates'",
                  '{"samples": [{"subject"'),
    relation_file("empty samples", [], "[]", "at least one sample", where="plays.json, samples"),
    relation_file("samples of other keys", [{"subject": "Ann", "answer": "b"}], "no column 'object' among 'subject', 'answer'",
                  "columns subject, object"),
    relation_file("a sample without an object", [*SAMPLES, {"subject": "Ed"}], "no 'object' among 'subject'", '"object": "..."',
                  where="plays.json, row 5"),
    relation_file("an object of two", [*SAMPLES, {"subject": "Ed", "object": ["a", "b"]}], '["a", "b"], which is no text',
                  "a text in quotes", where="row 5 (object)"),
    relation_file("no samples but a text", {"samples": "Ann"}, '"Ann"', "a list", where="plays.json, samples"),
    file_case("facts", "a relation file", "plays.json", json.dumps({"samples": SAMPLES}), {"neurons": {"facts": "plays.json"}},
              "a JSON file", "ends in .tsv, .parquet or .jsonl"),
    config("what to do with few", {"subjects": {"few": "keep"}}, "config.subjects.few", "'keep'", "'error' or 'drop'"),
    config("who is known", {"recall": {"known": "likely"}}, "config.recall.known", "'likely'", "'probability', 'first' or 'best'"),
    config("known above one", {"recall": {"known_above": 1.0}}, "config.recall.known_above", "1.0", "less than 1"),
    config("a threshold that is not used", {"recall": {"known": "best", "known_above": 0.4}}, "config.recall",
           "impossible combination", "known_above with known: probability"),
    config("yes for beyond_spelling", {"recall": {"beyond_spelling": "yes"}}, "recall.beyond_spelling", "'yes'", "valid boolean"),
]  # fmt: skip
CASES += WILD + FORMATS
ADOPTED = [
    folder("NaN weights", edit_weights(nan_weights), "model/model.safetensors",
           "not finite in gpt_neox.layers.1.mlp.dense_h_to_4h.weight", "without NaN"),
    folder("infinite weights", edit_weights(infinite_weights), "model/model.safetensors",
           "not finite in gpt_neox.final_layer_norm.bias", "without NaN and infinity"),
]  # fmt: skip
"""Seen where all weights are read: by the rule adopt_model, before anything runs on the model."""


def folder_for(case: Case, here: Path) -> dict[str, Any]:
    """A working directory with good inputs but for the case's; its configuration, on top of `GOOD`."""
    (here / "subjects.csv").write_text(SUBJECTS)
    shutil.rmtree(here / "model", ignore_errors=True)
    return case.make(here)
