"""Theorems: closed forms against formulas written by hand, and against their own step-by-step evaluation."""

from __future__ import annotations

import math

import pytest
import sympy
import torch
from flint import arb
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from oracles import norm

import fimtheory as ft
from fimtheory import layers
from fimtheory.balls import ball, evaluated, log10_upper
from fimtheory.claims import Quantity, Status
from fimtheory.derivation import body_of, local_nodes
from fimtheory.errors import AssumptionError, NonFiniteError
from fimtheory.expressions import index_symbol, nonnegative, size_symbol
from fimtheory.families.blocks import size_at
from fimtheory.measures import MeasuredGraph, Place, measured_value
from fimtheory.registry import Site, require_rule
from fimtheory.strategies import layer_graphs, weights_for

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


def build(*nodes, shape=(4,)):
    builder = ft.Builder("case")
    builder.add("x", layers.Input(shape))
    for name, layer, *inputs in nodes:
        builder.add(name, layer, *inputs)
    return builder.graph()


def sizes_of(graph, seed=0):
    """A model, the norms of its weights and the row diameter of its head, by plain linear algebra."""
    module = ft.instantiate(graph, seed, dtype=torch.float64)
    state = module.state_dict()
    weights = {key.removesuffix(".weight"): t for key, t in state.items() if key.endswith("weight") and t.dim() > 1}
    norms = {name: norm(weight.flatten(1)) for name, weight in weights.items()}
    head = state[f"{graph.output}.weight"]
    return module, norms, torch.cdist(head, head).max().item()


# ---- formulas by hand -------------------------------------------------------------------------------------------

L = layers.Linear


def perceptron():
    graph = build(
        ("a", L(4, 6), "x"),
        ("r", layers.ReLU(), "a"),
        ("b", L(6, 5), "r"),
        ("g", layers.GELU(), "b"),
        ("h", L(5, 3), "g"),
    )
    gelu = (1 + math.erf(1)) / 2 + math.exp(-1) / math.sqrt(math.pi)
    return graph, lambda n, d: d**2 / 4 * (n["a"] * n["b"] * gelu) ** 2


def residual(activation=None):
    """The slopes of a PReLU depend on its weights, so that nothing is centred and the branch is no chain."""
    graph = build(
        ("a", L(4, 6), "x"),
        ("r", activation or layers.PReLU(1), "a"),
        ("b", L(6, 4), "r"),
        ("s", layers.Add(), "x", "b"),
        ("h", L(4, 3), "s"),
    )
    return graph, lambda n, d: d**2 / 4 * (1 + n["a"] * n["b"]) ** 2


def two_residuals():
    graph = build(
        ("a", L(4, 4), "x"), ("s", layers.Add(), "x", "a"), ("p", layers.LeakyReLU(-3.0), "s"), ("b", L(4, 4), "p"),
        ("c", L(4, 4), "p"), ("t", layers.Add(), "c", "p", "b"), ("h", L(4, 3), "t"),
    )  # fmt: skip
    return graph, lambda n, d: d**2 / 4 * (1 + n["a"]) ** 2 * 9 * (1 + n["b"] + n["c"]) ** 2


def dense():
    graph = build(
        ("a", L(4, 3), "x"), ("j", layers.Concat(0), "x", "a"), ("b", L(7, 2), "j"), ("k", layers.Concat(0), "j", "b"),
        ("h", L(9, 3), "k"),
    )  # fmt: skip
    return graph, lambda n, d: d**2 / 4 * (1 + n["a"] ** 2) * (1 + n["b"] ** 2)


def branches():
    """A shared stem in a region of its own, and a branch that is used twice."""
    graph = build(
        ("a", L(4, 4), "x"), ("b", L(4, 4), "a"), ("s", layers.Add(), "a", "b", "b"), ("j", layers.Concat(0), "s", "a"),
        ("h", L(8, 3), "j"),
    )  # fmt: skip
    return graph, lambda n, d: d**2 / 4 * n["a"] ** 2 * (1 + (1 + 2 * n["b"]) ** 2)


def pooled_convolution():
    graph = build(
        ("a", layers.Conv2d(2, 3, (1, 1)), "x"), ("m", layers.MaxPool2d((3, 3), (2, 2), (1, 1)), "a"),
        ("p", layers.AdaptiveAvgPool2d((1, 1)), "m"), ("f", layers.Flatten(), "p"), ("h", L(3, 4), "f"),
        shape=(2, 9, 9),
    )  # fmt: skip
    return graph, lambda n, d: d**2 / 4 * n["a"] ** 2 * 4 / 25


