"""What every figure must be: readable, nothing cut off and no text on another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module

import matplotlib
import polars as pl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.offsetbox import DrawingArea
from matplotlib.patches import Patch

from factfinding.declarations import declarations
from factfinding.figures import style
from factfinding.findings.words import told


def drawn(name: str, tables: Mapping[str, pl.DataFrame]) -> Figure:
    """A figure, drawn from the tables that it is declared to be drawn from."""
    _, figure = declarations().figures[name]
    return draw_of(name)(**{table: tables[table] for table in figure.tables})


def assert_readable(figure):
    """Titles, tick labels and axis labels of all panels, and the legend: nothing cut off, nothing overlapping; and in no
    legend two things that look the same."""
    with matplotlib.rc_context(style._SETTINGS):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
    boxes = {}
    for number, axes in enumerate(figure.axes):
        for text in [axes._left_title, axes.xaxis.label, axes.yaxis.label, *_shown_ticks(axes)]:
            if text.get_text():
                boxes[number, text.get_text(), id(text)] = text.get_window_extent(renderer)
    legends = [legend for part in (figure, *figure.subfigs) for legend in part.legends]
    boxes |= {("legend", "", id(legend)): legend.get_window_extent(renderer) for legend in legends}
    page = figure.bbox
    for key, box in boxes.items():
        assert box.x0 >= -0.5 and box.y0 >= -0.5 and box.x1 <= page.x1 + 0.5 and box.y1 <= page.y1 + 0.5, key
    for key, box in boxes.items():
        for other, its in boxes.items():
            assert key == other or not box.padded(-1).overlaps(its.padded(-1)), (key, other)
    for legend in legends:
        for axes in figure.axes:
            assert not legend.get_window_extent(renderer).overlaps(
                axes.get_window_extent(renderer).padded(-1)
            )

    for part in (figure, *figure.subfigs):
        for legend in part.legends:
            looks = [_look(entry) for entry in legend.findobj(DrawingArea)]
            assert len(set(looks)) == len(looks), [text.get_text() for text in legend.get_texts()]


def _look(entry: DrawingArea) -> str:
    """What tells an entry of a legend from others: all that is drawn there."""
    lines = [
        (one.get_color(), one.get_marker(), one._dash_pattern, one.get_alpha(), one.get_linewidth())
        + (one.get_markerfacecolor(),)
        for one in entry.findobj(Line2D)
    ]
    others = [
        (type(one), one.get_facecolor(), one.get_edgecolor(), one.get_linestyle())
        for one in (*entry.findobj(Patch), *entry.findobj(Collection))
    ]
    return str((lines, others))


def _shown_ticks(axes) -> list:
    """Tick labels within the view: the locator also makes some beyond it, which are not drawn."""
    shown = []
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        shown += [
            t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high and t.label1.get_visible()
        ]
    return shown


def draw_of(figure: str) -> Callable[..., Figure]:
    """The function that draws a figure."""
    return getattr(
        import_module(f"factfinding.experiments.{declarations().figures[figure][0].name}.show"),
        f"draw_{figure}",
    )


def telling(experiment: str) -> Callable[..., list[str]]:
    """The function that gives an experiment's sentences, from all tables by name, as the page does."""
    return partial(told, experiment)
