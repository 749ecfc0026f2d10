"""Tables drawn from the declared columns: any number of answers and layers, one subject or many, intervals or none.

What stands in the columns that say what a row is about (`_rows`) is the experiments' own; every other column is drawn by
its declared type. So a table has the columns of a true one, and no number in it need agree with another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
import polars as pl

from factfinding.declarations import EACH, Column, declarations
from factfinding.tables import TYPES

Rows = list[dict[str, Any]]
KINDS = ("mean", "resample_other")
ABLATIONS = ("zero", "mean", "resample_same", "resample_other")
CONDITIONS = ("full", "name_only")
PLACES = (
    ("first_name", 0, None), ("final_name", 0, None), ("relation", 0, " plays"), ("relation", 1, " the"), ("end", 0, " of"),
)  # fmt: skip
ROLES = ("bos", "shot", "newline", "fact", "first_name", "final_name", "relation_1", "end")
FACTS = ("answer", "team", "town", "number")
WIDTHS, DEPTHS, SEEDS = (2, 4), (1, 2), (0, 1)
SHAPES = list(product((16,), WIDTHS, DEPTHS))
TASKS = ("memorising", "generalising", "exceptions")
MEASURES = (
    "accuracy", "loss", "bits_per_parameter", "interaction", "own_classes", "random_classes", "participation_zero",
    "participation_mean", "needed_zero", "needed_mean", "held_out_accuracy", "classes", "label",
)  # fmt: skip
PROBES = ("head", "logistic")
DATA, WIDTHS_OF_DICTIONARIES = ("true", "sum", "shuffled"), (32, 256, 1024, 65_536)
FEATURES_OF_NOTHING = ("group", "none")
FEATURES_OF = (
    "answer",
    "last_token",
    "first_token",
    "relation",
    "entity",
    "token_or_entity",
    *FEATURES_OF_NOTHING,
)
EMERGING = (
    "recall", "logit_difference", "concatenation", "lookup", "extraction", "attends", "concatenation_used", "lookup_used",
    "extraction_used",
)  # fmt: skip
CATEGORIES = ("newline", "full_stop", "comma", "common", "alphabetic", "other")


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """How tables are drawn. n: subjects, strings, networks, ... in every row. intervals: whether a row has them (`some`: drawn
    for each row and column). values: from what numbers are drawn. tokens: lengths of names. Layers and heads: of the model."""

    n_answers: int = 3
    layers: int = 3
    heads: int = 2
    n: int = 40
    intervals: str = "all"
    values: str = "shares"
    tokens: tuple[int, ...] = (2,)
    facts: int = 3
    pairs: int = 2
    ks: int = 5
    seed: int = 0

    @property
    def answers(self) -> tuple[str, ...]:
        return tuple(f"answer {chr(97 + i)}" for i in range(self.n_answers))


def drawn_tables(how: Drawn, names: Collection[str] | None = None) -> dict[str, pl.DataFrame]:
    """The tables of these names, or all that a figure or a sentence reads."""
    rng, declared, makes = np.random.default_rng(how.seed), declarations().tables, _rows()
    return {name: _table(declared[name].columns, makes[name](how), how, rng) for name in names or makes}


def _table(columns: dict[str, Column], rows: Rows, how: Drawn, rng: np.random.Generator) -> pl.DataFrame:
    data: dict[str, pl.Series] = {}
    for pattern, column in columns.items():
        for name in (
            [pattern.replace(EACH, answer) for answer in how.answers] if EACH in pattern else [pattern]
        ):
            kind = TYPES[column.type]
            values = [row[name] if name in row else _value(name, column, how, rng) for row in rows]
            data[name] = pl.Series(name, values, dtype=kind, strict=False)
            if column.interval:
                there = [_has_interval(how, rng) and value is not None for value in values]
                for end, side in (("low", -1), ("high", 1)):
                    ends = [v + side * 0.05 if has else None for v, has in zip(values, there, strict=True)]
                    data[f"{name}_{end}"] = pl.Series(f"{name}_{end}", ends, dtype=kind)
    for name, series in data.items():  # tables without declared intervals that have the columns all the same
        if name.endswith(("_low", "_high")) and name in columns and how.intervals == "none":
            data[name] = pl.Series(name, [None] * len(rows), dtype=series.dtype)
    return pl.DataFrame(data)


def _has_interval(how: Drawn, rng: np.random.Generator) -> bool:
    return how.intervals == "all" or (how.intervals == "some" and bool(rng.random() < 0.5))


def _value(name: str, column: Column, how: Drawn, rng: np.random.Generator) -> Any:
    """A cell that says nothing about which row it is in."""
    if column.type == "boolean":
        return bool(rng.random() < 0.5)
    if column.type == "integer":
        return how.n
    if column.type == "string":
        return f"some {name}"
    if how.values == "zeros":
        return 0.0
    return float(rng.random() if how.values == "shares" else rng.normal())


def _all(**levels: Any) -> Rows:
    """A row for each combination of the levels; a key of several names takes tuples."""
    found = []
    for combination in product(*levels.values()):
        row: dict[str, Any] = {}
        for key, value in zip(levels, combination, strict=True):
            names = key.split("__")
            row |= dict(zip(names, value if len(names) > 1 else (value,), strict=True))
        found.append(row)
    return found


def _nodes(
    how: Drawn, *, below: int | None = None
) -> Iterator[tuple[str, str, int | None, int | None, int | None]]:
    """Node, kind, layer, index and rank of everything that writes to the residual stream."""
    yield "resid_pre:0", "embedding", None, None, None
    yield "all", "all", None, None, None
    rank = 0
    for layer in range(how.layers if below is None else below):
        for index in range(how.heads):
            rank += 1
            yield f"L{layer}H{index}", "head", layer, index, rank
        yield f"attn_out:{layer}", "attn_out", layer, None, None
        yield f"mlp_out:{layer}", "mlp_out", layer, None, None


def _heads(how: Drawn) -> list[tuple[str, int, int, int, int]]:
    cells = product(range(how.layers), range(how.heads))
    return [(f"L{i}H{j}", i, j, i - 1, rank) for rank, (i, j) in enumerate(cells, 1)]


def _names(how: Drawn) -> list[str]:
    return [f"F{i} L{i}" for i in range(min(how.n, 12))]


def _names_of_each(how: Drawn) -> list[tuple[str, str]]:
    """Two names of each answer; one name where there is one."""
    return [(f"F{i} L{i}", answer) for i, answer in enumerate(2 * how.answers)][: how.n]


def _layer_probes(how: Drawn) -> Rows:
    probed = _all(
        condition=CONDITIONS, layer=range(-1, how.layers), input=("resid",), folds=("random", "last_name"),
        labels=("true", "shuffled"), probe=("logistic",),
    )  # fmt: skip
    names = _all(
        condition=(None,), layer=(None,), input=("name_string", "name_tokens"), folds=("random", "last_name"),
        labels=("true", "shuffled"), probe=("logistic",),
    )  # fmt: skip
    fitted = {"condition": None, "layer": None, "input": "name_tokens", "folds": "none", "probe": "logistic"}
    rows = [*probed, *names, fitted | {"labels": "true"}, fitted | {"labels": "shuffled"}]
    return [row | ({"selectivity": None} if row["labels"] == "shuffled" else {}) for row in rows]


def _attribute_probes(how: Drawn) -> Rows:
    """The stated layer is the first one; the shuffled answers stand there alone."""
    facts = FACTS[: how.facts]
    read = _all(relation=facts, input=("resid",), layer=range(-1, how.layers), labels=("true",))
    read += _all(
        relation=facts,
        input=("resid",),
        layer=(0,),
        labels=("shuffled",),
        baseline=(None,),
        over_baseline=(None,),
    )
    alone = _all(
        relation=facts, input=("name_string", "name_tokens", "main_answer"), layer=(None,), labels=("true",), baseline=(None,),
        over_baseline=(None,),
    )  # fmt: skip
    return [row | {"stated": row["layer"] == 0, "answers": how.n_answers} for row in [*read, *alone]]


def _dictionary_places(how: Drawn) -> list[tuple[str, int]]:
    return [*(("resid", layer) for layer in range(-1, how.layers)), ("mlp_out", how.layers - 1)]


def _circuit(how: Drawn) -> Rows:
    layer = how.layers - 1
    spans = {"concatenate": (0, 0), "lookup": (layer, layer)}
    rows = []
    for part in ("lookup_at", "concatenate", "lookup", "extract"):
        first, last = spans.get(part, (None, None))
        place = "final_name" if part == "lookup_at" else None
        heads = f"L{layer}H0" if part == "extract" else None
        found = {"place": place, "first": first, "last": last, "heads": heads}
        rows.append(
            {"part": part}
            | found
            | {f"proposed_{name}": value for name, value in found.items()}
            | {"fixed": False}
        )
    return rows


def _effective(how: Drawn) -> Rows:
    lengths = [*how.tokens, *([None] if max(how.tokens) > 2 else [])]
    rows = _all(n_name_tokens=lengths, model=("effective", "full"))
    return [row | ({"largest_error": None} if row["model"] == "full" else {}) for row in rows]


def _ladder(how: Drawn) -> Rows:
    steps = {
        "full": None,
        "late_attention": "full",
        "name_only": "full",
        "both": "name_only",
        "frozen": "both",
    }
    steps["attention_0"] = "full"
    rows = []
    for (step, before), reader, layer in product(steps.items(), ("logistic", "head"), range(how.layers)):
        for kind in ("none",) if step in ("full", "name_only") else ABLATIONS:
            row = {"step": step, "before": before, "reader": reader, "layer": layer, "kind": kind}
            rows.append(row | ({"drop": None} if before is None else {}))
    return rows


def _paths(how: Drawn) -> Rows:
    removed = [(*path, kind, {}) for path in combinations(range(max(2, how.layers)), 2) for kind in KINDS]
    metrics = [(name, None) for name in ("accuracy", "answer_accuracy", "loss", "kl")] + [
        ("probe_accuracy", "logistic")
    ]
    return [
        {"source": source, "target": target, "kind": kind, "metric": metric, "reader": reader} | change
        for source, target, kind, change in [(None, None, "none", {"change": None}), *removed]
        for metric, reader in metrics
    ]


def _wordings(how: Drawn) -> range:
    return range(1, 2 + how.pairs)


def _agreement(how: Drawn) -> Rows:
    parts = [("heads", "rank_correlation", None), ("heads", "jaccard", 4), ("mlps", "rank_correlation", None)]
    parts += [(f"layers_at_{place}", "rank_correlation", None) for place in ("final_name", "end")]
    parts += [("neurons", "rank_correlation", None), ("neurons", "jaccard", 20)]
    pairs = list(combinations(_wordings(how), 2))
    return _all(wording__other_wording=pairs, part__measure__top=parts)


def _correlations(how: Drawn) -> Rows:
    facts = FACTS[: how.facts]
    about = [(one, other, "all", "same") for one, other in combinations(facts, 2)]
    about += [(fact, fact, "all", "different") for fact in facts]
    about += [("all", "all", layers, who) for layers in ("all", "0", "1") for who in ("same", "different")]
    return _all(
        fact__other_fact__layers__subjects=about, kind=KINDS, statistic=("pearson", "absolute", "spearman", "top_neuron"),
        interval=("subjects" if how.intervals != "none" else None,), ceiling=(None,),
    )  # fmt: skip


def _concentration(how: Drawn) -> Rows:
    measures = [("participation_ratio", None, None)]
    measures += [("top", top, None) for top in (1, 10, 64)] + [("layer", None, layer) for layer in (0, 1)]
    return _all(fact=("all", *FACTS[: how.facts]), kind=KINDS, measure__top__layer=measures, n_neurons=(64,))


def _neurons_of(how: Drawn) -> list[tuple[str, int, int, str, str]]:
    return [(f"L1N{i}", 1, i, answer, "scan") for i, answer in enumerate(how.answers)]


def _histograms(how: Drawn) -> Rows:
    bins = [(-1.0, 0.0), (0.0, 1.0), (1.0, 2.0)]
    rows = _all(
        neuron__layer__index__answer__chosen_by=_neurons_of(how), subjects_answer=how.answers, low__high=bins
    )
    return [row | {"subjects": how.n} for row in rows]


def _ablations(how: Drawn) -> Rows:
    rows = _all(neuron__layer__index__answer__chosen_by=_neurons_of(how), kind=("none", "mean", "zero"))
    unchanged = dict.fromkeys(("change", "random_change", "random_largest", "random_as_large"))
    return [row | (unchanged if row["kind"] == "none" else {}) | {"random_neurons": 3} for row in rows]


def _excess_neurons(how: Drawn) -> Rows:
    rows = _all(n_name_tokens=(2,), probe=PROBES, layer=(1,), answer=("all", *how.answers), neuron=range(12))
    return [row | {"rank": row["neuron"] + 1} for row in rows]


def _remainder(how: Drawn) -> Rows:
    rows = _all(condition=("name_only",), answer=how.answers, others=("all", "block"))
    undefined = dict.fromkeys(("auc", "auc_whole", "length", "base_rate"))
    found = []
    for row in rows:
        full = row["others"] == "all" and how.layers % 2 == 0
        status = {"status": "undefined: rank is full"} | undefined if full else {"status": "defined"}
        found.append(row | {"neuron": "L1N3", "sign": 1} | status)
    return found


def _verdict(how: Drawn) -> Rows:
    rows = _all(
        task=TASKS,
        m__width__depth=SHAPES,
        expected=("none",),
        found=("none", "shown"),
        verdict=("supported",),
    )
    rows = [row for i, row in enumerate(rows) if i % 2 == 0]
    whole = {"task": "claim", "m": None, "width": None, "depth": None, "expected": None, "found": None}
    return [*rows, whole | {"verdict": "undecided", "baseline": None}]


def _toys(how: Drawn) -> Rows:
    return _all(task=TASKS, m__width__depth=SHAPES, seed=SEEDS[: min(how.n, 2)], pairs=(256,))


def _toy_neurons(how: Drawn) -> Rows:
    rows = _all(
        task=TASKS,
        m__width__depth=SHAPES,
        seed=SEEDS[: min(how.n, 2)],
        layer=(1,),
        kind=("zero", "mean"),
        neuron=range(8),
    )
    return [row | {"order": row["neuron"]} for row in rows]


def _pictures(how: Drawn) -> Rows:
    rows: Rows = []
    for picture in ("random", "clusters", "exceptions", "two_facts"):
        for fact in (1, 2) if picture == "two_facts" else (1,):
            grid = [(-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0)]
            about = {"picture": picture, "fact": fact, "steps": 20, "n": 2}
            rows += [about | {"kind": "grid", "x": x, "y": y, "label": None} for x, y in grid]
            rows += [about | {"kind": "point", "x": float(i) / 2, "y": 0.2, "label": bool(i)} for i in (0, 1)]
    return rows


def _cohorts(how: Drawn) -> tuple[str, ...]:
    """Groups of a training that is told about some before others, or of one that is not."""
    return ("first", "later") if how.facts > 2 else ("all",)


def _ks(how: Drawn) -> list[int | None]:
    return [*range(1, how.ks + 1), None]


def _rows() -> dict[str, Callable[[Drawn], Rows]]:
    """By table, the rows and what each is about."""
    return {
        "training": lambda how: [{"step": 10 * i, "tokens": 100 * i, "seconds": float(i)} for i in range(1, 1 + min(how.n, 9))],
        "subjects": lambda how: _all(subject=_names(how), answer=how.answers[:1]),
        "recall": lambda how: [
            {"subject": f"F{i} L{i}", "answer": answer, "n_name_tokens": how.tokens[0], "full_p": 0.4, "zero_shot_p": 0.3}
            for i, answer in enumerate(how.answers * max(1, min(how.n, 12) // how.n_answers))
        ],
        "recall_summary": lambda how: _all(
            condition=("full", "zero_shot"),
            group__level=[("all", "all"), *(("answer", answer) for answer in how.answers), *(("n_name_tokens", f"{k}") for k in how.tokens)],
            removed=(0,),
        ),
        "known_filters": lambda how: _all(
            filter__rule__above=[("recalled", "probability", 0.5), ("beyond_spelling", "spelling", None), ("at_most", "drawn", None)],
            answer=("all", *how.answers),
        ),
        "candidates": lambda how: [
            {"answer": answer, "token_id": i, "answer_token": f" {answer[:4]}", "n_answer_tokens": 1 + i % 2}
            for i, answer in enumerate(how.answers)
        ],
        "bos_check": lambda how: [
            row | (dict.fromkeys(f"{name}_from_used" for name in ("recalled", "accuracy", "logp")) if row["used"] else {})
            for row in _all(token__token_id__used=[("[TURN]", 1, True), ("[TEXT]", 0, False), ("none", None, False)])
        ],
        "direct_effects": lambda how: _all(answer=("all", *how.answers), node__kind__layer__index__rank=list(_nodes(how))),
        "attention_roles": lambda how: _all(head=("L0H0", "L0H1"), answer=("all", *how.answers), role=ROLES),
        "attention_subjects": lambda how: _all(
            subject__answer=_names_of_each(how), head=("L0H0", "L0H1"), role=ROLES
        ),
        "head_inputs": lambda how: _all(
            reader=(f"L{how.layers - 1}H0",), node__kind__layer__index__rank=list(_nodes(how, below=how.layers - 1))
        ),
        "head_probes": lambda how: _all(head__layer__index__read_after__rank=_heads(how), heads_tried=(how.layers * how.heads,)),
        "head_probe_layers": lambda how: _all(
            head__chosen_by=[("L0H0", "direct effect"), ("L0H1", "probe")], condition=CONDITIONS, layer=range(-1, how.layers),
            input=("resid",), probe=("head",), labels=("true",), folds=("half",), selectivity=(None,),
        ),
        "layer_probes": _layer_probes,
        "residual_patching": lambda how: _all(layer=range(how.layers), role__number__token=PLACES, whole_swap=(-3.0,)),
        "total_effects": lambda how: _all(
            node__type__layer__head=[
                (node, {"head": "head", "attn_out": "attention", "mlp_out": "mlp"}[kind], layer, index)
                for node, kind, layer, index, _ in _nodes(how)
                if layer is not None
            ],
            role__number__token=PLACES, kind=("corrupt", *ABLATIONS), whole_swap=(-3.0,),
        ),
        "total_effects_screen": lambda how: _all(
            kind=("corrupt", *ABLATIONS), type=("all", "head", "attention", "mlp"), below=(0.0025,), counts_from=(0.01,)
        ),
        "circuit": _circuit,
        "circuit_checks": lambda how: _all(
            check=("clean", "mlps_at_name", "earlier_name_hidden", "name_pattern_frozen", *(f"donor_{i}" for i in range(how.layers)))
        ),
        "circuit_scan": lambda how: _all(
            scan=("probe", "attention_from", "attention_alone", "mlps_from", "mlps_below", "mlp_alone"), layer=range(how.layers)
        ),
        "circuit_borders": lambda how: [
            {"part": part, "end": end, "layer": layer, "earliest": max(layer - 1, 0), "latest": layer + 1, "same": 0.6, "none": 0.0}
            for part, layers in (("concatenate", (0, 0)), ("lookup", (1, 2)))
            for end, layer in zip(("first", "last"), layers, strict=True)
        ],
        "ladder": _ladder,
        "effective_model": _effective,
        "effective_confusion": lambda how: _all(n_name_tokens=how.tokens, answer=how.answers, given=how.answers, subjects=(how.n,)),
        "context": lambda how: _all(context=("none", "shot", "question", "title"), layer=range(how.layers)),
        "probe_patching": lambda how: _all(
            change=("whole", "logistic", "logistic_complement", "head", "head_complement", "random", "leace", "random_erased"),
            layer=range(how.layers), dimensions=(2,),
        ),
        "paraphrases": lambda how: [
            row | (dict.fromkeys(("recalled_from_own", "logp_from_own")) if row["wording"] == 1 else {})
            for row in _all(wording=_wordings(how), question=("What … does, and where it does it",))
        ],
        "paraphrase_layers": lambda how: [
            row | ({"from_own": None} if row["wording"] == 1 else {})
            for row in _all(wording=_wordings(how), position=("final_name", "end"), probe=("logistic",), layer=range(-1, how.layers))
        ],
        "paraphrase_nodes": lambda how: _all(wording=_wordings(how), node__kind__layer__index__rank=list(_nodes(how))),
        "paraphrase_agreement": _agreement,
        "attributes": lambda how: [
            row | {"main": row["relation"] == FACTS[0], "probed": True, "answers": how.n_answers}
            for row in _all(relation=FACTS[: how.facts])
        ],
        "attribute_probes": _attribute_probes,
        "attribute_angles": lambda how: [
            {"relation": one, "other_relation": other, "layer": 0, "dimensions": 2, "other_dimensions": 3}
            for one, other in [*combinations(FACTS[: how.facts], 2), *((fact, fact) for fact in FACTS[: how.facts])]
        ],
        "attribute_swaps": lambda how: _all(
            attribute=FACTS[: how.facts], question=FACTS[: how.facts], subspace=("probe", "random"), layer=(0,), dimensions=(2,)
        ),
        "attribute_specificity": lambda how: [
            row | (dict.fromkeys(("others", "own_over_others")) if row["subspace"] == "whole" else {})
            for row in _all(subspace=("probe", "random", "whole"), layer=(0,), attributes=(how.facts,), pairs=(how.facts,))
        ],
        "unasked_extraction": lambda how: [
            row
            | (dict.fromkeys(("attention_from_own", "attention_over_half", "effect_from_own", "effect_over_half")) if row["question"] == "own" else {})
            for row in _all(heads__number=[("extracting", 1), ("other", how.heads)], question=("own", *FACTS[: how.facts], "others", "apart"))
        ],
        "unasked_suppression": lambda how: [
            {"node": node, "kind": kind, "layer": layer, "index": index, "rank": rank, "nodes_tried": 9}
            for rank, (node, kind, layer, index, _) in enumerate(list(_nodes(how))[2:7], 1)
        ],
        "additivity": lambda how: [
            {"part": part, "questions": how.facts, "heads": 2 if part.endswith("_head") else None}
            | ({} if part == "sum" else {"over_joint": None}) | ({"right": None} if part == "sum" else {})
            for part in ("subject_head", "relation_head", "mixed_head", "mlps", "embedding", "sum", "joint")
        ],
        "additivity_heads": lambda how: _all(node__layer__index__read__rank=_heads(how), kind=("mixed_head",)),
        "linear_relation": lambda how: _all(layer=range(how.layers), rank=(1, 2)[how.facts % 2 :][:1], examples=(8,)),
        "dictionaries": lambda how: _all(site__layer=_dictionary_places(how), data=DATA, features=WIDTHS_OF_DICTIONARIES, active=(4,)),
        "dictionary_kinds": lambda how: [
            row
            | (dict.fromkeys(("share_over_sum", "over_shuffled", "over_sum", "from_narrowest")) if row["data"] != "true" else {})
            | (dict.fromkeys(("values", "n_subjects", "covered", "over_shuffled", "over_sum")) if row["kind"] in FEATURES_OF_NOTHING else {})
            for row in _all(
                site__layer=_dictionary_places(how), kind=FEATURES_OF, data=DATA, features=WIDTHS_OF_DICTIONARIES[: how.facts]
            )
        ],
        "emergence": lambda how: _all(cohort=_cohorts(how), step__told=[(0, 0.5), (30, 0.7), (1000, 1.0)], measure=EMERGING),
        "emergence_layers": lambda how: _all(cohort=_cohorts(how), step=(0, 30, 1000), layer=range(-1, how.layers)),
        "emergence_halves": lambda how: [
            row | {"after_step": 0, "by_step": 30, "first_step": 30 * (row["measure"] != "lookup"), "from_start": row["measure"] == "concatenation"}
            for row in _all(cohort=_cohorts(how), measure=EMERGING)
        ],
        "emergence_order": lambda how: _all(
            cohort=_cohorts(how), measure__other=list(combinations(("concatenation", "lookup", "extraction", "recall"), 2))
        ),
        "name_unit": lambda how: [
            row | ({"from_whole": None} if row["place"] == "whole" else {})
            for row in _all(
                place__tokens_left=[("whole", 0), ("preceded", 0), ("appended", 0), *(("prefix", i) for i in range(1, how.facts))],
                layer=range(how.layers),
            )
        ],
        "name_unit_answers": lambda how: [
            row | ({"from_whole": None} if row["place"] == "whole" else {}) for row in _all(place=("whole", "preceded", "appended"))
        ],
        "entity_cells": lambda how: [
            row | (dict.fromkeys(("random", "over_random", "random_effect")) if row["chosen_by"] == "all" else {})
            for row in _all(
                change=("erase", "inject"), n_neurons=(64,), whole_swap=(-3.0,),
                chosen_by__neurons=[("all", 64), *product(("specificity", "gradient"), (1, 3, 10)[: how.facts])],
            )
        ],
        "entity_cell_subjects": lambda how: _all(subject=_names(how), answer=how.answers[:1], neuron=("L1N3",), shared_by=(1,)),
        "mlp_paths": _paths,
        "effect_concentration": _concentration,
        "fact_correlations": _correlations,
        "neuron_pairs": lambda how: _all(
            pair=("most", "least"), subject=("F0 L0",), fact__other_fact=[FACTS[:2]], kind=KINDS, layer=(1,), neuron=range(6)
        ),
        "neuron_facts": lambda how: _all(subject=_names(how), answer=how.answers[:1], fact=FACTS[: how.facts]),
        "neuron_effects_twin": lambda how: _all(prefix=("Fact: ",), dtype=("float64",), relative_error=(None, 1e-6)[how.facts % 2 :][:1]),
        "neuron_effects_screen": lambda how: _all(kind=KINDS, layer=(None, 1), error_share=(None, 0.01)[how.facts % 2 :][:1]),
        "nonlinear_excess": lambda how: _all(
            n_name_tokens=(2,), probe=PROBES, names=("known", "unknown"), layers__last=[("1", False), ("all", True)]
        ),
        "nonlinear_excess_subjects": lambda how: _all(
            n_name_tokens=(2,), probe=PROBES, names=("known", "unknown"), subject=_names(how), answer=how.answers[:1],
            layers__last=[("1", False), ("all", True)],
        ),
        "nonlinear_excess_neurons": _excess_neurons,
        "answer_neurons": lambda how: [
            row | {"rank": rank, "neuron": f"L1N{rank}", "index": rank, "layer": 1, "sign": (-1) ** rank, "neurons_tried": 64}
            for row in _all(chosen_on=("first", "second"), answer=how.answers)
            for rank in (1, 2)
        ],
        "answer_neuron_histograms": _histograms,
        "answer_neuron_ablations": _ablations,
        "answer_neuron_cosines": lambda how: _all(
            neuron__layer__index__answer__chosen_by=_neurons_of(how),
            first__second__head__head_rank=[
                ("input weights", "output weights", None, None), ("input weights", "head logit", "L0H0", 1),
                ("input weights", "head logit difference", "L0H0", 1), ("input weights", "logistic probe", None, None),
            ],
            neurons=(128,),
        ),
        "answer_neuron_projections": lambda how: [
            row | ({"change": None} if row["removed"] == "nothing" else {})
            for row in _all(
                neuron__layer__index__answer__chosen_by=_neurons_of(how),
                removed__head__head_rank=[
                    ("nothing", None, None), ("output weights", None, None), ("output weights and head", "L0H0", 1),
                    ("output weights, head and logistic probe", "L0H0", 1), ("random directions", None, None),
                ],
                dimensions=(1,),
            )
        ],
        "effective_probes": lambda how: [
            row | (dict.fromkeys(("step", "loss_step")) if row["layer"] is None else {})
            | ({"selectivity": None} if row["labels"] == "shuffled" else {})
            for row in _all(
                n_name_tokens=(2,), input__layer=[("token_sum", None), *(("resid", i) for i in range(how.layers))],
                labels=("true", "shuffled"), folds=("last_name",), repeats=(3,),
            )
        ],
        "mlp_norms": lambda how: _all(condition=("name_only",), output=("mlp", "attn"), layer=range(how.layers)),
        "linear_structure": lambda how: _all(
            condition=("name_only",), names=("known", "unknown", "shuffled"), output=("mlp", "resid"), layer=range(how.layers)
        ),
        "orthogonal_remainder": _remainder,
        "toy_illustrations": _pictures,
        "toy_models": _toys,
        "toy_summary": lambda how: _all(task=TASKS, m__width__depth=SHAPES, measure=MEASURES, layer=(None, 0, 1)),
        "toy_verdict": _verdict,
        "toy_readings": lambda how: _all(task=TASKS, m__width__depth=SHAPES, seed=(0,), layer=(0, 1), feature=("class_a", "label")),
        "toy_neurons": _toy_neurons,
        "locality": lambda how: _all(layer=range(how.layers), k=_ks(how)),
        "locality_tokens": lambda how: _all(category=CATEGORIES, layer=range(how.layers), k=_ks(how)[:-1]),
        "locality_differences": lambda how: _all(
            layer=range(how.layers), k=_ks(how),
            category__compared_with=[
                (None, "first_layer"), (None, "layer_before"), *((kind, "alphabetic") for kind in CATEGORIES),
            ],
        ),
        "locality_values": lambda how: _all(
            string=range(min(how.n, 6)), position=(5,), category=CATEGORIES[:1], layer=range(how.layers), k=_ks(how)
        ),
    }  # fmt: skip
