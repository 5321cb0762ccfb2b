"""Closed forms: write a lemma's conclusion out in measured symbols, and the theorem as products over instances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy

from fimtheory import inference
from fimtheory.claims import VALUE_BOUNDS, Claim, Condition, Measured, Quantity, Status
from fimtheory.derivation import Lemma, Step, Theorem, body_of
from fimtheory.expressions import nonnegative
from fimtheory.graph import LayerGraph
from fimtheory.regions import head_of
from fimtheory.registry import Site
from fimtheory.stacks import recursion_symbol, stack_of

__all__ = ["MAX_OPERATIONS", "conclusion", "gains_before", "head_symbols", "theorem_of"]

MAX_OPERATIONS = 24
"""A step's expression with more operations than this keeps its name in the closed form."""

Definitions = dict[sympy.Expr, sympy.Expr]


def conclusion(steps: Sequence[Step], position: int) -> tuple[sympy.Expr, Definitions]:
    """Write out step ``position`` in measured symbols; token norms and long sub-expressions keep their names.

    Returns the closed form and the definitions of the names it keeps.
    """
    written: Definitions = {}
    kept: Definitions = {}
    for step in steps[: position + 1]:
        expression: Any = step.claim.expression.xreplace(written)
        long = step.quantity in VALUE_BOUNDS or expression.count_ops() > MAX_OPERATIONS
        if long and step is not steps[position]:
            kept[step.name] = expression
        else:
            written[step.name] = expression
    form = written[steps[position].name]
    used: Definitions = {}
    pending = [form]
    while pending:
        for name in _names(pending.pop()) & kept.keys() - used.keys():
            used[name] = kept[name]
            pending.append(kept[name])
    return form, {name: used[name] for name in kept if name in used}


def theorem_of(graph: LayerGraph, lemmas: Sequence[Lemma], temperature: sympy.Expr, head: str) -> Theorem:
    """Return the theorem that the lemmas and the head rule ("head" or "softmax") prove about ``graph``."""
    dimension, classes = graph.require_classifier()
    definitions: Definitions = {}
    gains: list[sympy.Expr] = []
    factors: list[sympy.Expr] = []
    for lemma in lemmas:
        _, index, count = body_of(graph, lemma)
        gain, named = conclusion(lemma.steps, lemma.gain)
        definitions |= named
        gains.append(inference.repeated(gain**2, index, count))
        if lemma.variance is not None:
            factor, named = conclusion(lemma.steps, lemma.variance)
            definitions |= named
            factors.append(inference.repeated(factor, index, count))
    in_the_mean = len(factors) == len(gains)
    expected = None
    recursion = None
    if head == "head":
        diameter, growth = head_symbols(graph)
        measured = (diameter, growth) if in_the_mean else (diameter,)
        bound = inference.worst_case_head(diameter.symbol, gains, temperature)
        stack = stack_of(graph, {instance.entry for lemma in lemmas for instance in lemma.instances})
        if stack is not None:
            recursion = recursion_symbol(stack)
            before = gains_before(graph, lemmas, stack.entry)
            bound = inference.least([bound, inference.worst_case_stack(recursion.symbol, before, temperature)])
        if in_the_mean:
            expected = inference.expected_head(growth.symbol, factors, dimension, classes, temperature)
    else:
        measured = ()
        bound = inference.worst_case_softmax(gains, temperature)
        if in_the_mean:
            expected = inference.expected_softmax(factors, dimension, temperature)
    growths = _support(lemmas, Quantity.JACOBIAN_VARIANCE) if in_the_mean else []
    heuristic = any(claim.status is Status.HEURISTIC for claim in growths)
    status = None if expected is None else Status.HEURISTIC if heuristic else Status.EXPECTED
    worst = _conditions(_support(lemmas, Quantity.GAIN))
    named = tuple(definitions.items())
    return Theorem(head, measured, bound, expected, status, worst, _conditions(growths), named, recursion)


def gains_before(graph: LayerGraph, lemmas: Sequence[Lemma], entry: str) -> list[sympy.Expr]:
    """Return the squared gains of the blocks that the input passes before it reaches a node."""
    end = graph.order.index(entry)
    made = []
    for lemma in lemmas:
        count = sum(graph.order.index(instance.entry) < end for instance in lemma.instances)
        if count:
            _, index, whole = body_of(graph, lemma)
            gain, _ = conclusion(lemma.steps, lemma.gain)
            made.append(inference.repeated(gain**2, index, whole if count == len(lemma.instances) else count))
    return made


def head_symbols(graph: LayerGraph) -> tuple[Measured, Measured]:
    """Return D_W, the row diameter of the head, and v_W, the mean square gain of its random weights."""
    name = head_of(graph)
    assert name is not None, "the head rule is used only where the output is linear"
    site = Site((graph.layer(name),), (name,), graph.input_shapes(name), graph.shapes[name])
    diameter, growth = site.measured("row diameter"), site.measured("mean square gain")
    return (
        Measured(nonnegative("D_W"), diameter.kind, diameter.nodes),
        Measured(nonnegative("v_W"), growth.kind, growth.nodes),
    )


def _support(lemmas: Sequence[Lemma], quantity: Quantity) -> list[Claim]:
    """Claims that the conclusions about ``quantity`` rest on, in order."""
    found: list[Claim] = []
    for lemma in lemmas:
        needed: set[int] = set()
        conclusions = (lemma.gain if quantity is Quantity.GAIN else lemma.variance,)
        pending = [position for position in conclusions if position is not None]
        while pending:
            position = pending.pop()
            if position not in needed:
                needed.add(position)
                pending += lemma.steps[position].premises
        found += [lemma.steps[p].claim for p in sorted(needed)]
    return found


def _conditions(claims: Sequence[Claim]) -> tuple[Condition, ...]:
    return tuple(dict.fromkeys(c for claim in claims for c in claim.conditions))


def _names(expression: sympy.Expr) -> set[sympy.Expr]:
    return expression.atoms(sympy.Symbol, sympy.Indexed)  # type: ignore[return-value]
