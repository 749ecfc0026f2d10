"""The engine beside TransformerLens, nnsight and plain hooks: same weights, prompts and machine, in one run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import scaling
import torch
from measure import Timing, best_of, error
from ours import Fast, SlowTwin, neuron_values
from page import Table, number
from peers import HuggingFaceHooks, NNsight, TransformerLens
from torch import Tensor
from transformers import PreTrainedModel
from workload import DRAWS, END, LayerPosition, NeuronSweep, Shape, prompts

from factfinding.engine.difference import Difference
from factfinding.engine.suffix import Suffix
from factfinding.model.anatomy import Anatomy

PEER_NEURONS, SUFFIX_NEURONS, CURVE_NEURONS = 2, 16, 256
PATCHED_PROMPTS, CACHED_PROMPTS = 4, 64
PEER_ROWS = 64
CURVES = "difference, full products, curves"


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A ratio or an error that was set as a goal, and what was measured."""

    what: str
    goal: str
    measured: str
    met: bool


class Comparison:
    """All ways of doing the work, each with a copy of the same model."""

    def __init__(self, model: PreTrainedModel, shape: Shape, *, rows: int, rounds: int) -> None:
        self.model, self.shape, self.rows, self.rounds = model, shape, rows, rounds
        self.device = str(model.device)
        self.hooks = HuggingFaceHooks(copy.deepcopy(model), PEER_ROWS)
        self.peers = [
            self.hooks,
            TransformerLens(copy.deepcopy(model), PEER_ROWS),
            NNsight(copy.deepcopy(model), PEER_ROWS),
        ]
        self.twin = SlowTwin(copy.deepcopy(model), PEER_ROWS)
        self.anatomy = self.twin.anatomy
        self.suffix = Fast(Suffix(self.anatomy), rows)
        self.logit = Fast(Suffix(self.anatomy), rows, logit=True)
        self.difference = Fast(Difference(self.anatomy), rows)
        self.goals: list[Goal] = []

    def tables(self) -> list[Table]:
        parts = [self.neuron_sweep(), self.layer_position(), self.caching(), self.memory(), self.scaling()]
        goals = [(g.what, g.goal, g.measured, "yes" if g.met else "**no**") for g in self.goals]
        return [Table(title="Goals", columns=("what", "goal", "measured", "met"), rows=goals), *parts]

    def sweep(self, n: int) -> NeuronSweep:
        """The first n neurons of the swept layer."""
        layer = self.shape.swept[0]
        values = neuron_values(self.anatomy, self.prompts(DRAWS, seed=2), layer)
        neurons = torch.arange(min(n, self.shape.d_mlp), device=self.device)
        tokens = self.prompts(1, seed=1)
        return NeuronSweep(tokens=tokens, layer=layer, neurons=neurons, draws=values.T[neurons], answer=7)

    def prompts(self, n: int, *, seed: int) -> Tensor:
        return prompts(n, seed=seed, device=self.device, vocabulary=self.shape.vocabulary)

    def neuron_sweep(self) -> Table:
        few, some, many = (self.sweep(n) for n in (PEER_NEURONS, SUFFIX_NEURONS, CURVE_NEURONS))
        exact = Fast(Suffix(Anatomy(copy.deepcopy(self.model).double())), self.rows)
        truth = SlowTwin(exact.anatomy.model, PEER_ROWS).neuron_sweep(few)
        lens = TransformerLens(copy.deepcopy(self.model).double(), PEER_ROWS).neuron_sweep(few)
        work: dict[str, tuple[NeuronSweep, Callable[[], Tensor]]] = {
            way.name: (few, lambda way=way: way.neuron_sweep(few)) for way in (*self.peers, self.twin)
        }
        work[self.logit.name] = (some, lambda: self.logit.neuron_sweep(some))
        for way in (self.suffix, self.difference):
            work[way.name] = (some, lambda way=way: way.neuron_sweep(some))
            work[f"{way.name}, curves"] = (many, lambda way=way: way.curves(many))
        timed = best_of(
            {name: run for name, (_, run) in work.items()}, rounds=self.rounds, device=self.device
        )
        curve = timed[CURVES].result
        effects = {name: _effects(t.result)[: len(truth)] for name, t in timed.items()}
        per_patch = {name: 1e3 * t.seconds / work[name][0].draws.numel() for name, t in timed.items()}
        logits = Fast(Suffix(exact.anatomy), self.rows, logit=True).neuron_sweep(few)
        rows = [
            self._row(
                name,
                work[name][0].draws.numel(),
                per_patch,
                timed[name],
                effects[name],
                logits if name == self.logit.name else truth,
                effects,
            )
            for name in timed
        ]
        self._sweep_goals(per_patch, effects, lens, exact, some)
        rate = f"{float(curve.evaluations.double().mean()):.1f} evaluations for {DRAWS} draws"
        return Table(
            title=f"Single neurons of layer {few.layer}, {DRAWS} draws each: change in log P of one token",
            note=f"Largest effect {number(float(truth.abs().max()))} nats, median {number(float(truth.abs().median()))}; "
            f"curves in difference form take {rate} (random weights). Errors are over {len(truth)} patches, the largest relative "
            "to the largest effect; the reference is the slow twin in float64. Effects this small are at the edge of what "
            "float32 "
            "values resolve (TransformerLens's own as much as ours), which is what the difference form is for. Log P needs "
            "the whole "
            "vocabulary of each patch, the answer's logit one column of it: the others compute both either way.",
            columns=COLUMNS,
            rows=rows,
        )

    def _row(self, name, patches, per_patch, timed: Timing, effects, truth, every) -> tuple[str, ...]:
        lens = every[TransformerLens.name]
        found, beside = error(effects, truth), error(effects, lens)
        same = name != self.logit.name  # a change of a logit is not held to one of log P
        return (
            name,
            f"{patches:,}",
            number(per_patch[name]),
            number(per_patch[TransformerLens.name] / per_patch[name]),
            number(per_patch[HuggingFaceHooks.name] / per_patch[name]),
            number(beside.largest if same else float("nan"), 2),
            number(found.largest, 2),
            number(found.median_relative, 2),
            f"{found.rank_correlation:.6f}",
            number(timed.mb),
        )

    def _sweep_goals(self, per_patch, effects, lens: Tensor, exact: Fast, some: NeuronSweep) -> None:
        slow, hooks = per_patch[TransformerLens.name], per_patch[HuggingFaceHooks.name]
        self._at_least("neuron sweep by curves / TransformerLens", 100, slow / per_patch[CURVES])
        self._at_least("suffix, every draw / TransformerLens", 10, slow / per_patch["suffix"])
        chosen = slow / per_patch[self.logit.name]
        self._at_least("suffix, every draw, the answer's logit alone / TransformerLens", 10, chosen)
        self._at_least("suffix, every draw / Hugging Face hooks", 6, hooks / per_patch["suffix"])
        beside = error(effects[CURVES], lens).largest
        self._at_most(
            "curves and TransformerLens in float64: largest difference / largest effect", 1e-4, beside
        )
        by_curve = self.difference.curves(some).effects
        certain = error(by_curve, exact.neuron_sweep(some).unflatten(0, by_curve.shape)).largest
        self._at_most(f"curves and the suffix in float64, {by_curve.numel():,} patches", 1e-4, certain)

    def layer_position(self) -> Table:
        work = LayerPosition(
            tokens=self.prompts(PATCHED_PROMPTS, seed=3),
            donors=self.prompts(PATCHED_PROMPTS, seed=4),
            answers=torch.tensor([7, 9], device=self.device),
        )
        ways = [*self.peers, self.suffix]
        timed = best_of(
            {way.name: lambda way=way: way.layer_position(work) for way in ways}, rounds=1, device=self.device
        )
        exact = Fast(Suffix(Anatomy(copy.deepcopy(self.model).double())), self.rows).layer_position(work)
        clean = self.hooks.model(work.tokens).logits[:, END, work.answers]
        base = (clean[:, 0] - clean[:, 1]).cpu()
        effects = {name: t.result.cpu() - base for name, t in timed.items()}
        per_patch = {name: 1e3 * t.seconds / exact.numel() for name, t in timed.items()}
        rows = [
            self._row(name, exact.numel(), per_patch, t, effects[name], exact.cpu() - base, effects)
            for name, t in timed.items()
        ]
        ratio = per_patch[TransformerLens.name] / per_patch["suffix"]
        self._at_least("layer x position patching / TransformerLens", 6, ratio)
        return Table(
            title=f"Residual stream by layer and position, {PATCHED_PROMPTS} prompts of {work.tokens.shape[1]} tokens",
            note="Every layer and position, prompts as one batch; TransformerLens by its own "
            "`get_act_patch_resid_pre`. Reference: the suffix in float64.",
            columns=COLUMNS,
            rows=rows,
        )

    def caching(self) -> Table:
        tokens = self.prompts(CACHED_PROMPTS, seed=5)
        work: dict[str, Callable] = {"Hugging Face body, nothing read": lambda: self.hooks.body(tokens)}
        readers = [self.peers[1], self.peers[2], self.twin]
        work |= {reader.name: lambda reader=reader: reader.cache(tokens) for reader in readers}
        timed = best_of(work, rounds=3 * self.rounds, device=self.device)
        body = timed["Hugging Face body, nothing read"].seconds
        ours = timed[self.twin.name].result
        rows = []
        for name, t in timed.items():
            largest = float("nan")
            if isinstance(t.result, dict):
                largest = max(float((t.result[k] - ours[k]).abs().max() / ours[k].abs().max()) for k in ours)
            rows.append(
                (
                    name.replace("slow twin", "trace.run"),
                    number(t.seconds),
                    number(t.seconds / body),
                    number(largest, 2),
                    number(t.mb),
                )
            )
        self._at_most(
            "caching by trace.run / bare Hugging Face body", 1.10, timed[self.twin.name].seconds / body
        )
        return Table(
            title=f"Caching resid_post, attn_out, mlp_out and z of every layer, {CACHED_PROMPTS} prompts",
            note="At the final name token and END. Differences are from trace.run, relative to the largest activation.",
            columns=("way", "seconds", "of the body alone", "largest difference", "peak MB"),
            rows=rows,
        )

    def memory(self) -> Table:
        table, growth = scaling.memory(self.anatomy)
        self._at_most("memory of caching to disk, 512 subjects / 128 subjects", 1.05, growth)
        return table

    def scaling(self) -> Table:
        return scaling.scaling(self.suffix, self.shape, self.sweep, rounds=self.rounds)

    def _at_least(self, what: str, goal: float, measured: float) -> None:
        self.goals.append(
            Goal(what=what, goal=f">= {goal:g}", measured=number(measured), met=measured >= goal)
        )

    def _at_most(self, what: str, goal: float, measured: float) -> None:
        self.goals.append(
            Goal(what=what, goal=f"<= {goal:g}", measured=number(measured), met=measured <= goal)
        )


COLUMNS = (
    "way",
    "patches timed",
    "ms a patch",
    "times TransformerLens",
    "times hooks",
    "from TransformerLens",
    "from float64",
    "median relative",
    "rank correlation",
    "peak MB",
)


def _effects(result) -> Tensor:
    return result.flatten() if torch.is_tensor(result) else result.effects.flatten()
