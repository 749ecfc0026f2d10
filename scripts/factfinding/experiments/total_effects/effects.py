"""Total effects: what changes at END when one node's output at one position is replaced (P2.7).

Nodes are every head, attention layer and MLP layer; positions are those from the name on, since what comes before is
the same in all prompts. A node's output there is ablated in each of the four ways, or patched from the corrupt run, and
the rest of the model runs on. The donors of `resample_other` are of the corrupt partner's answer, against which the logit
difference is taken: one of a third answer would move the answer where the difference does not look.

Run through a fast engine (engine/suffix.py, or engine/difference.py with products of low precision) on a seeded sample of
subjects: nodes of several layers at one position are rows of one batch. Where that is more than some minutes' work, attribution
patching chooses what is run (methods/screen.py), and the rest stands in the table as its estimates, marked as such.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.config import InterventionsConfig
from factfinding.engine.batches import packed
from factfinding.engine.clean import Clean, activation
from factfinding.engine.shards import first_batch
from factfinding.engine.sites import Site
from factfinding.engine.suffix import Edits, Suffix
from factfinding.engine.sweep import Engine
from factfinding.engine.tokens import tokens_of
from factfinding.engine.trace import Read, run
from factfinding.inputs import Say
from factfinding.least import EXACT_UP_TO
from factfinding.methods.groups import CORRUPT, KINDS, Group, PromptLayout, in_batches
from factfinding.methods.patched import (
    Attributed,
    Batch,
    Effect,
    Sample,
    difference_slopes,
    differences,
    donor_runs,
    estimated,
    patched,
    place_of,
    sample,
)
from factfinding.methods.screen import Choice, Key, Measured, Screen, certificate, choose, errors_of, type_of
from factfinding.model.anatomy import Anatomy
from factfinding.tables import empty, schema_of

DONORS = {"resample_same": "own answer", "resample_other": "partner's answer", CORRUPT: "partner"}
"""Whose outputs are put in, by kind."""

PROMPTS = 32
"""Prompts at a time where there are four kinds of rows and more for each, or a backward pass, which keeps the whole graph."""

MEASURED = {
    "part": pl.String,
    "order": pl.Int64,
    "layer": pl.Int64,
    "role": pl.String,
    "number": pl.Int64,
    "node": pl.String,
    "token": pl.String,
    "kind": pl.String,
    "subject": pl.Int64,
    "effect": pl.Float64,
    "estimate": pl.Float64,
    "chosen": pl.String,
    "whole_swap": pl.Float64,
}
"""Of one replacement and one subject (a row of its prompts table): the effect where it was run, and under a screen its
estimate and why it was run (large, drawn; null: it was not). order: of the replacement among all, as the table has them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TotalEffects:
    """The table `total_effects` of one part; under a screen `total_effects_screen`, else empty."""

    table: pl.DataFrame
    screen: pl.DataFrame


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Subjects and the ways in which their nodes are replaced. batch_size: prompts that run together."""

    name: str
    drawn: Sample
    kinds: tuple[str, ...]
    batch_size: int


def parts_of(
    prompts: pl.DataFrame, candidates: pl.DataFrame, section: InterventionsConfig, *, batch_size: int
) -> list[Part]:
    """The subjects that are ablated in the four ways, some of those that are patched, and these.

    prompts: `full`, of the subjects to intervene on. batch_size: prompts that run together where there is one row for each.
    """

    def drawn(subjects: int) -> Sample:
        return sample(prompts, candidates, subjects=subjects, draws=section.draws, seed=section.seed)

    return [
        Part(
            name="ablated",
            drawn=drawn(section.node_subjects),
            kinds=KINDS,
            batch_size=min(batch_size, PROMPTS),
        ),
        Part(name="patched", drawn=drawn(section.patched_subjects), kinds=(CORRUPT,), batch_size=batch_size),
    ]


def screen_of(
    anatomy: Anatomy, parts: Sequence[Part], section: InterventionsConfig, say: Say
) -> Screen | None:
    """The screen that `interventions.screen` asks for; None where every replacement is run."""
    work = sum(multiplications(anatomy, part.drawn, part.kinds) for part in parts)
    screened = section.screen == "always" or (section.screen == "auto" and work > EXACT_UP_TO)
    say(
        f"{work:.2g} multiplications, {EXACT_UP_TO:.2g} without a screen; {'screened' if screened else 'all run'}"
    )
    return (
        Screen(below=section.screen_below, sample=section.screen_sample, seed=section.seed)
        if screened
        else None
    )


def multiplications(anatomy: Anatomy, drawn: Sample, kinds: Sequence[str]) -> float:
    """What running every replacement takes: each runs all layers above it, from its position to END."""
    weights = sum(weight.numel() for weight in anatomy.blocks[0].module.parameters())
    above = sum(range(anatomy.n_layers)) * (anatomy.n_heads + 2)
    draws = sum(len(drawn.donors.get(kind, [None])) for kind in kinds)
    positions = sum(
        len(group.rows) * (group.layout.end - at + 1)
        for group in drawn.sampled
        for at, *_ in group.layout.slots(group.layout.first_name)
    )
    return float(weights) * above * draws * positions


def measured(
    anatomy: Anatomy,
    part: Part,
    *,
    engine: Engine | None = None,
    screen: Screen | None = None,
    shard: int = 0,
    shards: int = 1,
) -> pl.DataFrame:
    """Every node at every position under each kind, of a shard's layers: every `shards`-th, from its `shard`-th on.

    Columns `MEASURED`, a row for each replacement and subject, in the order in which they are run.

    Resampling averages over its draws. Under a screen only what it chooses is run; all shards estimate all layers, and so
    choose alike. engine: None for values.
    """
    drawn, kinds, size = part.drawn, part.kinds, part.batch_size
    given, engine = _Givers(anatomy, drawn, kinds, batch_size=size), engine or Suffix(anatomy)
    own = {key: order for key, order in _keys(anatomy, drawn, kinds).items() if key[0] % shards == shard}
    if screen is None:
        whole, run = _run_all(anatomy, part, given, engine, wanted=own)
        return _frame(anatomy, part, own, whole, run)

    def estimate(batch: Batch) -> Iterator[Effect]:
        slopes = _slopes(anatomy, drawn, batch)
        for replacements in _replacements(anatomy, batch, given.to(batch), kinds):
            yield from _attributed(batch, replacements, slopes)

    seen = patched(anatomy, drawn, estimate, batch_size=min(size, PROMPTS))
    estimates = differences(drawn, seen.effects)
    choice = choose(
        estimates,
        seen.whole,
        screen,
        always=lambda key: type_of(key) != "head" and key[1] in ("final_name", "end"),
        rivals=lambda key: (*key[1:3], key[4], type_of(key) == "attention"),
    )
    _, run = _run_all(anatomy, part, given, engine, wanted=choice.run & own.keys())
    return _frame(anatomy, part, own, seen.whole, run, estimates, choice)


def _keys(anatomy: Anatomy, drawn: Sample, kinds: Sequence[str]) -> dict[Key, int]:
    """All replacements, in the order in which they are run."""
    found: dict[Key, int] = {}
    for group in drawn.sampled:
        for _, role, number in group.layout.slots(group.layout.first_name):
            for layer in range(anatomy.n_layers):
                for names in (["attention", *range(anatomy.n_heads)], ["mlp"]):
                    for kind, name in product(kinds, names):
                        found.setdefault((layer, role, number, name, kind), len(found))
    return found


def _run_all(
    anatomy: Anatomy, part: Part, given: _Givers, engine: Engine, *, wanted: Container[Key]
) -> tuple[dict[int, float], dict[Key, Measured]]:
    """By subject what swapping the whole name does, and by key each subject's effect. At one position replacements in layers
    of any depth run together, as many as fit."""

    def measure(batch: Batch) -> Iterator[Effect]:
        replacements = _replacements(anatomy, batch, given.to(batch), part.kinds, wanted=wanted)
        for at, here in groupby(replacements, key=lambda one: one.at):
            most = first_batch(anatomy, batch.layout.end - at + 1)
            for some in packed(here, lambda one: one.delta.shape[0] * one.delta.shape[1], most):
                yield from _run(engine, batch, some)

    found = patched(anatomy, part.drawn, measure, batch_size=part.batch_size)
    return found.whole, differences(part.drawn, found.effects)


def _frame(
    anatomy: Anatomy,
    part: Part,
    keys: Mapping[Key, int],
    whole: Mapping[int, float],
    run: Mapping[Key, Measured],
    estimates: Mapping[Key, Measured] | None = None,
    choice: Choice | None = None,
) -> pl.DataFrame:
    found = [pl.DataFrame(schema=MEASURED)]
    for key in estimates or run:
        if key not in keys:
            continue
        layer, role, number, node, kind = key
        subjects = (run if estimates is None else estimates)[key][1]
        about = place_of(anatomy, part.drawn, role, number, subjects)
        about |= {"part": part.name, "order": keys[key], "layer": layer, "node": str(node), "kind": kind}
        about["chosen"] = None if choice is None else choice.why(key)
        values = {
            "subject": subjects,
            "effect": run[key][0] if key in run else None,
            "estimate": None if estimates is None else estimates[key][0],
            "whole_swap": [whole[int(subject)] for subject in subjects],
        }
        found.append(
            pl.DataFrame(values).with_columns(pl.lit(value).alias(name) for name, value in about.items())
            .select(list(MEASURED)).cast(MEASURED)
        )  # fmt: skip
    return pl.concat(found)


def table_of(frame: pl.DataFrame, screen: Screen, *, seed: int) -> TotalEffects:
    """One part put together: columns node, type (head, attention, mlp), layer, head, role, number, token, kind, effect
    (logits) with its interval, whole_swap (mean, of the same subjects), share, n.

    frame: of all shards. Under a screen rows that were not run are estimates (`exact` is false, `error` says how far such
    estimates are off)."""
    frame = frame.sort("order", maintain_order=True)
    whole = dict(frame.select("subject", "whole_swap").unique().iter_rows())
    run, estimates = (_by_key(frame.drop_nulls(column), column) for column in ("effect", "estimate"))
    if not estimates:
        return TotalEffects(table=_table(frame, run, whole, seed), screen=empty("total_effects_screen"))
    chosen = {why: frozenset(_by_key(frame.filter(chosen=why), "estimate")) for why in ("large", "drawn")}
    about = certificate(estimates, run, Choice(**chosen), whole, screen)
    table = _table(frame, estimates | run, whole, seed, run=run, error=errors_of(about))
    return TotalEffects(table=table, screen=pl.DataFrame(about, schema=schema_of("total_effects_screen")))


def _by_key(frame: pl.DataFrame, column: str) -> dict[Key, Measured]:
    """A column of the frame, which is in order, by replacement: each subject's value, and the subjects."""
    if frame.is_empty():
        return {}
    starts = np.flatnonzero(np.diff(frame["order"].to_numpy(), prepend=-1))
    keys = frame[starts].select("layer", "role", "number", "node", "kind").rows()
    values, subjects = (np.split(frame[name].to_numpy(), starts[1:]) for name in (column, "subject"))
    return {
        (layer, role, number, int(node) if node.isdigit() else node, kind): (value, rows)
        for (layer, role, number, node, kind), value, rows in zip(keys, values, subjects, strict=True)
    }


