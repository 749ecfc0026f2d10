"""What the tables on interventions say (P2.7-P2.11), in sentences; the rules for them stand in findings/__init__.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from factfinding.figures.context import CONTEXTS
from factfinding.figures.ladder import READERS, STEPS
from factfinding.figures.residual_patching import ROLES
from factfinding.findings.words import NO_PROBE, NOBODY, Row, Tables, percent, share


def residual_findings(residual_patching: pl.DataFrame) -> list[str]:
    """From the table `residual_patching` (P2.7): at which place most of the answer lies, layer by layer."""
    if residual_patching.is_empty():
        return [NOBODY]
    if _nothing_to_swap(residual_patching):
        return [_no_swap(residual_patching)]
    best = (
        residual_patching.sort("share", descending=True, maintain_order=True)
        .group_by("layer")
        .first()
        .sort("layer")
    )
    spans: list[list[Row]] = []
    for row in best.iter_rows(named=True):
        place = (row["role"], row["number"])
        if spans and (spans[-1][-1]["role"], spans[-1][-1]["number"]) == place:
            spans[-1].append(row)
        else:
            spans.append([row])
    told = "; ".join(_span(span) for span in spans)
    row = best.row(0, named=True)
    return [
        (
            f"Put in place of the residual stream before a layer, another athlete's does most: {told} (shares of what "
            f"swapping the whole name does, {row['whole_swap']:.2f} logits; n = {row['n']:,})."
        )
    ]


def total_findings(total_effects: pl.DataFrame) -> list[str]:
    """From the table `total_effects` (P2.7): the largest nodes by place, and where the kinds of ablation disagree."""
    if total_effects.is_empty():
        return [NOBODY]
    patched = total_effects.filter(kind="corrupt")
    if _nothing_to_swap(patched):
        return [_no_swap(patched)]
    found = []
    for role in ("first_name", "final_name", "end"):
        rows = patched.filter((pl.col("role") == role) & (pl.col("type") != "attention"))
        rows = rows.filter(_surely_lost(), pl.col("share") > 0.01).sort("share", descending=True)
        if rows.height:
            named = ", ".join(f"{_node(row)} {_portion(row)}" for row in rows.head(4).iter_rows(named=True))
            found.append(f"Patched at {_role(role)}, most is done by {named} (n = {rows['n'][0]:,}).")
    found = found or ["No node patched alone at the name or at END surely lowers the logit difference."]
    return found + _kinds(total_effects)


def circuit_findings(circuit: pl.DataFrame, circuit_scan: pl.DataFrame) -> list[str]:
    """From the tables `circuit` and `circuit_scan`: which parts do what, and single layers that are surely missed."""
    return [_circuit({row["part"]: row for row in circuit.iter_rows(named=True)}), *_scan(circuit_scan)]


def _circuit(parts: dict[str, Row]) -> str:
    place = {
        "final_name": "The fact is looked up at the final name token",
        "end": "The fact is not looked up at the name: it cannot be read there, and an MLP at END carries it",
        "unclear": "Where the fact is looked up is not clear from these tables",
    }[parts["lookup_at"]["used"]]
    does = (
        ("concatenate", "attention {} gathers the name"),
        ("lookup", "MLP {} looks it up"),
        ("extract", "{} extract"),
    )
    told = [
        words.format(str(parts[part]["used"]).replace("-", " to ").replace(" L", ", L"))
        for part, words in does
        if parts[part]["used"] is not None
    ]
    fixed = [part for part, row in parts.items() if row["fixed"]]
    by = f" (set by the configuration: {', '.join(fixed)})" if fixed else ""
    return f"{place}{''.join(f'; {part}' for part in told)}{by}."


def _scan(circuit_scan: pl.DataFrame) -> list[str]:
    if circuit_scan.is_empty():
        return [NO_PROBE]
    clean = circuit_scan.filter(scan="attention_from").sort("layer").row(-1, named=True)
    if clean["accuracy_low"] <= clean["majority_rate"]:
        return [
            (
                f"With nothing ablated {share(clean, 'accuracy')} of {clean['n']:,} answers are right, not above always "
                f"naming the commonest sport ({percent(clean['majority_rate'])}): there is nothing to lose."
            )
        ]
    found = []
    for scan, words in (("attention_alone", "attention"), ("mlp_alone", "the MLP")):
        rows = circuit_scan.filter(pl.col("scan") == scan, pl.col("accuracy_high") < clean["accuracy_low"])
        lost = ", ".join(
            f"{share(row, 'accuracy')} of layer {row['layer']}"
            for row in rows.sort("layer").iter_rows(named=True)
        )
        said = (
            f"surely fewer answers stay right without that {lost}"
            if lost
            else "no single layer is surely missed"
        )
        found.append(
            f"With {words} of one layer averaged at the final name token, {said} (unchanged: "
            f"{percent(clean['accuracy'])}; commonest sport {percent(clean['majority_rate'])}; n = {clean['n']:,})."
        )
    return found


def ladder_findings(ladder: pl.DataFrame) -> list[str]:
    """From the table `ladder` (P2.8): each step's cost where the unchanged model is read best, mean ablation."""
    if ladder.is_empty():
        return [NO_PROBE]
    found = []
    for reader in ladder["reader"].unique(maintain_order=True):
        rows = ladder.filter(reader=reader)
        full = (
            rows.filter(step="full").sort("accuracy", descending=True, maintain_order=True).row(0, named=True)
        )
        here = rows.filter((pl.col("layer") == full["layer"]) & pl.col("kind").is_in(["none", "mean"]))
        steps = [row for row in here.iter_rows(named=True) if row["step"] in STEPS and row["step"] != "full"]
        told = "; ".join(f"{STEPS[row['step']]} {share(row, 'accuracy')}" for row in steps)
        found.append(
            f"Read by the {READERS.get(reader, reader)} after layer {full['layer']}: unchanged {share(full, 'accuracy')}; "
            f"{told} (commonest sport {percent(full['majority_rate'])}, n = {full['n']:,})."
        )
    if ladder.filter(kind="mean").is_empty():
        return [*found, "No lookup at the name was found, so there is no ladder below these steps."]
    return found + _contrasts(ladder) + _disagreement(ladder)


