"""A theorem that assumes a token variance is attacked on its domain, and only there."""

import pytest
import sympy
import torch
from torch.nn import functional as F  # noqa: N812

import fimtheory as ft
from fimtheory.errors import AssumptionError, DataError
from fimtheory.token_variance import admits_variance, least_spread


@pytest.fixture
def graph():
    """Two norms, the first at the input: its gain at a constant token is 1 / sqrt(eps)."""
    builder = ft.Builder("normed")
    x = builder.add("x", ft.layers.Input((3, 4)))
    y = builder.add("first", ft.layers.LayerNorm(4, eps=1e-8), x)
    y = builder.add("second", ft.layers.RMSNorm(4, eps=1e-8), builder.add("fc", ft.layers.Linear(4, 4), y))
    builder.add("head", ft.layers.Linear(12, 3), builder.add("flatten", ft.layers.Flatten(), y))
    return builder.graph()


def test_the_least_spread_is_that_of_the_tokens_entering_the_norms(graph):
    model = ft.instantiate(graph, 1)
    x = torch.randn(6, 3, 4)
    weights = model.state_dict()
    middle = F.linear(F.layer_norm(x, (4,), eps=1e-8), weights["fc.weight"], weights["fc.bias"])
    expected = torch.minimum(x.var(-1, correction=0).amin(1), middle.square().mean(-1).amin(1))
    assert torch.allclose(least_spread(model, x), expected)


def test_the_search_stays_where_the_variance_is_and_the_bound_is_exceeded_elsewhere(graph):
    model, data = ft.instantiate(graph, 1), torch.randn(64, 3, 4)
    data = data[least_spread(model, data) > 0.011][:8]
    verdict = ft.verify(model, data, token_variance="0.01", starts=16, steps=60)
    assert verdict.holds
    ends = verdict.worst.inputs.double()
    assert (least_spread(model.double(), ends) >= 0.01).all()
    model.float()
    free = ft.worst_case(model, data, starts=16, steps=60)
    assert free.log10_value > verdict.bound.log10
    assert "tokens of variance at least 1/100" in verdict.to_json()["bound"]["domain"]


def test_data_outside_of_the_domain_are_refused_and_counted(graph):
    model, data = ft.instantiate(graph, 1), torch.randn(4, 3, 4)
    data[1, 2] = 5.0
    with pytest.raises(DataError, match=r"1 of 4 inputs lie outside .* variance 0 enters"):
        ft.verify(model, data, token_variance=1e-4, starts=1, steps=1)
    with pytest.raises(DataError, match="not inside"):
        ft.worst_case(model, data, inside=admits_variance(ft.derive(graph, token_variance=1e-4)))


def test_what_a_float64_copy_places_outside_is_not_counted(graph):
    model, data = ft.instantiate(graph, 1), torch.randn(4, 3, 4)
    refused = ft.worst_case(model, data, starts=4, steps=2, inside=lambda module, x: torch.full(
        (len(x),), x.dtype == torch.float32))  # fmt: skip
    assert refused.value == 0


def test_a_symbolic_variance_has_no_domain(graph):
    with pytest.raises(AssumptionError, match="only be said of a number"):
        admits_variance(ft.derive(graph, token_variance=sympy.Symbol("v", positive=True)))
    assert admits_variance(ft.derive(graph)) is None


@pytest.mark.usefixtures("own_rules")
def test_conditions_that_cannot_be_tested_are_refused():
    mine = ft.Reference("fimtheory")

    @ft.layer
    class Sometimes(ft.layers.Layer):
        """A layer whose gain has a condition."""

    ft.rule(Sometimes, quantity=ft.Quantity.SHAPE, reference=mine)(lambda site: site.inputs[0])
    ft.rule(Sometimes, quantity=ft.Quantity.GAIN, reference=mine)(
        lambda site: ft.Claim(ft.Relation.LE, sympy.Integer(1), mine, (ft.Condition("It rains."),))
    )
    builder = ft.Builder("own")
    x = builder.add("x", ft.layers.Input((4,)))
    builder.add("head", ft.layers.Linear(4, 2), builder.add("rain", Sometimes(), x))
    with pytest.raises(AssumptionError, match="node rain: the gain of Sometimes"):
        admits_variance(ft.derive(builder.graph(), token_variance=1))
