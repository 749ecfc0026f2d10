"""Load any Hugging Face causal language model and know where it keeps its parts.

All that differs between model families stands in the table of families.py. The rest of the library speaks of embeddings,
blocks, heads, neurons, norms and the unembedding, and never of module names.

What the blocks compute here (`Block.__call__`) is written out again, next to the model's own forward pass, because
the fast engine needs to enter it in the middle. `check_guards` runs both on a prompt when a model is loaded, and again
before the first prompt that is longer (`Anatomy.guard`); a model on which they disagree is refused, not silently
mis-measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
)
from transformers.masking_utils import eager_mask
from transformers.pytorch_utils import Conv1D
from transformers.utils.logging import disable_progress_bar

from factfinding.data.tokens import first_token
from factfinding.errors import InputError
from factfinding.families import KNOWN_TYPES, Family, check_family
from factfinding.model.tokenizer import read_tokenizer
from factfinding.model.weights import all_finite
from factfinding.model_folder import stored_type

WINDOWS = ("sliding_window", "window_size")
"""Keys of configurations that say how far back attention sees, in some layers or in all."""
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
GUARDED, COMPARED = 9, 32
"""Tokens of the prompts on which the guards run at load; last positions at which longer prompts are compared."""
GUARD_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 6e-2, torch.float16: 2e-2}
"""Largest difference that a guard allows, relative to the largest value compared."""
STORED = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Types as safetensors files name them."""


def full_precision_attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **_):
    """Eager attention whose softmax keeps float64 where the model has it.

    The library's own eager attention rounds every softmax to float32, which puts 1e-8 of noise on a float64 model: as
    much as the single-neuron effects that a float64 run is there to check. In float32 and below it is the same.
    """
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    z, pattern = _attend(query, key, value, attention_mask, scale)
    return z.transpose(1, 2).contiguous(), pattern


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """z `[batch, heads, seq, d_head]` and pattern; `mask` is added to the scores."""
    key, value = repeat_heads(key, query.shape[1]), repeat_heads(value, query.shape[1])
    scores = query @ key.transpose(-1, -2) * scale
    if mask is not None:
        scores = scores + mask
    pattern = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    return pattern @ value, pattern


ATTENTION = "factfinding"
AttentionInterface.register(ATTENTION, full_precision_attention)
AttentionMaskInterface.register(ATTENTION, eager_mask)


def _full_precision_norm(module: nn.Module, x: Tensor, *, offset: float) -> Tensor:
    """An RMS norm that keeps float64, for the reason of `full_precision_attention`: the library's round to float32."""
    eps = module.eps if hasattr(module, "eps") else module.variance_epsilon
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (normed * (module.weight + offset)).to(x.dtype)


