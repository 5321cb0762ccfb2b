"""Scales, shifts and epsilons of normalisation layers, and the slopes of a PReLU."""

from __future__ import annotations

import math
from typing import Any

import torch

from fimtheory import norms
from fimtheory.balls import ball
from fimtheory.measures.base import Place, Value, certified, evaluates


@evaluates("centred scale")
def centred_scale(place: Place) -> Value:
    """``||diag(gamma) (I - 11^T/n)||``."""
    return certified(norms.centred_scale(place.tensors[0]["weight"].flatten()))


@evaluates("group scale")
def group_scale(place: Place) -> Value:
    """``max_g ||diag(gamma_g) (I - 11^T/n)||``; without a scale, gamma is 1."""
    layer: Any = place.layers[0]
    channels, *rest = place.sizes()
    gamma = place.tensors[0].get("weight", torch.ones(channels, dtype=torch.float64))
    if math.prod(rest) > 1:
        return certified(norms.diagonal(gamma))
    groups = [norms.centred_scale(part) for part in gamma.split(channels // int(layer.groups))]
    return certified(max(groups, key=lambda norm: norm.upper))


@evaluates("largest scale")
def largest_scale(place: Place) -> Value:
    """``max_k |gamma_k|``."""
    return certified(norms.diagonal(place.tensors[0]["weight"]))


@evaluates("shift norm")
def shift_norm(place: Place) -> Value:
    """``||beta||``."""
    return certified(norms.vector(place.tensors[0]["bias"]))


@evaluates("epsilon")
def epsilon(place: Place) -> Value:
    """The layer's epsilon, the float it is."""
    layer: Any = place.layers[0]
    return ball(layer.eps), "exact"


@evaluates("response gain")
def response_gain(place: Place) -> Value:
    """``k^-beta (1 + 2 sqrt(m) (beta/(beta+1))^(beta+1))``, m channels in a window at most."""
    layer: Any = place.layers[0]
    beta = ball(layer.beta)
    most = min(int(layer.size), place.sizes()[0])
    slope = 2 * ball(most).sqrt() * (beta / (beta + 1)) ** (beta + 1)
    return ball(layer.k) ** -beta * (1 + slope), "closed form"


@evaluates("largest slope")
def largest_slope(place: Place) -> Value:
    """Largest absolute slope of a PReLU."""
    return certified(norms.diagonal(place.tensors[0]["weight"]))
