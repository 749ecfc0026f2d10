"""Non-linear excess: what a name pair has beyond the sum of its two parts, and which neurons make it (P3.3).

For anything x that the effective model computes from a name (A, B),

    NLE(x) = x(A, B) - x(A', B) - x(A, B') + x(A', B'),   averaged over other beginnings A' and other last tokens B'

is zero if x is a sum of a term for A and a term for B. A' runs over the distinct beginnings, B' over the distinct last
tokens of the known subjects, each counted once, A and B themselves left out. With them the terms of A' = A and B' = B
are zero, so the average over *all* is the same up to a factor, and needs only means over rows, columns and the grid:

    NLE(x) = F L / ((F - 1)(L - 1)) * (x(A, B) - mean of its column - mean of its row + mean of the grid)

The grid of all F x L pairings is therefore run through the model once and forgotten batch by batch; what stays are
sums, in float64, for each beginning and each last token.

The output is that of a probe (probes.py): the study's head probe, and a logistic one beside it, held out.

The probe's output for the own answer minus the mean of the others is affine in the last residual stream, which is a sum
of terms of the tokens and of what the neurons write. So its excess *passes* through neurons, exactly:

    NLE(output) = sum over neurons of  W_out[n] . direction * NLE(post[n])

Part of it comes in with a neuron's input, which has an excess of its own (from MLPs below, or from LayerNorm), and part
is *made* by the activation function. The study counts max(NLE(post) - max(NLE(pre), 0), 0) as made, times the direct
weight W_out[n] . direction. That looks at one side only: a neuron that is quiet where the sum of its parts would have it
fire makes an excess as well, a negative one, and counts as zero. A pair of neurons that looks a fact up in a single step
makes all of the excess so, and the rule gives 0 % for the answer for which they are quiet. So what decides is the same for
both signs: NLE(post) less the part of it that is there in NLE(pre) already, with the same sign. The two agree on neurons
with NLE(post) > 0.

No norm lies between the last residual stream and the probe, so the direct weight is the same for every name. The
baseline is what unknown names give, pairings of the same parts that are nobody's name (data/strangers.py). They have no
answer of their own and are held to the one that the model answers, which can only flatter them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.experiments.nonlinear_excess.grid import Network, grid_means
from factfinding.experiments.nonlinear_excess.measure import LEAST, TOP, Measured, measured, summed
from factfinding.experiments.nonlinear_excess.probes import Probe, own_probe, probes_of
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.effective import EffectiveModel, effective_model_of
from factfinding.methods.estimates import each, estimate_columns, estimate_schema
from factfinding.methods.intervals import median_intervals
from factfinding.methods.name_pairs import NAMES, NamePairs, pairs_of, unknown_for
from factfinding.stats import Estimate, bootstrap, mean_interval, mean_intervals, share_interval

KNOWN, UNKNOWN = "known", "unknown"

_MEDIANS, _MEANS = ("ratio", "ratio_both"), ("excess", "made", "made_both", "passed")
_CONCENTRATION = ("neurons", *(f"top_{k}" for k in TOP))
SCHEMA = (
    {"n_name_tokens": pl.Int64, "probe": pl.String, "names": pl.String}
    | {"layers": pl.String, "last": pl.Boolean}
    | estimate_schema(*_MEDIANS, "pooled", "pooled_both", "positive", *_MEANS, *_CONCENTRATION)
    | {"n": pl.Int64, "n_names": pl.Int64, "begins": pl.Int64, "lasts": pl.Int64, "largest_error": pl.Float64}
)
SUBJECTS_SCHEMA = (
    {
        "n_name_tokens": pl.Int64,
        "probe": pl.String,
        "names": pl.String,
        "subject": pl.String,
        "answer": pl.String,
    }
    | {"layers": pl.String, "last": pl.Boolean}
    | dict.fromkeys((*_MEANS, *_MEDIANS, *_CONCENTRATION), pl.Float64)
)
NEURONS_SCHEMA = (
    {
        "n_name_tokens": pl.Int64,
        "probe": pl.String,
        "layer": pl.Int64,
        "neuron": pl.Int64,
        "answer": pl.String,
    }
    | estimate_schema("made", "made_both", "passed")
    | {"share": pl.Float64, "rank": pl.Int64, "n": pl.Int64}
)


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables `nonlinear_excess`, `nonlinear_excess_subjects` and `nonlinear_excess_neurons`."""
    section = settings.lookup
    names = pairs_of(inputs, section.subjects, name_tokens=section.name_tokens, say=say)
    model = effective_model_of(inputs)
    found = nonlinear_excess(
        model,
        names,
        None
        if model is None or names is None
        else probes_of(inputs, model, names, batch_size=settings.compute.batch_size),
        unknown=unknown_for(names, inputs.prompts("name_only"), seed=section.seed),
        batch_size=NAMES * settings.compute.batch_size,
        seed=section.seed,
    )
    for row in found.summary.filter(layers="all").iter_rows(named=True):
        say(
            f"{row['probe']} probe, {row['names']} names: {row['excess']:.3f} beyond a sum, of which {row['made']:.3f} made"
        )
    return {
        "nonlinear_excess": found.summary,
        "nonlinear_excess_subjects": found.subjects,
        "nonlinear_excess_neurons": found.neurons,
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class Excess:
    """The tables `nonlinear_excess` (medians and means), `_subjects` (each name) and `_neurons` (each neuron)."""

    summary: pl.DataFrame
    subjects: pl.DataFrame
    neurons: pl.DataFrame


@torch.no_grad()
def nonlinear_excess(
    model: EffectiveModel | None,
    names: NamePairs | None,
    probes: Sequence[Probe] | None = None,
    *,
    unknown: Int[Tensor, "others slots"] | None = None,
    batch_size: int = 4096,
    seed: int = 0,
) -> Excess:
    """What makes the excess of the probe's output over a sum of parts, on all pairings of the names' parts.

    names: `NamePairs.of(tokens, answers)`; answers are those of `model.shape.answers`. probes: how the last residual stream
    is read, each a part of the tables; None: by the model's own, fitted on all known subjects. unknown: token ids of pairings
    that are nobody's name, the baseline. batch_size: pairings run at once; rounding apart it changes nothing. Tables are empty
    for None: no effective model, or no names to pair. Works on the model's device, in float32 or better.
    """
    if model is None or names is None or len(model.shape.answers) < 2:
        return Excess(
            summary=pl.DataFrame(schema=SCHEMA),
            subjects=pl.DataFrame(schema=SUBJECTS_SCHEMA),
            neurons=pl.DataFrame(schema=NEURONS_SCHEMA),
        )
    probes = [own_probe(model, names)] if probes is None else probes
    network = Network(model, *(torch.cat([getattr(p, part) for p in probes]) for part in ("weight", "bias")))
    names = names.to(network.device)
    means, begun, tables = grid_means(network, names, batch_size), 0, []
    own = torch.tensor([model.shape.answers.index(answer) for answer in names.answers], device=network.device)
    for probe in probes:
        known, last = probe.fold.to(own) + begun, begun + probe.folds - 1
        run = partial(measured, network, names, means, batch_size=batch_size)
        groups = {KNOWN: run(cells=(names.begin, names.last), reading=known, own=own)}
        if unknown is not None and len(unknown):
            cells = names.cells(unknown)
            groups[UNKNOWN] = run(cells=cells, reading=torch.full_like(cells[0], last), own=None)
        tables.append(_tables(probe.name, groups, names, model, seed))
        begun += probe.folds
    return Excess(
        summary=pl.concat([table.summary for table in tables]),
        subjects=pl.concat([table.subjects for table in tables]),
        neurons=pl.concat([table.neurons for table in tables]),
    )


def _tables(
    probe: str, groups: dict[str, Measured], names: NamePairs, model: EffectiveModel, seed: int
) -> Excess:
    """The tables of one probe."""
    least = LEAST * float(np.abs(groups[KNOWN].excess).mean())
    groups = {group: replace(found, least=least) for group, found in groups.items()}
    layers = range(model.shape.lookup[0], model.shape.lookup[0] + len(model.mlps))
    each_name = [_subjects(probe, group, found, names, layers, model) for group, found in groups.items()]
    summary = [
        row for group, found in groups.items() for row in _summary(probe, group, found, names, layers, seed)
    ]
    return Excess(
        summary=pl.DataFrame(summary, schema=SCHEMA),
        subjects=pl.concat(each_name),
        neurons=_neurons(probe, groups[KNOWN], names, layers, seed),
    )


def _columns(found: Measured, span: slice) -> dict[str, Float[np.ndarray, " names"]]:
    """What the neurons of some layers do, name by name, as columns of the tables; NaN for a ratio to next to nothing."""
    columns = {
        "excess": found.excess,
        "made": summed(found.made[span]),
        "made_both": summed(found.both[span]),
    }
    columns["passed"] = summed(found.passed[span])
    excess = np.where(found.sure, found.excess, np.nan)
    return columns | {"ratio": columns["made"] / excess, "ratio_both": columns["made_both"] / excess}


def _subjects(
    probe: str, group: str, found: Measured, names: NamePairs, layers: range, model: EffectiveModel
) -> pl.DataFrame:
    if group == KNOWN:
        called = list(names.subjects)
    else:
        tokens = names.tokens(
            *(torch.from_numpy(index).to(names.lasts) for index in (found.begin, found.last))
        )
        called = [" ".join(map(str, ids)) for ids in tokens.T.tolist()]
    frames = []
    for span, last, part, concentrated in found.spans(layers):
        head = {"n_name_tokens": names.n_name_tokens, "probe": probe, "names": group, "subject": called}
        head |= {"answer": [model.shape.answers[i] for i in found.answer], "layers": span, "last": last}
        frames.append(pl.DataFrame(head | _columns(found, part) | concentrated))
    return pl.concat(frames).select(*SUBJECTS_SCHEMA).cast(SUBJECTS_SCHEMA).fill_nan(None)


def _summary(
    probe: str, group: str, found: Measured, names: NamePairs, layers: range, seed: int
) -> Iterator[dict[str, object]]:
    """A row for all lookup layers together and for each."""
    largest = max(np.abs(found.excess).max(), found.scale, np.finfo(np.float64).tiny)
    sure, positive = found.sure, share_interval(found.excess > found.scale)
    head = {"n_name_tokens": names.n_name_tokens, "probe": probe, "names": group}
    head |= {"n": int(sure.sum()), "n_names": len(sure)}
    head |= {"begins": names.shape[0], "lasts": names.shape[1]} | estimate_columns("positive", positive)
    head |= {"largest_error": float(np.abs(summed(found.passed) - found.excess).max() / largest)}
    spans = list(found.spans(layers))
    columns = [_columns(found, part) | concentrated for *_, part, concentrated in spans]
    means = iter(_means([values[name] for values in columns for name in (*_MEANS, *_CONCENTRATION)], seed))
    for (span, last, *_), values in zip(spans, columns, strict=True):
        row = head | {"layers": span, "last": last}
        for name in (*_MEANS, *_CONCENTRATION):
            row |= estimate_columns(name, next(means))
        for name, made in (("pooled", "made"), ("pooled_both", "made_both")):
            row |= estimate_columns(name, _pooled(values[made][sure], found.excess[sure], seed))
        ratios = np.stack([values[name][sure] for name in _MEDIANS], axis=1)
        medians = each(median_intervals(ratios, seed=seed)) if len(ratios) else [None] * len(_MEDIANS)
        for name, median in zip(_MEDIANS, medians, strict=True):
            row |= estimate_columns(name, median)
        yield row


def _means(columns: list[Float[np.ndarray, " names"]], seed: int) -> list[Estimate | None]:
    """The mean of each column over its finite values, with its interval; None where there are none."""
    found: list[Estimate | None] = [
        mean_interval(values[np.isfinite(values)], seed=seed) if np.isfinite(values).any() else None
        for values in columns
        if not np.isfinite(values).all()
    ]
    whole = [values for values in columns if np.isfinite(values).all()]
    estimates, rest = (
        iter(each(mean_intervals(np.stack(whole, axis=1), seed=seed)) if whole else ()),
        iter(found),
    )
    return [next(estimates) if np.isfinite(values).all() else next(rest) for values in columns]


def _pooled(made: np.ndarray, excess: np.ndarray, seed: int) -> Estimate | None:
    """Mean over mean: unlike the median of ratios it gives weight to those who have much of an excess."""
    if not len(excess):
        return None
    return bootstrap(lambda a, b: a.sum() / b.sum(), (made, excess), seed=seed)


def _neurons(probe: str, found: Measured, names: NamePairs, layers: range, seed: int) -> pl.DataFrame:
    """Means over known subjects, all and of each answer, of what every neuron makes and lets pass."""
    answers = np.array(names.answers)
    groups = {"all": np.ones(len(answers), dtype=bool)} | {
        answer: answers == answer for answer in sorted(set(answers))
    }
    frames = []
    for answer, rows in groups.items():
        parts = []
        for layer, *values in zip(layers, found.made, found.both, found.passed, strict=True):
            part = {"neuron": np.arange(values[0].shape[1])}
            estimates = each(mean_intervals(np.hstack([value[rows] for value in values]), seed=seed))
            for i, name in enumerate(("made", "made_both", "passed")):
                columns = [
                    estimate_columns(name, estimate)
                    for estimate in estimates[i * len(part["neuron"]) :][: len(part["neuron"])]
                ]
                part |= {key: [column[key] for column in columns] for key in columns[0]}
            head = {
                "n_name_tokens": names.n_name_tokens,
                "probe": probe,
                "layer": layer,
                "answer": answer,
                "n": int(rows.sum()),
            }
            parts.append(pl.DataFrame(head | part))
        size = pl.col("made").abs()
        ranked = pl.concat(parts).with_columns(
            (pl.when(size.sum() > 0).then(size / size.sum())).alias("share"),
            size.rank("ordinal", descending=True).cast(pl.Int64).alias("rank"),
        )
        frames.append(ranked.select(*NEURONS_SCHEMA).cast(NEURONS_SCHEMA))
    return pl.concat(frames).sort("answer", "rank", maintain_order=True)
