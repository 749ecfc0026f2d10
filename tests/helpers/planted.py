"""Models whose circuit is known because their weights are set by hand.

Both recall one of two answers from a two-token name. Each first name and each last name carries a hidden sign, and the
answer is `basketball` where the two agree, `baseball` where they differ: neither token alone says anything, and no sum
of the two does. Everything not named here is exactly zero (or `noise`, if asked for).

`at_name` looks the fact up where the study says that Pythia does:

    L0H1           at the final name token: moves the first name's sign there      (concatenate)
    L1N3, L1N17    at the final name token: fire where both signs are +, or both - (look up)
    L2H2           at END: moves "they agree" from the final name token to END     (extract)

`at_end` has the same prompts and answers, but concatenates and looks up at END:

    L0H1, L0H3     at END: move the first and the last name's sign there
    L1N3, L1N17    at END: fire where both signs are +, or both -, and write the answer themselves

and `in_two_steps` looks it up at the name, but not in a single step:

    L1N3, L1N17    at the final name token: write whether the signs agree, where no head reads it
    L2N3           at the final name token: passes that on as the fact, for L3H2 to bring to END

How it is done. A feature is a pair of residual dimensions, +f and -f, so the mean that LayerNorm takes away is zero.
One feature, the ballast, is a large constant at every position, so LayerNorm's scale is constant up to 1e-6, and its
weight undoes it: the norms are next to identity. Attention scores are 0 or hundreds, so patterns are one or zero;
every query that has nothing to look for rests on BOS. Neurons are ReLUs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import polars as pl
import torch
from torch import Tensor
from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast

from factfinding.data.prompts import prompt_table
from factfinding.engine.sites import Site, head, neuron
from factfinding.model.anatomy import Anatomy
from helpers.planting import QUESTION, empty_model, pair_direction, set_head, word_tokenizer

FEATURES = (
    "ballast",
    "bos",
    "first",
    "last",
    "end",
    "first_sign",
    "last_sign",
    "moved_first",
    "moved_last",
    "fact",
    "answer",
    "relation",
    "asked",
    "second_fact",
    "third_fact",
)
WIDTH, HEADS, LAYERS, NEURONS = 32, 4, 4, 24
D_HEAD = WIDTH // HEADS
BALLAST, LOGIT = 1000.0, 8.0
"""Size of the constant feature; size of the two answers' logits."""
ANSWERS = ("baseball", "basketball")
PAIR = (3, 17)
"""The two neurons that look the fact up, in layer 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Planted:
    """A model with a known circuit, its subjects and their prompts; positions and answers are one per subject."""

    anatomy: Anatomy
    prompts: pl.DataFrame
    tokens: Tensor
    first_name: Tensor
    final_name: Tensor
    end: Tensor
    answer: Tensor  # token id of the subject's answer
    concatenate: tuple[Site, ...]
    lookup: tuple[Site, ...]
    extract: tuple[Site, ...]

    @property
    def donors(self) -> Tensor:
        """For each subject another one with the same last name, of the other answer (rows go first name by first)."""
        lasts = self.prompts["subject"].str.split(" ").list.last().n_unique()
        return (torch.arange(len(self.tokens)) + lasts) % len(self.tokens)


def at_name(*, dtype: torch.dtype = torch.float64, noise: float = 0.0, **names: int) -> Planted:
    """The fact is looked up at the final name token, and one head brings it to END."""
    model = _empty()
    _attend(model, 0, 1, query="last", key="first", read="first_sign", write="moved_first")
    _agree(model, 1, signs=("moved_first", "last_sign"), write="fact")
    _attend(model, 2, 2, query="end", key="last", read="fact", write="answer")
    sites = {
        "concatenate": (head(0, 1, "final_name"),),
        "lookup": tuple(neuron(1, n, "final_name") for n in PAIR),
        "extract": (head(2, 2, "end"),),
    }
    return _plant(model, sites, dtype, noise, **names)


def in_two_steps(*, dtype: torch.dtype = torch.float64, noise: float = 0.0, **names: int) -> Planted:
    """As `at_name`, but one MLP makes a code of the pair and the next one reads the fact off it."""
    model = _empty()
    _attend(model, 0, 1, query="last", key="first", read="first_sign", write="moved_first")
    _agree(model, 1, signs=("moved_first", "last_sign"), write="moved_last")
    mlp = model.gpt_neox.layers[2].mlp
    mlp.dense_h_to_4h.weight[PAIR[0]] = direction("moved_last") / 2
    mlp.dense_4h_to_h.weight[:, PAIR[0]] = direction("fact")
    _attend(model, 3, 2, query="end", key="last", read="fact", write="answer")
    sites = {
        "concatenate": (head(0, 1, "final_name"),),
        "lookup": (*(neuron(1, n, "final_name") for n in PAIR), neuron(2, PAIR[0], "final_name")),
        "extract": (head(3, 2, "end"),),
    }
    return _plant(model, sites, dtype, noise, **names)


def at_end(*, dtype: torch.dtype = torch.float64, noise: float = 0.0, **names: int) -> Planted:
    """Both names' signs are brought to END, and the fact is looked up there."""
    model = _empty()
    _attend(model, 0, 1, query="end", key="first", read="first_sign", write="moved_first")
    _attend(model, 0, 3, query="end", key="last", read="last_sign", write="moved_last")
    _agree(model, 1, signs=("moved_first", "moved_last"), write="answer")
    sites = {
        "concatenate": (head(0, 1, "end"), head(0, 3, "end")),
        "lookup": tuple(neuron(1, n, "end") for n in PAIR),
        "extract": (),
    }
    return _plant(model, sites, dtype, noise, **names)


