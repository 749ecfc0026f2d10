"""Unknown names: known name tokens in new pairings that are in no table (P3.6, P3.7).

A pairing has all tokens of one name but the last, and the last token of another name whose prompt has the same layout
(number of tokens, positions of the name); so the two prompts line up, and everything but the name is the same. Names of
two tokens give "first name of one, last name of the other", as the study has it.

The pairings of `unknown_pairings` are a permutation of last tokens: each beginning and each last token occurs in them
as often as among the known names. What a token does by itself (its embedding, its frequency, a neuron that fires for
"Smith") is then the same on both sides, and a difference between known and unknown names must come from the *pairs*. That
is what is asked: whether the model knows this pair, not whether it has seen these tokens.

A pairing that is in no table may still be a person of whom the model has read ("Michael Johnson"). Nothing here can
tell; such names make unknown look more like known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from jaxtyping import Int

LAYOUT = ("n_tokens", "first_name", "final_name")
COLUMNS = ("token_ids", "roles", "n_tokens", "n_name_tokens", "first_name", "final_name", "end")
"""What of a prompts table a pairing has too; it has no subject and no answer."""
ROUNDS = 200
"""Times that misfits are drawn anew; those still left are left out."""
BASE = 2**32  # above every token id

Rows = Int[np.ndarray, " rows"]


def unknown_pairings(known: pl.DataFrame, table: pl.DataFrame, *, seed: int) -> pl.DataFrame:
    """As many unknown names as can be made of the known ones, each beginning and each last token used once.

    known, table: prompts tables of one condition: the subjects whose tokens are used, and all subjects there are. Returns
    the columns `COLUMNS` of a prompts table, and prefix_of, last_of: the rows of `known` that the tokens come from.
    Where a layout leaves too few free pairings (one subject alone, names of one token) some are left out.
    """
    codes, rng = _Codes(), np.random.default_rng(seed)
    prefix, last = codes.of(known)
    taken = codes.taken(known, table)
    begun, ended = [], []
    for rows in layouts(known):
        partner = _deal(prefix[rows], last[rows], set(taken.tolist()), rng)
        begun.append(rows[partner >= 0])
        ended.append(rows[partner[partner >= 0]])
    return paired(known, _joined(begun), _joined(ended))


def paired(names: pl.DataFrame, prefix_of: Rows, last_of: Rows) -> pl.DataFrame:
    """Prompts whose name has all tokens but the last from `prefix_of` and the last from `last_of`: rows of one layout.

    Raises ValueError for two rows of different layouts.
    """
    begun, ended = names[prefix_of], names[last_of]
    if begun.select(LAYOUT).rows() != ended.select(LAYOUT).rows():
        raise ValueError("names are paired within one layout: number of tokens, positions of the name")
    at = begun["final_name"].to_list()
    tokens = [
        [*own[:i], other[i], *own[i + 1 :]]
        for own, other, i in zip(begun["token_ids"], ended["token_ids"], at, strict=True)
    ]
    return begun.select(COLUMNS).with_columns(
        pl.Series("token_ids", tokens, dtype=pl.List(pl.Int64)),
        pl.Series("prefix_of", prefix_of, dtype=pl.Int64),
        pl.Series("last_of", last_of, dtype=pl.Int64),
    )


@dataclass(frozen=True, kw_only=True)
class Swaps:
    """Pairs of names with their swaps (P3.7): six prompts tables whose rows belong together and have one layout.

    a=(f1, l1), b=(f2, l2); c=(f1, l2) and d=(f2, l1) are in no table; other_c, other_d are random unknown names.
    """

    a: pl.DataFrame
    b: pl.DataFrame
    c: pl.DataFrame
    d: pl.DataFrame
    other_c: pl.DataFrame
    other_d: pl.DataFrame

    @property
    def tables(self) -> tuple[pl.DataFrame, ...]:
        return self.a, self.b, self.c, self.d, self.other_c, self.other_d

    def __len__(self) -> int:
        return self.a.height


def swaps(names: pl.DataFrame, table: pl.DataFrame, unknown: pl.DataFrame, *, pairs: int, seed: int) -> Swaps:
    """At most `pairs` pairs of rows of `names`, no name in two of them, whose swaps are unknown.

    names: known names, or unknown ones (then pairs, swaps and others are all unknown); table: all subjects;
    unknown: where the random unknown names come from, which are none of the pair's own four.
    """
    codes, rng = _Codes(), np.random.default_rng(seed)
    prefix, last = codes.of(names)
    taken = codes.taken(names, table)
    found = [_pairs(rows, prefix, last, taken, rng) for rows in layouts(names)]
    possible = rng.permutation(np.concatenate([np.empty((0, 2), dtype=np.int64), *found]))
    a, b = possible[: 2 * pairs].T  # twice as many as needed: for some there may be no others
    own = np.stack([prefix[a] + last[a], prefix[b] + last[b], prefix[a] + last[b], prefix[b] + last[a]])
    others = _others(names[a], own, unknown, np.add(*codes.of(unknown)), rng)
    kept = np.flatnonzero((others >= 0).all(axis=1))[:pairs]
    a, b, others = a[kept], b[kept], others[kept]
    plain = [name for name in COLUMNS if name in names.columns]
    return Swaps(
        a=names[a].select(plain),
        b=names[b].select(plain),
        c=paired(names, a, b),
        d=paired(names, b, a),
        other_c=unknown[others[:, 0]],
        other_d=unknown[others[:, 1]],
    )


def layouts(prompts: pl.DataFrame) -> Iterator[Rows]:
    """The rows of each layout, short prompts first."""
    groups = prompts.with_row_index("row").group_by(LAYOUT, maintain_order=True).agg("row").sort(LAYOUT)
    yield from (np.array(rows, dtype=np.int64) for rows in groups["row"].to_list())


@dataclass(frozen=True)
class _Codes:
    """Names as numbers: the code of a name's beginning plus that of its last token."""

    beginnings: dict[tuple[int, ...], int] = field(default_factory=dict)

    def of(self, prompts: pl.DataFrame) -> tuple[Rows, Rows]:
        begun, last = [], []
        for ids, first, final in prompts.select("token_ids", "first_name", "final_name").iter_rows():
            begun.append(self.beginnings.setdefault(tuple(ids[first:final]), len(self.beginnings)))
            last.append(ids[final])
        return np.array(begun, dtype=np.int64) * BASE, np.array(last, dtype=np.int64)

    def taken(self, *tables: pl.DataFrame) -> Rows:
        """Codes of all names of the tables."""
        return np.unique(np.concatenate([np.add(*self.of(table)) for table in tables]))


