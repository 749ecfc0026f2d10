"""Sweeps over neurons of a small random model: in a test, or in a process that a test kills."""

from __future__ import annotations

import random

import polars as pl
import torch

from factfinding.engine.suffix import Suffix
from factfinding.engine.sweep import Sweeping
from factfinding.engine.sweep_neurons import Donors, neuron_sweep

ANSWERS = ("baseball", "basketball", "football")


def quiet(_message):
    pass


def make_prompts(n=4, lengths=(8, 9)):
    """Random prompts with a name of two tokens and four tokens after it."""
    draw = random.Random(0)
    rows = []
    for i in range(n):
        length = lengths[i % len(lengths)]
        final = length - 5
        rows.append(
            {
                "subject": f"A{i}",
                "answer": ANSWERS[i % 3],
                "token_ids": [draw.randrange(360) for _ in range(length)],
                "roles": ["bos"]
                + ["fact"] * (final - 2)
                + ["first_name", "final_name"]
                + ["relation"] * 3
                + ["end"],
                "n_tokens": length,
                "first_name": final - 1,
                "final_name": final,
                "end": length - 1,
                "target": 10 + i % 3,
            }
        )
    return pl.DataFrame(rows)


PROMPTS = make_prompts()


def make_donors(anatomy, n=9):
    pool = torch.randn(n, anatomy.d_mlp, generator=torch.Generator().manual_seed(5), dtype=torch.float64) / 2
    return Donors(
        subjects=[f"D{i}" for i in range(n)],
        answers=[ANSWERS[i % 3] for i in range(n)],
        values=lambda layer, role: (pool + layer / 10).to(anatomy.dtype),
    )


def sweep_neurons(anatomy, index, **options):
    options = {"engine": Suffix(anatomy), "tolerance": 0.0, "log": quiet, "model": "m", **options}
    return neuron_sweep(anatomy, PROMPTS, index, make_donors(anatomy), Sweeping(**options))
