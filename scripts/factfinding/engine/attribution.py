"""Attribution patching: what edits would do, from gradients of the clean run, beside what they do.

An edit replaces a site's clean value x by another, x + d. The change of a metric of the logits is, to first order,
d . gradient at the clean run, for as many sites as one likes from one forward and one backward pass. The second order
adds 1/2 d . H d (H: the metric's Hessian in that site), by a Hessian-vector product along each edit's own d; that is a
forward and two backward passes *per edit*, dearer than the exact patch itself. It pays where one d serves many sizes
(a neuron's draws are all multiples of one direction) and for finding out whether curvature is what first order lacks.

    edits = [Edit(site=Site("mlp_out", 3), at=final_name, value=corrupt_mlp_out), ...]
    guess = attribute(anatomy, tokens, edits, metric, logits_at=end)           # [subjects, edits]
    truth = exact_effects(anatomy, tokens, edits, metric, logits_at=end)       # the same, by patching each alone
    table = error_table({"first order": guess}, truth, seed=0)

Each edit is taken by itself. The derivatives hold the whole graph of the prompts given in memory: give a few dozen
prompts of a large model at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding import stats
from factfinding.engine.sites import Site
from factfinding.engine.trace import Edit, Read, pick, run
from factfinding.model.anatomy import Anatomy

Metric = Callable[[Float[Tensor, "subjects d_vocab"]], Float[Tensor, " subjects"]]
"""One number per prompt, of that prompt's logits alone."""


def logit_difference(clean: Int[Tensor, " subjects"], corrupt: Int[Tensor, " subjects"]) -> Metric:
    """logit(clean subject's answer token) - logit(corrupt subject's answer token)."""

    def metric(logits: Tensor) -> Tensor:
        return (logits.gather(1, clean[:, None]) - logits.gather(1, corrupt[:, None]))[:, 0]

    return metric


def log_probability(answer: Int[Tensor, " subjects"]) -> Metric:
    """log P(answer token), nats, over the whole vocabulary."""

    def metric(logits: Tensor) -> Tensor:
        return logits.log_softmax(-1).gather(1, answer[:, None])[:, 0]

    return metric


@dataclass(frozen=True, kw_only=True, eq=False)
class Gradients:
    """A clean run: the metric, and for each read its value and the metric's gradient there, of the same shape."""

    metric: Float[Tensor, " subjects"]
    values: list[Tensor]
    gradients: list[Tensor]


@torch.enable_grad()
def gradients(
    anatomy: Anatomy,
    tokens: Int[Tensor, "subjects seq"],
    reads: Sequence[Read],
    metric: Metric,
    *,
    logits_at: Int[Tensor, " subjects"],
) -> Gradients:
    """The metric's gradient in every site read, everything after the site allowed to respond.

    One forward and one backward pass for all sites; one more of each for every layer whose pattern is read.
    Raises InputError for a site that the model does not have.
    """
    others = sorted({(read.site.kind, read.site.layer) for read in reads if read.site.kind != "pattern"})
    whole = {place: Read(site=Site(*place)) for place in others}
    clean = run(
        anatomy,
        tokens,
        logits_at=logits_at,
        reads=list(whole.values()),
        edits=[_graph_starts(anatomy, tokens)],
        grad=True,
    )
    value = metric(clean.logits)
    found = dict(zip(others, zip(clean.values, _gradient(value, clean.values), strict=True), strict=True))
    for layer in sorted({read.site.layer for read in reads if read.site.kind == "pattern"}):
        found["pattern", layer] = _pattern_gradient(anatomy, tokens, layer, metric, logits_at)
    picked = [tuple(_at(x.detach(), read) for x in found[read.site.kind, read.site.layer]) for read in reads]
    return Gradients(metric=value.detach(), values=[v for v, _ in picked], gradients=[g for _, g in picked])


def first_order(
    site: Site, clean: Tensor, corrupt: Tensor, gradient: Tensor, *, per_unit: bool = False
) -> Float[Tensor, " subjects"] | Float[Tensor, "subjects units"]:
    """(corrupt - clean) . gradient of one read, summed over positions and the site's values.

    `per_unit` keeps the site's units apart: heads (z, pattern), neurons (pre, post), or dimensions of the residual.
    `clean` and `gradient` are a read's `[subjects, (positions,) ...]`; `corrupt` broadcasts to them.
    """
    product = (corrupt - clean) * gradient
    if not per_unit:
        return product.flatten(1).sum(1)
    if site.kind in ("z", "pattern") and site.index is None:
        product = product.sum(-1)
    return product.flatten(1, -2).sum(1) if product.ndim > 2 else product


