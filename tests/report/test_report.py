from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import polars as pl
import pytest

from factfinding.closer import Person, bars
from factfinding.declarations import declarations
from factfinding.errors import InputError
from factfinding.experiments.circuit_checks import show as circuit_checks
from factfinding.experiments.layer_probes import show as layer_probes
from factfinding.experiments.recall import show as recall
from factfinding.figures import style
from factfinding.files import read_json
from factfinding.findings import words as in_words
from factfinding.ledger import NOT_APPLICABLE
from factfinding.page import _digest
from factfinding.report import (
    SHOWN_ROWS,
    Picture,
    Results,
    Table,
    inline_svg,
    render,
    versions,
)
from helpers import ROOT, example_ledger, example_tables
from helpers.browser import needs_browser, opened, used
from helpers.declared import judged
from helpers.figures import drawn

WORDS = ROOT / "resources/report"
STUDY_LINK = "https://www.alignmentforum.org/s/hpWHhjvjn67LJ4xXX/p/iGuwZTHWb6DFY3sKB"
VOID = {"meta", "link", "br", "img", "hr", "input"}
STORED = ROOT / "resources/planted.json"
DRAWN = (
    "training", "recall", "layer_probes", "circuit_checks", "direct_effects", "attention_roles", "head_inputs",
    "head_probes",
)  # fmt: skip


class Page(HTMLParser):
    """What of a page can be checked without a browser: tags in balance, attributes, texts by the tag around them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def attributes(self, name: str) -> list[str]:
        return [found[name] for _, found in self.tags if name in found]

    def text(self, tag: str) -> str:
        return " ".join(data for around, data in self.texts if around == tag)


def _card(summary: pl.DataFrame, kind: str) -> dict:
    return {
        "source": {
            "kind": kind,
            "id": "<b>me</b>/model" if kind == "hub" else None,
            "revision": "abc",
            "folder": "f",
            "digest": "d" * 32,
        },
        "shape": {
            "family": "GPT-NeoX",
            "parameters": 466_000,
            "n_layers": 8,
            "n_heads": 4,
            "d_model": 64,
            "d_mlp": 256,
            "d_vocab": 1000,
            "parallel": True,
        },
        "bos_token": "<|endoftext|>",
        "compute": {"dtype": "float32"},
        "recall": summary.filter(group="all").to_dicts(),
        "training": None
        if kind != "organism"
        else {
            "seed": 7,
            "steps": 2000,
            "tokens": 2_048_000,
            "seconds": 200.0,
            "stopped": "settled",
            "installed": "2 of 4 heads",
        },
    }


def _provenance(kind: str) -> list[dict]:
    jobs = [("recall", {"recall": {"seed": 3}})]
    if kind == "organism":
        jobs.append(
            ("train_organism", {"organism": {"seed": 7, "world": "fictional", "note": "</pre><script>"}})
        )
    return [
        {
            "rule": rule,
            "wildcards": {"study": "made-up"},
            "settings": settings,
            "code": "0123456789abcdef",
            "inputs": {
                "results/made-up/a.csv": {"bytes": 3, "sha256": "f" * 64},
                "big.h5": {"bytes": 99_999_999},
            },
            "versions": {"torch": "2.13.0", "python": "3.11.7", "h5py": None},
        }
        for rule, settings in jobs
    ]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The figures of both studies, drawn once."""
    folder = tmp_path_factory.mktemp("figures")
    pictures = {}
    for knows in (True, False):
        for name in DRAWN:
            svg, png = folder / f"{name}_{knows}.svg", folder / f"{name}_{knows}.png"
            style.save(drawn(name, example_tables.study(knows=knows)), svg, png)
            pictures[knows, name] = Picture(
                svg=svg.read_text(), links=(f"figures/{name}.svg", f"figures/{name}.png")
            )
    return pictures


