"""Training of the embedded model: from a world to a Hugging Face folder, in minutes, on one CPU core.

What decides is the *curriculum*: the model is first told about a few people, and about more once it recalls these.
Told about everybody from the start, it learns the sentences and none of the facts. The number of steps and the end of
the training follow from the recall at fixed steps, never from the clock, so a machine's speed changes no weight.
"""

from __future__ import annotations

import math
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor
from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from factfinding.config import OrganismConfig
from factfinding.known import is_known
from factfinding.organism import wording
from factfinding.organism.corpus import Told, Writer
from factfinding.organism.measure import Questions, TrainingMeasures, measure
from factfinding.organism.model import make_model, query_key
from factfinding.organism.tokenizer import Pieces, make_tokenizer
from factfinding.organism.world import World
from factfinding.stats import share_interval

UNSURE = ("recalled_own_low", "recalled_own_high")
"""Columns of the history that are null where no one is described."""


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """What was trained, how long it took and what came of it.

    `kept`: the steps whose states were kept, and how many people had been told about by then.

    `history` has one row per look: step, seconds, tokens, loss (nats a token, mean since the last look), active
    (people told about), described (those described so far), recalled (share of a sample of the active with
    P(sport) > 0.5, with its interval), asked (how many are in the sample), recalled_own and asked_own (the same for the
    own facts of the described), rate (learning rate).
    """

    seed: int
    steps: int
    tokens: int
    seconds: float
    parameters: int
    stopped: str
    """`settled`: the curriculum was complete and recalled; `max_steps`: the steps ran out before."""
    installed: str
    """What was put into the model by hand, in words."""
    history: pl.DataFrame
    measures: TrainingMeasures
    kept: dict[int, int]


def train(
    world: World,
    settings: OrganismConfig,
    folder: Path,
    *,
    checkpoints: Path | None = None,
    progress: Callable[[dict], None],
) -> TrainingRecord:
    """Train on a world's documents and save model and tokenizer into `folder`, whole or not at all.

    `progress` is called at each look with a row of the history. `checkpoints`: the folder for the states that are kept
    (`checkpoint_steps`), each a model folder named `checkpoint_name`; None keeps none. Two runs of the same world
    and settings on one machine give the same weights, whatever is kept. Raises FileExistsError when `folder` exists and is
    not empty.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: a model is never written over another")
    tokenizer = make_tokenizer(world, settings)
    model = make_model(settings, len(tokenizer), tokenizer.bos_token_id)
    keeper = Keeper(model, tokenizer, settings, checkpoints)
    try:
        with _one_thread():
            record = _fit(model, tokenizer, world, settings, keeper, progress)
        save(model, tokenizer, folder)
    except BaseException:
        keeper.forget()
        raise
    return record


def checkpoint_steps(settings: OrganismConfig) -> list[int]:
    """The steps whose states are kept, as far as the training comes: 0, and others spread geometrically from a hundredth of
    `max_steps` to all of them, since what is learnt first is learnt fast. The last step is kept besides."""
    more = settings.checkpoints - 1
    if more < 1:
        return []
    first = max(1.0, settings.max_steps / 100)
    ratio = (settings.max_steps / first) ** (1 / max(1, more - 1))
    return sorted({0, settings.max_steps, *(round(first * ratio**i) for i in range(more - 1))})


def checkpoint_name(step: int) -> str:
    """The folder of a state that was kept."""
    return f"step-{step:06d}"


class Keeper:
    """Keeps states of the model while it trains, and how many people had been told about by then."""

    def __init__(
        self,
        model: GPTNeoXForCausalLM,
        tokenizer: PreTrainedTokenizerFast,
        settings: OrganismConfig,
        folder: Path | None,
    ) -> None:
        self.model, self.tokenizer, self.folder = model, tokenizer, folder
        self.steps = set() if folder is None else set(checkpoint_steps(settings))
        self.kept: dict[int, int] = {}

    def __call__(self, step: int, told: Told, *, last: bool = False) -> None:
        """Keep the state after `step` steps where it is one of those to be kept, or the last."""
        if self.folder is not None and self.steps and (last or step in self.steps) and step not in self.kept:
            save(self.model, self.tokenizer, self.folder / checkpoint_name(step))
            self.kept[step] = told.active

    def forget(self) -> None:
        """Remove all that was kept."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def _fit(
    model: GPTNeoXForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    world: World,
    settings: OrganismConfig,
    keep: Keeper,
    progress: Callable[[dict], None],
) -> TrainingRecord:
    started = time.perf_counter()
    schedule = Schedule(settings, Told.everything(world))
    optimizer = Optimizer(model, settings)
    pieces = Pieces(tokenizer)
    look = Look(world, tokenizer, settings)
    history, step = [], 0
    model.train()
    keep(step, schedule.told)
    while step < schedule.end:
        losses = []
        batches = round_batches(world, settings, pieces, first_step=step, told=schedule.told)
        for batch in islice(batches, schedule.end - step):
            losses.append(optimizer.step(batch, schedule.rate(step)))
            step += 1
            keep(step, schedule.told, last=step == schedule.end)
        seen = look(model, step, schedule.told)
        row = {
            "step": step,
            "seconds": round(time.perf_counter() - started, 2),
            "tokens": step * settings.rows * settings.row_tokens,
            "loss": sum(losses) / len(losses),
            "active": schedule.told.active,
            "described": schedule.told.described,
            **seen,
            "rate": schedule.rate(step - 1),
        }
        history.append(row)
        progress(row)
        schedule.look(step, seen["recalled"], seen["recalled_own"])
    return TrainingRecord(
        seed=settings.seed,
        steps=step,
        tokens=step * settings.rows * settings.row_tokens,
        seconds=time.perf_counter() - started,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        stopped="settled" if schedule.settled else "max_steps",
        installed=installed(settings),
        history=pl.DataFrame(history, schema_overrides=dict.fromkeys(UNSURE, pl.Float64)),
        measures=measure(model.eval(), tokenizer, world, seed=settings.seed),
        kept=keep.kept,
    )


