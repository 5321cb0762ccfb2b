"""The inference rules about functions of one real variable, and about numbers."""

from __future__ import annotations

import itertools
from typing import Any

import sympy
from flint import arb
from sympy.core.function import AppliedUndef

from fimtheory.balls import evaluated
from fimtheory.errors import CheckError, SymbolicSizeError
from fimtheory.proofs.proof import Premises, Proof, Relates, Statement, require_premises, require_relation

__all__ = ["enclosure", "exponential", "growth", "numbers", "peak"]

_PIECES = 5_000
"""Pieces of an interval that are looked at before the rule gives up."""


def peak(claim: Statement, premises: Premises, proof: Proof) -> Any:
    """From ``0 <= (a - x) f'(x)`` for every x, ``f(x) <= f(a)``: f rises up to a and falls from there on.

    x ranges over the reals, the nonnegative or the positive numbers, as its symbol says, and a is one of them.
    Returns x, of which nothing may be assumed.
    """
    (premise,) = require_premises(premises, 1)
    require_relation(claim, Relates.LE)
    require_relation(premise, Relates.LE)
    x = _only(claim.left.free_symbols - claim.right.free_symbols, claim)
    top = _only(claim.right.free_symbols - claim.left.free_symbols, claim)
    if claim.left.subs(x, top) != claim.right:
        raise CheckError(f"the right side of {claim} is not the left one at another point")
    if (x.is_nonnegative and not top.is_nonnegative) or (x.is_positive and not top.is_positive):
        raise CheckError(f"{top} need not be in the range of {x}")
    slope = _derivative(claim.left, x, proof, top)
    if premise.left != 0 or sympy.expand(premise.right - (top - x) * slope) != 0:
        raise CheckError(f"{premise} does not say that the derivative of {claim.left} changes sign at {top}")
    return x


def growth(claim: Statement, premises: Premises, proof: Proof) -> Any:
    """From ``0 <= f'(t)`` for every t >= 0 and ``0 <= f(0)``, ``0 <= f(t)``.  Returns t, as for a peak."""
    slope, start = require_premises(premises, 2)
    for each in (claim, slope, start):
        require_relation(each, Relates.LE)
        if each.left != 0:
            raise CheckError(f"{each} does not say that something is at least 0")
    for t in sorted(claim.right.free_symbols - start.right.free_symbols, key=str):
        starts = t.is_nonnegative and not t.is_positive and _same(start.right, claim.right.subs(t, 0))
        if starts and _same(slope.right, _derivative(claim.right, t, proof)):
            return t
    raise CheckError(f"{slope.right} and {start.right} are not derivative and start of {claim.right}")


def exponential(claim: Statement, premises: Premises, proof: Proof) -> None:
    """``0 <= (s - t) (exp s - exp t)``; from ``s <= t``, ``exp s <= exp t``: the exponential function increases."""
    require_relation(claim, Relates.LE)
    if premises:
        (premise,) = require_premises(premises, 1)
        require_relation(premise, Relates.LE)
        if (claim.left, claim.right) != (sympy.exp(premise.left), sympy.exp(premise.right)):
            raise CheckError(f"{claim} does not compare the exponentials of {premise}")
        return
    powers: list[Any] = sorted(claim.right.atoms(sympy.exp), key=sympy.default_sort_key)
    points = [(power.exp, power) for power in powers] + [(sympy.Integer(0), sympy.Integer(1))]
    for (s, one), (t, other) in itertools.combinations(points, 2):
        if claim.left == 0 and _same(claim.right, (s - t) * (one - other)):
            return
    raise CheckError(f"{claim} is not 0 <= (s - t) (exp s - exp t)")


def numbers(claim: Statement, premises: Premises, proof: Proof) -> None:
    """``a <= b`` of two constants, by ball arithmetic with outward rounding."""
    require_premises(premises, 0)
    require_relation(claim, Relates.LE)
    if not _holds(claim, {}):
        raise CheckError(f"{claim} does not hold for every number in the balls of its sides")


def enclosure(claim: Statement, premises: Premises, proof: Proof) -> None:
    """``f(x) <= g(x)`` for every x that the premises ``l <= x`` and ``x <= h`` allow, in balls of parts of [l, h]."""
    below, above = require_premises(premises, 2)
    for each in (claim, below, above):
        require_relation(each, Relates.LE)
    x = _only(claim.left.free_symbols | claim.right.free_symbols, claim)
    low, high = below.left, above.right
    if (below.right, above.left) != (x, x) or not (low.is_Rational and high.is_Rational):
        raise CheckError(f"the premises of {claim} do not say between which fractions {x} lies")
    parts = [(low, high)]
    for _ in range(_PIECES):
        if not parts:
            return
        low, high = parts.pop()
        middle = (low + high) / 2
        ball = arb(evaluated(middle, {}), evaluated((high - low) / 2, {}).upper())
        if not _holds(claim, {x: ball}):
            parts += [(low, middle), (middle, high)]
    raise CheckError(f"{claim} was not shown for {x} near {float(parts[-1][0])}")


def _holds(claim: Statement, values: dict[Any, arb]) -> bool:
    """Whether both sides exist and compare for all numbers in the balls."""
    try:
        sides = [evaluated(side, values) for side in (claim.left, claim.right)]
        return all(side.is_finite() for side in sides) and bool(evaluated(claim.right - claim.left, values) >= 0)
    except SymbolicSizeError as error:
        raise CheckError(f"{claim}: {error}") from None


def _derivative(f: Any, x: Any, proof: Proof, *constants: Any) -> Any:
    """The derivative of a function that is known to be differentiable wherever x ranges."""
    chosen = (f.free_symbols | set(constants)) & {*proof.dependent, *proof.labels}
    if chosen:
        raise CheckError(f"{', '.join(map(str, chosen))} in {f} may depend on {x}")
    if not _smooth(f, x, proof):
        raise CheckError(f"{f} is not known to be differentiable in {x}")
    named = {sympy.Derivative(phi(x), x): slope(x) for phi, slope in proof.derivatives.items()}
    return sympy.diff(f, x).xreplace(named)


def _smooth(f: Any, x: Any, proof: Proof) -> bool:
    if isinstance(f, AppliedUndef):
        known = f.func in proof.derivatives and x.is_nonnegative
        return (f.args == (x,) and bool(known)) or x not in f.free_symbols
    if isinstance(f, sympy.Pow):
        base, exponent = f.args
        known = exponent.is_Rational and (base.is_positive or (exponent.is_Integer and exponent > 0))
        return bool(known) and _smooth(base, x, proof)
    if isinstance(f, sympy.Add | sympy.Mul | sympy.exp | sympy.erf):
        return all(_smooth(part, x, proof) for part in f.args)
    return (isinstance(f, sympy.Symbol) and bool(f.is_commutative)) or f.is_number


def _same(one: Any, other: Any) -> bool:
    return sympy.expand(one - other) == 0


def _only(symbols: set[Any], claim: Statement) -> Any:
    if len(symbols) != 1:
        raise CheckError(f"{claim} is not about one variable")
    return next(iter(symbols))
