"""Normalisation layers against their dense Jacobians, and batch norm folded into the layer before it."""

from __future__ import annotations

import math

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_layer import SLACK, claim_of, gain_of, graph_of, module_of, value_of
from oracles import jacobian, norm, single

import fimtheory as ft
from fimtheory import layers
from fimtheory.claims import Quantity, Relation
from fimtheory.errors import ShapeError
from fimtheory.strategies import parameters_of, tensor_in_style
from fimtheory.strategies.windows import normalisation

STYLES = st.sampled_from(["normal", "ones", "signs", "single", "zero", "large"])


def drawn(layer, shape, style, seed=0):
    """Tensors of a layer, in float64, and the module that has them."""
    generator = torch.Generator().manual_seed(seed)
    graph = graph_of(layer, shape=shape)
    weights = {key: tensor_in_style(p, style, generator).double() for key, p in parameters_of(graph)}
    counts = {key: torch.zeros((), dtype=torch.int64) for key in weights if key.endswith("tracked")}
    module = ft.instantiate(graph, weights=weights | counts, dtype=torch.float64)
    return {key.removeprefix("n0."): tensor for key, tensor in weights.items()}, single(module)


def inputs(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    for scale in (0.0, 1e-3, 0.1, 1.0, 30.0):
        yield scale * torch.randn(shape, generator=generator, dtype=torch.float64) + 0.7
        yield scale * torch.randn(shape, generator=generator, dtype=torch.float64)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), STYLES, st.integers(0, 99), st.data())
def test_norms_stay_below_their_gain(shape, style, seed, data):
    layer, shape = data.draw(normalisation(tuple(shape))), tuple(shape)
    tensors, function = drawn(layer, shape, style, seed)
    gain, size = (
        gain_of(layer, shape, tensors),
        max(1.0, max((t.abs().max().item() for t in tensors.values()), default=1)),
    )
    for x in inputs(shape, seed):
        assert norm(jacobian(function, x)) <= gain * (1 + 1e-9) + 1e-11 * max(size, 1.0)


@pytest.mark.parametrize("style", ["normal", "ones", "signs", "single"])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.RMSNorm(1, 0.3), (2, 1)),
        (layers.RMSNorm(5, 1e-5), (2, 5)),
        (layers.LayerNormOver((2, 3), 1e-2), (4, 2, 3)),
        (layers.LayerNormOver((1,), 1e-2), (4, 1)),
        (layers.GroupNorm(2, 6, 1e-3), (6, 2, 2)),
        (layers.GroupNorm(2, 6, 1e-3), (6,)),
        (layers.GroupNorm(6, 6, 1e-3), (6,)),
        (layers.GroupNorm(3, 6, 1e-3, False), (6, 1, 1)),
        (layers.GroupNorm(6, 6, 1e-3), (6, 3)),
        (layers.BatchNorm1d(4, 1e-3), (4,)),
        (layers.BatchNorm3d(2, 1e-3), (2, 2, 1, 2)),
    ],
    ids=repr,
)
def test_exact_gains_are_attained_at_zero(layer, shape, style):
    tensors, function = drawn(layer, shape, style)
    assert claim_of(Quantity.GAIN, layer, shape).relation is Relation.EQ
    truth = norm(jacobian(function, torch.zeros(shape, dtype=torch.float64)))
    assert truth == pytest.approx(gain_of(layer, shape, tensors), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("features", [1, 2, 5])
def test_tokens_of_an_rms_norm(features):
    layer, shape = layers.RMSNorm(features, 1e-3), (3, features)
    tensors, function = drawn(layer, shape, "normal")
    radius = value_of(claim_of(Quantity.TOKEN_NORM, layer, shape), layer, shape, tensors)
    largest = tensors["weight"].abs().argmax()
    x = torch.zeros(shape, dtype=torch.float64)
    x[:, largest] = 1e6  # all of the token in the coordinate of the largest scale
    assert radius * (1 - 1e-9) <= function(x).norm(dim=-1).max() <= radius * SLACK
    floor = sympy.Rational(1, 2)
    claim = claim_of(Quantity.GAIN, layer, shape, token_variance=floor)
    assert "mean square" in claim.conditions[0].statement
    local = value_of(claim, layer, shape, tensors)
    for x in inputs(shape, 1):
        if x.square().mean(-1).min() >= 0.5:
            assert norm(jacobian(function, x)) <= local * SLACK


@pytest.mark.parametrize(
    ("size", "beta", "k"), [(1, 0.75, 1.0), (3, 0.75, 2.0), (5, 3.0, 0.5), (4, 0.5, 1.0), (5, 0.0, 7.0)]
)
def test_local_response_norm_under_search(size, beta, k):
    shape, layer = (6, 1), layers.LocalResponseNorm(size, 1.0, beta, k)
    function, gain = single(module_of(layer, shape=shape)), gain_of(layer, shape)
    generator = torch.Generator().manual_seed(size)
    assert norm(jacobian(function, torch.zeros(shape, dtype=torch.float64))) == pytest.approx(k**-beta)
    best = 0.0
    for start in range(4):
        x = 2.0**start * torch.randn(shape, generator=generator, dtype=torch.float64)
        here, step = norm(jacobian(function, x)), 0.5
        for _ in range(150):  # random ascent
            trial = x + step * torch.randn(shape, generator=generator, dtype=torch.float64)
            found = norm(jacobian(function, trial))
            x, here, step = (trial, found, step * 1.3) if found > here else (x, here, step * 0.9)
        best = max(best, here)
    assert best <= gain * SLACK
    assert gain <= 2.5 * max(best, k**-beta)


def responses(channels, seed):
    """Inputs of shape (channels, 2, 3): of every size, some with one large channel or with zero channels."""
    generator = torch.Generator().manual_seed(seed)
    for power in (-160, -9, -6, -3, 0, 3, 9, 150):
        x = torch.randn(channels, 2, 3, generator=generator, dtype=torch.float64)
        one, rest = torch.zeros_like(x), x.clone()
        one[0], rest[0] = x[0], 0.0
        spread_out = x * torch.logspace(0, -8, channels, dtype=torch.float64)[:, None, None]
        for each in (x, one, rest, one + 1e-3 * x, one + 1e-9 * x, spread_out, x.sign(), torch.zeros_like(x)):
            yield 10.0**power * each


@pytest.mark.parametrize("eps", [1e-6, 1e-2, 1.0])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9])
def test_global_response_norm_on_hard_inputs(channels, eps):
    shape, layer = (channels, 2, 3), layers.GlobalResponseNorm((1, 2), 0, eps)
    function, gain = single(module_of(layer, shape=shape)), gain_of(layer, shape)
    for x in responses(channels, channels):
        assert norm(jacobian(function, x)) <= gain * SLACK
        assert function(x).norm() <= channels * x.norm() * SLACK
        assert (function(x).abs() <= channels * x.abs() * SLACK).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9])
