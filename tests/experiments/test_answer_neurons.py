"""Answer neurons: a planted one is found and nothing where there is none; each part of a dossier against a slow twin."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from factfinding.data.dossier import Dossier, Texts, Window, read_dossiers, write_dossiers
from factfinding.engine.direct import Norm
from factfinding.engine.sites import Site, neuron
from factfinding.engine.trace import Edit, Read, run
from factfinding.errors import InputError
from factfinding.experiments.answer_neurons import show as scan_show
from factfinding.experiments.answer_neurons.compute import (
    ANSWER_NEURONS,
    scan_neurons,
)
from factfinding.experiments.dossiers import show as dossiers_show
from factfinding.experiments.dossiers.ablation import KINDS, answers
from factfinding.experiments.dossiers.compute import (
    NeuronStudy,
    check_named,
    detectors,
    dossiers,
    histogram,
    mlp_input,
)
from factfinding.experiments.dossiers.rows import tables
from factfinding.experiments.dossiers.texts import Running, firing, highest, read_running
from factfinding.experiments.dossiers.weights import (
    Directions,
    Weights,
    basis_of,
    cosines,
    projections,
)
from factfinding.methods.circuit import Circuit
from factfinding.methods.halves import Halves, halve
from factfinding.methods.neuron_aucs import auc_draws, centred_ranks, rank_aucs
from factfinding.stats import auc, aucs
from helpers import ROOT, planted
from helpers.head_tables import name_residuals, planted_candidates
from helpers.intervention_tables import readers_of
from helpers.models import FAMILIES, random_anatomy, tokenizer

ANSWERS = ["baseball", "basketball", "football"]
READER = 5
"""The neuron of layer 2 that is planted: it reads the fact that layer 1 has looked up."""


def halves_of(n: int = 120) -> Halves:
    frame = pl.DataFrame(
        {"subject": [f"A{i:03d}" for i in range(n)], "answer": [ANSWERS[i % 3] for i in range(n)]}
    )
    return halve(frame, ANSWERS, seed=0)


def noise_layers(halves: Halves, seed: int = 0, neurons: int = 40, **planted_values):
    """Two layers of noise; `n7=values` puts values at neuron 7 of the second."""
    rng = np.random.default_rng(seed)
    layers = [(layer, rng.normal(size=(len(halves.labels), neurons))) for layer in (2, 3)]
    for name, values in planted_values.items():
        layers[1][1][:, int(name[1:])] = values
    return layers


def scan(layers, halves, **options):
    return scan_neurons(layers, halves, ANSWERS, **{"best": 3, "permutations": 200, "seed": 0} | options)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_neuron_that_fires_for_one_answer_is_found_and_its_p_is_at_the_floor(sign):
    halves = halves_of()
    fires = sign * (halves.labels == 1) + 0.0
    table = scan(noise_layers(halves, n7=fires), halves)
    for half in ("first", "second"):
        row = table.filter(chosen_on=half, answer="basketball", rank=1).row(0, named=True)
        assert (row["neuron"], row["sign"], row["auc"], row["auc_choosing"]) == ("L3N7", sign, 1.0, 1.0)
        assert row["p_corrected"] == pytest.approx(1 / 201) and row["neurons_tried"] == 80
        assert row["n"] == 60 and row["base_rate"] == pytest.approx(1 / 3)
    assert table.filter(pl.col("neuron") != "L3N7")["p_corrected"].min() > 0.05


def test_where_no_neuron_tells_an_answer_p_is_not_small():
    halves = halves_of()
    ps = [
        p
        for seed in range(6)
        for p in scan(noise_layers(halves, seed), halves, seed=seed).filter(rank=1)["p_corrected"]
    ]
    assert len(ps) == 36 and np.mean(np.array(ps) < 0.05) <= 0.06 and np.median(ps) > 0.3


def test_the_correction_grows_with_the_number_of_neurons():
    halves = halves_of()
    weak = (halves.labels == 0) + np.random.default_rng(1).normal(size=120)
    rows = [
        scan(noise_layers(halves, neurons=k, n0=weak), halves)
        .filter(answer="baseball", chosen_on="first", neuron="L3N0")
        .row(0, named=True)
        for k in (1, 200)
    ]
    assert rows[0]["auc"] == rows[1]["auc"] and rows[0]["chance_best"] < rows[1]["chance_best"]
    assert rows[0]["p_corrected"] <= rows[1]["p_corrected"]


def test_the_same_scan_twice_and_in_another_layer_order_of_equals():
    halves = halves_of()
    assert scan(noise_layers(halves), halves).equals(scan(noise_layers(halves), halves))
    constant = [(0, np.zeros((120, 4)))]
    table = scan(constant, halves)
    assert set(table["auc"]) == {0.5} and set(table["p_corrected"]) == {1.0}
    assert table.filter(rank=1)["neuron"].unique().to_list() == ["L0N0"]


def test_without_subjects_or_layers_the_table_is_empty_but_whole():
    assert scan([], halves_of()).schema == pl.Schema(ANSWER_NEURONS)
    assert scan(noise_layers(halves_of()), None).schema == pl.Schema(ANSWER_NEURONS)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40))
def test_aucs_are_those_of_the_plain_way(rows):
    scores, positive = np.array([score for score, _ in rows], dtype=float), np.array([p for _, p in rows])
    if positive.all() or not positive.any():
        assert rank_aucs(centred_ranks(scores[:, None]), positive[:, None])[0, 0] == 0.5
        assert np.isnan(auc_draws(scores, positive, seed=0, n_resamples=10).value)
        return
    plain = aucs(scores[:, None], positive)[0]
    assert rank_aucs(centred_ranks(scores[:, None]), positive[:, None])[0, 0] == pytest.approx(
        plain, abs=1e-6
    )
    assert auc_draws(scores, positive, seed=0, n_resamples=10).value == pytest.approx(plain)


def test_bootstrap_draws_are_aucs_of_resampled_subjects_and_pair_up():
    rng = np.random.default_rng(0)
    positive = np.arange(40) % 3 == 0
    scores = rng.normal(size=40).round(1) + positive
    made = auc_draws(scores, positive, seed=3, n_resamples=50)
    counts = np.random.default_rng(3).multinomial(40, np.full(40, 1 / 40), size=50)
    plain = [auc(np.repeat(scores, count), np.repeat(positive, count)) for count in counts]
    assert made.draws == pytest.approx(plain)
    same = made.change_from(auc_draws(2 * scores, positive, seed=3, n_resamples=50))
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert made.estimate.low < made.value < made.estimate.high


@cache
def model() -> planted.Planted:
    """A planted model with one more neuron, which reads the fact (basketball) at the name and writes nothing."""
    made = planted.at_name(firsts=6, lasts=6)
    made.anatomy.blocks[2].mlp.dense_h_to_4h.weight[READER] = planted.direction("fact") / 2
    made.anatomy.blocks[2].mlp.dense_h_to_4h.bias[READER] = 0.25
    return made


@cache
def study(family: str | None = None) -> NeuronStudy:
    made = model()
    anatomy, prompts = made.anatomy, made.prompts
    tokens, at = torch.tensor(prompts["token_ids"].to_list()), made.final_name
    reads = [Read(site=Site(kind, i), at=at) for kind in ("pre", "post") for i in range(anatomy.n_layers)]
    values = [value.numpy() for value in run(anatomy, tokens, reads=reads).values]
    resid = dict(name_residuals(anatomy, prompts))
    return NeuronStudy(
        anatomy=anatomy,
        prompts=prompts,
        candidates=planted_candidates(made),
        halves=halve(prompts, list(planted.ANSWERS), seed=0),
        circuit=Circuit(lookup_at="final_name", concatenate=(0, 0), lookup=(1, 2), extract=("L2H2",)),
        readers=readers_of(anatomy, prompts),
        post=lambda layer: values[anatomy.n_layers + layer],
        pre=lambda layer: values[layer],
        mid=lambda layer: resid[layer - 1],
    )


def held_out(answer: str) -> list[str]:
    """Subjects of an answer on whom no neuron was chosen."""
    who = study().prompts.filter(pl.Series(~study().halves.choosing))
    return who.filter(answer=answer)["subject"].to_list()


@cache
def made() -> tuple[pl.DataFrame, list[Dossier]]:
    """Scan and dossiers of the planted model, with a neuron that looks the fact up named as well."""
    s = study()
    layers = [(layer, s.post(layer)) for layer in (1, 2)]
    table = scan_neurons(layers, s.halves, s.answers, best=2, permutations=100, seed=0)
    found = detectors(table, ("L1N3", "L1N3"), s.post, s.halves, s.answers)
    texts = {neuron(1, 3): highest(Running(source="here", ids=np.zeros((2, 2)), pieces=[["<b>", "\n"], ["c", "d"]]), np.array([[0.0, 1.0], [2.0, -1.0]]), 2)}  # fmt: skip
    return table, dossiers(s, table, found, texts, ablated_subjects=50, random_neurons=4, seed=0)


def test_the_planted_neuron_of_a_model_is_found():
    table, found = made()
    best = table.filter(rank=1, chosen_on="first").sort("answer")
    assert best["neuron"].to_list() == [f"L2N{READER}"] * 2
    assert best["sign"].to_list() == [-1, 1] and set(best["auc"]) == {1.0}
    assert set(best["p_corrected"]) == {1 / 101}
    assert [(d.neuron, d.answer, d.chosen_by) for d in found] == [
        (f"L2N{READER}", "baseball", "scan"),
        (f"L2N{READER}", "basketball", "scan"),
        ("L1N3", "basketball", "configuration"),
    ]
    assert found[2].telling.auc == pytest.approx(0.75, abs=0.2) and found[2].telling.p_corrected is None


def test_only_the_neuron_that_the_model_needs_changes_its_loss():
    reader, pair = made()[1][1], made()[1][2]
    assert [row.kind for row in reader.ablations] == ["none", "mean", "zero"]
    assert all(row.change == pytest.approx(0, abs=1e-9) for row in reader.ablations[1:])
    zero = pair.ablations[2]
    # subjects of basketball with two positive signs are answered as baseball's without L1N3; all of them held out
    lost = np.array([int(name[1]) % 2 == 0 for name in held_out("basketball")])
    assert zero.accuracy == pytest.approx(1 - lost.mean()) and 0.2 < lost.mean() < 0.8
    assert zero.accuracy_change_low < zero.accuracy_change == pytest.approx(-lost.mean())
    assert zero.change == pytest.approx(2 * planted.LOGIT * lost.mean(), abs=0.1)
    assert zero.n == len(lost) == 9 and zero.random_neurons == 4 and zero.base_rate == 0.5
    assert zero.change_low < zero.change < zero.change_high and zero.random_as_large == 0
    change, (mean, zero) = reader.ablations[1], pair.ablations[1:]
    assert change.over_random == pytest.approx(-change.random_largest)  # it changes nothing itself
    assert zero.from_mean == pytest.approx(zero.loss - mean.loss) and mean.from_mean is None
    assert zero.from_mean_low < zero.from_mean < zero.from_mean_high
    assert pair.ablations[0].change is None and pair.ablations[0].random_change is None


def test_weights_of_the_planted_neuron_point_where_it_was_planted():
    found = made()[1][1]
    assert found.pre_error < 1e-9
    into = Weights.of(model().anatomy, 2).into[READER]
    fact = planted.direction("fact").numpy()
    assert into @ fact / np.linalg.norm(into) / np.linalg.norm(fact) == pytest.approx(1)
    by_pair = {(row.first, row.second): row for row in found.cosines}
    assert by_pair["input weights", "output weights"].cosine == 0  # it writes nothing
    for second in ("head logit", "head logit difference"):
        row = by_pair["input weights", second]
        assert row.cosine == pytest.approx(1, abs=1e-6) and row.share_below > 0.9
        assert (row.head, row.head_rank) == ("L2H2", 1)


def test_projecting_out_the_planted_direction_leaves_chance_and_random_ones_leave_it_all():
    rng, n, d = np.random.default_rng(0), 400, 24
    positive, direction = np.arange(n) % 2 == 0, rng.normal(size=24)
    direction /= np.linalg.norm(direction)
    resid = 3 * positive[:, None] * direction + rng.normal(size=(n, d))
    into = np.stack([direction, rng.normal(size=d)])
    out = rng.normal(size=(2, d))
    norm = Norm(weight=torch.ones(d), bias=None, eps=1e-6, centred=False)
    weights = Weights(
        norm=norm,
        into=into,
        out=out - np.outer(out @ direction, direction),
        offset=np.zeros(2),
        activation=torch.nn.Identity(),
    )
    for sign in (1, -1):
        rows = projections(replace(weights, into=sign * into), 0, Directions(probe=direction), resid, positive, sign=sign, seed=0)  # fmt: skip
        told = {row.removed: row for row in rows}
        assert told["nothing"].auc > 0.95 and told["nothing"].change == 0
        assert told["output weights"].auc == pytest.approx(told["nothing"].auc)
        assert told["random directions"].auc > 0.9 and told["random directions"].dimensions == 1
        noisy = replace(weights, into=sign * (into + 0.2 * rng.normal(size=into.shape)))
        rows = projections(noisy, 0, Directions(probe=direction), resid, positive, sign=sign, seed=0)
        told = {row.removed: row for row in rows}
        assert told["nothing"].auc > 0.85 and abs(told["logistic probe"].auc - 0.5) < 0.08
        assert (
            told["logistic probe"].auc_low < 0.5 < told["logistic probe"].auc_high
            and told["logistic probe"].change_high < 0
        )


def test_an_empty_or_doubled_direction_is_no_dimension():
    x = np.eye(4)[0]
    assert basis_of([x, 2 * x, np.zeros(4)], 4).shape == (4, 1)
    assert basis_of([], 4).shape == (4, 0) and basis_of([np.zeros(4)], 4).shape == (4, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_unprojected_pre_activation_is_the_models_own(family):
    anatomy = random_anatomy(family)
    torch.manual_seed(0)
    for name, weight in anatomy.model.named_parameters():
        if "norm" in name or "ln_" in name or name.endswith("bias"):
            weight.copy_(torch.randn_like(weight))
    tokens, at = torch.randint(0, 300, (7, 6)), torch.full((7,), 4)
    kinds = ("resid_pre", "attn_out", "pre")
    resid, attn, pre = run(anatomy, tokens, reads=[Read(site=Site(kind, 1), at=at) for kind in kinds]).values
    mid = resid if anatomy.parallel else resid + attn
    weights = Weights.of(anatomy, 1)
    again = np.stack([weights.pre(weights.normed(mid), i) for i in range(anatomy.d_mlp)], axis=1)
    assert np.abs(again - pre.numpy()).max() < 1e-5 * np.abs(pre.numpy()).max()
    assert len(cosines(weights, 3, Directions())) == 1
    if weights.norm.centred:
        assert np.abs(weights.into.mean(axis=1)).max() < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_ablated_answers_are_those_of_the_slow_twin_with_names_of_any_length(family):
    anatomy = random_anatomy(family, dtype=torch.float64)
    rng = np.random.default_rng(0)
    lengths = [9, 7, 9, 7, 7]
    prompts = pl.DataFrame(
        {
            "subject": [f"A{i}" for i in range(5)],
            "token_ids": [rng.integers(0, 300, n).tolist() for n in lengths],
            "roles": [["bos"] * n for n in lengths],
            "n_tokens": lengths,
            "first_name": [2] * 5,
            "final_name": [n - 4 for n in lengths],
            "end": [n - 1 for n in lengths],
        }
    )
    ids, units, means = [3, 8], np.array([4, 0, 11]), rng.normal(size=anatomy.d_mlp)
    rows = np.array([0, 2, 3, 4])
    said = answers(anatomy, prompts, ids, rows, 1, units, means)
    for k, row in enumerate(rows):
        tokens = torch.tensor([prompts["token_ids"][int(row)].to_list()])
        at, end = torch.tensor([prompts["final_name"][int(row)]]), torch.tensor([tokens.shape[1] - 1])
        clean = run(anatomy, tokens, logits_at=end).logits.log_softmax(-1)[0, ids]
        assert said.clean[k] == pytest.approx(clean.numpy(), abs=1e-9)
        for kind, values in zip(KINDS, (means[units], np.zeros(3)), strict=True):
            for unit, value in zip(units, values, strict=True):
                edit = Edit(site=neuron(1, int(unit)), at=at, value=torch.tensor([[value]]))
                slow = run(anatomy, tokens, logits_at=end, edits=[edit]).logits.log_softmax(-1)[0, ids]
                fast = said.ablated[KINDS.index(kind), list(units).index(unit), k]
                assert fast == pytest.approx(slow.numpy(), abs=1e-9)


def test_histograms_count_everybody_once():
    values, labels = np.linspace(-1, 2, 31), np.arange(31) % 2
    made = histogram(values, labels, ANSWERS)
    assert list(made.counts) == ANSWERS[:2] and sum(map(sum, made.counts.values())) == 31
    assert made.edges[0] == -1 and made.edges[-1] == 2
    assert sum(histogram(np.zeros(5), np.zeros(5), ANSWERS).counts["baseball"]) == 5


def text_anatomy():
    anatomy = random_anatomy("gpt_neox", vocabulary=360)
    anatomy.tokenizer = tokenizer()
    return anatomy


def test_windows_put_together_are_the_text_and_activations_the_models_own(tmp_path):
    anatomy, path = text_anatomy(), tmp_path / "text.txt"
    path.write_text("Fact: Zoë plays — baseball\n" * 12, encoding="utf-8")
    running = read_running(path, anatomy, source="mine", tokens=120, window=16)
    assert running.ids.shape == (7, 16)
    together = "".join(piece for window in running.pieces for piece in window)
    assert path.read_text().startswith(together) and "Zoë" in together
    sites = [neuron(0, 3), neuron(1, 9)]
    found = firing(anatomy, running, sites, shown=3, batch_size=2)
    for site in sites:
        texts = found[site]
        tops = [max(window.activations) for window in texts.windows]
        assert tops == sorted(tops, reverse=True) and tops[0] == texts.largest and texts.tokens == 112
        first = texts.windows[0]
        ids = torch.tensor([[anatomy.bos_token_id, *running.ids[first.start // 16]]])
        slow = run(anatomy, ids, reads=[Read(site=site)]).values[0][0, 1:, 0]
        assert first.activations == pytest.approx(slow.numpy(), abs=1e-6)
    short = read_running(path, anatomy, source="mine", tokens=5, window=16)
    assert short.ids.shape == (1, 5)


def test_texts_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"a.bin: found no readable text .*allowed: a text file in UTF-8"):
        read_running(tmp_path / "a.bin", text_anatomy(), source="", tokens=9, window=4)
    with pytest.raises(InputError, match="no_such"):
        read_running(tmp_path / "no_such", text_anatomy(), source="", tokens=9, window=4)
    (tmp_path / "empty").write_text("")
    assert read_running(tmp_path / "empty", text_anatomy(), source="", tokens=9, window=4) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("L9N0", "layer 9; allowed: this model has layers 0-3"),
        ("L1N24", "neuron 24; allowed: this model has neurons 0-23"),
        (
            "L0N1",
            r"found L0N1; allowed: a neuron of a layer whose activations are stored \(1, 2; see circuit",
        ),
    ],
)
def test_neurons_that_cannot_be_looked_at_are_refused_by_name(name, message):
    with pytest.raises(InputError, match=message):
        check_named([name], model().anatomy, [1, 2])
    check_named(["L2N23"], model().anatomy, [1, 2])


def test_the_mlp_reads_the_residual_before_its_layer_and_attention_where_they_are_not_parallel():
    class File:
        def layer(self, name, layer):
            assert layer == {"resid@final_name": 0, "attn_out@final_name": 1}[name]
            return np.full((3, 2), 1.0 if name.startswith("resid") else 10.0)

    assert mlp_input(File(), 1, [0, 2], parallel=True).tolist() == [[1, 1]] * 2
    assert mlp_input(File(), 1, [0, 2], parallel=False).tolist() == [[11, 11]] * 2


def test_dossiers_are_written_and_read_and_what_is_wrong_is_named(tmp_path):
    found = made()[1]
    odd = found[0].model_copy(update={"answer": "ice hockey/../x"})
    write_dossiers([*found, odd], tmp_path / "d")
    names = sorted(path.name for path in (tmp_path / "d").iterdir())
    assert names == [
        "answer_neuron_baseball.json",
        "answer_neuron_basketball.json",
        "answer_neuron_ice%20hockey%2F..%2Fx.json",
        "neuron_L1N3.json",
    ]
    assert read_dossiers(tmp_path / "d") == [found[0], found[1], odd, found[2]]
    path = tmp_path / "d" / "neuron_L1N3.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"sign": 0}))
    with pytest.raises(InputError, match=r"neuron_L1N3.json: sign"):
        read_dossiers(tmp_path / "d")
    write_dossiers([], tmp_path / "none")
    assert read_dossiers(tmp_path / "none") == []


def all_tables(clear: bool = False) -> dict[str, pl.DataFrame]:
    table, found = made()
    frames = {"answer_neurons": table} | {f"answer_neuron_{k}": frame for k, frame in tables(found).items()}
    return {name: frame.clear() if clear else frame for name, frame in frames.items()}


def test_tables_have_a_row_per_entry_and_their_columns_when_empty():
    frames = all_tables()
    assert frames["answer_neuron_ablations"].height == 9
    assert frames["answer_neuron_cosines"].height == sum(len(one.cosines) for one in made()[1])
    bars = frames["answer_neuron_histograms"].filter(neuron="L1N3")
    assert bars["subjects"].sum() == 18 == bars["n"][0]
    for name, frame in tables([]).items():
        assert frame.is_empty() and frame.schema == frames[f"answer_neuron_{name}"].schema


def test_sentences_are_true_of_the_planted_model_and_say_so_where_nothing_was_chosen():
    told = scan_show.sentences(all_tables())
    assert "For 2 of 2 <answers> one neuron tells the <answer> better" in told[0] and "n = 18" in told[0]
    assert "L2N5 is chosen for more than one <answer>" in told[2]
    assert any(
        "that L1N3 was not chosen on" in sentence and "0 of 4 random neurons" in sentence for sentence in told
    )
    read = dossiers_show.sentences(all_tables())
    assert "projected out" in read[0] and "chance 0.5" in read[0]
    for show in (scan_show, dossiers_show):
        (nothing,) = show.sentences(all_tables(clear=True))
        assert nothing.startswith("No neuron was chosen")


def draws(clear: bool = False):
    frames = all_tables(clear)
    first = ("answer_neurons", "answer_neuron_histograms", "answer_neuron_ablations")
    yield scan_show.draw_answer_neurons(**{name: frames[name] for name in first})
    second = ("answer_neuron_cosines", "answer_neuron_projections")
    yield dossiers_show.draw_dossier(**{name: frames[name] for name in second})


def test_figures_are_drawn_and_say_when_there_is_nothing(tmp_path):
    for number, drawn in enumerate(draws()):
        drawn.savefig(tmp_path / f"{number}.svg")
        assert (tmp_path / f"{number}.svg").stat().st_size < 500_000
        assert all(axes.get_xlabel() and "n = " in axes.get_title("left") for axes in drawn.axes)
    for drawn in draws(clear=True):
        assert not drawn.axes and drawn.texts[0].get_text().startswith("Nothing to draw")


def test_marked_tokens_are_escaped_and_say_their_activation():
    environment = Environment(
        loader=FileSystemLoader(ROOT / "resources/report"), autoescape=True, undefined=StrictUndefined
    )
    texts = environment.get_template("dossier.html.j2").module.texts
    window = Window(start=0, tokens=("<script>", '"&\n', "c"), activations=(-0.5, 2.0, 1.0))
    shown = Texts(source="<i>mine</i>", tokens=3, mean=0.8, largest=4.0, windows=(window,))
    html = str(texts(made()[1][0].model_copy(update={"texts": shown})))
    assert "<script>" not in html and "&lt;script&gt;" in html and "<i>" not in html and "&#34;&amp;↵" in html
    assert 'style="--share: 0.50" title="2.000" class="peak"' in html and html.count("peak") == 1
    assert 'style="--share: 0.00" title="-0.500"' in html and "The neuron is low on baseball" in html
    assert "No running text was given" in str(texts(made()[1][1]))
