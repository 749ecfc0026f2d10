"""What all figures share: sizes, colours, axes of layers and shares, and how a figure becomes files.

Figures are drawn without pyplot, so nothing is global and two drawings cannot meet. Their bytes are a function of the
table alone: no dates, a fixed salt for the ids in the SVG, and glyphs as outlines, so that they look the same wherever
they are opened. Okabe and Ito's colours can be told apart by nearly everyone; each also has its own dash or marker.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import polars as pl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, MaxNLocator

from factfinding.config import RelationConfig
from factfinding.files import whole
from factfinding.relation import STUDY, spoken

WIDTH = 7.0
"""Inches. Nine-point type stays readable when this is shown 700 pixels wide."""

PNG_DPI = 180

# The page replaces these three by its own colours, so that figures follow dark and light (report.py).
INK, LINE, PAPER = "#1f2328", "#d8dce2", "#fefefe"
GREY = "#767c85"
COLOURS = BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)
BROWN = "#946233"
"""A seventh, for the one figure whose other colours are taken."""
DASHES = ("-", "--", "-.", (0, (1, 1.2)), (0, (5, 1, 1, 1, 1, 1)), (0, (3, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")

LOST, GAINED = VERMILION, BLUE
"""What an intervention takes from the answer, and what it adds, on every map of changes (`changes`)."""

LOOKS: dict[str, tuple[str, Any, str]] = {
    # probes: what reads the residual stream
    "logistic": (BLUE, "-", "o"),
    "head": (VERMILION, "--", "s"),
    # replacements: what stands in the place of an output
    "corrupt": (INK, "-", "o"),
    "zero": (SKY, "--", "^"),
    "mean": (GREEN, "-.", "s"),
    "resample_same": (PURPLE, (0, (1, 1.2)), "D"),
    "resample_other": (ORANGE, (0, (5, 1, 1, 1, 1, 1)), "v"),
    # names
    "known": (BLUE, "-", "o"),
    "unknown": (VERMILION, "--", "s"),
    # folds of a probe; the strictest, which decides, looks like the logistic probe
    "random": (SKY, (0, (1, 1.2)), "D"),
    "first_name": (GREEN, "-.", "^"),
    "last_name": (BLUE, "-", "o"),
    # parts of a layer
    "attn": (PURPLE, "--", "D"),
    "mlp": (GREEN, "-", "^"),
    # what anything is compared with: shuffled labels, random directions, another subject
    "control": (GREY, "-", "x"),
}
"""Colour, dash and marker of things that several figures show: each looks the same in all of them, and figures ask here
(`look`). There are more things than colours that nearly everyone can tell apart, so families share colours; no panel shows
two families that do. What only one figure names (answers, heads, wordings) takes its look from `marks`."""

COMMONEST = {"color": INK, "linewidth": 1, "ls": "--"}
"""The line of always naming the commonest answer."""

CONDITIONS = {
    "full": "the question after one example",
    "zero_shot": "the question alone",
    "name_only": "the name alone",
}
"""Conditions of STUDY section 0, in plain words."""

FOLDS = {
    "random": "random folds",
    "first_name": "no first name in two folds",
    "last_name": "no last name in two folds",
}
"""Kinds of folds in plain words, the strictest last."""

_SETTINGS = {
    **sns.axes_style("ticks"),
    "patch.force_edgecolor": False,  # white edges would be seen on a dark page
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "text.parse_math": False,  # an answer may be spelt with a dollar sign
    "svg.fonttype": "path",
    "svg.hashsalt": "factfinding",
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Let a drawing function see the project's settings and leave no trace of them behind, and speak the words of
    `relation`."""

    @functools.wraps(draw)
    def inside(*args: Any, relation: RelationConfig = STUDY, **kwargs: Any) -> Figure:
        with matplotlib.rc_context(_SETTINGS):
            return _spoken(draw(*args, **kwargs), relation)

    return inside


