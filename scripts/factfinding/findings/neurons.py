"""What the tables on single neurons say (P3.2), in sentences; the rules stand in findings/__init__.py."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from factfinding.findings.words import Row, Tables, number, percent

NO_PAIRS = (
    "No neuron was replaced: no lookup was found at the name, or there is nobody of whom two facts are known."
)
NAMED = 5
"""Facts that are named in a sentence."""
ORDER = ("resample_other", "mean")
"""The reading that is told first."""
IDLE = 0.1
"""A layer with a smaller part of an equal share of the effects does nothing for the facts, and its correlation is left out."""
APART = 0.1
"""How far apart the correlations of two layers must surely be to be called different."""
READINGS = {
    "mean": "replaced by their mean",
    "resample_other": "replaced by values of athletes of another sport",
}


def correlation_findings(fact_correlations: pl.DataFrame, effect_concentration: pl.DataFrame) -> list[str]:
    """From the tables of those names (P3.2): how alike two facts of an athlete are, against two athletes, and in which
    layers. Rank correlations are left alone: they are decided by the many neurons that hardly matter."""
    if fact_correlations.filter(athletes="same").is_empty():
        return [NO_PAIRS]
    told = []
    for kind in (kind for kind in ORDER if kind in fact_correlations["kind"]):
        rows = fact_correlations.filter(kind=kind)
        told += _alike(rows.filter(layers="all"), kind)
        told += _by_layer(rows.filter(pl.col("layers") != "all"), effect_concentration.filter(kind=kind))
    return told


def _alike(table: pl.DataFrame, kind: str) -> list[str]:
    """The mean over all pairs of facts, with its interval, and the pairs that are most and least alike."""
    pairs = table.filter(pl.col("fact") != "all", athletes="same", statistic="pearson")
    mean = table.filter(fact="all", athletes="same", statistic="pearson").row(0, named=True)
    of_pairs = f"{pairs.height:,} pair{'s' if pairs.height > 1 else ''} of facts"
    found = [
        (
            f"With single neurons {READINGS[kind]}, the effects on two facts of one athlete correlate at "
            f"{_mean(table, 'same', 'pearson')} (mean over {of_pairs}, n = {mean['n']:,} athlete{'s' if mean['n'] > 1 else ''}; one fact of "
            f"two athletes: {_mean(table, 'different', 'pearson')}{_ceiling(mean)}), their sizes at "
            f"{_mean(table, 'same', 'absolute')} (one fact of two athletes: {_mean(table, 'different', 'absolute')})."
        )
    ]
    ranked = pairs.sort("value", descending=True, maintain_order=True)
    most, least = ranked.row(0, named=True), ranked.row(-1, named=True)
    if ranked.height > 1:
        found.append(f"Most alike are {_pair(most)}; least, {_pair(least)}.")
    return found


def _by_layer(table: pl.DataFrame, concentration: pl.DataFrame) -> list[str]:
    """Pearson's correlation over the neurons of single layers that do something for the facts, and how these differ."""
    sizes = concentration.filter(measure="layer", fact="all").select("layer", share="value")
    rows = table.filter(athletes="same", statistic="pearson").with_columns(
        layer=pl.col("layers").cast(pl.Int64)
    )
    rows = rows.join(sizes, on="layer").sort("layer")
    if rows.height < 2:
        return []
    works = rows.filter(pl.col("share") * rows.height >= IDLE)
    idle = rows.filter(pl.col("share") * rows.height < IDLE)["layer"].to_list()
    told = "Over the neurons of one MLP alone (each athlete's mean over pairs of facts): "
    told += "; ".join(_layer(row) for row in works.iter_rows(named=True))
    if idle:
        told += f"; left out, as they have hardly any of the effects, MLP {', '.join(map(str, idle))}"
    ranked = works.sort("value", descending=True, maintain_order=True)
    most, least = ranked.row(0, named=True), ranked.row(-1, named=True)
    if works.height < 2 or None in (most["value_low"], least["value_high"]):
        return [f"{told}."]
    if most["value_low"] - least["value_high"] <= APART:
        return [f"{told}. They do not surely differ by more than {APART}."]
    hashed = ", as where single facts are looked up by what a hash of the name wrote" * (
        most["layer"] < least["layer"]
    )
    return [
        f"{told}. So facts share neurons more in MLP {most['layer']} than in MLP {least['layer']}{hashed}."
    ]


