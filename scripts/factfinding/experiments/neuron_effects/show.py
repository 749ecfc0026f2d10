"""P3.2: the effects of single neurons on two facts, and which facts the model was asked."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from factfinding.figures import style
from factfinding.findings.words import Tables, known_rule, percent, share
from factfinding.known import STUDY_RULE, Rule

PAIRS = {"most": "most alike", "least": "least alike"}
KINDS = {"mean": "its mean instead", "resample_other": "another <answer>'s <subject>'s instead"}
KNOWN = style.LOOKS["known"][0], style.LOOKS["unknown"][0]
"""Colours of answers that are known and not."""
SHOWN = 16
"""Facts of the last panel: those asked most often."""


NAMED = 5
"""Facts that are named in a sentence."""
"""The study's: P > 0.5."""


@style.styled
def draw_neuron_effects(
    *,
    neuron_pairs: pl.DataFrame,
    neuron_facts: pl.DataFrame,
    neuron_effects_twin: pl.DataFrame,
    neuron_effects_screen: pl.DataFrame,
) -> Figure:
    """Left, every neuron's effect on one fact against that on another, for two pairs of facts of one subject; right,
    the probability of each answer that was asked for.

    Frames: the tables of these names.
    """
    neuron_facts = neuron_facts.filter(pl.col("left_out").is_null())
    if neuron_facts.is_empty():
        return style.nothing_to_draw("no facts were asked")
    counts = (
        neuron_facts.group_by("fact", maintain_order=True)
        .len()
        .sort("len", descending=True, maintain_order=True)
    )
    facts = counts["fact"].head(SHOWN).to_list()
    pairs = [pair for pair in PAIRS if pair in neuron_pairs["pair"]]
    figure = style.new_figure(1.5 + max(2.3, 0.2 * len(facts)))
    panels = figure.subplots(1, len(pairs) + 1, squeeze=False)[0]
    looks, handles = {kind: style.look(kind) for kind in KINDS if kind in neuron_pairs["kind"]}, []
    for axes, pair in zip(panels, pairs, strict=False):
        handles = _scatter(axes, neuron_pairs.filter(pair=pair), looks)
        axes.set_title(f"the pair {PAIRS[pair]}:\n{neuron_pairs.filter(pair=pair)['subject'][0]}")
    _asked(panels[-1], neuron_facts, facts)
    for known, colour, words in zip((True, False), KNOWN, ("known", "not known"), strict=True):
        if known in neuron_facts["known"]:
            handles.append(Line2D([], [], ls="", marker="|", markersize=8, color=colour, label=words))
    if neuron_effects_twin.height:
        words = f"Computed again by hooks on the whole model: within {_worst(neuron_effects_twin)}."
        words += "".join(f"\n{sentence}" for sentence in _screened(neuron_effects_screen)[:1])
        figure.supxlabel(words, fontsize=8, x=0.01, ha="left")
    style.legend_above(figure, handles, columns=2)
    return figure


def _scatter(axes: Axes, rows: pl.DataFrame, looks: dict) -> list:
    handles = []
    for kind, look in looks.items():
        part = rows.filter(kind=kind)
        look = look | {"ls": "", "markersize": 2.6, "alpha": 0.7}
        look["rasterized"] = True  # thousands of points as shapes would make most of the page
        handles += axes.plot(part["effect"], part["other_effect"], label=KINDS[kind], **look)
    axes.axhline(0, color=style.INK, linewidth=0.7)
    axes.axvline(0, color=style.INK, linewidth=0.7)
    axes.locator_params(axis="y", nbins=4)
    axes.locator_params(axis="x", nbins=2)  # small numbers are long, and the panel is narrow
    axes.set(xlabel=f"{rows['fact'][0]} (nats)", ylabel=f"{rows['other_fact'][0]} (nats)")
    return handles


def _asked(axes: Axes, neuron_facts: pl.DataFrame, facts: list[str]) -> None:
    """A stroke for each subject's answer."""
    for known, colour in zip((True, False), KNOWN, strict=True):
        part = neuron_facts.filter(pl.col("fact").is_in(facts), pl.col("known") == known)
        at = [facts.index(fact) for fact in part["fact"]]
        axes.plot(100 * part["p"], at, ls="", marker="|", markersize=8, color=colour, alpha=0.7)
    axes.set_yticks(range(len(facts)), facts)
    axes.set(xlim=(-3, 103), ylim=(len(facts) - 0.4, -0.6), xlabel="P(answer) (%)")
    n = neuron_facts["subject"].n_unique()
    axes.set_title(f"facts asked\nn = {n:,} {'<subject>' if n == 1 else '<subjects>'}")


