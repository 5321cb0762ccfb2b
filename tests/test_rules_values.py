"""Layers that bound their output whatever flows in: torch's values at ordinary and at extreme inputs."""

from __future__ import annotations

import math

import pytest
import torch
from one_layer import SLACK, claim_of, module_of, value_of

import fimtheory as ft
from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.rules.values import BOUNDED_FUNCTIONS, UNIT_VECTORS

FUNCTIONS = [
    *(kind() for kind in BOUNDED_FUNCTIONS),
    *(layers.Hardtanh(*ends) for ends in ((0.0, 6.0), (-3.0, -1.0), (-0.1, 0.3), (-4.0, 2.0))),
]
VECTORS = [
    (layers.Softmax(0.5), (4,)),
    (layers.Softmax(), (3, 4)),
    (layers.SoftmaxOver(0), (3, 4)),
    (layers.SoftmaxOver(1), (2, 3, 4)),
    (layers.L2Normalize(0, 0.5), (3, 4)),
    (layers.L2Normalize(2, 1e-12), (2, 3, 4)),
]
SIZE = {
    Quantity.ENTRY_BOUND: lambda y: y.abs().max(),
    Quantity.TOKEN_NORM: lambda y: y.norm(dim=-1).max(),
    Quantity.NORM_BOUND: lambda y: y.norm(),
}


def inputs(shape):
    """Batch of inputs: random, constant, and with entries along a dimension that exceed the others by far."""
    generator = torch.Generator().manual_seed(4)
    made = [s * torch.randn(shape, generator=generator, dtype=torch.float64) for s in (0.1, 1.0, 10.0, 1e4)]
    made += [torch.full(shape, c, dtype=torch.float64) for c in (-1e9, -math.pi, 0.0, math.pi / 2, 1e9)]
    for dim in range(len(shape)):
        peak = torch.zeros(shape, dtype=torch.float64)
        peak.select(dim, 0).add_(1e3)
        made.append(peak)
    return torch.stack(made)


def bounds_hold(layer, shape):
    """Check the three bounds and return how close each was come to, as a ratio."""
    outputs = module_of(layer, shape=shape)(inputs(shape))
    ratios = {}
    for quantity, size in SIZE.items():
        bound = value_of(claim_of(quantity, layer, shape), layer, shape)
        found = max(size(y).item() for y in outputs)
        assert found <= bound * SLACK, quantity
        ratios[quantity] = found / bound
    return ratios


@pytest.mark.parametrize("layer", FUNCTIONS, ids=repr)
def test_values_of_bounded_functions(layer):
    for shape in ((5,), (3, 4), (2, 3, 2)):
        assert min(bounds_hold(layer, shape).values()) == pytest.approx(1.0)


@pytest.mark.parametrize(("layer", "shape"), VECTORS, ids=repr)
def test_values_of_unit_vectors(layer, shape):
    assert min(bounds_hold(layer, shape).values()) == pytest.approx(1.0)


def test_every_layer_with_an_entry_bound_is_tested():
    tested = {type(f) for f in FUNCTIONS} | {type(layer) for layer, _ in VECTORS}
    assert tested >= {*BOUNDED_FUNCTIONS, *UNIT_VECTORS}


def test_a_gate_of_a_sigmoid_needs_no_assumption_about_the_gate():
    builder = ft.Builder("gated")
    x = builder.add("x", layers.Input((4,)))
    y = builder.add("tanh", layers.Tanh(), builder.add("fc", layers.Linear(4, 4), x))
    g = builder.add("gate", layers.Sigmoid(), builder.add("to_gate", layers.Linear(4, 4), x))
    builder.add("head", layers.Linear(4, 2), builder.add("product", layers.Multiply(), y, g))
    derivation = ft.derive(builder.graph())
    ft.check(derivation)
    assert derivation.assumptions == ()
