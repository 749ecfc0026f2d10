"""Loading models: the guards hold on every family, and what is wrong with a folder is said."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from factfinding.errors import InputError
from factfinding.model import anatomy as anatomies
from factfinding.model.anatomy import bos_token_id
from factfinding.model.tiny import random_model
from factfinding.model_folder import stored_type
from helpers.models import FAMILIES, PARALLEL, random_anatomy, save_model, tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_our_blocks_are_the_models_own_in_float64(family):
    errors = anatomies.check_guards(random_anatomy(family, dtype=torch.float64))
    assert max(errors.values()) < 1e-12, errors


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_are_read_from_the_model(family):
    anatomy = random_anatomy(family, layers=2, width=24, heads=4)
    assert (anatomy.n_layers, anatomy.d_model, anatomy.n_heads, anatomy.d_head) == (2, 24, 4, 6)
    assert anatomy.blocks[0].out_weight.shape == (4, 6, 24)
    assert anatomy.blocks[0].neuron_out.shape == (anatomy.d_mlp, 24)
    assert anatomy.parallel == (family in PARALLEL)


@pytest.mark.parametrize("part", ["blocks", "heads", "unembedding"])
def test_a_model_that_computes_otherwise_is_refused_by_the_guard_that_sees_it(part):
    """Each guard is broken on purpose, by a hook that changes what the model computes but not what we do."""
    anatomy = random_anatomy("gpt_neox")
    target = {
        "blocks": anatomy.blocks[1].mlp,
        "heads": anatomy.blocks[1].out_proj,
        "unembedding": anatomy.model.gpt_neox,
    }[part]

    def spoil(_module, _args, out):
        if part == "unembedding":
            out.last_hidden_state = out.last_hidden_state * 1.1
            return out
        return out * 1.1

    handle = target.register_forward_hook(spoil)
    with pytest.raises(InputError, match="guard"):
        anatomies.check_guards(anatomy)
    handle.remove()
    anatomies.check_guards(anatomy)


@pytest.fixture(scope="module")
def good_folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(good_folder, tmp_path):
    return shutil.copytree(good_folder, tmp_path / "model")


def test_a_saved_folder_loads_as_the_same_model(good_folder):
    anatomy = anatomies.load(good_folder, device="cpu")
    tokens = torch.arange(10)[None]
    expected = random_model("gpt_neox", vocabulary=anatomy.d_vocab)(input_ids=tokens).logits
    assert torch.allclose(anatomy.model(input_ids=tokens).logits, expected, atol=1e-5)


def held(model):
    """All that a model computes with, by name."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_widened_after_they_have_moved_are_those_widened_as_they_are_read(family, stored, tmp_path):
    """What is done on a GPU, done on the CPU: every weight, every constant and every logit is the same, to the bit."""
    random_model(family, vocabulary=360).to(stored).save_pretrained(tmp_path)
    usual, _ = anatomies.read_model(tmp_path, torch.float32, as_stored=False)
    model, _ = anatomies.read_model(tmp_path, torch.float32, as_stored=True)
    makes_constants = family == "gemma"  # in its own precision
    assert model.dtype == (torch.float32 if makes_constants else stored)
    anatomies.move(model, torch.device("cpu"), torch.float32)
    assert model.dtype == model.config.dtype == torch.float32
    found, expected = held(model), held(usual)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name
    tokens = torch.arange(20)[None]
    assert torch.equal(model(input_ids=tokens).logits, usual(input_ids=tokens).logits)


def test_weights_that_are_tied_stay_tied_where_they_are_widened_later(tmp_path):
    folder = save_model(tmp_path)
    model = random_model("llama", vocabulary=360)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.half().save_pretrained(folder)
    read, _ = anatomies.read_model(folder, torch.float32, as_stored=True)
    anatomies.move(read, torch.device("cpu"), torch.float32)
    assert read.get_output_embeddings().weight is read.get_input_embeddings().weight
    assert read.dtype == torch.float32


