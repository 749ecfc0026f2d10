"""Several studies side by side: the long table, the page, and what it does in a browser."""

from __future__ import annotations

import re
from dataclasses import replace
from html import escape

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factfinding.comparison import ComparedStudy, Said, claim_rows, conclusion_rows, long_ledger, render
from factfinding.errors import InputError
from factfinding.files import write_table
from factfinding.ledger import CONTRADICTED, NOT_APPLICABLE, SUPPORTED, UNDECIDED
from factfinding.seeds import across_seeds, resampled_means
from factfinding.tables import read_table, schema_of
from factfinding.trajectories import checkpoints, in_order, line, step_of
from helpers import ROOT, example_ledger
from helpers.browser import needs_browser, opened, used

WORDS = ROOT / "resources/report"
HOSTILE = "<script>alert(1)</script>"


def study(name: str, **verdicts: str) -> ComparedStudy:
    card = {
        "source": {"kind": "hub", "id": f"them/{HOSTILE}", "revision": "step1000", "folder": "f", "digest": "d" * 32},
        "shape": {"parameters": 405_334_016, "n_layers": 24, "d_model": 1024},
        "recall": [
            {"condition": "zero_shot", "recalled": 0.1, "recalled_low": 0.05, "recalled_high": 0.2, "n": 9},
            {"condition": "full", "recalled": 0.825, "recalled_low": 0.8, "recalled_high": 0.85, "n": 1500},
        ],
    }  # fmt: skip
    return ComparedStudy(
        name=name, ledger=example_ledger.ledger(**verdicts), card=card, report=f"../{name}/report.html"
    )


def several(n: int) -> list[ComparedStudy]:
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
    assert html.count('<small class="why">In the study: 0.80 of 1,566; supported if above 0.7</small>') == 4
    assert (
        html.count('<small class="why">In the study: 0.80 of 1,566</small>') == 1
    )  # about toys: measured by nobody
    assert (
        html.count('<small class="why">The interval lies somewhere.</small>') == 6
    )  # three claims, two studies


def test_the_claims_are_a_matrix_with_a_colour_for_each_verdict(html):
    rows = html.split('<h2 id="claims-title">')[1].split("<tbody")[1:]
    cells = re.findall(r'<td class="found ([\w-]+)">.*?</span> ([\w ]+)</span>', "".join(rows))
    assert len(cells) == 10 and all(colour == word.replace(" ", "-") for colour, word in cells)
    assert {colour for colour, _ in cells} >= {SUPPORTED, CONTRADICTED, UNDECIDED}


@needs_browser
def test_rules_and_reasons_are_shown_on_demand(html, tmp_path):
    found = used(
        html,
        """
        const shown = () => [...d.querySelectorAll(".why")].filter((one) => one.offsetHeight).length;
        const before = shown(); d.querySelector("label[for=why]").click(); await soon();
        return [before, shown(), d.querySelectorAll(".why").length];
        """,
        tmp_path,
    )
    assert found[0] == 0 and found[1] == found[2] > 10


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


# seeds of one study


def seed_study(name: str, value: float, low: float, high: float, **cells) -> ComparedStudy:
    """A study whose claim `lookup` has this value, judged against 0.7 or against a threshold of its own."""
    cells = {"value": value, "low": low, "high": high} | cells
    here = pl.col("claim") == "lookup"
    changed = [
        pl.when(here).then(pl.lit(number)).otherwise(column).alias(column) for column, number in cells.items()
    ]
    made = study(name)
    return replace(made, ledger=made.ledger.with_columns(changed))


def lookup_of(studies: list[ComparedStudy]) -> dict:
    names = {"one": [one.name for one in studies]}
    return across_seeds(long_ledger(studies), names).row(by_predicate=pl.col("claim") == "lookup", named=True)


def page_of_seeds(studies, name):
    families = {name: [one.name for one in studies]}
    return render(studies, WORDS, families, across_seeds(long_ledger(studies), families))


def test_verdicts_are_counted_and_the_mean_over_seeds_is_judged():
    values = (0.80, 0.85, 0.90, 0.78, 0.82)
    found = lookup_of([seed_study(f"s{i}", v, v - 0.02, v + 0.02) for i, v in enumerate(values)])
    assert found["value"] == pytest.approx(np.mean(values)) and found["n"] == found["seeds"] == 5
    assert found["undecided"] == 5 and found["supported"] == found["contradicted"] == 0
    assert found["verdict"] == SUPPORTED and 0.7 < found["low"] < 0.83 < found["high"] < 0.9
    spread = np.sqrt(np.var(values, ddof=1) / 5 + 0.0102**2 / 4)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * spread, rel=0.1)


