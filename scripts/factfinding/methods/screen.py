"""Which replacements are run, where running all of them costs too much, and how far the estimates of the others can be
trusted (P2.7).

Attribution patching (Nanda 2023; Kramar and others 2024, AtP*) estimates every replacement from one backward pass: the
gradient of the logit difference in a node's output, times what the replacement adds to it. It is a first-order estimate, and
blind where the model is not straight: a saturated attention pattern or a neuron far below its threshold has no gradient, though
a large change would move it, and what a whole layer writes is a large change. So it is not believed, but used to choose:

- A replacement is run whose estimates are *large*: the mean of their sizes, |estimate|, over subjects reaches the share `below`
  of what swapping the whole name does. The size is averaged, not the estimate, because errors of either sign cancel in
  the mean of estimates and hide what the screen should show.
- Whole layers at the final name token and at END, of which claims and figures speak, are run in any case, and so is the
  largest estimate at each position.
- Of the rest, `sample` replacements of each kind are drawn at random and run too. They say how far the estimates that stand
  in the table are off, and how many effects the screen has missed. This does not rest on any belief in gradients.

An estimate that stands in the table is itself below the share (its size is no larger than the mean of sizes), and the share
is at most `LEAST_SHARE`: so whatever asks for effects that count asks for replacements that were run.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from factfinding.least import LEAST_SHARE, LEAST_SUBJECTS
from factfinding.methods.estimates import estimate_columns
from factfinding.stats import share_interval, spearman

Key = tuple
"""Of a replacement: layer, role, number, node (a head's index, "attention", "mlp"), kind."""
Measured = tuple[Float[np.ndarray, " subjects"], Int[np.ndarray, " subjects"]]
"""By subject the change of the logit difference, and the subjects."""
ERROR_QUANTILE = 0.95
TYPES = ("head", "attention", "mlp")
EVERY = "all"


@dataclass(frozen=True, kw_only=True)
class Screen:
    """below: the share of the whole swap from which a replacement is run. sample: replacements of each kind that are
    drawn from the rest. seed: draws them."""

    below: float
    sample: int
    seed: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """The replacements that are run because they are large, and those drawn from the rest."""

    large: frozenset[Key]
    drawn: frozenset[Key]

    @property
    def run(self) -> frozenset[Key]:
        return self.large | self.drawn

    def why(self, key: Key) -> str | None:
        """Why a replacement is run; None for one that is not."""
        return "large" if key in self.large else "drawn" if key in self.drawn else None


def choose(
    estimates: Mapping[Key, Measured],
    whole: Mapping[int, float],
    screen: Screen,
    *,
    always: Callable[[Key], bool],
    rivals: Callable[[Key], Hashable],
) -> Choice:
    """Which replacements are run. whole: by subject what swapping the whole name does. always: those that are run whatever
    their estimate. rivals: of those for which it gives the same, the largest is run.

    Each kind is drawn from in an order that hangs on the seed and on the keys alone, so that an estimate on the border, which
    rounding may push to either side, does not turn the whole sample over.
    """
    size = {key: float(np.abs(values).mean()) for key, (values, _) in estimates.items()}
    leaders: dict[Hashable, Key] = {}
    for key in estimates:
        leader = leaders.setdefault(rivals(key), key)
        if size[key] > size[leader]:
            leaders[rivals(key)] = key
    large = set(leaders.values())
    for key, (_, subjects) in estimates.items():
        if always(key) or size[key] >= screen.below * abs(swap_of(subjects, whole)):
            large.add(key)
    return Choice(large=frozenset(large), drawn=frozenset(_drawn(estimates, large, screen)))


def _drawn(estimates: Mapping[Key, Measured], large: set[Key], screen: Screen) -> set[Key]:
    found: set[Key] = set()
    for keys in _by_kind(estimates).values():
        order = np.random.default_rng(screen.seed).permutation(len(keys))
        rest = [keys[i] for i in order if keys[i] not in large]
        found.update(rest[: screen.sample])
    return found


def certificate(
    estimates: Mapping[Key, Measured],
    exact: Mapping[Key, Measured],
    choice: Choice,
    whole: Mapping[int, float],
    screen: Screen,
) -> list[dict]:
    """Rows of the table `total_effects_screen`: each kind, all nodes together and each type of node.

    Errors and missed effects are of the drawn replacements, and so speak of the rest, whose estimates stand in the table.
    Missed: its effect is `LEAST_SHARE` of the whole swap or more, in either direction.
    """
    found = []
    for kind, keys in _by_kind(estimates).items():
        for node_type in (EVERY, *TYPES):
            here = [key for key in keys if node_type in (EVERY, type_of(key))]
            if here:
                about = {"kind": kind, "type": node_type, "below": screen.below, "counts_from": LEAST_SHARE}
                found.append(about | _counted(here, estimates, exact, choice, whole))
    return found


def _counted(keys: list[Key], estimates, exact, choice: Choice, whole) -> dict:
    large, drawn = ([key for key in keys if key in some] for some in (choice.large, choice.drawn))
    here, there = (_shares(drawn, values, whole) for values in (estimates, exact))
    chosen, run = (_shares(large, values, whole) for values in (estimates, exact))
    error, counts = np.abs(here - there), np.abs(there) >= LEAST_SHARE
    return {
        "replacements": len(keys),
        "large": len(large),
        "estimated": len(keys) - len(large) - len(drawn),
        "found": int(counts.sum() + (np.abs(run) >= LEAST_SHARE).sum()),
        "n": len(drawn),
        **estimate_columns("missed", share_interval(counts) if len(drawn) else None),
        "error": float(np.quantile(error, ERROR_QUANTILE)) if len(drawn) else None,
        "largest_error": float(error.max()) if len(drawn) else None,
        "rank_correlation": _rank_correlation(here, there),
        "rank_correlation_large": _rank_correlation(chosen, run),
    }


def errors_of(rows: list[dict]) -> Callable[[str, str], float | None]:
    """The error, a share of the whole swap, that goes with an estimate of a kind and a type of node: that of its type where
    enough were drawn, else of all nodes."""
    error = {(row["kind"], row["type"]): row["error"] for row in rows if row["n"] >= LEAST_SUBJECTS}
    error |= {(row["kind"], EVERY): row["error"] for row in rows if row["type"] == EVERY}
    return lambda kind, node_type: error.get((kind, node_type), error[kind, EVERY])


def type_of(key: Key) -> str:
    """head, attention or mlp."""
    node = key[3]
    return node if isinstance(node, str) else "head"


def swap_of(subjects: Int[np.ndarray, " subjects"], whole: Mapping[int, float]) -> float:
    """What swapping the whole name does to these subjects, on average."""
    return float(np.mean([whole[int(subject)] for subject in subjects]))


def _by_kind(keys: Mapping[Key, Measured]) -> dict[str, list[Key]]:
    found: dict[str, list[Key]] = {}
    for key in keys:
        found.setdefault(key[-1], []).append(key)
    return found


def _shares(
    keys: list[Key], values: Mapping[Key, Measured], whole: Mapping[int, float]
) -> Float[np.ndarray, " keys"]:
    """Mean effects as shares of the whole swap; zero where that does nothing."""
    found = np.zeros(len(keys))
    for i, (change, subjects) in enumerate(values[key] for key in keys):
        swap = swap_of(subjects, whole)
        found[i] = change.mean() / swap if swap else 0.0
    return found


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's; None where there is nothing to rank."""
    if len(first) < 3 or not np.ptp(first) or not np.ptp(second):
        return None
    return spearman(first, second)
