"""What a model card says of the circuit: does the lookup happen at the name, and does it need the MLPs there?

Interventions on the prompts of the known subjects under `full`, all with mean ablation per position role, and the
accuracy that is left. They are the checks that a model may serve for the study at all, so they run on every model:

    clean                    nothing is changed
    mlps_at_name             the outputs of all MLPs at the final name token that can read more than this token, replaced by
                             their mean over subjects. In parallel blocks MLP 0 reads the embedding alone: it cannot look
                             anything up that takes two tokens, and without it the model does not know the token
    mlp_0_at_name            in parallel blocks: MLP 0 there alone, beside it
    mlps_after_name          the outputs of all MLPs at every later position
    late_attention_at_name   attention of all layers but the first two, at the final name token
    name_pattern_frozen      every pattern from the final name token, replaced by its mean; values stay. A model that
                             computes the AND of first and last name in its attention scores fails here
    mlps_at_name_frozen      both
    earlier_name_hidden      no later position may attend to any name token but the final one
    donor_<layer>            resid_post of that layer at the final name token, from a subject of another answer: how
                             often the answer is the donor's

Means and donors are taken among prompts of the same number of tokens, so that positions line up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from factfinding.engine.batches import Batches
from factfinding.engine.capture import positions_of, tokens_of
from factfinding.engine.clean import prepare
from factfinding.engine.readings import Logits
from factfinding.engine.sites import Site
from factfinding.engine.suffix import Suffix, edit
from factfinding.engine.trace import Edit, Knockout, Read, run
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.estimates import behind, beside_unchanged, estimate_columns
from factfinding.methods.groups import groups_of, known_prompts, labels_of
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import anatomy_of
from factfinding.stats import majority_rate, share_interval
from factfinding.tables import schema_of

EARLY_LAYERS = 2
"""Layers whose attention may gather the name (STUDY, section 1: concatenate is attention 0-1)."""


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Prompts of one length and name positions, small enough to run at once."""

    rows: list[int]
    tokens: Int[Tensor, "batch seq"]
    first_name: Int[Tensor, " batch"]
    final_name: Int[Tensor, " batch"]
    end: Int[Tensor, " batch"]


@dataclass(frozen=True, kw_only=True)
class PositionMeans:
    """Mean activations at the final name token and at each later position, over the subjects of one length."""

    name: dict[Site, Tensor]
    later: dict[Site, Tensor]