def product_of(found):
    """Return log10 of the product over the blocks, from which a stack may have taken something."""
    return found.log10 - sum(row.decades for row in found.rows if row.rule == "recursion")


@pytest.mark.parametrize("case", [perceptron, residual, two_residuals, dense, branches, pooled_convolution])
def test_bounds_by_hand(case):
    graph, formula = case()
    derivation = ft.derive(graph)
    ft.check(derivation)
    module, norms, diameter = sizes_of(graph)
    found = ft.evaluate(derivation, module)
    expected = formula(norms, diameter)
    product = 10 ** product_of(found)
    assert expected * (1 - 1e-12) <= product <= expected * (1 + 1e-6)
    assert found.value <= product * (1 + 1e-12)
    assert product_of(found) == pytest.approx(math.log10(expected), abs=1e-6)
    warm = ft.evaluate(ft.derive(graph, temperature=2), module)
    assert warm.value == pytest.approx(found.value / 4)
    assert not derivation.assumptions


def test_the_usual_bound_uses_every_norm_and_one_half():
    graph, _ = perceptron()
    module, norms, _ = sizes_of(graph)
    gelu = (1 + math.erf(1)) / 2 + math.exp(-1) / math.sqrt(math.pi)
    usual = ft.baseline(graph)
    ft.check(usual)
    expected = (norms["a"] * norms["b"] * norms["h"] * gelu) ** 2 / 2
    assert ft.evaluate(usual, module).value == pytest.approx(expected, rel=1e-6)


def test_expected_bounds_by_hand():
    graph, _ = residual(layers.LeakyReLU(0.5))
    found = ft.evaluate(ft.derive(graph), ft.instantiate(graph, 0))
    growth = 1 + (2 * 6 / 4) * (1 + 0.5**2) / 2 * (2 * 4 / 6)
    assert found.expected_value == pytest.approx(0.5 * (1 - 1 / 3) * 4 * (2 * 3 / 4) * growth)
    assert found.expected_status is Status.EXPECTED


def test_logits_that_are_not_linear_get_one_half():
    graph = build(("a", L(4, 3), "x"), ("r", layers.ReLU(), "a"))
    derivation = ft.derive(graph, temperature=sympy.Rational(1, 3))
    ft.check(derivation)
    assert derivation.bound == sympy.Rational(9, 2) * nonnegative("a_a") ** 2


def test_the_smallest_classifiers():
    assert ft.derive(build(("h", L(4, 3), "x"))).bound == nonnegative("D_W") ** 2 / 4
    alone = ft.LayerGraph([ft.Node("x", layers.Input((3,)))])
    assert ft.derive(alone).bound == sympy.Rational(1, 2)
    ft.check(ft.derive(alone))


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "warm", "1/0", None, sympy.Symbol("t"), sympy.I])
def test_temperatures_that_are_not_positive_are_refused(value):
    with pytest.raises(AssumptionError, match="temperature must be a positive"):
        ft.derive(build(("h", L(4, 3), "x")), temperature=value)


def test_floats_mean_the_decimal_that_was_written():
    assert ft.derive(build(("h", L(4, 3), "x")), temperature=0.1).bound == 25 * nonnegative("D_W") ** 2


# ---- blocks of one kind are one lemma ---------------------------------------------------------------------------


def stack(depth, layer, width=4):
    nodes = [ft.Node("x", layers.Input((width,)))]
    here = "x"
    for k in range(depth):
        nodes += [
            ft.Node(f"b{k}.fc", L(width, width), (here,), f"b{k}"),
            ft.Node(f"b{k}.act", layer(k), (f"b{k}.fc",), f"b{k}"),
        ]
        here = f"b{k}.act"
    return ft.LayerGraph([*nodes, ft.Node("h", L(width, 3), (here,))], "stack")


