"""Activations written as formulas, recognised by proof: the formula minus the activation simplifies to zero.

Agreement on a grid would not do: ``gelu(x) + 1000 relu(x - 20)`` agrees with GELU wherever one happens to look, and has
another gain.  Both sides are brought to a normal form: exponentials for tanh and sigmoid, sums of ``ramp(x - t)`` for
everything piecewise linear, and one polynomial in x and these.  What is not proved equal is not recognised.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import sympy
import torch
from torch import Tensor, fx

from fimtheory import layers
from fimtheory.layers import Layer

__all__ = ["FORMULAS", "LEAST_THRESHOLD", "activation_of", "formula_of"]

aten: Any = torch.ops.aten

_X = sympy.Symbol("x", real=True)


class ramp(sympy.Function):  # noqa: N801  (sympy names functions in lower case)
    """The positive part of an expression, which ``positive_part`` writes by its kink where it is a line."""

    @classmethod
    def eval(cls, *arguments: Any) -> Any:
        """Return the positive part of a number; others stay as they are."""
        (argument,) = arguments
        return sympy.Max(0, argument) if argument.is_number else None


def positive_part(u: sympy.Expr) -> sympy.Expr:
    """Return the positive part of an expression; that of a line ``a (x - t)`` by the one of y = x - t.

    ``(a y)_+ = a y_+`` for a > 0, and ``(a y)_+ = |a| (-y)_+ = |a| (y_+ - y)`` for a < 0.

    >>> positive_part(3 - _X / 2)
    -x/2 + ramp(x - 6)/2 + 3
    """
    line = sympy.Poly(sympy.expand(u), _X) if u.is_polynomial(_X) else None
    if line is None or line.degree() != 1:
        return cast(sympy.Expr, ramp(u))
    slope = line.LC()
    part = cast(sympy.Expr, ramp(sympy.expand(u / slope)))
    return sympy.expand(slope * part if slope > 0 else -slope * (part - u / slope))


# ---- both sides as expressions ----------------------------------------------------------------------------------

_CONSTANTS = (
    sympy.sqrt(2), 1 / sympy.sqrt(2), sympy.sqrt(2 / sympy.pi), 2 * sympy.sqrt(2 / sympy.pi), sympy.sqrt(8 / sympy.pi),
    *(sympy.Rational(k, 6) for k in range(1, 6)), sympy.Rational(1, 3), sympy.Rational(2, 3),
    *(sympy.Rational(text) for text in ("1.702", "0.044715")),
)  # fmt: skip
"""Constants of activations that have no exact float."""


def number(value: Any) -> sympy.Expr:
    """Return what a program's float stands for: a known constant that rounds to it (in the last place), or itself.

    >>> number(0.7978845608028654), number(0.25), number(1.4142)
    (sqrt(2)/sqrt(pi), 1/4, 6368990593027355/4503599627370496)
    """
    size = abs(float(value))
    known = next((c for c in _CONSTANTS if abs(float(c) - size) <= math.ulp(size)), None)
    return sympy.Rational(value) if known is None else sympy.sign(value) * known


def _sigmoid(u: sympy.Expr) -> sympy.Expr:
    return 1 / (1 + sympy.exp(-u))


def _tanh(u: sympy.Expr) -> sympy.Expr:
    return 1 - 2 / (1 + sympy.exp(2 * u))


LEAST_THRESHOLD = 20
"""Least threshold of softplus, in units of beta x, above which torch turns it linear: there it jumps by 2e-9 / beta."""


def _softplus(u: sympy.Expr, beta: Any = 1, threshold: Any = LEAST_THRESHOLD) -> sympy.Expr:
    """Softplus, like the layer, without torch's jump where it turns linear; not known where the jump is larger."""
    if threshold < LEAST_THRESHOLD:
        return cast(sympy.Expr, sympy.Function("softplus")(u, number(beta), number(threshold)))
    b = number(beta)
    return sympy.log(1 + sympy.exp(b * u)) / b


def _clipped(u: sympy.Expr, low: Any = None, high: Any = None) -> sympy.Expr:
    """Return ``min(max(u, low), high)``: ``low + (u - low)_+ - (u - high)_+`` where low is at most high."""
    if low is not None and high is not None and low > high:
        return number(high)
    above = 0 if high is None else positive_part(u - number(high))
    return (u if low is None else number(low) + positive_part(u - number(low))) - above


def _hardsigmoid(u: sympy.Expr) -> sympy.Expr:
    return _clipped(u + 3, 0, 6) / 6


def _gelu(u: sympy.Expr) -> sympy.Expr:
    return u * (1 + sympy.erf(u / sympy.sqrt(2))) / 2


def _gelu_tanh(u: sympy.Expr) -> sympy.Expr:
    return u * (1 + _tanh(sympy.sqrt(2 / sympy.pi) * (u + number(0.044715) * u**3))) / 2


