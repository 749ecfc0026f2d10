"""Measure the engine, print the tables and write them to docs/performance.md.

    python benchmarks/run.py                                          on this machine's processor, beside other tools
    python benchmarks/run.py --device cuda --shape pythia-2.8b        on a GPU

The other tools are installed into an environment of their own, benchmarks/.venv, at the versions of
requirements.txt; this script makes it when it is not there and starts itself again in it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENT, REQUIREMENTS = HERE / ".venv", HERE / "requirements.txt"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--shape", default="pythia-160m", choices=["pythia-160m", "pythia-2.8b", "tiny"])
    parser.add_argument(
        "--suite", choices=["compare", "throughput"], help="compare on a processor, throughput on a GPU"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="processor threads")
    parser.add_argument("--rows", type=int, help="patches in a batch (256, on a GPU 4096)")
    parser.add_argument(
        "--clock", default="wall", choices=["wall", "cpu"], help="cpu: processor time, on a busy machine"
    )
    parser.add_argument("--rounds", type=int, default=2, help="rounds, of which the fastest counts")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "performance.md")
    return parser.parse_args()


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


def main() -> None:
    options = arguments()
    own_environment()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    sys.path.insert(0, str(HERE.parent / "scripts"))
    import torch
    from compare import Comparison
    from measure import Clock, machine
    from page import write_part
    from throughput import Throughput
    from workload import SHAPES, build

    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    Clock.use(options.clock)
    on_gpu = options.device.startswith("cuda")
    suite = options.suite or ("throughput" if on_gpu else "compare")
    rows = options.rows or (4096 if on_gpu else 256)
    shape = SHAPES[options.shape]
    command = " ".join(["python benchmarks/run.py", *sys.argv[1:]])
    about = [f"command: `{command}`", *machine(options.device, options.threads)]
    about.append(f"model: {options.shape} shape, random weights, float32; {rows} patches in a batch of ours")
    about.append(
        "time: " + {"wall": "wall clock", "cpu": "processor time of the process, all threads"}[options.clock]
    )
    model = build(shape, device=options.device)
    if suite == "compare":
        title, tables = (
            "Against other tools",
            Comparison(model, shape, rows=rows, rounds=options.rounds).tables(),
        )
    else:
        title, tables = (
            "Throughput" + (" on a GPU" if on_gpu else ""),
            Throughput(model, shape, rows=rows).tables(),
        )
    print("\n".join(about), *(table.plain() for table in tables), sep="\n")
    write_part(options.out, suite, title, about, tables)
    print(f"\nwritten to {options.out}")


if __name__ == "__main__":
    main()
