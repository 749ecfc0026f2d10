"""Post 4: what toy networks store per parameter, which neurons they need, and what can be read inside them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from factfinding.figures import style
from factfinding.findings.words import Row, Tables, most, not_surely_more, number, percent

TASKS = {"memorising": "random labels", "exceptions": "a rule with exceptions", "generalising": "a rule"}
CAPACITY = 2.0
"""Bits per parameter that language models were found to store at most (Allen-Zhu and Li, 2024)."""


NOTHING = "No toy network was trained: there is nothing to see."
GROUP = ["task", "m", "width", "depth"]
LEARNT = {"generalising": "that learnt a rule", "memorising": "that learnt random labels"}
VERDICTS = {
    "supported": "holds in these networks",
    "contradicted": "does not hold in these networks",
    "undecided": "is not decided by these networks",
    "not applicable": "cannot be judged: too few of these networks learnt their pairs, or generalise",
}


@style.styled
def draw_toy_models(
    *,
    toy_models: pl.DataFrame,
    toy_summary: pl.DataFrame,
    toy_neurons: pl.DataFrame,
    toy_verdict: pl.DataFrame,
) -> Figure:
    """Above: bits per parameter by size; pruning curves. Below: scores of all shapes; classes read from each layer."""
    if toy_models.is_empty():
        return style.nothing_to_draw("no toy network was trained")
    figure = style.new_figure(6.4)
    (size, pruning), below = figure.subplots(2, 2)
    handles = _bits(size, toy_models, toy_summary)
    for kind, task in enumerate(TASKS):
        look = {
            "color": style.COLOURS[kind],
            "ls": style.DASHES[kind],
            "marker": style.MARKERS[kind],
            "label": TASKS[task],
        }
        curve = _pruning(pruning, toy_models, toy_neurons, task, look)
        if curve is not None:
            handles[task] = curve
    _pruning_axes(pruning, toy_models, toy_neurons)
    handles |= _scores(below[0], toy_verdict)
    handles |= _readings(below[1], toy_summary)
    style.legend_above(figure, list(handles.values()), columns=3)
    return figure


def _bits(axes: Axes, models: pl.DataFrame, summary: pl.DataFrame) -> dict[str, object]:
    """One point per shape of the memorising networks, by how many bits there are to learn for each parameter."""
    shapes = (
        models.filter(task="memorising").group_by("m", "width", "depth").agg(pl.col("parameters").first())
    )
    rows = summary.filter(task="memorising", measure="bits_per_parameter").join(
        shapes, on=["m", "width", "depth"]
    )
    handles: dict[str, object] = {}
    for i, m in enumerate(sorted(rows["m"].unique())):
        part = rows.filter(m=m).sort("parameters")
        at, value = part["parameters"].to_numpy(), part["value"].to_numpy()
        marker = style.MARKERS[(3 + i) % len(style.MARKERS)]
        (line,) = axes.plot(
            at, value, color=style.COLOURS[0], marker=marker, ls="", label=f"memorising, {m} × {m} labels"
        )
        axes.vlines(at, *(part[f"value_{end}"].to_numpy() for end in ("low", "high")), color=style.COLOURS[0])
        span = np.geomspace(m * m / CAPACITY, max(models["parameters"]), 50)
        axes.plot(span, m * m / span, color=style.GREY, lw=0.8)
        handles[f"m {m}"] = line
    label = f"{CAPACITY:g} bits per parameter, for scale"
    handles["capacity"] = axes.axhline(CAPACITY, color=style.INK, lw=1, ls=(0, (6, 2, 1, 2)), label=label)
    axes.set(xscale="log", xlabel="parameters", ylabel="stored (bits per parameter)", ylim=(0, 2.2))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    n = rows["n"].sum()
    axes.set_title(f"random labels; grey: all of them stored\nn = {n:,} networks")
    return handles


def _chosen(models: pl.DataFrame) -> dict[str, int]:
    """The shape whose pruning is drawn: of the largest table, the fewest layers and then the least width at which most
    networks of every task learnt all. With more room many neurons are idle, and pruning tells little."""
    shape = ["m", "depth", "width"]
    by_task = models.group_by(*shape, "task").agg(pl.col("reached").mean())
    learnt = by_task.group_by(shape).agg(pl.col("reached").min()).filter(pl.col("reached") > 0.5)
    rows = learnt if learnt.height else models.select(shape)
    m = rows["m"].max()
    depth = rows.filter(m=m)["depth"].min()
    return {"m": m, "depth": depth, "width": rows.filter(m=m, depth=depth)["width"].min()}


def _pruning(axes: Axes, models: pl.DataFrame, neurons: pl.DataFrame, task: str, look: dict):
    """Mean accuracy over seeds as more neurons stay, of the chosen shape, under mean ablation."""
    shape = _chosen(models)
    rows = neurons.filter(task=task, kind="mean", **shape)
    if rows.is_empty():
        return None
    none = models.filter(task=task, **shape)["accuracy_without_mean"].to_numpy()
    kept = rows.sort("order").group_by("seed", maintain_order=True).agg("kept_accuracy")["kept_accuracy"]
    curves = np.concatenate([none[:, None], np.stack(kept.to_list())], axis=1)
    share = 100 * np.arange(curves.shape[1]) / (curves.shape[1] - 1)
    (line,) = axes.plot(share, 100 * curves.mean(0), markevery=max(1, len(share) // 8), **look)
    axes.fill_between(
        share, *(100 * end for end in (curves.min(0), curves.max(0))), color=look["color"], alpha=0.15, lw=0
    )
    return line


def _pruning_axes(axes: Axes, models: pl.DataFrame, neurons: pl.DataFrame) -> None:
    shape = _chosen(models)
    n = models.filter(**shape).height
    axes.set(xlim=(0, 100), xlabel="neurons kept, largest effect first (%)")
    style.percent_axis(axes, "trained pairs right (%)")
    axes.set_title(f"{_words(shape)}, mean ablation\nn = {n:,} networks")


def _scores(axes: Axes, verdict: pl.DataFrame) -> dict[str, object]:
    """Each shape's score, by width; shapes that the verdict does not count are pale."""
    rows = verdict.filter(pl.col("score").is_not_null())
    widths = sorted(verdict["width"].drop_nulls().unique())
    for kind, task in enumerate(TASKS):
        for counted in (False, True):
            part = rows.filter(pl.col("task") == task, pl.col("found").is_not_null() == counted)
            aside = (kind - 1) * 0.2 + (part["depth"].rank("dense").to_numpy() - 1.5) * 0.06
            at = np.array([widths.index(width) for width in part["width"]]) + aside
            look = {"color": style.COLOURS[kind], "alpha": 1.0 if counted else 0.35}
            axes.plot(at, 100 * part["score"].to_numpy(), ls="", marker=style.MARKERS[kind], ms=4, **look)
            axes.vlines(at, *(100 * part[f"score_{end}"].to_numpy() for end in ("low", "high")), **look)
    label = "the verdict's line"
    handles = {label: axes.axhline(50, color=style.INK, lw=1, ls=":", label=label)}
    axes.set_xticks(range(len(widths)), [str(width) for width in widths])
    axes.set(xlim=(-0.5, len(widths) - 0.5), ylim=(-25, 103), yticks=range(-20, 101, 20))
    axes.set(xlabel="width (pale: not counted)", ylabel="classes of new tokens (score, %)")
    axes.set_title(f"before the last layer; 0: chance\nn = {rows['n'].sum():,} networks")
    return handles


