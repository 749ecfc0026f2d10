"""Models that know the same people by different mechanisms: what the methods of post 3 must tell apart.

All share the outer circuit. 12 first and 12 last names are one token each; 36 of the 144 pairs are known, each with three
facts: its answer, a colour and a city. All 36 combinations of facts occur once, so no fact says anything about another,
and every name has one subject of each answer, so neither token says anything about the answer.

    L0H0              at the final name token: copies the first name's identity there              (concatenate)
    MLPs 1 and 2      at the final name token: write the facts of a known pair                     (look up)
    L3H0, L3H1, L3H2  at END, if it asks for answer, colour, city: bring that fact from the name    (extract)

What the MLPs do is the hypothesis:

`entity_cells`     one neuron of MLP 1 per known pair: on for that pair alone, it writes all three facts.
`detokenization`   the same step, distributed: 72 neurons of MLP 1, each on for two known pairs that share a name, four
                   on for each pair; what they write sums up to the pair's facts.
`hash_lookup`      MLP 1 writes 48 bits "s(first) = t(last)" with random signs s and t, for every pair, known or not;
                   MLP 2 compares them with the 36 stored codes, one neuron for each known pair and fact.

and one for what the study's own argument leaves out:

`fact_cells`       a single step whose neurons are not shared: one neuron of MLP 1 per known pair and fact.

The docstring of each function says what each method must say of it and why; tests/methods/test_hypotheses.py holds the methods to
it. Eight bystander neurons in every MLP read one token's identity and write what nobody reads: every MLP has an output,
and where only they work it is a sum over the name's tokens.

How it is done. A feature is one of a set of random orthonormal directions of mean zero. The ballast, a constant at every
position, keeps LayerNorm's scale the same up to a few percent; what is left of it is the trace that every method sees in
MLPs that do nothing. Attention scores are 0 or large. An unknown pair finds no fact, and then all answers, colours or
cities are equally likely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product

import numpy as np
import polars as pl
import torch
from torch import Tensor
from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast

from factfinding.data.prompts import prompt_table
from factfinding.methods.circuit import AT_NAME, Circuit
from factfinding.model.anatomy import Anatomy
from helpers.planting import BOS, empty_model, set_head, word_tokenizer

NAMES = 12
"""First names, and last names."""
SHIFTS = (0, 1, 3)
"""First name i and last name i + shift (mod 12) are a subject of the answer of that shift. All differences of shifts
differ, so of the two swaps of two known pairs at most one is known."""
FACTS = {
    "answer": ("baseball", "basketball", "football"),
    "colour": ("blue", "green", "red"),
    "city": ("Lima", "Oslo", "Paris", "Rome"),
}
ASKS = {"answer": "plays the sport of", "colour": "wears the colour", "city": "comes from the city"}
VALUES = [(relation, value) for relation, values in FACTS.items() for value in values]
LAYERS, HEADS, WIDTH, NEURONS = 4, 8, 128, 128
D_HEAD = WIDTH // HEADS
BITS, BYSTANDERS = 48, 8
BALLAST, LOGIT, PRIOR = 8.0, 6.0, 8.0
"""Size of the constant feature; a fact's logit; the logit of all answers of a kind."""
FACT, BIT, JUNK = 1.0, 0.25, 0.2
"""Size of what is written: a fact, a bit of the code, a bystander."""
NOMINAL = (BALLAST**2 + 3) ** 0.5
"""Length of the stream at the final name token: the ballast, both identities, and the mark of a last name."""

