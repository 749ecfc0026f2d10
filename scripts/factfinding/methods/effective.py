"""The effective model: a sum of one table per name token, a few MLPs, and an affine probe (P2.9).

    from factfinding.methods.effective import EffectiveModel
    model = EffectiveModel.load("results/organism/effective_model.safetensors")
    model.answer(first=13, last=74)                                   # token ids -> an answer's name
    model(first, last)                                               # the same for tensors of ids -> [batch, answers]

It is what is left of the model after the ladder's last step (`simplified.py`, mean ablation), and equal to it up to
rounding. There, what attention puts on the final name token is a sum of one term per name token. So the terms are
tables, read off runs in which one token of the name changes at a time, and `from_anatomy` makes sure on random names
that the sum is right. Each table has mean zero over its tokens; the means stand in the bias.

The lookup may begin while attention still concatenates. Attention of layers in both ranges has tables of its own,
`gathered`, which are added in its layer. Names of other lengths than two have one table per token as well, and patterns
of their own length; the MLPs and the probe are shared.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from factfinding.engine.batches import Batches
from factfinding.engine.sites import Site
from factfinding.errors import InputError
from factfinding.files import whole
from factfinding.inputs import Inputs
from factfinding.methods.groups import PromptLayout
from factfinding.methods.simplified import Parts, Patterns, constant_mlps, simplified_run
from factfinding.model.anatomy import Anatomy, Block, pick_device

CHECKED = 64
"""Random names on which the tables are held against the model when they are made."""

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Largest difference allowed, relative to the largest value: each term is a difference of two runs."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a saved file says about itself beside its tensors."""

    answers: tuple[str, ...]
    lookup: tuple[int, int]
    concatenate: int
    parallel: bool
    config: dict  # of the whole model, from which its MLPs are made again


@dataclass(frozen=True, kw_only=True, eq=False)
class Names:
    """Which names the tables are made for: their layout, their tokens slot by slot, and their frozen patterns."""

    layout: PromptLayout
    tokens: tuple[Int[Tensor, " choices"], ...]
    patterns: Patterns


@dataclass(frozen=True, kw_only=True, eq=False)
class Constants:
    """What later attention, and MLPs below the lookup, write at the final name token, by layer."""

    attn: Mapping[int, Float[Tensor, " d_model"]]
    mlp: Mapping[int, Float[Tensor, " d_model"]]

    def of(self, n: int) -> dict[str, dict[int, Float[Tensor, "n d_model"]]]:
        """The same for n names, as `simplified_run` takes them."""
        kinds = {"attn": self.attn, "mlp": self.mlp}
        return {
            kind: {layer: value.expand(n, -1) for layer, value in values.items()}
            for kind, values in kinds.items()
        }


class NameTables(nn.Module):
    """Names of one length: by slot and token, what reaches the lookup's first MLP, and what attention adds later.

    `terms`: `[places, choices, d_model]` for each slot; place 0 is the stream that the lookup begins with, the others
    are the attention of its layers. `constants`: `[places, d_model]`.
    """

    def __init__(
        self,
        tokens: Sequence[Int[Tensor, " choices"]],
        terms: Sequence[Float[Tensor, "places choices d_model"]],
        constants: Float[Tensor, "places d_model"],
    ) -> None:
        super().__init__()
        self.n_slots = len(tokens)
        for slot, (choices, table) in enumerate(zip(tokens, terms, strict=True)):
            self.register_buffer(f"tokens_{slot}", choices)
            self.register_buffer(f"terms_{slot}", table)
        self.register_buffer("constants", constants)

    def forward(self, *tokens: Int[Tensor, " batch"]) -> Float[Tensor, "batch places d_model"]:
        """Sum of the terms of a name's tokens, place by place. Raises InputError for a token without a term."""
        total = self.constants
        for slot, ids in enumerate(tokens):
            choices = getattr(self, f"tokens_{slot}")
            row = torch.searchsorted(choices, ids.contiguous()).clamp(max=len(choices) - 1)
            unknown = ids[choices[row] != ids]
            if len(unknown):
                allowed = f"one of the {len(choices)} tokens that stand there in a name"
                raise InputError(f"token {slot + 1} of the name", f"token id {int(unknown[0])}", allowed)
            total = total + getattr(self, f"terms_{slot}")[:, row].transpose(0, 1)
        return total


