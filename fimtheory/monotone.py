"""Structural proof that an expression is nondecreasing in given nonnegative symbols.

A bound may be evaluated by putting upper bounds in place of its symbols only if it does not decrease in any of them.
The proof is by the shape of the expression; it is sound but incomplete: ``Direction.UNKNOWN`` means no proof was
found.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Set
from typing import Any

import sympy

__all__ = ["Direction", "direction"]


class Direction(enum.Enum):
    """How an expression moves when its symbols grow."""

    CONSTANT = 0
    UP = 1
    DOWN = -1
    UNKNOWN = None


def direction(expression: Any, symbols: Set[sympy.Expr]) -> Direction:
    """Return how ``expression`` moves as any of the nonnegative ``symbols`` grows, all others fixed.

    >>> x = sympy.Symbol("x", nonnegative=True)
    >>> direction(1 / (1 + sympy.exp(-x)), {x}), direction(x - x**2, {x})
    (<Direction.UP: 1>, <Direction.UNKNOWN: None>)
    """
    if expression in symbols:
        return Direction.UP
    if not expression.args or not (expression.atoms(sympy.Symbol, sympy.Indexed) & symbols):
        return Direction.CONSTANT
    if isinstance(expression, sympy.Add | sympy.Max | sympy.Min):
        return _common(direction(part, symbols) for part in expression.args)
    if isinstance(expression, sympy.Mul):
        coefficient, factors = expression.as_coeff_mul()
        if not all(factor.is_nonnegative for factor in factors):
            return Direction.UNKNOWN
        return _scaled(_common(direction(factor, symbols) for factor in factors), coefficient)
    if isinstance(expression, sympy.exp):
        return direction(expression.args[0], symbols)
    if isinstance(expression, sympy.Pow) and expression.exp.is_number and expression.base.is_nonnegative:
        return _scaled(direction(expression.base, symbols), expression.exp)
    return Direction.UNKNOWN


def _common(directions: Iterable[Direction]) -> Direction:
    moving = {d for d in directions if d is not Direction.CONSTANT}
    return moving.pop() if len(moving) == 1 else Direction.UNKNOWN if moving else Direction.CONSTANT


def _scaled(found: Direction, sign: Any) -> Direction:
    if found in (Direction.UNKNOWN, Direction.CONSTANT) or sign.is_positive:
        return found
    if sign.is_negative:
        return Direction.DOWN if found is Direction.UP else Direction.UP
    return Direction.UNKNOWN