def test_equal_blocks_share_a_lemma_and_others_do_not():
    same = ft.derive(stack(5, lambda k: layers.ReLU()))
    assert [len(lemma.instances) for lemma in same.lemmas] == [5]
    i = index_symbol("i")
    product = nonnegative("D_W") ** 2 / 4 * sympy.Product(nonnegative("a_fc", i) ** 2, (i, 1, 5))
    assert same.bound == sympy.Min(product, nonnegative("R_W") ** 2 / 4)
    mixed = ft.derive(stack(5, lambda k: layers.LeakyReLU(0.1 if k % 2 else 3.0)))
    assert sorted(len(lemma.instances) for lemma in mixed.lemmas) == [2, 3]
    ft.check(mixed)
    module = ft.instantiate(mixed.graph, 0)
    leaky = product_of(ft.evaluate(mixed, module))
    relu = product_of(ft.evaluate(same, module.state_dict()))
    assert leaky - relu == pytest.approx(6 * math.log10(3), abs=1e-9)  # three blocks, gain 3, squared


def test_a_thousand_blocks_in_few_steps():
    derivation = ft.derive(stack(1000, lambda k: layers.ReLU()))
    assert len(derivation.lemmas) == 1
    assert len(derivation.steps) < 10


@pytest.mark.slow
def test_a_thousand_different_blocks(tmp_path):
    """Blocks of different widths and four ReLUs each are checked, saved and read, and multiply to the right bound."""
    graph = stack(1000, lambda k: layers.ReLU() if k % 3 else layers.Tanh())
    derivation = ft.derive(graph)
    ft.check(derivation)
    derivation.save(tmp_path / "deep.json")
    again = ft.load_derivation(tmp_path / "deep.json")
    assert again == derivation
    ft.check(again)
    weights = {key: torch.eye(4) if key.endswith("weight") else torch.zeros(4) for key, _ in keys_of(graph)}
    weights |= {"h.weight": torch.eye(3, 4), "h.bias": torch.zeros(3)}
    assert ft.evaluate(derivation, weights).value == pytest.approx(0.5, rel=1e-3)


def keys_of(graph):
    for name in graph.order:
        layer = graph.layer(name)
        site = Site((layer,), (name,), graph.input_shapes(name), graph.shapes[name])
        for parameter in require_rule(layer, Quantity.PARAMETERS, name).function(site):
            yield f"{name}.{parameter.name}", parameter


def test_powers_of_one_half_survive_a_file(tmp_path):
    """4,000 sigmoids divide the bounds by 16 each time: a fraction of 4,817 digits."""
    nodes, here = [ft.Node("x", layers.Input((4,)))], "x"
    for k in range(4000):
        nodes.append(ft.Node(f"p{k}", layers.Sigmoid(), (here,), f"b{k}"))
        here = f"p{k}"
    graph = ft.LayerGraph([*nodes, ft.Node("h", L(4, 3), (here,))], "deep")
    derivation = ft.derive(graph)
    derivation.save(tmp_path / "deep.json")
    assert ft.load_derivation(tmp_path / "deep.json") == derivation


# ---- closed form = product of the steps -------------------------------------------------------------------------


def measured_values(derivation, weights):
    """Ball of every measured symbol and kept name of the closed form, each instance under its own index."""
    graph, values = derivation.graph, {}

    measures = MeasuredGraph(graph, weights)

    def number(measured, nodes):
        return measures.value(measured.kind, nodes)[0]

    forms = dict(derivation.theorem.definitions)
    for lemma in derivation.lemmas:
        body, index, _ = body_of(graph, lemma)
        for k, instance in enumerate(lemma.instances, start=1):
            names = local_nodes(body, instance)
            at = {} if index is None else {index: sympy.Integer(k)}
            for step in lemma.steps:
                for each in step.claim.measured:
                    values[each.symbol.xreplace(at)] = number(each, tuple(names[m] for m in each.nodes))
            for step in lemma.steps:
                if step.name in forms:
                    values[step.name.xreplace(at)] = evaluated(forms[step.name].xreplace(at), values).abs_upper()
    for each in derivation.theorem.symbols:
        values[each.symbol] = number(each, each.nodes)
    return values


@settings(max_examples=40, deadline=None, suppress_health_check=QUIET)
@given(st.data())
def test_the_closed_form_is_the_product_of_the_steps(data):
    graph = data.draw(layer_graphs())
    weights = data.draw(weights_for(graph, styles=("normal", "large", "rank one", "zero", "tiny")))
    derivation = ft.derive(graph)
    try:
        found = ft.evaluate(derivation, weights)
    except NonFiniteError:
        assume(False)
    values = measured_values(derivation, weights)
    for form, log10 in ((derivation.bound, found.log10), (derivation.expected_bound, found.expected_log10)):
        closed = log10_upper(evaluated(form, values))
        assert closed == log10 or closed == pytest.approx(log10, abs=1e-9)


