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
from oracles import activations, ascend, fragment_module, jacobian, log10_lam, norm

import fimtheory as ft
from fimtheory import layers
from fimtheory.claims import VALUE_BOUNDS
from fimtheory.derivation import body_of, local_nodes
from fimtheory.strategies import layer_graphs, weights_for
from fimtheory.strategies.windows import CONVOLVING

ROUNDING = 1e-9
"""Relative error allowed to the float64 lam and Jacobian norms that the bound is compared with."""
CANCELLATION = 1e-13
"""Error allowed to a float64 Jacobian norm, relative to what cancels in it, such as the product of all layer norms."""

tally = collections.Counter()
closest = {}
"""Smallest log10(bound / lam) by number of weight layers below the head, with its graph: how close the search came."""


def exceeds(found, bound, scale):
    """Whether a float64 value is above the bound by more than its own rounding; all are log10 of squares."""
    first, second = bound / 2, scale / 2 + math.log10(CANCELLATION)
    top = max(first, second)
    allowed = -math.inf if top == -math.inf else top + math.log10(10 ** (first - top) + 10 ** (second - top))
    return found > 2 * allowed + ROUNDING


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


def check_steps(graph, weights, derivation, bound, x):
    """Every step about a gain bounds the dense Jacobian from its source to its target, every other one the values."""
    values = activations(graph, weights, x)
    rows = iter(bound.rows)
    position = {name: k for k, name in enumerate(graph.order)}
    blocks = [(lemma, k) for lemma in derivation.lemmas for k in range(len(lemma.instances))]
    for lemma, k in sorted(blocks, key=lambda block: position[block[0].instances[block[1]].entry]):
        body, _, _ = body_of(graph, lemma)
        names = local_nodes(body, lemma.instances[k])
        for index in sorted(support(lemma)):
            step, row = lemma.steps[index], next(rows)
            source, end = names[step.source], names[step.target]
            assert row.target == end
            if step.quantity in VALUE_BOUNDS:
                if values[end].isfinite().all():
                    found = log10_size(step.quantity, values[end])
                    assert found <= row.log10 + ROUNDING, (row, found)
            elif source != end:
                between = tuple(n for n in graph.order if feeds(graph, n, source, end))
                jac = jacobian(fragment_single(graph, weights, source, between), values[source])
                if jac.isfinite().all():
                    truth = norm(jac)
                    found = 2 * math.log10(truth) if truth > 0 else -math.inf
                    assert not exceeds(found, 2 * row.log10, 2 * row.log10), (row, truth)


def log10_size(quantity, value):
    """Logarithm of what a bound on values bounds, in units in which no square overflows."""
    unit = value.abs().max()
    if unit == 0:
        return -math.inf
    parts = {
        ft.Quantity.ENTRY_BOUND: value.flatten()[:, None],
        ft.Quantity.TOKEN_NORM: value,
        ft.Quantity.NORM_BOUND: value.flatten(),
    }
    return math.log10((parts[quantity] / unit).norm(dim=-1).max().item()) + math.log10(unit.item())


def fragment_single(graph, weights, source, members):
    module = fragment_module(graph, weights, source, members)
    return lambda v: module(v[None])[0]


def feeds(graph, node, source, end):
    """Whether ``node`` lies on a path from ``source`` (excluded) to ``end``."""
    if node == source:
        return False
    ancestors = ft.graph.nx.ancestors(graph.digraph, end) | {end}
    return node in ancestors and source in ft.graph.nx.ancestors(graph.digraph, node)


def support(lemma):
    needed, pending = set(), [lemma.gain]
    while pending:
        index = pending.pop()
        needed.add(index)
        pending += lemma.steps[index].premises
    return needed


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
            check_steps(graph, weights, derivation, bound, x)


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