def attribute(
    anatomy: Anatomy,
    tokens: Int[Tensor, "subjects seq"],
    edits: Sequence[Edit],
    metric: Metric,
    *,
    logits_at: Int[Tensor, " subjects"],
    second_order: bool = False,
) -> Float[Tensor, "subjects edits"]:
    """The change of the metric that each edit, alone, would make: first order, and second order if asked for."""
    reads = [Read(site=edit.site, at=edit.at) for edit in edits]
    clean = gradients(anatomy, tokens, reads, metric, logits_at=logits_at)
    columns = []
    for edit, value, gradient in zip(edits, clean.values, clean.gradients, strict=True):
        estimate = first_order(edit.site, value, edit.value.to(value), gradient)
        if second_order:
            estimate = estimate + curvature(anatomy, tokens, edit, value, metric, logits_at=logits_at) / 2
        columns.append(estimate)
    return torch.stack(columns, dim=1)


def curvature(
    anatomy: Anatomy,
    tokens: Int[Tensor, "subjects seq"],
    edit: Edit,
    clean: Tensor,
    metric: Metric,
    *,
    logits_at: Int[Tensor, " subjects"],
) -> Float[Tensor, " subjects"]:
    """d . H d for one edit, d = edit.value - clean: the second derivative of the metric at t = 0 along clean + t d.

    `clean` is what a `Read` of the edit's place gives. Each prompt has its own t, so one pass serves all prompts.
    """
    change = edit.value.to(clean) - clean
    t = torch.zeros(
        len(tokens), *(1,) * (change.ndim - 1), dtype=clean.dtype, device=clean.device, requires_grad=True
    )
    with torch.enable_grad():
        along = Edit(site=edit.site, at=edit.at, value=clean + t * change)
        value = metric(run(anatomy, tokens, logits_at=logits_at, edits=[along], grad=True).logits)
        slope = torch.autograd.grad(value.sum(), t, create_graph=True)[0]
        # a metric that is linear in t has no second derivative in the graph
        bend = (
            torch.autograd.grad(slope.sum(), t, allow_unused=True, materialize_grads=True)[0]
            if slope.requires_grad
            else t * 0
        )
    return bend.detach().flatten()


def exact_effects(
    anatomy: Anatomy,
    tokens: Int[Tensor, "subjects seq"],
    edits: Sequence[Edit],
    metric: Metric,
    *,
    logits_at: Int[Tensor, " subjects"],
) -> Float[Tensor, "subjects edits"]:
    """The change of the metric that each edit, alone, makes: one forward pass per edit."""

    def measure(*edits: Edit) -> Tensor:
        return metric(run(anatomy, tokens, logits_at=logits_at, edits=edits).logits)

    clean = measure()
    return torch.stack([measure(edit) - clean for edit in edits], dim=1)


ERROR_SCHEMA = {
    "estimate": pl.String,
    "group": pl.String,
    "n": pl.Int64,
    "n_subjects": pl.Int64,
    "largest_effect": pl.Float64,
    "largest_error": pl.Float64,
    "relative_error": pl.Float64,
    "median_relative_error": pl.Float64,
    "rank_correlation": pl.Float64,
    "rank_correlation_low": pl.Float64,
    "rank_correlation_high": pl.Float64,
    "sign_agreement": pl.Float64,
    "sign_agreement_low": pl.Float64,
    "sign_agreement_high": pl.Float64,
    "majority_rate": pl.Float64,
}


