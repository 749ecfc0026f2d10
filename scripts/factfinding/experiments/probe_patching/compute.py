"""Is the direction that a probe reads the one that the model reads? (P2.11)

At the final name token, resid_post of one layer, only the component in a subspace is replaced by that of a subject of
another answer, and the answers at END are counted that become the donor's. Or the subspace is erased: what it says of
the answer is taken away, and the recall that is left is counted.

    whole                         everything is replaced
    logistic, head                the span of a probe's directions: what it uses to tell answers apart
    random                        a random subspace with as many dimensions
    <probe>_complement            everything but the probe's span
    leace                         LEACE erasure (Belrose et al. 2023): the least change after which no linear probe
                                  tells the answers apart
    random_erased                 a random subspace with as many dimensions, set to its mean

The logistic probe and the eraser are those of the folds that have not seen the subject.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
import torch
from concept_erasure import LeaceEraser
from jaxtyping import Bool, Float, Int
from torch import Tensor

from factfinding.engine.batches import Batches
from factfinding.engine.certified import against_values, certified
from factfinding.engine.clean import Clean, prepare
from factfinding.engine.readings import LogProbs
from factfinding.engine.shards import first_batch
from factfinding.engine.sites import Site
from factfinding.engine.suffix import Suffix, edit
from factfinding.engine.sweep import Engine
from factfinding.engine.tokens import tokens_of
from factfinding.inputs import Inputs, Say, Settings
from factfinding.known import STUDY_RULE, Rule
from factfinding.methods.circuit import circuit_of
from factfinding.methods.estimates import accuracy_estimate, estimate_columns
from factfinding.methods.groups import Group, PromptLayout, in_batches, known_prompts
from factfinding.methods.head_reader import head_readers
from factfinding.methods.name_stream import name_outputs
from factfinding.methods.patched import Sample, sample_of
from factfinding.methods.readers import Readers, readers_of, span
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import anatomy_of
from factfinding.stats import majority_rate, paired_difference
from factfinding.tables import empty, schema_of

RANDOM = "random"
"""The change of random directions, beside which the others stand."""
"""The study's: P > 0.5."""


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables `probe_patching` and `probe_patching_twin`."""
    anatomy, circuit, logistic = anatomy_of(inputs), circuit_of(inputs), readers_of(inputs)
    section, size = settings.interventions, settings.compute.batch_size
    prompts = known_prompts(inputs, section.subjects)
    heads = head_readers(anatomy, circuit.extract, inputs.candidates, prompts, logistic, batch_size=size)
    drawn = sample_of(inputs, section, subjects=section.patched_subjects)
    rule = Rule(how=settings.recall.known, above=settings.recall.known_above)
    engine = certified(anatomy, settings.compute, seed=section.seed)
    table = probe_patching(
        anatomy, drawn, [logistic, *heads], engine=engine, batch_size=size, seed=section.seed, rule=rule
    )
    say(f"{table['change'].n_unique()} changes in {len(drawn.rows)} subjects")
    return {
        "probe_patching": table,
        "probe_patching_twin": against_values("probe_patching_twin", engine, say),
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class Change:
    """New residuals for every subject at one layer, and in how many dimensions they may differ from the old."""

    name: str
    dimensions: int
    value: Float[np.ndarray, "subjects d_model"]


def probe_patching(
    anatomy: Anatomy,
    drawn: Sample,
    readers: Sequence[Readers],
    *,
    engine: Engine | None = None,
    batch_size: int,
    seed: int,
    rule: Rule = STUDY_RULE,
) -> pl.DataFrame:
    """Columns change, layer, dimensions, follows (share of answers that are the donor's answer), stays (that are right),
    recalled (by the rule, P(right answer) above 0.5), each with its interval, n, majority_rate (of the donors' answers), over_random
    (follows less that of random directions in the same layer, paired; null for those).

    drawn: a sample of `patched.sample`, on `full` prompts. readers: the first is the logistic one, whose folds
    the eraser shares. engine: None for values. Empty when it is.
    """
    if readers[0].empty or not len(drawn.rows):
        return empty("probe_patching")
    resid = name_outputs(anatomy, drawn.prompts, drawn.groups, batch_size=batch_size).resid.double().numpy()
    rng, rows, engine = np.random.default_rng(seed), [], engine or Suffix(anatomy)
    runs = [run for _, run in in_batches(drawn.sampled, batch_size, partial(_run, anatomy, drawn))]
    own = drawn.labels[drawn.rows]
    donor = drawn.labels[drawn.corrupt[drawn.rows]]
    for layer in range(anatomy.n_layers):
        follows: dict[str, Bool[np.ndarray, " drawn"]] = {}
        made = list(changes(drawn, readers, resid[:, layer], layer, rng))
        logp = np.full((len(made), len(resid), drawn.candidates.height), np.nan)
        most = np.full(logp.shape[:2], np.nan)
        for run in runs:
            values = np.stack([change.value[run.rows] for change in made])
            logp[:, run.rows], most[:, run.rows] = _answers(engine, drawn, run, layer, values, rule)
        for change, logp_here, most_here in zip(made, logp[:, drawn.rows], most[:, drawn.rows], strict=True):
            said, right = logp_here.argmax(axis=1), logp_here[np.arange(len(own)), own]
            known = rule.holds(p=np.exp(right), first=right == most_here, best=said == own)
            follows[change.name] = said == donor
            rows.append(
                {"change": change.name, "layer": layer, "dimensions": change.dimensions}
                | estimate_columns("follows", accuracy_estimate(said == donor, seed=seed))
                | estimate_columns("stays", accuracy_estimate(said == own, seed=seed))
                | estimate_columns("recalled", accuracy_estimate(known, seed=seed))
                | {"n": len(own), "majority_rate": majority_rate(donor)}
            )
        for row in rows[-len(follows) :]:
            beyond = None
            if row["change"] != RANDOM:
                beyond = paired_difference(follows[row["change"]], follows[RANDOM], seed=seed)
            row |= estimate_columns("over_random", beyond)
    return pl.DataFrame(rows, schema=schema_of("probe_patching"))


def changes(
    drawn: Sample,
    readers: Sequence[Readers],
    resid: Float[np.ndarray, "subjects d_model"],
    layer: int,
    rng: np.random.Generator,
) -> Iterator[Change]:
    """Every change at one layer."""
    names, d_model = drawn.prompts["subject"].to_list(), resid.shape[1]
    difference = resid[np.where(drawn.corrupt < 0, np.arange(len(resid)), drawn.corrupt)] - resid
    yield Change(name="whole", dimensions=d_model, value=resid + difference)
    for reader in readers:
        within, size = np.empty_like(resid), 0
        folds = reader.folds_of(names)
        for fold in np.unique(folds):
            basis = span(reader.weight[fold, layer])
            here, size = folds == fold, max(size, basis.shape[1])
            within[here] = difference[here] @ basis @ basis.T
        yield Change(name=reader.name, dimensions=size, value=resid + within)
        complement = Change(
            name=f"{reader.name}_complement", dimensions=d_model - size, value=resid + difference - within
        )
        yield complement
    size = len(readers[0].answers) - 1
    basis = np.linalg.qr(rng.normal(size=(d_model, size)))[0]
    yield Change(name=RANDOM, dimensions=size, value=resid + difference @ basis @ basis.T)
    yield Change(name="leace", dimensions=size, value=erased(resid, drawn.labels, readers[0].folds_of(names)))
    centred = resid - resid.mean(axis=0)
    yield Change(name="random_erased", dimensions=size, value=resid - centred @ basis @ basis.T)


def erased(
    resid: Float[np.ndarray, "subjects d_model"],
    labels: Int[np.ndarray, " subjects"],
    folds: Int[np.ndarray, " subjects"],
) -> Float[np.ndarray, "subjects d_model"]:
    """Residuals with the answer erased by LEACE, each fold by an eraser that was fitted on the others."""
    x, z = torch.from_numpy(resid), torch.nn.functional.one_hot(torch.from_numpy(labels)).double()
    found = torch.empty_like(x)
    for fold in np.unique(folds):
        here = torch.from_numpy(folds == fold)
        eraser = LeaceEraser.fit(x[~here], z[~here])
        found[here] = eraser(x[here])
    return found.numpy()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Run:
    """Subjects of one layout and their clean run, and how many of them are changed at once."""

    layout: PromptLayout
    rows: Int[np.ndarray, " batch"]
    clean: Clean
    batches: Batches


def _run(anatomy: Anatomy, drawn: Sample, group: Group, rows: Int[np.ndarray, " batch"]) -> _Run:
    tokens = tokens_of(drawn.prompts, rows, anatomy.device)
    clean = prepare(anatomy, tokens, start=group.layout.final_name)
    batches = Batches(first_batch(anatomy, clean.tokens.shape[1] - clean.start))
    return _Run(layout=group.layout, rows=rows, clean=clean, batches=batches)


def _answers(
    engine: Engine,
    drawn: Sample,
    run: _Run,
    layer: int,
    values: Float[np.ndarray, "changes batch d_model"],
    rule: Rule,
) -> tuple[Float[np.ndarray, "changes batch candidates"], Float[np.ndarray, "changes batch"]]:
    """Under each change of resid_post of the layer at the final name token: log probabilities of the candidates at END, and of
    the likeliest token of the vocabulary where the rule asks for it (else NaN)."""
    anatomy, site, at = engine.anatomy, Site("resid_post", layer), run.layout.final_name
    new = torch.from_numpy(values).flatten(0, 1).to(anatomy.device, anatomy.dtype)
    prompt = torch.arange(values.shape[1], device=anatomy.device).repeat(len(values))
    tokens = torch.tensor(drawn.candidates["token_id"].to_list(), device=anatomy.device)
    whole = rule.how == "first"
    reading = LogProbs(at=run.layout.end, tokens=None if whole else tokens)

    def answers(part: slice) -> Float[Tensor, "rows read"]:
        edits = edit(anatomy, run.clean, site, at=at, prompt=prompt[part], value=new[part])
        said = engine.values(run.clean, edits, reading)
        if whole:
            said = torch.cat([said[:, tokens], said.amax(1, keepdim=True)], dim=1)
        return said.double().cpu()

    read = run.batches.run(answers, len(new)).numpy().reshape(*values.shape[:2], -1)
    if whole:
        return read[..., :-1], read[..., -1]
    return read, np.full(values.shape[:2], np.nan)
