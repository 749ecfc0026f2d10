"""The activation store: what is read is what the model computes, rows are run once, and no wrong file is believed."""

from __future__ import annotations

import dataclasses
import os
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

from factfinding.data.prompts import prompt_table
from factfinding.engine.capture import SITES, Wanted, capture
from factfinding.errors import InputError
from factfinding.store import Activations, Source
from models import random_anatomy, tokenizer

SOURCE = Source(model="m", revision="", dtype="float32", condition="full", code="c", stored="float32")
NAMES = [
    "Bo Lee",
    "Michael Jordan",
    "Al X",
    "Karl-Anthony Towns",
    "Ann Li",
    "Nikola Jokić",
    "Babe Ruth",
    "Tom Brady",
]
WANTED = [Wanted(site=s, role=r) for s in SITES if s not in ("pre", "post") for r in ("final_name", "end")]
WANTED += [Wanted(site=s, role="final_name", layers=(0, 2)) for s in ("pre", "post")]
TOKENIZER = tokenizer()


def prompts(names, condition="full"):
    frame = pl.DataFrame({"athlete": names, "sport": ["baseball"] * len(names)})
    return prompt_table(frame, TOKENIZER, 0, condition)


def store(folder, names, *, source=SOURCE, anatomy=None, log=lambda _: None, batch_size=2, shard_rows=3):
    return capture(
        anatomy or random_anatomy("gpt_neox"),
        prompts(names),
        WANTED,
        folder / "full.h5",
        source=source,
        shards=folder / "shards",
        batch_size=batch_size,
        shard_rows=shard_rows,
        attributes={"note": "test"},
        log=log,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    assert store(folder, NAMES) == len(NAMES)
    return folder


def test_the_file_holds_what_the_model_computes(made):
    anatomy, table = random_anatomy("gpt_neox"), prompts(NAMES)
    with Activations(made / "full.h5", model="m", condition="full") as file:
        assert file.athletes()["athlete"].to_list() == NAMES
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
        assert file["resid@end"].attrs["axes"].tolist() == ["athlete", "layer", "d_model"]
        assert file["resid@end"].attrs["layers"].tolist() == [-1, 0, 1, 2]
        assert file["pre@final_name"].attrs["layers"].tolist() == [0, 2]
        assert (
            file.attrs["model"] == "m" and file.attrs["condition"] == "full" and file.attrs["note"] == "test"
        )


def values(path):
    with h5py.File(path) as file:
        return {name: file[name][:] for name in file if "@" in name}


def test_new_athletes_cost_their_own_passes_and_a_changed_name_one(tmp_path):
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


def flip_byte(path):
    with h5py.File(path) as file:
        offset = file["resid@end"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[offset + 40] ^= 1
    path.write_bytes(data)


def test_a_truncated_foreign_or_altered_file_is_named_and_refused(made, tmp_path):
    path = copy(made, tmp_path)
    for model, condition, message in (("other", "full", "model 'm'"), ("m", "name_only", "condition 'full'")):
        with pytest.raises(InputError, match=message) as caught:
            Activations(path, model=model, condition=condition)
        assert str(path) in str(caught.value)
    flip_byte(path)
    with Activations(path) as file, pytest.raises(InputError, match="damaged data in resid@end"):
        file.layer("resid@end", -1)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="no readable HDF5 file"):
        Activations(path)
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = [1]
    with pytest.raises(InputError, match=r"format None; allowed: format 'factfinding activations 1'"):
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


def test_memory_does_not_grow_with_the_athletes(tmp_path):
    """Peak memory over 32 and over 288 prompts differs by far less than the activations of 256 prompts."""
    code = (
        "import sys, resource; sys.path[:0] = ['scripts', 'tests']\n"
        "import test_store as t; from pathlib import Path\n"
        "from models import random_anatomy\n"
        "n = int(sys.argv[2]); names = [f'A{i:03d} Lee' for i in range(n)]\n"
        "t.store(Path(sys.argv[1]), names, anatomy=random_anatomy('gpt_neox', width=512, layers=6), shard_rows=16)\n"
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


def test_killed_at_several_moments_then_rerun_gives_the_unbroken_values(tmp_path):
    """kill -9 while shards are written; finished shards are neither lost nor run again."""
    code = (
        "import sys, time; sys.path[:0] = ['scripts', 'tests']\n"
        "import test_store as t; from pathlib import Path; import factfinding.engine.capture as c\n"
        "record = c.record\n"
        "c.record = lambda *a: (time.sleep(0.15), record(*a))[1]\n"
        "t.store(Path(sys.argv[1]), t.NAMES, shard_rows=1)"
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
