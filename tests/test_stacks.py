"""Stacks of linear layers that end in the head: which they are, and that nothing exceeds their bound."""

from __future__ import annotations

import dataclasses
import math

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import ascend, log10_lam

import fimtheory as ft
from fimtheory import layers
from fimtheory.stacks import stack_of

L = layers.Linear


def chain(*kinds, shape=(4,)):
    builder = ft.Builder("chain")
    here = builder.add("x", layers.Input(shape))
    for k, layer in enumerate(kinds):
        here = builder.add(f"n{k}", layer, here)
    return builder.graph()


EVERY = {f"n{k}" for k in range(12)} | {"x"}
STACKS = {
    "two layers": ([L(4, 5), layers.ReLU(), L(5, 3)], "x", 3),
    "three layers": ([L(4, 5), layers.ReLU(), L(5, 6), layers.GELU(), L(6, 3)], "x", 5),
    "batch norm": ([L(4, 5), layers.BatchNorm1d(5), layers.ReLU(), layers.Dropout(0.5), L(5, 3)], "x", 5),
    "the last of two": ([L(4, 5), layers.Softmax(), L(5, 6), layers.Tanh(), L(6, 3)], "n1", 3),
    "after a gap": ([L(4, 5), L(5, 5), layers.ReLU(), L(5, 3)], "n0", 3),
}


@pytest.mark.parametrize("name", STACKS)
def test_a_stack_is_found(name):
    kinds, entry, count = STACKS[name]
    graph = chain(*kinds)
    found = stack_of(graph, EVERY)
    assert found is not None
    assert (found.entry, len(found.nodes), found.nodes[-1]) == (entry, count, graph.output)


@pytest.mark.parametrize(
    "kinds",
    [
        [L(4, 3)],
        [L(4, 5), layers.Softmax(), L(5, 3)],
        [layers.ReLU(), L(4, 3)],
        [L(4, 2000), layers.ReLU(), L(2000, 3)],
        [L(4, 5), layers.PReLU(), L(5, 3)],
    ],
)
def test_what_ends_in_no_stack(kinds):
    assert stack_of(chain(*kinds), EVERY) is None


def test_tokens_are_no_stack():
    tokens = chain(L(4, 5), layers.ReLU(), layers.Flatten(), L(10, 3), shape=(2, 4))
    assert stack_of(tokens, EVERY) is None


def test_a_stack_begins_where_a_block_does():
    graph = chain(L(4, 5), layers.ReLU(), L(5, 6), layers.ReLU(), L(6, 3))
    assert stack_of(graph, {"n1"}).entry == "n1"
    assert stack_of(graph, {"n0"}) is None


def test_blocks_before_the_stack_stay_in_the_bound():
    graph = chain(L(4, 6), layers.Softmax(), L(6, 5), layers.ReLU(), L(5, 3))
    derivation = ft.derive(graph)
    ft.check(derivation)
    (smaller,) = derivation.bound.atoms(sympy.Min)
    tail = next(part for part in smaller.args if part.has(derivation.theorem.recursion.symbol))
    first = derivation.lemmas[0].steps[0].claim.measured[0].symbol
    assert tail.has(first if first.is_Symbol else first.base)
    assert "R_W" in str(derivation)


@st.composite
def networks(draw):
    """A perceptron with random widths, activations and batch norms, and its weights."""
    torch.manual_seed(draw(st.integers(0, 2**20)))
    kinds, width = [], draw(st.integers(2, 5))
    shape = (width,)
    for _ in range(draw(st.integers(1, 3))):
        new = draw(st.integers(1, 6))
        kinds.append(L(width, new, bias=draw(st.booleans())))
        if draw(st.booleans()):
            kinds.append(layers.BatchNorm1d(new))
        kinds.append(draw(st.sampled_from([layers.ReLU(), layers.GELU(), layers.SiLU(), layers.Tanh(), layers.Abs(),
                                           layers.LeakyReLU(-0.5), layers.Sigmoid(), layers.ELU(2.0)])))  # fmt: skip
        width = new
    graph = chain(*kinds, L(width, draw(st.integers(2, 4))), shape=shape)
    model = ft.instantiate(graph, seed=draw(st.integers(0, 99))).double()
    scale = draw(st.sampled_from([1e-3, 1.0, 3.0, 1e3]))
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.copy_(torch.rand(value.shape) + 0.1)
            elif value.is_floating_point():
                value.copy_(scale * torch.randn(value.shape, dtype=value.dtype))
    return graph, model


