"""What a study will cost, told before it runs: seconds, disk and GPU memory of each job, from shapes and a few rates.

Three things are counted for each rule: tokens that go through the blocks of the model (a replacement in the middle runs
the layers above it only, which is counted as that share of a token), passes, each of which costs a fixed time however small
it is, and seconds of a processor for statistics. A job also has to start, and to load the model. What is not known before
the run is taken as follows: everybody is recalled (who is stands in recall.csv once it is there), a lookup that is to be found has a quarter of the layers, and without
prompts tables a word has 1.3 tokens. The constants were fitted on finished runs; docs/performance.md says how well they do.

Imports no torch: rates are given (scripts/cost.py measures them).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

import polars as pl

from factfinding.config import Config
from factfinding.data.facts import read_facts
from factfinding.data.subjects import read_subjects
from factfinding.errors import InputError
from factfinding.families import KNOWN_TYPES, TINY
from factfinding.files import read_json
from factfinding.least import EVALUATIONS, EXACT_UP_TO
from factfinding.model_folder import all_sizes, weights_within
from factfinding.relation import STUDY_FACTS, of_the_study, wordings

TOKENS_A_WORD = 1.3
EFFICIENCY = {"gpu": 0.5, "processor": 0.75}
"""Share of the rate of one large product that whole passes reach."""
PASS = 1.5e-3
"""Seconds that a block takes in any pass: calls of kernels and hooks."""
LOADED = 1e9
"""Bytes of weights a second, read, widened, checked and moved."""
DISK = 2e8
"""Bytes of results a second, with their checksums."""
KINDS = 4
"""Ways to ablate a node (methods/groups.py)."""
BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
FIT, FIT_NUMBER = 0.02, 3e-8
"""Seconds of one logistic fit, and of each subject, dimension and answer of it."""
ANSWERS_OF_FACTS = 8
"""Answers to a relation, about."""
PER_HEAD = 8e-3
"""Seconds for the intervals of one head in P1.2, and for the shares of its variance."""
ORDER, GATHERED = 4.3e-8, 3.2e-8
"""Seconds to draw one number of a random order, and to bring one weight to its place in it and back. The latter is taken
for nothing on a GPU, which does it at the rate of its memory."""
NETWORK_STEP = 6e-5
"""Seconds of a step of a toy network, many of which are trained together."""
DICTIONARY_STEP, DICTIONARY_FEATURE = 1.3e-3, 5.5e-6
"""Seconds of a step of a dictionary's training, and of each feature in it."""
PROCESSOR = 5e10
"""Operations a second of the products of rules that never use a GPU."""
FASTER = {"full": 1, "tf32": 7, "bfloat16": 14}
"""How much faster than float32 a GPU takes products of differences."""
SCREENED = 0.3
"""Share of the replacements of P2.7 that the screen leaves to be run."""
SWEPT_ROWS = 8192
"""Most rows of a batch of the neuron sweep."""
ASSEMBLED = 7e-4
"""Seconds to find one prompt's activations in the shards and check them."""
BY_CONDITION = ("activations_shard", "activations")
"""Rules whose jobs differ by condition; one whose name begins with another's comes first."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What the machine does. start: seconds until a job has imported the library. products: float32 operations a second of
    large matrix products (a multiply-add is two). gpu: whether they are a GPU's."""

    start: float
    products: float
    gpu: bool = False


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model's sizes. block, ends: weights of one block, and of all that is no block."""

    layers: int
    width: int
    heads: int
    head: int
    neurons: int
    vocabulary: int
    block: int
    ends: int

    @classmethod
    def of(cls, config: Mapping[str, Any], where: Path) -> Shape:
        """From what a config.json says. Raises InputError as `all_sizes`."""
        sizes = all_sizes(where, config)
        one, two = (weights_within(config, sizes, layers) for layers in (1, 2))
        names = ("layers", "width", "heads", "head", "neurons", "vocabulary")
        return cls(**{name: sizes[name] for name in names}, block=two - one, ends=2 * one - two)

    @property
    def weights(self) -> int:
        return self.ends + self.layers * self.block


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Who is asked, and how long prompts are, in tokens. known: those who are recalled. after: from the final name token to
    END, both counted."""

    subjects: int
    known: int
    answers: int
    full: float
    name_only: float
    zero_shot: float
    name: float
    after: float
    facts: int
    """Facts in the table that is asked, and for how many of its subjects."""
    of_people: int


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one job does: tokens and passes through all layers, seconds of statistics, bytes that it writes, bytes of a GPU
    beside the weights. start: share of the library that it imports. loads: whether it loads the model. replaced: tokens
    that the engine of replacements runs, with `products` of that precision. gathered: weights that are brought into another
    order and back."""

    tokens: float = 0
    replaced: float = 0
    passes: float = 0
    statistics: float = 0
    disk: float = 1e6
    batch: float = 0
    start: float = 1
    loads: bool = False
    on_gpu: bool = False
    products: str = "full"
    gathered: float = 0


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study of which the cost is asked."""

    config: Config
    shape: Shape
    asked: Asked

    @cached_property
    def lookup(self) -> int:
        """MLPs of the lookup."""
        span = self.config.circuit.lookup
        return ceil(self.shape.layers / 4) if span is None else span[1] - span[0] + 1

    @property
    def products(self) -> str:
        """Precision of what the engine of most replacements multiplies."""
        return products_of(self.config.compute)

    def runs(
        self, tokens: float, prompts: float, *, length: float, statistics: float = 0, **more: Any
    ) -> Work:
        """A rule that runs the model. prompts: how many go through it, however often and far; length: of one, for the batch."""
        size = self.config.compute.batch_size
        row = 4 * (length * (6 * self.shape.neurons + 12 * self.shape.width) + self.shape.vocabulary)
        return Work(
            tokens=tokens, passes=ceil(prompts / size), statistics=statistics, batch=min(size, prompts) * row,
            loads=True, on_gpu=True, **more,
        )  # fmt: skip

    def works(self) -> dict[str, Work]:
        """What a job of each rule does. A rule of several jobs stands there once, for each of them; for activations by
        condition."""
        return self._beginning() | self._forward() | self._replaced() | self._neurons() | self._statistics()

    def _beginning(self) -> dict[str, Work]:
        organism, weights = self.config.organism, self.shape.weights
        trained = organism.max_steps * organism.rows * organism.row_tokens
        adopted = Work(statistics=8 * weights / LOADED)  # every byte is hashed, and every number looked at
        return {
            "train_organism": Work(
                statistics=5e-3 * organism.max_steps * self.shape.layers, tokens=3 * trained, disk=5e6
            ),
            "download_model": Work(statistics=4 * weights / LOADED, disk=2 * weights),
            "adopt_model": adopted,
            "convert_gguf": Work(statistics=4 * weights / LOADED, disk=4 * weights),
            "tiny_model": adopted,
            "download_checkpoints": Work(
                statistics=4 * weights * self.checkpoints / LOADED, disk=2 * weights * self.checkpoints
            ),
            "adopt_checkpoints": Work(statistics=8 * weights * self.checkpoints / LOADED),
            "download_texts": Work(start=0.5, disk=1e7),
            "subjects": Work(start=0.1),
            "prompts": Work(statistics=self.asked.subjects * 2e-4),
            "circuit": Work(start=0.1),
            "ledger": Work(start=0.1),
            "report": Work(start=0.6, disk=2e6),
            "figure": Work(start=0.5),
            "model_card": Work(loads=True, on_gpu=True, tokens=100, passes=2),
            "toy_models": Work(start=0.6, statistics=2 + NETWORK_STEP * self._toy_steps),
            "toy_illustrations": Work(start=0.7, statistics=1e-4 * self.config.toys.picture_steps),
        }

    @property
    def _toy_steps(self) -> int:
        toys = self.config.toys
        networks = 3 * len(toys.sizes) * len(toys.widths) * len(toys.depths) * toys.seeds
        return networks * toys.max_steps

    def _forward(self) -> dict[str, Work]:
        """Rules that run whole prompts, or names alone."""
        shape, asked, config = self.shape, self.asked, self.config
        everybody, n, full = asked.subjects, asked.known, asked.full
        lengths = {"full": full, "name_only": asked.name_only, "zero_shot": asked.zero_shot}
        logits = shape.vocabulary * shape.width / (shape.block * shape.layers)  # of one position, in tokens
        found = {
            f"activations_{condition}": Work(
                start=0.1, statistics=everybody * ASSEMBLED, disk=everybody * self._cached(length)
            )
            for condition, length in lengths.items()
        }
        share = everybody / config.activations.shards
        found |= {
            f"activations_shard_{condition}": self.runs(
                share * length, share, length=length, disk=share * self._cached(length)
            )
            for condition, length in lengths.items()
        }
        contexts = full + 5 * (asked.name_only + 4)
        locality, at = config.locality, config.locality.strings * config.locality.positions
        windows = sum(k + 1 for k in locality.k if k < locality.tokens) + locality.tokens / 2
        swapped = 6 * min(config.names.swap_pairs, n) * (2 + config.names.shuffles)
        mlps = 2 * shape.neurons * shape.width * shape.layers
        shuffles = config.names.shuffles * len(config.names.conditions)
        people = 2 * n * len(config.names.conditions)
        return found | {
            "recall": self.runs(
                everybody * (full + asked.zero_shot + 2 * logits), 2 * everybody, length=full
            ),
            "circuit_checks": self.runs(
                n * (12 * full + shape.layers / 2 * asked.after), (12 + shape.layers) * n, length=full
            ),
            "context": self.runs(n * contexts, 6 * n, length=full),
            "effective_model": self.runs(
                4 * n * (full + asked.name_only), 8 * n, length=full,
                disk=4 * self.lookup * (shape.block + 2 * shape.width**2),
            ),
            "mlp_norms": self.runs(people * asked.name_only, people, length=asked.name_only),
            "orthogonal_remainder": self.runs(people * asked.name_only, people, length=asked.name_only),
            "linear_structure": self.runs(
                swapped * asked.name_only, swapped, length=asked.name_only,
                statistics=shuffles * shape.neurons * shape.width * ORDER, gathered=shuffles * mlps,
            ),
            "neuron_facts": self.runs(self._asked_facts * (full + logits), self._asked_facts, length=full),
            "locality": self.runs(
                locality.strings * locality.tokens + at * windows, at * (len(locality.k) + 1), length=locality.tokens
            ),
        }  # fmt: skip

    def _cached(self, length: float) -> float:
        """Bytes of one prompt's activations."""
        shape, lookup = self.shape, self.config.circuit.lookup
        sizes = {
            "resid": shape.width, "attn_out": shape.width, "mlp_out": shape.width, "z": shape.heads * shape.head,
            "pre": shape.neurons, "post": shape.neurons, "pattern": shape.heads * length,
        }  # fmt: skip
        total = 0.0
        for group in self.config.activations.datasets:
            of_lookup = group.site in ("pre", "post") and lookup is not None
            own = self.lookup if of_lookup else shape.layers + (group.site == "resid")
            layers = own if group.layers is None else len(group.layers)
            total += len(group.roles) * layers * sizes[group.site]
        return total * (2 if self.config.activations.stored == "float16" else 4)

    def _replaced(self) -> dict[str, Work]:
        """Rules that replace parts of a run: of each token, the layers above are run."""
        shape, asked, config = self.shape, self.asked, self.config
        n, after, layers, heads = asked.known, asked.after, shape.layers, self.shape.heads
        section = config.interventions
        patched, ablated = min(section.patched_subjects, n), min(section.node_subjects, n)
        slots = asked.name - 1 + after
        places = slots * (slots + 1) / 2  # tokens run when each position from the name on is replaced in turn
        nodes = (patched + (KINDS - 2 + 2 * section.draws) * ablated) * (heads + 2) * (layers - 1) / 2
        scans, lookup = 5 * layers, self.lookup
        pairs, removed = lookup * (lookup - 1) / 2 * KINDS, min(n, config.mlp_paths.ablated_subjects or n)
        above = 1 - lookup / (2 * layers)
        return {
            "total_effects_shard": self._screened(nodes * places, nodes * slots / heads, length=after * heads / 4),
            "total_effects": Work(statistics=nodes * slots * 2e-6, disk=60 * nodes * slots),
            "paraphrases": self._wordings(),
            "multi_token": self._attributes(),
            "extraction_unasked": self._unasked(),
            "linear_relation": self._relation(),
            "entity_cells": self._cells(),
            "emergence": self._checkpoints(),
            "name_unit": self.runs(
                min(config.name_unit.sampled_subjects, n) * (3 * asked.full + 4 * (asked.full - after)),
                7 * min(config.name_unit.sampled_subjects, n), length=asked.full, statistics=layers * 0.1,
            ),
            "residual_patching": self.runs(
                patched * 2 * asked.full, patched * slots * self._calls(layers), length=asked.full,
                replaced=patched * places * (layers + 1) / 2, products=self.products,
            ),
            "circuit_scan": self.runs(
                n * asked.full + patched * asked.full, n + patched * self._calls(scans), length=asked.full,
                replaced=patched * scans * after / 2, products=self.products, statistics=5,
            ),
            "ladder": self.runs(
                n * (2 * asked.full + 4 * asked.name_only), n * (2 + 2 * KINDS), length=asked.full,
                replaced=n * 5 * KINDS, products=self.products, statistics=2,
            ),
            "mlp_paths": self.runs(
                removed * 2 * asked.full, removed * (2 + self._calls(pairs)), length=asked.full,
                replaced=removed * pairs * after * above, products=self.products, statistics=1,
            ),
            "probe_patching": self.runs(
                n * asked.full, n + patched * layers / 2, length=asked.full,
                replaced=patched * layers * 10 * after / 2, products=self.products,
                statistics=layers * config.probes.n_folds * (1e-11 * shape.width**3 + 1e-2),
            ),
        }  # fmt: skip

    def _calls(self, items: float) -> int:
        """In how many passes a batch of prompts is run with so many things replaced."""
        return max(1, ceil(items * self.config.compute.batch_size / SWEPT_ROWS))

    def _screened(self, tokens: float, prompts: float, *, length: float) -> Work:
        """P2.7: all replacements, or those that the screen leaves to be run, and a backward pass."""
        section = self.config.interventions
        run, share = tokens * self.shape.block * self.shape.layers, 1 / section.shards
        if section.screen == "never" or (section.screen == "auto" and run <= EXACT_UP_TO):
            backward = 0.0
        else:
            share, backward = share * SCREENED, 3 * (KINDS + 1) * section.patched_subjects * self.asked.full
        return self.runs(
            backward, share * prompts, length=length, replaced=share * tokens, products=self.products
        )

    def _relation(self) -> Work:
        """P1.3: a pass back for each dimension of each example, and the representations of others moved after some layers."""
        asked, section, layers = self.asked, self.config.linear_relation, self.shape.layers
        scored, read = min(section.scored_subjects, asked.known), min(section.layers, layers - 1)
        moved = (2 * scored + section.examples * len(section.ranks)) * read
        back = section.examples * self.shape.width
        tokens = (back + moved / 2) * asked.after + 3 * (scored + section.examples) * asked.full
        found = self.runs(
            tokens, moved + 3 * scored, length=asked.full, statistics=read * 1e-8 * self.shape.width**2
        )
        return replace(found, batch=max(found.batch, 256 * asked.after * 4 * 4 * self.shape.neurons))

    @property
    def checkpoints(self) -> int:
        """Checkpoints that are looked at."""
        source = self.config.model.source
        return (
            self.config.organism.checkpoints
            if source == "organism"
            else len(self.config.emergence.named(source))
        )

    def _checkpoints(self) -> Work:
        """P1.5: at each checkpoint the subjects and their partners, six changed runs, a pass forward and back for each answer,
        and probes of every layer; of the embedded model two groups of subjects."""
        asked, shape, section = self.asked, self.shape, self.config.emergence
        if not self.checkpoints:
            return Work()
        groups = 2 if self.config.model.source == "organism" else 1
        sampled = min(groups * section.sampled_subjects, asked.known)
        runs = sampled * (6 + 4 * asked.answers)
        fit = FIT + FIT_NUMBER * min(sampled, shape.width) * sampled * asked.answers
        fits = groups * (shape.layers + 2) * self.config.probes.n_folds
        found = self.runs(self.checkpoints * runs * asked.full, self.checkpoints * runs, length=asked.full)
        load = (self.checkpoints - 1) * 4 * shape.weights / LOADED
        return replace(found, statistics=self.checkpoints * fits * fit / 2 + load)

    def _cells(self) -> Work:
        """P3.9: neurons of the lookup at the name, chosen in two ways beside random ones, and in two ways replaced."""
        asked, section = self.asked, self.config.entity_cells
        sampled = min(section.sampled_subjects, asked.known)
        replaced = 2 * sampled * (1 + 4 * len(section.neurons))
        above = 1 - self.lookup / self.shape.layers / 2
        tokens = asked.known * asked.name_only + sampled * 9 * asked.full + replaced * asked.after * above
        return self.runs(tokens, asked.known + 6 * sampled + replaced, length=asked.full)

    def _wordings(self) -> Work:
        """P2.12: everybody is asked in each further wording, and compared on some."""
        asked, section = self.asked, self.config.paraphrases
        others = len(wordings(self.config.relation)) - 1
        if not others:
            return Work(loads=True)
        compared = min(asked.known, section.compared_subjects)
        fit = FIT + FIT_NUMBER * compared * self.shape.width * asked.answers
        fits = (others + 1) * 2 * (self.shape.layers + 1) * self.config.probes.n_folds
        return self.runs(
            (others * asked.subjects + (others + 1) * compared) * asked.full, asked.subjects, length=asked.full,
            statistics=fits * fit + 5,
        )  # fmt: skip

    def _replaced_neurons(self, tokens: float) -> float:
        """Neurons of a layer that P3.2 replaces: all, or those of its screen. tokens: run for one neuron on every fact."""
        shape, section = self.shape, self.config.neurons
        run = tokens * shape.neurons * self.lookup * shape.block * shape.layers
        if section.screen == "never" or (section.screen == "auto" and run <= EXACT_UP_TO):
            return shape.neurons
        return min(shape.neurons, section.screen_largest + section.screen_sample)

    def _attributes(self) -> Work:
        """P1.1: subjects are asked their facts; probes of each relation; every attribute replaced under every question."""
        asked, shape, section = self.asked, self.shape, self.config.multi_token
        people, relations = self._of_attributes()
        swapped = min(people, section.swapped_subjects)
        partial = swapped * relations * (2 * relations + 1)
        fit = FIT + FIT_NUMBER * min(people, shape.width) * people * ANSWERS_OF_FACTS
        fits = relations * self.config.probes.n_folds * (min(section.layers, shape.layers + 1) + 5)
        logits = shape.vocabulary * shape.width / (shape.block * shape.layers)
        return self.runs(
            people * relations * (asked.full + logits + asked.name_only) + swapped * relations * asked.full
            + partial * asked.after / 2,
            people * relations * 3, length=asked.full, statistics=fits * fit + 3,
        )  # fmt: skip

    def _unasked(self) -> Work:
        """P1.2: subjects are asked every question once."""
        people, relations = self._of_attributes()
        asked = min(people, self.config.extraction_unasked.asked_subjects) * (relations + 1)
        heads = self.shape.layers * self.shape.heads
        return self.runs(
            asked * self.asked.full, asked, length=self.asked.full, statistics=3 + heads * PER_HEAD
        )

    def _of_attributes(self) -> tuple[int, float]:
        """Subjects who are asked their facts (P1.1), and how many each has."""
        asked = self.asked
        people = min(asked.known, asked.of_people, self.config.multi_token.asked_subjects or asked.known)
        return people, max(2, asked.facts / asked.of_people)

    @property
    def _asked_facts(self) -> float:
        """Facts of P3.2."""
        people = min(self.asked.known, self.config.neurons.asked_subjects or self.asked.known)
        return people * max(2, self.asked.facts / self.asked.of_people)

    def _neurons(self) -> dict[str, Work]:
        """P3.2 and the dossiers."""
        shape, asked, config = self.shape, self.asked, self.config
        section, dossiers = config.neurons, config.answer_neurons
        facts = self._asked_facts
        layers = self.lookup / section.shards
        points = min(EVALUATIONS, section.draws) if section.tolerance else section.draws
        edits = facts * layers * self._replaced_neurons(facts * asked.after * points) * points
        above = 1 - self.lookup / shape.layers / 2
        donors = 3 * asked.known * asked.name_only * 2
        twin = section.twin_rows * section.draws * asked.full * 2  # in float64
        rows = facts * layers * shape.neurons * 2
        swept = Work(
            replaced=edits * asked.after * above, tokens=donors + twin,
            passes=facts * layers * 5 + donors / asked.name_only / config.compute.batch_size,
            disk=2 * 90 * rows, batch=SWEPT_ROWS * asked.after * 4 * shape.neurons * 4, loads=True, on_gpu=True,
            products=products_of(section),
        )  # fmt: skip
        chosen = asked.answers + len(dossiers.neurons)
        each = min(dossiers.ablated_subjects, asked.known / (2 * asked.answers)) * (
            1 + dossiers.random_neurons
        )
        return {
            "neuron_effects_shard": swept,
            "neuron_effects": Work(start=0.1, statistics=rows * section.shards * 2e-7, disk=90 * rows * section.shards),
            "dossiers": self.runs(
                chosen * each * 2 * asked.after * above + dossiers.text_tokens, chosen * each * 2, length=asked.full,
                statistics=chosen, disk=1e7,
            ),
        }  # fmt: skip

    @property
    def _dictionary_seconds(self) -> float:
        """P1.4: at each place each width is trained with every seed, and twice more to compare with."""
        section = self.config.dictionaries
        places = sum(
            usual if layers is None else len(layers)
            for layers, usual in ((section.resid_layers, 3), (section.mlp_layers, 1))
        )
        step = DICTIONARY_STEP * len(section.features) + DICTIONARY_FEATURE * sum(section.features)
        return places * (section.seeds + 2) * section.steps * step

    def _statistics(self) -> dict[str, Work]:
        """Rules that read activations, weights or tables, and do not run the model."""
        shape, asked, config = self.shape, self.asked, self.config
        n, layers = asked.known, shape.layers
        fit = FIT + FIT_NUMBER * n * shape.width * asked.answers
        probes = config.probes
        folds = len(probes.folds) + len(probes.control_folds)
        scan = 2 * layers * n * shape.width * shape.heads * shape.head
        names = n * shape.width * asked.answers * FIT_NUMBER + FIT
        repeated = config.lookup.probe_repeats * len(config.lookup.probe_folds) * 2
        grid = min(n, 500) ** 2 * self.lookup  # beginnings times last tokens
        return {
            "readers": Work(statistics=probes.n_folds * (layers + 1) * fit + 1),
            "layer_probes": Work(
                statistics=0.7 * len(probes.conditions) * (layers + 2) * folds * probes.n_folds * fit, start=0.9
            ),
            "direct_effects": Work(statistics=1 + 2 * scan / PROCESSOR, loads=True),
            "head_inputs": Work(
                statistics=config.heads.top * (1 + 2 * scan / PROCESSOR), loads=True
            ),
            "attention_roles": Work(loads=True, statistics=1),
            "head_probes": Work(
                loads=True,
                statistics=1 + len(config.heads.conditions) * scan / PROCESSOR
                + config.heads.permutations * layers * shape.heads * n * 1e-9,
            ),
            "answer_neurons": Work(
                statistics=2 + self.lookup * shape.neurons * n * (1e-7 + config.answer_neurons.permutations * 1e-10)
            ),
            "nonlinear_excess": Work(
                tokens=grid * shape.neurons * shape.width * 2 / (shape.block * layers), passes=grid / 4096,
                statistics=1, loads=False, on_gpu=True, batch=4096 * 4 * 8 * shape.neurons,
            ),
            "effective_probes": Work(
                statistics=repeated * (self.lookup + 1) * 5 * names, on_gpu=True, batch=n * 4 * 8 * shape.neurons
            ),
            "dictionaries": Work(statistics=2 + self._dictionary_seconds, loads=True),
            "fact_correlations": Work(start=0.4),
            "effect_concentration": Work(start=0.4),
        }  # fmt: skip


