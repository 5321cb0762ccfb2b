"""Closed forms in ball arithmetic: outward rounding, and exponents without limit (python-flint's arb)."""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Mapping
from typing import Any

import sympy
from flint import arb, ctx, fmpq

from fimtheory.errors import SymbolicSizeError

__all__ = ["PRECISION", "ball", "evaluated", "log10_upper", "lower_float", "power_of_ten", "upper_float"]

PRECISION = 128
"""Bits of the midpoint of every ball."""


def ball(value: float | int) -> arb:
    """Return the exact ball of a finite float or an int.

    A float below the normal ones is read by its bits, as arithmetic may take it for zero.
    """
    ctx.prec = PRECISION
    if isinstance(value, float):
        (bits,) = struct.unpack("<Q", struct.pack("<d", value))
        sign, magnitude = divmod(bits, 2**63)
        if magnitude < 2**52:
            return arb((-1) ** sign * magnitude) * arb(2) ** -1074
    return arb(value)


def evaluated(expression: sympy.Expr, values: Mapping[sympy.Expr, arb]) -> arb:
    """Return a ball that contains ``expression`` with the symbols replaced by ``values``.

    Raises
    ------
    SymbolicSizeError
        A symbol has no value, or a number is a float.

    >>> x = sympy.Symbol("x", nonnegative=True)
    >>> evaluated(sympy.sqrt(x) / 3, {x: ball(4)}).contains(arb(2) / 3)
    True
    """
    ctx.prec = PRECISION
    return _evaluated(expression, values)


def _evaluated(expression: Any, values: Mapping[sympy.Expr, arb]) -> arb:
    known = values.get(expression)
    if known is not None:
        return known
    if isinstance(expression, sympy.Rational):
        return arb(fmpq(int(expression.p), int(expression.q)))
    if isinstance(expression, sympy.Product):
        index, lower, upper = expression.limits[0]
        if not (lower.is_Integer and upper.is_Integer):
            raise SymbolicSizeError(f"the product runs to {upper}; give the symbol a number with graph.subs")
        product = arb(1)
        for k in range(int(lower), int(upper) + 1):
            product *= _evaluated(expression.function.xreplace({index: sympy.Integer(k)}), values)
        return product
    parts = [_evaluated(part, values) for part in expression.args]
    if isinstance(expression, sympy.Add):
        return sum(parts, arb(0))
    if isinstance(expression, sympy.Mul):
        return math.prod(parts, start=arb(1))
    if isinstance(expression, sympy.Pow):
        return _power(parts[0], expression.exp)
    if isinstance(expression, sympy.Max | sympy.Min):
        result = parts[0]
        for part in parts[1:]:
            result = result.max(part) if isinstance(expression, sympy.Max) else result.min(part)
        return result
    if isinstance(expression, sympy.exp):
        return parts[0].exp()
    if isinstance(expression, sympy.erf):
        return parts[0].erf()
    if expression is sympy.pi:
        return arb.pi()
    if expression is sympy.E:
        return arb(1).exp()
    if isinstance(expression, sympy.Float):
        raise SymbolicSizeError(f"{expression} is a rounded number; write it exactly, by sympy.Rational")
    raise SymbolicSizeError(f"{expression} has no value; replace symbolic sizes by numbers with graph.subs")


def _power(base: arb, exponent: Any) -> arb:
    if exponent.is_Integer:
        return base ** int(exponent)
    if exponent == sympy.Rational(1, 2):
        return base.sqrt()
    if exponent == sympy.Rational(-1, 2):
        return 1 / base.sqrt()
    raise SymbolicSizeError(f"the power {exponent} is not one that closed forms use")


def log10_upper(value: arb) -> float:
    """Return a float that is at least log10 of a nonnegative ball's upper end; -inf for zero."""
    ctx.prec = PRECISION
    top = value.abs_upper()
    if top == 0:
        return -math.inf
    return _up((top.log() / arb(10).log()).upper())


def upper_float(value: arb) -> float | None:
    """Return a float that is at least a nonnegative ball's upper end; None beyond the range of floats.

    A denormal number could be flushed to zero, so a positive one below the smallest normal number is rounded up to it.
    """
    top = value.abs_upper()
    if top == 0:
        return 0.0
    made = max(_up(top), sys.float_info.min)
    return None if math.isinf(made) else made


def lower_float(value: arb) -> float:
    """Return a float that is at most the lower end of a nonnegative ball: 0 below the normal numbers, inf for inf.

    >>> 0.333 < lower_float(arb(1) / 3) <= 1 / 3, lower_float(arb(2) ** 5000) == sys.float_info.max
    (True, True)
    """
    ctx.prec = PRECISION
    if value == arb.pos_inf():
        return math.inf
    bottom = value.lower()
    if not bottom >= sys.float_info.min:  # also where nothing is known
        return 0.0
    if bottom >= sys.float_info.max:
        return sys.float_info.max
    nearest = float(bottom)
    return nearest if arb(nearest) <= bottom else math.nextafter(nearest, 0)


def power_of_ten(exponent: float) -> arb:
    """Return a ball that contains ``10**exponent``; 0 for -inf.

    >>> power_of_ten(400.5).overlaps(arb(10) ** 400 * arb(10).sqrt())
    True
    """
    ctx.prec = PRECISION
    return arb(0) if exponent == -math.inf else arb(10) ** ball(exponent)


def _up(exact: arb) -> float:
    """Round a ball of radius zero up to a float."""
    nearest = float(exact)
    return nearest if math.isinf(nearest) or arb(nearest) >= exact else math.nextafter(nearest, math.inf)
