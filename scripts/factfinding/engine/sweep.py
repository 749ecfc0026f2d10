"""Sweeps of exact edits: an index table in, one row per edit; the same rows with their results out.

    index = neuron_index(prompts=[0, 1], layers=range(2, 7), neurons=range(anatomy.d_mlp), kinds={"mean": 1})
    sweep = neuron_sweep(anatomy, prompts, index, donors, engine=Suffix(anatomy), model=digest, folder=shards)
    sweep.write(path)                     # the table, and beside it how far a sample lies from the slow twin

`prompts` is a prompts table (data/prompts.py) with one more column, `answer`: the token whose log-probability or logit
counts. A sweep works in pieces (one prompt and layer of neurons, or some prompts of one length), so that memory does
not grow with it; finished pieces are kept in `folder` and found again (`shards`). Batch sizes are found by themselves.
"""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from factfinding.digest import code_digest
from factfinding.engine import trace
from factfinding.engine.clean import Clean, activation, prepare
from factfinding.engine.readings import Logits, LogProbs, Reading
from factfinding.engine.response import curves
from factfinding.engine.shards import Batches, Log, TableShards, first_batch, tensor_digest
from factfinding.engine.sites import Site, check, neuron, parse
from factfinding.engine.suffix import Edits, edit, edit_neurons
from factfinding.errors import InputError
from factfinding.files import text_digest, write_table
from factfinding.model.anatomy import Anatomy
from factfinding.stats import spearman

KINDS = ("mean", "zero", "resample_same", "resample_other")
Progress = Callable[[int, int], None]


class Engine(Protocol):
    """`suffix.Suffix` or `difference.Difference`."""

    name: str

    def effects(self, clean: Clean, edits: Edits, reading: Reading) -> Float[Tensor, "rows k"]: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Donors:
    """Where a neuron's replacement values come from: the athletes that may give them, and their post-activations."""

    athletes: list[str]
    sports: list[str]
    values: Callable[[int, str], Float[Tensor, "athletes d_mlp"]]  # of a layer, at a position role


@dataclass(frozen=True, kw_only=True, eq=False)
class Sweep:
    """`table`: the index rows in their order, with results. `twin`: one row, how a sample differs from the slow twin.

    twin's columns: rows compared, dtype of the twin, largest_error, relative_error (largest error over the table's
    largest effect), median_relative_error (of each row's own effect) and rank_correlation.
    """

    table: pl.DataFrame
    twin: pl.DataFrame

    def write(self, path: Path) -> None:
        """Both tables, whole: `path` and `<name>_twin.csv` beside it."""
        write_table(self.table, path)
        write_table(self.twin, path.with_name(f"{path.stem}_twin.csv"))


def neuron_index(
    *,
    prompts: Iterable[int],
    layers: Iterable[int],
    neurons: Iterable[int],
    kinds: Mapping[str, int],
    role: str = "final_name",
) -> pl.DataFrame:
    """Every neuron of every layer in every prompt, under each kind of replacement with its number of draws (P3.2)."""
    parts = ({"prompt": list(prompts)}, {"layer": list(layers)}, {"neuron": list(neurons)})
    frame = (
        pl.DataFrame(parts[0])
        .join(pl.DataFrame(parts[1]), how="cross")
        .join(pl.DataFrame(parts[2]), how="cross")
    )
    kind = pl.DataFrame({"role": [role] * len(kinds), "kind": list(kinds), "draws": list(kinds.values())})
    return frame.join(kind, how="cross")


def neuron_sweep(
    anatomy: Anatomy,
    prompts: pl.DataFrame,
    index: pl.DataFrame,
    donors: Donors,
    *,
    engine: Engine,
    model: str,
    folder: Path | None = None,
    tolerance: float = 1e-4,
    seed: int = 0,
    twin_rows: int = 16,
    log: Log = print,
    progress: Progress = lambda done, total: None,
) -> Sweep:
    """Replace one neuron at a time; effect = change in log P of the answer (P3.2), averaged over the draws.

    index: prompt (row of `prompts`), layer, role (a position column of `prompts`), neuron, kind, draws. Results:
    effect (nats), standard_error (over draws; null for one), n (draws used: fewer where there are fewer donors),
    evaluations (of the neuron's curve, shared by its kinds), certificate (its largest error seen, nats; `response`).
    `tolerance` is relative to the largest effect of a prompt and layer; 0 evaluates every draw. Raises InputError for
    index rows that name what the prompts, the model or the donors do not have.
    """
    _check(index, prompts, {"layer": anatomy.n_layers, "neuron": anatomy.d_mlp})
    job = _Neurons(anatomy, prompts, donors, engine, tolerance, seed, log)
    context = _context(engine, model, anatomy, tolerance=tolerance, seed=seed, task="neurons")
    shards = TableShards(folder, context, log)
    table = _pieces(index, ["prompt", "layer", "role"], shards, job.about, job.compute, progress)
    return Sweep(table=table, twin=_twin(anatomy, table, job.twin, twin_rows, seed, log))