def estimate(study: Study, jobs: Iterable[str], rates: Rates) -> pl.DataFrame:
    """Columns rule, jobs, seconds (of all its jobs, one after the other; null for a rule that `Study.works` does not know, such
    as an experiment of one's own), gpu_gb (null for rules without a GPU), disk_gb; in the order of `jobs`, names such as
    activations_full, activations_shard_full_0, figure_ladder and neuron_effects_shard_0.
    """
    works, found = study.works(), []
    weights = study.shape.weights * BYTES[study.config.compute.dtype]
    for job in jobs:
        rule = rule_of(job)
        work = works.get(re.sub(r"_\d+$", "", job) if rule in BY_CONDITION else rule)
        row = {"rule": rule, "seconds": None, "gpu_gb": None, "disk_gb": None}
        if work is not None:
            row |= {"seconds": seconds(study.shape, work, rates, weights), "disk_gb": work.disk / 1e9}
            row |= {"gpu_gb": (weights + work.batch) / 1e9 if work.on_gpu else None}
        found.append(row)
    numbers = dict.fromkeys(("seconds", "gpu_gb", "disk_gb"), pl.Float64)
    table = pl.DataFrame(found, schema={"rule": pl.String, **numbers})
    known = pl.col("seconds").is_not_null().any()
    return table.group_by("rule", maintain_order=True).agg(
        pl.len().cast(pl.Int64).alias("jobs"),
        pl.when(known).then(pl.col("seconds").sum()),
        pl.col("gpu_gb").max(),
        pl.when(known).then(pl.col("disk_gb").sum()),
    )


