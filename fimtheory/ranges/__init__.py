"""Certified bounds on the values at a node, for every input in a box: one function per layer type, by family.

A theorem about a product of values assumes bounds on them; here the assumption gets its number.  A function takes
the flow through a layer and the ranges of what the layer reads, and returns the range of its output, rounded outward.
There is no default, and a layer whose output is bounded whatever flows in reads nothing.
Importing this package registers the functions.
"""

from __future__ import annotations

from fimtheory.ranges import affine, elementwise, joins, movement, normalisation, products, reductions, resampling
from fimtheory.ranges.base import RANGED, Flow, Range, bounded, ranged, spread
from fimtheory.ranges.walk import Ranges

__all__ = [
    "RANGED",
    "Flow",
    "Range",
    "Ranges",
    "affine",
    "bounded",
    "elementwise",
    "joins",
    "movement",
    "normalisation",
    "products",
    "ranged",
    "reductions",
    "resampling",
    "spread",
]
