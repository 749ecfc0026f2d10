"""What is read at the end of an edited run: logits, log-probabilities, or a residual stream and probes of it.

Only what is asked for is computed: the logits of a few tokens do not need the rest of the vocabulary, and a
reading of a middle layer does not need the layers above it. A log-probability needs the whole vocabulary, but
never at once: its pieces are summed one after another, near the processor's caches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.engine.clean import Clean
from factfinding.model.anatomy import Anatomy

PIECE = 8192
"""Tokens of the vocabulary that are unembedded at once where only their sum is wanted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Logits:
    """Read the logits of tokens (one list for all, or a row per prompt; None: the whole vocabulary)."""

    at: int
    tokens: Int[Tensor, " k"] | Int[Tensor, "prompts k"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class LogProbs:
    """Read log-probabilities of tokens over the whole vocabulary; `tokens` as in `Logits`."""

    at: int
    tokens: Int[Tensor, " k"] | Int[Tensor, "prompts k"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Resid:
    """Read resid_post of a layer, or a linear probe of it: resid @ weight + bias."""

    at: int
    layer: int
    weight: Float[Tensor, "d_model k"] | None = None
    bias: Float[Tensor, " k"] | None = None


Reading = Logits | LogProbs | Resid


def layer_of(anatomy: Anatomy, reading: Reading) -> int:
    """The layer after which is read."""
    return reading.layer if isinstance(reading, Resid) else anatomy.n_layers - 1


def clean_values(anatomy: Anatomy, clean: Clean, reading: Reading) -> Float[Tensor, "prompts k"]:
    """What is read in the clean run, prompt by prompt."""
    after = clean.resid[layer_of(anatomy, reading) + 1, :, reading.at - clean.start]
    everyone = torch.arange(len(clean.tokens), device=clean.tokens.device)
    return read(anatomy, reading, after, everyone)


def read(
    anatomy: Anatomy, reading: Reading, resid: Float[Tensor, "rows d_model"], prompt: Int[Tensor, " rows"]
) -> Float[Tensor, "rows k"]:
    """What `reading` sees in a residual stream at its layer and position."""
    if isinstance(reading, Resid):
        probed = resid if reading.weight is None else resid @ reading.weight.to(resid)
        return probed if reading.bias is None else probed + reading.bias.to(resid)
    tokens = read_tokens(reading, prompt)
    if tokens is None:
        logits = anatomy.logits(resid)
        return logits if isinstance(reading, Logits) else logits - logits.logsumexp(1, keepdim=True)
    normed = anatomy.final_norm(resid)
    if isinstance(reading, LogProbs):
        return log_probs(anatomy, normed, tokens)
    return unembed_tokens(anatomy, normed, reading.tokens, prompt)


def pieces(n: int) -> Iterator[slice]:
    """A vocabulary of n tokens in parts of at most `PIECE`."""
    return (slice(start, min(start + PIECE, n)) for start in range(0, n, PIECE))


def log_probs(
    anatomy: Anatomy, normed: Float[Tensor, "rows d_model"], tokens: Int[Tensor, "rows k"]
) -> Float[Tensor, "rows k"]:
    """Log-probabilities of a few tokens, the vocabulary taken piece by piece.

    A token's logit is taken from its piece, so that its rounding cancels where its probability is almost 1.
    """
    weight, bias = anatomy.unembed.weight, anatomy.unembed.bias
    own, sums = normed.new_zeros(tokens.shape), []
    for part in pieces(len(weight)):
        logits = torch.nn.functional.linear(normed, weight[part], None if bias is None else bias[part])
        here = (tokens >= part.start) & (tokens < part.stop)
        own = torch.where(here, logits.gather(1, (tokens - part.start).clamp(0, logits.shape[1] - 1)), own)
        sums.append(logits.logsumexp(1))
    return own - torch.stack(sums, dim=1).logsumexp(1, keepdim=True)


def read_tokens(reading: Logits | LogProbs, prompt: Int[Tensor, " rows"]) -> Int[Tensor, "rows k"] | None:
    """The tokens that each row reads, or None for the whole vocabulary."""
    if reading.tokens is None:
        return None
    tokens = reading.tokens.to(prompt.device)
    return tokens[prompt] if tokens.ndim == 2 else tokens.expand(len(prompt), -1)


def unembed_tokens(
    anatomy: Anatomy, normed: Tensor, tokens: Tensor, prompt: Tensor, *, bias: bool = True
) -> Tensor:
    """Logits of a few tokens, `[rows, k]`, without the rest of the vocabulary."""
    weight, offset = anatomy.unembed.weight, anatomy.unembed.bias if bias else None
    tokens = tokens.to(prompt.device)
    if tokens.ndim == 1:
        return torch.nn.functional.linear(normed, weight[tokens], None if offset is None else offset[tokens])
    logits = (normed[:, None] @ weight[tokens].transpose(1, 2)[prompt])[:, 0]
    return logits if offset is None else logits + offset[tokens[prompt]]