@pytest.fixture(scope="module")
def make(pictures):
    def results(*, knows: bool = True, kind: str = "organism", study: str = "made-up") -> Results:
        tables = example_tables.study(knows=knows)
        shown = [name for name in DRAWN if name != "training" or kind == "organism"]
        return Results(
            study=study,
            ledger=Table(frame=example_ledger.ledger(), link="tables/ledger.csv"),
            tables={name: Table(frame=frame, link=f"tables/{name}.csv") for name, frame in tables.items()},
            pictures={name: pictures[knows, name] for name in shown},
            card=_card(tables["recall_summary"], kind),
            provenance=_provenance(kind),
            planted=read_json(STORED),
        )

    return results


@pytest.fixture(scope="module")
def html(make):
    return render(make(), WORDS)


def test_sections_are_there_and_linked(html):
    page = Page(html)
    ids = page.attributes("id")
    assert len(ids) == len(set(ids)), sorted({i for i in ids if ids.count(i) > 1})
    for section in (
        "answer",
        "synthesis",
        "ledger",
        "model",
        "summary",
        "training",
        "recall",
        "layer_probes",
        "circuit_checks",
        "computed",
    ):
        assert section in ids
    for name in ("href", "xlink:href"):
        inside = [link for link in page.attributes(name) if link.startswith("#")]
        assert inside and all(link[1:] in ids for link in inside)
    for reference in page.attributes("aria-labelledby"):
        assert reference in ids
    used = re.findall(r"url\(#([^)]+)\)", html)
    assert used and set(used) <= set(ids)


def without_scripts(html: str) -> str:
    return re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)


def test_nothing_is_fetched_and_nothing_runs_but_what_sorts_tables(html):
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    files = ("vendor/datatables.min.js", "tables.js", "places.js")
    assert scripts == [(WORDS / name).read_text() for name in files]
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    allowed = re.search(r"script-src ([^;]*)$", policy)[1].split()
    assert policy.startswith("default-src 'none';") and allowed == [f"'{_digest(text)}'" for text in scripts]
    html = without_scripts(html)
    page = Page(html)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"link", "iframe", "object", "embed", "base", "form"}
    urls = [url for name in ("href", "src", "xlink:href", "data", "action") for url in page.attributes(name)]
    urls = [url for url in urls if not url.startswith("data:image/png;base64,")]  # whole in the page
    assert [url for url in urls if re.match(r"[a-z]+:|//|/", url, re.IGNORECASE)] == [STUDY_LINK]
    assert "@import" not in html and not re.findall(r"url\((?!#)", html)
    assert not [name for _, found in page.tags for name in found if name.startswith("on")]
    stripped = re.sub(r'xmlns(:xlink)?="[^"]*"', "", html)
    assert "http" not in stripped.replace(STUDY_LINK, "").replace('http-equiv="Content-Security-Policy"', "")


def test_names_of_unknown_origin_are_escaped(make, html):
    escaped = "&lt;script&gt;alert(1)&lt;/script&gt; Smith"
    assert example_tables.SCRIPT not in html and escaped in html
    assert "</pre><script>" not in html
    other = render(make(kind="hub", study="<i>x</i>"), WORDS)
    assert "<b>me</b>" not in other and "&lt;b&gt;me" in other and "<i>x</i>" not in other


def test_links_are_relative_and_lead_to_the_workflow_files(html):
    links = [link for link in Page(html).attributes("href") if not link.startswith("#")]
    named = {
        f"tables/{name}.csv"
        for name in ("recall", "recall_summary", "layer_probes", "circuit_checks", "training")
    }
    assert named <= set(links) and "model/card.json" in links and "figures/recall.svg" in links


def test_no_figure_brings_a_style_sheet_for_the_whole_page(html):
    assert html.count("<style") == 1 and "*{stroke-linejoin" not in html
    assert html.count("<svg") == 1 + len(DRAWN) == html.count('role="img"')
    assert not re.findall(f"{style.INK}|{style.LINE}|{style.PAPER}", html.split("</style>", 1)[1])


def test_scrolling_boxes_can_be_reached_by_keyboard_and_have_a_name(html):
    boxes = [found for _, found in Page(html).tags if found.get("class") == "scroll"]
    assert len(boxes) > 8 and all(box["tabindex"] == "0" and box["aria-label"] for box in boxes)


