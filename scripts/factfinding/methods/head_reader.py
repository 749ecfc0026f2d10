"""The head probe of the first extracting head, as a reader of every layer (P2.5, P2.8)."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from factfinding.engine.head_probe import head_probe
from factfinding.engine.sites import parse
from factfinding.methods.groups import groups_of
from factfinding.methods.name_stream import name_outputs
from factfinding.methods.readers import Readers, fixed_readers
from factfinding.model.anatomy import Anatomy


def head_readers(
    anatomy: Anatomy,
    heads: Sequence[str],
    candidates: pl.DataFrame,
    full: pl.DataFrame,
    like: Readers,
    *,
    batch_size: int,
) -> list[Readers]:
    """A list of one reader, named `head`, or none where no head extracts or no subject is known.

    full: the prompts table `full` of the subjects, over whom each layer's mean is taken. Raises InputError for a head
    that the model does not have.
    """
    if not heads or like.empty:
        return []
    token_of = dict(candidates.select("answer", "token_id").iter_rows())
    matrix = head_probe(anatomy, parse(heads[0]), [token_of[answer] for answer in like.answers])
    resid = name_outputs(anatomy, full, groups_of(full), batch_size=batch_size).resid
    return [fixed_readers("head", matrix.double().cpu().numpy(), resid.double().mean(0).numpy(), like)]
