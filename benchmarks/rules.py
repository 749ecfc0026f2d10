"""Where the time of a finished study goes: one line per job, from its own benchmark files, into docs/performance.md.

python benchmarks/rules.py results/organism

For the time of a whole run the files must all be of one run, as after `make clean` and `make`.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from datetime import date
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "scripts"), str(Path(__file__).parent)]

import polars as pl
from page import DOCUMENT, Table, number, write_part


def measured(folder: Path) -> pl.DataFrame:
    """Each job of the study that Snakemake measured: job, seconds, cpu_time (seconds), memory (MB); longest first."""
    files = sorted((folder / "benchmarks").glob("*.tsv"))
    if not files:
        raise SystemExit(f"{folder}/benchmarks: found no *.tsv; allowed: the folder of a finished study")
    frames = [
        pl.read_csv(path, separator="\t", null_values=["-", "NA"]).tail(1).with_columns(job=pl.lit(path.stem))
        for path in files
    ]
    columns = {"s": "seconds", "cpu_time": "cpu_time", "max_rss": "memory"}
    numbers = [pl.col(name).cast(pl.Float64).alias(new) for name, new in columns.items()]
    return pl.concat([frame.select("job", *numbers) for frame in frames]).sort("seconds", descending=True)


def together(jobs: pl.DataFrame, prefix: str, name: str) -> pl.DataFrame:
    """The jobs whose names begin so as one line: the sum of their times, the largest of their memories."""
    ours = pl.col("job").str.starts_with(prefix)
    one = jobs.filter(ours)
    line = one.select(
        job=pl.lit(f"{name} ({one.height} jobs)"), seconds=pl.col("seconds").sum(),
        cpu_time=pl.col("cpu_time").sum(), memory=pl.col("memory").max(),
    ).head(1)  # fmt: skip
    return pl.concat([jobs.filter(~ours), line]).sort("seconds", descending=True)


def wall_clock(folder: Path, jobs: pl.DataFrame) -> float:
    """Seconds from the start of the first job to the end of the last, by when their files were written."""
    ends = {job: (folder / f"benchmarks/{job}.tsv").stat().st_mtime for job in jobs["job"]}
    starts = [ends[job] - seconds for job, seconds in jobs.select("job", "seconds").rows()]
    return max(ends.values()) - min(starts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="results/<study>")
    folder = parser.parse_args().folder
    single = measured(folder)
    jobs = together(single, "figure_", "figures")
    total = ("all of these", number(jobs["seconds"].sum()), number(jobs["cpu_time"].sum()), "")
    rows = [(job, number(s), number(cpu), number(mb)) for job, s, cpu, mb in jobs.rows()]
    note = (
        f"From the start of the first job to the end of the last it took {wall_clock(folder, single):.0f} seconds: jobs run "
        "side by side, "
        "so a run is shorter than their sum. Imports are in it, four to six seconds of a job."
    )
    table = Table(
        title=f"Rules of the study {folder.name}", columns=("job", "seconds", "of a processor", "peak MB"),
        rows=[*rows, total], note=note,
    )  # fmt: skip
    print(table.plain())
    about = [
        f"command: `python benchmarks/rules.py {folder}`",
        f"machine: {platform.machine()}, {os.cpu_count()} cores",
        f"date: {date.today()}",
    ]
    write_part(DOCUMENT, "rules", about, [table], "Where the time of a study goes")


if __name__ == "__main__":
    main()
