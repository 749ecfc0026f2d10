"""What a study says at first sight: its conclusions in a few sentences, and what in it is not to be trusted.

Each conclusion is computed from the tables, true of any model, and has a *margin*: how far the end of its interval lies
beyond what would be seen if it were not so, as a share of the farthest that it could lie. So they are ranked by size and
certainty together: a large effect that is not sure and a sure one that is small both come late. What the model knows comes
first, since all the others are about that; below zero nothing is sure, and the sentence says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from factfinding.families import FLOATING
from factfinding.findings.patched import with_share_ends
from factfinding.findings.words import (
    NAMED,
    all_of,
    at_layer,
    known_rule,
    number,
    percent,
    share,
    with_open_ends,
)
from factfinding.least import FITS_ANYTHING
from factfinding.methods.circuit import AT_END, AT_NAME, Circuit

SHOWN = 5
"""Conclusions beside that on what the model knows."""
Tables = Mapping[str, pl.DataFrame]


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """A sentence and its margin (see the module's docstring); `about`: the section that says more."""

    sentence: str
    margin: float
    about: str


def conclusions(tables: Tables) -> list[Conclusion]:
    """At most `SHOWN` + 1, what the model knows first, then by margin. Of a model that knows nothing, only that."""
    frames = {name: with_open_ends(frame) for name, frame in tables.items()}
    first = _knows(frames)
    if first.margin <= 0:
        return [first]
    others = [found for tell in _OTHERS if (found := tell(frames)) is not None]
    return [first, *sorted(others, key=lambda one: -one.margin)[:SHOWN]]


def cautions(card: Mapping[str, Any], tables: Tables, *, fictional: bool = False) -> list[str]:
    """What not to trust, one sentence each: where the model comes from, what was put in by hand, what the name gives away,
    weights that were quantised, parts that the configuration sets, and one seed."""
    frames = {name: with_open_ends(frame) for name, frame in tables.items()}
    source, training = card["source"], card["training"] or {}
    found = []
    if source["kind"] == "tiny":
        found.append(
            "The weights are random. This page shows what the methods say of a model that knows nothing."
        )
    if training.get("installed"):
        installed = str(training["installed"]).rstrip(".")
        found.append(f"Not all is learned. Put in by hand: {installed}.")
    if (converted := source.get("converted_from")) and (said := _quantised(converted)):
        found.append(said)
    found += _given_away(frames["layer_probes"])
    if "circuit" in frames:
        found += _fixed(frames["circuit"])
    if fictional:
        found.append("All <subjects> are fictional, and the model was trained on generated sentences alone.")
    found.append(
        "One model is one sample: intervals are over <subjects>, tokens or pairs, and say nothing of the same model trained "
        "from another seed."
    )
    return found


def _knows(tables: Tables) -> Conclusion:
    row = tables["recall_summary"].filter(condition="full", group="all").row(0, named=True)
    guess = percent(row["majority_rate"])
    margin = row["accuracy_low"] - row["majority_rate"]
    if margin <= 0:
        sentence = (
            f"Nothing here shows that the model knows the <answers>: it is right for {share(row, 'accuracy')} of {row['n']:,} "
            f"<subjects>, and always naming the commonest <answer> for {guess}. What follows shows what the methods say then."
        )
        return Conclusion(sentence=sentence, margin=margin, about="recall")
    sentence = (
        f"The model knows the <answer> of {share(row, 'recalled')} of {row['n']:,} <subjects> "
        f"({known_rule(tables).words}), and gives the right one for {share(row, 'accuracy')}; always naming the commonest gets {guess}."
    )
    return Conclusion(sentence=sentence, margin=margin / (1 - row["majority_rate"]), about="recall")


def _read_at_name(tables: Tables) -> Conclusion | None:
    table = tables["layer_probes"]
    probes = table.filter(condition="full", input="resid", labels="true", folds="last_name").sort("layer")
    names = table.filter(
        pl.col("input").is_in(["name_string", "name_tokens"]), labels="true", folds="last_name"
    )
    if probes.is_empty() or names.is_empty():
        return None
    best = probes.sort("accuracy", descending=True, maintain_order=True).row(0, named=True)
    enough = probes.filter(pl.col("accuracy_low") >= 0.9 * best["accuracy"])
    bar = max(names["accuracy_high"].max(), best["majority_rate"])  # type: ignore[type-var]
    given = percent(names["accuracy"].max())  # type: ignore[arg-type]
    beside = f"the name's letters or tokens give {given} at most, the commonest <answer> {percent(best['majority_rate'])}"
    n = f"n = {best['n']:,}"
    if best["accuracy_low"] <= bar:
        sentence = (
            f"At the final name token no probe surely reads more than the name gives away: {share(best, 'accuracy')} "
            f"at best ({n}); {beside}."
        )
    else:
        row = enough.row(0, named=True) if enough.height else best
        sentence = (
            f"The <answer> stands at the final name token {at_layer(row['layer'])} already: a held-out probe reads it for "
            f"{share(row, 'accuracy')} ({n}); {beside}."
        )
    return Conclusion(
        sentence=sentence, margin=(best["accuracy_low"] - bar) / (1 - bar), about="layer_probes"
    )


def _looked_up(tables: Tables) -> Conclusion | None:
    rows = {row["check"]: row for row in tables["circuit_checks"].iter_rows(named=True)}
    clean, less = rows.get("clean"), rows.get("mlps_at_name")
    if clean is None or less is None or clean["accuracy_low"] <= clean["majority_rate"]:
        return None
    beside = (
        f"of the answers {share(less, 'accuracy')} stay right when these are averaged, of {share(clean, 'accuracy')} "
        f"(n = {clean['n']:,}; guessing: {percent(clean['majority_rate'])})"
    )
    lost = -less["change_high"] / (clean["accuracy"] - clean["majority_rate"])
    if less["over_half_high"] < 0:
        sentence = f"MLPs at the final name token look it up: {beside}."
    elif lost > 0:
        sentence = (
            f"MLPs at the final name token do a part of the lookup, but not surely half of it: {beside}."
        )
    else:
        sentence = f"Nothing shows that MLPs at the final name token are needed: {beside}."
    return Conclusion(sentence=sentence, margin=lost, about="circuit_checks")


def _extracted(tables: Tables) -> Conclusion | None:
    circuit = Circuit.from_table(tables["circuit"])
    rows = tables["total_effects"].filter(pl.col("whole_swap") < 0, type="head", role="end", kind="corrupt")
    heads = rows.filter(pl.col("node").is_in(list(circuit.extract))).sort("share", descending=True)
    if circuit.lookup_at != AT_NAME or rows.is_empty():
        return None
    if heads.is_empty():
        return Conclusion(
            sentence=f"No single head brings it to the last token: of {rows['node'].n_unique():,} heads there none does a twentieth "
            f"of what swapping the whole prompt does (n = {rows['n'].max():,}).",
            margin=0.0,
            about="total_effects",
        )
    each = [with_share_ends(row) for row in heads.iter_rows(named=True)]
    shares = [f"{row['node']} {number(row, 'share', '.1f', scale=100)} %" for row in each]
    named = shares[:NAMED] + ([f"{len(shares) - NAMED} others"] if len(shares) > NAMED else [])
    count = f"{heads.height} of {rows['node'].n_unique():,} heads"
    verb = "brings" if heads.height == 1 else "bring"
    sentence = (
        f"{count} {verb} it to the last token: swapped there alone, {all_of(named)} of what swapping the whole prompt does "
        f"(n = {heads['n'][0]:,})."
    )
    return Conclusion(sentence=sentence, margin=each[0]["share_low"], about="total_effects")


def _carried(tables: Tables) -> Conclusion | None:
    circuit = Circuit.from_table(tables["circuit"])
    if circuit.lookup is None or circuit.lookup_at != AT_NAME:
        return None
    rows = tables["residual_patching"].filter(
        pl.col("whole_swap") < 0, role="final_name", layer=circuit.lookup[1] + 1
    )
    if rows.is_empty():
        return None
    row = rows.row(0, named=True)
    sentence = (
        f"After the lookup ({at_layer(circuit.lookup[1])}) the final name token alone decides: with its residual stream taken from "
        f"<a subject> of another <answer>, {share(row, 'follows')} of the answers follow (n = {row['n']:,}; the commonest "
        f"<answer>: {percent(row['majority_rate'])})."
    )
    margin = (row["follows_low"] - row["majority_rate"]) / (1 - row["majority_rate"])
    if margin <= 0:
        sentence = (
            f"After the lookup ({at_layer(circuit.lookup[1])}) the final name token does not surely decide: with its residual stream "
            f"taken from <a subject> of another <answer>, {share(row, 'follows')} of the answers follow (n = {row['n']:,})."
        )
    return Conclusion(sentence=sentence, margin=margin, about="residual_patching")


def _simple(tables: Tables) -> Conclusion | None:
    table = tables.get("effective_model")
    if table is None or table.filter(model="effective").is_empty():
        return None
    single = table.filter(pl.col("n_name_tokens").is_not_null())
    row = single.filter(model="effective").sort("n", descending=True).row(0, named=True)
    full = single.filter(model="full", n_name_tokens=row["n_name_tokens"])
    beside = (
        f"; the model itself, so read, {share(full.row(0, named=True), 'accuracy')}" if full.height else ""
    )
    verb = "suffice" if row["accuracy_low"] > row["majority_rate"] else "do not suffice"
    sentence = (
        f"Tables over tokens, the MLPs of the lookup and a linear probe {verb} to answer for {share(row, 'accuracy')} of "
        f"{row['n']:,} <subjects> with names of {row['n_name_tokens']} token{'s' * (row['n_name_tokens'] != 1)}{beside} (guessing: "
        f"{percent(row['majority_rate'])})."
    )
    margin = (row["accuracy_low"] - row["majority_rate"]) / (1 - row["majority_rate"])
    return Conclusion(sentence=sentence, margin=margin, about="effective_model")


def _where(tables: Tables) -> Conclusion | None:
    """Said only where there is no lookup at the name: where it is instead."""
    circuit = Circuit.from_table(tables["circuit"]).found
    if circuit.lookup_at == AT_NAME:
        return None
    place = (
        "at the last token (END), not at the name"
        if circuit.lookup_at == AT_END
        else "at no place that the rules of the circuit could find"
    )
    return Conclusion(sentence=f"The <answer> is looked up {place}.", margin=1.0, about="circuit_scan")


_OTHERS: Sequence[Callable[[Tables], Conclusion | None]] = (
    _where,
    _read_at_name,
    _looked_up,
    _carried,
    _extracted,
    _simple,
)


def _quantised(converted: Mapping[str, Any]) -> str | None:
    """What is said of a converted file with weights of fewer bits; None where all of them are plain numbers."""
    kinds = [kind for kind in converted["tensor_types"] if kind not in FLOATING]
    if not kinds:
        return None
    return (
        f"The weights were stored quantised ({', '.join(kinds)}) and are used as they come out: the numbers are of this model, not "
        "of the one before quantisation."
    )


def _given_away(table: pl.DataFrame) -> list[str]:
    """What the name gives away without a model: of the additive model fitted to all, against shuffled answers; and of the
    held-out baselines, against guessing."""
    found = []
    fitted = {
        row["labels"]: row for row in table.filter(input="name_tokens", folds="none").iter_rows(named=True)
    }
    if len(fitted) == 2:
        true, shuffled = fitted["true"], fitted["shuffled"]
        sure = true["accuracy_low"] > shuffled["accuracy_high"]
        meaning = "part of the <answer> is in the tokens themselves"
        if not sure:
            meaning = "no more than it can learn by heart, so the model has to combine the tokens"
        if shuffled["accuracy"] >= FITS_ANYTHING:
            meaning = "it can be fitted to anything, and says nothing here"
        found.append(
            f"A sum over the name's tokens, fitted and scored on all, gives {share(true, 'accuracy')} of the <answers>, and "
            f"{percent(shuffled['accuracy'])} of shuffled ones: {meaning}."
        )
    held = table.filter(
        pl.col("input").is_in(["name_string", "name_tokens"]),
        pl.col("accuracy_low") > pl.col("majority_rate"),
        labels="true",
        folds="random",
    ).sort("accuracy", descending=True, maintain_order=True)
    words = {"name_string": "The spelling of a name", "name_tokens": "The tokens of a name"}
    found += [
        f"{words[row['input']]} alone gives the <answer> away for {share(row, 'accuracy')}, held out (the commonest: "
        f"{percent(row['majority_rate'])}): a probe that reads no more than that has read the name."
        for row in held.head(1).iter_rows(named=True)
    ]
    return found


def _fixed(table: pl.DataFrame) -> list[str]:
    """Parts of the circuit that the configuration sets, where the tables have something else."""
    words = {
        "lookup_at": "the place of the lookup",
        "concatenate": "the gathering layers",
        "lookup": "the MLPs of the lookup",
    }
    rows = table.filter(pl.col("fixed") & pl.col("set").ne_missing(pl.col("found")))
    if rows.is_empty():
        return []
    parts = [
        f"{words.get(row['part'], 'the extracting heads')} ({row['set'] or 'none'}; the tables have {row['found'] or 'none'})"
        for row in rows.iter_rows(named=True)
    ]
    return [f"The configuration sets what the tables do not speak for: {all_of(parts)}."]
