"""P3.4: who fires the neurons that tell an answer, and what the model loses without them.

A neuron is said to tell its answer if the best of all neurons does as well under shuffled answers in fewer than 5 % of
the shufflings. What the model loses is said twice, as loss and as answers: a loss can rise where every answer stays.
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

KINDS = {
    "none": ("unchanged", style.INK, "o"),
    "mean": ("its mean instead", style.GREY, "s"),
    "zero": ("zero instead", style.INK, "^"),
}
"""Kinds of ablation: words, colour and marker. Colours are those of no answer; the panels above have all of these."""


NO_NEURON = (
    "No neuron was chosen: no lookup was found at the name, or too few <subjects> are known to choose on one half and score "
    "on the other."
)
SURE = 0.05
ABLATED = {"mean": "at its mean over <subjects>", "zero": "at zero"}


@style.styled
def draw_answer_neurons(
    *,
    answer_neurons: pl.DataFrame,
    answer_neuron_histograms: pl.DataFrame,
    answer_neuron_ablations: pl.DataFrame,
) -> Figure:
    """Above, a panel per neuron: its activations by answer; below, losses on its answer under ablation.

    Frames: the tables of these names.
    """
    neurons = shown(answer_neuron_histograms)
    if neurons.is_empty():
        return style.nothing_to_draw(
            "no lookup was found, or too few <subjects> are known to choose a neuron"
        )
    panels = neurons.group_by("neuron", maintain_order=True).agg("answer", pl.col("chosen_by").first())
    rows, height = ceil(panels.height / COLUMNS), 0.9 + 0.34 * neurons.height
    figure = style.new_figure(0.9 + 2.3 * rows + height)
    grid = figure.add_gridspec(rows + 1, min(COLUMNS, panels.height), height_ratios=[2.3] * rows + [height])
    looks = style.marks(answer_neuron_histograms["subjects_answer"].unique().sort().to_list())
    handles: dict[str, object] = {}
    for i, row in enumerate(panels.iter_rows(named=True)):
        axes = figure.add_subplot(grid[i // COLUMNS, i % COLUMNS])
        bars = answer_neuron_histograms.filter(
            neuron=row["neuron"], answer=row["answer"][0], chosen_by=row["chosen_by"]
        )
        handles |= _histogram(axes, bars, looks)
        who = [f"{answer}{_held_out(answer_neurons, row['neuron'], answer)}" for answer in row["answer"]]
        half = " (held out)" if row["chosen_by"] == "scan" else ""
        axes.set_title("\n".join([row["neuron"], *who, f"n = {bars['n'][0]:,}{half}"]))
        axes.set(xlabel="activation", ylabel="" if i % COLUMNS else "<subjects> (% of their <answer>)")
    handles |= _losses(figure.add_subplot(grid[rows, :]), answer_neuron_ablations, neurons)
    style.legend_above(figure, list(handles.values()), columns=3)
    return figure


def shown(table: pl.DataFrame) -> pl.DataFrame:
    """The neurons that are drawn, each once for each <answer>: columns neuron, answer, chosen_by; those of the scan first."""
    who = table.select("neuron", "answer", "chosen_by").unique(maintain_order=True)
    ordered = who.sort(pl.col("chosen_by") != "scan", maintain_order=True)
    return ordered.unique(["neuron", "answer"], keep="first", maintain_order=True).head(SHOWN)


def _held_out(scan: pl.DataFrame, neuron: str, answer: str) -> str:
    """The held-out AUC of a neuron that the scan chose."""
    if scan.is_empty():  # neurons that the configuration names are drawn all the same
        return ""
    found = scan.filter(chosen_on="first", rank=1, neuron=neuron, answer=answer)
    return f": AUC {found['auc'][0]:.2f}{' (low)' if found['sign'][0] < 0 else ''}" if found.height else ""


def _histogram(axes: Axes, bars: pl.DataFrame, looks: dict) -> dict[str, object]:
    handles: dict[str, object] = {}
    for answer in bars["subjects_answer"].unique(maintain_order=True):
        part, (colour, dash, _) = bars.filter(subjects_answer=answer), looks[answer]
        edges = [*part["low"], part["high"][-1]]
        share = (100 * part["subjects"] / part["subjects"].sum()).to_list()
        look = {"color": colour, "ls": dash, "linewidth": 1.3, "label": f"<subjects>: {answer}"}
        (handles[answer],) = axes.step(edges, [*share, share[-1]], where="post", **look)
    axes.set_ylim(bottom=0)
    return handles


def _losses(axes: Axes, table: pl.DataFrame, neurons: pl.DataFrame) -> dict[str, object]:
    """A row per neuron: losses with their intervals, and that of the random neuron that matters most."""
    handles: dict[str, object] = {}
    rows = neurons.iter_rows(named=True)
    for y, who in enumerate(rows):
        mine = table.filter(neuron=who["neuron"], answer=who["answer"], chosen_by=who["chosen_by"])
        unchanged = mine.filter(kind="none")["loss"][0]
        for shift, (kind, (label, colour, marker)) in zip((-0.22, 0, 0.22), KINDS.items(), strict=True):
            row = mine.filter(kind=kind).row(0, named=True)
            low, high = (row["loss"] if row[end] is None else row[end] for end in ("loss_low", "loss_high"))
            axes.plot([low, high], [y + shift] * 2, color=colour, linewidth=1.2)
            look = {"ls": "", "marker": marker, "color": colour, "label": label}
            (handles[kind],) = axes.plot([row["loss"]], [y + shift], **look)
            if row["random_largest"] is not None:
                label = f"largest of {row['random_neurons']:,} random neurons"
                at = unchanged + row["random_largest"]
                look = {"ls": "", "marker": "x", "color": style.GREY, "markersize": 5, "label": label}
                (handles["random"],) = axes.plot([at], [y + shift], **look)
    names = [f"{row['neuron']} ({row['answer']})" for row in neurons.iter_rows(named=True)]
    axes.set_yticks(range(len(names)), names)
    axes.set(
        ylim=(len(names) - 0.5, -0.5), xlabel="loss of the whole model on <subjects> of that <answer> (nats)"
    )
    axes.set_ylabel("neuron (<answer>)")
    axes.set_title(f"ablated at the final name token, n = {_span(table['n'])} <subjects> each")
    return handles


def _span(n: pl.Series) -> str:
    return f"{n.min():,}" if n.min() == n.max() else f"{n.min():,} to {n.max():,}"


def sentences(tables: Tables) -> list[str]:
    """What the tables say, the sentence of the summary first."""
    return [*scan_findings(tables["answer_neurons"]), *ablation_findings(tables["answer_neuron_ablations"])]


def scan_findings(answer_neurons: pl.DataFrame) -> list[str]:
    """From the table `answer_neurons`: the best neuron of each answer, and whether both halves choose it."""
    if answer_neurons.is_empty():
        return [NO_NEURON]
    best = answer_neurons.filter(rank=1, chosen_on="first")
    rows = list(best.sort("auc", descending=True).iter_rows(named=True))
    told = [row for row in rows if row["p_corrected"] < SURE]
    named = "; ".join(f"{row['answer']}: {_who(row)}, {auc_in_words(row)}" for row in rows[:4])
    chance = max(row["chance_best"] for row in rows)
    found = [
        (
            f"For {len(told)} of {len(rows)} <answers> one neuron tells the <answer> better than the best of all "
            f"{rows[0]['neurons_tried']:,} does by chance (p < {SURE}, corrected for the neurons). Chosen on one half of the "
            "<subjects> and "
            f"scored on the other (AUC; chance 0.5, the best on shuffled <answers> up to {chance:.2f}; "
            f"n = {rows[0]['n']:,}): {named}."
        )
    ]
    again = {row["answer"]: row["neuron"] for row in _best(answer_neurons, "second")}
    same = sum(again.get(row["answer"]) == row["neuron"] for row in rows)
    found.append(f"The other half chooses the same neuron for {same} of {len(rows)} <answers>.")
    several = {row["neuron"] for row in rows if sum(row["neuron"] == r["neuron"] for r in rows) > 1}
    found += [
        f"{neuron} is chosen for more than one <answer>, so it is no neuron of one <answer> alone."
        for neuron in sorted(several)
    ]
    return found


def ablation_findings(ablations: pl.DataFrame) -> list[str]:
    """From the table `answer_neuron_ablations`: losses without the neuron, beside random neurons of its layer."""
    found = []
    neurons = ablations.select("neuron", "answer", "chosen_by").unique(maintain_order=True)
    for neuron, answer, chosen_by in neurons.head(4).iter_rows():
        rows = {
            row["kind"]: row
            for row in ablations.filter(neuron=neuron, answer=answer, chosen_by=chosen_by).iter_rows(
                named=True
            )
        }
        found.append(_loss(rows))
    return found


def _loss(rows: dict[str, Row]) -> str:
    """Loss and right answers, unchanged and with the neuron ablated."""
    none = rows["none"]
    told = (
        f"On {none['n']:,} <subjects> of {none['answer']} that {none['neuron']} was not chosen on the loss is "
        f"{_nats(none, 'loss')} nats and {share(none, 'accuracy')} of the answers are right (the <answer> is that of "
        f"{percent(none['base_rate'])} of all <subjects> there)."
    )
    return " ".join([told, *(_without(rows[kind], words) for kind, words in ABLATED.items())])


def _without(row: Row, words: str) -> str:
    beside = ""
    if row["random_as_large"] is not None:
        count = round(row["random_as_large"] * row["random_neurons"])
        beside = f"; {count} of {row['random_neurons']} random neurons of its layer change it as much"
    return (
        f"With the neuron {words} the loss is {_nats(row, 'loss')} (change {_signed(row, 'change')}{beside}), and "
        f"{share(row, 'accuracy')} are right (change {number(row, 'accuracy_change', '+.1f', scale=100)} points)."
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
