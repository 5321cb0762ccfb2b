"""Bounds on KL divergences, against the divergence itself in 400 digits."""

import math

import mpmath
import pytest
import torch
from flint import arb
from hypothesis import given, settings
from hypothesis import strategies as st

import fimtheory as ft
from fimtheory.divergence import psi
from fimtheory.errors import DataError, NonFiniteError, ShapeError

mp = mpmath.mp.clone()
mp.dps = 400


def divergence(z, delta):
    """KL(p_z || p_{z + delta}) and half the variance of delta under p_z."""
    weights = [mp.exp(mp.mpf(entry)) for entry in z]
    total = mp.fsum(weights)
    p = [weight / total for weight in weights]
    moved = mp.log(mp.fsum(q * mp.exp(mp.mpf(change)) for q, change in zip(p, delta, strict=True)))
    mean = mp.fsum(q * mp.mpf(change) for q, change in zip(p, delta, strict=True))
    variance = mp.fsum(q * (mp.mpf(change) - mean) ** 2 for q, change in zip(p, delta, strict=True))
    return moved - mean, variance / 2


def vectors(size, scale):
    return st.lists(st.floats(-scale, scale, allow_subnormal=False), min_size=size, max_size=size)


pairs = st.tuples(st.integers(2, 5), st.sampled_from([1e-9, 1e-3, 1.0, 30.0, 300.0])).flatmap(
    lambda chosen: st.tuples(vectors(chosen[0], 100.0), vectors(chosen[0], chosen[1]))
)


@settings(max_examples=150, deadline=None)
@given(pairs)
def test_the_divergence_and_the_quadratic_term_lie_between_their_bounds(pair):
    z, delta = pair
    found = ft.kl_interval(torch.tensor(z, dtype=torch.float64), torch.tensor(delta, dtype=torch.float64))
    exact, quadratic = divergence(z, delta)
    slack = mp.mpf(10) ** -350  # rounding of the reference
    assert mp.mpf(found.lower.item()) <= exact + slack
    assert exact <= mp.mpf(found.upper.item()) + slack
    assert mp.mpf(found.quadratic_lower.item()) <= quadratic + slack
    assert quadratic <= mp.mpf(found.quadratic_upper.item()) + slack
    assert max(delta) - min(delta) <= found.spread.item() <= 1.001 * (max(delta) - min(delta)) + 1e-300
    assert found.status is ft.Status.CERTIFIED


@pytest.mark.parametrize("change", [1e-6, 0.1, 3.0, 40.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_bounds_are_approached_where_all_but_one_class_are_rare(change, sign):
    z, delta = [0.0, -200.0], [0.0, sign * change]
    found = ft.kl_interval(torch.tensor(z), torch.tensor(delta))
    exact, _ = divergence(z, torch.tensor(delta).tolist())
    bound = found.upper if sign > 0 else found.lower
    assert float(exact) == pytest.approx(bound.item(), rel=1e-9)


def test_both_bounds_come_together_where_the_change_is_small():
    found = ft.kl_interval(torch.tensor([0.3, -1.0, 2.0]), torch.tensor([1e-7, -2e-7, 3e-7]))
    assert found.upper.item() == pytest.approx(found.lower.item(), rel=1e-6)
    assert found.quadratic_upper.item() == pytest.approx(found.quadratic_lower.item(), rel=1e-15)


@pytest.mark.parametrize(
    "t", [0.0, 1e-300, -1e-30, 2**-40, -(2**-40), 2**-40 * (1 + 1e-9), 1e-9, -1e-3, 0.5, -2.0, 80.0, -700.0, 1e4, -1e4]
)
def test_psi_is_enclosed_and_sharply(t):
    exact = mp.mpf(1) if t == 0 else 2 * (mp.expm1(mp.mpf(t)) - mp.mpf(t)) / mp.mpf(t) ** 2
    ball = psi(arb(t))
    low, high = (mp.mpf(end.mid().str(60, radius=False)) for end in (ball.lower(), ball.upper()))
    assert low * (1 - mp.mpf(10) ** -55) <= exact <= high * (1 + mp.mpf(10) ** -55)
    assert high - low <= exact * mp.mpf(10) ** -13


def test_a_constant_change_moves_nothing_and_shapes_are_kept():
    found = ft.kl_interval(torch.randn(2, 3, 4), torch.ones(2, 3, 1).expand(2, 3, 4))
    assert found.lower.shape == (2, 3)
    assert not found.upper.any()


def test_a_divergence_beyond_floats_has_an_infinite_upper_bound():
    found = ft.kl_interval(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 2000.0]))
    assert found.upper.item() == math.inf
    assert found.lower.item() == pytest.approx(2000 * 2000 / 8 * 2 * 1999 / 2000**2)


@pytest.mark.parametrize(
    ("z", "delta", "error", "words"),
    [
        (torch.zeros(3), torch.zeros(4), ShapeError, "one shape"),
        (torch.zeros(()), torch.zeros(()), ShapeError, "one shape"),
        (torch.zeros(3).long(), torch.zeros(3), DataError, "int64"),
        ([0.0], torch.zeros(1), DataError, "list"),
        (torch.zeros(3), torch.tensor([0.0, math.nan, 1.0]), NonFiniteError, "delta"),
    ],
)
def test_what_is_no_pair_of_logits_is_refused(z, delta, error, words):
    with pytest.raises(error, match=words):
        ft.kl_interval(z, delta)
