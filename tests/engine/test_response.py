"""Curves of one number: planted functions with known effects, evaluated as rarely as promised and never wrong
unseen.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factfinding.engine.response import curves


class Planted:
    """A function per neuron, zero at the clean value, that counts who asks for what."""

    def __init__(self, functions, clean):
        self.functions, self.clean, self.asked = functions, clean, []

    def __call__(self, neuron, value):
        self.asked += list(zip(neuron.tolist(), value.tolist(), strict=True))
        return torch.stack([self.of(int(n), v) for n, v in zip(neuron, value, strict=True)])

    def of(self, n, value):
        return self.functions[n](value) - self.functions[n](self.clean[n])


def planted(*functions, draws=64, seed=0, clean=None):
    """(evaluate, clean values, draws, true effects)"""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randn(len(functions), generator=generator, dtype=torch.float64) if clean is None else clean
    values = torch.randn(len(functions), draws, generator=generator, dtype=torch.float64)
    evaluate = Planted(functions, clean)
    truth = torch.stack([evaluate.of(n, values[n]) for n in range(len(functions))])
    return evaluate, clean, values, truth


def polynomial(degree):
    return lambda x: (degree + 1) * x**degree - x


@pytest.mark.parametrize("degree", range(1, 9))
def test_a_polynomial_is_exact_once_it_has_enough_nodes(degree):
    evaluate, clean, draws, truth = planted(polynomial(degree))
    found = curves(evaluate, clean, draws, tolerance=1e-9)
    assert torch.allclose(found.effects, truth, atol=1e-9 * float(truth.abs().max()))
    # the clean value is a node, two more show that no further one is needed, and one draw is held out
    assert int(found.evaluations) <= max(degree, 2) + 2 + 1


@pytest.mark.parametrize("degree", range(2, 9))
def test_a_slope_saves_a_point_of_every_curve(degree):
    function = polynomial(degree)
    evaluate, clean, draws, truth = planted(function)
    slope = torch.func.vmap(torch.func.grad(function))(clean)
    few, more = (curves(evaluate, clean, draws, tolerance=1e-9, slope=s) for s in (slope, None))
    assert torch.allclose(few.effects, truth, atol=1e-9 * float(truth.abs().max()))
    assert int(few.evaluations) == int(more.evaluations) - 1


def test_a_straight_line_takes_one_point_and_the_draw_held_out():
    evaluate, clean, draws, truth = planted(lambda x: 3 * x)
    found = curves(evaluate, clean, draws, slope=torch.tensor([3.0]))
    assert int(found.evaluations) == 2 and torch.allclose(found.effects, truth)


@pytest.mark.parametrize("wrong", (-1.0, 0.0, 100.0))
def test_a_wrong_slope_costs_evaluations_and_no_truth(wrong):
    functions = [torch.tanh, torch.sin, lambda x: 2 * x] * 10
    evaluate, clean, draws, truth = planted(*functions)
    found = curves(evaluate, clean, draws, tolerance=1e-4, held_out=2, slope=torch.full((30,), wrong))
    assert (found.effects - truth).abs().max() < 1e-3 * truth.abs().max()
    assert found.evaluations.double().mean() > 10


def test_few_evaluations_for_smooth_curves_and_none_twice():
    evaluate, clean, draws, truth = planted(*[torch.tanh, torch.sin, torch.nn.functional.gelu] * 20)
    found = curves(evaluate, clean, draws, tolerance=1e-4)
    assert (found.effects - truth).abs().max() < 1e-3 * truth.abs().max()
    assert found.evaluations.double().mean() < 14
    assert (
        len(evaluate.asked)
        == len(set(evaluate.asked))
        == int(found.evaluations.sum())
        == int(found.exact.sum())
    )


def test_a_kink_falls_back_to_every_draw():
    evaluate, clean, draws, truth = planted(
        lambda x: (x - 0.1).abs(), torch.square, clean=torch.tensor([0.5, 0.5]).double()
    )
    found = curves(evaluate, clean, draws, tolerance=1e-9, max_nodes=8)
    assert found.evaluations.tolist()[0] == 64 and found.evaluations.tolist()[1] <= 5
    assert torch.equal(found.effects[0], truth[0])
    assert float(found.certificate[0]) == 0.0


@pytest.mark.parametrize("slope", [None, torch.tensor([3.0, 0.0])])
def test_draws_that_share_one_value_are_known_exactly_and_certified_so(slope):
    """The curve so far is far off at the one value there is; once it was evaluated, nothing is interpolated."""
    clean = torch.tensor([0.0, 0.0], dtype=torch.float64)
    evaluate = Planted([torch.square, torch.square], clean)
    draws = torch.tensor([[2.0] * 8, [2.0, -1.0] * 4], dtype=torch.float64)
    found = curves(evaluate, clean, draws, tolerance=1e-6, slope=slope)
    assert torch.allclose(found.effects, draws.square(), atol=1e-12)
    assert found.certificate.tolist() == [0.0, 0.0]
    assert (found.evaluations <= 4).all()


def test_the_certificate_sees_a_bump_that_the_nodes_miss():
    """With nodes at the ends only, a curve that is flat there looks flat; the held-out draws do not."""

    def bump(x):
        return torch.exp(-(x**2) / 0.5)

    clean = torch.full((200,), -4.0, dtype=torch.float64)
    evaluate, clean, draws, _truth = planted(*[bump] * 200, clean=clean)
    draws[:, :2] = torch.tensor([-4.0, 4.0], dtype=torch.float64)
    draws[:, 2:] = draws[:, 2:].clamp(-3.5, 3.5)
    found = curves(evaluate, clean, draws, tolerance=1e-2, min_nodes=1, max_nodes=1, held_out=0)
    blind = (found.certificate <= 1e-2 * found.scale) & ~found.exact.all(1)
    assert blind.all()  # without a held-out draw nothing is seen
    found = curves(evaluate, clean, draws, tolerance=1e-2, min_nodes=1, max_nodes=1, held_out=2)
    blind = (found.certificate <= 1e-2 * found.scale) & ~found.exact.all(1)
    assert blind.double().mean() < 0.05


def test_one_lucky_hit_does_not_finish_a_neuron():
    """The line through the clean value and one end meets the other end, but nothing in between."""
    clean = torch.zeros(1, dtype=torch.float64)
    evaluate = Planted([lambda x: x + 2 * x * (x**2 - 1)], clean)
    draws = torch.tensor([[-1.0, 1.0, 0.5, -0.6, -0.25, 0.75, 0.9, -0.9, -0.4, 0.3]], dtype=torch.float64)
    found = curves(evaluate, clean, draws, tolerance=1e-3, held_out=0)
    assert torch.allclose(found.effects, evaluate.of(0, draws), atol=1e-9)
    assert int(found.evaluations) < 10


def test_draws_that_change_nothing_are_not_evaluated():
    clean = torch.tensor([0.3, -1.0], dtype=torch.float64)
    evaluate = Planted([torch.sin, torch.cos], clean)
    found = curves(evaluate, clean, clean[:, None].expand(2, 5).clone())
    assert torch.equal(found.effects, torch.zeros(2, 5, dtype=torch.float64))
    assert evaluate.asked == [] and found.evaluations.tolist() == [0, 0]


def test_equal_draws_are_one_point():
    evaluate, clean, draws, _ = planted(torch.sin, draws=6)
    draws = draws[:, :2].repeat(1, 3)
    found = curves(evaluate, clean, draws, tolerance=1e-12, held_out=0)
    assert int(found.evaluations) == 2
    assert torch.allclose(found.effects, evaluate.of(0, draws), atol=1e-12)


def test_the_same_seed_gives_the_same_and_neurons_do_not_disturb_each_other():
    functions = [torch.sin, torch.tanh, polynomial(3)]
    evaluate, clean, draws, truth = planted(*functions)
    first, second = (curves(evaluate, clean, draws, tolerance=1e-6, seed=4) for _ in range(2))
    assert torch.equal(first.effects, second.effects)
    for n in range(3):
        single = Planted(functions[n : n + 1], clean[n : n + 1])
        alone = curves(single, clean[n : n + 1], draws[n : n + 1], tolerance=1e-6, scale=first.scale)
        assert torch.allclose(alone.effects[0], truth[n], atol=1e-4 * first.scale)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-3, 3), st.floats(0.1, 3), st.floats(-2, 2)), min_size=1, max_size=6),
    st.sampled_from([1e-2, 1e-4, 1e-6]),
    st.integers(0, 1000),
)
def test_the_tolerance_is_honoured(shapes, tolerance, seed):
    """Curves like those of neurons (a bend somewhere, of any strength): the error stays at the tolerance's
    size.
    """

    def curve(a, b, c):
        return lambda x: a * torch.tanh(b * x + c) + 0.3 * x

    evaluate, clean, draws, truth = planted(*[curve(*shape) for shape in shapes], seed=seed)
    found = curves(evaluate, clean, draws, tolerance=tolerance, held_out=2)
    error = (found.effects - truth).abs().amax(1)
    assert (found.certificate <= tolerance * found.scale + 1e-15).all()
    assert (error <= 20 * tolerance * truth.abs().max() + 1e-12).all()
    assert torch.equal(found.effects[found.exact], truth[found.exact])


def test_a_tolerance_of_zero_evaluates_every_draw_at_once():
    evaluate, clean, draws, truth = planted(torch.sin, torch.tanh)
    found = curves(evaluate, clean, draws, tolerance=0.0)
    assert torch.equal(found.effects, truth) and found.exact.all() and found.evaluations.tolist() == [64, 64]


def test_bad_settings_are_refused():
    evaluate, clean, draws, _ = planted(torch.sin)
    for wrong in ({"tolerance": -1.0}, {"min_nodes": 5, "max_nodes": 4}, {"held_out": -1}, {"min_nodes": 0}):
        with pytest.raises(ValueError, match="tolerance"):
            curves(evaluate, clean, draws, **wrong)