def test_the_gain_of_a_global_response_norm_is_approached_and_not_passed_by_ascent(channels):
    shape, layer = (2, 2, channels), layers.GlobalResponseNorm((0, 1), 2, 0.1)
    function, gain = single(module_of(layer, shape=shape)), gain_of(layer, shape)
    assert claim_of(Quantity.GAIN, layer, shape).relation is Relation.EQ
    generator = torch.Generator().manual_seed(channels)
    best = 0.0
    for start in range(6):  # ascent of the logarithms of the channels' norms, from one large channel and from any
        directions = torch.randn(shape, generator=generator, dtype=torch.float64)
        directions = directions / directions.norm(dim=(0, 1))
        sizes = torch.randn(channels, generator=generator, dtype=torch.float64)
        sizes[0] += 2.0 * start
        sizes.requires_grad_()
        optimiser = torch.optim.Adam([sizes], lr=0.2)
        for _ in range(60):
            optimiser.zero_grad()
            made = torch.func.jacrev(function)(directions * sizes.exp()).reshape(4 * channels, -1)
            found = torch.linalg.matrix_norm(made, 2)
            best = max(best, found.item())
            (-found).backward()
            optimiser.step()
    assert 0.97 * gain <= best <= gain * SLACK
    x = torch.full(shape, 1e-6, dtype=torch.float64)
    x[..., 0] = 1e9
    assert norm(jacobian(function, x)) == pytest.approx(gain, rel=1e-6)


def test_what_lies_along_other_dimensions_is_normalised_by_itself():
    shape, layer = (3, 4, 5), layers.GlobalResponseNorm((2,), 0, 0.1)
    x = torch.randn(shape, dtype=torch.float64)
    found = single(module_of(layer, shape=shape))(x)
    own = single(module_of(layers.GlobalResponseNorm((1,), 0, 0.1), shape=(3, 5)))
    for row in range(4):
        torch.testing.assert_close(found[:, row], own(x[:, row]), rtol=1e-13, atol=0)
    assert norm(jacobian(single(module_of(layer, shape=shape)), x)) <= gain_of(layer, shape) == pytest.approx(3**1.5)


