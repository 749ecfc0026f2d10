"""Models of sparse activations whose weights are set by hand: a lookup with one neuron per subject.

72 of the 144 pairs of 12 first and 12 last names are subjects of one of three answers, two of each answer for every name, so
neither token says anything about the answer and no sum of the two does. A name's identity is a direction of its own, an axis
of the residual stream that no other name uses; so is each answer. What a probe is given is therefore one-hot: the axis of a
name that is held out holds next to nothing in its training rows.

`at_name` looks the fact up at the final name token:

    L0H0      at the final name token: copies the first name's identity there         (concatenate)
    MLP 1     at the final name token: one neuron per subject writes the answer        (look up)
    L2H0      at END: brings the answer from the final name token                      (extract)

`at_end` has the same prompts and answers, but L0H0 and L0H1 copy both identities to END, and MLP 1 answers there.

How it is done: as in planted.py. A feature is a pair of residual dimensions, +f and -f; the ballast keeps the norms next to
the identity. `noise` is added to the weights of heads and MLPs: with none, what an axis holds of others' names is exactly
zero, and in a model that was computed any other way it is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

import polars as pl
import torch
from torch import Tensor
from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast

from factfinding.data.prompts import prompt_table
from factfinding.model.anatomy import Anatomy
from helpers.inputs import RunActivations
from helpers.planting import QUESTION, empty_model, pair_direction, set_head, word_tokenizer

NAMES = 12
"""First names, and last names."""
ANSWERS = ("baseball", "basketball", "football")
LAYERS, HEADS, WIDTH, NEURONS = 4, 8, 128, 96
BALLAST, LOGIT = 1000.0, 8.0
"""Size of the constant feature; an answer's logit."""
KINDS = ("first", "last")
FEATURES = (
    ("ballast", "bos", "first", "last", "end")
    + tuple(f"{kind}_{i}" for kind in KINDS for i in range(NAMES))
    + tuple(f"moved_{kind}_{i}" for kind in KINDS for i in range(NAMES))
    + tuple(f"{verb}_{answer}" for verb in ("knows", "says") for answer in ANSWERS)
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sparse:
    """A model and its subjects. unknown: pairs of the same names that it knows nothing of."""

    anatomy: Anatomy
    subjects: pl.DataFrame
    unknown: list[str]
    candidates: pl.DataFrame

    def prompts(self, condition: str = "full") -> pl.DataFrame:
        """The prompts table of the subjects."""
        return prompt_table(self.subjects, self.anatomy.tokenizer, self.anatomy.bos_token_id, condition)

    def resid(self, layer: int, role: str = "final_name"):
        """resid_post of every subject at a role, `[subjects, d_model]`; layer -1: the embeddings."""
        return RunActivations(self.anatomy, self.prompts()).layer(f"resid@{role}", layer)


@cache
def at_name(noise: float = 0.0) -> Sparse:
    """One neuron per subject at the final name token, and one head brings what it says to END."""
    model = _empty()
    _attend(model, 0, 0, query="last", key="first", moves=_moves("first"))
    _cells(model, 1, reads=("moved_first", "last"), write="knows")
    _attend(model, 2, 0, query="end", key="last", moves={f"knows_{s}": f"says_{s}" for s in ANSWERS})
    return _plant(model, noise)


@cache
def at_end(noise: float = 0.0) -> Sparse:
    """Both names' identities are brought to END, and one neuron per subject answers there."""
    model = _empty()
    for index, kind in enumerate(KINDS):
        _attend(model, 0, index, query="end", key=kind, moves=_moves(kind))
    _cells(model, 1, reads=("moved_first", "moved_last"), write="says")
    return _plant(model, noise)


def answer_of(first: int, last: int) -> str | None:
    """The answer of a pair of names; None for one that is unknown."""
    place = (first + last) % NAMES
    return None if place % 2 else ANSWERS[place // 2 % len(ANSWERS)]


def direction(feature: str) -> Tensor:
    """A feature's direction in the residual stream; `x @ direction(f) / 2` reads its value."""
    return pair_direction(FEATURES, feature, WIDTH)


def _moves(kind: str) -> dict[str, str]:
    return {f"{kind}_{i}": f"moved_{kind}_{i}" for i in range(NAMES)}


def _empty() -> GPTNeoXForCausalLM:
    scale = BALLAST * (2 / WIDTH) ** 0.5
    return empty_model(width=WIDTH, layers=LAYERS, heads=HEADS, neurons=NEURONS, scale=scale)


def _attend(
    model: GPTNeoXForCausalLM, layer: int, index: int, *, query: str, key: str, moves: dict[str, str]
) -> None:
    """A head whose `query` tokens attend to `key` tokens, and all others to BOS; it moves features into others."""
    set_head(
        model, layer, index, query=direction(query) / 2, key=direction(key) / 2, rest=direction("bos") / 2,
        moves=[(direction(read) / 2, direction(write)) for read, write in moves.items()],
    )  # fmt: skip


def _cells(model: GPTNeoXForCausalLM, layer: int, *, reads: tuple[str, str], write: str) -> None:
    """One neuron per subject: 1 where both of its names are there, else 0; it writes the answer."""
    mlp = model.gpt_neox.layers[layer].mlp
    known = [(i, j, answer) for i, j in product(range(NAMES), repeat=2) if (answer := answer_of(i, j))]
    for n, (*names, answer) in enumerate(known):
        both = sum(direction(f"{kind}_{i}") for kind, i in zip(reads, names, strict=True))
        mlp.dense_h_to_4h.weight[n], mlp.dense_h_to_4h.bias[n] = both / 2, -1.0
        mlp.dense_4h_to_h.weight[:, n] = direction(f"{write}_{answer}")


def _tokenizer() -> PreTrainedTokenizerFast:
    names = [f" {kind}{i}" for kind in "FL" for i in range(NAMES)]
    return word_tokenizer([*QUESTION, *(f" {answer}" for answer in ANSWERS), *names])


def _plant(model: GPTNeoXForCausalLM, noise: float) -> Sparse:
    """Embeddings and answers, in single precision as a model that is read from a folder."""
    tokens = _tokenizer()
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if noise and weight.ndim > 1 and name.startswith("gpt_neox.layers"):
            drawn = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            if weight.shape[1] == WIDTH and not name.endswith("attention.dense.weight"):
                drawn[:, :2] = 0.0  # noise that reads the ballast would drown all else
            weight += noise * drawn

    def give(token: str, *features: str) -> None:
        for feature in features:
            model.gpt_neox.embed_in.weight[tokens.convert_tokens_to_ids(token)] += direction(feature)

    model.gpt_neox.embed_in.weight[:] = BALLAST * direction("ballast")
    give("<|endoftext|>", "bos")
    give(" of", "end")
    for i in range(NAMES):
        give(f" F{i}", "first", f"first_{i}")
        give(f" L{i}", "last", f"last_{i}")
    for answer in ANSWERS:
        says = LOGIT * direction(f"says_{answer}")
        model.lm_head.weight[tokens.convert_tokens_to_ids(f" {answer}")] = says
    pairs = [(f"F{i} L{j}", answer_of(i, j)) for i, j in product(range(NAMES), repeat=2)]
    known = [(name, answer) for name, answer in pairs if answer]
    ids = [tokens.convert_tokens_to_ids(f" {answer}") for answer in ANSWERS]
    return Sparse(
        anatomy=Anatomy(model.to(torch.float32), tokens),
        subjects=pl.DataFrame(known, schema=["subject", "answer"], orient="row"),
        unknown=[name for name, answer in pairs if not answer],
        candidates=pl.DataFrame({"answer": ANSWERS, "token_id": ids}),
    )