def products_of(section: Any) -> str:
    """Precision of the products of an engine, by its keys `engine` and `products`."""
    return "full" if section.engine == "suffix" else section.products


def rule_of(job: str) -> str:
    """The rule of a job by its name."""
    several = ("figure", *BY_CONDITION, "total_effects_shard", "neuron_effects_shard")
    return next((rule for rule in several if job.startswith(f"{rule}_")), job)


def seconds(shape: Shape, work: Work, rates: Rates, weights: float) -> float:
    """What a job takes; weights: bytes of the model."""
    faster = FASTER[work.products] if rates.gpu else 1
    tokens = work.tokens + work.replaced / faster
    reached = EFFICIENCY["gpu" if rates.gpu else "processor"] * rates.products
    run = tokens * 2 * shape.block * shape.layers / reached
    run += work.passes * shape.layers * PASS
    load = weights / LOADED if work.loads else 0.0
    gathered = 0.0 if rates.gpu else work.gathered * GATHERED
    return work.start * rates.start + load + run + work.statistics + gathered + work.disk / DISK


def study_of(config: Config, results: Path = Path("results")) -> Study:
    """A study's shape and sizes, from its files where they are there. Raises InputError for a model whose shape is not known
    yet."""
    return Study(config=config, shape=_shape(config, results), asked=_asked(config, results / config.study))


