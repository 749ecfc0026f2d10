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
    """A column for each context: above, the cosine to the residual after the example and what stands before the name; below,
    what probes of that one get right. Grey: the first context's line again."""
    if context.is_empty():
        return style.nothing_to_draw("too few known <subjects> to fit a probe")
    names = [name for name in CONTEXTS if name in context["context"]]
    figure = style.new_figure(3.9)
    panels = figure.subplots(2, len(names), sharex=True, sharey="row", squeeze=False)
    handles: dict[str, object] = {}
    first = context.filter(context=names[0]).sort("layer")
    for place, (column, name) in enumerate(zip(panels.T, names, strict=True)):
        rows = context.filter(context=name)
        for axes, measure in zip(column, ("cosine", "accuracy"), strict=True):
            if place:
                again = {
                    "color": style.GREY,
                    "linewidth": 1,
                    "label": f"after {CONTEXTS[names[0]]}, for comparison",
                }
                (handles["again"],) = axes.plot(first["layer"], 100 * first[measure], **again)
            style.band(
                axes, rows, "layer", measure, color=style.BLUE, marker="o", markersize=2.5, linewidth=1.3
            )
        label = "cosine to another <subject>"
        look = style.look("control") | {"linewidth": 1, "markersize": 3, "label": label}
        handles[label] = style.band(column[0], rows, "layer", "cosine_other", **look)
        label = "always the commonest <answer>"
        rate = 100 * rows["majority_rate"][0]
        handles[label] = column[1].axhline(rate, label=label, **style.COMMONEST)
        column[0].set_title(f"{CONTEXTS[name]}\nn = {rows['n'][0]:,}", fontsize=8.5)
        style.layer_axis(column[1], rows["layer"].to_list(), "layer", ticks=4)
    panels[0, 0].set(ylabel="cosine to\n“full” (to 1)", ylim=(None, 105))
    panels[0, 0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 100:g}"))
    style.percent_axis(panels[1, 0], "accuracy\n(% of <subjects>)")
    figure.align_ylabels()
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