def _deal(prefix: Rows, last: Rows, taken: set[int], rng: np.random.Generator) -> Rows:
    """For each beginning the row whose last token it gets: a permutation without taken names, and none twice; or -1.

    A random permutation in which misfits exchange last tokens with random others, unless that makes more misfits.
    """
    partner = rng.permutation(len(prefix))
    names = (prefix + last[partner]).tolist()
    times = Counter(names)

    def misfits(*affected: int) -> int:
        return sum(times[name] if name in taken else max(times[name] - 1, 0) for name in set(affected))

    def give(i: int, j: int, *new: int) -> None:
        times.subtract((names[i], names[j]))
        times.update(new)
        names[i], names[j] = new
        partner[i], partner[j] = partner[j], partner[i]

    def bad() -> list[int]:
        return [i for i, name in enumerate(names) if name in taken or times[name] > 1]

    for _ in range(ROUNDS):
        found = bad()
        for i, j in zip(found, rng.integers(0, max(1, len(names)), len(found)).tolist(), strict=True):
            old = names[i], names[j]
            new = int(prefix[i] + last[partner[j]]), int(prefix[j] + last[partner[i]])
            before = misfits(*old, *new)
            give(i, j, *new)
            if misfits(*old, *new) > before:
                give(i, j, *old)
        if not found:
            break
    partner[bad()] = -1
    return partner


def _pairs(
    rows: Rows, prefix: Rows, last: Rows, taken: Rows, rng: np.random.Generator
) -> Int[np.ndarray, "pairs 2"]:
    """Rows of one layout two by two, those whose swaps are in a table drawn anew."""
    left, found = rows, []
    for _ in range(ROUNDS):
        left = rng.permutation(left)
        a, b = left[: len(left) // 2], left[len(left) // 2 : 2 * (len(left) // 2)]
        free = ~np.isin(prefix[a] + last[b], taken) & ~np.isin(prefix[b] + last[a], taken)
        found.append(np.stack([a[free], b[free]], axis=1))
        left = np.concatenate([a[~free], b[~free], left[2 * (len(left) // 2) :]])
        if len(left) < 2:
            break
    return np.concatenate(found)


def _others(
    a: pl.DataFrame,
    own: Int[np.ndarray, "4 pairs"],
    unknown: pl.DataFrame,
    codes: Rows,
    rng: np.random.Generator,
) -> Int[np.ndarray, "pairs 2"]:
    """Two rows of `unknown` for each pair, of its layout and none of its own names; -1 where there are none."""
    pools = {unknown.select(LAYOUT).row(int(rows[0])): rows for rows in layouts(unknown)}
    found = np.full((a.height, 2), -1)
    for pair, (layout, names) in enumerate(zip(a.select(LAYOUT).iter_rows(), own.T.tolist(), strict=True)):
        pool = pools.get(layout, ())
        for _ in range(ROUNDS if len(pool) else 0):
            drawn = rng.choice(pool, 2)
            if len({*names, *codes[drawn].tolist()}) == len(names) + 2:
                found[pair] = drawn
                break
    return found


def _joined(parts: Sequence[Rows]) -> Rows:
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])
