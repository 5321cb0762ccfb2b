"""Convolutions of one to three dimensions against torch, their dense Jacobians and Monte Carlo."""

from __future__ import annotations

import math

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_layer import claim_of, gain_of, graph_of, module_of, value_of
from oracles import jacobian, norm, single
from test_shapes import assert_same_shape, shape_of, torch_shape
from torch import nn

import fimtheory as ft
from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.errors import ShapeError
from fimtheory.expressions import size_symbol
from fimtheory.strategies.windows import CONVOLUTIONS, TRANSPOSED, convolution

SHAPES = st.one_of(
    st.tuples(st.integers(1, 4), st.integers(1, 9)),
    st.tuples(st.integers(1, 4), *[st.integers(1, 4)] * 2),
    st.tuples(st.integers(1, 2), *[st.integers(1, 3)] * 3),
)


@settings(deadline=None, max_examples=150)
@given(SHAPES, st.data(), st.integers(0, 99))
def test_convolutions_stay_below_their_gain(shape, data, seed):
    layer = data.draw(convolution(shape))
    module = module_of(layer, shape=shape, seed=seed)
    truth = norm(jacobian(single(module), torch.zeros(shape, dtype=torch.float64)))
    gain = gain_of(layer, shape, module.tensors("n0"))
    assert truth * (1 - 1e-12) <= gain
    if all(o < s for o, s in zip(getattr(layer, "output_padding", ()), layer.stride, strict=False)):
        assert gain <= truth * (1 + 1e-7) + 1e-300  # small ones are bounded through their matrix


numbers = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 3), st.integers(0, 3), st.integers(1, 3))


@given(st.integers(1, 7), numbers, st.sampled_from([1, 2, 3]), st.integers(1, 3), st.booleans())
def test_shapes_against_torch(n, window, dimensions, groups, transposed):
    k, s, p, o, d = window
    shape, outputs = (2 * groups, *range(n, n + dimensions)), 3 * groups
    wide = {"stride": s, "padding": p, "dilation": d} | ({"output_padding": o} if transposed else {})
    kind = (TRANSPOSED if transposed else CONVOLUTIONS)[dimensions + 1]
    own = {name: (number,) * dimensions for name, number in wide.items()}
    layer = kind(2 * groups, outputs, (k,) * dimensions, groups=groups, **own)
    module = getattr(nn, kind.__name__)(2 * groups, outputs, k, groups=groups, **wide)
    assert_same_shape(layer, shape, torch_shape(module, shape))


@pytest.mark.parametrize(
    ("layer", "shape", "exact"),
    [
        (layers.Conv1d(2, 3, (3,), (3,)), (2, 9), True),
        (layers.Conv1d(2, 3, (3,), (2,), (1,), (2,)), (2, 9), False),
        (layers.Conv3d(2, 2, (2, 1, 2), (2, 1, 2)), (2, 4, 1, 2), True),
        (layers.ConvTranspose1d(2, 3, (2,), (2,)), (2, 5), True),
        (layers.ConvTranspose1d(4, 6, (3,), (2,), groups=2), (4, 5), True),
        (layers.ConvTranspose2d(2, 3, (3, 2), (2, 1), (1, 0)), (2, 3, 3), False),
        (layers.ConvTranspose3d(2, 1, (2, 1, 2), dilation=(2, 1, 1)), (2, 2, 1, 2), True),
    ],
    ids=repr,
)
def test_growth_in_the_mean(layer, shape, exact):
    """``E ||W||_F^2`` over the number of inputs, by Monte Carlo: equal where no tap is lost at the ends."""
    growth = value_of(claim_of(Quantity.JACOBIAN_VARIANCE, layer, shape), layer, shape)
    x = torch.zeros(shape, dtype=torch.float64)
    squares = [jacobian(single(module_of(layer, shape=shape, seed=k)), x).square().sum().item() for k in range(300)]
    found = torch.tensor(squares) / x.numel()
    error = 4 * found.std().item() / math.sqrt(len(found))
    assert found.mean() <= growth + error
    assert not exact or found.mean() >= growth - error


def test_weights_are_flipped_in_the_mean():
    graph = graph_of(layers.ConvTranspose1d(2, 2, (2,)), layers.ReLU(), layers.Flatten(), shape=(2, 3))
    bound = ft.derive(graph)
    steps = [step for lemma in bound.lemmas for step in lemma.steps if step.rule == "jacobian variance[ReLU]"]
    assert [step.claim.expression for step in steps] == [sympy.Rational(1, 2)]


H = size_symbol("H")


def test_symbolic_sizes():
    assert shape_of(layers.ConvTranspose1d(3, 4, (4,), (2,), (1,)), (3, H)) == (4, 2 * H)
    assert shape_of(layers.Conv3d(3, 8, (3, 3, 3), padding=(1, 1, 1)), (3, H, H, 2 * H)) == (8, H, H, 2 * H)


REFUSED = [
    (layers.Conv1d(3, 4, (5,)), (3, 4), "a window of 5 does not fit"),
    (layers.Conv1d(3, 4, (3, 3)), (3, 4), "expected a tuple of one size"),
    (layers.Conv3d(3, 4, (1, 1, 1), groups=2), (3, 2, 2, 2), "2 does not divide the in_channels 3"),
    (layers.ConvTranspose2d(3, 4, (2, 2), output_padding=(1, 0)), (3, 2, 2), "neither below the stride 1 nor"),
    (layers.ConvTranspose1d(3, 4, (1,), padding=(1,)), (3, 2), "padding 1 leaves 0 entries of 2"),
    (layers.ConvTranspose1d(3, 4, (1,), groups=3), (3, 2), "3 does not divide the out_channels 4"),
    (layers.ConvTranspose3d(3, 4, (1, 1, 1)), (2, 2, 2, 2), "2 channels, but the layer is for 3"),
]


@pytest.mark.parametrize(("layer", "shape", "message"), REFUSED, ids=lambda v: type(v).__name__)
def test_refused_convolutions(layer, shape, message):
    with pytest.raises(ShapeError, match=message):
        graph_of(layer, shape=shape)
