"""Windows side by side and their sum against torch and against their dense Jacobians."""

from __future__ import annotations

import itertools

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_layer import claim_of, gain_of, graph_of, module_of, site_of
from oracles import jacobian, norm, single
from test_shapes import assert_same_shape, paddings, pairs, shape_of, torch_shape
from torch import nn

from fimtheory import layers
from fimtheory.claims import Quantity, Relation
from fimtheory.errors import ShapeError, SymbolicSizeError
from fimtheory.expressions import size_symbol
from fimtheory.strategies.windows import folding, unfolding

H, W = size_symbol("H"), size_symbol("W")


def dense(layer, shape):
    return jacobian(single(module_of(layer, shape=shape)), torch.zeros(shape, dtype=torch.float64))


def matches(layer, shape):
    """The gain is that of the layer's matrix, and so is the growth."""
    gain = gain_of(layer, shape)
    assert norm(dense(layer, shape)) == pytest.approx(gain, rel=1e-12, abs=0)
    assert claim_of(Quantity.GAIN, layer, shape).relation is Relation.EQ
    assert float(claim_of(Quantity.JACOBIAN_VARIANCE, layer, shape).expression) == pytest.approx(gain**2)
    return gain


@settings(deadline=None, max_examples=200)
@given(st.tuples(st.integers(1, 2), st.integers(1, 7), st.integers(1, 7)), st.data())
def test_windows_are_counted(shape, data):
    layer = data.draw(unfolding(shape))
    gain = matches(layer, shape)
    symbolic = layers.Unfold(layer.kernel, layer.dilation, layer.padding, layer.stride)
    assert gain <= gain_of(symbolic, (1, 12 * H, 12 * W)), "the bound for images of any size holds for this one"


@settings(deadline=None, max_examples=200)
@given(st.tuples(st.integers(1, 12), st.integers(1, 12)), st.data())
def test_the_sum_of_windows_is_the_transpose(shape, data):
    layer = data.draw(folding(shape))
    assert gain_of(layer, shape) == matches(layer, shape)
    unfold = layers.Unfold(layer.kernel, layer.dilation, layer.padding, layer.stride)
    image = site_of(layer, shape).output
    assert site_of(unfold, image).output == shape
    assert torch.equal(dense(unfold, image), dense(layer, shape).T)


def test_every_small_window_of_a_row():
    for n, k, s, p, d in itertools.product((1, 2, 5), (1, 2, 3), (1, 2, 3, 4), (0, 1, 4), (1, 2, 3)):
        if n + 2 * p > d * (k - 1):
            matches(layers.Unfold((1, k), (1, d), (0, p), (1, s)), (1, 1, n))


@pytest.mark.parametrize(
    ("layer", "shape", "windows"),
    [
        (layers.Unfold((2, 1), (2, 1), (1, 0)), (1, 1, 1), 0),  # the taps are on the padding, beside the entry
        (layers.Unfold((3, 3), padding=(2, 2)), (1, 1, 1), 9),
        (layers.Unfold((3, 1), (2, 1), (0, 0), (4, 1)), (1, 40, 1), 2),
        (layers.Unfold((3, 1), (3, 1), (0, 0), (2, 1)), (1, 40, 1), 2),
        (layers.Unfold((7, 7), padding=(3, 3), stride=(4, 4)), (1, 16, 16), 4),
        (layers.Fold((4, 4), (3, 3), padding=(1, 1)), (9, 16), 9),
        (layers.Fold((4, 4), (2, 2), stride=(2, 2)), (4, 4), 1),
    ],
    ids=repr,
)
def test_gains(layer, shape, windows):
    assert matches(layer, shape) ** 2 == pytest.approx(windows)


@pytest.mark.parametrize("n", [2**16, 2**16 + 1, 2**40])
def test_long_images_are_not_walked_through(n):
    layer = layers.Unfold((3, 3), padding=(1, 1), stride=(2, 1))
    claim = claim_of(Quantity.GAIN, layer, (1, 4, n))
    assert claim.expression == sympy.sqrt(6)
    assert claim.relation is (Relation.EQ if n == 2**16 else Relation.LE)


@given(st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)), pairs, pairs, paddings, pairs)
def test_shapes_against_torch(shape, kernel, dilation, padding, stride):
    expected = torch_shape(nn.Unfold(kernel, dilation, padding, stride), shape)
    assert_same_shape(layers.Unfold(kernel, dilation, padding, stride), shape, expected)
    fold = layers.Fold(shape[1:], kernel, dilation, padding, stride)
    if expected is not None:
        assert_same_shape(fold, expected, shape)
        assert torch_shape(nn.Fold(shape[1:], kernel, dilation, padding, stride), expected) == shape
        assert_same_shape(fold, (expected[0], expected[1] + 1), None)


def test_symbolic_sizes():
    assert shape_of(layers.Unfold((3, 3), padding=(1, 1)), (3, H, W)) == (27, H * W)
    assert shape_of(layers.Unfold((4, 4), stride=(4, 4)), (3, 4 * H, 4 * W)) == (48, H * W)
    assert shape_of(layers.Fold((H, W), (3, 3), padding=(1, 1)), (27, H * W)) == (3, H, W)
    claim = claim_of(Quantity.GAIN, layers.Unfold((3, 3), padding=(1, 1)), (3, H, W))
    assert (claim.relation, claim.expression) == (Relation.LE, 3)
    with pytest.raises(SymbolicSizeError, match=r"graph\.subs"):
        gain_of(layers.Unfold((H, 3)), (3, 2 * H, 4))


REFUSED = [
    (layers.Unfold((3, 3)), (4, 4), r"expected \(channels, height, width\)"),
    (layers.Unfold((5, 1)), (1, 4, 4), "window of 5 does not fit into 4 entries"),
    (layers.Unfold((3,)), (1, 4, 4), "kernel is .3,.; expected a pair"),
    (layers.Unfold((3, 3), dilation=(0, 1)), (1, 4, 4), "dilation is 0"),
    (layers.Unfold((3, 3), padding=(0, -1)), (1, 4, 4), "padding is -1"),
    (layers.Unfold((3, 3), stride=(1.0, 1)), (1, 4, 4), "stride is 1.0"),
    (layers.Fold((4, 4), (3, 3)), (1, 9, 4), "expected .channels times entries of a window, windows."),
    (layers.Fold((4, 4), (3, 3)), (9, 5), "5 windows in its last dimension, but the layer is for 4"),
    (layers.Fold((4, 4), (3, 3)), (10, 4), "9 does not divide the first dimension 10"),
    (layers.Fold((4, 0), (3, 3)), (9, 4), "output_size is 0"),
]


@pytest.mark.parametrize(("layer", "shape", "message"), REFUSED, ids=repr)
def test_refused_windows(layer, shape, message):
    with pytest.raises(ShapeError, match=message):
        graph_of(layer, shape=shape)
