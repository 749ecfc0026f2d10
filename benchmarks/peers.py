"""The same work with other tools, written as their users would: batched where the tool lets one.

Each of them runs the whole model for every patch, on rows of `rows` patches at once where patches are of one prompt.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel
from workload import END, NAME, LayerPosition, NeuronSweep

from factfinding.families import KNOWN_TYPES
from factfinding.model.tiny import byte_level_tokenizer

Cached = dict[str, Float[Tensor, "layers prompts ..."]]


class HuggingFaceHooks:
    """Plain forward hooks on the Hugging Face model, of any family."""

    name = "Hugging Face + hooks"

    def __init__(self, model: PreTrainedModel, rows: int) -> None:
        self.model, self.rows, self.family = model, rows, KNOWN_TYPES[model.config.model_type]
        self.layers = model.get_submodule(f"{self.family.body}.{self.family.blocks}")

    def body(self, tokens: Tensor) -> Tensor:
        """The model without its unembedding, and nothing read."""
        return self.model.get_submodule(self.family.body)(input_ids=tokens, use_cache=False).last_hidden_state

    def neuron_sweep(self, work: NeuronSweep) -> Float[Tensor, " rows"]:
        out = self.layers[work.layer].get_submodule(f"{self.family.mlp}.{self.family.mlp_out}")
        found = []
        for neuron, value, tokens in batches(work, self.rows):

            def patch(_module, args, neuron=neuron, value=value):
                args[0][torch.arange(len(value), device=neuron.device), NAME, neuron] = value.to(args[0])

            handle = out.register_forward_pre_hook(patch)
            found.append(self._logits(tokens, handle).log_softmax(-1)[:, work.answer])
        clean = (
            self.model(input_ids=work.tokens, use_cache=False).logits[:, END].log_softmax(-1)[:, work.answer]
        )
        return torch.cat(found) - clean

    def layer_position(self, work: LayerPosition) -> Float[Tensor, "layers positions prompts"]:
        donor, handles = {}, []
        for i, layer in enumerate(self.layers):
            handles.append(layer.register_forward_pre_hook(lambda _m, args, i=i: donor.update({i: args[0]})))
        self._logits(work.donors, *handles)
        return torch.stack(
            [
                torch.stack(
                    [self._patched(work, layer, at, donor[layer]) for at in range(work.tokens.shape[1])]
                )
                for layer in range(len(donor))
            ]
        )

    def _patched(self, work: LayerPosition, layer: int, at: int, donor: Tensor) -> Float[Tensor, " prompts"]:
        def patch(_module, args):
            resid = args[0].clone()
            resid[:, at] = donor[:, at]
            return (resid, *args[1:])

        logits = self._logits(work.tokens, self.layers[layer].register_forward_pre_hook(patch))
        return logits[:, work.answers[0]] - logits[:, work.answers[1]]

    def _logits(self, tokens: Tensor, *handles) -> Float[Tensor, "rows d_vocab"]:
        try:
            return self.model(input_ids=tokens, use_cache=False).logits[:, END]
        finally:
            for handle in handles:
                handle.remove()


class TransformerLens:
    """TransformerBridge around the Hugging Face model, hooks by name, and its own patching module."""

    name = "TransformerLens"

    def __init__(self, model: PreTrainedModel, rows: int) -> None:
        from transformer_lens.model_bridge import TransformerBridge

        self.rows = rows
        with (
            tempfile.TemporaryDirectory() as folder
        ):  # the bridge looks for a tokenizer, on the hub if need be
            byte_level_tokenizer(["Fact: Tiger Woods plays the sport of golf"], 300).save_pretrained(folder)
            model.config.save_pretrained(folder)
            self.bridge = TransformerBridge.boot_transformers(
                folder, hf_model=model, device=str(model.device)
            )
        self.bridge.eval()

    def neuron_sweep(self, work: NeuronSweep) -> Float[Tensor, " rows"]:
        hook_name, found = f"blocks.{work.layer}.mlp.hook_post", []
        for neuron, value, tokens in batches(work, self.rows):

            def patch(post, hook, neuron=neuron, value=value):
                post[torch.arange(len(value), device=neuron.device), NAME, neuron] = value.to(post)
                return post

            logits = self.bridge.run_with_hooks(tokens, fwd_hooks=[(hook_name, patch)])
            found.append(logits[:, END].log_softmax(-1)[:, work.answer])
        return torch.cat(found) - self.bridge(work.tokens)[:, END].log_softmax(-1)[:, work.answer]

    def layer_position(self, work: LayerPosition) -> Float[Tensor, "layers positions prompts"]:
        from transformer_lens import patching

        def metric(logits: Tensor) -> Tensor:
            return logits[:, END, work.answers[0]] - logits[:, END, work.answers[1]]

        _, donor = self.bridge.run_with_cache(
            work.donors, names_filter=lambda name: name.endswith("hook_resid_pre")
        )
        return patching.get_act_patch_resid_pre(self.bridge, work.tokens, donor, metric, reduce="none").values

    def cache(self, tokens: Tensor) -> Cached:
        kinds = {
            "resid_post": "hook_resid_post",
            "attn_out": "hook_attn_out",
            "mlp_out": "hook_mlp_out",
            "z": "attn.hook_z",
        }
        _, cached = self.bridge.run_with_cache(
            tokens, names_filter=lambda name: name.endswith(tuple(kinds.values()))
        )
        layers = range(self.bridge.cfg.n_layers)
        at = torch.tensor([NAME, END], device=tokens.device)
        return {
            kind: torch.stack([cached[f"blocks.{layer}.{name}"][:, at].flatten(2) for layer in layers])
            for kind, name in kinds.items()
        }


class NNsight:
    """nnsight's traces, on the Hugging Face model's own modules."""

    name = "nnsight"

    def __init__(self, model: PreTrainedModel, rows: int) -> None:
        import nnsight

        self.rows, self.model = rows, nnsight.NNsight(model)

    def neuron_sweep(self, work: NeuronSweep) -> Float[Tensor, " rows"]:
        model, found = self.model, []
        for neuron, value, tokens in batches(work, self.rows):
            with model.trace(tokens):
                post = model.gpt_neox.layers[work.layer].mlp.act.output
                post[torch.arange(len(value), device=neuron.device), NAME, neuron] = value.to(post)
                logits = model.output.logits[:, END].save()
            found.append(logits.log_softmax(-1)[:, work.answer])
        with model.trace(work.tokens):
            clean = model.output.logits[:, END].save()
        return torch.cat(found) - clean.log_softmax(-1)[:, work.answer]

    def layer_position(self, work: LayerPosition) -> Float[Tensor, "layers positions prompts"]:
        model, layers = self.model, self.model.gpt_neox.layers
        with model.trace(work.donors):
            donor = [layer.input for layer in layers].save()
        found = []
        for layer in range(len(donor)):
            for at in range(work.tokens.shape[1]):
                with model.trace(work.tokens):
                    layers[layer].input[:, at] = donor[layer][:, at]
                    logits = model.output.logits[:, END].save()
                found.append(logits[:, work.answers[0]] - logits[:, work.answers[1]])
        return torch.stack(found).unflatten(0, (len(donor), -1))

    def cache(self, tokens: Tensor) -> Cached:
        model, at = self.model, torch.tensor([NAME, END])
        found: dict[str, list[Tensor]] = {"z": [], "attn_out": [], "mlp_out": [], "resid_post": []}
        with model.trace(tokens):
            saved = found.save()
            for layer in model.gpt_neox.layers:
                saved["z"].append(layer.attention.dense.input[:, at])
                saved["attn_out"].append(layer.attention.dense.output[:, at])
                saved["mlp_out"].append(layer.mlp.output[:, at])
                saved["resid_post"].append(layer.output[:, at])
        return {kind: torch.stack(values) for kind, values in saved.items()}


def batches(work: NeuronSweep, rows: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Neuron, value and prompt of each patch, `rows` patches at a time."""
    neurons, values = work.rows
    for start in range(0, len(values), rows):
        value = values[start : start + rows]
        yield neurons[start : start + rows], value, work.tokens.expand(len(value), -1)