def _table(
    frame: pl.DataFrame,
    found: Mapping[Key, Measured],
    whole: dict[int, float],
    seed: int,
    *,
    run: Container[Key] | None = None,
    error: Callable[[str, str], float | None] | None = None,
) -> pl.DataFrame:
    """run: the effects that are no estimates (None: all). error: of an estimate, as a share of the whole swap."""
    places = frame.select("role", "number", "token").unique(["role", "number"]).iter_rows()
    tokens, rows = {(role, number): token for role, number, token in places}, []
    for key, (difference, subjects) in found.items():
        layer, role, number, node, kind = key
        where = {"role": role, "number": number, "token": tokens[role, number]}
        rows.append(
            _node(layer, node) | where
            | {"kind": kind, "donor": DONORS.get(kind), "key": (difference, subjects)}
            | {"exact": run is None or key in run}
        )  # fmt: skip
    table = estimated(rows, whole, schema_of("total_effects"), seed, rivals=_rivals)
    if error is None:
        return table
    off = [
        None if is_exact else error(kind, node_type) for is_exact, kind, node_type in table.select("exact", "kind", "type").iter_rows()
    ]  # fmt: skip
    return table.with_columns(error=pl.Series(off, dtype=pl.Float64) * pl.col("whole_swap").abs())


