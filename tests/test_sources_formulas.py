"""Formulas of activations: recognised however they are written, and only where they are the activation everywhere."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import event, given, settings
from hypothesis import strategies as st
from torch import fx, nn

import fimtheory as ft
from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.registry import Site, require_rule
from fimtheory.sources.formulas import activation_of, formula_of, number

aten = torch.ops.aten
ROOT = math.sqrt(2 / math.pi)

WRITTEN = {
    "gelu": (layers.GELU, lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))),
    "gelu by a factor": (layers.GELU, lambda x: x * 0.5 * (1.0 + torch.erf(x * 0.7071067811865476))),
    "gelu of tanh": (layers.GELUTanh, lambda x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * torch.pow(x, 3.0))))),
    "gelu of sigmoid": (layers.GELUTanh, lambda x: x * torch.sigmoid(2 * ROOT * (x + 0.044715 * x * x * x))),
    "gelu factored": (layers.GELUTanh, lambda x: 0.5 * x * (1 + torch.tanh(ROOT * x * (1 + 0.044715 * x * x)))),
    "silu": (layers.SiLU, lambda x: x * torch.sigmoid(x)),
    "silu by exp": (layers.SiLU, lambda x: x / (1 + torch.exp(-x))),
    "silu by tanh": (layers.SiLU, lambda x: 0.5 * x * (1 + torch.tanh(x / 2))),
    "quick gelu": (layers.QuickGELU, lambda x: x * torch.sigmoid(1.702 * x)),
    "mish": (layers.Mish, lambda x: x * torch.tanh(F.softplus(x))),
    "mish by logarithms": (layers.Mish, lambda x: x * torch.tanh(torch.log1p(torch.exp(x)))),
    "hardswish by relu6": (layers.Hardswish, lambda x: x * F.relu6(x + 3) / 6),
    "hardswish by clamp": (layers.Hardswish, lambda x: x * torch.clamp(x / 6 + 0.5, 0, 1)),
    "hardswish by hardsigmoid": (layers.Hardswish, lambda x: x * F.hardsigmoid(x)),
    "hardswish mirrored": (layers.Hardswish, lambda x: x * (1 - torch.clamp(0.5 - x / 6, 0, 1))),
    "hardsigmoid": (layers.Hardsigmoid, lambda x: F.relu6(x + 3) / 6),
    "hardsigmoid by clamp": (layers.Hardsigmoid, lambda x: torch.clamp(0.16666666666666666 * x + 0.5, 0, 1)),
    "softsign": (layers.Softsign, lambda x: x / (1 + x.abs())),
    "tanhshrink": (layers.Tanhshrink, lambda x: x - torch.tanh(x)),
    "softplus": (layers.Softplus, lambda x: torch.log1p(torch.exp(x))),
    "sigmoid": (layers.Sigmoid, lambda x: 1 / (1 + torch.exp(-x))),
    "sigmoid by tanh": (layers.Sigmoid, lambda x: 0.5 * (1 + torch.tanh(x / 2))),
    "tanh": (layers.Tanh, lambda x: 2 * torch.sigmoid(2 * x) - 1),
}


class Between(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.first, self.last, self.function = nn.Linear(3, 4), nn.Linear(4, 2), function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


def imported(function):
    return ft.from_torch(Between(function).eval(), torch.zeros(1, 3))


def kinds(graph):
    return [type(node.layer) for node in graph.nodes]


@pytest.mark.parametrize("name", WRITTEN)
def test_a_formula_becomes_its_activation(name):
    kind, function = WRITTEN[name]
    assert kinds(imported(function))[2:-1] == [kind]


FAR = {
    "a kink far out": lambda x: x * torch.sigmoid(x) + 1000 * torch.relu(x - 800),
    "an exponential far out": lambda x: x * torch.sigmoid(x) + torch.exp(x - 700),
    "another constant": lambda x: x * torch.sigmoid(1.7020000001 * x),
    "another limit": lambda x: x * torch.clamp(x / 6 + 0.5, 0, 1.0000000001),
    "another power": lambda x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * x * x * x) + 1e-30 * x**5)),
}


@pytest.mark.parametrize("name", FAR)
def test_a_formula_that_differs_where_nobody_looks_is_not_the_activation(name):
    known = (layers.SiLU, layers.QuickGELU, layers.Hardswish, layers.GELUTanh)
    try:
        found = kinds(imported(FAR[name]))
    except ft.errors.SourceError as error:
        assert "operations cannot be imported" in str(error)  # noqa: PT017  (both outcomes are right)
        return
    assert not set(known) & set(found)


OPERATIONS = {"+": aten.add.Tensor, "*": aten.mul.Tensor, "-": aten.sub.Tensor, "/": aten.div.Tensor}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(list(OPERATIONS)), st.sampled_from([0.5, 2.0, 3.0, 6.0, "x", "sigmoid", "relu6"])),
        min_size=1,
        max_size=5,
    )
)
def test_what_is_recognised_has_the_values_of_the_activation(steps):
    """Random formulas of x, sigmoid(x) and relu6(x + 3): whatever is proved equal agrees on a grid."""
    graph = fx.Graph()
    root = graph.placeholder("x")
    sigmoid = graph.call_function(aten.sigmoid.default, (root,))
    shifted = graph.call_function(aten.add.Tensor, (root, 3))
    known = {"x": root, "sigmoid": sigmoid, "relu6": graph.call_function(aten.relu6.default, (shifted,))}
    end = root
    for operation, what in steps:
        end = graph.call_function(OPERATIONS[operation], (end, known.get(what, what)))
    layer = activation_of(formula_of([node for node in graph.nodes if node is not root], root))
    event(f"recognised: {layer}")
    if layer is not None:
        graph.output(end)
        x = torch.linspace(-9.03, 9.01, 301, dtype=torch.float64)[:, None]
        written = fx.GraphModule(nn.Module(), graph)(x)
        forward = require_rule(layer, Quantity.FORWARD, "f").function(Site((layer,), ("f",), ((1,),), (1,)))
        assert torch.allclose(forward({}, x), written, rtol=1e-12, atol=1e-12)


def test_a_number_is_a_known_constant_only_in_the_last_place():
    exact = number(ROOT)
    assert exact.is_Rational is False
    assert number(math.nextafter(ROOT, 1)) == exact
    assert number(ROOT * (1 + 1e-12)).is_Rational
