"""The tables on heads of a model, by their experiments, without any files."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch

from factfinding.engine.sites import Site
from factfinding.engine.trace import Read, run
from factfinding.experiments.attention_roles import compute as attention_roles
from factfinding.experiments.direct_effects import compute as direct_effects
from factfinding.experiments.head_inputs import compute as head_inputs
from factfinding.experiments.head_probes import compute as head_probes
from factfinding.inputs import Settings
from helpers import planted
from helpers.inputs import RunActivations, given, known, quiet
from helpers.models import tokenizer


def planted_candidates(model: planted.Planted) -> pl.DataFrame:
    tokens = model.anatomy.tokenizer.convert_tokens_to_ids([f" {answer}" for answer in planted.ANSWERS])
    return pl.DataFrame({"answer": planted.ANSWERS, "token_id": tokens})


def head_tables(
    anatomy, prompts: pl.DataFrame, candidates: pl.DataFrame, *, fixed=None, seed=0
) -> dict[str, pl.DataFrame]:
    """Prompts of one length. The six tables by name."""
    heads = {
        "subjects": "all",
        "top": 4,
        "conditions": ["full", "name_only"],
        "permutations": 200,
        "seed": seed,
    }
    settings = Settings({"heads": heads, "circuit": {"extract": fixed}})
    anatomy.tokenizer = anatomy.tokenizer or tokenizer()
    activations = RunActivations(anatomy, prompts)
    held = {
        "anatomy": anatomy,
        "candidates": candidates,
        "recall": known(prompts),
        "prompts_full": prompts,
        "activations_full": activations,
        "activations_name_only": activations,
    }
    tables = direct_effects.compute(given(**held), settings, quiet)
    for experiment in (attention_roles, head_inputs, head_probes):
        tables |= experiment.compute(given(**held, direct_effects=tables["direct_effects"]), settings, quiet)
    return tables


def name_residuals(anatomy, prompts: pl.DataFrame):
    """(layer, residual at the final name token), the embeddings first."""
    tokens, at = torch.tensor(prompts["token_ids"].to_list()), torch.tensor(prompts["final_name"].to_list())
    sites = [Site("resid_pre", 0), *(Site("resid_post", layer) for layer in range(anatomy.n_layers))]
    values = run(anatomy, tokens, reads=[Read(site=site, at=at) for site in sites]).values
    yield from zip(range(-1, anatomy.n_layers), (np.asarray(value) for value in values), strict=True)
