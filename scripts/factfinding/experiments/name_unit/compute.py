"""Which tokens make the unit that is looked up? (P1.6)

Early layers, the first post says, select how many of the last tokens form the unit. So the probes that read the answer at
the final name token of the names as they are (`readers`) are read where the unit begins or ends elsewhere:

    whole       the final token of the name as it is
    prefix      a token of the name before that: what a name that is cut off carries
    preceded    the name's final token, with a token of another's name before the name: does the unit begin where it did?
    appended    a token of another's name put after the name: does the name go on into a longer one?

Nothing is fitted anew: what is asked is whether the model has the same thing there in the same words. `cosine` asks it
without an answer: whether the representation there is that of the whole name, beside that of another subject's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int
from torch import Tensor

from factfinding.engine.answers import answers
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.estimates import accuracy_difference, accuracy_estimate, estimate_columns
from factfinding.methods.groups import known_prompts, labels_of, some_prompts
from factfinding.methods.name_sites import name_batches, read_last
from factfinding.methods.readers import Readers, read_out, readers_of
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import anatomy_of
from factfinding.stats import cosines, majority_rate, mean_interval
from factfinding.tables import empty, schema_of

WHOLE, PREFIX, PRECEDED, APPENDED = "whole", "prefix", "preceded", "appended"
LONGEST = 3
"""Tokens by which a name is cut off at most."""


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables `name_unit` and `name_unit_answers`."""
    section, anatomy = settings.name_unit, anatomy_of(inputs)
    prompts = known_prompts(inputs, section.subjects)
    sampled = some_prompts(prompts, section.sampled_subjects, seed=section.seed)
    tables = name_unit(
        anatomy, sampled, prompts, inputs.candidates, readers_of(inputs),
        batch_size=settings.compute.batch_size, seed=section.seed,
    )  # fmt: skip
    say(f"{sampled.height} of {prompts.height} names")
    return tables


def name_unit(
    anatomy: Anatomy,
    prompts: pl.DataFrame,
    others: pl.DataFrame,
    candidates: pl.DataFrame,
    readers: Readers,
    *,
    batch_size: int,
    seed: int,
) -> dict[str, pl.DataFrame]:
    """Both tables; empty where there are no readers, or fewer than two subjects.

    prompts: those that are changed. others: those from whose names tokens are put before and after. The model must come with
    its tokenizer.
    """
    if readers.empty or prompts.height < 2:
        return {name: empty(name) for name in ("name_unit", "name_unit_answers")}
    rng = np.random.default_rng(seed)
    changed = {
        (PRECEDED, 0): put_before(prompts, drawn_tokens(others, "first_name", None, prompts, rng)),
        (APPENDED, 0): put_after(prompts, drawn_tokens(others, "final_name", anatomy, prompts, rng)),
    }
    places = {(WHOLE, 0): prompts} | changed
    places |= {
        (PREFIX, left): cut for left in range(1, LONGEST + 1) if (cut := cut_off(prompts, left)).height > 1
    }
    whole = Read.of(anatomy, prompts, readers, batch_size=batch_size)
    mean = whole.resid.mean(axis=0)
    rows: list[dict] = []
    for (place, left), table in places.items():
        own = whole if place == WHOLE else Read.of(anatomy, table, readers, batch_size=batch_size)
        same = whole.among(table["subject"].to_list())
        rows += _rows(place, left, own, same, mean, table["answer"].to_list(), seed=seed)
    asked = {WHOLE: prompts} | {place: table for (place, _), table in changed.items()}
    return {
        "name_unit": pl.DataFrame(rows, schema=schema_of("name_unit")),
        "name_unit_answers": _answers(anatomy, asked, candidates, batch_size=batch_size, seed=seed),
    }


def drawn_tokens(
    others: pl.DataFrame, role: str, anatomy: Anatomy | None, prompts: pl.DataFrame, rng: np.random.Generator
) -> Int[np.ndarray, " prompts"]:
    """For each prompt a token that stands at this place in some other name, and not there in its own.

    anatomy: given where the token has to begin a word; then only such tokens are drawn, where there are any.
    """
    tokens = _at(others, role)
    every = np.unique(tokens)
    if anatomy is not None:
        begins = np.array([anatomy.tokenizer.decode([token]).startswith(" ") for token in every.tolist()])
        every = every[begins] if begins.any() else every
    drawn = rng.choice(every, size=(prompts.height, 2))
    return np.where(drawn[:, 0] == _at(prompts, role), drawn[:, 1], drawn[:, 0])


def put_before(prompts: pl.DataFrame, tokens: Int[np.ndarray, " prompts"]) -> pl.DataFrame:
    """The prompts with a token before the name; `final_name` is the name's own final token."""
    return _with_token(prompts, prompts["first_name"].to_numpy(), tokens, "shot")