Change = Callable[[Bucket, PositionMeans], dict[str, Sequence[Edit] | Sequence[Knockout]]]


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The table `circuit_checks`. The model runs on the prompts of the known subjects."""
    prompts = known_prompts(inputs, "known")
    say(f"checking the circuit on {prompts.height} known subjects")
    checks = circuit_checks(
        anatomy_of(inputs),
        prompts,
        inputs.candidates,
        batch_size=settings.compute.batch_size,
        seed=settings.recall.seed,
    )
    for row in checks.filter(~pl.col("check").str.starts_with("donor")).iter_rows(named=True):
        say(f"{row['check']}: {row['accuracy']:.3f} [{row['accuracy_low']:.3f}, {row['accuracy_high']:.3f}]")
    return {"circuit_checks": checks}


def circuit_checks(
    anatomy: Anatomy, prompts: pl.DataFrame, candidates: pl.DataFrame, *, batch_size: int, seed: int
) -> pl.DataFrame:
    """The `circuit_checks` table: check, accuracy, n, majority_rate, what is gone from `clean`, and behind, paired.

    prompts: the rows of the prompts table to use (the known subjects, under `full`). Accuracy is the share whose
    highest candidate logit is the right answer's; in the rows donor_<layer>, the donor's answer's. Prompts of a length
    that fewer than two subjects have are left out, as n shows; if no subject is known, the table is empty.
    """
    truth = labels_of(prompts, candidates)
    said: dict[str, list[tuple[list[int], np.ndarray]]] = {}
    batches = Batches(batch_size)

    def answers(change: Change, means: PositionMeans, rows: list[int]) -> Int[np.ndarray, " batch"]:
        bucket = _bucket(anatomy, prompts, rows)
        return _answers(anatomy, bucket, candidates, **change(bucket, means))

    for same in same_length(prompts):
        means = _means(anatomy, prompts, same, batches)
        for name, change in changes(anatomy).items():
            said.setdefault(name, []).extend(batches.of(same, partial(answers, change, means)))
    right = {name: _hits(parts, truth) for name, parts in said.items()}  # the same subjects in the same order
    rows = [_row(name, parts, truth, right["clean"]) for name, parts in said.items()]
    rows += _donor_rows(anatomy, prompts, candidates, truth, batch_size=batch_size, seed=seed)
    return pl.DataFrame(rows, schema=schema_of("circuit_checks"))


def same_length(prompts: pl.DataFrame) -> Iterator[list[int]]:
    """Rows whose prompts agree in length and in the positions of the name; groups of one are left out."""
    yield from (group.rows.tolist() for group in groups_of(prompts) if len(group.rows) > 1)


def changes(anatomy: Anatomy) -> dict[str, Change]:
    """Each check by name, as the edits and knockouts that it makes."""
    layers, combining = range(anatomy.n_layers), anatomy.mlps_of_several_tokens

    def at_name(kind: str, which: Sequence[int]) -> Change:
        sites = [Site(kind, layer) for layer in which]
        return lambda bucket, means: {
            "edits": [Edit(site=site, at=bucket.final_name, value=means.name[site]) for site in sites]
        }

    def after_name(bucket: Bucket, means: PositionMeans) -> dict[str, Sequence[Edit]]:
        at = _later(bucket)
        return {
            "edits": [
                Edit(site=Site("mlp_out", i), at=at, value=means.later[Site("mlp_out", i)]) for i in layers
            ]
        }

    def both(bucket: Bucket, means: PositionMeans) -> dict[str, Sequence[Edit]]:
        changed = (at_name("pattern", layers), at_name("mlp_out", combining))
        return {"edits": [edit for change in changed for edit in change(bucket, means)["edits"]]}

    def hidden(bucket: Bucket, means: PositionMeans) -> dict[str, Sequence[Knockout]]:
        earlier = int(bucket.final_name[0] - bucket.first_name[0])
        if earlier == 0:
            return {}
        keys = bucket.first_name[:, None] + torch.arange(earlier, device=anatomy.device)
        return {"knockouts": [Knockout(layer=i, queries=_later(bucket), keys=keys) for i in layers]}

    at_name_alone = {"mlps_at_name": at_name("mlp_out", combining)} if combining else {}
    if 0 not in combining:
        at_name_alone["mlp_0_at_name"] = at_name("mlp_out", (0,))
    return {
        "clean": lambda bucket, means: {},
        **at_name_alone,
        "mlps_after_name": after_name,
        "late_attention_at_name": at_name("attn_out", layers[EARLY_LAYERS:]),
        "name_pattern_frozen": at_name("pattern", layers),
        "mlps_at_name_frozen": both,
        "earlier_name_hidden": hidden,
    }


def _bucket(anatomy: Anatomy, prompts: pl.DataFrame, rows: list[int]) -> Bucket:
    at = {
        role: positions_of(prompts, rows, role, anatomy.device)
        for role in ("first_name", "final_name", "end")
    }
    return Bucket(rows=rows, tokens=tokens_of(prompts, rows, anatomy.device), **at)


def _later(bucket: Bucket) -> Int[Tensor, "batch later"]:
    """Positions after the name, END included: as many in every prompt of a bucket."""
    count = int(bucket.end[0] - bucket.final_name[0])
    return bucket.final_name[:, None] + torch.arange(1, count + 1, device=bucket.tokens.device)


def _means(anatomy: Anatomy, prompts: pl.DataFrame, rows: list[int], batches: Batches) -> PositionMeans:
    name_sites = [
        Site(kind, i) for kind in ("mlp_out", "attn_out", "pattern") for i in range(anatomy.n_layers)
    ]
    later_sites = [Site("mlp_out", i) for i in range(anatomy.n_layers)]

    def summed(part: list[int]) -> list[Tensor]:
        bucket = _bucket(anatomy, prompts, part)
        reads = [Read(site=site, at=bucket.final_name) for site in name_sites]
        reads += [Read(site=site, at=_later(bucket)) for site in later_sites]
        return [value.sum(0) for value in run(anatomy, bucket.tokens, reads=reads).values]

    sums = [found for _, found in batches.of(rows, summed)]
    means = iter([sum(of_site) / len(rows) for of_site in zip(*sums, strict=True)])
    return PositionMeans(
        name={site: next(means) for site in name_sites}, later={site: next(means) for site in later_sites}
    )


def _answers(
    anatomy: Anatomy, bucket: Bucket, candidates: pl.DataFrame, **change
) -> Int[np.ndarray, " batch"]:
    """Which candidate has the highest logit at END."""
    tokens = torch.tensor(candidates["token_id"].to_list(), device=anatomy.device)
    logits = run(anatomy, bucket.tokens, logits_at=bucket.end, **change).logits
    return logits[:, tokens].argmax(-1).cpu().numpy()


def _hits(
    parts: Sequence[tuple[list[int], np.ndarray]], truth: Int[np.ndarray, " subjects"]
) -> Bool[np.ndarray, " answered"]:
    return np.concatenate([answer == truth[rows] for rows, answer in parts])


def _row(
    check: str,
    parts: Sequence[tuple[list[int], np.ndarray]],
    truth: Int[np.ndarray, " subjects"],
    clean: Bool[np.ndarray, " answered"] | None = None,
) -> dict:
    rows, hits = np.concatenate([rows for rows, _ in parts]), _hits(parts, truth)
    estimate, majority = share_interval(hits), majority_rate(truth[rows])
    return {
        "check": check,
        "accuracy": estimate.value,
        "accuracy_low": estimate.low,
        "accuracy_high": estimate.high,
        "n": estimate.n,
        "majority_rate": majority,
        **beside_unchanged(hits, clean, majority),
    }


def _donor_rows(
    anatomy: Anatomy,
    prompts: pl.DataFrame,
    candidates: pl.DataFrame,
    truth: Int[np.ndarray, " subjects"],
    *,
    batch_size: int,
    seed: int,
) -> list[dict]:
    """Patch the name's residual from a donor of another answer, layer by layer."""
    donors, rng = np.full(len(truth), -1), np.random.default_rng(seed)
    for same in same_length(prompts):
        for row in same:
            others = [other for other in same if truth[other] != truth[row]]
            donors[row] = rng.choice(others) if others else -1
    said: dict[str, list[tuple[list[int], np.ndarray]]] = {}
    batches = Batches(batch_size)

    def patched(rows: list[int]) -> list[Int[np.ndarray, " batch"]]:
        return donor_answers(anatomy, prompts, candidates, rows, donors[rows].tolist())

    for same in same_length(prompts):
        for rows, by_layer in batches.of([row for row in same if donors[row] >= 0], patched):
            for layer, answer in enumerate(by_layer):
                said.setdefault(f"donor_{layer}", []).append((rows, answer))
    target = np.where(donors >= 0, truth[donors], -1)
    hits = np.full((len(truth), len(said)), np.nan)
    for column, parts in enumerate(said.values()):
        for rows, answer in parts:
            hits[rows, column] = answer == target[rows]
    away = behind(hits, [None] * len(said), lowest=False, seed=seed) if said else []
    return [
        _row(name, parts, target) | estimate_columns("behind", difference)
        for (name, parts), difference in zip(said.items(), away, strict=True)
    ]


