"""The largest gain of a difference of two logits over a stack: a chain of linear layers, or a convolutional end."""

from __future__ import annotations

import torch
from torch import Tensor

from fimtheory import layers, norms
from fimtheory.balls import ball, evaluated
from fimtheory.errors import NonFiniteError
from fimtheory.measures.base import Place, Value, certified, evaluates
from fimtheory.measures.joint_stacks import gains_one_by_one, program_of
from fimtheory.measures.operators import output_scale_of
from fimtheory.slopes import slopes_of

__all__: list[str] = []


@evaluates("pairwise recursion")
def pairwise_recursion(place: Place) -> Value:
    """R_W: batch norms multiply the slopes of the activations that follow them."""
    if any(isinstance(layer, layers.Conv2d) for layer in place.layers):
        return _jointly(place)
    weights: list[Tensor] = []
    slopes: list[tuple[Tensor, Tensor]] = []
    scale: tuple[Tensor, float] | None = None
    for layer, tensors in zip(place.layers, place.tensors, strict=True):
        if isinstance(layer, layers.Linear):
            weights.append(tensors["weight"])
        elif isinstance(layer, layers.BatchNorm1d):
            scale = _scaled(scale, output_scale_of(layer, dict(tensors)))
        elif (ends := slopes_of(layer)) is not None:
            slopes.append(_interval(ends, scale, len(weights[-1])))
            scale = None
    try:
        return certified(norms.chain_head(weights, slopes))
    except NonFiniteError:  # beyond float64; the product of norms, as balls, is not (and refuses NaN itself)
        product = ball(norms.row_diameter(weights[-1]).upper)
        for weight, (low, high) in zip(weights, slopes, strict=False):
            product *= ball(norms.dense(weight).upper) * ball(
                norms.diagonal(torch.maximum(low.abs(), high.abs())).upper
            )
        return product.abs_upper(), "product of norms"


def _jointly(place: Place) -> Value:
    """R_W where layers have several readers, or act on images: the smaller of a joint bound and of gains one by one."""
    try:
        program = program_of(place)
        found = None if program is None else norms.network_head(program, place.tensors[-1]["weight"])
        if found is not None:
            return certified(found)
    except NonFiniteError:  # too far from 1 for the joint bound; balls are not (and refuse NaN)
        pass
    return gains_one_by_one(place), "product of norms"


def _scaled(one: tuple[Tensor, float] | None, other: tuple[Tensor, float]) -> tuple[Tensor, float]:
    """Product of two vectors of factors, with a bound on its relative error."""
    if one is None:
        return other
    return one[0] * other[0], one[1] + other[1] + 2.0**-50


def _interval(ends: tuple[object, object], scale: tuple[Tensor, float] | None, neurons: int) -> tuple[Tensor, Tensor]:
    """Ends of the slopes of each neuron, its batch norm included, rounded outward."""
    low, high = (evaluated(end, {}) for end in ends)  # type: ignore[arg-type]
    factor, error = (torch.ones(neurons, dtype=torch.float64), 0.0) if scale is None else scale
    corners = torch.stack([factor * float(low.lower()), factor * float(high.upper())])
    room = corners.abs().amax(0) * (error + 2.0**-50) + 2.0**-1000
    exact = scale is None and low.is_exact() and high.is_exact()
    return (corners.amin(0), corners.amax(0)) if exact else (corners.amin(0) - room, corners.amax(0) + room)
