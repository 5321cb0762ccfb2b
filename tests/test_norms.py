"""Certified norms of matrices and vectors against exact rational arithmetic."""

import math

import pytest
import torch
from flint import arb, fmpq
from hypothesis import given, settings
from hypothesis import strategies as st
from test_norms_oracles import KINDS, bounds_exactly, denormal, flushing, fraction, norm_of, rational, weights

from fimtheory import norms
from fimtheory.errors import NonFiniteError, ShapeError
from fimtheory.norms import lanczos, matrices, scaling, spectrum

EXACT = settings(deadline=None, max_examples=150)
SIZES = st.integers(1, 6)
SEEDS = st.integers(0, 2**32)
SMALLEST_NORMAL = 2.0**-1022


def certified(tensor):
    return norms.dense(tensor).upper


@EXACT
@given(SIZES, SIZES, st.sampled_from(KINDS), SEEDS, st.booleans())
def test_dense_bounds_the_exact_norm(rows, columns, kind, seed, flush):
    matrix = weights(kind, (rows, columns), seed)
    with flushing(flush):
        upper = certified(matrix)
    exact = rational(matrix)
    assert bounds_exactly(upper, exact)
    assert (upper == 0.0) == (not any(map(any, exact)))


@EXACT
@given(SIZES, SIZES, st.sampled_from([torch.float16, torch.bfloat16, torch.float32]), SEEDS, st.booleans(), st.data())
def test_dense_bounds_every_dtype_down_to_its_denormals(rows, columns, dtype, seed, flush, data):
    tiny = torch.finfo(dtype).tiny
    scale = data.draw(st.sampled_from([1.0, tiny, tiny / 8]))
    with flushing(False):
        matrix = (weights("normal", (rows, columns), seed) * scale).to(dtype)
        exact = rational(matrix)
    with flushing(flush):
        upper = certified(matrix)
    assert bounds_exactly(upper, exact)
    assert upper <= 2 * scale * norm_of(weights("normal", (rows, columns), seed)) + tiny


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from(["normal", "rank one", "one huge entry"]), SEEDS)
def test_dense_is_tight(rows, columns, kind, seed):
    matrix = weights(kind, (rows, columns), seed)
    assert norm_of(matrix) * (1 - 1e-12) <= certified(matrix) <= norm_of(matrix) * (1 + 1e-7)


@pytest.mark.parametrize(("rows", "columns"), [(40, 40), (40, 90), (90, 40), (600, 700)])
def test_orthogonal_matrices_have_norm_one(rows, columns):
    assert 1 - 1e-13 <= certified(weights("orthogonal", (rows, columns), 3)) <= 1 + 1e-7


@pytest.mark.parametrize("exponent", [-1074, -1030, -700, 0, 700, 1020])
def test_scaling_by_extremes_keeps_the_bound_tight(exponent):
    base = torch.tensor([[3.0, 0.0], [4.0, 5.0]], dtype=torch.float64)
    with flushing(False):
        matrix = base * 2.0 ** (exponent // 2) * 2.0 ** (exponent - exponent // 2)
    upper = certified(matrix)
    assert bounds_exactly(upper, rational(matrix))
    with flushing(False):
        assert upper <= max(SMALLEST_NORMAL, math.ldexp(math.sqrt(45) * (1 + 1e-7), exponent))


@pytest.mark.parametrize("flush", [True, False])
def test_denormal_matrices_are_not_lost_when_denormals_are_flushed(flush):
    for multiple in (1, 2**44):
        with flushing(flush):
            norm = norms.dense(denormal(multiple).expand(2, 3))
        assert norm.upper == SMALLEST_NORMAL


def test_float32_denormals_are_exact_when_flushed():
    matrix = torch.tensor([2**9], dtype=torch.int32).view(torch.float32).expand(1, 4)
    with flushing(True):
        assert 2.0**-139 <= certified(matrix) <= 2.0**-139 * (1 + 1e-12)


def test_an_overflowing_norm_is_refused():
    with pytest.raises(NonFiniteError, match="beyond the largest float64"):
        norms.dense(torch.full((2, 2), 1.5e308, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_nonfinite_entries_are_counted(dtype):
    matrix = torch.ones(2, 3, dtype=dtype)
    matrix[0, 0] = matrix[1, 1] = math.nan
    matrix[1, 0] = -math.inf
    with pytest.raises(NonFiniteError, match="2 NaN and 1 infinite of 6"):
        norms.dense(matrix)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3,), (2, 2, 2)])