def put_after(prompts: pl.DataFrame, tokens: Int[np.ndarray, " prompts"]) -> pl.DataFrame:
    """The prompts with a token after the name; `final_name` is that token."""
    return _with_token(prompts, prompts["final_name"].to_numpy() + 1, tokens, "final_name")


def cut_off(prompts: pl.DataFrame, left: int) -> pl.DataFrame:
    """The prompts whose names have more tokens than `left`; `final_name` is the token after which so many follow."""
    longer = prompts.filter(pl.col("final_name") - pl.col("first_name") >= left)
    return longer.with_columns(pl.col("final_name") - left)


def _with_token(prompts: pl.DataFrame, places: np.ndarray, tokens: np.ndarray, role: str) -> pl.DataFrame:
    """The prompts with one more token, at a place of each; what stands from there on moves on by one."""
    ids, roles = prompts["token_ids"].to_list(), prompts["roles"].to_list()
    for i, (place, token) in enumerate(zip(places.tolist(), tokens.tolist(), strict=True)):
        ids[i].insert(place, token)
        roles[i].insert(place, role)
    before = role != "final_name"
    return prompts.with_columns(
        pl.col("n_tokens", "final_name", "end") + 1,
        pl.col("first_name") + int(before),
        token_ids=pl.Series(ids),
        roles=pl.Series(roles),
    )


def _at(prompts: pl.DataFrame, role: str) -> Int[np.ndarray, " prompts"]:
    """The token of each prompt at a position."""
    return prompts.select(pl.col("token_ids").list.get(pl.col(role))).to_series().to_numpy()


@dataclass(frozen=True, kw_only=True, eq=False)
class Read:
    """What stands at the final name token of prompts: the residual stream after each layer, and whether its reader says the
    subject's answer."""

    subjects: tuple[str, ...]
    resid: Float[np.ndarray, "subjects layers d_model"]
    hits: Bool[np.ndarray, "subjects layers"]

    @classmethod
    def of(cls, anatomy: Anatomy, prompts: pl.DataFrame, readers: Readers, *, batch_size: int) -> Read:
        """Read in runs of the prompts up to that token."""
        resid = np.empty((prompts.height, anatomy.n_layers, anatomy.d_model))

        def read(tokens: Int[Tensor, "batch seq"]) -> Float[np.ndarray, "batch layers d_model"]:
            return read_last(anatomy, tokens, ["resid_post"])[0].double().cpu().numpy()

        for rows, found in name_batches([prompts], anatomy.device, batch_size, read):
            resid[rows] = found
        hits = read_out(readers, resid, prompts)[0] == 1.0
        return cls(subjects=tuple(prompts["subject"]), resid=resid, hits=hits)

    def among(self, subjects: Sequence[str]) -> Read:
        """What was read of these subjects, in their order."""
        place = {name: i for i, name in enumerate(self.subjects)}
        rows = [place[name] for name in subjects]
        return Read(subjects=tuple(subjects), resid=self.resid[rows], hits=self.hits[rows])


def _rows(
    place: str,
    left: int,
    own: Read,
    whole: Read,
    mean: Float[np.ndarray, "layers d_model"],
    labels: Sequence[str],
    *,
    seed: int,
) -> Iterator[dict]:
    """A row for each layer. own, whole: of the same subjects. mean: of all whole names."""
    here, there = own.resid - mean, whole.resid - mean
    same, other = cosines(here, there), cosines(here, np.roll(there, 1, axis=0))
    for layer in range(own.hits.shape[1]):
        hits = own.hits[:, layer]
        beside = None if place == WHOLE else accuracy_difference(hits, whole.hits[:, layer], seed=seed)
        yield (
            {"place": place, "tokens_left": left, "layer": layer}
            | estimate_columns("own", accuracy_estimate(hits, seed=seed))
            | estimate_columns("from_whole", beside)
            | estimate_columns("cosine", mean_interval(same[:, layer], seed=seed))
            | estimate_columns("cosine_other", mean_interval(other[:, layer], seed=seed))
            | {"majority_rate": majority_rate(labels), "n": len(hits)}
        )


def _answers(
    anatomy: Anatomy,
    asked: Mapping[str, pl.DataFrame],
    candidates: pl.DataFrame,
    *,
    batch_size: int,
    seed: int,
) -> pl.DataFrame:
    """What the model answers to the prompts themselves."""
    rows, right = [], {}
    tokens = candidates["token_id"].to_list()
    for place, prompts in asked.items():
        labels = labels_of(prompts, candidates)
        logits = answers(anatomy, prompts, tokens, batch_size=batch_size).logits
        right[place] = logits.argmax(axis=1) == labels
        beside = None if place == WHOLE else accuracy_difference(right[place], right[WHOLE], seed=seed)
        rows.append(
            {"place": place}
            | estimate_columns("right", accuracy_estimate(right[place], seed=seed))
            | estimate_columns("from_whole", beside)
            | {"majority_rate": majority_rate(labels), "n": len(labels)}
        )
    return pl.DataFrame(rows, schema=schema_of("name_unit_answers"))
