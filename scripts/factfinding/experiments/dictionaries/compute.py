"""What does a dictionary of features, trained on the activations at the final name token, stand for? (P1.4)

Top-k autoencoders (autoencoder.py) of several widths are trained on half of the subjects, at the residual stream and at MLP
outputs of a few layers (clouds.py). Every feature gets its best explanation: a first token, a last token, an answer, an answer to
another relation, or one entity, held out (explanations.py). Beside them stand dictionaries of rows that are a mere sum of the
name's parts, and of shuffled rows; these two are trained once, with the first seed.

Attention is causal, so what stands at the final name token depends on the name and on what comes before it. The two prompts
are therefore `full`, where the name comes after an example and "Fact:", and `name_only`, where it comes after nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool

from factfinding.engine.cached import activations_of, rows_of
from factfinding.engine.sites import Site, check
from factfinding.experiments.dictionaries.autoencoder import Training, trained
from factfinding.experiments.dictionaries.clouds import (
    DATA,
    SHUFFLED,
    SUM,
    TRUE,
    Cloud,
    cloud_of,
    shuffled,
    summed,
)
from factfinding.experiments.dictionaries.explanations import (
    ANSWER,
    ENTITY,
    EXPLAINED,
    FIRST,
    KINDS,
    LAST,
    RELATION,
    SHARED,
    Attribute,
    Explained,
    Explanations,
    firing,
)
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.attributes import counted, recalled_prompts
from factfinding.methods.circuit import circuit_of, looked_up_in
from factfinding.methods.estimates import accuracy_difference, accuracy_estimate, estimate_columns
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import weights_of
from factfinding.stats import Estimate, mean_interval, share_difference
from factfinding.tables import empty, schema_of

LEAST = 20
"""Subjects below which nothing is trained: half of them would be too few for any set of three."""
NAMES = ("dictionaries", "dictionary_kinds", "dictionary_features")
Place = tuple[str, int]
"""Site and layer."""


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables `dictionaries`, `dictionary_kinds` and `dictionary_features`."""
    section, anatomy = settings.dictionaries, weights_of(inputs)
    prompts = recalled_prompts(inputs, section.subjects)
    if prompts.height < LEAST:
        say(f"{prompts.height} subjects, fewer than {LEAST}: nothing is trained")
        return {name: empty(name) for name in NAMES}
    asked = counted(inputs.table("attribute_prompts"), section.subjects)
    attributes = attributes_of(prompts, asked, anatomy.tokenizer.decode)
    where = places(circuit_of(inputs).lookup, anatomy, section.resid_layers, section.mlp_layers)
    say(
        f"{prompts.height} subjects, dictionaries of {list(section.features)} features in {len(where)} places"
    )
    return dictionaries(
        activations(inputs, prompts["subject"].to_list(), where), prompts["subject"].to_list(), attributes,
        section, say,
    )  # fmt: skip


