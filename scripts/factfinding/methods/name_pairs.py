"""Names as pairs of a beginning (all tokens but the last) and a last token, and the grid of all their pairings.

The effective model (effective.py) takes any pairing of tokens that stand in names, so it can be asked about all of
them: most are nobody's name. A name of two tokens is its first and its last token; a longer one has a beginning of
several tokens, which stay together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Int
from torch import Tensor

from factfinding.data.strangers import unknown_pairings
from factfinding.engine.batches import Batches
from factfinding.inputs import Inputs, Say
from factfinding.methods.effective import EffectiveModel, effective_model_of
from factfinding.methods.groups import known_prompts

Result = TypeVar("Result")

ENOUGH = 100
"""Known subjects with names of two tokens, from which on the choice of a length falls on two."""
NAMES = 32
"""Names that are run at once, for each prompt of `compute.batch_size`: a name is far smaller than a prompt."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NamePairs:
    """Names of one length as cells of a grid.

    begins: the distinct beginnings, lasts: the distinct last tokens, in ascending order. begin, last: of each name, its
    row and column.
    """

    subjects: tuple[str, ...]
    answers: tuple[str, ...]
    begins: Int[Tensor, "begins slots-1"]
    lasts: Int[Tensor, " lasts"]
    begin: Int[Tensor, " names"]
    last: Int[Tensor, " names"]

    @classmethod
    def of(
        cls, tokens: Int[Tensor, "names slots"], answers: Sequence[str], subjects: Sequence[str] | None = None
    ) -> NamePairs:
        """From the token ids of names of two tokens or more. subjects: what they are called; by default their ids."""
        begins, begin = tokens[:, :-1].unique(dim=0, return_inverse=True)
        lasts, last = tokens[:, -1].unique(return_inverse=True)
        if subjects is None:
            subjects = [" ".join(map(str, ids)) for ids in tokens.tolist()]
        return cls(
            subjects=tuple(subjects),
            answers=tuple(answers),
            begins=begins,
            lasts=lasts,
            begin=begin,
            last=last,
        )

    @property
    def n_name_tokens(self) -> int:
        return self.begins.shape[1] + 1

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the grid: beginnings and last tokens."""
        return len(self.begins), len(self.lasts)

    def tokens(self, begin: Int[Tensor, " batch"], last: Int[Tensor, " batch"]) -> Int[Tensor, "slots batch"]:
        """Token ids of cells, slot by slot, as the effective model takes them."""
        return torch.cat((self.begins[begin].T, self.lasts[last][None]))

    def blocks(
        self, size: int, work: Callable[[Tensor, Tensor], Result]
    ) -> Iterator[tuple[Tensor, Tensor, Result]]:
        """The whole grid in rectangles of about `size` cells (narrower ones once memory runs out), each as its rows and
        columns, and what `work(rows, columns)` makes of it."""
        rows, columns = (torch.arange(n, device=self.lasts.device) for n in self.shape)
        wide = min(len(columns), max(1, size))
        batches = Batches(wide)
        for high in rows.split(max(1, size // wide)):
            for part, found in batches.of(columns, partial(work, high)):
                yield high, part, found

    def cells(
        self, tokens: Int[Tensor, "others slots"]
    ) -> tuple[Int[Tensor, " others"], Int[Tensor, " others"]]:
        """Rows and columns of other names made of the same parts. Raises ValueError for a part that no name here has."""
        row_of = {tuple(ids): row for row, ids in enumerate(self.begins.tolist())}
        column_of = {token: column for column, token in enumerate(self.lasts.tolist())}
        try:
            found = [(row_of[tuple(ids)], column_of[last]) for *ids, last in tokens.tolist()]
        except KeyError as error:
            raise ValueError(f"{error.args[0]} is no part of these names") from None
        begin, last = torch.tensor(found, dtype=torch.int64, device=self.lasts.device).reshape(-1, 2).T
        return begin, last

    def to(self, device: torch.device) -> NamePairs:
        moved = {name: getattr(self, name).to(device) for name in ("begins", "lasts", "begin", "last")}
        return NamePairs(subjects=self.subjects, answers=self.answers, **moved)


def pairs_for(
    model: EffectiveModel | None, prompts: pl.DataFrame, *, name_tokens: int | None = None
) -> NamePairs | None:
    """The subjects of a prompts table whose names are `name_tokens` long and stand in the model's tables, by name.

    None for `name_tokens`: two, if `ENOUGH` subjects have such names, else the commonest length of two or more (the
    shortest of equally common ones). None is returned where fewer than two beginnings or last tokens are left, and for
    no model: there is nothing to pair.
    """
    if model is None:
        return None
    known = prompts.filter(pl.col("n_name_tokens").cast(pl.String).is_in(list(model.names)))
    length = name_tokens or _length(known)
    known = known.filter(n_name_tokens=length).sort("subject")
    tokens = name_tokens_of(known)
    kept = _in_tables(model, tokens) if len(tokens) else np.zeros(0, dtype=bool)
    known, tokens = known.filter(kept), tokens[torch.from_numpy(kept)]
    if not len(tokens):
        return None
    pairs = NamePairs.of(tokens, known["answer"].to_list(), known["subject"].to_list())
    return pairs if min(pairs.shape) > 1 else None


def pairs_of(inputs: Inputs, subjects: str, *, name_tokens: int | None, say: Say) -> NamePairs | None:
    """The study's names, of `known` subjects or of `all`, that the effective model has tables for; see `pairs_for`."""
    known = known_prompts(inputs, subjects, "name_only")
    names = pairs_for(effective_model_of(inputs), known, name_tokens=name_tokens)
    if names is None:
        say("no effective model, or too few names to pair: the tables are empty")
    else:
        begins, lasts = names.shape
        say(
            f"{len(names.subjects)} names of {names.n_name_tokens} tokens; {begins} x {lasts} pairings of their parts"
        )
    return names


def unknown_for(
    names: NamePairs | None, prompts: pl.DataFrame, *, seed: int
) -> Int[Tensor, "others slots"] | None:
    """Token ids of unknown names made of the parts of `names`, each part as often as there (data/strangers.py).

    prompts: the prompts of all subjects there are, those of `names` among them. None where there are no names.
    """
    if names is None:
        return None
    known = prompts.filter(pl.col("subject").is_in(list(names.subjects)))
    return name_tokens_of(unknown_pairings(known, prompts, seed=seed)).reshape(-1, names.n_name_tokens)


def name_tokens_of(prompts: pl.DataFrame) -> Int[Tensor, "names slots"]:
    """Token ids of the names of prompts whose names have one length."""
    rows = prompts.select("token_ids", "first_name", "final_name").iter_rows()
    names = [ids[first : final + 1] for ids, first, final in rows]
    return torch.tensor(names, dtype=torch.int64)


def _length(prompts: pl.DataFrame) -> int:
    counts = prompts.filter(pl.col("n_name_tokens") > 1)["n_name_tokens"].value_counts()
    ordered = counts.sort(["count", "n_name_tokens"], descending=[True, False])
    two = ordered.filter(n_name_tokens=2)["count"].sum()
    return 2 if two >= ENOUGH or ordered.is_empty() else ordered["n_name_tokens"][0]


def _in_tables(model: EffectiveModel, tokens: Int[Tensor, "names slots"]) -> np.ndarray:
    """Which names have a term for each of their tokens."""
    tables = model.names[str(tokens.shape[1])]
    found = [
        torch.isin(ids, getattr(tables, f"tokens_{slot}").to(ids.device)) for slot, ids in enumerate(tokens.T)
    ]
    return torch.stack(found).all(0).numpy()
