"""P3.1: what is lost when a path from one MLP of the lookup to a later one is removed."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.figures import style
from factfinding.findings.words import Row, Tables, most, not_surely_more, number, percent, share

MEASURES = {
    "probe_accuracy": "<answer> read\nat the name",
    "accuracy": "right answers",
    "answer_accuracy": "right among\nthe <answers>",
    "loss": "loss",
    "kl": "divergence",
}
KINDS = {"mean": "its mean instead", "resample_other": "that of another <answer>'s <subject> instead"}
SHOWN = 12
"""Paths that are drawn: those whose removal costs most."""


NO_PATHS = "No path between MLPs was removed: no lookup of two MLPs or more was found at the name, or too few <subjects> are known."
NEEDED = 0.05
"""Share of the loss that averaging all MLPs of the lookup costs, which removing a path must surely cost for the path to be
called needed. A sign is not enough: through LayerNorm every earlier MLP has a little effect on every later one (7e-6 nats
in models whose later MLPs read nothing of it)."""


@style.styled
def draw_mlp_paths(*, mlp_paths: pl.DataFrame) -> Figure:
    """A panel per metric: change from the unchanged model, a row for each path, a mark for each replacement.

    mlp_paths: the table of that name; of the readers, the head's where it has one.
    """
    changed = shown(mlp_paths)
    if changed.is_empty():
        return style.nothing_to_draw("no lookup of several MLPs was found, or no <subject> is known")
    paths = changed.select("path").unique(maintain_order=True)["path"].to_list()
    figure = style.new_figure(2.1 + 0.3 * len(paths))
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    looks = {kind: style.look(kind) for kind in KINDS if kind in changed["kind"]}
    handles: dict[str, object] = {}
    for axes, (metric, words) in zip(panels, MEASURES.items(), strict=True):
        rows = changed.filter(metric=metric)
        handles |= _panel(axes, rows, paths, looks, 100 if metric.endswith("accuracy") else 1)
        axes.set_title(words)
        axes.set_xlabel("change (points)" if metric.endswith("accuracy") else "change (nats)")
    panels[0].set_yticks(range(len(paths)), paths)
    panels[0].set(ylabel=f"path removed\n(n = {changed['n'].max():,})", ylim=(len(paths) - 0.4, -0.6))
    style.legend_above(figure, list(handles.values()), columns=2)
    return figure


def shown(mlp_paths: pl.DataFrame) -> pl.DataFrame:
    """The rows that are drawn, worst path first, with a column path."""
    changed = mlp_paths.drop_nulls("source").with_columns(
        path=pl.format("MLP {} \N{RIGHTWARDS ARROW} {}", "source", "target")
    )
    if "head" in changed["reader"]:
        changed = changed.filter(pl.col("reader").is_null() | (pl.col("reader") == "head"))
    worst = changed.filter(metric="loss").group_by("path", maintain_order=True).agg(pl.col("change").max())
    worst = worst.sort("change", descending=True, maintain_order=True).head(SHOWN).select("path")
    return worst.join(changed, on="path", how="inner", maintain_order="left")


def _panel(axes: Axes, rows: pl.DataFrame, paths: list[str], looks: dict, scale: int) -> dict[str, object]:
    handles = {}
    for i, (kind, look) in enumerate(looks.items()):
        part = rows.filter(kind=kind)
        at = [paths.index(path) + 0.24 * (i - (len(looks) - 1) / 2) for path in part["path"]]
        value, low, high = (scale * part[f"change{end}"].to_numpy() for end in ("", "_low", "_high"))
        look = look | {"ls": "", "capsize": 2}
        handles[kind] = axes.errorbar(value, at, xerr=(value - low, high - value), label=KINDS[kind], **look)
    axes.axvline(0, color=style.INK, linewidth=0.8)
    axes.locator_params(axis="x", nbins=3)
    return handles


def sentences(tables: Tables) -> list[str]:
    """Which path is missed most, and how the metrics differ."""
    mlp_paths = tables["mlp_paths"]
    removed = mlp_paths.drop_nulls("source")
    if removed.is_empty():
        return [NO_PATHS]
    found = [_worst(removed, kind) for kind in ("mean", "resample_other") if kind in removed["kind"]]
    loss = mlp_paths.filter(metric="loss", kind=removed["kind"][0])
    whole = loss.filter(pl.col("source").is_null())["change"]
    return [*found, *[_needed(loss.drop_nulls("source"), cost) for cost in whole]]


def _needed(loss: pl.DataFrame, whole: float) -> str:
    """How many paths surely cost enough, and how many surely cost something. whole: the cost of averaging the MLPs."""
    surely = loss.filter(pl.col("change_low") > NEEDED * max(whole, 0)).height
    little = loss.filter(pl.col("change_low") > 0).height - surely
    what = "a later MLP needs" if surely else "no later MLP surely needs"
    told = (
        f"Of {loss.height:,} path{'s' if loss.height > 1 else ''} removed one at a time, by putting in the mean of what is "
        f"written, {surely:,} surely raise{'s' if surely == 1 else ''} the loss by more than {100 * NEEDED:.0f} % of what "
        f"averaging all of these MLPs costs ({whole:.3g} nats; the whole interval lies above that): "
        f"{'there, ' if surely else ''}{what} what an earlier one wrote."
    )
    if little:
        told += (
            f" For {little:,}{' more' if surely else ''} the loss surely rises, but not surely by that much; this is not "
            "counted, since through LayerNorm every earlier MLP has a little effect on every later one."
        )
    return told


def _worst(table: pl.DataFrame, kind: str) -> str:
    rows = table.filter(pl.col("kind") == kind)
    worst, *_ = leaders = most(rows.filter(metric="loss"), "change")
    here = rows.filter(source=worst["source"], target=worst["target"])
    measured = {row["metric"]: row for row in here.sort("reader", nulls_last=True).iter_rows(named=True)}
    probe = measured.get("probe_accuracy")
    put_in = {"mean": "the mean", "resample_other": "that of <a subject> of another <answer>"}[kind]
    said = (
        f"With {put_in} put in place of what MLP {worst['source']} writes, as MLP {worst['target']} alone reads it at the "
        f"final name token, the loss changes most: by {_nats(worst)}{not_surely_more(leaders, _path)}; the answer is still "
        "right for "
        f"{share(measured['accuracy'], 'value')}, it is the best of the <answers> for "
        f"{share(measured['answer_accuracy'], 'value')}"
    )
    said += f", and the <answer> is read at the name for {share(probe, 'value')}" if probe else ""
    return (
        f"{said} (divergence from the unchanged model {measured['kl']['value']:.2g} nats; n = {worst['n']:,}; the commonest "
        f"<answer> gives {percent(worst['majority_rate'])})."
    )


def _path(row: Row) -> str:
    return f"from MLP {row['source']} to MLP {row['target']} ({_nats(row)})"


def _nats(row: Row) -> str:
    return f"{number(row, 'change', '+.3g')} nats"
