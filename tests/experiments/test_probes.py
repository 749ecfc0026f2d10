from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

from factfinding.errors import InputError
from factfinding.experiments.layer_probes.compute import (
    BESIDE,
    ProbeRow,
    _token_marks,
    layer_probes,
    name_baselines,
    table_of,
    with_name_groups,
)
from factfinding.methods import logistic, probes
from factfinding.methods.probes import ProbeSettings
from factfinding.stats import share_interval

ANSWERS = np.array(["baseball", "basketball", "football"])
TWO_FOLDS = ProbeSettings(folds=("random", "last_name"))


def _subjects(
    n: int, n_first: int, n_last: int, seed: int = 0
) -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
    """n people with different pairings of names, answers at random; indices of their first and last names."""
    rng = np.random.default_rng(seed)
    pairs = rng.choice(n_first * n_last, n, replace=False)
    first, last = pairs // n_last, pairs % n_last
    names = [f"F{f:03d} L{g:03d}" for f, g in zip(first, last, strict=True)]
    answers = ANSWERS[rng.permutation(np.arange(n) % 3)]
    return with_name_groups(pl.DataFrame({"subject": names, "answer": answers})), first, last


def _labels(subjects: pl.DataFrame) -> np.ndarray:
    return np.searchsorted(ANSWERS, subjects["answer"].to_numpy())


def _planted(subjects: pl.DataFrame, d: int, strength: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(subjects.height, d)) + strength * rng.normal(size=(3, d))[_labels(subjects)]


def _row(frame: pl.DataFrame, **which) -> dict:
    return frame.filter(**which).row(0, named=True)


@pytest.fixture(scope="module")
def people():
    return _subjects(240, 30, 40)


@pytest.fixture(scope="module")
def table(people):
    subjects = people[0]
    layers = [("full", -1, _planted(subjects, 12, 0.0)), ("full", 0, _planted(subjects, 12, 3.0))]
    return layer_probes(layers, subjects, settings=ProbeSettings(), seed=0)


def test_schema(table):
    assert table.columns == [
        *("condition", "layer", "input", "probe", "labels", "folds"),
        *("accuracy", "accuracy_low", "accuracy_high", "loss", "loss_low", "loss_high"),
        *("n", "n_groups", "majority_rate", "selectivity", "selectivity_low", "selectivity_high"),
        *(f"{name}{end}" for name in BESIDE for end in ("", "_low", "_high")),
    ]
    keys = table.select("condition", "layer", "labels", "folds")
    assert table.height == 2 * 3 * 2 and not keys.is_duplicated().any()
    assert set(table["input"]) == {"resid"} and set(table["n"]) == {240}
    assert table.filter(labels="shuffled")["selectivity"].is_null().all()
    groups = dict(table.select("folds", "n_groups").rows())
    assert groups["random"] == 240 and groups["first_name"] == 30 and groups["last_name"] <= 40


def test_layers_are_held_against_the_best_one_and_the_name_in_pairs():
    def row(right, **cells):
        kept = {"condition": "full", "layer": None, "input": "resid", "probe": "logistic", "labels": "true"}
        hits = np.arange(100) < right
        kept |= {"folds": "last_name", "n": 100, "n_groups": 9, "majority_rate": 0.4} | cells
        return ProbeRow(cells=kept | {"accuracy": hits.mean()}, hits=hits, losses=np.zeros(100))

    fitted = row(70, input="name_tokens", condition=None, folds="none")
    rows = [
        row(50, input="name_string", condition=None),
        row(40, input="name_tokens", condition=None),
        fitted,
    ]
    rows += [row(60, layer=0), row(75, layer=1), row(74, layer=0, condition="name_only")]
    rows += [row(30, layer=1, labels="shuffled"), row(90, layer=2, folds="random")]
    table = table_of(rows, seed=0)
    held = table.filter(layer=1, labels="true").row(0, named=True)
    # the 70 whom the sum has right are right here as well: surely more, though the intervals overlap
    assert held["over_fitted"] == pytest.approx(0.05) and held["over_fitted_low"] > 0
    assert share_interval(rows[4].hits).low < share_interval(fitted.hits).high
    assert held["over_name"] == pytest.approx(0.25) and held["from_best"] == 0
    assert held["from_best_low"] < 0 < held["from_best_high"]
    assert _row(table, condition="name_only")["from_best"] == pytest.approx(-0.01)
    assert _row(table, layer=2)["over_name"] is None and _row(table, layer=2)["from_best"] == 0
    for other in (table.filter(labels="shuffled"), table.filter(pl.col("layer").is_null())):
        assert other.select(BESIDE).null_count().sum_horizontal().item() == 3 * other.height


