"""Where the extracting heads look from END, by what each position is (P2.3).

Attention is summed over the positions of one role, so what a head gives to all roles of a prompt sums to one. Roles are
those of the prompts table, two of them told apart further: the line break that ends the shot (`newline`), where a head
with nothing to look for may rest, and the tokens of the relation, one by one (`relation_1`, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from factfinding.data.prompts import finer_roles
from factfinding.engine.cached import activations_of, cached_pattern, rows_of
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.direct import heads_of, pairs_of
from factfinding.methods.estimates import ENDS
from factfinding.model.source import weights_of
from factfinding.stats import mean_intervals
from factfinding.tables import empty, schema_of

ALL = "all"
ORDER = ("bos", "shot", "newline", "fact", "first_name", "middle_name", "final_name", "relation", "end")


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables `attention_roles` and `attention_subjects`, from cached patterns."""
    prompts, heads = pairs_of(inputs, settings.heads).prompts, heads_of(inputs, settings)
    say(f"top heads: {', '.join(map(str, heads)) or 'none'}")
    with activations_of(inputs) as file:
        rows = rows_of(file, prompts["subject"])
        patterns = {
            str(head): cached_pattern(file, head.layer, rows)[:, head.index].numpy() for head in heads
        }
    looked = attention_by_role(patterns, prompts)
    tokens = role_tokens(prompts, weights_of(inputs).tokenizer.decode)
    return {
        "attention_roles": attention_roles(looked, tokens=tokens, seed=settings.heads.seed),
        "attention_subjects": attention_subjects(looked),
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class RoleAttention:
    """Attention from END by role, subjects sorted by answer and name; NaN for a role that a prompt does not have.

    uniform: the share of a prompt's positions that have the role, which is what uniform attention would give.
    """

    heads: list[str]
    roles: list[str]
    subjects: pl.DataFrame
    attention: Float[np.ndarray, "heads subjects roles"]
    uniform: Float[np.ndarray, "subjects roles"]


def role_tokens(prompts: pl.DataFrame, decode: Callable[[list[int]], str]) -> dict[str, str]:
    """The text of the roles that are one and the same single token in every prompt (END, the relation's, BOS)."""
    found: dict[str, set[tuple[int, ...]]] = {}
    for roles, tokens in prompts.select("roles", "token_ids").iter_rows():
        finer = np.array(finer_roles(roles))
        for role in np.unique(finer):
            found.setdefault(str(role), set()).add(tuple(np.array(tokens)[finer == role].tolist()))
    single = {role: ids.copy().pop() for role, ids in found.items() if len(ids) == 1}
    return {role: decode(list(ids)) for role, ids in single.items() if len(ids) == 1}


def attention_by_role(
    patterns: Mapping[str, Float[np.ndarray, "subjects key"]], prompts: pl.DataFrame
) -> RoleAttention:
    """Sum each head's pattern from END over the positions of each role.

    patterns: by head, rows as in `prompts` (columns subject, answer, roles), NaN beyond a prompt's end.
    """
    order = prompts.with_row_index("row").sort("answer", "subject")["row"].to_numpy()
    prompts = prompts[order]
    named = [finer_roles(roles) for roles in prompts["roles"]]
    roles = sorted({role for prompt in named for role in prompt}, key=_place)
    width = max((len(prompt) for prompt in named), default=0)
    at = np.array([prompt + [""] * (width - len(prompt)) for prompt in named]).reshape(len(named), width)
    lengths = np.array([len(prompt) for prompt in named])
    counts = np.stack([(at == role).sum(axis=1) for role in roles], axis=1) if roles else np.zeros((0, 0))
    attention = np.zeros((len(patterns), *counts.shape))
    for row, pattern in enumerate(patterns.values()):
        given = np.nan_to_num(pattern[order, :width].astype(np.float64))
        for column, role in enumerate(roles):
            attention[row, :, column] = (given * (at == role)).sum(axis=1)
    attention[:, counts == 0] = np.nan
    return RoleAttention(
        heads=list(patterns),
        roles=roles,
        subjects=prompts.select("subject", "answer"),
        attention=attention,
        uniform=np.where(counts, counts / np.maximum(lengths, 1)[:, None], np.nan),
    )


def attention_subjects(found: RoleAttention) -> pl.DataFrame:
    """The table `attention_subjects`: a row per head, subject (by answer and name) and role of the subject's prompt."""
    n, k = found.subjects.height, len(found.roles)
    tables = [empty("attention_subjects")]
    for head, attention in zip(found.heads, found.attention, strict=True):
        rows = found.subjects[np.repeat(np.arange(n), k)]
        values = {"head": [head] * (n * k), "role": found.roles * n, "attention": attention.ravel()}
        table = rows.with_columns(**{name: pl.Series(value) for name, value in values.items()})
        tables.append(table.filter(pl.col("attention").is_not_nan()).select(*schema_of("attention_subjects")))
    return pl.concat(tables)


def attention_roles(found: RoleAttention, *, tokens: Mapping[str, str], seed: int) -> pl.DataFrame:
    """The table `attention_roles`: means over subjects, all together (answer "all") and by answer.

    tokens: the text of each role that is the same one token in every prompt. A role that not all prompts have, such as
    a middle name, is averaged over those that have it, as n shows.
    """
    answers = found.subjects["answer"].to_numpy()
    tables = [empty("attention_roles")]
    for answer in (ALL, *np.unique(answers)) if found.heads and len(answers) else ():
        mine = np.ones(len(answers), dtype=bool) if answer == ALL else answers == answer
        parts = [_means(found, rows, columns, seed) for rows, columns in _sharing(mine, found.uniform)]
        tables.append(
            pl.concat(parts)
            .with_columns(pl.lit(answer).alias("answer"))
            .sort("order")
            .select(*schema_of("attention_roles"))
        )
    text = pl.col("role").replace_strict(dict(tokens), default=None, return_dtype=pl.String)
    return pl.concat(tables).with_columns(text.alias("token"))


def _sharing(
    mine: Bool[np.ndarray, " subjects"], uniform: Float[np.ndarray, "subjects roles"]
) -> Iterator[tuple[Bool[np.ndarray, " subjects"], list[int]]]:
    """Sets of roles that the same subjects among `mine` have: their means can share resamples."""
    columns: dict[bytes, list[int]] = {}
    for column in range(uniform.shape[1]):
        having = mine & ~np.isnan(uniform[:, column])
        if having.any():
            columns.setdefault(having.tobytes(), []).append(column)
    for having, which in columns.items():
        yield np.frombuffer(having, dtype=bool), which


def _means(
    found: RoleAttention, rows: Bool[np.ndarray, " subjects"], columns: list[int], seed: int
) -> pl.DataFrame:
    """Mean attention of each head to some roles over the subjects that have them."""
    values = found.attention[:, rows][:, :, columns]  # [heads, subjects, roles]
    mean = mean_intervals(np.moveaxis(values, 0, 1).reshape(int(rows.sum()), -1), seed=seed)
    n_heads = len(found.heads)
    table = pl.DataFrame(
        {
            "order": [head * len(found.roles) + column for head in range(n_heads) for column in columns],
            "head": np.repeat(found.heads, len(columns)).tolist(),
            "role": [found.roles[column] for column in columns] * n_heads,
            "uniform": np.tile(found.uniform[rows][:, columns].mean(axis=0), n_heads),
        }
    )
    intervals = [pl.Series(f"attention{end}", getattr(mean, part), nan_to_null=True) for part, end in ENDS]
    nothing = pl.lit(None, dtype=pl.String).alias("token")
    return table.with_columns(*intervals, nothing, pl.lit(mean.n, dtype=pl.Int64).alias("n"))


def _place(role: str) -> tuple[int, int]:
    kind, _, number = role.partition("_") if role.startswith("relation") else (role, "", "")
    return ORDER.index(kind), int(number or 0)
