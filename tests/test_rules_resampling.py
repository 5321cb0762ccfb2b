"""Padding, interpolation and pixel shuffles against torch and against their dense Jacobians."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_layer import SLACK, claim_of, gain_of, graph_of, module_of
from oracles import jacobian, norm, single
from test_shapes import shape_of
from torch.nn import functional as F  # noqa: N812

from fimtheory import layers
from fimtheory.claims import Quantity, Relation
from fimtheory.errors import ShapeError, SymbolicSizeError
from fimtheory.expressions import size_symbol
from fimtheory.strategies.windows import resampling
from fimtheory.symmetry import Symmetry

SHAPES = st.one_of(
    st.tuples(st.integers(1, 4), st.integers(1, 9)),
    st.tuples(st.integers(1, 4), *[st.integers(1, 4)] * 2),
    st.tuples(st.integers(1, 2), *[st.integers(1, 3)] * 3),
)


def dense(layer, shape):
    return jacobian(single(module_of(layer, shape=shape)), torch.zeros(shape, dtype=torch.float64))


@settings(deadline=None, max_examples=150)
@given(SHAPES, st.data())
def test_resampling_stays_below_its_gain(shape, data):
    layer = data.draw(resampling(shape))
    truth, claim = norm(dense(layer, shape)), claim_of(Quantity.GAIN, layer, shape)
    assert truth <= gain_of(layer, shape) * SLACK
    if claim.relation is Relation.EQ:
        assert gain_of(layer, shape) <= truth * SLACK


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("n", range(1, 7))
def test_copies_of_padded_entries_are_counted(n, mode):
    most = {"reflect": n - 1, "replicate": 8, "circular": n}[mode]
    for pads in itertools.product(range(most + 1), repeat=2):
        layer = layers.Pad(((0, 0), pads), mode)
        expected = F.pad(torch.arange(n)[None].double(), pads, mode)
        assert torch.equal(single(module_of(layer, shape=(1, n)))(torch.arange(n)[None].double()), expected)
        copies = expected.long().flatten().bincount().max().item()
        assert gain_of(layer, (1, n)) ** 2 == pytest.approx(copies)


FILTERS = [("nearest", False), ("linear", False), ("linear", True), ("cubic", False), ("cubic", True)]
IN_TORCH = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}


@pytest.mark.parametrize(("mode", "corners"), FILTERS)
def test_interpolation_is_that_of_torch(mode, corners):
    for n, m in itertools.product(range(1, 9), range(1, 18)):
        layer, x = layers.Upsample((m, 3), mode, corners), torch.randn(2, n, 2, dtype=torch.float64)
        more = {} if mode == "nearest" else {"align_corners": corners}
        expected = F.interpolate(x[None], (m, 3), mode=IN_TORCH[mode], **more)[0]
        torch.testing.assert_close(single(module_of(layer, shape=(2, n, 2)))(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("mode", "corners"), FILTERS)
def test_interpolation_gains_are_nearly_sharp(mode, corners):
    for n, m in ((5, 10), (5, 15), (8, 12), (12, 8), (9, 31), (30, 7), (40, 80)):
        layer = layers.Upsample((m,), mode, corners)
        truth = norm(dense(layer, (1, n)))
        assert truth <= gain_of(layer, (1, n)) * SLACK
        assert gain_of(layer, (1, n)) <= truth * (1.15 if mode == "cubic" else 1.1)


def test_linear_doubling_has_gain_root_two_and_aligned_corners_exceed_it():
    assert gain_of(layers.Upsample((10,), "linear"), (1, 5)) == pytest.approx(2**0.5)
    assert norm(dense(layers.Upsample((10,), "linear", True), (1, 5))) > 1.44


def test_padding_with_a_constant_is_not_odd():
    for value, expected in ((0.0, Symmetry.ODD), (0.5, Symmetry.BROKEN)):
        assert claim_of(Quantity.SYMMETRY, layers.Pad(((0, 0), (1, 1)), value=value), (2, 3)) is expected
    assert claim_of(Quantity.SYMMETRY, layers.Pad(((0, 0), (1, 1)), "reflect", 0.5), (2, 3)) is Symmetry.ODD


def test_pixel_shuffles_are_inverse():
    graph = module_of(layers.PixelShuffle(3), layers.PixelUnshuffle(3), shape=(9, 2, 1))
    x = torch.randn(1, 9, 2, 1, dtype=torch.float64)
    assert torch.equal(graph(x), x)


H = size_symbol("H")


def test_symbolic_sizes():
    assert shape_of(layers.Pad(((0, 0), (1, 2))), (3, H)) == (3, H + 3)
    assert shape_of(layers.PixelShuffle(2), (8, H, H)) == (2, 2 * H, 2 * H)
    assert gain_of(layers.Pad(((0, 0), (1, 2))), (3, H)) == 1
    with pytest.raises(SymbolicSizeError, match=r"graph\.subs"):
        gain_of(layers.Pad(((0, 0), (1, 2)), "circular"), (3, H))


REFUSED = [
    (layers.Pad(((0, 0), (-1, 0))), (3, 4), "crops; use a Slice"),
    (layers.Pad(((0, 0),)), (3, 4), "a pair for each of the 2 dimensions"),
    (layers.Pad(((0, 0), (1,))), (3, 4), "expected two whole numbers"),
    (layers.Pad(((0, 0), (4, 0)), "reflect"), (3, 4), "exceed 3, the most"),
    (layers.Pad(((0, 0), (0, 5)), "circular"), (3, 4), "exceed 4, the most"),
    (layers.Pad(((0, 0), (1, 1)), "symmetric"), (3, 4), "mode is 'symmetric'"),
    (layers.Pad(((0, 0), (1, 1)), value=float("nan")), (3, 4), "value is nan"),
    (layers.Upsample((4,), "area"), (3, 4), "mode is 'area'"),
    (layers.Upsample((4, 4)), (3, 4), "expected 1 sizes"),
    (layers.Upsample((0,)), (3, 4), "at least 1"),
    (layers.Upsample((8,), align_corners=True), (3, 4), "no meaning for the nearest"),
    (layers.Upsample((2**17,)), (3, 4), "sizes are at most 65536"),
    (layers.PixelShuffle(2), (6, 2, 2), "4 does not divide the channels 6"),
    (layers.PixelUnshuffle(2), (6, 3, 2), "2 does not divide the height 3"),
]


@pytest.mark.parametrize(("layer", "shape", "message"), REFUSED, ids=lambda v: type(v).__name__)
def test_refused_resampling(layer, shape, message):
    with pytest.raises(ShapeError, match=message):
        graph_of(layer, shape=shape)