def error_table(
    estimates: Mapping[str, Float[Tensor, "subjects edits"]],
    exact: Float[Tensor, "subjects edits"],
    *,
    groups: Sequence[str] | None = None,
    seed: int,
    n_resamples: int = 2000,
) -> pl.DataFrame:
    """How far estimates lie from the exact effects: a row per estimate and group of edits (columns: ERROR_SCHEMA).

    `groups` names the group of each edit (such as "mlp_out:3"); there is a row "all" besides. largest_error and
    largest_effect are in the metric's units, relative_error is their ratio; median_relative_error and the sign leave
    out effects of exactly zero. Correlation is Spearman's over all subjects and edits. sign_agreement has
    the share of the commoner sign as its baseline. Intervals are bootstraps over subjects.
    Raises ValueError for estimates of another shape than the exact effects.
    """
    truth = exact.detach().double().cpu().numpy()
    names = np.asarray(groups if groups is not None else [""] * truth.shape[1])
    rows = []
    for name, estimate in estimates.items():
        guess = estimate.detach().double().cpu().numpy()
        if guess.shape != truth.shape or len(names) != truth.shape[1]:
            raise ValueError(
                f"{name}: {guess.shape} and {len(names)} groups for exact effects of shape {truth.shape}"
            )
        for group in ("all", *dict.fromkeys(names[names != ""])):
            kept = slice(None) if group == "all" else names == group
            row = _error_row(guess[:, kept], truth[:, kept], seed, n_resamples)
            rows.append({"estimate": name, "group": group, **row})
    return pl.DataFrame(rows, schema=ERROR_SCHEMA)


def _error_row(guess: np.ndarray, truth: np.ndarray, seed: int, n_resamples: int) -> dict[str, float]:
    error, size = np.abs(guess - truth), np.abs(truth)
    some = truth != 0

    def correlation(x: np.ndarray, y: np.ndarray) -> float:
        return stats.spearman(x.ravel(), y.ravel())

    def agreement(x: np.ndarray, y: np.ndarray) -> float:
        kept = y != 0
        return float((np.sign(x[kept]) == np.sign(y[kept])).mean()) if kept.any() else np.nan

    rank = stats.bootstrap(correlation, (guess, truth), seed=seed, n_resamples=n_resamples)
    sign = stats.bootstrap(agreement, (guess, truth), seed=seed, n_resamples=n_resamples)
    return {
        "n": truth.size,
        "n_subjects": len(truth),
        "largest_effect": float(size.max()),
        "largest_error": float(error.max()),
        "relative_error": float(error.max() / size.max()) if some.any() else np.nan,
        "median_relative_error": float(np.median(error[some] / size[some])) if some.any() else np.nan,
        "rank_correlation": rank.value,
        "rank_correlation_low": rank.low,
        "rank_correlation_high": rank.high,
        "sign_agreement": sign.value,
        "sign_agreement_low": sign.low,
        "sign_agreement_high": sign.high,
        "majority_rate": stats.majority_rate(np.sign(truth[some])) if some.any() else np.nan,
    }


def _graph_starts(anatomy: Anatomy, tokens: Tensor) -> Edit:
    """The embedding replaced by itself, as the leaf from which the graph of a run grows."""
    start = Site("resid_pre", 0)
    embedding = run(anatomy, tokens, reads=[Read(site=start)]).values[0]
    return Edit(site=start, value=embedding.detach().clone().requires_grad_())


def _gradient(value: Float[Tensor, " subjects"], wanted: Sequence[Tensor]) -> Sequence[Tensor]:
    """d value / d each tensor; zero for what the metric does not depend on (such as the last layer before END)."""
    if not wanted:
        return ()
    return torch.autograd.grad(value.sum(), wanted, allow_unused=True, materialize_grads=True)


def _pattern_gradient(
    anatomy: Anatomy, tokens: Tensor, layer: int, metric: Metric, logits_at: Tensor
) -> tuple[Tensor, Tensor]:
    """One layer's patterns and the gradient there. Reading a pattern takes no part in the run, so it is put in as a
    leaf: an edit by itself."""
    site = Site("pattern", layer)
    clean = run(anatomy, tokens, reads=[Read(site=site)]).values[0].detach().clone().requires_grad_()
    value = metric(
        run(anatomy, tokens, logits_at=logits_at, edits=[Edit(site=site, value=clean)], grad=True).logits
    )
    return clean, _gradient(value, [clean])[0]


def _at(whole: Float[Tensor, "subjects seq ..."], read: Read) -> Tensor:
    """What the read would give, from the whole site: its unit at its positions."""
    x, index = pick(whole, read.at), read.site.index
    if index is None:
        return x
    axis = 1 if read.at is not None and read.at.ndim == 1 else 2
    unit = x.narrow(axis, index, 1)
    return unit.squeeze(axis) if read.site.kind == "z" else unit
