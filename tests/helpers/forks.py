"""Snakemake, imported once and forked for each dry run: a hundred of them cost what they do, not what imports cost.

Reads a JSON list of arguments per line (the first is the folder to run in), prints the exit code and a file with what
was printed. Each run is a process of its own, as on the command line.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile

import polars  # noqa: F401 - the Snakefile's pre-flight needs it
import snakemake.cli


def child(folder: str, arguments: list[str], output: int) -> None:
    os.chdir(folder)
    for stream in (1, 2):
        os.dup2(output, stream)
    try:
        snakemake.cli.main(arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def main() -> None:
    for line in sys.stdin:
        folder, *arguments = json.loads(line)
        handle, path = tempfile.mkstemp()
        pid = os.fork()
        if pid == 0:
            try:
                child(folder, arguments, handle)
            except SystemExit as done:
                os._exit(int(done.code or 0))
            os._exit(0)
        os.close(handle)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps([code, path]), flush=True)


if __name__ == "__main__":
    main()
