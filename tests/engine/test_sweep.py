"""Sweeps: the same numbers as the slow twin, whatever the batch, the kill or the shard that somebody put
there.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from factfinding.engine import trace
from factfinding.engine.batches import Batches
from factfinding.engine.difference import Difference
from factfinding.engine.shards import TableShards, tensor_digest
from factfinding.engine.sites import neuron
from factfinding.engine.suffix import Suffix
from factfinding.engine.sweep import Sweeping
from factfinding.engine.sweep_neurons import Donors, neuron_index, neuron_sweep
from factfinding.errors import InputError, out_of_memory
from helpers import ROOT
from helpers.models import random_anatomy
from helpers.sweeps import PROMPTS, make_donors, quiet, sweep_neurons

RESULTS = ("effect", "standard_error", "n", "evaluations", "certificate")


@pytest.fixture(scope="module")
def anatomy():
    return random_anatomy("gpt_neox", dtype=torch.float64)


@pytest.fixture(scope="module")
def index():
    kinds = {"mean": 1, "zero": 1, "resample_same": 2, "resample_other": 5}
    return neuron_index(prompts=[0, 1], layers=[0, 1], neurons=[3, 1, 77], kinds=kinds)


def by_hand(anatomy, prompt, layer, unit, values):
    """Mean change of the answer's log-probability over replacement values, by hooks."""
    row = PROMPTS.row(prompt, named=True)
    tokens = torch.tensor([row["token_ids"]] * len(values))
    at, end = (torch.full((len(values),), row[name]) for name in ("final_name", "end"))
    edits = [trace.Edit(site=neuron(layer, unit), at=at, value=values[:, None])]
    after, before = (
        trace.run(anatomy, tokens, logits_at=end, edits=e).logits.log_softmax(1) for e in (edits, [])
    )
    return (after - before)[:, row["target"]]


def test_a_neuron_sweep_is_what_hooks_give(anatomy, index):
    sweep, donors = sweep_neurons(anatomy, index, twin_rows=10**6), make_donors(anatomy)
    assert sweep.table.select(index.columns).equals(index)
    assert sweep.twin["rows"][0] == index.height
    assert sweep.twin["largest_error"][0] < 1e-12 and sweep.twin["rank_correlation"][0] == 1.0
    for row in sweep.table.filter(pl.col("kind").is_in(["mean", "zero"])).iter_rows(named=True):
        pool = donors.values(row["layer"], "final_name")[:, row["neuron"]]
        value = pool.mean(0, keepdim=True) if row["kind"] == "mean" else torch.zeros(1, dtype=torch.float64)
        assert (
            abs(row["effect"] - float(by_hand(anatomy, row["prompt"], row["layer"], row["neuron"], value)))
            < 1e-12
        )
        assert row["standard_error"] is None and row["n"] == 1


def test_resamples_come_from_the_right_answers_and_all_of_them_are_used_if_few(anatomy):
    index = neuron_index(
        prompts=[1], layers=[1], neurons=[5], kinds={"resample_other": 6, "resample_same": 64}
    )
    table, donors = sweep_neurons(anatomy, index).table, make_donors(anatomy)
    for row in table.iter_rows(named=True):
        same = row["kind"] == "resample_same"
        able = [i for i, answer in enumerate(donors.answers) if (answer == "basketball") == same]
        effects = by_hand(anatomy, 1, 1, 5, donors.values(1, "final_name")[able, 5])
        assert row["n"] == len(able)
        assert abs(row["effect"] - float(effects.mean())) < 1e-12
        assert abs(row["standard_error"] - float(effects.std() / len(able) ** 0.5)) < 1e-12


def test_a_subject_is_no_donor_of_its_own(anatomy):
    donors = make_donors(anatomy)
    alone = Donors(
        subjects=["A0", "x"], answers=["baseball", "football"], values=lambda *a: donors.values(*a)[:2]
    )
    index = neuron_index(prompts=[0], layers=[0], neurons=[0], kinds={"resample_same": 4})
    with pytest.raises(InputError, match="resample_same for 'A0'.*no donor"):
        neuron_sweep(anatomy, PROMPTS, index, alone, Sweeping(engine=Suffix(anatomy), log=quiet))


def test_a_tolerance_saves_evaluations_and_keeps_its_word(anatomy):
    index = neuron_index(
        prompts=[0], layers=[1], neurons=range(40), kinds={"resample_other": 6, "resample_same": 3}
    )
    every, few = sweep_neurons(anatomy, index).table, sweep_neurons(anatomy, index, tolerance=1e-2).table
    assert few["evaluations"].sum() < every["evaluations"].sum() == 9 * index.height
    assert (few["effect"] - every["effect"]).abs().max() < 3e-2 * every["effect"].abs().max()


