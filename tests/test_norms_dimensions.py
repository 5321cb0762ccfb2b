"""Certified norms of convolutions in one and three dimensions, and of transposed ones, against dense matrices."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_norms_oracles import norm_of, weights
from torch.nn import functional as F  # noqa: N812

from fimtheory import norms
from fimtheory.errors import ShapeError
from fimtheory.norms import convolutions

BELOW = 1 - 1e-12
SEEDS = st.integers(0, 2**32)
KINDS = st.sampled_from(["normal", "rank one", "all ones", "one huge entry", "integer"])
FORWARD = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much, HealthCheck.too_slow]


@pytest.fixture(params=["any", "torus", "grid"])
def route(request, monkeypatch):
    """Leave the choice of the certificate open, or force the torus, or force the grid."""
    if request.param != "any":
        monkeypatch.setattr(convolutions, "_MATRIX_SIDE", 0)
    if request.param == "grid":
        monkeypatch.setattr(convolutions, "_WORK", 0)
    return request.param


def matrix_of(function, shape):
    """Dense matrix of a linear function of images of ``shape``, which it takes in batches."""
    units = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    return function(units).flatten(1).T


@st.composite
def geometries(draw, count, most=None):
    """Kernel shape, input size and the options of a convolution in ``count`` dimensions, small enough for a matrix."""
    groups = draw(st.sampled_from([1, 1, 2]))
    channels = groups * draw(st.integers(1, 2)), draw(st.integers(1, 2))

    def each(least, largest):
        return tuple(draw(st.integers(least, largest)) for _ in range(count))

    kernel = each(1, 3 if count < 3 else 2)
    size = each(1, {1: 12, 2: 5, 3: 4}[count])
    options = {"stride": each(1, 3), "padding": each(0, 2), "dilation": each(1, 2)}
    return (*channels, *kernel), size, options | {"groups": groups}


@settings(deadline=None, max_examples=100, suppress_health_check=QUIET)
@given(st.data(), KINDS, SEEDS, st.sampled_from([1, 3]))
def test_convolution_bounds_its_dense_matrix(route, data, kind, seed, count):
    shape, size, options = data.draw(geometries(count))
    spans = zip(size, shape[2:], options["padding"], options["dilation"], strict=True)
    assume(all(n + 2 * p > d * (k - 1) for n, k, p, d in spans))
    kernel, groups = weights(kind, shape, seed), options["groups"]
    matrix = matrix_of(lambda x: FORWARD[count](x, kernel, None, **options), (shape[1] * groups, *size))
    norm = norms.convolution(kernel, size, **options)
    assert norm.upper >= norm_of(matrix) * BELOW
    if norm.method == "dense toeplitz" or (route == "any" and norm.method == "reshaped kernel"):
        assert norm.upper <= norm_of(matrix) * (1 + 1e-7) + 1e-300


@settings(deadline=None, max_examples=120, suppress_health_check=QUIET)
@given(st.data(), KINDS, SEEDS, st.sampled_from([1, 2, 3]), st.booleans())
def test_transposed_convolution_bounds_its_dense_matrix(route, data, kind, seed, count, scaled):
    shape, size, options = data.draw(geometries(count))
    limits = zip(options["stride"], options["dilation"], strict=True)
    output_padding = tuple(data.draw(st.integers(0, max(s, d) - 1)) for s, d in limits)
    each = zip(size, shape[2:], options["stride"], options["padding"], options["dilation"], output_padding, strict=True)
    assume(all((n - 1) * s - 2 * p + d * (k - 1) + o >= 0 for n, k, s, p, d, o in each))
    kernel, groups = weights(kind, shape, seed), options["groups"]
    scale = weights("normal", (shape[1] * groups,), seed + 1)
    factors = scale.reshape(-1, *[1] * count) if scaled else 1.0

    def function(x):
        return factors * TRANSPOSED[count](x, kernel, None, output_padding=output_padding, **options)

    truth = norm_of(matrix_of(function, (shape[0], *size)))
    row_scale = (scale, 0.0) if scaled else None
    norm = norms.transposed_convolution(kernel, size, output_padding=output_padding, row_scale=row_scale, **options)
    assert norm.upper >= truth * BELOW
    whole = all(o < s for o, s in zip(output_padding, options["stride"], strict=True))  # else a row more is bounded
    if whole and norm.method == "dense toeplitz":
        assert norm.upper <= truth * (1 + 1e-7) + 1e-300


def test_a_convolution_is_the_same_in_more_dimensions():
    kernel = weights("normal", (3, 2, 3), 0)
    line = norms.convolution(kernel, (60,), stride=(2,), padding=(1,))
    for wide in (kernel[:, :, None], kernel[:, :, None, None]):
        count = wide.dim() - 3
        one, none, size = (1,) * count, (0,) * count, (1,) * count + (60,)
        same = norms.convolution(wide, size, stride=(*one, 2), padding=(*none, 1))
        assert same.upper == pytest.approx(line.upper, rel=1e-7)


def test_a_volume_on_its_torus_is_the_maximum_of_the_fft(monkeypatch):
    monkeypatch.setattr(convolutions, "_MATRIX_SIDE", 0)
    kernel = weights("normal", (3, 4, 3, 2, 3), 1)
    norm = norms.convolution(kernel, (6, 7, 5))
    assert norm.method == "torus 6x7x5"
    truth = float(torch.linalg.matrix_norm(torch.fft.fftn(kernel, s=(6, 7, 5)).permute(2, 3, 4, 0, 1), 2).max())
    assert truth * BELOW <= norm.upper <= truth * (1 + 1e-7)


def test_large_volumes_take_a_grid():
    kernel = weights("normal", (2, 2, 3, 3, 3), 1)
    norm = norms.convolution(kernel, (2000, 2000, 2000), padding=(1, 1, 1))
    assert norm.method.startswith("grid")
    truth = float(torch.linalg.matrix_norm(torch.fft.fftn(kernel, s=(32, 32, 32)).permute(2, 3, 4, 0, 1), 2).max())
    assert truth * BELOW <= norm.upper <= truth * 1.1


@pytest.mark.parametrize("error", [0.0, 2.0**-10])
def test_column_scales_multiply_inputs(error):
    kernel, scale = weights("normal", (4, 2, 3, 3), 0), weights("wide range", (4,), 1)
    folded = norms.convolution(kernel, (6, 6), padding=(1, 1), groups=2, column_scale=(scale, error))
    plain = norms.convolution(scale.reshape(2, 1, 2, 1, 1).expand(2, 2, 2, 1, 1).reshape(4, 2, 1, 1) * kernel, (6, 6),
                              padding=(1, 1), groups=2)  # fmt: skip
    assert plain.upper * (1 + error) * (1 - 1e-7) <= folded.upper <= plain.upper * (1 + error) * (1 + 1e-7)


def test_two_scales_are_refused():
    ones = torch.ones(2, dtype=torch.float64), 0.0
    with pytest.raises(ShapeError, match="not both"):
        norms.convolution(torch.ones(2, 2, 3), (5,), row_scale=ones, column_scale=ones)
