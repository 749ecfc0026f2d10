"""The circuit as found, in one picture: tokens of a prompt, what gathers, what looks up, what extracts, with measured shares.

Read from left to right: a row for each token of the question, a column for each stage. A number beside a token or an arrow
is the share of swapping the whole prompt that swapping the residual stream there does (table `residual_patching`); one in a
box, that of swapping one node's output there (`total_effects`, patched). Nodes of less than a hundredth are left out and
counted. Such shares need not add up: what one node writes others read.

The picture is SVG, drawn in units that are pixels on a narrow phone; its colours are those of the page.
"""

from __future__ import annotations

import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
from markupsafe import Markup

from factfinding.config import RelationConfig
from factfinding.data.example import Example
from factfinding.findings.patched import role_in_words, with_share_ends
from factfinding.findings.words import number, percent, worth_a_word
from factfinding.methods.circuit import AT_END, AT_NAME, Circuit
from factfinding.relation import STUDY, spoken

WIDTH, LINE, ROW, TOP = 360.0, 15.0, 30.0, 40.0
LABELS = 92.0
"""Units for the tokens' texts, left of everything."""
LETTERS = 12
"""Letters of a token that there is room for."""
NAMED = 4
"""Nodes that are named in a box; the others are counted."""
BOXES = {"gather": (112.0, 78.0), "lookup": (196.0, 78.0), "extract": (276.0, 80.0)}
"""Left end and width of each stage's box."""
HEADS = {"gather": "gather", "lookup": "look up", "extract": "extract"}
ROWS_OF_NAME = 8
"""Tokens of a name that get a row; of a longer one, the middle is folded into one."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A head or an MLP, with the share of the whole swap that swapping it does; `words` has the interval and n."""

    name: str
    share: float
    words: str


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the circuit: its nodes, the largest first, and how many were too small to be named."""

    nodes: tuple[Node, ...] = ()
    left_out: int = 0
    title: str = ""
    """The layers of the stage, where it has a range."""
    is_set: bool = False
    """Whether the configuration fixes it, and the tables do not speak for it."""

    @property
    def lines(self) -> list[str]:
        """What its box says."""
        rows = [f"{node.name} {100 * node.share:.0f}\N{NO-BREAK SPACE}%" for node in self.nodes[:NAMED]]
        rest = len(self.nodes) - NAMED
        return [*([self.title] if self.title else []), *rows, *([f"and {rest} more"] if rest > 0 else [])]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the picture shows. `carried`: share that the stream of each (role, number) carries before the circuit;
    `brought`: that of the final name token after the lookup."""

    place: str
    stages: Mapping[str, Stage]
    carried: Mapping[tuple[str, int], Node] = field(default_factory=dict)
    brought: Node | None = None
    recall: str = ""

    @property
    def nodes(self) -> list[tuple[str, Node]]:
        """Every number of the picture, with what it is."""
        streams = [(f"stream of {role_in_words(role, n)}", node) for (role, n), node in self.carried.items()]
        after = [("stream of the final name token after the lookup", self.brought)] if self.brought else []
        parts = [(HEADS[name], node) for name, stage in self.stages.items() for node in stage.nodes]
        return [*streams, *after, *parts]


def found(tables: Mapping[str, pl.DataFrame]) -> Found:
    """What the tables have of the circuit: circuit, total_effects, residual_patching and recall_summary."""
    circuit = Circuit.from_table(tables["circuit"])
    patched, stream = (
        tables[name].filter(pl.col("whole_swap") < 0) for name in ("total_effects", "residual_patching")
    )
    patched = patched.filter(kind="corrupt")
    at_end = circuit.lookup_at == AT_END
    stages = {}
    if circuit.lookup_at == AT_NAME:
        gather = _stage(patched, "head", "final_name", layers=circuit.concatenate)
        looked = _stage(patched, "mlp", "final_name", layers=circuit.lookup)
        stages = {
            "gather": _titled(gather, circuit, "concatenate", "layer"),
            "lookup": _titled(looked, circuit, "lookup", "MLP"),
            "extract": _titled(_stage(patched, "head", "end", names=circuit.extract), circuit, "extract", ""),
        }
    elif at_end:
        depth = (0, max(patched["layer"].to_list(), default=0))
        stages = {
            "gather": _stage(patched, "head", "end", layers=depth),
            "lookup": _stage(patched, "mlp", "end", layers=depth),
        }
    start = circuit.concatenate[0] if circuit.concatenate else 0
    after = (
        circuit.lookup[1] + 1 if circuit.lookup and circuit.lookup_at == AT_NAME else -1
    )  # none: no such row
    names = stream.filter(pl.col("role").str.ends_with("_name"))
    brought = names.filter(role="final_name", layer=after)
    return Found(
        place=circuit.lookup_at,
        stages=stages,
        carried={
            (row["role"], row["number"]): _node(row, "")
            for row in names.filter(layer=start).iter_rows(named=True)
        },
        brought=_node(brought.row(0, named=True), "") if brought.height else None,
        recall=_recall(tables["recall_summary"]),
    )