def _layer(row: Row) -> str:
    return f"MLP {row['layer']} {_correlation(row)} (n = {row['n']:,}; {percent(row['share'])} of the summed effects)"


def _mean(table: pl.DataFrame, athletes: str, statistic: str) -> str:
    """The mean over all pairs of facts, with its interval."""
    rows = table.filter(fact="all", athletes=athletes, statistic=statistic)
    return "there are no two" if rows.is_empty() else _correlation(rows.row(0, named=True))


def _ceiling(mean: Row) -> str:
    return "" if mean["ceiling"] is None else f"; the noise of the draws allows {mean['ceiling']:.2f}"


def _pair(row: Row) -> str:
    return f"{row['fact']} and {row['other_fact']} at {_correlation(row)} (n = {row['n']:,})"


def _correlation(row: Row) -> str:
    over = " over neurons" if row["interval"] == "neurons" else ""
    return f"{number(row, 'value', '.2f')}{over}"


def asked_findings(neuron_facts: pl.DataFrame, neuron_effects_twin: pl.DataFrame) -> list[str]:
    """From the tables `neuron_facts` and `neuron_effects_twin` (P3.2): what is known, what is left out, how exact."""
    if neuron_facts.is_empty():
        return ["No facts were asked."]
    known, people = neuron_facts.filter("known"), neuron_facts["athlete"].n_unique()
    used = neuron_facts.filter("used")
    found = [
        (
            f"Of {neuron_facts.height:,} facts asked of {people:,} athletes, {known.height:,} are known (P above 0.5); "
            f"{used.height:,} facts of {used['athlete'].n_unique():,} athletes go into the comparison."
        )
    ]
    found += _left_out(neuron_facts.filter(~pl.col("known")))
    if neuron_effects_twin.height:
        worst, rows = neuron_effects_twin["relative_error"].max(), neuron_effects_twin["rows"].sum()
        found.append(
            f"{rows:,} effects computed again by hooks on the whole model differ by at most {worst:.1g} of the largest effect."
        )
    return found


def _left_out(unknown: pl.DataFrame) -> list[str]:
    """The facts that are not known, by name as far as there is room."""
    if unknown.is_empty():
        return []
    named = [
        f"{fact} of {athlete}" for athlete, fact in unknown.head(NAMED).select("athlete", "fact").iter_rows()
    ]
    more = f" and {unknown.height - NAMED:,} more (all in neuron_facts)" if unknown.height > NAMED else ""
    return [f"Not known: {', '.join(named)}{more}."]


def concentration_findings(effect_concentration: pl.DataFrame) -> list[str]:
    """From the table `effect_concentration` (P3.2): the share of the largest neurons, and the participation ratio."""
    if effect_concentration.is_empty():
        return [NO_PAIRS]
    kinds = [kind for kind in ORDER if kind in effect_concentration["kind"]]
    return [_concentrated(effect_concentration.filter(fact="all", kind=kind), kind) for kind in kinds]


def _concentrated(rows: pl.DataFrame, kind: str) -> str:
    shares = {row["top"]: row for row in rows.filter(measure="top").iter_rows(named=True)}
    ratio = rows.filter(measure="participation_ratio").row(0, named=True)
    told = [
        f"the largest {'one' if top == 1 else f'{top:,}'} {'carries' if top == 1 else 'carry'} {_interval(shares[top], 100)} %"
        for top in (1, 10, 100)
        if top in shares
    ]
    return (
        f"Of {ratio['n_neurons']:,} neurons {READINGS[kind]}, {', '.join(told)} of the summed absolute effect on a fact; as "
        f"many as {_interval(ratio, 1)} carrying alike would share it so (participation ratio; n = {ratio['n']:,} athletes; "
        f"effects from one normal distribution: {percent(shares[min(shares)]['gaussian'])} for the largest, and "
        f"{ratio['gaussian']:.0f})."
    )


def _interval(row: Row, scale: float) -> str:
    return number(row, "value", ".1f", scale=scale)


FINDINGS: dict[str, Callable[[Tables], list[str]]] = {
    "neuron_effects": lambda tables: asked_findings(tables["neuron_facts"], tables["neuron_effects_twin"]),
    "fact_correlations": lambda tables: correlation_findings(
        tables["fact_correlations"], tables["effect_concentration"]
    ),
    "effect_concentration": lambda tables: concentration_findings(tables["effect_concentration"]),
}
