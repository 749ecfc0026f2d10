from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from inspect import signature
from itertools import pairwise

import matplotlib
import numpy as np
import polars as pl
import pytest
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.lines import Line2D
from matplotlib.offsetbox import DrawingArea

from factfinding.declarations import declarations
from factfinding.experiments.circuit_checks import show as circuit_checks
from factfinding.experiments.layer_probes import show as layer_probes
from factfinding.experiments.recall import show as recall
from factfinding.experiments.training import show as training
from factfinding.figures import style
from helpers import example_tables
from helpers.figures import assert_readable, draw_of, drawn

TABLES = {
    "training": ("training",),
    "recall": ("recall", "recall_summary", "known_filters"),
    "layer_probes": ("layer_probes",),
    "circuit_checks": ("circuit_checks",),
    "direct_effects": ("direct_effects",),
    "attention_roles": ("attention_roles", "attention_subjects"),
    "head_inputs": ("head_inputs",),
    "head_probes": ("head_probes", "head_probe_layers", "layer_probes"),
    "residual_patching": ("residual_patching",),
    "total_effects": ("total_effects", "total_effects_screen"),
    "circuit_scan": ("circuit_scan", "circuit"),
    "ladder": ("ladder",),
    "effective_model": ("effective_model", "effective_confusion"),
    "context": ("context",),
    "probe_patching": ("probe_patching",),
    "mlp_paths": ("mlp_paths",),
    "neuron_effects": ("neuron_pairs", "neuron_facts", "neuron_effects_twin", "neuron_effects_screen"),
    "fact_correlations": ("fact_correlations",),
    "effect_concentration": ("effect_concentration",),
    "nonlinear_excess": ("nonlinear_excess", "nonlinear_excess_subjects", "nonlinear_excess_neurons"),
    "effective_probes": ("effective_probes", "effective_confusion"),
}


def _draw(name: str, *, knows: bool = True):
    return drawn(name, example_tables.study(knows=knows))


def _texts(figure) -> list[str]:
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    axes = figure.axes
    labels = [part for a in axes for part in (a.get_xlabel(), a.get_ylabel(), a.get_title("left"))]
    return legends + [text for text in labels if text]


def test_every_figure_that_is_declared_can_be_drawn():
    for name, (_, figure) in declarations().figures.items():
        assert set(signature(draw_of(name)).parameters) == set(figure.tables), name


@pytest.mark.parametrize("knows", [True, False])
@pytest.mark.parametrize("name", TABLES)
def test_all_that_is_drawn_lies_inside_and_no_text_on_another(name, knows):
    assert_readable(_draw(name, knows=knows))


@pytest.mark.parametrize("name", TABLES)
def test_axes_are_labelled_and_say_their_unit_and_n(name):
    figure = _draw(name)
    for axes in figure.axes:
        shared = len(axes.get_shared_x_axes().get_siblings(axes)) > 1 or hasattr(axes, "_colorbar")
        assert axes.get_xlabel() or shared
    labels = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert labels and all("%" in label or "(" in label for label in labels)
    assert any(re.search(r"n = [\d,]+", text) for text in _texts(figure))


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_the_same_table_gives_the_same_bytes(name, tmp_path):
    written = []
    for turn in ("a", "b"):
        paths = tmp_path / f"{turn}.svg", tmp_path / f"{turn}.png"
        style.save(_draw(name), *paths)
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]
    svg = written[0][0].decode()
    assert "<dc:date>" not in svg and "<text" not in svg  # no day in it, and glyphs as outlines
    assert not re.findall(r'(?:href|src)="(?!#|data:image/png;base64,)', svg)
    ET.fromstring(svg)
    assert len(svg) < 500_000
    assert written[0][1].startswith(b"\x89PNG")


@pytest.mark.parametrize("name", TABLES)
def test_empty_tables_give_a_figure_that_says_so(name):
    tables = example_tables.study(knows=True)
    figure = drawn(name, {table: frame.clear() for table, frame in tables.items()})
    assert not figure.axes
    assert figure.texts[0].get_text().startswith("Nothing to draw: ")