def effective_findings(effective_model: pl.DataFrame) -> list[str]:
    """From the table `effective_model` (P2.9)."""
    if effective_model.is_empty():
        return [
            "No lookup at the name was found, or too few athletes are known: there is no effective model."
        ]
    found = []
    for length in effective_model["n_name_tokens"].unique().sort():
        rows = {
            row["model"]: row for row in effective_model.filter(n_name_tokens=length).iter_rows(named=True)
        }
        row, full = rows["effective"], rows["full"]
        found.append(
            f"On names of {length} tokens the effective model is right for {share(row, 'accuracy')} of {row['n']:,}; the "
            f"same probe of the unchanged model for {share(full, 'accuracy')}, the commonest sport for "
            f"{percent(row['majority_rate'])}."
        )
    error = effective_model["largest_error"].max()
    return [
        *found,
        f"It differs from the ablated model by {error:.0e} of the largest value at most, which is rounding.",
    ]


def context_findings(context: pl.DataFrame) -> list[str]:
    """From the table `context` (P2.10): the first and the last layer of each context."""
    if context.is_empty():
        return [NO_PROBE]
    last, found = context["layer"].max(), []
    for name in context["context"].unique(maintain_order=True):
        first, end = (context.filter(context=name, layer=layer).row(0, named=True) for layer in (0, last))
        found.append(
            f"After {CONTEXTS[name]} the cosine to the residual stream of the question after one example is "
            f"{first['cosine']:.3f} after layer 0 and {_plain(end, 'cosine')} after layer {last} (another athlete's: "
            f"{end['cosine_other']:.3f}; n = {end['n']:,}), and probes of that one are right for {share(end, 'accuracy')}."
            + (" The tokenizer does not know all words of this context." if end["unknown_tokens"] else "")
        )
    return found


def patching_findings(probe_patching: pl.DataFrame) -> list[str]:
    """From the table `probe_patching` (P2.11), at the layer where the logistic probe's directions do most."""
    if probe_patching.is_empty():
        return [NO_PROBE]
    logistic = probe_patching.filter(change="logistic")
    best = logistic.sort("follows", descending=True, maintain_order=True).row(0, named=True)
    rows = {row["change"]: row for row in probe_patching.filter(layer=best["layer"]).iter_rows(named=True)}
    used = best["follows_low"] > rows["random"]["follows_high"]
    verdict = (
        "the model reads what the probe reads"
        if used
        else "no sign that the model reads what the probe reads"
    )
    found = [
        (
            f"With only the {best['dimensions']} dimensions that the logistic probe reads taken from a donor after layer "
            f"{best['layer']}, {share(best, 'follows')} of {best['n']:,} answers are the donor's; with as many random ones "
            f"{share(rows['random'], 'follows')}, with all the other dimensions "
            f"{share(rows['logistic_complement'], 'follows')}, with all {share(rows['whole'], 'follows')}: {verdict}."
        )
    ]
    erased = probe_patching.filter(change="leace").sort("recalled", maintain_order=True).row(0, named=True)
    control = probe_patching.filter(change="random_erased", layer=erased["layer"]).row(0, named=True)
    found.append(
        f"With the sport erased (LEACE) after layer {erased['layer']}, {share(erased, 'recalled')} of {erased['n']:,} "
        f"athletes are still recalled; with as many random dimensions erased {share(control, 'recalled')}."
    )
    if "head" in rows:
        head = probe_patching.filter(change="head").sort("follows", descending=True, maintain_order=True)
        row = head.row(0, named=True)
        found.append(
            f"The head probe's directions do most after layer {row['layer']}: {share(row, 'follows')} follow the donor."
        )
    return found


