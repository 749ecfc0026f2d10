"""The simplified name-only model of the ladder's last step: attention only adds, and only MLPs combine (P2.8, P2.9).

On prompts of one layout under `name_only`:

- in the concatenating layers each name token looks where subjects look on average (patterns frozen, values stay);
- the final name token does not look at itself there, except in layer 0, where it has seen nothing else yet;
- the name's other tokens do not look at each other, so each carries itself alone (a name of two tokens has only one);
- later attention, and the MLPs below the lookup, write constants at the final name token.

What the lookup's MLPs read is then a sum with one term per name token, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.engine.batches import Batches
from factfinding.engine.sites import Site
from factfinding.engine.trace import Edit, Knockout, Read, run
from factfinding.errors import InputError
from factfinding.methods.circuit import AT_NAME, Circuit
from factfinding.methods.groups import PromptLayout
from factfinding.methods.name_stream import Instead
from factfinding.model.anatomy import Anatomy

Patterns = dict[int, Float[Tensor, "queries heads keys"]]
"""By layer: the pattern of each name token, first to final."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Which layers do what: attention up to `concatenate` gathers the name (-1: none does), MLPs `lookup[0]` to
    `lookup[1]` look the fact up."""

    concatenate: int
    lookup: tuple[int, int]


def parts_of(circuit: Circuit, anatomy: Anatomy) -> Parts | None:
    """The parts of a circuit; None where the fact is not looked up at the name, or a part is missing.

    Raises InputError for layers that the model does not have, or the last before the first.
    """
    for name in ("concatenate", "lookup"):
        span = getattr(circuit, name)
        if span is not None and not 0 <= span[0] <= span[1] < anatomy.n_layers:
            allowed = f"a first and a last layer of 0-{anatomy.n_layers - 1}"
            raise InputError(f"circuit.{name}", str(list(span)), allowed)
    if circuit.lookup is None or circuit.lookup_at != AT_NAME:
        return None
    last = -1 if circuit.concatenate is None else circuit.concatenate[1]
    return Parts(concatenate=last, lookup=circuit.lookup)


def constant_mlps(parts: Parts, *, parallel: bool) -> range:
    """MLPs below the lookup that write a constant at the final name token.

    In a parallel block MLP 0 reads the token alone and stays; in a sequential one it already reads what attention 0
    gathered.
    """
    return range(1 if parallel else 0, parts.lookup[0])


def positions(layout: PromptLayout, device: torch.device) -> Int[Tensor, " queries"]:
    """The name's tokens, first to final."""
    return torch.arange(layout.first_name, layout.final_name + 1, device=device)


def cuts(layout: PromptLayout, concatenate: int, batch: int, device: torch.device) -> list[Knockout]:
    """The attention edges that the simplified model does not have."""
    name = positions(layout, device).expand(batch, -1)
    final = name[:, -1:]
    found = [Knockout(layer=layer, queries=final, keys=final) for layer in range(1, concatenate + 1)]
    for layer in range(concatenate + 1):
        for i in range(1, layout.n_name_tokens - 1):
            found.append(Knockout(layer=layer, queries=name[:, i : i + 1], keys=name[:, :i]))
    return found


@torch.no_grad()
def mean_patterns(
    anatomy: Anatomy,
    tokens: Int[Tensor, "prompts seq"],
    layout: PromptLayout,
    concatenate: int,
    *,
    batch_size: int,
) -> Patterns:
    """Patterns of the name's tokens in the concatenating layers, with the cuts made, averaged over prompts."""
    layers = range(concatenate + 1)

    def summed(part: Int[Tensor, "batch seq"]) -> list[Float[Tensor, "queries heads keys"]]:
        at = positions(layout, part.device).expand(len(part), -1)
        reads = [Read(site=Site("pattern", layer), at=at) for layer in layers]
        knockouts = cuts(layout, concatenate, len(part), part.device)
        return [value.sum(0) for value in run(anatomy, part, reads=reads, knockouts=knockouts).values]

    sums = [found for _, found in Batches(batch_size).of(tokens, summed)]
    return {
        layer: sum(of_layer) / len(tokens)
        for layer, of_layer in zip(layers, zip(*sums, strict=True), strict=True)
    }


@torch.no_grad()
def simplified_run(
    anatomy: Anatomy,
    tokens: Int[Tensor, "batch seq"],
    layout: PromptLayout,
    patterns: Patterns,
    *,
    attn: Instead,
    mlp: Instead,
    also: Sequence[Site] = (),
) -> tuple[Float[Tensor, "batch layers d_model"], list[Float[Tensor, "batch d_model"]]]:
    """resid_post of every layer at the final name token of the simplified model, and what `also` reads there."""
    name = positions(layout, tokens.device).expand(len(tokens), -1)
    final = name[:, -1]
    edits = [Edit(site=Site("pattern", layer), at=name, value=value) for layer, value in patterns.items()]
    for kind, values in (("attn_out", attn), ("mlp_out", mlp)):
        edits += [Edit(site=Site(kind, layer), at=final, value=value) for layer, value in values.items()]
    sites = [Site("resid_post", layer) for layer in range(anatomy.n_layers)] + list(also)
    values = run(anatomy, tokens, reads=[Read(site=site, at=final) for site in sites], edits=edits).values
    return torch.stack(values[: anatomy.n_layers], dim=1), values[anatomy.n_layers :]
