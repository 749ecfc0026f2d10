"""Which of a machine's GPUs a job sees: the one with the fewest jobs of this workflow on it.

A job takes a GPU by a lock on a file, and the kernel lets a lock go when the process that holds it ends, however it
ends. So jobs of several runs of Snakemake spread over the GPUs, and a killed job leaves none behind. With one GPU, or
none, nothing is chosen and nothing changes.

Imports nothing heavy: the choice must be made before torch looks for GPUs.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The names of the GPUs that a process may see, in order: numbers, or what `nvidia-smi -L` calls their UUIDs."""
IN_A_JOB = "SLURM_JOB_ID"
"""Set where a scheduler started the process."""
LISTED = re.compile(r"^( *)(?:GPU|MIG) .*\(UUID: ([^()\s]+)\)\s*$", re.MULTILINE)


def pool(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The GPUs to choose from, by name: those that the environment names, otherwise all of this machine.

    In a scheduler's job none but those that it names: which others are free there is not for us to say.
    """
    named = environment.get(VISIBLE)
    if named is not None:
        return _before_a_gap([name.strip() for name in named.split(",")])
    return [] if IN_A_JOB in environment else _of_this_machine()


def locks_of(user: int | None = None) -> Path:
    """The folder of this user's locks, on a disk of this machine."""
    return Path(tempfile.gettempdir()) / f"factfinding-gpus-{os.getuid() if user is None else user}"


@contextmanager
def one_gpu(folder: Path | None = None) -> Iterator[str | None]:
    """For as long as this lasts, this process sees one GPU: the least used of the `pool`, whose name is given.

    Where there are fewer than two to choose from, and where no locks can be kept, nothing changes and None is given.
    Call before anything in the process uses a GPU.
    """
    names, before = pool(), os.environ.get(VISIBLE)
    held = _take(names, folder or locks_of()) if len(names) > 1 else None
    if held is None:
        yield None
        return
    name, lock = held
    os.environ[VISIBLE] = name
    try:
        yield name
    finally:
        lock.close()
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before


def _before_a_gap(names: Sequence[str]) -> list[str]:
    """CUDA reads its list up to the first name that is none, such as -1."""
    end = next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))
    return list(names[:end])


def _of_this_machine() -> list[str]:
    """UUIDs from `nvidia-smi -L`, since CUDA and nvidia-smi may number GPUs differently. A GPU that is divided (MIG) is
    listed with its parts below it, further in, and only these can be used."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        listed = subprocess.run(
            [program, "-L"], capture_output=True, text=True, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    found = [(len(indent), name) for indent, name in LISTED.findall(listed)]
    after = [*found[1:], (0, "")]
    return [name for (indent, name), (below, _) in zip(found, after, strict=False) if below <= indent]


def _take(names: Sequence[str], folder: Path) -> tuple[str, IO[bytes]] | None:
    """The GPU with the fewest locks held on it, the first of several such, and a lock of our own on it."""
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        with (folder / "choosing").open("ab") as choosing:
            fcntl.flock(choosing, fcntl.LOCK_EX)  # one job chooses at a time
            jobs = {name: _held(folder, name) for name in names}
            name = min(names, key=lambda name: len(jobs[name]))
            free = next(slot for slot in range(len(jobs[name]) + 1) if slot not in jobs[name])
            lock = _slot(folder, name, free).open("ab")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return name, lock
    return None


def _held(folder: Path, name: str) -> set[int]:
    """The numbers of the locks on a GPU that a process holds."""
    slots = [int(path.suffix[1:]) for path in folder.glob(f"{_slot(folder, name, 0).stem}.*")]
    return {slot for slot in slots if _is_locked(_slot(folder, name, slot))}


def _is_locked(path: Path) -> bool:
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _slot(folder: Path, name: str, number: int) -> Path:
    return folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.{number}"
