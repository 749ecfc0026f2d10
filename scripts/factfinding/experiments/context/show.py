"""P2.10: the final name token after different contexts, beside the question after one example."""

from __future__ import annotations

import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from factfinding.figures import style
from factfinding.findings.words import NO_PROBE, Tables, number, share

CONTEXTS = {
    "none": "the name alone",
    "title": "“<title>”",
    "question": "“<before>”",
    "shot": "the example line",
    "sentence": "a sentence",
}


@style.styled
def draw_context(*, context: pl.DataFrame) -> Figure:
    """Left, cosine to the residual after the example and what stands before the name; right, what probes of that one get right."""
    if context.is_empty():
        return style.nothing_to_draw("too few known <subjects> to fit a probe")
    figure = style.new_figure(3.5)
    left, right = figure.subplots(1, 2)
    handles: dict[str, object] = {}
    for name, (colour, dash, marker) in style.marks(list(CONTEXTS)).items():
        rows = context.filter(context=name)
        look = {"color": colour, "ls": dash, "marker": marker, "markersize": 3.5, "label": CONTEXTS[name]}
        handles[name] = style.band(left, rows, "layer", "cosine", **look)
        style.band(right, rows, "layer", "accuracy", **look)
    label = "cosine to another <subject>"
    rows = context.filter(context="none")
    handles[label] = style.band(
        left, rows, "layer", "cosine_other", color=style.GREY, label=label, linewidth=1
    )
    label = "always the commonest <answer>"
    handles[label] = right.axhline(
        100 * rows["majority_rate"][0], color=style.INK, linewidth=1, ls="--", label=label
    )
    for axes, words in ((left, "cosine to “full”, centred"), (right, "accuracy of probes of “full”")):
        style.panel_title(axes, words, rows["n"][0])
        style.layer_axis(axes, rows["layer"].to_list())
    left.set(ylabel="cosine (1: the same direction)")
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 100:g}"))
    style.percent_axis(right, "accuracy (% of <subjects>)")
    style.legend_above(figure, list(handles.values()), columns=3)
    return figure


def sentences(tables: Tables) -> list[str]:
    """The first and the last layer of each context."""
    context = tables["context"]
    if context.is_empty():
        return [NO_PROBE]
    last, found = context["layer"].max(), []
    for name in context["context"].unique(maintain_order=True):
        first, end = (context.filter(context=name, layer=layer).row(0, named=True) for layer in (0, last))
        found.append(
            f"After {CONTEXTS[name]} the cosine to the residual stream of the question after one example is "
            f"{first['cosine']:.3f} after layer 0 and {number(end, 'cosine', '.3f')} after layer {last} (another <subject>'s: "
            f"{end['cosine_other']:.3f}; n = {end['n']:,}), and probes of that one are right for {share(end, 'accuracy')}."
            + (" The tokenizer does not know all words of this context." if end["unknown_tokens"] else "")
        )
    return found
