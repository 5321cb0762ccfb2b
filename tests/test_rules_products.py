"""Products of values that depend on the data, against dense Jacobians: gates, matrix products, attention on q, k, v."""

from __future__ import annotations

import math

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_layer import SLACK
from oracles import jacobian, norm
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel

import fimtheory as ft
import fimtheory.forward
from fimtheory import layers
from fimtheory.balls import ball, evaluated
from fimtheory.claims import Quantity
from fimtheory.errors import ShapeError, WeightsError
from fimtheory.expressions import nonnegative, size_symbol
from fimtheory.monotone import Direction, direction
from fimtheory.registry import find_rule
from fimtheory.strategies import product_layers

SIZE = {
    Quantity.ENTRY_BOUND: lambda x: x.abs().max(),
    Quantity.TOKEN_NORM: lambda x: x.norm(dim=-1).max(),
    Quantity.NORM_BOUND: lambda x: x.norm(),
}
"""The tightest premises: bounds that the inputs attain."""


def claim_of(layer, shapes):
    """The claim about the gain, with fresh symbols for what it rests on."""
    found = find_rule((type(layer),), Quantity.GAIN)
    premises = tuple(nonnegative(f"p{k}") for k in range(len(found.needs)))
    gains = tuple(nonnegative(f"L{k}") for k in range(len(shapes)))
    site = ft.Site.of(layer, inputs=tuple(shapes), premises=premises, gains=gains)
    return found.function(site), found.needs, premises, gains


def bound_at(layer, inputs, gains):
    """Value of the rule's bound where it knows of the inputs exactly how large they are."""
    claim, needs, premises, symbols = claim_of(layer, [tuple(x.shape) for x in inputs])
    known = {p: SIZE[n.quantity](inputs[n.slot]).item() for p, n in zip(premises, needs, strict=True)}
    known |= dict(zip(symbols, gains, strict=True))
    return float(evaluated(claim.expression, {s: ball(v) for s, v in known.items()}).abs_upper())


def function_of(layer, inputs, tensors=None):
    shapes = tuple(tuple(x.shape) for x in inputs)
    rule = find_rule((type(layer),), Quantity.FORWARD)
    forward = rule.function(ft.Site.of(layer, inputs=shapes))
    return lambda *values: forward(tensors or {}, *(v[None] for v in values))[0]


def jacobian_along(layer, inputs, maps, tensors=None):
    """Dense Jacobian where every input is an affine function of one common node, by its matrix in ``maps``."""
    function = function_of(layer, inputs, tensors)

    def along(u):
        return function(*(x + (m @ u).reshape(x.shape) for x, m in zip(inputs, maps, strict=True)))

    return jacobian(along, torch.zeros(maps[0].shape[1], dtype=torch.float64))


# ---- against dense Jacobians ------------------------------------------------------------------------------------


