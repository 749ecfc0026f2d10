"""The neuron sweep by other tools and by ours, on one device with the same weights, prompts and patches.

Tools that cannot be imported are named and left out. One copy of the model at a time lies beside ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from measure import Timing, error, free, time_of
from ours import Fast, SlowTwin
from page import Section, number
from peers import HuggingFaceHooks, NNsight, TransformerLens
from throughput import TOLERANCE, WARM_NEURONS, Throughput
from torch import Tensor
from transformers import PreTrainedModel
from workload import DRAWS, NeuronSweep

from factfinding.engine.difference import Difference
from factfinding.engine.products import Products
from factfinding.engine.suffix import Suffix
from factfinding.model.anatomy import Anatomy

TOOLS = {TransformerLens: "transformer_lens", NNsight: "nnsight"}
PRODUCTS = {"cpu": ("full",), "cuda": ("tf32", "bfloat16")}
"""Of differences. A processor has no faster ones."""
PEER_ROWS = {"cpu": 64, "cuda": 256}
"""Patches in a batch of theirs: the whole model over whole prompts, and the logits of every position."""
PEER_NEURONS, OUR_NEURONS, CURVE_NEURONS = (
    {"cpu": 2, "cuda": 16}, {"cpu": 8, "cuda": 64}, {"cpu": 256, "cuda": 10240},
)  # fmt: skip
"""Neurons that the others, ours draw by draw, and ours by curves are timed on."""


def missing() -> list[str]:
    """The other tools that this Python cannot import."""
    return [module for module in TOOLS.values() if find_spec(module) is None]


class Beside:
    """Times a patch by each way, and how far its effects lie from float64."""

    def __init__(self, all_of: Throughput, section: Section) -> None:
        self.all_of, self.section, self.kind = all_of, section, all_of.kind
        self.model, self.device, self.rounds = all_of.anatomy.model, all_of.device, all_of.rounds
        layer = all_of.shape.swept[0]
        self.few = all_of.work(layer, neurons=PEER_NEURONS[self.kind])
        self.more = all_of.work(layer, neurons=OUR_NEURONS[self.kind])
        self.many = all_of.work(layer, neurons=CURVE_NEURONS[self.kind])
        self.known: dict[str, float] = {}  # ms a patch of what is measured, by name

    def measure(self) -> None:
        """Every tool that is here, then ours; a row each as it comes."""
        left_out = set(TOOLS.values()) if self.all_of.shape.gated else set(missing())
        why = "here only for GPT-NeoX" if self.all_of.shape.gated else "not importable by this Python"
        for module in sorted(left_out):
            self.section.say(f"{module}: {why}, left out")
        self.truth = self._truth()
        self.row = self.section.table(
            f"Beside other tools: single neurons of layer {self.few.layer}, {DRAWS} draws each, change in log P of one token",
            (
                "way", "patches timed", "ms a patch", "slowest round", "times TransformerLens", "times hooks", "from float64",
                "median relative", "rank correlation", "peak GB",
            ),
            note=f"The others run the whole model for each patch, {PEER_ROWS[self.kind]} patches in a batch; the fastest of "
            f"{self.rounds} rounds after one to warm up. `tf32`: the same with float32 products on TF32 units (a processor has "
            "none). `times TransformerLens` and `times hooks` are beside them in float32. "
            f"Errors are over {len(self.truth):,} patches, the "
            "largest relative to "
            "the largest effect; the reference is the suffix in float64.",
        )  # fmt: skip
        for tool in (TransformerLens, HuggingFaceHooks, NNsight):
            if TOOLS.get(tool) not in left_out:
                self._theirs(tool)
        self._theirs(SlowTwin)
        self._ours()

    def _theirs(self, tool: type) -> None:
        with self.section.attempt(tool.name), copy_of(self.model) as model:
            way = tool(model, PEER_ROWS[self.kind])
            for kind, said in {"full": "float32", "tf32": "tf32"}.items():
                if kind != "full" and self.kind == "cpu":
                    continue
                with Products(kind, self.all_of.anatomy.device).settings():
                    self._time(f"{way.name}, {said}", self.few, way.neuron_sweep)

    def _ours(self) -> None:
        anatomy, rows = self.all_of.anatomy, self.all_of.rows
        self._time("suffix, float32", self.more, Fast(Suffix(anatomy), rows).neuron_sweep)
        for kind in PRODUCTS[self.kind]:
            way = Fast(Difference(anatomy, product=kind), rows)
            self._time(way.name, self.more, way.neuron_sweep)
            warm = self.many.take(WARM_NEURONS)
            self._time(
                f"{way.name}, curves", self.many,
                lambda work, way=way, kind=kind: way.curves(work, tolerance=TOLERANCE[kind]).effects.flatten(), warm,
            )  # fmt: skip

    def _time(
        self, name: str, work: NeuronSweep, run: Callable[[NeuronSweep], Tensor], warm: NeuronSweep | None = None
    ) -> None:  # fmt: skip
        run(warm or work)
        timed = time_of(lambda: run(work), rounds=self.rounds, device=self.device)
        self.row(name, *self._cells(name, timed, len(timed.result)))

    def _cells(self, name: str, timed: Timing, patches: int) -> tuple[str, ...]:
        each = 1e3 * timed.seconds / patches
        self.known[name] = each
        found = error(timed.result.flatten()[: len(self.truth)], self.truth)
        return (
            f"{patches:,}", number(each), number(1e3 * timed.slowest / patches),
            self._times(TransformerLens, each), self._times(HuggingFaceHooks, each), number(found.largest, 2),
            number(found.median_relative, 2), f"{found.rank_correlation:.6f}", number(timed.mb / 1e3),
        )  # fmt: skip

    def _times(self, tool: type, each: float) -> str:
        """How many times as fast as a tool, once that is measured."""
        slow = self.known.get(f"{tool.name}, float32")
        return "-" if slow is None else number(slow / each)

    def _truth(self) -> Tensor:
        with copy_of(self.model, double=True) as model:
            return Fast(Suffix(Anatomy(model)), self.all_of.rows).neuron_sweep(self.few).cpu()


@contextmanager
def copy_of(model: PreTrainedModel, *, double: bool = False) -> Iterator[PreTrainedModel]:
    """The same weights for one tool alone, which may change the model; gone when it is done."""
    copied = copy.deepcopy(model)
    try:
        yield copied.double() if double else copied
    finally:
        del copied
        free()
