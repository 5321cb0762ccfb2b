"""Layers with a constant, against torch and the dense matrix of their linear part."""

from __future__ import annotations

import math

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_layer import SLACK, claim_of, gain_of, graph_of, module_of, site_of
from oracles import jacobian, norm, single

import fimtheory as ft
from fimtheory import layers
from fimtheory.claims import Quantity, Relation
from fimtheory.errors import ShapeError
from fimtheory.strategies import constant, parameters_of, tensor_in_style

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


def weights_of(graph, seed, style="normal"):
    generator = torch.Generator().manual_seed(seed)
    made = {key: tensor_in_style(p, style, generator) for key, p in parameters_of(graph)}
    return {key: t.long() if key.endswith("num_batches_tracked") else t for key, t in made.items()}


def in_torch(layer, c, x):
    """The layer applied to one input, in other words than the library's."""
    match layer:
        case layers.Scale():
            return layer.factor * x
        case layers.Shift():
            return layer.value + x
        case layers.AddConstant():
            return x + torch.broadcast_to(c.reshape(c.shape[-x.dim() :]), x.shape)
        case layers.MultiplyConstant():
            return x * torch.broadcast_to(c.reshape(c.shape[-x.dim() :]), x.shape)
        case layers.ConcatConstant():
            c = c.reshape(c.shape[-x.dim() :])
            return torch.cat([c, x] if layer.before else [x, c], layer.dim)
        case layers.MatmulConstant():
            return torch.einsum("ij,...jk->...ik", c, x) if layer.before else torch.einsum("...i,ij->...j", x, c)


@settings(deadline=None)
@given(st.data(), st.integers(0, 1000))
def test_constants_compute_what_torch_computes(data, seed):
    shape = data.draw(SHAPES)
    layer = data.draw(constant(shape))
    weights = weights_of(graph_of(layer, shape=shape), seed)
    x = torch.randn(2, *shape, dtype=torch.float64)
    found = module_of(layer, shape=shape, weights=weights)(x)
    assert torch.allclose(found, torch.stack([in_torch(layer, weights.get("n0"), each) for each in x]), rtol=1e-12)
    assert tuple(found.shape[1:]) == site_of(layer, shape).output


@settings(deadline=None)
@given(st.data(), st.integers(0, 1000), st.sampled_from(["normal", "zero", "signs", "single", "tiny", "large"]))
def test_gains_of_constants_are_those_of_their_matrix(data, seed, style):
    shape = data.draw(SHAPES)
    layer = data.draw(constant(shape))
    weights = weights_of(graph_of(layer, shape=shape), seed, style)
    own = {"": weights["n0"]} if weights else {}
    matrix = jacobian(single(module_of(layer, shape=shape, weights=weights)), torch.ones(shape, dtype=torch.float64))
    assert claim_of(Quantity.GAIN, layer, shape).relation is Relation.EQ
    assert norm(matrix) == pytest.approx(gain_of(layer, shape, own), rel=1e-6)
    assert norm(matrix) <= gain_of(layer, shape, own) * SLACK


def test_the_gain_of_a_factor_is_the_number_that_the_float_is():
    assert claim_of(Quantity.GAIN, layers.Scale(-0.1), (3,)).expression == sympy.Rational(0.1)


CONV = layers.Conv2d(2, 4, (3, 2), (2, 1), (1, 0))
FOLDED = [
    (CONV, (4, 1, 1), (2, 6, 5), True),
    (CONV, (1, 4, 1, 1), (2, 6, 5), True),
    (CONV, (1,), (2, 6, 5), False),
    (CONV, (), (2, 6, 5), False),
    (CONV, (4,), (2, 6, 5), False),
    (CONV, (3, 4), (2, 6, 5), False),
    (CONV, (4, 3, 4), (2, 6, 5), False),
    (layers.Linear(3, 5), (5,), (3,), True),
    (layers.Linear(3, 5), (1, 5), (3,), True),
    (layers.Linear(3, 5), (1,), (3,), False),
    (layers.Linear(3, 5), (5,), (2, 3), True),
    (layers.Linear(3, 5), (1, 1, 5), (2, 3), True),
    (layers.Linear(3, 5), (2, 5), (2, 3), False),
    (layers.Linear(3, 5), (5, 1), (5, 3), False),
]


@pytest.mark.parametrize(("weight", "constant", "shape", "folds"), FOLDED, ids=repr)
def test_a_factor_after_a_weight_layer(weight, constant, shape, folds):
    run = weight, layers.MultiplyConstant(constant)
    claim = ft.registry.find_rule(tuple(map(type, run)), Quantity.GAIN).function(ft.Site.of(*run, inputs=(shape,)))
    assert (claim.relation is Relation.EQ) is folds
    graph = graph_of(*run, layers.Flatten(), shape=shape)
    for seed, style in enumerate(("normal", "normal", "signs", "single", "zero", "tiny", "huge")):
        weights = weights_of(graph, seed, style)
        module = ft.instantiate(graph, weights=weights, dtype=torch.float64)
        bound = ft.evaluate(ft.derive(graph), module)
        assert f"gain[{type(weight).__name__}, MultiplyConstant]" in bound.rules
        certified = 10 ** ((bound.log10 + math.log10(2)) / 2)
        truth = norm(jacobian(single(module), torch.ones(shape, dtype=torch.float64)))
        assert truth * (1 - 1e-9) <= certified
        if folds:  # up to what zero padding costs the norm of a convolution
            assert certified <= 1.3 * truth


REFUSED = [
    (layers.AddConstant((4,)), (1,), "would enlarge an input"),
    (layers.MultiplyConstant((3, 2)), (2,), "would enlarge an input"),
    (layers.AddConstant((1, 1, 2)), (2,), "would enlarge an input"),
    (layers.MultiplyConstant((0,)), (2,), "is 0; expected a whole number of at least 1"),
    (layers.AddConstant([2]), (2,), "a tuple of sizes"),
    (layers.ConcatConstant(1, (3,)), (2,), "dim is 1"),
    (layers.ConcatConstant(0, (2, 3)), (2, 4), "cannot join a constant"),
    (layers.ConcatConstant(0, (2, 2, 4)), (2, 4), "cannot join a constant"),
    (layers.MatmulConstant((3, 2)), (2,), "2 entries in its last dimension, but the layer is for 3"),
    (layers.MatmulConstant((3, 2), before=True), (2,), "expected matrices"),
    (layers.MatmulConstant((3, 2), before=True), (3, 4), "3 entries in its last dimension but one"),
    (layers.MatmulConstant((3, 2, 1)), (3,), "expected matrices"),
    (layers.Scale(math.inf), (3,), "factor is inf; expected a finite number"),
    (layers.Shift(math.nan), (3,), "value is nan; expected a finite number"),
]


@pytest.mark.parametrize(("layer", "shape", "message"), REFUSED, ids=repr)
def test_refused_constants(layer, shape, message):
    with pytest.raises(ShapeError, match=message):
        site_of(layer, shape)
