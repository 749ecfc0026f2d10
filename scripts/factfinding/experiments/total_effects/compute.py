"""Total effects: what changes at END when one node's output at one position is replaced (P2.7).

Nodes are every head, attention layer and MLP layer; positions are those from the name on, since what comes before is
the same in all prompts. A node's output there is ablated in each of the four ways, or patched from the corrupt run, and
the rest of the model runs on. The donors of `resample_other` are of the corrupt partner's answer, against which the logit
difference is taken: one of a third answer would move the answer where the difference does not look.

Run through the fast engine (engine/suffix.py) on a seeded sample of subjects: all nodes of a layer and position are rows
of one batch. Where that is more than some minutes' work, attribution patching chooses what is run (methods/screen.py), and the
rest stands in the table as its estimates, marked as such.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.engine.attribution import gradients
from factfinding.engine.clean import Clean, activation
from factfinding.engine.sites import Site
from factfinding.engine.suffix import Edits, Suffix
from factfinding.engine.tokens import tokens_of
from factfinding.engine.trace import Read, run
from factfinding.inputs import Inputs, Say, Settings
from factfinding.least import EXACT_UP_TO
from factfinding.methods.groups import CORRUPT, KINDS, Group, PromptLayout, in_batches
from factfinding.methods.patched import (
    Attributed,
    Batch,
    Effect,
    Sample,
    differences,
    donor_runs,
    estimated,
    patched,
    place_of,
    sample_of,
)
from factfinding.methods.screen import Key, Measured, Screen, certificate, choose, errors_of, type_of
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import anatomy_of
from factfinding.tables import empty, schema_of

DONORS = {"resample_same": "own answer", "resample_other": "partner's answer", CORRUPT: "partner"}
"""Whose outputs are put in, by kind."""

MOST_ROWS = 4096
"""Replacements that run together, where they are few and far between."""
PROMPTS = 32
"""Prompts at a time where there are four kinds of rows and more for each, or a backward pass, which keeps the whole graph."""

Tables = tuple[pl.DataFrame, pl.DataFrame]
"""`total_effects` and `total_effects_screen`."""


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables `total_effects` and `total_effects_screen`."""
    anatomy, section, size = anatomy_of(inputs), settings.interventions, settings.compute.batch_size
    swapped, ablated = (
        sample_of(inputs, section, subjects=subjects, draws=section.draws)
        for subjects in (section.patched_subjects, section.node_subjects)  # the second are some of the first
    )
    nodes = anatomy.n_layers * (anatomy.n_heads + 2)
    say(f"{nodes} nodes of {len(swapped.rows)} subjects patched, of {len(ablated.rows)} ablated")
    parts = [(ablated, KINDS, min(size, PROMPTS)), (swapped, (CORRUPT,), size)]
    work = sum(multiplications(anatomy, drawn, kinds) for drawn, kinds, _ in parts)
    screened = section.screen == "always" or (section.screen == "auto" and work > EXACT_UP_TO)
    say(
        f"{work:.2g} multiplications, {EXACT_UP_TO:.2g} without a screen; {'screened' if screened else 'all run'}"
    )
    screen = Screen(below=section.screen_below, sample=section.screen_sample, seed=section.seed)
    effects, screens = [], [empty("total_effects_screen")]
    for drawn, kinds, rows in parts:
        options = {"kinds": kinds, "batch_size": rows, "seed": section.seed}
        if not screened:
            effects.append(total_effects(anatomy, drawn, **options))
            continue
        table, about = screened_effects(anatomy, drawn, screen=screen, **options)
        say(f"{', '.join(kinds)}: {table['exact'].sum()} of {table.height} effects run")
        effects.append(table)
        screens.append(about)
    return {"total_effects": pl.concat(effects), "total_effects_screen": pl.concat(screens)}


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


def total_effects(
    anatomy: Anatomy, drawn: Sample, *, kinds: Sequence[str] = (*KINDS, CORRUPT), batch_size: int, seed: int
) -> pl.DataFrame:
    """Columns node, type (head, attention, mlp), layer, head, role, number, token, kind, effect (logits) with its
    interval, whole_swap (mean, of the same subjects), share, n. Resampling averages over its draws first. All are exact."""
    given = _Givers(anatomy, drawn, kinds, batch_size=batch_size)

    def measure(batch: Batch) -> Iterator[Effect]:
        for replacements in _replacements(anatomy, batch, given.to(batch), kinds):
            yield from _run(anatomy, batch, [replacements])

    found = patched(anatomy, drawn, measure, batch_size=batch_size)
    return _table(anatomy, drawn, differences(drawn, found.effects), found.whole, seed)


