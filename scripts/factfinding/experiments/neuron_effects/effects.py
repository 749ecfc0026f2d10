"""Do different facts of one subject come from the same neurons? The effect of every lookup neuron on every fact (P3.2).

    asked = ask_facts(anatomy, facts, people, subjects=24, seed=0, batch_size=128)      # which facts are known
    sweep = neuron_effects(anatomy, asked.filter("used"), people, range(2, 7), engine=Suffix(anatomy), draws=64, ...)

Each neuron of the lookup's MLPs is replaced, one at a time, at the final name token; its effect is the change of
log P(answer). Both readings of the posts: `mean`, its mean over the subjects, and `resample_other`, the mean effect of
the values of subjects of another answer. Those values are recorded after the very words that stand before the name in
the fact's prompt, since what follows a name cannot change what is there: one forward pass per subject and prefix.
The 64 effects of a neuron are points on one curve, of which a few are evaluated (engine/sweep_neurons.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import numpy as np
import polars as pl
import torch

from factfinding.data.fact_prompts import donor_prompts, fact_prompts, subject_order
from factfinding.data.folding import folded
from factfinding.engine.answers import answers
from factfinding.engine.batches import Log
from factfinding.engine.capture import positions_of, prompt_batches
from factfinding.engine.difference import Difference
from factfinding.engine.sites import Site
from factfinding.engine.suffix import Suffix
from factfinding.engine.sweep import Engine, Progress, Sweep
from factfinding.engine.sweep_neurons import Donors, neuron_index, neuron_sweep
from factfinding.engine.tokens import tokens_of
from factfinding.engine.trace import Read, run
from factfinding.errors import InputError
from factfinding.known import is_known
from factfinding.model.anatomy import Anatomy

FEWEST = 2
"""A subject with fewer known facts has no pair of facts to compare."""

FACTS = {
    "subject": pl.String,
    "answer": pl.String,
    "fact": pl.String,
    "answer": pl.String,
    "answer_token": pl.String,
    "p": pl.Float64,
    "log_p": pl.Float64,
    "known": pl.Boolean,
    "used": pl.Boolean,
    "left_out": pl.String,
}
"""The table neuron_facts."""

EFFECTS = {
    "subject": pl.String,
    "fact": pl.String,
    "answer_token": pl.String,
    "layer": pl.Int64,
    "neuron": pl.Int64,
    "kind": pl.String,
    "effect": pl.Float64,
    "standard_error": pl.Float64,
    "n": pl.Int64,
    "evaluations": pl.Int64,
    "certificate": pl.Float64,
}
TWIN = {
    "prefix": pl.String,
    "rows": pl.Int64,
    "dtype": pl.String,
    "largest_error": pl.Float64,
    "relative_error": pl.Float64,
    "median_relative_error": pl.Float64,
    "rank_correlation": pl.Float64,
}


def engine_of(anatomy: Anatomy, name: str, product: str = "full") -> Engine:
    """The engine of that name (auto, difference, suffix). auto: differences where the model has that form.

    Raises InputError for `difference` on a model without it.
    """
    if name == "suffix":
        return Suffix(anatomy)
    try:
        return Difference(anatomy, product)
    except InputError:
        if name == "difference":
            raise
        return Suffix(anatomy)


def ask_facts(
    anatomy: Anatomy,
    facts: pl.DataFrame,
    people: pl.DataFrame,
    *,
    subjects: int | None,
    first: Sequence[str] = (),
    known_only: bool = True,
    seed: int,
    batch_size: int,
) -> pl.DataFrame:
    """Facts as prompts (columns of data/fact_prompts.py) with answer (null for subjects not in `people`), p, log_p
    (nats, of the answer's token), known, used. The model must come with its tokenizer. Facts that cannot be asked
    (`left_out` says why) have no p and are not known.

    Subjects are asked in the order of `subject_order` until `subjects` of them know two facts or more (None: everybody
    is asked); these are used, with the facts that they know (all facts, if not `known_only`).
    """
    order = subject_order(facts, first=first, seed=seed)
    wanted, chosen = len(order) if subjects is None else subjects, []
    asked, size = [_asked(anatomy, facts.clear(), batch_size)], wanted
    while order and len(chosen) < wanted:
        now, order = order[:size], order[size:]
        asked.append(_asked(anatomy, facts.filter(pl.col("subject").is_in(now)), batch_size))
        counted = asked[-1].filter("known" if known_only else pl.col("left_out").is_null())
        able = counted.group_by("subject").len().filter(pl.col("len") >= FEWEST)["subject"].to_list()
        chosen += [name for name in now if name in able]
        size *= 2
    chosen = chosen[:wanted]
    used = pl.col("subject").is_in(chosen) & (pl.col("known") if known_only else pl.col("left_out").is_null())
    answers = {folded(name): answer for name, answer in people.select("subject", "answer").iter_rows()}
    found = pl.concat(asked)
    own = [answers.get(folded(name)) for name in found["subject"]]
    return found.with_columns(pl.Series("answer", own, dtype=pl.String), used=used)


def facts_table(asked: pl.DataFrame) -> pl.DataFrame:
    """The table neuron_facts: what was asked, and how sure the model was."""
    return asked.drop("answer").rename({"answer_text": "answer"}).select(list(FACTS))


def neuron_effects(
    anatomy: Anatomy,
    prompts: pl.DataFrame,
    people: pl.DataFrame,
    layers: Sequence[int],
    *,
    engine: Engine,
    draws: int = 64,
    tolerance: float = 1e-4,
    model: str = "",
    folder: Path | None = None,
    twin_rows: int = 16,
    batch_size: int = 128,
    seed: int = 0,
    log: Log = print,
    progress: Progress = lambda done, total: None,
) -> Sweep:
    """Columns subject, fact, answer_token, layer, neuron, kind, effect (nats), standard_error (over the draws; null for `mean`), n
    (draws), evaluations and certificate (of the neuron's curve); every neuron of `layers`, in the order of `prompts`.

    prompts: rows of `ask_facts`, at least columns subject, answer, fact, answer_token, prefix, token_ids, n_tokens,
    final_name, end, answer. people: columns subject, answer: whose values are put in. With people of one answer only, there is no
    `resample_other`. `model`, `folder`: finished pieces are kept there under their content, with the model's digest
    in it. The twin table has one row for each prefix. Empty where there are no prompts, layers or people.
    """
    if prompts.is_empty() or people.is_empty() or not len(layers):
        return Sweep(table=pl.DataFrame(schema=EFFECTS), twin=pl.DataFrame(schema=TWIN))
    kinds = {"mean": 1} | ({"resample_other": draws} if people["answer"].n_unique() > 1 else {})
    tables, twins = [], []
    for (prefix,), part in prompts.with_row_index("_row").group_by("prefix", maintain_order=True):
        index = neuron_index(
            prompts=range(part.height), layers=layers, neurons=range(anatomy.d_mlp), kinds=kinds
        )
        sweep = neuron_sweep(
            anatomy, part, index, donors_after(anatomy, people, prefix, layers, batch_size=batch_size),
            engine=engine, model=model, folder=folder, tolerance=tolerance, seed=seed,
            twin_rows=ceil(twin_rows * part.height / prompts.height), log=log, progress=progress,
        )  # fmt: skip
        about = (
            part.select("_row", "subject", "fact", "answer_token")
            .with_row_index("prompt")
            .cast({"prompt": pl.Int64})
        )
        tables.append(sweep.table.join(about, on="prompt", how="left", maintain_order="left"))
        twins.append(sweep.twin.with_columns(prefix=pl.lit(prefix)))
    table = pl.concat(tables).sort("_row", maintain_order=True).select(list(EFFECTS)).cast(EFFECTS)
    twin = pl.concat(
        [pl.DataFrame(schema=TWIN), *(frame.select(list(TWIN)) for frame in twins if frame.height)]
    )
    return Sweep(table=table, twin=twin)


def donors_after(
    anatomy: Anatomy, people: pl.DataFrame, prefix: str, layers: Sequence[int], *, batch_size: int
) -> Donors:
    """People as donors: the post-activations of `layers` at the final token of their names after `prefix`."""
    prompts = donor_prompts(people, prefix, anatomy.tokenizer, anatomy.bos_token_id)
    values = {layer: torch.empty(prompts.height, anatomy.d_mlp, dtype=anatomy.dtype) for layer in layers}
    for rows in prompt_batches(prompts, range(prompts.height), batch_size):
        at = positions_of(prompts, rows, "final_name", anatomy.device)
        reads = [Read(site=Site("post", layer), at=at) for layer in layers]
        found = run(anatomy, tokens_of(prompts, rows, anatomy.device), reads=reads).values
        for layer, value in zip(layers, found, strict=True):
            values[layer][rows] = value.cpu()
    return Donors(
        subjects=prompts["subject"].to_list(),
        answers=prompts["answer"].to_list(),
        values=lambda layer, role: values[layer],
    )


def shard_layers(lookup: tuple[int, int] | None, shard: int, shards: int) -> list[int]:
    """The layers of a shard: every `shards`-th of the lookup's, from its `shard`-th on."""
    return [] if lookup is None else list(range(lookup[0] + shard, lookup[1] + 1, shards))


def _asked(anatomy: Anatomy, facts: pl.DataFrame, batch_size: int) -> pl.DataFrame:
    """Facts as prompts, with what the model gives each answer's token; nothing where there is none to ask for."""
    every = fact_prompts(facts, anatomy.tokenizer, anatomy.bos_token_id)
    prompts = every.filter(pl.col("left_out").is_null())
    tokens = prompts["answer"].unique().sort()
    said = answers(anatomy, prompts, tokens.to_list(), batch_size=batch_size).logp
    logp = said[np.arange(prompts.height), tokens.search_sorted(prompts["answer"]).to_numpy()]
    measured = prompts.select("subject", "fact", p=pl.Series(np.exp(logp)), log_p=pl.Series(logp))
    found = every.join(measured, on=["subject", "fact"], how="left", maintain_order="left")
    return found.with_columns(known=is_known(pl.col("p")).fill_null(False))