def rewritten(folder, change):
    """The folder with its weights changed, in the file alone: config.json says what it said."""
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})
    return weights


@pytest.mark.parametrize(
    ("change", "kind", "read"),
    [
        (lambda weights: {name: weight.half() for name, weight in weights.items()}, "F16", torch.float16),
        (lambda weights: {name: weight.half() if "mlp" in name else weight for name, weight in weights.items()},
         None, torch.float32),
        (lambda weights: {name: weight.half() for name, weight in weights.items()}
         | {"gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(4)}, "F16", torch.float16),
        (lambda weights: weights, "F32", torch.float32),
    ],
    ids=["half", "mixed", "half, with an old constant", "single"],
)  # fmt: skip
def test_the_precision_of_the_files_is_that_of_all_weights_in_them(folder, change, kind, read):
    """Not what config.json says, which would narrow weights that the files hold in full."""
    says = torch.float32 if kind == "F16" else torch.float16
    edit_json(folder / "config.json", dtype=str(says).removeprefix("torch."))
    rewritten(folder, change)
    assert stored_type(folder) == kind
    model, loaded = anatomies.read_model(folder, torch.float32, as_stored=True)
    assert {weight.dtype for weight in model.parameters()} == {read} and not loaded["missing_keys"]
    anatomies.move(model, torch.device("cpu"), torch.float32)
    usual, _ = anatomies.read_model(folder, torch.float32, as_stored=False)
    assert all(torch.equal(held(model)[name], value) for name, value in held(usual).items())


def test_a_narrower_precision_than_that_of_the_files_is_asked_for_as_they_are_read(folder):
    for wanted in (torch.float16, torch.bfloat16):
        rewritten(folder, lambda weights: {name: weight.float() for name, weight in weights.items()})
        model, _ = anatomies.read_model(folder, wanted, as_stored=True)
        assert model.dtype == wanted
    rewritten(folder, lambda weights: {name: weight.half() for name, weight in weights.items()})
    assert anatomies.read_model(folder, torch.bfloat16, as_stored=True)[0].dtype == torch.bfloat16


def edit_json(path, **changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(content))


def no_config(folder):
    (folder / "config.json").unlink()


def broken_config(folder):
    (folder / "config.json").write_text("{not json")


def unknown_family(folder):
    edit_json(folder / "config.json", model_type="mamba")


def no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def pickle_weights(folder):
    no_weights(folder)
    (folder / "pytorch_model.bin").write_bytes(b"anything")


def truncated_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def nan_weights(folder):
    model = random_model("gpt_neox", vocabulary=360)
    model.gpt_neox.layers[1].mlp.dense_h_to_4h.weight[3, 4] = float("nan")
    model.save_pretrained(folder)


def junk_weights(folder):
    no_weights(folder)
    (folder / "pytorch_model.bin").write_bytes(b"junk" * 100)


def small_vocabulary(folder):
    random_model("gpt_neox", vocabulary=100).save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_config, r"no config\.json; allowed: a model folder"),
        (broken_config, r"config\.json: found no valid JSON"),
        (unknown_family, r"model_type 'mamba'; allowed: one of falcon, gemma, gpt2, gpt_neo, gpt_neox"),
        (no_tokenizer, r"no tokenizer\.json"),
        (no_weights, r"no weights; allowed: \*\.safetensors"),
        (pickle_weights, r"pickle weights.*allow_pickle: true"),
        (truncated_weights, r"does not load"),
        (nan_weights, r"not finite in gpt_neox\.layers\.1\.mlp\.dense_h_to_4h\.weight"),
        (small_vocabulary, r"tokenizer of \d+ tokens for an embedding of 100"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(folder, spoil, message):
    spoil(folder)
    with pytest.raises(InputError, match=message) as caught:
        anatomies.load(folder, device="cpu")
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("family", "lacks", "named"),
    [
        ("gpt_neox", "embed_in", "no gpt_neox.embed_in.weight"),
        ("gpt_neox", "embed_out", "no lm_head.weight"),
        (
            "gpt_neox",
            "final_layer_norm",
            "no gpt_neox.final_layer_norm.bias, gpt_neox.final_layer_norm.weight",
        ),
        ("gpt_neox", "attention.dense.bias", "no gpt_neox.layers.0.attention.dense.bias, "),
        ("gpt_neox", ".mlp.", "gpt_neox.layers.0.mlp.dense_h_to_4h.bias and 9 more"),
        ("gpt2", "wpe", "no transformer.wpe.weight"),
        ("gpt2", "ln_f", "no transformer.ln_f.bias, transformer.ln_f.weight"),
        ("llama", "lm_head", "no lm_head.weight"),
        ("llama", "up_proj", "no model.layers.0.mlp.up_proj.weight, "),
    ],
)
def test_weights_that_are_not_there_are_not_made_up(family, lacks, named, tmp_path):
    folder = save_model(tmp_path, family)
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if lacks not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError) as caught:
        anatomies.load(folder, device="cpu")
    assert f"{folder}: found " in str(caught.value) and named in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 5}, r"no gpt_neox\.layers\.3\."),
        ({"intermediate_size": 64}, r"another shape of gpt_neox\.layers\.0\.mlp\..* and 6 more"),
        ({"vocab_size": 400}, r"another shape of gpt_neox\.embed_in\.weight, lm_head\.weight"),
        ({"num_attention_heads": 5}, "does not load .*not divisible"),
        ({"hidden_act": "swoosh"}, "does not load .*swoosh"),
        ({"rope_parameters": {"rope_type": "bend"}}, "does not load .*bend"),
        ({"quantization_config": {"quant_method": "bend"}}, r"config\.json: found a quantization_config"),
    ],
)
def test_a_configuration_that_is_not_of_these_weights_is_said(folder, changes, message):
    edit_json(folder / "config.json", **changes)
    with pytest.raises(InputError, match=f"(?s){message}") as caught:
        anatomies.load(folder, device="cpu")
    assert str(folder) in str(caught.value)


