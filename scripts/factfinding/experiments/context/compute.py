"""Does what comes before a name change what is made of it? (P2.10)

The residual stream at the final name token after a few contexts, beside that of the question after one example (`full`):
its cosine, each context centred by its own mean over subjects, and what readers of `full` (`readers.py`) get right. As
a baseline for the cosine, that to `full` of another subject.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from factfinding.config import RelationConfig
from factfinding.data.prompts import Text, encode, name_tokens, opening_names, roles
from factfinding.data.tokens import opened
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.estimates import accuracy_estimate, each, estimate_columns
from factfinding.methods.groups import groups_of, known_prompts
from factfinding.methods.name_stream import name_outputs
from factfinding.methods.readers import Readers, read_out, readers_of
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import anatomy_of
from factfinding.relation import STUDY
from factfinding.stats import cosines, majority_rate, mean_intervals
from factfinding.tables import empty, schema_of


def contexts_of(relation: RelationConfig) -> dict[str, str]:
    """What stands between BOS and the name, by its own name. `full` is the shot and the question."""
    named = {"title": relation.title, "question": relation.before, "shot": relation.shot}
    return {"none": "", **named, "sentence": relation.sentence}


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The table `context`."""
    section = settings.interventions
    prompts = known_prompts(inputs, section.subjects)
    table = context_table(
        anatomy_of(inputs),
        prompts,
        readers_of(inputs),
        batch_size=settings.compute.batch_size,
        relation=settings.relation,
        seed=section.seed,
    )
    say(f"{table['context'].n_unique()} contexts of {prompts.height} subjects")
    return {"context": table}


def context_table(
    anatomy: Anatomy,
    full: pl.DataFrame,
    reader: Readers,
    *,
    relation: RelationConfig = STUDY,
    batch_size: int,
    seed: int,
) -> pl.DataFrame:
    """Columns context, layer (resid_post), cosine, cosine_other and accuracy with intervals, unknown_tokens (of the
    context: those that the tokenizer cannot tell from any other), n, majority_rate. Empty when the reader is.

    full: the prompts table `full` of the subjects.
    """
    if reader.empty:
        return empty("context")
    reference = _centred(_resid(anatomy, full, batch_size))
    other = np.random.default_rng(seed).permutation(full.height)
    other = np.where(other == np.arange(full.height), np.roll(other, 1), other)
    rows = []
    for name, text in contexts_of(relation).items():
        prompts = context_prompts(anatomy.tokenizer, anatomy.bos_token_id, full, text, relation)
        resid = _resid(anatomy, prompts, batch_size)
        here = _centred(resid)
        alike = np.concatenate([cosines(here, reference), cosines(here, reference[other])], axis=1)
        estimates = each(mean_intervals(alike, seed=seed))
        hits, _ = read_out(reader, resid, prompts)
        for layer in range(anatomy.n_layers):
            rows.append(
                {"context": name, "layer": layer}
                | estimate_columns("cosine", estimates[layer])
                | estimate_columns("cosine_other", estimates[anatomy.n_layers + layer])
                | estimate_columns("accuracy", accuracy_estimate(hits[:, layer], seed=seed))
                | {"unknown_tokens": unknown_tokens(anatomy.tokenizer, text), "n": full.height}
                | {"majority_rate": majority_rate(full["answer"])}
            )
    return pl.DataFrame(rows, schema=schema_of("context"))


def context_prompts(
    tokenizer: Any, bos: int, subjects: pl.DataFrame, context: str, relation: RelationConfig = STUDY
) -> pl.DataFrame:
    """BOS, a context and each subject's name, as a prompts table. Raises InputError for a name that merges with it."""
    names = subjects["subject"].to_list()
    after = (f"{context} {name}" for name in names)
    texts = [Text(text=whole, start=len(context), stop=len(whole)) for whole in after]
    if not context:
        texts = opening_names(tokenizer, names, relation)
    ids, offsets = encode(tokenizer, [text.text for text in texts])
    rows = []
    for subject, text, tokens, spans in zip(subjects.iter_rows(named=True), texts, ids, offsets, strict=True):
        at = name_tokens(text, spans, subject["subject"])
        whole = opened(bos, tokens, at[0])
        first, final = (position + len(whole) - len(tokens) for position in at)
        rows.append(
            {name: subject[name] for name in ("subject", "answer")}
            | {"token_ids": whole, "roles": roles(len(whole), 0, first, final)}
            | {"n_tokens": len(whole), "first_name": first, "final_name": final, "end": final}
        )
    return pl.DataFrame(rows)


def unknown_tokens(tokenizer: Any, context: str) -> int:
    """How many of a context's tokens are a mark for words that the tokenizer does not know: a special token."""
    ids = encode(tokenizer, [context])[0][0] if context else []
    return sum(token in tokenizer.all_special_ids for token in ids)


def _resid(
    anatomy: Anatomy, prompts: pl.DataFrame, batch_size: int
) -> Float[np.ndarray, "subjects layers d_model"]:
    return name_outputs(anatomy, prompts, groups_of(prompts), batch_size=batch_size).resid.double().numpy()


def _centred(x: Float[np.ndarray, "subjects layers d_model"]) -> Float[np.ndarray, "subjects layers d_model"]:
    return x - x.mean(axis=0)
