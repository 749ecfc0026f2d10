"""Post 5: do early layers work locally? From the study's running text to its tables; measure.py says what is measured."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from factfinding.data.texts import String, read_corpus, read_texts, strings_of
from factfinding.experiments.locality.measure import locality, usable
from factfinding.inputs import Inputs, Say, Settings
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import anatomy_of


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables `locality`, `locality_tokens`, `locality_differences` and `locality_values`."""
    section, anatomy = settings.locality, anatomy_of(inputs)
    strings = strings_in(inputs.named["texts"], anatomy, section)
    tokens = len(strings[0].ids)
    left_out = sorted(set(section.k) - set(usable(section.k, tokens, section.positions)))
    say(f"{len(strings)} strings of {tokens} tokens; no room for k = {left_out}")
    tables = locality(
        anatomy,
        strings,
        ks=section.k,
        positions=section.positions,
        batch_size=settings.compute.batch_size,
        seed=section.seed,
    )
    return {
        "locality": tables.locality,
        "locality_tokens": tables.tokens,
        "locality_differences": tables.differences,
        "locality_values": tables.values,
    }


def strings_in(path: str | Path, anatomy: Anatomy, section: Settings) -> list[String]:
    """Strings of tokens drawn from a file of running text, as long as the model takes; section: `locality`.

    Raises InputError for a file that cannot be read or that has no text so long.
    """
    own = section.texts is None and section.dataset is None and str(path).endswith("corpus.txt")
    field = "text" if section.dataset is not None else section.field
    longest = getattr(anatomy.model.config, "max_position_embeddings", None) or section.tokens + 1
    return strings_of(
        read_corpus(path) if own else read_texts(path, field),
        anatomy.tokenizer,
        tokens=min(section.tokens, longest - 1),
        wanted=section.strings,
        seed=section.seed,
        where=path,
    )
