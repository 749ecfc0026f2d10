"""Figures of a model of 32 layers and 32 heads, and of names of many tokens: nothing cut off, no text on another."""

from __future__ import annotations

from itertools import product

import numpy as np
import polars as pl
import pytest

from factfinding.experiments.direct_effects import show as direct_effects
from factfinding.experiments.head_inputs import show as head_inputs
from factfinding.experiments.head_probes import show as head_probes
from factfinding.figures.style import marked
from helpers.figures import assert_readable, draw_of

LAYERS = HEADS = 32
PLACES = [
    ("first_name", 0, None), *(("middle_name", number, None) for number in range(9)), ("final_name", 0, None),
    *(("relation", number, word) for number, word in enumerate((" plays", " the", " sport"))), ("end", 0, " of"),
]  # fmt: skip


def estimate(name: str, value: float | None, half: float = 0.02) -> dict[str, float | None]:
    if value is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}


def node_rows(**more) -> list[dict]:
    """Every head and both whole layers, with a size that varies."""
    rows = []
    for layer in range(LAYERS):
        for node in [*range(HEADS), "attn_out", "mlp_out"]:
            head = node if isinstance(node, int) else None
            name = f"{node}:{layer}" if head is None else f"L{layer}H{head}"
            kind = "head" if head is not None else node
            rows.append({"node": name, "kind": kind, "layer": layer, "index": head, **more})
    return rows


def test_direct_effects():
    rows = []
    for answer, n in (("all", 1500), ("baseball", 480), ("basketball", 500), ("football", 520)):
        for i, row in enumerate(node_rows(answer=answer, n=n)):
            size = -2.5 if row["node"] == "L16H20" else 0.01 * np.sin(i)
            share = {"share": size / -5.0}
            rows.append(row | share | estimate("exact", size) | estimate("frozen", size))
    figure = direct_effects.draw_direct_effects(direct_effects=pl.DataFrame(rows, infer_schema_length=None))
    assert figure.get_figheight() > 7, "rows of 32 heads need room"
    assert_readable(figure)


def test_total_effects():
    names = {"attn_out": "attention", "mlp_out": "mlp"}
    rows = []
    for kind, n in (
        ("corrupt", 400),
        ("zero", 96),
        ("mean", 96),
        ("resample_same", 96),
        ("resample_other", 96),
    ):
        for role, number, token in PLACES:
            for row in node_rows(role=role, number=number, token=token, n=n):
                what = {"type": names.get(row["kind"], row["kind"]), "head": row["index"], "share": 0.1}
                exact = row["index"] is None or row["layer"] % 3 == 0
                rows.append(row | what | {"kind": kind, "exact": exact} | estimate("effect", -1.0))
    screen = pl.DataFrame([{"kind": "corrupt", "type": "all", "error": 0.0012}])
    figure = draw_of("total_effects")(
        total_effects=pl.DataFrame(rows, infer_schema_length=None), total_effects_screen=screen
    )
    assert_readable(figure)
    titles = [axes.get_title("left").replace("\n", " ") for axes in figure.axes]
    assert "zero  n = 96" in titles and "the partner's (as above) n = 400" in titles


@pytest.mark.parametrize("layers", [1, 6, 32])
def test_residual_patching_of_names_of_eleven_tokens(layers):
    rows = [
        {"layer": layer, "role": role, "number": number, "token": token, "share": 0.4, "follows": 0.3, "n": n}
        for layer, (role, number, token) in product(range(layers), PLACES)
        for n in [1 if number == 8 else 400 - 40 * number]
    ]
    figure = draw_of("residual_patching")(residual_patching=pl.DataFrame(rows, infer_schema_length=None))
    assert_readable(figure)
    assert "n = 120 to 400 athletes" in figure.axes[0].get_title("left")
    words = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert "middle name 8" in words and "middle name 9" not in words, "one subject is no position"


