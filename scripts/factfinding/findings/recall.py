"""What the tables on recall, probes and the circuit checks say (P2.1, P2.6), in sentences."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from factfinding.figures.circuit_checks import donor_curve
from factfinding.figures.layer_probes import FOLDS
from factfinding.figures.style import CONDITIONS
from factfinding.findings.words import (
    FEW,
    READ_WELL,
    Row,
    Tables,
    at_layer,
    either,
    layers_in_words,
    percent,
    share,
)

ADDITIVE_ENOUGH = 0.95


_INTERVENTIONS = {
    "mlps_at_name": (
        "all MLPs at the final name token averaged",
        "the lookup needs these MLPs",
        "there is no sign that the lookup needs these MLPs",
    ),
    "mlps_after_name": (
        "all MLPs at the later positions averaged",
        "part of the work is done after the name",
        "there is no sign of work done after the name",
    ),
    "late_attention_at_name": (
        "attention from layer 2 on averaged at the final name token",
        "the name is still being gathered in later layers",
        "there is no sign that layers after 1 still gather the name",
    ),
    "name_pattern_frozen": (
        "the final name token's attention patterns averaged",
        "where the attention looks carries part of the answer, which probes and patching do not see",
        "there is no sign that where the attention looks carries the answer",
    ),
    "earlier_name_hidden": (
        "the earlier name tokens hidden from the later positions",
        "later positions read more of the name than its final token",
        "there is no sign that more of the name is read than its final token",
    ),
}
"""What was done, what follows if fewer answers stay right, and what may be said if no fall is measured."""


def training_findings(training: pl.DataFrame, *, fictional: bool) -> list[str]:
    """From training.csv: columns step, tokens, seconds, loss, active, recalled."""
    if training.is_empty():
        return ["The training took no step."]
    last = training.sort("step").row(-1, named=True)
    found = [
        (
            f"After {last['step']:,} steps and {last['tokens']:,} tokens ({last['seconds'] / 60:.1f} minutes) the model had "
            f"been told about {last['active']:,} people; of those asked about at the last look it recalled "
            f"{percent(last['recalled'])}, at a loss of {last['loss']:.2f} nats per token."
        )
    ]
    if fictional:
        found.append("The people are fictional: their names and facts were drawn at random.")
    return found


def recall_findings(recall_summary: pl.DataFrame) -> list[str]:
    """From the table `recall_summary` (P2.1)."""
    whole = {row["condition"]: row for row in recall_summary.filter(group="all").iter_rows(named=True)}
    full, zero_shot = whole["full"], whole["zero_shot"]
    recalled = round(full["recalled"] * full["n"])
    found = [
        (
            f"After one example the model recalls the sport of {recalled:,} of {full['n']:,} athletes "
            f"({share(full, 'recalled')}: P\N{NO-BREAK SPACE}>\N{NO-BREAK SPACE}0.5). Among the candidate sports its likeliest is right for "
            f"{share(full, 'accuracy')}; always naming the commonest sport is right for {percent(full['majority_rate'])}."
        )
    ]
    if full["accuracy_low"] <= full["majority_rate"]:
        found.append(
            "That is not above always naming the commonest sport: nothing here shows that the model knows these "
            "athletes, so there is no recall whose workings the other sections could explain."
        )
    found.append(
        f"Without the example it recalls {share(zero_shot, 'recalled')} of the same athletes, "
        f"{_compared(zero_shot, full, 'recalled')}."
    )
    found += _extremes(recall_summary.filter(group="sport"), "By sport", lambda level: level)
    lengths = recall_summary.filter(group="n_name_tokens", condition="full")
    if lengths.height == 1:
        found.append(f"All names have {_tokens(lengths['level'][0])}.")
    else:
        found += _extremes(recall_summary.filter(group="n_name_tokens"), "By length of the name", _tokens)
    return found


def probe_findings(layer_probes: pl.DataFrame) -> list[str]:
    """From the table `layer_probes` (P2.6): where the sport can be read, then what the name alone gives away."""
    probes = layer_probes.filter(input="resid", labels="true")
    if probes.is_empty():
        return ["No layer was probed."]
    folds = [kind for kind in FOLDS if kind in probes["folds"]][-1]
    strict = probes.filter(folds=folds).partition_by("condition", maintain_order=True)
    readable = [_readable(layer_probes, rows) for rows in strict]
    return readable + additive_findings(layer_probes) + _above_additive(layer_probes, strict[0])


def additive_findings(layer_probes: pl.DataFrame) -> list[str]:
    """What a sum of one term per name token can do: from the rows with folds "none" of the table `layer_probes`."""
    fitted = layer_probes.filter(input="name_tokens", folds="none")
    if fitted.is_empty():
        return []
    true = fitted.filter(labels="true").row(0, named=True)
    told = (
        f"A sum of one term per name token, with no model, fitted to all {true['n']:,} athletes and scored on the same "
        f"ones, gives the right sport for {share(true, 'accuracy')}"
    )
    if true["accuracy"] >= ADDITIVE_ENOUGH:
        told += (
            f", which is {100 * ADDITIVE_ENOUGH:.0f} % or more: on these names recall alone does not show that the "
            "tokens of a name are looked up together."
        )
    else:
        told += f": adding up its tokens is not enough for the other {percent(1 - true['accuracy'])}."
    shuffled = fitted.filter(labels="shuffled")
    if shuffled.height:
        row = shuffled.row(0, named=True)
        told += f" Fitted to shuffled sports the same sum reaches {share(row, 'accuracy')}: so much is mere capacity."
    return [told]


def _above_additive(layer_probes: pl.DataFrame, probes: pl.DataFrame) -> list[str]:
    """The layers at which a probe that has not seen the athletes beats the sum over tokens that has."""
    fitted = layer_probes.filter(input="name_tokens", folds="none", labels="true")
    if fitted.is_empty():
        return []
    rows = probes.sort("layer")
    above = rows.filter(pl.col("accuracy_low") > fitted["accuracy_high"][0])
    where = CONDITIONS.get(rows["condition"][0], rows["condition"][0])
    if above.is_empty():
        best = rows.row(rows["accuracy"].arg_max(), named=True)
        beside = f"{where}; at best {share(best, 'accuracy')} {at_layer(best['layer'])}"
        return [f"At no layer is the held-out probe above that fitted sum ({beside})."]
    first, layers = (
        above.row(0, named=True),
        layers_in_words(above["layer"].to_list(), rows["layer"].to_list()),
    )
    beside = f"{where}; {share(first, 'accuracy')} {at_layer(first['layer'])}"
    return [
        f"The held-out probe is above that fitted sum {layers} ({beside}): there the name's tokens are combined."
    ]


def check_findings(circuit_checks: pl.DataFrame) -> list[str]:
    """From the table `circuit_checks`: what the interventions leave, and which layers carry the donor's answer."""
    if circuit_checks.is_empty():
        return ["Too few athletes are known for any intervention: there is nothing to see."]
    rows = {row["check"]: row for row in circuit_checks.iter_rows(named=True)}
    clean = rows["clean"]
    if clean["accuracy_low"] <= clean["majority_rate"]:
        return [
            (
                f"With nothing changed the answers are right for {share(clean, 'accuracy')} of {clean['n']:,} athletes, not "
                f"above always naming the commonest sport ({percent(clean['majority_rate'])}): there is no recall to "
                "intervene on, and the figure shows noise."
            )
        ]
    found = [
        _intervention(rows[name], clean, *words) for name, words in _INTERVENTIONS.items() if name in rows
    ]
    return found + _donors(donor_curve(circuit_checks))


