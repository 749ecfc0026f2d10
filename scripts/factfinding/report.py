"""The page of one study: what came out, at first sight and section by section, in one file that needs nothing else.

On top stand the conclusions of this run, what in it is not to be trusted, and the circuit as found (conclusions.py,
circuit_picture.py); then what speaks for which hypothesis (synthesis.py), the ledger, and the experiments in the study's order.

The page's template stands in resources/report, the fixed words of each section in its experiment's declaration, and its
sentences come from findings/. Nothing is fetched from anywhere: figures, tables and what sorts them are part of the page.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from factfinding.circuit_picture import caption, found, picture
from factfinding.closer import Person, small
from factfinding.conclusions import cautions, conclusions
from factfinding.config import RelationConfig
from factfinding.consistency import contradictions
from factfinding.data.dossier import Dossier
from factfinding.data.example import Example
from factfinding.declarations import Declarations, Experiment, Unit, declarations
from factfinding.experiments.recall.show import bos_warnings
from factfinding.figures.style import FOLDS, INK, LINE, PAPER
from factfinding.findings.words import percent, share, told, with_open_ends
from factfinding.page import REPORT, checked_ledger, fill, model_name, verdict_counts
from factfinding.relation import STUDY, spoken
from factfinding.synthesis import Planted, synthesis, together
from factfinding.units import digits, measured

SHOWN_ROWS = 200
"""Rows of a table on the page; all of them stand in its file. Most tables have fewer, and the page stays small."""

POSTS = {
    1: "the overview",
    2: "simplifying the circuit",
    3: "the early MLPs",
    4: "memorisation",
    5: "locality",
}
"""What each post of the study is about."""

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_ENDS = {"settled": "once all people were told about and recalled", "max_steps": "when the steps ran out"}
_PAGE_COLOURS = {INK: "var(--ink)", LINE: "var(--line)", PAPER: "var(--paper)"}

ET.register_namespace("", SVG)
ET.register_namespace("xlink", XLINK)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table and where it lies, as a link relative to the page."""

    frame: pl.DataFrame
    link: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure: its SVG as text, and links to its files relative to the page."""

    svg: str
    links: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Results:
    """All that the page is made from. tables and pictures: by name; provenance: one record per job (scripts/job.py); planted:
    what the predictions' queries give on planted models; example: the prompt that the first picture shows; people: the subjects
    that are looked at one by one."""

    study: str
    ledger: Table
    tables: Mapping[str, Table]
    pictures: Mapping[str, Picture]
    card: Mapping[str, Any]
    provenance: Sequence[Mapping[str, Any]]
    planted: Planted
    example: Example | None = None
    dossiers: Sequence[Dossier] = ()
    people: Sequence[Person] = ()
    relation: RelationConfig = STUDY

    @property
    def frames(self) -> dict[str, pl.DataFrame]:
        """The tables without their links."""
        return {name: table.frame for name, table in self.tables.items()}


def render(results: Results, words: Path) -> str:
    """The page as HTML. words: the folder resources/report. The same results always give the same page.

    A section whose figure was not made is left out.
    """
    declared = declarations().spoken(results.relation)
    drawn = [
        experiment
        for experiment in declared.experiments.values()
        if set(experiment.figures) & set(results.pictures)
    ]
    circuit = _picture(results)
    sections = _numbered([_section(experiment, results) for experiment in drawn], first=1 + bool(circuit))
    ledger = checked_ledger(results.ledger.frame, results.ledger.link)
    rows = spoken_rows(synthesis(declared, results.frames, results.planted), results)
    fictional = is_fictional(results.provenance)
    said = spoken([vars(one) for one in conclusions(results.frames)], results.relation)
    return fill(
        "page.html.j2",
        words,
        scripts=REPORT,
        study=results.study,
        conclusions=said,
        step=rows["together"][0],
        cautions=spoken(cautions(results.card, results.frames, fictional=fictional), results.relation),
        picture=circuit,
        shown={section["id"] for section in sections},
        **rows,
        posts=_by_post(ledger, declared),
        titles=POSTS,
        verdicts=verdicts_in_words(ledger),
        contradictions=contradictions(declared, results.frames),
        warnings=_warnings(results),
        ledger_link=results.ledger.link,
        model=model_name(results.card["source"]),
        relation=results.relation,
        card=card_rows(results.card, results.relation),
        summary=[
            (section["text"].number, section["id"], section["findings"][0])
            for section in sections
            if section["id"] != "training"
        ],
        sections=sections,
        people=[_looked_at(person, results.relation) for person in results.people],
        jobs=[_job(record) for record in results.provenance],
        versions=versions(results.provenance),
        seeds=sorted({seed for record in results.provenance for seed in _seeds(record["settings"])}),
    )


def spoken_rows(rows: Sequence[Any], results: Results) -> dict[str, Any]:
    """The rows of the synthesis and what they say together, in the relation's words."""
    return {"synthesis": rows, "together": spoken(together(rows), results.relation)}


