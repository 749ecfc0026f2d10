"""Snakemake with the heavy libraries imported once: each job of a study is a fork of one process, not a new Python.

    python tests/helpers/forked.py FOLDER STUDY.yaml [STUDY.yaml ...] [-- ARGUMENTS]

Everything else is as on the command line: the rules, their order, what they read, write and leave undone. A whole study
of random weights then costs what its jobs do, half a minute, where imports alone would take three. Our own modules are
imported by the jobs, from FOLDER. Ends with the first study that fails, and its exit code.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import traceback
from pathlib import Path

import h5py  # noqa: F401
import matplotlib.figure  # noqa: F401
import seaborn  # noqa: F401
import snakemake.cli
import snakemake.script
import torch
import transformers.models.auto.modeling_auto
import transformers.models.gpt2.modeling_gpt2
import transformers.models.gpt_neox.modeling_gpt_neox
import transformers.models.llama.modeling_llama  # noqa: F401
from sklearn import feature_extraction, linear_model, model_selection  # noqa: F401
from snakemake.benchmark import benchmarked


def forked(run, bench_record=None) -> int:
    """Exit code of `run()` in a process of its own, which is measured if there is a record to put it in."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        with benchmarked(pid if bench_record else False, bench_record):
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    # Another thread may have been writing at the fork; here its lock would stay held for ever.
    sys.stdout, sys.stderr = (open(end, "w", buffering=1, closefd=False) for end in (1, 2))  # noqa: SIM115
    code = 1
    try:
        run()
        code = 0
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(bool(done.code))
        if isinstance(done.code, str):
            print(done.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - printed, and told by the exit code
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def execute_script(self, fname: str, edit: bool = False) -> None:
    """In place of Snakemake's own, which starts a new Python."""
    if code := forked(lambda: runpy.run_path(fname, run_name="__main__"), self.bench_record):
        raise subprocess.CalledProcessError(code, fname)


def run_study(arguments: list[str]) -> None:
    """Snakemake on one study, its pre-flight in a process of its own: a fork waits for ever for the threads of polars that
    its parent had, so the parent of the jobs must have none."""
    sys.path.insert(0, str(Path("scripts").resolve()))
    from factfinding import preflight as checks

    check = checks.preflight

    def apart(study) -> None:
        if forked(lambda: check(study)):
            sys.exit("the pre-flight refused it")

    checks.preflight = apart
    snakemake.cli.main(arguments)


def main() -> int:
    folder, *rest = sys.argv[1:]
    at = rest.index("--") if "--" in rest else len(rest)
    torch.set_num_threads(1)
    snakemake.script.PythonScript.execute_script = execute_script
    os.chdir(Path(folder))
    for study in rest[:at]:
        arguments = [*rest[at + 1 :], "--configfile", study]
        if code := forked(lambda arguments=arguments: run_study(arguments)):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
