"""Signs: what flips with which weights, and where Jacobians may be added in square."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import activations, jacobians, random_networks

import fimtheory as ft
from fimtheory import layers
from fimtheory.ensemble import Initial
from fimtheory.strategies import layer_graphs, parameters_of
from fimtheory.symmetry import flips, orthogonal

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


def initial_weights(graph, seed):
    """Weights of the random ensemble, in float64."""
    state = ft.instantiate(graph, seed).state_dict()
    return {key: t.double() if t.dtype.is_floating_point else t for key, t in state.items()}


def flipped(graph, weights, nodes):
    """Flip the random weights of ``nodes``; of attention only the output projection, which is enough."""
    made = dict(weights)
    for key, parameter in parameters_of(graph):
        node = key.removesuffix(f".{parameter.name}") if parameter.name else key
        random = parameter.initial is Initial.WEIGHT or key.endswith("out_proj.weight")
        if node in nodes and random:
            made[key] = -made[key]
    return made


def input_of(graph, seed):
    return torch.randn(graph.shapes[graph.input], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(layer_graphs(), st.integers(0, 1000))
def test_flipping_the_named_layers_flips_the_node(graph, seed):
    weights, x = initial_weights(graph, seed), input_of(graph, seed)
    before = activations(graph, weights, x)
    for name, nodes in flips(graph).items():
        if nodes:
            after = activations(graph, flipped(graph, weights, nodes), x)
            size = 1e-12 * (1 + before[name].abs().max().item())
            assert torch.allclose(after[name], -before[name], rtol=1e-9, atol=size), (name, nodes)


@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(layer_graphs(), st.integers(0, 1000))
def test_orthogonal_nodes_have_a_flip_that_leaves_the_other_alone(graph, seed):
    weights, x = initial_weights(graph, seed), input_of(graph, seed)
    before, found = activations(graph, weights, x), flips(graph)
    for node in graph.nodes:
        if not isinstance(node.layer, layers.Add) or not orthogonal(graph, found, node.inputs):
            continue
        for k, u in enumerate(node.inputs):
            for v in node.inputs[k + 1 :]:
                kept = [
                    torch.equal(activations(graph, flipped(graph, weights, found[a]), x)[b], before[b])
                    for a, b in ((u, v), (v, u))
                    if found[a]
                ]
                assert any(kept), (u, v)


# ---- sums whose terms are not orthogonal ------------------------------------------------------------------------


def build(*nodes):
    """Graph of (name, layer, *inputs) after an input x of four numbers; the last node is the output."""
    builder = ft.Builder("case")
    builder.add("x", layers.Input((4,)))
    for name, layer, *inputs in nodes:
        builder.add(name, layer, *inputs)
    return builder.graph()


W = layers.Linear(4, 4)
DEPENDENT = {
    "the input twice": build(("sum", layers.Add(), "x", "x")),
    "one node twice": build(("u", W, "x"), ("sum", layers.Add(), "u", "u")),
    "a branch that ends in ReLU": build(("u", W, "x"), ("r", layers.ReLU(), "u"), ("sum", layers.Add(), "x", "r")),
    "shared weights upstream": build(
        ("u", W, "x"), ("a", layers.Identity(), "u"), ("b", layers.Tanh(), "u"), ("sum", layers.Add(), "a", "b")
    ),
    "a branch and its own ReLU": build(("u", W, "x"), ("r", layers.ReLU(), "u"), ("sum", layers.Add(), "u", "r")),
    "of three terms one pair": build(
        ("u", W, "x"), ("r", layers.ReLU(), "u"), ("v", W, "x"), ("sum", layers.Add(), "u", "v", "r")
    ),
}
ORTHOGONAL = {
    "a fresh branch": build(("u", W, "x"), ("sum", layers.Add(), "x", "u")),
    "a fresh layer after ReLU": build(
        ("u", W, "x"), ("r", layers.ReLU(), "u"), ("v", W, "r"), ("sum", layers.Add(), "v", "x")
    ),
    "two fresh layers on one node": build(("u", W, "x"), ("v", W, "x"), ("sum", layers.Add(), "u", "v")),
    "a layer and a fresh one after it": build(("u", W, "x"), ("v", W, "u"), ("sum", layers.Add(), "u", "v")),
}


def mean_squares(graph, seeds=400):
    """Mean over seeds of ||J_sum||_F^2 and of the sum of ||J_term||_F^2, and the standard error of the difference."""
    x = torch.tensor([1.0, 0.8, 1.2, 0.9], dtype=torch.float64)
    terms = graph.inputs("sum")
    made = jacobians(graph, random_networks(graph, seeds), x, {*terms, "sum"})
    squares = {name: jac.square().sum((1, 2)) for name, jac in made.items()}
    whole, parts = squares["sum"], sum(squares[name] for name in terms)
    return whole.mean().item(), parts.mean().item(), ((whole - parts).std() / seeds**0.5).item()


@pytest.mark.parametrize("case", DEPENDENT)
def test_dependent_terms_are_not_called_orthogonal(case):
    graph = DEPENDENT[case]
    assert not orthogonal(graph, flips(graph), graph.inputs("sum"))
    whole, parts, error = mean_squares(graph)
    assert whole > parts + 4 * error  # so adding squares would be wrong


@pytest.mark.parametrize("case", ORTHOGONAL)
def test_squares_of_orthogonal_terms_add(case):
    graph = ORTHOGONAL[case]
    assert orthogonal(graph, flips(graph), graph.inputs("sum"))
    whole, parts, error = mean_squares(graph)
    assert abs(whole - parts) < 4 * error


def test_embeddings_and_even_layers_break_symmetry():
    for layer, shape in (
        (layers.ClassToken(4), (3, 4)),
        (layers.PositionEmbedding(3, 4), (3, 4)),
        (layers.Softmax(), (3, 4)),
        (layers.GELU(), (3, 4)),
        (layers.Hardtanh(0.0, 1.0), (3, 4)),
    ):
        builder = ft.Builder("case")
        x = builder.add("x", layers.Input(shape))
        x = builder.add("u", layers.Linear(4, 4), x)
        builder.add("f", layer, x)
        assert flips(builder.graph()) == {"x": frozenset(), "u": {"u"}, "f": frozenset()}


def test_max_pooling_breaks_symmetry_and_averaging_keeps_it():
    for layer, kept in ((layers.MaxPool2d((2, 2), (1, 1)), False), (layers.AvgPool2d((2, 2), (1, 1)), True)):
        builder = ft.Builder("case")
        x = builder.add("x", layers.Input((1, 4, 4)))
        x = builder.add("u", layers.Conv2d(1, 2, (2, 2)), x)
        builder.add("f", layer, x)
        assert bool(flips(builder.graph())["f"]) is kept


def test_joint_flips_of_a_sum_need_every_term():
    graph = build(("u", W, "x"), ("v", W, "u"), ("sum", layers.Add(), "u", "v"))
    found = flips(graph)
    assert nx.ancestors(graph.digraph, "v") >= {"u"}
    assert found["sum"] == frozenset()  # flipping u would flip v as well, flipping both would not flip v
