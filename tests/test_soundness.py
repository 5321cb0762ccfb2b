"""The promise itself: on random graphs and weights, nothing found exceeds the certified bound."""

from __future__ import annotations

import collections
import contextlib
import math
import os

import pytest
import torch
from hypothesis import HealthCheck, assume, event, given, settings, target
from hypothesis import strategies as st
from oracles import ascend, jacobian, log10_lam

import fimtheory as ft
from fimtheory import layers
from fimtheory.properties.steps import ROUNDING, exceeded_steps, exceeds
from fimtheory.strategies import layer_graphs, weights_for
from fimtheory.strategies.windows import CONVOLVING

tally = collections.Counter()
closest = {}
"""Smallest log10(bound / lam) by number of weight layers below the head, with its graph: how close the search came."""


def inputs_of(graph, generator, box):
    """Inputs to attack from: random, large, small, zero and constant; within a box, a corner for the large one."""
    shape = graph.shapes[graph.input]
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    zero, constant = torch.zeros(shape, dtype=torch.float64), torch.full(shape, 0.7, dtype=torch.float64)
    if box == math.inf:
        return [x, 100 * x, 0.01 * x, zero, constant]
    return [x.clamp(-box, box), box * x.sign(), (0.01 * x).clamp(-box, box), zero, box * torch.ones_like(zero)]


def usable(module, x):
    """Whether logits and Jacobian are finite there; huge weights overflow, which refutes nothing."""
    logits = module(x[None])
    return bool(logits.isfinite().all()) and bool(jacobian(lambda v: module(v[None])[0], x).isfinite().all())


def attack(graph, weights, steps, generator, input_bound):
    module = ft.instantiate(graph, weights=weights, dtype=torch.float64)
    derivation = ft.derive(graph)
    ft.check(derivation)
    try:
        bound = ft.evaluate(derivation, module, input_bound=input_bound)
        usual = ft.evaluate(ft.baseline(graph), module, input_bound=input_bound)
    except ft.errors.NonFiniteError:  # a norm beyond float64: refused, which is right
        tally["refused as beyond float64"] += 1
        event("norm beyond float64")
        assume(False)
    tally["baseline below bound"] += usual.log10 < bound.log10 - ROUNDING
    box = math.inf if bound.domain == "all inputs" else input_bound
    tally["on a box"] += box < math.inf
    tried = 0
    found = -math.inf
    for x in inputs_of(graph, generator, box):
        if not usable(module, x):
            tally["input overflows"] += 1
            continue
        tried += 1
        here, best = (log10_lam(module, x), x) if tried > 2 else ascend(module, x, steps, generator, box)
        assert not exceeds(here, bound.log10, usual.log10), f"lam 1e{here} above 1e{bound.log10} at {best}"
        found = max(found, here)
    if not tried:
        tally["every input overflows"] += 1
        event("every input overflows")
        assume(False)
    tally["examples"] += 1
    if math.isfinite(found) and math.isfinite(bound.log10):  # a bound of zero leaves nothing but the oracle's rounding
        gap, depth = bound.log10 - found, min(weight_layers(graph), 5)
        if gap < closest.get(depth, (math.inf,))[0]:
            closest[depth] = gap, [(n.name, n.layer, n.inputs) for n in graph.nodes]
        if depth:  # a linear classifier attains its bound, so the search should turn to others
            target(-gap, label=f"{depth} weight layers")
    return derivation, bound, module, box


def weight_layers(graph):
    """Number of linear maps and attentions with weights, the head aside."""
    kinds = layers.Linear, layers.PatchEmbedding, layers.MultiHeadSelfAttention, *CONVOLVING
    return sum(isinstance(node.layer, kinds) for node in graph.nodes if node.name != graph.output)


@contextlib.contextmanager
def flushing(flush):
    """Compute with or without denormals; the suite flushes them."""
    torch.set_flush_denormal(flush)
    try:
        yield
    finally:
        torch.set_flush_denormal(True)


def attack_random(data, steps):
    with flushing(data.draw(st.booleans(), label="flush denormals")):
        attack_drawn(data, steps)


def attack_drawn(data, steps):
    graph = data.draw(layer_graphs(products=True))
    weights = data.draw(weights_for(graph))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**20)))
    input_bound = data.draw(st.sampled_from([0.05, 1.0, 8.0]))
    derivation, bound, module, box = attack(graph, weights, steps, generator, input_bound)
    random, *_, constant = inputs_of(graph, generator, box)
    for x in (random, constant):
        if usable(module, x):
            assert not list(exceeded_steps(graph, weights, derivation, bound, x))


QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large, HealthCheck.large_base_example]


@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(st.data())
def test_nothing_exceeds_the_bound(data):
    attack_random(data, steps=4)


@pytest.mark.slow
def test_nothing_exceeds_the_bound_at_length():
    examples = int(os.environ.get("FIMTHEORY_EXAMPLES", "2000"))
    tally.clear()
    closest.clear()

    @settings(max_examples=examples, deadline=None, suppress_health_check=QUIET)
    @given(st.data())
    def run(data):
        attack_random(data, steps=12)

    run()
    print(dict(tally))
    for depth, (gap, nodes) in sorted(closest.items()):
        print(f"{depth} weight layers: bound / lam = {10**gap:.6f}  {nodes}")
