"""Effective models of random models, whose parts are drawn and not measured."""

from __future__ import annotations

import torch

from factfinding.methods.effective import Constants, EffectiveModel, Names
from factfinding.methods.groups import PromptLayout
from factfinding.methods.simplified import Parts, constant_mlps, mean_patterns, simplified_run
from helpers.models import random_anatomy

ANSWERS = ("baseball", "basketball", "football")


class Bos:
    """All of a tokenizer that is needed."""

    bos_token_id = eos_token_id = 0


def made(family: str, parts: Parts, lengths=(2,), dtype=torch.float64):
    """A random model, its effective model, and for each length names, and their tokens with BOS."""
    anatomy = random_anatomy(family, dtype=dtype, vocabulary=60)
    anatomy.tokenizer = Bos()
    generator = torch.Generator().manual_seed(1)
    constants = {
        kind: {
            layer: torch.randn(anatomy.d_model, generator=generator, dtype=dtype)
            for layer in range(anatomy.n_layers)
        }
        for kind in ("attn", "mlp")
    }
    constants["attn"] = {
        layer: value for layer, value in constants["attn"].items() if layer > parts.concatenate
    }
    names, tokens = [], {}
    for length in lengths:
        roles = ("bos", *["first_name"] * (length > 1), *["middle_name"] * (length - 2), "final_name")
        layout = PromptLayout(n_tokens=length + 1, first_name=1, final_name=length, end=length, roles=roles)
        ids = torch.randint(1, 60, (12, length), generator=generator)
        tokens[length] = torch.cat((torch.zeros(12, 1, dtype=torch.int64), ids), dim=1)
        patterns = mean_patterns(anatomy, tokens[length], layout, parts.concatenate, batch_size=5)
        names.append(Names(layout=layout, tokens=tuple(slot.unique() for slot in ids.T), patterns=patterns))
    probe = {
        "weight": torch.randn(anatomy.d_model, 3, generator=generator, dtype=dtype),
        "bias": torch.randn(3, generator=generator, dtype=dtype),
    }
    model = EffectiveModel.from_anatomy(
        anatomy, parts, names, Constants(**constants), answers=ANSWERS, **probe
    )
    return anatomy, model, names, tokens, constants, probe


def ablated(anatomy, parts, names, tokens, constants):
    """resid_post of the ablated model, by the project's own simplified run."""
    mlp = {layer: constants["mlp"][layer] for layer in constant_mlps(parts, parallel=anatomy.parallel)}
    return simplified_run(anatomy, tokens, names.layout, names.patterns, attn=constants["attn"], mlp=mlp)[0]