FEATURES = (
    ("ballast", "bos", "first", "last")
    + tuple(f"asks_{relation}" for relation in FACTS)
    + tuple(f"{kind}_{i}" for kind in ("first", "last") for i in range(NAMES))
    + tuple(f"{kind}_{value}" for kind in ("knows", "says") for _, value in VALUES)
    + tuple(f"bit_{i}" for i in range(BITS))
    + tuple(f"junk_{i}" for i in range(BYSTANDERS))
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Hypothesis:
    """A model, whom it knows, and its circuit. unknown: pairs of the same names that it knows nothing of."""

    name: str
    anatomy: Anatomy
    people: pl.DataFrame  # subject, answer, colour, city, and first and last: the numbers of its names
    unknown: list[str]
    candidates: pl.DataFrame
    facts: pl.DataFrame
    circuit: Circuit

    def prompts(self, condition: str = "full") -> pl.DataFrame:
        """The prompts table of the known subjects."""
        subjects = self.people.select("subject", "answer")
        return prompt_table(subjects, self.anatomy.tokenizer, self.anatomy.bos_token_id, condition)


def people(seed: int = 0) -> pl.DataFrame:
    """The known pairs: in each answer every first name once, every last name once, every colour with every city once."""
    rng, rows = np.random.default_rng(seed), []
    for answer, shift in zip(FACTS["answer"], SHIFTS, strict=True):
        others = list(product(FACTS["colour"], FACTS["city"]))
        for first, i in enumerate(rng.permutation(len(others))):
            last = (first + shift) % NAMES
            rows.append((f"F{first} L{last}", answer, *others[i], first, last))
    return pl.DataFrame(rows, schema=["subject", "answer", "colour", "city", "first", "last"], orient="row")


@cache
def entity_cells() -> Hypothesis:
    """One neuron per known pair, in MLP 1.

    P3.1  MLP 2 reads nothing that MLP 1 writes: the path does nothing.
    P3.2  one neuron of layer 1 is on and holds all facts: its effect is all but the only one, for each fact. So top-1
          share and participation ratio are 1, and effects are correlated by 1 between facts.
    P3.3  the neurons' inputs are sums over tokens, so all excess is made by activation functions, in MLP 1. The study's
          rule leaves out what quiet neurons make: the pair's own neuron makes 1 and pairs that share no name with it
          (11 of its answer, 20 of others, each 1/121, the others' weight -1/2) make 1/121, of 144/121: 122/144.
    P3.6  MLP 1 writes facts for known pairs only: AUC 1. MLP 0 reads the last token alone: exactly 0.5. MLP 2 knows
          nothing; it reads a longer stream for known pairs, so LayerNorm makes it write a little less: not above 0.5.
    P3.7  MLP 1 writes A's and B's facts and nothing for their swaps or for strangers: a ratio of 1, but for bystanders.
          For unknown pairs only bystanders write: 0. MLPs 0 and 2, and the stream before MLP 1, are sums over tokens: 0.
    """
    return _cells("entity cells", lambda facts: [facts.sum(0)])


@cache
def fact_cells() -> Hypothesis:
    """One neuron per known pair and fact, in MLP 1. As `entity_cells`, but

    P3.2  each fact has its own neuron: no correlation, as between the lookup neurons of `hash_lookup`.
    """
    return _cells("fact cells", list)


@cache
def extracts_always() -> Hypothesis:
    """As `fact_cells`, but each of the three heads brings its fact to END whatever is asked: only the logit that all answers
    to the question have says which fact is meant (P1.2)."""
    return _cells("extracts always", list, asked=False)


@cache
def detokenization() -> Hypothesis:
    """Known pairs in MLP 1, each by the four neurons that it shares with the four pairs that share a name with it.

    As `entity_cells`, but
    P3.2  four neurons carry each fact of a pair, the same four for all facts, but not with the same weights:
          participation ratio near 4, top-1 share above 1/4, effects correlated between facts, not perfectly.
    P3.3  as each name has one subject of each answer, each of the four has the weight 1/4 for the pair's own answer. They
          make 4 * 10/11 * 1/4, and neurons of other names 2/121, of 144/121: 112/144.
    """
    model, table = _outer_circuit(), people()
    pairs = [
        (i, j)
        for i, j in combinations(range(table.height), 2)
        if table["first"][i] == table["first"][j] or table["last"][i] == table["last"][j]
    ]
    on = torch.zeros(table.height, len(pairs), dtype=torch.float64)
    for n, pair in enumerate(pairs):
        on[list(pair), n] = 1.0
    written = torch.linalg.pinv(on) @ torch.stack([_facts_of(p).sum(0) for p in table.iter_rows(named=True)])
    for n, pair in enumerate(pairs):
        firsts, lasts = (table[list(pair)][kind].unique().to_list() for kind in ("first", "last"))
        names = sum(_is("first", i) for i in firsts) + sum(_is("last", i) for i in lasts)
        _neuron(model, 1, n, read=2 * names, bias=-3.0, write=written[n])
    return _hypothesis("detokenization", model, table)


@cache
def hash_lookup(seed: int = 1) -> Hypothesis:
    """A code of the pair in MLP 1, read by MLP 2.

    A lookup neuron is on above a match of 0.7 with its code (own 1, other pairs below that).
    P3.1  without the path from MLP 1 to MLP 2 nothing is found: guessing is left.
    P3.2  in MLP 2 each fact of a pair has a neuron of its own: correlations near 0 there. In MLP 1 every bit serves all
          facts: correlated, spread over dozens of neurons.
    P3.3  the lookup neurons' inputs are already as non-linear as their outputs: no excess in MLP 2; MLP 1, which makes
          all of it, writes to no fact: ratio 0.
    P3.6  the code is as long for unknown pairs: MLP 1 has AUC 0.5, MLP 2 has 1.
    P3.7  a bit is a product of signs: two pairs and their swaps are as far from a sum as four random pairs: MLP 1 has a
          ratio near 1 for known *and* for unknown pairs; MLP 2 for known ones only.
    """
    model, table = _outer_circuit(), people()
    signs = torch.from_numpy(np.random.default_rng(seed).choice([-1.0, 1.0], size=(2, NAMES, BITS)))
    firsts, lasts = (torch.stack([_is(kind, i) for i in range(NAMES)]) for kind in ("first", "last"))
    for bit in range(BITS):
        total = signs[0, :, bit] @ firsts + signs[1, :, bit] @ lasts
        for side in (0, 1):
            _neuron(
                model,
                1,
                2 * bit + side,
                read=(1 - 2 * side) * total,
                bias=-1.0,
                write=BIT * direction(f"bit_{bit}"),
            )
    bits = torch.stack([direction(f"bit_{i}") for i in range(BITS)])
    for i, person in enumerate(table.iter_rows(named=True)):
        stored = signs[0, person["first"]] * signs[1, person["last"]]
        match = (
            2 / (BIT * BITS) * stored @ bits
        )  # minus the mean of stored: the share of bits that agree, doubled, less 1
        for j, fact in enumerate(_facts_of(person)):
            _neuron(model, 2, 3 * i + j, read=match / 0.3, bias=float(-stored.mean() - 0.7) / 0.3, write=fact)
    return _hypothesis("hash and lookup", model, table)


MODELS: dict[str, Callable[[], Hypothesis]] = {
    "entity cells": entity_cells,
    "detokenization": detokenization,
    "fact cells": fact_cells,
    "hash and lookup": hash_lookup,
}


def _cells(name: str, shared: Callable[[Tensor], Sequence[Tensor]], *, asked: bool = True) -> Hypothesis:
    """Neurons of MLP 1 that are on for one known pair. shared: of a pair's facts, what each of its neurons writes. asked: whether
    a fact is brought to END only if it is asked for."""
    model, table = _outer_circuit(asked=asked), people()
    written = [
        (person, write) for person in table.iter_rows(named=True) for write in shared(_facts_of(person))
    ]
    for n, (person, write) in enumerate(written):
        both = _is("first", person["first"]) + _is("last", person["last"])
        _neuron(model, 1, n, read=2 * both, bias=-3.0, write=write)
    return _hypothesis(name, model, table)


def direction(feature: str) -> Tensor:
    """A feature's direction in the residual stream; `x @ direction(f)` reads its value."""
    return _basis()[FEATURES.index(feature)]


@cache
def _basis() -> Tensor:
    """Random orthonormal directions, all orthogonal to the mean that LayerNorm takes away."""
    drawn = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn[:, 0] = 1.0
    return torch.linalg.qr(drawn).Q[:, 1:].T


def _is(kind: str, i: int) -> Tensor:
    return direction(f"{kind}_{i}")


def _facts_of(person: dict) -> Tensor:
    """What is written for each fact of a person: `[facts, d_model]`."""
    return torch.stack([FACT * direction(f"knows_{person[relation]}") for relation in FACTS])


def _neuron(
    model: GPTNeoXForCausalLM, layer: int, n: int, *, read: Tensor, bias: float, write: Tensor
) -> None:
    mlp = model.gpt_neox.layers[layer].mlp
    mlp.dense_h_to_4h.weight[n], mlp.dense_h_to_4h.bias[n] = read, bias
    mlp.dense_4h_to_h.weight[:, n] = write


def _outer_circuit(*, asked: bool = True) -> GPTNeoXForCausalLM:
    """Everything but the lookup. asked: whether a fact is brought to END only if it is asked for."""
    scale = NOMINAL / WIDTH**0.5
    model = empty_model(width=WIDTH, layers=LAYERS, heads=HEADS, neurons=NEURONS, scale=scale)
    identities = {f"first_{i}": f"first_{i}" for i in range(NAMES)}
    _attend(model, 0, 0, query="last", key="first", moves=identities)
    for index, (relation, values) in enumerate(FACTS.items()):
        moves = {f"knows_{value}": f"says_{value}" for value in values}
        asks = [relation] if asked else list(ASKS)
        query = torch.stack([direction(f"asks_{one}") for one in asks]).sum(0)
        _attend(model, 3, index, query=query, key="last", moves=moves, gain=1 / FACT)
    rng = np.random.default_rng(0)
    for layer, i in product(range(LAYERS), range(BYSTANDERS)):
        kind = ("first", "last")[i % 2]
        some = sum(_is(kind, name) for name in rng.choice(NAMES, NAMES // 2, replace=False))
        written = JUNK * rng.uniform(0.5, 1.5) * direction(f"junk_{i}")
        _neuron(model, layer, NEURONS - 1 - i, read=2 * some, bias=-1.0, write=written)
    return model


def _attend(
    model: GPTNeoXForCausalLM,
    layer: int,
    index: int,
    *,
    query: Tensor | str,
    key: str,
    moves: dict[str, str],
    gain: float = 1.0,
) -> None:
    """A head whose queries attend to `key` tokens, and all others to BOS; it moves features into others. query: the
    mark of a query, or what reads it."""
    query = direction(query) if isinstance(query, str) else query
    set_head(
        model, layer, index, query=query, key=direction(key), rest=direction("bos"),
        moves=[(direction(read), gain * direction(write)) for read, write in moves.items()],
    )  # fmt: skip


def _tokenizer() -> PreTrainedTokenizerFast:
    """Whole words, the space before a word belonging to it."""
    plain = {f" {word}" for text in ASKS.values() for word in text.split()} | {" Tiger", " Woods", " golf"}
    words = [BOS, "Fact:", "\n", *sorted(plain), *(f" {value}" for _, value in VALUES)]
    words += [f" {kind}{i}" for kind in "FL" for i in range(NAMES)]
    return word_tokenizer(words)


def _embed(model: GPTNeoXForCausalLM, tokens: PreTrainedTokenizerFast) -> None:
    """Each token's features, and what the answers' logits are read from."""

    def give(token: str, *features: str) -> None:
        for feature in features:
            model.gpt_neox.embed_in.weight[tokens.convert_tokens_to_ids(token)] += direction(feature)

    model.gpt_neox.embed_in.weight[:] = BALLAST * direction("ballast")
    give("<|endoftext|>", "bos")
    for i in range(NAMES):
        give(f" F{i}", "first", f"first_{i}")
        give(f" L{i}", "last", f"last_{i}")
    for relation, text in ASKS.items():
        give(f" {text.split()[-1]}", f"asks_{relation}")
    for relation, value in VALUES:
        logits = LOGIT * direction(f"says_{value}") + PRIOR * direction(f"asks_{relation}")
        model.lm_head.weight[tokens.convert_tokens_to_ids(f" {value}")] = logits


def _hypothesis(name: str, model: GPTNeoXForCausalLM, table: pl.DataFrame) -> Hypothesis:
    tokens = _tokenizer()
    _embed(model, tokens)
    known = set(table["subject"])
    everybody = [f"F{i} L{j}" for i, j in product(range(NAMES), repeat=2)]
    facts = [
        (person["subject"], relation, f"Fact: {person['subject']} {ask}", person[relation])
        for person in table.iter_rows(named=True)
        for relation, ask in ASKS.items()
    ]
    answers = list(FACTS["answer"])
    return Hypothesis(
        name=name,
        anatomy=Anatomy(model, tokens),
        people=table,
        unknown=[pair for pair in everybody if pair not in known],
        candidates=pl.DataFrame(
            {
                "answer": answers,
                "token_id": [tokens.convert_tokens_to_ids(f" {answer}") for answer in answers],
            }
        ),
        facts=pl.DataFrame(facts, schema=["subject", "relation", "prompt", "answer"], orient="row"),
        circuit=Circuit(lookup_at=AT_NAME, concatenate=(0, 0), lookup=(1, 2), extract=("L3H0",)),
    )
