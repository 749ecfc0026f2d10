"""Model folders as they are found: what is measured on them is what plain transformers says, or they are refused by name."""

from __future__ import annotations

import json
import logging

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from factfinding.data.prompts import CONDITIONS, candidates, encode, prompt_table
from factfinding.data.tokens import PlainTokenizer, check_prompts
from factfinding.errors import InputError
from factfinding.experiments.recall.compute import answer_scores, recall_table
from factfinding.model.anatomy import check_guards, load
from factfinding.model.tokenizer import read_tokenizer
from factfinding.model_folder import check_model_folder
from helpers.models import save_model
from helpers.wild import TOKENIZERS, byte_level, padded, prefixed, save_wild, texts, words

PEOPLE = [
    ("Babe Ruth", "baseball"), ("Shaquille O'Neal", "basketball"), ("Tom Brady", "football"),
    ("Nikola Jokić", "basketball"), ("J.J. Watt", "football"), ("Karl-Anthony Towns", "basketball"),
    ("Nenê", "basketball"), ("Juan Carlos de la Cruz", "baseball"),
]  # fmt: skip
SUBJECTS = pl.DataFrame(PEOPLE, schema=["subject", "answer"], orient="row")
ANSWERS = sorted({answer for _, answer in PEOPLE})
FOLDERS = [
    ("gpt_neox", {}, "byte level"),
    ("gpt_neox", {"use_parallel_residual": False, "tie_word_embeddings": True}, "no BOS"),
    ("gpt2", {}, "padded"),
    ("gpt2", {"tie_word_embeddings": False}, "lower case"),
    ("llama", {"num_key_value_heads": 2}, "prefix"),
    ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 16}, "words"),
    ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 1}, "metaspace, always"),
    ("mistral", {"num_key_value_heads": 2, "sliding_window": None}, "metaspace, first"),
    ("qwen2", {"num_key_value_heads": 2}, "digits apart"),
    ("qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 4}, "digits apart"),
    ("gpt_neox", {"attention_bias": False, "rotary_pct": 1.0}, "metaspace, always"),
    ("gpt2", {"n_inner": 48}, "digits apart"),
]


def made(tmp_path, model_type="gpt2", tokenizer="byte level", **changes):
    return save_wild(tmp_path / "model", model_type, TOKENIZERS[tokenizer](texts(PEOPLE)), **changes)


def measured(folder) -> pl.DataFrame:
    """The table recall, by the workflow's own steps."""
    anatomy = load(folder, device="cpu")
    tables = {
        name: prompt_table(SUBJECTS, anatomy.tokenizer, anatomy.bos_token_id, name) for name in CONDITIONS
    }
    check_prompts(tables, anatomy.tokenizer, positions=anatomy.positions)
    answers = candidates(ANSWERS, tables["full"]["text"][0], anatomy.tokenizer)
    scores = {
        name: answer_scores(anatomy, tables[name], answers, batch_size=3) for name in ("full", "zero_shot")
    }
    return recall_table(tables["full"], answers, scores)


