"""Attention after a norm, and linear maps after one: nothing exceeds the bounds of the runs, found by ascent."""

from __future__ import annotations

import math

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_layer import SLACK
from oracles import jacobian, norm, single

import fimtheory as ft
from fimtheory import layers
from fimtheory.balls import evaluated
from fimtheory.claims import Quantity
from fimtheory.measures import MeasuredGraph
from fimtheory.registry import find_rule

EPS = 1e-4


def graph_of(kind, tokens, dim, heads, bias=True):
    builder = ft.Builder("attention")
    builder.add("x", layers.Input((tokens, dim)))
    builder.add("n", kind(dim, EPS), "x")
    builder.add("a", layers.MultiHeadSelfAttention(dim, heads, bias), "n")
    return builder.graph()


def bound_of(graph, weights, variance=None):
    nodes = ("n", "a")
    run = tuple(graph.layer(name) for name in nodes)
    claim = find_rule(tuple(map(type, run)), Quantity.GAIN).claim(
        ft.Site(run, nodes, graph.input_shapes("n"), graph.shapes["a"], token_variance=variance)
    )
    measures = MeasuredGraph(graph, weights)
    values = {m.symbol: measures.value(m.kind, m.nodes)[0] for m in claim.measured}
    return float(evaluated(claim.expression, values).abs_upper())


def truth_of(graph, weights, x):
    return norm(jacobian(single(ft.instantiate(graph, weights=weights, dtype=torch.float64)), x))


