"""Relatives of the planted models, each different in one respect, so that one claim or another is false of it.

All know every subject, and have 80 of them. They share their features and prompts with `planted`, whose docstring says how a
feature, a head and a neuron are set by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from transformers import GPTNeoXForCausalLM

from helpers import hypotheses, planted
from helpers.planted import PAIR, Planted, _agree, _attend, _empty, _plant, direction

NAMES = {"firsts": 10, "lasts": 8}


@cache
def at_name() -> Planted:
    """The study's circuit: `planted.at_name`."""
    return planted.at_name(**NAMES)


@cache
def at_end() -> Planted:
    """Nothing happens at the name: `planted.at_end`."""
    return planted.at_end(**NAMES)


@cache
def unsure() -> Planted:
    """As `at_name`, but the right answer has little more than half of the probability."""
    model = planted.at_name(**NAMES)
    model.anatomy.model.lm_head.weight *= 0.57
    return model


@cache
def later(by: int) -> Planted:
    """As `at_name`, everything `by` layers later: gathering, lookup, extraction. Seven layers."""
    return _made(7, _circuit(gather=by, look_up=by + 1, extract=by + 2))


@cache
def extracted_early() -> Planted:
    """As `at_name`, but ten layers that do nothing follow."""
    return _made(13, _circuit(gather=0, look_up=1, extract=2))


@cache
def many_heads() -> Planted:
    """All eight heads of the last two layers extract, each an eighth."""

    def build(model: GPTNeoXForCausalLM) -> None:
        _circuit(gather=0, look_up=1, extract=None)(model)
        for layer, index in ((layer, index) for layer in (2, 3) for index in range(planted.HEADS)):
            _attend(model, layer, index, query="end", key="last", read="fact", write=direction("answer") / 8)

    return _made(4, build)


@cache
def by_way_of_relation() -> Planted:
    """The fact is brought to "plays", and from there to END: the head that writes does not look at the name."""

    def build(model: GPTNeoXForCausalLM) -> None:
        _circuit(gather=0, look_up=1, extract=None)(model)
        _attend(model, 2, 2, query="relation", key="last", read="fact", write="second_fact")
        twice = 2 * direction("second_fact")  # half of END's attention goes to the "plays" of the example
        _attend(model, 3, 1, query="end", key="relation", read=twice, write="answer")

    return _made(4, build)


@cache
def head_reads_head() -> Planted:
    """A head of layer 2 writes half the answer at END and as much at the name, where a head of layer 3 reads it."""

    def build(model: GPTNeoXForCausalLM) -> None:
        _circuit(gather=0, look_up=1, extract=None)(model)
        both = direction("answer") / 2 + direction("second_fact")
        _attend(model, 2, 2, query=direction("end") + direction("last"), key="last", read="fact", write=both)
        _attend(model, 3, 1, query="end", key="last", read="second_fact", write=direction("answer") / 2)

    return _made(4, build)


@cache
def copies() -> Planted:
    """The lookup writes the fact three times, and three heads read one copy each; the last of them in layer 3."""

    def build(model: GPTNeoXForCausalLM) -> None:
        facts = ("fact", "second_fact", "third_fact")
        _attend(model, 0, 1, query="last", key="first", read="first_sign", write="moved_first")
        everywhere = sum(direction(fact) for fact in facts)
        _agree(model, 1, signs=("moved_first", "last_sign"), write=everywhere)
        for (layer, index), fact in zip(((2, 0), (2, 1), (3, 0)), facts, strict=True):
            _attend(model, layer, index, query="end", key="last", read=fact, write=direction("answer") / 3)

    return _made(4, build)


@cache
def idle_reader() -> Planted:
    """As `at_name`, and a head before the extracting one has the same matrices but never looks at the name."""

    def build(model: GPTNeoXForCausalLM) -> None:
        _circuit(gather=0, look_up=1, extract=2)(model)
        _attend(model, 2, 0, query="first_sign", key="end", read="fact", write="answer")

    return _made(4, build)


@cache
def additive() -> Planted:
    """The answer is that of the first name. A head brings it to the name, another to END; MLPs do nothing."""

    def build(model: GPTNeoXForCausalLM) -> None:
        _attend(model, 0, 1, query="last", key="first", read="first_sign", write="moved_first")
        _attend(model, 2, 2, query="end", key="last", read="moved_first", write="answer")

    return _made(4, build, additive=True)


