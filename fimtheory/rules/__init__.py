"""The built-in rules, one file per family of layers.  Importing this package registers them."""

from __future__ import annotations

from fimtheory.rules import (
    activations,
    attention,
    learned_activations,
    linear,
    normalisation,
    parameters,
    pooling,
    shapes,
    structure,
)

__all__ = [
    "activations",
    "attention",
    "learned_activations",
    "linear",
    "normalisation",
    "parameters",
    "pooling",
    "shapes",
    "structure",
]
