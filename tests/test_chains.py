"""Chains of linear layers inside blocks: which are found, what they claim, and that nothing exceeds them."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import jacobian, norm, single

import fimtheory as ft
from fimtheory import layers
from fimtheory.balls import upper_float
from fimtheory.chains import chain_at
from fimtheory.measures import Place, measured_value

EPS = 1e-4
L = layers.Linear


def graph_of(*nodes, shape):
    builder = ft.Builder("graph")
    builder.add("x", layers.Input(shape))
    for name, layer, *sources in nodes:
        builder.add(name, layer, *sources)
    return builder.graph()


FOUND = {
    "norm and one layer": ([layers.LayerNorm(4), L(4, 3)], ("n0", "n1")),
    "RMS norm": ([layers.RMSNorm(4, EPS), L(4, 3), layers.GELU(), L(3, 4)], ("n0", "n1", "n2", "n3")),
    "no norm": ([L(4, 3), layers.ReLU(), L(3, 4)], ("n0", "n1", "n2")),
    "dropout": ([L(4, 3), layers.SiLU(), layers.Dropout(0.1), L(3, 4)], ("n0", "n1", "n2", "n3")),
    "a norm in between": ([L(4, 4), layers.LayerNorm(4), L(4, 3), layers.ReLU(), L(3, 4)], ("n1", "n2", "n3", "n4")),
    "an activation in front": ([layers.ReLU(), L(4, 3), layers.ReLU(), L(3, 4)], ("n1", "n2", "n3")),
    "three": ([L(4, 4), layers.ReLU(), L(4, 3), layers.Tanh(), L(3, 4)], ("n0", "n1", "n2", "n3", "n4")),
}
UNFIT = {
    "one layer": [L(4, 3)],
    "softmax": [L(4, 3), layers.Softmax(), L(3, 4)],
    "two maps": [L(4, 3), L(3, 4)],
    "an end that is no layer": [L(4, 3), layers.ReLU(), L(3, 4), layers.ReLU()],
    "an activation after the norm": [layers.LayerNorm(4), layers.ReLU(), L(4, 3)],
    "batch norm": [L(4, 3), layers.BatchNorm1d(3), layers.ReLU(), L(3, 4)],
}


def in_a_row(nodes):
    here, made = "x", []
    for number, layer in enumerate(nodes):
        made.append((f"n{number}", layer, here))
        here = f"n{number}"
    return made, here


@pytest.mark.parametrize("name", FOUND)
def test_a_chain_is_found(name):
    nodes, expected = FOUND[name]
    made, end = in_a_row(nodes)
    assert chain_at(graph_of(*made, shape=(4,)), end) == expected


@pytest.mark.parametrize("name", UNFIT)
def test_what_is_no_chain_is_not_taken_for_one(name):
    made, end = in_a_row(UNFIT[name])
    assert chain_at(graph_of(*made, shape=(4,)), end) is None


def test_what_is_read_twice_starts_no_chain():
    graph = graph_of(("n", layers.LayerNorm(4), "x"), ("a", L(4, 4), "n"), ("s", layers.Add(), "n", "a"), shape=(3, 4))
    assert chain_at(graph, "a") is None


def gain_of(nodes, weights):
    made, _ = in_a_row(nodes)
    first = nodes[0].in_features if isinstance(nodes[0], L) else nodes[0].features
    value, method = measured_value(
        "chain gain", Place(tuple(nodes), tuple(weights), (first,), tuple(m[0] for m in made))
    )
    return upper_float(value), method


def normal(generator, *size):
    return torch.randn(size, generator=generator, dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**20), st.sampled_from([layers.ReLU(), layers.GELU(), layers.LeakyReLU(-0.5), layers.Sigmoid()]))
def test_no_slopes_exceed_the_bound(seed, activation):
    """All corners of the box of slopes: a maximum of a convex function is at one."""
    generator = torch.Generator().manual_seed(seed)
    first, second, gamma = normal(generator, 5, 3), normal(generator, 2, 5), 3 * normal(generator, 3)
    if seed % 3 == 0:
        first = normal(generator, 5, 1) * normal(generator, 1, 3)
    centring = torch.eye(3, dtype=torch.float64) - 1 / 3
    bound, _ = gain_of(
        [layers.LayerNorm(3, EPS), L(3, 5), activation, L(5, 2)],
        [{"weight": gamma, "bias": gamma}, {"weight": first}, {}, {"weight": second}],
    )
    low, high = map(float, ft.slopes.slopes_of(activation))
    corners = (torch.tensor(each, dtype=torch.float64) for each in itertools.product((low, high), repeat=5))
    truth = max(norm(second @ torch.diag(corner) @ first @ torch.diag(gamma) @ centring) for corner in corners)
    product = norm(second) * max(-low, high) * norm(first @ torch.diag(gamma) @ centring)
    assert truth <= bound * (1 + 1e-9)
    assert bound <= product * (1 + 1e-6)
    assert bound <= 1.5 * truth + 1e-12


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_wide_chains_are_bounded_two_layers_at_a_time(depth):
    generator = torch.Generator().manual_seed(depth)
    weights = [normal(generator, 300, 300) / 300**0.5 for _ in range(depth)]
    nodes = list(itertools.chain.from_iterable((L(300, 300), layers.ReLU()) for _ in range(depth)))[:-1]
    tensors = [{"weight": weights[k // 2]} if k % 2 == 0 else {} for k in range(2 * depth - 1)]
    bound, method = gain_of(nodes, tensors)
    assert "centred" in method
    made = weights[0]
    for weight in weights[1:]:
        made = weight @ (torch.rand(300, generator=generator, dtype=torch.float64) < 0.9).double().diag() @ made
    assert norm(made) <= bound < 0.9 * math.prod(map(norm, weights))


@pytest.mark.parametrize("size", [1e-160, 1e160])
def test_huge_and_tiny_weights_have_a_bound(size):
    generator = torch.Generator().manual_seed(0)
    first, second = normal(generator, 5, 3), normal(generator, 2, 5)
    nodes = [L(3, 5), layers.ReLU(), L(5, 2)]
    usual, _ = gain_of(nodes, [{"weight": first}, {}, {"weight": second}])
    found, _ = gain_of(nodes, [{"weight": first * size}, {}, {"weight": second / size}])
    assert found == pytest.approx(usual, rel=1e-3)
    assert gain_of(nodes, [{"weight": 0 * first}, {}, {"weight": second}])[0] == 0


# ---- in derivations ---------------------------------------------------------------------------------------------


def encoder(activation=None, norm_layer=None):
    return graph_of(
        ("n", norm_layer or layers.LayerNorm(4, EPS), "x"), ("a", L(4, 6), "n"),
        ("p", activation or layers.GELU(), "a"), ("b", L(6, 4), "p"), ("s", layers.Add(), "x", "b"),
        ("t", layers.SelectToken(0), "s"), ("h", L(4, 3), "t"), shape=(3, 4),
    )  # fmt: skip


def gain_row(found, node):
    return next(row.log10 for row in found.rows if row.target == node and row.rule.startswith("chain"))


@pytest.mark.parametrize("variance", [None, 0.5])
def test_the_kernel_agrees(variance):
    derivation = ft.derive(encoder(), token_variance=variance)
    ft.check(derivation)
    rules = [step.rule for step in derivation.steps]
    assert "chain" in rules
    assert "gain[LayerNorm]" not in rules
    assert bool(derivation.assumptions) == (variance is not None)
    assert "chain" not in {step.rule for step in ft.baseline(encoder()).steps}


def test_a_layer_after_a_norm_attains_its_bound_at_a_constant_token():
    graph = graph_of(
        ("n", layers.LayerNorm(4, EPS), "x"), ("a", L(4, 3), "n"), ("r", layers.ReLU(), "a"), ("h", L(3, 2), "r"),
        shape=(4,),
    )  # fmt: skip
    model = ft.instantiate(graph, seed=3).double()
    with torch.no_grad():
        model.state_dict()["n.weight"].copy_(torch.tensor([3.0, -1.0, 0.5, 2.0]))
    nodes = [layers.LayerNorm(4, EPS), L(4, 3)]
    state = model.state_dict()
    bound, _ = gain_of(nodes, [{"weight": state["n.weight"]}, {"weight": state["a.weight"]}])
    matrix = jacobian(lambda x: next(v for name, v in model.values(x[None]) if name == "a")[0], torch.ones(4).double())
    assert norm(matrix) == pytest.approx(bound / math.sqrt(EPS), rel=1e-6)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**20), st.sampled_from(["layer norm", "RMS norm"]))
def test_no_input_exceeds_the_bound(seed, kind):
    graph = encoder(norm_layer=layers.RMSNorm(4, EPS) if kind == "RMS norm" else None)
    model = ft.instantiate(graph, seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.state_dict().items():
            parameter.copy_(2 * normal(generator, *parameter.shape)) if name.startswith("n.") else None
    gain = 10 ** gain_row(ft.evaluate(ft.derive(graph), model), "b")
    function = single(lambda batch: next(value for name, value in model.values(batch) if name == "b"))
    for scale in (1e-3, 1.0, 1e3):
        x = (scale * math.sqrt(EPS) * normal(generator, 3, 4)).requires_grad_()
        optimiser = torch.optim.Adam([x], lr=0.1 * math.sqrt(EPS))
        for _ in range(15):
            found = torch.linalg.matrix_norm(jacobian(function, x), 2)
            assert found.item() <= gain * (1 + 1e-9)
            optimiser.zero_grad()
            (-found).backward()
            optimiser.step()


MUTATIONS = {
    "another entry": lambda step: dataclasses.replace(step, source="n"),
    "a smaller claim": lambda step: dataclasses.replace(
        step, claim=dataclasses.replace(step.claim, expression=step.claim.expression / 2)
    ),
    "other nodes": lambda step: dataclasses.replace(
        step,
        claim=dataclasses.replace(
            step.claim,
            measured=tuple(dataclasses.replace(m, nodes=m.nodes[1:]) for m in step.claim.measured),
        ),
    ),
    "no assumption": lambda step: dataclasses.replace(step, claim=dataclasses.replace(step.claim, conditions=())),
    "another end": lambda step: dataclasses.replace(step, target="p"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_kernel_refuses_another_step(name):
    derivation = ft.derive(encoder(), token_variance=0.5)
    (position,) = {k for k, lemma in enumerate(derivation.lemmas) if any(s.rule == "chain" for s in lemma.steps)}
    lemma = derivation.lemmas[position]
    steps = tuple(MUTATIONS[name](s) if s.rule == "chain" else s for s in lemma.steps)
    lemmas = list(derivation.lemmas)
    lemmas[position] = dataclasses.replace(lemma, steps=steps)
    with pytest.raises(ft.errors.CheckError):
        ft.check(dataclasses.replace(derivation, lemmas=tuple(lemmas)))


def test_layer_scale_after_a_chain_is_bounded():
    graph = graph_of(
        ("n", layers.LayerNorm(4, EPS), "x"), ("a", L(4, 6), "n"), ("p", layers.GELU(), "a"), ("b", L(6, 4), "p"),
        ("c", layers.MultiplyConstant((4,)), "b"), ("s", layers.Add(), "x", "c"), ("t", layers.SelectToken(0), "s"),
        ("h", L(4, 3), "t"), shape=(3, 4),
    )  # fmt: skip
    derivation = ft.derive(graph)
    ft.check(derivation)
    assert "chain" in {step.rule for step in derivation.steps}
