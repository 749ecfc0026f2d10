"""Local processing: running text is read and cut as it says, windows are the model's own passes, cosines are cosines."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factfinding.config import LocalityConfig, validate
from factfinding.data import texts
from factfinding.data.texts import (
    CATEGORIES,
    String,
    category,
    download_dataset,
    read_corpus,
    read_texts,
    strings_of,
)
from factfinding.errors import InputError
from factfinding.experiments.locality import show as figure
from factfinding.experiments.locality.measure import (
    DIFFERENCES,
    LOCALITY,
    TOKENS,
    VALUES,
    TokenSample,
    compared,
    cosines,
    draw,
    full_states,
    locality,
    quantiles,
    usable,
    window_states,
)
from factfinding.figures import style
from factfinding.ledger import CONTRADICTED, SUPPORTED, UNDECIDED
from helpers import ROOT, models
from helpers.declared import judged

TEXT = (ROOT / "resources/running_text.txt").read_text()


def with_tokenizer(family: str):
    tokenizer = models.tokenizer()
    anatomy = models.random_anatomy(family, vocabulary=len(tokenizer))
    anatomy.tokenizer, anatomy.bos_token_id = tokenizer, tokenizer.bos_token_id
    return anatomy


def strings(anatomy, tokens: int = 20, wanted: int = 12) -> list[String]:
    return strings_of([TEXT], anatomy.tokenizer, tokens=tokens, wanted=wanted, seed=0, where="here")


# the texts


def test_files_are_read_by_their_kind(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    pl.DataFrame({"words": ["first", " ", "third"]}).write_parquet(tmp_path / "b.parquet")
    pl.DataFrame({"text": ["first", "second"]}).write_ndjson(tmp_path / "c.jsonl")
    (tmp_path / "corpus.txt").write_text("All of this is made up.\n\nFact: a\nFact: b\n")
    assert read_texts(tmp_path / "a.txt") == ["one\n\ntwo\n"]
    assert read_texts(tmp_path / "b.parquet", "words") == ["first", "third"]
    assert read_texts(tmp_path / "c.jsonl") == ["first", "second"]
    assert read_corpus(tmp_path / "corpus.txt") == ["Fact: a\nFact: b\n"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "no such file"),
        ("empty.txt", b" \n\n", "no text; allowed: at least one text"),
        ("latin.txt", "café".encode("latin-1"), r"bytes that are no UTF-8 \(at 3\)"),
        ("broken.parquet", b"PAR?", "a damaged table"),
        ("broken.jsonl", b"{not json", "a damaged table"),
        ("other.jsonl", b'{"body": "x"}\n', "no column 'text'; allowed: one of body"),
        ("numbers.jsonl", b'{"text": 3}\n', "column text: found Int64; allowed: texts"),
        ("hole.jsonl", b'{"text": "a"}\n{"text": null}\n', "row 2: found no text in 'text'"),
    ],
)
def test_files_that_cannot_be_used_are_named_with_what_is_wrong(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        read_texts(tmp_path / name)
    assert name in str(raised.value)


@given(
    lines=st.lists(st.integers(0, 12), min_size=1, max_size=30),
    tokens=st.integers(2, 9),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_strings_are_pieces_of_the_text_that_do_not_overlap(lines, tokens, seed):
    """With words for tokens: every string is `tokens` words of the text in a row, and no word is in two."""
    counter = iter(range(10_000))
    text = "\n".join(" ".join(f"w{next(counter)}" for _ in range(length)) for length in lines)
    words = text.split()
    if len(words) < tokens:
        with pytest.raises(InputError, match=f"texts of at most {len(words)} tokens"):
            strings_of([text], Words(), tokens=tokens, wanted=99, seed=seed, where="x")
        return
    found = strings_of([text], Words(), tokens=tokens, wanted=99, seed=seed, where="x")
    numbers = [[int(word[1:]) for word in string.words] for string in found]
    assert all(part == list(range(part[0], part[0] + tokens)) for part in numbers)
    flat = [number for part in numbers for number in part]
    assert len(flat) == len(set(flat)) and numbers[0][0] == 0
    begins = {int(line.split()[0][1:]) for line in text.split("\n") if line}
    for one, other in pairwise(numbers):
        assert other[0] in begins or other[0] == one[-1] + 1


class Words:
    """A tokenizer of words, as the encoder calls it."""

    def __call__(self, batch, **_):
        spans = []
        for text in batch:
            at, found = 0, []
            for word in text.split():
                start = text.index(word, at)
                at = start + len(word)
                found.append((start, at))
            spans.append(found)
        ids = [[abs(hash(text[a:b])) % 1000 for a, b in one] for text, one in zip(batch, spans, strict=True)]
        return {"input_ids": ids, "offset_mapping": spans}


def test_strings_are_drawn_from_all_texts_and_short_ones_are_left_out():
    many = [" ".join(f"t{i}x{j}" for j in range(i)) for i in range(40)]
    found = strings_of(many, Words(), tokens=10, wanted=8, seed=1, where="x")
    assert len(found) == 8 and all(len(string.ids) == len(string.words) == 10 for string in found)
    again = strings_of(many, Words(), tokens=10, wanted=8, seed=1, where="x")
    other = strings_of(many, Words(), tokens=10, wanted=8, seed=2, where="x")
    assert found == again and found != other


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("\n", "newline"), (" \n\n", "newline"), ("  ", "other"), (".", "full_stop"), (" ,", "comma"), (" The", "common"),
        ("their", "common"), (" Jordan", "alphabetic"), (" éa", "alphabetic"), ("a1", "other"), ("...", "other"),
        (" don't", "other"), ("_", "other"), ("", "other"), ("23", "other"),
    ],
)  # fmt: skip
def test_words_are_sorted_into_categories(word, kind):
    assert category(word) == kind and kind in CATEGORIES


# the data set


class Hub:
    """The hub's client as far as it is used: two Parquet files of three texts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fetched = folder, []

    def list_repo_files(self, name, *, repo_type, revision):
        assert (name, repo_type, revision) == ("some/texts", "dataset", "refs/convert/parquet")
        return [
            "README.md",
            "plain/train/0001.parquet",
            "plain/train/0000.parquet",
            "plain/test/0000.parquet",
        ]

    def download(self, name, file, *, repo_type, revision, local_dir):
        self.fetched.append(file)
        path = Path(local_dir) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame({"body": [f"{file} {i}" for i in range(3)]}).write_parquet(path)
        return str(path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    import huggingface_hub

    made = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", made.download)
    return made


WANTED = {
    "config": "plain",
    "split": "train",
    "revision": "refs/convert/parquet",
    "field": "body",
    "texts": 3,
}


def test_a_data_set_is_fetched_as_far_as_needed(hub, tmp_path):
    frame = download_dataset("some/texts", **WANTED, folder=tmp_path)
    assert frame["text"].to_list() == [f"plain/train/0000.parquet {i}" for i in range(3)]
    assert hub.fetched == ["plain/train/0000.parquet"]
    more = download_dataset("some/texts", **WANTED | {"texts": 5}, folder=tmp_path)
    assert more.height == 5 and hub.fetched[1:] == ["plain/train/0000.parquet", "plain/train/0001.parquet"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"split": "dev"}, "no such configuration or split; allowed: config/split: plain/test, plain/train"),
        ({"field": "text"}, "no column 'text'; allowed: one of body"),
    ],
)
def test_what_a_data_set_does_not_have_is_said(hub, tmp_path, changed, message):
    with pytest.raises(InputError, match=message):
        download_dataset("some/texts", **WANTED | changed, folder=tmp_path)