def _tokens(level: str) -> str:
    return "1 token" if level == "1" else f"{level} tokens"


def _compared(row: Row, other: Row, name: str) -> str:
    """Higher, lower or neither, as the intervals have it."""
    if row[f"{name}_low"] > other[f"{name}_high"]:
        return "more than after it"
    if row[f"{name}_high"] < other[f"{name}_low"]:
        return "fewer than after it"
    return "no clear difference"


def _extremes(summary: pl.DataFrame, by: str, words) -> list[str]:
    """The groups with the least and the most recalled under `full`, groups of a few athletes left out."""
    rows = summary.filter((pl.col("condition") == "full") & (pl.col("n") >= FEW)).sort(
        "recalled", maintain_order=True
    )
    if rows.height < 2:
        return []
    least, most = rows.row(0, named=True), rows.row(-1, named=True)
    ends = [f"{share(row, 'recalled')} ({words(row['level'])}, n = {row['n']:,})" for row in (least, most)]
    if least["recalled_high"] >= most["recalled_low"]:
        return [f"{by} there is no clear difference: at least {ends[0]} and at most {ends[1]} are recalled."]
    return [f"{by}, the recalled share runs from {ends[0]} to {ends[1]}."]


def _readable(table: pl.DataFrame, probes: pl.DataFrame) -> str:
    """One condition and one kind of folds: the layers at which the probe is above everything beside it."""
    condition, folds = probes["condition"][0], probes["folds"][0]
    rivals = table.filter(pl.col("input").is_in(["name_string", "name_tokens"]), labels="true", folds=folds)
    shuffled = dict(
        table.filter(input="resid", labels="shuffled", condition=condition, folds=folds)
        .select("layer", "accuracy_high")
        .iter_rows()
    )
    majority = probes["majority_rate"][0]
    bar = max([majority, *rivals["accuracy_high"]])
    rows = list(probes.sort("layer").iter_rows(named=True))
    above = [row for row in rows if row["accuracy_low"] > max(bar, shuffled.get(row["layer"], 0.0))]
    best = max(rows, key=lambda row: row["accuracy"])
    beside = ["by naming the commonest sport"]
    beside += ["from the name without a model"] * bool(rivals.height) + ["from shuffled labels"] * bool(
        shuffled
    )
    setting = f"{CONDITIONS.get(condition, condition)}; n = {best['n']:,}, {FOLDS[folds]}"
    baselines = f"commonest sport {percent(majority)}" + "".join(
        f", {'letters' if row['input'] == 'name_string' else 'tokens'} of the name {percent(row['accuracy'])}"
        for row in rivals.iter_rows(named=True)
    )
    if not above:
        return (
            f"At no layer can the sport be read at the final name token better than {either(beside)} ({setting}): "
            f"the best is {share(best, 'accuracy')}, {at_layer(best['layer'])}; {baselines}. There is nothing to see."
        )
    probed = [row["layer"] for row in rows]
    better = f"{layers_in_words([row['layer'] for row in above], probed)} ({share(above[0], 'accuracy')} {at_layer(above[0]['layer'])})"
    surely = [row for row in above if row["accuracy_low"] >= READ_WELL]
    ends = f"better than {either(beside)} {better}; at best {share(best, 'accuracy')} {at_layer(best['layer'])}; {baselines}."
    if not surely:
        return (
            f"The sport can be read at the final name token in part: at no layer surely for {100 * READ_WELL:.0f} % of "
            f"the athletes or more ({setting}), yet {ends}"
        )
    return (
        f"The sport can be read at the final name token {layers_in_words([row['layer'] for row in surely], probed)}, surely "
        f"for {100 * READ_WELL:.0f} % of the athletes or more ({setting}): {share(surely[0], 'accuracy')} "
        f"{at_layer(surely[0]['layer'])}. It is read {ends}"
    )