def donor_answers(
    anatomy: Anatomy, prompts: pl.DataFrame, candidates: pl.DataFrame, rows: list[int], donors: list[int]
) -> list[Int[np.ndarray, " rows"]]:
    """For each layer, the answers when the residual stream after it, at the final name token, is the donor's.

    rows, donors: of prompts that agree in length and in the positions of the name. Only what comes after the layer and from
    the name on is computed again; the slow twin is `trace.run` with an `Edit` of resid_post.
    """
    bucket, other = (_bucket(anatomy, prompts, part) for part in (rows, donors))
    name, end = int(bucket.final_name[0]), int(bucket.end[0])
    clean, donor = (prepare(anatomy, part.tokens, start=name) for part in (bucket, other))
    tokens = torch.tensor(candidates["token_id"].to_list(), device=anatomy.device)
    everyone, suffix = torch.arange(len(rows), device=anatomy.device), Suffix(anatomy)
    found = []
    for layer in range(anatomy.n_layers):
        value = donor.resid[layer + 1, :, 0]
        made = edit(anatomy, clean, Site("resid_post", layer), at=name, prompt=everyone, value=value)
        logits = suffix.values(clean, made, Logits(at=end, tokens=tokens))
        found.append(logits.argmax(-1).cpu().numpy())
    return found