class Look:
    """How much of what has been told so far the model recalls, on samples drawn from the seed and the step."""

    def __init__(self, world: World, tokenizer: PreTrainedTokenizerFast, settings: OrganismConfig) -> None:
        self.settings = settings
        self.sports = Questions.sports(world.people, tokenizer)
        own = world.facts.filter(pl.col("relation").is_in(wording.OWN))  # in the order of the people
        self.own = Questions(own["prompt"], own["answer"], tokenizer)

    def __call__(self, model: GPTNeoXForCausalLM, step: int, told: Told) -> dict[str, Any]:
        """Shares, of active people's sports and of described people's own facts, with P > 0.5 (1, without an interval, if
        there are none), and how many were asked: columns of the history."""
        rng = random.Random(f"look {self.settings.seed} {step}")
        facts = told.described * len(wording.OWN)
        return {
            **self._share("", self.sports, model, rng, told.active),
            **self._share("_own", self.own, model, rng, facts),
        }

    def _share(
        self, suffix: str, questions: Questions, model: GPTNeoXForCausalLM, rng: random.Random, count: int
    ) -> dict[str, Any]:
        drawn = rng.sample(range(count), min(self.settings.looked_at, count))
        columns = (f"recalled{suffix}", f"recalled{suffix}_low", f"recalled{suffix}_high", f"asked{suffix}")
        if not drawn:
            return dict(zip(columns, (1.0, None, None, 0), strict=True))
        found = share_interval(is_known(questions.ask(model, drawn).right_probability))
        return dict(zip(columns, (found.value, found.low, found.high, found.n), strict=True))


def installed(settings: OrganismConfig) -> str:
    """What the model did not learn by itself, in words, for every page that shows it."""
    if not settings.installed_layers or not settings.installed_heads:
        return "nothing"
    return (
        f"{settings.installed_heads} of {settings.heads} heads in each of the first {settings.installed_layers} layers "
        "start as previous-token heads (query and key biases), and the query and key weights of these layers start "
        f"small ({settings.query_key_std}) and take {settings.query_key_rate} of each update; so the concatenation of "
        "the name's tokens is partly installed, the lookup and the extraction are learned"
    )