@pytest.mark.parametrize(
    ("first", "second", "shape"),
    [
        (layers.Linear(4, 3), layers.BatchNorm1d(3, 1e-3), (4,)),
        (layers.Linear(4, 3), layers.BatchNorm1d(5, 1e-3), (5, 4)),
        (layers.Linear(4, 3), layers.BatchNorm1d(3, 1e-3), (3, 4)),
        (layers.Conv1d(2, 3, (3,), (2,), (1,)), layers.BatchNorm1d(3, 1e-3), (2, 8)),
        (layers.Conv2d(2, 3, (3, 3), (2, 1), (1, 0)), layers.BatchNorm2d(3, 1e-3), (2, 5, 5)),
        (layers.Conv3d(2, 3, (2, 1, 2)), layers.BatchNorm3d(3, 1e-3), (2, 3, 2, 3)),
        (layers.ConvTranspose1d(2, 4, (3,), (2,), groups=2), layers.BatchNorm1d(4, 1e-3), (2, 8)),
        (layers.ConvTranspose2d(2, 3, (3, 3), (2, 1), (1, 0)), layers.BatchNorm2d(3, 1e-3), (2, 4, 4)),
        (layers.ConvTranspose3d(2, 3, (2, 1, 2), (1, 2, 1)), layers.BatchNorm3d(3, 1e-3), (2, 2, 2, 2)),
    ],
    ids=repr,
)
def test_batch_norm_is_folded_into_the_layer_before_it(first, second, shape):
    generator = torch.Generator().manual_seed(1)
    graph = graph_of(first, second, layers.Flatten(), shape=shape)
    weights = {key: tensor_in_style(p, "normal", generator).double() for key, p in parameters_of(graph)}
    weights["n1.num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
    module = ft.instantiate(graph, weights=weights, dtype=torch.float64)
    truth = norm(jacobian(single(module), torch.randn(shape, dtype=torch.float64)))
    bound = ft.evaluate(ft.derive(graph), module)
    assert f"gain[{type(first).__name__}, {type(second).__name__}]" in bound.rules
    certified = 10 ** ((bound.log10 + math.log10(2)) / 2)
    assert truth * (1 - 1e-9) <= certified <= 1.2 * truth


def test_batch_norm_is_not_folded_into_the_layer_after_it():
    graph = graph_of(layers.BatchNorm2d(2), layers.Conv2d(2, 3, (3, 3)), layers.Flatten(), shape=(2, 5, 5))
    bound = ft.evaluate(ft.derive(graph), ft.instantiate(graph))
    assert {"gain[BatchNorm2d]", "gain[Conv2d]"} <= set(bound.rules)


REFUSED = [
    (layers.BatchNorm1d(4), (4, 2, 2), "expected .channels,. or .channels, length."),
    (layers.BatchNorm3d(4), (4, 2, 2), "expected .channels, depth"),
    (layers.BatchNorm1d(4, 0.0), (4,), "eps is 0.0; expected a number above 0.0"),
    (layers.GroupNorm(2, 5), (5, 2), "2 does not divide the channels 5"),
    (layers.GroupNorm(2, 4, 0.0), (4, 2), "eps is 0.0"),
    (layers.GroupNorm(2, 4), (6, 2), "6 channels in its first dimension, but the layer is for 4"),
    (layers.RMSNorm(4, 0.0), (4,), "eps is 0.0"),
    (layers.RMSNorm(4, 1e-5), (5,), "5 features in its last dimension, but the layer is for 4"),
    (layers.LayerNormOver((2, 3)), (4, 3, 3), "are not .2, 3., which the layer is for"),
    (layers.LayerNormOver((4, 3, 3)), (3, 3), "are not"),
    (layers.LayerNormOver(()), (3, 3), "at least one size"),
    (layers.LayerNormOver((3,), 0.0), (3, 3), "eps is 0.0"),
    (layers.GlobalResponseNorm((0,), 1, 0.0), (3, 3), "eps is 0.0"),
    (layers.GlobalResponseNorm((), 1), (3, 3), "different dimensions"),
    (layers.GlobalResponseNorm((0, 2), 1), (3, 3), "dim is 2; expected 0 to 1"),
    (layers.GlobalResponseNorm((0,), -1), (3, 3), "dim is -1"),
    (layers.GlobalResponseNorm((0, 1), 1), (3, 3), "channel is 1, one of the dims .0, 1.; expected another"),
    (layers.LocalResponseNorm(0), (3, 3), "size is 0"),
    (layers.LocalResponseNorm(3, k=0.0), (3, 3), "k is 0.0"),
    (layers.LocalResponseNorm(3, beta=-1.0), (3, 3), "beta is -1.0"),
    (layers.LocalResponseNorm(3), (3,), "at least two dimensions"),
]


@pytest.mark.parametrize(("layer", "shape", "message"), REFUSED, ids=lambda v: type(v).__name__)
def test_refused_norms(layer, shape, message):
    with pytest.raises(ShapeError, match=message):
        graph_of(layer, shape=shape)
