"""The activation store: what is read is what the model computes, rows are run once, and no wrong file is believed."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from factfinding.digest import Digests
from factfinding.engine import capture as capturing
from factfinding.engine.capture import Wanted, as_stored, capture, prompt_batches, share_of
from factfinding.errors import InputError
from factfinding.store import NUMBERS, TEXT, Activations, StoreLayout, assemble
from helpers import ROOT
from helpers.models import random_anatomy
from helpers.stores import NAMES, SOURCE, prompts, share, store


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    assert store(folder, NAMES) == len(NAMES)
    return folder


def test_the_file_holds_what_the_model_computes(made):
    anatomy, table = random_anatomy("gpt_neox"), prompts(NAMES)
    with Activations(made / "full.h5", model="m", condition="full") as file:
        assert file.subjects()["subject"].to_list() == NAMES
        for row, tokens in enumerate(table["token_ids"]):
            out = anatomy.model(
                input_ids=torch.tensor([list(tokens)]), output_hidden_states=True, output_attentions=True
            )
            at, end = table["final_name"][row], table["end"][row]
            for layer in (
                -1,
                0,
                1,
            ):  # the library's last hidden state is normed, so the last layer is checked below
                assert np.allclose(
                    file.layer("resid@final_name", layer)[row], out.hidden_states[layer + 1][0, at], atol=1e-5
                )
            pattern = file.layer("pattern@end", 2)[row]
            assert np.allclose(pattern[:, : len(tokens)], out.attentions[2][0, :, end], atol=1e-5)
            assert np.isnan(pattern[:, len(tokens) :]).all()
            last = torch.tensor(file.layer("resid@end", 2)[row])
            assert torch.allclose(anatomy.logits(last), out.logits[0, end], atol=1e-4)


def test_the_pieces_add_up_to_the_residual(made):
    with Activations(made / "full.h5") as file:
        for role in ("final_name", "end"):
            for layer in range(3):
                before, after = file.layer(f"resid@{role}", layer - 1), file.layer(f"resid@{role}", layer)
                added = file.layer(f"attn_out@{role}", layer) + file.layer(f"mlp_out@{role}", layer)
                assert np.allclose(before + added, after, atol=1e-5)
                heads = np.einsum("ahd,hdm->am", file.layer(f"z@{role}", layer), file.file["W_O"][layer])
                bias = random_anatomy("gpt_neox").blocks[layer].out_proj.bias.numpy()
                assert np.allclose(heads + bias, file.layer(f"attn_out@{role}", layer), atol=1e-5)
        post = torch.tensor(file.layer("post@final_name", 2))
        assert torch.allclose(
            torch.nn.functional.gelu(torch.tensor(file.layer("pre@final_name", 2))), post, atol=1e-6
        )


def test_plain_h5py_reads_it_and_it_describes_itself(made):
    with h5py.File(made / "full.h5") as file:
        assert file["resid@end"].attrs["axes"].tolist() == ["subject", "layer", "d_model"]
        assert file["resid@end"].attrs["layers"].tolist() == [-1, 0, 1, 2]
        assert file["pre@final_name"].attrs["layers"].tolist() == [0, 2]
        assert (
            file.attrs["model"] == "m" and file.attrs["condition"] == "full" and file.attrs["note"] == "test"
        )


def values(path):
    with h5py.File(path) as file:
        return {name: file[name][:] for name in file if "@" in name}


def test_new_subjects_cost_their_own_passes_and_a_changed_name_one(tmp_path):
    assert store(tmp_path, NAMES[:5]) == 5
    assert store(tmp_path, NAMES[:5]) == 0
    assert store(tmp_path, NAMES) == 3
    changed = [*NAMES[:2], "Al Y", *NAMES[3:]]
    assert store(tmp_path, changed) == 1
    shuffled = changed[::-1]
    assert store(tmp_path, shuffled) == 0
    fresh = tmp_path / "fresh"
    store(fresh, shuffled)
    kept, new = values(tmp_path / "full.h5"), values(fresh / "full.h5")
    for name, expected in new.items():
        assert np.allclose(kept[name], expected, atol=1e-5, equal_nan=True), name


def test_batching_and_sharding_change_nothing_beyond_rounding(made, tmp_path):
    store(tmp_path, NAMES, batch_size=8, shard_rows=100)
    first, second = values(made / "full.h5"), values(tmp_path / "full.h5")
    assert all(np.allclose(first[name], second[name], atol=1e-5, equal_nan=True) for name in first)


@pytest.mark.parametrize("jobs", [2, 3, 20])
def test_however_many_jobs_share_the_prompts_the_file_is_the_same(made, tmp_path, jobs):
    assert store(tmp_path, NAMES, jobs=jobs) == len(NAMES)
    assert (tmp_path / "full.h5").read_bytes() == (made / "full.h5").read_bytes()


def test_another_number_of_jobs_runs_no_prompt_again(tmp_path):
    assert store(tmp_path, NAMES[:5], jobs=2) == 5
    assert store(tmp_path, NAMES, jobs=3) == 3
    assert store(tmp_path, NAMES) == store(tmp_path, NAMES[::-1], jobs=4) == 0


@given(st.lists(st.integers(1, 30), min_size=1), st.integers(1, 9), st.integers(1, 8))
def test_jobs_share_whole_batches_and_about_the_same_number_of_tokens(lengths, jobs, size):
    table = pl.DataFrame({"n_tokens": lengths})
    shares = [share_of(table, number, jobs, batch_size=size) for number in range(jobs)]
    assert sorted(row for rows in shares for row in rows) == list(range(len(lengths)))
    of_each = [batch for rows in shares for batch in prompt_batches(table, rows, size)]
    assert of_each == list(prompt_batches(table, range(len(lengths)), size))
    tokens = [sum(lengths[row] for row in rows) for rows in shares]
    largest = max(sum(lengths[row] for row in batch) for batch in of_each)
    assert all(abs(count - sum(lengths) / jobs) <= largest for count in tokens)


def only_run(folder, **options):
    """What one job leaves, in all its forms: the prompts, its listing, and the finished shards."""
    table, listing, shards = prompts(NAMES), folder / "full_shard_0.h5", folder / "shards"
    share(table, listing, (0, 1), shards=shards, log=print, **options)
    return table, listing, shards


def test_shards_that_are_gone_or_damaged_are_named_and_then_made_again(tmp_path):
    table, listing, shards = only_run(tmp_path)
    first, second, *_ = sorted(shards.rglob("*.h5"))
    first.unlink()
    with pytest.raises(
        InputError, match=r"no finished shard with \d of 8 prompts; .*remove results.*_shard_"
    ):
        assemble(tmp_path / "full.h5", table, [listing], shards=shards, log=print)
    only_run(tmp_path)
    flip(second, "resid@end", 40)
    with pytest.raises(InputError, match=f"{second.name}: found damaged data in resid@end") as error:
        assemble(tmp_path / "full.h5", table, [listing], shards=shards, log=print)
    assert "remove results/<study>/activations" in str(error.value) and not list(tmp_path.glob("full.h5*"))
    assert store(tmp_path, NAMES) > 0


def test_listings_that_are_damaged_or_of_different_sources_are_refused(tmp_path):
    table, listing, shards = only_run(tmp_path)
    other = tmp_path / "full_shard_1.h5"
    share(table, other, (1, 2), shards=shards, log=print, source=dataclasses.replace(SOURCE, model="n"))
    with pytest.raises(InputError, match="full_shard_1.h5: found another source"):
        assemble(tmp_path / "full.h5", table, [listing, other], shards=shards, log=print)
    other.write_bytes(other.read_bytes()[:100])
    with pytest.raises(InputError, match="full_shard_1.h5: found no readable listing"):
        assemble(tmp_path / "full.h5", table, [listing, other], shards=shards, log=print)


def test_putting_shards_together_needs_no_torch():
    scripts = ROOT / "scripts"
    code = "\n".join(path.read_text() for path in Digests(scripts).reachable(scripts / "activations.py"))
    assert "class ShardStore" in code and not re.search(
        r"^\s*(import|from) (torch|transformers)", code, re.MULTILINE
    )


@pytest.mark.parametrize("field", ["model", "revision", "dtype", "condition", "code", "stored"])
def test_another_source_finds_no_shard_of_this_one(tmp_path, field):
    store(tmp_path, NAMES[:3])
    other = dataclasses.replace(SOURCE, **{field: "float16" if field == "stored" else "other"})
    assert store(tmp_path, NAMES[:3], source=other) == 3


def test_a_shard_that_is_truncated_altered_or_renamed_is_made_again(tmp_path):
    log = []
    store(tmp_path, NAMES)
    expected = values(tmp_path / "full.h5")
    shards = sorted((tmp_path / "shards").rglob("*.h5"))
    shards[0].write_bytes(shards[0].read_bytes()[:3000])
    shards[1].rename(shards[1].with_name("0" * 32 + ".h5"))
    with h5py.File(shards[2], "r+") as file:
        file["prompt_key"][0] = b"0" * 32
    assert store(tmp_path, NAMES, log=log.append) > 0
    assert sum("not trusted" in line for line in log) == 3
    again = values(tmp_path / "full.h5")
    assert all(np.allclose(expected[name], again[name], atol=1e-5, equal_nan=True) for name in expected)


def copy(made, tmp_path):
    path = tmp_path / "full.h5"
    path.write_bytes((made / "full.h5").read_bytes())
    return path


def flip(path, name, at, *, header=False):
    """Change one bit of a dataset's first chunk, or of its header."""
    with h5py.File(path) as file:
        item = file[name].id
        place = h5py.h5o.get_info(item).addr if header else item.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[place + at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", (*TEXT, *NUMBERS, "prompt_key"))
def test_a_changed_byte_of_names_and_positions_is_found_on_opening(made, tmp_path, name):
    with h5py.File(made / "full.h5") as file:
        size = file[name].nbytes
    for at in range(0, size, 7):
        path = copy(made, tmp_path)
        flip(path, name, at)
        with pytest.raises(InputError, match="remove the file to have it made again"):
            Activations(path)


def test_a_changed_byte_of_a_header_is_found_on_opening(made, tmp_path):
    """The first hundred bytes of a header say the shape, the type and where the chunks lie."""
    for at in range(0, 100, 3):
        path = copy(made, tmp_path)
        flip(path, "resid@end", at, header=True)
        with pytest.raises(InputError, match="remove the file to have it made again"):
            Activations(path)


def instead(name, **options):
    """Put another dataset in a dataset's place; activations keep their attributes."""

    def put(file):
        attributes = dict(file[name].attrs)
        del file[name]
        file.create_dataset(name, **options).attrs.update(attributes)

    return put


def without(name):
    return lambda file: file.__delitem__(name)


def layers(value):
    return lambda file: file["resid@end"].attrs.__setitem__("layers", value)


FORGED = {
    "an array as model": (lambda file: file.attrs.__setitem__("model", ["m", "m"]), "model array"),
    "no subjects": (without("subject"), "no column 'subject'"),
    "no keys": (without("prompt_key"), "no column 'prompt_key'"),
    "numbers as subjects": (instead("subject", data=np.arange(8)), "a column 'subject' of int64"),
    "text as positions": (instead("end", data=np.array([b"x"] * 8)), "a column 'end' of |S1"),
    "a short column": (instead("answer", data=np.array([b"golf"] * 7)), r"'answer' of \|S4 and shape \(7,\)"),
    "bad UTF-8": (instead("subject", data=np.array([b"\xff"] * 8)), "can't decode byte 0xff"),
    "a scalar column": (instead("subject", data=np.bytes_(b"x")), r"'subject' of \|S1 and shape \(\)"),
    "an empty column": (instead("end", data=h5py.Empty("i8")), "a column 'end'"),
    "a scalar": (instead("resid@end", data=1.0), "float64 and shape"),
    "too few rows": (instead("resid@end", data=np.zeros((7, 4, 32))), "for 8 subjects"),
    "too few axes": (instead("resid@end", data=np.zeros((8, 4))), "for 8 subjects"),
    "text as activations": (instead("resid@end", data=np.full((8, 4, 2), b"x")), r"of \|S1"),
    "an unknown site": (lambda file: file.create_dataset("x@end", data=np.zeros((8, 4, 2))), "x@end"),
    "no layers": (lambda file: file["resid@end"].attrs.__delitem__("layers"), "of 4 layers"),
    "text as layers": (layers("many"), "of 4 layers"),
    "too many layers": (layers(np.arange(5)), "of 4 layers"),
    "rows that are not there": (instead("resid@end", shape=(8, 4, 2**40), dtype="f4", chunks=(1, 1, 9)), "in 0 bytes"),
    "subjects that are not there": (instead("prompt_key", shape=(2**40,), dtype="S32", chunks=(9,)), "in 0 bytes"),
    "more than zlib can hold": (
        instead("resid@end", shape=(8, 4, 2**40), dtype="f4", chunks=(1, 1, 9), compression="gzip"), "in 0 bytes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FORGED)
def test_a_file_of_unknown_origin_is_refused_in_words(made, tmp_path, kind):
    forge, message = FORGED[kind]
    path = copy(made, tmp_path)
    with h5py.File(path, "r+") as file:
        forge(file)
    with pytest.raises(InputError, match=message) as caught:
        Activations(path, model="m", condition="full")
    assert str(path) in str(caught.value) and "remove the file to have it made again" in str(caught.value)


def test_a_truncated_foreign_or_altered_file_is_named_and_refused(made, tmp_path):
    path = copy(made, tmp_path)
    for model, condition, message in (("other", "full", "model 'm'"), ("m", "name_only", "condition 'full'")):
        with pytest.raises(InputError, match=message) as caught:
            Activations(path, model=model, condition=condition)
        assert str(path) in str(caught.value)
    flip(path, "resid@end", 40)
    with (
        Activations(path) as file,
        pytest.raises(InputError, match="damaged data in resid@end.*remove the file"),
    ):
        file.layer("resid@end", -1)
    for damaged in (path.read_bytes()[:5000], b"", b"no HDF5" * 1000):
        path.write_bytes(damaged)
        with pytest.raises(
            InputError, match="no readable HDF5 file .*; remove the file to have it made again"
        ):
            Activations(path)
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = [1]
    with pytest.raises(InputError, match=r"format None; allowed: format 'factfinding activations 2'"):
        Activations(tmp_path / "foreign.h5")


def test_what_is_not_in_the_file_is_named(made):
    with Activations(made / "full.h5") as file:
        with pytest.raises(InputError, match=r"no dataset 'resid@shot'; allowed: attn_out@end"):
            file.layer("resid@shot", 0)
        with pytest.raises(InputError, match=r"no layer 9 of resid@end; allowed: layers -1-2"):
            file.layer("resid@end", 9)


def test_a_layer_that_the_model_lacks_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"pre@end: found layer 7; allowed: this model has layers 0-2"):
        capture(
            random_anatomy("gpt_neox"), prompts(NAMES), [Wanted(site="pre", role="end", layers=(7,))], tmp_path / "x.h5",
            source=SOURCE, shards=tmp_path, batch_size=2, shard_rows=2, attributes={}, log=print,
        )  # fmt: skip


@pytest.mark.slow
def test_memory_does_not_grow_with_the_subjects(tmp_path):
    """Peak memory over 32 and over 288 prompts differs by far less than the activations of 256 prompts."""
    code = (
        "import sys, resource; sys.path[:0] = ['scripts', 'tests']\n"
        "from helpers.stores import NAMES, store; from pathlib import Path\n"
        "from helpers.models import random_anatomy\n"
        "n = int(sys.argv[2]); names = [f'A{i:03d} Lee' for i in range(n)]\n"
        "store(Path(sys.argv[1]), names, anatomy=random_anatomy('gpt_neox', width=512, layers=6), shard_rows=16)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, (Path(sys.argv[1]) / 'full.h5').stat().st_size >> 20)"
    )

    def peak(n):
        out = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / str(n)), str(n)],
            capture_output=True,
            text=True,
            check=True,
        )
        return [int(x) for x in out.stdout.split()]

    (small, _), (large, size) = peak(32), peak(288)
    assert size > 30 and large - small < size / 2, (small, large, size)


