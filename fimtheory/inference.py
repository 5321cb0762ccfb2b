"""Inference rules: how claims about parts give a claim about the whole.

Both the deriver and the kernel use these; the first chooses which to apply, the second checks that it may be applied.

Notation: L(u -> v) is the Lipschitz constant of node v as a function of node u; C(u -> v) is a factor with
``E ||J_v||_F^2 <= C E ||J_u||_F^2`` for Jacobians with respect to anything upstream of u.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy

from fimtheory.claims import Claim, Condition, Quantity, Reference, Relation, Status
from fimtheory.errors import MissingRuleError
from fimtheory.expressions import nonnegative
from fimtheory.graph import LayerGraph
from fimtheory.layers import Add, Concat
from fimtheory.registry import Site, measure
from fimtheory.symmetry import orthogonal

__all__ = [
    "BOUNDED", "COMPOSITIONS", "RADII", "Combine", "assumed", "composed", "concat", "concat_variance",
    "dependent_sum", "expected_head", "expected_softmax", "join_rule", "least", "orthogonal_sum", "repeated",
    "scope_of", "series", "step_name", "total", "worst_case_head", "worst_case_softmax", "worst_case_stack",
]  # fmt: skip

Combine = Callable[[Sequence[sympy.Expr]], sympy.Expr]

_REFERENCE = Reference("horn2013", "section 5.6")
measure("token radius", suffix="R", latex="R", meaning="largest norm of a token there, which the theorem assumes")
measure("entry radius", suffix="E", latex="E", meaning="largest absolute entry there, which the theorem assumes")
measure("norm radius", suffix="N", latex="N", meaning="largest norm there, which the theorem assumes")


def series(parts: Sequence[sympy.Expr]) -> sympy.Expr:
    """C1, ``L(u -> w) <= L(u -> v) L(v -> w)`` (chain rule); the same for C.

    >>> series(sympy.symbols("a b"))
    a*b
    """
    return sympy.Mul(*parts)


def total(parts: Sequence[sympy.Expr]) -> sympy.Expr:
    """C2, ``L(sum) <= sum of L`` (triangle inequality).

    >>> total(sympy.symbols("a b"))
    a + b
    """
    return sympy.Add(*parts)


def concat(parts: Sequence[sympy.Expr]) -> sympy.Expr:
    """C3, ``L([v_1, ..., v_m]) <= sqrt(sum of L^2)``: ``||[A_1; ...; A_m] u||^2 = sum ||A_k u||^2``.

    >>> a = sympy.Symbol("a", nonnegative=True)
    >>> concat([sympy.Integer(1), a])
    sqrt(a**2 + 1)
    """
    return sympy.sqrt(sympy.Add(*(part**2 for part in parts)))


def least(parts: Sequence[sympy.Expr]) -> sympy.Expr:
    """Two bounds on the same map: the smaller one holds.

    >>> least(sympy.symbols("a b"))
    Min(a, b)
    """
    return sympy.Min(*parts)


def orthogonal_sum(parts: Sequence[sympy.Expr]) -> sympy.Expr:
    """``C(sum) <= sum of C`` where ``E <J_a, J_b> = 0`` for every pair (see ``fimtheory.symmetry``)."""
    return sympy.Add(*parts)


def dependent_sum(parts: Sequence[sympy.Expr]) -> sympy.Expr:
    """``C(sum) <= (sum of sqrt(C))^2`` always (Minkowski's inequality in L2 of random matrices)."""
    return sympy.Add(*(sympy.sqrt(part) for part in parts)) ** 2


def concat_variance(parts: Sequence[sympy.Expr]) -> sympy.Expr:
    """``C([v_1, ..., v_m]) = sum of C``: Frobenius norms of stacked matrices add in square."""
    return sympy.Add(*parts)


COMPOSITIONS: dict[tuple[Quantity, str], Combine] = {
    (Quantity.GAIN, "series"): series,
    (Quantity.GAIN, "sum"): total,
    (Quantity.GAIN, "concat"): concat,
    (Quantity.GAIN, "minimum"): least,
    (Quantity.JACOBIAN_VARIANCE, "series"): series,
    (Quantity.JACOBIAN_VARIANCE, "orthogonal sum"): orthogonal_sum,
    (Quantity.JACOBIAN_VARIANCE, "dependent sum"): dependent_sum,
    (Quantity.JACOBIAN_VARIANCE, "concat"): concat_variance,
}
"""How premises combine, by quantity and name of the inference rule."""


def join_rule(body: LayerGraph, flipped: Mapping[str, frozenset[str]], quantity: Quantity, node: str) -> str:
    """Return the name of the inference rule that applies where several nodes meet.

    Raises
    ------
    MissingRuleError
        The node is neither a sum nor a concatenation.
    """
    layer = body.layer(node)
    if isinstance(layer, Concat):
        return "concat"
    if isinstance(layer, Add):
        if quantity is Quantity.GAIN:
            return "sum"
        return "orthogonal sum" if orthogonal(body, flipped, body.inputs(node)) else "dependent sum"
    raise MissingRuleError(f"node {node}: no rule joins the inputs of layer type {type(layer).__name__}")


def composed(quantity: Quantity, expression: sympy.Expr) -> Claim:
    """Return the claim that an inference rule makes."""
    status = Status.EXACT if quantity is Quantity.GAIN else Status.EXPECTED
    return Claim(Relation.LE, expression, _REFERENCE, status=status)


RADII: dict[Quantity, tuple[str, str]] = {
    Quantity.ENTRY_BOUND: ("entry radius", "Every entry at {where} is at most ${radius}$ in absolute value."),
    Quantity.TOKEN_NORM: ("token radius", "Every token at {where} has norm at most ${radius}$."),
    Quantity.NORM_BOUND: ("norm radius", "What flows through {where} has norm at most ${radius}$."),
}
"""For each bound on values: the measure that stands for it where it is assumed, and the assumption in words."""


def assumed(quantity: Quantity, letter: str, index: sympy.Expr | None, node: str) -> Claim:
    """Return the claim that a bound on the values at ``node`` holds, under that assumption."""
    kind, sentence = RADII[quantity]
    radius = Site((), (node,), (), (), letter, index).measured(kind)
    statement = sentence.format(where=f"{node} (lemma {letter})", radius=sympy.latex(radius.symbol))
    return Claim(Relation.LE, radius.symbol, _REFERENCE, (Condition(statement),), (radius,))


_PREFIXES = {
    Quantity.GAIN: {"layer": "l", "region": "M", "identity": "I", "block": "L", "sum": "S", "centred": "Z"},
    Quantity.JACOBIAN_VARIANCE: {"layer": "c", "region": "B", "identity": "J", "block": "C"},
    Quantity.ENTRY_BOUND: {"layer": "E"},
    Quantity.TOKEN_NORM: {"layer": "R"},
    Quantity.NORM_BOUND: {"layer": "N"},
}
BOUNDED = frozenset(_PREFIXES)
"""Quantities that a derivation's steps bound."""


def step_name(quantity: Quantity, scope: str, letter: str, node: str, index: sympy.Expr | None) -> sympy.Expr:
    """Return the symbol that a step about ``node`` introduces.

    ``scope`` is "layer" for one layer by itself, "sum" and "centred" for the two bounds on a residual block of which
    the smaller one is taken, else as ``scope_of`` says.
    """
    return nonnegative(f"{_PREFIXES[quantity][scope]}_{letter}_{node}", index)


def scope_of(source: str, target: str, block_input: str) -> str:
    """Return "block" for what is bounded from the block's input on, "region" from a node inside the block on.

    Where a region starts another ends, so the identity there needs a scope of its own: "identity".
    """
    if source == block_input:
        return "block"
    return "identity" if source == target else "region"


def repeated(factor: sympy.Expr, index: sympy.Symbol | None, count: int | sympy.Expr) -> sympy.Expr:
    """Return the product of a lemma's conclusion over its instances 1, ..., count.

    >>> i = sympy.Symbol("i", integer=True, positive=True)
    >>> repeated(sympy.IndexedBase("a")[i], i, 3), repeated(sympy.Integer(2), i, 3)
    (Product(a[i], (i, 1, 3)), 8)
    """
    if index is None:
        return factor
    if not factor.has(index):
        constant: Any = factor
        return constant**count
    product: Any = sympy.Product(factor, (index, 1, count))
    return product


def worst_case_head(diameter: sympy.Expr, gains: Sequence[sympy.Expr], temperature: sympy.Expr) -> sympy.Expr:
    """T5, logits ``W g(x) + b``: ``lam <= D_W^2 L(g)^2 / (4 tau^2)`` with D_W the largest distance of two rows.

    F = J_g^T W^T S_p W J_g / tau^2, and ``u^T W^T S_p W u`` is the variance under p of ``w_y . u``, whose range is at
    most ``D_W ||u||``; Popoviciu's inequality gives a quarter of the squared range.  ``gains`` are squared already.
    """
    return sympy.Mul(diameter**2, sympy.Rational(1, 4), temperature**-2, *gains)


def worst_case_stack(gain: sympy.Expr, gains: Sequence[sympy.Expr], temperature: sympy.Expr) -> sympy.Expr:
    """T5 for a stack: ``lam <= R_W^2 L(h)^2 / (4 tau^2)``, R_W bounding all differences of two logits (``stacks``)."""
    return sympy.Mul(gain**2, sympy.Rational(1, 4), temperature**-2, *gains)


def worst_case_softmax(gains: Sequence[sympy.Expr], temperature: sympy.Expr) -> sympy.Expr:
    """T4, any logits: ``lam <= ||S_p|| L(f)^2 / tau^2 <= L(f)^2 / (2 tau^2)``.  ``gains`` are squared already."""
    return sympy.Mul(sympy.Rational(1, 2), temperature**-2, *gains)


def expected_head(
    growth: sympy.Expr,
    factors: Sequence[sympy.Expr],
    dimension: int | sympy.Expr,
    classes: int | sympy.Expr,
    temperature: sympy.Expr,
) -> sympy.Expr:
    """Expected bound for logits ``W g(x)`` with independent zero-mean rows of W: ``E lam <= E tr F``, bounded by

    ``(1/2) (1 - 1/K) d v C(g) / tau^2``.  With C = I - 11^T/K, ``tr F = tr(S_p C J J^T C) <= ||C J||_F^2 / 2`` for
    every p, and ``E ||C J||_F^2 = (1 - 1/K) E ||J||_F^2`` because the rows are independent with mean zero.  d is the
    input dimension, ``||I_d||_F^2``.
    """  # noqa: D400
    share = sympy.Rational(1, 2) * (1 - sympy.Integer(1) / classes)
    return sympy.Mul(share, dimension, growth, temperature**-2, *factors)


def expected_softmax(factors: Sequence[sympy.Expr], dimension: int | sympy.Expr, temperature: sympy.Expr) -> sympy.Expr:
    """Any logits: ``E lam <= E ||J||_F^2 / (2 tau^2)``."""
    return sympy.Mul(sympy.Rational(1, 2), dimension, temperature**-2, *factors)
