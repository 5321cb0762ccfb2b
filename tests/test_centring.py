"""Centred residual blocks in derivations: where they apply, what they claim, and that nothing exceeds them."""

from __future__ import annotations

import dataclasses

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import jacobian, single

import fimtheory as ft
from fimtheory import layers
from fimtheory.centring import branch_at
from fimtheory.slopes import slopes_of


def block(*nodes, shape=(2, 6, 6)):
    builder = ft.Builder("block")
    builder.add("x", layers.Input(shape))
    for name, layer, *sources in nodes:
        builder.add(name, layer, *sources)
    return builder


def conv(inputs, outputs, taps=3, stride=1, padding=1, **more):
    return layers.Conv2d(inputs, outputs, (taps, taps), (stride, stride), (padding, padding), **more)


PLAIN = (
    ("a", conv(2, 3), "x"), ("n", layers.BatchNorm2d(3), "a"), ("r", layers.ReLU(), "n"), ("b", conv(3, 2), "r"),
)  # fmt: skip
STRIDED = (
    ("a", conv(2, 3, stride=2), "x"), ("r", layers.GELU(), "a"), ("b", conv(3, 4), "r"),
    ("p", conv(2, 4, 1, 2, 0), "x"), ("m", layers.BatchNorm2d(4), "p"),
)  # fmt: skip

BOTTLENECK = (
    ("a", conv(2, 2, 1, 1, 0), "x"), ("n", layers.BatchNorm2d(2), "a"), ("r", layers.LeakyReLU(0.25), "n"),
    ("b", conv(2, 4, stride=2, groups=2), "r"), ("t", layers.GELU(), "b"), ("c", conv(4, 5, 1, 1, 0), "t"),
    ("p", conv(2, 5, 1, 2, 0), "x"),
)  # fmt: skip

FOUND = {
    "identity": ((*PLAIN, ("s", layers.Add(), "x", "b")), ((), (("a", "n"), ("b",)), ("r",))),
    "identity last": ((*PLAIN, ("s", layers.Add(), "b", "x")), ((), (("a", "n"), ("b",)), ("r",))),
    "projection": ((*STRIDED, ("s", layers.Add(), "b", "m")), (("p", "m"), (("a",), ("b",)), ("r",))),
    "bottleneck": (
        (*BOTTLENECK, ("s", layers.Add(), "c", "p")),
        (("p",), (("a", "n"), ("b",), ("c",)), ("r", "t")),
    ),
}
UNFIT = {
    "five maps": [
        (f"{letter}{k}", layer) for k in range(4) for letter, layer in (("a", conv(2, 2)), ("r", layers.ReLU()))
    ]
    + [("b", conv(2, 2))],
    "learned slopes": [("a", conv(2, 3)), ("r", layers.PReLU(3)), ("b", conv(3, 2))],
    "dilation": [("a", conv(2, 2, padding=2, dilation=(2, 2))), ("r", layers.ReLU()), ("b", conv(2, 2))],
    "no activation": [("a", conv(2, 2)), ("r", layers.Identity()), ("b", conv(2, 2))],
    "two activations": [("a", conv(2, 2)), ("r", layers.ReLU()), ("t", layers.ReLU()), ("b", conv(2, 2))],
    "one map": [("a", conv(2, 2)), ("r", layers.ReLU())],
}


@pytest.mark.parametrize("name", FOUND)
def test_a_branch_is_found(name):
    nodes, expected = FOUND[name]
    found = branch_at(block(*nodes).graph(), "s")
    assert found is not None
    assert (found.entry, found.shortcut, found.maps, found.activations) == ("x", *expected)


@pytest.mark.parametrize("name", UNFIT)
def test_what_is_no_such_branch_is_not_taken_for_one(name):
    builder, here = block(), "x"
    for node, layer in UNFIT[name]:
        here = builder.add(node, layer, here)
    builder.add("s", layers.Add(), "x", here)
    assert branch_at(builder.graph(), "s") is None


def test_a_claim_has_a_term_for_each_set_of_borders():
    """Slopes [1/4, 1] widened to 0 before the padded map: c = r = 1/2; c = 1/2 and r of GELU's own before the last."""
    graph = classifier(FOUND["bottleneck"][0], 45)
    claim = next(step.claim for step in ft.derive(graph).steps if step.rule == "centred residual")
    norm, first, second, both = (each.symbol for each in claim.measured)
    low, high = slopes_of(layers.GELU())
    radius = (high - low) / 2
    assert sympy.simplify(claim.expression - norm - first / 4 - radius * (second + both) / 2) == 0
    assert [each.nodes for each in claim.measured[1:]] == [
        ("a", "n", "r", "b", "c"), ("a", "n", "b", "t", "c"), ("a", "n", "r", "b", "t", "c"),
    ]  # fmt: skip


def test_terms_of_no_weight_are_left_out():
    """The middle of the sine's slopes is 0, so that every term is cut there."""
    assert slopes_of(layers.Sin()) == (-1, 1)
    builder = block(
        ("a", layers.Linear(4, 4), "x"), ("r", layers.ReLU(), "a"), ("b", layers.Linear(4, 4), "r"),
        ("t", layers.Sin(), "b"), ("c", layers.Linear(4, 4), "t"), ("s", layers.Add(), "x", "c"),
        ("h", layers.Linear(4, 3), "s"), shape=(4,),
    )  # fmt: skip
    claim = next(step.claim for step in ft.derive(builder.graph()).steps if step.rule == "centred residual")
    norm, one, both = (each.symbol for each in claim.measured)
    assert claim.expression == norm + one / 2 + both / 2
    assert ["t" in each.nodes for each in claim.measured[1:]] == [True, True]