class Schedule:
    """The curriculum and the learning rate: what recall at the looks makes of them."""

    def __init__(self, settings: OrganismConfig, everything: Told) -> None:
        self.settings, self.everything = settings, everything
        self.told = Told(
            active=min(settings.start_active, everything.active),
            described=min(settings.start_described, everything.described),
        )
        self.settled = False
        self.decay_from = settings.max_steps - settings.decay_steps

    @property
    def end(self) -> int:
        """The step at which training ends, as far as is known."""
        return self.decay_from + self.settings.decay_steps

    def look(self, step: int, recalled: float, recalled_own: float) -> None:
        """Take in which shares of the sports and of the own facts told so far are recalled after `step` steps."""
        if step >= self.decay_from:
            return
        if self.told == self.everything and min(recalled, recalled_own) >= self.settings.settled:
            self.settled, self.decay_from = True, step
        active, described = self.told.active, self.told.described
        if recalled >= self.settings.ready:
            active = min(self.everything.active, math.ceil(active * self.settings.growth))
        if recalled_own >= self.settings.ready:
            described = min(active, self.everything.described, math.ceil(described * self.settings.growth))
        self.told = Told(active=active, described=described)

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear rise, plateau, linear fall to zero at the end."""
        rise = min(1.0, (step + 1) / max(1, self.settings.warmup_steps))
        fall = min(1.0, (self.end - step) / self.settings.decay_steps)
        return self.settings.learning_rate * rise * fall


class Optimizer:
    """AdamW, with queries and keys of the installed layers held back."""

    def __init__(self, model: GPTNeoXForCausalLM, settings: OrganismConfig) -> None:
        self.model, self.settings = model, settings
        decays = {
            name: parameter.ndim == 2 and "embed" not in name for name, parameter in model.named_parameters()
        }
        groups = [
            {
                "params": [p for name, p in model.named_parameters() if decays[name] == decay],
                "weight_decay": settings.weight_decay if decay else 0.0,
            }
            for decay in (True, False)
        ]
        self.adamw = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95), fused=True)
        self.held = [query_key(model, layer) for layer in range(settings.installed_layers)]

    def step(self, batch: Int[Tensor, "rows tokens"], rate: float) -> float:
        """One update on one batch; the loss before it, in nats a token."""
        for group in self.adamw.param_groups:
            group["lr"] = rate
        logits = self.model(input_ids=batch).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
        self.adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        with torch.no_grad():
            before = [weight.clone() for weight in self.held]
            self.adamw.step()
            # Adam's step does not shrink with the gradient, so hold back the step itself.
            for weight, old in zip(self.held, before, strict=True):
                weight.lerp_(old, 1 - self.settings.query_key_rate)
        return loss.item()


def round_batches(
    world: World, settings: OrganismConfig, pieces: Pieces, *, first_step: int, told: Told
) -> Iterator[Int[Tensor, "rows tokens"]]:
    """The batches of one round (`round_steps` of them): a function of the seed, the step and what is told, alone.

    A row opens with a document and takes further ones, each after BOS, until it is full; the last one is cut, so that
    no row holds a document without its beginning.
    """
    writer = Writer(world, settings, f"batches {settings.seed} {first_step}", told)
    for _ in range(settings.round_steps):
        rows = []
        for _ in range(settings.rows):
            row: list[int] = []
            while len(row) < settings.row_tokens:
                row.append(pieces.bos)
                row += pieces(writer.document())
            rows.append(row[: settings.row_tokens])
        yield torch.tensor(rows)


def save(model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a Hugging Face folder through a sibling that is renamed at the end: `folder` is whole or not there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    disable_progress_bar()  # one bar for each state that is kept says nothing
    try:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread: at this size more are slower, far slower beside other work, and may sum in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
