"""Evaluation on weights: numbers that round up, tables that add up, and weights that are refused."""

from __future__ import annotations

import math
import sys
from fractions import Fraction

import pytest
import sympy
import torch
from closed_forms import VARIABLES, closed_forms
from flint import arb, fmpq
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import fimtheory as ft
from fimtheory import layers
from fimtheory.balls import ball, evaluated, log10_upper, upper_float
from fimtheory.claims import Status
from fimtheory.errors import (
    AssumptionError,
    DataError,
    GraphError,
    MissingRuleError,
    NonFiniteError,
    SymbolicSizeError,
    WeightsError,
)
from fimtheory.expressions import nonnegative, size_symbol
from fimtheory.strategies import layer_graphs, weights_for

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
L = layers.Linear
FLOATS = st.just(0.0) | st.floats(min_value=1e-300, max_value=1e300)  # denormals are flushed in this suite


def chain(*made, shape=(4,)):
    builder = ft.Builder("chain")
    here = builder.add("x", layers.Input(shape))
    for k, layer in enumerate(made):
        here = builder.add(f"n{k}", layer, here)
    return builder.graph()


NET = chain(L(4, 6), layers.GELU(), L(6, 5), layers.ReLU(), L(5, 3))


# ---- balls ------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None, suppress_health_check=QUIET)
@given(closed_forms(depth=3), st.lists(st.fractions(0, 50, max_denominator=40), min_size=3, max_size=3))
def test_balls_hold_the_exact_value(expression, numbers):
    point = {s: sympy.Rational(q.numerator, q.denominator) for s, q in zip(VARIABLES, numbers, strict=True)}
    try:
        found = evaluated(expression, {s: arb(fmpq(q.p, q.q)) for s, q in point.items()})
    except SymbolicSizeError:
        assume(False)
    assume(found.is_finite())
    exact = expression.subs(point).evalf(40, maxn=200)
    assume(exact.is_Float or exact.is_Rational)
    digits = arb(str(exact))
    assert abs(found.mid() - digits) <= found.rad() + digits.rad() + abs(digits) * arb("1e-30") + arb("1e-60")
    assert found.rad() <= abs(found.mid()) * arb("1e-20") + arb("1e-20")


@given(FLOATS, FLOATS)
def test_floats_round_up(a, b):
    product = ball(a) * ball(b)
    exact = Fraction(a) * Fraction(b)
    top = upper_float(product)
    if top is None:
        assert exact > Fraction(1.7e308)
    else:
        assert (
            exact <= Fraction(top) <= max(exact * (1 + Fraction(1, 2**50)), Fraction(sys.float_info.min) * bool(exact))
        )


@given(FLOATS.filter(bool))
def test_logarithms_round_up(a):
    top = log10_upper(ball(a))
    assert (arb(10) ** arb(top)).upper() >= arb(a) * (1 - arb(2) ** -120)
    assert top == pytest.approx(math.log10(a), rel=1e-15, abs=1e-15)


def test_zero_and_numbers_beyond_floats():
    assert log10_upper(ball(0)) == -math.inf
    assert upper_float(ball(0)) == 0.0
    huge = ball(10) ** 1000
    assert upper_float(huge) is None
    assert log10_upper(huge) == pytest.approx(1000)
    tiny = 1 / huge
    assert upper_float(tiny) > 0
    assert log10_upper(tiny) == pytest.approx(-1000)


@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize("multiple", [0, 1, 3, 2**51, 2**52 - 1, 2**52])
def test_denormal_floats_are_read_exactly(flush, multiple):
    for sign in (1, -1):
        bits = multiple if sign == 1 else multiple - 2**63
        value = torch.tensor([bits]).view(torch.float64).item()
        torch.set_flush_denormal(flush)
        try:
            assert ball(value) == arb(fmpq(sign * multiple, 2**1074))
        finally:
            torch.set_flush_denormal(True)