@cache
def additive_at_end() -> Planted:
    """The answer is that of the first name, which a head brings to END: at the final name token there is nothing of it."""

    def build(model: GPTNeoXForCausalLM) -> None:
        _attend(model, 0, 1, query="end", key="first", read="first_sign", write="answer")

    model = _made(4, build, additive=True)
    lasts = [model.anatomy.tokenizer.convert_tokens_to_ids(f" L{i}") for i in range(NAMES["lasts"])]
    trace = 1e-3 * direction("answer")  # the same for all, it swallows the 1e-44 that softmax lets through
    model.anatomy.model.gpt_neox.embed_in.weight[lasts] += trace
    return model


@cache
def by_pattern() -> Planted:
    """Attention looks the fact up: two heads take the first name's sign, one as it is, one turned round, and which of them
    looks depends on the last name. MLPs do nothing."""

    def build(model: GPTNeoXForCausalLM) -> None:
        for index, side in ((0, 1), (1, -1)):
            who = (direction("last") + side * direction("last_sign")) / 2
            read = side * direction("first_sign")
            _attend(model, 0, index, query=who, key="first", read=read, write="fact")
        _attend(model, 2, 2, query="end", key="last", read="fact", write="answer")

    return _made(4, build)


@cache
def only_if_asked() -> Planted:
    """As `at_name`, but the lookup works only behind "Fact:", and writes with four times the size."""

    def build(model: GPTNeoXForCausalLM) -> None:
        _circuit(gather=0, look_up=1, extract=None)(model)
        _attend(model, 0, 2, query="last", key="asked", read="asked", write="moved_last")
        mlp = model.gpt_neox.layers[1].mlp
        for neuron in PAIR:
            mlp.dense_h_to_4h.weight[neuron] += 2 * direction("moved_last") / 2
            mlp.dense_h_to_4h.bias[neuron] -= 2
            mlp.dense_4h_to_h.weight[:, neuron] *= 4
        _attend(model, 2, 2, query="end", key="last", read=direction("fact") / 4, write="answer")

    return _made(4, build)


@cache
def many_neurons() -> Planted:
    """As `at_name`, but each of the two neurons of the lookup is twelve, each with a twelfth."""

    def build(model: GPTNeoXForCausalLM) -> None:
        _circuit(gather=0, look_up=1, extract=2)(model)
        mlp = model.gpt_neox.layers[1].mlp
        for part, pair in ((mlp.dense_h_to_4h.weight, PAIR), (mlp.dense_h_to_4h.bias, PAIR)):
            plus, minus = (part[neuron].clone() for neuron in pair)
            part[:12], part[12:] = plus, minus
        mlp.dense_4h_to_h.weight[:] = (direction("fact") / 12)[:, None]

    return _made(4, build)


@cache
def heads_for_one_answer() -> hypotheses.Hypothesis:
    """`hypotheses.entity_cells`, but three heads bring the answer, each one of the three."""
    model = hypotheses.entity_cells.__wrapped__()
    inner = model.anatomy.model
    attention = inner.gpt_neox.layers[3].attention
    attention.dense.weight[:, : hypotheses.D_HEAD] = 0
    for index, answer in enumerate(hypotheses.FACTS["answer"], start=3):
        moves = {f"knows_{answer}": f"says_{answer}"}
        hypotheses._attend(inner, 3, index, query="asks_answer", key="last", moves=moves)
    return model


def _circuit(*, gather: int, look_up: int, extract: int | None) -> Callable[[GPTNeoXForCausalLM], None]:
    """The three stages of `planted.at_name` in these layers."""

    def build(model: GPTNeoXForCausalLM) -> None:
        _attend(model, gather, 1, query="last", key="first", read="first_sign", write="moved_first")
        _agree(model, look_up, signs=("moved_first", "last_sign"), write="fact")
        if extract is not None:
            _attend(model, extract, 2, query="end", key="last", read="fact", write="answer")

    return build


def _made(layers: int, build: Callable[[GPTNeoXForCausalLM], None], *, additive: bool = False) -> Planted:
    model = _empty(layers)
    build(model)
    sites: dict = {"concatenate": (), "lookup": (), "extract": ()}
    return _plant(model, sites, torch.float64, 0.0, additive=additive, **NAMES)