def _contrasts(ladder: pl.DataFrame) -> list[str]:
    """What one concatenating attention layer alone costs, by the first reader where it costs most."""
    alone = ladder.filter(
        pl.col("step").str.starts_with("attention_"), kind="mean", reader=ladder["reader"][0]
    )
    worst = (
        alone.sort("drop", descending=True, maintain_order=True).group_by("step", maintain_order=True).first()
    )
    return [
        (
            f"Attention {row['step'].removeprefix('attention_')} alone averaged at the final name token costs at most "
            f"{_points(row)} (after layer {row['layer']}, {share(row, 'accuracy')} left)."
        )
        for row in worst.sort("step").iter_rows(named=True)
    ]


def _disagreement(ladder: pl.DataFrame) -> list[str]:
    """Where the kinds of ablation differ most below the contrast rows, by the first reader."""
    rows = ladder.filter(
        pl.col("step").is_in(list(STEPS)), pl.col("kind") != "none", reader=ladder["reader"][0]
    )
    spread = (
        rows.group_by("step", "layer", maintain_order=True)
        .agg(pl.col("accuracy").max() - pl.col("accuracy").min())
        .sort("accuracy", descending=True, maintain_order=True)
        .row(0, named=True)
    )
    here = rows.filter(step=spread["step"], layer=spread["layer"]).sort("accuracy")
    low, high = here.row(0, named=True), here.row(-1, named=True)
    return [
        (
            f"The kinds of ablation differ most in “{STEPS[spread['step']]}” after layer {spread['layer']}: "
            f"{low['kind']} {share(low, 'accuracy')}, {high['kind']} {share(high, 'accuracy')}."
        )
    ]


def _kinds(total_effects: pl.DataFrame) -> list[str]:
    """Mean against resampling within the sport: the MLP at the final name token that they judge most differently."""
    rows = total_effects.filter(type="mlp", role="final_name").pivot("kind", index="layer", values="effect")
    if rows.is_empty() or not {"mean", "resample_same"} <= set(rows.columns):
        return []
    rows = rows.with_columns((pl.col("mean") - pl.col("resample_same")).abs().alias("apart"))
    row = rows.drop_nulls("apart").sort("apart", descending=True).head(1)
    return [
        (
            f"Kinds of ablation disagree most on MLP {row['layer']} at the final name token: its mean changes the logit "
            f"difference by {row['mean']:.2f}, another athlete's of the same sport by {row['resample_same']:.2f} logits."
        )
        for row in row.iter_rows(named=True)
    ]


def _span(span: Sequence[Row]) -> str:
    first, last = span[0], span[-1]
    layers = f"layer {first['layer']}" if len(span) == 1 else f"layers {first['layer']} to {last['layer']}"
    shares = percent(first["share"])
    if len(span) > 1:
        shares = (
            f"{percent(min(row['share'] for row in span))} to {percent(max(row['share'] for row in span))}"
        )
    return f"before {layers} at {_role(first['role'], first['number'])} ({shares})"


def _role(role: str, number: int = 0) -> str:
    words = ROLES[role].replace("\n", " ")
    named = {
        "end": "END",
        "relation": f"relation token {number + 1}",
        "middle_name": f"middle name token {number + 1}",
    }
    return named.get(role, f"the {words} token")


def _node(row: Row) -> str:
    return f"MLP {row['layer']}" if row["type"] == "mlp" else row["node"]


def _portion(row: Row) -> str:
    """A share of the whole swap, with the interval of the effect."""
    ends = sorted(row[name] / row["whole_swap"] for name in ("effect_low", "effect_high"))
    return f"{percent(row['share'])} [{percent(ends[0])}, {percent(ends[1])}]"


def _points(row: Row) -> str:
    return f"{100 * row['drop']:.1f} [{100 * row['drop_low']:.1f}, {100 * row['drop_high']:.1f}] points"


def _plain(row: Row, name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def _surely_lost() -> pl.Expr:
    return pl.col("effect_high") < 0


def _nothing_to_swap(table: pl.DataFrame) -> bool:
    """Whether swapping the whole name does not lower the logit difference: then no share of it means anything."""
    return table["whole_swap"].max() >= 0


def _no_swap(table: pl.DataFrame) -> str:
    return (
        f"Swapping the whole name changes the logit difference by {table['whole_swap'].max():.2f} logits "
        f"(n = {table['n'].max():,}): the answer does not come from the name, and no part of it can be traced."
    )


FINDINGS: dict[str, Callable[[Tables], list[str]]] = {
    "residual_patching": lambda tables: residual_findings(tables["residual_patching"]),
    "total_effects": lambda tables: total_findings(tables["total_effects"]),
    "circuit_scan": lambda tables: circuit_findings(tables["circuit"], tables["circuit_scan"]),
    "ladder": lambda tables: ladder_findings(tables["ladder"]),
    "effective_model": lambda tables: effective_findings(tables["effective_model"]),
    "context": lambda tables: context_findings(tables["context"]),
    "probe_patching": lambda tables: patching_findings(tables["probe_patching"]),
}