def sentences(tables: Tables) -> list[str]:
    """What the tables say, the sentence of the summary first."""
    asked = asked_findings(tables["neuron_facts"], tables["neuron_effects_twin"], known_rule(tables))
    return asked + _screened(tables.get("neuron_effects_screen"))


def _screened(screen: pl.DataFrame | None) -> list[str]:
    """What is an estimate, and what the neurons drawn from the estimates say of them."""
    if screen is None or screen.is_empty():
        return []
    rows = screen.filter(pl.col("layer").is_null())
    run, effects = rows["largest"].sum() + rows["n"].sum(), rows["effects"].sum()
    found = [
        f"Of {effects:,} effects {run:,} were run ({percent(run / effects)}); the others are estimates by slopes."
    ]
    checked = rows.filter(pl.col("n") > 0, pl.col("error_share").is_not_null())
    for row in checked.iter_rows(named=True):
        found.append(
            f"Put in {KINDS[row['kind']]}: of {row['n']:,} neurons drawn from those that the slopes called small, 95 % of the "
            f"estimates are off by {percent(row['error_share'])} of the largest effect in their layer or less, and "
            f"{share(row, 'missed')} are larger than the smallest that was chosen."
        )
    return found


def asked_findings(
    neuron_facts: pl.DataFrame, neuron_effects_twin: pl.DataFrame, rule: Rule = STUDY_RULE
) -> list[str]:
    """From the tables `neuron_facts` and `neuron_effects_twin` (P3.2): what is known, and by which rule, what is left out, how
    exact."""
    left_out = neuron_facts.filter(pl.col("left_out").is_not_null())
    neuron_facts = neuron_facts.filter(pl.col("left_out").is_null())
    if neuron_facts.is_empty():
        return ["No facts were asked; `neurons.facts` names a table of facts.", *_not_asked(left_out)]
    known, people = neuron_facts.filter("known"), neuron_facts["subject"].n_unique()
    used = neuron_facts.filter("used")
    found = [
        (
            f"Of {neuron_facts.height:,} facts asked of {people:,} <subjects>, {known.height:,} are known ({rule.words}); "
            f"{used.height:,} facts of {used['subject'].n_unique():,} <subjects> go into the comparison."
        )
    ]
    found += _left_out(neuron_facts.filter(~pl.col("known"))) + _not_asked(left_out)
    if neuron_effects_twin.height:
        found.append(
            f"{neuron_effects_twin['rows'].sum():,} effects computed again by hooks on the whole model differ by at most "
            f"{_worst(neuron_effects_twin)}."
        )
    return found


def _worst(twin: pl.DataFrame) -> str:
    """The largest error of the effects that were computed again, relative to the largest effect where there is one."""
    relative = twin["relative_error"].max()
    if relative is None:
        return f"{twin['largest_error'].max():.1g} nats, and no neuron has an effect"
    return f"{relative:.1g} of the largest effect"


def _left_out(unknown: pl.DataFrame) -> list[str]:
    """The facts that are not known, by name as far as there is room."""
    if unknown.is_empty():
        return []
    named = [
        f"{fact} of {subject}" for subject, fact in unknown.head(NAMED).select("subject", "fact").iter_rows()
    ]
    more = f" and {unknown.height - NAMED:,} more (all in neuron_facts)" if unknown.height > NAMED else ""
    return [f"Not known: {', '.join(named)}{more}."]


def _not_asked(left_out: pl.DataFrame) -> list[str]:
    """The facts that no token can be asked for, with the reason, as far as there is room."""
    if left_out.is_empty():
        return []
    rows = left_out.head(NAMED).select("fact", "subject", "fact_answer", "left_out").iter_rows()
    named = [f"{fact} of {subject} ({answer!r}: {reason})" for fact, subject, answer, reason in rows]
    more = f"; and {left_out.height - NAMED:,} more (all in neuron_facts)" if left_out.height > NAMED else ""
    return [f"Not asked, for want of a token that stands for the answer: {'; '.join(named)}{more}."]
