"""Do the heads that bring the answer to END do so where something else is asked? (P1.2)

The same subjects are asked the study's own question and every other relation that all of them know (the facts of P1.1). At END
of each prompt, for every head and MLP:

    attention   of a head to the name, the sum over its tokens
    effect      node -> final norm -> the main answers' logits: the subject's own answer less the mean of the others, of what
                the node writes beyond its mean over the subjects under the same question; norms keep their scale

and so the mean effect of a node that writes the same for everybody is 0. Paired by subject with the study's own prompt. Who
suppresses what was not asked for is chosen on one half of the subjects and measured on the other, since the most extreme of
many nodes is extreme by chance as well. additivity.py has the parts that add up to the right answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from factfinding.engine.direct import Readout
from factfinding.engine.sites import Site, head
from factfinding.experiments.extraction_unasked.additivity import additivity, additivity_heads, parts_of
from factfinding.experiments.extraction_unasked.recorded import Recorded, recorded
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.attributes import counted, recalled_prompts
from factfinding.methods.circuit import circuit_of
from factfinding.methods.direct import NODE
from factfinding.methods.estimates import estimate_columns
from factfinding.methods.groups import labels_of
from factfinding.methods.halves import halve
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import anatomy_of
from factfinding.stats import mean_interval, paired_difference, some_of
from factfinding.tables import empty, schema_of

OWN, OTHERS, APART = "own", "others", "apart"
"""The study's own prompt; the mean over all questions for another answer; over those of them whose answer does not follow."""
TABLES = ("unasked_extraction", "unasked_heads", "unasked_suppression", "additivity", "additivity_heads")


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables `unasked_extraction`, `unasked_heads`, `unasked_suppression`, `additivity` and `additivity_heads`."""
    section, anatomy = settings.extraction_unasked, anatomy_of(inputs)
    facts = counted(inputs.table("attribute_prompts"), section.subjects)
    design = design_of(
        facts, recalled_prompts(inputs, section.subjects), inputs.table("attributes"),
        least=section.least_subjects, most=section.asked_subjects, seed=section.seed,
    )  # fmt: skip
    if design is None:
        say("too few subjects know the answers to several questions")
        return {name: empty(name) for name in TABLES}
    say(f"{len(design.subjects)} subjects, asked {', '.join(design.questions)}")
    runs = {
        name: recorded(anatomy, prompts, batch_size=settings.compute.batch_size)
        for name, prompts in design.questions.items()
    }
    extract = circuit_of(inputs).extract
    measured = measure(anatomy, runs, design, inputs.candidates)
    parts = parts_of(
        anatomy, {name: run for name, run in runs.items() if name != OWN}, design.facts, mostly=section.mostly
    )
    return {
        "unasked_extraction": extraction(measured, extract, seed=section.seed),
        "unasked_heads": heads_table(measured, extract, seed=section.seed),
        "unasked_suppression": suppression(
            measured, design, extract, listed=section.suppressors, seed=section.seed
        ),
        "additivity": additivity(parts, seed=section.seed),
        "additivity_heads": additivity_heads(parts, seed=section.seed),
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class Design:
    """Subjects who are asked every question, in the order of their names, and the prompts of each question in that order.

    questions: `OWN` first, then relations. main: the relations whose answers are the main ones; follows: those that follow
    from them. facts: of the relations, the same prompts in one table, with their targets.
    """

    subjects: list[str]
    questions: dict[str, pl.DataFrame]
    main: frozenset[str]
    follows: frozenset[str]

    @property
    def facts(self) -> dict[str, pl.DataFrame]:
        """The prompts of each relation, with the tokens of the right answers."""
        return {name: prompts for name, prompts in self.questions.items() if name != OWN}

    def averaged(self) -> dict[str, list[str]]:
        """The questions over which `OTHERS` and `APART` are means; those that are there."""
        others = [name for name in self.facts if name not in self.main]
        found = {OTHERS: others, APART: [name for name in others if name not in self.follows]}
        return {name: questions for name, questions in found.items() if questions}


def design_of(
    facts: pl.DataFrame, prompts: pl.DataFrame, attributes: pl.DataFrame, *, least: int, most: int, seed: int
) -> Design | None:
    """Who is asked what. The relation that fewest know is left out until `least` subjects know all the others; then at most
    `most` subjects are drawn. None where no relation but the main one is left."""
    probed = attributes.filter("probed")
    relations, everybody = probed["relation"].to_list(), set(prompts["subject"])
    knows = {name: set(facts.filter(pl.col("fact") == name)["subject"]) & everybody for name in relations}
    relations.sort(key=lambda name: -len(knows[name]))
    while relations and len(set.intersection(*(knows[name] for name in relations))) < least:
        relations.pop()
    main = frozenset(probed.filter("main")["relation"])
    if not set(relations) - main:
        return None
    able = sorted(set.intersection(*(knows[name] for name in relations)))
    subjects = [able[row] for row in some_of(len(able), most, np.random.default_rng(seed))]
    order = pl.DataFrame({"subject": subjects})
    questions = {OWN: order.join(prompts, on="subject", how="left", maintain_order="left")}
    for name in (one for one in probed["relation"] if one in relations):
        asked = facts.filter(pl.col("fact") == name)
        questions[name] = order.join(asked, on="subject", how="left", maintain_order="left")
    follows = frozenset(probed.filter("follows")["relation"])
    return Design(subjects=subjects, questions=questions, main=main, follows=follows)


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """By question, `OTHERS` and `APART` among them: attention to the name by head, and the effect of every node, heads first.

    name: share of a prompt's tokens that are the name's, what a head pays it that attends to all alike.
    """

    nodes: pl.DataFrame  # node, kind, layer, index
    attention: dict[str, Float[np.ndarray, "subjects heads"]]
    effect: dict[str, Float[np.ndarray, "subjects nodes"]]
    name: dict[str, Float[np.ndarray, " subjects"]]


def measure(
    anatomy: Anatomy, runs: Mapping[str, Recorded], design: Design, candidates: pl.DataFrame
) -> Measured:
    """Attention and effects under every question, and their means over questions."""
    readout = Readout.of(anatomy, candidates["token_id"].to_list())
    labels = labels_of(design.questions[OWN], candidates)
    attention = {name: run.attention.reshape(len(labels), -1) for name, run in runs.items()}
    effect = {name: own_over_others(run.effects(anatomy, readout), labels) for name, run in runs.items()}
    uniform = {name: run.name_share for name, run in runs.items()}
    for name, questions in design.averaged().items():
        for found in (attention, effect, uniform):
            found[name] = np.mean([found[question] for question in questions], axis=0)
    return Measured(nodes=nodes_of(anatomy), attention=attention, effect=effect, name=uniform)


def nodes_of(anatomy: Anatomy) -> pl.DataFrame:
    """Every head, then every MLP, by name."""
    layers, heads = range(anatomy.n_layers), range(anatomy.n_heads)
    rows = [(str(head(layer, index)), "head", layer, index) for layer in layers for index in heads]
    rows += [(str(Site("mlp_out", layer)), "mlp_out", layer, None) for layer in layers]
    return pl.DataFrame(rows, schema=NODE, orient="row")


def own_over_others(
    logits: Float[np.ndarray, "subjects nodes answers"], labels: Int[np.ndarray, " subjects"]
) -> Float[np.ndarray, "subjects nodes"]:
    """The logit of each subject's own answer, less the mean of the other answers' logits."""
    own = np.take_along_axis(logits, labels[:, None, None], axis=2)[..., 0]
    return own - (logits.sum(axis=2) - own) / (logits.shape[2] - 1)


def extraction(measured: Measured, extract: Sequence[str], *, seed: int) -> pl.DataFrame:
    """The table `unasked_extraction`: the extracting heads together, and all other heads together, under every question."""
    heads = measured.nodes.filter(kind="head")["node"].is_in(list(extract)).to_numpy()
    rows = []
    for kind, chosen in (("extracting", heads), ("other", ~heads)):
        if not chosen.any():
            continue
        attention = {name: values[:, chosen].mean(axis=1) for name, values in measured.attention.items()}
        effect = {
            name: values[:, : len(chosen)][:, chosen].sum(axis=1) for name, values in measured.effect.items()
        }
        for question, uniform in measured.name.items():
            row: dict[str, Any] = {"heads": kind, "question": question, "number": int(chosen.sum())}
            row |= {"n": len(uniform), "name_share": float(uniform.mean())}
            for name, values in (("attention", attention), ("effect", effect)):
                row |= estimate_columns(name, mean_interval(values[question], seed=seed))
                row |= _beside_own(name, values, question, seed=seed)
            rows.append(row)
    return pl.DataFrame(rows, schema=schema_of("unasked_extraction"))


def _beside_own(
    name: str, values: Mapping[str, np.ndarray], question: str, *, seed: int
) -> dict[str, float | None]:
    """Columns `<name>_from_own` and `<name>_over_half`: less that under the study's own prompt, and less half of it; paired."""
    if question == OWN:
        return estimate_columns(f"{name}_from_own", None) | estimate_columns(f"{name}_over_half", None)
    there, own = values[question], values[OWN]
    return estimate_columns(f"{name}_from_own", paired_difference(there, own, seed=seed)) | estimate_columns(
        f"{name}_over_half", paired_difference(there, own, weight=0.5, seed=seed)
    )


