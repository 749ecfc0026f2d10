"""Where the circuit's borders lie: right answers left as more and more layers are ablated at the final name token.

    attention_from   attention of this layer and all above; the number of layers means none
    attention_alone  attention of this layer
    mlps_below       MLPs below this layer (in a parallel block MLP 0 stays: it reads one token alone)
    mlps_from        the MLP of this layer and all above
    mlp_alone        the MLP of this layer
    probe            nothing; what a reader of the unchanged residual there gets right (`readers.py`)

Mean ablation on `full` prompts. Except for `probe` it is the model's own answer that counts, the best of the candidates
at END: an answer that is readable early may still have to be written in the way in which the model reads it.
The experiment `circuit` draws the borders; the table `circuit_borders` says how they would move with other subjects.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Int

from factfinding.engine.batches import packed
from factfinding.engine.certified import against_values, certified
from factfinding.engine.readings import Logits
from factfinding.engine.replaced import Replaced
from factfinding.engine.shards import first_batch
from factfinding.engine.suffix import Suffix
from factfinding.engine.sweep import Engine
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.borders import border_rows
from factfinding.methods.estimates import beside_unchanged, estimate_columns
from factfinding.methods.groups import Group, groups_of, in_batches, known_prompts, labels_of
from factfinding.methods.name_stream import clean_run, name_outputs
from factfinding.methods.readers import Readers, read_out, readers_of
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import anatomy_of
from factfinding.stats import majority_rate, share_interval
from factfinding.tables import empty, schema_of


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables `circuit_scan`, `circuit_borders` and `circuit_scan_twin`."""
    section, anatomy = settings.interventions, anatomy_of(inputs)
    engine = certified(anatomy, settings.compute, seed=section.seed)
    prompts = known_prompts(inputs, section.subjects)
    say(f"borders of the circuit on {min(prompts.height, section.patched_subjects)} subjects")
    tables = circuit_scan(
        anatomy,
        prompts,
        inputs.candidates,
        readers_of(inputs),
        engine=engine,
        subjects=section.patched_subjects,
        batch_size=settings.compute.batch_size,
        seed=section.seed,
    )
    return tables | {"circuit_scan_twin": against_values("circuit_scan_twin", engine, say)}


def scans(n_layers: int, *, parallel: bool) -> list[tuple[str, int, tuple[int, ...], tuple[int, ...]]]:
    """Each scan's name and layer, and the attention layers and MLPs that it ablates."""
    layers = range(n_layers)
    first = 1 if parallel else 0
    found = [("attention_from", k, tuple(layers[k:]), ()) for k in range(n_layers + 1)]
    found += [("attention_alone", k, (k,), ()) for k in layers]
    found += [("mlps_below", k, (), tuple(layers[first:k])) for k in range(first, n_layers + 1)]
    found += [("mlps_from", k, (), tuple(layers[k:])) for k in range(n_layers + 1)]
    return found + [("mlp_alone", k, (), (k,)) for k in layers]


def circuit_scan(
    anatomy: Anatomy,
    prompts: pl.DataFrame,
    candidates: pl.DataFrame,
    reader: Readers,
    *,
    engine: Engine | None = None,
    subjects: int,
    batch_size: int,
    seed: int,
) -> dict[str, pl.DataFrame]:
    """The tables `circuit_scan` and `circuit_borders`. Empty when the reader is.

    prompts: `full`. engine: None for values. At most `subjects` of them, drawn by the seed, are run under ablations; the means
    that are put in place, and the rows `probe`, are of all.
    """
    if reader.empty:
        return {name: empty(name) for name in ("circuit_scan", "circuit_borders")}
    groups, labels = groups_of(prompts), labels_of(prompts, candidates)
    outputs = name_outputs(anatomy, prompts, groups, batch_size=batch_size)
    drawn = np.zeros(prompts.height, dtype=bool)
    drawn[np.random.default_rng(seed).permutation(prompts.height)[:subjects]] = True
    tokens = torch.tensor(candidates["token_id"].to_list(), device=anatomy.device)
    engine, wanted = engine or Suffix(anatomy), scans(anatomy.n_layers, parallel=anatomy.parallel)
    by_depth = sorted(
        range(len(wanted)), key=lambda i: min((*wanted[i][2], *wanted[i][3]), default=anatomy.n_layers)
    )
    hits = np.zeros((prompts.height, len(wanted)), dtype=bool)

    def ablated(group: Group, batch: Int[np.ndarray, " batch"]) -> Bool[np.ndarray, "drawn scans"]:
        """Scans that begin at about the same layer run together, and none below it."""
        rows = batch[drawn[batch]]
        found = np.zeros((len(rows), len(wanted)), dtype=bool)
        if not len(rows):
            return found
        clean = clean_run(anatomy, prompts, group, rows, to_end=True)
        everyone = torch.arange(len(rows), device=anatomy.device)
        reading = Logits(at=group.layout.end, tokens=tokens)
        most = first_batch(anatomy, clean.tokens.shape[1] - clean.start)
        for some in packed(by_depth, lambda _: len(rows), most):
            changed = []
            for _, _, attention, mlps in (wanted[i] for i in some):
                attn, mlp = (
                    outputs.instead(part, "mean", layers, rows)
                    for part, layers in (("attn", attention), ("mlp", mlps))
                )
                changed.append(Replaced.of(everyone, attn=attn, mlp=mlp))
            said = engine.replaced(clean, Replaced.joined(changed), [reading])[0].argmax(-1)
            right = said.cpu().numpy().reshape(len(some), len(rows)) == labels[rows]
            found[:, some] = right.T
        return found

    for batch, found in in_batches(groups, batch_size, ablated):
        hits[batch[drawn[batch]]] = found
    read, _ = read_out(reader, outputs.resid.double().numpy(), prompts)
    rows = [_row("probe", layer, read[:, layer] == 1.0, None, labels) for layer in range(anatomy.n_layers)]
    nothing = next(i for i, (_, _, attention, mlps) in enumerate(wanted) if not attention and not mlps)
    unchanged = hits[drawn, nothing]
    rows += [
        _row(name, k, hits[drawn, i], unchanged, labels[drawn]) for i, (name, k, *_) in enumerate(wanted)
    ]
    names = [name for name, *_ in wanted]
    by_scan = {name: hits[drawn][:, [one == name for one in names]] for name in dict.fromkeys(names)}
    found = border_rows(by_scan, labels[drawn], first_mlp=1 if anatomy.parallel else 0, seed=seed)
    return {
        "circuit_scan": pl.DataFrame(rows, schema=schema_of("circuit_scan")),
        "circuit_borders": pl.DataFrame(found, schema=schema_of("circuit_borders")),
    }


def _row(scan: str, layer: int, hits: np.ndarray, unchanged: np.ndarray | None, labels: np.ndarray) -> dict:
    """unchanged: who is right with nothing ablated, of the same subjects; None where nothing is to be compared."""
    estimate, majority = share_interval(hits), majority_rate(labels)
    row = {"scan": scan, "layer": layer} | estimate_columns("accuracy", estimate)
    row |= {"n": estimate.n, "majority_rate": majority}
    return row | beside_unchanged(hits, unchanged, majority)
