"""What a model says at the end of each prompt: the candidates' logits and log-probabilities (P2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int

from factfinding.engine.batches import Batches
from factfinding.engine.capture import positions_of, prompt_batches, tokens_of
from factfinding.engine.trace import run
from factfinding.errors import InputError
from factfinding.known import Rule
from factfinding.model.anatomy import Anatomy


@dataclass(frozen=True, kw_only=True)
class Answers:
    """At END of each prompt: the candidates' logits, their log-probabilities (nats, over the whole vocabulary), and
    the most probable token of the vocabulary."""

    logits: Float[np.ndarray, "subjects candidates"]
    logp: Float[np.ndarray, "subjects candidates"]
    top_token_id: Int[np.ndarray, " subjects"]

    def recalled(
        self, own: Int[np.ndarray, " subjects"], token_ids: Sequence[int], rule: Rule
    ) -> Bool[np.ndarray, " subjects"]:
        """Whose answer is recalled by the rule. own: the column of each right answer; token_ids: of the columns."""
        p = np.exp(np.minimum(self.logp[np.arange(len(own)), own], 0.0))
        first = self.top_token_id == np.asarray(token_ids)[own]
        return rule.holds(p=p, first=first, best=self.logits.argmax(axis=1) == own)


def answers(anatomy: Anatomy, prompts: pl.DataFrame, token_ids: Sequence[int], *, batch_size: int) -> Answers:
    """One forward pass per prompt, in the order of the prompts table. Raises InputError for logits that are no numbers."""
    candidates, batches = torch.tensor(list(token_ids), device=anatomy.device), Batches(batch_size)
    logits = np.empty((prompts.height, len(token_ids)))
    logp, top = np.empty_like(logits), np.empty(prompts.height, dtype=np.int64)

    def ask(rows: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        end = positions_of(prompts, rows, "end", anatomy.device)
        said = run(anatomy, tokens_of(prompts, rows, anatomy.device), logits_at=end).logits
        if not bool(said.isfinite().all()):
            kind = str(said.dtype).removeprefix("torch.")
            found = f"{kind}, in which logits are not finite"
            raise InputError("config.compute.dtype", found, "float32, or a model without overflow")
        said = said.to(torch.promote_types(said.dtype, torch.float32))
        found = said[:, candidates], said.log_softmax(-1)[:, candidates], said.argmax(-1)
        return tuple(values.cpu().numpy() for values in found)

    for same in prompt_batches(prompts, range(prompts.height)):
        for rows, (own_logits, own_logp, own_top) in batches.of(same, ask):
            logits[rows], logp[rows], top[rows] = own_logits, own_logp, own_top
    return Answers(logits=logits, logp=logp, top_token_id=top)
