"""Reductions and division by the norm, against torch and dense Jacobians."""

from __future__ import annotations

import math

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_layer import SLACK, claim_of, gain_of, module_of, site_of, value_of
from oracles import jacobian, norm, single

from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.errors import ShapeError
from fimtheory.expressions import size_symbol
from fimtheory.strategies import reduction

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


def groups_of(layer, shape):
    """Flat indices of the entries that one output is made of, group by group."""
    dims = layer.dims if hasattr(layer, "dims") else (layer.dim,)
    rest = [d for d in range(len(shape)) if d not in dims]
    flat = torch.arange(math.prod(shape)).reshape(shape)
    return flat.permute(*rest, *dims).reshape(-1, math.prod(shape[d] for d in dims))


REDUCTIONS = {
    layers.Mean: lambda group: sum(group) / len(group),
    layers.Sum: sum,
    layers.Amax: max,
    layers.LogSumExp: lambda group: torch.stack([v.exp() for v in group]).sum().log(),
}


@settings(deadline=None)
@given(st.data(), st.integers(0, 1000))
def test_reductions_compute_what_they_say(data, seed):
    shape = data.draw(SHAPES)
    layer = data.draw(reduction(shape))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = single(module_of(layer, shape=shape))(x)
    assert tuple(found.shape) == site_of(layer, shape).output
    groups = [x.flatten()[group] for group in groups_of(layer, shape)]
    if isinstance(layer, layers.L2Normalize):
        expected = torch.empty(x.numel(), dtype=torch.float64)
        for index, group in zip(groups_of(layer, shape), groups, strict=True):
            expected[index] = group / max(math.sqrt(sum(v * v for v in group.tolist())), layer.eps)
    else:
        expected = torch.stack([REDUCTIONS[type(layer)](list(group)) for group in groups])
    assert torch.allclose(found.flatten(), expected, rtol=1e-12, atol=1e-14)


@settings(deadline=None)
@given(st.data(), st.integers(0, 1000), st.sampled_from([0.0, 1e-3, 1.0, 50.0]))
def test_no_jacobian_exceeds_the_gain_of_a_reduction(data, seed, size):
    shape = data.draw(SHAPES)
    layer = data.draw(reduction(shape))
    x = size * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found, gain = norm(jacobian(single(module_of(layer, shape=shape)), x)), gain_of(layer, shape)
    assert found <= gain * SLACK
    growth = value_of(claim_of(Quantity.JACOBIAN_VARIANCE, layer, shape), layer, shape)
    assert growth == pytest.approx(gain**2)


@pytest.mark.parametrize("kind", REDUCTIONS, ids=lambda kind: kind.__name__)
def test_gains_of_reductions_are_attained(kind):
    layer, shape = kind((0, 2)), (2, 3, 4)
    x = torch.zeros(shape, dtype=torch.float64)
    x[1, :, 2] = 60.0  # one entry of each group exceeds the others
    assert norm(jacobian(single(module_of(layer, shape=shape)), x)) == pytest.approx(gain_of(layer, shape), rel=1e-12)


@pytest.mark.parametrize("eps", [1e-12, 0.3, 5.0])
def test_l2_normalize(eps):
    for dim, shape in ((0, (4,)), (1, (3, 5)), (0, (3, 5))):
        layer = layers.L2Normalize(dim, eps)
        module, gain = module_of(layer, shape=shape), gain_of(layer, shape)
        inside = torch.full(shape, eps / 10, dtype=torch.float64)
        assert norm(jacobian(single(module), inside)) == pytest.approx(gain)
        bound = value_of(claim_of(Quantity.TOKEN_NORM, layer, shape), layer, shape)
        assert bound == pytest.approx(1.0 if dim == len(shape) - 1 else math.sqrt(shape[-1]))
        equal = single(module)(torch.full(shape, 7 * eps, dtype=torch.float64)[:1].expand(shape))
        single_row = torch.zeros(shape, dtype=torch.float64)
        single_row[0] = 9 * eps
        for values in (equal, single(module)(single_row)):
            assert values.norm(dim=-1).max() <= bound * SLACK
        assert single(module)(single_row).norm(dim=-1).max() == pytest.approx(bound)


def test_differences_of_l2_normalize_never_exceed_its_gain():
    """Across the sphere of radius eps too, where the Jacobian jumps."""
    layer = layers.L2Normalize(0, 0.5)
    module = single(module_of(layer, shape=(3,)))
    points = torch.randn(2000, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    values = torch.stack([module(x) for x in points])
    ratio = torch.pdist(values) / torch.pdist(points)
    assert 1.9 < ratio.max() <= gain_of(layer, (3,))


REFUSED = [
    (layers.Mean((0,)), (3,), "set keepdim=True"),
    (layers.Sum((0, 1)), (3, 2), "set keepdim=True"),
    (layers.Amax(()), (3, 2), "different dimensions"),
    (layers.LogSumExp((2,)), (3, 2), "dim is 2; expected 0 to 1"),
    (layers.Mean((-1,)), (3, 2), "dim is -1"),
    (layers.Sum((0, 0)), (3, 2), "different dimensions"),
    (layers.L2Normalize(1), (3,), "dim is 1"),
    (layers.L2Normalize(0, 0.0), (3,), "eps is 0.0; expected a number above 0"),
]


@pytest.mark.parametrize(("layer", "shape", "message"), REFUSED, ids=repr)
def test_refused_reductions(layer, shape, message):
    with pytest.raises(ShapeError, match=message):
        site_of(layer, shape)


def test_reductions_of_symbolic_sizes():
    n, c = size_symbol("n"), size_symbol("c")
    assert site_of(layers.Mean((1,)), (c, n)).output == (c,)
    assert claim_of(Quantity.GAIN, layers.Mean((1,)), (c, n)).expression == 1 / sympy.sqrt(n)


def test_log_sum_exp_has_its_derivative_where_its_value_rounds_log_n_away():
    layer = layers.LogSumExp((0,))
    module = module_of(layer, shape=(2, 3))
    x = torch.full((1, 2, 3), 1e40, dtype=torch.float64, requires_grad=True)
    value = module(x)
    assert value.tolist() == torch.logsumexp(x, 1).tolist()
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert slope.unique().tolist() == [0.5]