def test_what_was_installed_and_that_people_are_fictional_is_disclosed(make, html):
    assert "2 of 4 heads" in html and "fictional" in html
    other = render(make(kind="tiny"), WORDS)
    assert "fictional" not in other and "Put in by hand" not in other
    assert "ended once all people" in html
    assert 'id="training"' not in other and "random weights" in other


def test_same_results_same_page(make, html):
    assert render(make(), WORDS) == html


def test_seeds_versions_and_code_are_told(html):
    text = Page(html).text("dd")
    assert (
        "torch 2.13.0" in text
        and "h5py" not in text
        and "organism.seed 7" in text
        and "recall.seed 3" in text
    )
    assert "0123456789abcdef" in html and "f" * 16 in html and "99,999,999 bytes" in html


def test_versions_that_differ_are_all_named():
    records = [{"versions": {"torch": "2.12"}}, {"versions": {"torch": "2.13"}}]
    assert versions(records) == [("torch", "2.12, 2.13")]


def test_a_model_that_knows_nothing_is_said_to_know_nothing(make):
    page = Page(render(make(knows=False, kind="tiny"), WORDS)).text("li")
    assert "nothing here shows that the model knows" in page
    assert page.count("At no layer can the sport be read") == 3  # twice in its section, once in the summary
    assert "The sport can be read" not in page


def test_a_model_that_knows_is_said_to(make):
    page = Page(render(make(), WORDS)).text("li")
    assert "The sport can be read at the final name token from layer 2 on, surely for 90 %" in page
    assert "so the lookup needs these MLPs" in page
    assert "nothing here shows" not in page and "At no layer" not in page


def test_a_better_first_token_is_said_on_top_of_the_page_and_in_its_section(make, html):
    line = 'Write `model: {bos: "<|endoftext|>"}` into the configuration.'
    results = make()
    table = Table(frame=example_tables.bos_check(used="<|im_start|>"), link="tables/bos_check.csv")
    page = Page(render(replace(results, tables={**results.tables, "bos_check": table}), WORDS))
    assert line in page.text("p") and line in page.text("li")
    assert "recalls 90.0\N{NO-BREAK SPACE}% [80.0, 100.0] instead of 20.0\N{NO-BREAK SPACE}%" in page.text(
        "p"
    )
    assert "no other beginning is clearly better (tried: <|im_start|>)" in Page(html).text("li")
    assert "Look at this first" not in html


def test_every_sentence_carries_interval_and_baseline():
    tables = example_tables.study(knows=True)
    first = recall.sentences(tables)[0]
    row = tables["recall_summary"].filter(condition="full", group="all").row(0, named=True)
    assert (
        f"{round(row['recalled'] * 150)} of 150 <subjects>" in first
        and in_words.share(row, "recalled") in first
    )
    assert in_words.percent(row["majority_rate"]) in first
    told = layer_probes.sentences({"layer_probes": tables["layer_probes"]}) + circuit_checks.sentences(
        {"circuit_checks": tables["circuit_checks"]}
    )
    for sentence in told:
        assert re.search(r"\[[\d.]+, [\d.]+\]", sentence), sentence


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([2, 3, 4], "from layer 2 on"),
        ([-1, 0, 1, 2, 3, 4], "from the embeddings on"),
        ([4], "at layer 4"),
        ([1, 2], "at layer 1 to layer 2"),
        ([0, 2, 3, 4], "at layer 0, layer 2 to layer 4"),
        ([-1], "at the embeddings"),
    ],
)
def test_layers_in_words(layers, words):
    assert in_words.layers_in_words(layers, range(-1, 5)) == words


