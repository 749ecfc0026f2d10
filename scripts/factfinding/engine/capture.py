"""Run a model over a prompts table and store its activations (the study's caches).

Prompts are taken in batches of one length, so that nothing is padded. What a prompt gives does not depend on which
others share its batch beyond rounding, and finished prompts are found in their shards and not run again. Several jobs may
share the prompts of a table; `store.assemble` makes one file of what they leave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.engine.batches import Batches
from factfinding.engine.sites import Site
from factfinding.engine.tokens import tokens_of
from factfinding.engine.trace import Read, run
from factfinding.errors import InputError
from factfinding.model.anatomy import Anatomy
from factfinding.store import AXES, ShardStore, Source, StoreLayout, prompt_keys, write_listing


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One dataset to store: a site at a position role, for some layers (None: all)."""

    site: str
    role: str
    layers: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        return f"{self.site}@{self.role}"


def wanted_datasets(groups: Sequence[Any], lookup: tuple[int, int] | None) -> list[Wanted]:
    """The configuration's groups of datasets (site, roles, layers), one by one.

    Neurons (`pre`, `post`) of all layers would fill disks, so where the lookup layers are known only theirs are kept.
    """
    datasets = []
    for group in groups:
        layers = group.layers
        if layers is None and lookup is not None and group.site in ("pre", "post"):
            layers = tuple(range(lookup[0], lookup[1] + 1))
        datasets += [Wanted(site=group.site, role=role, layers=layers) for role in group.roles]
    return datasets


def layout(wanted: Wanted, anatomy: Anatomy, longest: int) -> StoreLayout:
    """The shape of a dataset. Raises InputError for a layer that the model does not have."""
    layers = tuple(range(anatomy.n_layers)) if wanted.layers is None else wanted.layers
    for layer in layers:
        if not 0 <= layer < anatomy.n_layers:
            raise InputError(
                f"activations, {wanted.name}",
                f"layer {layer}",
                f"this model has layers 0-{anatomy.n_layers - 1}",
            )
    if wanted.site == "resid":
        layers = (-1, *layers)
    sizes = {
        "d_model": anatomy.d_model,
        "head": anatomy.n_heads,
        "d_head": anatomy.d_head,
        "neuron": anatomy.d_mlp,
    }
    axes = AXES[wanted.site]
    shape = tuple({"layer": len(layers), "key": longest, **sizes}[axis] for axis in axes)
    units = "probability" if wanted.site == "pattern" else "model's own"
    return StoreLayout(
        name=wanted.name, shape=shape, axes=axes, layers=layers, units=units, ragged=wanted.site == "pattern"
    )


def reads(layouts: Sequence[StoreLayout], positions: dict[str, Int[Tensor, " batch"]]) -> list[Read]:
    """What a forward pass has to record, layer by layer, in the order of the layouts."""
    wanted = []
    for place in layouts:
        site, role = place.name.split("@")
        for layer in place.layers:
            kind = site if site != "resid" else "resid_pre" if layer < 0 else "resid_post"
            wanted.append(Read(site=Site(kind, max(layer, 0)), at=positions[role]))
    return wanted


def prompt_batches(
    prompts: pl.DataFrame, rows: Sequence[int], size: int | None = None
) -> Iterator[list[int]]:
    """Rows whose prompts have one length, at most `size` together (None: all), short ones first, otherwise in the order
    given."""
    lengths = prompts["n_tokens"].to_numpy()
    for length in sorted({int(lengths[row]) for row in rows}):
        same = [row for row in rows if lengths[row] == length]
        most = size or len(same)
        yield from (same[start : start + most] for start in range(0, len(same), most))


def positions_of(
    prompts: pl.DataFrame, rows: Sequence[int], role: str, device: torch.device
) -> Int[Tensor, " batch"]:
    """Where a role with one position (first_name, final_name, end) lies in each prompt."""
    return torch.tensor(prompts[role].to_numpy()[list(rows)], device=device)


def record(
    anatomy: Anatomy, prompts: pl.DataFrame, rows: Sequence[int], layouts: Sequence[StoreLayout]
) -> dict[str, Float[np.ndarray, "batch ..."]]:
    """One batch through the model: an array per dataset, layers stacked on its second axis."""
    roles = {place.name.split("@")[1] for place in layouts}
    at = {role: positions_of(prompts, rows, role, anatomy.device) for role in roles}
    values = iter(run(anatomy, tokens_of(prompts, rows, anatomy.device), reads=reads(layouts, at)).values)
    stacked = ((place.name, [next(values) for _ in place.layers]) for place in layouts)
    return {name: torch.stack(layers, dim=1).float().cpu().numpy() for name, layers in stacked}