def test_a_batch_that_does_not_fit_is_halved_and_said(made, tmp_path, monkeypatch):
    record, said = capturing.record, []

    def small(anatomy, table, rows, layouts):
        if len(rows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return record(anatomy, table, rows, layouts)

    monkeypatch.setattr(capturing, "record", small)
    store(tmp_path, NAMES, log=said.append)
    assert [line for line in said if "out of memory" in line] == [
        "out of memory with 2 rows in a batch; going on with 1"
    ]
    expected, got = values(made / "full.h5"), values(tmp_path / "full.h5")
    assert all(np.allclose(expected[name], got[name], atol=1e-5, equal_nan=True) for name in expected)


@pytest.mark.slow
def test_two_processes_that_add_the_same_shards_both_end_well(made, tmp_path):
    """Two studies of one model side by side: both are held with their first shard open, until the other has it too."""
    code = (
        "import sys, time; sys.path[:0] = ['scripts', 'tests']\n"
        "from helpers.stores import NAMES, store; from pathlib import Path; import factfinding.store as s\n"
        "from contextlib import contextmanager\n"
        "folder, me, whole = Path(sys.argv[1]), sys.argv[2], s.whole\n"
        "@contextmanager\n"
        "def together(path):\n"
        "    with whole(path) as part:\n"
        "        (folder / me).touch()\n"
        "        while not ((folder / 'a').exists() and (folder / 'b').exists()): time.sleep(0.01)\n"
        "        yield part\n"
        "s.whole = together\n"
        "store(folder, NAMES)"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "ab"]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    expected, got = values(made / "full.h5"), values(tmp_path / "full.h5")
    assert all(np.array_equal(expected[name], got[name], equal_nan=True) for name in expected)
    assert not list(tmp_path.rglob(".*.part"))


@pytest.mark.slow
def test_killed_at_several_moments_then_rerun_gives_the_unbroken_values(tmp_path):
    """kill -9 while shards are written; finished shards are neither lost nor run again."""
    code = (
        "import sys, time; sys.path[:0] = ['scripts', 'tests']\n"
        "from helpers.stores import NAMES, store; from pathlib import Path; import factfinding.engine.capture as c\n"
        "record = c.record\n"
        "c.record = lambda *a: (time.sleep(0.15), record(*a))[1]\n"
        "store(Path(sys.argv[1]), NAMES, shard_rows=1)"
    )
    whole_run = tmp_path / "whole"
    store(whole_run, NAMES, shard_rows=1)
    broken = tmp_path / "broken"
    survived = 0
    for wanted in (1, 3, 6):
        process = subprocess.Popen([sys.executable, "-c", code, str(broken)])
        deadline = time.time() + 60
        while len(list(broken.rglob("*.h5"))) < wanted and time.time() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        shards = list(broken.rglob("shards/*/*.h5"))
        assert len(shards) >= wanted > survived and not (broken / "full.h5").exists()
        survived = len(shards)
    stamps = {path: path.stat().st_mtime_ns for path in broken.rglob("shards/*/*.h5")}
    assert store(broken, NAMES, shard_rows=1) == len(NAMES) - survived
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    first, second = values(whole_run / "full.h5"), values(broken / "full.h5")
    assert all(np.array_equal(first[name], second[name], equal_nan=True) for name in first)
    assert not list(Path(broken).rglob(".*.part"))


def test_values_too_large_for_the_file_name_the_setting():
    """Half precision ends at 65,504: what is beyond would be stored as infinite, and stop a rule far from here."""
    layout = StoreLayout(name="resid@end", shape=(2, 3), axes=("layer", "d_model"), layers=(-1, 0), units="")
    arrays = {"resid@end": np.ones((4, 2, 3), dtype=np.float32)}
    kept = as_stored(arrays, [layout], computed="float32", stored="float16")
    assert kept["resid@end"].dtype == np.float16
    arrays["resid@end"][2, 1, 0] = 7e4
    with pytest.raises(InputError) as error:
        as_stored(arrays, [layout], computed="float32", stored="float16")
    for part in (
        "config.activations.stored: found float16",
        "up to 7e+04 in resid@end, layer 0",
        "ends at 65,504",
    ):
        assert part in str(error.value)
    assert as_stored(arrays, [layout], computed="float32", stored="float32")["resid@end"].max() == np.float32(
        7e4
    )
    arrays["resid@end"][2, 1, 0] = np.inf
    with pytest.raises(
        InputError, match=r"config\.compute\.dtype: found float16, in which resid@end, layer 0"
    ):
        as_stored(arrays, [layout], computed="float16", stored="float16")
