"""Is what the model makes of a name an affine map of the name's representation? (P1.3)

The map after each layer is that of `affine.py`, made of a few subjects, its examples; all that is scored is scored on
others. What has to be set is set on the examples: `beta`, so that the answers which the model gives to them are as
probable as can be under the map, and the rank of the inverse, so that as many of their answers as can be are moved.

    faithful    the likeliest token under the map is the model's
    follows     the representation moved by the map's inverse, by what would take END to that of a subject of another
                answer, and the answer becomes that subject's; beside it a random direction of the same length
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int

from factfinding.engine.clean import prepare
from factfinding.engine.jacobians import end_jacobians
from factfinding.engine.sites import Site
from factfinding.engine.suffix import Suffix, edit
from factfinding.engine.tokens import tokens_of
from factfinding.experiments.linear_relation.affine import Affine
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.estimates import accuracy_difference, accuracy_estimate, estimate_columns
from factfinding.methods.groups import Group, in_batches, known_prompts
from factfinding.methods.logistic import Scale, fit_logistic, in_own_span
from factfinding.methods.patched import Batch, Effect, Sample, patched, sample
from factfinding.methods.probes import ProbeSettings
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import anatomy_of
from factfinding.stats import evenly_spread, in_turn, majority_rate
from factfinding.tables import empty, schema_of

Rows = Int[np.ndarray, " rows"]
"""Subjects, as rows of the prompts, in ascending order."""
Key = tuple[int, object]
"""Of a move: the layer after which it is made, and which move it is."""
Moves = dict[Key, Float[np.ndarray, "rows d_model"]]
"""What is added to the residual stream of each subject at the final name token."""
AT_ONCE = 4
"""Examples whose Jacobians are held together; each has the square of the width for every layer."""


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The table `linear_relation`."""
    section = settings.linear_relation
    prompts = known_prompts(inputs, section.subjects)
    most = section.examples + section.scored_subjects
    drawn = sample(prompts, inputs.candidates, subjects=most, draws=0, seed=section.seed)
    table = linear_relation(
        anatomy_of(inputs), drawn, examples=section.examples, layers=section.layers, betas=section.betas,
        ranks=section.ranks, batch_size=settings.compute.batch_size, seed=section.seed,
    )  # fmt: skip
    say(f"{table.height} layers, maps of {section.examples} of {len(drawn.rows)} subjects")
    return {"linear_relation": table}


def linear_relation(
    anatomy: Anatomy,
    drawn: Sample,
    *,
    examples: int,
    layers: int = 8,
    betas: Sequence[float] = (1.0,),
    ranks: Sequence[int] = (1, 2, 4, 8),
    batch_size: int,
    seed: int,
) -> pl.DataFrame:
    """The table `linear_relation`; empty where fewer than two subjects would be left to score.

    drawn: subjects, examples included, each with a partner of another answer. examples: how many make the map, as many of
    each answer as there are. layers: how many at most, spread over the model. betas, ranks: what is tried.
    """
    rng = np.random.default_rng(seed)
    shown = evenly(drawn.rows, drawn.labels, examples, rng)
    scored = np.setdiff1d(drawn.rows, shown)
    if len(shown) < examples or len(scored) < 2 or anatomy.n_layers < 2:
        return empty("linear_relation")
    chosen = evenly_spread(0, anatomy.n_layers - 2, layers)
    states = run_states(anatomy, drawn, chosen, batch_size=batch_size)
    maps = {
        layer: replace(one, beta=best_beta(anatomy, one, states.of(layer, shown), states.end[shown], betas))
        for layer, one in example_maps(anatomy, drawn, shown, states, batch_size=batch_size).items()
    }
    tried = {
        (layer, rank): towards(drawn, shown, states, one.inverse(rank))
        for layer, one in maps.items()
        for rank in sorted(ranks)
    }
    on_examples = followed(anatomy, drawn, shown, states, tried, batch_size=batch_size)
    rank_of = {layer: max(sorted(ranks), key=lambda rank: on_examples[layer, rank].sum()) for layer in maps}
    moves: Moves = {}
    for layer, one in maps.items():
        moves[layer, "inverse"] = towards(drawn, scored, states, one.inverse(rank_of[layer]))
        moves[layer, "random"] = as_long(moves[layer, "inverse"], rng)
    follows = followed(anatomy, drawn, scored, states, moves, batch_size=batch_size)
    rows = []
    for layer, one in maps.items():
        swap = np.linalg.norm(states.of(layer, drawn.corrupt[scored]) - states.of(layer, scored), axis=1)
        length = np.linalg.norm(moves[layer, "inverse"], axis=1)
        rows.append(
            {"layer": layer, "beta": one.beta, "rank": rank_of[layer], "examples": len(shown)}
            | _faithful(anatomy, drawn, one, layer, states, shown, scored, seed)
            | _compared("follows", follows[layer, "inverse"], "random", follows[layer, "random"], seed)
            | {"length": float((length / np.maximum(swap, np.finfo(float).tiny)).mean())}
            | {"donors_rate": majority_rate(drawn.labels[drawn.corrupt[scored]]), "n": len(scored)}
        )
    return pl.DataFrame(rows, schema=schema_of("linear_relation"))


