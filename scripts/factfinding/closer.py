"""Looking closer: single subjects, one by one, from tables that hold each of them.

For each: the tokens of its question, where the extracting heads look, what the probes of P2.6 read layer by layer, the
neurons whose replacement moves its answer most (P3.1), and what of its excess activation functions make (P3.3). Numbers of
one subject have no interval over subjects; a neuron's effect is a mean over draws and has one over these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup, escape

from factfinding.data.prompts import finer_roles
from factfinding.data.tokens import PlainTokenizer
from factfinding.findings.words import percent
from factfinding.least import LEAST_SHARE

NEURONS = 8
"""Neurons that are shown of each subject."""
HEADS = 4
"""Extracting heads, as in the figure of attention."""
WIDTH, HEIGHT = 340, 96
"""Of the bars of the probe, in units of the picture; below them stand the layers."""
LEFT, BELOW = 44, 18


@dataclass(frozen=True, kw_only=True)
class Person:
    """One subject, as the page shows it.

    said: sentences. words: the question's segments by role, each with its tokens as text. heads: name and shares of the
    segments, which are null where a head's table has none. probe: its bars; None: it was not probed. neurons: name and words.
    """

    name: str
    answer: str
    said: tuple[str, ...]
    words: tuple[tuple[str, tuple[str, ...]], ...]
    heads: tuple[tuple[str, tuple[float | None, ...]], ...]
    probe: Markup | None
    neurons: tuple[tuple[str, str, float], ...]


def chosen(recall: pl.DataFrame, swept: Sequence[str], most: int) -> list[str]:
    """The subjects to look at: those whose neurons were swept, then known ones, then others; an answer at a time in each."""
    ranked = recall.select(
        "subject", "answer", unswept=~pl.col("subject").is_in(list(swept)), unknown=~pl.col("known")
    ).with_columns(place=pl.int_range(pl.len()).over("unswept", "unknown", "answer"))
    return (
        ranked.sort("unswept", "unknown", "place", "answer", maintain_order=True)["subject"]
        .head(most)
        .to_list()
    )


def people_of(
    prompts: pl.DataFrame,
    tables: Mapping[str, pl.DataFrame],
    neurons: pl.LazyFrame,
    probed: pl.DataFrame,
    folder: Path,
    *,
    fact: str,
    most: int,
) -> list[Person]:
    """The subjects that the page looks at, `most` at most.

    prompts: the questions after one example. tables: by name; of these recall, attention_subjects, layer_probes and
    nonlinear_excess_subjects are used where they are. neurons: the table neuron_effects, of which `fact` is read, the answer's
    name. probed: layer_probe_subjects. folder: the model's; without a tokenizer in it nobody can be shown.
    """
    path = folder / "tokenizer.json"
    if prompts.is_empty() or not most or not path.is_file():
        return []
    tokenizer = PlainTokenizer(path)
    effects = neurons.filter(pl.col("fact") == fact)
    swept = effects.select(pl.col("subject").unique(maintain_order=True)).collect()["subject"].to_list()
    asked = {row["subject"]: row for row in prompts.iter_rows(named=True)}
    recall = tables["recall"].filter(pl.col("subject").is_in(list(asked)))
    names = chosen(recall, swept, most)
    largest = _largest(effects.filter(pl.col("subject").is_in(names)).collect())
    parts = {
        "recall": recall,
        "attention": tables.get("attention_subjects", pl.DataFrame()),
        "probed": probed.filter(pl.col("condition") == "full"),
        "excess": tables.get("nonlinear_excess_subjects", pl.DataFrame()),
        "neurons": largest,
    }
    found = {part: _by_subject(frame, names) for part, frame in parts.items()}
    rates = tables["layer_probes"]["majority_rate"]
    rate = float(rates[0]) if len(rates) else None
    return [
        _person(
            asked[name],
            {part: rows.get(name, pl.DataFrame()) for part, rows in found.items()},
            tokenizer,
            rate,
        )
        for name in names
    ]


def _by_subject(frame: pl.DataFrame, names: Sequence[str]) -> dict[str, pl.DataFrame]:
    if frame.is_empty():
        return {}
    rows = frame.filter(pl.col("subject").is_in(list(names)))
    return {
        str(key[0]): part
        for key, part in rows.partition_by("subject", as_dict=True, maintain_order=True).items()
    }


def _largest(effects: pl.DataFrame) -> pl.DataFrame:
    """The neurons of each subject that move its answer most, as resampling has it; the mean, where nothing was resampled."""
    kinds = [kind for kind in ("resample_other", "mean") if kind in effects["kind"]]
    rows = effects.filter(pl.col("kind").is_in(kinds[:1]))
    return (
        rows.sort(pl.col("effect").abs(), descending=True, maintain_order=True)
        .group_by("subject", maintain_order=True)
        .head(NEURONS)
    )


def _person(
    row: Mapping[str, Any], found: Mapping[str, pl.DataFrame], tokenizer: PlainTokenizer, rate: float | None
) -> Person:
    roles = [
        (role, [i for i, _ in part])
        for role, part in groupby(enumerate(finer_roles(row["roles"])), lambda one: one[1])
    ]
    words = tuple((role, _texts([row["token_ids"][i] for i in at], role, tokenizer)) for role, at in roles)
    attention = found["attention"]
    heads = [] if attention.is_empty() else attention["head"].unique(maintain_order=True).to_list()[:HEADS]
    shares = [
        dict(attention.filter(pl.col("head") == head).select("role", "attention").iter_rows())
        for head in heads
    ]
    probed = found["probed"]
    return Person(
        name=row["subject"],
        answer=row["answer"],
        said=(*_recalled(found["recall"]), *_excess(found["excess"])),
        words=words,
        heads=tuple(
            (head, tuple(share.get(role) for role, _ in words))
            for head, share in zip(heads, shares, strict=True)
        ),
        probe=None if probed.is_empty() else bars(probed, rate),
        neurons=tuple(_neuron(effect) for effect in found["neurons"].iter_rows(named=True)),
    )


def _texts(tokens: Sequence[int], role: str, tokenizer: PlainTokenizer) -> tuple[str, ...]:
    """Each token's text; one text for the example, and for tokens that are no text by themselves."""
    if role == "bos":
        return ("BOS",)
    if role == "newline":
        return ("\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}",)
    apart = tuple(tokenizer.decode([token]) for token in tokens)
    whole = role == "shot" or any("\N{REPLACEMENT CHARACTER}" in text for text in apart)
    return (tokenizer.decode(list(tokens)),) if whole else apart


