"""The folded batch-norm scale, diagonals, centring with a scale, and the largest distance between rows."""

import math

import pytest
import torch
from flint import arb, ctx, fmpq
from hypothesis import given, settings
from hypothesis import strategies as st
from test_norms_oracles import (
    KINDS,
    bounds_exactly,
    denormal,
    flushing,
    fraction,
    is_positive_semidefinite,
    norm_of,
    rational,
    weights,
)

from fimtheory import norms
from fimtheory.errors import NonFiniteError, ShapeError
from fimtheory.norms import rows as rows_module

PROPERTY = settings(deadline=None, max_examples=120)
SEEDS = st.integers(0, 2**32)
DTYPES = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])


# ---- folded scale -----------------------------------------------------------------------------------------------


@PROPERTY
@given(st.integers(1, 8), SEEDS, DTYPES, st.sampled_from([1e-5, 1e-3, 0.1, 1e-12]), st.booleans())
def test_folded_scale_is_within_its_relative_error(size, seed, dtype, eps, flush):
    gamma = weights("normal", (size,), seed, dtype)
    var = weights("normal", (size,), seed + 1).square().mul(10.0 ** (seed % 9 - 6)).to(dtype)
    with flushing(flush):
        scale, error = norms.folded_scale(gamma, var, eps)
    assert scale.dtype == torch.float64
    assert error < 1e-15
    with ctx.workprec(200):
        for g, v, s in zip(rational(gamma), rational(var), rational(scale), strict=True):
            exact = arb(g) / (arb(v) + arb(fraction(eps))).sqrt()
            assert abs(exact - arb(s)) <= arb(fraction(error)) * abs(arb(s))


def test_folded_scale_reads_flushed_denormals():
    gamma = torch.tensor([1, 2**20], dtype=torch.int32).view(torch.float32)
    with flushing(True):
        scale, _ = norms.folded_scale(gamma, torch.zeros(2), 1.0)
    assert scale.tolist() == [2.0**-149, 2.0**-129]