def test_pickled_weights_that_are_none_are_said(folder):
    junk_weights(folder)
    with pytest.raises(InputError, match="does not load"):
        anatomies.load(folder, device="cpu", allow_pickle=True)


def test_a_device_that_is_not_there_is_named():
    if torch.cuda.is_available():
        assert anatomies.pick_device("auto").type == "cuda"
    else:
        with pytest.raises(InputError, match=r"compute\.device: found 'cuda', but no CUDA device"):
            anatomies.pick_device("cuda")


def with_two_special_tokens(folder):
    tokens = tokenizer()
    tokens.add_special_tokens({"additional_special_tokens": ["<|document|>"]})
    random_model("llama", vocabulary=len(tokens)).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def test_bos_is_the_token_that_is_named(tmp_path):
    folder = with_two_special_tokens(tmp_path)
    own, named = anatomies.load(folder), anatomies.load(folder, bos="<|document|>")
    assert own.tokenizer.convert_ids_to_tokens(own.bos_token_id) == "<|endoftext|>"
    assert named.tokenizer.convert_ids_to_tokens(named.bos_token_id) == "<|document|>"
    assert anatomies.load(folder, bos="<|endoftext|>").bos_token_id == own.bos_token_id


@pytest.mark.parametrize("bos", ["<|im_start|>", "the", "Fact"])
def test_a_bos_that_is_no_special_token_is_refused(tmp_path, bos):
    """A word of the vocabulary, too: it is a slip, not a beginning."""
    anatomy = anatomies.load(with_two_special_tokens(tmp_path), bos=bos)
    found = re.escape(f"config.model.bos: found {bos!r}; allowed: auto, none, or a special token: ")
    with pytest.raises(InputError, match=f"{found}.*document"):
        bos_token_id(anatomy.tokenizer, anatomy.bos)
