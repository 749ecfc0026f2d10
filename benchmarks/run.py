"""Measure the engine, print the tables and write them to docs/performance.md.

    python benchmarks/run.py                                          on this machine's processor, beside other tools
    python benchmarks/run.py --here --device cuda --shape pythia-2.8b on a GPU: what it makes of the sweep
    python benchmarks/run.py --here --device cpu --shape tiny --only sweep,checks,profile,peers,rules   try all of it

The other tools are installed into an environment of their own, benchmarks/.venv, at the versions of
requirements.txt; this script makes it when it is not there and starts itself again in it. With --here it does not,
and runs in the Python that started it, with the other tools if that has them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from page import Section
    from workload import Shape

HERE = Path(__file__).resolve().parent
ENVIRONMENT, REQUIREMENTS = HERE / ".venv", HERE / "requirements.txt"
PARTS = ("sweep", "checks", "profile", "peers", "rules")
SECTIONS = {"rules": "full-size"}
"""Where a part stands in the page, if not under its own name."""
NEOX_SHAPES, LLAMA_SHAPES = ["pythia-160m", "pythia-2.8b", "tiny"], ["smollm2-135m", "tiny-llama"]
LLAMA_SECTIONS = SECTIONS | {"peers": "peers-llama"}


def parts(text: str) -> list[str]:
    """Parts of the throughput suite by name, in the order given."""
    chosen = text.split(",")
    if unknown := [part for part in chosen if part not in PARTS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r}; allowed: {', '.join(PARTS)}")
    return chosen


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--shape", default="pythia-160m", choices=NEOX_SHAPES + LLAMA_SHAPES)
    parser.add_argument("--here", action="store_true", help="in this Python, no environment of its own")
    parser.add_argument(
        "--suite", choices=["compare", "throughput"], help="compare on a processor, throughput on a GPU"
    )
    parser.add_argument(
        "--only",
        type=parts,
        help=f"parts of throughput, of {','.join(PARTS)} (all but rules)",
        metavar="PARTS",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="processor threads")
    parser.add_argument(
        "--rows", type=int, help="patches in a batch (256, on a GPU what a sweep begins with)"
    )
    parser.add_argument(
        "--clock", default="wall", choices=["wall", "cpu"], help="cpu: processor time, on a busy machine"
    )
    parser.add_argument("--rounds", type=int, default=2, help="rounds, of which the fastest counts")
    parser.add_argument("--batches", type=int, default=1, help="sweep: batches of every draw in each layer")
    parser.add_argument("--names", type=int, default=300, help="rules: subjects of the study")
    parser.add_argument("--until", nargs="*", default=[], help="rules: only these and what they need")
    parser.add_argument("--study", type=Path, help="rules: a configuration laid over the benchmark's own")
    parser.add_argument("--seconds", type=float, default=3600, help="rules: stop the study after so long")
    parser.add_argument(
        "--work", type=Path, help="rules: where the study is made and left (a folder that is removed)"
    )
    parser.add_argument("--commit", help="what is measured, where there is no repository to ask")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "performance.md")
    options = parser.parse_args()
    options.suite = options.suite or (
        "throughput" if options.device.startswith("cuda") or options.only else "compare"
    )
    if options.only and options.suite == "compare":
        parser.error("--only chooses parts of the suite throughput")
    if options.shape in LLAMA_SHAPES and options.suite == "compare":
        parser.error("the suite compare takes shapes of GPT-NeoX; for others: --only peers")
    options.only = options.only or list(PARTS[:-1])
    return options


def own_environment() -> None:
    """Go on in benchmarks/.venv, made anew where it is missing or not of these requirements."""
    stamp = ENVIRONMENT / "requirements.sha256"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    python = ENVIRONMENT / "bin" / "python"
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"making {ENVIRONMENT} (the other tools, about 2 GB with torch)", flush=True)
        venv.create(ENVIRONMENT, clear=True, with_pip=True)
        torch = next(line for line in REQUIREMENTS.read_text().splitlines() if line.startswith("torch=="))
        # torch first: with one installed, nothing asks for another build
        for what in ([torch], ["-r", str(REQUIREMENTS)]):
            subprocess.run([python, "-m", "pip", "install", "--quiet", *what], check=True)
        stamp.write_text(wanted)
    if Path(sys.prefix).resolve() != ENVIRONMENT.resolve():
        os.execv(python, [str(python), *sys.argv])


def compare(options: argparse.Namespace, about: list[str]) -> list[str]:
    """The engine beside the other tools, written when all of it is measured."""
    from beside import missing
    from compare import Comparison
    from page import write_part
    from workload import SHAPES, build

    if missing():
        raise SystemExit(
            f"the suite compare needs {' and '.join(missing())}, which this Python cannot import"
        )
    shape = SHAPES[options.shape]
    model = build(shape, device=options.device)
    rows = options.rows or 256
    about.append(f"{rows} patches in a batch of ours")
    tables = Comparison(model, shape, rows=rows, rounds=options.rounds).tables()
    print(*(table.plain() for table in tables), sep="\n")
    write_part(options.out, "compare", about, tables, "Against other tools")
    return []


def throughput(options: argparse.Namespace, about: list[str]) -> list[str]:
    """The chosen parts one after another, each written row by row; returns those that failed."""
    from beside import Beside
    from measure import free
    from page import Section
    from throughput import Throughput
    from workload import SHAPES, build

    shape = SHAPES[options.shape]
    sections = LLAMA_SECTIONS if shape.gated else SECTIONS
    engine, failed = None, []
    for part in options.only:
        section = Section(options.out, sections.get(part, part), ["; ".join(about)])
        with section.attempt(part):
            if part == "rules":
                engine = None  # its memory is the study's
                free()
                whole_study(options, section, shape)
            else:
                engine = engine or Throughput(
                    build(shape, device=options.device), shape,
                    rows=options.rows, rounds=options.rounds, batches=options.batches,
                )  # fmt: skip
                Beside(engine, section).measure() if part == "peers" else getattr(engine, part)(section)
        failed += [part] if section.failed else []
        free()
    return failed


def whole_study(options: argparse.Namespace, section: Section, shape: Shape) -> None:
    """The workflow's rules, in the folder asked for or in one that is removed."""
    from study import rules

    with work_folder(options.work) as folder:
        rules(
            section, shape, folder, device=options.device, names=options.names, overlay=options.study,
            until=options.until, seconds=options.seconds,
        )  # fmt: skip


@contextmanager
def work_folder(given: Path | None) -> Iterator[Path]:
    """The folder asked for, which stays, or one that is removed."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def main() -> None:
    options = arguments()
    if not options.here:
        own_environment()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # what it has started is ended with it
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    sys.path.insert(0, str(HERE.parent / "scripts"))
    import torch
    from measure import Clock, machine

    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    Clock.use(options.clock)
    command = " ".join(["python benchmarks/run.py", *sys.argv[1:]])
    about = [f"command: `{command}`", *machine(options.device, options.threads, options.commit)]
    about.append(f"model: {options.shape} shape, random weights, float32")
    about.append(
        "time: " + {"wall": "wall clock", "cpu": "processor time of the process, all threads"}[options.clock]
    )
    print("\n".join(about), flush=True)
    failed = compare(options, about) if options.suite == "compare" else throughput(options, about)
    print(f"\nwritten to {options.out}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
