"""Several studies side by side: the long table, the page, and what it does in a browser."""

from __future__ import annotations

import re
from dataclasses import replace
from html import escape

import polars as pl
import pytest

from factfinding.comparison import Study, claim_rows, long_ledger, render
from factfinding.errors import InputError
from factfinding.files import write_table
from factfinding.ledger import CONTRADICTED, NOT_APPLICABLE
from factfinding.tables import read_table, schema_of
from helpers import ROOT, example_ledger
from helpers.browser import needs_browser, opened, used

WORDS = ROOT / "resources/report"
HOSTILE = "<script>alert(1)</script>"


def study(name: str, **verdicts: str) -> Study:
    card = {
        "source": {"kind": "hub", "id": f"them/{HOSTILE}", "revision": "step1000", "folder": "f", "digest": "d" * 32},
        "shape": {"parameters": 405_334_016, "n_layers": 24, "d_model": 1024},
        "recall": [
            {"condition": "zero_shot", "recalled": 0.1, "recalled_low": 0.05, "recalled_high": 0.2, "n": 9},
            {"condition": "full", "recalled": 0.825, "recalled_low": 0.8, "recalled_high": 0.85, "n": 1500},
        ],
    }  # fmt: skip
    return Study(
        name=name, ledger=example_ledger.ledger(**verdicts), card=card, report=f"../{name}/report.html"
    )


def several(n: int) -> list[Study]:
    return [study("first"), *(study(f"checkpoint-{i}", lookup=CONTRADICTED) for i in range(1, n))]


@pytest.fixture(scope="module")
def html() -> str:
    return render(several(2), WORDS)


def test_the_long_table_is_every_ledger_under_its_study_s_name():
    table = long_ledger(several(3))
    assert table.columns == ["study", *schema_of("ledger")] and table.height == 15
    for one in several(3):
        assert table.filter(study=one.name).drop("study").equals(one.ledger)


def test_a_ledger_in_which_nothing_was_measured_comes_back_from_its_csv(tmp_path):
    """Its empty columns have no type there."""
    nothing = {
        name: pl.lit(None, dtype=schema_of("ledger")[name])
        for name in ("value", "low", "high", "n", "threshold")
    }
    ledger = example_ledger.ledger().with_columns(**nothing, verdict=pl.lit(NOT_APPLICABLE))
    write_table(ledger, tmp_path / "ledger.csv")
    other = replace(study("nothing"), ledger=read_table(tmp_path / "ledger.csv"))
    table = long_ledger([study("first"), other])
    assert table.filter(study="nothing").drop("study").equals(ledger)
    page = render([study("first"), other], WORDS)
    assert "4 not applicable" in page  # and one about toy networks
    assert "supported if" not in render([other], WORDS)


def test_a_claim_that_one_study_lacks_is_not_judged_there_and_counts_as_a_difference():
    less = replace(study("less"), ledger=example_ledger.ledger().head(4))
    rows = claim_rows(long_ledger([less, study("first")]), ["less", "first"])
    assert [row.claim["claim"] for row in rows] == ["recall", "heads", "lookup", "neurons", "toys"]
    assert [row.differs for row in rows] == [False] * 4 + [True] and rows[4].found[0] is None
    assert "not judged" in render([less, study("first")], WORDS)


def test_ledgers_that_cannot_be_used_are_refused_by_study():
    twice = replace(study("twice"), ledger=pl.concat([example_ledger.ledger()] * 2))
    with pytest.raises(InputError, match="the ledger of twice.*claim 'recall' twice"):
        render([study("first"), twice], WORDS)
    odd = replace(study("odd"), ledger=example_ledger.ledger(toys="perhaps"))
    with pytest.raises(InputError, match="the ledger of odd.*'perhaps'"):
        render([study("first"), odd], WORDS)
    short = replace(study("short"), ledger=example_ledger.ledger().drop("n", "reason"))
    with pytest.raises(InputError, match="the ledger of short: found no column n, reason"):
        render([study("first"), short], WORDS)
    text = replace(study("text"), ledger=example_ledger.ledger().with_columns(value=pl.lit("much")))
    with pytest.raises(InputError, match="the ledger of text: found values of another type"):
        render([study("first"), text], WORDS)


