"""``direction`` is sound: whatever it proves agrees with exact differences."""

from __future__ import annotations

import math

import pytest
import sympy
from closed_forms import VARIABLES, closed_forms
from flint import arb
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from fimtheory.balls import evaluated
from fimtheory.errors import SymbolicSizeError
from fimtheory.expressions import nonnegative, positive
from fimtheory.monotone import Direction, direction

a, b, c = VARIABLES
POINTS = st.sampled_from([0, sympy.Rational(1, 1000), sympy.Rational(1, 3), 1, 2, 7, 100])


def value(expression, point):
    """Ball of the expression at a point; None where it is infinite or not defined."""
    try:
        found = evaluated(expression, {symbol: arb(int(v.p)) / int(v.q) for symbol, v in point.items()})
    except SymbolicSizeError:
        return None
    return found if found.is_finite() else None


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(closed_forms(), st.lists(POINTS, min_size=6, max_size=6), st.sets(st.sampled_from(VARIABLES), min_size=1))
def test_direction_agrees_with_differences(expression, numbers, moving):
    found = direction(expression, moving)
    event(str(found))
    below = {symbol: sympy.sympify(n) for symbol, n in zip(VARIABLES, numbers[:3], strict=True)}
    above = {
        symbol: below[symbol] + (sympy.sympify(n) if symbol in moving else 0)
        for symbol, n in zip(VARIABLES, numbers[3:], strict=True)
    }
    low, high = value(expression, below), value(expression, above)
    if low is None or high is None:
        return
    if found in (Direction.UP, Direction.CONSTANT):
        assert not high < low
    if found in (Direction.DOWN, Direction.CONSTANT):
        assert not high > low


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (a * b / (1 + c), Direction.UNKNOWN),
        (a * b, Direction.UP),
        (3 / (1 + a), Direction.DOWN),
        (-a, Direction.DOWN),
        (a - b, Direction.UNKNOWN),
        (1 / (1 + sympy.exp(-a * b)), Direction.UP),
        ((1 - a) ** 2, Direction.UNKNOWN),
        ((a - b) * (a + b), Direction.UNKNOWN),
        (sympy.Min(a, 1 / (1 + b)), Direction.UNKNOWN),
        (sympy.sqrt(a**2 + 1), Direction.UP),
        (sympy.Max(1, a), Direction.UP),
        (a ** nonnegative("n"), Direction.UNKNOWN),
        (sympy.Integer(7), Direction.CONSTANT),
        (nonnegative("d") + 1, Direction.CONSTANT),
    ],
)
def test_known_directions(expression, expected):
    assert direction(expression, set(VARIABLES)) is expected


def test_only_the_named_symbols_count():
    t = positive("t")
    assert direction(a / t, {a}) is Direction.UP
    assert direction(a / t, {t}) is Direction.DOWN
    assert direction(a / t, {a, t}) is Direction.UNKNOWN


def test_members_of_a_family_are_symbols():
    i = sympy.Symbol("i", integer=True, positive=True)
    member = nonnegative("a", i)
    assert direction(member**2 + 1, {member}) is Direction.UP
    assert direction(1 - member, {member}) is Direction.DOWN
    assert direction(sympy.Product(member, (i, 1, 3)), {member}) is Direction.UNKNOWN


def test_evaluation_at_upper_bounds_is_an_upper_bound():
    """Why it matters: a difference evaluated at upper bounds of its parts would be no bound."""
    form = a - b
    truth, bounds = {a: arb(2), b: arb(1)}, {a: arb(2), b: arb(2)}
    assert evaluated(form, bounds) < evaluated(form, truth)
    assert direction(form, {a, b}) is Direction.UNKNOWN
    assert math.isfinite(float(evaluated(form, truth)))
