"""What the tables on heads say (P2.2-P2.6), in sentences; the rules for them stand in findings/__init__.py.

A head is said to carry the answer if the whole interval of its change lies below zero. These intervals are those of
single heads: where many heads are tried, some small change will be below zero by chance, so sizes are given beside them.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from factfinding.figures.attention_roles import role_words
from factfinding.figures.layer_probes import FOLDS
from factfinding.figures.style import CONDITIONS
from factfinding.findings.words import NOBODY, READ_WELL, Row, Tables, at_layer, number, percent, share

NAMED = 4
"""Heads that are named in a sentence."""

WORTH_A_WORD = 0.01
"""Attention that is named."""


def direct_findings(direct_effects: pl.DataFrame) -> list[str]:
    """From the table `direct_effects` (P2.2)."""
    if direct_effects.is_empty():
        return [NOBODY]
    everybody = direct_effects.filter(sport="all")
    heads, whole = everybody.filter(kind="head"), everybody.filter(kind="all").row(0, named=True)
    carrying = list(heads.filter(pl.col("exact_high") < 0).sort("rank").iter_rows(named=True))
    scale = (
        f"n = {whole['n']:,}; with nothing changed the difference is {logits(whole, 'logit_difference')}, and replacing "
        f"all nodes at once changes it by {logits(whole, 'exact')}"
    )
    if not carrying:
        return [
            (
                f"Of {heads.height:,} heads none lowers the logit difference when its output at END is replaced by that of an "
                f"athlete of another sport ({scale})."
            )
        ]
    named = ", ".join(f"{row['node']} by {logits(row, 'exact')}" for row in carrying[:NAMED])
    first, total = carrying[0]["exact"], sum(row["exact"] for row in carrying)
    found = [
        (
            f"Replaced at END by the output for an athlete of another sport, {len(carrying):,} of {heads.height:,} heads lower "
            f"the logit difference, most of all {named} ({scale}). The first makes up {percent(first / total)} of what these "
            "heads do one by one."
        )
    ]
    mlps = everybody.filter(kind="mlp_out").sort("exact")
    found += [
        f"Of the MLPs at END, {_mlp(row)} changes it most: by {logits(row, 'exact')}."
        for row in mlps.head(1).iter_rows(named=True)
    ]
    return found + [_by_sport(direct_effects, row["node"]) for row in carrying[:1]]


def attention_findings(attention_roles: pl.DataFrame) -> list[str]:
    """From the table `attention_roles` (P2.3): where each of the heads looks most, and next."""
    if attention_roles.is_empty():
        return ["There are no heads that bring the answer to END: none whose attention could be looked at."]
    words, found = role_words(attention_roles), []
    for head in attention_roles["head"].unique(maintain_order=True).head(NAMED):
        rows = attention_roles.filter(head=head, sport="all").sort("attention", descending=True)
        most, *rest = rows.head(2).filter(pl.col("attention") >= WORTH_A_WORD).iter_rows(named=True)
        told = (
            f"From END, {head} gives {share(most, 'attention')} of its attention to {_place(words, most['role'])} "
            f"(n = {most['n']:,}; looking everywhere alike: {percent(most['uniform'])})"
        )
        told += "".join(
            f", and next {share(row, 'attention')} to {_place(words, row['role'])}" for row in rest
        )
        found.append(f"{told}.")
    return found


def input_findings(head_inputs: pl.DataFrame) -> list[str]:
    """From the table `head_inputs` (P2.4): the largest MLPs and the largest head that each head reads."""
    if head_inputs.is_empty():
        return ["There are no heads that bring the answer to END: none whose reading could be looked at."]
    return [
        _reading(head, head_inputs.filter(reader=head))
        for head in head_inputs["reader"].unique(maintain_order=True).head(NAMED)
    ]


def head_probe_findings(
    head_probes: pl.DataFrame, head_probe_layers: pl.DataFrame, layer_probes: pl.DataFrame
) -> list[str]:
    """From the tables `head_probes` (P2.5) and `head_probe_layers` (P2.6), beside logistic regression."""
    if head_probes.is_empty():
        return ["Too few athletes are known to choose a head on one half and score it on the other."]
    best = head_probes.filter(rank=1).row(0, named=True)
    better = head_probes.filter(pl.col("p_corrected") < 0.05).height
    where = (
        "the embeddings"
        if best["read_after"] < 0
        else f"the residual stream after layer {best['read_after']}"
    )
    found = [
        (
            f"Of {best['heads_tried']:,} heads as probes, the best on one half of the athletes, {best['head']}, is right for "
            f"{share(best, 'accuracy')} of the other half (n = {best['n']:,}) on {where}, which is what it reads; the commonest "
            f"sport gives {percent(best['majority_rate'])}, the best of all heads under shuffled sports up to "
            f"{percent(best['chance_best'])} (95 % point)."
        ),
        f"{better:,} of all heads do better than that best by chance (p < 0.05, corrected for the number of heads).",
        (
            f"How the norms are treated: with neither norm folded in, {best['head']} gives the same answer for "
            f"{share(best, 'same_unfolded')}, and divided by each athlete's own scale for {share(best, 'same_scaled')} "
            f"(right for {share(best, 'accuracy_unfolded')} and {share(best, 'accuracy_scaled')}); of all heads, the one that "
            f"changes most still gives the same answer for {percent(head_probes['same_unfolded'].min())} and "
            f"{percent(head_probes['same_scaled'].min())}."
        ),
    ]
    layers = head_probe_layers.filter(head=best["head"])
    for condition in layers["condition"].unique(maintain_order=True):
        rows = layers.filter(condition=condition).sort("layer")
        found.append(_by_layer(best["head"], condition, rows, layer_probes.filter(condition=condition)))
    return found


def logits(row: Row, name: str) -> str:
    """A number of logits with its interval; tiny ones keep their digits."""
    return number(row, name, "+.2f" if abs(row[name]) >= 0.1 else "+.4f")


def _mlp(row: Row) -> str:
    return f"MLP {row['layer']}"


def _place(words: dict[str, str], role: str) -> str:
    if role.endswith("_name"):
        return f"the {words[role]} token"
    return {"shot": "the example", "newline": "the line break after the example"}.get(role, words[role])


def _by_sport(table: pl.DataFrame, node: str) -> str:
    rows = table.filter((pl.col("node") == node) & (pl.col("sport") != "all")).sort("exact")
    most, least = rows.row(0, named=True), rows.row(-1, named=True)
    clear = "" if most["exact_high"] < least["exact_low"] else "; the intervals overlap"
    return (
        f"By sport of the athlete, {node} changes it by {logits(most, 'exact')} ({most['sport']}, n = {most['n']:,}) to "
        f"{logits(least, 'exact')} ({least['sport']}, n = {least['n']:,}){clear}."
    )


def _reading(head: str, rows: pl.DataFrame) -> str:
    whole = rows.filter(kind="all").row(0, named=True)
    mlps = rows.filter(kind="mlp_out").sort("exact").head(3)
    heads = rows.filter(kind="head").sort(pl.col("exact").abs(), descending=True).head(1)
    told = (
        f"Replacing all that {head} reads at the final name token changes the logit difference by "
        f"{logits(whole, 'exact')} through its value (n = {whole['n']:,})"
    )
    parts = [f"{_mlp(row)} alone by {logits(row, 'exact')}" for row in mlps.iter_rows(named=True)]
    parts += [
        f"of the heads it reads, {row['node']} most: {logits(row, 'exact')}"
        for row in heads.iter_rows(named=True)
    ]
    return f"{told}; {'; '.join(parts)}." if parts else f"{told}; no layer lies below it."


def _by_layer(head: str, condition: str, rows: pl.DataFrame, logistic: pl.DataFrame) -> str:
    fits = logistic.filter(input="resid", labels="true")
    strictest = [folds for folds in FOLDS if folds in fits["folds"]]
    setting = f"{CONDITIONS.get(condition, condition)}; n = {rows['n'].max():,}"
    told = f"By layer ({setting}), the probe of {head} is {_reached(rows)}"
    if not strictest:
        return f"{told}."
    return (
        f"{told}; logistic regression ({FOLDS[strictest[-1]]}) {_reached(fits.filter(folds=strictest[-1]))}."
    )


def _reached(rows: pl.DataFrame) -> str:
    """The first layer at which a curve is surely `READ_WELL`, and its best."""
    rows = rows.sort("layer")
    best = rows.sort("accuracy", descending=True, maintain_order=True).row(0, named=True)
    well = rows.filter(pl.col("accuracy_low") >= READ_WELL)["layer"]
    surely = f"surely right for {100 * READ_WELL:.0f} %"
    first = f"{surely} first {at_layer(well[0])}" if len(well) else f"{surely} nowhere"
    return f"{first}, at best for {share(best, 'accuracy')} {at_layer(best['layer'])}"


FINDINGS: dict[str, Callable[[Tables], list[str]]] = {
    "direct_effects": lambda tables: direct_findings(tables["direct_effects"]),
    "attention_roles": lambda tables: attention_findings(tables["attention_roles"]),
    "head_inputs": lambda tables: input_findings(tables["head_inputs"]),
    "head_probes": lambda tables: head_probe_findings(
        tables["head_probes"], tables["head_probe_layers"], tables["layer_probes"]
    ),
}