def test_a_symbol_without_a_value_is_named():
    with pytest.raises(SymbolicSizeError, match="q has no value"):
        evaluated(nonnegative("q") + 1, {})
    i, n = sympy.Symbol("i", integer=True, positive=True), size_symbol("n")
    with pytest.raises(SymbolicSizeError, match="runs to n"):
        evaluated(sympy.Product(nonnegative("a", i), (i, 1, n)), {})


# ---- tables -----------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None, suppress_health_check=QUIET)
@given(st.data())
def test_the_decades_of_the_blocks_add_up(data):
    graph = data.draw(layer_graphs())
    weights = data.draw(weights_for(graph, styles=("normal", "large", "orthogonal", "signs")))
    try:
        found = ft.evaluate(ft.derive(graph), weights)
    except NonFiniteError:
        assume(False)
    assert found.status is Status.CERTIFIED
    total = sum(row.decades for row in found.rows if row.decades is not None)
    if "head" not in found.rules:
        total += math.log10(0.5)  # no row of its own
    assert total == found.log10 or total == pytest.approx(found.log10, abs=1e-9)
    assert {row.target for row in found.rows} <= set(graph.order)
    if found.value is not None and found.value > 0:
        assert found.log10 >= math.log10(found.value) - 1e-12


@settings(max_examples=30, deadline=None, suppress_health_check=QUIET)
@given(st.data())
def test_the_bound_is_at_most_the_usual_one(data):
    graph = data.draw(layer_graphs())
    weights = data.draw(weights_for(graph, styles=("normal", "large", "orthogonal", "rank one", "signs")))
    try:
        found, usual = ft.evaluate(ft.derive(graph), weights), ft.evaluate(ft.baseline(graph), weights)
    except NonFiniteError:
        assume(False)
    assert found.log10 <= usual.log10 + 1e-6  # certified norms differ in their last digits


def test_rules_are_counted():
    found = ft.evaluate(ft.derive(NET), ft.instantiate(NET, 0))
    assert found.rules["gain[Linear]"] == 2
    assert found.rules["gain[ReLU]"] == found.rules["gain[GELU]"] == found.rules["head"] == 1


# ---- weights ----------------------------------------------------------------------------------------------------


def test_every_floating_point_type_is_read_exactly():
    derivation, state = ft.derive(NET), ft.instantiate(NET, 0).state_dict()
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        rounded = {key: t.to(dtype) for key, t in state.items()}
        same = {key: t.double() for key, t in rounded.items()}
        assert ft.evaluate(derivation, rounded).log10 == ft.evaluate(derivation, same).log10


def test_a_module_and_its_state_are_the_same():
    module = ft.instantiate(NET, 0)
    derivation = ft.derive(NET)
    assert ft.evaluate(derivation, module).value == ft.evaluate(derivation, module.state_dict()).value
    plain = torch.nn.Sequential()
    for name, child in module.named_children():
        plain.add_module(name, child)
    assert ft.evaluate(derivation, plain).value == ft.evaluate(derivation, module).value


def test_scaling_the_weights_scales_the_bound():
    derivation, state = ft.derive(NET), ft.instantiate(NET, 0, dtype=torch.float64).state_dict()
    base = ft.evaluate(derivation, state)
    for power in (2.0**100, 2.0**-100, 2.0**300):
        scaled = ft.evaluate(derivation, {key: t * power for key, t in state.items()})
        assert scaled.log10 == pytest.approx(base.log10 + 6 * math.log10(power), abs=1e-9)
        assert scaled.expected_log10 == base.expected_log10  # over random weights, not over these
        assert (scaled.value is None) is (scaled.log10 > 308.3)


def test_zero_weights_give_zero():
    found = ft.evaluate(
        ft.derive(NET), {key: torch.zeros_like(t) for key, t in ft.instantiate(NET).state_dict().items()}
    )
    assert (found.log10, found.value) == (-math.inf, 0.0)


