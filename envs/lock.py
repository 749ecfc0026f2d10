"""Pin what is installed: `python envs/lock.py` writes requirements.txt, requirements-test.txt and
real-model.txt from the three .in files."""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ENVS = Path(__file__).parent
HEAD = "# What {} needs, pinned with all that it brings along. Written by `make lock` from envs/{}.\n"


def needed(requirements: list[str]) -> dict[str, str]:
    """Installed packages that these requirements bring along: normalized name -> pin.

    Raises `PackageNotFoundError` if one of them is not installed.
    """
    pins: dict[str, str] = {}
    open_ones = [Requirement(line) for line in requirements]
    done = set()
    while open_ones:
        wanted = open_ones.pop()
        name = canonicalize_name(wanted.name)
        if (name, extras := frozenset(wanted.extras)) in done:
            continue
        done.add((name, extras))
        installed = distribution(name)
        version = installed.version.partition("+")[0]  # a CPU build of torch is pinned as torch
        pins[name] = f"{installed.metadata['Name']}=={version}"
        for each in map(Requirement, installed.requires or []):
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras | {""}):
                open_ones.append(each)
    return pins


def lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def main() -> None:
    run = needed(lines(ENVS / "requirements.in"))
    test = needed(lines(ENVS / "requirements-test.in"))
    real = needed(lines(ENVS / "real-model.in"))
    beside = {name: pin for name, pin in test.items() if name not in run}
    more = {name: pin for name, pin in real.items() if name not in run}
    for purpose, stem, pins in (
        ("a run", "requirements", run),
        ("a test", "requirements-test", beside),
        ("a real model", "real-model", more),
    ):
        text = HEAD.format(purpose, f"{stem}.in") + "".join(f"{pins[name]}\n" for name in sorted(pins))
        (ENVS / f"{stem}.txt").write_text(text)


if __name__ == "__main__":
    main()
