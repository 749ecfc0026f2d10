"""Tables of made-up studies, computed by the library itself: one model that knows its subjects, one that does not."""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl
from scipy.special import log_softmax

from factfinding.experiments.circuit_checks.compute import circuit_checks
from factfinding.experiments.layer_probes.compute import (
    baseline_rows,
    probe_rows,
    table_of,
    with_name_groups,
)
from factfinding.experiments.recall.compute import AnswerScores, recall_summary, recall_table
from factfinding.experiments.recall.filters import known_filters
from factfinding.known import Rule
from factfinding.methods.probes import ProbeSettings
from factfinding.tables import schema_of
from helpers import planted
from helpers.head_tables import head_tables, planted_candidates
from helpers.intervention_tables import intervention_tables
from helpers.name_tables import example_name_tables
from helpers.neuron_tables import neuron_tables

ANSWERS = ("baseball", "basketball", "football")
SCRIPT = "<script>alert(1)</script> Smith"
"""A subject whose name must reach no page as it is."""
N = 150
CANDIDATES = pl.DataFrame(
    {
        "answer": ANSWERS,
        "token_id": [0, 1, 2],
        "answer_token": [f" {answer}" for answer in ANSWERS],
        "n_answer_tokens": [1, 1, 1],
    }
)


@cache
def study(*, knows: bool) -> dict[str, pl.DataFrame]:
    """The tables of one study by name. `knows`: the model recalls nearly all, and the answer is there from layer 2."""
    rng = np.random.default_rng(0)
    subjects = _subjects(rng)
    recall = _recall(subjects, rng, strength=8.0 if knows else 0.0)
    return (
        {
            "training": _training() if knows else _training().head(1),
            "subjects": subjects.select("subject", "answer"),
            "recall": recall,
            "recall_summary": recall_summary(recall, seed=0),
            "known_filters": known_filters(recall, Rule(), None, seed=0),
            "candidates": CANDIDATES,
            "bos_check": bos_check(used="<|endoftext|>"),
            "layer_probes": _probes(subjects, rng, strength=1.2 if knows else 0.0),
            "circuit_checks": _checks(knows),
        }
        | _heads(knows)
        | _interventions(knows)
        | neuron_tables(knows=knows)
        | _names(knows)
    )


def bos_check(*, used: str) -> pl.DataFrame:
    """Prompts of which nine tenths are recalled with <|endoftext|>, and a fifth with <|im_start|>, one of them in use."""
    rows = []
    for token, number, value in (("<|endoftext|>", 0, 0.9), ("<|im_start|>", 1, 0.2)):
        row = {"token": token, "token_id": number, "used": token == used, "n": 100, "majority_rate": 0.4}
        away = value - (0.9 if used == "<|endoftext|>" else 0.2)
        for measure in ("recalled", "accuracy", "logp"):
            for end, shift in (("", 0), ("_low", -0.1), ("_high", 0.1)):
                row[f"{measure}{end}"] = value + shift
                row[f"{measure}_from_used{end}"] = None if row["used"] else away + shift
        rows.append(row)
    return pl.DataFrame(rows, schema=schema_of("bos_check"))


def _subjects(rng: np.random.Generator) -> pl.DataFrame:
    pairs = rng.choice(30 * 40, N, replace=False)
    names = [SCRIPT] + [f"F{pair // 40:02d} L{pair % 40:02d}" for pair in pairs[1:]]
    return pl.DataFrame(
        {
            "subject": names,
            "answer": [ANSWERS[i % 3] for i in range(N)],
            "n_name_tokens": [2 + (i % 11 > 6) for i in range(N)],
        }
    )


def _recall(subjects: pl.DataFrame, rng: np.random.Generator, strength: float) -> pl.DataFrame:
    own = np.eye(3)[[ANSWERS.index(answer) for answer in subjects["answer"]]]
    scores = {}
    for condition, share in (("full", 1.0), ("zero_shot", 0.5)):
        logits = rng.normal(size=(N, 8))
        logits[:, :3] += strength * share * own * rng.uniform(0.2, 1, size=(N, 1))
        logp = log_softmax(logits, axis=1)
        scores[condition] = AnswerScores(logits=logits[:, :3], logp=logp[:, :3], top_token=[" token"] * N)
    return recall_table(subjects, CANDIDATES, scores)


def _probes(subjects: pl.DataFrame, rng: np.random.Generator, strength: float) -> pl.DataFrame:
    grouped, settings = (
        with_name_groups(subjects),
        ProbeSettings(control_folds=("last_name",), tolerance=1e-2),
    )
    centres = rng.normal(size=(3, 12))[[ANSWERS.index(answer) for answer in subjects["answer"]]]
    layers = (
        (condition, layer, rng.normal(size=(N, 12)) + strength * max(0, min(layer, 3) - 1) * centres)
        for condition in ("full", "name_only")
        for layer in range(-1, 5)
    )
    tokens = [[hash_of(word) for word in name.split()] for name in subjects["subject"]]
    rows = [
        *baseline_rows(grouped, tokens, settings=settings, seed=0),
        *probe_rows(layers, grouped, settings=settings, seed=0),
    ]
    return table_of(rows, seed=0)


def hash_of(word: str) -> int:
    """A token id that does not change from run to run."""
    return int.from_bytes(word.encode()[-3:], "big")


def _checks(knows: bool) -> pl.DataFrame:
    made = planted.at_name() if knows else planted.at_end()
    candidates = made.anatomy.tokenizer.convert_tokens_to_ids([f" {answer}" for answer in planted.ANSWERS])
    table = pl.DataFrame({"answer": planted.ANSWERS, "token_id": candidates})
    return circuit_checks(made.anatomy, made.prompts, table, batch_size=8, seed=0)


def _heads(knows: bool) -> dict[str, pl.DataFrame]:
    made = planted.at_name() if knows else planted.at_end()
    return head_tables(made.anatomy, made.prompts, planted_candidates(made))


def _interventions(knows: bool) -> dict[str, pl.DataFrame]:
    made = planted.at_name(firsts=6, lasts=6) if knows else planted.at_end(firsts=6, lasts=6)
    return intervention_tables(made.anatomy, made.prompts, planted_candidates(made))


def _names(knows: bool) -> dict[str, pl.DataFrame]:
    made = planted.at_name(firsts=8, lasts=8) if knows else planted.at_end(firsts=8, lasts=8)
    return example_name_tables(made.anatomy, made.prompts)


def _training() -> pl.DataFrame:
    steps = np.arange(40, 2001, 40)
    rise = np.minimum(1500, 64 * 1.6 ** (steps // 200)).astype(int)
    return pl.DataFrame(
        {
            "step": steps,
            "seconds": steps / 10,
            "tokens": steps * 1024,
            "loss": 4 * np.exp(-steps / 500) + 1.2,
            "active": rise,
            "described": rise // 10,
            **_recalled("", 1 - 0.8 * np.exp(-steps / 700)),
            **_recalled("_own", 1 - 0.9 * np.exp(-steps / 900)),
            "rate": np.full(len(steps), 4e-3),
        }
    )


def _recalled(suffix: str, share: np.ndarray) -> dict[str, np.ndarray]:
    ends = {"": share, "_low": share - 0.05, "_high": np.minimum(1, share + 0.05)}
    asked = {f"asked{suffix}": np.full(len(share), 256)}
    return {f"recalled{suffix}{end}": values for end, values in ends.items()} | asked