def as_stored(
    arrays: dict[str, Float[np.ndarray, "rows ..."]],
    layouts: Sequence[StoreLayout],
    *,
    computed: str,
    stored: str,
) -> dict[str, Float[np.ndarray, "rows ..."]]:
    """Activations in the precision of the file. Raises InputError, naming dataset and layer, for values that are no numbers
    as they were computed, and for those that become infinite when they are stored.
    """
    found = {}
    for place in layouts:
        with np.errstate(over="ignore"):
            found[place.name] = arrays[place.name].astype(stored)
        for layer, values, kept in zip(
            place.layers, arrays[place.name].swapaxes(0, 1), found[place.name].swapaxes(0, 1), strict=True
        ):
            if np.isfinite(kept).all():
                continue
            where, largest = f"{place.name}, layer {layer}", np.abs(values).max()
            if not np.isfinite(values).all():
                raise InputError(
                    "config.compute.dtype",
                    f"{computed}, in which {where} holds values that are not finite",
                    "float32",
                )
            raise InputError(
                "config.activations.stored",
                f"{stored}, and values of up to {largest:.3g} in {where}",
                f"float32; {stored} ends at {float(np.finfo(stored).max):,.0f}",
            )
    return found


def share_of(prompts: pl.DataFrame, number: int, jobs: int, *, batch_size: int) -> list[int]:
    """The rows that one of several jobs runs: number `number` of `jobs`, counted from 0. Short prompts come first, and each
    job has about the same number of tokens. Batches are dealt out whole, so a prompt shares its batch with the same
    others however many jobs there are.
    """
    batches = list(prompt_batches(prompts, range(prompts.height), batch_size))
    tokens = np.array([len(batch) * prompts["n_tokens"][batch[0]] for batch in batches])
    middle = np.cumsum(tokens) - tokens / 2
    job = middle * jobs // tokens.sum()
    return [row for batch, its_job in zip(batches, job, strict=True) if its_job == number for row in batch]


def capture(
    anatomy: Anatomy,
    prompts: pl.DataFrame,
    wanted: Sequence[Wanted],
    listing: Path,
    *,
    source: Source,
    shards: Path,
    batch_size: int,
    shard_rows: int,
    attributes: dict[str, str],
    log: Callable[[str], None],
    share: tuple[int, int] = (0, 1),
) -> int:
    """Bring the activations of a share of the prompts into finished shards, and say at `listing` what `store.assemble`
    has to know of them; returns how many prompts went through the model.

    share: the job's number, counted from 0, and how many jobs share the prompts (`share_of`).

    Memory holds one shard (`shard_rows` prompts) at most, however many subjects there are; a batch of `batch_size`
    prompts that does not fit is halved, and that is logged. Killed at any moment, it loses the shard that was being
    filled, and a rerun continues from the finished ones.
    """
    longest = int(prompts["n_tokens"].max())
    layouts = [layout(want, anatomy, longest) for want in wanted]
    keys = prompt_keys(prompts, layouts)
    store = ShardStore(shards, source, layouts, log)
    size = min(batch_size, shard_rows)
    own, done = share_of(prompts, *share, batch_size=size), store.rows()
    missing = [row for row in own if keys[row] not in done]
    log(f"{len(own) - len(missing)} of {len(own)} prompts found in finished shards, {len(missing)} to run")
    finished, batches = 0, Batches(size, log)
    for shard in prompt_batches(prompts, missing, shard_rows - shard_rows % size):  # of whole batches
        parts = [
            found for _, found in batches.of(shard, lambda rows: record(anatomy, prompts, rows, layouts))
        ]
        arrays = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        arrays = as_stored(arrays, layouts, computed=source.dtype, stored=source.stored)
        store.add([keys[row] for row in shard], arrays)
        finished += len(shard)
        log(f"{finished} of {len(missing)} prompts run")
    first, has_heads = share[0] == 0, any(want.site == "z" for want in wanted)
    constants = {"W_O": _out_weights(anatomy)} if first and has_heads else {}  # for all jobs
    write_listing(listing, store, attributes=attributes, constants=constants)
    return len(missing)


def _out_weights(anatomy: Anatomy) -> Float[np.ndarray, "layer head d_head d_model"]:
    return torch.stack([block.out_weight for block in anatomy.blocks]).float().cpu().numpy()
