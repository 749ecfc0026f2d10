"""Tables of P2.12 of a planted model whose wordings use heads that are known."""

from __future__ import annotations

import polars as pl

from factfinding.config import Config
from factfinding.experiments.paraphrases.compute import compute
from factfinding.experiments.recall.compute import answer_scores, recall_table
from factfinding.inputs import Settings
from factfinding.methods.circuit import AT_NAME, Circuit
from helpers import planted
from helpers.inputs import given, quiet

SAME = {"shot": " Tiger Woods plays the sport of golf\n", "before": ""}
OTHER = {"shot": "Fact: Tiger Woods plays golf\n", "after": " plays"}
GIVEN = {
    "compute": (), "paraphrases": (), "recall": ("known", "known_above"), "heads": ("top",),
    "relation": ("shot", "before", "after", "paraphrases"), "probes": ("n_folds", "regularisation", "max_iter", "tolerance"), "circuit": ("extract",),
}  # fmt: skip
"""The keys that the rule is given; none: the whole section."""
MODEL = planted.by_wording(firsts=8, lasts=8)


def tables_of(paraphrases, subjects="known", keep=64, batch_size=128, **section):
    """The tables, of the first `keep` subjects, with these keys of the section `paraphrases`."""
    anatomy, prompts = MODEL.anatomy, MODEL.prompts[:keep]
    ids = anatomy.tokenizer.convert_tokens_to_ids([f" {answer}" for answer in planted.ANSWERS])
    candidates = pl.DataFrame({"answer": planted.ANSWERS, "token_id": ids, "answer_token": planted.ANSWERS})
    said = answer_scores(anatomy, prompts, candidates, batch_size=64)
    effects = pl.DataFrame(
        [("L2H2", "head", "all", -9.0, -8.0, 0.5, 1)], orient="row",
        schema=["node", "kind", "answer", "exact", "exact_high", "share", "rank"],
    )  # fmt: skip
    circuit = Circuit(lookup_at=AT_NAME, concatenate=(0, 0), lookup=(1, 1), extract=("L2H2",))
    inputs = given(
        anatomy=anatomy, prompts_full=prompts, candidates=candidates, direct_effects=effects,
        recall=recall_table(prompts, candidates, {"full": said, "zero_shot": said}), **{"circuit.yaml": circuit},
    )  # fmt: skip
    section = {"subjects": subjects, "top_heads": 2, "top_neurons": 2} | section
    settings = Config(
        relation={"paraphrases": paraphrases}, paraphrases=section, model={"source": "tiny"},
        subjects={"table": "subjects.csv"}, compute={"batch_size": batch_size},
    )  # fmt: skip
    values = settings.model_dump(mode="json")
    kept = {name: {key: values[name][key] for key in keys or values[name]} for name, keys in GIVEN.items()}
    return compute(inputs, Settings(kept), quiet)