def inline_svg(svg: str, name: str, label: str) -> Markup:
    """A figure as a part of the page: readable by name, no id that another figure has, the page's own ink and paper.

    Comments, metadata and style sheets (which would reach the whole page) are dropped, and so is what places say beyond
    a hundredth of a point.
    """
    root = ET.fromstring(svg)
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag in {f"{{{SVG}}}metadata", f"{{{SVG}}}style"}]:
            parent.remove(child)
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif key == f"{{{XLINK}}}href" and value.startswith("#"):  # else an image, whole in the figure
                element.set(key, f"#{name}-{value[1:]}")
            elif key in {"d", "x", "y"}:
                element.set(key, re.sub(r"(\.\d\d)\d+", r"\1", value))
            else:
                element.set(key, re.sub(r"url\(#", f"url(#{name}-", value))
    for key in ("width", "height"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-label": label, "class": "figure"}
    text = ET.tostring(root, encoding="unicode")
    for colour, variable in _PAGE_COLOURS.items():
        text = text.replace(colour, variable)
    return Markup(text)


def verdicts_in_words(ledger: pl.DataFrame) -> str:
    """The ledger in one sentence."""
    (first, n), *others = verdict_counts(ledger)
    rest = ", ".join(f"{m} {verdict}" for verdict, m in others)
    return f"Of {ledger.height} claims of the Fact Finding study, {n} come out {first}, {rest}."


def is_fictional(provenance: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the subjects are the people of a generated world."""
    trained = [record["settings"]["organism"] for record in provenance if record["rule"] == "train_organism"]
    return any(settings["world"] == "fictional" for settings in trained)


def card_rows(card: Mapping[str, Any], relation: RelationConfig = STUDY) -> list[tuple[str, str]]:
    """The model card as terms and their values, in words."""
    shape, training = card["shape"], card["training"]
    parallel = "in parallel" if shape["parallel"] else "one after the other"
    begins = card["bos_token"]
    if card["source"].get("bos") == "none":
        begins = f"their own words, without BOS; {begins!r} is the first token of all"
    rows = [
        ("Model", model_name(card["source"])),
        ("Digest of its files", card["source"]["digest"]),
        (
            "Shape",
            (
                f"{shape['family']}, {shape['parameters']:,} parameters: {shape['n_layers']} layers of width "
                f"{shape['d_model']}, {shape['n_heads']} heads, {shape['d_mlp']} neurons per MLP, {shape['d_vocab']:,} tokens; "
                f"attention and MLP {parallel}"
            ),
        ),
        ("Precision", f"{card['compute']['dtype']}; prompts begin with {begins}"),
    ]
    if training:
        rows.append(
            (
                "Training",
                (
                    f"{training['steps']:,} steps, {training['tokens']:,} tokens, {training['seconds'] / 60:.1f} minutes, "
                    f"seed {training['seed']}; ended {_ENDS.get(training['stopped'], training['stopped'])}"
                ),
            )
        )
    names = {"full": "Recall after one example", "zero_shot": "Recall without it"}
    rows += [
        (
            names.get(row["condition"], row["condition"]),
            f"{share(row, 'recalled')} of {row['n']:,} {relation.subjects}",
        )
        for row in card["recall"]
    ]
    return rows


def versions(provenance: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Each library with the versions that were used, several where jobs differ."""
    used: dict[str, set[str]] = {}
    for record in provenance:
        for name, version in record["versions"].items():
            if version is not None:
                used.setdefault(name, set()).add(version)
    return [(name, ", ".join(sorted(numbers))) for name, numbers in sorted(used.items())]


def _findings(section: str, results: Results) -> list[str]:
    """The sentences of a section; only those on the training need more than the tables."""
    more = {"fictional": is_fictional(results.provenance)} if section == "training" else {}
    return told(section, results.frames, relation=results.relation, **more)


def _warnings(results: Results) -> list[str]:
    """What is to be known before anything is read: a first token of prompts that is clearly not the best."""
    tables = {name: with_open_ends(frame) for name, frame in results.frames.items()}
    return spoken(bos_warnings(tables), results.relation)


def _section(experiment: Experiment, results: Results) -> dict[str, Any]:
    figures = [
        {
            "name": name,
            "caption": figure.caption,
            "svg": inline_svg(results.pictures[name].svg, name, figure.caption),
            "files": results.pictures[name].links,
        }
        for name, figure in experiment.figures.items()
        if name in results.pictures
    ]
    return {
        "id": experiment.name,
        "text": experiment,
        "findings": _findings(experiment.name, results),
        "figures": figures,
        "tables": [{"name": name} | _preview(results.tables[name]) for name in experiment.shown],
        "baselines": _name_baselines(results) if experiment.name == "layer_probes" else None,
        "dossiers": results.dossiers if experiment.name == "dossiers" else (),
    }


def _looked_at(person: Person, relation: RelationConfig) -> dict[str, Any]:
    """One subject as the template takes it: each head with the question's segments and what it gives to each."""
    heads = [
        (
            head,
            [
                (texts, share, not small(share))
                for (_, texts), share in zip(person.words, shares, strict=True)
            ],
        )
        for head, shares in person.heads
    ]
    most = max((abs(effect) for _, _, effect in person.neurons), default=0.0) or 1.0
    return {
        "name": person.name,
        "answer": person.answer,
        "said": spoken(list(person.said), relation),
        "words": [(texts, None, False) for _, texts in person.words],
        "heads": heads,
        "probe": person.probe,
        "neurons": [(name, words, abs(effect) / most, effect < 0) for name, words, effect in person.neurons],
    }


def _numbered(sections: Sequence[dict[str, Any]], *, first: int) -> list[dict[str, Any]]:
    """The sections with their figures and tables numbered through; `first`: the number of the first figure."""
    for kind, start in (("figures", first), ("tables", 1)):
        entries = [entry for section in sections for entry in section[kind]]
        for place, entry in enumerate(entries, start):
            entry["number"] = place
    return list(sections)


def _picture(results: Results) -> dict[str, Any] | None:
    """The circuit as found; None where one of its tables is not part of the page."""
    needed = ("circuit", "total_effects", "residual_patching", "recall_summary")
    if not set(needed) <= set(results.tables):
        return None
    shown = found({name: results.tables[name].frame for name in needed})
    return {
        "svg": picture(shown, results.example, results.relation),
        "caption": spoken(caption(shown, results.example), results.relation),
        "numbers": shown.nodes,
    }


def _by_post(ledger: pl.DataFrame, declared: Declarations) -> list[tuple[int, list[dict[str, Any]]]]:
    """The claims of each post, with their numbers as they are shown."""
    posts = sorted(set(ledger["post"]))
    return [
        (post, [_claim(row, declared) for row in ledger.filter(post=post).iter_rows(named=True)])
        for post in posts
    ]


def _claim(row: dict[str, Any], declared: Declarations) -> dict[str, Any]:
    """A row of the ledger with unit: `here` as it stands in one line, `whole` with the interval and n, and the threshold."""
    shown = declared.units.get(row["claim"], Unit())
    word = f" {shown.unit}" if shown.unit else ""
    value = "" if row["value"] is None else f"{digits(row['value'], shown.unit)}{word}"
    line = "" if row["threshold"] is None else f"{digits(row['threshold'], shown.unit)}{word}"
    return row | {"here": value, "whole": measured(row, shown.unit, shown.counts), "line": line}


def _preview(table: Table) -> dict[str, Any]:
    frame = table.frame
    return {
        "columns": [(name, kind.is_numeric()) for name, kind in frame.schema.items()],
        "rows": frame.head(SHOWN_ROWS).rows(),
        "height": frame.height,
        "link": table.link,
    }


def _name_baselines(results: Results) -> list[dict[str, str]]:
    """What the name gives away without a model, one row per input and kind of folds."""
    inputs = {"name_string": "the name's letters", "name_tokens": "a sum over the name's tokens"}
    folds = {**FOLDS, "none": "fitted and scored on all"}
    rows = results.tables["layer_probes"].frame.filter(pl.col("input").is_in(list(inputs)))
    return [
        {
            "input": inputs[row["input"]],
            "folds": folds[row["folds"]],
            "labels": row["labels"],
            "accuracy": share(row, "accuracy"),
            "majority": percent(row["majority_rate"]),
            "n": f"{row['n']:,}",
        }
        for row in rows.iter_rows(named=True)
    ]


def _job(record: Mapping[str, Any]) -> dict[str, Any]:
    """One job of the workflow: what it was told, which code and which inputs it had."""
    which = ", ".join(f"{name} {value}" for name, value in record["wildcards"].items() if name != "study")
    inputs = [
        (path, described.get("sha256", "")[:16] or f"{described['bytes']:,} bytes")
        for path, described in record["inputs"].items()
    ]
    return {
        "rule": record["rule"],
        "which": which,
        "code": record["code"],
        "settings": record["settings"],
        "inputs": inputs,
    }


def _seeds(settings: Mapping[str, Any]) -> list[tuple[str, int]]:
    return [(f"{section}.seed", values["seed"]) for section, values in settings.items() if "seed" in values]