@pytest.mark.parametrize("product", ("full", "bfloat16"))
def test_the_engines_are_interchangeable(anatomy, index, product):
    values, differences = (
        sweep_neurons(anatomy, index, engine=e) for e in (Suffix(anatomy), Difference(anatomy, product))
    )
    error = (values.table["effect"] - differences.table["effect"]).abs().max() / values.table[
        "effect"
    ].abs().max()
    assert error < {"full": 1e-10, "bfloat16": 0.02}[product]
    assert differences.twin["relative_error"][0] <= 0.02


def test_gated_neurons_by_curves_in_differences_are_what_hooks_give(index):
    """Curves, slopes and donors of a Llama's neurons: activation(gate) x up, what the projection down reads."""
    llama = random_anatomy("llama", dtype=torch.float64)
    sweep = sweep_neurons(llama, index, engine=Difference(llama), tolerance=1e-6, twin_rows=10**6)
    assert sweep.twin["rows"][0] == index.height
    assert sweep.twin["relative_error"][0] < 3e-6 and sweep.twin["rank_correlation"][0] == 1.0


def test_rows_that_do_not_fit_are_refused_by_number(anatomy, index):
    for column, value, message in (
        ("prompt", 4, "row 0: found prompt 4; allowed: 0-3"),
        ("layer", 3, "row 0: found layer 3; allowed: 0-2"),
        ("neuron", 128, "neuron 128; allowed: 0-127"),
        ("kind", "median", "kind 'median'; allowed: mean"),
        ("role", "shot", "role 'shot'; allowed: first_name"),
    ):
        with pytest.raises(InputError, match=message):
            sweep_neurons(anatomy, index.with_columns(pl.lit(value).alias(column)))
    with pytest.raises(InputError, match="no rows"):
        sweep_neurons(anatomy, index.head(0))


class Counting(Suffix):
    """An engine that counts what it is asked, and may run out of memory."""

    calls = 0
    limit = 10**9

    def effects(self, clean, edits, reading):
        type(self).calls += len(edits.prompt)
        if len(edits.prompt) > self.limit:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
        return super().effects(clean, edits, reading)


def test_out_of_memory_halves_the_batch_says_so_and_gives_the_same_numbers(anatomy, index):
    class Small(Counting):
        limit = 4

    said = []
    plain, small = (
        sweep_neurons(anatomy, index),
        sweep_neurons(anatomy, index, engine=Small(anatomy), log=said.append),
    )
    assert_frame_equal(plain.table, small.table, abs_tol=1e-13)
    halved = [line.split(";")[0] for line in said if "out of memory" in line]
    # 27 rows, halved until they fit; the size is kept, so each is said once
    assert halved == [f"out of memory with {n} rows in a batch" for n in (27, 13, 6)]


def test_out_of_memory_with_one_row_and_other_errors_are_raised():
    def fails(error):
        def work(part):
            raise error

        return work

    for error in (torch.OutOfMemoryError("x"), ValueError("bad"), RuntimeError("shape mismatch")):
        with pytest.raises(type(error)):
            Batches(8, quiet).run(fails(error), 5)
    assert out_of_memory(MemoryError()) and not out_of_memory(RuntimeError("shape mismatch"))


def test_finished_shards_are_not_computed_again(anatomy, index, tmp_path):
    Counting.calls = 0
    seen = []
    first = sweep_neurons(
        anatomy, index, engine=Counting(anatomy), folder=tmp_path, progress=lambda *p: seen.append(p)
    )
    calls = Counting.calls
    assert calls > 0 and len(list(tmp_path.glob("*.parquet"))) == 4
    assert seen[-1] == (index.height, index.height) and len(seen) == 4
    again = sweep_neurons(anatomy, index, engine=Counting(anatomy), folder=tmp_path)
    assert Counting.calls == calls and again.table.equals(first.table)
    # only the prompt that is new is computed
    wider = neuron_index(
        prompts=[0, 1, 2],
        layers=[0, 1],
        neurons=[3, 1, 77],
        kinds=dict(index.select("kind", "draws").unique().rows()),
    )
    sweep_neurons(anatomy, wider.filter(pl.col("prompt") == 2), engine=Counting(anatomy), folder=tmp_path)
    assert len(list(tmp_path.glob("*.parquet"))) == 6


