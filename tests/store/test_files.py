"""Files are whole or not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import polars as pl
import pytest

from factfinding import files
from factfinding.errors import InputError
from factfinding.tables import read_table


def test_an_error_while_writing_leaves_the_old_file_and_no_part(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    files.write_text("old", path)
    with pytest.raises(RuntimeError), files.whole(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_a_writer_killed_half_way_leaves_no_file_under_the_name(tmp_path):
    code = (
        "import sys, time; sys.path[:0] = ['scripts']\n"
        "from factfinding.files import whole\n"
        f"with whole({str(tmp_path / 'file.txt')!r}) as part:\n"
        "    part.write_text('half'); print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "file.txt").exists()
    files.write_text("whole", tmp_path / "file.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"], "the next writer takes the half away"


WRITER = """
import sys; sys.path[:0] = ['scripts']
from factfinding.files import whole
with whole(sys.argv[1]) as part, part.open('w') as file:
    file.write(sys.argv[2] + ', half'); file.flush(); print('half', flush=True); sys.stdin.readline()
    file.write(', whole')
"""


def test_two_processes_at_one_path_each_publish_their_own_whole_file(tmp_path):
    """Snakemake is killed, its job lives on, and the same command is run again."""
    path = tmp_path / "file.txt"
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for name in ("first", "second")
    )  # fmt: skip
    for writer in (first, second):
        assert writer.stdout.readline() == "half\n"
    files.write_text("third", path)  # sweeps, and leaves the parts of the living alone
    for writer, name in ((first, "first"), (second, "second")):
        writer.communicate("go on\n", timeout=60)
        assert writer.returncode == 0 and path.read_text() == f"{name}, half, whole"
    assert [left.name for left in tmp_path.iterdir()] == ["file.txt"]


def test_a_part_of_another_machine_is_its_own_to_sweep(tmp_path):
    """A process number that no process has here may be a living one there."""
    part = tmp_path / ".file.txt.00000000-4194305-00000000.part"
    part.write_text("half")
    files.write_text("whole", tmp_path / "file.txt")
    assert part.exists()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_come_back_as_they_went(tmp_path, suffix):
    frame = pl.DataFrame(
        {
            "name": ["Nikola Jokić", 'a "b", c', None],
            "n": [1, 2, 3],
            "x": [0.1, 1e-300, None],
            "b": [True, False, True],
        }
    )
    files.write_table(frame, tmp_path / f"table{suffix}")
    read = pl.read_csv if suffix == ".csv" else read_table
    assert read(tmp_path / f"table{suffix}").equals(frame)


def test_long_tables_are_parquet(tmp_path):
    long = pl.DataFrame({"x": range(files.CSV_ROWS + 1)})
    with pytest.raises(ValueError, match="10001 rows; tables of more than 10000"):
        files.write_table(long, tmp_path / "table.csv")
    files.write_table(long, tmp_path / "table.parquet")
    assert read_table(tmp_path / "table.parquet").height == files.CSV_ROWS + 1


def test_missing_and_damaged_files_are_named(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "long.json").write_text("1" * 5_000)
    (tmp_path / "bytes.json").write_bytes(b'"\xff"')
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    for read, name, message in (
        (files.read_json, "none.json", "no such file"),
        (files.read_json, "bad.json", "no valid JSON"),
        (files.read_json, "deep.json", "no valid JSON .*recursion"),
        (files.read_json, "long.json", "no valid JSON .*limit"),
        (files.read_json, "bytes.json", "no valid JSON .*utf-8"),
        (read_table, "none.csv", "no such file"),
        (read_table, "bad.parquet", "a damaged table"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            read(tmp_path / name)
        assert name in str(caught.value)


def test_where_one_text_ends_counts_in_a_digest():
    assert files.text_digest("ab", "c") != files.text_digest("a", "bc")


def test_syncing_happens_before_the_name_is_given(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(files.os, "fsync", lambda fd: order.append("sync"))
    replace = os.replace
    monkeypatch.setattr(files.os, "replace", lambda a, b: (order.append("rename"), replace(a, b)))
    files.write_text("x", tmp_path / f"file{time.time_ns()}")
    assert order == ["sync", "rename"]