def _shape(config: Config, results: Path) -> Shape:
    made, model = results / config.study / "model", config.model
    if (made / "source.json").is_file():
        folder = Path(read_json(made / "source.json")["folder"])
    elif model.source == "folder" and model.folder is not None:
        folder = Path(model.folder)
    elif model.source in ("organism", "tiny"):
        return Shape.of(_config_json(config), Path("config"))
    else:
        raise InputError(
            f"config.model of study {config.study!r}",
            f"a model from {model.source!r} that is not here yet",
            f"its files first: `snakemake {made / 'source.json'} --cores 1` fetches or converts them",
        )
    return Shape.of(read_json(folder / "config.json"), folder / "config.json")


def _config_json(config: Config) -> dict[str, Any]:
    """As much of config.json as sizes need, of a model that the workflow itself makes."""
    if config.model.source == "tiny":
        kind = config.model.family.removesuffix("_sequential")
        sizes = {"width": TINY["width"], "layers": TINY["layers"], "heads": TINY["heads"], "vocabulary": 512}
        sizes |= {"neurons": KNOWN_TYPES[kind].tiny_neurons * TINY["width"]}
    else:
        kind, own = "gpt_neox", config.organism
        words = own.vocabulary if own.world == "athletes" else own.first_names + own.last_names + 200
        sizes = {"width": own.width, "layers": own.layers, "heads": own.heads, "neurons": own.mlp_width}
        sizes |= {"vocabulary": words}
    sizes |= {"positions": 128}
    return {"model_type": kind} | {
        named[0]: sizes[name] for name, named in KNOWN_TYPES[kind].size_keys.items() if name in sizes
    }