def _checks(**accuracy: float) -> pl.DataFrame:
    rows = {"clean": 0.99, "mlps_at_name": 0.34} | accuracy
    return pl.DataFrame(
        {
            "check": list(rows),
            "accuracy": list(rows.values()),
            "accuracy_low": [max(0.0, v - 0.02) for v in rows.values()],
            "accuracy_high": [min(1.0, v + 0.02) for v in rows.values()],
            "change_high": [v - rows["clean"] + 0.02 for v in rows.values()],
            "n": [1000] * len(rows),
            "majority_rate": [1 / 3] * len(rows),
        }
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.98, "no fall is measured, so there is no sign that the lookup needs these MLPs."),
        (0.34, "no more than by always naming the commonest <answer>, so the lookup needs these MLPs."),
        (
            0.66,
            "50.3 % of what the model knows beyond the commonest <answer> is lost, so the lookup needs these MLPs.",
        ),
    ],
)
def test_the_words_of_an_intervention_follow_its_rule(value, words):
    told = circuit_checks.sentences({"circuit_checks": _checks(mlps_at_name=value)})
    assert len(told) == 1 and told[0].replace("\N{NO-BREAK SPACE}", " ").endswith(words)


def test_interventions_on_a_model_that_answers_at_chance_explain_nothing():
    told = circuit_checks.sentences({"circuit_checks": _checks(clean=0.34, donor_0=0.9)})
    assert len(told) == 1 and "no recall to intervene on" in told[0]
    assert circuit_checks.sentences({"circuit_checks": _checks().clear()}) == [
        "Too few <subjects> are known for any intervention: there is nothing to see."
    ]


@pytest.mark.parametrize(
    ("donors", "words"),
    [
        (
            {"donor_0": 0.3, "donor_1": 0.9, "donor_2": 0.95},
            "the donor's from layer 1 on; most after layer 2",
        ),
        ({"donor_0": 0.9, "donor_1": 0.1}, "the donor's at layer 0; most after layer 0"),
        ({"donor_0": 0.1, "donor_1": 0.51}, "the donor's at no layer; most after layer 1"),
    ],
)
def test_donors(donors, words):
    assert words in circuit_checks.sentences({"circuit_checks": _checks(**donors)})[-1]


@pytest.mark.parametrize(
    ("accuracy", "words"), [(1.0, "which is 95 % or more"), (0.6, "is not enough for the other 40.0 %")]
)
def test_what_a_sum_over_tokens_can_do(accuracy, words):
    table = example_tables.study(knows=True)["layer_probes"]
    changed = table.with_columns(
        pl.when((pl.col("folds") == "none") & (pl.col("labels") == "true"))
        .then(accuracy)
        .otherwise("accuracy")
        .alias("accuracy")
    )
    told = layer_probes.additive_findings(changed)[0].replace("\N{NO-BREAK SPACE}", " ")
    assert words in told and "shuffled <answers>" in told
    assert layer_probes.additive_findings(table.filter(pl.col("folds") != "none")) == []


def test_a_sum_that_fits_shuffled_answers_as_well_says_nothing():
    """As where every name has tokens of its own: on true answers it cannot be below 100 %."""
    table = example_tables.study(knows=True)["layer_probes"]
    fits = pl.when(pl.col("folds") == "none").then(1.0).otherwise("accuracy").alias("accuracy")
    told = " ".join(layer_probes.sentences({"layer_probes": table.with_columns(fits)}))
    assert "it says nothing here" in told and "combined" not in told and "fitted sum" not in told
    row = judged("more-than-the-tokens", {"layer_probes": table.with_columns(fits)})
    assert row["verdict"] == NOT_APPLICABLE


def test_a_probe_that_only_matches_a_baseline_is_not_called_readable():
    table = example_tables.study(knows=True)["layer_probes"]
    tied = (pl.col("over_name_low") * 0 - 0.01).alias(
        "over_name_low"
    )  # layers lie above guessing, as they did
    told = layer_probes.sentences({"layer_probes": table.with_columns(tied)})[0]
    assert told.startswith("At no layer can the <answer> be read") and "There is nothing to see" in told


def test_a_probe_above_the_fitted_sum_shows_that_tokens_are_combined():
    table = example_tables.study(knows=True)["layer_probes"]
    assert "above that fitted sum from layer 2 on" in layer_probes.sentences({"layer_probes": table})[-1]
    perfect = (pl.col("over_fitted_low") * 0 - 0.01).alias("over_fitted_low")
    assert (
        "At no layer is the held-out probe above"
        in layer_probes.sentences({"layer_probes": table.with_columns(perfect)})[-1]
    )