def places(
    lookup: tuple[int, int] | None,
    anatomy: Anatomy,
    resid: Sequence[int] | None,
    mlp: Sequence[int] | None,
) -> list[Place]:
    """Where dictionaries are trained: after (of) these layers; where None, the residual stream before the lookup, after it, and
    halfway from there to the end, and the output of the lookup's last MLP. Without a lookup, the middle layer takes its place.

    Raises InputError for a layer that the model does not have."""
    first, last = looked_up_in(lookup, anatomy.n_layers)
    if resid is None:
        resid = sorted({first - 1, last, (last + anatomy.n_layers) // 2})
    if mlp is None:
        mlp = [last]
    for layer in resid:
        if layer >= 0:
            check(Site("resid_post", layer), anatomy)
    for layer in mlp:
        check(Site("mlp_out", layer), anatomy)
    return [*(("resid", layer) for layer in resid), *(("mlp_out", layer) for layer in mlp)]


def activations(
    inputs: Inputs, subjects: Sequence[str], where: Sequence[Place]
) -> Iterator[tuple[Place, np.ndarray, np.ndarray]]:
    """Of each place, the cached activations of these subjects at the final name token, under either prompt."""
    with activations_of(inputs) as full, activations_of(inputs, "name_only") as alone:
        rows = [np.asarray(rows_of(file, subjects), dtype=np.int64) for file in (full, alone)]
        for site, layer in where:
            here, there = (
                file.layer(f"{site}@final_name", layer)[at].astype(np.float64)
                for file, at in zip((full, alone), rows, strict=True)
            )
            yield (site, layer), here, there


def attributes_of(prompts: pl.DataFrame, asked: pl.DataFrame, decode: Any) -> list[Attribute]:
    """What subjects have in common: the answer, the last token, the first one (None for names of one token), and the answers
    to every other relation of which some is known."""
    names = [
        row["token_ids"][row["first_name"] : row["final_name"] + 1] for row in prompts.iter_rows(named=True)
    ]
    texts = _texts({token for name in names for token in (name[0], name[-1])}, decode)
    found = [
        Attribute(kind=ANSWER, name=ANSWER, values=prompts["answer"].to_list()),
        Attribute(kind=LAST, name=LAST, values=[texts[name[-1]] for name in names]),
        Attribute(
            kind=FIRST, name=FIRST, values=[texts[name[0]] if len(name) > 1 else None for name in names]
        ),
    ]
    for relation in dict.fromkeys(asked["fact"]):
        rows = asked.filter(pl.col("fact") == relation)
        given = dict(rows.select("subject", "fact_answer").iter_rows())
        values = [given.get(subject) for subject in prompts["subject"]]
        found.append(Attribute(kind=RELATION, name=relation, values=values))
    return found


def _texts(tokens: set[int], decode: Any) -> dict[int, str]:
    """Each token's text; with its id where two have the same."""
    texts = {token: decode([token]) for token in sorted(tokens)}
    said = list(texts.values())
    return {token: text if said.count(text) == 1 else f"{text} ({token})" for token, text in texts.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """One dictionary. held_out, fitted: shares of the variance explained on the held-out and the training half."""

    features: int
    seed: int
    explained: Explained
    held_out: float
    fitted: float

    @property
    def live(self) -> int:
        """Features that are in the code of a training subject."""
        return len(self.explained.kinds)

    def share(self, kind: str) -> float:
        return self.explained.count(kind) / max(self.live, 1)


Run = Mapping[tuple[str, int], Sequence[Found]]
"""By data and features, the dictionaries of one place, one for each seed."""


def dictionaries(
    rows: Iterator[tuple[Place, np.ndarray, np.ndarray]],
    subjects: Sequence[str],
    attributes: Sequence[Attribute],
    section: Any,
    say: Say,
) -> dict[str, pl.DataFrame]:
    """The three tables. rows: of each place, what all subjects have under either prompt. section: as config.dictionaries."""
    training = halved(subjects, seed=section.seed)
    sets = Explanations.of(subjects, attributes, training, least=section.least_subjects)
    parts = [one.values for one in attributes if one.kind in (ANSWER, LAST, FIRST)]
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
    for place, full, alone in rows:
        cloud = cloud_of(full, alone, training, components=section.components)
        if cloud is None:
            say(f"{place}: all subjects have the same there")
            continue
        clouds = {TRUE: cloud, SUM: summed(cloud, parts), SHUFFLED: shuffled(cloud, seed=section.seed)}
        run = {
            (data, features): [
                found(clouds[data], sets, features, section, seed=section.seed + i)
                for i in range(section.seeds if data == TRUE else 1)
            ]
            for data in DATA
            for features in section.features
        }
        cells = dict(zip(("site", "layer"), place, strict=True))
        principal = {data: one.principal(section.active) for data, one in clouds.items()}
        tables["dictionaries"] += [cells | row for row in _dictionaries(run, training, principal, section)]
        tables["dictionary_kinds"] += [cells | row for row in _kinds(run, sets, section)]
        tables["dictionary_features"] += [cells | row for row in _features(run, sets)]
    return {name: pl.DataFrame(found, schema=schema_of(name)) for name, found in tables.items()}


def halved(subjects: Sequence[str], *, seed: int) -> Bool[np.ndarray, " subjects"]:
    """Which subjects are in the training half: drawn, the same whatever their order."""
    order = np.argsort(np.array(subjects, dtype=object).astype(str), kind="stable")
    training = np.zeros(len(subjects), dtype=bool)
    training[np.random.default_rng(seed).permutation(order)[: len(subjects) // 2]] = True
    return training


def found(cloud: Cloud, sets: Explanations, features: int, section: Any, *, seed: int) -> Found:
    """A dictionary trained on the training half of a cloud, and what its features stand for."""
    how = Training(k=section.active, steps=section.steps, batch=section.batch, rate=section.rate)
    made = trained(cloud.rows[cloud.training], features, how, seed=seed)
    full, alone = (made.activations(rows) for rows in (cloud.rows, cloud.elsewhere))
    highest = full[cloud.training].max(0)
    live = highest > 0
    fires, elsewhere = (firing(codes[:, live], highest[live]) for codes in (full, alone))
    held_out, fitted = cloud.explained(made.rebuilt(full))
    explained = sets.judged(fires, elsewhere, holds_from=section.holds_from)
    return Found(features=features, seed=seed, explained=explained, held_out=held_out, fitted=fitted)


def _dictionaries(
    run: Run, training: Bool[np.ndarray, " subjects"], principal: Mapping[str, float], section: Any
) -> Iterator[dict[str, Any]]:
    for (data, features), made in run.items():
        cells = {"data": data, "features": features, "active": section.active, "n": len(made)}
        cells |= {"principal": principal[data]}
        cells |= {"training": int(training.sum()), "held_out": int((~training).sum())}
        measures = {
            "explained": [one.held_out for one in made],
            "fitted": [one.fitted for one in made],
            "live": [one.live for one in made],
            "holds": [sum(one.share(kind) for kind in EXPLAINED) for one in made],
            "fires": [float(np.median(one.explained.fires)) for one in made],
        }
        for name, values in measures.items():
            cells |= estimate_columns(name, _over_seeds(values, section.seed))
        yield cells


def _kinds(run: Run, sets: Explanations, section: Any) -> Iterator[dict[str, Any]]:
    """A row for each kind of feature of each dictionary."""
    narrowest = min(section.features)
    for kind in KINDS:
        nobody = np.empty(0)
        covered = {
            key: np.mean([one.explained.covered.get(kind, nobody) for one in made], axis=0)
            for key, made in run.items()
        }
        for (data, features), made in run.items():
            cells = {"data": data, "features": features, "kind": kind, "n": len(made)}
            cells |= {"n_features": _live(made), "n_subjects": len(covered[data, features]) or None}
            cells |= {"values": len(sets.sets_of(kind)) if kind in SHARED else None}
            count = _over_seeds([one.explained.count(kind) for one in made], section.seed)
            share = _over_seeds([one.share(kind) for one in made], section.seed)
            cells |= estimate_columns("found", count) | estimate_columns("share", share)
            over = None
            if data == TRUE:
                over = share_difference(*(_hits(run[of, features], kind) for of in (TRUE, SUM)))
            cells |= estimate_columns("share_over_sum", over)
            yield cells | _coverage(covered, data, features, narrowest, section.seed)


def _live(made: Sequence[Found]) -> int:
    """Live features, mean over the dictionaries."""
    return round(float(np.mean([one.live for one in made])))


def _hits(made: Sequence[Found], kind: str) -> Bool[np.ndarray, " features"]:
    """The features of a dictionary that has the mean number of live ones, and the mean share of a kind: which are of it."""
    n = _live(made)
    return np.arange(n) < round(n * float(np.mean([one.share(kind) for one in made])))


def _coverage(
    covered: Mapping[tuple[str, int], np.ndarray], data: str, features: int, narrowest: int, seed: int
) -> dict[str, float | None]:
    """For which share of the subjects there is a feature, beside the two comparisons, and beside the narrowest dictionary."""
    own = covered[data, features]
    found: dict[str, Estimate | None] = dict.fromkeys(
        ("covered", "over_shuffled", "over_sum", "from_narrowest")
    )
    if len(own):
        found["covered"] = accuracy_estimate(own, seed=seed)
    if len(own) and data == TRUE:
        beside = partial(accuracy_difference, own, seed=seed)
        found["over_shuffled"] = beside(covered[SHUFFLED, features])
        found["over_sum"] = beside(covered[SUM, features])
        if features != narrowest:
            wide, narrow = (own - covered[SUM, features], covered[TRUE, narrowest] - covered[SUM, narrowest])
            found["from_narrowest"] = mean_interval(wide - narrow, seed=seed)
    return {name: value for of, one in found.items() for name, value in estimate_columns(of, one).items()}


def _features(run: Run, sets: Explanations) -> Iterator[dict[str, Any]]:
    """A row for each live feature of the true rows."""
    for (data, features), made in run.items():
        for one in made if data == TRUE else ():
            told = one.explained
            for i in range(one.live):
                place = int(told.place[i])
                single = bool(told.single[i])
                named = len(sets.kinds) > 0 or single
                yield {
                    "features": features,
                    "seed": one.seed,
                    "feature": i,
                    "kind": str(told.kinds[i]),
                    "best": (ENTITY if single else sets.names[place]) if named else None,
                    "value": (sets.subjects[place] if single else sets.values[place]) if named else None,
                    "chosen_f1": float(told.chosen_f1[i]),
                    "f1": float(told.f1[i]),
                    "repeated": float(told.repeated[i]),
                    "fires": int(told.fires[i]),
                }


def _over_seeds(values: Sequence[float], seed: int) -> Estimate:
    return mean_interval(np.array(values, dtype=np.float64), seed=seed)