@st.composite
def values_of(draw, shapes):
    """Inputs of several styles and sizes: where the bounds are nearly attained, too."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    made = []
    for shape in shapes:
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        match draw(st.sampled_from(["normal", "signs", "equal", "one row", "zero"])):
            case "signs":
                x = x.sign()
            case "equal":
                x = torch.ones(shape, dtype=torch.float64)
            case "one row":
                x = x[..., :1, :].expand(shape) if len(shape) > 1 else x
            case "zero":
                x = torch.zeros(shape, dtype=torch.float64)
        made.append(x * draw(st.sampled_from([1.0, 0.1, 5.0, 100.0])))
    return made


@settings(deadline=None)
@given(st.data())
def test_no_jacobian_exceeds_the_rule(data):
    layer, shapes, tensors = data.draw(product_layers())
    inputs = data.draw(values_of(shapes))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**20)))
    width = data.draw(st.integers(1, 6))
    maps = []
    for x in inputs:
        made = torch.randn(x.numel(), width, generator=generator, dtype=torch.float64)
        made[:, data.draw(st.integers(0, width - 1))] *= 10
        maps.append(made * data.draw(st.sampled_from([0.0, 1.0, 1e3])))
    truth = norm(jacobian_along(layer, inputs, maps, tensors))
    assert truth <= bound_at(layer, inputs, [norm(m) for m in maps]) * SLACK


@settings(deadline=None)
@given(st.data())
def test_no_partial_jacobian_exceeds_the_rule(data):
    """One input varies, the others are constant: the factor in front of each gain by itself."""
    layer, shapes, tensors = data.draw(product_layers())
    inputs = data.draw(values_of(shapes))
    for slot, x in enumerate(inputs):
        maps = [torch.zeros(y.numel(), x.numel(), dtype=torch.float64) for y in inputs]
        maps[slot] = torch.eye(x.numel(), dtype=torch.float64)
        truth = norm(jacobian_along(layer, inputs, maps, tensors))
        assert truth <= bound_at(layer, inputs, [float(k == slot) for k in range(len(inputs))]) * SLACK


# ---- where the bounds are attained ------------------------------------------------------------------------------


def ratio(layer, inputs, maps, tensors=None):
    found = norm(jacobian_along(layer, inputs, maps, tensors))
    return found / bound_at(layer, inputs, [norm(m) for m in maps])


def only(slot, inputs):
    """Maps under which one input varies freely and the others are constant."""
    width = inputs[slot].numel()
    zero = [torch.zeros(x.numel(), width, dtype=torch.float64) for x in inputs]
    zero[slot] = torch.eye(width, dtype=torch.float64)
    return zero


def ones(*shape):
    return torch.ones(shape, dtype=torch.float64)


def test_multiply_and_gate_attain_their_bounds():
    maps = [torch.eye(4, dtype=torch.float64)] * 2
    assert ratio(layers.Multiply(), [3 * ones(4), 2 * ones(4)], maps) == pytest.approx(1)
    inputs = [3 * ones(2, 3, 3), 5 * ones(2, 1, 1)]
    repeated = torch.zeros(18, 2, dtype=torch.float64)
    repeated[:9, 0] = repeated[9:, 1] = 1 / 3
    assert ratio(layers.Gate(), inputs, [repeated, torch.eye(2, dtype=torch.float64)]) == pytest.approx(1)
    spiked = [torch.zeros(2, 3, dtype=torch.float64), ones(2, 1)]
    spiked[0][0] = ones(3)
    assert ratio(layers.Gate(), spiked, only(1, spiked)) == pytest.approx(1)


@pytest.mark.parametrize("transposed", [False, True])
def test_matrix_products_attain_their_bounds(transposed):
    inputs = [ones(3, 4), ones(4, 4) if transposed else ones(4, 5)]
    for slot in (0, 1):
        assert ratio(layers.MatMul(transposed), inputs, only(slot, inputs)) == pytest.approx(1)


def test_attention_attains_each_of_its_three_parts():
    n = 12
    along, across = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.0, 1.0]]).double()
    attention = layers.ScaledDotProductAttention(2.0)
    # values: every query looks at the first key
    inputs = [2 * along.expand(n, 2), torch.cat([2 * along, -2 * along]), ones(2, 1)]
    assert ratio(attention, inputs, only(2, inputs)) == pytest.approx(1, abs=1e-6)
    # queries: two keys, each half attended, with values to match
    inputs = [0 * ones(n, 2), torch.cat([3 * across, -3 * across]), torch.tensor([[5.0], [-5.0]]).double()]
    assert ratio(attention, inputs, only(0, inputs)) == pytest.approx(1)
    # keys: all queries along one axis, two keys half attended
    inputs = [4 * along.expand(n, 2), torch.cat([across, -across]), torch.tensor([[5.0], [-5.0]]).double()]
    assert ratio(attention, inputs, only(1, inputs)) == pytest.approx(1)


def test_small_scores_share_the_attention():
    """With scores near zero the column sums are N / M, not N: the exponential in c is needed."""
    inputs = [0.01 * ones(16, 1), 0.01 * ones(4, 1), ones(4, 1)]
    assert ratio(layers.ScaledDotProductAttention(1.0), inputs, only(2, inputs)) == pytest.approx(1, abs=1e-3)


# ---- what is computed -------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.data())
def test_products_compute_what_torch_computes(data):
    layer, shapes, tensors = data.draw(product_layers())
    inputs = [torch.randn(3, *shape, dtype=torch.float64) for shape in shapes]
    rule = find_rule((type(layer),), Quantity.FORWARD)
    site = ft.Site.of(layer, inputs=tuple(shapes))
    found = rule.function(site)(tensors, *inputs)
    match layer:
        case layers.Multiply():
            expected = torch.mul(*inputs)
        case layers.Gate():
            expected = torch.stack([torch.mul(x, g) for x, g in zip(*inputs, strict=True)])
        case layers.MatMul():
            second = inputs[1].transpose(-1, -2) if layer.transpose_second else inputs[1]
            expected = torch.matmul(inputs[0], second)
        case _:
            mask = tensors[""].broadcast_to((*inputs[0].shape[:-1], shapes[1][-2])) if layer.bias else None
            with sdpa_kernel(SDPBackend.MATH):  # torch's fused kernel gives NaN for a causal mask and a negative scale
                expected = F.scaled_dot_product_attention(*inputs, mask, is_causal=layer.causal, scale=layer.scale)
    assert tuple(found.shape[1:]) == site.output
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)


# ---- what is refused --------------------------------------------------------------------------------------------

ATTENTION = layers.ScaledDotProductAttention
REFUSED = [
    (layers.Multiply(), [(3,), (1,)], "expected equal ones, or a Gate"),
    (layers.Gate(), [(3, 2), (3,)], "put an Expand before it"),
    (layers.Gate(), [(3,), (1, 3)], "put an Expand before it"),
    (layers.MatMul(), [(3,), (3, 2)], "expected matrices"),
    (layers.MatMul(), [(2, 3, 4), (1, 4, 5)], "equal leading dimensions"),
    (layers.MatMul(), [(3, 4), (3, 5)], "4 columns of the first meet 3 rows"),
    (layers.MatMul(True), [(3, 4), (4, 5)], "4 columns of the first meet 5 rows"),
    (ATTENTION(1.0), [(3, 4), (5, 3), (5, 4)], "expected"),
    (ATTENTION(1.0), [(3, 4), (5, 4), (3, 4)], "expected"),
    (ATTENTION(1.0), [(2, 3, 4), (5, 4), (5, 4)], "expected"),
    (ATTENTION(math.inf), [(3, 4), (5, 4), (5, 4)], "scale is inf"),
    (ATTENTION(1.0, bias=(3, 4)), [(3, 4), (5, 4), (5, 4)], "does not fit the scores"),
    (ATTENTION(1.0, causal=True, bias=(3, 5)), [(3, 4), (5, 4), (5, 4)], "causal and has a bias"),
]


@pytest.mark.parametrize(("layer", "shapes", "message"), REFUSED, ids=repr)
def test_refused_products(layer, shapes, message):
    with pytest.raises(ShapeError, match=message):
        ft.Site.of(layer, inputs=tuple(shapes))


def attention_graph(**options):
    b = ft.Builder("attention")
    x = b.add("x", layers.Input((4, 3)))
    q, k, v = (b.add(name, layers.LayerNorm(3), x) for name in "qkv")
    mixed = b.add("mix", ATTENTION(1.0, **options), q, k, v)
    b.add("head", layers.Linear(12, 2), b.add("flat", layers.Flatten(), mixed))
    return b.graph()


def test_a_mask_may_hide_keys_but_not_all_of_them():
    graph = attention_graph(bias=(4, 4))
    weights = dict(ft.instantiate(graph).state_dict())
    mask = torch.zeros(4, 4)
    mask[0, 1:] = -math.inf
    made = ft.instantiate(graph, weights=weights | {"mix": mask})
    assert made(torch.randn(2, 4, 3)).isfinite().all()
    mask[2] = -math.inf
    with pytest.raises(WeightsError, match="every key is hidden from a query in mix"):
        ft.instantiate(graph, weights=weights | {"mix": mask})
    with pytest.raises(ft.errors.NonFiniteError, match="mix"):
        ft.instantiate(graph, weights=weights | {"mix": -mask})


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"bias": (1, 4, 4)}])
def test_theorems_with_attention_are_replayed(options, tmp_path):
    graph = attention_graph(**options)
    derivation = ft.derive(graph)
    ft.check(derivation)
    derivation.save(tmp_path / "proof.json")
    assert ft.load_derivation(tmp_path / "proof.json") == derivation
    assert derivation.expected_bound is None
    assert "ScaledDotProductAttention" in derivation.without_variance


# ---- the closed forms -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [ATTENTION(0.5), ATTENTION(0.5, causal=True)])
def test_symbolic_sizes(layer):
    n, m, d = (size_symbol(s) for s in "nmd")
    claim, _, premises, gains = claim_of(layer, [(n, d), (m, d), (m, d)])
    assert direction(claim.expression, set(premises) | set(gains)) is Direction.UP
    found = claim.expression.subs({n: 3, m: 4, d: 2}).subs(dict.fromkeys((*premises, *gains), sympy.Rational(1, 2)))
    again, _, _, _ = claim_of(layer, [(3, 2), (4, 2), (4, 2)])
    expected = again.expression.subs(dict.fromkeys((*premises, *gains), sympy.Rational(1, 2)))
    assert float(found) == pytest.approx(float(expected))


def test_gates_of_symbolic_images():
    c, h = size_symbol("c"), size_symbol("h")
    claim, _, (entry, norm_bound, gate), (gain, gate_gain) = claim_of(layers.Gate(), [(c, h, h), (c, 1, 1)])
    assert claim.expression == gate * gain + sympy.Min(norm_bound, h * entry) * gate_gain


@settings(deadline=None)
@given(st.data())
def test_no_bound_decreases_in_what_it_rests_on(data):
    layer, shapes, _ = data.draw(product_layers())
    claim, _, premises, gains = claim_of(layer, shapes)
    assert direction(claim.expression, set(premises) | set(gains)) is Direction.UP