@pytest.mark.parametrize("flush", [True, False])
def test_denormal_weights_are_not_taken_for_zero(flush):
    torch.set_flush_denormal(flush)
    try:
        state = ft.instantiate(NET, 0, dtype=torch.float64).state_dict()
        state["n4.weight"] = torch.ones(3, 5, dtype=torch.int64).mul_(3).view(torch.float64)  # 3 * 2^-1074 everywhere
        state["n4.weight"][0] = 0.0
        found = ft.evaluate(ft.derive(NET), state)
        assert found.log10 > -700
    finally:
        torch.set_flush_denormal(True)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda s: s.pop("n0.weight"),
            WeightsError,
            r"node n0: the tensor n0\.weight is missing; expected shape \(6, 4\)",
        ),
        (lambda s: s.update({"n0.weight": torch.ones(4, 6)}), WeightsError, r"n0\.weight has shape \(4, 6\)"),
        (lambda s: s["n2.weight"].fill_(math.nan), NonFiniteError, "NaN|finite"),
        (lambda s: s["n2.weight"].view(-1)[3:4].fill_(math.inf), NonFiniteError, "infinite|finite"),
        (lambda s: s["n4.weight"][1].fill_(-math.inf), NonFiniteError, "infinite|finite"),
        (lambda s: s["n2.weight"].fill_(1.7e308), NonFiniteError, "beyond"),
        (lambda s: s.update({"n0.weight": s["n0.weight"].long()}), WeightsError, r"n0\.weight has type torch\.int64"),
        (lambda s: s.update({"n0.weight": s["n0.weight"].cfloat()}), WeightsError, "has type torch.complex64"),
        (lambda s: s.update({"n0.weight": s["n0.weight"].to_sparse()}), WeightsError, "without dense data"),
        (lambda s: s.update({"n0.weight": s["n0.weight"].to("meta")}), WeightsError, "without dense data"),
        (lambda s: s.update({"n0.weight": s["n0.weight"].tolist()}), WeightsError, "is a list"),
    ],
)
def test_weights_that_do_not_do_are_refused(change, error, message):
    state = ft.instantiate(NET, 0, dtype=torch.float64).state_dict()
    state = {key: t.clone() for key, t in state.items()}
    change(state)
    with pytest.raises(error, match=message):
        ft.evaluate(ft.derive(NET), state)


@pytest.mark.parametrize("model", [None, 3, "model.pt", []])
def test_what_holds_no_weights_is_refused(model):
    with pytest.raises(WeightsError, match="torch module or a state dict"):
        ft.evaluate(ft.derive(NET), model)


def test_the_model_of_another_graph_is_refused():
    other = chain(L(4, 6), layers.LeakyReLU(3.0), L(6, 5), layers.ReLU(), L(5, 3))
    with pytest.raises(GraphError, match="another graph"):
        ft.evaluate(ft.derive(NET), ft.instantiate(other, 0))


def test_symbolic_temperatures_have_no_value():
    derivation = ft.derive(NET, temperature=sympy.Symbol("tau", positive=True))
    with pytest.raises(SymbolicSizeError, match="tau"):
        ft.evaluate(derivation, ft.instantiate(NET, 0))


def test_tokens_that_nothing_bounds_are_an_assumption_without_a_value():
    graph = chain(layers.MultiHeadSelfAttention(4, 2), layers.Flatten(), L(12, 3), shape=(3, 4))
    derivation = ft.derive(graph)
    ft.check(derivation)
    assert len(derivation.assumptions) == 1
    with pytest.raises(AssumptionError, match="layer norm before"):
        ft.evaluate(derivation, ft.instantiate(graph, 0))


def test_an_input_bound_gives_assumed_tokens_a_value():
    graph = chain(layers.MultiHeadSelfAttention(4, 2), layers.Flatten(), L(12, 3), shape=(3, 4))
    derivation, model = ft.derive(graph), ft.instantiate(graph, 0)
    found = ft.evaluate(derivation, model, input_bound=0.5)
    assert found.domain == "inputs with entries at most 0.5 in absolute value"
    (radius,) = (row for row in found.rows if row.rule == "assumption")
    assert radius.log10 == pytest.approx(0, abs=1e-9)  # four entries of at most 1/2
    assert ft.evaluate(derivation, model, input_bound=5.0).log10 > found.log10
    assert ft.evaluate(ft.baseline(graph), model, input_bound=0.5).log10 > found.log10


