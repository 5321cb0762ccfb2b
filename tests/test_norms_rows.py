"""Largest rows in l1 and l2 against exact rational sums, with weights and factors of every size."""

from __future__ import annotations

import pytest
import torch
from flint import fmpq
from hypothesis import given, settings
from hypothesis import strategies as st
from test_norms_oracles import KINDS, flushing, fraction, rational, weights

from fimtheory import norms
from fimtheory.errors import NonFiniteError, ShapeError

SEEDS = st.integers(0, 2**32)


@settings(deadline=None, max_examples=120)
@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from(KINDS), SEEDS, st.booleans(), st.booleans())
def test_rows_are_bounded_exactly(rows, columns, kind, seed, scaled, flush):
    matrix, factors = weights(kind, (rows, columns), seed), weights("integer", (rows, 1), seed + 1).flatten()
    with flushing(flush):
        row_scale = (factors, 0.0) if scaled else None
        straight = norms.infinity_norm(matrix, row_scale=row_scale).upper
        euclidean = norms.two_to_infinity_norm(matrix, row_scale=row_scale).upper
    exact = rational(matrix)
    if scaled:
        exact = [[f * entry for entry in row] for f, row in zip(rational(factors), exact, strict=True)]
    sums = max(sum((abs(entry) for entry in row), fmpq(0)) for row in exact)
    squares = max(sum((entry**2 for entry in row), fmpq(0)) for row in exact)
    with flushing(False):
        assert fraction(straight) >= sums
        assert fraction(euclidean) ** 2 >= squares
    if kind in ("normal", "integer", "huge") and sums:
        assert fraction(straight) <= sums * (1 + fmpq(1, 10**12))
        assert fraction(euclidean) ** 2 <= squares * (1 + fmpq(1, 10**12))
    if not sums:
        assert straight == euclidean == 0.0


def test_an_uncertain_factor_is_covered():
    matrix = torch.ones(1, 3, dtype=torch.float64)
    assert norms.infinity_norm(matrix, row_scale=(torch.tensor([2.0]), 0.25)).upper >= 7.5
    assert norms.two_to_infinity_norm(matrix, row_scale=(torch.tensor([2.0]), 0.25)).upper >= 2.5 * 3**0.5


def test_refused_rows():
    with pytest.raises(ShapeError, match="needs a matrix"):
        norms.infinity_norm(torch.ones(3))
    with pytest.raises(NonFiniteError, match="NaN"):
        norms.two_to_infinity_norm(torch.tensor([[1.0, float("nan")]]))