def test_a_probe_that_reads_a_part_is_not_called_sure():
    table = example_tables.study(knows=True)["layer_probes"]
    shift = {f"accuracy{end}": pl.col(f"accuracy{end}") - 0.2 for end in ("", "_low", "_high")}
    weaker = table.filter(input="resid", labels="true").with_columns(**shift)
    told = layer_probes.sentences({"layer_probes": weaker})[0]
    assert told.startswith(
        "The <answer> can be read at the final name token in part: at no layer surely for 90 %"
    )
    assert "better than by naming the commonest <answer> from layer 2 on" in told


def test_groups_of_a_few_are_not_singled_out():
    tables = example_tables.study(knows=True)
    summary = tables["recall_summary"]
    few = summary.with_columns(pl.when(pl.col("level") == "3").then(4).otherwise("n").alias("n"))
    assert any("By length" in sentence for sentence in recall.sentences(tables))
    assert not any("By length" in sentence for sentence in recall.sentences(tables | {"recall_summary": few}))


def test_every_figure_has_a_caption():
    for _, figure in declarations().figures.values():
        assert len(figure.caption) > 40


def test_inlined_figures_keep_their_references():
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="9pt" viewBox="0 0 9 9">'
        "<metadata>who</metadata><!-- <script> --><defs><style>*{color:red}</style><path id='p'/></defs>"
        f"<g clip-path='url(#c)' style='fill: {style.INK}'><use xlink:href='#p'/></g><clipPath id='c'/></svg>"
    )
    inlined = inline_svg(svg, "name", 'a "label"')
    assert "metadata" not in inlined and "color:red" not in inlined and "script" not in inlined
    assert 'id="name-p"' in inlined and 'href="#name-p"' in inlined and "url(#name-c)" in inlined
    assert "var(--ink)" in inlined and "width" not in inlined and "a &quot;label&quot;" in inlined


def test_an_image_in_a_figure_stays_whole():
    image = "data:image/png;base64,iVBORw0KGgo="
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"><image xlink:href="{image}"/></svg>'
    assert f'xlink:href="{image}"' in inline_svg(svg, "name", "label")


def test_the_library_of_the_tables_is_as_it_was_published_and_can_stand_in_a_page():
    library = (WORDS / "vendor/datatables.min.js").read_text()
    assert library.startswith("/*! DataTables 3.1.5") and "</script" not in library and "<!--" not in library
    assert "MIT License" in (WORDS / "vendor/datatables-license.txt").read_text()


def test_the_ledger_stands_on_top_with_words_for_every_verdict(html):
    page = Page(without_scripts(html))
    ids = page.attributes("id")
    assert ids.index("ledger") < ids.index("summary")
    assert (
        "Of 5 claims of the Fact Finding study, 2 come out supported, 1 contradicted, 1 undecided, 1 not"
        in html
    )
    chips = re.findall(r'class="verdict ([\w-]+)"><span aria-hidden="true">(.)</span> ([\w ]+)<', html)
    assert len(chips) == 5 and len({sign for _, sign, _ in chips}) == 4
    assert all(word.replace(" ", "-") == kind for kind, _, word in chips)
    assert "0.820 [0.710, 0.910], n = 1,494" in html and "above 0.700" in html
    assert '<span class="value">3</span>' in html and 'href="tables/ledger.csv"' in html


def test_an_experiment_of_the_ledger_leads_to_its_section_where_there_is_one(html):
    ledger = html.split('id="ledger-title"')[1].split("</section>")[0]
    assert '<dd><a href="#recall">P2.1</a>, recall' in ledger
    assert "<dd>P3.1, lookup" in ledger  # this page has no section on it


def test_a_ledger_that_is_none_is_refused(make):
    frame = example_ledger.ledger()
    for wrong, said in (
        (frame.drop("reason"), "no column reason"),
        (_with(frame, "verdict", "maybe"), "'maybe'"),
    ):
        with pytest.raises(InputError, match="tables/ledger.csv") as error:
            render(replace(make(), ledger=Table(frame=wrong, link="tables/ledger.csv")), WORDS)
        assert said in str(error.value)


