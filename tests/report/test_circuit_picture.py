"""The picture of the circuit as found: for names of any length, models of any size, and a circuit that was not found."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import combinations

import polars as pl
import pytest

from factfinding.circuit_picture import WIDTH, caption, found, picture
from factfinding.data.example import Example
from factfinding.methods.circuit import AT_END, AT_NAME, UNCLEAR, Circuit
from factfinding.tables import schema_of
from helpers import example_tables

LETTER = 6.9
"""Units that a letter of the picture takes, on average, and a little more."""


def tables(place: str, *, layers: int = 6, heads: int = 4, whole: float = -10.0) -> dict[str, pl.DataFrame]:
    """A study in which every node of the circuit does a tenth more than the next, and the others a thousandth."""
    at_name = place == AT_NAME
    parts = {
        "concatenate": (0, 1),
        "lookup": (2, min(6, layers - 2)),
        "extract": (f"L{layers - 1}H{heads - 1}",),
    }
    circuit = Circuit(
        lookup_at=place, **(parts if at_name else {"concatenate": None, "lookup": None, "extract": ()})
    )
    rows = [
        {"node": f"L{layer}H{head}", "type": "head", "layer": layer, "role": role}
        for role in ("final_name", "end")
        for layer in range(layers)
        for head in range(heads)
    ]
    rows += [
        {"node": f"mlp_out:{layer}", "type": "mlp", "layer": layer, "role": role}
        for role in ("final_name", "end")
        for layer in range(layers)
    ]
    for i, row in enumerate(rows):
        share = (
            0.001
            if row["type"] == "head" and row["role"] == "end" and row["node"] not in circuit.extract
            else 0.5 / (1 + i % 7)
        )
        row |= {"share": share, "kind": "corrupt"} | effects(share, whole)
    stream = [
        {"layer": layer, "role": role, "number": number, "share": share} | effects(share, whole)
        for layer in range(layers)
        for role, number, share in [
            ("first_name", 0, 0.3),
            *(("middle_name", i, 0.1) for i in range(9)),
            ("final_name", 0, 0.6),
        ]
    ]
    return {
        "circuit": circuit.to_table(),
        "total_effects": framed(rows, "total_effects"),
        "residual_patching": framed(stream, "residual_patching"),
        "recall_summary": example_tables.study(knows=True)["recall_summary"],
    }


def effects(share: float, whole: float) -> dict[str, float]:
    return {
        "effect": share * whole,
        "effect_low": 1.1 * share * whole,
        "effect_high": 0.9 * share * whole,
        "whole_swap": whole,
        "n": 400,
    }


def framed(rows: list[dict], name: str) -> pl.DataFrame:
    return pl.DataFrame(
        rows, schema={column: kind for column, kind in schema_of(name).items() if column in rows[0]}
    )


def question(n_tokens: int, token: str = " Abcdefghijklm") -> Example:
    names = ["first_name"] * (n_tokens > 1) + ["middle_name"] * (n_tokens - 2) + ["final_name"]
    return Example(
        tokens=(*[token] * n_tokens, " plays", " the", " sport", " of"),
        roles=(*names, "relation", "relation", "relation", "end"),
        subject="<b>A</b> B",
        answer="a very long answer indeed",
    )


def boxes(svg: ET.Element) -> list[tuple[float, float, float, float]]:
    """What is drawn as boxes and texts: left, top, right, bottom."""
    found = []
    for one in svg.iter("rect"):
        x, y, width, height = (float(one.get(key)) for key in ("x", "y", "width", "height"))
        found.append((x, y, x + width, y + height))
    return found


def texts(svg: ET.Element) -> list[tuple[float, float, str]]:
    """Left and right end of each text, by the letters that it has at most."""
    spans = []
    for one in svg.iter("text"):
        x, size = float(one.get("x")), LETTER * len(one.text)
        left = {"start": x, "middle": x - size / 2, "end": x - size}[one.get("text-anchor")]
        spans.append((left, left + size, one.text))
    return spans


@pytest.mark.parametrize("place", [AT_NAME, AT_END, UNCLEAR])
@pytest.mark.parametrize("n_tokens", [1, 2, 7, 12])
@pytest.mark.parametrize(("layers", "heads"), [(6, 4), (30, 9)])
def test_it_fits_whatever_the_model_and_the_name(place, n_tokens, layers, heads):
    shown = found(tables(place, layers=layers, heads=heads))
    svg = ET.fromstring(picture(shown, question(n_tokens)))
    _, _, width, height = map(float, svg.get("viewBox").split())
    assert width == WIDTH and height < 560
    for left, right, words in texts(svg):
        assert left >= -1 and right <= WIDTH + 8, words
    for one in svg.iter("text"):
        if one.get("class") == "node":
            assert 6.6 * len(one.text) <= 80, one.text
    drawn = boxes(svg)
    assert len(drawn) == {AT_NAME: 3, AT_END: 2, UNCLEAR: 1}[place]
    for one, other in combinations(drawn, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    assert all(box[3] <= height for box in drawn)


def test_its_numbers_are_those_of_the_tables_the_largest_first_and_small_ones_are_counted():
    given = tables(AT_NAME)
    shown = found(given)
    nodes = shown.stages["lookup"].nodes
    assert [node.share for node in nodes] == sorted((node.share for node in nodes), reverse=True)
    rows = {
        row["node"]: row["share"]
        for row in given["total_effects"].filter(type="mlp", role="final_name").to_dicts()
    }
    assert {f"MLP {layer}": rows[f"mlp_out:{layer}"] for layer in range(2, 5)} == {
        node.name: node.share for node in nodes
    }
    assert [node.name for node in shown.stages["extract"].nodes] == ["L5H3"]
    assert nodes[0].words.endswith("%, n = 400") and "[" in nodes[0].words
    small = given["total_effects"].with_columns(share=pl.lit(0.004))
    less = found(given | {"total_effects": small})
    assert not less.stages["lookup"].nodes and less.stages["lookup"].left_out == 3
    assert "do less than 1 %" in caption(less, None)


def test_without_an_answer_that_comes_from_the_name_there_is_no_share():
    shown = found(tables(AT_NAME, whole=2.0))
    assert shown.nodes == [] and "Shares" not in caption(shown, None)
    assert "%" not in "".join(words for _, _, words in texts(ET.fromstring(picture(shown, None)))[:-1])


def test_what_looks_like_markup_stays_text_and_no_mark_is_left():
    svg = str(picture(found(tables(AT_NAME)), question(3, "<script>")))
    assert "<script" not in svg and "&lt;script" in svg and "&lt;answer" not in svg
