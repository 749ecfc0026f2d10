"""Subjects in pairs, and what a node's output does for their logit difference along one path (P2.2-P2.4).

Every subject is paired with another of a different answer, its donor, and one node at a time is replaced by the donor's
along one path only. What is reported is the change of the logit difference, logit(own answer) - logit(donor's answer):
a node that carries the answer has a *negative* change. Replacing everything would give the donor's own logits, a change
of minus the sum of both clean differences.

    experiments/direct_effects   node at END -> final norm -> logits
    experiments/head_inputs      node at the final name token -> a head's value -> END -> logits

`exact` recomputes the norms on the path, `frozen` keeps the clean scales and is linear: the frozen changes of all
nodes sum to that of the last row, kind "all", in which the whole residual that the path enters is replaced (less the
biases, which do not change, and with heads counted once: as heads, or as their layer's attn_out).

Both need cached activations and weights alone; the closed forms are the engine's (engine/direct.py). The nodes of one
subject are replaced by the same donor's, and all nodes' intervals see the same resamples of subjects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.config import HeadsConfig
from factfinding.engine import direct as closed_form
from factfinding.engine.direct import Effects, NodeOutputs, Readout, logit_difference
from factfinding.engine.sites import Site, check, head, parse
from factfinding.inputs import Inputs, Settings
from factfinding.least import LEAST_SHARE
from factfinding.methods.estimates import ENDS, behind, estimate_columns, estimate_schema
from factfinding.methods.groups import draw_donors, known_prompts, labels_of
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import weights_of
from factfinding.stats import mean_intervals

NODE = {"node": pl.String, "kind": pl.String, "layer": pl.Int64, "index": pl.Int64}

ALL = "all"

Path = Callable[[slice, NodeOutputs, NodeOutputs, bool], tuple[Effects, Float[Tensor, "subjects 1 answers"]]]
"""(which subjects, their nodes, the donors', exact?) -> changes of the answers' logits by each node, and by all."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Prompts of subjects, the row of each one's donor, and the answers of both as indices among the candidates."""

    prompts: pl.DataFrame
    donor: Int[Tensor, " subjects"]
    own: Int[Tensor, " subjects"]
    other: Int[Tensor, " subjects"]


def pairs_of(inputs: Inputs, section: HeadsConfig) -> Pairs:
    """The study's subjects in pairs. section: keys subjects and seed of `heads`."""
    return pair_up(known_prompts(inputs, section.subjects), inputs.candidates, seed=section.seed)


def opening(inputs: Inputs, section: HeadsConfig) -> tuple[Anatomy, Pairs, Readout]:
    """What the experiments begin with: the weights, the subjects in pairs, and the readout of all answers.

    section: keys subjects and seed of `heads`.
    """
    anatomy, pairs = weights_of(inputs), pairs_of(inputs, section)
    return anatomy, pairs, Readout.of(anatomy, inputs.candidates["token_id"].to_list())


def heads_of(inputs: Inputs, settings: Settings) -> list[Site]:
    """The study's extracting heads. settings: heads.top and circuit.extract. Raises as `extracting_heads`."""
    effects, fixed = inputs.table("direct_effects"), settings.circuit.extract
    return extracting_heads(weights_of(inputs), effects, fixed=fixed, count=settings.heads.top)


def pair_up(prompts: pl.DataFrame, candidates: pl.DataFrame, *, seed: int) -> Pairs:
    """A donor of another answer for every subject, drawn from the seed whatever the order of the table.

    prompts: of the subjects to ask about; candidates: the answers in the order of the readout's answers. Where subjects
    have fewer than two answers there are no pairs.
    """
    own = labels_of(prompts, candidates)
    by_name = prompts["subject"].arg_sort().to_numpy().astype(np.int64)
    everybody, rng = np.arange(len(own)), np.random.default_rng(seed)
    donor = np.empty_like(own)
    donor[by_name] = draw_donors(own[by_name], [everybody], same_answer=False, rng=rng)
    paired = donor >= 0  # all of them or none: donors come from all other answers
    own, donor = torch.from_numpy(own[paired]), torch.from_numpy(by_name[donor[paired]])
    return Pairs(prompts=prompts.filter(paired), donor=donor, own=own, other=own[donor])


def extracting_heads(
    anatomy: Anatomy, effects: pl.DataFrame, *, fixed: Sequence[str] | None, count: int
) -> list[Site]:
    """The heads to look at closely: those that the configuration names, or the first ones of `direct_effects`.

    These are the `count` heads with the most negative mean exact change, as far as their interval lies below zero and they
    do `LEAST_SHARE` of what all nodes do at once.
    Raises InputError for a named head that the model does not have.
    """
    if fixed is not None:
        return [check(parse(name), anatomy) for name in fixed]
    if effects.is_empty():
        return []
    heads = effects.filter(pl.col("exact_high") < 0, pl.col("share") >= LEAST_SHARE, kind="head", answer=ALL)
    return [parse(node) for node in heads.sort("rank")["node"].head(count)]


def largest(table: pl.DataFrame, rows: int) -> pl.DataFrame:
    """At most `rows` rows, in their order: rows by answer go before the others, and small changes before large ones."""
    if table.height <= rows:
        return table
    by_answer = pl.col("answer") != ALL if "answer" in table.columns else pl.lit(False)
    order = table.with_row_index("row").sort(by_answer, -pl.col("exact").abs(), maintain_order=True)
    return table[order["row"].head(rows).sort()]


def node_changes(
    nodes: NodeOutputs, pairs: Pairs, path: Path, exact: bool, batch: int
) -> Float[np.ndarray, "subjects nodes"]:
    """Change of each pair's logit difference by each node, in the order of `node_frame`."""
    parts = []
    for start in range(0, len(pairs.donor), batch):
        rows = slice(start, start + batch)
        effects, whole = path(rows, _taken(nodes, rows), _taken(nodes, pairs.donor[rows]), exact)
        each = (
            effects.embedding[:, None],
            effects.heads.flatten(1, 2),
            effects.attn_out,
            effects.mlp_out,
            whole,
        )
        difference = logit_difference(torch.cat(each, dim=1), pairs.own[rows], pairs.other[rows])
        parts.append(difference[..., 0])
    return torch.cat(parts).double().cpu().numpy()


def to_logits(anatomy: Anatomy, readout: Readout) -> Path:
    """The path node -> final norm -> logits, of nodes at END (P2.2)."""
    weights = [block.out_weight for block in anatomy.blocks]

    def path(rows: slice, clean: NodeOutputs, donor: NodeOutputs, exact: bool) -> tuple[Effects, Tensor]:
        whole = readout.change(clean.resid, (donor.resid - clean.resid)[:, None], exact=exact)
        return closed_form.direct_effects(clean, donor, weights, readout, exact=exact), whole

    return path


def _taken(nodes: NodeOutputs, rows: slice | Int[Tensor, " rows"]) -> NodeOutputs:
    return NodeOutputs(**{name: values[rows] for name, values in vars(nodes).items()})


def clean_difference(
    resid: Float[Tensor, "subjects d_model"], pairs: Pairs, readout: Readout
) -> Float[np.ndarray, " subjects"]:
    logits = readout.norm(resid.to(readout.directions.dtype)) @ readout.directions.T
    return logit_difference(logits, pairs.own, pairs.other)[:, 0].double().cpu().numpy()


def node_frame(nodes: NodeOutputs) -> pl.DataFrame:
    """The nodes by name: the embedding, heads by layer, attention and MLP outputs by layer, and all at once."""
    layers, heads = range(nodes.n_layers), range(nodes.z.shape[2])
    rows = [(str(Site("resid_pre", 0)), "embedding", None, None)]
    rows += [(str(head(layer, index)), "head", layer, index) for layer in layers for index in heads]
    rows += [
        (str(Site(kind, layer)), kind, layer, None) for kind in ("attn_out", "mlp_out") for layer in layers
    ]
    rows += [(ALL, ALL, None, None)]
    return pl.DataFrame(rows, schema=NODE, orient="row")


def mean_changes(
    frame: pl.DataFrame,
    changes: dict[bool, Float[np.ndarray, "subjects nodes"]],
    clean: Float[np.ndarray, " subjects"],
    rows: np.ndarray,
    seed: int,
) -> pl.DataFrame:
    """Mean changes of some subjects with their intervals, a row per node.

    share: of the exact change of all nodes at once, where that is negative. behind: the exact change minus the most negative
    one of the same kind of nodes, paired.
    """
    summary = {
        "exact": changes[True][rows],
        "frozen": changes[False][rows],
        "logit_difference": clean[rows, None],
    }
    columns = [pl.lit(int(rows.sum())).alias("n")]
    for name, values in summary.items():
        mean = mean_intervals(values, seed=seed)
        for part, end in ENDS:
            column = np.broadcast_to(getattr(mean, part), frame.height)
            columns.append(pl.Series(f"{name}{end}", column, nan_to_null=True))
    away = behind(changes[True][rows], frame["kind"].to_list(), lowest=True, seed=seed)
    apart = pl.DataFrame(
        [estimate_columns("behind", estimate) for estimate in away], schema=estimate_schema("behind")
    )
    whole = pl.col("exact").filter(kind=ALL).first()
    share = pl.when(whole < 0).then(pl.col("exact") / whole).alias("share")
    return frame.with_columns(*columns, *apart).with_columns(share)


def ranked(table: pl.DataFrame, counted: pl.Expr) -> pl.DataFrame:
    """With the column rank: 1 for the most negative exact change among the rows that count, null elsewhere.

    A place among many that do nothing means nothing: `share` says what a node does.
    """
    return table.with_columns(pl.when(counted).then(pl.col("exact")).rank("ordinal").alias("rank"))