def _with(frame: pl.DataFrame, column: str, value: str) -> pl.DataFrame:
    return frame.with_columns(pl.lit(value).alias(column))


def test_long_tables_are_cut_and_say_where_the_rest_is(make):
    results = make()
    long = pl.concat([results.tables["recall"].frame] * 10)
    page = render(
        replace(results, tables={**results.tables, "recall": Table(frame=long, link="r.csv")}), WORDS
    )
    assert SHOWN_ROWS == 200 and re.search(r"Table \d+\. recall: 200 of 1,500 rows", page)
    assert 'The first 200 of 1,500 rows are here; all of them in <a href="r.csv">' in page
    table = page.split(" recall: 200", 1)[1].split("</table>", 1)[0]
    assert table.count("<tr>") == 201
    assert re.search(r"Table \d+\. recall_summary: \d+ rows", page)


@needs_browser
def test_it_opens_as_a_file_without_a_word_and_without_a_request(html, tmp_path):
    page = tmp_path / "report.html"
    page.write_text(html)
    document, console, asked = opened(page)
    assert console == [] and asked == set()
    assert 'id="circuit_checks"' in document and "dt-search" in document


@needs_browser
def test_a_request_would_have_been_seen_and_is_refused(html, tmp_path):
    image = "<img src='http://127.0.0.1:9/x.png'>"
    page = tmp_path / "report.html"
    page.write_text(f"<!doctype html><p id='content'>{image}")
    assert opened(page)[2] == {"http://127.0.0.1:9/x.png"}
    page.write_text(html.replace("</main>", f"{image}</main>"))
    _, console, asked = opened(page)
    assert asked == set() and any("Content Security Policy" in line for line in console)


@needs_browser
def test_a_browser_refuses_a_script_that_is_not_the_page_s_own(html, tmp_path):
    page = tmp_path / "report.html"
    page.write_text(html.replace("</main>", "<script>document.title = 'taken'</script></main>"))
    document, console, _ = opened(page)
    assert "<title>taken" not in document and any("Content Security Policy" in line for line in console)


@needs_browser
def test_the_ledger_is_filtered_and_contradicted_first_where_one_wants_and_unfolds(html, tmp_path):
    found = used(
        html,
        """
        const seen = () => [...d.querySelectorAll(".claim")].filter((one) => one.offsetHeight)
          .sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top)
          .map((one) => text(one.querySelector(".verdict")).slice(2));
        const said = {}, click = async (id) => { d.querySelector(`label[for=${id}]`).click(); await soon(); };
        said.all = seen();
        await click("contradicted-first"); said.first = seen();
        await click("show-contradicted"); said.contradicted = seen();
        await click("show-not-applicable"); said.none = seen();
        await click("show-all"); said.again = seen().length;
        const fold = d.querySelector(".claim details"), inside = fold.querySelector("dl");
        said.folded = fold.offsetHeight;
        fold.querySelector("summary").click(); await soon();
        said.unfolded = fold.offsetHeight; said.why = text(inside);
        return said;
        """,
        tmp_path,
    )
    assert found["all"] == ["supported", "contradicted", "undecided", "supported", "not applicable"]
    assert found["first"] == ["contradicted", "supported", "undecided", "supported", "not applicable"]
    assert found["contradicted"] == ["contradicted"] and found["none"] == ["not applicable"]
    assert found["again"] == 5 and 0 < found["folded"] < 60 < found["unfolded"]
    assert "0.820 [0.710, 0.910], n = 1,494" in found["why"]


def _people() -> list[Person]:
    """Three subjects: one with everything, one with a hostile name, one of whom there is only the question."""
    words = (
        ("shot", ("Fact: Tiger Woods",)),
        ("first_name", (" Ann",)),
        ("final_name", (" L", "ee")),
        ("end", (" of",)),
    )
    probed = pl.DataFrame({"layer": range(-1, 32), "p": [0.5] * 33, "right": [True] * 33})
    whole = Person(
        name="Ann Lee",
        answer="golf",
        said=("The right <answer> is golf.",),
        words=words,
        heads=tuple((f"L{layer}H0", (0.03, None, 0.93, 0.0)) for layer in range(4)),
        probe=bars(probed, 0.4),
        neurons=tuple((f"L1N{i}", "-0.100 [-0.200, 0.000] nats, n = 64 draws", -0.1) for i in range(8)),
    )
    return [
        whole,
        replace(whole, name=example_tables.SCRIPT),
        replace(whole, name="Bo Cox", heads=(), probe=None, neurons=()),
    ]


