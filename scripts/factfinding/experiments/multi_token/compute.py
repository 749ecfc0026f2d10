"""Is the final name token's residual stream one unit from which several attributes can be read, each by its own? (P1.1)

Every relation of the facts (P3.2) that enough subjects have is an attribute (methods/attributes.py). Three questions:

    read     logistic probes of each attribute at the final name token, by layer, under the study's own prompt, which asks
             for one of them; held out, beside the same on shuffled answers, the name's letters, its tokens, and the main
             answer alone
    lie      how the spans of these probes lie to one another after the lookup (subspaces.py), beside random subspaces
    used     one attribute's span replaced by a donor's, and every question asked (swaps.py)

All is of one stated layer where it is not by layer: `multi_token.layer`, or the last of the lookup (the middle one where no
lookup was found).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from factfinding.data.facts import read_facts
from factfinding.data.folding import folded
from factfinding.engine.cached import activations_of, rows_of
from factfinding.engine.sites import Site, check
from factfinding.experiments.layer_probes.compute import ProbeRow, baseline_rows, probe_rows
from factfinding.experiments.multi_token.subspaces import Subspaces, angles, subspaces_of
from factfinding.experiments.multi_token.swaps import specificity, swapped, swaps
from factfinding.experiments.neuron_facts.compute import ask_facts
from factfinding.inputs import Inputs, Say, Settings
from factfinding.known import Rule
from factfinding.methods.attributes import Attribute, about, attribute_of, counted, recalled_prompts, told_by
from factfinding.methods.circuit import circuit_of, looked_up_in
from factfinding.methods.estimates import estimate_columns
from factfinding.methods.probes import ProbeSettings
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import anatomy_of
from factfinding.stats import Estimate, evenly_spread, majority_rate, paired_difference, share_interval
from factfinding.tables import as_declared, empty, schema_of

Layers = Mapping[int, Float[np.ndarray, "subjects d_model"]]
"""resid_post by layer at the final name token, of the subjects of the prompts table; -1 is the embeddings."""


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables `attributes`, `attribute_prompts`, `attribute_probes`, `attribute_angles`, `attribute_swaps` and
    `attribute_specificity`."""
    section, anatomy = settings.multi_token, anatomy_of(inputs)
    fitting = fitting_of(settings.probes)
    prompts = recalled_prompts(inputs, section.subjects)
    rule = Rule(how=settings.recall.known, above=settings.recall.known_above)
    asked = ask(anatomy, inputs, prompts, section, rule=rule, batch_size=settings.compute.batch_size)
    counts = counted(asked, section.subjects)
    relations = list(dict.fromkeys(asked["fact"]))
    found = [
        attribute_of(counts, name, n_folds=fitting.n_folds, least=section.least_subjects, seed=section.seed)
        for name in relations
    ]
    attributes = [one for one in found if one is not None]
    say(
        f"{counts.height} of {asked.height} facts count; {len(attributes)} of {len(relations)} relations are attributes"
    )
    tables = {
        "attributes": attributes_table(
            asked, counts, relations, attributes, follows_from=section.follows_from
        ),
        "attribute_prompts": as_declared(asked, "attribute_prompts"),
    }
    if not attributes:
        return tables | {name: empty(name) for name in READ}
    layer = stated_layer(circuit_of(inputs).lookup, anatomy, section.layer)
    layers = residuals(inputs, prompts, chosen_layers(anatomy.n_layers, layer, section.layers))
    say(f"probes of {len(attributes)} attributes in {len(layers)} layers; subspaces after layer {layer}")
    row_of = {name: row for row, name in enumerate(prompts["subject"])}
    tables["attribute_probes"] = probes(attributes, prompts, layers, fitting, stated=layer, seed=section.seed)
    spans = subspaces_of(attributes, layers[layer], row_of, fitting, seed=section.seed)
    tables["attribute_angles"] = angles(spans, layer=layer, draws=section.angle_draws, seed=section.seed)
    return tables | swap_tables(anatomy, counts, spans, tables["attributes"], layer, settings)


READ = ("attribute_probes", "attribute_angles", "attribute_swaps", "attribute_specificity")


def fitting_of(probes: Any) -> ProbeSettings:
    """How probes are fitted: as those of P2.6, on random folds."""
    keys = ("n_folds", "regularisation", "max_iter", "tolerance")
    return ProbeSettings(**{key: getattr(probes, key) for key in keys}, folds=("random",), control_folds=())


def ask(
    anatomy: Anatomy, inputs: Inputs, prompts: pl.DataFrame, section: Any, *, rule: Rule, batch_size: int
) -> pl.DataFrame:
    """The facts of these subjects as `ask_facts` gives them, under the names that the prompts table has for the subjects.

    section: keys asked_subjects, subjects and seed."""
    asked = ask_facts(
        anatomy,
        about(read_facts(inputs.named["facts"]), prompts),
        inputs.table("recall"),
        subjects=section.asked_subjects,
        known_only=section.subjects == "known",
        seed=section.seed,
        batch_size=batch_size,
        rule=rule,
    )
    spelt = {folded(name): name for name in prompts["subject"]}
    names = pl.Series("subject", [spelt[folded(name)] for name in asked["subject"]], dtype=pl.String)
    return asked.with_columns(names)


def stated_layer(lookup: tuple[int, int] | None, anatomy: Anatomy, fixed: int | None) -> int:
    """The layer after which subspaces are looked at: `fixed`, or the last of the lookup, or the middle one. Raises InputError
    for a layer that the model does not have."""
    if fixed is not None:
        return check(Site("resid_post", fixed), anatomy).layer
    return looked_up_in(lookup, anatomy.n_layers)[1]


