"""Post 4: the grid of toy networks, trained and measured, as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.experiments.toy_models.measure import (
    KINDS,
    Pruning,
    cell_accuracy,
    class_share,
    interaction_share,
    own_classes,
    participation,
    prune,
    read_held_out,
    share_needed,
    token_folds,
)
from factfinding.experiments.toy_models.schemas import MODELS, NEURONS, READINGS
from factfinding.experiments.toy_models.tasks import TASKS, Task, make_task, pair_inputs
from factfinding.experiments.toy_models.verdict import summarise, verdict
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.toy_networks import (
    Examples,
    Networks,
    Pass,
    Trained,
    accuracies,
    forward,
    initial_networks,
    losses,
    train,
)

PAIR_FOLDS = 4


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables `toy_models`, `toy_summary`, `toy_verdict`, `toy_readings` and `toy_neurons`."""
    torch.set_num_threads(1)  # sums in another order would be other networks
    found = toy_tables(settings.toys, progress=say)
    return {
        "toy_models": found.models,
        "toy_summary": found.summary,
        "toy_verdict": found.verdict,
        "toy_readings": found.readings,
        "toy_neurons": found.neurons,
    }


@dataclass(frozen=True, kw_only=True)
class ToyTables:
    """The tables of post 4, as docs/tables.md describes them."""

    models: pl.DataFrame
    readings: pl.DataFrame
    neurons: pl.DataFrame
    summary: pl.DataFrame
    verdict: pl.DataFrame


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Networks of one shape, trained, with their tasks and one forward pass over all pairs."""

    names: list[dict[str, Any]]
    tasks: list[Task]
    examples: Examples
    trained: Trained
    run: Pass

    @property
    def networks(self) -> Networks:
        return self.trained.networks

    @property
    def m(self) -> int:
        return self.tasks[0].m


def toy_tables(settings: Any, progress: Callable[[str], None] = lambda line: None) -> ToyTables:
    """Train and measure the whole grid. settings: the section `toys` of the configuration."""
    models, readings, neurons = [], [], []
    for m in settings.sizes:
        tasks = grid_tasks(settings, m)
        for width in settings.widths:
            for depth in settings.depths:
                batch = trained_batch(settings, tasks, width=width, depth=depth)
                rows, parts = _models(batch)
                models += rows
                neurons += parts
                readings += _readings(batch, settings.classes)
        done = [row for row in models if row["m"] == m]
        progress(f"m = {m}: {len(done)} networks, {sum(row['reached'] for row in done)} learnt all")
    frame, read = pl.DataFrame(models, schema=MODELS), pl.DataFrame(readings, schema=READINGS)
    return ToyTables(
        models=frame,
        readings=read,
        neurons=pl.concat(neurons),
        summary=summarise(frame, read, seed=settings.seed),
        verdict=verdict(frame, read, seed=settings.seed),
    )


def grid_tasks(settings: Any, m: int) -> list[Task]:
    """Every kind of task of one size with every seed."""
    shares = {name: getattr(settings, name) for name in ("classes", "exceptions", "held_out")}
    seeds = range(settings.seed, settings.seed + settings.seeds)
    return [make_task(kind, m, seed=seed, **shares) for kind in TASKS for seed in seeds]


def trained_batch(settings: Any, tasks: list[Task], *, width: int, depth: int) -> Batch:
    """A network of one shape for each task (all of one size), trained side by side."""
    m = tasks[0].m
    examples = Examples(
        inputs=torch.tensor(pair_inputs(m)),
        labels=torch.tensor(np.stack([task.labels for task in tasks]))[:, None].float(),
        trained=torch.tensor(np.stack([task.trained for task in tasks])).float(),
    )
    start = initial_networks(
        [[task.seed, TASKS.index(task.kind), m, width, depth] for task in tasks],
        features=2 * m,
        width=width,
        neurons=settings.neurons_per_width * width,
        depth=depth,
    )
    chosen = ("learning_rate", "weight_decay", "max_steps", "settled")
    trained = train(start, examples, **{name: getattr(settings, name) for name in chosen})
    names = [{"task": task.kind, "m": m, "width": width, "depth": depth, "seed": task.seed} for task in tasks]
    with torch.no_grad():
        run = forward(trained.networks, examples.inputs)
    return Batch(names=names, tasks=tasks, examples=examples, trained=trained, run=run)


def _models(batch: Batch) -> tuple[list[dict], list[pl.DataFrame]]:
    """A row per network, and a frame of neurons per network and kind of ablation."""
    networks, examples, run = batch.networks, batch.examples, batch.run
    pairs = examples.trained.sum(1)
    loss = losses(run.logits, examples)
    orders = [np.random.default_rng([task.seed, 1]).permutation(_neurons(networks)) for task in batch.tasks]
    columns = {
        "parameters": [networks.parameters] * len(networks),
        "neurons": [_neurons(networks)] * len(networks),
        "pairs": pairs.long().tolist(),
        "steps": batch.trained.steps.tolist(),
        "reached": batch.trained.reached.tolist(),
        "accuracy": accuracies(run.logits, examples).tolist(),
        "majority_rate": [max(rate, 1 - rate) for rate in _ones(examples)],
        "loss": loss.tolist(),
        "held_out_accuracy": _known(accuracies(run.logits, examples, held_out=True)),
        "interaction": interaction_share(run.resid[1] - run.resid[0], batch.m).tolist(),
        "own_classes": [_own_classes(batch, index) for index in range(len(networks))],
    }
    frames = []
    for kind in KINDS:
        with torch.no_grad():
            pruned, random = prune(networks, examples, kind, random_order=orders)
        columns |= {
            f"needed_{kind}": share_needed(pruned.kept).tolist(),
            f"needed_random_{kind}": share_needed(random).tolist(),
            f"participation_{kind}": participation(pruned.effect).tolist(),
            f"accuracy_without_{kind}": pruned.kept[:, 0].tolist(),
        }
        frames += _neuron_frames(batch, kind, pruned)
    rows = []
    for index, name in enumerate(batch.names):
        row = name | {key: values[index] for key, values in columns.items()}
        bits = row["pairs"] * (1 - row["loss"]) if name["task"] == "memorising" else None
        row |= {"bits": bits, "bits_per_parameter": bits and bits / row["parameters"]}
        rows.append(row)
    return rows, frames


def _neurons(networks: Networks) -> int:
    return networks.b_in[0].numel()


def _ones(examples: Examples) -> list[float]:
    return ((examples.labels[:, 0] * examples.trained).sum(1) / examples.trained.sum(1)).tolist()


def _known(values: Float[Tensor, " nets"]) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]


def _own_classes(batch: Batch, index: int) -> float:
    """How well the network's own classes of a and b tell the label of pairs that were not counted."""
    task, m = batch.tasks[index], batch.m
    count = int(task.classes.max()) + 1
    tokens = batch.networks.embedding[index].mT.double().numpy()
    a, b = own_classes(tokens[:m], count), own_classes(tokens[m:], count)
    cell = (a[:, None] * count + b).reshape(-1)
    return cell_accuracy(cell, task.labels.astype(int), _pair_fold(task))


