"""Do other wordings of the question find the same heads, layers and neurons? (P2.12)

One wording is a sample of one. Each of `relation.paraphrases` is asked of the same subjects as the relation's own wording,
and what P2.1, P2.2, P2.6 and P3.4 measure is measured in each:

    recall          of all subjects, beside that in the own wording, in pairs
    probes          by layer, at the final name token and at END: logistic ones, held out on the same random folds; at the
                    name also the study's first head (P2.5), whose probe has no fitted part but the mean
    direct effects  of every head and MLP on the logits at END; a subject has the same donor in every wording
    neurons         of the lookup's MLPs at the final name token (of all, where no lookup is known): their AUC for each answer

and then how far each two wordings agree about heads, layers and neurons (methods/agreement.py). All but the recall is of
subjects whose answer is recalled in every wording: of what is not recalled there is no circuit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float

from factfinding.config import RelationConfig
from factfinding.data.prompts import candidates as candidates_of
from factfinding.data.prompts import check_template, prompt_table
from factfinding.engine.answers import answers as answers_of
from factfinding.engine.batches import Batches
from factfinding.engine.capture import Wanted, layout, prompt_batches, record
from factfinding.engine.direct import NodeOutputs, Readout
from factfinding.engine.head_probe import head_probe
from factfinding.engine.sites import Site
from factfinding.errors import InputError
from factfinding.files import CSV_ROWS
from factfinding.inputs import Inputs, Say, Settings
from factfinding.known import STUDY_RULE, Rule
from factfinding.least import LEAST_SHARE
from factfinding.methods.agreement import Agreement, Scores, jaccard, rank_correlation
from factfinding.methods.circuit import circuit_of
from factfinding.methods.direct import (
    ALL,
    Pairs,
    clean_difference,
    heads_of,
    largest,
    mean_changes,
    node_changes,
    node_frame,
    pair_up,
    ranked,
    to_logits,
)
from factfinding.methods.estimates import estimate_columns
from factfinding.methods.groups import labels_of
from factfinding.methods.neuron_aucs import centred_ranks
from factfinding.methods.probes import ProbeSettings, cross_validated
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import anatomy_of
from factfinding.relation import wordings
from factfinding.stats import (
    majority_rate,
    mean_interval,
    paired_difference,
    share_interval,
    some_of,
    stratified_folds,
)
from factfinding.tables import as_declared, empty, schema_of

POSITIONS = ("final_name", "end")
SMALLEST = 0.5
"""Logits: a whole effect below this is none, whose heads are not worth comparing."""
Hits = Bool[np.ndarray, "subjects layers"]


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables `paraphrases`, `paraphrase_layers`, `paraphrase_nodes` and `paraphrase_agreement`."""
    section, seed = settings.paraphrases, settings.paraphrases.seed
    anatomy, prompts, recall = anatomy_of(inputs), inputs.prompts("full"), inputs.table("recall")
    batch_size = settings.compute.batch_size
    own, *others = wordings_to_ask(settings.relation, anatomy.tokenizer, say)
    rule = Rule(how=settings.recall.known, above=settings.recall.known_above)
    asked = [asked_already(own, recall, inputs.candidates)]
    for wording in others:
        asked.append(
            ask(anatomy, prompts.select("subject", "answer"), wording, rule=rule, batch_size=batch_size)
        )
        say(f"{asked[-1].pattern!r}: {asked[-1].recalled.sum()} of {prompts.height} recalled")
    everybody = recall.select("subject", "answer").with_columns(
        known=np.all([a.known for a in asked], axis=0)
    )
    compared = drawn_subjects(everybody, section.subjects, section.compared_subjects, seed=seed)
    say(f"{len(asked)} wordings are compared on {compared.height} subjects")
    keys = ("n_folds", "regularisation", "max_iter", "tolerance")
    fitting = ProbeSettings(**{key: getattr(settings.probes, key) for key in keys})
    heads = heads_of(inputs, settings)
    measured = [
        measure(
            anatomy, compared, one, head=heads[0] if heads else None, lookup=circuit_of(inputs).lookup,
            fitting=fitting, batch_size=batch_size, seed=seed,
        )
        for one in (asked if others else ())
    ]  # fmt: skip
    return {
        "paraphrases": recall_by_wording(asked, recall["answer"], seed=seed),
        "paraphrase_layers": layers_by_wording(measured, compared, seed=seed),
        "paraphrase_nodes": nodes_by_wording(measured, seed=seed),
        "paraphrase_agreement": agreements(
            measured, top_heads=section.top_heads, top_neurons=section.top_neurons, seed=seed
        ),
    }