def heads_table(measured: Measured, extract: Sequence[str], *, seed: int) -> pl.DataFrame:
    """The table `unasked_heads`: every node under the own question and the mean of the others."""
    rows = []
    n_heads = measured.nodes.filter(kind="head").height
    for question in (OWN, OTHERS):
        for at, node in enumerate(measured.nodes.iter_rows(named=True)):
            effect = {name: values[:, at] for name, values in measured.effect.items()}
            row = {"question": question, **node, "extracting": node["node"] in extract}
            row |= {"n": len(effect[question])}
            row |= estimate_columns("effect", mean_interval(effect[question], seed=seed))
            row |= estimate_columns(
                "effect_from_own",
                paired_difference(effect[question], effect[OWN], seed=seed) if question != OWN else None,
            )
            attention = measured.attention[question][:, at] if at < n_heads else None
            row |= estimate_columns(
                "attention", None if attention is None else mean_interval(attention, seed=seed)
            )
            rows.append(row)
    return pl.DataFrame(rows, schema=schema_of("unasked_heads"))


def suppression(
    measured: Measured, design: Design, extract: Sequence[str], *, listed: int, seed: int
) -> pl.DataFrame:
    """The table `unasked_suppression`: nodes whose effect falls most from the own question to the others. Empty where the
    subjects cannot be halved (methods/halves.py)."""
    subjects = design.questions[OWN].select("subject", "answer")
    halves = halve(subjects, subjects["answer"].unique().sort().to_list(), seed=seed)
    if halves is None:
        return empty("unasked_suppression")
    return lowest(
        measured.nodes,
        measured.effect[OWN],
        measured.effect[OTHERS],
        halves.choosing,
        extract=extract,
        listed=listed,
        seed=seed,
    )