def _pair_fold(task: Task) -> Int[np.ndarray, " pairs"]:
    return np.random.default_rng([task.seed, 2]).permutation(len(task.labels)) % PAIR_FOLDS


def _neuron_frames(batch: Batch, kind: str, pruned: Pruning) -> list[pl.DataFrame]:
    """One frame per network: what each neuron does, and what it answers to."""
    post = torch.cat(batch.run.post, dim=1)
    width = batch.run.post[0].shape[1]
    classes = torch.tensor(np.stack([task.classes for task in batch.tasks]))
    told, count = class_share(post, classes), int(classes.max()) + 1
    active = (post > 0).float().mean(2)
    alone = torch.stack(
        [interaction_share(post[:, one : one + 1], batch.m) for one in range(post.shape[1])], dim=1
    )
    kept = pruned.kept.gather(1, pruned.order)
    number = np.arange(post.shape[1])
    frames = []
    for index, name in enumerate(batch.names):
        values = {"layer": 1 + number // width, "neuron": number % width, "kind": kind}
        values |= {"effect": pruned.effect[index], "drop": pruned.drop[index], "order": pruned.order[index]}
        values |= {"kept_accuracy": kept[index], "active": active[index], "interaction": alone[index]}
        values |= {"class_share": told[index], "class_share_chance": (count**2 - 1) / (batch.m**2 - 1)}
        values |= {"n": int(batch.examples.trained[index].sum())}
        columns = {key: value.numpy() if torch.is_tensor(value) else value for key, value in values.items()}
        frame = pl.DataFrame(name | columns, schema=NEURONS, strict=False)
        frames.append(frame.with_columns(pl.col("interaction", "class_share").fill_nan(None)))
    return frames


def _readings(batch: Batch, classes: int) -> Iterator[dict]:
    """What a linear reading tells of each layer: classes of held-out tokens, labels of held-out pairs."""
    m, tasks = batch.m, batch.tasks
    for feature in ("class_a", "class_b", "random_a", "random_b", "label"):
        if feature == "label":
            target = np.stack([task.labels.astype(int) for task in tasks])
            fold = np.stack([_pair_fold(task) for task in tasks])
            rate = target.mean(1)
            chances, n = np.maximum(rate, 1 - rate), m * m
        else:
            which, side = feature.split("_")
            drawn = [task.classes if which == "class" else task.random_classes for task in tasks]
            tokens = [one[int(side == "b")] for one in drawn]
            target, fold = (
                np.stack([_over_pairs(values, side) for values in part])
                for part in (tokens, [token_folds(one) for one in tokens])
            )
            chances, n = np.full(len(tasks), 1 / classes), m
        for layer, resid in enumerate(batch.run.resid):
            found = read_held_out(resid, torch.tensor(target), torch.tensor(fold)).tolist()
            for name, accuracy, chance in zip(batch.names, found, chances, strict=True):
                read = {"layer": layer, "feature": feature, "accuracy": accuracy}
                yield name | read | {"n": n, "chance": float(chance)}


def _over_pairs(values: Int[np.ndarray, " m"], side: str) -> Int[np.ndarray, " pairs"]:
    return np.repeat(values, len(values)) if side == "a" else np.tile(values, len(values))