def test_each_column_is_headed_by_its_model(html):
    assert html.count("405,334,016") == 2 and html.count("24 of width 1024") == 2 and "step1000" in html
    assert html.count("82.5\N{NO-BREAK SPACE}% [80.0, 85.0] of 1,500 athletes") == 2
    assert 'href="../checkpoint-1/report.html">checkpoint-1</a>' in html
    assert "The verdicts differ on 1 of 5 claims" in html and 'href="ledger.csv"' in html


def test_claims_about_toy_networks_are_not_counted_for_a_model(html):
    row = html.split('<th scope="row">Claims about the model</th>')[1].split("</tr>")[0]
    assert re.findall(r"<td>(.*?)</td>", row) == [
        "2 supported, 1 contradicted, 1 undecided, 0 not applicable",
        "2 supported, 2 contradicted, 0 undecided, 0 not applicable",
    ]


def test_each_claim_has_the_study_s_figure_and_its_rule_and_what_is_not_supported_its_reason(html):
    assert html.count("<small>In the study: 0.80 of 1,566; supported if above 0.7</small>") == 4
    assert html.count("<small>In the study: 0.80 of 1,566</small>") == 1  # about toys: measured by nobody
    assert html.count("<small>The interval lies somewhere.</small>") == 6  # three claims, two studies


def test_where_each_study_measures_its_own_threshold_every_reason_says_which():
    own = pl.when(pl.col("claim") == "recall").then(0.65).otherwise("threshold").alias("threshold")
    second = replace(study("second"), ledger=example_ledger.ledger().with_columns(own))
    page = render([study("first"), second], WORDS)
    assert page.count("supported if above a threshold that each study measures") == 1
    recall = page.split("The model knows.")[1].split("</tr>")[0]
    assert recall.count("The interval lies somewhere.") == recall.count("</span> supported</span>") == 2


def test_nothing_of_unknown_origin_is_markup_and_no_script_may_run(html):
    assert HOSTILE not in html and escape(HOSTILE) in html
    assert example_ledger.MARKUP not in html and "<img" not in html and "<script" not in html
    assert "default-src 'none'" in html and "script-src" not in html


def test_the_same_studies_give_the_same_page(html):
    assert render(several(2), WORDS) == html


@needs_browser
def test_it_opens_without_a_word_and_shows_only_what_differs_if_asked(html, tmp_path):
    page = tmp_path / "comparison.html"
    page.write_text(html)
    _, console, asked = opened(page)
    assert console == [] and asked == set()
    found = used(
        html,
        """
        const seen = () => [...d.querySelectorAll("tbody tr")].filter((row) => row.offsetHeight).map(text);
        const before = seen(); d.querySelector("label[for=differ]").click(); await soon();
        return [before, seen()];
        """,
        tmp_path,
    )
    assert len(found[0]) == 5 + 3  # claims, and a line for each post
    assert len(found[1]) == 2 and found[1][0] == "Post 3" and "The lookup is early." in found[1][1]
    assert "undecided" in found[1][1] and "contradicted" in found[1][1]


@needs_browser
@pytest.mark.parametrize("width", [360, 1200])
def test_ten_studies_scroll_sideways_beside_their_claims(tmp_path, width):
    page_wide, page_shown, wide, shown, left, first, second = used(
        render(several(10), WORDS),
        """
        const root = d.documentElement, box = d.querySelector(".compared"), row = d.querySelectorAll("tbody tr")[1];
        const left = () => Math.round(row.cells[0].getBoundingClientRect().left - box.getBoundingClientRect().left);
        const before = left(), right = row.cells[1].getBoundingClientRect().left;
        box.scrollLeft = 500; await soon();
        return [root.scrollWidth, root.clientWidth, box.scrollWidth, box.clientWidth, before, left(),
          right - row.cells[1].getBoundingClientRect().left];
        """,
        tmp_path,
        width=width,
    )
    assert page_wide == page_shown <= width and wide > shown + 500
    assert left == first == 0 and second == 500
