"""GGUF files: the folder that one is turned into holds its numbers, and what cannot be used is said."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from factfinding.errors import InputError
from factfinding.files import file_digest
from factfinding.model import gguf_file
from factfinding.model.anatomy import load
from factfinding.model.gguf_file import convert_gguf
from factfinding.model.tiny import random_model
from factfinding.model_folder import check_gguf
from helpers.models import tokenizer

TEXT = "Fact: Tiger Woods plays the sport of golf\nFact: Łukasz O'Neil-2 plays"
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
ENDS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def name_in_file(name: str) -> str:
    """What llama.cpp calls a weight."""
    stem = name.removesuffix(".weight")
    if stem in ENDS:
        return f"{ENDS[stem]}.weight"
    layer, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{NAMES[part]}.weight"


def order_in_file(name: str, weight: np.ndarray, model) -> np.ndarray:
    """llama.cpp turns neighbouring entries of a query or key into each other, not those half a head apart."""
    config = model.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for part, count in heads.items():
        if part in name:
            halves = weight.reshape(count, 2, -1, weight.shape[1])
            return halves.swapaxes(1, 2).reshape(weight.shape)
    return weight


def write_gguf(
    path: Path,
    *,
    kind: str = "F32",
    architecture: str = "llama",
    words: bool = True,
    leave_out: str = "",
    **more: str,
):
    """Write a random Llama as llama.cpp would; gives the model.

    kind: the quantization of its matrices. words: with a tokenizer. leave_out: a weight. more: keys of the file, `__`
    for a point.
    """
    gguf = pytest.importorskip("gguf")
    tokens = tokenizer()
    # the blocks of a quantization hold 32 numbers of a row
    model = random_model("llama", vocabulary=len(tokens), width=64)
    config, writer = model.config, gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    if words:
        backend = tokens.backend_tokenizer
        merges = [" ".join(pair) for pair in read_merges(backend)]
        listed = sorted(backend.get_vocab(), key=backend.get_vocab().get)
        special = gguf.TokenType.CONTROL
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(listed)
        writer.add_token_types(
            [special if "|" in word and len(word) > 1 else gguf.TokenType.NORMAL for word in listed]
        )
        writer.add_token_merges(merges)
        writer.add_bos_token_id(tokens.bos_token_id)
        writer.add_eos_token_id(tokens.eos_token_id)
    for key, value in more.items():
        writer.add_string(key.replace("__", "."), value)
    for name, weight in model.state_dict().items():
        if name == leave_out:
            continue
        values = order_in_file(name, weight.numpy(), model)
        quantized = gguf.GGMLQuantizationType[kind if values.ndim == 2 else "F32"]
        writer.add_tensor(name_in_file(name), gguf.quants.quantize(values, quantized), raw_dtype=quantized)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def read_merges(backend) -> list:
    return json.loads(backend.to_str())["model"]["merges"]


def logits(model, ids) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits


@pytest.mark.real
def test_a_file_of_whole_numbers_gives_back_the_very_model(tmp_path):
    model = write_gguf(tmp_path / "tiny.gguf")
    record = convert_gguf(tmp_path / "tiny.gguf", tmp_path / "folder")
    assert record["sha256"] == file_digest(tmp_path / "tiny.gguf")
    assert record["tensor_types"] == {"F32": len(model.state_dict())}
    held = load_file(tmp_path / "folder/model.safetensors")
    assert set(held) == set(model.state_dict())
    for name, weight in model.state_dict().items():
        assert torch.equal(held[name], weight), name
    ours, theirs = load(tmp_path / "folder"), tokenizer()
    assert ours.tokenizer([TEXT])["input_ids"] == [theirs(TEXT)["input_ids"]]
    assert ours.bos_token_id == theirs.bos_token_id
    ids = theirs(TEXT)["input_ids"]
    assert torch.allclose(logits(ours.model, ids), logits(model, ids), atol=1e-5)


@pytest.mark.real
@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0"])
def test_a_quantized_file_has_the_numbers_that_transformers_reads(tmp_path, kind):
    original = write_gguf(tmp_path / "tiny.gguf", kind=kind)
    record = convert_gguf(tmp_path / "tiny.gguf", tmp_path / "folder")
    assert set(record["tensor_types"]) == {"F32", kind}
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    ours = load(tmp_path / "folder")
    for name, weight in read.state_dict().items():
        assert torch.equal(ours.model.state_dict()[name], weight), name
    assert {weight.dtype for weight in load_file(tmp_path / "folder/model.safetensors").values()} == {
        torch.float32
    }
    ids = AutoTokenizer.from_pretrained(tmp_path, gguf_file="tiny.gguf")(TEXT)["input_ids"]
    assert ours.tokenizer([TEXT])["input_ids"] == [ids]
    assert torch.allclose(logits(ours.model, ids), logits(read, ids), atol=1e-5)
    assert not torch.equal(logits(ours.model, ids), logits(original, ids)), (
        "the quantization is there to be read"
    )


@pytest.mark.real
def test_what_lies_beside_the_file_is_not_read(tmp_path):
    """Among downloads of all kinds: settings of another tokenizer with code of its own, an adapter."""
    write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\nclass Words: pass\n")
    settings = {"auto_map": {"AutoTokenizer": ["evil.Words", "evil.Words"]}, "bos_token": "Fact"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "someone/else"}))
    convert_gguf(tmp_path / "tiny.gguf", tmp_path / "folder")
    assert load(tmp_path / "folder").bos_token_id == tokenizer().bos_token_id
    assert not (tmp_path / "was-run").exists()


@pytest.mark.real
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "mamba"}, "allowed: .*gpt2, llama, mistral, .*qwen2"),
        ({"architecture": "nobody"}, "allowed: .*gpt2, llama, mistral, .*qwen2"),
        ({"words": False}, "no tokenizer; allowed: a GGUF file with its tokenizer"),
        ({"llama__rope__scaling__type": "yarn"}, "stretched rotary positions .*'yarn'"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_what_is_allowed(tmp_path, options, message):
    write_gguf(tmp_path / "tiny.gguf", **options)
    with pytest.raises(InputError, match=f"{re.escape(str(tmp_path / 'tiny.gguf'))}: found .*{message}"):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.real
def test_a_file_that_lacks_a_weight_is_refused(tmp_path):
    """Transformers fills in random numbers, and says so in its log alone."""
    write_gguf(tmp_path / "tiny.gguf", leave_out="model.layers.1.mlp.up_proj.weight")
    with pytest.raises(InputError, match="tiny.gguf: found no weight model.layers.1.mlp.up_proj.weight"):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path / "folder")


@pytest.mark.real
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_refused(tmp_path, share):
    write_gguf(tmp_path / "tiny.gguf")
    whole = (tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "tiny.gguf").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match="tiny.gguf: found a file that is not read"):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path / "folder")


def test_what_is_no_gguf_file_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(InputError, match="no such file; allowed: a model as a GGUF file"):
        check_gguf(tmp_path / "none.gguf")
    (tmp_path / "text.gguf").write_text("no model")
    with pytest.raises(InputError, match="begins with b'no m'"):
        check_gguf(tmp_path / "text.gguf")


def test_missing_packages_are_named(tmp_path, monkeypatch):
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF" + bytes(20))
    monkeypatch.setattr(gguf_file, "PACKAGES", ("gguf_not_there", "torch", "accelerate_not_there"))
    check_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(InputError) as caught:
        convert_gguf(tmp_path / "tiny.gguf", tmp_path / "folder")
    message = str(caught.value)
    assert "no package gguf_not_there and no package accelerate_not_there" in message
    assert "envs/real-model.txt" in message and str(tmp_path / "tiny.gguf") in message