def test_single_subjects_are_shown_and_what_looks_like_markup_stays_text(html, make):
    page = render(replace(make(), people=_people()), WORDS)
    Page(page)
    assert 'id="closer"' not in html and 'href="#closer"' not in html, "no subjects, no section"
    part = page[page.index('<section id="closer"') : page.index('<section id="training"')]
    assert "The right sport is golf." in part and "Looking closer: single athletes" in part
    assert example_tables.SCRIPT not in part and "&lt;script&gt;alert(1)" in part
    assert (
        part.count('style="--share: 0.930"') == 8
        and part.count("93.0&nbsp;%") == 8
        and "0.0&nbsp;%</small>" not in part.replace("93.0", "")
    )
    assert len(part) / 3 < 16_000, "two hundred subjects stay below 4 MB"


@needs_browser
@pytest.mark.parametrize("width", [390, 1200])
def test_a_subject_is_picked_and_nothing_is_wider_than_the_page(make, tmp_path, width):
    found = used(
        render(replace(make(), people=_people()), WORDS),
        """
        const part = d.getElementById("closer"), said = {};
        const shown = () => [...part.querySelectorAll("article")].filter((one) => one.offsetHeight).map((one) => text(one.querySelector("h3")));
        said.first = shown();
        part.querySelector("label[for=who-3]").click(); said.third = shown();
        part.querySelector("label[for=who-2]").click(); said.second = shown();
        const radios = [...part.querySelectorAll("input")];
        said.keys = radios.every((one) => one.type === "radio" && one.name === "who" && w.getComputedStyle(one).display !== "none");
        radios[0].focus(); said.focused = d.activeElement.id;
        said.wide = Math.max(...[...part.querySelectorAll("*")].map((one) => one.getBoundingClientRect().right)) > w.innerWidth;
        const token = [...part.querySelectorAll("article")][1].querySelectorAll(".token");
        said.tints = [...token].slice(0, 4).map((one) => w.getComputedStyle(one).backgroundColor);
        return said;
        """,
        tmp_path,
        width=width,
    )
    assert (
        found["first"] == ["Ann Lee"]
        and found["third"] == ["Bo Cox"]
        and found["second"] == [example_tables.SCRIPT]
    )
    assert found["keys"] and found["focused"] == "who-1", "arrow keys go through radio buttons of one name"
    assert not found["wide"]
    example, first, *final = found["tints"]
    assert len({example, first, final[0]}) == 3 and final[0] == final[1], "the tint is the share of attention"


@needs_browser
@pytest.mark.parametrize("width", [390, 1200])
def test_the_list_of_sections_stays_and_says_where_one_is(html, tmp_path, width):
    found = used(
        html,
        """
        const list = d.querySelector("nav.places"), said = {};
        const here = () => [...list.querySelectorAll("[aria-current]")].map((link) => link.hash);
        said.top = here();
        d.getElementById("circuit_checks").scrollIntoView();
        d.dispatchEvent(new w.Event("scroll"));  // a headless browser tells of it only when it draws a frame
        said.below = here(); said.at = list.getBoundingClientRect().top;
        said.height = list.getBoundingClientRect().height; said.bar = text(list.querySelector("summary"));
        return said;
        """,
        tmp_path,
        width=width,
    )
    assert found["top"] == ["#answer"] and found["below"] == ["#circuit_checks"]
    assert found["at"] == 0 and found["bar"].startswith("Sections: P2.8 Whether the lookup")
    assert (found["height"] < 60) == (width == 390)


