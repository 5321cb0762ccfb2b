"""The built-in rules, one file per family of layers.  Importing this package registers them."""

from __future__ import annotations

from fimtheory.rules import (
    activations,
    attention,
    batch_norms,
    channel_norms,
    constants,
    convolutions,
    learned_activations,
    linear,
    max_pooling,
    movement,
    normalisation,
    parameters,
    pooling,
    products,
    reductions,
    resampling,
    shapes,
    softmax,
    structure,
    values,
)

__all__ = [
    "activations",
    "attention",
    "batch_norms",
    "channel_norms",
    "constants",
    "convolutions",
    "learned_activations",
    "linear",
    "max_pooling",
    "movement",
    "normalisation",
    "parameters",
    "pooling",
    "products",
    "reductions",
    "resampling",
    "shapes",
    "softmax",
    "structure",
    "values",
]