def picture(shown: Found, example: Example | None, relation: RelationConfig = STUDY) -> Markup:
    """The picture as SVG, a part of the page. Without an example, the tokens go by their roles."""
    drawing = _Drawing(shown, _rows(shown, example), example, relation)
    return Markup(ET.tostring(drawing.svg(), encoding="unicode"))


def caption(shown: Found, example: Example | None) -> str:
    """What the picture shows, how its numbers are meant, and how many nodes are too small for it."""
    asked = f", on the question about {example.subject}" if example else ""
    said = [f"The circuit as found{asked}."]
    if shown.nodes:
        said.append(
            "Shares are of what swapping the whole prompt for that of <a subject> of another <answer> does: under a token and beside "
            "an arrow, with the residual stream there swapped; in a box, with one node's output. They need not add up."
        )
    left_out = sum(stage.left_out for stage in shown.stages.values())
    if left_out:
        said.append(
            f"Of the nodes of these parts {left_out} {'does' if left_out == 1 else 'do'} less than 1 %, or not surely anything."
        )
    if any(stage.is_set for stage in shown.stages.values()):
        said.append("Dashed: set by the configuration, not found.")
    return " ".join(said)


def in_words(shown: Found) -> str:
    """The same in a sentence, for those who do not see it."""
    if not shown.stages:
        return "The circuit: it is unclear where the <answer> is looked up, and no parts are proposed."
    where = {AT_NAME: "the final name token", AT_END: "END"}[shown.place]
    parts = [
        f"{HEADS[name]}: {', '.join(stage.lines) or 'nothing that stands out'}"
        for name, stage in shown.stages.items()
    ]
    return f"The circuit, with the lookup at {where}. {'; '.join(parts)}."


@dataclass(frozen=True, kw_only=True)
class _Row:
    text: str
    title: str
    role: str
    number: int = 0


def _rows(shown: Found, example: Example | None) -> list[_Row]:
    """The rows of the picture: the name's tokens one by one, what stands before and after the name folded."""
    if example is None:
        names = sorted(shown.carried, key=lambda one: (_ORDER[one[0]], one[1])) or [("final_name", 0)]
        rows = [
            _Row(text=_short_role(*one), title=role_in_words(*one), role=one[0], number=one[1])
            for one in names
        ]
        return [*_folded(rows), _Row(text="END", title="the last token", role="end")]
    rows, seen = [], dict.fromkeys(_ORDER, 0)
    for text, role in zip(example.tokens, example.roles, strict=True):
        if role in _ORDER:
            rows.append(_Row(text=text, title=role_in_words(role, seen[role]), role=role, number=seen[role]))
            seen[role] += 1
    between = [
        text for text, role in zip(example.tokens, example.roles, strict=True) if role.startswith("relation")
    ]
    rows = _folded(rows)
    if between:
        rows.append(
            _Row(
                text=" ".join("".join(between).split() or between)
                if any(one[:1].isspace() for one in between)
                else " ".join(between),
                title="the tokens after the name",
                role="relation",
            )
        )
    end = [text for text, role in zip(example.tokens, example.roles, strict=True) if role == "end"]
    if end:
        rows.append(_Row(text=end[0], title="END, the last token, where the answer is read off", role="end"))
    return rows


