"""A verdict counts violations by float64 values only, and compares them with the certified bound."""

import dataclasses
import math

import pytest
import torch

import fimtheory as ft
from fimtheory import layers, verification
from fimtheory.data import load_data
from fimtheory.errors import AssumptionError, DataError, GraphError


@pytest.fixture
def graph():
    return ft.families.mlp((6,), inputs=(4,), classes=3)


def test_the_bound_holds_and_the_looseness_is_its_distance_to_the_best_value_found(graph):
    verdict = ft.verify(graph, torch.randn(8, 4), starts=8, steps=30)
    best = max(verdict.estimates.log10_lam.max().item(), verdict.worst.log10_value)
    assert verdict.holds
    assert verdict.looseness_log10 == pytest.approx(verdict.bound.log10 - best)
    assert verdict.looseness_log10 >= 0
    assert verdict.bound.log10 <= verdict.baseline.log10


def test_a_bound_that_is_too_small_is_counted_as_violated(graph, monkeypatch):
    honest = verification.evaluate

    def too_small(derivation, module, **options):
        found = honest(derivation, module, **options)
        return dataclasses.replace(found, log10=found.log10 - 6)

    monkeypatch.setattr(verification, "evaluate", too_small)
    verdict = ft.verify(graph, torch.randn(8, 4), starts=4, steps=5)
    assert not verdict.holds
    assert verdict.violations == 8 + 4
    assert verdict.to_json()["violations"] == 12


def test_the_linear_model_attains_its_bound():
    builder = ft.Builder("linear")
    x = builder.add("x", ft.layers.Input((5,)))
    builder.add("head", ft.layers.Linear(5, 2), x)
    verdict = ft.verify(builder.graph(), torch.randn(4, 5), starts=8, steps=200)
    # K = 2 with zero bias: p = (1/2, 1/2) is reached, where lam is D_W^2 / 4 exactly
    assert verdict.looseness_log10 == pytest.approx(0, abs=1e-4)
    assert verdict.holds


def test_the_data_are_named(graph):
    named = ft.verify(graph, load_data("random:9", (4,), n=5), starts=2, steps=1)
    assert named.to_json()["data"] == "5 of random:9"
    assert ft.verify(graph, torch.randn(3, 4), starts=2, steps=1).data == "3 inputs given as a tensor"


def test_data_of_another_shape_are_refused(graph):
    with pytest.raises(DataError, match=r"\(8, 5\)"):
        ft.verify(graph, torch.randn(8, 5))


def test_only_graphs_and_their_models_are_verified():
    with pytest.raises(GraphError, match="Linear"):
        ft.verify(torch.nn.Linear(4, 3), torch.randn(2, 4))


def gated():
    """A gate on unbounded values: its theorem assumes bounds on them."""
    builder = ft.Builder("gated")
    x = builder.add("x", layers.Input((3,)))
    gate = builder.add("gate", layers.Sigmoid(), builder.add("fc", layers.Linear(3, 3), x))
    builder.add("head", layers.Linear(3, 2), builder.add("product", layers.Multiply(), x, gate))
    return builder.graph()


def test_assumed_bounds_on_values_hold_on_a_box_that_data_and_search_stay_in():
    data = torch.tensor([[0.5, -0.25, 0.0], [0.1, 0.7, -0.7]])
    verdict = ft.verify(gated(), data, starts=8, steps=40, input_bound=0.7000001)
    assert verdict.holds
    assert verdict.worst.inputs.abs().max().double() <= 0.7000001
    assert verdict.worst.inputs.abs().max() > 0.6
    assert verdict.to_json()["bound"]["domain"] == "inputs with entries at most 0.7000001 in absolute value"
    wider = ft.verify(gated(), data, starts=8, steps=40, input_bound=10.0)
    assert wider.bound.log10 > verdict.bound.log10
    assert wider.worst.log10_value > verdict.worst.log10_value


def test_assumed_bounds_need_a_domain_that_holds_the_data():
    data = torch.tensor([[0.5, -0.75, 0.0]])
    with pytest.raises(AssumptionError, match="--input-bound"):
        ft.verify(gated(), data)
    with pytest.raises(DataError, match=r"0\.75 in absolute value, outside of the domain of entries at most 0\.7;"):
        ft.verify(gated(), data, input_bound=0.7)
    with pytest.raises(DataError, match="expected a finite number"):
        ft.verify(gated(), data, input_bound=math.inf)


@pytest.mark.parametrize("bound", [0.1, 0.7, 1 / 3, 1e300, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_box_of_the_search_is_rounded_inwards(bound, dtype):
    low, high = verification._box(bound, dtype)
    assert -low == high <= bound
    assert torch.tensor(high, dtype=dtype).item() == high
    assert high >= min(bound, torch.finfo(dtype).max) * (1 - 2 * torch.finfo(dtype).eps)


def test_a_dead_network_has_a_finite_verdict(graph):
    model = ft.instantiate(graph, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    verdict = ft.verify(model, torch.randn(3, 4), starts=2, steps=2)
    assert verdict.holds
    assert verdict.bound.log10 == -math.inf
    assert verdict.to_json()["bound"]["log10"] is None
