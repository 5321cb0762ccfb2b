"""Layers that move entries, against the dense matrix of what torch computes."""

from __future__ import annotations

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_layer import claim_of, gain_of, graph_of, module_of, site_of
from oracles import jacobian, norm, single

from fimtheory import layers
from fimtheory.claims import Quantity, Relation
from fimtheory.errors import ShapeError
from fimtheory.expressions import size_symbol
from fimtheory.files import graph_from_json, graph_to_json
from fimtheory.strategies import movement

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)

TORCH = {
    layers.Slice: lambda f, x: x.index_select(f.dim + 1, torch.arange(f.start, f.stop, f.step)),
    layers.Select: lambda f, x: x.movedim(f.dim + 1, 0)[f.index],
    layers.IndexSelect: lambda f, x: torch.stack([x.select(f.dim + 1, i) for i in f.indices], f.dim + 1),
    layers.Flip: lambda f, x: torch.flip(x, [d + 1 for d in f.dims]),
    layers.Roll: lambda f, x: torch.roll(x, f.shifts, [d + 1 for d in f.dims]),
    layers.Expand: lambda f, x: torch.stack([torch.broadcast_to(each, f.shape) for each in x]),
    layers.Tile: lambda f, x: torch.stack([torch.tile(each, f.repeats) for each in x]),
    layers.RepeatInterleave: lambda f, x: torch.repeat_interleave(x, f.repeats, f.dim + 1),
}
"""Each layer in other words: single inputs one by one, or another function of torch."""


@settings(deadline=None)
@given(st.data())
def test_moves_compute_what_torch_computes(data):
    shape = data.draw(SHAPES)
    layer = data.draw(movement(shape))
    x = torch.randn(2, *shape, dtype=torch.float64)
    found = module_of(layer, shape=shape)(x)
    assert torch.equal(found, TORCH[type(layer)](layer, x))
    assert tuple(found.shape[1:]) == site_of(layer, shape).output


@settings(deadline=None)
@given(st.data())
def test_gain_and_growth_of_moves_are_those_of_their_matrix(data):
    shape = data.draw(SHAPES)
    layer = data.draw(movement(shape))
    matrix = jacobian(single(module_of(layer, shape=shape)), torch.zeros(shape, dtype=torch.float64))
    assert claim_of(Quantity.GAIN, layer, shape).relation is Relation.EQ
    assert norm(matrix) == pytest.approx(gain_of(layer, shape))
    growth = claim_of(Quantity.JACOBIAN_VARIANCE, layer, shape).expression
    assert float(growth) == pytest.approx(gain_of(layer, shape) ** 2)


REFUSED = [
    (layers.Slice(1, 0, 2), (3,), "dim is 1; expected 0 to 0"),
    (layers.Slice(-1, 0, 2), (3,), "dim is -1"),
    (layers.Slice(0, 0, 4), (3,), "expected 0 <= start < stop <= 3"),
    (layers.Slice(0, 2, 2), (3,), "start, stop and step are 2, 2 and 1"),
    (layers.Slice(0, -2, 2), (3,), "start, stop and step are -2"),
    (layers.Slice(0, 0, 3, 0), (3,), "a step of at least 1"),
    (layers.Slice(0, 0, 3, True), (3,), "step is True; expected a whole number"),
    (layers.Select(0, 3), (3, 2), "index is 3; expected 0 to 2"),
    (layers.Select(0, -1), (3, 2), "index is -1"),
    (layers.Select(0, 1), (3,), "take a Slice"),
    (layers.IndexSelect(0, ()), (3,), "at least one index"),
    (layers.IndexSelect(0, (0, 3)), (3,), "index is 3"),
    (layers.Flip((0, 0)), (3,), "different dimensions"),
    (layers.Flip(()), (3,), "different dimensions"),
    (layers.Roll((1,), (0, 1)), (3, 2), "one whole number for each"),
    (layers.Roll((1.0,), (0,)), (3, 2), "a shift is 1.0"),
    (layers.Expand((3,)), (1, 3), "at least 2 sizes"),
    (layers.Expand((4, 4)), (2, 4), "only a dimension of size 1"),
    (layers.Expand((0, 4)), (1, 4), "is 0; expected a whole number of at least 1"),
    (layers.Tile((2,)), (3, 2), "one number for each dimension"),
    (layers.RepeatInterleave(0, 0), (3,), "repeats is 0"),
]


@pytest.mark.parametrize(("layer", "shape", "message"), REFUSED, ids=repr)
def test_refused_moves(layer, shape, message):
    with pytest.raises(ShapeError, match=message):
        site_of(layer, shape)


def test_a_long_selection_survives_a_file():
    graph = graph_of(layers.IndexSelect(0, tuple(k % 7 for k in range(300))), shape=(7,))
    assert graph_from_json(graph_to_json(graph)) == graph


def test_moves_of_symbolic_sizes():
    n, c = size_symbol("n"), size_symbol("c")
    assert site_of(layers.Slice(0, 0, 3), (n, c)).output == (3, c)
    assert site_of(layers.Tile((2, 1)), (n, c)).output == (2 * n, c)
    expand = layers.Expand((n, c, 4))
    assert claim_of(Quantity.GAIN, expand, (1, 4)).expression == sympy.sqrt(n * c)
