"""Certified norms of convolutions against their dense matrices, in float64 and in rational arithmetic."""

import math

import pytest
import torch
from flint import acb, arb, ctx, fmpq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_norms_oracles import (
    KINDS,
    bounds_exactly,
    convolution_matrix,
    flushing,
    fraction,
    geometries,
    norm_of,
    rational,
    weights,
)

from fimtheory import norms
from fimtheory.errors import NonFiniteError, ShapeError
from fimtheory.norms import convolutions, spectrum, stride_one, symbol

SEEDS = st.integers(0, 2**32)
BELOW = 1 - 1e-12  # the dense truth is computed in float64


@pytest.fixture(params=["any", "torus", "grid"])
def route(request, monkeypatch):
    """Leave the choice of the certificate open, or force the torus, or force the grid."""
    if request.param != "any":
        monkeypatch.setattr(convolutions, "_MATRIX_SIDE", 0)
    if request.param == "grid":
        monkeypatch.setattr(convolutions, "_WORK", 0)
    return request.param


def by_symbol(monkeypatch):
    monkeypatch.setattr(convolutions, "_MATRIX_SIDE", 0)


PROPERTY = settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])


@PROPERTY
@given(geometries(), st.sampled_from(["normal", "rank one", "all ones", "one huge entry", "integer"]), SEEDS)
def test_convolution_bounds_its_dense_matrix(route, geometry, kind, seed):
    shape, options = geometry
    kernel = weights(kind, shape, seed)
    size, rest = options["input_size"], {k: v for k, v in options.items() if k != "input_size"}
    truth = norm_of(convolution_matrix(kernel, size, **rest))
    norm = norms.convolution(kernel, size, **rest)
    assert norm.upper >= truth * BELOW
    if norm.method == "dense toeplitz" or (route == "any" and norm.method == "reshaped kernel"):
        assert norm.upper <= truth * (1 + 1e-7) + 1e-300
    if truth == 0 and route == "any":
        assert norm.upper == 0.0


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(geometries(3, 3, 1), st.sampled_from(KINDS), SEEDS, st.booleans(), st.sampled_from([0.0, 2.0**-51, 0.25]))
def test_convolution_bounds_the_exact_norm(route, geometry, kind, seed, flush, error):
    """Rational truth, adversarial scales, flushed denormals, and the worst exact row scale."""
    shape, options = geometry
    kernel, scale = weights(kind, shape, seed), weights("normal", shape[:1], seed + 1)
    with flushing(flush):
        upper = norms.convolution(kernel, row_scale=(scale, error), **options).upper
    for matrix in exact_matrices(kernel, scale, error, **options):
        assert bounds_exactly(upper, matrix)