def test_without_a_network_it_is_said_what_to_do(monkeypatch, tmp_path):
    import huggingface_hub

    def nobody(*_, **__):
        raise OSError("nobody there")

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(list_repo_files=nobody))
    with pytest.raises(InputError, match=r"no download \(OSError: nobody there\).*config.locality.texts"):
        download_dataset("some/texts", **WANTED, folder=tmp_path)


def test_one_source_of_texts_at_a_time():
    with pytest.raises(InputError, match="texts and dataset are both set"):
        validate({"texts": "a.txt", "dataset": "b/c"}, LocalityConfig, "config.locality")


# windows and states


@pytest.mark.parametrize("family", models.FAMILIES)
def test_windows_are_the_models_own_passes_one_by_one(family):
    """A slow twin: the model's own hidden states, token by token, nothing batched."""
    anatomy = with_tokenizer(family)
    sample = draw(strings(anatomy), [1, 3], positions=3, seed=0)
    for k in (1, 3, None):
        used = np.arange(0, len(sample.position), 5)
        found = window_states(anatomy, sample, used, k, batch_size=4)
        for row, token in enumerate(used):
            end = sample.position[token]
            ids = (
                sample.ids[sample.string[token]][:end]
                if k is None
                else sample.ids[sample.string[token]][end - k : end]
            )
            whole = torch.tensor([[anatomy.bos_token_id, *ids]])
            hidden = anatomy.body(input_ids=whole, output_hidden_states=True).hidden_states
            for layer in range(anatomy.n_layers - 1):  # the last one comes with the final norm
                assert torch.allclose(found[row, layer], hidden[layer + 1][0, -1], atol=1e-4)