def _rivals(row: dict) -> tuple:
    """Nodes at one position under one replacement; a layer's attention, which contains its heads, apart from these."""
    return row["role"], row["number"], row["kind"], row["type"] == "attention"


def place_means(
    anatomy: Anatomy, drawn: Sample, layout: PromptLayout, *, batch_size: int
) -> dict[Site, Float[Tensor, "positions ..."]]:
    """Mean outputs of all nodes at every position, over all subjects with this layout."""
    sites = [Site(kind, layer) for kind in ("z", "mlp_out") for layer in range(anatomy.n_layers)]
    group = next(group for group in drawn.groups if group.layout == layout)

    def summed(group: Group, rows: Int[np.ndarray, " batch"]) -> list[Tensor]:
        tokens = tokens_of(drawn.prompts, rows, anatomy.device)
        values = run(anatomy, tokens, reads=[Read(site=site) for site in sites]).values
        return [value.sum(0) for value in values]

    sums = [found for _, found in in_batches([group], batch_size, summed)]
    totals = (sum(of_site) for of_site in zip(*sums, strict=True))
    return {site: total / len(group.rows) for site, total in zip(sites, totals, strict=True)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Given:
    """What is put in place of a node's output: means at every position, and the runs of other subjects by kind."""

    means: dict[Site, Float[Tensor, "positions ..."]]
    others: dict[str, list[Clean]]


class _Givers:
    """What the subjects of a batch are given: means over all subjects of a layout are taken once."""

    def __init__(self, anatomy: Anatomy, drawn: Sample, kinds: Sequence[str], *, batch_size: int) -> None:
        self.anatomy, self.drawn, self.kinds = anatomy, drawn, kinds
        layouts = [group.layout for group in drawn.sampled] if "mean" in kinds else []
        self.means = {
            layout: place_means(anatomy, drawn, layout, batch_size=batch_size) for layout in layouts
        }

    def to(self, batch: Batch) -> Given:
        """What this batch is given."""
        others = donor_runs(self.anatomy, self.drawn, batch, self.kinds)
        return Given(means=self.means.get(batch.layout, {}), others=others)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Replacements:
    """Replacements of the outputs of one layer's attention, or MLP, at one position: a key for each, and what it adds to
    the residual stream."""

    site: Site
    at: int
    keys: list[Key]
    delta: Float[Tensor, "replacements batch d_model"]


def _replacements(
    anatomy: Anatomy, batch: Batch, given: Given, kinds: Sequence[str], wanted: Container[Key] | None = None
) -> Iterator[_Replacements]:
    """All nodes at all positions under every kind, or those that are wanted, a layer's attention and MLP apart."""
    for at, role, number in batch.layout.slots(batch.layout.first_name):
        for layer in range(anatomy.n_layers):
            for site, names in (
                (Site("attn_out", layer), ["attention", *range(anatomy.n_heads)]),
                (Site("mlp_out", layer), ["mlp"]),
            ):
                keys, deltas = [], []
                for kind in kinds:
                    own = [(layer, role, number, name, kind) for name in names]
                    here = [i for i, key in enumerate(own) if wanted is None or key in wanted]
                    if not here:
                        continue
                    for delta in _deltas(anatomy, batch.clean, site.kind, (layer, at), kind, given):
                        keys += [own[i] for i in here]
                        deltas.append(delta.transpose(0, 1)[here])
                if keys:
                    yield _Replacements(site=site, at=at, keys=keys, delta=torch.cat(deltas))


def _run(engine: Engine, batch: Batch, some: Sequence[_Replacements]) -> Iterator[Effect]:
    """Replacements at one position, with the rest of the model run on."""
    b, edits = len(batch.rows), []
    for one in some:
        rows = one.delta.flatten(0, 1)
        prompt = torch.arange(b, device=rows.device).repeat(len(one.keys))
        edits.append(Edits(kind=one.site.kind, layer=one.site.layer, at=one.at, prompt=prompt, delta=rows))
    changes = engine.joint_effects(batch.clean, edits, batch.reading)
    for one, change in zip(some, changes, strict=True):
        parts = change.double().cpu().numpy().reshape(-1, b, change.shape[1])
        for key, part in zip(one.keys, parts, strict=True):
            yield Effect(key=key, rows=batch.rows, change=part)


def _slopes(anatomy: Anatomy, drawn: Sample, batch: Batch) -> dict[Site, Float[Tensor, "batch seq d_model"]]:
    """The gradient of each subject's logit difference in the output of every layer's attention and MLP, from one backward
    pass. A head's is that of its layer's attention, to which it adds."""
    sites = [Site(kind, layer) for kind in ("attn_out", "mlp_out") for layer in range(anatomy.n_layers)]
    found = difference_slopes(anatomy, drawn, batch, batch.clean, [Read(site=site) for site in sites])
    return dict(zip(sites, found, strict=True))


def _attributed(
    batch: Batch, one: _Replacements, slopes: Mapping[Site, Float[Tensor, "batch seq d_model"]]
) -> Iterator[Attributed]:
    """What replacements would do to first order: the gradient times what each adds."""
    slope = slopes[one.site][:, one.at].double()
    change = torch.einsum("rbd,bd->rb", one.delta.double(), slope).cpu().numpy()
    for key, part in zip(one.keys, change, strict=True):
        yield Attributed(key=key, rows=batch.rows, change=part)


def _deltas(
    anatomy: Anatomy,
    clean: Clean,
    kind_of_site: str,
    where: tuple[int, int],
    kind: str,
    given: Given,
) -> Iterator[Float[Tensor, "batch nodes d_model"]]:
    """What the replacement adds to the residual, draw by draw: for attention the whole layer first, then its heads."""
    layer, at = where
    site = Site("z" if kind_of_site == "attn_out" else "mlp_out", layer)
    old = activation(anatomy, clean, site, at)
    if kind == "zero":
        values = [torch.zeros_like(old)]
    elif kind == "mean":
        values = [given.means[site][at].expand_as(old)]
    else:
        values = [activation(anatomy, other, site, at) for other in given.others[kind]]
    for value in values:
        if kind_of_site == "mlp_out":
            yield (value - old)[:, None]
            continue
        heads = torch.einsum("bhe,hed->bhd", value - old, anatomy.blocks[layer].out_weight)
        whole = heads.sum(1)
        if kind == "zero":  # the layer's output has a bias, which belongs to no head
            whole = -activation(anatomy, clean, Site("attn_out", layer), at)
        yield torch.cat((whole[:, None], heads), dim=1)


def _node(layer: int, node: str | int) -> dict:
    names = {"attention": f"attn_out:{layer}", "mlp": f"mlp_out:{layer}"}
    head = None if isinstance(node, str) else node
    return {
        "node": names.get(node, f"L{layer}H{node}"),
        "type": "head" if head is not None else node,
        "layer": layer,
        "head": head,
    }
