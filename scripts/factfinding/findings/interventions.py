"""What the tables on single interventions say (P2.7) and which circuit follows, in sentences; the rules for them stand in
findings/__init__.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from factfinding.figures.residual_patching import ROLES
from factfinding.findings.words import FEW, NO_PROBE, NOBODY, Row, Tables, percent, share


def residual_findings(residual_patching: pl.DataFrame) -> list[str]:
    """From the table `residual_patching` (P2.7): at which place most of the answer lies, layer by layer."""
    if residual_patching.is_empty():
        return [NOBODY]
    if _nothing_to_swap(residual_patching):
        return [_no_swap(residual_patching)]
    enough = residual_patching.filter(pl.col("n") >= min(FEW, residual_patching["n"].max()))
    best = enough.sort("share", descending=True, maintain_order=True).group_by("layer").first().sort("layer")
    spans: list[list[Row]] = []
    for row in best.iter_rows(named=True):
        place = (row["role"], row["number"])
        if spans and (spans[-1][-1]["role"], spans[-1][-1]["number"]) == place:
            spans[-1].append(row)
        else:
            spans.append([row])
    told = "; ".join(_span(span) for span in spans)
    row = enough.sort("n", descending=True, maintain_order=True).row(0, named=True)
    return [
        (
            f"Put in place of the residual stream before a layer, another athlete's does most: {told}. These are shares of "
            f"what swapping the whole name does, {row['whole_swap']:.2f} logits on average (n = {row['n']:,})."
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
    does = {  # of one, of several
        "concatenate": ("attention {} gathers the name", "attention {} gather the name"),
        "lookup": ("MLP {} looks it up", "MLPs {} look it up"),
        "extract": ("{} extracts", "{} extract"),
    }
    told = []
    for part, (one, several) in does.items():
        if (used := parts[part]["used"]) is not None:
            words = str(used).replace("-", " to ").replace(" L", ", L")
            told.append((one if words == str(used) else several).format(words))
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
    ns = f"n = {first['n']:,}"
    return f"before {layers} at {_role(first['role'], first['number'])} ({shares}, {ns})"


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
}
