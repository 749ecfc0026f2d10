"""Prompts that can be intervened on together, and whose activations replace whose (STUDY, section 0).

Prompts of one layout (number of tokens, positions of the name) run in one batch and line up position by position; so
patches, donors and means are taken among them. The four kinds of ablation put in place of an activation:

    zero              nothing
    mean              its mean over the known subjects at that place
    resample_same     that of another subject of the same answer
    resample_other    that of a subject of another answer

`corrupt` is no fifth kind but a patch: the activation of the one subject of another answer that a subject is paired
with, and against whose answer its logit difference is taken. What is measured by that difference takes the donors of
`resample_other` of the partner's answer as well: a donor of a third answer moves the answer to a logit that the difference
does not look at. What is measured by the subject's own answer alone takes donors of any other answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import polars as pl
from jaxtyping import Int

from factfinding.engine.batches import Batches
from factfinding.inputs import Inputs
from factfinding.stats import some_of

Result = TypeVar("Result")

KINDS = ("zero", "mean", "resample_same", "resample_other")
RESAMPLED = ("resample_same", "resample_other")
CORRUPT = "corrupt"


@dataclass(frozen=True, kw_only=True)
class PromptLayout:
    """What prompts that line up have in common."""

    n_tokens: int
    first_name: int
    final_name: int
    end: int
    roles: tuple[str, ...]  # of each position

    @property
    def n_name_tokens(self) -> int:
        return self.final_name - self.first_name + 1

    def slots(self, start: int = 0) -> list[tuple[int, str, int]]:
        """Positions from `start` on, with their role and their number within it: (14, "relation", 0)."""
        return [(at, role, self.roles[:at].count(role)) for at, role in enumerate(self.roles) if at >= start]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Prompts of one layout: rows of the prompts table, in its order."""

    layout: PromptLayout
    rows: Int[np.ndarray, " group"]


def in_batches(
    groups: Sequence[Group],
    batch_size: int,
    work: Callable[[Group, Int[np.ndarray, " batch"]], Result],
) -> Iterator[tuple[Int[np.ndarray, " batch"], Result]]:
    """Each batch of rows of each group, and what `work(group, rows)` makes of it.

    `batch_size` rows at once, and half as many from then on whenever memory runs out (engine/batches.py).
    """
    batches = Batches(batch_size)
    for group in groups:
        yield from batches.of(group.rows, partial(work, group))


def groups_of(prompts: pl.DataFrame) -> list[Group]:
    """The layouts of a prompts table, short ones first, each with its rows."""
    keys = ["n_tokens", "first_name", "final_name"]
    found = (
        prompts.with_row_index("row").group_by(keys, maintain_order=True).agg("row", pl.first("end", "roles"))
    )
    return [
        Group(
            layout=PromptLayout(
                **{name: row[name] for name in (*keys, "end")},
                roles=tuple(row["roles"]),
            ),
            rows=np.array(row["row"], dtype=np.int64),
        )
        for row in found.sort(keys).iter_rows(named=True)
    ]


def labels_of(prompts: pl.DataFrame, candidates: pl.DataFrame) -> Int[np.ndarray, " subjects"]:
    """Each subject's answer as its row in `candidates`."""
    column = {answer: i for i, answer in enumerate(candidates["answer"])}
    return np.array([column[answer] for answer in prompts["answer"]], dtype=np.int64)


def draw_donors(
    labels: Int[np.ndarray, " subjects"],
    pools: Sequence[Int[np.ndarray, " pool"]],
    *,
    same_answer: bool,
    rng: np.random.Generator,
    partners: Int[np.ndarray, " subjects"] | None = None,
) -> Int[np.ndarray, " subjects"]:
    """For each subject another one, of the same answer or of another, from its own pool (rows); -1 where there is none.

    partners: the subject (row; -1: nobody) whose answer each donor must have, instead of any other answer.
    """
    donors = np.full(len(labels), -1)
    for pool in pools:
        order = rng.permutation(pool)
        for row in pool:
            if partners is None:
                fits = order[(labels[order] == labels[row]) == same_answer]
            else:
                fits = order[(labels[order] == labels[partners[row]]) & (partners[row] >= 0)]
            fits = fits[fits != row]
            donors[row] = rng.choice(fits) if len(fits) else -1
    return donors


def resampling_donors(
    labels: Int[np.ndarray, " subjects"],
    pools: Sequence[Int[np.ndarray, " pool"]],
    *,
    draws: int,
    rng: np.random.Generator,
    partners: Int[np.ndarray, " subjects"] | None = None,
) -> dict[str, list[Int[np.ndarray, " subjects"]]]:
    """`draws` donors for each subject under each kind of resampling; see `draw_donors`.

    partners: given where a logit difference is taken against their answer; donors of `resample_other` are then of it.
    """
    partner_of = {"resample_same": None, "resample_other": partners}
    return {
        kind: [
            draw_donors(
                labels, pools, same_answer=kind == "resample_same", rng=rng, partners=partner_of[kind]
            )
            for _ in range(draws)
        ]
        for kind in RESAMPLED
    }


def chosen(prompts: pl.DataFrame, recall: pl.DataFrame, subjects: str) -> pl.DataFrame:
    """The prompts of the subjects to intervene on: `known` ones, or `all`."""
    rows = recall if subjects == "all" else recall.filter("known")
    return prompts.join(rows.select("subject"), on="subject", how="semi", maintain_order="left")


def some_prompts(prompts: pl.DataFrame, most: int, *, seed: int) -> pl.DataFrame:
    """At most `most` rows of a prompts table, drawn, in its order."""
    return prompts[some_of(prompts.height, most, np.random.default_rng(seed))]


def known_prompts(inputs: Inputs, subjects: str, condition: str = "full") -> pl.DataFrame:
    """The prompts of the study's subjects to intervene on, under a condition: of `known` ones, or of `all`."""
    return chosen(inputs.prompts(condition), inputs.table("recall"), subjects)