def test_head_probes():
    rows = [
        {"head": f"L{layer}H{index}", "layer": layer, "index": index, "rank": 1 if (layer, index) == (16, 20) else 2,
         "p_corrected": 0.001 if layer > 9 else 1.0, "chance_best": 0.44, "heads_tried": 1024, "n": 750,
         **estimate("accuracy", 0.5)}
        for layer, index in product(range(LAYERS), range(HEADS))
    ]  # fmt: skip
    layers = [
        {"head": head, "chosen_by": how, "condition": condition, "layer": layer, "n": 750, "majority_rate": 0.37,
         **estimate("accuracy", 0.5 + 0.01 * layer)}
        for head, how in (("L16H20", "probe"), ("L21H9", "direct effect"), ("L19H24", "direct effect"))
        for condition in ("full", "name_only")
        for layer in range(-1, LAYERS)
    ]  # fmt: skip
    empty = pl.DataFrame(
        schema={
            "condition": pl.String,
            "input": pl.String,
            "labels": pl.String,
            "folds": pl.String,
            "n": pl.Int64,
        }
    )
    figure = head_probes.draw_head_probes(
        head_probes=pl.DataFrame(rows), head_probe_layers=pl.DataFrame(layers), layer_probes=empty
    )
    assert_readable(figure)


def test_the_ladder_with_four_contrasts_names_each_and_says_the_n_of_shorter_steps():
    steps = {
        "full": 2519,
        "late_attention": 2519,
        "name_only": 2519,
        "both": 2519,
        "early_mlps": 2519,
        "frozen": 27,
    }
    steps |= {"frozen_longer": 2491} | {f"attention_{layer}": 2519 for layer in range(4)}
    rows = [
        {"step": step, "reader": reader, "kind": kind, "layer": layer, "n": n, "majority_rate": 0.37,
         **estimate("accuracy", 0.6), **estimate("drop", None if step == "full" else 0.1)}
        for step, n in steps.items()
        for reader in ("logistic", "head")
        for kind in (["none"] if step in ("full", "name_only") else ["zero", "mean", "resample_same", "resample_other"])
        for layer in range(LAYERS)
    ]  # fmt: skip
    figure = draw_of("ladder")(ladder=pl.DataFrame(rows, infer_schema_length=None))
    assert_readable(figure)
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    titles = [axes.get_title("left") for axes in figure.axes]
    assert "and patterns frozen (n = 27)" in titles and "attention 3 alone" in words
    assert "zero" in words and "another athlete's, same sport" in words


def test_the_effective_model_of_names_of_two_to_fourteen_tokens():
    answers = ("baseball", "basketball", "football")
    rows = [
        {"model": model, "n_name_tokens": length, "n": 574, "majority_rate": 0.4, **estimate("accuracy", 0.6)}
        for model, length in product(("effective", "full"), range(2, 15))
    ]
    confusion = [
        {"n_name_tokens": length, "answer": answer, "given": given, "subjects": 9, "share": 1 / 3}
        for length, answer, given in product(range(2, 15), answers, answers)
    ]
    figure = draw_of("effective_model")(
        effective_model=pl.DataFrame(rows), effective_confusion=pl.DataFrame(confusion)
    )
    assert_readable(figure)


def test_head_inputs_of_very_different_sizes():
    rows = [
        {"reader": reader, "node": node, "kind": "all" if node == "all" else "mlp_out", "n": 1500,
         **estimate("exact", -size, size / 10), "frozen": -1.2 * size}
        for reader, size in (("L16H20", 12.0), ("L21H9", 0.15), ("L22H15", 0.0321), ("L0H0", 1e-7))
        for node in ("all", "mlp_out:3", "mlp_out:30")
    ]  # fmt: skip
    assert_readable(head_inputs.draw_head_inputs(head_inputs=pl.DataFrame(rows)))


@pytest.mark.parametrize("layers", [6, 32])
def test_contexts_after_one_another(layers):
    rows = [
        {"context": context, "layer": layer, "n": 1495, "majority_rate": 0.33, "unknown_tokens": 0,
         **estimate("cosine", 1 - 0.01 * layer), **estimate("cosine_other", 0.0), **estimate("accuracy", 0.8)}
        for context, layer in product(("none", "title", "question", "shot", "sentence"), range(layers))
    ]  # fmt: skip
    assert_readable(draw_of("context")(context=pl.DataFrame(rows)))


def test_markers_thin_out_on_long_lines():
    assert [marked(points) for points in (1, 6, 12, 24, 33, 80)] == [1, 1, 1, 2, 3, 7]