@pytest.mark.parametrize("family", models.FAMILIES)
def test_the_whole_context_as_a_window_is_the_whole_context(family):
    anatomy = with_tokenizer(family)
    sample = draw(strings(anatomy), [2], positions=4, seed=0)
    full = full_states(anatomy, sample, 5)
    alone = window_states(anatomy, sample, np.arange(len(sample.position)), None, 7)
    assert torch.allclose(full, alone, atol=1e-4)
    assert cosines(alone, full, full.double().mean(0)).min() > 1 - 1e-6


def test_the_size_of_a_batch_changes_nothing_but_rounding():
    anatomy = with_tokenizer("gpt_neox")
    args = {"ks": [1, 4], "positions": 3, "seed": 0}
    one, many = (locality(anatomy, strings(anatomy), batch_size=size, **args) for size in (1, 64))
    for name in ("locality", "values"):
        kind = "median" if name == "locality" else "cosine"
        difference = (getattr(one, name)[kind] - getattr(many, name)[kind]).abs().max()
        assert difference < 1e-5


def test_the_last_token_of_a_window_reads_nothing_before_it():
    """What is cut off must not matter: other tokens there, the same states."""
    anatomy = with_tokenizer("llama")
    sample = draw(strings(anatomy), [3], positions=2, seed=0)
    used = np.arange(len(sample.position))
    found = window_states(anatomy, sample, used, 3, 8)
    for token in used:
        sample.ids[
            sample.string[token], : sample.position[sample.string == sample.string[token]].min() - 3
        ] = 1
    assert torch.equal(found, window_states(anatomy, sample, used, 3, 8))


@given(tokens=st.integers(2, 70), positions=st.integers(1, 8), ks=st.sets(st.integers(1, 100), max_size=6))
@settings(max_examples=60, deadline=None)
def test_positions_have_more_than_k_tokens_before_them(tokens, positions, ks):
    kept = usable(list(ks), tokens, positions)
    assert kept == sorted(k for k in ks if k + positions <= tokens)
    made = [String(ids=tuple(range(tokens)), words=tuple("x" for _ in range(tokens))) for _ in range(5)]
    sample = draw(made, kept, positions=positions, seed=1)
    assert sample.position.min() > max(kept, default=0) and sample.position.max() <= tokens
    per = len(sample.position) // 5
    assert per == min(positions, tokens) and all(
        len(set(row)) == per for row in sample.position.reshape(5, per)
    )


# cosines and quantiles


def test_cosines_are_those_of_numpy_and_of_themselves_one():
    rng = np.random.default_rng(0)
    x, y = torch.tensor(rng.normal(size=(2, 30, 3, 8)))
    mean = y.mean(0)
    found = cosines(x, y, mean)
    for layer in range(3):
        a, b = (x - mean)[:, layer].numpy(), (y - mean)[:, layer].numpy()
        expected = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert found[:, layer] == pytest.approx(expected)
    assert cosines(y, y, mean) == pytest.approx(np.ones((30, 3)), abs=1e-12)
    assert (cosines(mean[None], y[:1], mean) == 0).all()


