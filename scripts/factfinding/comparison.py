"""The page of several studies: the ledger with one column per study, each under its model.

The same rules judged every study, so that what stands side by side was measured alike. A claim that one study's ledger
lacks is shown as not judged there. Where several studies are seeds of one, a second table says what they say together
(seeds.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from factfinding.errors import InputError
from factfinding.findings.words import share
from factfinding.page import checked_ledger, fill, model_name, verdict_counts
from factfinding.relation import STUDY

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ComparedStudy:
    """One study of the comparison. card: its model/card.json; report: link to its page, relative to this one; subjects: what
    the study's relation calls those asked about."""

    name: str
    ledger: pl.DataFrame
    card: Mapping[str, Any]
    report: str
    subjects: str = STUDY.subjects


@dataclass(frozen=True, kw_only=True)
class ClaimRow:
    """One claim with a row of the ledger per study, in the studies' order; None where a study has not judged it."""

    claim: Row
    found: tuple[Row | None, ...]

    @property
    def differs(self) -> bool:
        """Whether not all studies have the same verdict."""
        return len({row["verdict"] if row else None for row in self.found}) > 1

    @property
    def thresholds(self) -> set[float]:
        """What the verdicts were held against: several numbers where each study measures its own, none if nothing was judged."""
        return {row["threshold"] for row in self.found if row and row["threshold"] is not None}


def long_ledger(studies: Sequence[ComparedStudy]) -> pl.DataFrame:
    """The table `comparison`: `study` and the columns of the ledger, study after study."""
    tables = [
        checked_ledger(study.ledger, f"the ledger of {study.name}").select(
            pl.lit(study.name).alias("study"), pl.all()
        )
        for study in studies
    ]
    return pl.concat(tables)


def claim_rows(ledger: pl.DataFrame, names: Sequence[str]) -> list[ClaimRow]:
    """The claims of a long ledger in the order of their first appearance.

    Raises InputError for a study that has a claim twice.
    """
    found: dict[str, dict[str, Row]] = {}
    for row in ledger.iter_rows(named=True):
        of_claim = found.setdefault(row["claim"], {})
        if row["study"] in of_claim:
            raise InputError(
                f"the ledger of {row['study']}", f"claim {row['claim']!r} twice", "each claim once"
            )
        of_claim[row["study"]] = row
    return [
        ClaimRow(claim=next(iter(rows.values())), found=tuple(rows.get(name) for name in names))
        for rows in found.values()
    ]


def render(
    studies: Sequence[ComparedStudy],
    words: Path,
    families: Mapping[str, Sequence[str]] | None = None,
    seeds: pl.DataFrame | None = None,
) -> str:
    """The page as HTML. words: the folder resources/report. families: the studies that are seeds of one, by its name;
    seeds: what they say together (`across_seeds`). Raises InputError for a ledger that cannot be used."""
    ledger = long_ledger(studies)
    rows = claim_rows(ledger, [study.name for study in studies])
    sentences = {row.claim["claim"]: row.claim["sentence"] for row in rows}
    posts = sorted({row.claim["post"] for row in rows})
    return fill(
        "comparison.html.j2",
        words,
        studies=[_about(study, ledger.filter(study=study.name)) for study in studies],
        groups={post: [row for row in rows if row.claim["post"] == post] for post in posts},
        families={
            name: [row | {"sentence": sentences[row["claim"]]} for row in part.iter_rows(named=True)]
            for name in families or {}
            if seeds is not None and (part := seeds.filter(study=name)).height
        },
        members=families or {},
        n_claims=len(rows),
        n_differing=sum(row.differs for row in rows),
    )


def _about(study: ComparedStudy, ledger: pl.DataFrame) -> dict[str, Any]:
    """The head of one study's column."""
    card, shape = study.card, study.card["shape"]
    recall = [row for row in card["recall"] if row["condition"] == "full"]
    return {
        "name": study.name,
        "report": study.report,
        "model": model_name(card["source"]),
        "revision": card["source"]["revision"] or f"files {card['source']['digest'][:12]}",
        "parameters": f"{shape['parameters']:,}",
        "layers": f"{shape['n_layers']} of width {shape['d_model']}",
        "recall": f"{share(recall[0], 'recalled')} of {recall[0]['n']:,} {study.subjects}"
        if recall
        else "not measured",
        "verdicts": verdict_counts(ledger.filter(about="model")),
    }