def test_shapes_that_are_no_matrix_are_refused(shape):
    with pytest.raises(ShapeError, match=r"shape \("):
        norms.dense(torch.ones(shape))


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(TypeError, match="float64"):
        norms.dense(torch.ones(2, 2, dtype=dtype))


def test_views_parameters_and_default_devices_do_not_matter():
    matrix = weights("normal", (6, 8), 0)
    expected = certified(matrix[::2, 1::3].clone())
    assert certified(matrix[::2, 1::3]) == expected
    assert certified(torch.nn.Parameter(matrix[::2, 1::3])) == expected
    with torch.inference_mode():
        assert certified(matrix[::2, 1::3]) == expected
    with torch.device("meta"):
        assert certified(matrix[::2, 1::3]) == expected


def test_global_random_state_is_untouched():
    before = torch.get_rng_state()
    norms.dense(weights("normal", (5, 5), 0))
    assert torch.equal(before, torch.get_rng_state())


# ---- row scales -------------------------------------------------------------------------------------------------


@EXACT
@given(SIZES, SIZES, st.sampled_from(KINDS), SEEDS, st.sampled_from([0.0, 2.0**-51, 0.25]))
def test_row_scale_bounds_the_worst_exact_scale(rows, columns, kind, seed, error):
    matrix = weights(kind, (rows, columns), seed)
    scale = weights("wide range" if seed % 2 else "normal", (rows,), seed + 1)
    upper = norms.dense(matrix, row_scale=(scale, error)).upper
    worst = [
        [s * (1 + fraction(error)) * x for x in row] for s, row in zip(rational(scale), rational(matrix), strict=True)
    ]
    assert bounds_exactly(upper, worst)


def test_row_scale_is_tight():
    matrix, scale = weights("normal", (20, 30), 0), weights("normal", (20,), 1)
    truth = norm_of(scale[:, None] * matrix)
    assert truth * (1 - 1e-13) <= norms.dense(matrix, row_scale=(scale, 0.0)).upper <= truth * (1 + 1e-7)


def test_row_scales_of_opposite_extremes_meet_in_the_middle():
    matrix = torch.tensor([[1e-200], [1e200]], dtype=torch.float64)
    scale = torch.tensor([1e250, 1e-250], dtype=torch.float64)
    assert 1e50 <= norms.dense(matrix, row_scale=(scale, 0.0)).upper <= 1e50 * (1 + 1e-12)
    # The only nonzero product is far below what a common scaling of the rows would leave.
    matrix = torch.tensor([[1e-200], [1.0], [0.0]], dtype=torch.float64)
    scale = torch.tensor([1e-60, 0.0, 1e200], dtype=torch.float64)
    assert 0 < norms.dense(matrix, row_scale=(scale, 0.0)).upper <= 1e-260 * (1 + 1e-12)


def test_zero_row_scale_gives_exactly_zero():
    scale = torch.tensor([0.0, -0.0], dtype=torch.float64)
    assert norms.dense(torch.ones(2, 3), row_scale=(scale, 0.5)).upper == 0.0


@pytest.mark.parametrize(
    ("scale", "error", "exception"),
    [
        (torch.ones(3), 0.0, ShapeError),
        (torch.ones(2, 1), 0.0, ShapeError),
        (torch.tensor([1.0, math.nan]), 0.0, NonFiniteError),
        (torch.ones(2), math.inf, NonFiniteError),
        (torch.ones(2), -0.1, NonFiniteError),
        (torch.ones(2), math.nan, NonFiniteError),
    ],
)
def test_bad_row_scales_are_refused(scale, error, exception):
    with pytest.raises(exception):
        norms.dense(torch.ones(2, 2), row_scale=(scale, error))