def test_drawing_leaves_no_settings_behind():
    before = dict(matplotlib.rcParams)
    _draw("layer_probes")
    assert dict(matplotlib.rcParams) == before


def test_recall_curves_cross_one_half_at_the_recalled_share():
    tables = example_tables.study(knows=True)
    axes = _draw("recall").axes[0]
    answers = tables["recall"]["answer"].unique().sort()
    for answer, line in zip(answers, axes.lines, strict=False):
        p, above = line.get_data()
        assert (p[0], above[0], above[-1]) == (0, 100, 0) and all(a >= b for a, b in pairwise(above))
        at_half = above[np.flatnonzero(np.asarray(p) <= 0.5)[-1]]
        row = (
            tables["recall_summary"].filter(condition="full", group="answer", level=answer).row(0, named=True)
        )
        assert at_half == pytest.approx(100 * row["recalled"])


def test_recall_of_a_certain_model_is_drawn_over_the_whole_axis():
    tables = example_tables.study(knows=True)
    certain = tables["recall"].with_columns(pl.lit(1.0).alias("full_p"))
    drawing = recall.draw_recall(
        recall=certain, recall_summary=tables["recall_summary"], known_filters=tables["known_filters"]
    )
    line = drawing.axes[0].lines[0]
    assert line.get_xdata()[0] == 0 and set(line.get_ydata()) >= {0, 100}


def test_probes_are_drawn_as_they_stand_in_the_table():
    table = example_tables.study(knows=True)["layer_probes"]
    figure = _draw("layer_probes")
    panel = figure.axes[1]
    rows = table.filter(condition="name_only", folds="first_name", labels="true", input="resid").sort("layer")
    line = next(line for line in panel.lines if "first name" in str(line.get_label()))
    assert line.get_ydata() == pytest.approx(100 * rows["accuracy"].to_numpy())
    best = table.filter(pl.col("folds") != "none", input="name_tokens", labels="true")["accuracy"].max()
    drawn = next(line for line in panel.lines if str(line.get_label()).startswith("sum over"))
    assert drawn.get_ydata()[0] == pytest.approx(100 * best)
    assert [tick.get_text() for tick in panel.get_xticklabels()][:2] == ["emb", "0"]


def test_probes_without_control_and_without_baselines_are_drawn():
    table = example_tables.study(knows=True)["layer_probes"].filter(
        labels="true", input="resid", folds="random"
    )
    labels = _texts(layer_probes.draw_layer_probes(layer_probes=table))
    assert not any("shuffled" in label or "letters" in label for label in labels)
    assert "probe, random folds" in labels


@pytest.mark.parametrize("layers", [2, 8, 12, 24, 32, 80])
def test_layer_ticks_are_few_and_whole(layers):
    figure = matplotlib.figure.Figure()
    axes = figure.subplots()
    style.layer_axis(axes, range(-1, layers))
    words = [tick.get_text() for tick in axes.get_xticklabels()]
    assert words[0] == "emb" and 2 < len(words) <= 13 and all(word.isdigit() for word in words[1:])


def test_checks_in_plain_words_and_unknown_ones_by_name():
    from factfinding.experiments.circuit_checks.compute import changes

    table = example_tables.study(knows=True)["circuit_checks"]
    donors = circuit_checks.donor_curve(table)
    assert donors["layer"].to_list() == list(range(donors.height))
    named = set(table.filter(~pl.col("check").str.starts_with("donor_"))["check"])
    assert named == set(circuit_checks.CHECKS) and callable(changes)
    odd = table.with_columns(pl.col("check").replace("clean", "something_new"))
    figure = circuit_checks.draw_circuit_checks(circuit_checks=odd)
    assert figure.axes[0].get_yticklabels()[0].get_text() == "something new"