def _spoken(figure: Figure, relation: RelationConfig) -> Figure:
    """The figure with the relation's words in place of the marks in its texts (factfinding/relation.py)."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(formatter := axis.get_major_formatter(), FixedFormatter):
                axis.set_major_formatter(FixedFormatter(spoken(list(formatter.seq), relation)))
            elif isinstance(axis.get_major_locator(), FixedLocator):  # labels that `set_ticks` was given
                labels = [label.get_text() for label in axis.get_ticklabels()]
                if (said := spoken(labels, relation)) != labels:
                    axis.set_ticklabels(said)
    for text in figure.findobj(Text):
        text.set_text(spoken(text.get_text(), relation))
    return figure


def save(figure: Figure, svg: str | Path, png: str | Path) -> None:
    """Write a figure as SVG and as PNG, each whole; the same figure always gives the same bytes."""
    with matplotlib.rc_context(_SETTINGS):
        _settle(figure)
        with whole(svg) as part:
            figure.savefig(part, format="svg", dpi=PNG_DPI, metadata={"Date": None, "Creator": None})
        with whole(png) as part:
            figure.savefig(part, format="png", dpi=PNG_DPI, metadata={"Software": None})


def _settle(figure: Figure) -> None:
    """Lay the figure out once and round where its panels stand: the solver's last digits differ from draw to draw, and an
    SVG's names are made of them."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position([round(float(edge), 9) for edge in axes.get_position().bounds])


def new_figure(height: float) -> Figure:
    """An empty figure of the common width, `height` in inches; its layout makes room for all that is on it."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06, wspace=0.03, hspace=0.04)
    return figure


def nothing_to_draw(reason: str) -> Figure:
    """A figure that says why it is empty: a study without data still gets its page."""
    figure = new_figure(1.2)
    figure.text(0.5, 0.5, f"Nothing to draw: {reason}", ha="center", va="center", color=INK)
    return figure


def look(thing: str) -> dict[str, Any]:
    """Colour, dash and marker of one of `LOOKS`, as a line takes them."""
    return dict(zip(("color", "ls", "marker"), LOOKS[thing], strict=True))


def marks(levels: Sequence[Any]) -> dict[Any, tuple[str, Any, str]]:
    """Colour, dash and marker of each level, in their order. After six the colours come round again, with other dashes and
    markers: no two of 36 look alike.
    """
    six = len(COLOURS)
    return {
        level: (COLOURS[i % six], DASHES[(i + i // six) % six], MARKERS[(i + i // six) % six])
        for i, level in enumerate(levels)
    }


def shades(levels: Sequence[Any]) -> dict[Any, tuple[str, Any, str]]:
    """The same for levels that have an order, such as numbers of tokens or layers: the darker the more. The darkest is still
    seen on a dark page, the lightest on a white one."""
    ramp = LinearSegmentedColormap.from_list("ramp", ["#8cc7ee", BLUE, "#0b4f86"])
    return {
        level: (to_hex(ramp(i / max(1, len(levels) - 1))), "-", MARKERS[i % len(MARKERS)])
        for i, level in enumerate(levels)
    }


ON_PALE, ON_DARK = "#1f2329", "#fdfdfd"
"""Of numbers in the cells of a heat map, whose shades do not follow the page as ink and paper do."""

LEVELS = 47
"""Colours of a heat map: with fifty or more, matplotlib would put a bitmap into the SVG's colour bar."""
_NOTHING = "#f4f5f7"


def changes(values: np.ndarray, *, lost: str) -> dict[str, Any]:
    """Colour map and limits of a heat map of changes, over the range that there is: nothing is pale, and a change twice as
    large is twice as strong, whether lost or gained. `values` may hold NaN.

    lost: "below" zero, for changes of a measure, or "above", for shares of what can be lost.
    """
    known = values[np.isfinite(values)]
    low, high = float(min(known.min(initial=0), 0)), float(max(known.max(initial=0), 0))
    if low == high:
        low, high = (-1.0, 0.0) if lost == "below" else (0.0, 1.0)
    below, above = (LOST, GAINED) if lost == "below" else (GAINED, LOST)
    whole = LinearSegmentedColormap.from_list("changes", [below, _NOTHING, above])
    limit = max(-low, high)
    part = whole(0.5 + np.linspace(low, high, LEVELS) / limit / 2)
    return {"cmap": ListedColormap(part), "vmin": low, "vmax": high}


def correlations() -> dict[str, Any]:
    """Colour map and limits of correlations: purple below zero, green above; nothing is lost or gained."""
    return {
        "cmap": LinearSegmentedColormap.from_list("correlations", [PURPLE, _NOTHING, GREEN], LEVELS),
        "vmin": -1,
        "vmax": 1,
    }