def plain(folder, before: str) -> np.ndarray:
    """P of each answer for each subject, by transformers and nothing of ours."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    model = model.eval().float()
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    found = np.empty((len(PEOPLE), len(ANSWERS)))
    for row, (name, _) in enumerate(PEOPLE):
        text = f"{before}Fact: {name} plays the sport of"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            p = model(torch.tensor([[bos, *ids]])).logits[0, -1].double().softmax(-1)
        for column, answer in enumerate(ANSWERS):
            asked = tokenizer(f"{text} {answer}", add_special_tokens=False)["input_ids"]
            assert asked[: len(ids)] == ids and len(asked) == len(ids) + 1
            found[row, column] = p[asked[-1]]
    return found


@pytest.mark.parametrize(("model_type", "changes", "tokenizer"), FOLDERS, ids=lambda value: str(value))
def test_recall_is_what_plain_transformers_says(model_type, changes, tokenizer, tmp_path):
    folder = made(tmp_path, model_type, tokenizer, **changes)
    check_model_folder(folder)
    table = measured(folder)
    for condition, before in (("full", "Fact: Tiger Woods plays the sport of golf\n"), ("zero_shot", "")):
        truth = plain(folder, before)
        own = [ANSWERS.index(answer) for _, answer in PEOPLE]
        assert np.abs(table[f"{condition}_p"].to_numpy() - truth[np.arange(len(own)), own]).max() < 1e-6
        if condition == "full":
            ours = table.select(f"full_p_{answer}" for answer in ANSWERS).to_numpy()
            assert np.abs(ours - truth).max() < 1e-6
    assert [text.strip() for text in table["answer_token"]] == [answer for _, answer in PEOPLE]


def test_the_pre_flights_reading_is_the_same(tmp_path):
    for name, kind in TOKENIZERS.items():
        folder = tmp_path / name.replace(" ", "-")
        kind(texts(PEOPLE)).save_pretrained(folder)
        both, alone = read_tokenizer(folder), PlainTokenizer(folder / "tokenizer.json")
        for condition in CONDITIONS:
            assert prompt_table(SUBJECTS, both, 0, condition).equals(
                prompt_table(SUBJECTS, alone, 0, condition)
            )


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_a_name_alone_has_the_tokens_that_it_has_in_the_question(tokenizer, tmp_path):
    TOKENIZERS[tokenizer](texts(PEOPLE)).save_pretrained(tmp_path)
    tables = {name: prompt_table(SUBJECTS, read_tokenizer(tmp_path), 0, name) for name in CONDITIONS}
    names = {
        condition: [ids[first : final + 1] for ids, first, final in table.select("token_ids", "first_name", "final_name").iter_rows()]
        for condition, table in tables.items()
    }  # fmt: skip
    assert names["full"] == names["zero_shot"] == names["name_only"]
    check_prompts(tables, read_tokenizer(tmp_path))


@pytest.mark.parametrize(
    ("tokenizer", "settings"),
    [
        (byte_level, {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}),
        (padded, {"tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": True}),
        (prefixed, {"tokenizer_class": "GPT2Tokenizer"}),
    ],
)
def test_two_tokenizations_of_one_folder_are_refused(tokenizer, settings, tmp_path):
    tokenizer(texts(PEOPLE)).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(InputError) as error:
        encode(read_tokenizer(tmp_path), [texts(PEOPLE)[0]])
    for part in (
        str(tmp_path / "tokenizer.json"),
        "two tokenizations of 'Fact: Tiger",
        settings["tokenizer_class"],
    ):
        assert part in str(error.value)


def test_a_tokenizer_that_the_type_of_the_model_changes_is_refused(tmp_path):
    """Of a Qwen2, transformers takes its own tokenizer's rules, whatever tokenizer.json and its class say."""
    with pytest.raises(
        InputError, match=r"tokenizer\.json: found two tokenizations of .* transformers' Qwen2Tokenizer"
    ):
        measured(made(tmp_path, "qwen2", "unigram", num_key_value_heads=4))


def test_a_window_shorter_than_a_prompt_is_refused_at_its_length(tmp_path):
    """Nine tokens at load see nothing of a window of twelve; prompts of more do, and are refused before they are run."""
    folder = made(tmp_path, "mistral", "byte level", sliding_window=12, num_key_value_heads=2)
    anatomy = load(folder, device="cpu")
    anatomy.guard(12)
    with pytest.raises(InputError, match=r"found 22 tokens; allowed: at most 12, the window"):
        anatomy.guard(22)
    with pytest.raises(InputError, match="at most 12, the window"):
        measured(folder)
    wide = load(
        made(tmp_path, "mistral", "byte level", sliding_window=64, num_key_value_heads=2), device="cpu"
    )
    wide.guard(50)
    with pytest.raises(InputError, match="at most 64, the window"):
        wide.guard(90)  # as for strings of `locality.tokens`


def test_guards_run_once_for_each_new_length(tmp_path, monkeypatch):
    anatomy, lengths = load(made(tmp_path), device="cpu"), []

    def counted(_anatomy, *, n_tokens, where):
        lengths.append(n_tokens)
        return {}

    monkeypatch.setattr("factfinding.model.anatomy.check_guards", counted)
    for n in (5, 9, 20, 14, 20, 31, 30):
        anatomy.guard(n)
    assert lengths == [20, 31]
    monkeypatch.undo()
    assert max(check_guards(anatomy, n_tokens=100).values()) < 1e-5


def test_a_prompt_longer_than_the_model_is_refused(tmp_path):
    folder = made(tmp_path, "gpt2", "byte level", n_positions=16)
    assert check_model_folder(folder).positions == 16
    with pytest.raises(InputError, match=r"the prompt of .* under 'full': found \d\d tokens.*at most 16"):
        measured(folder)
    with pytest.raises(
        InputError, match="model, on a prompt: found 17 tokens, BOS included; allowed: at most 16"
    ):
        load(folder, device="cpu").guard(17)


STRAYS = [
    ("llama", "model.layers.1.self_attn.q_proj.bias", "attention_bias of config.json is not true"),
    ("llama", "model.layers.0.mlp.up_proj.bias", "mlp_bias of config.json is not true"),
    ("mistral", "model.layers.0.self_attn.k_proj.bias", "no others"),
    ("qwen2", "model.layers.2.self_attn.o_proj.bias", "no others"),
    ("gpt2", "transformer.h.1.attn.q_norm.weight", "no others"),
    ("gpt_neox", "gpt_neox.layers.0.attention.query_key_value.lora_A.weight", "no others"),
    ("llama", "model.layers.1.self_attn.q_norm.weight", "no others"),
    ("llama", "value_head.weight", "no others"),
]  # fmt: skip


@pytest.mark.parametrize(("model_type", "name", "said"), STRAYS)
def test_weights_that_the_model_does_not_use_are_refused(model_type, name, said, tmp_path):
    folder = made(tmp_path, model_type, **({} if model_type == "gpt2" else {"num_key_value_heads": 4}))
    path = folder / "model.safetensors"
    save_file(load_file(path) | {name: torch.ones(32)}, path, metadata={"format": "pt"})
    with pytest.raises(InputError) as error:
        check_model_folder(folder)
    assert f"the weight {name}, which the model does not use" in str(error.value)
    assert said in str(error.value)
    with pytest.raises(InputError, match="weights that the model does not use"):
        load(folder, device="cpu")


def test_pickled_weights_that_the_model_does_not_use_are_refused_at_load(tmp_path):
    folder = made(tmp_path, "llama")
    weights = load_file(folder / "model.safetensors") | {"model.layers.0.mlp.up_proj.bias": torch.ones(96)}
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"does not use: model\.layers\.0\.mlp\.up_proj\.bias"):
        load(folder, device="cpu", allow_pickle=True)


def test_an_adapter_beside_the_weights_is_refused(tmp_path):
    folder = made(tmp_path)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="found an adapter; allowed: weights into which"):
        check_model_folder(folder)


def test_weights_too_large_for_the_precision_name_it(tmp_path):
    folder = save_model(tmp_path / "model", "gpt2")
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["transformer.h.1.mlp.c_fc.weight"][0, 0] = 1e6
    save_file(weights, path, metadata={"format": "pt"})
    load(folder, device="cpu")
    with pytest.raises(InputError, match=r"h\.1\.mlp\.c_fc\.weight, in float16; allowed: .*compute\.dtype"):
        load(folder, device="cpu", dtype="float16")


def test_words_that_the_tokenizer_does_not_know_are_refused_by_name(tmp_path):
    words(texts(PEOPLE[:4])).save_pretrained(tmp_path)
    for tokenizer in (read_tokenizer(tmp_path), PlainTokenizer(tmp_path / "tokenizer.json")):
        tables = {"full": prompt_table(SUBJECTS, tokenizer, 0, "full")}
        with pytest.raises(InputError) as error:
            check_prompts(tables, tokenizer)
        assert "4 of 8 names under 'full': 'J.J. Watt'" in str(error.value)
        assert "'<|unknown|>'" in str(error.value)
        with pytest.raises(InputError, match="answer 'chess': found no answer: its first token is"):
            candidates(["chess", "baseball"], tables["full"]["text"][0], tokenizer)


logging.getLogger("transformers").setLevel(logging.ERROR)
