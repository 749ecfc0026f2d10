"""Toy models of memorisation: tasks, batched training, measures on networks made by hand, and the verdict's rule."""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factfinding.config import ToysConfig, validate
from factfinding.errors import InputError
from factfinding.experiments.toy_illustrations.compute import PICTURES, illustrations, plane_points
from factfinding.experiments.toy_illustrations.show import draw_toy_illustrations, picture_findings
from factfinding.experiments.toy_models import measure
from factfinding.experiments.toy_models.compute import ToyTables, grid_tasks, toy_tables, trained_batch
from factfinding.experiments.toy_models.show import _chosen, draw_toy_models, toy_findings
from factfinding.experiments.toy_models.tasks import TASKS, balanced_table, make_task, pair_inputs
from factfinding.experiments.toy_models.verdict import VERDICT, verdict
from factfinding.figures import style
from factfinding.methods import toy_networks as networks
from factfinding.methods.toy_networks import Examples, Networks, accuracies, forward, losses

SHARES = {"classes": 4, "exceptions": 0.1, "held_out": 0.25}
SMALL = ToysConfig(
    sizes=(8,), widths=(4, 8), depths=(1, 2), seeds=3, max_steps=200, picture_steps=100, points=24
)


@given(half=st.integers(1, 4), seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_neither_class_tells_the_label_and_no_two_classes_are_alike(half, seed):
    table = balanced_table(2 * half, np.random.default_rng(seed))
    assert (table.sum(0) == half).all() and (table.sum(1) == half).all()
    for rows in (table, table.T):
        assert len({row.tobytes() for row in rows}) == 2 * half


def test_two_classes_are_xor():
    table = balanced_table(2, np.random.default_rng(0))
    assert table[0, 0] == table[1, 1] != table[0, 1] == table[1, 0]


@given(seed=st.integers(0, 1000), m=st.sampled_from([8, 12, 20]))
@settings(max_examples=15, deadline=None)
def test_tasks_are_what_they_say(seed, m):
    memorised, ruled, bent = (make_task(kind, m, seed=seed, **SHARES) for kind in TASKS)
    assert memorised.trained.all() and ruled.trained.sum() == round(0.75 * m * m) == bent.trained.sum()
    for task in (memorised, ruled, bent):
        assert all((np.bincount(side) == m // 4).all() for side in (*task.classes, *task.random_classes))
    wrong = []
    for task in (ruled, bent):
        cell = (task.classes[0][:, None] * 4 + task.classes[1]).reshape(-1)
        ones, size = np.bincount(cell, task.labels), np.bincount(cell)
        wrong.append(np.minimum(ones, size - ones).sum())
    assert wrong[0] == 0 < wrong[1] <= round(0.1 * m * m)


def test_a_task_and_a_network_depend_on_no_other():
    many = grid_tasks(SMALL, 8)
    alone = make_task("exceptions", 8, seed=2, **SHARES)
    same = next(task for task in many if task.kind == "exceptions" and task.seed == 2)
    assert (alone.labels == same.labels).all() and (alone.random_classes == same.random_classes).all()
    size = {"features": 5, "width": 3, "neurons": 4, "depth": 2}
    both = networks.initial_networks([[1, 2], [3, 4]], **size)
    one = networks.initial_networks([[3, 4]], **size)
    assert all(torch.equal(a[1], b[0]) for a, b in zip(both.tensors(), one.tensors(), strict=True))


def random_networks(n: int = 3, depth: int = 2, **sizes) -> Networks:
    size = {"features": 8, "width": 3, "neurons": 5, "facts": 1} | sizes
    return networks.initial_networks([[i] for i in range(n)], depth=depth, embedding_std=1.0, **size)


def test_the_batched_pass_is_each_network_by_hand():
    nets, inputs = random_networks(), torch.tensor(pair_inputs(4))
    run = forward(nets, inputs)
    for i in range(len(nets)):
        for pair in range(16):
            a, b = divmod(pair, 4)
            x = nets.embedding[i][:, a] + nets.embedding[i][:, 4 + b]
            for layer in range(2):
                post = torch.relu(nets.w_in[i, layer] @ x + nets.b_in[i, layer])
                assert torch.allclose(run.post[layer][i, :, pair], post, atol=1e-5)
                x = x + nets.w_out[i, layer] @ post
            assert torch.allclose(run.logits[i, :, pair], nets.readout[i] @ x + nets.bias[i], atol=1e-5)


def test_training_side_by_side_is_training_alone():
    """Networks leave the batch at different steps: neither that nor the others may change what is learnt."""
    tasks = grid_tasks(SMALL, 8)
    together = trained_batch(SMALL, tasks, width=4, depth=2).trained
    assert len(together.steps.unique()) > 2 and together.reached.any()
    for i in (0, 3, 4, 8):
        alone = trained_batch(SMALL, [tasks[i]], width=4, depth=2).trained
        assert alone.steps[0] == together.steps[i] and alone.reached[0] == together.reached[i]
        for one, many in zip(alone.networks.tensors(), together.networks.tensors(), strict=True):
            assert torch.allclose(one[0], many[i], atol=2e-3, rtol=1e-3)


def test_training_is_adamw_written_out():
    """A slow twin: no batch, nobody leaves, the plain optimizer."""
    task = make_task("memorising", 8, seed=0, **SHARES)
    done = trained_batch(
        SMALL.model_copy(update={"max_steps": 30, "settled": 1e-9}), [task], width=4, depth=1
    )
    start = networks.initial_networks([[0, 0, 8, 4, 1]], features=16, width=4, neurons=8, depth=1)
    weights = [tensor[0].clone().requires_grad_() for tensor in start.tensors()]
    optimizer = torch.optim.AdamW(weights, lr=0.02, weight_decay=0.01, fused=False, foreach=False)
    target = torch.tensor(task.labels).float()
    for step in range(30):
        embedding, w_in, b_in, w_out, readout, bias = weights
        x = embedding @ torch.tensor(pair_inputs(8))
        x = x + w_out[0] @ torch.relu(w_in[0] @ x + b_in[0][:, None])
        logits = (readout @ x + bias[:, None])[0]
        loss = -(torch.where(target == 1, logits, -logits).sigmoid().log2()).mean()
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 30)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert done.trained.steps.tolist() == [30] and not done.trained.reached[0]
    for mine, theirs in zip(done.networks.tensors(), weights, strict=True):
        assert torch.allclose(mine[0], theirs.detach(), atol=1e-4)


def by_heart(m: int, strength: float) -> tuple[Networks, Examples, np.ndarray]:
    """A network made by hand: one neuron for each pair, which adds to the logit if its label is one."""
    labels = np.random.default_rng(0).random(m * m) < 0.5
    two_hot = torch.tensor(pair_inputs(m))
    out = torch.zeros(2 * m + 1, m * m)
    out[-1] = torch.tensor(labels).float()
    made = Networks(
        embedding=torch.cat([torch.eye(2 * m), torch.zeros(1, 2 * m)])[None],
        w_in=torch.cat([two_hot.T, torch.zeros(m * m, 1)], dim=1)[None, None],
        b_in=torch.full((1, 1, m * m), -1.0),
        w_out=out[None, None],
        readout=torch.tensor([[[0.0] * (2 * m) + [2 * strength]]]),
        bias=torch.tensor([[-strength]]),
    )
    examples = Examples(
        inputs=two_hot, labels=torch.tensor(labels).float()[None, None], trained=torch.ones(1, m * m)
    )
    return made, examples, labels


def test_a_network_that_knows_all_by_heart_has_the_bits_it_should():
    made, examples, labels = by_heart(6, strength=3.0)
    logits = forward(made, examples.inputs).logits
    assert torch.allclose(logits[0, 0], torch.tensor(np.where(labels, 3.0, -3.0)).float())
    assert accuracies(logits, examples).item() == 1
    assert losses(logits, examples).item() == pytest.approx(np.log2(1 + np.exp(-3.0)), rel=1e-5)
    assert made.parameters == 13 * 12 + 36 * 13 + 36 + 13 * 36 + 13 + 1


def test_a_coin_stores_nothing():
    nets = random_networks(1)
    silent = Networks(**{name: torch.zeros_like(getattr(nets, name)) for name in nets.__dataclass_fields__})
    labels = torch.ones(1, 1, 16)
    examples = Examples(inputs=torch.tensor(pair_inputs(4)), labels=labels, trained=torch.ones(1, 16))
    assert losses(forward(silent, examples.inputs).logits, examples).item() == pytest.approx(1)


def test_of_a_lookup_table_only_the_ones_are_needed():
    made, examples, labels = by_heart(6, strength=3.0)
    ones, total = labels.sum(), labels.size
    order = [np.arange(total)]
    pruned, kept_random = measure.prune(made, examples, "zero", random_order=order)
    drop = pruned.drop[0].numpy()
    assert np.allclose(drop[labels], 1 / total) and np.allclose(drop[~labels], 0)
    assert set(pruned.order[0].numpy()[labels]) == set(range(1, ones + 1))
    assert pruned.kept[0].numpy() == pytest.approx(
        (total - ones + np.minimum(np.arange(total + 1), ones)) / total
    )
    assert kept_random[0, -1] == 1 and kept_random[0, 0] == pytest.approx(1 - ones / total)
    assert measure.participation(pruned.effect).item() == pytest.approx(ones / total, rel=1e-4)
    needed = np.ceil(0.95 * total) - (total - ones)
    assert measure.share_needed(pruned.kept).item() == pytest.approx(needed / total)


def test_ablation_by_the_mean_is_a_pass_with_the_mean_put_in():
    nets = random_networks(2)
    examples = Examples(
        inputs=torch.tensor(pair_inputs(4)),
        labels=(torch.arange(32).reshape(2, 1, 16) % 3 == 0).float(),
        trained=torch.ones(2, 16),
    )
    pruned, _ = measure.prune(nets, examples, "mean", random_order=[np.arange(10)] * 2)
    clean, inputs = forward(nets, examples.inputs), examples.inputs
    for neuron in (1, 7):
        layer, index = divmod(neuron, 5)
        keep, fill = torch.ones(2, 2, 5), torch.zeros(2, 2, 5)
        keep[:, layer, index] = 0
        fill[:, layer, index] = clean.post[layer][:, index].mean(1)
        changed = losses(forward(nets, inputs, keep=keep, fill=fill).logits, examples)
        assert torch.allclose(pruned.effect[:, neuron], changed - losses(clean.logits, examples), atol=1e-5)


def test_share_needed_does_not_stop_at_a_lucky_prefix():
    kept = torch.tensor([[0.5, 0.96, 0.6, 0.97, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    assert measure.share_needed(kept).tolist() == [0.75, 0.0]


def test_participation_of_one_of_four_and_of_all():
    assert measure.participation(torch.tensor([[0, 0, 3.0, 0], [2.0, -2, 2, -2]])).tolist() == [0.25, 1.0]


def token_table(m: int, width: int, *, planted: bool, seed: int):
    """Summed embeddings of pairs whose first token's class is planted in them, or not."""
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.arange(m) % 4)
    tokens = rng.normal(size=(2, m, width))
    if planted:  # the two tokens' classes in dimensions of their own
        tokens[0] += 8 * np.eye(8, width)[classes]
        tokens[1] += 8 * np.eye(8, width)[4 + rng.permutation(classes)]
    x = (tokens[0][:, None] + tokens[1][None]).reshape(m * m, width)
    fold = np.repeat(measure.token_folds(classes), m)
    return torch.tensor(x.T), torch.tensor(np.repeat(classes, m)), torch.tensor(fold)


def test_planted_classes_are_read_and_classes_that_nothing_follows_are_not():
    """Not even where the width has room to tell every token from every other."""
    found = []
    for planted in (True, False):
        parts = [token_table(24, 32, planted=planted, seed=seed) for seed in range(12)]
        found.append(measure.read_held_out(*(torch.stack(part) for part in zip(*parts, strict=True))))
    assert found[0].min() > 0.95
    assert found[1].mean() == pytest.approx(0.25, abs=0.08)


def test_reading_each_network_alone_gives_the_same():
    parts = [token_table(12, 8, planted=bool(seed % 2), seed=seed) for seed in range(4)]
    together = measure.read_held_out(*(torch.stack(part) for part in zip(*parts, strict=True)))
    alone = [measure.read_held_out(*(value[None] for value in part)).item() for part in parts]
    assert together.tolist() == pytest.approx(alone)


@given(seed=st.integers(0, 1000), per_class=st.integers(2, 7))
@settings(max_examples=20, deadline=None)
def test_folds_hold_whole_tokens_of_every_class(seed, per_class):
    classes = np.random.default_rng(seed).permutation(np.arange(4 * per_class) % 4)
    fold = measure.token_folds(classes)
    assert set(fold) == set(range(min(4, per_class)))
    for number in set(fold):
        assert set(classes[fold == number]) == set(range(4))


def test_interaction_of_a_sum_is_nothing_and_of_a_product_all():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 6, 3))
    product = np.sign(np.arange(6) - 2.5)[:, None, None] * np.sign(np.arange(6) - 2.5)[None, :, None]
    tables = [a[:, None] + b[None], product * rng.normal(size=3)]
    x = torch.tensor(np.stack([table.reshape(36, 3).T for table in tables]))
    assert measure.interaction_share(x, 6).numpy() == pytest.approx([0, 1], abs=1e-12)


def test_class_share_is_one_of_a_function_of_classes_and_chance_of_noise():
    rng = np.random.default_rng(0)
    m = 20
    classes = torch.tensor(np.stack([rng.permutation(np.arange(m) % 4) for _ in range(2)]))[None]
    cell = measure.pair_cells(classes)[0]
    x = torch.stack([torch.tensor(rng.normal(size=16))[cell], torch.tensor(rng.normal(size=m * m))])[None]
    told = measure.class_share(x, classes)[0]
    assert told[0].item() == pytest.approx(1)
    assert told[1].item() == pytest.approx(15 / 399, abs=0.03)
    assert measure.class_share(torch.ones(1, 1, m * m), classes).isnan().all()


def test_own_classes_find_clusters_and_cells_tell_labels_of_other_pairs_only_if_there_is_a_rule():
    rng = np.random.default_rng(0)
    classes = rng.permutation(np.arange(20) % 4)
    own = measure.own_classes(10 * np.eye(4)[classes] + rng.normal(size=(20, 4)), 4)
    assert len({(a, b) for a, b in zip(own, classes, strict=True)}) == 4
    cell = (own[:, None] * 4 + own).reshape(-1)
    fold = rng.permutation(400) % 4
    assert measure.cell_accuracy(cell, cell % 2, fold) == 1
    guesses = [measure.cell_accuracy(cell, rng.integers(0, 2, 400), fold) for _ in range(20)]
    assert np.mean(guesses) == pytest.approx(0.5, abs=0.03)


@cache
def small() -> ToyTables:
    return toy_tables(SMALL)


def test_the_grid_is_whole_and_the_same_twice():
    tables = small()
    assert (
        tables.models.height == 3 * 3 * 4 == tables.models.select("task", "width", "depth", "seed").n_unique()
    )
    again = toy_tables(SMALL)
    for name in ("models", "readings", "neurons", "summary", "verdict"):
        assert getattr(tables, name).equals(getattr(again, name), null_equal=True), name


def test_the_columns_of_one_network_agree_with_each_other():
    tables = small()
    for row in tables.models.iter_rows(named=True):
        assert row["neurons"] == 2 * row["width"] * row["depth"]
        if row["reached"]:
            assert (
                row["accuracy"] == 1 and row["loss"] <= SMALL.settled and row["steps"] < SMALL.max_steps + 1
            )
        if row["task"] == "memorising":
            assert row["bits"] == pytest.approx(64 * (1 - row["loss"])) and row["held_out_accuracy"] is None
        else:
            assert row["bits"] is None and row["pairs"] == 48 and 0 <= row["held_out_accuracy"] <= 1
    last = tables.neurons.filter(pl.col("order") == 2 * pl.col("width") * pl.col("depth"))
    whole = last.join(tables.models, on=["task", "m", "width", "depth", "seed"])
    assert (whole["kept_accuracy"] - whole["accuracy"]).abs().max() < 1e-6  # with all kept, nothing is lost
    counts = tables.neurons.group_by("task", "width", "depth", "seed", "kind").agg(pl.col("order").n_unique())
    assert counts["order"].to_list() == (2 * counts["width"] * counts["depth"]).to_list()


def test_a_rule_is_learnt_as_one_and_a_table_is_not():
    chosen = ToysConfig(sizes=(24,), widths=(16,), depths=(1,), seeds=3)
    tables = toy_tables(chosen)
    means = dict(tables.models.group_by("task").agg(pl.col("own_classes").mean()).iter_rows())
    assert means["generalising"] > 0.95 and means["memorising"] < 0.65
    assert tables.models.filter(task="generalising")["held_out_accuracy"].min() > 0.95
    found = dict(tables.verdict.select("task", "verdict").iter_rows())
    assert found == {
        "memorising": "supported", "generalising": "supported", "exceptions": "not applicable", "claim": "supported"
    }  # fmt: skip


def readings(scores: dict[str, list[float]], *, width: int = 8, held_out: float = 1.0, reached: bool = True):
    """Made-up tables of networks of depth 1 whose classes are read with these scores."""
    models, read = [], []
    for task, values in scores.items():
        for seed, score in enumerate(values):
            name = {"task": task, "m": 16, "width": width, "depth": 1, "seed": seed}
            models.append(name | {"reached": reached, "held_out_accuracy": held_out})
            for layer, shown in ((0, score), (1, 1.0)):  # the last layer counts for nothing
                read += [
                    name | {"layer": layer, "feature": f"class_{side}", "accuracy": 0.25 + 0.75 * shown, "chance": 0.25}
                    for side in "ab"
                ]  # fmt: skip
    return pl.DataFrame(models), pl.DataFrame(read)


CLEAR, NOTHING, HALFWAY = [0.9, 0.95, 0.92], [0.0, 0.05, -0.05], [0.3, 0.5, 0.7]


@pytest.mark.parametrize(
    ("memorising", "generalising", "options", "claim"),
    [
        (NOTHING, CLEAR, {}, "supported"),
        (CLEAR, CLEAR, {}, "contradicted"),
        (NOTHING, NOTHING, {}, "contradicted"),
        (NOTHING, HALFWAY, {}, "undecided"),
        (NOTHING[:2], CLEAR, {}, "not applicable"),
        (NOTHING, CLEAR, {"width": 5}, "not applicable"),
        (NOTHING, CLEAR, {"held_out": 0.8}, "not applicable"),
        (NOTHING, CLEAR, {"reached": False}, "not applicable"),
    ],
)
def test_the_verdict_follows_its_rule(memorising, generalising, options, claim):
    table = verdict(*readings({"memorising": memorising, "generalising": generalising}, **options), seed=0)
    assert dict(table.schema) == VERDICT
    assert table.filter(task="claim")["verdict"].to_list() == [claim]


def test_pictures_are_of_points_that_were_learnt():
    table = illustrations(ToysConfig(points=24))
    points = table.filter(kind="point")
    assert set(table["picture"]) == set(PICTURES) and points.height == 5 * 24
    assert ((points["p"] > 0.5) == points["label"]).mean() > 0.97
    rule, bent, two = (plane_points(name, 24, 0) for name in ("clusters", "exceptions", "two_facts"))
    assert (rule[0] == bent[0]).all() and (rule[1] != bent[1]).sum() == 2
    assert (two[1][0] == rule[1][0]).all() and (two[1][0] != two[1][1]).mean() == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"classes": 3}, "3 is odd; allowed: even numbers"),
        ({"sizes": [16, 18]}, r"sizes: \[18\] are no multiples of classes 4"),
        ({"sizes": [4]}, r"sizes: \[4\] are no multiples of classes 4, twice that or more"),
        ({"widths": []}, "at least 1 item"),
        ({"settled": 0}, "greater than 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        validate(values, ToysConfig, "config.toys")


def drawn(tables: ToyTables):
    return draw_toy_models(
        toy_models=tables.models,
        toy_summary=tables.summary,
        toy_neurons=tables.neurons,
        toy_verdict=tables.verdict,
    )


def test_figures_are_drawn_and_say_their_n(tmp_path):
    for number, figure in enumerate(
        (drawn(small()), draw_toy_illustrations(toy_illustrations=illustrations(SMALL)))
    ):
        style.save(figure, tmp_path / f"{number}.svg", tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.svg").stat().st_size < 500_000
        assert all("n = " in axes.get_title("left") for axes in figure.axes)
        assert "math" not in "".join(label.get_text() for axes in figure.axes for label in labels_of(axes))


def labels_of(axes):
    return [*axes.get_xticklabels(), *axes.get_xticklabels(minor=True)]


def learning(*shapes: tuple[int, int, int, dict[str, float]]) -> pl.DataFrame:
    """Made-up networks of tables m, depths and widths, of whose seeds these shares learnt all, by task."""
    rows = [
        {"m": m, "depth": depth, "width": width, "task": task, "seed": seed, "reached": seed < 4 * share}
        for m, depth, width, shares in shapes
        for task, share in shares.items()
        for seed in range(4)
    ]
    return pl.DataFrame(rows)


def test_pruning_is_drawn_of_the_smallest_networks_that_learn_every_task():
    easy, hard, none = ({"memorising": share, "generalising": 1} for share in (1, 0.5, 0))
    models = learning(
        (24, 1, 4, hard), (24, 1, 8, easy), (24, 1, 16, easy), (24, 2, 4, easy), (16, 1, 2, easy)
    )
    assert _chosen(models) == {"m": 24, "depth": 1, "width": 8}
    assert _chosen(models.filter(depth=2)) == {"m": 24, "depth": 2, "width": 4}
    nothing = learning((8, 1, 4, none), (8, 1, 2, none))
    assert _chosen(nothing) == {"m": 8, "depth": 1, "width": 2}


def test_empty_tables_give_a_figure_and_a_sentence_that_say_so():
    tables = small()
    empty = ToyTables(**{name: getattr(tables, name).clear() for name in tables.__dataclass_fields__})
    assert drawn(empty).texts[0].get_text().startswith("Nothing to draw: ")
    assert "nothing to see" in toy_findings(empty.models, empty.summary, empty.verdict)[0]
    nothing = illustrations(SMALL).clear()
    assert draw_toy_illustrations(toy_illustrations=nothing).texts[0].get_text().startswith("Nothing")
    assert "nothing to see" in picture_findings(nothing)[0]


def test_sentences_say_the_verdict_and_its_numbers():
    tables = small()
    said = toy_findings(tables.models, tables.summary, tables.verdict)
    claim = tables.verdict.filter(task="claim")["verdict"][0]
    assert {"not applicable": "cannot be judged", "supported": "holds in"}.get(claim, "") in said[0]
    assert "language models were found to store up to 2" in " ".join(said)
    assert all(sentence.endswith(".") for sentence in said)
    most = (
        tables.summary.filter(task="memorising", measure="bits_per_parameter")
        .sort("value")
        .row(-1, named=True)
    )
    shape = {name: most[name] for name in ("task", "m", "width", "depth")}
    short = tables.models.with_columns(reached=pl.col("reached") & (pl.col("seed") > 0))
    assert short.filter(**shape)["reached"].sum() < 3
    for models in (tables.models, short):
        told = " ".join(toy_findings(models, tables.summary, tables.verdict))
        learnt = models.filter(**shape)["reached"].sum()
        limit = f"n = 3; {learnt or 'none'} of them learnt every label within the step limit, so more"
        assert (limit in told) == (learnt < 3)
    nothing = tables.models.with_columns(pl.lit(False).alias("reached"))
    assert "0 of 36 networks learnt every pair" in " ".join(
        toy_findings(nothing, tables.summary, tables.verdict)
    )


def test_the_sentence_says_how_many_shapes_count_and_what_the_others_score():
    wide = readings({"memorising": NOTHING, "generalising": CLEAR})
    few = readings({"memorising": NOTHING[:2], "generalising": CLEAR[:2]}, width=16)
    narrow = readings({"generalising": HALFWAY}, width=4)
    judged = verdict(*(pl.concat(parts) for parts in zip(wide, few, narrow, strict=True)), seed=0)
    tables = small()
    said = toy_findings(tables.models, tables.summary, judged)[0].replace("\N{NO-BREAK SPACE}", " ")
    assert "92.3 % in networks that learnt a rule (1 of 3 shapes, n = 3) and " in said
    assert "0.0 % in networks that learnt random labels (1 of 2 shapes, n = 3)" in said
    assert said.endswith(
        "Too narrow, and not counted: 50.0 % in networks that learnt a rule (1 of 3 shapes, n = 3)."
    )
    alone = toy_findings(tables.models, tables.summary, verdict(*narrow, seed=0))[0]
    assert "can be told before" not in alone and "Too narrow, and not counted: 50.0" in alone