def evenly(rows: Rows, labels: Int[np.ndarray, " subjects"], most: int, rng: np.random.Generator) -> Rows:
    """At most `most` of the rows, drawn, as many of each answer as there are: one of each answer in turn."""
    return np.sort(in_turn(rng.permutation(rows), labels, most))


@dataclass(frozen=True, kw_only=True, eq=False)
class States:
    """Residual streams of unchanged runs, NaN for subjects that are not needed: at the final name token after each of
    `layers`, and at END after the last layer; the likeliest token of the vocabulary there, and the best candidate."""

    layers: tuple[int, ...]
    name: Float[np.ndarray, "layers subjects d_model"]
    end: Float[np.ndarray, "subjects d_model"]
    token: Int[np.ndarray, " subjects"]
    answer: Int[np.ndarray, " subjects"]

    def of(self, layer: int, rows: Rows) -> Float[np.ndarray, "rows d_model"]:
        """At the name, after a layer."""
        return self.name[self.layers.index(layer), rows]


def run_states(anatomy: Anatomy, drawn: Sample, layers: Sequence[int], *, batch_size: int) -> States:
    """The states of the drawn subjects and of their partners."""
    needed = np.union1d(drawn.rows, drawn.corrupt[drawn.rows])
    n = drawn.prompts.height
    name = np.full((len(layers), n, anatomy.d_model), np.nan)
    end, token, answer = np.full((n, anatomy.d_model), np.nan), np.full(n, -1), np.full(n, -1)

    def state(group: Group, rows: Rows) -> tuple[np.ndarray, ...]:
        clean = prepare(
            anatomy, tokens_of(drawn.prompts, rows, anatomy.device), start=group.layout.final_name
        )
        own = clean.resid[[layer + 1 for layer in layers], :, 0].double().cpu().numpy()
        last = clean.resid[-1, :, group.layout.end - clean.start].double().cpu().numpy()
        return own, last, *said(anatomy, drawn, last)

    groups = [replace(group, rows=np.intersect1d(group.rows, needed)) for group in drawn.groups]
    for rows, (own, last, best, answered) in in_batches(groups, batch_size, state):
        name[:, rows], end[rows], token[rows], answer[rows] = own, last, best, answered
    return States(layers=tuple(layers), name=name, end=end, token=token, answer=answer)


