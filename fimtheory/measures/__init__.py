"""How each measure is read off weights and sizes: the certified numbers that enter a bound, one file per family.

A measure's function gets the layers of a run, their tensors and the shape that flows in, and returns a ball that
contains the number, or whose upper end is at least the number, with the name of the certificate.
Importing this package registers the functions.
"""

from __future__ import annotations

from fimtheory.measures import (
    attention,
    chains,
    constants,
    measured_graph,
    normalisation,
    operators,
    residuals,
    stacks,
    weights,
)
from fimtheory.measures.base import EVALUATIONS, Place, evaluates, measured_value
from fimtheory.measures.measured_graph import MeasuredGraph

__all__ = [
    "EVALUATIONS",
    "MeasuredGraph",
    "Place",
    "attention",
    "chains",
    "constants",
    "evaluates",
    "measured_graph",
    "measured_value",
    "normalisation",
    "operators",
    "residuals",
    "stacks",
    "weights",
]
