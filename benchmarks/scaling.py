"""How time and memory grow with subjects, layers, neurons and positions."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import torch
from measure import best_of, peak_memory
from ours import Fast
from page import Table, number
from torch import Tensor
from workload import DRAWS, END, NAME, LayerPosition, NeuronSweep, Shape, prompts

from factfinding.engine.capture import Wanted, capture
from factfinding.engine.clean import prepare
from factfinding.engine.readings import LogProbs
from factfinding.engine.suffix import edit_neurons
from factfinding.model.anatomy import Anatomy
from factfinding.store import Source, assemble


def memory(anatomy: Anatomy) -> tuple[Table, float]:
    """Peak memory of caching to disk for more and more subjects, and how far it grows."""
    rows = []
    wanted = [
        Wanted(site=site, role=role)
        for site in ("resid", "attn_out", "mlp_out", "z")
        for role in ("final_name", "end")
    ]
    for n in (128, 512):
        with tempfile.TemporaryDirectory() as folder, peak_memory(str(anatomy.device)) as found:
            table = prompts_table(prompts(n, seed=6, vocabulary=anatomy.d_vocab))
            kept = {"shards": Path(folder) / "shards", "log": lambda _line: None}
            listing = Path(folder) / "listing.h5"
            capture(
                anatomy,
                table,
                wanted,
                listing,
                source=Source(
                    model="random",
                    revision="",
                    dtype="float32",
                    condition="full",
                    code="",
                    stored="float32",
                ),
                batch_size=32,
                shard_rows=64,
                attributes={},
                **kept,
            )
            assemble(Path(folder) / "activations.h5", table, [listing], **kept)
        rows.append((f"{n:,}", f"{found.peak:.0f}"))
    growth = float(rows[1][1]) / float(rows[0][1])
    table = Table(
        title="Memory of caching to disk (batches of 32, shards of 64)",
        note="The whole process, its models included.",
        columns=("subjects", "peak MB"),
        rows=rows,
    )
    return table, growth


def scaling(way: Fast, shape: Shape, sweep: Callable[[int], NeuronSweep], *, rounds: int) -> Table:
    """Time a patch of the suffix by number of subjects, by layer, by number of neurons, and by positions."""
    rows = []
    for subjects in (1, 4, 16):
        t = best_of(
            {"": lambda n=subjects: run_subjects(way, n, neurons=32, layer=shape.swept[0])},
            rounds=rounds,
        )[""]
        rows.append(("suffix", f"{subjects} subjects, 32 neurons, layer {shape.swept[0]}", t.result, t))
    for layer in range(0, shape.layers, max(shape.layers // 4, 1)):
        t = best_of({"": lambda i=layer: run_subjects(way, 4, neurons=32, layer=i)}, rounds=rounds)[""]
        rows.append(("suffix", f"4 subjects, 32 neurons, layer {layer}", t.result, t))
    for neurons in (64, 256, 1024):
        work = sweep(neurons)
        t = best_of({"": lambda w=work: way.curves(w).effects.numel()}, rounds=1)[""]
        rows.append(
            ("suffix, curves", f"1 subject, {len(work.neurons)} neurons x {DRAWS} draws", t.result, t)
        )
    for what, first in (("prompts differ everywhere", 1), ("prompts differ in the name only", NAME - 2)):
        pairs = name_pairs(4, first, way.anatomy)
        t = best_of({"": lambda p=pairs: way.layer_position(p).numel()}, rounds=1)[""]
        rows.append(("suffix", f"layer x position, 4 {what}", t.result, t))
    return Table(
        title="Scaling",
        note="Layer x position: a position whose residual is the donor's already is not run, its effect is exactly zero; "
        "with prompts of one template that is every position before the name.",
        columns=("way", "work", "patches", "ms a patch", "peak MB"),
        rows=[(name, what, f"{n:,}", number(1e3 * t.seconds / n), number(t.mb)) for name, what, n, t in rows],
    )


def run_subjects(way: Fast, subjects: int, *, neurons: int, layer: int) -> int:
    """Set neurons of several subjects to zero; returns the number of patches."""
    device = way.anatomy.device
    clean = prepare(
        way.anatomy, prompts(subjects, seed=7, device=str(device), vocabulary=way.anatomy.d_vocab), start=NAME
    )
    prompt = torch.arange(subjects, device=device).repeat_interleave(neurons)
    neuron = torch.arange(neurons, device=device).repeat(subjects)
    reading = LogProbs(at=END, tokens=torch.tensor([7], device=device))
    for start in range(0, len(prompt), way.rows):
        part = slice(start, start + way.rows)
        value = torch.zeros(len(prompt[part]), device=device)
        edits = edit_neurons(
            way.anatomy,
            clean,
            layer=layer,
            at=NAME,
            prompt=prompt[part],
            neuron=neuron[part],
            value=value,
        )
        way.engine.effects(clean, edits, reading)
    return len(prompt)


def name_pairs(n: int, first: int, anatomy: Anatomy) -> LayerPosition:
    """Prompts whose donors differ from position `first` to the name, or everywhere for first = 1 (behind BOS)."""
    device = str(anatomy.device)
    tokens, donors = (prompts(n, seed=s, device=device, vocabulary=anatomy.d_vocab) for s in (3, 4))
    if first > 1:
        donors[:, :first], donors[:, NAME + 1 :] = tokens[:, :first], tokens[:, NAME + 1 :]
    return LayerPosition(tokens=tokens, donors=donors, answers=torch.tensor([7, 9], device=device))


def prompts_table(tokens: Tensor) -> pl.DataFrame:
    """Tokens as the prompts table that `capture` takes."""
    n, length = tokens.shape
    names = [str(i) for i in range(n)]
    columns = {"subject": names, "answer": names, "token_ids": tokens.tolist(), "n_tokens": [length] * n}
    return pl.DataFrame({**columns, "first_name": [NAME - 1] * n, "final_name": [NAME] * n, "end": [END] * n})
