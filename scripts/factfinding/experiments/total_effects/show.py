"""P2.7: what each head, attention layer and MLP does at each position of the name and at END."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.figures import style
from factfinding.findings.patched import no_swap, nothing_to_swap, role_in_words
from factfinding.findings.words import (
    NAMED,
    NOBODY,
    Row,
    Tables,
    most,
    not_surely_more,
    number,
    percent,
    share,
    worth_a_word,
)
from factfinding.least import LEAST_SHARE

POSITIONS = {"first_name": "first name token", "final_name": "final name token", "end": "END"}
AGAIN = "the partner's again, for comparison"
BLIND = 0.1
"""The screen is not to be trusted where it surely misses more than this many for each that is found."""
PANELS = {
    "corrupt": "the partner's\n(as above)",
    "zero": "zero\n",
    "mean": "mean\n",
    "resample_same": "another's of the\nsame <answer>",
    "resample_other": "another's of the\npartner's <answer>",
}
"""What stands in a layer's place, over the panel of each kind."""
KINDS = {
    "corrupt": "patched from another <answer>'s <subject>",
    "zero": "zero",
    "mean": "mean",
    "resample_same": "another <subject>'s, same <answer>",
    "resample_other": "another <subject>'s, partner's <answer>",
}


@style.styled
def draw_total_effects(*, total_effects: pl.DataFrame, total_effects_screen: pl.DataFrame) -> Figure:
    """Above, a heat map for each position: layer by head, with whole attention layers and MLPs beside, dots on what is no
    estimate; below, a panel for each kind of ablation of whole layers at the final name token, none of which is ever
    estimated."""
    if total_effects.is_empty():
        return style.nothing_to_draw("no two <subjects> of different <answers> have prompts of one layout")
    patched = total_effects.filter(kind="corrupt", number=0)
    roles = [role for role in POSITIONS if role in patched["role"]]
    n_layers = total_effects["layer"].max() + 1
    more = 0.06 * max(0, n_layers - 12)  # inches, for rows that can still be told apart
    figure = style.new_figure(6.6 + more)
    above, below = figure.subfigures(2, 1, height_ratios=(1 + 0.35 * more, 1.3))
    panels = above.subplots(1, len(roles), sharey=True, squeeze=False)[0]
    shares = 100 * patched.filter(pl.col("role").is_in(roles))["share"].fill_null(np.nan).to_numpy()
    colours = style.changes(shares, lost="above")
    for axes, role in zip(panels, roles, strict=True):
        mesh = _map(axes, patched.filter(role=role), colours)
        axes.set_title(f"{POSITIONS[role]}, n = {patched.filter(role=role)['n'].max():,}")
    panels[0].set(ylabel="layer (index)", yticks=range(0, n_layers, max(1, n_layers // 8)))
    above.colorbar(mesh, ax=list(panels), label="lost, of what the\nwhole swap loses (%)", pad=0.02)
    if not patched["exact"].all():
        above.suptitle(_dots(total_effects_screen), fontsize=8)
    _by_kind(below, total_effects.filter(role="final_name"))
    return figure


def _map(axes: Axes, rows: pl.DataFrame, colours: dict):
    n_layers, n_heads = rows["layer"].max() + 1, rows.filter(type="head")["head"].max() + 1
    values = np.full((n_layers, n_heads + 3), np.nan)
    column = {"attention": n_heads + 1, "mlp": n_heads + 2}
    for layer, kind, head, part in rows.select("layer", "type", "head", "share").iter_rows():
        values[layer, column.get(kind, head)] = np.nan if part is None else 100 * part
    wide = max(1.0, n_heads / 8)  # of whole layers, in heads
    edges = np.append(np.arange(n_heads + 1), n_heads + wide * np.array([0.5, 1.5, 2.5])) - 0.5
    mesh = axes.pcolormesh(edges, np.arange(n_layers + 1) - 0.5, values, rasterized=True, **colours)
    if not rows["exact"].all():
        _mark(axes, rows.filter("exact"), (edges[:-1] + edges[1:]) / 2, column)
    heads = list(range(0, n_heads, max(1, n_heads // 4)))
    whole = n_heads - 0.5 + wide * np.array([1.0, 2.0])
    axes.set_xticks([*heads, *whole], [*map(str, heads), "attn", "MLP"], fontsize=7, rotation=90)
    axes.set(xlabel="head, layer's attention, MLP")
    axes.grid(False)
    return mesh


def _mark(axes: Axes, rows: pl.DataFrame, centres: np.ndarray, column: dict[str, int]) -> None:
    """Dots on the cells of these rows."""
    at = [centres[column.get(kind, head)] for kind, head in rows.select("type", "head").iter_rows()]
    axes.plot(at, rows["layer"].to_numpy(), ".", color=style.ON_PALE, markersize=1.8, markeredgewidth=0)


def _dots(screen: pl.DataFrame) -> str:
    """What the dots mean, and how far off the other cells are."""
    rows = screen.filter(kind="corrupt", type="all").drop_nulls("error")
    off = f" (95 % of them within {_points(rows['error'].item())} of the whole swap)" if rows.height else ""
    return f"dots: replaced, and the model run; other cells: estimates{off}"


def _by_kind(figure, rows: pl.DataFrame) -> None:
    """A column for each kind, above attention and below MLPs, over layers; the swap's line is repeated in each in grey."""
    kinds = [kind for kind in KINDS if kind in rows["kind"]]
    panels = figure.subplots(2, len(kinds), sharex=True, sharey="row", squeeze=False)
    again: list = []
    for line, (node, words) in zip(panels, (("attention", "attention"), ("mlp", "MLP")), strict=True):
        swap = rows.filter(type=node, kind="corrupt").sort("layer")
        for axes, kind in zip(line, kinds, strict=True):
            if kind != "corrupt" and swap.height:
                again = axes.plot(swap["layer"], swap["effect"], color=style.GREY, linewidth=1, label=AGAIN)
            _line(axes, rows.filter(type=node, kind=kind).sort("layer"), kind)
            axes.axhline(0, color=style.INK, linewidth=0.8)
            style.layer_axis(
                axes, rows["layer"].unique().to_list(), "" if node == "attention" else "layer", ticks=4
            )
        line[0].set_ylabel(f"{words}\n(logits)")
    for axes, kind in zip(panels[0], kinds, strict=True):
        n = rows.filter(kind=kind)["n"].max()
        axes.set_title(f"{PANELS[kind]}\nn = {n:,}", fontsize=8)
    figure.suptitle(
        "a layer's attention, or its MLP, at the final name token: change of the logit difference",
        fontsize=8.5,
    )
    if again:
        style.legend_below(figure, again, columns=1)


def _line(axes: Axes, part: pl.DataFrame, kind: str) -> None:
    """The effect by layer with its 95 % band."""
    look, at = style.look(kind), part["layer"].to_numpy()
    axes.plot(
        at,
        part["effect"].to_numpy(),
        markersize=3,
        markevery=style.marked(2 * len(at)),
        **(look | {"ls": "-"}),
    )
    low, high = (part[name].fill_null(np.nan).to_numpy() for name in ("effect_low", "effect_high"))
    axes.fill_between(at, low, high, color=look["color"], alpha=0.18, linewidth=0)


def sentences(tables: Tables) -> list[str]:
    """The largest nodes by place, and where the kinds of ablation disagree."""
    total_effects = tables["total_effects"]
    if total_effects.is_empty():
        return [NOBODY]
    patched = total_effects.filter(kind="corrupt")
    if nothing_to_swap(patched):
        return [no_swap(patched)]
    found = []
    for role in ("first_name", "final_name", "end"):
        rows = patched.filter((pl.col("role") == role) & (pl.col("type") != "attention"))
        rows = rows.filter(_surely_lost(), worth_a_word())
        if rows.height:
            found.append(f"Patched at {role_in_words(role)}, {_done(rows)}.")
    found = found or [
        f"No node patched alone at the name or at END surely does {percent(LEAST_SHARE)} of the whole swap or more."
    ]
    return found + _kinds(total_effects) + _screened(tables.get("total_effects_screen"))


def _screened(screen: pl.DataFrame | None) -> list[str]:
    """What is an estimate, and what the replacements drawn from the estimates say of them."""
    if screen is None or screen.is_empty():
        return []
    rows = screen.filter(type="all")
    found = [
        (
            f"Of {rows['replacements'].sum():,} replacements (nodes times positions times kinds) attribution patching chose "
            f"{rows['large'].sum():,} that were run, with {rows['n'].sum():,} drawn at random from the others; the remaining "
            f"{rows['estimated'].sum():,} are estimates, each below {_points(rows['below'].max())} of the whole swap."
        )
    ]
    checked = rows.filter(pl.col("n") > 0, pl.col("estimated") > 0)
    if checked.height:
        told = "; ".join(_checked(row) for row in checked.iter_rows(named=True))
        found.append(
            f"What the screen misses, by those drawn: {told}. An effect counts from {_points(checked['counts_from'].max())} of "
            "the whole swap on, in either direction."
        )
    blind = checked.filter(pl.col("missed_low") * pl.col("estimated") > BLIND * pl.col("found"))
    if blind.height:
        kinds = ", ".join(KINDS[kind] for kind in blind["kind"])
        found.append(
            f"Attribution is blind to many effects here ({kinds}): set `interventions.screen` to `never`, and every node is "
            "replaced."
        )
    return found


def _checked(row: Row) -> str:
    most_missed = (
        int(np.ceil(row["missed_high"] * row["estimated"]))
        if np.isfinite(row["missed_high"])
        else row["estimated"]
    )
    return (
        f"{KINDS[row['kind']]}, {share(row, 'missed')} of {row['n']:,} count, so at most {most_missed:,} of "
        f"{row['estimated']:,} estimates beside {row['found']:,} effects that were found (95 % of the estimates are off by "
        f"{_points(row['error'])} of the whole swap or less)"
    )


def _points(error: float) -> str:
    """An error as per cent, small ones with the digits that they have."""
    return f"{100 * error:.2g}\N{NO-BREAK SPACE}%"


def _done(rows: pl.DataFrame) -> str:
    """Who does most of those that count, those that cannot be told from it, and who comes after them."""
    leaders = most(rows, "effect", lowest=True)
    first = leaders[0]
    after = rows.sort("effect").tail(rows.height - len(leaders)).head(NAMED - 1)
    then = ", ".join(_portioned(row) for row in after.iter_rows(named=True))
    return (
        f"most is done by {_portioned(first)}{not_surely_more(leaders, _portioned)}{f'; then by {then}' if then else ''} "
        f"(shares of what swapping the whole name does, {first['whole_swap']:.2f} logits; n = {first['n']:,})"
    )


def _portioned(row: Row) -> str:
    return f"{_node(row)} {_portion(row)}"


def _kinds(total_effects: pl.DataFrame) -> list[str]:
    """Mean against resampling within the answer: the MLPs at the final name token that they surely judge differently."""
    mlps = total_effects.filter(type="mlp", role="final_name")
    mean, same = (mlps.filter(kind=kind) for kind in ("mean", "resample_same"))
    if mean.is_empty() or same.is_empty():
        return []
    rows = mean.join(same, on="layer", suffix="_same").filter(
        (pl.col("effect_low") > pl.col("effect_high_same"))
        | (pl.col("effect_high") < pl.col("effect_low_same")),
        (pl.col("effect") - pl.col("effect_same")).abs() >= LEAST_SHARE * pl.col("whole_swap").abs(),
    )
    told = "; ".join(_disagree(row) for row in rows.sort("layer").head(NAMED).iter_rows(named=True))
    if not told:
        return [
            "On no MLP at the final name token do its mean and another <subject>'s of the same <answer> surely disagree."
        ]
    more = f"; {rows.height - NAMED:,} more are in the table" if rows.height > NAMED else ""
    return [
        (
            "What is put in matters at the final name token, where the mean and another <subject>'s output of the same <answer> "
            f"change the logit difference surely by different amounts (intervals apart): {told}{more}."
        )
    ]


def _disagree(row: Row) -> str:
    same = {name: row[f"{name}_same"] for name in ("effect", "effect_low", "effect_high")}
    return (
        f"MLP {row['layer']} {number(row, 'effect', '+.2f')} against {number(same, 'effect', '+.2f')} logits"
    )


def _node(row: Row) -> str:
    return f"MLP {row['layer']}" if row["type"] == "mlp" else row["node"]


def _portion(row: Row) -> str:
    """A share of the whole swap, with the interval of the effect where it has one."""
    if row["effect_low"] is None:
        return percent(row["share"])
    low, high = sorted(row[name] / row["whole_swap"] for name in ("effect_low", "effect_high"))
    return f"{percent(row['share'])} [{100 * low:.1f}, {100 * high:.1f}]"


def _surely_lost() -> pl.Expr:
    return pl.col("effect_high") < 0
