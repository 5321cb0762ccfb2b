"""Hypothesis strategies for closed forms, also for ones that no bound would have."""

from __future__ import annotations

import sympy
from hypothesis import strategies as st

import fimtheory as ft

VARIABLES = tuple(ft.expressions.nonnegative(name) for name in "abc")
RATIONALS = st.fractions(-3, 3, max_denominator=6).map(lambda q: sympy.Rational(q.numerator, q.denominator))


def closed_forms(variables=VARIABLES, depth=4):
    """Expressions from the heads that closed forms use, also ones that no bound would have (differences, 1/x)."""
    leaves = st.one_of(
        st.sampled_from(variables), RATIONALS, st.sampled_from([sympy.Integer(1), sympy.pi, sympy.E, sympy.exp(-1)])
    )

    def grow(inner):
        pairs = st.lists(inner, min_size=2, max_size=3)
        powers = st.sampled_from(
            [sympy.Integer(k) for k in (-2, -1, 2, 3)] + [sympy.Rational(1, 2), sympy.Rational(-1, 2)]
        )
        return st.one_of(
            pairs.map(lambda parts: sympy.Add(*parts)),
            pairs.map(lambda parts: sympy.Mul(*parts)),
            pairs.map(lambda parts: sympy.Max(*parts) if all(p.is_extended_real for p in parts) else parts[0]),
            pairs.map(lambda parts: sympy.Min(*parts) if all(p.is_extended_real for p in parts) else parts[0]),
            st.tuples(inner, powers).map(lambda pair: sympy.Pow(*pair)),
            inner.filter(is_simple).map(lambda part: sympy.exp(-part)),
            inner.filter(is_simple).map(sympy.erf),
        )  # fmt: skip

    return st.recursive(leaves, grow, max_leaves=2**depth).filter(is_real)


def is_simple(expression):
    """Whether exp and erf of it may be read back: a number must not hold another one of them."""
    return not expression.is_number or not expression.has(sympy.exp, sympy.erf)


def is_real(expression):
    return expression.is_extended_real is not False and not expression.has(sympy.zoo, sympy.nan, sympy.oo, sympy.I)
