"""Post 4's pictures in two dimensions, by small networks really trained: what they say between the points they learnt.

random      points anywhere, random labels: every point has to be learnt by itself
clusters    points in clusters, one label each: a rule
exceptions  the same points with a few labels turned round: the rule, and spots around what breaks it
two_facts   the same points with two facts at once that agree on most of them: one network with two outputs
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float

from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.toy_networks import (
    Examples,
    Trained,
    accuracies,
    forward,
    initial_networks,
    losses,
    train,
)

PICTURES = ("random", "clusters", "exceptions", "two_facts")
CLUSTERS, SPREAD = 6, 0.09
GRID, EDGE = 64, 1.15
WIDTH, NEURONS, DEPTH = 12, 48, 2

SCHEMA = {
    "picture": pl.String,
    "fact": pl.Int64,
    "kind": pl.String,
    "x": pl.Float64,
    "y": pl.Float64,
    "p": pl.Float64,
    "label": pl.Boolean,
    "accuracy": pl.Float64,
    "loss": pl.Float64,
    "steps": pl.Int64,
    "n": pl.Int64,
}


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The table `toy_illustrations`."""
    torch.set_num_threads(1)  # sums in another order would be other networks
    table = illustrations(settings.toys)
    say(f"{table['picture'].n_unique()} pictures")
    return {"toy_illustrations": table}


def illustrations(settings: Any) -> pl.DataFrame:
    """Columns of `SCHEMA`: for each picture and fact the points learnt (kind `point`, with their label) and a grid over
    the plane (kind `grid`), with the network's probability `p` of label true; accuracy and loss (bits per label) of the
    network on its `n` points, and the steps it took.

    settings: the section `toys` of the configuration.
    """
    parts = []
    for names in (PICTURES[:3], PICTURES[3:]):  # one fact, two facts: networks of different shapes
        drawn = [plane_points(name, settings.points, settings.seed) for name in names]
        points = np.stack([one for one, _ in drawn])
        labels = np.stack([one for _, one in drawn])
        trained = _train(settings, points, labels)
        parts += [_rows(name, trained, number, points, labels) for number, name in enumerate(names)]
    return pl.concat(parts)


def plane_points(
    picture: str, count: int, seed: int
) -> tuple[Float[np.ndarray, "points 2"], Bool[np.ndarray, "facts points"]]:
    """Where the points of a picture lie, in the square from -1 to 1, and their labels."""
    rng = np.random.default_rng([seed, 7])
    if picture == "random":
        return rng.uniform(-1, 1, (count, 2)), rng.random((1, count)) < 0.5
    spots = np.array([[-0.7, -0.55], [0.0, -0.65], [0.7, -0.5], [-0.65, 0.55], [0.05, 0.6], [0.7, 0.6]])
    cluster = np.arange(count) % CLUSTERS
    points = spots[cluster] + SPREAD * rng.standard_normal((count, 2))
    rule = np.isin(cluster, (0, 2, 4))
    broken = rng.permutation(count)[: max(1, count // 10)]
    bent = rule.copy()
    bent[broken] ^= True
    if picture == "two_facts":
        other = rule.copy()
        other[cluster == 5] ^= True
        return points, np.stack([rule, other])
    return points, (bent if picture == "exceptions" else rule)[None]


def _features(points: Float[np.ndarray, "*nets points 2"]) -> Float[torch.Tensor, "*nets 3 points"]:
    ones = np.ones((*points.shape[:-1], 1))
    return torch.tensor(np.concatenate([points, ones], axis=-1), dtype=torch.float32).mT.contiguous()


def _train(
    settings: Any, points: Float[np.ndarray, "nets points 2"], labels: Bool[np.ndarray, "nets facts points"]
) -> tuple[Trained, Examples]:
    examples = Examples(
        inputs=_features(points), labels=torch.tensor(labels).float(), trained=torch.ones(points.shape[:2])
    )
    start = initial_networks(
        [[settings.seed, 7, number] for number in range(len(points))],
        features=3,
        width=WIDTH,
        neurons=NEURONS,
        depth=DEPTH,
        facts=labels.shape[1],
        embedding_std=1.0,
    )
    chosen = ("learning_rate", "weight_decay", "settled")
    kept = {name: getattr(settings, name) for name in chosen}
    return train(start, examples, max_steps=settings.picture_steps, **kept), examples


def _rows(
    name: str, done: tuple[Trained, Examples], number: int, points: np.ndarray, labels: np.ndarray
) -> pl.DataFrame:
    trained, examples = done
    axis = np.linspace(-EDGE, EDGE, GRID)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    with torch.no_grad():
        logits = forward(trained.networks, examples.inputs).logits
        over = torch.sigmoid(forward(trained.networks, _features(grid)).logits[number]).numpy()
    at = torch.sigmoid(logits[number]).numpy()
    measured = {
        "accuracy": float(accuracies(logits, examples)[number]),
        "loss": float(losses(logits, examples)[number]),
        "steps": int(trained.steps[number]),
        "n": points.shape[1],
    }
    frames = []
    for fact in range(labels.shape[1]):
        for kind, where, p, label in (
            ("point", points[number], at[fact], labels[number, fact]),
            ("grid", grid, over[fact], None),
        ):
            columns = {"picture": name, "fact": fact + 1, "kind": kind, "x": where[:, 0], "y": where[:, 1]}
            frames.append(
                pl.DataFrame(columns | {"p": p, "label": label} | measured, schema=SCHEMA, strict=False)
            )
    return pl.concat(frames)