@needs_browser
def test_a_folded_table_is_sorted_by_its_numbers_and_what_looks_like_markup_stays_text(html, tmp_path):
    found = used(
        html,
        """
        const fold = [...d.querySelectorAll("details")].find((one) => text(one).includes(". recall:"));
        const table = fold.querySelector("table"), heads = [...table.tHead.rows[0].cells], said = {};
        const at = (name) => heads.findIndex((head) => text(head) === name);
        said.tools = fold.querySelectorAll(".dt-search").length;
        const p = at("full_logp"), name = at("subject");
        fold.open = true; await soon(); await soon();
        said.toolsOpen = fold.querySelectorAll(".dt-search").length;
        heads[p].click(); await soon();
        said.values = column(table, p).map(Number);
        heads[name].click(); await soon(); heads[name].click(); await soon();
        type(fold.querySelector(".dt-search input"), "script"); await soon();
        said.names = column(table, name);
        said.scripts = d.querySelectorAll("script").length; said.images = d.querySelectorAll("img").length;
        return said;
        """,
        tmp_path,
    )
    assert (found["tools"], found["toolsOpen"]) == (0, 1)
    assert len(found["values"]) == example_tables.N and found["values"] == sorted(found["values"])
    assert found["names"] == [example_tables.SCRIPT]
    assert found["scripts"] == 3 and found["images"] == 0


@needs_browser
@pytest.mark.parametrize("width", [390, 1200])
def test_no_width_needs_sideways_scrolling_of_the_page(html, tmp_path, width):
    measure = """
        for (const fold of d.querySelectorAll("details")) fold.open = true;
        await soon(); await soon();
        const root = d.documentElement, box = d.querySelector("figure .scroll");
        return [root.scrollWidth, root.clientWidth, box.getAttribute("tabindex"), box.scrollWidth > box.clientWidth];
        """
    wide, shown, focusable, scrolls = used(html, measure, tmp_path, width=width)
    assert width - 60 < shown <= width and wide == shown
    assert focusable == "0" and scrolls == (width == 390)
    too_wide = html.replace("<main", "<div style='width: 99rem'>.</div><main", 1)
    assert used(too_wide, measure, tmp_path, width=width)[0] >= 1500


@needs_browser
def test_without_scripts_the_tables_are_there_and_nothing_promises_more(html, tmp_path):
    said = used(
        without_scripts(html),
        """
        return [d.querySelectorAll(".claim").length, d.querySelectorAll(".dt-search").length,
          d.querySelector("nav.places a").getBoundingClientRect().height > 0];
        """,
        tmp_path,
    )
    assert said == [5, 0, True]


@needs_browser
@pytest.mark.parametrize("knows", [True, False])
def test_the_first_screen_has_the_conclusions_the_picture_and_what_not_to_trust(make, tmp_path, knows):
    found = used(
        render(make(knows=knows), WORDS),
        """
        const top = (node) => node.getBoundingClientRect().top, letters = [...d.querySelectorAll("svg.circuit text")];
        return {tops: [".conclusions", "svg.circuit", ".answer .notice"].map((one) => top(d.querySelector(one))),
          sections: [...d.querySelectorAll("main > section")].slice(0, 5).map((one) => one.id),
          conclusions: d.querySelectorAll(".conclusions > li").length,
          inside: letters.every((one) => { const box = one.getBBox(); return box.x >= 0 && box.x + box.width <= 360; })};
        """,
        tmp_path,
    )
    assert max(found["tops"]) < 800 and found["inside"]
    assert found["sections"] == ["answer", "synthesis", "ledger", "model", "summary"]
    assert found["conclusions"] == (7 if knows else 2)


@needs_browser
def test_on_a_phone_the_picture_can_be_read_and_no_claim_is_cut(html, tmp_path):
    found = used(
        html,
        """
        const size = (node) => node.getBoundingClientRect().height;
        const letters = [...d.querySelectorAll("svg.circuit text")].filter((one) => text(one));
        const cut = [...d.querySelectorAll(".claim summary > *")].filter((one) => one.getBoundingClientRect().right > w.innerWidth);
        return [Math.min(...letters.map(size)), cut.length];
        """,
        tmp_path,
        width=390,
    )
    assert found[0] >= 11 and found[1] == 0