def _folded(rows: list[_Row]) -> list[_Row]:
    if len(rows) <= ROWS_OF_NAME:
        return rows
    folded = len(rows) - ROWS_OF_NAME + 1
    fold = _Row(text=f"… {folded} more", title=f"{folded} more tokens of the name", role="folded")
    return [*rows[: ROWS_OF_NAME // 2], fold, *rows[ROWS_OF_NAME // 2 + folded :]]


_ORDER = {"first_name": 0, "middle_name": 1, "final_name": 2}


def _short_role(role: str, number: int) -> str:
    return f"middle {number + 1}" if role == "middle_name" else role.replace("_", " ")


def _recall(summary: pl.DataFrame) -> str:
    rows = summary.filter(condition="full", group="all")
    return f"recalled: {percent(rows['recalled'][0])}" if rows.height else ""


def _titled(stage: Stage, circuit: Circuit, part: str, word: str) -> Stage:
    """A stage with its layers in words, and whether they are set against what the tables have."""
    value, found_value = getattr(circuit, part), getattr(circuit.found, part)
    if word and value is None:
        return Stage(title="none needed")
    layers = (
        ""
        if not word or value is None
        else f"{value[0]}"
        if value[0] == value[1]
        else f"{value[0]}–{value[1]}"
    )
    title = f"{word}{'s' if '–' in layers else ''} {layers}" if word else ""
    return Stage(
        nodes=stage.nodes,
        left_out=stage.left_out,
        title=title if word == "layer" or len(stage.nodes) != 1 else "",
        is_set=part in circuit.fixed and value != found_value,
    )


def _stage(
    patched: pl.DataFrame,
    kind: str,
    role: str,
    *,
    layers: tuple[int, int] | None = None,
    names: Sequence[str] | None = None,
) -> Stage:
    """The nodes of a stage that surely do something, and a hundredth of the whole or more."""
    rows = patched.filter(type=kind, role=role)
    if names is not None:
        rows = rows.filter(pl.col("node").is_in(list(names)))
    elif layers is None:
        return Stage()
    else:
        rows = rows.filter(pl.col("layer").is_between(*layers))
    shown = rows.filter(worth_a_word(), pl.col("effect_high").fill_null(0) < 0)
    shown = shown.sort("share", descending=True, maintain_order=True)
    nodes = tuple(_node(row, row["node"].replace("mlp_out:", "MLP ")) for row in shown.iter_rows(named=True))
    return Stage(nodes=nodes, left_out=rows.height - shown.height)


def _node(row: Mapping[str, Any], name: str) -> Node:
    """A row of a table of patches: its share, with the interval."""
    words = number(with_share_ends(row), "share", ".1f", scale=100)
    return Node(name=name, share=row["share"], words=f"{words} %, n = {row['n']:,}")


class _Drawing:
    """The SVG, put together row by row."""

    def __init__(
        self, shown: Found, rows: Sequence[_Row], example: Example | None, relation: RelationConfig
    ) -> None:
        self.shown, self.rows, self.example, self.relation = shown, rows, example, relation
        self.at = AT_END if shown.place == AT_END else AT_NAME
        self.top: dict[int, float] = {}
        y = TOP
        for i, row in enumerate(rows):
            self.top[i] = y
            y += self._height(row)
        self.bottom = y
        self.root = ET.Element(
            "svg",
            {
                "viewBox": f"0 0 {WIDTH:.0f} {y + 34:.0f}",
                "class": "circuit",
                "role": "img",
                "aria-label": spoken(in_words(shown), relation),
            },
        )

    def svg(self) -> ET.Element:
        """The whole picture."""
        for name in self.shown.stages:
            x, width = BOXES[name]
            words = {"gather": "read"}.get(name, HEADS[name]) if self.at == AT_END else HEADS[name]
            self._text(x + width / 2, 16, words, f"stage {name}", anchor="middle")
            under = {"gather": "attention", "lookup": "MLPs", "extract": "heads"}[name]
            self._text(x + width / 2, 30, under, "soft", anchor="middle")
        for i in range(len(self.rows)):
            self._token(i)
        if not self.shown.stages:
            self._unclear()
        elif self.at == AT_NAME:
            self._at_name()
        else:
            self._at_end()
        answer = self.example.answer if self.example else spoken("the <answer>", self.relation)
        said = ", ".join(part for part in (_short(answer, 20), self.shown.recall) if part)
        self._text(WIDTH - 4, self.bottom + 22, f"→ {said}", "answer", anchor="end")
        return self.root

    def _height(self, row: _Row) -> float:
        """Room for the boxes that stand on this row."""
        names = {"final_name": ("gather", "lookup"), "end": ("extract",)}.get(row.role, ())
        if self.at == AT_END:
            names = ("gather", "lookup") if row.role == "end" else ()
        lines = [len(self.shown.stages[name].lines) or 1 for name in names if name in self.shown.stages]
        return max(ROW, LINE * max(lines, default=0) + 26)

    def _y(self, i: int) -> float:
        return self.top[i] + self._height(self.rows[i]) / 2

    def _index(self, role: str) -> int | None:
        return next((i for i, row in enumerate(self.rows) if row.role == role), None)

    def _token(self, i: int) -> None:
        row, y = self.rows[i], self._y(i)
        self._line(LABELS + 4, y, WIDTH - 4, y, "stream")
        label = self._text(4, y + (-2 if self._share_of(row) else 4), _short(row.text), f"token {row.role}")
        ET.SubElement(label, "title").text = f"{row.text.strip()}: {row.title}"
        if share := self._share_of(row):
            self._text(4, y + 12, f"carries {100 * share.share:.0f}\N{NO-BREAK SPACE}%", "soft small")

    def _share_of(self, row: _Row) -> Node | None:
        return self.shown.carried.get((row.role, row.number))

    def _at_name(self) -> None:
        final, end = self._index("final_name"), self._index("end")
        assert final is not None
        x, width = BOXES["gather"]
        for i in range(final):
            if self.rows[i].role in ("first_name", "middle_name", "folded"):
                share = self._share_of(self.rows[i])
                at = x + 10 + 58 * (i / max(final, 1))
                top = self._y(final) - self._box_height("gather") / 2
                self._arrow(at, self._y(i), at, top, "gather", share.share if share else 0.1)
        self._box("gather", self._y(final))
        self._box("lookup", self._y(final))
        if end is None:
            return
        if self.shown.stages["extract"].nodes:
            x, width = BOXES["extract"]
            share = self.shown.brought
            top = self._y(end) - self._box_height("extract") / 2
            self._arrow(
                x + width / 2, self._y(final), x + width / 2, top, "extract", share.share if share else 0.1
            )
            if share:
                where = self.top[final + 1] + 11
                words = f"brings {100 * share.share:.0f}\N{NO-BREAK SPACE}%"
                self._text(x + width / 2 - 8, where, words, "soft", anchor="end")
        self._box("extract", self._y(end))

    def _at_end(self) -> None:
        end = self._index("end")
        if end is None:
            return
        x = BOXES["gather"][0]
        names = [i for i, row in enumerate(self.rows) if row.role in (*_ORDER, "folded")]
        top = self._y(end) - self._box_height("gather") / 2
        for i in names:
            share = self._share_of(self.rows[i])
            at = x + 10 + 58 * (i / max(len(names), 1))
            self._arrow(at, self._y(i), at, top, "gather", share.share if share else 0.1)
        self._box("gather", self._y(end))
        self._box("lookup", self._y(end))

    def _unclear(self) -> None:
        final = self._index("final_name") or 0
        y, x = self._y(final), BOXES["gather"][0]
        self._rect(x, y - 13, WIDTH - 4 - x, 26, "box unclear")
        self._text((x + WIDTH - 4) / 2, y + 4, "no circuit was found", "soft", anchor="middle")

    def _box_height(self, name: str) -> float:
        return LINE * (len(self.shown.stages[name].lines) or 1) + 10

    def _box(self, name: str, y: float) -> None:
        stage, (x, width), height = self.shown.stages[name], BOXES[name], self._box_height(name)
        lines = stage.lines or ["none found"]
        kind = " unclear" if stage.is_set or not stage.nodes else ""
        self._rect(x, y - height / 2, width, height, f"box {name}{kind}")
        for i, line in enumerate(lines):
            self._text(x + width / 2, y - height / 2 + 5 + LINE * (i + 0.75), line, "node", anchor="middle")

    def _rect(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        at = {"x": x, "y": y, "width": width, "height": height, "rx": 5.0}
        ET.SubElement(self.root, "rect", {k: f"{v:.1f}" for k, v in at.items()} | {"class": kind})

    def _line(self, x: float, y: float, to_x: float, to_y: float, kind: str, width: float = 1.0) -> None:
        at = {"x1": x, "y1": y, "x2": to_x, "y2": to_y, "stroke-width": width}
        ET.SubElement(self.root, "line", {k: f"{v:.1f}" for k, v in at.items()} | {"class": kind})

    def _arrow(self, x: float, y: float, to_x: float, to_y: float, kind: str, share: float) -> None:
        """An arrow down, the wider the more is carried."""
        self._line(x, y, to_x, to_y - 6, f"flow {kind}", 1 + 4 * min(max(share, 0.0), 1.0))
        points = f"{to_x - 5:.1f},{to_y - 8:.1f} {to_x + 5:.1f},{to_y - 8:.1f} {to_x:.1f},{to_y:.1f}"
        ET.SubElement(self.root, "polygon", {"points": points, "class": f"tip {kind}"})

    def _text(self, x: float, y: float, words: str, kind: str, anchor: str = "start") -> ET.Element:
        at = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "class": kind}
        element = ET.SubElement(self.root, "text", at)
        element.text = words
        return element


def _short(text: str, letters: int = LETTERS) -> str:
    """A text cut to what there is room for; wide letters, as of Chinese, count twice."""
    text, room, kept = " ".join(text.split()), letters, ""
    for letter in text:
        room -= 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if room < 0:
            return f"{kept[:-1]}…"
        kept += letter
    return kept
