"""What every rule's script does around its work: the log, the threads, error messages, the provenance.

    with Job(snakemake) as job:
        from factfinding...        # heavy imports come inside, so that their failures are logged too
        seed = job.given.recall.seed

Imports nothing heavy itself. The script's own standard output and error go on to the terminal as before.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Self

LIBRARIES = (
    "snakemake",
    "torch",
    "transformers",
    "tokenizers",
    "h5py",
    "polars",
    "scikit-learn",
    "numpy",
    "seaborn",
)
HASHED_BYTES = 64 << 20


class Job:
    """One run of a script. `snakemake` is the object that Snakemake puts into the script's namespace."""

    def __init__(self, snakemake: Any, *, network: bool = False) -> None:
        self.snakemake, self.network = snakemake, network
        self.input, self.output = snakemake.input, snakemake.output
        self.wildcards, self.threads = snakemake.wildcards, snakemake.threads
        self._log = None
        self._warnings = _Warnings(self)
        self._held = ExitStack()

    def __enter__(self) -> Self:
        if self.snakemake.log:
            Path(self.snakemake.log[0]).parent.mkdir(parents=True, exist_ok=True)
            self._log = open(self.snakemake.log[0], "w", buffering=1, encoding="utf-8")
        logging.getLogger("factfinding").addHandler(self._warnings)
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"):
            os.environ[name] = str(self.threads)
        # a waiting thread that spins starves the other jobs
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        if not self.network:
            os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1")
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        if self._runs_the_model():
            self._take_a_gpu()
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._held.close()
        if error is not None:
            self.log("".join(traceback.format_exception(kind, error, trace)))
            # the user's to mend: the message says it all, the log has the trace
            if kind.__name__ == "InputError":
                raise SystemExit(f"{self.snakemake.rule}: {error}") from None
            if self._ran_out_of_memory(error):
                raise SystemExit(f"{self.snakemake.rule}: {self._smaller_batches(error)}") from None
        elif self.output.get("provenance"):
            self._write_provenance()
        logging.getLogger("factfinding").removeHandler(self._warnings)
        if self._log is not None:
            self._log.close()

    def log(self, message: str) -> None:
        """A line in the rule's log, with the time of day."""
        if self._log is not None:
            self._log.write(f"{time.strftime('%H:%M:%S')} {message}\n")

    def progress(self, message: str) -> None:
        """A line in the log and on the terminal, for long work."""
        self.log(message)
        print(f"[{self.snakemake.rule}] {message}", file=sys.stderr, flush=True)

    @cached_property
    def given(self) -> Any:
        """The sections of the configuration that the rule was given, typed (factfinding.inputs.Settings)."""
        from factfinding.inputs import Settings

        return Settings(self._settings)

    @cached_property
    def _settings(self) -> dict[str, dict[str, Any]]:
        """The same as the rule names them."""
        return json.loads(getattr(self.snakemake.params, "settings", "{}"))

    @cached_property
    def files(self) -> dict[str, Any]:
        """The rule's inputs by name, and those whose paths no input can have (`in_braces` in rules/choices.smk)."""
        return dict(self.input.items()) | self._in_braces()

    @cached_property
    def inputs(self) -> Any:
        """What the rule may read (factfinding.inputs.Inputs)."""
        from factfinding.inputs import Inputs

        return Inputs(
            Path("results") / self.wildcards.study,
            settings=self.given,
            declared=self.input,
            named=self.files,
            log=self.log,
        )

    def write(self, results: Mapping[str, Any]) -> None:
        """Write what an experiment gives, each under the name of the rule's output: frames as tables, other things by
        their own `save(path)`. Raises ValueError where the names are not those of the outputs."""
        import polars as pl

        from factfinding.tables import write_declared

        wanted = {name: path for name, path in self.output.items() if name != "provenance"}
        if set(results) != set(wanted):
            raise ValueError(
                f"rule {self.snakemake.rule} puts out {sorted(wanted)}, computed were {sorted(results)}"
            )
        for name, result in results.items():
            if isinstance(result, pl.DataFrame):
                write_declared(result, wanted[name])
            else:
                result.save(Path(wanted[name]))

    def _runs_the_model(self) -> bool:
        """Whether the rule asks for a GPU, and the configuration leaves it open which."""
        asked = getattr(getattr(self.snakemake, "resources", None), "gpu", 0)
        return bool(asked) and self._settings.get("compute", {}).get("device", "auto") in ("auto", "cuda")

    def _take_a_gpu(self) -> None:
        """Of several GPUs this job sees the one with the fewest jobs on it (factfinding.gpus)."""
        from factfinding.gpus import one_gpu

        name = self._held.enter_context(one_gpu())
        if name is not None:
            self.log(f"GPU {name}, the one with the fewest jobs")

    def _ran_out_of_memory(self, error: BaseException) -> bool:
        """Whether a rule that runs the model needed more memory than there is; other rules have no batches to shrink."""
        if "batch_size" not in self._settings.get("compute", {}):
            return False
        from factfinding.errors import out_of_memory

        return out_of_memory(error)

    def _smaller_batches(self, error: BaseException) -> Exception:
        from factfinding.errors import InputError

        size, said = self.given.compute.batch_size, str(error).partition("\n")[0]
        return InputError(
            "config.compute.batch_size",
            f"{size}, and memory ran out ({said})",
            "a smaller number, or a machine with more memory",
        )

    def _in_braces(self) -> dict[str, str]:
        held = json.loads(getattr(self.snakemake.params, "files", "{}"))
        return {name: path for name, (path, _) in held.items()}

    def _write_provenance(self) -> None:
        from factfinding.files import write_json

        content = {
            "rule": self.snakemake.rule,
            "wildcards": dict(self.wildcards.items()),
            "settings": self._settings,
            "code": getattr(self.snakemake.params, "code", None),
            "inputs": {
                path: _describe(Path(path)) for path in sorted({*self.input, *self._in_braces().values()})
            },
            "versions": {name: _version(name) for name in LIBRARIES} | {"python": sys.version.split()[0]},
        }
        write_json(content, self.output.provenance)


class _Warnings(logging.Handler):
    """What the library warns of (a batch that did not fit into memory), as a line of the job's."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job

    def emit(self, record: logging.LogRecord) -> None:
        self.job.progress(record.getMessage())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _describe(path: Path) -> dict[str, Any]:
    """An input's size, and the digest of its bytes where reading them is cheap."""
    size = path.stat().st_size
    if not path.is_file() or size > HASHED_BYTES:
        return {"bytes": size}
    return {"bytes": size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