def _asked(config: Config, folder: Path) -> Asked:
    subjects, answers, names = _people(config, folder)
    facts, of_people = _facts(config, subjects)
    relation = config.relation
    word = (
        1.0 if config.model.source == "organism" and config.organism.world == "fictional" else TOKENS_A_WORD
    )
    shot, before, after = (
        word * len(text.split()) for text in (relation.shot, relation.before, relation.after)
    )
    name = word * names
    found = Asked(
        subjects=subjects, known=subjects, answers=answers, full=1 + shot + before + name + after, name_only=1 + name,
        zero_shot=1 + before + name + after, name=name, after=1 + after, facts=facts, of_people=of_people,
    )  # fmt: skip
    if config.recall.at_most is not None:
        found = replace(found, known=min(found.known, config.recall.at_most))
    return _measured(found, folder, only_known=config.interventions.subjects == "known")


def _measured(asked: Asked, folder: Path, *, only_known: bool) -> Asked:
    """The same with the lengths of the prompts tables, where they are there."""
    known: dict[str, Any] = {}
    for condition in ("full", "name_only", "zero_shot"):
        path = folder / f"prompts/{condition}.parquet"
        if path.is_file():
            known[condition] = float(pl.read_parquet(path, columns=["n_tokens"])["n_tokens"].mean())
    path = folder / "prompts/full.parquet"
    if path.is_file():
        table = pl.read_parquet(path, columns=["first_name", "final_name", "end"])
        known["name"] = float((table["final_name"] - table["first_name"]).mean()) + 1
        known["after"] = float((table["end"] - table["final_name"]).mean()) + 1
        known["subjects"], known["known"] = table.height, min(asked.known, table.height)
    path = folder / "tables/recall.csv"
    if path.is_file() and only_known:
        known["known"] = int(pl.read_csv(path, columns=["known"])["known"].sum())
    return replace(asked, **known)


