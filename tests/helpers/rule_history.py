"""When each rule of the ledger was first committed, and whether values were known by then: from the repository's history.

    python tests/helpers/rule_history.py      # prints a line for each claim; needs git and the whole history

A rule is a claim's query, side, threshold and needs. Values of a post count as known from the first commit on in which
docs/findings.md names one of its experiments (`P2.8`, or `post 5` in words). Those of post 1 were written when all others had been run,
with a trained model at hand: their values count as known from the beginning. What is found is written into the claims
(`first_committed`), and tests/report/test_claims.py holds them to it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FINDINGS = "docs/findings.md"
DECLARED = re.compile(r"(resources/claims\.yaml|scripts/factfinding/experiments/[^/]+/experiment\.yaml)")
RENAMED = {"athlete": "subject", "sport": "answer"}
"""In the names of tables and columns; a rule in other words is the same rule."""
RULE = ("query", "supported_if", "threshold", "needs")


@dataclass(frozen=True, kw_only=True)
class Version:
    """A claim's rule as it was first committed, or as it was changed."""

    commit: str
    date: str
    post: int
    rule: tuple[str, ...]


def histories(root: Path = ROOT) -> dict[str, list[Version]]:
    """By claim: the versions of its rule, the first one first. Raises CalledProcessError without git or a repository."""
    found: dict[str, list[Version]] = {}
    for commit, date in _commits(root):
        for claim, post in _claims(root, commit):
            rule = tuple(_plain(str(claim.get(part))) for part in RULE)
            versions = found.setdefault(claim["id"], [])
            if not versions or versions[-1].rule != rule:
                versions.append(Version(commit=commit, date=date, post=post, rule=rule))
    return found


def values_known(root: Path = ROOT) -> dict[int, int]:
    """By post: the place of the first commit whose findings have values of it, in the order of `git log --reverse`."""
    known: dict[int, int] = {1: 0}
    for place, (commit, _) in enumerate(_commits(root)):
        text = _text(root, commit, FINDINGS) or ""
        named = {int(post) for post in re.findall(r"\bP(\d)\.\d", text)}
        named |= {
            int(post)
            for posts in re.findall(r"\(posts? ([\d and]+)\)", text)
            for post in re.findall(r"\d", posts)
        }
        for post in named:
            known.setdefault(post, place)
    return known


def first_committed(root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """By claim: commit, date and values_known, as its declaration has them."""
    place = {commit: at for at, (commit, _) in enumerate(_commits(root))}
    known = values_known(root)
    return {
        claim: {
            "commit": first.commit[:7],
            "date": first.date,
            "values_known": first.post in known and place[first.commit] >= known[first.post],
        }
        for claim, (first, *_) in histories(root).items()
    }


def _plain(text: str) -> str:
    """A part of a rule without its line breaks, and with the columns as they are named today."""
    for before, now in RENAMED.items():
        text = text.replace(before, now)
    return " ".join(text.split())


def _claims(root: Path, commit: str) -> Iterator[tuple[dict[str, Any], int]]:
    for path in _files(root, commit):
        declared = _parsed(root, _git(root, "rev-parse", f"{commit}:{path}").strip())
        for claim in declared.get("claims") or []:
            yield claim, int(claim.get("post") or str(declared["number"])[1])


@cache
def _commits(root: Path) -> list[tuple[str, str]]:
    """Commits of the main line, the first one first, each with its date."""
    log = _git(root, "log", "--reverse", "--first-parent", "--format=%H|%ad", "--date=format:%Y-%m-%d %H:%M")
    return [(commit, date) for commit, date in (line.split("|") for line in log.splitlines())]


def _files(root: Path, commit: str) -> list[str]:
    names = _git(root, "ls-tree", "-r", "--name-only", commit).splitlines()
    return [name for name in names if DECLARED.fullmatch(name)]


@cache
def _parsed(root: Path, blob: str) -> dict[str, Any]:
    return yaml.safe_load(_git(root, "cat-file", "blob", blob)) or {}


def _text(root: Path, commit: str, path: str) -> str | None:
    try:
        return _git(root, "show", f"{commit}:{path}")
    except subprocess.CalledProcessError:
        return None


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    firsts, changes = first_committed(), histories()
    for claim, about in firsts.items():
        later = ", ".join(version.date for version in changes[claim][1:]) or "never"
        known = "after" if about["values_known"] else "before"
        sys.stdout.write(
            f"{claim}: {about['date']} ({about['commit']}), {known} the first values; changed {later}\n"
        )