class EffectiveModel(nn.Module):
    """Token ids of names in, one score per answer out; see the module's docstring."""

    def __init__(
        self,
        shape: Shape,
        names: Mapping[int, NameTables],
        lookup: Sequence[Block],
        weight: Float[Tensor, "d_model answers"],
        bias: Float[Tensor, " answers"],
    ) -> None:
        super().__init__()
        self.shape = shape
        self.names = nn.ModuleDict({str(length): tables for length, tables in names.items()})
        self.norms = nn.ModuleList(copy.deepcopy(block.norm_mlp) for block in lookup)
        self.mlps = nn.ModuleList(copy.deepcopy(block.mlp) for block in lookup)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, *tokens: Int[Tensor, " batch"]) -> Float[Tensor, "batch answers"]:
        """Scores of the answers for names given as one tensor of token ids per name token, first to final."""
        return self.stream(*tokens)[:, -1] @ self.weight + self.bias

    def stream(self, *tokens: Int[Tensor, " batch"]) -> Float[Tensor, "batch layers d_model"]:
        """The residual stream after each lookup layer. Raises InputError for names of a length without tables."""
        if str(len(tokens)) not in self.names:
            lengths = ", ".join(self.names)
            raise InputError(
                "effective model", f"a name of {len(tokens)} tokens", f"names of {lengths} tokens"
            )
        places = self.names[str(len(tokens))](*tokens)
        resid, found = places[:, 0], []
        for i, (norm, mlp) in enumerate(zip(self.norms, self.mlps, strict=True)):
            attended = places[:, i + 1]
            if self.shape.parallel:
                resid = resid + attended + mlp(norm(resid))
            else:
                resid = resid + attended
                resid = resid + mlp(norm(resid))
            found.append(resid)
        return torch.stack(found, dim=1)

    @torch.no_grad()
    def answer(self, *tokens: int, **named: int) -> str:
        """The answer of one name: `answer(13, 74)` or, for a name of two tokens, `answer(first=13, last=74)`."""
        ids = tokens or (named["first"], named["last"])
        device = self.weight.device
        scores = self(*(torch.tensor([token], device=device) for token in ids))
        return self.shape.answers[int(scores.argmax())]

    @classmethod
    @torch.no_grad()
    def from_anatomy(
        cls,
        anatomy: Anatomy,
        parts: Parts,
        names: Sequence[Names],
        constants: Constants,
        *,
        weight: Float[Tensor, "d_model answers"],
        bias: Float[Tensor, " answers"],
        answers: Sequence[str],
        batch_size: int = 1024,
        seed: int = 0,
    ) -> EffectiveModel:
        """The effective model of a loaded model.

        weight, bias: the probe of resid_post of the last lookup layer. Raises InputError where the simplified model is
        not the sum of its tables on random names (it is, unless rounding is coarse: use float32 or float64).
        """
        below = constant_mlps(parts, parallel=anatomy.parallel)
        constants = replace(constants, mlp={layer: constants.mlp[layer] for layer in below})
        run = _Simplified(anatomy, parts, constants, batch_size)
        tables = {group.layout.n_name_tokens: run.tables(group) for group in names}
        shape = Shape(
            answers=tuple(answers),
            lookup=parts.lookup,
            concatenate=parts.concatenate,
            parallel=anatomy.parallel,
            config=anatomy.model.config.to_dict(),
        )
        lookup = anatomy.blocks[parts.lookup[0] : parts.lookup[1] + 1]
        like = {"dtype": anatomy.dtype, "device": anatomy.device}
        made = cls(shape, tables, lookup, weight.to(**like), bias.to(**like)).requires_grad_(False).eval()
        for group in names:
            run.check(made, group, seed)
        return made

    def save(self, path: str | Path) -> None:
        """Write tables, MLPs and probe as safetensors, whole."""
        tensors = {name: value.contiguous().clone() for name, value in self.state_dict().items()}
        with whole(path) as part:
            save_file(tensors, part, {"effective_model": json.dumps(asdict(self.shape), default=str)})

    @classmethod
    def load(cls, path: str | Path) -> EffectiveModel:
        """Read what `save` wrote. Raises InputError for another file, and where a study has no effective model."""
        try:
            with safe_open(str(path), framework="pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise InputError(path, f"no safetensors file ({error})", "an effective model") from None
        if "effective_model" not in about:
            raise InputError(path, about.get("none", "something else"), "an effective model")
        content = json.loads(about["effective_model"])
        for name in ("answers", "lookup"):
            content[name] = tuple(content[name])
        shape = Shape(**content)
        names = {length: _tables(tensors, length) for length in _lengths(tensors)}
        with torch.device("meta"):
            config = AutoConfig.for_model(**shape.config)
            blocks = Anatomy(AutoModelForCausalLM.from_config(config, dtype=tensors["weight"].dtype)).blocks
        lookup = blocks[shape.lookup[0] : shape.lookup[1] + 1]
        model = cls(shape, names, lookup, tensors["weight"], tensors["bias"])
        model.load_state_dict(tensors, assign=True)
        return model.requires_grad_(False).eval()


def effective_model_of(inputs: Inputs) -> EffectiveModel | None:
    """The study's effective model on the configured device; None where there is none."""

    def read() -> EffectiveModel | None:
        if inputs.table("effective_model").is_empty():  # the file then says why
            return None
        model = EffectiveModel.load(inputs.path("effective_model.safetensors"))
        return model.to(pick_device(inputs.settings.compute.device))

    return inputs.once("effective_model.safetensors", read)


@dataclass(frozen=True)
class NoEffectiveModel:
    """What stands in place of a study's effective model, and why there is none; `EffectiveModel.load` says it again."""

    reason: str

    def save(self, path: str | Path) -> None:
        """Write the reason into a file without tensors, whole."""
        with whole(path) as part:
            save_file({}, part, {"none": self.reason})


class _Simplified:
    """Runs of the simplified model on names of choice, and the tables that they give."""

    def __init__(self, anatomy: Anatomy, parts: Parts, constants: Constants, batch_size: int) -> None:
        self.anatomy, self.parts, self.constants = anatomy, parts, constants
        self.batches = Batches(batch_size)
        layers = range(parts.lookup[0], parts.lookup[1] + 1)
        self.sites = [Site("resid_pre", parts.lookup[0]), *(Site("attn_out", layer) for layer in layers)]

    def __call__(self, names: Names, ids: Int[Tensor, "rows slots"]) -> tuple[Tensor, Tensor]:
        """(places, residuals after the lookup's layers) of names given by their token ids."""
        bos = torch.full((1, 1), self.anatomy.bos_token_id, device=ids.device)
        first, last = self.parts.lookup

        def run(part: Int[Tensor, "batch slots"]) -> tuple[Tensor, Tensor]:
            tokens = torch.cat((bos.expand(len(part), -1), part), dim=1)
            written = self.constants.of(len(part))
            resid, read = simplified_run(
                self.anatomy, tokens, names.layout, names.patterns, **written, also=self.sites
            )
            return torch.stack(read, dim=1), resid[:, first : last + 1]

        places, resids = zip(*(found for _, found in self.batches.of(ids, run)), strict=True)
        return torch.cat(places), torch.cat(resids)

    def tables(self, names: Names) -> NameTables:
        """One token changes at a time, the others are the first of their choices."""
        base = torch.stack([choices[0] for choices in names.tokens]).to(self.anatomy.device)
        reference = self(names, base[None])[0][0]
        constants, terms = reference.clone(), []
        for slot, choices in enumerate(names.tokens):
            ids = base.repeat(len(choices), 1)
            ids[:, slot] = choices.to(ids)
            table = self(names, ids)[0] - reference
            mean = table.mean(0)
            constants += mean
            terms.append((table - mean).transpose(0, 1).contiguous())
        return NameTables([choices.to(base.device) for choices in names.tokens], terms, constants)

    def check(self, model: EffectiveModel, names: Names, seed: int) -> None:
        """Random names through both; InputError where they differ."""
        generator = torch.Generator().manual_seed(seed)
        drawn = [
            choices[torch.randint(len(choices), (CHECKED,), generator=generator)] for choices in names.tokens
        ]
        ids = torch.stack(drawn, dim=1).to(self.anatomy.device)
        truth = self(names, ids)[1]
        found = self.batches.run(lambda part: model.stream(*ids[part].T), len(ids))
        error = float((found - truth).abs().max() / truth.abs().max())
        allowed = TOLERANCE.get(self.anatomy.dtype, 1e-1)
        if not error <= allowed:
            found = f"a relative difference of {error:.1e} between the effective and the simplified model"
            raise InputError("effective model", found, f"at most {allowed:.0e} in {self.anatomy.dtype}")


def _lengths(tensors: Mapping[str, Tensor]) -> list[int]:
    return sorted({int(name.split(".")[1]) for name in tensors if name.startswith("names.")})


def _tables(tensors: Mapping[str, Tensor], length: int) -> NameTables:
    start = f"names.{length}."
    slots = range(length)
    return NameTables(
        [tensors[f"{start}tokens_{slot}"] for slot in slots],
        [tensors[f"{start}terms_{slot}"] for slot in slots],
        tensors[f"{start}constants"],
    )