def screened_effects(
    anatomy: Anatomy,
    drawn: Sample,
    *,
    kinds: Sequence[str] = (*KINDS, CORRUPT),
    batch_size: int,
    seed: int,
    screen: Screen,
) -> Tables:
    """As `total_effects`, but only what the screen chooses is run; other rows are estimates (`exact` is false, `error` says
    how far such estimates are off). Beside it the table `total_effects_screen`."""
    given = _Givers(anatomy, drawn, kinds, batch_size=batch_size)

    def estimate(batch: Batch) -> Iterator[Effect]:
        slopes = _slopes(anatomy, drawn, batch)
        for replacements in _replacements(anatomy, batch, given.to(batch), kinds):
            yield from _attributed(batch, replacements, slopes)

    seen = patched(anatomy, drawn, estimate, batch_size=min(batch_size, PROMPTS))
    estimates = differences(drawn, seen.effects)
    choice = choose(
        estimates,
        seen.whole,
        screen,
        always=lambda key: type_of(key) != "head" and key[1] in ("final_name", "end"),
        rivals=lambda key: (*key[1:3], key[4], type_of(key) == "attention"),
    )

    def measure(batch: Batch) -> Iterator[Effect]:
        for some in _together(_replacements(anatomy, batch, given.to(batch), kinds, wanted=choice.run)):
            yield from _run(anatomy, batch, some)

    exact = differences(drawn, patched(anatomy, drawn, measure, batch_size=batch_size).effects)
    about = certificate(estimates, exact, choice, seen.whole, screen)
    table = _table(
        anatomy, drawn, estimates | exact, seen.whole, seed, run=choice.run, error=errors_of(about)
    )
    return table, pl.DataFrame(about, schema=schema_of("total_effects_screen"))


def _table(
    anatomy: Anatomy,
    drawn: Sample,
    found: Mapping[Key, Measured],
    whole: dict[int, float],
    seed: int,
    *,
    run: Container[Key] | None = None,
    error: Callable[[str, str], float | None] | None = None,
) -> pl.DataFrame:
    """run: the effects that are no estimates (None: all). error: of an estimate, as a share of the whole swap."""
    rows = []
    for key, (difference, subjects) in found.items():
        layer, role, number, node, kind = key
        where = place_of(anatomy, drawn, role, number, subjects)
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


def _together(found: Iterable[_Replacements]) -> Iterator[list[_Replacements]]:
    """Replacements at one position that run together, layers of any depth."""
    waiting: list[_Replacements] = []
    for one in found:
        rows = sum(other.delta.shape[0] * other.delta.shape[1] for other in (*waiting, one))
        if waiting and (one.at != waiting[0].at or rows > MOST_ROWS):
            yield waiting
            waiting = []
        waiting.append(one)
    if waiting:
        yield waiting


def _run(anatomy: Anatomy, batch: Batch, some: Sequence[_Replacements]) -> Iterator[Effect]:
    """Replacements at one position, with the rest of the model run on."""
    b, edits = len(batch.rows), []
    for one in some:
        rows = one.delta.flatten(0, 1)
        prompt = torch.arange(b, device=rows.device).repeat(len(one.keys))
        edits.append(Edits(kind=one.site.kind, layer=one.site.layer, at=one.at, prompt=prompt, delta=rows))
    changes = Suffix(anatomy).joint_effects(batch.clean, edits, batch.reading)
    for one, change in zip(some, changes, strict=True):
        parts = change.double().cpu().numpy().reshape(-1, b, change.shape[1])
        for key, part in zip(one.keys, parts, strict=True):
            yield Effect(key=key, rows=batch.rows, change=part)


def _slopes(anatomy: Anatomy, drawn: Sample, batch: Batch) -> dict[Site, Float[Tensor, "batch seq d_model"]]:
    """The gradient of each subject's logit difference in the output of every layer's attention and MLP, from one backward
    pass. A head's is that of its layer's attention, to which it adds."""
    sites = [Site(kind, layer) for kind in ("attn_out", "mlp_out") for layer in range(anatomy.n_layers)]
    tokens = torch.tensor(drawn.candidates["token_id"].to_list(), device=anatomy.device)
    own, other = (
        tokens[torch.tensor(labels, device=anatomy.device)]
        for labels in (drawn.labels[batch.rows], drawn.labels[drawn.corrupt[batch.rows]])
    )

    def difference(logits: Tensor) -> Tensor:
        return (logits.gather(1, own[:, None]) - logits.gather(1, other[:, None]))[:, 0]

    end = torch.full((len(batch.rows),), batch.layout.end, device=anatomy.device)
    reads = [Read(site=site) for site in sites]
    found = gradients(anatomy, batch.clean.tokens, reads, difference, logits_at=end)
    return dict(zip(sites, found.gradients, strict=True))


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