def test_checks_without_donors():
    table = example_tables.study(knows=True)["circuit_checks"].filter(
        ~pl.col("check").str.starts_with("donor_")
    )
    figure = circuit_checks.draw_circuit_checks(circuit_checks=table)
    assert "No pair" in figure.axes[1].texts[0].get_text()


def test_training_of_undescribed_people_has_one_line():
    table = example_tables.study(knows=True)["training"].with_columns(pl.lit(0).alias("described"))
    assert [len(axes.lines) for axes in training.draw_training(training=table).axes] == [1, 1, 1]


def test_many_answers_are_told_apart_and_dollars_are_no_formulas(tmp_path):
    looks = style.marks([f"answer {i}" for i in range(6)])
    assert len({colour for colour, _, _ in looks.values()}) == 6
    tables = example_tables.study(knows=True)
    renamed = tables["recall"].with_columns(pl.lit("$\\frac$ <&>").alias("answer"))
    style.save(
        recall.draw_recall(
            recall=renamed, recall_summary=tables["recall_summary"], known_filters=tables["known_filters"]
        ),
        tmp_path / "a.svg",
        tmp_path / "a.png",
    )


def test_no_two_of_36_answers_look_alike():
    looks = style.marks(range(36))
    assert len(set(looks.values())) == 36
    assert [looks[i][0] for i in range(6)] == list(style.COLOURS)


@pytest.mark.parametrize("name", TABLES)
def test_no_two_entries_of_a_legend_look_alike(name):
    figure = _draw(name)
    legends = [legend for part in (figure, *figure.subfigs) for legend in part.legends]
    looks = [_look(entry) for legend in legends for entry in legend.findobj(DrawingArea)]
    assert len(set(looks)) == len(looks), name


def _look(entry: DrawingArea) -> tuple:
    """What tells one entry of a legend from others: colour, dash, width, marker and what fills it, of each of its lines."""
    return tuple(
        (
            str(line.get_color()),
            str(line._unscaled_dash_pattern),
            line.get_linewidth(),
            line.get_marker(),
            str(line.get_markerfacecolor()),
        )
        for line in entry.findobj(Line2D)
    ) or tuple(str((part.get_color(), part.get_linestyle())) for part in entry.findobj(LineCollection))


def test_what_several_figures_show_looks_the_same_in_all():
    families = {
        "probes": ("logistic", "head"),
        "replacements": ("corrupt", "zero", "mean", "resample_same", "resample_other"),
        "names": ("known", "unknown"),
        "folds": ("random", "first_name", "last_name"),
        "parts": ("attn", "mlp"),
    }
    assert {thing for family in families.values() for thing in family} | {"control"} == set(style.LOOKS)
    for family in families.values():
        assert len({style.LOOKS[thing][0] for thing in (*family, "control")}) == len(family) + 1
    for name, things in {
        "total_effects": families["replacements"],
        "ladder": families["replacements"][1:],
        "mlp_paths": ("mean", "resample_other"),
        "effect_concentration": ("mean", "resample_other"),
        "probe_patching": (*families["probes"], "control"),
        "head_probes": families["probes"],
        "nonlinear_excess": ("known",),
    }.items():
        colours = {line.get_color() for axes in _draw(name).axes for line in axes.lines}
        assert {style.LOOKS[thing][0] for thing in things} <= colours, name


@pytest.mark.parametrize("lost", ["below", "above"])
@pytest.mark.parametrize("values", [[-4.0, 0.0, 1.0], [-4.0], [2.0, np.nan], [0.0], [-0.001, 5.0]])
def test_a_scale_of_changes_has_the_range_that_there_is_and_one_colour_for_what_is_lost(values, lost):
    look = style.changes(np.array(values), lost=lost)
    assert look["vmin"] <= 0 <= look["vmax"] and look["vmin"] < look["vmax"]
    if np.nanmin(values) < 0 or np.nanmax(values) > 0:
        assert (look["vmin"], look["vmax"]) == (min(np.nanmin(values), 0), max(np.nanmax(values), 0))
    below, above = matplotlib.colors.to_rgb(style.LOST), matplotlib.colors.to_rgb(style.GAINED)
    if lost == "above":
        below, above = above, below

    def colour(value):
        return np.array(look["cmap"](matplotlib.colors.Normalize(look["vmin"], look["vmax"])(value))[:3])

    limit = max(-look["vmin"], look["vmax"])
    for end, full in ((look["vmin"], below), (look["vmax"], above)):
        pale = np.array(matplotlib.colors.to_rgb("#f4f5f7"))
        expected = pale + (np.array(full) - pale) * abs(end) / limit
        assert np.abs(colour(end) - expected).max() < 0.02, "as strong as the change is large"


