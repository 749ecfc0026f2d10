"""The page of several studies: the ledger with one column per study, each under its model.

First stands what came out of each, side by side. The same rules judged every study, so that what stands side by side was
measured alike. A claim that one study's ledger lacks is shown as not judged there. Where several studies are seeds of one, a
second table says what they say together (seeds.py); where several are checkpoints of one training, each claim's value is
drawn along its steps (trajectories.py).
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
from factfinding.trajectories import checkpoints, in_order, line, step_of

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Said:
    """A conclusion of a study: the section that it is about, that section's title, and the sentence, in the study's words."""

    about: str
    title: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class ComparedStudy:
    """One study of the comparison. card: its model/card.json; report: link to its page, relative to this one; subjects: what
    the study's relation calls those asked about; said: its conclusions, the surest first."""

    name: str
    ledger: pl.DataFrame
    card: Mapping[str, Any]
    report: str
    subjects: str = STUDY.subjects
    said: tuple[Said, ...] = ()


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
    by_name = {study.name: study for study in studies}
    trainings = checkpoints({study.name: study.card for study in studies})
    studies = [by_name[name] for name in in_order(list(by_name), trainings)]
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
        conclusions=conclusion_rows(studies),
        trainings=[_along(model, names, by_name, rows, studies) for model, names in trainings.items()],
        n_claims=len(rows),
        n_differing=sum(row.differs for row in rows),
    )


def conclusion_rows(studies: Sequence[ComparedStudy]) -> list[tuple[str, list[list[str]]]]:
    """What each study concludes, a row for each section that one of them concludes something about: its title, and each
    study's sentences. The order is that of the first study, then what only later ones have."""
    titles = {said.about: said.title for study in reversed(studies) for said in study.said}
    order = dict.fromkeys(said.about for study in studies for said in study.said)
    return [
        (titles[about], [[said.sentence for said in study.said if said.about == about] for study in studies])
        for about in order
    ]


def _along(
    model: str,
    names: Sequence[str],
    by_name: Mapping[str, ComparedStudy],
    rows: Sequence[ClaimRow],
    studies: Sequence[ComparedStudy],
) -> dict[str, Any]:
    """Each claim about the model along the steps of one training, those whose verdict changes first."""
    steps = [step_of(by_name[name].card) or 0 for name in names]
    places = [next(i for i, study in enumerate(studies) if study.name == name) for name in names]
    drawn = []
    for row in rows:
        found = [row.found[place] for place in places]
        if row.claim["about"] == "model" and (picture := line(steps, found)):
            changes = len({one["verdict"] for one in found if one}) > 1
            drawn.append((not changes, row.claim["sentence"], picture))
    drawn.sort(key=lambda one: one[0])
    return {"model": model, "steps": steps, "claims": [(sentence, picture) for _, sentence, picture in drawn]}


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