def keep_float64(model: nn.Module, family: Family) -> None:
    """Give every RMS norm of a float64 model a forward pass in float64. A method, so that a copy of it has its own."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = MethodType(partial(_full_precision_norm, offset=family.gain_offset), module)


class Parts(nn.Module):
    """An MLP whose parts lie in the block itself: the same parts, one after the other, under their names."""

    def __init__(self, block: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        for name in names:
            self.add_module(name, block.get_submodule(name))

    def forward(self, x: Tensor) -> Tensor:
        for part in self.children():
            x = part(x)
        return x


def weight_in_out(module: nn.Module) -> Float[Tensor, "d_in d_out"]:
    """A projection's weight with inputs as rows, whether it is `nn.Linear` or GPT-2's `Conv1D`."""
    return module.weight if isinstance(module, Conv1D) else module.weight.T


class Block:
    """One transformer block, its parts under plain names and its computation in pieces that can be entered anywhere."""

    def __init__(self, module: nn.Module, family: Family, index: int, *, d_head: int, parallel: bool) -> None:
        self.module, self.family, self.index, self.d_head, self.parallel = (
            module,
            family,
            index,
            d_head,
            parallel,
        )
        self.norm_attn = module.get_submodule(family.norm_attn)
        self.norm_mlp = module.get_submodule(family.norm_mlp)
        self.attn = module.get_submodule(family.attn)
        self.out_proj = module.get_submodule(family.out_proj)
        self.value_proj = module.get_submodule(family.value_proj)
        self.mlp = module.get_submodule(family.mlp) if family.mlp else Parts(module, family.mlp_parts)
        self.mlp_act = self.mlp.get_submodule(family.mlp_act)
        self.mlp_out = self.mlp.get_submodule(family.mlp_out)
        self.scale = family.scale(self.attn, d_head)
        if family.own_attention is not None:
            setattr(self.attn, family.own_attention, _own_attention(self.attn, self.scale))

    @property
    def out_weight(self) -> Float[Tensor, "heads d_head d_model"]:
        """W_O of every head."""
        return weight_in_out(self.out_proj).unflatten(0, (-1, self.d_head))

    @property
    def neuron_out(self) -> Float[Tensor, "d_mlp d_model"]:
        """What one unit of a neuron's post-activation adds to the residual stream."""
        return weight_in_out(self.mlp_out)

    def qkv(self, normed: Tensor, rotary: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `[batch, heads, seq, d_head]` of a normed residual, positions already rotated in.

        Keys and values have as many heads as the model keeps (fewer than queries in grouped-query attention).
        """
        q, k, v = self.family.project(self.attn, normed, self.d_head)
        if rotary is not None:
            q, k = (rotate(x, *rotary, rotated=self.family.rotated) for x in (q, k))
        return q, k, v

    def pattern(
        self, q: Tensor, k: Tensor, visible: Bool[Tensor, "query key"]
    ) -> Float[Tensor, "batch heads query key"]:
        """Attention pattern of queries over keys; `visible` says which key a query may see."""
        scores = q @ repeat_heads(k, q.shape[1]).transpose(-1, -2) * self.scale
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
        return scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(q.dtype)

    def mix(self, pattern: Tensor, v: Tensor) -> Float[Tensor, "batch seq heads d_head"]:
        """z: each head's values, weighted by its pattern."""
        return (pattern @ repeat_heads(v, pattern.shape[1])).transpose(1, 2)

    def attn_out(self, z: Float[Tensor, "batch seq heads d_head"]) -> Float[Tensor, "batch seq d_model"]:
        """The attention block's output: all heads through W_O, with its bias."""
        return self.out_proj(z.flatten(-2))

    def neurons(
        self, normed: Tensor
    ) -> tuple[Float[Tensor, "batch seq d_mlp"], Float[Tensor, "batch seq d_mlp"]]:
        """Pre- and post-activations of all neurons."""
        return self.family.neurons(self.mlp, normed)

    def posts(self, mid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_mlp"]:
        """Post-activations of all neurons, from the residual stream that the MLP reads."""
        return self.neurons(self.norm_mlp(mid))[1]

    def looked_up(self, mid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """The MLP's output, from the residual stream that it reads."""
        return self.mlp_out(self.posts(mid))

    def __call__(
        self, resid: Tensor, rotary: tuple[Tensor, Tensor] | None, visible: Tensor
    ) -> Float[Tensor, "batch seq d_model"]:
        """resid_pre -> resid_post, over whole prompts."""
        q, k, v = self.qkv(self.norm_attn(resid), rotary)
        attn = self.attn_out(self.mix(self.pattern(q, k, visible), v))
        mid = resid if self.parallel else resid + attn
        return resid + attn + self.looked_up(mid)


def _own_attention(attn: nn.Module, scale: float) -> Callable[..., tuple[Tensor, Tensor]]:
    """What takes the place of attention that rounds scores to float32, for the reason of `full_precision_attention`.

    `attn.bias`, where there is one, says which key each query may see: in local layers, the last few only.
    """

    def attend(
        query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        n = query.shape[-2]
        if hasattr(attn, "bias"):
            hidden = query.new_zeros(n, n).masked_fill(~attn.bias[0, 0, :n, :n], torch.finfo(query.dtype).min)
            attention_mask = hidden if attention_mask is None else torch.minimum(hidden, attention_mask)
        return _attend(query, key, value, attention_mask, scale)

    return attend


def _swapped_halves(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def _swapped_neighbours(x: Tensor) -> Tensor:
    return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)


SWAPPED = {"halves": _swapped_halves, "neighbours": _swapped_neighbours}
"""Each dimension's partner in its rotation, with its sign, by `Family.rotated`."""


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, rotated: str = "halves") -> Tensor:
    """Rotary position embedding on the leading dimensions of each head; `cos`, `sin`: `[batch, seq, rotary]`."""
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    turned, passed = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    return torch.cat((turned * cos + SWAPPED[rotated](turned) * sin, passed), dim=-1)


def repeat_heads(x: Tensor, n_heads: int) -> Tensor:
    """Keys or values of grouped-query attention, one per query head."""
    return x if x.shape[1] == n_heads else x.repeat_interleave(n_heads // x.shape[1], dim=1)


class Anatomy:
    """A loaded model and its parts: embeddings, blocks, final norm, unembedding, and their sizes."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any = None, *, bos: str = "auto", template: str = ""
    ) -> None:
        config = model.config
        check_family(config.to_dict(), "model")
        self.model, self.tokenizer, self.family = model, tokenizer, KNOWN_TYPES[config.model_type]
        self.bos, self.template = bos, template
        if model.dtype == torch.float64:
            keep_float64(model, self.family)
        if self.family.interface:
            model.set_attn_implementation(ATTENTION)
        self.body = model.get_submodule(self.family.body)
        self.embedding = self.body.get_submodule(self.family.embed)
        self.final_norm = self.body.get_submodule(self.family.final_norm)
        self.unembed = model.get_output_embeddings()
        self.d_model, self.d_vocab = config.hidden_size, self.embedding.num_embeddings
        self.n_heads = config.num_attention_heads
        own = getattr(config, "num_key_value_heads", None)
        self.n_kv_heads = self.family.fixed_kv_heads or own or self.n_heads
        self.d_head = getattr(config, "head_dim", None) or self.d_model // self.n_heads
        self.parallel = bool(self.family.parallel(config))
        windows = (getattr(config, key, None) for key in WINDOWS)
        self.window = min((window for window in windows if window is not None), default=None)
        modules = self.body.get_submodule(self.family.blocks)
        self.blocks = [
            Block(module, self.family, i, d_head=self.d_head, parallel=self.parallel)
            for i, module in enumerate(modules)
        ]
        self.n_layers, self.d_mlp = len(self.blocks), self.blocks[0].neuron_out.shape[0]
        self.positions: int | None = getattr(config, "max_position_embeddings", None)
        self.guarded: int | None = None  # the longest prompt on which the guards ran; None: they never do
        self.where: object = "model"  # the folder that it was loaded from

    def guard(self, n_tokens: int) -> None:
        """Before a prompt of `n_tokens` runs: the model has room for it, and its guards hold at this length too.

        What differs only between tokens far apart, such as a sliding window, passes on short prompts. Each length is tried
        once, and of models that were loaded only. Raises InputError as `check_guards`, and for a prompt too long.
        """
        if self.positions is not None and n_tokens > self.positions:
            raise InputError(
                f"{self.where}, on a prompt",
                f"{n_tokens} tokens, BOS included",
                f"at most {self.positions}, the model's positions",
            )
        if self.guarded is not None and n_tokens > self.guarded:
            self.guarded = None  # the guards' own runs ask for none
            check_guards(self, where=self.where, n_tokens=n_tokens)
            self.guarded = n_tokens

    @property
    def mlps_of_several_tokens(self) -> range:
        """Layers whose MLP can read more than its own token.

        In a parallel block the MLP reads what its attention reads, so MLP 0 has the embedding alone and can combine nothing.
        Where attention goes first, MLP 0 reads what attention 0 brought.
        """
        return range(1 if self.parallel else 0, self.n_layers)

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.weight.dtype

    @cached_property
    def bos_token_id(self) -> int:
        """The token that every prompt begins with (`bos_token_id`)."""
        return self.bos_before(self.template)

    def bos_before(self, template: str) -> int:
        """The same for prompts of another wording, whose words before the name are `template`."""
        return bos_token_id(self.tokenizer, self.bos, template)

    def rotary(self, positions: Int[Tensor, "batch seq"]) -> tuple[Tensor, Tensor] | None:
        """cos and sin of the positions, or None where positions are learned embeddings."""
        if self.family.positions is not None:
            return None
        return self.family.rotary(self.body, self.embedding.weight, positions)

    def visible(self, n: int) -> Bool[Tensor, "n n"]:
        """Which key (column) a query (row) may see in a prompt of n tokens.

        Raises InputError for a prompt longer than the smallest window of attention that slides: in shorter ones every
        token is in every window, and only those are computed here.
        """
        if self.window is not None and n > self.window:
            raise InputError(
                "prompt", f"{n} tokens", f"at most {self.window}, the window of this model's attention"
            )
        return causal(n, device=self.device)

    def embed(self, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq d_model"]:
        """The residual stream before block 0."""
        resid = self.embedding(tokens)
        if self.family.positions is not None:
            rows = position_ids(tokens) + self.family.position_offset
            resid = resid + self.body.get_submodule(self.family.positions).weight[rows]
        return resid

    def logits(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:
        """Final norm and unembedding."""
        return self.unembed(self.final_norm(resid))

    def forward(self, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq d_vocab"]:
        """The whole model through `Block.__call__`; `check_guards` holds it against the model's own forward."""
        return self.logits(self.resid(tokens))

    def resid(self, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq d_model"]:
        """The residual stream after the last block."""
        resid, rotary = self.embed(tokens), self.rotary(position_ids(tokens))
        visible = self.visible(tokens.shape[1])
        for block in self.blocks:
            resid = block(resid, rotary, visible)
        return resid


def bos_token_id(tokenizer: Any, bos: str = "auto", template: str = "") -> int:
    """The token that every prompt begins with, as `model.bos` in the configuration says.

    auto: the tokenizer's BOS, or its end-of-text where it has none; InputError where there is neither. none: the first token
    of the words that stand before every name, `template`. Else a special token of the tokenizer, by name; InputError for
    one that it does not have.
    """
    if bos == "none":
        return first_token(tokenizer, template)
    if bos != "auto":
        named = tokenizer.all_special_tokens
        special = tokenizer.get_added_vocab() | dict(
            zip(named, tokenizer.convert_tokens_to_ids(named), strict=True)
        )
        if bos not in special:
            listed = ", ".join(sorted(special)[:20])
            raise InputError(
                "config.model.bos", repr(bos), f"auto, none, or a special token: {listed or 'there is none'}"
            )
        return special[bos]
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token
    raise InputError("tokenizer", "neither a BOS nor an end-of-text token", "one of them, or model.bos")


def position_ids(tokens: Int[Tensor, "batch seq"]) -> Int[Tensor, "1 seq"]:
    return torch.arange(tokens.shape[1], device=tokens.device)[None]


def causal(n: int, *, device: torch.device | None = None) -> Bool[Tensor, "n n"]:
    """Which key (column) a query (row) may see."""
    return torch.ones(n, n, dtype=torch.bool, device=device).tril()


def pick_device(name: str) -> torch.device:
    """`auto` takes the GPU where there is one. Raises InputError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            "compute.device", f"{name!r}, but no CUDA device is visible", "auto, cpu, or a GPU that is there"
        )
    return torch.device(name)


def read_config(folder: Path) -> dict[str, Any]:
    """A model folder's config.json as a dict; InputError names what is missing or wrong in the folder."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(folder, "no config.json", "a model folder in the Hugging Face format")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(path, f"no valid JSON ({error})", "a model configuration") from None
    check_family(config, path)
    if (
        config.get("quantization_config") is not None
    ):  # where it is of an unknown kind, the library ignores it
        raise InputError(
            path, "a quantization_config", "weights that are floating-point numbers, not quantized"
        )
    return config


def check_folder(folder: Path, *, allow_pickle: bool = False) -> None:
    """Raise InputError for a folder that lacks a part of a model, before anything heavy is loaded."""
    read_config(folder)
    if not (folder / "tokenizer.json").is_file():
        raise InputError(
            folder, "no tokenizer.json", "a fast tokenizer (its offsets say which tokens are the name)"
        )
    has_safetensors = any(folder.glob("*.safetensors"))
    if not has_safetensors and any(folder.glob("*.bin")) and not allow_pickle:
        raise InputError(
            folder,
            "pickle weights (*.bin) only",
            "safetensors, or `model.allow_pickle: true` if you trust the source",
        )
    if not has_safetensors and not any(folder.glob("*.bin")):
        raise InputError(folder, "no weights", "*.safetensors beside config.json")


def load(
    folder: str | Path,
    *,
    dtype: str = "float32",
    device: str = "auto",
    allow_pickle: bool = False,
    bos: str = "auto",
    template: str = "",
) -> Anatomy:
    """Load a model folder for analysis: local files only, no remote code, attention with patterns, evaluation mode.

    Raises InputError for a missing or damaged part, an unknown family, weights that are missing, of another shape, not
    finite or of no use to the model, a tokenizer that does not fit, and a failed guard.
    """
    folder = Path(folder)
    check_folder(folder, allow_pickle=allow_pickle)
    disable_progress_bar()  # one bar for each rule that loads a model says nothing
    on, precision = pick_device(device), DTYPES[dtype]
    try:
        model, loaded = read_model(folder, precision, allow_pickle=allow_pickle, as_stored=on.type != "cpu")
        tokenizer = read_tokenizer(folder)
    except InputError:
        raise
    except Exception as error:  # the library raises a score of kinds, all of them about the folder
        raise InputError(
            folder,
            f"a model that does not load ({type(error).__name__}: {error})",
            "a whole Hugging Face model folder",
        ) from error
    _check_loaded(loaded, folder)
    move(model.requires_grad_(False).eval(), on, precision)
    anatomy = Anatomy(model, tokenizer, bos=bos, template=template)
    _check_weights(anatomy, folder)
    check_guards(anatomy, where=folder, n_tokens=min(GUARDED, anatomy.positions or GUARDED))
    anatomy.guarded, anatomy.where = GUARDED, folder
    return anatomy


def read_model(
    folder: Path, dtype: torch.dtype, *, allow_pickle: bool = False, as_stored: bool
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model of a folder on the CPU, and what transformers says of its weights.

    as_stored: in the precision of its files where `dtype` holds all their numbers, to be widened by `move`. The weights are
    then the files themselves, mapped into memory, and no byte of them is read before it moves. A model that makes constants
    in its own precision (Gemma scales embeddings) would have coarser ones, and is read in `dtype` all the same.
    """
    stored = STORED.get(stored_type(folder) or "") if as_stored else None
    if stored is not None and stored != dtype and torch.promote_types(stored, dtype) == dtype:
        model, loaded = _from_files(folder, stored, allow_pickle)
        if all(constant.dtype != stored for constant in model.buffers()):
            return model, loaded
    return _from_files(folder, dtype, allow_pickle)


def _from_files(
    folder: Path, dtype: torch.dtype, allow_pickle: bool
) -> tuple[PreTrainedModel, dict[str, Any]]:
    options = {"local_files_only": True, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(folder, **options)
    return AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        attn_implementation="eager",  # `Anatomy` sets ours; some families know no other name
        use_safetensors=None if allow_pickle else True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that our own error names them
        **options,
    )


def move(model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> None:
    """To the device, each weight as it is and widened there: fewer bytes move, and the device is quicker at it. One weight
    at a time, so that no second copy of the model is in its memory. Constants keep their precision."""
    for weight in model.parameters():
        weight.data = weight.data.to(device).to(torch.promote_types(weight.dtype, dtype))
    model.to(device).config.dtype = dtype


def _check_loaded(loaded: Mapping[str, Any], folder: Path) -> None:
    """A weight that the files lack, or hold in another shape, has been filled with random numbers; one that they hold and
    the model has not has been dropped."""
    mismatched = [name for name, *_ in loaded["mismatched_keys"]]
    for names, what in (
        (loaded["missing_keys"], "no"),
        (mismatched, "another shape of"),
        (loaded["unexpected_keys"], "weights that the model does not use:"),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            found = f"{what} {', '.join(sorted(names)[:3])}{more}"
            raise InputError(
                folder, found, "every weight of the model that config.json describes, and no other"
            )


def _check_weights(anatomy: Anatomy, folder: Path) -> None:
    for name, weight in anatomy.model.named_parameters():
        if not all_finite(weight):
            kind = str(weight.dtype).removeprefix("torch.")
            allowed = "finite weights, or a compute.dtype that holds them (float16 ends at 65,504)"
            raise InputError(folder, f"weights that are not finite in {name}, in {kind}", allowed)
    if len(anatomy.tokenizer) > anatomy.d_vocab:
        raise InputError(
            folder,
            f"a tokenizer of {len(anatomy.tokenizer)} tokens for an embedding of {anatomy.d_vocab}",
            "a tokenizer no larger than the embedding",
        )


@torch.no_grad()
def check_guards(anatomy: Anatomy, *, where: object = "model", n_tokens: int = GUARDED) -> dict[str, float]:
    """Compare our blocks with the model's own forward pass on two prompts of random tokens (seeded), at their last
    `COMPARED` positions.

    Returns the largest relative difference by guard: `blocks` (our forward and the model's give the same logits),
    `heads` (heads through W_O, and the bias, sum to the attention output), `unembedding` (final norm and unembedding
    of the last residual give the logits). Raises InputError naming the guard that fails.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, anatomy.d_vocab, (2, n_tokens), generator=generator).to(anatomy.device)
    z: dict[int, Tensor] = {}
    attn: dict[int, Tensor] = {}
    last: dict[str, Tensor] = {}
    handles = [anatomy.final_norm.register_forward_pre_hook(lambda _m, args: last.update(resid=args[0]))]
    for block in anatomy.blocks:
        layer = block.index
        handles.append(
            block.out_proj.register_forward_pre_hook(lambda _m, args, i=layer: z.update({i: args[0]}))
        )
        handles.append(
            block.out_proj.register_forward_hook(lambda _m, _a, out, i=layer: attn.update({i: out}))
        )
    try:
        own = anatomy.model(input_ids=tokens, use_cache=False, logits_to_keep=COMPARED).logits
    finally:
        for handle in handles:
            handle.remove()
    errors = {
        "blocks": relative_error(anatomy.logits(anatomy.resid(tokens)[:, -COMPARED:]), own),
        "heads": max(
            relative_error(_sum_of_heads(block, z[block.index]), attn[block.index])
            for block in anatomy.blocks
        ),
        "unembedding": relative_error(anatomy.logits(last["resid"][:, -COMPARED:]), own),
    }
    tolerance = GUARD_TOLERANCE[anatomy.dtype]
    for guard, error in errors.items():
        if not error <= tolerance:
            raise InputError(
                where,
                f"guard {guard!r} failed: {anatomy.model.config.model_type} differs from our {anatomy.family.name} by {error:.1e} "
                f"on prompts of {n_tokens} tokens",
                f"a relative difference of at most {tolerance:.0e}",
            )
    return errors


def _sum_of_heads(block: Block, z: Float[Tensor, "batch seq width"]) -> Tensor:
    heads = torch.einsum("bshd,hdm->bsm", z.unflatten(-1, (-1, block.d_head)), block.out_weight)
    bias = getattr(block.out_proj, "bias", None)
    return heads if bias is None else heads + bias


def relative_error(x: Tensor, reference: Tensor) -> float:
    """Largest absolute difference over the largest absolute value of the reference."""
    scale = reference.double().abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return float((x.double() - reference.double()).abs().max() / scale)


def shape_summary(anatomy: Anatomy) -> dict[str, Any]:
    """The sizes that the model card lists."""
    sizes = ("n_layers", "n_heads", "n_kv_heads", "d_head", "d_model", "d_mlp", "d_vocab", "parallel")
    parameters = sum(weight.numel() for weight in anatomy.model.parameters())
    return {
        "family": anatomy.family.name,
        **{name: getattr(anatomy, name) for name in sizes},
        "parameters": parameters,
    }