def wordings_to_ask(relation: Any, tokenizer: Any, say: Say) -> list[RelationConfig]:
    """The wordings, the own one first. Raises InputError for one that the tokenizer cannot write, but for those that nobody
    wrote: they are left out, and that is said."""
    own, *others = wordings(relation)
    kept = [own]
    for number, wording in enumerate(others):
        try:
            check_template(tokenizer, wording, f"config.relation.paraphrases.{number}")
        except InputError as error:
            if relation.paraphrases is not None:
                raise
            say(f"a wording of the study's question is left out: {error}")
        else:
            kept.append(wording)
    return kept


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A wording, and what the model answers in it: of each subject, P(own answer), its logarithm, and whether the likeliest
    of the answers is right. recalled: by the rule of `recall.known`; known: those of them whom no filter leaves out."""

    wording: RelationConfig
    candidates: pl.DataFrame
    p: Float[np.ndarray, " subjects"]
    logp: Float[np.ndarray, " subjects"]
    right: Bool[np.ndarray, " subjects"]
    recalled: Bool[np.ndarray, " subjects"]
    known: Bool[np.ndarray, " subjects"]

    @property
    def pattern(self) -> str:
        """The question with a gap for the subject."""
        return f"{self.wording.before} …{self.wording.after}".strip()


def asked_already(own: RelationConfig, recall: pl.DataFrame, candidates: pl.DataFrame) -> Asked:
    """The relation's own wording, whose answers the table `recall` has."""
    right = (recall["full_answer"] == recall["answer"]).to_numpy()
    p, logp = (recall[name].to_numpy() for name in ("full_p", "full_logp"))
    recalled, known = (recall[name].to_numpy() for name in ("full_recalled", "known"))
    return Asked(
        wording=own, candidates=candidates, p=p, logp=logp, right=right, recalled=recalled, known=known
    )


def asked_in(anatomy: Anatomy, subjects: pl.DataFrame, wording: RelationConfig) -> pl.DataFrame:
    """The prompts table `full` in a wording; without BOS (`model.bos: none`) each wording begins with its own words."""
    bos = anatomy.bos_before(wording.shot + wording.before)
    return prompt_table(subjects, anatomy.tokenizer, bos, "full", wording)


def ask(
    anatomy: Anatomy,
    subjects: pl.DataFrame,
    wording: RelationConfig,
    *,
    rule: Rule = STUDY_RULE,
    batch_size: int,
) -> Asked:
    """One forward pass for each subject. Raises InputError as `prompt_table` and `candidates` do."""
    prompts = asked_in(anatomy, subjects, wording)
    answers = candidates_of(subjects["answer"].unique().to_list(), prompts["text"][0], anatomy.tokenizer)
    said = answers_of(anatomy, prompts, answers["token_id"].to_list(), batch_size=batch_size)
    own = labels_of(prompts, answers)
    logp = said.logp[np.arange(len(own)), own]
    p = np.exp(np.minimum(logp, 0.0))
    right = said.logits.argmax(axis=1) == own
    recalled = said.recalled(own, answers["token_id"].to_list(), rule)
    return Asked(
        wording=wording, candidates=answers, p=p, logp=logp, right=right, recalled=recalled, known=recalled
    )


def drawn_subjects(everybody: pl.DataFrame, which: str, most: int, *, seed: int) -> pl.DataFrame:
    """At most `most` of the subjects (`known` ones, or `all`), drawn, in the order of their names.

    everybody: columns subject, answer, known (in every wording)."""
    able = everybody if which == "all" else everybody.filter("known")
    able = able.select("subject", "answer").sort("subject")
    return able[some_of(able.height, most, np.random.default_rng(seed))]


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """What one wording gives on the compared subjects.

    hits: of each probe at each position, by (position, probe), layer -1 first. pairs, nodes, changes, clean: the direct
    effects (methods/direct.py), of those who have a donor. neurons: ranks of activations, for AUCs.
    """

    hits: Mapping[tuple[str, str], Hits]
    pairs: Pairs
    nodes: pl.DataFrame
    changes: dict[bool, Float[np.ndarray, "subjects nodes"]]
    clean: Float[np.ndarray, " subjects"]
    neurons: Float[np.ndarray, "subjects neurons"]
    labels: Bool[np.ndarray, "subjects answers"]


