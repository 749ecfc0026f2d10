"""The pages on the experiments: one for each, listed, of one build, and with links that lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers import ROOT

PAGES = ROOT / "docs/experiments"
EXPERIMENTS = sorted(PAGES.glob("p*.md"))
HEADINGS = [
    "What it asks", "When to use it, when not", "Method", "How to read it", "Traps", "Where it comes from"
]  # fmt: skip


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower().replace("\\", "")).replace(" ", "-") for heading in headings
    }


def test_every_page_is_in_the_index_and_the_index_names_no_other():
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (PAGES / "README.md").read_text()))
    assert listed == {path.name for path in PAGES.glob("*.md")} - {"README.md"}


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda path: path.stem)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#:]+)(?:#([^)]+))?\)", page.read_text()):
        there = (page.parent / target).resolve()
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


@pytest.mark.parametrize("page", EXPERIMENTS, ids=lambda path: path.stem)
def test_a_page_says_what_when_how_and_what_can_go_wrong(page):
    text = page.read_text()
    assert re.findall(r"^#+ (.*)$", text, re.MULTILINE)[1:] == HEADINGS
    crowded = re.findall(r"^#+ .*\n(?!\n)|(?<!\n)\n#+ .*$", text, re.MULTILINE)
    assert not crowded, "a heading without a blank line before and after it"
    assert len(text.splitlines()) <= 70


@pytest.mark.parametrize("page", EXPERIMENTS, ids=lambda path: path.stem)
def test_a_page_begins_with_its_number_its_tables_its_rules_and_its_figures(page):
    title, head = page.read_text().split("\n\n")[:2]
    assert title.startswith(f"# {page.stem.replace('-', '.').upper()}: ") and "`" not in title
    first, *others = head.replace("\n", " ").split(" · ")
    assert re.match(r"Tables? \[", first) and "](../tables.md#" in first
    assert [re.match(r"(rule|figure)s? ", part)[1] for part in others] == ["rule", "figure"]