def chosen_layers(n_layers: int, stated: int, most: int) -> list[int]:
    """About `most` layers, spread evenly from the embeddings (-1) to the last, and the stated one."""
    return sorted({*evenly_spread(-1, n_layers - 1, most), stated})


def residuals(inputs: Inputs, prompts: pl.DataFrame, layers: Sequence[int]) -> Layers:
    """The cached residual stream at the final name token, of the subjects of the prompts table in its order."""
    with activations_of(inputs) as file:
        rows = rows_of(file, prompts["subject"].to_list())
        return {
            layer: file.layer("resid@final_name", layer)[np.asarray(rows, dtype=np.int64)].astype(np.float64)
            for layer in layers
        }


def attributes_table(
    asked: pl.DataFrame,
    counts: pl.DataFrame,
    relations: Sequence[str],
    attributes: Sequence[Attribute],
    *,
    follows_from: float,
) -> pl.DataFrame:
    """The table `attributes`: every relation that was asked, and whether it is looked at.

    follows: whether the main answer alone gives it, held out, for `follows_from` of the subjects or more."""
    by_name, rows = {one.name: one for one in attributes}, []
    for relation in relations:
        row: dict[str, Any] = {"relation": relation, "probed": relation in by_name}
        row |= {"asked": asked.filter(pl.col("fact") == relation, pl.col("left_out").is_null()).height}
        row |= {"known": asked.filter(pl.col("fact") == relation, "known").height}
        told: Estimate | None = None
        if relation in by_name:
            one = by_name[relation]
            told = share_interval(told_by(one.subjects["main_answer"].to_list(), one.labels, one.folds))
            row |= {"main": one.main, "n": len(one.labels), "answers": one.n_answers}
            row |= {
                "follows": not one.main and told.value >= follows_from,
                "majority_rate": majority_rate(one.labels),
            }
        else:
            row["n"] = counts.filter(pl.col("fact") == relation).height
        rows.append(row | estimate_columns("from_main", told))
    return pl.DataFrame(rows, schema=schema_of("attributes"))


def probes(
    attributes: Sequence[Attribute],
    prompts: pl.DataFrame,
    layers: Layers,
    fitting: ProbeSettings,
    *,
    stated: int,
    seed: int,
) -> pl.DataFrame:
    """The table `attribute_probes`. layers: of the subjects of `prompts`. stated: the layer that claims are judged at, and at
    which shuffled answers are fitted as well."""
    row_of = {name: row for row, name in enumerate(prompts["subject"])}
    names = [
        row["token_ids"][row["first_name"] : row["final_name"] + 1] for row in prompts.iter_rows(named=True)
    ]
    controlled, rows = replace(fitting, control_folds=fitting.folds), []
    for one in attributes:
        at = [row_of[name] for name in one.subjects["subject"]]
        tokens = [names[i] for i in at]
        found = [*baseline_rows(one.subjects, tokens, settings=fitting, seed=seed, fitted=False)]
        for layer, resid in layers.items():
            how = controlled if layer == stated else fitting
            found += probe_rows([("full", layer, resid[at])], one.subjects, settings=how, seed=seed)
        rows += list(_beside(one, found, stated))
    return pl.DataFrame(rows, schema=schema_of("attribute_probes"))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Baseline:
    """The best that is right for these subjects without the residual stream."""

    name: str
    hits: np.ndarray


def _beside(one: Attribute, found: Sequence[ProbeRow], stated: int) -> Iterator[dict[str, Any]]:
    """The rows of one attribute; those on true answers with what they are right for beyond the best baseline."""
    told = told_by(one.subjects["main_answer"].to_list(), one.labels, one.folds)
    names = [row for row in found if row.cells["layer"] is None and row.has(labels="true")]
    rivals = [_Baseline(name=row.cells["input"], hits=row.hits) for row in names]
    if not one.main:
        rivals.append(_Baseline(name="main_answer", hits=told))
    best = max(rivals, key=lambda rival: rival.hits.mean())
    common = {"relation": one.name, "answers": one.n_answers, "n": len(one.labels)}
    common |= {"majority_rate": majority_rate(one.labels)}
    for row in found:
        cells = {name: row.cells[name] for name in ("layer", "input", "labels")}
        cells |= {"stated": cells["layer"] == stated}
        beyond = None
        if cells["labels"] == "true" and cells["layer"] is not None:
            cells["baseline"] = best.name
            beyond = paired_difference(row.hits, best.hits, seed=0)
        accuracy = estimate_columns("accuracy", share_interval(row.hits))
        yield common | cells | accuracy | estimate_columns("over_baseline", beyond)
    alone = {"layer": None, "input": "main_answer", "labels": "true", "stated": False}
    yield common | alone | estimate_columns("accuracy", share_interval(told))


def swap_tables(
    anatomy: Anatomy,
    counts: pl.DataFrame,
    spans: Sequence[Subspaces],
    attributes: pl.DataFrame,
    layer: int,
    settings: Any,
) -> dict[str, pl.DataFrame]:
    """The tables `attribute_swaps` and `attribute_specificity`."""
    section = settings.multi_token
    said = swapped(
        anatomy, counts, spans, layer=layer, subjects=section.swapped_subjects,
        batch_size=settings.compute.batch_size, seed=section.seed,
    )  # fmt: skip
    follows = set(attributes.filter("follows")["relation"])
    table = swaps(said, spans, follows_from=section.follows_from, layer=layer, seed=section.seed)
    return {
        "attribute_swaps": table,
        "attribute_specificity": specificity(
            said, spans, follows=follows, follows_from=section.follows_from, layer=layer, seed=section.seed
        ),
    }