def test_what_is_lost_has_one_colour_on_the_maps_of_total_and_direct_effects():
    for name, end in (("total_effects", "vmax"), ("direct_effects", "vmin")):
        mesh = next(
            part for axes in _draw(name).axes for part in axes.collections if isinstance(part, QuadMesh)
        )
        worst = mesh.cmap(mesh.norm(getattr(mesh.norm, end)))[:3]
        assert worst == pytest.approx(matplotlib.colors.to_rgb(style.LOST), abs=0.02), name


@pytest.mark.parametrize(
    "name",
    [
        "total_effects",
        "direct_effects",
        "residual_patching",
        "effective_model",
        "attention_roles",
        "fact_correlations",
    ],
)
def test_what_stands_on_a_heat_map_does_not_change_its_colour_with_the_page(name):
    tables = example_tables.study(knows=True)
    maps = [
        axes
        for axes in drawn(name, tables).axes
        if any(isinstance(part, QuadMesh) for part in axes.collections)
    ]
    on_it = [text for axes in maps for text in axes.texts if text.get_transform() == text.axes.transData]
    on_it += [line for axes in maps for line in axes.lines]
    assert maps and not {part.get_color() for part in on_it} & {style.INK, style.PAPER}


def test_names_of_one_length_get_no_panel_of_their_own():
    tables = example_tables.study(knows=True)
    summary = tables["recall_summary"]
    one = summary.filter((pl.col("group") != "n_name_tokens") | (pl.col("level") == "2"))
    shown = {"recall": tables["recall"], "known_filters": tables["known_filters"]}
    several = recall.draw_recall(recall_summary=summary, **shown).axes
    alone = recall.draw_recall(recall_summary=one, **shown).axes
    assert [axes.get_xlabel() for axes in several[2:]] == ["sport", "number of name tokens"]
    assert [axes.get_xlabel() for axes in alone[2:]] == ["sport"]


def test_the_loss_of_guessing_stands_beside_that_of_the_probe():
    tables = example_tables.study(knows=True)
    length = tables["effective_probes"]["n_name_tokens"][0]
    asked = (
        tables["effective_confusion"]
        .filter(n_name_tokens=length)
        .group_by("answer")
        .agg(pl.col("subjects").sum())
    )
    share = asked["subjects"].to_numpy() / asked["subjects"].sum()
    right = _draw("effective_probes").axes[1]
    line = next(line for line in right.lines if str(line.get_label()).startswith("guessing"))
    assert line.get_ydata()[0] == pytest.approx(-(share * np.log(share)).sum())


def test_the_recalled_share_of_the_training_has_its_interval_and_n():
    table = example_tables.study(knows=True)["training"]
    panel = _draw("training").axes[2]
    assert "n = 256 people and 256 facts" in panel.get_title("left") and len(panel.collections) == 2
    assert panel.collections[0].get_paths()[0].get_extents().y1 == pytest.approx(
        100 * table["recalled_high"].max()
    )


def test_a_save_that_fails_leaves_nothing(tmp_path):
    class Broken(matplotlib.figure.Figure):
        def savefig(self, *args, **kwargs):
            raise RuntimeError("no room")

    with pytest.raises(RuntimeError):
        style.save(Broken(), tmp_path / "a.svg", tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
