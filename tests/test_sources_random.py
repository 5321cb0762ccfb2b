"""Imported models keep the promise: on random torch modules, nothing found in them exceeds the certified bound."""

from __future__ import annotations

import collections
import math
import os

import pytest
import torch
from drawn_modules import classifiers
from hypothesis import HealthCheck, event, given, settings, target
from hypothesis import strategies as st
from oracles import ascend, log10_lam
from test_soundness import exceeds, inputs_of
from torch.nn.attention import SDPBackend, sdpa_kernel

import fimtheory as ft

AGREEMENT = 1e-11
"""Difference of graph and module in float64, relative to the scale of the logits."""

tally = collections.Counter()


@pytest.fixture(autouse=True)
def _differentiable():
    """Compute attention with operations that can be differentiated twice."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with sdpa_kernel(SDPBackend.MATH):
        yield
    torch.backends.mha.set_fastpath_enabled(fast)


def attack_imported(data, steps):
    """Import a random module, and search it (not its graph) for an input above the bound."""
    module, shape = data.draw(classifiers())
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**20), label="inputs"))
    input_bound = data.draw(st.sampled_from([0.1, 1.0, 3.0]), label="input bound")
    graph = ft.from_torch(module, torch.randn(1, *shape, generator=generator))
    wide = module.double()
    x = 2 * torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        found, expected = graph.model(torch.float64)(x), wide(x)
    assert (found - expected).abs().max() <= AGREEMENT * expected.abs().max()
    derivation = ft.derive(graph)
    ft.check(derivation)
    weights = wide_weights(graph)
    bound = ft.evaluate(derivation, weights, input_bound=input_bound)
    usual = ft.evaluate(ft.baseline(graph), weights, input_bound=input_bound)
    box = math.inf if bound.domain == "all inputs" else input_bound
    tally["models"] += 1
    tally["on a box"] += box < math.inf
    event("on a box" if box < math.inf else "all inputs")
    best = -math.inf
    for number, start in enumerate(inputs_of(graph, generator, box)):
        here = ascend(wide, start, steps, generator, box)[0] if number < 2 else log10_lam(wide, start)
        assert not exceeds(here, bound.log10, usual.log10), f"lam 1e{here} above 1e{bound.log10}"
        best = max(best, here)
    if math.isfinite(best) and math.isfinite(bound.log10):
        target(best - bound.log10, label="log10 of lam over the bound")


def wide_weights(graph):
    return {key: value.double() if value.is_floating_point() else value for key, value in graph.weights.items()}


QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large, HealthCheck.large_base_example]
QUIET += [HealthCheck.function_scoped_fixture]


@settings(max_examples=15, deadline=None, suppress_health_check=QUIET)
@given(st.data())
def test_nothing_in_an_imported_model_exceeds_its_bound(data):
    attack_imported(data, steps=3)


@pytest.mark.slow
def test_nothing_in_imported_models_exceeds_their_bounds_at_length():
    tally.clear()

    @settings(
        max_examples=int(os.environ.get("FIMTHEORY_EXAMPLES", "1000")), deadline=None, suppress_health_check=QUIET
    )
    @given(st.data())
    def run(data):
        attack_imported(data, steps=8)

    run()
    print(dict(tally))