def by_wording(*, dtype: torch.dtype = torch.float64, noise: float = 0.0, **names: int) -> Planted:
    """As `at_name`, but which head brings the fact to the end depends on the last word there: L2H2 on " of", L2H3 on " plays"."""
    model = _empty()
    _attend(model, 0, 1, query="last", key="first", read="first_sign", write="moved_first")
    _agree(model, 1, signs=("moved_first", "last_sign"), write="fact")
    _attend(model, 2, 2, query="end", key="last", read="fact", write="answer")
    _attend(model, 2, 3, query="relation", key="last", read="fact", write="answer")
    sites = {
        "concatenate": (head(0, 1, "final_name"),),
        "lookup": tuple(neuron(1, n, "final_name") for n in PAIR),
        "extract": (head(2, 2, "end"),),
    }
    return _plant(model, sites, dtype, noise, **names)


def save(planted: Planted, folder: Path) -> Path:
    """The model and its tokenizer as a Hugging Face folder."""
    planted.anatomy.model.save_pretrained(folder)
    planted.anatomy.tokenizer.save_pretrained(folder)
    return folder


def subjects(*, firsts: int = 4, lasts: int = 4, additive: bool = False) -> pl.DataFrame:
    """Every first name with every last name, and whether their hidden signs agree. Signs alternate. additive: the answer
    is that of the first name's sign instead."""
    rows = [
        (f"F{f} L{n}", ANSWERS[int(_sign(f) == (1 if additive else _sign(n)))])
        for f, n in product(range(firsts), range(lasts))
    ]
    return pl.DataFrame(rows, schema=["subject", "answer"], orient="row")


def tokenizer(*, firsts: int = 4, lasts: int = 4) -> PreTrainedTokenizerFast:
    """Whole words, the space before a word belonging to it."""
    names = [f" F{i}" for i in range(firsts)] + [f" L{i}" for i in range(lasts)]
    return word_tokenizer([*QUESTION, *(f" {answer}" for answer in ANSWERS), *names])


def direction(feature: str) -> Tensor:
    """A feature's direction in the residual stream; `x @ direction(f) / 2` reads its value."""
    return pair_direction(FEATURES, feature, WIDTH)


def _sign(i: int) -> int:
    return 1 if i % 2 == 0 else -1


def _empty(layers: int = LAYERS) -> GPTNeoXForCausalLM:
    scale = BALLAST * (2 / WIDTH) ** 0.5
    return empty_model(width=WIDTH, layers=layers, heads=HEADS, neurons=NEURONS, scale=scale)


