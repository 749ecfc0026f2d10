"""P3.6: how much MLPs and attention write for known names and for unknown pairings of their tokens."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.figures import style
from factfinding.findings.words import Row, Tables, layers_in_words, percent, share
from factfinding.methods.circuit import Circuit

LINES = {  # column, output -> label and look
    ("auc", "mlp"): ("MLP", style.look("mlp")),
    ("auc", "attn"): ("attention", style.look("attn")),
    ("auc_control", "mlp"): (
        "MLP, one half of the unknown names against the other",
        style.look("control") | {"linewidth": 1},
    ),
}


NO_NAMES = "There are no known names, or no unknown pairings of their tokens: there is nothing to compare."


@style.styled
def draw_mlp_norms(*, mlp_norms: pl.DataFrame, circuit: pl.DataFrame) -> Figure:
    """Left, AUC by layer; right, the mean norms of the MLPs' outputs. Shaded: the layers that look up."""
    if mlp_norms.is_empty():
        return style.nothing_to_draw("no known names, or no unknown pairing of their tokens")
    conditions = mlp_norms["condition"].unique(maintain_order=True).to_list()
    figure = style.new_figure(0.6 + 2.9 * len(conditions))
    handles: dict[str, object] = {}
    for (left, right), condition in zip(
        figure.subplots(len(conditions), 2, squeeze=False), conditions, strict=True
    ):
        rows = mlp_norms.filter(condition=condition)
        handles |= _aucs(left, rows) | _norms(right, rows.filter(output="mlp"))
        style.panel_title(
            left, f"larger for the known name, {style.CONDITIONS[condition]}", rows["n_known"][0]
        )
        right.set_title(f"MLPs\nn = {rows['n_unknown'][0]:,} unknown names")
        for axes in (left, right):
            style.layer_axis(axes, rows["layer"].unique().sort().to_list(), "layer")
            style.shade_layers(axes, Circuit.from_table(circuit).lookup)
    style.legend_above(figure, list(handles.values()), columns=2)
    return figure


def _aucs(axes: Axes, rows: pl.DataFrame) -> dict[str, object]:
    drawn = {}
    for (column, output), (label, look) in LINES.items():
        part = rows.filter(output=output).drop_nulls([column, f"{column}_low"])
        if part.height:
            drawn[label] = style.band(axes, part, "layer", column, label=label, markersize=3.5, **look)
    axes.axhline(50, color=style.INK, linewidth=1, ls="--")
    axes.set(ylabel="AUC (%)")
    return drawn


def _norms(axes: Axes, rows: pl.DataFrame) -> dict[str, object]:
    """Mean norms in the model's own units, with their intervals."""
    drawn, rows = {}, rows.sort("layer")
    for name in ("known", "unknown"):
        look = style.look(name)
        label = f"mean norm, {name} names"
        (drawn[label],) = axes.plot(rows["layer"], rows[name], markersize=3.5, label=label, **look)
        whole = rows.drop_nulls(f"{name}_low")
        axes.fill_between(
            whole["layer"],
            whole[f"{name}_low"],
            whole[f"{name}_high"],
            color=look["color"],
            alpha=0.18,
            linewidth=0,
        )
    axes.set(ylabel="norm (model's own units)", ylim=(0, None))
    return drawn


def sentences(tables: Tables) -> list[str]:
    """What the tables say, the sentence of the summary first."""
    return norm_findings(tables["mlp_norms"], tables.get("circuit"))


def norm_findings(mlp_norms: pl.DataFrame, circuit: pl.DataFrame | None = None) -> list[str]:
    """From the table `mlp_norms` (P3.6): the MLPs that write more, or less, for known names; what the first one of the
    lookup (table `circuit`) does, which alone tells a hash from knowledge; then the controls."""
    if mlp_norms.is_empty():
        return [NO_NAMES]
    lookup = None if circuit is None or circuit.is_empty() else Circuit.from_table(circuit).lookup
    found = []
    for rows in mlp_norms.partition_by("condition", maintain_order=True):
        mlps = rows.filter(output="mlp").sort("layer")
        found += _more_or_less(mlps)
        found += _lowest(mlps) if lookup is None else _first(mlps.filter(layer=lookup[0]))
        found += _controls(rows)
    return found


