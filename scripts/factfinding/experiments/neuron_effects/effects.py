"""Do different facts of one subject come from the same neurons? The effect of every lookup neuron on every fact (P3.2).

    asked = ask_facts(anatomy, facts, people, subjects=24, seed=0, batch_size=128)      # experiments/neuron_facts
    how = Sweeping(engine=Suffix(anatomy), model=digest, folder=shards)
    sweep = neuron_effects(anatomy, asked.filter("used"), people, range(2, 7), how, draws=64)

Each neuron of the lookup's MLPs is replaced, one at a time, at the final name token; its effect is the change of
log P(answer). Both readings of the posts: `mean`, its mean over the subjects, and `resample_other`, the mean effect of
the values of subjects of another answer. Those values are recorded after the very words that stand before the name in
the fact's prompt, since what follows a name cannot change what is there: one forward pass per subject and prefix.
The 64 effects of a neuron are points on one curve, of which a few are evaluated (engine/sweep_neurons.py). Where replacing
every neuron would take too long, some are and the others are estimates (screen.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from factfinding.config import NeuronsConfig
from factfinding.data.fact_prompts import donor_prompts
from factfinding.engine.batches import Batches
from factfinding.engine.capture import positions_of, prompt_batches
from factfinding.engine.sites import Site
from factfinding.engine.sweep import Sweep, Sweeping
from factfinding.engine.sweep_neurons import Donors, neuron_index, neuron_sweep, straight_effects
from factfinding.engine.tokens import tokens_of
from factfinding.engine.trace import Read, run
from factfinding.experiments.neuron_effects.screen import Screen, chosen
from factfinding.least import EVALUATIONS, EXACT_UP_TO
from factfinding.model.anatomy import Anatomy

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
RUN = {name: EFFECTS[name] for name in ("subject", "fact", "layer", "neuron", "kind", "effect")} | {
    "drawn": pl.Boolean,
    "estimate": pl.Float64,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class NeuronEffects:
    """table: the effects. twin: how far a sample of those that were run lies from the slow twin. run: under a screen, the
    neurons that were run, with the estimate that they would have had; else empty."""

    table: pl.DataFrame
    twin: pl.DataFrame
    run: pl.DataFrame


def multiplications(anatomy: Anatomy, prompts: pl.DataFrame, layers: Sequence[int]) -> float:
    """What replacing every neuron takes: each runs the layers above it, from its position to END, at the points of its curve."""
    weights = sum(weight.numel() for weight in anatomy.blocks[0].module.parameters())
    above = sum(anatomy.n_layers - layer for layer in layers)
    positions = (prompts["end"] - prompts["final_name"] + 1).sum()
    return float(weights) * above * anatomy.d_mlp * positions * EVALUATIONS


def screen_of(
    anatomy: Anatomy, prompts: pl.DataFrame, layers: Sequence[int], section: NeuronsConfig
) -> Screen | None:
    """The screen that `neurons.screen` asks for; None where every neuron is replaced. layers: those of all jobs together."""
    if section.screen == "never":
        return None
    if section.screen == "auto" and multiplications(anatomy, prompts, layers) <= EXACT_UP_TO:
        return None
    return Screen(largest=section.screen_largest, sample=section.screen_sample, seed=section.seed)


def neuron_effects(
    anatomy: Anatomy,
    prompts: pl.DataFrame,
    people: pl.DataFrame,
    layers: Sequence[int],
    how: Sweeping,
    *,
    draws: int = 64,
    batch_size: int = 128,
    screen: Screen | None = None,
) -> NeuronEffects:
    """Columns subject, fact, answer_token, layer, neuron, kind, effect (nats), standard_error (over the draws; null for
    `mean`), n (draws), evaluations and certificate (of the neuron's curve; 0 and null where the effect is an estimate); every
    neuron of `layers`, in the order of `prompts`.

    prompts: rows of `ask_facts`, at least columns subject, answer, fact, answer_token, prefix, token_ids, n_tokens,
    final_name, end, target. people: columns subject, answer: whose values are put in. With people of one answer only, there
    is no `resample_other`. The twin table has one row for each prefix. Empty where there are no prompts, layers or people.
    """
    found = NeuronEffects(
        table=pl.DataFrame(schema=EFFECTS), twin=pl.DataFrame(schema=TWIN), run=pl.DataFrame(schema=RUN)
    )
    if prompts.is_empty() or people.is_empty() or not len(layers):
        return found
    kinds = {"mean": 1} | ({"resample_other": draws} if people["answer"].n_unique() > 1 else {})
    tables, twins, runs = [], [found.twin], [found.run]
    for (prefix,), part in prompts.with_row_index("_row").group_by("prefix", maintain_order=True):
        index = neuron_index(
            prompts=range(part.height), layers=layers, neurons=range(anatomy.d_mlp), kinds=kinds
        )
        donors = donors_after(anatomy, people, prefix, layers, batch_size=batch_size)
        own = replace(how, twin_rows=ceil(how.twin_rows * part.height / prompts.height))
        about = part.select("_row", "subject", "fact", "answer_token")
        asked = index.join(
            about.with_row_index("prompt").cast({"prompt": pl.Int64}), on="prompt", maintain_order="left"
        )
        if screen is None:
            sweep = neuron_sweep(anatomy, part, index, donors, own)
            swept = pl.concat([asked, sweep.table.drop(index.columns)], how="horizontal")
        else:
            sweep, swept, run = _screened(anatomy, part, asked, donors, own, screen)
            runs.append(run)
        tables.append(swept)
        if sweep.twin.height:
            twins.append(sweep.twin.with_columns(prefix=pl.lit(prefix)).select(list(TWIN)))
    table = pl.concat(tables).sort("_row", maintain_order=True).select(list(EFFECTS)).cast(EFFECTS)
    return NeuronEffects(table=table, twin=pl.concat(twins), run=pl.concat(runs))


def _screened(
    anatomy: Anatomy,
    prompts: pl.DataFrame,
    asked: pl.DataFrame,
    donors: Donors,
    how: Sweeping,
    screen: Screen,
) -> tuple[Sweep, pl.DataFrame, pl.DataFrame]:
    """The sweep of the neurons that the screen chooses; the effects of all; and those that were run, with their estimates.

    asked: the index of all, with subject and fact."""
    index = asked.select("prompt", "layer", "role", "neuron", "kind", "draws")
    estimates = pl.concat([asked, straight_effects(anatomy, prompts, index, donors, how)], how="horizontal")
    where = ["subject", "fact", "layer", "neuron"]
    joined = estimates.join(chosen(estimates, screen), on=where, how="left", maintain_order="left")
    run, rest = joined.filter(pl.col("drawn").is_not_null()), joined.filter(pl.col("drawn").is_null())
    sweep = neuron_sweep(anatomy, prompts, run.select(index.columns), donors, how)
    exact = run.select(asked.columns).hstack(sweep.table.drop(index.columns))
    straight = rest.with_columns(evaluations=pl.lit(0), certificate=pl.lit(None, pl.Float64))
    order = ["prompt", "layer", "neuron"]  # as the index has them: its kinds stand in one order in both parts
    table = pl.concat([exact, straight.select(exact.columns).cast(dict(exact.schema))])
    table = table.sort(*order, maintain_order=True)
    measured = exact.with_columns(run["drawn"], estimate=run["effect"]).select(list(RUN)).cast(RUN)
    return sweep, table, measured


def donors_after(
    anatomy: Anatomy, people: pl.DataFrame, prefix: str, layers: Sequence[int], *, batch_size: int
) -> Donors:
    """People as donors: the post-activations of `layers` at the final token of their names after `prefix`."""
    prompts = donor_prompts(people, prefix, anatomy.tokenizer, anatomy.bos_token_id)
    values = {layer: torch.empty(prompts.height, anatomy.d_mlp, dtype=anatomy.dtype) for layer in layers}
    batches = Batches(batch_size)

    def posts(rows: list[int]) -> list[Float[Tensor, "batch d_mlp"]]:
        at = positions_of(prompts, rows, "final_name", anatomy.device)
        reads = [Read(site=Site("post", layer), at=at) for layer in layers]
        found = run(anatomy, tokens_of(prompts, rows, anatomy.device), reads=reads).values
        return [value.cpu() for value in found]

    for same in prompt_batches(prompts, range(prompts.height)):
        for rows, found in batches.of(same, posts):
            for layer, value in zip(layers, found, strict=True):
                values[layer][rows] = value
    return Donors(
        subjects=prompts["subject"].to_list(),
        answers=prompts["answer"].to_list(),
        values=lambda layer, role: values[layer],
    )


def shard_layers(lookup: tuple[int, int] | None, shard: int, shards: int) -> list[int]:
    """The layers of a shard: every `shards`-th of the lookup's, from its `shard`-th on."""
    return [] if lookup is None else list(range(lookup[0] + shard, lookup[1] + 1, shards))
