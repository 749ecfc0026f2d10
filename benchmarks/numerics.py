"""How much precision, batch size and threads change what a model gives: the numbers of docs/numerics.md.

    python benchmarks/numerics.py results/organism/model results/organism/prompts/full.parquet [SUBJECTS]

Prints Markdown. Everything is relative to the same model in float64 or to the same table with one thread and batches of 128.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import numpy as np
import polars as pl
import torch

from factfinding.engine.answers import answers
from factfinding.engine.compare import differences
from factfinding.engine.tokens import tokens_of
from factfinding.model.anatomy import Anatomy, load

KINDS = ("resid_pre", "z", "attn_out", "pre", "post", "mlp_out", "resid_post", "logits")


def precisions(folder: Path, prompts: pl.DataFrame) -> None:
    """Largest difference from float64 by kind of place, over all layers and positions; and what it does to answers."""
    exact = load(folder, dtype="float64", device="cpu")
    length = prompts["n_tokens"].mode()[0]
    tokens = tokens_of(
        prompts, np.flatnonzero(prompts["n_tokens"].to_numpy() == length).tolist(), exact.device
    )
    reference = probabilities(exact, prompts, 128)
    print(f"\n| | {' | '.join(KINDS)} | P of the answers | known otherwise |\n|{'---|' * (len(KINDS) + 3)}")
    for dtype in ("float32", "bfloat16", "float16"):
        other = load(folder, dtype=dtype, device="cpu")
        found = differences(exact, other, tokens)
        worst = [max(d.size for d in found if d.place.split(":")[0] == kind) for kind in KINDS]
        p = probabilities(other, prompts, 128)
        flips = int(((p > 0.5) != (reference > 0.5)).any(1).sum())
        apart = np.abs(p - reference).max()
        print(
            f"| {dtype} | {' | '.join(f'{w:.1e}' for w in worst)} | {apart:.1e} | {flips} of {prompts.height} |"
        )


def runs(folder: Path, prompts: pl.DataFrame) -> None:
    """The candidates' log-probabilities with other batch sizes and threads, and twice alike."""
    print(
        "\n| | batches of | threads | values that are other bits | largest difference, nats |\n|---|---|---|---|---|"
    )
    for dtype in ("float64", "float32"):
        model = load(folder, dtype=dtype, device="cpu")
        first = logp(model, prompts, 128, 1)
        for size, threads in ((128, 1), (128, 2), (7, 1), (7, 2), (1, 1)):
            other = logp(model, prompts, size, threads)
            changed = f"{int((first != other).sum()):,} of {first.size:,}"
            print(f"| {dtype} | {size} | {threads} | {changed} | {np.abs(first - other).max():.1e} |")


def logp(model: Anatomy, prompts: pl.DataFrame, batch_size: int, threads: int) -> np.ndarray:
    torch.set_num_threads(threads)
    return answers(model, prompts, candidates(prompts, model), batch_size=batch_size).logp


def probabilities(model: Anatomy, prompts: pl.DataFrame, batch_size: int) -> np.ndarray:
    return np.exp(logp(model, prompts, batch_size, 1))


def candidates(prompts: pl.DataFrame, model: Anatomy) -> list[int]:
    answers = sorted(set(prompts["answer"]))
    return [model.tokenizer(f" {answer}", add_special_tokens=False)["input_ids"][-1] for answer in answers]


def main() -> None:
    folder, table = Path(sys.argv[1]), pl.read_parquet(sys.argv[2])
    prompts = table.head(int(sys.argv[3])) if len(sys.argv) > 3 else table
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    print(
        f"{folder}: {kind}, {prompts.height} subjects, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    )
    precisions(folder, prompts)
    runs(folder, prompts)


if __name__ == "__main__":
    main()
