"""The workflow itself at a model's size: a folder of random weights, some hundred names, and what each rule takes.

The weights know nothing, so every experiment is done on all subjects; how long a rule takes does not depend on that. The
study runs in a copy of the project, started through Snakemake with the Python that runs this. A rule's row comes when it
is done, so a run that is stopped keeps what it has.
"""

from __future__ import annotations

import csv
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from measure import ROOT
from page import Section, number
from workload import Shape, build

from factfinding.data.prompts import prompt_text
from factfinding.model.tiny import byte_level_tokenizer

NAME = "full-size"
ANSWERS = ("baseball", "basketball", "football")
FIRST = "Michael Jordan"
TOKENIZER = 8000
PROJECT = (
    "Snakefile",
    "config.yaml",
    "README.md",
    "rules",
    "scripts",
    "studies",
    "profiles",
    "resources",
    "envs",
)
"""What of the project a study needs."""


def study_of(shape: Shape, device: str, *, products: str = "bfloat16") -> dict:
    """Configuration of a study whose every rule has something to do, cut where the default takes hours."""
    first, last = shape.swept[0], shape.swept[-1]
    heads = [f"L{shape.layers // 2}H{shape.heads // 2}", f"L{2 * shape.layers // 3}H{shape.heads // 4}"]
    everyone = {"subjects": "all"}
    return {
        "study": NAME,
        "model": {"source": "folder", "folder": f"{NAME}/model"},
        "subjects": {"table": f"{NAME}/subjects.csv"},
        "compute": {"batch_size": 64, "device": device, "engine": "auto", "products": "tf32"},
        "circuit": {
            "concatenate": [0, max(first - 1, 0)],
            "lookup": [first, last],
            "extract": heads,
        },
        "probes": everyone,
        "heads": everyone,
        "mlp_paths": everyone,
        "paraphrases": everyone,
        "multi_token": everyone,
        "extraction_unasked": everyone,
        "lookup": everyone,
        "names": everyone,
        "linear_relation": everyone | {"layers": 4, "scored_subjects": 30},
        "dictionaries": everyone | {"steps": 50},
        "emergence": everyone,
        "name_unit": everyone,
        "entity_cells": everyone | {"sampled_subjects": 30},
        "interventions": everyone | {"node_subjects": 4, "patched_subjects": 30},
        "neurons": everyone
        | {
            "first": [FIRST],
            "asked_subjects": 1,
            "engine": "auto",
            "products": products,
            "tolerance": 0.01,
            "shards": len(shape.swept),
        },
        "answer_neurons": everyone
        | {
            "neurons": [f"L{last}N{shape.d_mlp // 2}"],
            "texts": "resources/running_text.txt",
            "ablated_subjects": 50,
        },
        "locality": {"tokens": 60, "strings": 50},
    }


def write_project(folder: Path, shape: Shape, *, names: int, device: str) -> None:
    """A copy of the project with a model folder, a table of subjects and a configuration of such a study."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in PROJECT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignored, dirs_exist_ok=True)
        else:
            shutil.copy2(source, folder / name)
    (folder / NAME / "model").mkdir(parents=True, exist_ok=True)
    subjects = write_subjects(folder / NAME / "subjects.csv", names)
    write_model(folder / NAME / "model", shape, subjects, device)
    (folder / f"{NAME}.yaml").write_text(yaml.safe_dump(study_of(shape, device)), encoding="utf-8")


def write_subjects(path: Path, names: int) -> list[dict[str, str]]:
    """About as many subjects of each answer, drawn from the project's table; `FIRST` is among them."""
    with (ROOT / "resources" / "athletes.csv").open(encoding="utf-8") as table:
        rows = [{"subject": row["athlete"], "answer": row["sport"]} for row in csv.DictReader(table)]
    random.Random(0).shuffle(rows)
    rows.sort(key=lambda row: row["subject"] != FIRST)  # stable: the others stay shuffled
    by_answer = [[row for row in rows if row["answer"] == answer] for answer in ANSWERS]
    chosen = [row for i in range(len(rows)) for group in by_answer for row in group[i : i + 1]][:names]
    with path.open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table)
        writer.writerow(["athlete", "sport"])
        writer.writerows([row["subject"], row["answer"]] for row in chosen)
    return rows


def write_model(folder: Path, shape: Shape, subjects: Sequence[dict[str, str]], device: str) -> None:
    """Random weights in half precision, with a tokenizer trained on the prompts, so that answers are single tokens."""
    texts = [f"{prompt_text(row['subject'], 'full').text} {row['answer']}" for row in subjects]
    texts += [
        line
        for name in ("resources/facts.csv", "README.md")
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
    ]
    byte_level_tokenizer(texts, min(TOKENIZER, shape.vocabulary)).save_pretrained(folder)
    build(shape, device=device).half().save_pretrained(folder, max_shard_size="4GB")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass(kw_only=True)