def _intervention(row: Row, clean: Row, what: str, if_it_falls: str, if_not: str) -> str:
    beside = f"{percent(clean['accuracy'])} with nothing changed, {percent(row['majority_rate'])} for the commonest sport"
    start = f"With {what}, {share(row, 'accuracy')} of {row['n']:,} answers stay right ({beside})"
    if row["accuracy_high"] >= clean["accuracy_low"]:
        return f"{start}: no fall is measured, so {if_not}."
    if row["accuracy_low"] <= row["majority_rate"]:
        return f"{start}: no more than by always naming the commonest sport, so {if_it_falls}."
    lost = (clean["accuracy"] - row["accuracy"]) / (clean["accuracy"] - row["majority_rate"])
    return f"{start}: {percent(lost)} of what the model knows beyond the commonest sport is lost, so {if_it_falls}."


def _donors(donors: pl.DataFrame) -> list[str]:
    if donors.is_empty():
        return []
    best = donors.sort("accuracy", descending=True, maintain_order=True).row(0, named=True)
    following = donors.filter(pl.col("accuracy_low") > 0.5)["layer"].to_list()
    where = layers_in_words(following, donors["layer"].to_list()) if following else "at no layer"
    return [
        (
            "When the residual stream at the final name token is taken from an athlete of another sport, more than half of "
            f"the answers are the donor's {where}; most {at_layer(best['layer'])}: {share(best, 'accuracy')} of {best['n']:,} "
            f"(the donors' commonest sport: {percent(best['majority_rate'])})."
        )
    ]


FINDINGS: dict[str, Callable[[Tables], list[str]]] = {
    "recall": lambda tables: recall_findings(tables["recall_summary"]),
    "layer_probes": lambda tables: probe_findings(tables["layer_probes"]),
    "circuit_checks": lambda tables: check_findings(tables["circuit_checks"]),
}
