"""One address language for the places in a model that can be read or edited.

    resid_pre:6          the residual stream before block 6        [d_model]
    resid_post:6         the residual stream after block 6         [d_model]
    attn_out:6           the attention block's output              [d_model]
    mlp_out:6            the MLP's output                          [d_model]
    z:6                  all heads' mixed values, before W_O       [heads, d_head]
    pre:6, post:6        all neurons before, after the activation  [d_mlp]
    pattern:6            attention patterns of all heads           [heads, key]
    L16H20               one head's z                              [d_head]
    L5N6045              one neuron's post-activation              [1]
    pattern:L16H20       one head's pattern                        [1, key]

Each may say at which position role: `resid_post:6@final_name`, `L16H20@end`. Without a role, every position is meant.
Numbers have any number of digits and no leading zeros, so that each site has one spelling: `parse(str(site)) == site`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from factfinding.data.prompts import ROLES
from factfinding.errors import InputError
from factfinding.model.anatomy import Anatomy

LAYER_KINDS = ("resid_pre", "resid_post", "attn_out", "mlp_out", "z", "pre", "post", "pattern")
NUMBER = r"(0|[1-9]\d*)"
GRAMMAR = (
    (re.compile(rf"L{NUMBER}H{NUMBER}"), "z"),
    (re.compile(rf"L{NUMBER}N{NUMBER}"), "post"),
    (re.compile(rf"pattern:L{NUMBER}H{NUMBER}"), "pattern"),
)
WHOLE_LAYER = re.compile(rf"({'|'.join(LAYER_KINDS)}):{NUMBER}")
ALLOWED = "resid_post:6, mlp_out:6, L16H20, L5N6045, pattern:L16H20, ... with or without @" + "|@".join(ROLES)


@dataclass(frozen=True, order=True)
class Site:
    """A place in the model. `index` is a head (kinds z, pattern) or a neuron (kind post); None means all of them."""

    kind: str
    layer: int
    index: int | None = None
    role: str | None = None

    def __str__(self) -> str:
        if self.index is None:
            address = f"{self.kind}:{self.layer}"
        else:
            unit = f"L{self.layer}{'N' if self.kind == 'post' else 'H'}{self.index}"
            address = f"pattern:{unit}" if self.kind == "pattern" else unit
        return address if self.role is None else f"{address}@{self.role}"

    def at(self, role: str | None) -> Site:
        """The same place at a position role."""
        return replace(self, role=role)


def parse(text: str) -> Site:
    """Read an address. Raises InputError for what is no address, saying what one looks like."""
    address, _, role = text.partition("@")
    if role not in ROLES if "@" in text else bool(role):
        raise InputError(f"site {text!r}", f"position role {role!r}", ", ".join(ROLES))
    if match := WHOLE_LAYER.fullmatch(address):
        return Site(match[1], int(match[2]), None, role or None)
    for grammar, kind in GRAMMAR:
        if match := grammar.fullmatch(address):
            return Site(kind, int(match[1]), int(match[2]), role or None)
    raise InputError(f"site {text!r}", "no address of a place in the model", ALLOWED)


def head(layer: int, index: int, role: str | None = None) -> Site:
    return Site("z", layer, index, role)


def neuron(layer: int, index: int, role: str | None = None) -> Site:
    return Site("post", layer, index, role)


def check(site: Site, anatomy: Anatomy) -> Site:
    """The site, if the loaded model has it; InputError says what it has otherwise."""
    return check_sizes(site, n_layers=anatomy.n_layers, n_heads=anatomy.n_heads, d_mlp=anatomy.d_mlp)


def check_sizes(site: Site, *, n_layers: int, n_heads: int, d_mlp: int) -> Site:
    """`check` from a model's sizes alone, for a look at a configuration before any model is loaded."""
    if site.layer >= n_layers:
        raise InputError(site, f"layer {site.layer}", f"this model has layers 0-{n_layers - 1}")
    if site.index is not None:
        unit, count = ("neuron", d_mlp) if site.kind == "post" else ("head", n_heads)
        if site.index >= count:
            raise InputError(site, f"{unit} {site.index}", f"this model has {unit}s 0-{count - 1} in a layer")
    return site
