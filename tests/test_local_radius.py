"""Radii by bounds around inputs, against exact distances and against inputs that change the prediction."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_local import networks

import fimtheory as ft
from fimtheory import layers, zoo
from fimtheory.data import load_data
from fimtheory.errors import DataError, NonFiniteError
from fimtheory.norms.interconnection import Interconnection

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")


def linear(weight, bias):
    graph = ft.LayerGraph(
        [
            ft.Node("x", layers.Input((len(weight[0]),))),
            ft.Node("y", layers.Linear(len(weight[0]), len(weight)), ("x",)),
        ]
    )
    tensors = {"y.weight": torch.tensor(weight).double(), "y.bias": torch.tensor(bias).double()}
    return ft.instantiate(graph, weights=tensors, dtype=torch.float64)


@pytest.mark.parametrize(("norm", "distance"), [("l2", 3.0), ("linf", 15 / (5 * math.sqrt(2)))])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_the_radius_of_a_linear_model_is_the_distance_to_the_nearest_line(norm, distance, scale):
    """In linf a slope is measured in l2, so that the radius is at most the square root of the dimension too small."""
    module = linear([[3.0 * scale, 4.0 * scale], [0.0, 0.0], [-9.0 * scale, 0.0]], [0.0, 0.0, 0.0])
    found = ft.local_radius(module, torch.tensor([[5.0, 0.0]], dtype=torch.float64), norm=norm)
    assert found.radius.item() <= (3.0 if norm == "l2" else 15 / 7)
    assert found.radius.item() >= distance * 0.98
    assert found.predicted.tolist() == [0]


def nearest_change(module, x, norm, steps=60):
    """Distance of an input with another largest logit, by steps along the gradient of a difference and bisection."""
    logits = lambda v: module(v[None])[0]  # noqa: E731
    top = int(logits(x).argmax())
    best = math.inf
    for other in range(len(logits(x))):
        if other == top:
            continue
        here = x.clone()
        for _ in range(steps):
            gap, gradient = torch.func.grad_and_value(lambda v, j=other: logits(v)[top] - logits(v)[j])(here)[::-1]
            size = gradient.norm().item() if norm == "l2" else gradient.abs().sum().item()
            if gap < 0 or not math.isfinite(size) or size < 1e-12:
                break
            direction = gradient / size if norm == "l2" else gradient.sign()
            here = here - 1.02 * gap / (1.0 if norm == "l2" else size) * direction / (size if norm == "l2" else 1.0)
        far = here - x
        if not bool(far.isfinite().all()) or logits(here)[other] <= logits(here)[top]:
            continue
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = 0.5 * (low + high)
            changed = bool(logits(x + middle * far)[other] > logits(x + middle * far)[top])
            low, high = (low, middle) if changed else (middle, high)
        length = far.norm() if norm == "l2" else far.abs().max()
        best = min(best, high * length.item())
    return best


@settings(max_examples=60, deadline=None)
@given(networks(), st.sampled_from(["l2", "linf"]))
def test_no_nearer_input_has_another_class(case, norm):
    module, x = case
    found = ft.local_radius(module, x[None], norm=norm)
    assert found.radius.item() <= nearest_change(module, x, norm) * (1 + 1e-6) + 1e-12


def test_digits_are_certified_beyond_the_global_bound():
    model = zoo.load("digits_mlp")
    digits = load_data("digits:test", (1, 8, 8), n=6, seed=0)
    local = ft.local_radius(model, digits.inputs)
    radii = ft.certified_radius(model, digits.inputs, ft.evaluate(ft.derive(model.graph), model))
    joined = radii.with_local(local)
    assert joined.by == ("local",) * 6
    assert torch.equal(joined.radius, torch.maximum(local.radius, radii.radius))
    assert bool((local.radius > 1.2 * radii.margin).all())
    for x, radius in zip(digits.inputs.double(), local.radius.tolist(), strict=True):
        assert radius <= nearest_change(model.double(), x, "l2")


def test_two_equal_logits_have_no_radius():
    found = ft.local_radius(linear([[1.0, 2.0], [1.0, 2.0]], [0.0, 0.0]), torch.ones(1, 2, dtype=torch.float64))
    assert found.radius.tolist() == [0.0]


def test_constant_logits_are_certified_far():
    found = ft.local_radius(linear([[0.0, 0.0], [0.0, 0.0]], [1.0, 0.0]), torch.zeros(1, 2, dtype=torch.float64))
    assert found.radius.item() > 10.0


def test_radii_of_other_inputs_are_not_joined():
    model = linear([[3.0, 4.0], [0.0, 0.0]], [0.0, 0.0])
    evaluation = ft.evaluate(ft.derive(model.graph), model)
    x = torch.tensor([[5.0, 0.0]], dtype=torch.float64)
    radii = ft.certified_radius(model, x, evaluation)
    assert radii.with_local(ft.local_radius(model, x)).radius.item() == pytest.approx(3.0)
    with pytest.raises(DataError, match="other inputs"):
        radii.with_local(ft.local_radius(model, -x))
    with pytest.raises(DataError, match="other inputs"):
        radii.with_local(ft.local_radius(model, x.expand(2, 2)))
    with pytest.raises(DataError, match="linf"):
        radii.with_local(ft.local_radius(model, x, norm="linf"))
    with pytest.raises(DataError, match="l3"):
        ft.local_radius(model, x, norm="l3")


def test_no_inputs_have_no_radii():
    assert len(ft.local_radius(linear([[1.0], [0.0]], [0.0, 0.0]), torch.zeros(0, 1))) == 0


def test_logits_beyond_float64_certify_nothing():
    with pytest.raises(NonFiniteError, match="beyond float64"):
        ft.local_radius(linear([[1e30], [-1e30]], [0.0, 0.0]), torch.full((1, 1), 1e300, dtype=torch.float64))


def test_bounds_that_are_no_numbers_certify_nothing(monkeypatch):
    whole, calls = Interconnection.gram, itertools.count()
    monkeypatch.setattr(Interconnection, "gram", lambda *given: whole(*given) * (math.nan if next(calls) else 1.0))
    monkeypatch.setattr("fimtheory.local.radius._FIRST", 0.99 * 10)  # a ball that reaches beyond the line, 3 away
    found = ft.local_radius(linear([[3.0, 4.0], [0.0, 0.0]], [0.0, 0.0]), torch.tensor([[5.0, 0.0]]).double())
    assert found.radius.item() <= 3.0