def _readings(axes: Axes, summary: pl.DataFrame) -> dict[str, object]:
    """Classes of held-out tokens by layer, of the deepest and widest networks on the largest table."""
    shape = {name: summary[name].max() for name in ("m", "width", "depth")}
    rows = summary.filter(**shape, measure="classes").sort("layer")
    for i, task in enumerate(TASKS):
        part = rows.filter(task=task)
        at, value, low, high = (
            part[name].to_numpy() for name in ("layer", "value", "value_low", "value_high")
        )
        axes.plot(
            at,
            100 * value,
            color=style.COLOURS[i],
            ls=style.DASHES[i],
            marker=style.MARKERS[i],
        )
        axes.fill_between(at, 100 * low, 100 * high, color=style.COLOURS[i], alpha=0.15, lw=0)
    handles = {
        "chance": axes.axhline(100 * rows["baseline"][0], color=style.INK, lw=1, ls="--", label="chance")
    }
    style.percent_axis(axes, "classes of new tokens (%)")
    axes.set(xlim=(-0.3, shape["depth"] + 0.3), xlabel="MLP layers passed (0: embeddings)")
    axes.set_xticks(range(shape["depth"] + 1))
    axes.set_title(f"{_words(shape)}\nn = {rows.filter(layer=0)['n'].sum():,} networks")
    return handles


def _words(shape: dict[str, int]) -> str:
    layers = f"{shape['depth']} layer{'s' * (shape['depth'] > 1)}"
    return f"m = {shape['m']}, width {shape['width']}, {layers}"


def sentences(tables: Tables) -> list[str]:
    """What the tables say, the sentence of the summary first."""
    return toy_findings(tables["toy_models"], tables["toy_summary"], tables["toy_verdict"])


def toy_findings(models: pl.DataFrame, summary: pl.DataFrame, verdict: pl.DataFrame) -> list[str]:
    """From the tables of post 4: the verdict, bits per parameter, neurons needed, the first layer's output."""
    if models.is_empty():
        return [NOTHING]
    return [
        _claim(verdict),
        _rule(models),
        *_bits_in_words(models, summary),
        *_needed(models),
        *_table(models),
    ]