def test_a_separable_layer_is_read_and_noise_is_not(table):
    for folds in ("random", "first_name", "last_name"):
        planted = _row(table, layer=0, labels="true", folds=folds)
        assert planted["accuracy"] > 0.99 and planted["loss"] < 0.2 and planted["accuracy_high"] == 1
        assert planted["selectivity_low"] > 0.5
        for which in ({"layer": -1, "labels": "true"}, {"layer": 0, "labels": "shuffled"}):
            noise = _row(table, folds=folds, **which)
            assert noise["majority_rate"] == pytest.approx(1 / 3)
            assert noise["accuracy_low"] - 0.02 < 1 / 3 < noise["accuracy_high"] + 0.02
            assert noise["loss"] > 1.0
        assert _row(table, layer=-1, labels="true", folds=folds)["selectivity_low"] < 0.05


def test_selectivity_is_true_minus_shuffled(table):
    true, shuffled = table.filter(labels="true"), table.filter(labels="shuffled")
    np.testing.assert_allclose(true["selectivity"], true["accuracy"] - shuffled["accuracy"], atol=1e-12)
    assert (true["selectivity_low"] <= true["selectivity"]).all()
    assert (true["selectivity"] <= true["selectivity_high"]).all()


def test_folds_by_last_name_see_through_a_probe_that_reads_names():
    """The layer holds the last name, one-hot, and relatives share answers: only random folds can shine."""
    subjects, _, last = _subjects(360, 60, 45, seed=1)
    subjects = subjects.with_columns(
        answer=pl.Series(ANSWERS[np.random.default_rng(0).integers(0, 3, 45)[last]])
    )
    layer = np.eye(45)[last]
    table = layer_probes([("full", 3, layer)], subjects, settings=ProbeSettings(), seed=0)
    true = table.filter(labels="true")
    for folds in ("random", "first_name"):
        assert _row(true, folds=folds)["accuracy"] > 0.95
    grouped = _row(true, folds="last_name")
    assert grouped["accuracy"] < grouped["majority_rate"] + 0.05 and grouped["loss"] > 1.0


def test_nothing_depends_on_the_order_of_the_subjects(people):
    subjects, layer = people[0], _planted(people[0], 8, 0.4)
    order = np.random.default_rng(5).permutation(subjects.height)
    ids = [[ord(c) for c in name] for name in subjects["subject"]]
    call = lambda a, x: layer_probes([("full", 0, x)], a, settings=TWO_FOLDS, seed=3)
    once = call(subjects, layer)
    assert once.equals(call(subjects, layer))
    assert once.equals(call(subjects[order], layer[order]))
    assert not once.equals(layer_probes([("full", 0, layer)], subjects, settings=TWO_FOLDS, seed=4))
    baseline = name_baselines(subjects, ids, settings=TWO_FOLDS, seed=3)
    assert baseline.equals(
        name_baselines(subjects[order], [ids[i] for i in order], settings=TWO_FOLDS, seed=3)
    )


def test_a_common_scale_and_shifts_of_columns_do_not_matter(people):
    subjects, layer = people[0], _planted(people[0], 8, 0.4)
    moved = 1e-3 * (layer + np.arange(8) * 100)
    tables = [layer_probes([("full", 0, x)], subjects, settings=TWO_FOLDS, seed=0) for x in (layer, moved)]
    np.testing.assert_allclose(tables[0]["loss"], tables[1]["loss"], rtol=1e-5)
    constant = np.concatenate([layer, np.full((240, 2), 0.1)], axis=1)
    wider = layer_probes([("full", 0, constant)], subjects, settings=TWO_FOLDS, seed=0)
    np.testing.assert_allclose(tables[0]["loss"], wider["loss"], rtol=2e-2)


def test_columns_of_which_some_are_three_times_as_wide_are_read_as_well(people):
    subjects, layer = people[0], _planted(people[0], 8, 0.4)
    wide = layer * np.array([1, 3] * 4)
    tables = [layer_probes([("full", 0, x)], subjects, settings=TWO_FOLDS, seed=0) for x in (layer, wide)]
    np.testing.assert_allclose(tables[0]["loss"], tables[1]["loss"], rtol=2e-2)