def _recalled(rows: pl.DataFrame) -> list[str]:
    """What the model answers."""
    return [
        f"The right <answer> is {row['answer']}: P = {percent(row['full_p'])} after the example and "
        f"{percent(row['zero_shot_p'])} without it; the likeliest of the <answers> is {row['full_answer']}. "
        + ("It counts as known." if row["known"] else "It does not count as known.")
        for row in rows.iter_rows(named=True)
    ]


def _excess(rows: pl.DataFrame) -> list[str]:
    """What of its excess activation functions make, by the probe of the figure."""
    if rows.is_empty():
        return []
    rows = rows.filter(names="known", layers="all").sort("probe").head(1)  # head before logistic
    return [
        f"The lookup's output has {row['excess']:+.2f} logits beyond a sum of the name's parts, of which activation functions "
        f"make {percent(row['ratio_both'])} (both signs), spread as over {row['neurons']:.1f} neurons that make alike."
        for row in rows.iter_rows(named=True)
        if None not in (row["ratio_both"], row["neurons"])
    ]


def _neuron(row: Mapping[str, Any]) -> tuple[str, str, float]:
    """Name, effect in words with its interval over draws, and the effect."""
    words = f"{row['effect']:+.3f} nats"
    if row["standard_error"] is not None:
        half = 1.96 * row["standard_error"]
        words = f"{row['effect']:+.3f} [{row['effect'] - half:+.3f}, {row['effect'] + half:+.3f}] nats"
    return f"L{row['layer']}N{row['neuron']}", f"{words}, n = {row['n']:,} draws", row["effect"]


def bars(probed: pl.DataFrame, rate: float | None) -> Markup:
    """What held-out probes give the own answer, a bar for each layer: full where it is the likeliest, hollow where another is.

    probed: rows of layer_probe_subjects of one subject. rate: share of the commonest answer, a dashed line.
    """
    rows = probed.sort("layer").select("layer", "p", "right").rows()
    step = (WIDTH - LEFT) / len(rows)
    every = max(1, -(-len(rows) // 13))
    drawn = []
    for place, (layer, p, right) in enumerate(rows):
        x, tall = LEFT + place * step, p * HEIGHT
        label = "emb" if layer < 0 else str(layer)
        words = escape(f"{'embedding' if layer < 0 else f'after layer {layer}'}: {percent(p)}")
        drawn.append(
            f'<rect class="{"right" if right else "wrong"}" x="{x + 0.12 * step:.1f}" y="{HEIGHT - tall + 4:.1f}" '
            f'width="{0.76 * step:.1f}" height="{tall:.1f}"><title>{words}</title></rect>'
        )
        if layer < 0 or (layer % every == 0 and (layer > 0 or every == 1)):
            drawn.append(
                f'<text x="{x + step / 2:.1f}" y="{HEIGHT + 16}" text-anchor="middle">{label}</text>'
            )
    for share in (0, 50, 100):
        y = HEIGHT * (1 - share / 100) + 4
        drawn.append(f'<path class="axis" d="M{LEFT - 3} {y:.1f}H{WIDTH}"/>')
        drawn.append(
            f'<text x="{LEFT - 5}" y="{y + 3:.1f}" text-anchor="end">{share}\N{NO-BREAK SPACE}%</text>'
        )
    if rate is not None:
        drawn.append(f'<path class="rate" d="M{LEFT} {HEIGHT * (1 - rate) + 4:.1f}H{WIDTH}"/>')
    said = escape(", ".join(f"{'embedding' if layer < 0 else layer} {percent(p)}" for layer, p, _ in rows))
    return Markup(
        f'<svg class="bars" viewBox="0 0 {WIDTH} {HEIGHT + BELOW + 4}" role="img" '
        f'aria-label="P of the right answer by layer, as held-out probes read it: {said}">{"".join(drawn)}</svg>'
    )


def small(share: float | None) -> bool:
    """Whether a share of attention gets no number."""
    return share is None or share < LEAST_SHARE
