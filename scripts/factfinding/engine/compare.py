"""Where two runs of the same prompts part: the first place, in the order of computation, at which they differ.

    one, other = load(folder, dtype="float64"), load(folder, dtype="float32")
    print(first_difference(one, other, tokens, 1e-5))     # None, or: mlp_out:3 differs by 2.1e-04 (prompt 0, position 7)

For the same model in two precisions, from two folders, before and after an edit of the code, on two machines (keep what
`sites_of` gives of one). Differences are absolute over the largest absolute value at that place in `one`; a place that holds
NaN in one of them differs by infinity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.engine.sites import Site
from factfinding.engine.trace import Read, run
from factfinding.errors import InputError
from factfinding.model.anatomy import Anatomy

LOGITS = "logits"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far two runs are apart at one place: a site, or the logits. Where: the prompt and the position of the largest."""

    place: str
    size: float  # largest absolute difference over the largest absolute value of `one`
    prompt: int
    position: int

    def __str__(self) -> str:
        return f"{self.place} differs by {self.size:.1e} (prompt {self.prompt}, position {self.position})"


def first_difference(
    one: Anatomy, other: Anatomy, tokens: Int[Tensor, "batch seq"], tolerance: float
) -> Difference | None:
    """The first place at which `other` is further from `one` than `tolerance`; None where there is none.

    Places are those of `differences`. Raises InputError for models of other sizes.
    """
    return next((found for found in differences(one, other, tokens) if not found.size <= tolerance), None)


def differences(one: Anatomy, other: Anatomy, tokens: Int[Tensor, "batch seq"]) -> list[Difference]:
    """How far two models are apart at every place, in the order of computation.

    In each block z (the heads' mixed values), attn_out, pre, post, mlp_out, resid_post; before them the embeddings
    (resid_pre:0), after them the logits. Where a block's MLP reads beside its attention (GPT-NeoX), neither comes first.
    """
    for size in ("n_layers", "d_model", "n_heads", "d_mlp", "d_vocab"):
        if getattr(one, size) != getattr(other, size):
            raise InputError(
                "other model", f"{size} {getattr(other, size)}", f"{getattr(one, size)}, as in the first"
            )
    places = sites_of(one)
    return [
        _difference(place, x, y)
        for place, x, y in zip(
            [*map(str, places), LOGITS], values(one, tokens), values(other, tokens), strict=True
        )
    ]


def sites_of(anatomy: Anatomy) -> list[Site]:
    """The places that are compared, in the order of computation; the logits follow them."""
    kinds = ("z", "attn_out", "pre", "post", "mlp_out", "resid_post")
    return [Site("resid_pre", 0), *(Site(kind, i) for i in range(anatomy.n_layers) for kind in kinds)]


def values(anatomy: Anatomy, tokens: Int[Tensor, "batch seq"]) -> list[Float[Tensor, "batch seq ..."]]:
    """What is at the places of `sites_of`, and the logits of every position, on the CPU in float64."""
    ran = run(anatomy, tokens.to(anatomy.device), reads=[Read(site=site) for site in sites_of(anatomy)])
    with torch.no_grad():
        logits = anatomy.logits(ran.values[-1])
    return [value.detach().cpu().double() for value in (*ran.values, logits)]


def _difference(place: str, one: Tensor, other: Tensor) -> Difference:
    apart = (one - other).abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
    worst = int(apart.flatten(2).amax(-1).argmax()) if apart.ndim > 2 else int(apart.argmax())
    largest = float(one.abs().nan_to_num(nan=0.0, posinf=0.0).max())
    size = float(apart.max())
    relative = size / largest if largest else (0.0 if size == 0 else torch.inf)
    return Difference(place=place, size=relative, prompt=worst // one.shape[1], position=worst % one.shape[1])
