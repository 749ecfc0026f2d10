"""What the toy networks say (post 4), in sentences; the rules for them stand in findings/__init__.py."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from factfinding.figures.toy_models import CAPACITY
from factfinding.findings.words import Tables, number, percent

NOTHING = "No toy network was trained: there is nothing to see."
GROUP = ["task", "m", "width", "depth"]
LEARNT = {"generalising": "that learnt a rule", "memorising": "that learnt random labels"}
VERDICTS = {
    "supported": "holds in these networks",
    "contradicted": "does not hold in these networks",
    "undecided": "is not decided by these networks",
    "not applicable": "cannot be judged: too few of these networks learnt their pairs, or generalise",
}


def toy_findings(models: pl.DataFrame, summary: pl.DataFrame, verdict: pl.DataFrame) -> list[str]:
    """From the tables of post 4: the verdict, bits per parameter, neurons needed, the first layer's output."""
    if models.is_empty():
        return [NOTHING]
    return [_claim(verdict), _rule(models), *_bits(models, summary), *_needed(models), *_table(models)]


def picture_findings(illustrations: pl.DataFrame) -> list[str]:
    """From the table `toy_illustrations`: which networks learnt their points, and how the two facts relate."""
    if illustrations.is_empty():
        return [NOTHING]
    points = illustrations.filter(kind="point")
    ones = points.group_by("picture", maintain_order=True).agg(
        pl.col("n", "accuracy", "steps").first(),
        (pl.col("label") == (pl.col("p") > 0.5)).mean().alias("right"),
    )
    told = "; ".join(
        f"{row['picture'].replace('_', ' ')}: {percent(row['right'])} of {row['n']} points after {row['steps']} steps"
        for row in ones.iter_rows(named=True)
    )
    grid = illustrations.filter(kind="grid", picture="two_facts").pivot("fact", index=["x", "y"], values="p")
    agree = ((grid["1"] > 0.5) == (grid["2"] > 0.5)).mean()
    wide = points.filter(picture="two_facts").pivot("fact", index=["x", "y"], values="label")
    return [
        (
            f"The networks of the pictures say the right label of: {told} (the commoner label: "
            f"{percent(_majority(points.filter(picture='random')))} of the random ones)."
        ),
        (
            f"The two facts have the same label on {percent((wide['1'] == wide['2']).mean())} of the {wide.height} points, and "
            f"the same answer on {percent(agree)} of the plane."
        ),
    ]


def _majority(points: pl.DataFrame) -> float:
    rate = points["label"].mean()
    return max(rate, 1 - rate)


def _claim(verdict: pl.DataFrame) -> str:
    claim = verdict.filter(task="claim").row(0, named=True)
    told = (
        "That memorising networks show no meaningful intermediate representation and generalising ones do "
        f"{VERDICTS[claim['verdict']]}."
    )
    counted = _scores(verdict.filter(pl.col("found").is_not_null()), verdict)
    if counted:
        told += (
            f" The classes of tokens that a linear reading had not seen can be told before the last layer: {counted}; means over "
            "seeds from chance, 0 %, to always right, 100 %. A shape counts if enough of its networks learnt their pairs and it is "
            "wide enough for a linear reading of both tokens' classes."
        )
    narrow = _scores(verdict.filter(pl.col("found").is_null(), pl.col("score").is_not_null()), verdict)
    return f"{told} Too narrow, and not counted: {narrow}." if narrow else told


def _scores(rows: pl.DataFrame, verdict: pl.DataFrame) -> str:
    """Least and largest score by task, and how many of the task's shapes these are."""
    parts = []
    for task, words in LEARNT.items():
        of_task, shapes = rows.filter(task=task), verdict.filter(task=task).height
        if of_task.height:
            ends = [percent(of_task["score"].min()), percent(of_task["score"].max())]
            parts.append(
                f"{' to '.join(dict.fromkeys(ends))} in networks {words} ({of_task.height} of {shapes} shapes, "
                f"n = {of_task['n'].sum():,})"
            )
    return " and ".join(parts)


def _rule(models: pl.DataFrame) -> str:
    parts = []
    for task, words in (("generalising", "a rule"), ("exceptions", "a rule with exceptions")):
        rows = models.filter(pl.col("reached"), pl.col("task") == task)
        if rows.height:
            held = rows["held_out_accuracy"]
            parts.append(
                f"{words} {percent(held.mean())} ({percent(held.min())} to {percent(held.max())}, n = {rows.height})"
            )
    beside = (
        f"Of the pairs that were held out, those that did learn get right: {'; '.join(parts)}."
        if parts
        else ""
    )
    return (
        f"{models['reached'].sum()} of {models.height} networks learnt every pair that they were shown within the step limit. "
        + beside
    )


def _bits(models: pl.DataFrame, summary: pl.DataFrame) -> list[str]:
    rows = summary.filter(task="memorising", measure="bits_per_parameter")
    if rows.is_empty():
        return []
    best = rows.sort("value", descending=True, maintain_order=True).row(0, named=True)
    networks = models.filter(**{name: best[name] for name in GROUP})
    size, learnt = networks["parameters"][0], networks["reached"].sum()
    limit = (
        f"; {learnt or 'none'} of them learnt every label within the step limit, so more steps might store more"
        if learnt < networks.height
        else ""
    )
    return [
        (
            f"Most is stored per parameter by networks of {size} parameters that were shown {best['m'] ** 2} random labels: "
            f"{number(best, 'value', '.2f')} bits (n = {best['n']}{limit}; language models were found to store up to {CAPACITY:g}). Networks "
            "with room to spare store all labels, and the figure then says only how large they are."
        )
    ]


def _by_task(models: pl.DataFrame, words: Callable[[pl.DataFrame], str]) -> str:
    """`words` on the networks of each task that learnt everything, one task after the other."""
    learnt = models.filter("reached")
    tasks = models["task"].unique(maintain_order=True)
    rows = {task: learnt.filter(pl.col("task") == task) for task in tasks}
    return "; ".join(f"{task} {words(found)}" for task, found in rows.items() if found.height)


def _needed(models: pl.DataFrame) -> list[str]:
    """Neurons needed, and how evenly their effects are spread, of networks that learnt everything, by task."""

    def words(rows: pl.DataFrame) -> str:
        return (
            f"{percent(rows['needed_mean'].mean())} (in random order {percent(rows['needed_random_mean'].mean())}; "
            f"participation ratio {percent(rows['participation_mean'].mean())}; n = {rows.height})"
        )

    told = _by_task(models, words)
    return (
        [f"To keep 95 % of the accuracy under mean ablation, of all neurons are needed: {told}."]
        if told
        else []
    )


def _table(models: pl.DataFrame) -> list[str]:
    def words(rows: pl.DataFrame) -> str:
        return (
            f"{percent(rows['interaction'].mean())}, {percent(rows['own_classes'].mean())} against "
            f"{percent(rows['majority_rate'].mean())} by the commoner label"
        )

    told = _by_task(models, words)
    if not told:
        return []
    return [
        (
            "Share of the first MLP's output that is no sum of a part of each token, and how well the network's own classes of "
            f"tokens tell labels of pairs not counted: {told}."
        )
    ]


FINDINGS: dict[str, Callable[[Tables], list[str]]] = {
    "toy_models": lambda tables: toy_findings(
        tables["toy_models"], tables["toy_summary"], tables["toy_verdict"]
    ),
    "toy_illustrations": lambda tables: picture_findings(tables["toy_illustrations"]),
}