def _people(config: Config, folder: Path) -> tuple[int, int, float]:
    """Subjects, answers, and words of a name."""
    own = config.organism
    path, given = folder / "tables/subjects.csv", Path(config.subjects.table or "")
    if path.is_file():
        table = pl.read_csv(path, infer_schema=False)
    elif given.is_file():
        table = read_subjects(given, relation=config.relation, few="drop").frame
    else:
        return 3 * own.athletes_per_sport, 3, 2.0
    words = table["subject"].str.split(" ").list.len().mean()
    return table.height, table["answer"].n_unique(), float(words)


def _facts(config: Config, subjects: int) -> tuple[int, int]:
    """How many facts there are to ask, and of how many subjects."""
    own, path = config.organism, Path(config.neurons.facts or STUDY_FACTS)
    if config.neurons.facts is None and config.model.source == "organism":
        return (6 * own.described, own.described) if own.world == "fictional" else (2 * subjects, subjects)
    if config.neurons.facts is None and not of_the_study(config.relation):
        return 0, 1
    if not path.is_file():
        return 2 * subjects, subjects
    table = read_facts(path)
    return table.height, max(1, table["subject"].n_unique())


def measured_seconds(jobs: Iterable[str], folder: Path) -> dict[str, float]:
    """Seconds that the jobs of a rule took in a finished run of the study, by rule, where all of them were measured."""
    found: dict[str, list[float | None]] = {}
    for job in jobs:
        path = folder / f"benchmarks/{job}.tsv"
        took = float(path.read_text().splitlines()[-1].split("\t")[0]) if path.is_file() else None
        found.setdefault(rule_of(job), []).append(took)
    return {rule: sum(s for s in took if s) for rule, took in found.items() if None not in took}


