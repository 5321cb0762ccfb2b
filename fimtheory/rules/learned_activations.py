"""PReLU: an activation whose slope is a weight."""

from __future__ import annotations

import sympy

from fimtheory.claims import Claim, Quantity, Reference, Relation, Status
from fimtheory.layers import PReLU
from fimtheory.registry import Site, measure, rule

__all__ = ["prelu_gain", "prelu_jacobian_variance"]

NEGATIVE_SLOPE = measure(
    "largest slope", suffix="a", latex=r"\max_c |a_c|", meaning="largest absolute slope of the negative half"
)
_INITIAL_SLOPE = sympy.Rational(1, 4)


@rule(PReLU, quantity=Quantity.GAIN, reference=Reference("gouk2021", "section 3.4"))
def prelu_gain(site: Site) -> Claim:
    """``Lip(PReLU) = max(1, max_c |a_c|)``.

    Conditions: none.  Proof: the slopes are 1 and a_c, and both occur.

    >>> prelu_gain(Site.of(PReLU(), inputs=((4,),), node="act")).expression
    Max(1, act_a)
    """
    slope = site.measured("largest slope")
    return Claim(Relation.EQ, sympy.Max(1, slope.symbol), Reference("gouk2021", "section 3.4"), measured=(slope,))


@rule(PReLU, quantity=Quantity.JACOBIAN_VARIANCE, reference=Reference("hanin2020", "section 2"))
def prelu_jacobian_variance(site: Site) -> Claim:
    """At its initial slope 1/4: factor (1 + 1/16)/2 where the input is symmetric, 1 elsewhere.

    >>> prelu_jacobian_variance(Site.of(PReLU(), inputs=((4,),), symmetric=True)).expression
    17/32
    """
    factor = (1 + _INITIAL_SLOPE**2) / 2 if site.symmetric else sympy.Integer(1)
    return Claim(Relation.LE, factor, Reference("hanin2020", "section 2"), status=Status.EXPECTED)