@pytest.mark.parametrize("bound", [-1.0, math.inf, math.nan])
def test_refused_input_bounds(bound):
    graph = chain(L(4, 3), shape=(4,))
    with pytest.raises(DataError, match="expected a finite number"):
        ft.evaluate(ft.derive(graph), ft.instantiate(graph, 0), input_bound=bound)


def test_a_theorem_without_assumptions_on_values_holds_for_all_inputs():
    graph = chain(layers.LayerNorm(4), L(4, 3), shape=(4,))
    model = ft.instantiate(graph, 0)
    assert ft.evaluate(ft.derive(graph), model, input_bound=1.0).domain == "all inputs"
    found = ft.evaluate(ft.derive(graph, token_variance="1/4"), model)
    assert found.domain == "all inputs, and tokens of variance at least 1/4 into every layer norm"


def test_huge_attention_logits_do_not_overflow():
    graph = chain(layers.LayerNorm(4), layers.MultiHeadSelfAttention(4, 2), layers.Flatten(), L(12, 3), shape=(3, 4))
    state = {key: t * 1e60 for key, t in ft.instantiate(graph, 0, dtype=torch.float64).state_dict().items()}
    found = ft.evaluate(ft.derive(graph), state)
    assert found.value is None or math.isfinite(found.value)
    assert math.isfinite(found.log10)


def test_a_measure_of_ones_own_is_evaluated(own_rules):
    @ft.layer
    class Tripled(layers.Layer):
        """3 x."""

    reference = ft.Reference("fimtheory")
    ft.measure("factor", suffix="f", latex="f", meaning="the factor")

    @ft.rule(Tripled, quantity=ft.Quantity.SHAPE, reference=reference)
    def shape(site):
        return site.inputs[0]

    @ft.rule(Tripled, quantity=ft.Quantity.PARAMETERS, reference=reference)
    def parameters(site):
        return ()

    @ft.rule(Tripled, quantity=ft.Quantity.GAIN, reference=reference)
    def gain(site):
        factor = site.measured("factor")
        return ft.Claim(ft.Relation.LE, factor.symbol, reference, measured=(factor,))

    @ft.rule(Tripled, quantity=ft.Quantity.JACOBIAN_VARIANCE, reference=reference)
    def variance(site):
        return ft.Claim(ft.Relation.LE, sympy.Integer(9), reference, status=Status.EXPECTED)

    graph = chain(Tripled(), L(4, 3))
    derivation = ft.derive(graph)
    ft.check(derivation)
    state = {"n1.weight": torch.eye(3, 4), "n1.bias": torch.zeros(3)}
    with pytest.raises(MissingRuleError, match=r"node n0: .*'factor'.*@ft\.evaluates"):
        ft.evaluate(derivation, state)

    @ft.evaluates("factor")
    def factor(place):
        return ball(3), "known"

    found = ft.evaluate(derivation, state)
    assert found.value == pytest.approx(2 / 4 * 9)
    assert found.rules["known"] == 1


def test_steps_that_many_paths_lead_to_are_visited_once():
    """In a sequence in which every value is the sum of the two before, paths are as many as Fibonacci numbers."""
    builder = ft.Builder("many paths")
    before = builder.add("x", layers.Input((4,)))
    here = builder.add("a", layers.Linear(4, 4), before)
    for k in range(60):
        here, before = builder.add(f"s{k}", layers.Add(), here, before), here
    builder.add("h", layers.Linear(4, 3), here)
    graph = builder.graph()
    found = ft.evaluate(ft.derive(graph), ft.instantiate(graph, seed=0))
    assert len({(row.symbol, row.rule) for row in found.rows}) == len(found.rows)