class Step:
    """A job as Snakemake announces it, and when."""

    rule: str
    started: float
    said: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The rule, and what tells its jobs apart: the name of its log."""
        return Path(self.said.get("log", self.rule).split(" (")[0]).stem

    @property
    def outputs(self) -> list[str]:
        return self.said["output"].split(", ") if "output" in self.said else []


def finished_steps(lines: Iterable[tuple[float, str]]) -> Iterator[tuple[Step, float, str]]:
    """Jobs as they end, from Snakemake's lines and their times: what it was, when it ended, and how.

    Jobs that had not ended with the last line come last, as "stopped".
    """
    begun: dict[str, Step] = {}
    current: Step | None = None
    now = 0.0
    for now, line in lines:
        if starts := re.match(r"(?:local)?(?:rule|checkpoint) (\w+):$", line):
            current = Step(rule=starts[1], started=now)
        elif current and (detail := re.match(r" {4}(\w+): (.*)", line)):
            current.said[detail[1]] = detail[2]
            if detail[1] == "jobid":
                begun[detail[2]] = current
        elif ended := re.match(r"Finished jobid: (\d+)", line):
            if ended[1] in begun:
                yield begun.pop(ended[1]), now, "well"
        elif failed := re.match(r"Error in rule (\w+)", line):
            current = None
            lost = next((job for job, step in begun.items() if step.rule == failed[1]), None)
            if lost is not None:
                yield begun.pop(lost), now, "failed"
    yield from ((step, now, "stopped") for step in begun.values())


class MemoryWatch:
    """The GPU's memory in use, sampled while the study runs; GB above what was in use at the start."""

    def __init__(self, device: str) -> None:
        self.samples: list[tuple[float, float]] = []
        self.process: subprocess.Popen | None = None
        if device.startswith("cuda"):
            ask = [
                "nvidia-smi",
                "--query-gpu=memory.used",
                "--format=csv,noheader,nounits",
                "--id=0",
                "-lms",
                "250",
            ]
            try:
                self.process = subprocess.Popen(
                    ask, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )
            except OSError:
                return
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            if line.strip().isdigit():
                self.samples.append((time.time(), int(line) / 1e3 * 1.048576))

    def highest(self, start: float, end: float) -> float:
        """GB, between two times; NaN where nothing was seen."""
        seen = [used for at, used in list(self.samples) if start <= at <= end]
        return max(seen) - self.samples[0][1] if seen else float("nan")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()


def rules(
    section: Section, shape: Shape, folder: Path, *, device: str, names: int, overlay: Path | None,
    until: Sequence[str], seconds: float,
) -> None:  # fmt: skip
    """Run the study in `folder`, a row a job. It is stopped after `seconds`. Raises RuntimeError where a job failed.

    overlay: a configuration that is laid over `study_of`. until: only these rules and what they need; all if empty.
    """
    start = time.time()
    write_project(folder, shape, names=names, device=device)
    section.say(
        f"model, tokenizer and {names} names written in {time.time() - start:.0f} s, {gigabytes(folder / NAME)} GB"
    )
    row = section.table(
        f"The workflow's rules, {names} names",
        ("job", "seconds", "began after", "of a processor", "GPU GB", "memory GB", "results GB", "ended"),
        note="`seconds` is the wall clock from start to end of the job, imports and the loading of the model included; `GPU GB` the "
        "highest use of the GPU above that before the study, of whatever ran at the time (one GPU job at a time); `results GB` "
        "what the job wrote as its outputs.",
    )
    watch, overlays = MemoryWatch(device), [overlay.resolve()] if overlay else []
    command = [
        sys.executable, "-m", "snakemake", *(["--until", *until] if until else []), "--cores", str(os.cpu_count()),
        "--resources", "gpu=1", "--scheduler", "greedy", "--keep-going", "--nocolor",
        "--configfile", f"{NAME}.yaml", *map(str, overlays),
    ]  # fmt: skip
    begun = time.time()
    with (folder / "study.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, cwd=folder, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        late = threading.Event()
        limit = threading.Timer(seconds, lambda: (late.set(), stop(process)))
        limit.start()
        try:
            for step, end, how in finished_steps(kept_lines(process, log)):
                if not step.outputs:
                    continue
                how = "stopped" if late.is_set() else how
                used = measured(folder, step)
                row(
                    step.name, number(end - step.started), number(step.started - begun), used["cpu_time"],
                    number(watch.highest(step.started, end)), used["max_rss"],
                    number(sum(size(folder / path) for path in step.outputs) / 1e9, 2), how,
                )  # fmt: skip
            process.wait(timeout=60)  # its output has ended, so it is ending
        finally:
            limit.cancel()
            stop(process)
            watch.stop()
    code = process.wait()
    section.say(
        f"the study took {time.time() - begun:.0f} s and ended with {code}"
        + (f" (stopped after {seconds:.0f} s)" if late.is_set() else "")
    )
    section.say(
        f"results: {gigabytes(folder / 'results' / NAME)} GB, finished pieces beside them "
        f"{gigabytes(folder / 'results/.shards')} GB"
    )
    if code and not late.is_set():
        print((folder / "study.log").read_text(encoding="utf-8")[-6000:], flush=True)
        raise RuntimeError("the study was not finished; its rows stand above")


def kept_lines(process: subprocess.Popen, log) -> Iterator[tuple[float, str]]:
    """The lines of a process with the time when they came, kept in a log."""
    for line in process.stdout:
        log.write(line)
        log.flush()
        yield time.time(), line.rstrip("\n")


def stop(process: subprocess.Popen) -> None:
    """End a process that leads its own session, and its jobs."""
    for ask in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, ask)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            continue


def measured(folder: Path, step: Step) -> dict[str, str]:
    """What Snakemake measured of a job: seconds of a processor, and highest memory in GB; "-" where it did not."""
    try:
        with (folder / step.said["benchmark"]).open(encoding="utf-8") as table:
            found = list(csv.DictReader(table, delimiter="\t"))[-1]
        return {
            "cpu_time": number(float(found["cpu_time"])),
            "max_rss": number(float(found["max_rss"]) / 1e3),
        }
    except (KeyError, OSError, IndexError, ValueError):
        return {"cpu_time": "-", "max_rss": "-"}


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def gigabytes(path: Path) -> str:
    return number(size(path) / 1e9, 2)