@EXACT
@given(SIZES, SIZES, st.sampled_from([k for k in KINDS if k != "zero"]), SEEDS, st.booleans())
def test_scaled_rows_hold_what_they_claim(rows, columns, kind, seed, scaled):
    """The stored entries are within entry_error, relative, of the exact products: dropping that error must show."""
    matrix, scale = weights(kind, (rows, columns), seed), weights("normal", (rows,), seed + 1)
    made = scaling.scale_rows(matrix, (scale, 0.0) if scaled else None, "matrix")
    if made.values is None:
        assert not any(map(any, rational(matrix)))
        return
    unit = fmpq(2) ** made.exponent
    factors = rational(scale) if scaled else [fmpq(1)] * rows
    for row, stored, factor in zip(rational(matrix), rational(made.values), factors, strict=True):
        for x, value in zip(row, stored, strict=True):
            assert abs(factor * x / unit - value) <= fraction(made.entry_error) * abs(value) + fmpq(1, 2**500)
    assert 0.25 <= float(made.values.abs().max()) < 1.0


def test_entry_and_scale_errors_enter_the_bound():
    made = scaling.ScaledRows(torch.ones(1, 1, dtype=torch.float64), 0, 0.5, 0.25)
    assert made.outward(1.0, 2.0) >= 2.5


# ---- the certificate, with everything around it made to lie -----------------------------------------------------


@pytest.mark.parametrize("lie", [0.0, 1e-9, 0.3, 0.999999, math.nan, -1.0])
def test_a_lying_estimate_costs_tightness_only(monkeypatch, lie):
    matrix = weights("normal", (30, 40), 0)
    truth, honest = norm_of(matrix), lanczos.largest_ritz_value
    monkeypatch.setattr(spectrum, "largest_ritz_value", lambda m: lie * honest(m))
    norm = norms.dense(matrix)
    assert truth * (1 - 1e-13) <= norm.upper <= 2 * truth
    assert norm.method == "gram-cholesky"


def test_without_any_factorisation_the_frobenius_norm_of_the_gram_matrix_is_left(monkeypatch):
    matrix = weights("normal", (30, 40), 0)
    monkeypatch.setattr(spectrum, "_factorises", lambda negative, diagonal, which, level: torch.zeros(len(which)) > 0)
    norm = norms.dense(matrix)
    assert norm_of(matrix) <= norm.upper <= float(torch.linalg.matrix_norm(matrix))
    assert norm.method == "gram-frobenius"


def test_one_failing_matrix_of_a_batch_is_noticed():
    small, large = torch.eye(3, dtype=torch.float64), 7 * torch.eye(3, dtype=torch.float64)
    level = spectrum.SpectralLevel(2.0)
    level.cover(torch.stack([small, large, small]))
    assert level.upper(3) >= 7


def test_rounding_errors_of_the_gram_matrix_enter_the_bound(monkeypatch):
    matrix = weights("orthogonal", (10, 20), 0)[None] / 2
    before = matrices.batch_norm_bound(matrix)
    monkeypatch.setattr(matrices, "gamma_n", lambda n: 1e-2)
    assert matrices.batch_norm_bound(matrix).value ** 2 >= before.value**2 + 1e-2 * float((matrix**2).sum()) * 0.999


def test_the_cholesky_shift_grows_with_the_order():
    level = spectrum.SpectralLevel(1.0)
    for n in (2, 64, 4096):
        assert level.upper(n) - 1 >= n * (n + 1) * 2.0**-53  # Higham's gamma_{n+1} tr(H), tr(H) = n here


def test_several_blocks_of_the_gram_matrix_agree_with_one(monkeypatch):
    matrix = weights("normal", (11, 13), 0)
    whole = matrices._gram(matrix[None])
    monkeypatch.setattr(matrices, "_BLOCK", 4)
    assert torch.allclose(matrices._gram(matrix[None]), whole, rtol=1e-14, atol=1e-14)
    assert norm_of(matrix) <= certified(matrix) <= norm_of(matrix) * (1 + 1e-7)