def _more_or_less(mlps: pl.DataFrame) -> list[str]:
    first, layers = mlps.row(0, named=True), mlps["layer"].to_list()
    beside = (
        f"{style.CONDITIONS[first['condition']]}; n = {first['n_known']:,} known and {first['n_unknown']:,} unknown names; "
        f"chance {percent(first['baseline'])}"
    )
    more = mlps.filter(pl.col("auc_low") > pl.col("baseline"))
    less = mlps.filter(pl.col("auc_high") < pl.col("baseline"))
    best = mlps.row(mlps["auc"].arg_max(), named=True)
    if more.is_empty():
        told = (
            "At no layer does the MLP surely write more at the final name token for known names than for unknown pairings "
            f"of the same tokens: at best the known name has the larger norm with probability {share(best, 'auc')}, in "
            f"layer {best['layer']} ({beside})."
        )
    else:
        told = (
            f"MLPs write more at the final name token for known names than for unknown pairings of the same tokens "
            f"{layers_in_words(more['layer'].to_list(), layers)}: most in layer {best['layer']}, where the known name has the "
            f"larger norm with probability {share(best, 'auc')} ({beside})."
        )
    if less.height:
        least = less.row(less["auc"].arg_min(), named=True)
        told += (
            f" They write less for known names {layers_in_words(less['layer'].to_list(), layers)} "
            f"(least often, in layer {least['layer']}, {share(least, 'auc')})."
        )
    return [told]


def _lowest(mlps: pl.DataFrame) -> list[str]:
    """Where no lookup is known: the lowest MLP that tells known names from others, and what it would mean."""
    row = next((row for row in mlps.iter_rows(named=True) if _differs(row)), None)
    if row is None:
        return []
    told = (
        f"The lowest MLP whose norms differ is that of layer {row['layer']} ({share(row, 'auc')}). Which MLPs look "
        "names up is not known, so it is open whether the parts of a name are combined there (and then not by a hash of the name "
        "alone) or below, where known and unknown names are treated alike."
    )
    return [told]


def _first(mlps: pl.DataFrame) -> list[str]:
    """What the first MLP of the lookup (a row, or none) does with known names; later ones may read what it found."""
    told = []
    for row in mlps.iter_rows(named=True):
        where = f"The first MLP of the lookup, in layer {row['layer']},"
        if _differs(row):
            more = "more" if row["auc"] > row["baseline"] else "less"
            told.append(
                f"{where} surely writes {more} for known names ({share(row, 'auc')}): already there the model treats pairs "
                "that it knows differently from others of the same parts, as no hash of the name alone would."
            )
        else:
            told.append(
                f"{where} does not surely write more for either ({share(row, 'auc')}): nothing there speaks against a hash of "
                "the name, which treats all pairs alike. What later MLPs do says nothing about this one."
            )
    return told


def _controls(rows: pl.DataFrame) -> list[str]:
    """Halves of the unknown names, and attention."""
    told = []
    halves = rows.filter(output="mlp").drop_nulls("auc_control_low")
    if halves.height:
        outside = (pl.col("auc_control_low") > pl.col("baseline")) | (
            pl.col("auc_control_high") < pl.col("baseline")
        )
        told.append(
            "As a control, one half of the unknown names against the other: "
            f"{percent(halves['auc_control'].min())} to {percent(halves['auc_control'].max())}; the 95 % intervals of "
            f"{halves.filter(outside).height} of {halves.height} layers leave out 50 %, where 1 in 20 does so by chance."
        )
    attention = rows.filter(output="attn").sort("layer")
    if attention.height:
        best = attention.row((attention["auc"] - 0.5).abs().arg_max(), named=True)
        told.append(
            f"Attention's output separates known names best in layer {best['layer']}: {share(best, 'auc')}."
        )
    return told


def _differs(row: Row) -> bool:
    """Whether an AUC surely lies on one side of chance."""
    low, high = row["auc_low"], row["auc_high"]
    return low is not None and (low > row["baseline"] or high < row["baseline"])