# ---- families ---------------------------------------------------------------------------------------------------

N, K, T, W, i = size_symbol("N"), size_symbol("K"), size_symbol("T"), size_symbol("w"), index_symbol("i")


def tower(depth, growth):
    body = ft.LayerGraph(
        [
            ft.Node("in", layers.Input((W + growth * (i - 1),))),
            ft.Node("fc", L(W + growth * (i - 1), W + growth * i), ("in",)),
            ft.Node("act", layers.LeakyReLU(-2.0), ("fc",)),
            ft.Node("up", L(W + growth * i, W + growth * i), ("act",)),
            ft.Node("sum", layers.Add(), ("act", "up")),
        ],
        "block",
    )
    return ft.LayerGraph(
        [
            ft.Node("x", layers.Input((W,))),
            ft.Node("tower", ft.Repeat(body, i, depth), ("x",)),
            ft.Node("h", L(W + growth * depth, K), ("tower",)),
        ],
        "tower",
    )


@pytest.mark.parametrize("growth", [0, 2])
def test_one_theorem_for_every_depth(growth):
    """The symbolic theorem at N = 3, with the norms of a concrete network, is that network's bound."""
    family = tower(N, growth)
    theorem = ft.derive(family)
    ft.check(theorem)
    member = family.subs({N: 3, W: 4, K: 3})
    derivation = ft.derive(member)
    ft.check(derivation)
    weights = ft.instantiate(member, 1, dtype=torch.float64)
    found = ft.evaluate(derivation, weights)
    values = {}
    (lemma,) = theorem.lemmas
    for step in lemma.steps:
        for each in step.claim.measured:
            for k in (1, 2, 3):
                names = tuple(f"tower.{k}.{node}" for node in each.nodes)
                place = Place(
                    tuple(member.layer(m) for m in names),
                    tuple({"weight": weights.state_dict()[f"{m}.weight"]} for m in names),
                    member.input_shapes(names[0])[0],
                    names,
                )
                values[each.symbol.xreplace({i: sympy.Integer(k)})] = measured_value(each.kind, place)[0]
    sizes = {N: 3, W: 4, K: 3}
    for measured in theorem.theorem.measured:
        (mine,) = [m for m in derivation.theorem.measured if m.symbol == measured.symbol]
        tensors = {"weight": weights.state_dict()["h.weight"]}
        values[measured.symbol] = measured_value(mine.kind, Place((member.layer("h"),), (tensors,), (0,), ("h",)))[0]
    assert log10_upper(evaluated(theorem.bound.subs(sizes), values)) == pytest.approx(found.log10, abs=1e-9)
    assert log10_upper(evaluated(theorem.expected_bound.subs(sizes), values)) == pytest.approx(
        found.expected_log10, abs=1e-9
    )


@pytest.mark.parametrize("name", ft.families.SYMBOLIC)
def test_every_symbolic_family_is_proved(name):
    derivation = ft.derive(ft.families.SYMBOLIC[name].build())
    ft.check(derivation)
    assert derivation.bound.has(sympy.Product)
    assert not derivation.assumptions


def test_members_of_the_symbolic_perceptron_are_perceptrons():
    sizes = {N: 2, K: 3, size_at("n", 0): 4, size_at("n", 1): 5, size_at("n", 2): 6}
    member = ft.families.SYMBOLIC["MLP"].build().subs(sizes)
    written = ft.families.mlp((5, 6), inputs=4, classes=3)
    module = ft.instantiate(member, 0)
    same = dict(zip(ft.instantiate(written, 0).state_dict(), module.state_dict().values(), strict=True))
    found = ft.evaluate(ft.derive(member), module), ft.evaluate(ft.derive(written), same)
    assert found[0].log10 == found[1].log10
    assert found[0].expected_log10 == found[1].expected_log10


@pytest.mark.slow
@pytest.mark.parametrize("name", ft.families.PRESETS)
def test_every_preset_is_proved(name):
    ft.check(ft.derive(ft.families.PRESETS[name].build()))


def test_balls_hold_the_numbers_they_stand_for():
    assert ball(0.1).contains(arb(0.1))
    assert not ball(0.1).contains(arb(1) / 10)  # a float is the float it is