_ACTIVATIONS: tuple[tuple[Layer, sympy.Expr], ...] = (
    (layers.GELU(), _gelu(_X)),
    (layers.GELUTanh(), _gelu_tanh(_X)),
    (layers.SiLU(), _X * _sigmoid(_X)),
    (layers.QuickGELU(), _X * _sigmoid(sympy.Rational("1.702") * _X)),
    (layers.Mish(), _X * _tanh(_softplus(_X))),
    (layers.Hardswish(), _X * _hardsigmoid(_X)),
    (layers.Hardsigmoid(), _hardsigmoid(_X)),
    (layers.Softsign(), _X / (1 + 2 * positive_part(_X) - _X)),
    (layers.Softplus(), _softplus(_X)),
    (layers.Tanhshrink(), _X - _tanh(_X)),
    (layers.Sigmoid(), _sigmoid(_X)),
    (layers.Tanh(), _tanh(_X)),
    (layers.ReLU6(), _clipped(_X, 0, 6)),
)
"""What each activation is, in the words of its formula."""

FORMULAS: Mapping[Any, Callable[..., sympy.Expr]] = {
    aten.add.Tensor: lambda a, b, alpha=1: a + number(alpha) * b,
    aten.add.Scalar: lambda a, b, alpha=1: a + number(alpha) * b,
    aten.sub.Tensor: lambda a, b, alpha=1: a - number(alpha) * b,
    aten.sub.Scalar: lambda a, b, alpha=1: a - number(alpha) * b,
    aten.rsub.Scalar: lambda a, b, alpha=1: b - number(alpha) * a,
    aten.mul.Tensor: lambda a, b: a * b,
    aten.mul.Scalar: lambda a, b: a * b,
    aten.div.Tensor: lambda a, b: a / b,
    aten.div.Scalar: lambda a, b: a / b,
    aten.pow.Tensor_Scalar: lambda a, b: a**b,
    aten.neg.default: lambda a: -a,
    aten.reciprocal.default: lambda a: 1 / a,
    aten.abs.default: lambda a: 2 * positive_part(a) - a,
    aten.exp.default: sympy.exp,
    aten.tanh.default: _tanh,
    aten.erf.default: sympy.erf,
    aten.sigmoid.default: _sigmoid,
    aten.relu.default: lambda a: _clipped(a, 0),
    aten.relu6.default: lambda a: _clipped(a, 0, 6),
    aten.hardtanh.default: lambda a, low=-1, high=1: _clipped(a, low, high),
    aten.clamp.default: _clipped,
    aten.clamp_min.default: _clipped,
    aten.clamp_max.default: lambda a, high: _clipped(a, None, high),
    aten.softplus.default: _softplus,
    aten.log1p.default: lambda a: sympy.log(1 + a),
    aten.hardsigmoid.default: _hardsigmoid,
    aten.hardswish.default: lambda a: a * _hardsigmoid(a),
    aten.silu.default: lambda a: a * _sigmoid(a),
}
"""Operations that act entry by entry, as functions of expressions."""

_LIMITS = {aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default, aten.hardtanh.default}
"""Operations whose numbers are limits, compared as they are."""


def formula_of(order: list[fx.Node], root: fx.Node) -> sympy.Expr | None:
    """Return what the last of some operations computes as an expression in ``root``, None where it is no formula."""
    values: dict[fx.Node, sympy.Expr] = {root: _X}
    for node in order:
        if node.kwargs.keys() - {"alpha", "min", "max"}:
            return None
        given = [values.get(each, each) if isinstance(each, fx.Node) else each for each in node.args]
        if any(isinstance(each, fx.Node | Tensor) for each in given):
            return None
        if node.target not in _LIMITS and node.target is not aten.softplus.default:
            given = [number(each) if isinstance(each, int | float) else each for each in given]
        named = {{"min": "low", "max": "high"}.get(key, key): value for key, value in node.kwargs.items()}
        values[node] = FORMULAS[node.target](*given, **named)
    return values[order[-1]]


# ---- proof ------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def activation_of(formula: sympy.Expr) -> Layer | None:
    """Return the activation that a formula is, None where none is proved equal to it.

    >>> x = sympy.Symbol("x", real=True)
    >>> activation_of(x / (1 + sympy.exp(-x))), activation_of(x / (1 + sympy.exp(-x)) + ramp(x - 800))
    (SiLU(), None)
    """
    near = [(layer, known) for layer, known in _ACTIVATIONS if _may_be_equal(formula, known)]
    return next((layer for layer, known in near if _is_zero(formula - known)), None)


def _may_be_equal(first: sympy.Expr, second: sympy.Expr) -> bool:
    """Whether two formulas agree at two points: a cheap look before the proof."""
    for point in (sympy.Rational(-7, 5), sympy.Rational(13, 10)):
        difference = sympy.N((first - second).subs(_X, point), 20)
        if not (difference.is_Float or difference.is_Integer) or abs(difference) >= 1e-15:
            return False  # a pole, or no number at all, is no agreement
    return True


def _is_zero(difference: sympy.Expr) -> bool:
    """Whether an expression is proved to be zero."""
    flat = difference.replace(sympy.exp, lambda u: sympy.exp(sympy.expand(u)))
    flat = flat.replace(sympy.erf, lambda u: sympy.erf(sympy.expand(u)))
    numerator, _ = sympy.fraction(sympy.together(sympy.expand(flat)))
    return sympy.expand(sympy.powsimp(sympy.expand(numerator))) == 0
