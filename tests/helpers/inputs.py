"""What experiments are given in tests: a model, prompts and activations that are there already, in place of files."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from factfinding.engine.sites import Site
from factfinding.engine.trace import Read, run
from factfinding.inputs import Inputs


def given(**held: Any) -> Inputs:
    """Inputs that hold these things and no files; `prompts_full` is what they call "prompts/full"."""
    by_condition = re.compile("^(prompts|activations)_")
    return Inputs(
        Path("nowhere"),
        declared=(),
        held={by_condition.sub(r"\1/", name): value for name, value in held.items()},
    )


def quiet(message: str) -> None:
    """Progress that nobody reads."""


def known(prompts: pl.DataFrame) -> pl.DataFrame:
    """As much of the table `recall` as experiments look at, with everybody known."""
    return prompts.select("subject", "answer").with_columns(pl.lit(True).alias("known"))


class RunActivations:
    """What a file of activations holds of prompts of one length, read from runs of the model when it is asked for."""

    path = Path("activations of a run")

    def __init__(self, anatomy, prompts: pl.DataFrame) -> None:
        self.anatomy, self.prompts = anatomy, prompts
        self.layer = cache(self._layer)

    def subjects(self) -> pl.DataFrame:
        return self.prompts.select("subject", "answer")

    def names(self) -> list[str]:
        return ["resid@final_name", "pre@final_name", "post@final_name"]

    def layers(self, name: str) -> list[int]:
        return list(range(-1 if name.startswith("resid") else 0, self.anatomy.n_layers))

    def _layer(self, name: str, layer: int) -> np.ndarray:
        kind, _, role = name.partition("@")
        if kind == "resid":
            site = Site("resid_pre", 0) if layer < 0 else Site("resid_post", layer)
        else:
            site = Site(kind, layer)
        tokens = torch.tensor(self.prompts["token_ids"].to_list())
        read = Read(site=site, at=torch.tensor(self.prompts[role].to_list()))
        return run(self.anatomy, tokens, reads=[read]).values[0].numpy()
