"""The same work with this project's engine, by each of its ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from peers import Cached, batches
from torch import Tensor
from transformers import PreTrainedModel
from workload import END, NAME, LayerPosition, NeuronSweep

from factfinding.engine import trace
from factfinding.engine.batches import Batches
from factfinding.engine.clean import prepare
from factfinding.engine.difference import Difference
from factfinding.engine.readings import Logits, LogProbs, clean_values
from factfinding.engine.response import Response, curves
from factfinding.engine.sites import Site
from factfinding.engine.slopes import neuron_slopes
from factfinding.engine.suffix import Suffix, edit, edit_neurons
from factfinding.model.anatomy import Anatomy

CACHED = ("resid_post", "attn_out", "mlp_out", "z")


class SlowTwin:
    """`trace.run`: hooks on the whole model, the unembedding at END only."""

    name = "slow twin"

    def __init__(self, model: PreTrainedModel, rows: int) -> None:
        self.anatomy, self.rows = Anatomy(model), rows

    @torch.no_grad()
    def neuron_sweep(self, work: NeuronSweep) -> Float[Tensor, " rows"]:
        site, found = Site("post", work.layer), []
        clean = self._run(work.tokens, reads=[trace.Read(site=site, at=self._at(NAME, 1))])
        for neuron, value, tokens in batches(work, self.rows):
            post = clean.values[0].expand(len(value), -1).clone()
            post[torch.arange(len(value), device=neuron.device), neuron] = value.to(post)
            edits = [trace.Edit(site=site, at=self._at(NAME, len(value)), value=post)]
            found.append(self._run(tokens, edits=edits).logits.log_softmax(-1)[:, work.answer])
        return torch.cat(found) - clean.logits.log_softmax(-1)[:, work.answer]

    def cache(self, tokens: Tensor) -> Cached:
        at = torch.tensor([[NAME, END]], device=tokens.device).expand(len(tokens), -1)
        layers = range(self.anatomy.n_layers)
        reads = [trace.Read(site=Site(kind, layer), at=at) for kind in CACHED for layer in layers]
        values = trace.run(self.anatomy, tokens, reads=reads).values
        n = len(layers)
        parts = {kind: values[i * n : (i + 1) * n] for i, kind in enumerate(CACHED)}
        return {kind: torch.stack([value.flatten(2) for value in part]) for kind, part in parts.items()}

    def _run(self, tokens: Tensor, **options: Any) -> trace.Run:
        return trace.run(self.anatomy, tokens, logits_at=self._at(END, len(tokens)), **options)

    def _at(self, position: int, n: int) -> Tensor:
        return torch.full((n,), position, device=self.anatomy.device)


class Fast:
    """Suffix or difference form, for every draw or by curves; reads log P, or the answer's logit alone."""

    def __init__(self, engine: Suffix | Difference, rows: int, *, logit: bool = False) -> None:
        self.engine, self.anatomy, self.logit = engine, engine.anatomy, logit
        self.rows, self.batches = rows, Batches(rows, print)
        self.name = f"{engine.name}, the answer's logit" if logit else engine.name

    def neuron_sweep(self, work: NeuronSweep) -> Float[Tensor, " rows"]:
        return self._evaluate(work)(*work.rows)

    def curves(self, work: NeuronSweep, *, tolerance: float = 1e-4) -> Response:
        """The sweep by curves; `.effects` are `[neurons, draws]`."""
        clean = self._values(work)[work.neurons]
        evaluate = self._evaluate(work)
        slopes = neuron_slopes(self.anatomy, work.tokens, at=NAME, end=END, answer=work.answer)
        return curves(
            lambda index, value: evaluate(work.neurons[index], value),
            clean,
            work.draws,
            tolerance=tolerance,
            slope=slopes[work.layer, work.neurons],
        )

    def layer_position(self, work: LayerPosition) -> Float[Tensor, "layers positions prompts"]:
        clean, donor = prepare(self.anatomy, work.tokens), prepare(self.anatomy, work.donors)
        everyone = torch.arange(len(work.tokens), device=self.anatomy.device)
        reading = Logits(at=END, tokens=work.answers)
        before, found = clean_values(self.anatomy, clean, reading), []
        for at in range(work.tokens.shape[1]):
            edits = [
                edit(
                    self.anatomy,
                    clean,
                    Site("resid_pre", layer),
                    at=at,
                    prompt=everyone,
                    value=donor.resid[layer, :, at],
                )
                for layer in range(self.anatomy.n_layers)
            ]
            logits = before + torch.stack(self.engine.joint_effects(clean, edits, reading))
            found.append(logits[..., 0] - logits[..., 1])
        return torch.stack(found, dim=1)

    def _evaluate(self, work: NeuronSweep) -> Callable[[Tensor, Tensor], Tensor]:
        """Effects of (neuron, value) rows, `rows` of them at a time; the clean run is made once."""
        clean = prepare(self.anatomy, work.tokens, start=NAME)
        kind = Logits if self.logit else LogProbs
        reading = kind(at=END, tokens=torch.tensor([work.answer], device=self.anatomy.device))

        def evaluate(neurons: Tensor, values: Tensor) -> Tensor:
            def effects(part: slice) -> Tensor:
                value, neuron = values[part], neurons[part]
                prompt = torch.zeros_like(neuron)
                edits = edit_neurons(
                    self.anatomy, clean, layer=work.layer, at=NAME, prompt=prompt, neuron=neuron, value=value
                )
                return self.engine.effects(clean, edits, reading)[:, 0]

            return self.batches.run(effects, len(values))

        return evaluate

    def _values(self, work: NeuronSweep) -> Float[Tensor, " d_mlp"]:
        return neuron_values(self.anatomy, work.tokens, work.layer)[0]


def neuron_values(anatomy: Anatomy, tokens: Tensor, layer: int) -> Float[Tensor, "prompts d_mlp"]:
    """All neurons of a layer at the name."""
    at = torch.full((len(tokens),), NAME, device=tokens.device)
    return trace.run(anatomy, tokens, reads=[trace.Read(site=Site("post", layer), at=at)]).values[0]