def lowest(
    nodes: pl.DataFrame,
    own: Float[np.ndarray, "subjects nodes"],
    others: Float[np.ndarray, "subjects nodes"],
    choosing: Bool[np.ndarray, " subjects"],
    *,
    extract: Sequence[str],
    listed: int,
    seed: int,
) -> pl.DataFrame:
    """The `listed` nodes whose mean change is lowest on the subjects that are `choosing`, as the others have it."""
    chosen_by, rows = (others - own)[choosing].mean(axis=0), []
    for rank, at in enumerate(np.argsort(chosen_by, kind="stable")[:listed], 1):
        before, after = own[~choosing, at], others[~choosing, at]
        node = nodes.row(int(at), named=True)
        row = {
            **node,
            "extracting": node["node"] in extract,
            "rank": rank,
            "change_choosing": float(chosen_by[at]),
        }
        row |= estimate_columns("change", paired_difference(after, before, seed=seed))
        row |= estimate_columns("effect_own", mean_interval(before, seed=seed))
        row |= estimate_columns("effect_others", mean_interval(after, seed=seed))
        rows.append(row | {"n": len(before), "n_choosing": int(choosing.sum()), "nodes_tried": nodes.height})
    return pl.DataFrame(rows, schema=schema_of("unasked_suppression"))