def page(table: pl.DataFrame, study: str, rates: Rates, measured: Mapping[str, float]) -> str:
    """The table as text: a line for each rule, the longest first, and a line for all; empty where nothing is known."""

    def line(
        name: str, jobs: int, took: float | None, before: float | None, *sizes: float | None
    ) -> list[str]:
        times = [took, before] if measured else [took]
        return [name, str(jobs), *(_said(time, 0) for time in times), *(_said(size, 2) for size in sizes)]

    lines = [["rule", "jobs", "seconds", *(["measured"] if measured else []), "GPU GB", "disk GB"]]
    for rule, jobs, took, *sizes in (
        table.sort("seconds", descending=True, nulls_last=True, maintain_order=True)
        .select("rule", "jobs", "seconds", "gpu_gb", "disk_gb")
        .iter_rows()
    ):
        lines.append(line(rule, jobs, took, measured.get(rule), *sizes))
    lines.append(
        line(
            "all, one after the other", table["jobs"].sum(), table["seconds"].sum(), sum(measured.values()),
            table["gpu_gb"].max(), table["disk_gb"].sum(),
        )
    )  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    first = (
        f"Study {study}, about, at {rates.products / 1e9:,.0f} GFLOP/s of float32 products and {rates.start:.1f} s "
        "until a job has started:"
    )
    rows = (
        [name.ljust(widths[0]), *(text.rjust(width) for text, width in zip(others, widths[1:], strict=True))]
        for name, *others in lines
    )
    return "\n".join([first, *("  ".join(row) for row in rows)])


def _said(number: float | None, digits: int) -> str:
    return "" if number is None else f"{number:,.{digits}f}"
