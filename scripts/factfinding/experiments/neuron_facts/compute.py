"""Which facts the model knows, and of whom (P3.2): asked once, for all jobs that share the neurons' effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from factfinding.data.fact_prompts import fact_prompts, subject_order
from factfinding.data.facts import no_facts, read_facts
from factfinding.data.folding import folded
from factfinding.engine.answers import answers
from factfinding.inputs import Inputs, Say, Settings
from factfinding.known import STUDY_RULE, Rule
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import anatomy_of
from factfinding.tables import as_declared

FEWEST = 2
"""A subject with fewer known facts has no pair of facts to compare."""


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables `neuron_facts` and, with the same facts as prompts, `fact_prompts`."""
    section, path = settings.neurons, inputs.named.get("facts")
    asked = ask_facts(
        anatomy_of(inputs),
        read_facts(path) if path else no_facts(),
        inputs.table("recall"),
        subjects=section.asked_subjects,
        first=section.first,
        known_only=section.subjects == "known",
        seed=section.seed,
        batch_size=settings.compute.batch_size,
        rule=Rule(how=settings.recall.known, above=settings.recall.known_above),
    )
    used = asked.filter("used")
    say(
        f"{asked['known'].sum()} of {asked.height} facts known; "
        f"{used.height} of {used['subject'].n_unique()} subjects are used"
    )
    return {"neuron_facts": facts_table(asked), "fact_prompts": as_declared(asked, "fact_prompts")}


def ask_facts(
    anatomy: Anatomy,
    facts: pl.DataFrame,
    people: pl.DataFrame,
    *,
    subjects: int | None,
    first: Sequence[str] = (),
    known_only: bool = True,
    seed: int,
    batch_size: int,
    rule: Rule = STUDY_RULE,
) -> pl.DataFrame:
    """Facts as prompts (columns of data/fact_prompts.py) with answer (null for subjects not in `people`), p, log_p
    (nats, of the answer's token), known, used. The model must come with its tokenizer. Facts that cannot be asked
    (`left_out` says why) have no p and are not known.

    Known is by `rule`, as subjects are recalled (P2.1). The answers that may be given to a question are all that the table
    has for the same relation; where it has one alone, that must be the likeliest token of all.

    Subjects are asked in the order of `subject_order` until `subjects` of them know two facts or more (None: all
    is asked); these are used, with the facts that they know (all facts, if not `known_only`).
    """
    order = subject_order(facts, first=first, seed=seed)
    every = fact_prompts(facts, anatomy.tokenizer, anatomy.bos_token_id)
    rivals = _rivals(every)
    wanted, chosen = len(order) if subjects is None else subjects, []
    asked, size = [_asked(anatomy, every.clear(), rivals, rule, batch_size)], wanted
    while order and len(chosen) < wanted:
        now, order = order[:size], order[size:]
        asked.append(_asked(anatomy, every.filter(pl.col("subject").is_in(now)), rivals, rule, batch_size))
        counted = asked[-1].filter("known" if known_only else pl.col("left_out").is_null())
        able = counted.group_by("subject").len().filter(pl.col("len") >= FEWEST)["subject"].to_list()
        chosen += [name for name in now if name in able]
        size *= 2
    chosen = chosen[:wanted]
    used = pl.col("subject").is_in(chosen) & (pl.col("known") if known_only else pl.col("left_out").is_null())
    answers = {folded(name): answer for name, answer in people.select("subject", "answer").iter_rows()}
    found = pl.concat(asked)
    own = [answers.get(folded(name)) for name in found["subject"]]
    return found.with_columns(pl.Series("answer", own, dtype=pl.String), used=used)


def facts_table(asked: pl.DataFrame) -> pl.DataFrame:
    """The table neuron_facts: what was asked, and how sure the model was."""
    return as_declared(asked, "neuron_facts")


def _rivals(every: pl.DataFrame) -> dict[str, list[int]]:
    """The tokens by which the answers to each relation are asked for."""
    able = every.filter(pl.col("left_out").is_null())
    return dict(able.group_by("fact").agg(pl.col("target").unique()).iter_rows())


def _asked(
    anatomy: Anatomy, every: pl.DataFrame, rivals: Mapping[str, Sequence[int]], rule: Rule, batch_size: int
) -> pl.DataFrame:
    """Facts as prompts, with what the model gives each answer's token; nothing where there is none to ask for."""
    prompts = every.filter(pl.col("left_out").is_null())
    tokens = sorted({token for fact in prompts["fact"].unique() for token in rivals[fact]})
    said = answers(anatomy, prompts, tokens, batch_size=batch_size)
    column = {token: i for i, token in enumerate(tokens)}
    own = np.array([column[token] for token in prompts["target"]], dtype=np.int64)
    logp = said.logp[np.arange(prompts.height), own]
    first = said.top_token_id == prompts["target"].to_numpy()
    best = np.array(
        [
            first[row]
            if len(rivals[fact]) == 1
            else logp[row] >= said.logp[row, [column[t] for t in rivals[fact]]].max()
            for row, fact in enumerate(prompts["fact"])
        ],
        dtype=bool,
    )
    p = np.exp(logp)
    measured = prompts.select(
        "subject",
        "fact",
        p=pl.Series(p),
        log_p=pl.Series(logp),
        known=pl.Series(rule.holds(p=p, first=first, best=best)),
    )
    found = every.join(measured, on=["subject", "fact"], how="left", maintain_order="left")
    return found.with_columns(known=pl.col("known").fill_null(False))