@pytest.mark.parametrize(("n", "rank"), [(1, 1), (2, 1), (12, 2), (40, 7), (40, 40)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_lanczos_finds_the_top_eigenvalue(n, rank, dtype):
    generator = torch.Generator().manual_seed(n)
    factor = torch.randn(3, n, rank, dtype=dtype, generator=generator)
    batch = factor @ factor.mH
    assert lanczos.largest_ritz_value(batch) == pytest.approx(float(torch.linalg.eigvalsh(batch).max()), rel=1e-8)


# ---- vectors and stacks -----------------------------------------------------------------------------------------


@EXACT
@given(st.integers(1, 40), st.sampled_from(KINDS), SEEDS, st.booleans())
def test_vector_bounds_the_exact_norm(size, kind, seed, flush):
    v = weights(kind, (1, size), seed).flatten()
    with flushing(flush):
        upper = norms.vector(v).upper
    assert bounds_exactly(upper, [rational(v)])
    with flushing(False):
        largest = float(v.abs().max())
        truth = largest * float(torch.linalg.vector_norm(v / largest)) if largest else 0.0
        assert upper <= max(SMALLEST_NORMAL if largest else 0.0, truth * (1 + 1e-13))


@pytest.mark.parametrize("size", [1, 30, 3000])
def test_vector_covers_the_rounding_of_its_sum(size):
    """The margin above the computed norm is at least the error gamma_n / 2 that a sum of n squares may have."""
    v = weights("normal", (1, size), 0)
    computed = float(torch.linalg.vector_norm(v))
    assert norms.vector(v).upper >= computed * (1 + size * 2.0**-53 / 2)
    assert matrices.frobenius(v[None]) > computed * (1 + size * 2.0**-53 / 2)


@EXACT
@given(st.lists(st.floats(1e-300, 1e307, allow_subnormal=False) | st.just(0.0), min_size=1, max_size=6))
def test_stacked_bounds_the_root_of_the_sum_of_squares(values):
    upper = norms.stacked([norms.CertifiedNorm(v, "given") for v in values]).upper
    with flushing(False):
        total = sum((fraction(v) ** 2 for v in values), fmpq(0))
        assert fraction(upper) ** 2 >= total
        assert fraction(upper) <= max(fraction(SMALLEST_NORMAL), fraction(1 + 1e-14) * fraction(root_above(total)))


def test_stacked_rounds_outward_even_for_tiny_differences():
    for k in range(1, 200):
        values = [1.0, 2.0**-26 * k, 0.1 * k]
        upper = norms.stacked([norms.CertifiedNorm(v, "given") for v in values]).upper
        assert fraction(upper) ** 2 >= sum((fraction(v) ** 2 for v in values), fmpq(0))


def root_above(total):
    return float(arb(total).sqrt()) * (1 + 1e-15)


def test_stacked_needs_a_norm_and_keeps_zero():
    with pytest.raises(ShapeError):
        norms.stacked([])
    assert norms.stacked([norms.CertifiedNorm(0.0, "zero")]).upper == 0.0


def test_stacked_refuses_overflow():
    with pytest.raises(NonFiniteError):
        norms.stacked([norms.CertifiedNorm(1.7e308, "given")] * 2)


# ---- long runs --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(deadline=None, max_examples=5000)
@given(SIZES, SIZES, st.sampled_from(KINDS), SEEDS, st.booleans())
def test_dense_bounds_the_exact_norm_at_length(rows, columns, kind, seed, flush):
    matrix = weights(kind, (rows, columns), seed)
    with flushing(flush):
        upper = certified(matrix)
    assert bounds_exactly(upper, rational(matrix))


@pytest.mark.slow
def test_the_largest_layer_of_vgg16_is_tight():
    matrix = torch.randn(4096, 25088)
    upper = certified(matrix)
    v = torch.randn(25088, 1)
    for _ in range(60):
        v = matrix.T @ (matrix @ (v / v.norm()))
    # Power iteration from below: the true norm is at least this, and random matrices leave a gap at the edge.
    assert float(v.norm().sqrt()) * (1 - 1e-4) <= upper <= float(v.norm().sqrt()) * 1.05