@given(scale=st.floats(0.01, 100), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_centred_cosines_do_not_see_a_shift_of_all_a_scale_or_a_rotation(scale, seed):
    rng = np.random.default_rng(seed)
    x, y = torch.tensor(rng.normal(size=(2, 20, 2, 6)))
    rotation = torch.tensor(np.linalg.qr(rng.normal(size=(6, 6)))[0])
    shift = torch.tensor(rng.normal(size=(2, 6)) * 50)
    before = cosines(x, y, y.mean(0))
    moved = [scale * value @ rotation + shift for value in (x, y)]
    assert cosines(*moved, moved[1].mean(0)) == pytest.approx(before, abs=1e-7)


def test_centring_by_the_own_mean_forgives_a_shift_and_the_table_keeps_both():
    rng = np.random.default_rng(0)
    y = torch.tensor(rng.normal(size=(200, 1, 6)))
    x = y + 30.0
    assert cosines(x, y, y.mean(0), x.mean(0)) == pytest.approx(np.ones((200, 1)))
    assert abs(np.median(cosines(x, y, y.mean(0)))) < 0.3


def test_quantiles_of_resamples_are_those_of_the_values_repeated():
    rng = np.random.default_rng(0)
    values, counts = rng.normal(size=40), rng.integers(0, 4, (25, 40))
    for q in (0.25, 0.5, 0.75):
        for row, found in zip(counts, quantiles(values, counts, q), strict=True):
            assert found == np.quantile(np.repeat(values, row), q, method="inverted_cdf")
    assert np.isnan(quantiles(values, np.zeros((1, 40), dtype=int), 0.5)).all()


# the tables


@pytest.fixture(scope="module")
def tables():
    anatomy = with_tokenizer("gpt_neox")
    return locality(anatomy, strings(anatomy, 24, 30), ks=(1, 2, 5, 100), positions=3, batch_size=16, seed=0)


def test_tables_are_whole(tables):
    table, by_category, values = tables.locality, tables.tokens, tables.values
    assert (
        dict(table.schema) == LOCALITY
        and dict(by_category.schema) == TOKENS
        and dict(values.schema) == VALUES
    )
    assert table["k"].unique().sort().to_list() == [None, 1, 2, 5]  # 100 has no room
    assert table.height == 4 * 3 and values.height == (3 * 90 + 64) * 3
    assert table.filter(pl.col("k").is_not_null())["n"].unique().to_list() == [90]
    per_k = by_category.group_by("k", "layer").agg(pl.col("n").sum())
    assert per_k["n"].unique().to_list() == [90]
    control = table.filter(pl.col("k").is_null())
    assert control["median"].min() > 1 - 1e-6 and control["own_median"].null_count() == 3


def test_rows_are_what_the_values_say(tables):
    for row in tables.locality.iter_rows(named=True):
        part = tables.values.filter(pl.col("layer") == row["layer"], pl.col("k").eq_missing(row["k"]))[
            "cosine"
        ]
        for name, q in (("median", 0.5), ("lower_quartile", 0.25), ("upper_quartile", 0.75)):
            assert row[name] == pytest.approx(np.quantile(part, q, method="inverted_cdf"), abs=1e-6)
        for name in ("median", "lower_quartile", "square_median", "square_lower_quartile"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        squares = part.to_numpy() ** 2
        assert row["square_median"] == pytest.approx(
            np.quantile(squares, 0.5, method="inverted_cdf"), abs=1e-6
        )


def test_intervals_are_a_bootstrap_over_whole_strings(tables):
    """Written out for one layer: strings drawn with all their tokens, the quantile of each draw."""
    row = tables.locality.filter(layer=2, k=2).row(0, named=True)
    part = tables.values.filter(layer=2, k=2)
    strings = np.stack(part.group_by("string", maintain_order=True).agg("cosine")["cosine"].to_list())
    chosen = np.random.default_rng(1).integers(0, len(strings), (4000, len(strings)))
    drawn = strings[chosen].reshape(4000, -1)
    for name, q in (("median", 0.5), ("lower_quartile", 0.25)):
        ends = np.quantile(np.quantile(drawn, q, axis=1, method="inverted_cdf"), (0.025, 0.975))
        width = ends[1] - ends[0]
        assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx(tuple(ends), abs=0.2 * width)


def test_differences_are_those_of_the_medians_and_of_whole_strings(tables):
    """Written out: a layer and another on the same resampled strings, a kind of token beside alphabetic ones."""
    values = tables.values.drop_nulls("k")
    for row in tables.differences.iter_rows(named=True):
        kind, other = row["category"], {"layer_before": row["layer"] - 1, "first_layer": 0}
        here = values.filter(k=row["k"], layer=row["layer"])
        if kind is None:
            pair = here, values.filter(k=row["k"], layer=other[row["compared_with"]])
        else:
            pair = here.filter(category=kind), here.filter(category="alphabetic")
        one, two = (np.quantile(part["cosine"], 0.5, method="inverted_cdf") for part in pair)
        assert row["difference"] == pytest.approx(one - two, abs=1e-6) and row["n"] == pair[0].height
    row = tables.differences.filter(layer=2, k=2, compared_with="layer_before").row(0, named=True)
    cosine = (
        values.filter(k=2)
        .sort("string", "position")
        .pivot("layer", index=["string", "position"], values="cosine")
    )
    strings = np.stack([part.select("2", "1").to_numpy() for part in cosine.partition_by("string")])
    chosen = np.random.default_rng(1).integers(0, len(strings), (4000, len(strings)))
    medians = np.quantile(strings[chosen].reshape(4000, -1, 2), 0.5, axis=1, method="inverted_cdf")
    ends = np.quantile(medians[:, 0] - medians[:, 1], (0.025, 0.975))
    found = row["difference_low"], row["difference_high"]
    assert found == pytest.approx(tuple(ends), abs=0.2 * (ends[1] - ends[0]))


def planted_cosines(*layers: float, spread: float = 0.05, strings: int = 60) -> pl.DataFrame:
    """Differences of tokens that vary widely, and whose cosine changes by these amounts from layer 0 on, all alike."""
    rng, per = np.random.default_rng(0), 2
    near = rng.uniform(0.9 - spread, 0.9 + spread, strings * per)[:, None] + np.array([0.0, *layers])
    sample = TokenSample(
        ids=np.zeros((strings, 20), dtype=int),
        string=np.repeat(np.arange(strings), per),
        position=np.tile([15, 16], strings),
        category=["alphabetic", "comma"] * strings,
    )
    drawn = rng.multinomial(strings, np.full(strings, 1 / strings), size=300)
    rows = [{"k": 10} | row for row in compared(near, sample, drawn[:, sample.string])]
    return pl.DataFrame(rows, schema=DIFFERENCES)


@pytest.mark.parametrize(
    ("claim", "layers", "verdict"),
    [
        ("locality-falls", (-0.01, -0.02, -0.02, -0.02), SUPPORTED),
        ("locality-falls", (-1e-6, -1e-5, -1e-5, -1e-5), CONTRADICTED),  # rounding's size
        ("locality-falls", (0.01, 0.02, 0.02, 0.02), CONTRADICTED),
        ("locality-last-layer", (-0.02, -0.02, -0.02, -0.015), SUPPORTED),
        ("locality-last-layer", (-0.02, -0.02, -0.02, -0.02 + 1e-5), CONTRADICTED),
        ("locality-last-layer", (-0.02, -0.02, -0.02, -0.03), CONTRADICTED),
    ],
)
def test_layers_are_judged_on_the_same_tokens_and_by_what_is_more_than_rounding(claim, layers, verdict):
    """Every token changes alike: sure, though the medians' own intervals (wide as 0.02) overlap."""
    table = planted_cosines(*layers)
    assert judged(claim, {"locality_differences": table})["verdict"] == verdict


@pytest.mark.parametrize(
    ("shift", "verdict"), [(-0.05, SUPPORTED), (0.05, CONTRADICTED), (0.0, UNDECIDED), (-1e-3, UNDECIDED)]
)
def test_kinds_of_tokens_are_judged_within_their_strings(shift, verdict):
    rng, strings = np.random.default_rng(0), 80
    own = rng.uniform(0.8, 0.98, strings)[:, None]  # strings differ by far more than kinds
    near = np.concatenate([own, own + shift + rng.normal(0, 0.004, own.shape)], axis=1).reshape(-1, 1)
    sample = TokenSample(
        ids=np.zeros((strings, 20), dtype=int),
        string=np.repeat(np.arange(strings), 2),
        position=np.tile([15, 16], strings),
        category=["alphabetic", "comma"] * strings,
    )
    counts = rng.multinomial(strings, np.full(strings, 1 / strings), size=300)[:, sample.string]
    table = pl.DataFrame([{"k": 10} | row for row in compared(near, sample, counts)], schema=DIFFERENCES)
    row = judged("locality-least-for-common-tokens", {"locality_differences": table})
    assert row["verdict"] == verdict and row["n"] == strings


def test_one_string_gives_differences_without_an_interval():
    table = planted_cosines(-0.1, -0.2, strings=1)
    changed = table.filter(compared_with="first_layer").sort("layer")["difference"].to_list()
    assert changed == pytest.approx([-0.1, -0.2])
    assert table["difference_low"].null_count() == table.height


def test_the_sentences_say_what_the_ledger_does(tables):
    fall = planted_cosines(-0.01, -0.02, -0.03, -0.02)
    said = " ".join(figure._changes(fall))
    assert "from layer 0 to layer 2: it surely falls" in said
    assert "from layer 3 to layer 4: it surely rises" in said
    still = " ".join(figure._changes(planted_cosines(-1e-5, -1e-5, -1e-5, -2e-5)))
    assert still.count("it does not surely change") == 2


def test_another_token_is_at_nothing(tables):
    assert tables.locality.filter(pl.col("k").is_not_null())["baseline"].abs().max() < 0.3


def test_the_same_seed_gives_the_same_tables(tables):
    anatomy = with_tokenizer("gpt_neox")
    again = locality(anatomy, strings(anatomy, 24, 30), ks=(1, 2, 5, 100), positions=3, batch_size=16, seed=0)
    for name in ("locality", "tokens", "differences", "values"):
        assert getattr(again, name).equals(getattr(tables, name), null_equal=True)


def test_no_room_for_any_k_leaves_the_control_alone_and_a_sentence_that_says_so():
    anatomy = with_tokenizer("gpt2")
    made = locality(anatomy, strings(anatomy, 8), ks=(100,), positions=2, batch_size=16, seed=0)
    assert made.locality["k"].to_list() == [None] * 3 and made.tokens.is_empty()
    assert (
        "nothing to see"
        in figure.locality_findings(made.locality, made.tokens, made.differences, made.values)[0]
    )
    empty = figure.draw_locality(
        locality=made.locality, locality_tokens=made.tokens, locality_values=made.values
    )
    assert empty.texts[0].get_text().startswith("Nothing to draw: ")


def test_the_figure_is_drawn_and_sentences_carry_their_n(tables, tmp_path):
    drawn = figure.draw_locality(
        locality=tables.locality, locality_tokens=tables.tokens, locality_values=tables.values
    )
    style.save(drawn, tmp_path / "a.svg", tmp_path / "a.png")
    *whole, by_kind = drawn.axes
    assert all("n = 90" in axes.get_title("left") for axes in whole)
    kinds = [text.get_text() for text in drawn.legends[1].get_texts()]
    assert sum(int(words.split("n = ")[1].rstrip(")")) for words in kinds) == 90, "each kind has its own n"
    assert len(by_kind.lines) == len(kinds)
    said = figure.locality_findings(tables.locality, tables.tokens, tables.differences, tables.values)
    assert "With only the last 5 tokens" in said[0] and "n = 90 tokens of 30 strings" in said[0]
    assert any("by kind of token" in sentence for sentence in said)
    assert "differs from 1 by more than" in said[-1] and "(n = 64)" in said[-1]
    assert all(sentence.endswith(".") for sentence in said)


def test_texts_has_no_model_in_it():
    """It is read by light rules: importing it must bring no torch."""
    assert "torch" not in Path(texts.__file__).read_text()
