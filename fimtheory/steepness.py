"""How steep a normalisation is: at most 1 / sqrt(v + eps) where the variance, or the mean square, is at least v."""

from __future__ import annotations

import sympy

from fimtheory.claims import Condition, Measured
from fimtheory.layers import LayerNorm, RMSNorm
from fimtheory.registry import Site

__all__ = ["NORMS", "steepness"]

_STATEMENTS = {
    LayerNorm: "Every token that enters a layer norm has variance",
    RMSNorm: "Every token that enters an RMS norm has a mean square of",
}
NORMS = tuple(_STATEMENTS)
"""Norms over the last dimension, of which a theorem may assume a least variance."""


def steepness(site: Site) -> tuple[sympy.Expr, Measured, tuple[Condition, ...]]:
    """Return 1 / sqrt(v + eps) for the norm at a site, the epsilon in it, and what is assumed of v.

    Without an assumption v is 0.

    >>> from fimtheory import rules
    >>> steepness(Site.of(LayerNorm(4), inputs=((4,),), node="ln"))[0]
    1/sqrt(ln_eps)
    """
    epsilon = site.measured("epsilon")
    if site.token_variance is None:
        return 1 / sympy.sqrt(epsilon.symbol), epsilon, ()
    statement = f"{_STATEMENTS[type(site.layer)]} at least ${sympy.latex(site.token_variance)}$."
    return 1 / sympy.sqrt(site.token_variance + epsilon.symbol), epsilon, (Condition(statement),)
