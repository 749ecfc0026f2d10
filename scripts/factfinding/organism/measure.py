"""What the embedded model knows: its answers to questions, in plain forward passes, for the training record."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast

from factfinding.data.prompts import prompt_text
from factfinding.known import is_known
from factfinding.organism import wording
from factfinding.organism.world import Person, World

CHUNK = 512
"""Prompts run at once."""
STRANGERS = 500
"""Unknown names asked about."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A model's answers to n questions: probabilities over its whole vocabulary at the prompt's end."""

    probabilities: Float[np.ndarray, "n vocabulary"]
    right: Int[np.ndarray, " n"]

    @property
    def right_probability(self) -> Float[np.ndarray, " n"]:
        """The probability of the right answer."""
        return self.probabilities[np.arange(len(self.right)), self.right]

    @property
    def recalled(self) -> float:
        """Share of questions with P(right answer) > 0.5."""
        return float(is_known(self.right_probability).mean())


class Questions:
    """Prompts with right answers, ready to be asked; prompts of one length go together, so nothing is padded."""

    def __init__(
        self, prompts: Iterable[str], answers: Iterable[str], tokenizer: PreTrainedTokenizerFast
    ) -> None:
        def encode(text: str) -> list[int]:
            return tokenizer.encode(text, add_special_tokens=False)

        self.prompts = [[tokenizer.bos_token_id, *encode(prompt)] for prompt in prompts]
        self.right = np.array([encode(f" {answer}")[0] for answer in answers])

    @classmethod
    def sports(
        cls, people: Sequence[Person], tokenizer: PreTrainedTokenizerFast, condition: str = "full"
    ) -> Questions:
        """Ask each person's sport, under the condition `full` (after the one-shot line) or `zero_shot`."""
        prompts = [prompt_text(person.name, condition).text for person in people]
        return cls(prompts, [person.sport for person in people], tokenizer)

    @torch.no_grad()
    def ask(self, model: GPTNeoXForCausalLM, which: Sequence[int] | None = None) -> Answers:
        """The model's answers, to all questions or to those in `which`, in that order."""
        which = range(len(self.prompts)) if which is None else which
        by_length: dict[int, list[int]] = defaultdict(list)
        for row, index in enumerate(which):
            by_length[len(self.prompts[index])].append(row)
        probabilities = np.empty((len(which), model.config.vocab_size), dtype=np.float32)
        for rows in by_length.values():
            for start in range(0, len(rows), CHUNK):
                chunk = rows[start : start + CHUNK]
                ids = torch.tensor([self.prompts[which[row]] for row in chunk])
                logits = model(input_ids=ids, logits_to_keep=1).logits[:, -1]
                probabilities[chunk] = logits.float().softmax(-1).numpy()
        return Answers(probabilities=probabilities, right=self.right[list(which)])


@dataclass(frozen=True, kw_only=True)
class TrainingMeasures:
    """The end of a training in numbers.

    `recalled`: share of the n athletes with P(sport) > 0.5; `accuracy`: share whose sport is the likeliest of the
    three; both with the one-shot line and, `zero_shot_*`, without. `relations`: relation, people ("all" of whom it is
    told, or those "described"), n, top1 (share whose answer's first token is the likeliest of all), mean_p.
    `unknown_recalled`: share of `unknown_n` unknown names for which a sport has P > 0.5; `unknown_declined`: share for
    which `unknown` has (both null where the world has no strangers).
    """

    n: int
    recalled: float
    accuracy: float
    zero_shot_recalled: float
    zero_shot_accuracy: float
    relations: pl.DataFrame
    unknown_n: int
    unknown_recalled: float | None
    unknown_declined: float | None


def measure(
    model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World, *, seed: int
) -> TrainingMeasures:
    """Ask the model everything that the world tells, and some unknown names."""
    sports = [tokenizer.encode(f" {sport}", add_special_tokens=False)[0] for sport in wording.SPORTS]

    def accuracy(answers: Answers) -> float:
        best = np.array(sports)[answers.probabilities[:, sports].argmax(1)]
        return float((best == answers.right).mean())

    full, zero = (Questions.sports(world.people, tokenizer, c).ask(model) for c in ("full", "zero_shot"))
    declined = confident = None
    names = random.Random(f"unknown {seed}").sample(
        world.unknown_names, min(STRANGERS, len(world.unknown_names))
    )
    if names:
        asked = Questions(
            [prompt_text(n, "full").text for n in names], [wording.UNKNOWN] * len(names), tokenizer
        )
        answers = asked.ask(model)
        declined = answers.recalled
        confident = float(is_known(answers.probabilities[:, sports].max(1)).mean())
    return TrainingMeasures(
        n=len(world.people),
        recalled=full.recalled,
        accuracy=accuracy(full),
        zero_shot_recalled=zero.recalled,
        zero_shot_accuracy=accuracy(zero),
        relations=_relations(model, tokenizer, world),
        unknown_n=len(names),
        unknown_recalled=confident,
        unknown_declined=declined,
    )


def _relations(model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World) -> pl.DataFrame:
    """Every relation of the world, over all of whom it is told and over the described."""
    described = {person.name for person in world.described}
    rows = []
    for relation in world.relations:
        facts = world.facts.filter(pl.col("relation") == relation)
        answers = Questions(facts["prompt"], facts["answer"], tokenizer).ask(model)
        right = answers.probabilities.argmax(1) == answers.right
        chosen = facts["subject"].is_in(list(described)).to_numpy()
        for people, mask in (("all", np.ones(len(right), dtype=bool)), ("described", chosen)):
            if mask.any():
                mean_p = float(answers.right_probability[mask].mean())
                rows.append((relation, people, int(mask.sum()), float(right[mask].mean()), mean_p))
    return pl.DataFrame(rows, schema=["relation", "people", "n", "top1", "mean_p"], orient="row")