def measure(
    anatomy: Anatomy,
    subjects: pl.DataFrame,
    asked: Asked,
    *,
    head: Site | None,
    lookup: tuple[int, int] | None,
    fitting: ProbeSettings,
    batch_size: int,
    seed: int,
) -> Measured:
    """Probes, direct effects and neurons in one wording. subjects: columns subject, answer, in the order of names.

    head: whose probe reads the name, if there is one. lookup: first and last layer of the neurons; None: of all layers.
    """
    prompts = asked_in(anatomy, subjects, asked.wording)
    values = recorded(anatomy, prompts, lookup, batch_size=batch_size)
    own = labels_of(prompts, asked.candidates)
    hits = {}
    for position in POSITIONS:
        resid = values[f"resid@{position}"]
        if enough(own, fitting):
            hits[position, "logistic"] = logistic_hits(resid, own, fitting, seed=seed)
        if position == "final_name" and head is not None and len(own):
            matrix = head_probe(anatomy, head, asked.candidates["token_id"].to_list()).double().cpu().numpy()
            hits[position, "head"] = ((resid - resid.mean(axis=0)) @ matrix).argmax(axis=-1) == own[:, None]
    pairs, nodes, changes, clean = direct(anatomy, prompts, asked.candidates, values, seed=seed)
    post = values["post@final_name"]
    return Measured(
        hits=hits, pairs=pairs, nodes=nodes, changes=changes, clean=clean,
        neurons=centred_ranks(post.reshape(len(post), -1)).astype(np.float32) if len(post) else post.reshape(0, 0),
        labels=own[:, None] == np.arange(asked.candidates.height),
    )  # fmt: skip


def recorded(
    anatomy: Anatomy, prompts: pl.DataFrame, lookup: tuple[int, int] | None, *, batch_size: int
) -> dict[str, Float[np.ndarray, "subjects ..."]]:
    """All nodes at END, the residual stream there and at the final name token, and the neurons there: `site@role`."""
    wanted = [Wanted(site="resid", role=role) for role in POSITIONS]
    wanted += [Wanted(site=site, role="end") for site in ("z", "attn_out", "mlp_out")]
    layers = None if lookup is None else tuple(range(lookup[0], lookup[1] + 1))
    wanted.append(Wanted(site="post", role="final_name", layers=layers))
    layouts = [layout(one, anatomy, longest=0) for one in wanted]
    arrays = {place.name: np.zeros((prompts.height, *place.shape), dtype=np.float32) for place in layouts}
    batches = Batches(batch_size)
    for same in prompt_batches(prompts, range(prompts.height)):
        for rows, found in batches.of(same, lambda rows: record(anatomy, prompts, rows, layouts)):
            for name, part in found.items():
                arrays[name][rows] = part
    return arrays


def enough(labels: np.ndarray, fitting: ProbeSettings) -> bool:
    """Whether there are two answers or more, each with a subject for every fold."""
    counts = np.unique(labels, return_counts=True)[1]
    return len(counts) > 1 and counts.min() >= fitting.n_folds


def logistic_hits(
    resid: Float[np.ndarray, "subjects layers d_model"],
    labels: np.ndarray,
    fitting: ProbeSettings,
    *,
    seed: int,
) -> Hits:
    """Who is right by a probe of each layer that was fitted on others; the folds are random, and those of every wording."""
    folds = stratified_folds(labels, n_folds=fitting.n_folds, seed=seed)
    layers = resid.astype(np.float64).swapaxes(0, 1)
    return np.stack([cross_validated(x, [labels], folds, fitting)[0].hits for x in layers], axis=1)


def direct(
    anatomy: Anatomy,
    prompts: pl.DataFrame,
    candidates: pl.DataFrame,
    values: Mapping[str, np.ndarray],
    *,
    seed: int,
) -> tuple[Pairs, pl.DataFrame, dict[bool, np.ndarray], np.ndarray]:
    """The pairs of subjects, the nodes, the change of each one's logit difference by each node, and the clean difference."""
    dtype = torch.promote_types(anatomy.dtype, torch.float32)
    on_device = {
        name: torch.from_numpy(value).to(anatomy.device, dtype)
        for name, value in values.items()
        if "@end" in name
    }
    resid = on_device["resid@end"]
    nodes = NodeOutputs(
        embedding=resid[:, 0],
        resid=resid[:, -1],
        **{site: on_device[f"{site}@end"] for site in ("z", "attn_out", "mlp_out")},
    )
    pairs, frame = pair_up(prompts, candidates, seed=seed), node_frame(nodes)
    if pairs.prompts.is_empty():
        nothing = np.zeros((0, frame.height))
        return pairs, frame, {True: nothing, False: nothing}, nothing[:, 0]
    there = {name: getattr(pairs, name).to(anatomy.device) for name in ("donor", "own", "other")}
    pairs = replace(pairs, **there)
    readout = Readout.of(anatomy, candidates["token_id"].to_list())
    path = to_logits(anatomy, readout)
    changes = {exact: node_changes(nodes, pairs, path, exact, 128) for exact in (True, False)}
    return pairs, frame, changes, clean_difference(nodes.resid, pairs, readout)