def sequential() -> Colormap:
    """For heat maps of shares: the darker the more."""
    shades = [_NOTHING, SKY, BLUE, "#08213a"]
    return LinearSegmentedColormap.from_list("sequential", shades, LEVELS)


def band(axes: Axes, frame: pl.DataFrame, x: str, y: str, **line: Any) -> Line2D:
    """A line through `y` of a frame with its 95 % interval (`y`_low, `y`_high) as a band where it has one, shares shown as
    percent.
    """
    frame = frame.sort(x)
    value, low, high = (
        100 * frame[name].cast(pl.Float64).to_numpy() for name in (y, f"{y}_low", f"{y}_high")
    )
    at = frame[x].to_numpy()
    line.setdefault("markevery", marked(len(at)))
    (drawn,) = axes.plot(at, value, **line)
    axes.fill_between(at, low, high, color=drawn.get_color(), alpha=0.18, linewidth=0)
    return drawn


def marked(points: int) -> int:
    """Mark every n-th point of a line of this many points, so that markers do not touch: the n."""
    return 1 + points // 13


def percent_axis(axes: Axes, label: str, *, which: str = "y") -> None:
    """An axis of shares, from 0 to 100 %, with room for markers at both ends."""
    axes.set(**{f"{which}lim": (-3, 103), f"{which}ticks": range(0, 101, 20), f"{which}label": label})


def layer_axis(
    axes: Axes, layers: Sequence[int], label: str = "layer (residual stream after it)", *, ticks: int = 10
) -> None:
    """An x axis of layers with about so many ticks; -1, where it occurs, is the embeddings."""
    last = max(layers)
    step = next(step for step in (1, 2, 4, 5, 10, 20, 50) if last / step <= ticks or step == 50)
    shown = [-1] * (min(layers) < 0) + list(range(0, last + 1, step))
    if shown[0] < 0 and last > 12:
        shown.remove(0)  # "emb" and "0" would touch
    axes.set_xticks(shown, ["emb" if tick < 0 else str(tick) for tick in shown])
    axes.set(xlabel=label, xlim=(min(layers) - 0.4, last + 0.4))


def shade_layers(axes: Axes, layers: tuple[int, int] | None) -> None:
    """Grey behind the layers of a part of the circuit, from its first to its last; None: it has none."""
    if layers is not None:
        axes.axvspan(layers[0] - 0.5, layers[1] + 0.5, color=GREY, alpha=0.15, linewidth=0)


def count_axis(axes: Axes, label: str, *, which: str) -> None:
    """An axis of whole numbers with thousands set apart."""
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set(**{f"{which}label": label})


def legend_above(figure: Figure, handles: Sequence[Any], *, columns: int) -> None:
    """A legend over all panels, outside them: it can cover no data. `columns` at most, as many as there is room for."""
    _legend(figure, handles, columns, "outside upper left")


def legend_below(figure: Figure, handles: Sequence[Any], *, columns: int) -> None:
    """The same under all panels, for a legend that belongs to the last one."""
    _legend(figure, handles, columns, "outside lower left")


def _legend(figure: Figure, handles: Sequence[Any], columns: int, where: str) -> None:
    labels = [str(handle.get_label()) for handle in handles]
    while columns > 1 and _legend_width(labels, columns) > WIDTH - 0.2:
        columns -= 1
    figure.legend(handles=handles, loc=where, ncols=columns)


def _legend_width(labels: Sequence[str], columns: int) -> float:
    """Inches that a legend takes: in each column its longest label, a handle, and the space between columns."""
    size = float(_SETTINGS["legend.fontsize"])
    beside = (_SETTINGS["legend.handlelength"] + 0.8 + 2.0) * size
    widths = [_text_width(label, size) + beside for label in labels]
    return sum(max(part) for part in np.array_split(widths, columns) if len(part)) / 72


@functools.cache
def _text_width(text: str, size: float) -> float:
    """Points that a line of text takes."""
    font = FontProperties(family=_SETTINGS["font.family"], size=size)
    return TextPath((0, 0), text, prop=font, usetex=False).get_extents().width if text.strip() else 0.0


def panel_title(axes: Axes, words: str, n: int) -> None:
    """What a panel shows, and below it how many subjects stand behind it."""
    axes.set_title(f"{words}\nn = {n:,} {'<subject>' if n == 1 else '<subjects>'}")