@torch.no_grad()
def said(
    anatomy: Anatomy, drawn: Sample, end: Float[np.ndarray, "rows d_model"]
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
    """The likeliest token of the vocabulary, and the best of the candidates, for residual streams after the last layer."""
    logits = anatomy.logits(torch.from_numpy(end).to(anatomy.device, anatomy.dtype))
    candidates = logits[:, drawn.candidates["token_id"].to_list()]
    return logits.argmax(1).cpu().numpy(), candidates.argmax(1).cpu().numpy()


def example_maps(
    anatomy: Anatomy, drawn: Sample, shown: Rows, states: States, *, batch_size: int
) -> dict[int, Affine]:
    """The map of each layer, from the Jacobians of the subjects `shown`."""
    n, width = len(shown), anatomy.d_model
    weight, bias = np.zeros((len(states.layers), width, width)), np.zeros((len(states.layers), width))

    def work(group: Group, rows: Rows) -> np.ndarray:
        at, end = group.layout.final_name, group.layout.end
        clean = prepare(anatomy, tokens_of(drawn.prompts, rows, anatomy.device), start=at)
        return end_jacobians(anatomy, clean, states.layers, at=at, end=end).double().cpu().numpy()

    for rows, jacobians in in_batches(replace(drawn, rows=shown).sampled, min(batch_size, AT_ONCE), work):
        weight += jacobians.sum(axis=1) / n
        tangents = states.end[rows] - np.einsum("lpij,lpj->lpi", jacobians, states.name[:, rows])
        bias += tangents.sum(axis=1) / n
    return {layer: Affine(weight=weight[i], bias=bias[i]) for i, layer in enumerate(states.layers)}


@torch.no_grad()
def best_beta(
    anatomy: Anatomy,
    one: Affine,
    name: Float[np.ndarray, "examples d_model"],
    end: Float[np.ndarray, "examples d_model"],
    betas: Sequence[float],
) -> float:
    """The beta under which the tokens that the model itself gives to the examples are likeliest, by their mean log
    probability; the smallest of several alike."""

    def log_probabilities(values: Float[np.ndarray, "examples d_model"]) -> torch.Tensor:
        resid = torch.from_numpy(values).to(anatomy.device, anatomy.dtype)
        return anatomy.logits(resid).double().log_softmax(1)

    own = log_probabilities(end).argmax(1, keepdim=True)
    worth = {
        beta: float(log_probabilities(replace(one, beta=beta)(name)).gather(1, own).mean())
        for beta in sorted(betas)
    }
    return max(worth, key=lambda beta: worth[beta])


def followed(
    anatomy: Anatomy,
    drawn: Sample,
    rows: Rows,
    states: States,
    moves: Moves,
    *,
    batch_size: int,
) -> dict[Key, Bool[np.ndarray, " rows"]]:
    """Of these rows, whose best candidate becomes their partner's answer when the residual stream at the final name token is
    moved; by the key of each move, which begins with the layer after which it is made."""
    partner = drawn.labels[drawn.corrupt]
    found = {key: np.zeros(drawn.prompts.height, dtype=bool) for key in moves}

    def measure(batch: Batch) -> Iterator[Effect]:
        prompt = torch.arange(len(batch.rows), device=anatomy.device)
        for key, move in moves.items():
            value = states.of(key[0], batch.rows) + move[np.searchsorted(rows, batch.rows)]
            made = edit(
                anatomy, batch.clean, Site("resid_post", key[0]), at=batch.layout.final_name, prompt=prompt,
                value=torch.from_numpy(value),
            )  # fmt: skip
            change = Suffix(anatomy).effects(batch.clean, made, batch.reading).double().cpu().numpy()
            yield Effect(key=key, rows=batch.rows, change=change)

    run = patched(anatomy, replace(drawn, rows=rows), measure, batch_size=batch_size)
    for effect in run.effects:
        logits = run.clean_logits[effect.rows] + effect.change
        found[effect.key][effect.rows] = logits.argmax(axis=1) == partner[effect.rows]
    return {key: hits[rows] for key, hits in found.items()}


def towards(
    drawn: Sample, rows: Rows, states: States, inverse: Float[np.ndarray, "d_name d_end"]
) -> Float[np.ndarray, "rows d_model"]:
    """The moves that would take END of each subject to that of its partner."""
    return (states.end[drawn.corrupt[rows]] - states.end[rows]) @ inverse.T


def as_long(
    moves: Float[np.ndarray, "rows d_model"], rng: np.random.Generator
) -> Float[np.ndarray, "rows d_model"]:
    """Random directions, each as long as the move of its subject."""
    drawn = rng.normal(size=moves.shape)
    return drawn * np.linalg.norm(moves, axis=1, keepdims=True) / np.linalg.norm(drawn, axis=1, keepdims=True)


def few_probe(
    name: Float[np.ndarray, "examples d_model"],
    answers: Int[np.ndarray, " examples"],
    scored: Float[np.ndarray, "rows d_model"],
) -> Int[np.ndarray, " rows"] | None:
    """What a logistic probe that was fitted on the examples alone says of others; None where they have one answer."""
    if len(np.unique(answers)) < 2:
        return None
    how, scale = ProbeSettings(), Scale.of(name)
    train, basis = in_own_span(scale(name))
    options = {"regularisation": how.regularisation, "max_iter": how.max_iter, "tolerance": how.tolerance}
    probe = fit_logistic(train, answers, **options)
    return probe.predict(scale(scored) if basis is None else scale(scored) @ basis)


def _faithful(
    anatomy: Anatomy,
    drawn: Sample,
    one: Affine,
    layer: int,
    states: States,
    shown: Rows,
    scored: Rows,
    seed: int,
) -> dict[str, float | None]:
    """The columns on whose answers are those of the model."""
    token, answer = said(anatomy, drawn, one(states.of(layer, scored)))
    hits = answer == states.answer[scored]
    probed = few_probe(states.of(layer, shown), states.answer[shown], states.of(layer, scored))
    probe = None if probed is None else probed == states.answer[scored]
    return (
        estimate_columns("faithful", accuracy_estimate(token == states.token[scored], seed=seed))
        | _compared("faithful_answers", hits, "probe", probe, seed)
        | {"majority_rate": majority_rate(states.answer[scored])}
    )


def _compared(
    name: str,
    hits: Bool[np.ndarray, " rows"],
    beside: str,
    others: Bool[np.ndarray, " rows"] | None,
    seed: int,
) -> dict[str, float | None]:
    """A share, that beside which it stands, and by how much it is more, in pairs."""
    other = difference = None
    if others is not None:
        other, difference = accuracy_estimate(others, seed=seed), accuracy_difference(hits, others, seed=seed)
    return (
        estimate_columns(name, accuracy_estimate(hits, seed=seed))
        | estimate_columns(beside, other)
        | estimate_columns(f"over_{beside}", difference)
    )