def test_more_dimensions_than_rows_give_the_same_fit():
    """The QR rotation is exact: against scikit-learn on the scaled, unrotated columns."""
    rng = np.random.default_rng(0)
    train, held_out, y = rng.normal(size=(40, 90)), rng.normal(size=(15, 90)), np.arange(40) % 3
    rotated, rotated_out = probes._prepared(
        np.concatenate([train, held_out]), np.arange(40), np.arange(40, 55)
    )
    assert rotated.shape == (40, 40) and rotated_out.shape == (15, 40)
    assert np.mean((rotated**2).sum(axis=1)) == pytest.approx(1)
    variance = train.var(axis=0)
    spread = np.sqrt(variance + variance.mean())
    mean, spread = train.mean(axis=0), spread * np.sqrt((variance / spread**2).sum())
    settings = ProbeSettings(tolerance=1e-10, max_iter=10_000)
    fitted = probes._fitted(rotated, y, settings, 1e-3, 10_000)
    plain = LogisticRegression(C=1 / (1e-3 * 40), tol=1e-10, max_iter=10_000).fit((train - mean) / spread, y)
    np.testing.assert_allclose(
        fitted.predict_proba(rotated_out), plain.predict_proba((held_out - mean) / spread), atol=1e-5
    )


def test_many_rows_are_not_rotated():
    rng, most = np.random.default_rng(0), logistic.ROTATED
    for rows, rotated in ((most, True), (most + 1, False)):
        x = rng.normal(size=(rows, most + 20))
        found, basis = logistic.in_own_span(x)
        assert found.shape == ((rows, rows) if rotated else x.shape) and (basis is not None) == rotated
    assert found is x


def test_preparation_never_sees_held_out_rows():
    x = np.random.default_rng(0).normal(size=(30, 4))
    inside, outside = np.arange(20), np.arange(20, 30)
    moved = x.copy()
    moved[outside] = 1e6
    np.testing.assert_array_equal(
        probes._prepared(x, inside, outside)[0], probes._prepared(moved, inside, outside)[0]
    )


def test_accuracy_and_loss_by_hand(people):
    """The whole pipeline against a plain loop over folds with scikit-learn's own scores."""
    subjects = people[0].sort("subject")
    x, y, s = (
        _planted(subjects, 6, 0.5),
        _labels(subjects),
        ProbeSettings(folds=("last_name",), control_folds=()),
    )
    row = layer_probes([("full", 0, x)], subjects, settings=s, seed=7).row(0, named=True)
    from factfinding.stats import grouped_folds

    folds = grouped_folds(subjects["last_name_group"].to_numpy(), y, n_folds=5, seed=7)
    hits, losses = np.zeros(240), np.zeros(240)
    for fold in range(5):
        a, b = folds != fold, folds == fold
        scaled = x / np.sqrt(x[a].var(0) + x[a].var(0).mean())
        z = (scaled - scaled[a].mean(0)) / np.sqrt(scaled[a].var(0).sum())
        model = LogisticRegression(C=1 / (s.regularisation * a.sum()), max_iter=500).fit(z[a], y[a])
        hits[b] = model.predict(z[b]) == y[b]
        losses[b] = -np.log(model.predict_proba(z[b])[np.arange(b.sum()), y[b]])
    assert row["accuracy"] == hits.mean() and row["loss"] == pytest.approx(losses.mean(), rel=1e-4)
    assert row["selectivity"] is None


def test_two_answers(people):
    subjects = people[0].filter(pl.col("answer") != "football")
    layers = [("full", 0, _planted(subjects, 6, 3.0)), ("full", 1, _planted(subjects, 6, 0.0))]
    table = layer_probes(layers, subjects, settings=TWO_FOLDS, seed=0).filter(labels="true", folds="random")
    assert table["accuracy"][0] > 0.98 and abs(table["accuracy"][1] - 0.5) < 0.12
    assert table["loss"][0] < 0.15 and table["loss"][1] > 0.6


def test_an_answer_of_one_family_can_be_held_out_whole():
    subjects, _, _ = _subjects(120, 20, 30)
    family = pl.DataFrame({"subject": [f"X{i} Only" for i in range(12)], "answer": ["golf"] * 12})
    subjects = pl.concat([subjects, with_name_groups(family)])
    x = np.random.default_rng(0).normal(size=(132, 5))
    row = layer_probes([("full", 0, x)], subjects, settings=TWO_FOLDS, seed=0).filter(
        labels="true", folds="last_name"
    )
    assert np.isfinite(row["loss"][0]) and row["loss"][0] > 12 / 132 * 30