def test_slopes_are_numbers():
    assert slopes_of(layers.ReLU()) == (0, 1)
    assert slopes_of(layers.LeakyReLU(0.5)) == (sympy.Rational(1, 2), 1)
    assert slopes_of(layers.Conv2d(1, 1, (1, 1))) is None
    low, high = slopes_of(layers.GELU())
    assert low + high == 1


def classifier(nodes, features):
    builder = block(*nodes)
    builder.add("f", layers.Flatten(), "s")
    builder.add("h", layers.Linear(features, 3), "f")
    return builder.graph()


GRAPHS = {
    "identity": lambda: classifier(FOUND["identity"][0], 72),
    "projection": lambda: classifier(FOUND["projection"][0], 36),
    "bottleneck": lambda: classifier(FOUND["bottleneck"][0], 45),
}


def linear_block():
    builder = block(
        ("a", layers.Linear(4, 5), "x"), ("n", layers.BatchNorm1d(5), "a"), ("r", layers.SiLU(), "n"),
        ("b", layers.Linear(5, 4), "r"), ("s", layers.Add(), "x", "b"), ("h", layers.Linear(4, 3), "s"), shape=(4,),
    )  # fmt: skip
    return builder.graph()


GRAPHS["linear"] = linear_block


@pytest.mark.parametrize("name", GRAPHS)
def test_the_smaller_bound_is_taken_and_the_kernel_agrees(name):
    graph = GRAPHS[name]()
    derivation = ft.derive(graph)
    ft.check(derivation)
    rules = [step.rule for step in derivation.steps]
    assert {"sum", "centred residual", "minimum"} <= set(rules)
    assert derivation.bound.has(sympy.Min)
    found = ft.evaluate(derivation, ft.instantiate(graph, seed=1))
    by_rule = {row.rule.partition(" (")[0]: row.log10 for row in found.rows}
    assert by_rule["minimum"] == min(by_rule["sum"], by_rule["centred residual"])
    assert by_rule["minimum"] < by_rule["sum"]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(list(GRAPHS)), st.integers(0, 2**20), st.sampled_from([0.3, 1.0, 5.0]))
def test_no_jacobian_of_a_block_exceeds_its_bound(name, seed, scale):
    graph = GRAPHS[name]()
    model = ft.instantiate(graph, seed=seed).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    derivation = ft.derive(graph)
    found = ft.evaluate(derivation, model)
    gain = next(row.log10 for row in found.rows if row.rule.startswith("minimum"))
    values = {}
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        x = 3 * torch.randn(graph.shapes["x"], generator=generator, dtype=torch.float64)
        values = jacobian(single(_until(model, "s")), x)
        assert torch.linalg.matrix_norm(values, 2) <= 10**gain * (1 + 1e-9)


def _until(model, node):
    """The values of one node as a function of a batch."""
    return lambda batch: next(value for name, value in model.values(batch) if name == node)


MUTATIONS = {
    "another entry": lambda step: dataclasses.replace(step, source="a"),
    "another claim": lambda step: dataclasses.replace(
        step, claim=dataclasses.replace(step.claim, expression=step.claim.expression / 2)
    ),
    "other nodes": lambda step: dataclasses.replace(
        step,
        claim=dataclasses.replace(
            step.claim, measured=tuple(dataclasses.replace(m, nodes=m.nodes[::-1]) for m in step.claim.measured)
        ),
    ),
    "a premise": lambda step: dataclasses.replace(step, premises=(0,)),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_kernel_refuses_a_changed_step(name):
    derivation = ft.derive(GRAPHS["identity"]())
    (lemma,) = derivation.lemmas
    steps = tuple(MUTATIONS[name](s) if s.rule == "centred residual" else s for s in lemma.steps)
    changed = dataclasses.replace(derivation, lemmas=(dataclasses.replace(lemma, steps=steps),))
    with pytest.raises(ft.errors.CheckError, match=r"centred|follows|no sum|not follow|new name"):
        ft.check(changed)


def test_the_kernel_refuses_a_minimum_of_bounds_on_different_maps():
    derivation = ft.derive(GRAPHS["identity"]())
    (lemma,) = derivation.lemmas
    inner = next(k for k, step in enumerate(lemma.steps) if step.target == "b")
    steps = list(lemma.steps)
    at = next(k for k, step in enumerate(steps) if step.rule == "minimum")
    premises = (*steps[at].premises, inner)
    claim = dataclasses.replace(steps[at].claim, expression=sympy.Min(*(steps[p].name for p in premises)))
    steps[at] = dataclasses.replace(steps[at], premises=premises, claim=claim)
    changed = dataclasses.replace(derivation, lemmas=(dataclasses.replace(lemma, steps=tuple(steps)),))
    with pytest.raises(ft.errors.CheckError, match="do not all bound"):
        ft.check(changed)


def test_weights_whose_product_is_beyond_floats_have_a_bound():
    graph = GRAPHS["identity"]()
    model = ft.instantiate(graph, seed=0).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("a.", "b.")):
                parameter.mul_(1e200)
    found = ft.evaluate(ft.derive(graph), model)
    assert 790 < found.log10 < 810
