"""Every neuron, one at a time, replaced by other subjects' values (P3.2).

    index = neuron_index(prompts=[0, 1], layers=range(2, 7), neurons=range(anatomy.d_mlp), kinds={"mean": 1})
    how = Sweeping(engine=Suffix(anatomy), model=digest, folder=shards)
    sweep = neuron_sweep(anatomy, prompts, index, donors, how)      # sweep.table, sweep.twin

The effects of a neuron are points on one curve (`response`), so that 64 draws cost a few evaluations. `straight_effects`
takes the straight line through the clean value for the curve: no evaluation at all, and the error of a first order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.engine import trace
from factfinding.engine.batches import Batches
from factfinding.engine.clean import Clean, activation, prepare
from factfinding.engine.readings import LogProbs
from factfinding.engine.response import curves
from factfinding.engine.shards import TableShards, first_batch, tensor_digest
from factfinding.engine.sites import Site, neuron
from factfinding.engine.slopes import neuron_slopes
from factfinding.engine.suffix import edit_neurons
from factfinding.engine.sweep import Sweep, Sweeping, against_twin, check_index, context_of, in_pieces
from factfinding.errors import InputError
from factfinding.files import text_digest
from factfinding.model.anatomy import Anatomy

KINDS = ("mean", "zero", "resample_same", "resample_other")
ROLES = ("first_name", "final_name", "end")
"""The roles of one position, whose columns a prompts table has."""


RESULTS = ("effect", "standard_error", "n", "evaluations", "certificate")


@dataclass(frozen=True, kw_only=True, eq=False)
class Donors:
    """Where a neuron's replacement values come from: the subjects that may give them, and their post-
    activations.
    """

    subjects: list[str]
    answers: list[str]
    values: Callable[[int, str], Float[Tensor, "subjects d_mlp"]]  # of a layer, at a position role


def neuron_index(
    *,
    prompts: Iterable[int],
    layers: Iterable[int],
    neurons: Iterable[int],
    kinds: Mapping[str, int],
    role: str = "final_name",
) -> pl.DataFrame:
    """Every neuron of every layer in every prompt, under each kind of replacement with its number of draws
    (P3.2).
    """
    parts = ({"prompt": list(prompts)}, {"layer": list(layers)}, {"neuron": list(neurons)})
    frame = (
        pl.DataFrame(parts[0])
        .join(pl.DataFrame(parts[1]), how="cross")
        .join(pl.DataFrame(parts[2]), how="cross")
    )
    kind = pl.DataFrame({"role": [role] * len(kinds), "kind": list(kinds), "draws": list(kinds.values())})
    return frame.join(kind, how="cross")


def neuron_sweep(
    anatomy: Anatomy,
    prompts: pl.DataFrame,
    index: pl.DataFrame,
    donors: Donors,
    how: Sweeping,
) -> Sweep:
    """Replace one neuron at a time; effect = change in log P of the answer (P3.2), averaged over the draws.

    index: prompt (row of `prompts`), layer, role (a position column of `prompts`), neuron, kind, draws.
    Results: effect (nats), standard_error (over draws; null for one), n (draws used: fewer where there are
    fewer donors), evaluations (of the neuron's curve, shared by its kinds), certificate (its largest error
    seen, nats; `response`). Raises InputError for index rows that name what the prompts, the model or the donors
    do not have.
    """
    check_index(index, prompts, {"layer": anatomy.n_layers, "neuron": anatomy.d_mlp})
    _check_words(index)
    job = _Neurons(anatomy, prompts, donors, how)
    context = context_of(__file__, how.engine, how.model, anatomy, tolerance=how.tolerance, seed=how.seed)
    shards = TableShards(how.folder, context, how.log)
    table = in_pieces(index, ["prompt", "layer", "role"], shards, job, how.progress)
    return Sweep(table=table, twin=against_twin(anatomy, table, job.twin, how.twin_rows, how.seed, how.log))


def straight_effects(
    anatomy: Anatomy, prompts: pl.DataFrame, index: pl.DataFrame, donors: Donors, how: Sweeping
) -> pl.DataFrame:
    """What `neuron_sweep` would find if each neuron's curve were its tangent at the clean value: attribution patching, one
    backward pass for each prompt.

    Columns effect, standard_error and n, in the order of the index; of the same draws. Raises InputError as the sweep does.
    """
    check_index(index, prompts, {"layer": anatomy.n_layers, "neuron": anatomy.d_mlp})
    _check_words(index)
    job, found = _Neurons(anatomy, prompts, donors, how), []
    for _, rows in index.with_row_index("_row").group_by("prompt", "layer", "role", maintain_order=True):
        found.append(pl.concat([rows.select("_row"), job.straight(rows)], how="horizontal"))
    return pl.concat(found).sort("_row").drop("_row")


def _check_words(index: pl.DataFrame) -> None:
    allowed = {"kind": KINDS, "role": ROLES}
    for column, words in allowed.items():
        wrong = index.with_row_index("row").filter(~pl.col(column).is_in(words))
        if wrong.height:
            raise InputError(
                f"index, row {wrong['row'][0]}", f"{column} {wrong[column][0]!r}", ", ".join(words)
            )


class _Neurons:
    """One piece of a neuron sweep: a prompt, a layer and a role."""

    def __init__(self, anatomy: Anatomy, prompts: pl.DataFrame, donors: Donors, how: Sweeping) -> None:
        self.anatomy, self.prompts, self.donors = anatomy, prompts, donors
        self.engine, self.tolerance, self.seed = how.engine, how.tolerance, how.seed
        self.batches = Batches(first_batch(anatomy, int(prompts["n_tokens"].max()) // 2), how.log)
        self.pool = lru_cache(maxsize=1)(donors.values)
        self.clean = lru_cache(maxsize=1)(self._clean)
        self.slopes = lru_cache(maxsize=1)(self._slopes)

    def _clean(self, prompt: int, role: str) -> Clean:
        return prepare(self.anatomy, self._tokens(prompt), start=self.prompts[role][prompt])

    def _slopes(self, prompt: int, role: str) -> Float[Tensor, "layers d_mlp"]:
        at, end, target = (self.prompts[name][prompt] for name in (role, "end", "target"))
        return neuron_slopes(self.anatomy, self._tokens(prompt), at=at, end=end, answer=target)

    def _tokens(self, prompt: int) -> Tensor:
        return torch.tensor([self.prompts["token_ids"][prompt].to_list()], device=self.anatomy.device)

    def depends_on(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
        prompt, layer, role = rows.select("prompt", "layer", "role").row(0)
        own = self.prompts.select("subject", "answer", "token_ids", "target", "end", role).row(prompt)
        people = text_digest(*self.donors.subjects, *self.donors.answers)
        return rows.drop("prompt"), [repr(own), people, tensor_digest(self.pool(layer, role))]

    def values(
        self, prompt: int, layer: int, role: str, kind: str, draws: int
    ) -> Float[Tensor, "draws d_mlp"]:
        """What a kind of replacement puts in; donors depend on subject and kind, not on the layer."""
        pool = self.pool(layer, role).to(self.anatomy.device)
        if kind in ("mean", "zero"):
            return (
                pool.double().mean(0, keepdim=True) if kind == "mean" else torch.zeros_like(pool[:1]).double()
            )
        subject, answer = (self.prompts[name][prompt] for name in ("subject", "answer"))
        people = enumerate(zip(self.donors.subjects, self.donors.answers, strict=True))
        able = [i for i, (a, s) in people if a != subject and (s == answer) == (kind == "resample_same")]
        if not able:
            raise InputError(
                f"{kind} for {subject!r} ({answer})", "no donor", "a donor of the answer that this kind needs"
            )
        drawn = random.Random(text_digest(str(self.seed), subject, kind)).sample(able, min(draws, len(able)))
        return pool[drawn].double()

    def compute(self, rows: pl.DataFrame) -> pl.DataFrame:
        piece = self._piece(rows, sloped=self.tolerance > 0)
        reading = LogProbs(at=piece.end, tokens=torch.tensor([self.prompts["target"][piece.prompt]]))

        def evaluate(neuron: Tensor, value: Tensor) -> Tensor:
            def work(part: slice) -> Tensor:
                which = {
                    "prompt": torch.zeros_like(neuron[part]),
                    "neuron": piece.units[neuron[part]],
                    "value": value[part],
                }
                edits = edit_neurons(self.anatomy, piece.clean, layer=piece.layer, at=piece.at, **which)
                return self.engine.effects(piece.clean, edits, reading)[:, 0]

            return self.batches.run(work, len(neuron))

        draws = piece.draws.to(piece.before.dtype)
        found = curves(
            evaluate, piece.before, draws, tolerance=self.tolerance, seed=self.seed, slope=piece.slope
        )
        shared = {"evaluations": found.evaluations.tolist(), "certificate": found.certificate.tolist()}
        return piece.results(rows, found.effects, shared).select(RESULTS)

    def straight(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The results of a piece by the tangents of its curves, aligned with its rows."""
        piece = self._piece(rows, sloped=True)
        moved = piece.draws - piece.before.double()[:, None]
        return piece.results(rows, piece.slope.double()[:, None] * moved, {}).select(RESULTS[:3])

    def _piece(self, rows: pl.DataFrame, *, sloped: bool) -> _Piece:
        prompt, layer, role = rows.select("prompt", "layer", "role").row(0)
        clean, at = self.clean(prompt, role), self.prompts[role][prompt]
        neurons = rows["neuron"].unique().sort()
        units = torch.tensor(neurons.to_list(), device=self.anatomy.device)
        kinds = rows.select("kind", "draws").unique(maintain_order=True).rows()
        parts = [self.values(prompt, layer, role, *kind) for kind in kinds]
        return _Piece(
            prompt=prompt,
            layer=layer,
            at=at,
            end=self.prompts["end"][prompt],
            clean=clean,
            units=units,
            before=activation(self.anatomy, clean, Site("post", layer), at)[0, units],
            slope=self.slopes(prompt, role)[layer, units] if sloped else None,
            draws=torch.cat(parts)[:, units].T,
            kinds={kind: len(part) for kind, part in zip(kinds, parts, strict=True)},
        )

    def twin(self, anatomy: Anatomy, row: dict) -> float:
        """The same effect by hooks on whole prompts."""
        prompt, layer, role = row["prompt"], row["layer"], row["role"]
        pool = self.values(prompt, layer, role, row["kind"], row["draws"]).to(self.anatomy.dtype)
        value, tokens = pool[:, row["neuron"]][:, None], self._tokens(prompt)
        at, end = (
            torch.full((len(value),), self.prompts[name][prompt], device=tokens.device)
            for name in (role, "end")
        )
        target = self.prompts["target"][prompt]

        def edited(part: slice) -> Tensor:
            changes = [trace.Edit(site=neuron(layer, row["neuron"]), at=at[part], value=value[part])]
            many = tokens.expand(len(at[part]), -1)
            return trace.run(anatomy, many, logits_at=end[part], edits=changes).logits.log_softmax(1)[
                :, target
            ]

        before = trace.run(anatomy, tokens, logits_at=end[:1]).logits.log_softmax(1)[:, target]
        return float((self.batches.run(edited, len(value)) - before).mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class _Piece:
    """What the neurons of one prompt and layer are without a change, and what is put in their place.

    units: the neurons. before: their values. slope: of the answer's log probability there, if it is needed. draws: what is put in, the kinds
    beside one another. kinds: the draws that each kind and the number of draws asked for has.
    """

    prompt: int
    layer: int
    at: int
    end: int
    clean: Clean
    units: Int[Tensor, " neurons"]
    before: Float[Tensor, " neurons"]
    slope: Float[Tensor, " neurons"] | None
    draws: Float[Tensor, "neurons draws"]
    kinds: dict[tuple[str, int], int]

    def results(
        self, rows: pl.DataFrame, effects: Float[Tensor, "neurons draws"], shared: dict[str, list]
    ) -> pl.DataFrame:
        """The rows with what each neuron's draws come to under each kind. shared: of a neuron under all kinds."""
        columns = effects.split(list(self.kinds.values()), dim=1)
        neuron = {"neuron": self.units.tolist()} | shared
        summaries = [
            pl.DataFrame({**neuron, "kind": kind, "draws": n, **_summary(part)})
            for (kind, n), part in zip(self.kinds, columns, strict=True)
        ]
        return rows.join(
            pl.concat(summaries), on=["neuron", "kind", "draws"], how="left", maintain_order="left"
        )


def _summary(effects: Float[Tensor, "neurons draws"]) -> dict[str, list]:
    n = effects.shape[1]
    error = (effects.std(1) / n**0.5).tolist() if n > 1 else [None] * len(effects)
    columns = {"effect": effects.mean(1).tolist(), "standard_error": pl.Series(error, dtype=pl.Float64)}
    return {**columns, "n": pl.Series([n] * len(effects), dtype=pl.Int64)}