class _Neurons:
    """One piece of a neuron sweep: a prompt, a layer and a role."""

    def __init__(
        self, anatomy, prompts, donors: Donors, engine: Engine, tolerance: float, seed: int, log: Log
    ) -> None:
        self.anatomy, self.prompts, self.donors, self.engine = anatomy, prompts, donors, engine
        self.tolerance, self.seed = tolerance, seed
        self.batches = Batches(first_batch(anatomy, int(prompts["n_tokens"].max()) // 2), log)
        self.pool = lru_cache(maxsize=1)(donors.values)
        self.clean = lru_cache(maxsize=1)(self._clean)

    def _clean(self, prompt: int, role: str) -> Clean:
        return prepare(self.anatomy, self._tokens(prompt), start=self.prompts[role][prompt])

    def _tokens(self, prompt: int) -> Tensor:
        return torch.tensor([self.prompts["token_ids"][prompt].to_list()], device=self.anatomy.device)

    def about(self, rows: pl.DataFrame) -> list[str]:
        """What a piece depends on besides its rows: the prompt itself and the donors."""
        prompt, layer, role = rows.select("prompt", "layer", "role").row(0)
        own = self.prompts.select("athlete", "sport", "token_ids", "answer", "end", role).row(prompt)
        names = text_digest(*self.donors.athletes, *self.donors.sports)
        return [repr(own), names, tensor_digest(self.pool(layer, role))]

    def values(
        self, prompt: int, layer: int, role: str, kind: str, draws: int
    ) -> Float[Tensor, "draws d_mlp"]:
        """What a kind of replacement puts in; donors are drawn by athlete and kind, the same for all layers."""
        pool = self.pool(layer, role).to(self.anatomy.device)
        if kind in ("mean", "zero"):
            return (
                pool.double().mean(0, keepdim=True) if kind == "mean" else torch.zeros_like(pool[:1]).double()
            )
        athlete, sport = (self.prompts[name][prompt] for name in ("athlete", "sport"))
        people = enumerate(zip(self.donors.athletes, self.donors.sports, strict=True))
        able = [i for i, (a, s) in people if a != athlete and (s == sport) == (kind == "resample_same")]
        if not able:
            raise InputError(
                f"{kind} for {athlete!r} ({sport})", "no donor", "a donor of the sport that this kind needs"
            )
        drawn = random.Random(text_digest(str(self.seed), athlete, kind)).sample(able, min(draws, len(able)))
        return pool[drawn].double()

    def compute(self, rows: pl.DataFrame) -> pl.DataFrame:
        prompt, layer, role = rows.select("prompt", "layer", "role").row(0)
        clean, at, end = self.clean(prompt, role), self.prompts[role][prompt], self.prompts["end"][prompt]
        neurons = rows["neuron"].unique().sort()
        units = torch.tensor(neurons.to_list(), device=self.anatomy.device)
        kinds = rows.select("kind", "draws").unique(maintain_order=True).rows()
        parts = [self.values(prompt, layer, role, *kind) for kind in kinds]
        reading = LogProbs(at=end, tokens=torch.tensor([self.prompts["answer"][prompt]]))

        def evaluate(neuron: Tensor, value: Tensor) -> Tensor:
            def work(part: slice) -> Tensor:
                which = {
                    "prompt": torch.zeros_like(neuron[part]),
                    "neuron": units[neuron[part]],
                    "value": value[part],
                }
                edits = edit_neurons(self.anatomy, clean, layer=layer, at=at, **which)
                return self.engine.effects(clean, edits, reading)[:, 0]

            return self.batches.run(work, len(neuron))

        before = activation(self.anatomy, clean, Site("post", layer), at)[0, units]
        draws = torch.cat(parts)[:, units].to(before.dtype).T
        found = curves(evaluate, before, draws, tolerance=self.tolerance, seed=self.seed)
        columns = found.effects.split([len(part) for part in parts], dim=1)
        shared = {
            "neuron": neurons,
            "evaluations": found.evaluations.tolist(),
            "certificate": found.certificate.tolist(),
        }
        summaries = [
            pl.DataFrame({**shared, "kind": kind, "draws": n, **_summary(effects)})
            for (kind, n), effects in zip(kinds, columns, strict=True)
        ]
        results = pl.concat(summaries)
        order = ["effect", "standard_error", "n", "evaluations", "certificate"]
        return rows.join(results, on=["neuron", "kind", "draws"], how="left", maintain_order="left").select(
            *rows.columns, *order
        )

    def twin(self, anatomy: Anatomy, row: dict) -> float:
        """The same effect by hooks on whole prompts."""
        prompt, layer, role = row["prompt"], row["layer"], row["role"]
        pool = self.values(prompt, layer, role, row["kind"], row["draws"]).to(self.anatomy.dtype)
        value, tokens = pool[:, row["neuron"]][:, None], self._tokens(prompt)
        at, end = (
            torch.full((len(value),), self.prompts[name][prompt], device=tokens.device)
            for name in (role, "end")
        )
        answer = self.prompts["answer"][prompt]

        def edited(part: slice) -> Tensor:
            changes = [trace.Edit(site=neuron(layer, row["neuron"]), at=at[part], value=value[part])]
            many = tokens.expand(len(at[part]), -1)
            return trace.run(anatomy, many, logits_at=end[part], edits=changes).logits.log_softmax(1)[
                :, answer
            ]

        before = trace.run(anatomy, tokens, logits_at=end[:1]).logits.log_softmax(1)[:, answer]
        return float((self.batches.run(edited, len(value)) - before).mean())


def _summary(effects: Float[Tensor, "neurons draws"]) -> dict[str, list]:
    n = effects.shape[1]
    error = (effects.std(1) / n**0.5).tolist() if n > 1 else [None] * len(effects)
    columns = {"effect": effects.mean(1).tolist(), "standard_error": pl.Series(error, dtype=pl.Float64)}
    return {**columns, "n": pl.Series([n] * len(effects), dtype=pl.Int64)}


def patching_index(
    prompts: pl.DataFrame, pairs: Iterable[tuple[int, int]], sites: Iterable[str]
) -> pl.DataFrame:
    """Each site at every position of each (prompt, donor) pair, with the position's role in the prompt."""
    rows = [
        {"prompt": prompt, "donor": donor, "site": site, "position": position, "role": role}
        for prompt, donor in pairs
        for site in sites
        for position, role in enumerate(prompts["roles"][prompt])
    ]
    return pl.DataFrame(rows)


def patching_sweep(
    anatomy: Anatomy,
    prompts: pl.DataFrame,
    index: pl.DataFrame,
    *,
    engine: Engine,
    model: str,
    folder: Path | None = None,
    pairs_per_piece: int = 32,
    seed: int = 0,
    twin_rows: int = 16,
    log: Log = print,
    progress: Progress = lambda done, total: None,
) -> Sweep:
    """Patch a site at one position from another prompt's run; effect = change of the logit difference (P2.7).

    index: prompt and donor (rows of `prompts`, of one length), site (an address without role, such as resid_pre:3,
    mlp_out:3 or L3H2) and position. The logit difference is the prompt's answer minus the donor's.
    Raises InputError as `neuron_sweep` does, and for a pair of different lengths.
    """
    _check(index, prompts, {})
    for site in index["site"].unique():
        check(parse(site), anatomy)
    index = _numbered_pieces(index, prompts, pairs_per_piece)
    job = _Patching(anatomy, prompts, engine, log)
    shards = TableShards(folder, _context(engine, model, anatomy, task="patching"), log)
    table = _pieces(index, ["piece"], shards, job.about, job.compute, progress).drop("piece")
    return Sweep(table=table, twin=_twin(anatomy, table, job.twin, twin_rows, seed, log))


def _numbered_pieces(index: pl.DataFrame, prompts: pl.DataFrame, size: int) -> pl.DataFrame:
    """Index rows with the number of their piece: at most `size` pairs, all of one length."""
    lengths = prompts["n_tokens"].to_list()
    pairs = index.select("prompt", "donor").unique(maintain_order=True).rows()
    seen: dict[int, int] = {}
    pieces = []
    for prompt, donor in pairs:
        length = lengths[prompt]
        if lengths[donor] != length:
            found = f"{length} and {lengths[donor]} tokens"
            raise InputError(f"index, prompt {prompt} and donor {donor}", found, "two prompts of one length")
        pieces.append(f"{length}.{seen.get(length, 0) // size}")
        seen[length] = seen.get(length, 0) + 1
    table = pl.DataFrame(pairs, schema=["prompt", "donor"], orient="row").with_columns(
        pl.Series("piece", pieces)
    )
    return index.join(table, on=["prompt", "donor"], how="left", maintain_order="left")


class _Patching:
    """One piece of a patching sweep: some pairs of one length, all their sites and positions."""

    def __init__(self, anatomy: Anatomy, prompts: pl.DataFrame, engine: Engine, log: Log) -> None:
        self.anatomy, self.prompts, self.engine = anatomy, prompts, engine
        self.batches = Batches(first_batch(anatomy, int(prompts["n_tokens"].max())), log)

    def about(self, rows: pl.DataFrame) -> list[str]:
        used = sorted(set(rows["prompt"]) | set(rows["donor"]))
        return [repr(self.prompts.select("token_ids", "answer", "end")[used].rows())]

    def _run(self, rows: list[int], start: int) -> Clean:
        tokens = torch.tensor(self.prompts["token_ids"][rows].to_list(), device=self.anatomy.device)
        return prepare(self.anatomy, tokens, start=start)

    def compute(self, rows: pl.DataFrame) -> pl.DataFrame:
        pairs = rows.select("prompt", "donor").unique(maintain_order=True)
        place = {pair: i for i, pair in enumerate(pairs.rows())}
        start = rows["position"].min()
        clean, donor = (self._run(pairs[name].to_list(), start) for name in ("prompt", "donor"))
        tokens = torch.tensor(
            [self.prompts["answer"][pairs[name].to_list()].to_list() for name in pairs.columns]
        ).T
        which = rows.select(
            pl.struct("prompt", "donor")
            .map_elements(lambda p: place[p["prompt"], p["donor"]], return_dtype=pl.Int64)
            .alias("pair"),
            "site",
            "position",
            pl.col("site")
            .map_elements(lambda s: f"{parse(s).kind}:{parse(s).layer}", return_dtype=pl.String)
            .alias("place"),
            pl.Series("end", self.prompts["end"][rows["prompt"].to_list()]),
        ).with_row_index("row")
        effects = np.empty(rows.height)
        for (_, at, end), group in which.group_by("place", "position", "end", maintain_order=True):
            joined, order = self._edits(clean, donor, group, at)
            reading = Logits(at=end, tokens=tokens)

            def work(part: slice, joined=joined, reading=reading) -> Tensor:
                some = replace(joined, prompt=joined.prompt[part], delta=joined.delta[part])
                return self.engine.effects(clean, some, reading)

            change = self.batches.run(work, len(order)).double().cpu().numpy()
            effects[order] = change[:, 0] - change[:, 1]
        return rows.with_columns(pl.Series("effect", effects))

    def _edits(self, clean: Clean, donor: Clean, group: pl.DataFrame, at: int) -> tuple[Edits, list[int]]:
        """The edits of several units of one layer (its heads, say) as rows of one batch, and where their rows belong."""
        parts, order = [], []
        for (site,), rows in group.group_by("site", maintain_order=True):
            pair = torch.tensor(rows["pair"].to_list(), device=self.anatomy.device)
            value = activation(self.anatomy, donor, parse(site), at)[pair]
            parts.append(edit(self.anatomy, clean, parse(site), at=at, prompt=pair, value=value))
            order += rows["row"].to_list()
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in ("prompt", "delta")}
        return replace(parts[0], **joined), order

    def twin(self, anatomy: Anatomy, row: dict) -> float:
        """The same effect by hooks on whole prompts, the donor's value read from its own run."""
        own, other = (
            torch.tensor([self.prompts["token_ids"][row[name]].to_list()], device=anatomy.device)
            for name in ("prompt", "donor")
        )
        at, end = (
            torch.tensor([p], device=anatomy.device)
            for p in (row["position"], self.prompts["end"][row["prompt"]])
        )
        value = trace.run(anatomy, other, reads=[trace.Read(site=parse(row["site"]), at=at)]).values[0]
        edits = [trace.Edit(site=parse(row["site"]), at=at, value=value)]
        change = (
            trace.run(anatomy, own, logits_at=end, edits=edits).logits
            - trace.run(anatomy, own, logits_at=end).logits
        )
        answers = (self.prompts["answer"][row[name]] for name in ("prompt", "donor"))
        first, second = (float(change[0, token]) for token in answers)
        return first - second


def _check(index: pl.DataFrame, prompts: pl.DataFrame, sizes: Mapping[str, int]) -> None:
    """Raise InputError, naming the first wrong row, for an index that does not fit the prompts and the model."""
    limits = {name: prompts.height for name in ("prompt", "donor") if name in index.columns} | dict(sizes)
    for name, limit in limits.items():
        wrong = index.with_row_index("row").filter((pl.col(name) < 0) | (pl.col(name) >= limit))
        if wrong.height:
            raise InputError(f"index, row {wrong['row'][0]}", f"{name} {wrong[name][0]}", f"0-{limit - 1}")
    if "kind" in index.columns:
        for kind in index["kind"].unique():
            if kind not in KINDS:
                raise InputError("index", f"kind {kind!r}", ", ".join(KINDS))
        for role in index["role"].unique():
            if role not in ("first_name", "final_name", "end"):
                raise InputError(
                    "index", f"role {role!r}", "first_name, final_name, end (those of one position)"
                )
    if not index.height:
        raise InputError("index", "no rows", "at least one edit")


def _context(engine: Engine, model: str, anatomy: Anatomy, **settings) -> dict:
    """What all pieces of a sweep depend on."""
    root = Path(__file__).resolve().parents[2]
    code = code_digest(Path(__file__), root=root)
    return {"model": model, "dtype": str(anatomy.dtype), "engine": engine.name, "code": code, **settings}


def _pieces(
    index: pl.DataFrame, by: list[str], shards: TableShards, about, compute, progress: Progress
) -> pl.DataFrame:
    """Each piece of the index from its shard or computed, in the order of the index."""
    pieces, done = [], 0
    for _, rows in index.with_row_index("_row").group_by(by, maintain_order=True):
        own = rows.drop("_row")
        piece = shards.get(own, about(own), lambda own=own: compute(own))
        pieces.append(piece.with_columns(rows["_row"]))
        done += rows.height
        progress(done, index.height)
    return pl.concat(pieces).sort("_row").drop("_row")


def _twin(anatomy: Anatomy, table: pl.DataFrame, slow, n: int, seed: int, log: Log) -> pl.DataFrame:
    """A random sample of rows computed again by the slow twin, and how far the table lies from it."""
    sample = table[sorted(random.Random(seed).sample(range(table.height), min(n, table.height)))]
    if not sample.height:
        return pl.DataFrame()
    exact = in_float64(anatomy, log)
    truth = np.array([slow(exact, row) for row in sample.iter_rows(named=True)])
    error, largest = np.abs(sample["effect"].to_numpy() - truth), table["effect"].abs().max()
    tiny = np.finfo(np.float64).tiny
    result = {
        "rows": sample.height,
        "dtype": str(exact.dtype).removeprefix("torch."),
        "largest_error": float(error.max()),
        "relative_error": float(error.max() / max(largest, tiny)),
        "median_relative_error": float(np.median(error / np.maximum(np.abs(truth), tiny))),
        "rank_correlation": spearman(sample["effect"].to_numpy(), truth),
    }
    log("against the slow twin: " + ", ".join(f"{name} {value}" for name, value in result.items()))
    return pl.DataFrame([result])


def in_float64(anatomy: Anatomy, log: Log) -> Anatomy:
    """A float64 copy of the model where memory has room for one, else the model as it is."""
    if anatomy.dtype == torch.float64:
        return anatomy
    needed = 8 * sum(weight.numel() for weight in anatomy.model.parameters()) * 1.3
    on_gpu = anatomy.device.type == "cuda"
    free = (
        torch.cuda.mem_get_info(anatomy.device)[0]
        if on_gpu
        else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    )
    if needed > free:
        log(
            f"no room for a float64 copy ({needed / 1e9:.0f} GB of {free / 1e9:.0f} GB free): the slow twin runs in {anatomy.dtype}"
        )
        return anatomy
    return Anatomy(copy.deepcopy(anatomy.model).double(), anatomy.tokenizer)
