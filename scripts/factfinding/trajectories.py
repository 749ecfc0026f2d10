"""Studies that are checkpoints of one training: which they are, in which order, and a claim's value along the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from factfinding.steps import step_in

WIDTH, HEIGHT = 250, 92
LEFT, TOP, BELOW = 48, 6, 20


def step_of(card: Mapping[str, Any]) -> int | None:
    """The step at which a model was saved, by its revision; None: the revision says none."""
    return step_in(card["source"]["revision"])


def checkpoints(cards: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Of each model with several checkpoints among the studies, the studies in the order of their steps. cards: by study."""
    found: dict[str, dict[int, str]] = {}
    for study, card in cards.items():
        step = step_of(card)
        if step is not None and card["source"]["id"]:
            found.setdefault(card["source"]["id"], {}).setdefault(step, study)
    return {
        model: [steps[step] for step in sorted(steps)] for model, steps in found.items() if len(steps) > 1
    }


def in_order(names: Sequence[str], trainings: Mapping[str, Sequence[str]]) -> list[str]:
    """The studies, the checkpoints of one training together where its first one stood, in the order of their steps."""
    of_training = {name: members for members in trainings.values() for name in members}
    ordered: list[str] = []
    for name in names:
        ordered += [one for one in of_training.get(name, [name]) if one not in ordered]
    return ordered


def line(steps: Sequence[int], rows: Sequence[Mapping[str, Any] | None]) -> Markup | None:
    """A claim's value at each step, with its interval, and its threshold where all steps have the same one.

    steps: evenly spaced, whatever lies between them. rows: of the ledger, None or without a value where nothing was measured.
    None: fewer than two values.
    """
    known = [(i, row) for i, row in enumerate(rows) if row is not None and row["value"] is not None]
    if len(known) < 2:
        return None
    lines = {row["threshold"] for _, row in known}
    threshold = lines.pop() if len(lines) == 1 else None
    ends = [row[name] for _, row in known for name in ("value", "low", "high") if row[name] is not None]
    ends += [] if threshold is None else [threshold]
    low, high = min(ends), max(ends)
    span = (high - low) or abs(high) or 1.0

    def x(place: int) -> float:
        return LEFT + 12 + place * (WIDTH - LEFT - 24) / max(1, len(steps) - 1)

    def y(value: float) -> float:
        return TOP + HEIGHT * (1 - (value - low) / span)

    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{TOP + HEIGHT}H{WIDTH}"/>']
    for value in dict.fromkeys((low, high)):
        parts.append(f'<text x="{LEFT - 5}" y="{y(value) + 3:.1f}" text-anchor="end">{value:.3g}</text>')
    if threshold is not None:
        parts.append(f'<path class="rate" d="M{LEFT} {y(threshold):.1f}H{WIDTH}"/>')
    points = [(x(place), y(row["value"])) for place, row in known]
    parts.append(f'<path class="way" d="M{"L".join(f"{a:.1f} {b:.1f}" for a, b in points)}"/>')
    for place, row in known:
        if None not in (row["low"], row["high"]):
            parts.append(f'<path class="way" d="M{x(place):.1f} {y(row["low"]):.1f}V{y(row["high"]):.1f}"/>')
        said = escape(f"step {steps[place]:,}: {row['value']:.3g}, {row['verdict']}")
        parts.append(
            f'<circle class="{row["verdict"].replace(" ", "-")}" cx="{x(place):.1f}" cy="{y(row["value"]):.1f}" r="4">'
            f"<title>{said}</title></circle>"
        )
    for place in sorted({0, len(steps) - 1}):
        anchor = "start" if place == 0 else "end"
        at = LEFT if place == 0 else WIDTH
        parts.append(
            f'<text x="{at}" y="{TOP + HEIGHT + 14}" text-anchor="{anchor}">step {steps[place]:,}</text>'
        )
    label = escape(
        "; ".join(f"step {steps[place]:,}: {row['value']:.3g}, {row['verdict']}" for place, row in known)
    )
    return Markup(
        f'<svg class="bars" viewBox="0 0 {WIDTH} {TOP + HEIGHT + BELOW}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )
