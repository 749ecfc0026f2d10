"""Tokenizers and model folders as they are found: made here, small, of every family and of odd kinds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

END, SPLIT_SPACE = "<|endoftext|>", "▁"


def texts(people: Sequence[tuple[str, str]]) -> list[str]:
    """What a tokenizer is trained on: the study's prompts with their answers, and some numbers."""
    shot = "Fact: Tiger Woods plays the sport of golf\n"
    return [f"{shot}Fact: {name} plays the sport of {answer}" for name, answer in people] + [
        "in 1963 no. 23"
    ] * 3


def byte_level(train: Sequence[str], *, before: Sequence = (), normalizer=None, bos: str | None = END):
    """A byte-level BPE; before: what splits the text before bytes are taken."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence([*before, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder, made.normalizer = decoders.ByteLevel(), normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(train, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=bos, eos_token=END)


def digits(train: Sequence[str]) -> PreTrainedTokenizerFast:
    """Every digit apart, as in Llama 3's and Qwen's kin: " 1963" begins with a token that is a bare space."""
    return byte_level(train, before=[pre_tokenizers.Digits(individual_digits=True)])


def prefixed(train: Sequence[str]) -> PreTrainedTokenizerFast:
    """Llama 2's: a normalizer writes spaces as "▁" and puts one before every text; bytes for what is unknown."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPLIT_SPACE), normalizers.Replace(" ", SPLIT_SPACE)]
    )
    made.pre_tokenizer = pre_tokenizers.Split(SPLIT_SPACE, "merged_with_next")
    special = ["<unk>", "<s>", "</s>"]
    made.train_from_iterator(
        train,
        trainers.BpeTrainer(
            vocab_size=900, special_tokens=special, show_progress=False, initial_alphabet=[SPLIT_SPACE]
        ),
    )
    content = json.loads(made.to_str())
    for byte in range(256):
        content["model"]["vocab"].setdefault(f"<0x{byte:02X}>", len(content["model"]["vocab"]))
    content["pre_tokenizer"] = None
    made = Tokenizer.from_str(json.dumps(content))
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", made.token_to_id("<s>"))]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace(SPLIT_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def metaspace(train: Sequence[str], scheme: str = "first") -> PreTrainedTokenizerFast:
    """A BPE whose words begin with "▁"; scheme: where one is put that is not in the text."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    made.decoder = decoders.Metaspace(prepend_scheme=scheme)
    made.train_from_iterator(
        train, trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>", "<s>"], show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="<s>", unk_token="<unk>")


def unigram(train: Sequence[str]) -> PreTrainedTokenizerFast:
    """SentencePiece's other kind, after NFKC."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    made.decoder = decoders.Metaspace(prepend_scheme="never")
    made.train_from_iterator(
        [*train, *[" baseball basketball football"] * 100],
        trainers.UnigramTrainer(
            vocab_size=400, special_tokens=["<unk>", "<s>"], unk_token="<unk>", show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="<s>", unk_token="<unk>")


def words(train: Sequence[str], *, declared: bool = False) -> PreTrainedTokenizerFast:
    """A token for every word with the space before it, and one for all others; declared: to transformers too."""
    split = Regex(r" ?[^ \n]+|\n")
    known = sorted({word for text in train for word in _split(text)})
    vocabulary = {word: i for i, word in enumerate([END, "<|unknown|>", *known])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))
    made.pre_tokenizer = pre_tokenizers.Split(split, "isolated")
    unknown = {"unk_token": "<|unknown|>"} if declared else {}
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=END, eos_token=END, **unknown)


def _split(text: str) -> list[str]:
    return re.findall(r" ?[^ \n]+|\n", text)


def padded(train: Sequence[str]) -> PreTrainedTokenizerFast:
    """Saved with the padding and the truncation of some training."""
    made = byte_level(train)
    made.backend_tokenizer.enable_padding(length=64, pad_id=0, pad_token=END)
    made.backend_tokenizer.enable_truncation(max_length=8)
    return made


def no_bos(train: Sequence[str]) -> PreTrainedTokenizerFast:
    """Without a BOS: end-of-text stands in for it."""
    return byte_level(train, normalizer=normalizers.NFC(), bos=None)


Kind = Callable[[Sequence[str]], PreTrainedTokenizerFast]
TOKENIZERS: dict[str, Kind] = {
    "byte level": byte_level,
    "digits apart": digits,
    "prefix": prefixed,
    "metaspace, first": metaspace,
    "metaspace, always": lambda train: metaspace(train, "always"),
    "unigram": unigram,
    "words": words,
    "padded": padded,
    "no BOS": no_bos,
    "lower case": lambda train: byte_level(train, normalizer=normalizers.Lowercase()),
}
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}


def save_wild(folder: Path, model_type: str, tokenizer: PreTrainedTokenizerFast, **changes) -> Path:
    """A model of random weights of any known model_type, with a tokenizer, as transformers saves them."""
    own = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128} if model_type == "gpt2" else SIZES
    rows = (
        len(tokenizer) + 8
    )  # published embeddings are larger than their tokenizers, to which reading may add tokens
    ids = {"bos_token_id": 0, "eos_token_id": 0, "vocab_size": rows}
    config = AutoConfig.for_model(model_type, **(own | ids | changes))
    generator = torch.Generator().manual_seed(3)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            spread = torch.randn(weight.shape, generator=generator)
            is_norm = name.endswith("weight") and weight.ndim == 1
            weight.copy_(1 + 0.1 * spread if is_norm else 0.15 * spread)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
