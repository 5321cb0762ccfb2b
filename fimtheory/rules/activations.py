"""Elementwise layers: interval of slopes, gain, and growth of the Jacobian in the mean.

Every statement follows from the slopes.  Gain: the largest absolute slope (mean value theorem; the supremum is the
exact Lipschitz constant of a one-variable function).  Jacobian variance: multiplying row c of J by phi'(h_c) gives
``E ||J_out||_F^2 = sum_c E phi'(h_c)^2 ||J_c||^2``; when h is symmetric, h_c and -h_c are equally likely given
||J_c||, so the factor is at most ``sup_h (phi'(h)^2 + phi'(-h)^2) / 2`` at any finite width; otherwise it is at most
the gain squared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sympy

from fimtheory import layers
from fimtheory.claims import Claim, Quantity, Reference, Relation, Status
from fimtheory.registry import Site, rule
from fimtheory.symmetry import Symmetry

__all__ = ["ACTIVATIONS", "Slopes"]

_ONE = sympy.Integer(1)
_HALF = sympy.Rational(1, 2)


@dataclass(frozen=True, slots=True)
class Slopes:
    """Derivatives of an activation: all lie in [low, high].

    ``even_mean_square`` bounds ``(phi'(h)^2 + phi'(-h)^2) / 2``; ``odd`` says phi(-h) = -phi(h); ``tight`` says
    the end of the interval with the larger absolute value is approached.
    """

    low: sympy.Expr
    high: sympy.Expr
    even_mean_square: sympy.Expr
    odd: bool = False
    tight: bool = True

    @property
    def gain(self) -> sympy.Expr:
        """Largest absolute slope."""
        return sympy.Max(sympy.Abs(self.low), sympy.Abs(self.high))


def _reflected(high: sympy.Expr, *, tight: bool = True) -> Slopes:
    """Slopes of an activation with phi(h) - phi(-h) = h, whose slopes at h and -h add to one.

    With s = phi'(h) the mean square is (s^2 + (1 - s)^2)/2 = s^2 - s + 1/2, convex in s, hence largest at the ends
    s = high and s = 1 - high.
    """
    low = _ONE - high
    return Slopes(low, high, high**2 - high + _HALF, tight=tight)


def _monotone_odd(high: sympy.Expr) -> Slopes:
    return Slopes(sympy.Integer(0), high, high**2, odd=True)


def _exact(value: float) -> sympy.Expr:
    return sympy.Rational(value)


def _leaky(negative: sympy.Expr) -> Slopes:
    return Slopes(sympy.Min(_ONE, negative), sympy.Max(_ONE, negative), (1 + negative**2) / 2)


def _elu(scale: sympy.Expr, alpha: sympy.Expr) -> Slopes:
    """Slope is ``scale`` on the right and ``scale alpha e^h`` on the left."""
    ends = (scale, scale * alpha)
    return Slopes(sympy.Min(0, *ends), sympy.Max(0, *ends), (scale**2 + (scale * alpha) ** 2) / 2)


def _clamped(low: float | None, high: float | None) -> Slopes:
    """Slope is 1 between the ends and 0 outside; never 1 at both h and -h if the ends lie on one side of zero."""
    one_sided = (low is not None and low > 0) or (high is not None and high < 0)
    mean_square = _HALF if one_sided else _ONE
    return Slopes(sympy.Integer(0), _ONE, mean_square, odd=low is not None and high is not None and low == -high)


# The decimal constants are the suprema rounded up in the last digit; a test brackets each by interval arithmetic.
_GELU_SUP = (1 + sympy.erf(1)) / 2 + sympy.exp(-1) / sympy.sqrt(sympy.pi)
_GELU_TANH_SUP = sympy.Rational("1.1289930686588")
_SILU_SUP = sympy.Rational("1.0998393201289")
_MISH_SUP = sympy.Rational("1.0884981612518")
_MISH_INF = sympy.Rational("-0.1125262")
_SELU_SCALE = sympy.Rational("1.0507009873554804934193349852946")
_SELU_ALPHA = sympy.Rational("1.6732632423543772848170429916717")

ACTIVATIONS: dict[type[layers.Layer], tuple[Callable[..., Slopes], Reference]] = {
    layers.ReLU: (lambda f: _reflected(_ONE), Reference("gouk2021", "section 3.4")),
    layers.ReLU6: (lambda f: Slopes(sympy.Integer(0), _ONE, _HALF), Reference("gouk2021", "section 3.4")),
    layers.LeakyReLU: (lambda f: _leaky(_exact(f.negative_slope)), Reference("gouk2021", "section 3.4")),
    layers.ELU: (lambda f: _elu(_ONE, _exact(f.alpha)), Reference("fimtheory")),
    layers.CELU: (lambda f: _elu(_ONE, _ONE), Reference("fimtheory")),
    layers.SELU: (lambda f: _elu(_SELU_SCALE, _SELU_ALPHA), Reference("klambauer2017", "equation 2")),
    layers.GELU: (lambda f: _reflected(_GELU_SUP), Reference("hendrycks2016", "section 2")),
    layers.GELUTanh: (lambda f: _reflected(_GELU_TANH_SUP, tight=False), Reference("hendrycks2016", "section 2")),
    layers.SiLU: (lambda f: _reflected(_SILU_SUP, tight=False), Reference("fimtheory")),
    layers.Mish: (lambda f: Slopes(_MISH_INF, _MISH_SUP, _MISH_SUP**2, tight=False), Reference("fimtheory")),
    layers.Softplus: (lambda f: _reflected(_ONE), Reference("fimtheory")),
    layers.Hardswish: (lambda f: _reflected(sympy.Rational(3, 2)), Reference("fimtheory")),
    layers.Tanh: (lambda f: _monotone_odd(_ONE), Reference("gouk2021", "section 3.4")),
    layers.Softsign: (lambda f: _monotone_odd(_ONE), Reference("fimtheory")),
    layers.Softshrink: (lambda f: _monotone_odd(_ONE), Reference("fimtheory")),
    layers.Tanhshrink: (lambda f: _monotone_odd(_ONE), Reference("fimtheory")),
    layers.Hardtanh: (
        lambda f: Slopes(sympy.Integer(0), _ONE, _ONE, odd=f.minimum == -f.maximum),
        Reference("gouk2021", "section 3.4"),
    ),
    layers.Clamp: (lambda f: _clamped(f.minimum, f.maximum), Reference("gouk2021", "section 3.4")),
    layers.Threshold: (lambda f: _clamped(f.threshold, None), Reference("gouk2021", "section 3.4")),
    layers.QuickGELU: (lambda f: _reflected(_SILU_SUP, tight=False), Reference("hendrycks2016", "section 2")),
    layers.LogSigmoid: (lambda f: _reflected(_ONE), Reference("fimtheory")),
    layers.Abs: (lambda f: Slopes(-_ONE, _ONE, _ONE), Reference("fimtheory")),
    layers.Sin: (lambda f: Slopes(-_ONE, _ONE, _ONE, odd=True), Reference("fimtheory")),
    layers.Cos: (lambda f: Slopes(-_ONE, _ONE, _ONE), Reference("fimtheory")),
    layers.Erf: (lambda f: _monotone_odd(2 / sympy.sqrt(sympy.pi)), Reference("fimtheory")),
    layers.Atan: (lambda f: _monotone_odd(_ONE), Reference("fimtheory")),
    layers.Sigmoid: (
        lambda f: Slopes(sympy.Integer(0), sympy.Rational(1, 4), sympy.Rational(1, 16)),
        Reference("gouk2021", "section 3.4"),
    ),
    layers.Hardsigmoid: (
        lambda f: Slopes(sympy.Integer(0), sympy.Rational(1, 6), sympy.Rational(1, 36)),
        Reference("fimtheory"),
    ),
}
"""Slopes of every activation without weights, as a function of the layer, and where they come from."""


def _register(kind: type[layers.Layer], slopes: Callable[..., Slopes], reference: Reference) -> None:
    @rule(kind, quantity=Quantity.SLOPES, reference=reference)
    def interval(site: Site) -> Claim:
        """Every derivative lies between the two ends: see the module and ``Slopes``."""
        found = slopes(site.layer)
        ends: Any = sympy.Tuple(found.low, found.high)
        return Claim(Relation.EQ if found.tight else Relation.LE, ends, reference)

    @rule(kind, quantity=Quantity.GAIN, reference=reference)
    def gain(site: Site) -> Claim:
        """Gain of an elementwise layer: its largest absolute slope, ``max(|low|, |high|)``.

        Conditions: none.  Proof: the mean value theorem, entry by entry; a kink lies between the slopes beside it.

        >>> from fimtheory.registry import find_rule
        >>> leaky = layers.LeakyReLU(-2.0)
        >>> find_rule((layers.LeakyReLU,), Quantity.GAIN).function(Site.of(leaky, inputs=((4,),))).expression
        2
        """
        found = slopes(site.layer)
        return Claim(Relation.EQ if found.tight else Relation.LE, found.gain, reference)

    @rule(kind, quantity=Quantity.JACOBIAN_VARIANCE, reference=Reference("hanin2020", "section 2"))
    def variance(site: Site) -> Claim:
        """Mean of the squared slopes at h and -h where the input is symmetric, else the gain squared."""
        found = slopes(site.layer)
        factor = found.even_mean_square if site.symmetric else found.gain**2
        return Claim(Relation.LE, factor, Reference("hanin2020", "section 2"), status=Status.EXPECTED)

    @rule(kind, quantity=Quantity.SYMMETRY, reference=reference)
    def symmetry(site: Site) -> Symmetry:
        """Return ODD for odd functions, which keep the symmetry of their input."""
        return Symmetry.ODD if slopes(site.layer).odd else Symmetry.BROKEN


for _kind, (_slopes, _reference) in ACTIVATIONS.items():
    _register(_kind, _slopes, _reference)