def exact_matrices(kernel, scale, error, input_size, stride, padding, dilation, groups):
    """Rational matrices of the groups from the definition of a convolution, rows of zeros left out."""
    exact, factors = rational(kernel), rational(scale)
    c_out, c_in, k1, k2 = kernel.shape
    height, width = input_size
    for group in range(groups):
        rows = []
        for o in range(group * c_out // groups, (group + 1) * c_out // groups):
            for y in range((height + 2 * padding[0] - dilation[0] * (k1 - 1) - 1) // stride[0] + 1):
                for x in range((width + 2 * padding[1] - dilation[1] * (k2 - 1) - 1) // stride[1] + 1):
                    row = [fmpq(0)] * (c_in * height * width)
                    for c in range(c_in):
                        for a in range(k1):
                            for b in range(k2):
                                i = y * stride[0] + a * dilation[0] - padding[0]
                                j = x * stride[1] + b * dilation[1] - padding[1]
                                if 0 <= i < height and 0 <= j < width:
                                    worst = factors[o] * (1 + fraction(error))
                                    row[(c * height + i) * width + j] = exact[o][c][a][b] * worst
                    if any(row):
                        rows.append(row)
        if rows:
            yield rows


# ---- zero padding is not circular padding -----------------------------------------------------------------------


def test_a_torus_of_the_image_size_is_no_bound(monkeypatch):
    """On two pixels the circular difference kernel is zero; the zero-padded one is a rotation."""
    by_symbol(monkeypatch)
    kernel = torch.tensor([[[[1.0, 0.0, -1.0]]]])
    circular = torch.fft.fft(torch.tensor([0.0, 1.0 - 1.0])).abs().max()
    assert circular == 0
    norm = norms.convolution(kernel, (1, 2), padding=(0, 1))
    assert norm.method == "torus 1x4"
    assert norm.upper >= 1


@pytest.mark.parametrize("n", range(3, 10))
@pytest.mark.parametrize("k", [3, 5, 7])
def test_torus_bounds_kernels_that_beat_the_same_size_fft(monkeypatch, k, n):
    """Ascend the ratio of the zero-padded norm to the same-size circular norm, then check the torus on the result."""
    by_symbol(monkeypatch)
    kernel = torch.randn(1, 1, 1, k, dtype=torch.float64).requires_grad_()
    for _ in range(40):
        positions = torch.arange(n)
        circulant = sum(
            kernel[0, 0, 0, j] * torch.nn.functional.one_hot((positions + j - k // 2) % n, n) for j in range(k)
        )
        banded = sum(
            kernel[0, 0, 0, j] * torch.diag_embed(torch.ones(n - abs(j - k // 2), dtype=torch.float64), j - k // 2)
            for j in range(k)
            if abs(j - k // 2) < n
        )
        ratio = torch.linalg.matrix_norm(banded, 2) / torch.linalg.matrix_norm(circulant, 2)
        (slope,) = torch.autograd.grad(ratio.log(), kernel)
        kernel = (kernel + 0.1 * slope / slope.norm()).detach().requires_grad_()
    truth = norm_of(convolution_matrix(kernel.detach(), (1, n), padding=(0, k // 2)))
    assert norms.convolution(kernel, (1, n), padding=(0, k // 2)).upper >= truth * BELOW


# ---- tightness and independence of the symbol -------------------------------------------------------------------


def fft_norm(kernel, sides):
    """Largest norm of the symbol on a torus, by numpy-style FFT and SVD."""
    return float(torch.linalg.matrix_norm(torch.fft.fft2(kernel, s=sides).permute(2, 3, 0, 1), 2).max())


@pytest.mark.parametrize("shape", [(3, 2, 3, 3), (2, 5, 4, 2), (6, 6, 1, 5), (4, 4, 7, 7), (20, 30, 3, 3)])
@pytest.mark.parametrize("size", [(12, 12), (9, 14)])
def test_torus_is_the_maximum_of_the_fft(monkeypatch, shape, size):
    by_symbol(monkeypatch)
    kernel = weights("normal", shape, 1)
    norm = norms.convolution(kernel, size)
    sides = tuple(1 if k == 1 else n for n, k in zip(size, shape[2:], strict=True))
    assert norm.method == f"torus {sides[0]}x{sides[1]}"
    assert fft_norm(kernel, sides) * BELOW <= norm.upper <= fft_norm(kernel, sides) * (1 + 1e-7)


@pytest.mark.parametrize("kind", ["normal", "rank one", "orthogonal"])
@pytest.mark.parametrize(
    ("shape", "size", "stride", "loss"),
    [((4, 4, 3, 3), 14, 1, 1.03), ((8, 4, 3, 3), 14, 2, 1.03), ((16, 16, 3, 3), 7, 1, 1.06)],
)
def test_torus_is_close_to_the_padded_layers_of_a_residual_network(monkeypatch, kind, shape, size, stride, loss):
    """The deepest images are the smallest, where free inputs in place of the padding cost most."""
    by_symbol(monkeypatch)
    kernel, options = weights(kind, shape, 0), {"stride": (stride, stride), "padding": (1, 1)}
    norm = norms.convolution(kernel, (size, size), **options)
    truth = norm_of(convolution_matrix(kernel, (size, size), **options))
    assert norm.method.startswith("torus")
    assert truth * BELOW <= norm.upper <= truth * loss


def test_torus_of_a_strided_convolution_is_the_fft_of_the_space_to_depth_kernel(monkeypatch):
    by_symbol(monkeypatch)
    kernel = weights("normal", (4, 3, 3, 3), 0)
    phases = torch.zeros(4, 3, 2, 2, 2, 2, dtype=torch.float64)
    for a in range(3):
        for b in range(3):
            phases[:, :, a % 2, b % 2, a // 2, b // 2] = kernel[:, :, a, b]
    norm = norms.convolution(kernel, (16, 16), stride=(2, 2), padding=(1, 1))
    assert norm.method == "torus 9x9"
    assert norm.upper == pytest.approx(fft_norm(phases.reshape(4, 12, 2, 2), (9, 9)), rel=1e-7)


def test_dilation_shrinks_the_torus_and_keeps_the_bound(monkeypatch):
    by_symbol(monkeypatch)
    kernel = weights("normal", (3, 3, 3, 3), 0)
    plain = norms.convolution(kernel, (6, 6), padding=(1, 1))
    dilated = norms.convolution(kernel, (18, 18), padding=(3, 3), dilation=(3, 3))
    assert plain.upper == dilated.upper


def test_all_ones_kernel_has_norm_below_nine():
    kernel = torch.ones(1, 1, 3, 3)
    for n in (4, 12, 30, 200):
        upper = norms.convolution(kernel, (n, n), padding=(1, 1)).upper
        line = 1 + 2 * math.cos(math.pi / (n + 1))  # the tridiagonal matrix of ones, in both dimensions
        assert line**2 * BELOW <= upper <= 9 * (1 + 1e-7)
        if n <= 30:
            assert upper <= line**2 * (1 + 1e-7)


@pytest.mark.parametrize("kind", ["normal", "orthogonal", "rank one"])
def test_patch_embedding_and_pointwise_convolutions_are_exact(kind):
    for k, stride in ((4, 4), (3, 5), (1, 1), (1, 2)):
        kernel = weights(kind, (10, 6, k, k), 0)
        norm = norms.convolution(kernel, (20, 20), stride=(stride, stride))
        assert norm.method == "reshaped kernel"
        truth = norm_of(kernel.flatten(1))
        assert truth * BELOW <= norm.upper <= truth * (1 + 1e-7)


def test_a_kernel_of_the_image_size_is_a_matrix():
    kernel = weights("normal", (5, 3, 7, 7), 0)
    norm = norms.convolution(kernel, (7, 7))
    assert norm.method == "reshaped kernel"
    assert norm.upper == pytest.approx(norm_of(kernel.flatten(1)), rel=1e-7)


def test_a_shift_is_an_isometry(monkeypatch):
    by_symbol(monkeypatch)
    kernel = torch.zeros(4, 4, 3, 3)
    kernel[:, :, 0, 2] = weights("orthogonal", (4, 4), 0).float().round()
    kernel[:, :, 0, 2] = torch.eye(4)[torch.tensor([2, 0, 3, 1])]
    assert 1 <= norms.convolution(kernel, (14, 14), padding=(1, 1)).upper <= 1 + 1e-7


def test_wide_dilations_drop_the_taps_that_only_meet_padding(monkeypatch):
    by_symbol(monkeypatch)
    kernel = weights("normal", (4, 6, 3, 3), 0)
    norm = norms.convolution(kernel, (14, 14), padding=(18, 18), dilation=(18, 18))
    assert norm.upper == pytest.approx(norm_of(kernel[:, :, 1, 1]), rel=1e-7)


@pytest.mark.parametrize("n", [7, 8, 9, 10])
def test_torus_holds_the_largest_class_of_a_dilated_convolution(monkeypatch, n):
    """Of the three classes of outputs modulo the dilation, the first has one more output where 3 does not divide n."""
    by_symbol(monkeypatch)
    kernel = weights("normal", (2, 2, 1, 2), 0)
    outputs = n - 3
    norm = norms.convolution(kernel, (1, n), dilation=(1, 3))
    largest = -(-outputs // 3)
    assert norm.method == (f"torus 1x{largest + 1}" if largest > 1 else "reshaped kernel")
    assert norm.upper >= norm_of(convolution_matrix(kernel, (1, n), dilation=(1, 3))) * BELOW


def test_a_convolution_that_reads_padding_only_is_zero():
    assert norms.convolution(torch.ones(1, 1, 1, 2), (1, 1), stride=(1, 2), padding=(0, 5), dilation=(1, 10)).upper == 0


# ---- the grid ---------------------------------------------------------------------------------------------------


def test_grid_factor_is_needed_and_sharp(monkeypatch):
    """I + R(phi) exp(-i w) has its maximum 2 at w = phi, half-way between two grid points."""
    by_symbol(monkeypatch)
    monkeypatch.setattr(convolutions, "_WORK", 0)
    phi = math.pi / 9
    rotation = [[math.cos(phi), -math.sin(phi)], [math.sin(phi), math.cos(phi)]]
    kernel = torch.stack([torch.eye(2, dtype=torch.float64), torch.tensor(rotation, dtype=torch.float64)], -1)
    norm = norms.convolution(kernel[:, :, None], (1, 300))
    assert norm.method == "grid 1x9 x 1.0154"
    truth = norm_of(convolution_matrix(kernel[:, :, None], (1, 300)))
    assert 1.9999 < truth <= norm.upper <= 2 * (1 + 1e-7)


def test_grid_factor_multiplies_over_both_dimensions(monkeypatch):
    by_symbol(monkeypatch)
    monkeypatch.setattr(convolutions, "_WORK", 0)
    kernel = weights("normal", (3, 3, 3, 5), 0)
    norm = norms.convolution(kernel, (200, 200))
    factor = 1 / (math.cos(math.pi / 17) * math.cos(2 * math.pi / 33))
    assert norm.method == f"grid 17x33 x {factor:.4f}"
    fine = fft_norm(kernel, (200, 200))
    assert fine * BELOW <= norm.upper <= fine * factor * (1 + 1e-7)


def test_one_dimension_may_stay_on_its_torus(monkeypatch):
    by_symbol(monkeypatch)
    monkeypatch.setattr(convolutions, "_WORK", 0)
    norm = norms.convolution(weights("normal", (3, 3, 3, 3), 0), (7, 200))
    assert norm.method == f"grid 7x17 x {1 / math.cos(math.pi / 17):.4f}"


def test_grid_is_independent_of_the_image_size(monkeypatch):
    monkeypatch.setattr(convolutions, "_WORK", 0)
    kernel = weights("normal", (3, 3, 3, 3), 0)
    assert norms.convolution(kernel, (500, 500)).upper == norms.convolution(kernel, (5000, 7000)).upper


# ---- groups, row scales, errors ---------------------------------------------------------------------------------


def test_groups_take_the_largest():
    kernel = weights("normal", (6, 2, 3, 3), 0)
    kernel[2:4] *= 50
    alone = norms.convolution(kernel[2:4], (20, 20), padding=(1, 1))
    assert norms.convolution(kernel, (20, 20), padding=(1, 1), groups=3).upper == pytest.approx(alone.upper, rel=1e-7)


def test_depthwise_convolutions_with_many_channels(monkeypatch):
    by_symbol(monkeypatch)
    kernel = weights("normal", (700, 1, 3, 3), 0)
    truth = float(torch.fft.fft2(kernel, s=(30, 30)).abs().max())
    upper = norms.convolution(kernel, (28, 28), padding=(1, 1), groups=700).upper
    assert truth * BELOW <= upper <= truth * (1 + 1e-7)


def test_row_scale_is_folded_into_the_kernel(route):
    kernel, scale = weights("normal", (4, 3, 3, 3), 0), weights("wide range", (4,), 1)
    folded = norms.convolution(kernel, (10, 10), padding=(1, 1), row_scale=(scale, 0.0))
    plain = norms.convolution(scale[:, None, None, None] * kernel, (10, 10), padding=(1, 1))
    assert folded.upper == pytest.approx(plain.upper, rel=1e-7)
    wider = norms.convolution(kernel, (10, 10), padding=(1, 1), row_scale=(scale, 0.25))
    assert wider.upper >= 1.25 * plain.upper * (1 - 1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_dtype_gives_the_norm_of_its_exact_values(route, dtype):
    kernel = weights("normal", (3, 2, 3, 3), 0, dtype)
    exact = norms.convolution(kernel.to(torch.float64), (11, 11), padding=(1, 1))
    assert norms.convolution(kernel, (11, 11), padding=(1, 1)) == exact


def test_rounding_errors_of_the_symbol_enter_the_bound(monkeypatch):
    by_symbol(monkeypatch)
    kernel = weights("normal", (3, 3, 3, 3), 0)
    before = norms.convolution(kernel, (20, 20)).upper
    monkeypatch.setattr(symbol, "COSINE", 1e-3)
    after = norms.convolution(kernel, (20, 20)).upper
    assert after**2 >= before**2 + 1e-3 * float(kernel.abs().sum((2, 3)).square().sum()) * 0.999


@pytest.mark.parametrize("lie", [0.0, 0.5, math.nan])
def test_a_lying_estimate_costs_tightness_only(monkeypatch, lie):
    by_symbol(monkeypatch)
    honest = spectrum.largest_ritz_value
    monkeypatch.setattr(spectrum, "largest_ritz_value", lambda m: lie * honest(m))
    kernel = weights("normal", (5, 5, 3, 3), 0)
    truth = fft_norm(kernel, (12, 12))
    assert truth * BELOW <= norms.convolution(kernel, (12, 12)).upper <= 2 * truth


def test_small_chunks_agree_with_one(monkeypatch):
    by_symbol(monkeypatch)
    kernel = weights("normal", (5, 4, 3, 3), 0)
    whole = norms.convolution(kernel, (12, 12))
    monkeypatch.setattr(symbol, "_CHUNK_ENTRIES", 1)
    assert norms.convolution(kernel, (12, 12)).upper == pytest.approx(whole.upper, rel=1e-7)


# ---- the parts --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(2, 3), st.integers(3, 5), SEEDS)
def test_computed_gram_matrices_are_within_their_error_bound(n, m, k1, k2, side, seed):
    """Against the symbol in ball arithmetic; the bound is neither violated nor useless."""
    kernel = weights("normal", (n, m, k1, k2), seed)
    made = symbol.GramSymbol(kernel[None])
    grams = torch.cat(list(made.chunks((side, side))))
    exact = rational(kernel)
    worst = 0.0
    with ctx.workprec(120):
        truths = []
        for a in range(side):
            for b in range(side):
                entries = [[acb(0)] * m for _ in range(n)]
                for i in range(k1):
                    for j in range(k2):
                        phase = (-acb(2) * fmpq(a * i + b * j, side)).exp_pi_i()
                        for o in range(n):
                            for c in range(m):
                                entries[o][c] += phase * arb(exact[o][c][i][j])
                truths.append(smaller_gram(entries))
        for gram in grams.tolist():
            worst = max(worst, min(distance(gram, truth) for truth in truths))
    assert worst <= made.gram_error
    assert made.gram_error <= 1e-11 * made.magnitude**2


def distance(gram, truth):
    """Frobenius distance of a computed matrix from one of balls, rounded up."""
    squares = [
        abs(acb(arb(x.real), arb(x.imag)) - y) ** 2
        for row, other in zip(gram, truth, strict=True)
        for x, y in zip(row, other, strict=True)
    ]
    return float(sum(squares, arb(0)).sqrt().upper())


def smaller_gram(entries):
    """K K^H of the symbol, or of its transpose where that is smaller."""
    if len(entries) > len(entries[0]):
        entries = [list(column) for column in zip(*entries, strict=True)]
    return [[sum((x * y.conjugate() for x, y in zip(a, b, strict=True)), acb(0)) for b in entries] for a in entries]


@pytest.mark.parametrize("points", [7, 226, 1009, 64 * 64])
def test_library_cosines_are_within_the_allowed_error(points):
    index = torch.arange(points, dtype=torch.int64)
    turns = torch.where(2 * index > points, index - points, index).to(torch.float64) / points
    cosines, sines = torch.cos(turns * (2 * math.pi)).tolist(), torch.sin(turns * (2 * math.pi)).tolist()
    for i in range(points):
        with ctx.workprec(200):
            sine, cosine = arb.sin_cos_pi_fmpq(fmpq(2 * i, points))
            assert abs(arb(cosines[i]) - cosine) < arb(symbol.COSINE) / 4
            assert abs(arb(sines[i]) - sine) < arb(symbol.COSINE) / 4


@pytest.mark.parametrize("sides", [(1, 1), (2, 2), (3, 4), (5, 5), (6, 1)])
def test_half_grid_meets_every_pair_of_opposite_frequencies_once(sides):
    first, second = symbol.half_grid(sides)
    kept = set(zip(first.tolist(), second.tolist(), strict=True))
    assert len(kept) == len(first)
    everything = {(a, b) for a in range(sides[0]) for b in range(sides[1])}
    assert kept | {(-a % sides[0], -b % sides[1]) for a, b in kept} == everything
    assert len(kept) <= len(everything) // 2 + 2


@settings(deadline=None, max_examples=80)
@given(geometries(12), SEEDS)
def test_the_reduction_to_stride_one_is_exact_with_free_inputs(geometry, seed):
    """Without padding, no window is cut: the stride-one convolutions have the norm of the original one."""
    shape, options = geometry
    options["padding"] = (0, 0)
    options["input_size"] = tuple(
        max(n, d * (k - 1) + 1) for n, k, d in zip(options["input_size"], shape[2:], options["dilation"], strict=True)
    )
    kernel = weights("normal", shape, seed)
    geometry = stride_one.Geometry(shape, **options)
    reduced = stride_one.StrideOne.of(kernel, geometry)
    inputs = tuple(n + k - 1 for n, k in zip(reduced.outputs, reduced.kernel.shape[3:], strict=True))
    parts = max(norm_of(convolution_matrix(part, inputs)) for part in reduced.kernel)
    size = options.pop("input_size")
    assert parts == pytest.approx(norm_of(convolution_matrix(kernel, size, **options)), rel=1e-10)


# ---- refused inputs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "size", "options"),
    [
        ((2, 2, 3), (8, 8), {}),
        ((2, 0, 3, 3), (8, 8), {}),
        ((2, 2, 3, 3), (8, 0), {}),
        ((2, 2, 3, 3), (2, 8), {}),
        ((2, 2, 3, 3), (8, 8), {"dilation": (1, 4)}),
        ((2, 2, 3, 3), (8, 8), {"stride": (0, 1)}),
        ((2, 2, 3, 3), (8, 8), {"padding": (0, -1)}),
        ((3, 2, 3, 3), (8, 8), {"groups": 2}),
        ((3, 2, 3, 3), (8, 8), {"groups": 0}),
        ((3, 2, 3, 3), (8, 8), {"stride": (1, 1, 1)}),
        ((3, 2, 3, 3), (8, 8), {"row_scale": (torch.ones(2), 0.0)}),
    ],
)
def test_sizes_that_do_not_fit_are_refused(shape, size, options):
    with pytest.raises(ShapeError):
        norms.convolution(torch.ones(shape), size, **options)


def test_nonfinite_kernels_are_refused_even_in_taps_that_meet_padding_only():
    kernel = torch.ones(1, 1, 3, 3)
    kernel[0, 0, 0, 0] = math.inf
    with pytest.raises(NonFiniteError, match="0 NaN and 1 infinite of 9"):
        norms.convolution(kernel, (14, 14), padding=(18, 18), dilation=(18, 18))


def test_an_overflowing_norm_is_refused():
    with pytest.raises(NonFiniteError, match="beyond the largest float64"):
        norms.convolution(torch.full((1, 1, 3, 3), 1.5e308, dtype=torch.float64), (9, 9))


# ---- long runs --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(deadline=None, max_examples=3000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(geometries(14, 7, 4), st.sampled_from(["normal", "rank one", "all ones", "one huge entry", "integer"]), SEEDS)
def test_convolution_bounds_its_dense_matrix_at_length(route, geometry, kind, seed):
    shape, options = geometry
    kernel = weights(kind, shape, seed)
    size, rest = options["input_size"], {k: v for k, v in options.items() if k != "input_size"}
    assert norms.convolution(kernel, size, **rest).upper >= norm_of(convolution_matrix(kernel, size, **rest)) * BELOW


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "image"), [((3, 64), 224), ((64, 64), 224), ((128, 128), 112), ((256, 256), 56), ((512, 512), 28)]
)
def test_layers_of_vgg16_exceed_what_power_iteration_reaches(channels, image):
    kernel = torch.randn(channels[1], channels[0], 3, 3) / (3 * channels[0] ** 0.5)
    norm = norms.convolution(kernel, (image, image), padding=(1, 1))
    x = torch.randn(1, channels[0], image, image)
    for _ in range(15):
        y = torch.nn.functional.conv2d(x / x.norm(), kernel, padding=1)
        x = torch.nn.functional.conv_transpose2d(y, kernel, padding=1)
    assert float(y.norm()) <= norm.upper <= 1.25 * float(y.norm())
