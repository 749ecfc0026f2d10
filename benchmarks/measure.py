"""Time, memory, errors, and where it was measured."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from factfinding.stats import spearman

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True, eq=False)
class Timing:
    """The best of some rounds, what the work gave, and how far it raised memory (MB); the slowest round beside it."""

    seconds: float
    result: Any
    mb: float
    slowest: float


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Clock:
    """What time is taken by: the wall clock, or the processor time of this process (all its threads together), which
    a machine that is busy with other things distorts less. One setting for a whole run."""

    read = staticmethod(time.perf_counter)

    @classmethod
    def use(cls, name: str) -> None:
        cls.read = staticmethod(CLOCKS[name])


def best_of(work: Mapping[str, Callable[[], Any]], *, rounds: int, device: str = "cpu") -> dict[str, Timing]:
    """Time all by turns, round after round, so that a busy moment of the machine does not fall on one of them.

    The fastest round of each counts: what else the machine does can only slow a round down.
    """
    best: dict[str, Timing] = {}
    slowest = dict.fromkeys(work, 0.0)
    for _ in range(rounds):
        for name, function in work.items():
            with peak_memory(device) as memory:
                start = Clock.read()
                result = function()
                synchronize(device)
                seconds = Clock.read() - start
            slowest[name] = max(slowest[name], seconds)
            if name not in best or seconds < best[name].seconds:
                best[name] = Timing(seconds=seconds, result=result, mb=memory.mb, slowest=seconds)
    return {name: replace(timing, slowest=slowest[name]) for name, timing in best.items()}


def time_of(function: Callable[[], Any], *, rounds: int, device: str) -> Timing:
    """One piece of work that has been warmed up before, by `best_of`."""
    synchronize(device)
    return best_of({"": function}, rounds=rounds, device=device)[""]


def free() -> None:
    """Give a GPU's memory back that no tensor uses any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


@contextmanager
def peak_memory(device: str = "cpu") -> Iterator[SimpleNamespace]:
    """How far memory rose above what was in use before, in MB (`.mb` once the block is left), and the peak (`.peak`).

    Of the process on Linux, where the high-water mark can be set back; of the allocator on a GPU.
    """
    found = SimpleNamespace(mb=float("nan"), peak=float("nan"))
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield found
        found.peak = torch.cuda.max_memory_allocated() / 1e6
        found.mb = found.peak - before / 1e6
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    except OSError:
        yield found
        return
    yield found
    found.peak = _status("VmHWM") / 1e3
    found.mb = max(found.peak - before / 1e3, 0)


def _status(name: str) -> int:
    """A size of this process in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@dataclass(frozen=True, kw_only=True)
class Error:
    """How far effects lie from a reference, on n patches."""

    n: int
    largest: float  # largest difference over the largest effect
    median_relative: float
    rank_correlation: float


def error(effects: Tensor, reference: Tensor) -> Error:
    x, y = (t.detach().double().cpu().numpy().ravel() for t in (effects, reference))
    difference, size = np.abs(x - y), np.abs(y)
    return Error(
        n=len(x),
        largest=float(difference.max() / size.max()),
        median_relative=float(np.median(difference[size > 0] / size[size > 0])),
        rank_correlation=spearman(x, y),
    )


def machine(device: str, threads: int, commit: str | None = None) -> list[str]:
    """Where and with what it was measured, a line each; `commit` where there is no repository to ask."""
    lines = [f"processor: {_processor()}, {os.cpu_count()} cores, {threads} threads used"]
    if device.startswith("cuda"):
        total = torch.cuda.get_device_properties(0).total_memory / 2**30
        driver = gpu_state("driver_version")
        lines.append(
            f"GPU: {torch.cuda.get_device_name()}, {total:.0f} GiB, driver {driver}, CUDA {torch.version.cuda}"
        )
        lines.append(f"clocks before: {gpu_state(*CLOCK_STATE)}; highest: {gpu_state('clocks.max.sm')}")
    packages = ("torch", "triton", "transformers", "transformer-lens", "nnsight")
    lines.append(
        "versions: python " + platform.python_version() + "".join(f", {p} {_version(p)}" for p in packages)
    )
    lines.append(f"commit: {commit or _commit()}")
    lines.append(f"date: {time.strftime('%Y-%m-%d', time.gmtime())}")
    return lines


CLOCK_STATE = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw")


def gpu_state(*what: str) -> str:
    """What nvidia-smi says of the GPU now, for these fields of its own names; "not known" where it cannot be asked."""
    ask = ["nvidia-smi", f"--query-gpu={','.join(what)}", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(ask, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "not known"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except ImportError:
        return "not installed"


def _commit() -> str:
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + (" with changes not committed" if changed else "")
