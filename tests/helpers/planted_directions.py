"""Models whose residual stream at the final name token is a sum of directions that are known, because weights are set by hand.

All 144 pairs of 12 first and 12 last names are subjects of one of three answers; neither token says anything about the answer.
What stands at the final name token after MLP 1 is, with length 1 for each (`SIZES` says which are longer):

    last      the last token's direction, from its embedding
    first     the first token's direction, moved there by L0H0
    answer    the answer's direction, written by MLP 1, which has one neuron for each pair
    entity    a direction of the pair's own, written by the same neuron
    group     a direction of the pair's group, the same: 24 groups of six pairs that share no name, two of each answer

Only those that are asked for are there: the pair's neuron takes the directions of its names away where they are not.

Nothing answers the question at END: these models are looked at, at the name alone. How it is done stands in `planting`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import polars as pl
import torch
from torch import Tensor

from factfinding.config import DictionariesConfig
from factfinding.data.prompts import prompt_table
from factfinding.experiments.dictionaries.compute import attributes_of, dictionaries
from factfinding.model.anatomy import Anatomy
from helpers.inputs import RunActivations, quiet
from helpers.planting import QUESTION, empty_model, pair_direction, set_head, word_tokenizer

NAMES, GROUPS, HEADS = 12, 24, 8
PAIRS = list(product(range(NAMES), repeat=2))
ANSWERS = ("baseball", "basketball", "football")
BALLAST = 1000.0
KINDS = ("first", "last", "answer", "entity", "group")
SIZES = {"answer": 2.0}
FEATURES = (
    ("ballast", "bos", "first", "last")
    + tuple(f"{kind}_{i}" for kind in ("first", "last", "moved") for i in range(NAMES))
    + tuple(f"answer_{i}" for i in range(len(ANSWERS)))
    + tuple(f"group_{i}" for i in range(GROUPS))
    + tuple(f"entity_{i}" for i in range(len(PAIRS)))
)
WIDTH = -(-2 * len(FEATURES) // HEADS) * HEADS
NO_FACTS = pl.DataFrame(schema={"subject": pl.String, "fact": pl.String, "fact_answer": pl.String})


@dataclass(frozen=True, kw_only=True, eq=False)
class Directions:
    """A model and its subjects, who stand in a fixed order that mixes names."""

    anatomy: Anatomy
    subjects: pl.DataFrame

    def prompts(self, condition: str = "full") -> pl.DataFrame:
        return prompt_table(self.subjects, self.anatomy.tokenizer, self.anatomy.bos_token_id, condition)

    def resid(self, layer: int, condition: str = "full") -> np.ndarray:
        """resid_post at the final name token."""
        return RunActivations(self.anatomy, self.prompts(condition)).layer("resid@final_name", layer)


@cache
def planted_with(*kinds: str) -> Directions:
    """The model whose final name token holds directions of these kinds."""
    heads = {"width": WIDTH, "layers": 2, "heads": HEADS, "neurons": len(PAIRS)}
    model = empty_model(**heads, scale=BALLAST * (2 / WIDTH) ** 0.5)
    where = {"query": _read("last"), "key": _read("first"), "rest": _read("bos")}
    set_head(model, 0, 0, **where, moves=[(_read(f"first_{i}"), _is(f"moved_{i}")) for i in range(NAMES)])
    mlp = model.gpt_neox.layers[1].mlp
    for n, (i, j) in enumerate(PAIRS):
        mlp.dense_h_to_4h.weight[n] = _read(f"moved_{i}") + _read(f"last_{j}")
        mlp.dense_h_to_4h.bias[n] = -1.0
        wanted = {
            "answer": f"answer_{(i + j) % 3}",
            "entity": f"entity_{n}",
            "group": f"group_{_group(i, j)}",
        }
        written = [SIZES.get(kind, 1.0) * _is(feature) for kind, feature in wanted.items() if kind in kinds]
        taken = [
            -_is(feature)
            for kind, feature in (("first", f"moved_{i}"), ("last", f"last_{j}"))
            if kind not in kinds
        ]
        mlp.dense_4h_to_h.weight[:, n] = torch.stack([torch.zeros(WIDTH).double(), *written, *taken]).sum(0)
    return _embedded(model)


def _group(i: int, j: int) -> int:
    """Six pairs each, of six first and six last names, two of each answer."""
    return 2 * ((j - i) % NAMES) + i // (NAMES // 2)


@cache
def tables_with(*kinds: str, **settings) -> dict[str, pl.DataFrame]:
    """The tables of P1.4 of such a model, after layer 1."""
    made = planted_with(*kinds)
    prompts = made.prompts()
    values = {"features": (8, 64, 256), "steps": 300, "batch": 72, "least_subjects": 2} | settings
    section = DictionariesConfig(**values)
    rows = [(("resid", 1), made.resid(1), made.resid(1, "name_only"))]
    attributes = attributes_of(prompts, NO_FACTS, made.anatomy.tokenizer.decode)
    return dictionaries(iter(rows), prompts["subject"].to_list(), attributes, section, quiet)


def _is(feature: str) -> Tensor:
    return pair_direction(FEATURES, feature, WIDTH)


def _read(feature: str) -> Tensor:
    return _is(feature) / 2


def _embedded(model) -> Directions:
    names = [f" {kind}{i}" for kind in "FL" for i in range(NAMES)]
    tokens = word_tokenizer([*QUESTION, *(f" {answer}" for answer in ANSWERS), *names])
    weight = model.gpt_neox.embed_in.weight
    weight[:] = BALLAST * _is("ballast")

    def give(token: str, *features: str) -> None:
        for feature in features:
            weight[tokens.convert_tokens_to_ids(token)] += _is(feature)

    give("<|endoftext|>", "bos")
    for i in range(NAMES):
        give(f" F{i}", "first", f"first_{i}")
        give(f" L{i}", "last", f"last_{i}")
    rows = [(f"F{i} L{j}", ANSWERS[(i + j) % 3]) for i, j in PAIRS]
    order = np.random.default_rng(0).permutation(len(rows))
    subjects = pl.DataFrame([rows[i] for i in order], schema=["subject", "answer"], orient="row")
    return Directions(anatomy=Anatomy(model.to(torch.float32), tokens), subjects=subjects)