def test_string_baseline_finds_a_suffix_and_nothing_in_plain_names():
    rng = np.random.default_rng(0)
    stems = ["".join(rng.choice(list("bcdfglmnprst"), 5)) for _ in range(240)]
    suffixes = ["aki", "ovic", "sson"]
    marked = [f"{s} {t}{suffixes[i % 3]}" for i, (s, t) in enumerate(zip(stems, stems[::-1], strict=True))]
    plain = [f"{s} {t}" for s, t in zip(stems, stems[::-1], strict=True)]
    settings = ProbeSettings(folds=("random", "last_name"), control_folds=("random",))
    answers, ids = ANSWERS[np.arange(240) % 3], [[i, i + 1] for i in range(240)]
    for names, low, high in ((marked, 0.97, 1.0), (plain, 0.2, 0.45)):
        subjects = with_name_groups(pl.DataFrame({"subject": names, "answer": answers}))
        rows = name_baselines(subjects, ids, settings=settings, seed=0).filter(
            input="name_string", labels="true"
        )
        assert rows["folds"].to_list() == ["random", "last_name"]
        assert low <= rows["accuracy"].min() and rows["accuracy"].max() <= high
        assert rows["selectivity"].is_null().to_list() == [False, True]


def test_token_baseline_expresses_sums_and_no_combination():
    subjects, first, last = _subjects(300, 24, 30, seed=2)
    ids = [[int(f), int(1000 + g)] for f, g in zip(first, last, strict=True)]
    settings = ProbeSettings(folds=("random",))
    rng = np.random.default_rng(0)
    terms = rng.normal(size=(24, 3))[first] + rng.normal(size=(30, 3))[last]
    parity = (first + last) % 2
    results = {}
    for name, labels in (("sum", terms.argmax(axis=1)), ("parity", parity)):
        named = subjects.with_columns(answer=pl.Series(ANSWERS[labels]))
        results[name] = name_baselines(named, ids, settings=settings, seed=0).filter(input="name_tokens")
    fitted_sum = _row(results["sum"], folds="none", labels="true")
    assert fitted_sum["accuracy"] == 1 and fitted_sum["condition"] is None and fitted_sum["layer"] is None
    assert _row(results["sum"], folds="random", labels="true")["accuracy"] > 0.7
    fitted_parity = _row(results["parity"], folds="none", labels="true")
    assert fitted_parity["accuracy"] < 0.8
    assert _row(results["parity"], folds="random", labels="true")["accuracy"] < 0.6


def test_token_marks_count_and_tell_first_from_final():
    marks = _token_marks([[5, 9, 9], [9, 5], [9]]).toarray()
    np.testing.assert_array_equal(marks[:, :2], [[1, 2], [1, 1], [0, 1]])  # counts of 5 and 9
    np.testing.assert_array_equal(marks[:, 2:4], [[1, 0], [0, 1], [0, 1]])  # first
    np.testing.assert_array_equal(marks[:, 4:], [[0, 1], [1, 0], [0, 1]])  # final


def test_name_groups():
    names = [
        "Ken Griffey Jr.",
        "KEN Griffey",
        "Nene",
        "Robert Griffin III",
        "Juan de la Cruz",
        "Cal Ripken, Jr.",
        "Al II",
    ]
    frame = with_name_groups(pl.DataFrame({"subject": names}))
    assert frame["first_name_group"].to_list() == ["ken", "ken", "nene", "robert", "juan", "cal", "al"]
    assert frame["last_name_group"].to_list() == [
        "griffey",
        "griffey",
        "nene",
        "griffin",
        "cruz",
        "ripken",
        "ii",
    ]


def test_no_layers_give_an_empty_table(people):
    frame = layer_probes([], people[0], settings=ProbeSettings(), seed=0)
    assert frame.height == 0 and "selectivity_low" in frame.columns


def _refuse(subjects, x=None, settings=ProbeSettings(), ids=None):  # noqa: B008
    if ids is not None:
        return name_baselines(subjects, ids, settings=settings, seed=0)
    return layer_probes([("full", 4, x)], subjects, settings=settings, seed=0)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"x": np.zeros((3, 2))}, ValueError, r"full, layer 4: \(3, 2\) must be finite, 240 rows"),
        ({"x": np.full((240, 2), np.inf)}, ValueError, "must be finite"),
        ({"x": np.zeros(240)}, ValueError, "full, layer 4"),
        (
            {"x": np.zeros((240, 2)), "settings": ProbeSettings(folds=("middle",))},
            ValueError,
            "middle.*allowed",
        ),
        ({"x": np.zeros((240, 2)), "settings": ProbeSettings(n_folds=100)}, InputError, "for 100 folds"),
        ({"ids": [[1]] * 3}, ValueError, "3 token lists"),
        ({"ids": [[]] * 240}, ValueError, "none empty"),
    ],
)
def test_what_does_not_fit_is_refused(people, change, kind, message):
    with pytest.raises(kind, match=message):
        _refuse(people[0], **change)


def test_a_subject_twice_is_refused(people):
    twice = pl.concat([people[0], people[0].head(1)])
    with pytest.raises(ValueError, match="stands twice"):
        _refuse(twice, np.zeros((241, 2)))
