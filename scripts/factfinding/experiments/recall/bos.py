"""Which token should prompts begin with? A sample of them is asked with every token that could be it, and with none.

The token that a tokenizer names as BOS need not be the one that texts began with in training: a model tuned for chats may
name the one that opens a turn. What the model then recalls can be half, or nothing. So the alternatives are measured on
the same subjects, each held against the one in use, in pairs.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import polars as pl

from factfinding.engine.answers import answers as answers_of
from factfinding.known import STUDY_RULE, Rule
from factfinding.methods.estimates import estimate_columns
from factfinding.methods.groups import labels_of, some_prompts
from factfinding.model.anatomy import Anatomy
from factfinding.stats import majority_rate, mean_interval, paired_difference, share_interval
from factfinding.tables import schema_of

SAMPLE = 100
"""Subjects that are asked."""
NONE = "none"
NAMED = ("bos_token", "eos_token", "cls_token")
BEGINS = re.compile(r"(begin|start|end)_?of_?text|^<s>$|^<bos>$|^\[CLS\]$|im_start", re.IGNORECASE)
"""Special tokens that a text may begin with, by their names."""


def bos_check(
    anatomy: Anatomy,
    prompts: pl.DataFrame,
    candidates: pl.DataFrame,
    rule: Rule = STUDY_RULE,
    *,
    seed: int,
    batch_size: int,
) -> pl.DataFrame:
    """The table `bos_check`: a row for each token, the one in use first, and one for no token at all.

    prompts: the prompts table `full`; of its subjects `SAMPLE` are drawn by `seed`, whatever their order.
    rule: who counts as recalled.
    """
    prompts = sample(prompts, seed=seed)
    bare = anatomy.bos == NONE
    tokens = bos_tokens(anatomy.tokenizer, None if bare else anatomy.bos_token_id)
    own, token_ids, found = labels_of(prompts, candidates), candidates["token_id"].to_list(), {}
    for name, token in tokens.items():
        asked = beginning_with(prompts, token, bare=bare)
        said = answers_of(anatomy, asked, token_ids, batch_size=batch_size)
        logp = said.logp[np.arange(len(own)), own]
        found[name] = {
            "recalled": said.recalled(own, token_ids, rule),
            "accuracy": said.logits.argmax(axis=1) == own,
            "logp": logp,
        }
    used = next(iter(found.values()))
    rows = []
    for name, values in found.items():
        row: dict[str, Any] = {"token": name, "token_id": tokens[name], "used": values is used}
        for measure, value in values.items():
            whole = share_interval(value) if value.dtype == bool else mean_interval(value, seed=seed)
            beside = None if values is used else paired_difference(value, used[measure], seed=seed)
            row |= estimate_columns(measure, whole) | estimate_columns(f"{measure}_from_used", beside)
        rows.append(row | {"n": len(own), "majority_rate": majority_rate(prompts["answer"])})
    return pl.DataFrame(rows, schema=schema_of("bos_check"))


def sample(prompts: pl.DataFrame, *, seed: int) -> pl.DataFrame:
    """At most `SAMPLE` of the prompts, drawn, in the order of the subjects' names."""
    prompts = prompts.sort("subject")
    return some_prompts(prompts, SAMPLE, seed=seed)


def bos_tokens(tokenizer: Any, used: int | None) -> dict[str, int | None]:
    """What prompts can begin with, by name: the token in use, the tokenizer's own ones, others that are named so, none; or
    none first, where that is in use."""
    named = [getattr(tokenizer, kind, None) for kind in NAMED]
    added = [name for name in sorted(tokenizer.get_added_vocab()) if BEGINS.search(name)]
    ids = [tokenizer.convert_tokens_to_ids(name) for name in (*named, *added) if name is not None]
    if used is not None:
        ids = [used, *ids]
    some = {tokenizer.convert_ids_to_tokens(number): number for number in dict.fromkeys(ids)}
    return {NONE: None} | some if used is None else some | {NONE: None}


def beginning_with(prompts: pl.DataFrame, token: int | None, *, bare: bool = False) -> pl.DataFrame:
    """Prompts with another first token, or without one; positions as `answers` needs them. bare: they have none."""
    first, words = [] if token is None else [token], 0 if bare else 1
    ids = [[*first, *tokens[words:]] for tokens in prompts["token_ids"].to_list()]
    shift = len(first) - words
    return prompts.with_columns(
        pl.Series("token_ids", ids, dtype=pl.List(pl.Int64)),
        pl.col("n_tokens") + shift,
        pl.col("end") + shift,
    )
