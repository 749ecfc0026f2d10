"""What the tables on known and unknown names say (P3.6-P3.8), in sentences; the rules for them stand in __init__.py."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from factfinding.figures.style import CONDITIONS
from factfinding.findings.words import Row, Tables, layers_in_words, percent, share
from factfinding.methods.circuit import Circuit

NO_NAMES = "There are no known names, or no unknown pairings of their tokens: there is nothing to compare."
NO_PAIRS = "There are no two known names whose swaps are both unknown: there is nothing to compare."
SAME = (
    "No layer writes anything at the final name token that differs between names: there is nothing to add up."
)
MORE = 0.1
"""How much higher a ratio of P3.7 must surely be than its baseline to be called higher. Later MLPs that know nothing show
0.06 more for known names in models of which that is certain, since LayerNorm lets them feel what earlier ones wrote."""
NO_NEURON = "No sport neuron was found, or too few athletes are known: there is nothing to see."
WITHDRAWN = (
    "They had taken an AUC above 50 % for a sign of what is learnt about each athlete alone; but what is left of an athlete "
    "depends on how many others there are, and these include those of the same sport."
)


def norm_findings(mlp_norms: pl.DataFrame, circuit: pl.DataFrame | None = None) -> list[str]:
    """From the table `mlp_norms` (P3.6): the MLPs that write more, or less, for known names; what the first one of the
    lookup (table `circuit`) does, which alone tells a hash from knowledge; then the controls."""
    if mlp_norms.is_empty():
        return [NO_NAMES]
    lookup = None if circuit is None or circuit.is_empty() else Circuit.from_table(circuit).lookup
    found = []
    for rows in mlp_norms.partition_by("condition", maintain_order=True):
        mlps = rows.filter(output="mlp").sort("layer")
        found += _norms(mlps)
        found += _lowest(mlps) if lookup is None else _first(mlps.filter(layer=lookup[0]))
        found += _controls(rows)
    return found


def linear_findings(linear_structure: pl.DataFrame) -> list[str]:
    """From the table `linear_structure` (P3.7): how far MLPs are from additive, beside both baselines; the residual."""
    rows = linear_structure.drop_nulls("median")
    if linear_structure.is_empty():
        return [NO_PAIRS]
    if rows.filter(names="known").is_empty():
        return [SAME]
    found = []
    for part in rows.partition_by("condition", maintain_order=True):
        mlps = part.filter(output="mlp")
        if mlps.filter(names="known").height:
            found += [_furthest(mlps), *_compared(mlps)]
        found += _residual(part.filter(output="resid", names="known").sort("layer"))
    return found


def remainder_findings(orthogonal_remainder: pl.DataFrame) -> list[str]:
    """From the table `orthogonal_remainder` (P3.8): what is left of whom, the AUCs, and that the reading is withdrawn."""
    if orthogonal_remainder.is_empty():
        return [NO_NEURON]
    found = []
    for rows in orthogonal_remainder.partition_by("condition", "others", maintain_order=True):
        defined = rows.filter(status="defined")
        if defined.height:
            found.append(_remainders(defined))
        for row in rows.filter(pl.col("status") != "defined").head(1).iter_rows(named=True):
            found.append(_undefined(row))
    found[0] += " The study's authors have withdrawn what they read from such numbers."
    return [*found, WITHDRAWN]


def _norms(mlps: pl.DataFrame) -> list[str]:
    first, layers = mlps.row(0, named=True), mlps["layer"].to_list()
    beside = (
        f"{CONDITIONS[first['condition']]}; n = {first['n_known']:,} known and {first['n_unknown']:,} unknown names; "
        f"chance {percent(first['baseline'])}"
    )
    more = mlps.filter(pl.col("auc_low") > pl.col("baseline"))
    less = mlps.filter(pl.col("auc_high") < pl.col("baseline"))
    best = mlps.row(mlps["auc"].arg_max(), named=True)
    if more.is_empty():
        told = (
            "At no layer does the MLP surely write more at the final name token for known names than for unknown pairings "
            f"of the same tokens: at best the known name has the larger norm with probability {share_of(best, 'auc')}, in "
            f"layer {best['layer']} ({beside})."
        )
    else:
        told = (
            f"MLPs write more at the final name token for known names than for unknown pairings of the same tokens "
            f"{layers_in_words(more['layer'].to_list(), layers)}: most in layer {best['layer']}, where the known name has the "
            f"larger norm with probability {share_of(best, 'auc')} ({beside})."
        )
    if less.height:
        least = less.row(less["auc"].arg_min(), named=True)
        told += (
            f" They write less for known names {layers_in_words(less['layer'].to_list(), layers)} "
            f"(least often, in layer {least['layer']}, {share_of(least, 'auc')})."
        )
    return [told]


def _differs(row: Row) -> bool:
    """Whether an AUC surely lies on one side of chance."""
    low, high = row["auc_low"], row["auc_high"]
    return low is not None and (low > row["baseline"] or high < row["baseline"])


def _first(mlps: pl.DataFrame) -> list[str]:
    """What the first MLP of the lookup (a row, or none) does with known names; later ones may read what it found."""
    told = []
    for row in mlps.iter_rows(named=True):
        where = f"The first MLP of the lookup, in layer {row['layer']},"
        if _differs(row):
            more = "more" if row["auc"] > row["baseline"] else "less"
            told.append(
                f"{where} surely writes {more} for known names ({share_of(row, 'auc')}): already there the model treats pairs "
                "that it knows unlike others of the same parts, as no hash of the name alone would."
            )
        else:
            told.append(
                f"{where} does not surely write more for either ({share_of(row, 'auc')}): nothing there speaks against a hash of "
                "the name, which treats all pairs alike. What later MLPs do with it says nothing of that one."
            )
    return told


def _lowest(mlps: pl.DataFrame) -> list[str]:
    """Where no lookup is known: the lowest MLP that tells known names from others, and what it would mean."""
    row = next((row for row in mlps.iter_rows(named=True) if _differs(row)), None)
    if row is None:
        return []
    told = (
        f"The lowest MLP whose norms differ is that of layer {row['layer']} ({share_of(row, 'auc')}). Which MLPs look "
        "names up is not known, so it is open whether the parts of a name are combined there, and then not by a hash of the name "
        "alone, or were so below, where known and unknown names are treated alike."
    )
    return [told]


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
            f"Attention's output tells known names most in layer {best['layer']}: {share_of(best, 'auc')}."
        )
    return told


def _furthest(mlps: pl.DataFrame) -> str:
    known = mlps.filter(names="known").sort("layer")
    best = known.row(known["median"].arg_max(), named=True)
    baselines = [
        f"{percent(row['median'])} {words}"
        for names, words in (
            ("shuffled", "with the MLPs' weights shuffled"),
            ("unknown", "for unknown names only"),
        )
        for row in mlps.filter(names=names, layer=best["layer"]).iter_rows(named=True)
    ]
    beside = f", beside {' and '.join(baselines)}" if baselines else ""
    return (
        f"Among the MLPs, that of layer {best['layer']} is furthest from adding up the parts of a name: the ratio is "
        f"{share_of(best, 'median')}{beside} (0 % is additive, 100 % is what unrelated names give; medians over "
        f"{best['n']:,} pairs of known names, {CONDITIONS[best['condition']]})."
    )


def _compared(mlps: pl.DataFrame) -> list[str]:
    """Where known names are surely above either baseline by enough (`MORE`), and what that means."""
    known = mlps.filter(names="known").sort("layer")
    told = []
    for names, high, low in (
        (
            "shuffled",
            "more than a network of such weights does by itself",
            "so there is no sign of more than a network of such weights does by itself",
        ),
        (
            "unknown",
            "there the model makes something of names that it knows besides mixing their parts",
            "so there is no sign that it is more than a mixing of the parts that any name gets, known or not",
        ),
    ):
        others = mlps.filter(names=names).select("layer", "median_high").rename({"median_high": "other"})
        both = known.join(others, on="layer").drop_nulls(["median_low", "other"])
        if both.is_empty():
            continue
        layers, gap = both["layer"].to_list(), pl.col("median_low") - pl.col("other")
        above = both.filter(gap > MORE)["layer"].to_list()
        little = both.filter(gap > 0, gap <= MORE)["layer"].to_list()
        what = {"shuffled": "in the model with shuffled MLPs", "unknown": "for unknown names only"}[names]
        than = f"surely higher than {what} by more than {100 * MORE:.0f} points"
        if above:
            said = f"It is {than} {layers_in_words(above, layers)}: {high}."
        else:
            said = f"At no MLP is it {than}, {low}."
        if little:
            said += f" {layers_in_words(little, layers).capitalize()} it is surely higher, but not surely by so much; "
            said += "that is not counted, as MLPs that know nothing feel, through LayerNorm, what earlier ones wrote."
        told.append(said)
    return told


def _residual(rows: pl.DataFrame) -> list[str]:
    if rows.is_empty():
        return []
    first, last = rows.row(0, named=True), rows.row(-1, named=True)
    return [
        (
            f"In the residual stream, which sums up all layers so far, the ratio is {share_of(first, 'median')} after layer "
            f"{first['layer']} and {share_of(last, 'median')} after layer {last['layer']} (n = {last['n']:,} pairs)."
        )
    ]


def _remainders(defined: pl.DataFrame) -> str:
    first = defined.row(0, named=True)
    each = "; ".join(
        f"{row['sport']} {share_of(row, 'auc')} ({row['neuron']}; whole residual {percent(row['auc_whole'])})"
        for row in defined.iter_rows(named=True)
    )
    others = "all other athletes" if first["others"] == "all" else f"{first['spanned']:,} random others"
    return (
        f"What of an athlete's residual is no combination of that of {others}, read by the sport neuron, tells the sport with "
        f"an AUC of: {each} (n = {first['n']:,}, chance {percent(first['baseline'])})."
    )


def _undefined(row: Row) -> str:
    others = "all other athletes" if row["others"] == "all" else f"{row['spanned']:,} random others"
    why = {
        "undefined: rank is full": (
            f"the residuals of {row['spanned'] + 1:,} athletes span all {row['d_model']:,} dimensions, so nothing of anybody "
            "is left"
        ),
        "undefined: one class": "the athletes that it is left of are all of one kind",
    }.get(row["status"], f"they have rank {row['rank']:,}, and each athlete lies in the span of the others")
    return f"Beside {others} the remainder gives no number: {why}."


def share_of(row: Row, name: str) -> str:
    """A share with its interval, where it has one."""
    return percent(row[name]) if row[f"{name}_low"] is None else share(row, name)


FINDINGS: dict[str, Callable[[Tables], list[str]]] = {
    "mlp_norms": lambda tables: norm_findings(tables["mlp_norms"], tables.get("circuit")),
    "linear_structure": lambda tables: linear_findings(tables["linear_structure"]),
    "orthogonal_remainder": lambda tables: remainder_findings(tables["orthogonal_remainder"]),
}
