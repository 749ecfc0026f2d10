"""Models of three answers in which one neuron knows one subject, with weights set by hand.

Six first and six last names are one token each; subject (f, l) plays answer (f + l) mod 3, so neither token says anything
about the answer and no sum of the two does. MLP neurons are on (1) for one subject and off (0) for all others, and write
that subject's answer. The logit of the subject's answer is `LOGIT`, that of the others 0, up to a small `PRIOR` that says
which answer is answered where nothing is known. So every effect can be worked out by hand.

`at_name`     L0H1 brings the first name to the final name token, MLP 1 looks up there, L2H2 brings the answer to END.
`at_end`      L1H1 and L1H3 bring both names to END, and MLP 2 looks up there.
`in_block_0`  as `at_name`, in blocks where an MLP reads what attention of its own layer wrote: MLP 0 looks up.

With `spelled`, the embedding of a last name is a form that nothing reads, and MLP 0 turns it into the name's identity: a
step that every answer needs, and that reads one token.

How it is done stands in `planted`, whose ballast, sharp attention and pairs of dimensions are these.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import polars as pl
from torch import Tensor
from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast

from factfinding.data.prompts import prompt_table
from factfinding.model.anatomy import Anatomy
from helpers.planted import BALLAST
from helpers.planting import QUESTION, empty_model, pair_direction, set_head, word_tokenizer

NAMES, LAYERS, HEADS, WIDTH, NEURONS = 6, 4, 4, 96, 48
ANSWERS = ("baseball", "basketball", "football")
LOGIT, PRIOR = 8.0, 0.25
"""The logit of a subject's answer; that of an answer in its alphabetical place, the last one highest."""
FEATURES = (
    ("ballast", "bos", "first", "last", "end")
    + tuple(f"{kind}_{i}" for kind in ("first", "last", "spelled", "moved") for i in range(NAMES))
    + tuple(f"{kind}_{answer}" for kind in ("knows", "says") for answer in ANSWERS)
)
MOVED_LAST = tuple(f"spelled_{i}" for i in range(NAMES))
"""At END nothing is spelled, so these carry the last name there."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """A model, the prompts of its 36 subjects, and the answers that it may give."""

    anatomy: Anatomy
    prompts: pl.DataFrame
    candidates: pl.DataFrame


def at_name(*, spelled: bool = False) -> Cells:
    """The lookup at the final name token, one neuron of MLP 1 per subject."""
    model = _empty(parallel=True)
    _attend(model, 0, 1, query="last", key="first", moves=_same("first", "moved"))
    _look_up(model, 1, last="last", write="knows")
    _attend(model, 2, 2, query="end", key="last", moves=_answers())
    return _cells(model, spelled=spelled)


def at_end(*, spelled: bool = False) -> Cells:
    """The lookup at END, one neuron of MLP 2 per subject; it writes the answer itself."""
    model = _empty(parallel=True)
    _attend(model, 1, 1, query="end", key="first", moves=_same("first", "moved"))
    _attend(model, 1, 3, query="end", key="last", moves=_same("last", "spelled"))
    _look_up(model, 2, last="spelled", write="says")
    return _cells(model, spelled=spelled)


def in_block_0() -> Cells:
    """The lookup at the final name token in MLP 0, of blocks that run attention before the MLP."""
    model = _empty(parallel=False)
    _attend(model, 0, 1, query="last", key="first", moves=_same("first", "moved"))
    _look_up(model, 0, last="last", write="knows")
    _attend(model, 2, 2, query="end", key="last", moves=_answers())
    return _cells(model, spelled=False)


def direction(feature: str) -> Tensor:
    """A feature's direction in the residual stream; `x @ direction(f) / 2` reads its value."""
    return pair_direction(FEATURES, feature, WIDTH)


def _same(read: str, write: str) -> dict[str, str]:
    return {f"{read}_{i}": f"{write}_{i}" for i in range(NAMES)}


def _answers() -> dict[str, str]:
    return {f"knows_{answer}": f"says_{answer}" for answer in ANSWERS}


def _empty(*, parallel: bool) -> GPTNeoXForCausalLM:
    shape = {"width": WIDTH, "layers": LAYERS, "heads": HEADS, "neurons": NEURONS, "parallel": parallel}
    return empty_model(**shape, scale=BALLAST * (2 / WIDTH) ** 0.5)


def _look_up(model: GPTNeoXForCausalLM, layer: int, *, last: str, write: str) -> None:
    """A neuron for each subject: on where both names are theirs."""
    mlp = model.gpt_neox.layers[layer].mlp
    for n, (i, j) in enumerate(product(range(NAMES), repeat=2)):
        mlp.dense_h_to_4h.weight[n] = direction(f"moved_{i}") / 2 + direction(f"{last}_{j}") / 2
        mlp.dense_h_to_4h.bias[n] = -1.0
        mlp.dense_4h_to_h.weight[:, n] = direction(f"{write}_{_answer(i, j)}")


def _spell(model: GPTNeoXForCausalLM) -> None:
    """MLP 0 writes the identity of the last name whose form it reads."""
    mlp = model.gpt_neox.layers[0].mlp
    for i in range(NAMES):
        mlp.dense_h_to_4h.weight[i] = direction(f"spelled_{i}") / 2
        mlp.dense_4h_to_h.weight[:, i] = direction(f"last_{i}")


def _attend(
    model: GPTNeoXForCausalLM, layer: int, index: int, *, query: str, key: str, moves: dict[str, str]
) -> None:
    """A head whose `query` tokens attend to `key` tokens, and all others to BOS; it moves features into others."""
    set_head(
        model, layer, index, query=direction(query) / 2, key=direction(key) / 2, rest=direction("bos") / 2,
        moves=[(direction(read) / 2, direction(write)) for read, write in moves.items()],
    )  # fmt: skip


def _answer(first: int, last: int) -> str:
    return ANSWERS[(first + last) % len(ANSWERS)]


def _tokenizer() -> PreTrainedTokenizerFast:
    names = [f" {kind}{i}" for kind in "FL" for i in range(NAMES)]
    return word_tokenizer([*QUESTION, *(f" {answer}" for answer in ANSWERS), *names])


def _cells(model: GPTNeoXForCausalLM, *, spelled: bool) -> Cells:
    tokens = _tokenizer()

    def give(token: str, *features: str) -> None:
        for feature in features:
            model.gpt_neox.embed_in.weight[tokens.convert_tokens_to_ids(token)] += direction(feature)

    model.gpt_neox.embed_in.weight[:] = BALLAST * direction("ballast")
    give("<|endoftext|>", "bos")
    give(" of", "end")
    for i in range(NAMES):
        give(f" F{i}", "first", f"first_{i}")
        give(f" L{i}", "last", f"spelled_{i}" if spelled else f"last_{i}")
    if spelled:
        _spell(model)
    for place, answer in enumerate(ANSWERS):
        logits = LOGIT * direction(f"says_{answer}") / 2 + place * PRIOR * direction("end") / 2
        model.lm_head.weight[tokens.convert_tokens_to_ids(f" {answer}")] = logits
    pairs = list(product(range(NAMES), repeat=2))
    table = pl.DataFrame(
        {"subject": [f"F{i} L{j}" for i, j in pairs], "answer": [_answer(i, j) for i, j in pairs]}
    )
    ids = [tokens.convert_tokens_to_ids(f" {answer}") for answer in ANSWERS]
    return Cells(
        anatomy=Anatomy(model, tokens),
        prompts=prompt_table(table, tokens, tokens.bos_token_id, "full"),
        candidates=pl.DataFrame({"answer": list(ANSWERS), "token_id": ids}),
    )