def test_one_seed_of_five_that_is_otherwise_leaves_the_claim_open():
    """Each seed is sure by itself, four on one side and one on the other; the mean over seeds is not."""
    values = (0.9, 0.9, 0.9, 0.9, 0.1)
    found = lookup_of([seed_study(f"s{i}", v, v - 0.01, v + 0.01) for i, v in enumerate(values)])
    assert found["verdict"] == UNDECIDED and found["low"] < 0.7 < found["high"]


def test_seeds_that_measure_their_own_thresholds_are_judged_by_the_differences():
    """Values and thresholds vary together from seed to seed: each value is 0.1 above its own."""
    lines = (0.2, 0.4, 0.6, 0.8)
    studies = [
        seed_study(
            f"s{i}", t + 0.1, t + 0.09, t + 0.11, threshold=t, threshold_low=t - 0.01, threshold_high=t + 0.01
        )
        for i, t in enumerate(lines)
    ]
    found = lookup_of(studies)
    assert found["verdict"] == SUPPORTED and found["threshold"] == pytest.approx(0.5)
    assert found["low"] < found["threshold"] < found["high"]


def test_seeds_in_which_nothing_was_measured_are_counted_and_two_values_give_no_interval():
    studies = [seed_study(f"s{i}", 0.8, 0.79, 0.81) for i in range(2)]
    numbers = dict.fromkeys(("threshold", "threshold_low", "threshold_high"))
    studies.append(seed_study("s2", None, None, None, verdict=NOT_APPLICABLE, **numbers))
    found = lookup_of(studies)
    assert found["seeds"] == 3 and found["n"] == 2 and found["not_applicable"] == 1
    assert found["value"] == pytest.approx(0.8) and found["low"] is found["verdict"] is None
    page = page_of_seeds(studies, "s0")
    assert "too few seeds with a value" in page


@given(st.integers(0, 10**6))
@settings(max_examples=5, deadline=None)
def test_the_interval_over_seeds_holds_the_true_mean_nearly_as_often_as_it_should(seed):
    """Five trainings whose true values scatter, each measured with an error: 95 % is asked for, five seeds give a little
    less. The interval of one seed, which knows of the error alone, holds it in two of five cases."""
    rng, held, alone, times = np.random.default_rng(seed), 0, 0, 300
    for i in range(times):
        value = rng.normal(0, 0.1, 5) + rng.normal(0, 0.03, 5)
        (drawn,) = resampled_means(
            [(value, value - 1.96 * 0.03, value + 1.96 * 0.03)], seed=i, n_resamples=400
        )
        low, high = np.quantile(drawn, [0.025, 0.975])
        held += low < 0 < high
        alone += abs(value[0]) < 1.96 * 0.03
    assert 0.82 < held / times < 0.99 and alone / times < 0.6


def test_the_page_has_a_table_of_what_the_seeds_say_together_and_none_without_seeds(html):
    assert "Across the seeds" not in html
    studies = several(4)
    page = page_of_seeds(studies, "first")
    assert "Across the seeds of first" in page and 'href="seeds.csv"' in page
    assert "4 trainings that differ in their seed alone: first, checkpoint-1" in page
    assert "supported 0, contradicted 3, undecided 1, of 4" in page
    table = page.split("Across the seeds of first")[1]
    assert table.count("<tr>") == 1 + 4, "claims about toy networks are the same whatever the seed"
    assert HOSTILE not in page and example_ledger.MARKUP not in page


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


def checkpoint(name: str, step: int, value: float, model: str = "them/pythia", **cells) -> ComparedStudy:
    """A study of one checkpoint, whose claim `lookup` has this value."""
    made = study(name)
    source = made.card["source"] | {"id": model, "revision": f"step{step}"}
    of_claim = pl.col("claim") == "lookup"
    values = {"value": value, "low": value - 0.05, "high": value + 0.05} | cells
    columns = {
        name: pl.when(of_claim).then(pl.lit(one)).otherwise(pl.col(name)) for name, one in values.items()
    }
    return replace(made, card=made.card | {"source": source}, ledger=made.ledger.with_columns(**columns))


