"""Scales, shifts and epsilons of normalisation layers, and the slopes of a PReLU."""

from __future__ import annotations

from typing import Any

from fimtheory import norms
from fimtheory.balls import ball
from fimtheory.measures.base import Place, Value, certified, evaluates


@evaluates("centred scale")
def centred_scale(place: Place) -> Value:
    """``||diag(gamma) (I - 11^T/n)||``."""
    return certified(norms.centred_scale(place.tensors[0]["weight"]))


@evaluates("shift norm")
def shift_norm(place: Place) -> Value:
    """``||beta||``."""
    return certified(norms.vector(place.tensors[0]["bias"]))


@evaluates("epsilon")
def epsilon(place: Place) -> Value:
    """The layer's epsilon, the float it is."""
    layer: Any = place.layers[0]
    return ball(layer.eps), "exact"


@evaluates("largest slope")
def largest_slope(place: Place) -> Value:
    """Largest absolute slope of a PReLU."""
    return certified(norms.diagonal(place.tensors[0]["weight"]))
