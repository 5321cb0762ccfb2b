"""Softmax and its logarithm over a dimension of choice, against dense Jacobians of torch."""

from __future__ import annotations

import math

import pytest
import torch
from one_layer import SLACK, claim_of, gain_of, module_of, value_of
from oracles import jacobian, norm, single

from fimtheory import layers
from fimtheory.claims import Quantity, Relation

SHAPES = [((4,), 0), ((3, 5), 0), ((3, 5), 1), ((2, 3, 2), 1), ((1,), 0), ((3, 1), 1)]


def points(shape):
    """Random inputs, and inputs where one or two entries along every dimension exceed the others by far."""
    generator = torch.Generator().manual_seed(3)
    for size in (0.0, 0.5, 3.0, 40.0):
        yield size * torch.randn(shape, generator=generator, dtype=torch.float64)
    one, two = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    for dim in range(len(shape)):
        one.select(dim, 0).add_(100)
        two.narrow(dim, 0, min(2, shape[dim])).add_(100)
    yield from (one, two)


@pytest.mark.parametrize("kind", [layers.SoftmaxOver, layers.LogSoftmax], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(("shape", "dim"), SHAPES)
def test_gain_over_a_dimension(kind, shape, dim):
    layer = kind(dim)
    module = single(module_of(layer, shape=shape))
    found = [norm(jacobian(module, x)) for x in points(shape)]
    assert max(found) <= gain_of(layer, shape) * SLACK
    exact = claim_of(Quantity.GAIN, layer, shape).relation is Relation.EQ
    assert exact is (shape[dim] > 1)
    if exact:
        assert max(found) == pytest.approx(gain_of(layer, shape))
    growth = value_of(claim_of(Quantity.JACOBIAN_VARIANCE, layer, shape), layer, shape)
    assert growth == pytest.approx(gain_of(layer, shape) ** 2)


@pytest.mark.parametrize(("shape", "dim"), SHAPES)
def test_both_are_those_of_torch(shape, dim):
    for x in points(shape):
        total = x.exp().sum(dim, keepdim=True)
        p = single(module_of(layers.SoftmaxOver(dim), shape=shape))(x)
        assert torch.allclose(p, x.exp() / total, rtol=1e-12)
        assert torch.allclose(single(module_of(layers.LogSoftmax(dim), shape=shape))(x), x - total.log(), rtol=1e-12)


@pytest.mark.parametrize(("shape", "dim"), SHAPES)
def test_tokens_of_softmax_over_a_dimension(shape, dim):
    layer = layers.SoftmaxOver(dim)
    bound = value_of(claim_of(Quantity.TOKEN_NORM, layer, shape), layer, shape)
    assert bound == pytest.approx(1.0 if dim == len(shape) - 1 else math.sqrt(shape[-1]))
    across = torch.zeros(shape, dtype=torch.float64)
    across.select(dim, 0).add_(100)  # all distributions agree, so one token holds all the probability
    found = single(module_of(layer, shape=shape))(across).norm(dim=-1).max()
    assert found <= bound * SLACK
    assert found == pytest.approx(bound)