def test_checkpoints_of_one_training_stand_together_in_the_order_of_their_steps():
    studies = [
        checkpoint("late", 143000, 0.9), study("other"), checkpoint("early", 512, 0.1), checkpoint("lone", 8, 0.5, model="them/another"),
        checkpoint("middle", 8000, 0.4),
    ]  # fmt: skip
    cards = {one.name: one.card for one in studies}
    trainings = checkpoints(cards)
    assert trainings == {"them/pythia": ["early", "middle", "late"]}
    assert in_order(list(cards), trainings) == ["early", "middle", "late", "other", "lone"]
    page = render(studies, WORDS)
    heads = re.findall(r'<th scope="col"><a href="\.\./(\w+)/', page)
    assert heads == ["early", "middle", "late", "other", "lone"]
    assert "Along the training of them/pythia" in page and "512, 8,000, 143,000" in page
    assert "step 512: 0.1, " in page and "Along the training" not in render(studies[:2], WORDS)


def test_no_revision_no_step():
    def card(revision):
        return {"source": {"revision": revision, "id": "x"}}

    assert [step_of(card(one)) for one in (None, "main", "step1000", "step-20", "stage1-step7", "v2")] == [
        None,
        None,
        1000,
        20,
        7,
        None,
    ]


def test_the_line_is_as_high_as_the_values_and_what_was_not_measured_is_left_out():
    def row(value, **more):
        return {"value": value, "low": None, "high": None, "threshold": 0.5, "verdict": SUPPORTED} | more

    drawn = line(
        [1, 10, 100, 1000], [row(0.0), None, row(1.0, verdict=CONTRADICTED), row(0.25, low=0.0, high=0.5)]
    )
    points = re.findall(r'<circle class="([\w-]+)" cx="([\d.]+)" cy="([\d.]+)"', drawn)
    assert [kind for kind, _, _ in points] == ["supported", "contradicted", "supported"]
    assert [float(y) for _, _, y in points] == pytest.approx([98, 6, 75], abs=0.1)
    x = [float(x) for _, x, _ in points]
    assert x[1] - x[0] == pytest.approx(2 * (x[2] - x[1]), abs=0.2), (
        "steps are evenly spaced, the one left out too"
    )
    assert 'class="rate"' in drawn and "step 100: 1, contradicted" in drawn
    assert 'class="rate"' not in line([1, 2], [row(0.0), row(1.0, threshold=0.7)]), "each has its own"
    assert line([1, 2], [row(0.0), None]) is None and line([1, 2], [row(0.3), row(0.3)]) is not None


def test_the_page_begins_with_what_came_out_side_by_side():
    first, second = several(2)
    first = replace(
        first,
        said=(
            Said(about="recall", title="Recall", sentence="It knows <99 %>."),
            Said(about="circuit", title="Where", sentence="There."),
        ),
    )
    second = replace(
        second,
        said=(
            Said(about="heads", title="Heads", sentence="Two."),
            Said(about="recall", title="Recall", sentence="It knows 3 %."),
        ),
    )
    assert conclusion_rows([first, second]) == [
        ("Recall", [["It knows <99 %>."], ["It knows 3 %."]]),
        ("Where", [["There."], []]),
        ("Heads", [[], ["Two."]]),
    ]
    page = render([first, second], WORDS)
    assert page.index('id="answer"') < page.index('id="claims"') and "It knows &lt;99 %&gt;." in page
    assert 'id="answer"' not in render(several(2), WORDS), "nothing concluded, no section"


@needs_browser
def test_conclusions_and_trajectories_are_no_wider_than_a_phone(tmp_path):
    said = (
        Said(
            about="recall",
            title="Recall",
            sentence="It knows a great many of them, and says so at length." * 3,
        ),
    )
    studies = [replace(checkpoint(f"s{step}", step, step / 100), said=said) for step in (1, 10, 90)]
    found = used(
        render(studies, WORDS),
        """
        const wide = [...d.querySelectorAll("section > *, .ways li, .ways svg")].filter((one) => one.getBoundingClientRect().right > w.innerWidth + 1);
        return {wide: wide.map((one) => one.tagName), drawn: d.querySelectorAll(".ways circle").length, page: d.documentElement.scrollWidth <= w.innerWidth};
        """,
        tmp_path,
        width=390,
    )
    assert found["wide"] == [] and found["drawn"] >= 3 and found["page"]
