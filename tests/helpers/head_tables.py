"""The tables on heads of a model, by the steps of the rules direct_effects and head_probes, without any files."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch

from factfinding.engine.direct import Readout, read_nodes
from factfinding.engine.sites import Site
from factfinding.engine.trace import Read, run
from factfinding.methods.attention import attention_athletes, attention_by_role, attention_roles, role_tokens
from factfinding.methods.direct import HEAD_INPUTS, direct_effects, extracting_heads, head_inputs, pair_up
from factfinding.methods.head_probes import halve, head_probe_layers, heads_to_follow, scan_heads
from helpers import planted


def planted_candidates(model: planted.Planted) -> pl.DataFrame:
    tokens = model.anatomy.tokenizer.convert_tokens_to_ids([f" {sport}" for sport in planted.SPORTS])
    return pl.DataFrame({"sport": planted.SPORTS, "token_id": tokens})


def head_tables(
    anatomy, prompts: pl.DataFrame, candidates: pl.DataFrame, *, fixed=None, seed=0
) -> dict[str, pl.DataFrame]:
    """Prompts of one length. The six tables by name."""
    pairs = pair_up(prompts, candidates, seed=seed)
    tokens = torch.tensor(prompts["token_ids"].to_list())
    at = {role: torch.tensor(prompts[role].to_list()) for role in ("final_name", "end")}
    readout = Readout.of(anatomy, candidates["token_id"].to_list())
    nodes = read_nodes(anatomy, tokens, at["end"])
    effects = direct_effects(anatomy, nodes, pairs, readout, seed=seed)
    heads = extracting_heads(anatomy, effects, fixed=fixed, count=4)
    reads = [Read(site=Site("pattern", head.layer), at=at["end"]) for head in heads]
    found = run(anatomy, tokens, reads=reads).values if heads else []
    patterns = {str(head): value[:, head.index].numpy() for head, value in zip(heads, found, strict=True)}
    inputs = [pl.DataFrame(schema=HEAD_INPUTS)]
    for head in heads:
        attention = torch.from_numpy(patterns[str(head)])[torch.arange(len(tokens)), at["final_name"]]
        below = read_nodes(anatomy, tokens, at["final_name"], before=head.layer)
        given = {"attention": attention, "resid_end": nodes.resid, "seed": seed}
        inputs.append(head_inputs(anatomy, head, below, pairs, readout, **given))
    looked = attention_by_role(patterns, prompts)
    return {
        "direct_effects": effects,
        "head_inputs": pl.concat(inputs),
        "attention_roles": attention_roles(looked, tokens=role_tokens(prompts, _words(anatomy)), seed=seed),
        "attention_athletes": attention_athletes(looked),
    } | probe_tables(anatomy, prompts, candidates, heads, fixed=fixed is not None, seed=seed)


def probe_tables(anatomy, prompts, candidates, heads, *, fixed=False, seed=0) -> dict[str, pl.DataFrame]:
    halves, ids = halve(prompts, candidates["sport"].to_list(), seed=seed), candidates["token_id"].to_list()
    residuals = list(name_residuals(anatomy, prompts))
    scan = scan_heads(anatomy, residuals, halves, ids, permutations=200, seed=seed)
    follow = heads_to_follow(scan, heads, fixed=fixed)
    layers = [(condition, *pair) for condition in ("full", "name_only") for pair in residuals]
    return {
        "head_probes": scan,
        "head_probe_layers": head_probe_layers(anatomy, follow, layers, halves, ids, seed=seed),
    }


def name_residuals(anatomy, prompts: pl.DataFrame):
    """(layer, residual at the final name token), the embeddings first."""
    tokens, at = torch.tensor(prompts["token_ids"].to_list()), torch.tensor(prompts["final_name"].to_list())
    sites = [Site("resid_pre", 0), *(Site("resid_post", layer) for layer in range(anatomy.n_layers))]
    values = run(anatomy, tokens, reads=[Read(site=site, at=at) for site in sites]).values
    yield from zip(range(-1, anatomy.n_layers), (np.asarray(value) for value in values), strict=True)


def _words(anatomy):
    return anatomy.tokenizer.decode if anatomy.tokenizer is not None else str
