"""What a GPU makes of the neuron sweep: patches per second, share of its matmul rate, memory, and right answers."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch
from measure import best_of, error, peak_memory, synchronize
from ours import Fast, neuron_values
from page import Table, number
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPTNeoXForCausalLM
from workload import DRAWS, NeuronSweep, Shape, prompts

from factfinding.engine.difference import Difference
from factfinding.engine.products import PRODUCTS
from factfinding.engine.suffix import Suffix
from factfinding.model.anatomy import Anatomy

CHECKED_NEURONS, CHECKED_DRAWS, PROFILED_NEURONS = 256, 4, 64
GOAL_SECONDS, GOAL_SHARE = 30.0, 0.5
TOLERANCE = {"full": 1e-4, "tf32": 1e-3, "bfloat16": 1e-2}
"""What a curve is asked for: no more than its points are good for, or it would look for structure in their rounding."""


class Throughput:
    """One athlete and one fact: every neuron of the swept layers, DRAWS draws each."""

    def __init__(self, model: GPTNeoXForCausalLM, shape: Shape, *, rows: int) -> None:
        self.shape, self.rows, self.anatomy = shape, rows, Anatomy(model)
        self.device = str(model.device)

    def tables(self) -> list[Table]:
        rate = self.matmul_rates()
        return [self.sweeps(rate["bfloat16"]), self.checks(), self.profile(), rate_table(rate)]

    def sweep(self, layer: int, *, neurons: int | None = None, draws: int = DRAWS) -> NeuronSweep:
        values = neuron_values(self.anatomy, prompts(draws, seed=2, device=self.device), layer)
        chosen = torch.arange(neurons or self.shape.d_mlp, device=self.device)
        tokens = prompts(1, seed=1, device=self.device)
        return NeuronSweep(tokens=tokens, layer=layer, neurons=chosen, draws=values.T[chosen], answer=7)

    def matmul_rates(self) -> dict[str, float]:
        """Multiply-adds times two per second of one large square product, by precision."""
        n = 8192 if self.device.startswith("cuda") else 1024
        rates = {}
        for name, dtype, tf32 in (
            ("bfloat16", torch.bfloat16, False),
            ("TF32", torch.float32, True),
            ("float32", torch.float32, False),
        ):
            x = torch.randn(n, n, device=self.device, dtype=dtype)
            with tf32_products(tf32):
                timed = best_of({name: lambda x=x: [x @ x for _ in range(5)]}, rounds=3, device=self.device)[
                    name
                ]
            rates[name] = 5 * 2 * n**3 / timed.seconds
        return rates

    def sweeps(self, peak: float) -> Table:
        rows = []
        for product in reversed(PRODUCTS):
            way = Fast(Difference(self.anatomy, product=product), self.rows)
            flops = self._flops_per_evaluation(way)
            for name, run in (
                (
                    f"curves to {TOLERANCE[product]:g}",
                    lambda way, t=TOLERANCE[product]: self._by_curves(way, t),
                ),
                ("every draw", self._every_draw),
            ):
                with peak_memory(self.device) as memory:
                    synchronize(self.device)
                    start = time.perf_counter()
                    patches, evaluations = run(way)
                    synchronize(self.device)
                    seconds = time.perf_counter() - start
                share = flops * evaluations / seconds / peak
                rows.append(
                    (
                        f"{way.name}, {name}",
                        f"{patches:,}",
                        f"{evaluations:,}",
                        number(seconds),
                        f"{patches / seconds:,.0f}",
                        f"{evaluations / seconds:,.0f}",
                        f"{100 * share:.1f} %",
                        number(memory.mb / 1e3),
                    )
                )
        return Table(
            title=f"Neuron sweep, layers {self.shape.swept}, {self.shape.d_mlp:,} neurons x {DRAWS} draws, one athlete, one fact",
            note=f"Goals: {GOAL_SECONDS:g} s by curves for all layers, {100 * GOAL_SHARE:g} % of the bfloat16 matmul rate measured "
            "in this run. Every draw is run on a part of one layer. Curves look at their points as they come, so their batches "
            "shrink towards the end.",
            columns=(
                "way",
                "patches",
                "evaluations",
                "seconds",
                "patches/s",
                "evaluations/s",
                "of bf16 matmul rate",
                "peak GB",
            ),
            rows=rows,
        )

    def _by_curves(self, way: Fast, tolerance: float) -> tuple[int, int]:
        patches = evaluations = 0
        for layer in self.shape.swept:
            found = way.curves(self.sweep(layer), tolerance=tolerance)
            patches += found.effects.numel()
            evaluations += int(found.evaluations.sum())
        return patches, evaluations

    def _every_draw(self, way: Fast) -> tuple[int, int]:
        n = way.neuron_sweep(
            self.sweep(self.shape.swept[0], neurons=min(self.shape.d_mlp, 8 * self.rows // DRAWS))
        ).numel()
        return n, n

    def _flops_per_evaluation(self, way: Fast) -> float:
        """Counted over a batch, averaged over the swept layers; the clean run, shared by all, is left out."""
        total = 0.0
        for layer in self.shape.swept:
            counts = []
            for neurons in (1, 1 + max(self.rows // DRAWS, 1)):
                with FlopCounterMode(display=False) as counter:
                    way.neuron_sweep(self.sweep(layer, neurons=neurons))
                counts.append(counter.get_total_flops())
            total += (counts[1] - counts[0]) / (max(self.rows // DRAWS, 1) * DRAWS)
        return total / len(self.shape.swept)

    def checks(self) -> Table:
        """Every arithmetic against the suffix in float64, and bfloat16 the usual way for contrast."""
        work = self.sweep(
            self.shape.swept[0], neurons=min(CHECKED_NEURONS, self.shape.d_mlp), draws=CHECKED_DRAWS
        )
        ways: dict[str, Callable[[], Tensor]] = {
            f"difference, {p}": lambda p=p: Fast(Difference(self.anatomy, product=p), self.rows).neuron_sweep(
                work
            )
            for p in PRODUCTS
        }
        ways["values (suffix), float32"] = lambda: Fast(Suffix(self.anatomy), self.rows).neuron_sweep(work)
        found = {name: run().double().cpu() for name, run in ways.items()}
        half = Anatomy(copy.deepcopy(self.anatomy.model).bfloat16())
        found["values (suffix), bfloat16"] = Fast(Suffix(half), self.rows).neuron_sweep(work).double().cpu()
        del half
        exact = Anatomy(copy.deepcopy(self.anatomy.model).double())
        truth = Fast(Suffix(exact), self.rows).neuron_sweep(work).cpu()
        rows = []
        for name, effects in found.items():
            e = error(effects, truth)
            cells = (number(e.largest, 2), number(e.median_relative, 2), f"{e.rank_correlation:.6f}")
            rows.append((name, f"{e.n:,}", *cells))
        return Table(
            title="Right answers: against float64",
            columns=(
                "way",
                "patches",
                "largest error / largest effect",
                "median relative error",
                "rank correlation",
            ),
            rows=rows,
        )

    def profile(self) -> Table:
        """Where the time goes, by operation."""
        way = Fast(Difference(self.anatomy, product="bfloat16"), self.rows)
        work = self.sweep(self.shape.swept[0], neurons=min(PROFILED_NEURONS, self.shape.d_mlp))
        way.neuron_sweep(work)
        gpu = self.device.startswith("cuda")
        with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as found:
            way.neuron_sweep(work)
        times = {
            e.key: e.self_device_time_total if gpu else e.self_cpu_time_total for e in found.key_averages()
        }
        total = sum(times.values()) or 1.0
        top = sorted(times.items(), key=lambda item: -item[1])[:8]
        rows = [(name[:60], f"{100 * time / total:.1f} %") for name, time in top]
        return Table(
            title="Where the time goes (bfloat16, every draw)", columns=("operation", "share"), rows=rows
        )


def rate_table(rates: dict[str, float]) -> Table:
    rows = [(name, number(rate / 1e12)) for name, rate in rates.items()]
    return Table(title="Matmul rate measured in this run", columns=("precision", "TFLOP/s"), rows=rows)


class tf32_products:
    """TF32 for float32 products on or off, for a while."""

    def __init__(self, on: bool) -> None:
        self.on = on

    def __enter__(self) -> None:
        self.before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = self.on

    def __exit__(self, *_exception) -> None:
        torch.backends.cuda.matmul.allow_tf32 = self.before
