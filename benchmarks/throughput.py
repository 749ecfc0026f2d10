"""What a device makes of the neuron sweep: seconds, patches per second, share of its matmul rate, memory, right answers.

Each part writes its rows as they come (`page.Section`). Times are wall clock with the device waited for; every kind
of work runs once before it is timed, so that kernels are loaded, chosen and compiled.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable

import operations
import torch
from measure import Timing, error, gpu_state, synchronize, time_of
from ours import Fast, neuron_values
from page import Section, number
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel
from workload import DRAWS, END, LENGTH, NAME, NeuronSweep, Shape, prompts

from factfinding.engine.difference import Difference
from factfinding.engine.products import Products
from factfinding.engine.shards import first_batch
from factfinding.engine.suffix import Suffix
from factfinding.model.anatomy import Anatomy

SWEPT_PRODUCTS, CHECKED_PRODUCTS = ("bfloat16", "tf32"), ("full", "tf32", "bfloat16")
CHECKED_NEURONS, CHECKED_DRAWS = 256, 4
WARM_NEURONS = 256
CPU_ROWS = 256
GOAL_SECONDS, GOAL_SHARE = 8.0, 0.5
TOLERANCE = {"full": 1e-4, "tf32": 1e-3, "bfloat16": 1e-2}
"""What a curve is asked for: no more than its points are good for, or it would look for structure in their rounding."""
RATE_SIZE = {"cpu": 1024, "cuda": 8192}
COPIED_BYTES = {"cpu": 2**26, "cuda": 2**32}


class Throughput:
    """One subject and one fact: every neuron of the swept layers, DRAWS draws each.

    `rows`: patches in a batch (what a sweep of the workflow begins with on a GPU, unless given). `rounds`: how often each work
    is timed; the fastest counts, the slowest is shown. `batches`: how many batches of every draw are run in each swept layer.
    """

    def __init__(
        self, model: PreTrainedModel, shape: Shape, *, rows: int | None, rounds: int, batches: int
    ) -> None:
        self.shape, self.rounds, self.batches = shape, rounds, batches
        self.anatomy, self.device = Anatomy(model), str(model.device)
        self.kind = model.device.type
        self.rows = rows or (first_batch(self.anatomy, LENGTH // 2) if self.kind == "cuda" else CPU_ROWS)

    def work(self, layer: int, *, neurons: int | None = None, draws: int = DRAWS) -> NeuronSweep:
        """The first neurons of a layer (all, unless a number is given), with values from `draws` other prompts."""
        values = neuron_values(self.anatomy, self._prompts(draws, seed=2), layer)
        chosen = torch.arange(min(neurons or self.shape.d_mlp, self.shape.d_mlp), device=self.device)
        return NeuronSweep(
            tokens=self._prompts(1, seed=1), layer=layer, neurons=chosen, draws=values.T[chosen], answer=7
        )

    def _prompts(self, n: int, *, seed: int) -> Tensor:
        return prompts(n, seed=seed, device=self.device, vocabulary=self.shape.vocabulary)

    def sweep(self, section: Section) -> None:
        """All neurons by curves, and some batches of every draw, in each of the low-precision products."""
        rates = self.rates(section)
        row = section.table(
            f"Neuron sweep, layers {self.shape.swept}, {self.shape.d_mlp:,} neurons x {DRAWS} draws, one subject, one fact",
            (
                "way", "patches", "evaluations", "seconds", "slowest round", "patches/s", "evaluations/s",
                "of its matmul rate", "peak GB", "SM clock after",
            ),
            note=f"Goals: {GOAL_SECONDS:g} s by curves for all layers, {100 * GOAL_SHARE:g} % of the matmul rate measured in this run "
            f"for every draw. The seconds are of {self.rounds} rounds after one to warm up, {self.rows:,} patches in a batch at "
            "most; the share is of the rate of the way's own products, operations counted from shapes. By curves everything is "
            f"timed, the other subjects' values and the slopes with it. Every draw is run on {self.batches} batches of each "
            "swept layer. "
            "Memory is what the work took beside the model. Curves look at their points as they come, so their batches shrink "
            "towards the end.",
        )  # fmt: skip
        for kind in SWEPT_PRODUCTS:
            way = Fast(Difference(self.anatomy, product=kind), self.rows)
            for name, run in (
                (f"curves to {TOLERANCE[kind]:g}", self._by_curves(way, TOLERANCE[kind])),
                ("every draw", self._every_draw(way)),
            ):
                timed = time_of(run, rounds=self.rounds, device=self.device)
                row(f"{way.name}, {name}", *self._cells(timed, rates[kind]))

    def _cells(self, timed: Timing, rate: float) -> tuple[str, ...]:
        patches, evaluations = timed.result
        total, seconds = sum(evaluations.values()), timed.seconds
        done = sum(n * self.operations(layer) for layer, n in evaluations.items())
        return (
            f"{patches:,}", f"{total:,}", number(seconds), number(timed.slowest), f"{patches / seconds:,.0f}",
            f"{total / seconds:,.0f}", f"{100 * done / seconds / rate:.1f} %", number(timed.mb / 1e3),
            self._clock(),
        )  # fmt: skip

    def _clock(self) -> str:
        return gpu_state("clocks.sm") if self.kind == "cuda" else "-"

    def operations(self, layer: int) -> int:
        """Of one patch of this layer, in matrix products."""
        s = self.shape
        return operations.neuron_patch(
            d_model=s.d_model, d_mlp=s.d_mlp, vocabulary=s.vocabulary, layers=s.layers, layer=layer, at=NAME, end=END,
            kv_width=s.d_model * (s.kv_heads or s.heads) // s.heads, gated=s.gated,
        )  # fmt: skip

    def _by_curves(self, way: Fast, tolerance: float) -> Callable[[], tuple[int, dict[int, int]]]:
        """The whole sweep: patches, and evaluations by layer. Warms up on some neurons of the first layer."""
        way.curves(self.work(self.shape.swept[0], neurons=WARM_NEURONS), tolerance=tolerance)

        def run() -> tuple[int, dict[int, int]]:
            found = {layer: way.curves(self.work(layer), tolerance=tolerance) for layer in self.shape.swept}
            patches = sum(curve.effects.numel() for curve in found.values())
            return patches, {layer: int(curve.evaluations.sum()) for layer, curve in found.items()}

        return run

    def _every_draw(self, way: Fast) -> Callable[[], tuple[int, dict[int, int]]]:
        """Some batches of each layer: patches, and evaluations by layer. Warms up on the first layer."""
        neurons = max(self.batches * self.rows // DRAWS, 1)
        works = [self.work(layer, neurons=neurons) for layer in self.shape.swept]
        way.neuron_sweep(works[0])

        def run() -> tuple[int, dict[int, int]]:
            done = {work.layer: len(way.neuron_sweep(work)) for work in works}
            return sum(done.values()), done

        return run

    def rates(self, section: Section) -> dict[str, float]:
        """Operations per second of one large square product, by products; and bytes per second of a copy."""
        row = section.table(
            "Rates measured in this run", ("of", "a second", "slowest round", "SM clock after"),
            note="A large square product of random numbers (a multiply-add counts as two), and a large copy within the "
            "device's memory (bytes read and written).",
        )  # fmt: skip
        n, rates = RATE_SIZE[self.kind], {}
        for kind in CHECKED_PRODUCTS:
            dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
            x, y = (torch.randn(n, n, device=self.device, dtype=dtype) for _ in range(2))
            with Products(kind, self.anatomy.device).settings():
                timed = self._repeated(lambda x=x, y=y: x @ y)
            rates[kind] = 2 * n**3 / timed.seconds
            row(
                f"{kind} products",
                f"{rates[kind] / 1e12:.3g} TFLOP",
                f"{2 * n**3 / timed.slowest / 1e12:.3g} TFLOP",
                self._clock(),
            )
        x = torch.randn(COPIED_BYTES[self.kind] // 4, device=self.device)
        y = torch.empty_like(x)
        timed, moved = self._repeated(lambda: y.copy_(x)), 2 * x.numel() * 4
        row("copy", f"{moved / timed.seconds / 1e12:.3g} TB", f"{moved / timed.slowest / 1e12:.3g} TB", self._clock())  # fmt: skip
        return rates

    def _repeated(self, once: Callable[[], Tensor], times: int = 10) -> Timing:
        """Time of one of several runs in a row, after some to warm up."""
        for _ in range(3):
            once()
        synchronize(self.device)
        timed = time_of(lambda: [once() for _ in range(times)][-1], rounds=3, device=self.device)
        return Timing(
            seconds=timed.seconds / times, slowest=timed.slowest / times, mb=timed.mb, result=timed.result
        )

    def checks(self, section: Section) -> None:
        """Differences and values in each arithmetic against values in float64, on the same patches."""
        work = self.work(self.shape.swept[0], neurons=CHECKED_NEURONS, draws=CHECKED_DRAWS)
        row = section.table(
            "Right answers: against values in float64",
            (
                "way",
                "patches",
                "largest error / largest effect",
                "median relative error",
                "rank correlation",
            ),
            note="`tf32` is the products' arithmetic; values in bfloat16 are the whole model in it, the usual way. On a processor "
            "values have no TF32, and their row is float32 once more.",
        )
        exact = Anatomy(copy.deepcopy(self.anatomy.model).double())
        truth = Fast(Suffix(exact), self.rows).neuron_sweep(work).cpu()
        del exact

        def check(name: str, run: Callable[[], Tensor]) -> None:
            e = error(run().double().cpu(), truth)
            row(
                name,
                f"{e.n:,}",
                number(e.largest, 2),
                number(e.median_relative, 2),
                f"{e.rank_correlation:.6f}",
            )

        for kind in CHECKED_PRODUCTS:
            way = Fast(Difference(self.anatomy, product=kind), self.rows)
            check(f"difference, {kind}", lambda way=way: way.neuron_sweep(work))
        for kind in ("full", "tf32"):
            with Products(kind, self.anatomy.device).settings():
                check(f"values, {kind}", lambda: Fast(Suffix(self.anatomy), self.rows).neuron_sweep(work))
        half = Anatomy(copy.deepcopy(self.anatomy.model).bfloat16())
        check("values, bfloat16", lambda: Fast(Suffix(half), self.rows).neuron_sweep(work))

    def profile(self, section: Section) -> None:
        """Where the time of every draw goes: kernels by group, and the longest of them."""
        for kind in SWEPT_PRODUCTS:
            way = Fast(Difference(self.anatomy, product=kind), self.rows)
            work = self.work(self.shape.swept[0], neurons=max(self.rows // DRAWS, 1))
            times, counts, wall = self._kernels(lambda way=way, work=work: way.neuron_sweep(work))
            total = sum(times.values()) or 1.0
            groups: dict[str, float] = dict.fromkeys(GROUPS, 0.0) | {OTHER: 0.0}
            for name, seconds in times.items():
                groups[group(name)] += seconds
            row = section.table(
                f"Where the time goes: {kind} products, every draw, by group", ("group", "ms", "share"),
                note=f"One batch of {work.draws.numel():,} patches of layer {work.layer}: {number(1e3 * wall)} ms while profiled, "
                f"{number(1e3 * total)} ms of kernels, {sum(counts.values()):,} of them.",
            )  # fmt: skip
            for name, seconds in groups.items():
                row(name, number(1e3 * seconds), f"{100 * seconds / total:.1f} %")
            row = section.table(
                f"Where the time goes: {kind} products, every draw, the longest kernels",
                ("kernel", "group", "calls", "ms", "share"),
            )
            for name in sorted(times, key=times.get, reverse=True)[:LONGEST]:
                share = f"{100 * times[name] / total:.1f} %"
                row(shortened(name), group(name), f"{counts[name]:,}", number(1e3 * times[name]), share)

    def _kernels(self, run: Callable[[], Tensor]) -> tuple[dict[str, float], dict[str, int], float]:
        """Seconds and calls of each kernel (of each operation on a processor), and the wall time; warmed up before."""
        run()
        synchronize(self.device)
        gpu = self.kind == "cuda"
        with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as found:
            start = time.perf_counter()
            run()
            synchronize(self.device)
            wall = time.perf_counter() - start
        events = found.key_averages()
        times = {e.key: (e.self_device_time_total if gpu else e.self_cpu_time_total) / 1e6 for e in events}
        counts = {e.key: e.count for e in events if times[e.key] > 0}
        return {name: seconds for name, seconds in times.items() if seconds > 0}, counts, wall


GROUPS = {
    "matrix products": r"gemm|gemv|cutlass|magma|nvjet|xmma|wgmma|triton_tem|cublas|splitk|"
    r"aten::(mm|bmm|addmm|baddbmm|addmv|mv|dot)_?$",
    "element-wise": r"triton_(poi|red|per|for)|elementwise|reduce|softmax|norm|gelu|difference|"
    r"aten::(add|sub|mul|div|neg|exp|expm1|log|log1p|erfc?|tanh|abs|sqrt|rsqrt|pow|square|sum|mean|a?max|a?min|maximum|minimum|where|"
    r"clamp\w*|reciprocal|addcmul|masked_fill|fill|zero|lt|gt|le|ge|eq|ne|any|all|bitwise\w*|__\w+__|logsumexp|relu|cos|sin)_?$",
    "cat": r"aten::cat$",
}
OTHER, LONGEST = "other", 15


def group(kernel: str) -> str:
    """What kind of work a kernel does, by its name: that of a CUDA kernel, or of an operation on a processor."""
    if re.search(r"CatArray", kernel):  # a template of the same name as element-wise ones
        return "cat"
    return next(
        (name for name, pattern in GROUPS.items() if re.search(pattern, kernel, re.IGNORECASE)), OTHER
    )


def shortened(kernel: str, length: int = 70) -> str:
    """A kernel's name without its return type and name spaces, at most so long, and fit for a table's cell."""
    name = re.sub(r"^void |at::native::|\(anonymous namespace\)::|<unnamed>::", "", kernel)
    return name[:length].replace("|", "/")