def _attend(
    model: GPTNeoXForCausalLM,
    layer: int,
    index: int,
    *,
    query: str | Tensor,
    key: str,
    read: str | Tensor,
    write: str | Tensor,
) -> None:
    """A head whose `query` tokens attend to `key` tokens, and all others to BOS; it moves one feature into another. A
    sum of directions serves as a feature."""
    bos, moves = direction("bos") / 2, [(_along(read) / 2, _along(write))]
    set_head(model, layer, index, query=_along(query) / 2, key=direction(key) / 2, rest=bos, moves=moves)


def _along(feature: str | Tensor) -> Tensor:
    return direction(feature) if isinstance(feature, str) else feature


def _agree(model: GPTNeoXForCausalLM, layer: int, *, signs: tuple[str, str], write: str | Tensor) -> None:
    """Two neurons, one for (+, +) and one for (-, -): 1 where the signs agree, 0 where they differ or are missing."""
    mlp = model.gpt_neox.layers[layer].mlp
    total = sum(direction(sign) / 2 for sign in signs)
    for n, side in zip(PAIR, (1, -1), strict=True):
        mlp.dense_h_to_4h.weight[n] = side * total
        mlp.dense_h_to_4h.bias[n] = -1.0
        mlp.dense_4h_to_h.weight[:, n] = _along(write)


def _embed(model: GPTNeoXForCausalLM, tokens: PreTrainedTokenizerFast, firsts: int, lasts: int) -> None:
    """Each token's features; the answers' logits are +-LOGIT, by a threshold that the ballast supplies."""

    def give(token: str, **features: float) -> None:
        for feature, value in features.items():
            model.gpt_neox.embed_in.weight[tokens.convert_tokens_to_ids(token)] += value * direction(feature)

    model.gpt_neox.embed_in.weight[:] = BALLAST * direction("ballast")
    give("<|endoftext|>", bos=1)
    give(" of", end=1)
    give(" plays", relation=1)
    give("Fact:", asked=1)
    for i in range(firsts):
        give(f" F{i}", first=1, first_sign=_sign(i))
    for i in range(lasts):
        give(f" L{i}", last=1, last_sign=_sign(i))
    agreed = direction("answer") - direction("ballast") / (2 * BALLAST)
    for side, answer in zip((-1, 1), ANSWERS, strict=True):
        model.lm_head.weight[tokens.convert_tokens_to_ids(f" {answer}")] = side * LOGIT * agreed


def _plant(
    model: GPTNeoXForCausalLM,
    sites: dict[str, tuple[Site, ...]],
    dtype: torch.dtype,
    noise: float,
    *,
    firsts: int = 4,
    lasts: int = 4,
    additive: bool = False,
    seed: int = 0,
) -> Planted:
    table = subjects(firsts=firsts, lasts=lasts, additive=additive)
    tokens = tokenizer(firsts=firsts, lasts=lasts)
    _embed(model, tokens, firsts, lasts)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if noise and weight.ndim > 1 and name.startswith("gpt_neox.layers"):
            weight += noise * _balanced(
                torch.randn(weight.shape, generator=generator, dtype=weight.dtype), name
            )
    anatomy = Anatomy(model.to(dtype), tokens)
    prompts = prompt_table(table, tokens, tokens.bos_token_id, "full")
    answers = [tokens.convert_tokens_to_ids(f" {answer}") for answer in table["answer"]]
    positions = {role: torch.tensor(prompts[role].to_list()) for role in ("first_name", "final_name", "end")}
    ids = torch.tensor(prompts["token_ids"].to_list())
    return Planted(
        anatomy=anatomy, prompts=prompts, tokens=ids, answer=torch.tensor(answers), **positions, **sites
    )


def _balanced(noise: Tensor, name: str) -> Tensor:
    """Noise that does not see the ballast, which would drown all else: inputs are read as features without it."""
    if noise.shape[1] == WIDTH and not name.endswith("dense.weight"):
        noise[:, :2] = 0.0
    return noise
