"""P3.4: who fires the neurons that tell a sport, and what the model loses without them.

A neuron is said to tell its sport if the best of all neurons does as well under shuffled sports in fewer than 5 % of
the shufflings, and to matter more than others if no random neuron of its layer changes the loss as much.
"""

from __future__ import annotations

from math import ceil

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.figures import style
from factfinding.findings.words import Row, Tables, number, percent, share

SHOWN, COLUMNS = 6, 3
"""Neurons that are drawn, those of the scan first, and panels in a row."""

KINDS = {"none": ("unchanged", style.INK, "o"), "mean": ("its mean instead", style.COLOURS[3], "s"), "zero": ("zero instead", style.COLOURS[4], "^")}  # fmt: skip


NO_NEURON = (
    "No neuron was chosen: no lookup was found at the name, or too few athletes are known to choose on one half and score "
    "on the other."
)
SURE = 0.05
ABLATED = {"mean": "at its mean over athletes", "zero": "at zero"}


@style.styled
def draw_sport_neurons(
    *,
    sport_neurons: pl.DataFrame,
    sport_neuron_histograms: pl.DataFrame,
    sport_neuron_ablations: pl.DataFrame,
) -> Figure:
    """Above, a panel per neuron: its activations by sport; below, losses on its sport under ablation.

    Frames: the tables of these names.
    """
    neurons = shown(sport_neuron_histograms)
    if neurons.is_empty():
        return style.nothing_to_draw("no lookup was found, or too few athletes are known to choose a neuron")
    rows, height = ceil(neurons.height / COLUMNS), 0.9 + 0.34 * neurons.height
    figure = style.new_figure(0.9 + 2.1 * rows + height)
    grid = figure.add_gridspec(rows + 1, min(COLUMNS, neurons.height), height_ratios=[2.1] * rows + [height])
    looks = style.marks(sport_neuron_histograms["athletes_sport"].unique().sort().to_list())
    handles: dict[str, object] = {}
    for i, row in enumerate(neurons.iter_rows(named=True)):
        axes = figure.add_subplot(grid[i // COLUMNS, i % COLUMNS])
        bars = sport_neuron_histograms.filter(
            neuron=row["neuron"], sport=row["sport"], chosen_by=row["chosen_by"]
        )
        handles |= _histogram(axes, bars, looks)
        axes.set_title(
            f"{row['neuron']}, for {row['sport']}{_held_out(sport_neurons, row)}\nn = {bars['n'][0]:,} athletes"
        )
        axes.set(xlabel="activation", ylabel="" if i % COLUMNS else "athletes (% of their sport)")
    handles |= _losses(figure.add_subplot(grid[rows, :]), sport_neuron_ablations, neurons)
    style.legend_above(figure, list(handles.values()), columns=3)
    return figure


def shown(table: pl.DataFrame) -> pl.DataFrame:
    """The neurons that are drawn: columns neuron, sport, chosen_by; those that the scan chose first."""
    who = table.select("neuron", "sport", "chosen_by").unique(maintain_order=True)
    return who.sort(pl.col("chosen_by") != "scan", maintain_order=True).head(SHOWN)


def _held_out(scan: pl.DataFrame, row: dict) -> str:
    """The held-out AUC of a neuron that the scan chose."""
    if scan.is_empty():  # neurons that the configuration names are drawn all the same
        return ""
    found = scan.filter(chosen_on="first", rank=1, neuron=row["neuron"], sport=row["sport"])
    return (
        f"\nAUC {found['auc'][0]:.2f}{' (low on it)' if found['sign'][0] < 0 else ''}" if found.height else ""
    )


def _histogram(axes: Axes, bars: pl.DataFrame, looks: dict) -> dict[str, object]:
    handles: dict[str, object] = {}
    for sport in bars["athletes_sport"].unique(maintain_order=True):
        part, (colour, dash, _) = bars.filter(athletes_sport=sport), looks[sport]
        edges = [*part["low"], part["high"][-1]]
        share = (100 * part["athletes"] / part["athletes"].sum()).to_list()
        look = {"color": colour, "ls": dash, "linewidth": 1.3, "label": f"athletes: {sport}"}
        (handles[sport],) = axes.step(edges, [*share, share[-1]], where="post", **look)
    axes.set_ylim(bottom=0)
    return handles


def _losses(axes: Axes, table: pl.DataFrame, neurons: pl.DataFrame) -> dict[str, object]:
    """A row per neuron: losses with their intervals, and that of the random neuron that matters most."""
    handles: dict[str, object] = {}
    rows = neurons.iter_rows(named=True)
    for y, who in enumerate(rows):
        mine = table.filter(neuron=who["neuron"], sport=who["sport"], chosen_by=who["chosen_by"])
        unchanged = mine.filter(kind="none")["loss"][0]
        for shift, (kind, (label, colour, marker)) in zip((-0.22, 0, 0.22), KINDS.items(), strict=True):
            row = mine.filter(kind=kind).row(0, named=True)
            low, high = (row["loss"] if row[end] is None else row[end] for end in ("loss_low", "loss_high"))
            axes.plot([low, high], [y + shift] * 2, color=colour, linewidth=1.2)
            look = {"ls": "", "marker": marker, "color": colour, "label": label}
            (handles[kind],) = axes.plot([row["loss"]], [y + shift], **look)
            if row["random_largest"] is not None:
                label = f"the largest of {row['random_neurons']:,} random neurons"
                at = unchanged + row["random_largest"]
                look = {"ls": "", "marker": "x", "color": style.GREY, "markersize": 5, "label": label}
                (handles["random"],) = axes.plot([at], [y + shift], **look)
    names = [f"{row['neuron']} ({row['sport']})" for row in neurons.iter_rows(named=True)]
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel="loss of the whole model on athletes of that sport (nats)")
    axes.set_ylabel("neuron (sport)")
    axes.set_title(f"ablated at the final name token, n = {_span(table['n'])} athletes each")
    return handles


def _span(n: pl.Series) -> str:
    return f"{n.min():,}" if n.min() == n.max() else f"{n.min():,} to {n.max():,}"


def sentences(tables: Tables) -> list[str]:
    """What the tables say, the sentence of the summary first."""
    return [*scan_findings(tables["sport_neurons"]), *ablation_findings(tables["sport_neuron_ablations"])]


def scan_findings(sport_neurons: pl.DataFrame) -> list[str]:
    """From the table `sport_neurons`: the best neuron of each sport, and whether both halves choose it."""
    if sport_neurons.is_empty():
        return [NO_NEURON]
    best = sport_neurons.filter(rank=1, chosen_on="first")
    rows = list(best.sort("auc", descending=True).iter_rows(named=True))
    told = [row for row in rows if row["p_corrected"] < SURE]
    named = "; ".join(f"{row['sport']}: {_who(row)}, {auc_in_words(row)}" for row in rows[:4])
    chance = max(row["chance_best"] for row in rows)
    found = [
        (
            f"For {len(told)} of {len(rows)} sports one neuron tells the sport better than the best of all "
            f"{rows[0]['neurons_tried']:,} does by chance (p < {SURE}, corrected). Chosen on one half of the athletes and "
            f"scored on the other (AUC; chance 0.5, the best on shuffled sports up to {chance:.2f}; "
            f"n = {rows[0]['n']:,}): {named}."
        )
    ]
    again = {row["sport"]: row["neuron"] for row in _best(sport_neurons, "second")}
    same = sum(again.get(row["sport"]) == row["neuron"] for row in rows)
    found.append(f"The other half chooses the same neuron for {same} of {len(rows)} sports.")
    several = {row["neuron"] for row in rows if sum(row["neuron"] == r["neuron"] for r in rows) > 1}
    found += [
        f"{neuron} is the best for more than one sport, so it is no neuron of one sport alone."
        for neuron in sorted(several)
    ]
    return found


def ablation_findings(ablations: pl.DataFrame) -> list[str]:
    """From the table `sport_neuron_ablations`: losses without the neuron, beside random neurons of its layer."""
    found = []
    neurons = ablations.select("neuron", "sport", "chosen_by").unique(maintain_order=True)
    for neuron, sport, chosen_by in neurons.head(4).iter_rows():
        rows = {
            row["kind"]: row
            for row in ablations.filter(neuron=neuron, sport=sport, chosen_by=chosen_by).iter_rows(named=True)
        }
        found.append(_loss(rows))
    if found:
        left = ablations.filter(pl.col("kind") != "none").sort("accuracy").row(0, named=True)
        found.append(
            f"Without any one of them the model still names the right sport for {share(left, 'accuracy')} or more "
            f"(n = {left['n']:,}; the sport's share of all athletes: {percent(left['base_rate'])})."
        )
    return found


def _loss(rows: dict[str, Row]) -> str:
    none = rows["none"]
    parts = []
    for kind, words in ABLATED.items():
        row = rows[kind]
        change = _signed(row, "change")
        beside = ""
        if row["random_as_large"] is not None:
            count = round(row["random_as_large"] * row["random_neurons"])
            beside = f"; {count} of {row['random_neurons']} random neurons of its layer change it as much"
        parts.append(f"{words} it is {_nats(row, 'loss')} (change {change}{beside})")
    return (
        f"On athletes of {none['sport']} (n = {none['n']:,}) the loss is {_nats(none, 'loss')} nats; with {none['neuron']} "
        f"{'; '.join(parts)}."
    )


def _best(scan: pl.DataFrame, half: str) -> list[Row]:
    return list(scan.filter(rank=1, chosen_on=half).iter_rows(named=True))


def _who(row: Row) -> str:
    return f"{row['neuron']}{' (low on it)' if row['sign'] < 0 else ''}"


def _nats(row: Row, name: str) -> str:
    return number(row, name, ".3f")


def _signed(row: Row, name: str) -> str:
    return number(row, name, "+.3f")


def auc_in_words(row: Row) -> str:
    """An AUC with its interval."""
    return number(row, "auc", ".2f")