@pytest.mark.parametrize("flush", [True, False])
def test_folded_norm_covers_the_exact_batch_norm(flush):
    """The bound of a folded layer against gamma / sqrt(var + eps) in ball arithmetic, one output at a time."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        gamma, weight = torch.randn(2, 1, generator=generator)
        var = torch.rand(1, generator=generator)
        with flushing(flush):
            upper = norms.dense(weight[None], row_scale=norms.folded_scale(gamma, var, 1e-5)).upper
        (g,), (w,), (v,) = rational(gamma), rational(weight), rational(var)
        with ctx.workprec(200):
            assert arb(upper) >= abs(arb(g * w)) / (arb(v) + arb(fraction(1e-5))).sqrt()


@pytest.mark.parametrize(
    ("gamma", "var", "eps", "match"),
    [
        ([1.0], [-1.0], 1e-5, "must be positive"),
        ([1.0], [0.0], 0.0, "must be positive"),
        ([1.0], [1.0], math.nan, "must be positive"),
        ([1.0, 1.0], [1.0, 1.0], math.inf, "channel 0"),
        ([1.0, math.nan], [1.0, 1.0], 1e-5, "gamma holds 1 NaN"),
        ([1.0, 1.0], [1.0, math.inf], 1e-5, "var holds 0 NaN and 1 infinite"),
    ],
)
def test_folded_scale_refuses_what_has_no_scale(gamma, var, eps, match):
    with pytest.raises(NonFiniteError, match=match):
        norms.folded_scale(torch.tensor(gamma), torch.tensor(var), eps)


@pytest.mark.parametrize("flush", [True, False])
def test_folded_scale_refuses_gammas_that_lose_precision(flush):
    with flushing(flush), pytest.raises(NonFiniteError, match="channel 0"):
        norms.folded_scale(denormal(3), torch.ones(1, dtype=torch.float64), 0.0)


@pytest.mark.parametrize(("gamma", "var"), [((2,), (3,)), ((2, 1), (2, 1)), ((), ())])
def test_folded_scale_refuses_other_shapes(gamma, var):
    with pytest.raises(ShapeError):
        norms.folded_scale(torch.ones(gamma), torch.ones(var), 1e-5)


# ---- diagonal ---------------------------------------------------------------------------------------------------


@PROPERTY
@given(st.integers(1, 9), st.sampled_from(KINDS), SEEDS, st.sampled_from([0.0, 2.0**-51, 0.25]), st.booleans())
def test_diagonal_bounds_every_exact_entry(size, kind, seed, error, flush):
    scale = weights(kind, (size,), seed)
    with flushing(flush):
        upper = norms.diagonal(scale, error).upper
    largest = max(abs(s) for s in rational(scale)) * (1 + fraction(error))
    assert rational(torch.tensor([upper], dtype=torch.float64))[0] >= largest
    if error == 0 and largest >= fmpq(1, 2**1022):
        assert fraction(upper) == largest


def test_diagonal_refuses_other_shapes_and_errors():
    with pytest.raises(ShapeError):
        norms.diagonal(torch.ones(2, 2))
    with pytest.raises(ShapeError):
        norms.diagonal(torch.ones(0))
    with pytest.raises(NonFiniteError):
        norms.diagonal(torch.ones(2), math.nan)
    with pytest.raises(NonFiniteError):
        norms.diagonal(torch.tensor([math.inf]))


# ---- centring ---------------------------------------------------------------------------------------------------


@PROPERTY
@given(st.integers(1, 7), st.sampled_from(KINDS), SEEDS, st.booleans(), st.integers(0, 3))
def test_centred_scale_bounds_the_exact_norm(size, kind, seed, flush, ties):
    gamma = weights(kind, (size,), seed)
    if ties and size > ties:
        gamma[ties] = -gamma[0]
    with flushing(flush):
        upper = norms.centred_scale(gamma).upper
    exact = rational(gamma)
    mean = fmpq(1, size)
    matrix = [[g * ((1 if i == j else 0) - mean) for j in range(size)] for i, g in enumerate(exact)]
    assert bounds_exactly(upper, matrix)


@pytest.mark.parametrize("size", [2, 3, 10, 300])
@pytest.mark.parametrize("kind", ["normal", "all ones", "one huge entry", "integer"])
def test_centred_scale_is_tight(size, kind):
    gamma = weights(kind, (size,), 5)
    truth = norm_of(torch.diag(gamma) @ (torch.eye(size, dtype=torch.float64) - 1 / size))
    assert truth * (1 - 1e-12) <= norms.centred_scale(gamma).upper <= truth * (1 + 1e-12)


def test_centred_scale_refuses_a_smaller_level():
    """The check of the secular equation is sharp: a level below the norm by 1e-12 is not positive semidefinite."""
    gamma = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    upper = norms.centred_scale(gamma).upper
    exact = [g * g for g in rational(gamma)]

    def definite(level):
        # lambda I - P diag(g^2) P on the vectors orthogonal to ones, in the basis e_i - e_3
        square = fraction(level) ** 2
        m = [square - g for g in exact]
        return is_positive_semidefinite([[m[0] + m[2], m[2]], [m[2], m[1] + m[2]]])

    assert definite(upper)
    assert not definite(upper * (1 - 1e-12))


def test_centred_scale_of_one_entry_or_of_zeros_is_zero():
    assert norms.centred_scale(torch.tensor([3.0])).upper == 0.0
    assert norms.centred_scale(torch.zeros(4)).upper == 0.0


def test_centred_scale_refuses_other_shapes():
    for shape in ((), (2, 2), (0,)):
        with pytest.raises(ShapeError):
            norms.centred_scale(torch.ones(shape))


# ---- row diameter -----------------------------------------------------------------------------------------------


def squared_diameter(matrix):
    return max(
        sum(((x - y) ** 2 for x, y in zip(a, b, strict=True)), fmpq(0))
        for i, a in enumerate(matrix)
        for b in matrix[:i]
    )


@PROPERTY
@given(st.integers(2, 6), st.integers(1, 6), st.sampled_from(KINDS), SEEDS, st.booleans())
def test_row_diameter_bounds_the_exact_distance(rows, columns, kind, seed, flush):
    matrix = weights(kind, (rows, columns), seed)
    with flushing(flush):
        upper = norms.row_diameter(matrix).upper
    exact = squared_diameter(rational(matrix))
    assert rational(torch.tensor([upper], dtype=torch.float64))[0] ** 2 >= exact
    if bool((matrix.view(torch.int64) == matrix[0].view(torch.int64)).all()):
        assert upper == 0.0


@pytest.mark.parametrize("block", [1, 2, 7, 1024])
def test_row_diameter_sees_every_pair(monkeypatch, block):
    monkeypatch.setattr(rows_module, "_BLOCK", block)
    matrix = weights("normal", (15, 4), 0)
    for i, j in ((0, 14), (13, 14), (6, 7), (1, 8)):
        moved = matrix.clone()
        moved[i] += 50
        moved[j] -= 50
        truth = float((moved[i] - moved[j]).norm())
        assert truth * (1 - 1e-14) <= norms.row_diameter(moved).upper <= truth * (1 + 1e-12)


def test_row_diameter_is_tight_beside_a_large_common_part():
    matrix = weights("normal", (20, 30), 0)
    matrix = (matrix * 2.0**20).round() * 2.0**-20 + 2.0**24
    truth = float(torch.pdist(matrix - 2.0**24).max())
    assert truth * (1 - 1e-13) <= norms.row_diameter(matrix).upper <= truth * (1 + 1e-12)


def test_row_diameter_covers_its_own_rounding():
    """The margin above the computed distance is at least the error of an inner product of 50 terms."""
    for seed in range(100):
        matrix = weights("normal", (2, 50), seed)
        upper = norms.row_diameter(matrix).upper
        assert fraction(upper) ** 2 >= squared_diameter(rational(matrix))
        assert upper >= float((matrix[0] - matrix[1]).norm()) * (1 + 50 * 2.0**-53)


def test_row_diameter_of_equal_rows_is_zero():
    assert norms.row_diameter(torch.full((3, 4), 0.1)).upper == 0.0
    assert norms.row_diameter(torch.zeros(2, 1)).upper == 0.0


def test_row_diameter_leaves_its_input_alone():
    matrix = weights("normal", (4, 3), 0)
    before = matrix.clone()
    norms.row_diameter(matrix)
    assert torch.equal(matrix, before)


@pytest.mark.parametrize("shape", [(1, 3), (3,), (0, 2), (2, 0)])
def test_row_diameter_needs_two_rows(shape):
    with pytest.raises(ShapeError):
        norms.row_diameter(torch.ones(shape))


def test_row_diameter_refuses_nonfinite_rows():
    with pytest.raises(NonFiniteError):
        norms.row_diameter(torch.tensor([[1.0], [math.inf]]))


@pytest.mark.slow
def test_row_diameter_of_a_large_head():
    matrix = torch.randn(21000, 512)
    upper = norms.row_diameter(matrix).upper
    sample = torch.cdist(matrix[:2000].double(), matrix[:2000].double()).max()
    assert float(sample) <= upper <= 1.2 * float(sample)
