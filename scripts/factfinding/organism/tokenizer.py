"""The two tokenizers: one word, one token for the fictional world; byte-level BPE for the real athletes.

Both cut text in the same way before anything else: at spaces, newlines and around every punctuation mark. So the
pieces of a document (corpus.py) can be looked up one by one, which is what makes batches cheap.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from factfinding.config import OrganismConfig
from factfinding.errors import InputError
from factfinding.organism import wording
from factfinding.organism.corpus import documents, wordings
from factfinding.organism.world import World, name_parts

BOS, UNKNOWN_WORD = "<|endoftext|>", "<|unknown|>"
WORD = r" ?[^\W\d_]+| ?\d+| ?[^\w\s]|\s|_"
"""What one cut is: a word or a number with the space before it, or a single mark."""

SAMPLE = 4_000
"""Documents on which the BPE is trained."""


def make_tokenizer(world: World, settings: OrganismConfig) -> PreTrainedTokenizerFast:
    """Build the world's tokenizer. Raises InputError when a sport is more than one token (vocabulary too small)."""
    build = _words if world.kind == "fictional" else _byte_pairs
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=build(world, settings),
        bos_token=BOS,
        eos_token=BOS,
        unk_token=UNKNOWN_WORD if world.kind == "fictional" else BOS,
        clean_up_tokenization_spaces=False,
    )
    for sport in (*wording.SPORTS, wording.SHOT_SPORT):
        if len(tokens := tokenizer.encode(f" {sport}", add_special_tokens=False)) != 1:
            found = f"{settings.vocabulary}, with which ` {sport}` is {len(tokens)} tokens"
            raise InputError("organism.vocabulary", found, "a vocabulary in which every sport is one token")
    return tokenizer


def _words(world: World, settings: OrganismConfig) -> Tokenizer:
    """A token for every word of the wordings and every name."""
    cut = pre_tokenizers.Split(Regex(WORD), behavior="isolated")
    texts = [*wordings(world), *(f" {part}" for part in name_parts(world))]
    words = sorted({word for text in texts for word, _ in cut.pre_tokenize_str(text) if word != " "})
    vocabulary = {word: index for index, word in enumerate([BOS, UNKNOWN_WORD, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN_WORD))
    tokenizer.pre_tokenizer = cut
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([BOS, UNKNOWN_WORD])
    return tokenizer


def _byte_pairs(world: World, settings: OrganismConfig) -> Tokenizer:
    """A byte-level BPE trained on a sample of the documents: it can write any name, in two to ten tokens or so."""
    tokenizer = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(WORD), behavior="isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents(world, settings, settings.seed, SAMPLE), trainer)
    return tokenizer


class Pieces:
    """Token ids of a document's pieces, each looked up in the tokenizer once."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.bos: int = tokenizer.bos_token_id
        self._ids: dict[str, list[int]] = {}

    def __call__(self, pieces: Iterable[str]) -> list[int]:
        """The ids of the joined pieces, without BOS."""
        ids: list[int] = []
        for piece in pieces:
            known = self._ids.get(piece)
            if known is None:
                known = self._ids[piece] = self.tokenizer.encode(piece, add_special_tokens=False)
            ids += known
        return ids