def recall_by_wording(asked: Sequence[Asked], answers: pl.Series, *, seed: int) -> pl.DataFrame:
    """The table `paraphrases`: a row for each wording, the own one first, whose number is 1."""
    rows, own = [], asked[0]
    for number, one in enumerate(asked, 1):
        found = {
            "recalled": share_interval(one.recalled),
            "mean_p": mean_interval(one.p, seed=seed),
            "accuracy": share_interval(one.right),
            "recalled_from_own": paired_difference(one.recalled, own.recalled, seed=seed),
            "logp_from_own": paired_difference(one.logp, own.logp, seed=seed),
        }
        row = {"wording": number, "question": one.pattern, "shot": one.wording.shot.rstrip("\n")}
        for name, estimate in found.items():
            row |= estimate_columns(name, None if one is own and name.endswith("_own") else estimate)
        row |= {"known_in_both": int((one.known & own.known).sum()), "n": len(one.p)}
        rows.append(row | {"majority_rate": majority_rate(answers)})
    return pl.DataFrame(rows, schema=schema_of("paraphrases"))


def layers_by_wording(measured: Sequence[Measured], subjects: pl.DataFrame, *, seed: int) -> pl.DataFrame:
    """The table `paraphrase_layers`."""
    rows = []
    for number, one in enumerate(measured, 1):
        for (position, probe), hits in one.hits.items():
            own = measured[0].hits[position, probe]
            for column in range(hits.shape[1]):
                from_own = (
                    paired_difference(hits[:, column], own[:, column], seed=seed) if number > 1 else None
                )
                rows.append(
                    {"wording": number, "position": position, "probe": probe, "layer": column - 1}
                    | estimate_columns("accuracy", share_interval(hits[:, column]))
                    | estimate_columns("from_own", from_own)
                    | {"n": len(hits), "majority_rate": majority_rate(subjects["answer"])}
                )
    return pl.DataFrame(rows, schema=schema_of("paraphrase_layers"))


def nodes_by_wording(measured: Sequence[Measured], *, seed: int) -> pl.DataFrame:
    """The table `paraphrase_nodes`: the direct effects of all subjects together, as `direct_effects` has them."""
    tables = []
    for number, one in enumerate(measured, 1):
        if not len(one.clean):
            return empty("paraphrase_nodes")
        everybody = np.ones(len(one.clean), dtype=bool)
        table = mean_changes(one.nodes, one.changes, one.clean, everybody, seed)
        table = ranked(table, pl.col("kind") == "head").with_columns(wording=pl.lit(number))
        tables.append(largest(table, CSV_ROWS // len(measured)))
    return as_declared(pl.concat(tables), "paraphrase_nodes") if tables else empty("paraphrase_nodes")


def agreements(measured: Sequence[Measured], *, top_heads: int, top_neurons: int, seed: int) -> pl.DataFrame:
    """The table `paraphrase_agreement`: each two wordings, about each part of the model that both have measured."""
    rows, parts = [], [parts_of(one, top_heads=top_heads, top_neurons=top_neurons) for one in measured]
    for (number, first), (other_number, other) in combinations(enumerate(parts, 1), 2):
        for part, (scores, top) in first.items():
            about = {"wording": number, "other_wording": other_number, "part": part}
            there, n = other[part][0], len(scores.values)
            rows.append(about | _cells("rank_correlation", rank_correlation(scores, there, seed=seed), n))
            if top is not None:
                found = jaccard(scores, there, top=min(top, scores.units), seed=seed)
                rows.append(about | {"top": min(top, scores.units)} | _cells("jaccard", found, n))
    return pl.DataFrame(rows, schema=schema_of("paraphrase_agreement"))


def parts_of(one: Measured, *, top_heads: int, top_neurons: int) -> dict[str, tuple[Scores, int | None]]:
    """What is compared: the scores of each part of the model, and how many of its first units (None: not compared)."""
    parts: dict[str, tuple[Scores, int | None]] = {}
    if len(one.clean):
        kinds, exact = one.nodes["kind"].to_numpy(), -one.changes[True]
        whole = exact[:, kinds == ALL][:, 0]
        for part, kind, top in (("heads", "head", top_heads), ("mlps", "mlp_out", None)):
            chosen = exact[:, kinds == kind]
            parts[part] = (Scores(values=chosen, whole=whole, least=LEAST_SHARE, smallest=SMALLEST), top)
    for position in POSITIONS:
        if (position, "logistic") in one.hits:
            hits = one.hits[position, "logistic"].astype(np.float64)
            parts[f"layers_at_{position}"] = (Scores(values=hits), None)
    answers = one.labels[:, one.labels.any(axis=0)]
    if answers.shape[1] > 1:
        parts["neurons"] = (Scores(values=one.neurons, groups=answers), top_neurons)
    return parts


def _cells(measure: str, found: Agreement | None, n: int) -> dict:
    cells: dict = {"measure": measure, "n": n} | estimate_columns("value", found and found.estimate)
    if found is not None:
        cells |= {name: getattr(found, name) for name in ("chance", "chance_95", "within", "units")}
    return cells
