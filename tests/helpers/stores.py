"""Activations of a small random model, captured into a store: in a test, or in a process that a test kills."""

from __future__ import annotations

import polars as pl

from factfinding.data.prompts import prompt_table
from factfinding.engine.capture import Wanted, capture
from factfinding.store import AXES, Source, assemble
from helpers.models import random_anatomy, tokenizer

SOURCE = Source(model="m", revision="", dtype="float32", condition="full", code="c", stored="float32")
NAMES = [
    "Bo Lee",
    "Michael Jordan",
    "Al X",
    "Karl-Anthony Towns",
    "Ann Li",
    "Nikola Jokić",
    "Babe Ruth",
    "Tom Brady",
]
WANTED = [Wanted(site=s, role=r) for s in AXES if s not in ("pre", "post") for r in ("final_name", "end")]
WANTED += [Wanted(site=s, role="final_name", layers=(0, 2)) for s in ("pre", "post")]
TOKENIZER = tokenizer()


def prompts(names, condition="full"):
    frame = pl.DataFrame({"subject": names, "answer": ["baseball"] * len(names)})
    return prompt_table(frame, TOKENIZER, 0, condition)


def store(folder, names, *, jobs=1, log=lambda _: None, **options):
    """The file full.h5 of what so many jobs have stored; returns how many prompts went through the model."""
    listings, table = [folder / f"full_shard_{number}.h5" for number in range(jobs)], prompts(names)
    run = [
        share(table, listing, (number, jobs), shards=folder / "shards", log=log, **options)
        for number, listing in enumerate(listings)
    ]
    assemble(folder / "full.h5", table, listings, shards=folder / "shards", log=log)
    return sum(run)


def share(
    table, listing, number_of_jobs, *, shards, log, source=SOURCE, anatomy=None, batch_size=2, shard_rows=3
):
    """What one of the jobs does."""
    return capture(
        anatomy or random_anatomy("gpt_neox"),
        table,
        WANTED,
        listing,
        source=source,
        shards=shards,
        batch_size=batch_size,
        shard_rows=shard_rows,
        attributes={"note": "test"},
        log=log,
        share=number_of_jobs,
    )
