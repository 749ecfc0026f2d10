"""The pages on the experiments: one for each, listed, of one build, and with links that lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[1] / "docs/experiments"
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


@pytest.mark.parametrize("page", sorted(PAGES.glob("p2-*.md")), ids=lambda path: path.stem)
def test_a_page_says_what_when_how_and_what_can_go_wrong(page):
    text = page.read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS
    assert len(text.splitlines()) <= 60