def test_what_a_shard_depends_on_is_in_its_key(anatomy, index, tmp_path):
    small = index.filter((pl.col("prompt") == 0) & (pl.col("layer") == 0))

    def files(**options):
        donors = options.pop("donors", make_donors(anatomy))
        prompts = options.pop("prompts", PROMPTS)
        options = {
            "engine": Suffix(anatomy),
            "model": "m",
            "log": quiet,
            "twin_rows": 0,
            "folder": tmp_path,
            **options,
        }
        neuron_sweep(anatomy, prompts, small, donors, Sweeping(**options))
        return len(list(tmp_path.glob("*.parquet")))

    assert files() == files() == 1
    assert files(model="another") == 2
    assert files(seed=1) == 3
    assert files(tolerance=1e-2) == 4
    assert files(engine=Difference(anatomy, "tf32")) == 5
    pool = make_donors(anatomy)
    moved = Donors(subjects=pool.subjects, answers=pool.answers, values=lambda *a: pool.values(*a) + 1e-9)
    assert files(donors=moved) == 6
    assert files(prompts=PROMPTS.with_columns(target=pl.col("target") + 1)) == 7
    assert files() == 7


@pytest.mark.parametrize("harm", ("truncated", "foreign", "altered"))
def test_a_shard_that_is_not_what_was_written_is_made_again(anatomy, index, tmp_path, harm):
    said = []
    first = sweep_neurons(anatomy, index, folder=tmp_path, log=said.append, twin_rows=0)
    assert said == []
    one, other, *_ = sorted(tmp_path.glob("*.parquet"))
    if harm == "truncated":
        one.write_bytes(one.read_bytes()[:-20])
    elif harm == "foreign":
        one.write_bytes(other.read_bytes())
    else:
        metadata = {k: v for k, v in pl.read_parquet_metadata(one).items() if k in ("key", "content")}
        pl.read_parquet(one).with_columns(pl.col("effect") * 1.01).write_parquet(one, metadata=metadata)
    again = sweep_neurons(anatomy, index, folder=tmp_path, log=said.append, twin_rows=0)
    assert len(said) == 1 and "is not trusted and is made again" in said[0] and one.name in said[0]
    assert_frame_equal(again.table, first.table, abs_tol=1e-14)
    assert not list(tmp_path.glob(".*.part"))


KILLED = """
import sys, time
sys.path[:0] = {paths}
from pathlib import Path
import torch
from factfinding.engine.sweep_neurons import neuron_index
from helpers.models import random_anatomy
from helpers.sweeps import sweep_neurons
anatomy = random_anatomy("gpt_neox", dtype=torch.float64)
kinds = dict(mean=1, resample_other=5)
index = neuron_index(prompts=[0, 1, 2, 3], layers=[0, 1, 2], neurons=[3, 1, 77], kinds=kinds)
def step(done, total):
    print(done, flush=True)
    time.sleep(0.02)
sweep_neurons(anatomy, index, folder=Path(sys.argv[1]), progress=step, twin_rows=0)
"""


@pytest.mark.slow
def test_killed_at_any_shard_a_sweep_goes_on_from_there(anatomy, tmp_path):
    script = KILLED.format(paths=[str(ROOT / "scripts"), str(ROOT / "tests")])
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "shards")],
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for _ in range(random.Random(time.time_ns()).randrange(1, 9)):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "shards").glob("*.parquet")}
    assert 1 <= len(finished) < 12
    index = neuron_index(
        prompts=[0, 1, 2, 3], layers=[0, 1, 2], neurons=[3, 1, 77], kinds={"mean": 1, "resample_other": 5}
    )
    Counting.calls = 0
    resumed = sweep_neurons(anatomy, index, engine=Counting(anatomy), folder=tmp_path / "shards", twin_rows=0)
    per_piece = 3 * 6  # every draw of three neurons
    assert Counting.calls == per_piece * (12 - len(finished))
    for name, written in finished.items():
        assert (tmp_path / "shards" / name).stat().st_mtime_ns == written
    assert_frame_equal(resumed.table, sweep_neurons(anatomy, index, twin_rows=0).table, abs_tol=1e-13)


def test_a_folder_of_none_keeps_nothing_and_a_tensors_digest_sees_shape_and_type(tmp_path):
    shards = TableShards(None, {}, quiet)
    assert shards.get(pl.DataFrame({"a": [1]}), [], lambda: pl.DataFrame({"b": [2]}))["b"][0] == 2
    x = torch.zeros(4)
    assert (
        len({tensor_digest(x), tensor_digest(x.reshape(2, 2)), tensor_digest(x.int()), tensor_digest(x + 1)})
        == 4
    )
