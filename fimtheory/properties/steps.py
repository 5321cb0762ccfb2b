"""Every step of a derivation against dense truths: Jacobians from its source to its target, and values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import networkx as nx
import torch
from torch import Tensor

from fimtheory.claims import VALUE_BOUNDS, Quantity
from fimtheory.derivation import Derivation, Lemma, body_of, local_nodes
from fimtheory.evaluation import Evaluation, Row
from fimtheory.graph import LayerGraph
from fimtheory.instantiation import GraphModule, instantiate
from fimtheory.properties.networks import activations
from fimtheory.properties.truths import Function, jacobian, norm, rounding

__all__ = ["exceeded_steps", "exceeds", "fragment_module"]

Weights = Mapping[str, Tensor]

ROUNDING = 1e-9
"""Relative error allowed to the float64 lam and Jacobian norms that the bound is compared with."""
CANCELLATION = 1e-13
"""Error allowed to a float64 Jacobian norm, relative to what cancels in it, such as the product of all layer norms."""


def exceeds(found: float, bound: float, scale: float) -> bool:
    """Whether a float64 value is above the bound by more than its own rounding; all are log10 of squares."""
    first, second = bound / 2, scale / 2 + math.log10(CANCELLATION)
    top = max(first, second)
    allowed = -math.inf if top == -math.inf else top + math.log10(10 ** (first - top) + 10 ** (second - top))
    return found > 2 * allowed + ROUNDING


def exceeded_steps(
    graph: LayerGraph, weights: Weights, derivation: Derivation, bound: Evaluation, x: Tensor
) -> Iterator[tuple[Row, float]]:
    """Yield steps that the truth at ``x`` exceeds, and its decimal logarithm.

    A step about a gain bounds the dense Jacobian from its source to its target, every other one the values.
    """
    values = activations(graph, weights, x)
    rows = iter(bound.rows)
    position = {name: k for k, name in enumerate(graph.order)}
    blocks = [(lemma, k) for lemma in derivation.lemmas for k in range(len(lemma.instances))]
    for lemma, k in sorted(blocks, key=lambda block: position[block[0].instances[block[1]].entry]):
        body, _, _ = body_of(graph, lemma)
        names = local_nodes(body, lemma.instances[k])
        for index in sorted(_support(lemma)):
            step, row = lemma.steps[index], next(rows)
            source, end = names[step.source], names[step.target]
            assert row.target == end
            if step.quantity in VALUE_BOUNDS:
                if values[end].isfinite().all():
                    found = _log10_size(step.quantity, values[end])
                    if found > row.log10 + ROUNDING:
                        yield row, found
            elif source != end:
                between = tuple(n for n in graph.order if _feeds(graph, n, source, end))
                jac = jacobian(_fragment_single(graph, weights, source, between), values[source])
                if jac.isfinite().all():
                    truth = norm(jac)
                    found = 2 * math.log10(truth) if truth > 0 else -math.inf
                    if exceeds(found, 2 * row.log10, 2 * row.log10):
                        off = _off(graph, weights, source, between, values[source])
                        if truth > off and exceeds(2 * math.log10(truth - off), 2 * row.log10, 2 * row.log10):
                            yield row, found / 2


def _off(graph: LayerGraph, weights: Weights, source: str, between: tuple[str, ...], x: Tensor) -> float:
    """Return the rounding of the Jacobian of nodes that follow one another; 0 where they branch."""
    sources = (source, *between[:-1])
    if any(graph.inputs(name) != (before,) for name, before in zip(between, sources, strict=True)):
        return 0.0
    functions = [
        fragment_module(graph, weights, before, (name,)) for name, before in zip(between, sources, strict=True)
    ]
    return rounding(functions, x[None])


def _log10_size(quantity: Quantity, value: Tensor) -> float:
    """Logarithm of what a bound on values bounds, in units in which no square overflows."""
    unit = value.abs().max()
    if unit == 0:
        return -math.inf
    parts = {
        Quantity.ENTRY_BOUND: value.flatten()[:, None],
        Quantity.TOKEN_NORM: value,
        Quantity.NORM_BOUND: value.flatten(),
    }
    return math.log10((parts[quantity] / unit).norm(dim=-1).max().item()) + math.log10(unit.item())


def _fragment_single(graph: LayerGraph, weights: Weights, source: str, members: tuple[str, ...]) -> Function:
    module = fragment_module(graph, weights, source, members)
    return lambda v: module(v[None])[0]


def _feeds(graph: LayerGraph, node: str, source: str, end: str) -> bool:
    """Whether ``node`` lies on a path from ``source`` (excluded) to ``end``."""
    if node == source:
        return False
    ancestors = nx.ancestors(graph.digraph, end) | {end}
    return node in ancestors and source in nx.ancestors(graph.digraph, node)


def _support(lemma: Lemma) -> set[int]:
    needed: set[int] = set()
    pending = [lemma.gain]
    while pending:
        index = pending.pop()
        needed.add(index)
        pending += lemma.steps[index].premises
    return needed


def fragment_module(graph: LayerGraph, weights: Weights, entry: str, members: tuple[str, ...]) -> GraphModule:
    """Return the map from node ``entry`` through ``members`` as a module of its own, with its share of the weights."""
    names = tuple(f"m{k}" for k in range(len(members)))
    body = graph.fragment(entry, members, names)
    chosen = {}
    for name, member in zip(names, members, strict=True):
        for key, tensor in weights.items():
            if key == member or key.startswith(f"{member}."):
                chosen[name + key[len(member) :]] = tensor
    return instantiate(body, weights=chosen, dtype=torch.float64)
