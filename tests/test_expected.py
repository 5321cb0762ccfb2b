"""Bounds in the mean over random weights, against Monte Carlo over seeds."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import jacobians, lam_from, outputs, random_networks

import fimtheory as ft
from fimtheory import layers
from fimtheory.claims import Quantity, Status
from fimtheory.registry import rules


def input_of(graph, scale=1.0):
    shape = graph.shapes[graph.input]
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def chain(shape, *made):
    """Graph of layers one after another; a tuple ("+" or "|", ...) is a branch added to, or joined with, its input."""
    builder = ft.Builder("chain")
    here = builder.add("x", layers.Input(shape))

    def extend(here, made, prefix):
        for k, layer in enumerate(made):
            if isinstance(layer, tuple):
                end = extend(here, layer[1:], f"{prefix}{k}_")
                join = layers.Add() if layer[0] == "+" else layers.Concat(0)
                here = builder.add(f"{prefix}{k}", join, here, end)
            else:
                here = builder.add(f"{prefix}{k}", layer, here)
        return here

    extend(here, made, "n")
    return builder.graph()


def growth_bound(graph):
    """The derived bound on E ||J||_F^2 / d: without the head, the expected bound is d / 2 times it."""
    derivation = ft.baseline(graph)
    ft.check(derivation)
    value = ft.evaluate(derivation, ft.instantiate(graph, 0)).expected_value
    dimension, _ = graph.require_classifier()
    return 2 * value / dimension


def growth_found(graph, seeds, scale=1.0):
    """Mean over seeds of ||J||_F^2 / d, and its standard error."""
    x = input_of(graph, scale)
    jac = jacobians(graph, random_networks(graph, seeds), x, [graph.output])[graph.output]
    squares = jac.square().sum((1, 2)) / x.numel()
    return squares.mean().item(), (squares.std() / math.sqrt(seeds)).item()


L = layers.Linear
EXACT = {
    "linear": chain((5,), L(5, 7)),
    "relu": chain((6,), L(6, 4), layers.ReLU(), L(4, 8), layers.ReLU(), L(8, 3)),
    "leaky relu": chain((6,), L(6, 4), layers.LeakyReLU(0.3), L(4, 3)),
    "steep leaky relu": chain((6,), L(6, 4), layers.LeakyReLU(-3.0), L(4, 3)),
    "prelu": chain((6,), L(6, 4), layers.PReLU(4), L(4, 3)),
    "relu after batch norm": chain(
        (2, 3, 3), layers.Conv2d(2, 3, (1, 1)), layers.BatchNorm2d(3, 1e-12), layers.ReLU(), layers.Flatten(), L(27, 3)
    ),
    "pointwise convolution": chain((2, 3, 3), layers.Conv2d(2, 5, (1, 1)), layers.Flatten()),
    "disjoint windows": chain((2, 4, 4), layers.Conv2d(2, 3, (2, 2), (2, 2)), layers.Flatten()),
    "grouped": chain((4, 4, 4), layers.Conv2d(4, 6, (2, 2), (2, 2), groups=2), layers.Flatten()),
    "patches": chain((2, 4, 4), layers.PatchEmbedding(2, 3, 2), layers.Flatten()),
    "residual": chain((5,), ("+", L(5, 6), layers.ReLU(), L(6, 5)), L(5, 3)),
    "two residuals": chain((4,), ("+", L(4, 4)), ("+", L(4, 4), layers.ReLU(), L(4, 4)), L(4, 3)),
    "dense": chain((4,), ("|", L(4, 3)), ("|", L(7, 4), layers.ReLU(), L(4, 2)), L(9, 3)),
}
UPPER = {
    **{
        kind.__name__: chain((6,), L(6, 5), kind(), L(5, 3))
        for kind in (
            layers.GELU, layers.GELUTanh, layers.SiLU, layers.ELU, layers.SELU, layers.CELU, layers.Mish, layers.Tanh,
            layers.Sigmoid, layers.Hardswish, layers.Hardsigmoid, layers.Hardtanh, layers.Softplus, layers.ReLU6,
            layers.Softsign, layers.Softshrink, layers.Tanhshrink, layers.QuickGELU, layers.LogSigmoid, layers.Abs,
            layers.Sin, layers.Cos, layers.Erf, layers.Atan,
        )
    },
    "clamp": chain((6,), L(6, 5), layers.Clamp(0.25), L(5, 3)),
    "constants": chain((2, 3), layers.MatmulConstant((3, 4)), layers.MultiplyConstant((4,)), layers.Flatten(), L(8, 3)),
    "product from the left": chain((2, 3), layers.MatmulConstant((4, 2), before=True), layers.Flatten(), L(12, 3)),
    "copies": chain((2, 3), L(3, 3), layers.IndexSelect(0, (1, 1, 0)), layers.Flatten(), layers.ReLU(), L(9, 3)),
    "mean": chain((4, 3), L(3, 3), layers.Mean((0,)), L(3, 3)),
    "log-sum-exp": chain((4, 3), L(3, 3), layers.LogSumExp((0,)), L(3, 3)),
    "normalised": chain((4,), L(4, 4), layers.L2Normalize(0, 0.5), L(4, 3)),
    "log-softmax": chain((4,), L(4, 4), layers.LogSoftmax(0), L(4, 3)),
    "relu twice": chain((6,), L(6, 5), layers.ReLU(), layers.ReLU(), L(5, 3)),
    "relu on the input": chain((6,), layers.ReLU(), L(6, 3)),
    "gelu after relu": chain((6,), L(6, 5), layers.ReLU(), layers.GELU(), L(5, 3)),
    "padded convolution": chain((2, 4, 4), layers.Conv2d(2, 3, (3, 3), padding=(1, 1)), layers.Flatten()),
    "strided convolution": chain((2, 5, 5), layers.Conv2d(2, 3, (3, 3), (2, 2), (1, 1)), layers.Flatten()),
    "dilated convolution": chain((1, 7, 7), layers.Conv2d(1, 3, (3, 2), (2, 1), (2, 0), (2, 3)), layers.Flatten()),
    "max pool": chain((2, 4, 4), layers.Conv2d(2, 3, (1, 1)), layers.MaxPool2d((3, 3), (1, 1)), layers.Flatten()),
    "pools": chain(
        (2, 4, 4), layers.AvgPool2d((3, 3), (1, 1), (1, 1)), layers.AdaptiveAvgPool2d((3, 5)), layers.Flatten()
    ),
    "layer norm": chain((6,), L(6, 5), layers.LayerNorm(5, 0.5), layers.ReLU(), L(5, 3)),
    "relu branch": chain((4,), ("+", L(4, 4), layers.ReLU()), L(4, 3)),
    "gelu branch": chain((4,), ("+", L(4, 4), layers.GELU()), ("+", layers.Tanh()), L(4, 3)),
    "softmax": chain((4,), L(4, 4), layers.Softmax(0.5), L(4, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_exact_growth_of_the_jacobian(name):
    bound = growth_bound(EXACT[name])
    mean, error = growth_found(EXACT[name], 600)
    assert abs(mean - bound) <= 4 * error + 1e-6 * bound, (mean, error, bound)


@pytest.mark.parametrize("name", UPPER)
def test_growth_of_the_jacobian_is_bounded(name):
    bound = growth_bound(UPPER[name])
    for scale in (0.05, 1.0, 20.0):
        mean, error = growth_found(UPPER[name], 200, scale)
        assert mean - 3 * error <= bound * (1 + 1e-9), (scale, mean, error, bound)


SMALL = {
    "relu": chain((5,), L(5, 8), layers.ReLU(), L(8, 8), layers.ReLU(), L(8, 4)),
    "gelu": chain((5,), L(5, 8), layers.GELU(), L(8, 4)),
    "two classes": chain((3,), L(3, 2)),
    "batch norm": chain(
        (2, 4, 4), layers.Conv2d(2, 4, (3, 3), padding=(1, 1), bias=False), layers.BatchNorm2d(4), layers.ReLU(),
        layers.AdaptiveAvgPool2d((1, 1)), layers.Flatten(), L(4, 3),
    ),
    "residual": chain((4,), ("+", L(4, 4), layers.ReLU(), L(4, 4)), ("+", L(4, 4), layers.ReLU()), L(4, 3)),
    "dense": chain((4,), ("|", L(4, 3)), ("|", L(7, 4), layers.ReLU(), L(4, 2)), L(9, 3)),
    "relu logits": chain((4,), L(4, 5), layers.ReLU()),
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_expected_bound_exceeds_the_mean_of_lam(name):
    graph, seeds = SMALL[name], 300
    derivation = ft.derive(graph)
    bound = ft.evaluate(derivation, ft.instantiate(graph, 0))
    assert bound.expected_status is Status.EXPECTED
    networks = random_networks(graph, seeds)
    for scale in (0.03, 1.0, 10.0):
        x = input_of(graph, scale)
        jac = jacobians(graph, networks, x, [graph.output])[graph.output]
        logits = outputs(graph, networks, x)
        lams = torch.tensor([10 ** lam_from(j, z) for j, z in zip(jac, logits, strict=True)])
        assert lams.mean() - 3 * lams.std() / math.sqrt(seeds) <= bound.expected_value
    assert bound.expected_value < 400 * lams.mean() + 1  # and it is not vacuous


def test_the_factor_of_two_classes_is_attained():
    """K = 2 at p = 1/2: lam = tr F, S_p = C / 2, so the expected bound is an equality."""
    graph = SMALL["two classes"]
    bound = ft.evaluate(ft.derive(graph), ft.instantiate(graph, 0)).expected_value
    x = torch.zeros(3, dtype=torch.float64)  # no bias: p = 1/2 whatever the weights
    networks = random_networks(graph, 2000)
    jac = jacobians(graph, networks, x, [graph.output])[graph.output]
    lams = torch.tensor([10 ** lam_from(j, torch.zeros(2, dtype=torch.float64)) for j in jac])
    assert lams.mean().item() == pytest.approx(bound, abs=4 * lams.std().item() / math.sqrt(2000))


def test_attention_makes_the_expected_bound_heuristic():
    graph = chain((3, 4), layers.LayerNorm(4), layers.MultiHeadSelfAttention(4, 2), layers.Flatten(), L(12, 3))
    derivation = ft.derive(graph)
    assert derivation.theorem.expected_status is Status.HEURISTIC
    assert any("heuristic" in condition.statement for condition in derivation.theorem.expected_assumptions)
    assert not derivation.assumptions  # the worst case does not rest on it
    assert ft.evaluate(derivation, ft.instantiate(graph, 0)).expected_status is Status.HEURISTIC


def test_a_rule_declares_the_status_of_its_claims():
    for rule in rules():
        if rule.quantity is Quantity.JACOBIAN_VARIANCE:
            heuristic = rule.types == (layers.MultiHeadSelfAttention,)
            assert rule.status is (Status.HEURISTIC if heuristic else Status.EXPECTED)


def test_variance_of_tokens_is_an_assumption_of_both_bounds():
    graph = chain((3, 4), layers.LayerNorm(4, 1e-5), layers.Flatten(), L(12, 3))
    free, floored = ft.derive(graph), ft.derive(graph, token_variance=0.5)
    assert not free.assumptions
    assert [c.statement for c in floored.assumptions] == [c.statement for c in floored.theorem.expected_assumptions]
    assert "variance at least" in floored.assumptions[0].statement
    module = ft.instantiate(graph, 0)
    assert ft.evaluate(floored, module).expected_value < ft.evaluate(free, module).expected_value / 1000