@settings(max_examples=25, deadline=None)
@given(networks())
def test_no_input_of_a_perceptron_exceeds_its_bound(network):
    graph, model = network
    found = ft.evaluate(ft.derive(graph), model)
    generator = torch.Generator().manual_seed(0)
    best = -math.inf
    for scale in (0.01, 1.0, 10.0):
        x = scale * torch.randn(graph.shapes["x"], generator=generator, dtype=torch.float64)
        best = max(best, log10_lam(model, x), ascend(model, x, 5, generator, math.inf)[0])
    assert best <= found.log10 + 1e-9


def test_batch_norms_of_both_signs_are_part_of_the_slopes():
    """The bound is attained where one neuron's scale is negative: with its sign lost it would be exceeded."""
    graph = chain(L(1, 2), layers.BatchNorm1d(2, 1e-12), layers.LeakyReLU(-0.5), L(2, 2), shape=(1,))
    model = ft.instantiate(graph, seed=0).double()
    state = model.state_dict()
    with torch.no_grad():
        for name, value in {
            "n0.weight": [[1.0], [1.0]], "n0.bias": [0.0, 0.0], "n1.weight": [1.0, -1.0], "n1.bias": [0.0, 0.0],
            "n1.running_mean": [0.0, 0.0], "n1.running_var": [1.0, 1.0], "n3.weight": [[1.0, 2.0], [0.0, 0.0]],
            "n3.bias": [0.0, 0.0],
        }.items():  # fmt: skip
            state[name].copy_(torch.tensor(value))
    found = ft.evaluate(ft.derive(graph), model)
    largest = max(log10_lam(model, torch.tensor([x], dtype=torch.float64)) for x in (-1e-9, 1e-9))
    assert largest <= found.log10
    assert found.log10 < largest + 1


def _changed(derivation, **fields):
    return dataclasses.replace(derivation, theorem=dataclasses.replace(derivation.theorem, **fields))


def test_the_kernel_refuses_another_stack():
    derivation = ft.derive(chain(*STACKS["three layers"][0]))
    recursion = derivation.theorem.recursion
    shorter = dataclasses.replace(recursion, nodes=recursion.nodes[2:])
    for changed in (_changed(derivation, recursion=shorter), _changed(derivation, recursion=None)):
        with pytest.raises(ft.errors.CheckError, match="recursion"):
            ft.check(changed)


def test_a_theorem_with_a_stack_is_saved_and_read(tmp_path):
    derivation = ft.derive(chain(*STACKS["batch norm"][0]))
    derivation.save(tmp_path / "proof.json")
    from fimtheory.proof_files import load_derivation

    read = load_derivation(tmp_path / "proof.json")
    assert read == derivation
    ft.check(read)


def test_weights_whose_product_is_beyond_floats_have_a_bound():
    graph = chain(*STACKS["three layers"][0])
    model = ft.instantiate(graph, seed=0).double()
    usual = ft.evaluate(ft.baseline(graph), model).log10
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e200)
    found = ft.evaluate(ft.derive(graph), model)
    assert math.isfinite(found.log10)
    assert 1200 < found.log10 <= usual + 1200 + 1e-6


def test_zero_weights_have_the_bound_zero():
    graph = chain(*STACKS["two layers"][0])
    zero = {key: torch.zeros_like(value) for key, value in ft.instantiate(graph, seed=0).state_dict().items()}
    found = ft.evaluate(ft.derive(graph), zero)
    assert found.value == 0
    assert not any(math.isnan(row.decades) for row in found.rows if row.decades is not None)
