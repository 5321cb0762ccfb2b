"""Slopes of activations: between which numbers every derivative of an elementwise layer lies."""

from __future__ import annotations

from typing import Any

import sympy

from fimtheory.claims import Quantity
from fimtheory.layers import Layer
from fimtheory.registry import Site, find_rule

__all__ = ["slopes_of"]


def slopes_of(layer: Layer) -> tuple[sympy.Expr, sympy.Expr] | None:
    """Return the least and the largest slope of an activation, None where they are not known as numbers.

    >>> from fimtheory import layers
    >>> slopes_of(layers.ReLU()), slopes_of(layers.Flatten())
    ((0, 1), None)
    """
    found = find_rule((type(layer),), Quantity.SLOPES)
    if found is None:
        return None
    ends: Any = found.claim(Site((layer,), ("",), ((),), ())).expression.args
    low, high = ends
    return (low, high) if low.is_number and high.is_number else None
