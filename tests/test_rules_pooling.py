"""Pools of one to three dimensions against torch and against their dense Jacobians."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_layer import SLACK, claim_of, gain_of, graph_of, module_of
from oracles import jacobian, norm, single
from test_shapes import assert_same_shape, shape_of, torch_shape
from torch import nn

from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.errors import ShapeError, SymbolicSizeError
from fimtheory.expressions import size_symbol
from fimtheory.rules.pooling import _uneven_square
from fimtheory.strategies.windows import AVERAGE_POOLS, MAX_POOLS, pooling

SHAPES = st.one_of(
    st.tuples(st.integers(1, 2), st.integers(1, 12)),
    st.tuples(st.integers(1, 2), *[st.integers(1, 6)] * 2),
    st.tuples(st.just(1), *[st.integers(1, 4)] * 3),
)


def in_torch(layer):
    """The torch module of a pool."""
    module = getattr(nn, type(layer).__name__.replace("LpPool", "LPPool"))
    match layer:
        case layers.LpPool2d():
            return module(layer.norm_type, layer.kernel, layer.stride, layer.ceil_mode)
        case layers.MaxPool1d() | layers.MaxPool2d() | layers.MaxPool3d():
            return module(layer.kernel, layer.stride, layer.padding, layer.dilation, ceil_mode=layer.ceil_mode)
        case layers.AvgPool1d():
            return module(layer.kernel, layer.stride, layer.padding, layer.ceil_mode, layer.count_include_pad)
        case layers.AvgPool2d() | layers.AvgPool3d():
            return module(
                layer.kernel, layer.stride, layer.padding, layer.ceil_mode, layer.count_include_pad, layer.divisor
            )
    return module(layer.output if len(layer.output) > 1 else layer.output[0])


def at_random(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None, max_examples=300)
@given(SHAPES, st.data())
def test_pools_against_torch_and_their_jacobians(shape, data):
    layer = data.draw(pooling(shape))
    x = at_random(shape, data.draw(st.integers(0, 99)))
    module = module_of(layer, shape=shape)
    if not (type(layer) is layers.AvgPool1d and layer.divisor):
        torch.testing.assert_close(single(module)(x), in_torch(layer)(x[None])[0], rtol=1e-12, atol=1e-12)
    gain = gain_of(layer, shape)
    for point in (x, torch.zeros_like(x), x.relu()):
        assert norm(jacobian(single(module), point)) <= gain * SLACK
    assert gain_of(layer, shape) ** 2 == pytest.approx(
        float(claim_of(Quantity.JACOBIAN_VARIANCE, layer, shape).expression)
    )


windows = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), st.integers(1, 3))


@given(st.integers(1, 12), windows, st.booleans(), st.sampled_from([MAX_POOLS, AVERAGE_POOLS]))
def test_shapes_against_torch(n, window, ceil_mode, table):
    k, s, p, d = window
    for dimensions in (1, 2, 3):
        own = tuple((number,) * dimensions for number in ((k, s, p, d) if table is MAX_POOLS else (k, s, p)))
        layer = table[dimensions + 1](*own, ceil_mode=ceil_mode)
        shape = (2, *(n + i for i in range(dimensions)))
        expected = torch_shape(in_torch(layer), shape)
        if table is MAX_POOLS and expected and d > 1 and in_torch(layer)(torch.zeros(1, *shape)).isinf().any():
            with pytest.raises(ShapeError, match="steps over all"):
                shape_of(layer, shape)
        else:
            assert_same_shape(layer, shape, expected)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_max_pool_gain_is_attained_by_peaks(dimensions):
    layer = MAX_POOLS[dimensions + 1]((3,) * dimensions, (2,) * dimensions, (1,) * dimensions, ceil_mode=True)
    x = torch.zeros(1, *[5] * dimensions, dtype=torch.float64)
    x[(0, *[1] * dimensions)] = 1.0  # in two windows of each dimension
    truth = norm(jacobian(single(module_of(layer, shape=tuple(x.shape))), x))
    assert truth == pytest.approx(2 ** (dimensions / 2)) == gain_of(layer, tuple(x.shape))


@pytest.mark.parametrize(("n", "m"), [*itertools.product(range(1, 11), range(1, 14))])
def test_adaptive_max_pool_gain_is_the_largest_number_of_windows(n, m):
    layer = layers.AdaptiveMaxPool1d((m,))
    truth = 0.0
    for peak in range(n):
        x = torch.zeros(1, n, dtype=torch.float64)
        x[0, peak] = 1.0
        truth = max(truth, int((single(module_of(layer, shape=(1, n)))(x) == 1).sum()))
    assert gain_of(layer, (1, n)) ** 2 == pytest.approx(truth)


def dense(layer, shape):
    return jacobian(single(module_of(layer, shape=shape)), torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("ceil_mode", [True, False])
def test_uneven_averages_are_nearly_sharp(counts, ceil_mode):
    for n, k, s in itertools.product((20, 31), (2, 3, 4), (1, 2, 3)):
        layer = layers.AvgPool1d((k,), (s,), (k // 2,), ceil_mode, counts)
        truth, gain = norm(dense(layer, (1, n))), gain_of(layer, (1, n))
        assert truth <= gain * SLACK
        assert gain <= truth * 1.15


def test_averages_over_uncounted_padding_may_enlarge():
    """Three windows of 1/2, 1/3, 1/2 over the ends: more than one, as the rule for counted zeros would not say."""
    layer = layers.AvgPool1d((3,), (1,), (1,), count_include_pad=False)
    assert 1.003 < norm(dense(layer, (1, 6))) <= gain_of(layer, (1, 6)) < 1.04


def test_long_uneven_averages_are_bounded_by_short_ones():
    for k, s, p, counts in itertools.product((2, 3, 5), (1, 2, 3), (0, 1), (True, False)):
        short = [n for n in range(40, 70) if n > 8 * (k + s + p) + s]
        for n in short:
            m = (n + 2 * p - k + s - 1) // s + 1
            m -= (m - 1) * s >= n + p
            far = 10**6 * s
            assert _uneven_square(n, m, k, s, p, zeros_count=counts) == _uneven_square(
                n + far, m + 10**6, k, s, p, zeros_count=counts
            )


def test_a_norm_of_windows_is_even_and_has_a_slope_at_zero():
    layer = layers.LpPool2d(2, (2, 2), (2, 2))
    assert norm(dense(layer, (1, 4, 4))) == 0.0
    x = torch.eye(4, dtype=torch.float64)[None]
    assert norm(jacobian(single(module_of(layer, shape=(1, 4, 4))), x)) == pytest.approx(gain_of(layer, (1, 4, 4)))


H = size_symbol("H")


def test_symbolic_sizes():
    assert shape_of(layers.MaxPool1d((2,), (2,)), (3, 2 * H)) == (3, H)
    assert gain_of(layers.MaxPool2d((3, 3), (2, 2), (1, 1), ceil_mode=True), (3, H, H)) == 2
    assert gain_of(layers.AvgPool1d((2,), (2,)), (3, 2 * H)) == pytest.approx(2**-0.5)
    with pytest.raises(SymbolicSizeError, match=r"graph\.subs"):
        gain_of(layers.AvgPool1d((2,), (2,), ceil_mode=True), (3, 2 * H))


REFUSED = [
    (layers.LpPool2d(3, (2, 2), (2, 2)), (1, 4, 4), "expected 1 .the sum. or an even whole number"),
    (layers.MaxPool1d((2,), (1,), (1,), (4,)), (1, 3), "steps over all 3 entries"),
    (layers.MaxPool1d((2, 2), (2,)), (1, 4), "expected a tuple of one size"),
    (layers.AvgPool3d((2, 2), (2, 2, 2)), (1, 4, 4, 4), "expected a triple"),
    (layers.AvgPool2d((2, 2), (2, 2), divisor=0), (1, 4, 4), "divisor is 0"),
    (layers.AvgPool1d((2,), (2,), (2,)), (1, 4), "more than half of the kernel"),
    (layers.AdaptiveMaxPool2d((0, 1)), (1, 4, 4), "at least 1"),
    (layers.AdaptiveAvgPool3d((1, 1, 1)), (1, 4, 4), "expected .channels, depth, height, width."),
]


@pytest.mark.parametrize(("layer", "shape", "message"), REFUSED, ids=lambda v: type(v).__name__)
def test_refused_pools(layer, shape, message):
    with pytest.raises(ShapeError, match=message):
        graph_of(layer, shape=shape)