def drawn(graph, style, seed):
    """Weights of the norm and of attention; in most styles something is large, zero or of rank one."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    layer = graph.layer("a")
    dim = layer.dim
    made = {
        "n.weight": 1 + 0.5 * normal(dim), "a.in_proj_weight": 0.5 * normal(3 * dim, dim),
        "a.out_proj.weight": normal(dim, dim),
    }  # fmt: skip
    if isinstance(graph.layer("n"), layers.LayerNorm):
        made["n.bias"] = normal(dim)
    if layer.bias:
        made |= {"a.in_proj_bias": normal(3 * dim), "a.out_proj.bias": normal(dim)}
    if style == "large scale":
        made["n.weight"] = 5 * normal(dim)
    if style == "large shift" and "n.bias" in made:
        made["n.bias"] = 20 * normal(dim)
    if style == "rank one":
        made["a.in_proj_weight"] = normal(3 * dim, 1) * normal(1, dim)
    if style == "no logits":
        made["a.in_proj_weight"][: 2 * dim] = 0
    if style == "one head":
        made["a.in_proj_weight"].view(3, layer.heads, -1, dim)[:, 1:] *= 1e-3
    return made


STYLES = ("plain", "large scale", "large shift", "rank one", "no logits", "one head")


def starts(tokens, dim, generator):
    """Tokens near constant, where the norm is steepest, on the way out, opposite to one another, and mixed."""
    root = math.sqrt(EPS)

    def normal(*size):
        return root * torch.randn(size, generator=generator, dtype=torch.float64)

    signs = torch.tensor([1.0, -1.0]).repeat(tokens)[:tokens, None]
    sizes = torch.tensor([1e-3, 1.0, 1e3]).repeat(tokens)[:tokens, None]
    return [0.01 * normal(tokens, dim), normal(tokens, dim), signs * normal(1, dim), sizes * normal(tokens, dim)]


def ascended(graph, weights, x, steps):
    function = single(ft.instantiate(graph, weights=weights, dtype=torch.float64))
    x = x.clone().requires_grad_()
    optimiser = torch.optim.Adam([x], lr=0.1 * math.sqrt(EPS))
    best = 0.0
    for _ in range(steps):
        found = torch.linalg.matrix_norm(jacobian(function, x), 2)
        best = max(best, found.item())
        optimiser.zero_grad()
        (-found.log()).backward()
        optimiser.step()
    return best


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("kind", "tokens", "heads", "size", "bias"),
    [
        (layers.LayerNorm, 1, 1, 2, True), (layers.LayerNorm, 2, 2, 1, True), (layers.LayerNorm, 5, 3, 1, False),
        (layers.LayerNorm, 3, 1, 3, True), (layers.RMSNorm, 2, 4, 1, True), (layers.RMSNorm, 5, 1, 2, False),
    ],
)  # fmt: skip
def test_no_input_exceeds_the_bound(kind, tokens, heads, size, bias, style):
    graph = graph_of(kind, tokens, heads * size, heads, bias)
    seed = STYLES.index(style) + 7 * tokens
    weights = drawn(graph, style, seed)
    bound = bound_of(graph, weights)
    generator = torch.Generator().manual_seed(seed)
    for x in starts(tokens, heads * size, generator):
        assert ascended(graph, weights, x, 25) <= bound * SLACK


def test_many_queries_attain_the_part_of_the_keys():
    """Queries far out look at two keys on the way out, at +-w / sqrt(2): a quarter of the product of the suprema."""
    tokens, strength, root = 66, 30.0, math.sqrt(EPS)
    graph = graph_of(layers.RMSNorm, tokens, 2, 1, bias=False)
    eye = torch.eye(2, dtype=torch.float64)
    query = math.sqrt(2) * torch.diag(torch.tensor([-strength, 0.0], dtype=torch.float64))
    weights = {
        "n.weight": torch.ones(2, dtype=torch.float64), "a.in_proj_weight": torch.cat([query, eye, eye]),
        "a.out_proj.weight": eye,
    }  # fmt: skip
    x = torch.tensor([[1e3 * root, 0.0]], dtype=torch.float64).repeat(tokens, 1)
    key = math.sqrt(2) * root  # its mean square is eps, so that it is normalised to half the square of the radius
    x[0], x[1] = torch.tensor([0.0, key]), torch.tensor([0.0, -key])
    assert 0.7 * bound_of(graph, weights) < truth_of(graph, weights, x) <= bound_of(graph, weights)


def test_a_token_at_rest_attains_the_part_of_the_query():
    """A constant token whose query bias is zero looks at two opposite tokens far out."""
    root = math.sqrt(EPS)
    graph = graph_of(layers.LayerNorm, 3, 4, 1, bias=False)
    eye = torch.eye(4, dtype=torch.float64)
    weights = {
        "n.weight": torch.ones(4, dtype=torch.float64), "n.bias": torch.zeros(4, dtype=torch.float64),
        "a.in_proj_weight": torch.cat([400 * eye, eye, eye]), "a.out_proj.weight": eye,
    }  # fmt: skip
    far = 1e4 * root * torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    x = torch.stack([0 * far, far, -far])
    assert 0.25 * bound_of(graph, weights) < truth_of(graph, weights, x) <= bound_of(graph, weights)


def test_values_alone_are_exact():
    """One token: attention is W_O W_V diag(gamma) P, up to what is constant, and its norm is that of the factors."""
    graph = graph_of(layers.LayerNorm, 1, 3, 1)
    weights = drawn(graph, "no logits", 3)
    weights["a.out_proj.weight"] = torch.eye(3, dtype=torch.float64)
    weights["a.in_proj_bias"][:6] = 0
    x = torch.ones(1, 3, dtype=torch.float64)
    assert truth_of(graph, weights, x) == pytest.approx(bound_of(graph, weights), rel=1e-6)


def test_the_shift_enters_the_query():
    """Queries that nothing but beta moves: the logits' gradient is W_K^T W_Q beta."""
    graph = graph_of(layers.LayerNorm, 2, 3, 1, bias=False)
    eye = torch.eye(3, dtype=torch.float64)
    query, key = torch.zeros(2, 3, 3, dtype=torch.float64)
    query[0], key[0] = (
        torch.ones(3),
        torch.tensor([1.0, 1.0, -2.0]),
    )  # centring removes (1, 1, 1)
    weights = {
        "n.weight": torch.ones(3, dtype=torch.float64), "n.bias": torch.full((3,), 10.0, dtype=torch.float64),
        "a.in_proj_weight": torch.cat([query, key, eye]), "a.out_proj.weight": eye,
    }  # fmt: skip
    x = math.sqrt(1.5 * EPS) * torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]], dtype=torch.float64)
    nothing = {**weights, "n.bias": torch.zeros(3, dtype=torch.float64)}
    truth = truth_of(graph, weights, x)
    assert 10 * bound_of(graph, nothing) < truth
    assert 0.9 * bound_of(graph, weights) < truth <= bound_of(graph, weights)


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1e30, 1e75])
def test_the_bound_scales_with_huge_and_tiny_weights(scale):
    graph = graph_of(layers.LayerNorm, 3, 4, 2, bias=False)
    weights = drawn(graph, "plain", 5)
    usual = bound_of(graph, weights)
    scaled = dict(weights)
    scaled["a.out_proj.weight"] = weights["a.out_proj.weight"] * scale
    assert bound_of(graph, scaled) == pytest.approx(usual * scale, rel=1e-6)
    balanced = dict(weights)
    balanced["a.in_proj_weight"] = weights["a.in_proj_weight"].clone()
    balanced["a.in_proj_weight"][:4] *= scale
    balanced["a.in_proj_weight"][4:8] /= scale
    assert bound_of(graph, balanced) == pytest.approx(usual, rel=1e-3)


def test_a_least_variance_shrinks_every_part():
    graph = graph_of(layers.LayerNorm, 3, 4, 2)
    weights = drawn(graph, "plain", 2)
    without, little, much = (bound_of(graph, weights, v) for v in (None, sympy.Rational("1e-6"), sympy.Integer(1)))
    assert little < without
    assert 1 / 101 < much / without < 1 / 49


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 100), st.integers(-100, 100)), min_size=1, max_size=6))
def test_far_out_and_sensitive_exclude_each_other(pairs):
    """The inequality of the proof, where it is sharp: +-1/sqrt(2) with probability 1/2 each."""
    p = torch.tensor([share for share, _ in pairs], dtype=torch.float64)
    p, z = p / p.sum(), torch.tensor([place for _, place in pairs], dtype=torch.float64) / 100
    part = p.square() * (1 - z.square()) * (z - (p * z).sum()).square()
    assert part.sum() <= min(0.5, float(p.max())) / 4 * (1 + 1e-12)
