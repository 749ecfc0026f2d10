"""Where a neuron fires in running text (P3.4): the windows of tokens with its highest activations.

The text is cut into windows of equally many tokens that follow one another, each after a BOS of its own; so the first
tokens of a window are seen with less context than they had. What is shown of a token is the text from the end of the
token before it on, so that the tokens of a window, put together, are the text itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from factfinding.data.dossier import Texts, Window
from factfinding.data.prompts import encode
from factfinding.engine.batches import Batches
from factfinding.engine.sites import Site
from factfinding.engine.trace import Read, run
from factfinding.errors import InputError
from factfinding.model.anatomy import Anatomy

CHARACTERS = 24
"""Characters read for each token that is wanted: no text has tokens so long on average."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Running:
    """Running text in windows, without their BOS: token ids, and the pieces of text that they stand for."""

    source: str
    ids: Int[np.ndarray, "windows tokens"]
    pieces: list[list[str]]


def read_running(
    path: str | Path, anatomy: Anatomy, *, source: str, tokens: int, window: int
) -> Running | None:
    """The first `tokens` tokens of a text file in windows of `window`, or of as many as the model takes after BOS.

    Raises InputError for a file that cannot be read as UTF-8 text. None for a text without tokens.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(CHARACTERS * tokens)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, f"no readable text ({error})", "a text file in UTF-8") from None
    (ids,), (spans,) = encode(anatomy.tokenizer, [text])
    ids, spans = ids[:tokens], spans[:tokens]
    longest = getattr(anatomy.model.config, "max_position_embeddings", None) or window + 1
    size = min(window, longest - 1, len(ids))
    if size < 1:
        return None
    ends = np.maximum.accumulate([0, *(stop for _, stop in spans)])
    pieces = [text[ends[i] : ends[i + 1]] for i in range(len(ids))]
    starts = range(0, len(ids) - size + 1, size)
    return Running(
        source=source,
        ids=np.array([ids[start : start + size] for start in starts]),
        pieces=[pieces[start : start + size] for start in starts],
    )


def firing(
    anatomy: Anatomy, running: Running, sites: Sequence[Site], *, shown: int, batch_size: int
) -> dict[Site, Texts]:
    """For each neuron the `shown` windows with the highest activation on any token."""
    reads = [Read(site=site) for site in sites]

    def activations(rows: Int[np.ndarray, "batch tokens"]) -> list[Float[np.ndarray, "batch tokens"]]:
        ids = torch.from_numpy(rows).to(anatomy.device)
        bos = ids.new_full((len(ids), 1), anatomy.bos_token_id)
        values = run(anatomy, torch.cat((bos, ids), dim=1), reads=reads).values
        return [value[:, 1:, 0].float().cpu().numpy() for value in values]

    found = [values for _, values in Batches(batch_size).of(running.ids, activations)] if sites else []
    by_site = zip(sites, zip(*found, strict=True), strict=True)
    return {site: highest(running, np.concatenate(parts), shown) for site, parts in by_site}


def highest(running: Running, activations: Float[np.ndarray, "windows tokens"], shown: int) -> Texts:
    """The windows with the highest activations, highest first, and how high it is on the whole."""
    order = np.argsort(-activations.max(axis=1), kind="stable")[:shown]
    size = activations.shape[1]
    return Texts(
        source=running.source,
        tokens=activations.size,
        mean=float(activations.mean(dtype=np.float64)),
        largest=float(activations.max()),
        windows=tuple(
            Window(
                start=int(row) * size,
                tokens=tuple(running.pieces[row]),
                activations=tuple(float(value) for value in activations[row]),
            )
            for row in order
        ),
    )
