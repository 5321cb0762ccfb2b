"""What is printed stays on the right side of the number, compared in exact fractions and in ball arithmetic."""

import math
import sys
from fractions import Fraction

import pytest
from flint import arb, ctx
from hypothesis import given
from hypothesis import strategies as st

from fimtheory.decimals import fixed, significant

FLOATS = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)


@given(FLOATS, st.integers(0, 6))
def test_fixed_decimals_are_the_nearest_on_the_right_side(value, places):
    above, below = (Fraction(fixed(value, up=up, places=places)) for up in (True, False))
    unit = Fraction(1, 10**places)
    assert below <= Fraction(value) <= above
    assert above - below == (0 if Fraction(value) % unit == 0 else unit)


@given(st.floats(min_value=sys.float_info.min, allow_infinity=False), st.integers(1, 6))
def test_significant_digits_are_the_nearest_on_the_right_side(value, digits):
    above, below = (Fraction(significant(value, math.nan, up=up, digits=digits)) for up in (True, False))
    assert below <= Fraction(value) <= above
    assert above - below <= below * Fraction(10) ** (1 - digits)


@given(st.floats(-1e7, 1e7, allow_subnormal=False))
def test_numbers_beyond_floats_are_enclosed(log10):
    ctx.prec = 256
    try:
        for up in (True, False):
            mantissa, _, exponent = significant(None, log10, up=up).partition("e")
            shown = (arb(mantissa) * 10 ** arb(int(exponent or 0))).log() / arb(10).log()
            assert (shown - arb(log10)) * (1 if up else -1) > -(arb(10) ** -60)
            assert abs(shown - arb(log10)) < 0.005
    finally:
        ctx.prec = 128


@pytest.mark.parametrize(
    ("value", "log10", "up", "text"),
    [
        (None, -math.inf, True, "0"),
        (0.0, -math.inf, False, "0"),
        (None, math.inf, True, "inf"),
        (math.inf, 400.0, False, "1e+400"),
        (None, 3.0, True, "1e+3"),
        (999.5, 3.0, True, "1.00e+3"),
        (0.0001, -4.0, False, "0.000100"),
        (0.00001, -5.0, False, "1.00e-5"),
    ],
)
def test_zero_infinity_and_carries(value, log10, up, text):
    assert significant(value, log10, up=up) == text