def _claim(verdict: pl.DataFrame) -> str:
    claim = verdict.filter(task="claim").row(0, named=True)
    told = (
        "That memorising networks show no meaningful intermediate representation and generalising ones do "
        f"{VERDICTS[claim['verdict']]}."
    )
    counted = _scores_in_words(verdict.filter(pl.col("found").is_not_null()), verdict)
    if counted:
        told += (
            f" The classes of tokens that a linear reading had not seen can be told before the last layer: {counted}; means over "
            "seeds from chance, 0 %, to always right, 100 %. A shape counts if enough of its networks learnt their pairs and "
            "it is "
            "wide enough for a linear reading of both tokens' classes."
        )
    narrow = _scores_in_words(
        verdict.filter(pl.col("found").is_null(), pl.col("score").is_not_null()), verdict
    )
    return f"{told} Too narrow, and not counted: {narrow}." if narrow else told


def _scores_in_words(rows: pl.DataFrame, verdict: pl.DataFrame) -> str:
    """Least and largest score by task, and how many of the task's shapes these are."""
    parts = []
    for task, words in LEARNT.items():
        of_task, shapes = rows.filter(task=task), verdict.filter(task=task).height
        if of_task.height:
            ends = [percent(of_task["score"].min()), percent(of_task["score"].max())]
            parts.append(
                f"{' to '.join(dict.fromkeys(ends))} in networks {words} ({of_task.height} of {shapes} shapes, "
                f"n = {of_task['n'].sum():,})"
            )
    return " and ".join(parts)


def _rule(models: pl.DataFrame) -> str:
    parts = []
    for task, words in (("generalising", "a rule"), ("exceptions", "a rule with exceptions")):
        rows = models.filter(pl.col("reached"), pl.col("task") == task)
        if rows.height:
            held = rows["held_out_accuracy"]
            parts.append(
                f"{words} {percent(held.mean())} ({percent(held.min())} to {percent(held.max())}, n = {rows.height})"
            )
    beside = (
        f"Of the pairs that were held out, those that did learn get right: {'; '.join(parts)}."
        if parts
        else ""
    )
    return (
        f"{models['reached'].sum()} of {models.height} networks learnt every pair that they were shown within the step limit. "
        + beside
    )


def _bits_in_words(models: pl.DataFrame, summary: pl.DataFrame) -> list[str]:
    rows = summary.filter(task="memorising", measure="bits_per_parameter")
    if rows.is_empty():
        return []
    best, *_ = leaders = most(rows, "value")
    networks = models.filter(**{name: best[name] for name in GROUP})
    size, learnt = networks["parameters"][0], networks["reached"].sum()
    limit = (
        f"; {learnt or 'none'} of them learnt every label within the step limit, so more steps might store more"
        if learnt < networks.height
        else ""
    )
    return [
        (
            f"Most is stored per parameter by networks of {size} parameters that were shown {best['m'] ** 2} random labels: "
            f"{number(best, 'value', '.2f')} bits{not_surely_more(leaders, _networks)} (n = {best['n']}{limit}; language "
            f"models were found to store up to {CAPACITY:g}). Networks "
            "with room to spare store all labels, and the figure then says only how large they are."
        )
    ]


def _networks(row: Row) -> str:
    return (
        f"{row['depth']} layer{'s' if row['depth'] > 1 else ''} of {row['width']} with {row['m'] ** 2} labels"
    )


def _by_task(models: pl.DataFrame, words: Callable[[pl.DataFrame], str]) -> str:
    """`words` on the networks of each task that learnt everything, one task after the other."""
    learnt = models.filter("reached")
    tasks = models["task"].unique(maintain_order=True)
    rows = {task: learnt.filter(pl.col("task") == task) for task in tasks}
    return "; ".join(f"{task} {words(found)}" for task, found in rows.items() if found.height)


def _needed(models: pl.DataFrame) -> list[str]:
    """Neurons needed, and how evenly their effects are spread, of networks that learnt everything, by task."""

    def words(rows: pl.DataFrame) -> str:
        return (
            f"{percent(rows['needed_mean'].mean())} (in random order {percent(rows['needed_random_mean'].mean())}; "
            f"participation ratio {percent(rows['participation_mean'].mean())}; n = {rows.height})"
        )

    told = _by_task(models, words)
    return (
        [f"Share of the neurons needed to keep 95 % of the accuracy under mean ablation: {told}."]
        if told
        else []
    )


def _table(models: pl.DataFrame) -> list[str]:
    def words(rows: pl.DataFrame) -> str:
        return (
            f"{percent(rows['interaction'].mean())}, {percent(rows['own_classes'].mean())} against "
            f"{percent(rows['majority_rate'].mean())} by the commoner label"
        )

    told = _by_task(models, words)
    if not told:
        return []
    return [
        (
            "Share of the first MLP's output that is no sum of a part of each token, and how well the network's own classes of "
            f"tokens tell labels of pairs not counted: {told}."
        )
    ]
