"""Norms of centred residual branches."""

from __future__ import annotations

from typing import Any

import torch
from flint import arb
from torch import Tensor

from fimtheory import layers, norms
from fimtheory.balls import ball, evaluated
from fimtheory.errors import NonFiniteError
from fimtheory.measures.base import Place, Value, certified, evaluates
from fimtheory.measures.operators import output_scale_of
from fimtheory.norms import Correlation
from fimtheory.slopes import slopes_of

__all__: list[str] = []

_LINEAR = (layers.Linear, layers.Conv1d, layers.Conv2d, layers.Conv3d)


@evaluates("centred residual")
def centred_residual(place: Place) -> Value:
    """``||P + c B A||``."""
    *shortcut, first, second = _correlations(place)
    straight = shortcut[0] if shortcut else _identity(first)
    size, centre = _size(place), _centre(place)
    try:
        return certified(norms.centred_residual(first, second, straight, size, centre))
    except NonFiniteError:  # beyond float64, as balls are not; a NaN is refused again
        alone = norms.convolution(
            straight.kernel, size, stride=straight.stride, padding=straight.padding, row_scale=straight.row_scale
        )
        share = ball(abs(centre[0])) + ball(centre[1])
        return (ball(alone.upper) + share * _product(first, second, size)).abs_upper(), "sum of norms"


@evaluates("equilibrated product")
def equilibrated_product(place: Place) -> Value:
    """``||B T|| ||T^-1 A||``."""
    first, second = _correlations(place)[-2:]
    try:
        return certified(norms.equilibrated_product(first, second, _size(place)))
    except NonFiniteError:
        return _product(first, second, _size(place)), "product of norms"


def _product(first: Correlation, second: Correlation, size: tuple[int, ...]) -> arb:
    """``||B|| ||A||`` with values at all positions between them."""
    middle = first.geometry(size).output_size
    room = tuple(n + 2 * p for n, p in zip(middle, second.padding, strict=True))
    each = zip(first.kernel.shape[2:], first.stride, first.padding, strict=True)
    around = tuple(p + s * k for k, s, p in each)
    one = norms.convolution(first.kernel, size, stride=first.stride, padding=around, row_scale=first.row_scale)
    other = norms.convolution(second.kernel, room, stride=second.stride, row_scale=second.row_scale)
    return (ball(one.upper) * ball(other.upper)).abs_upper()


def _correlations(place: Place) -> list[Correlation]:
    """Return the affine maps of a branch in order: the shortcut, if it is one, the first and the second."""
    made: list[Correlation] = []
    for layer, tensors in zip(place.layers, place.tensors, strict=True):
        if isinstance(layer, _LINEAR):
            made.append(_correlation(layer, tensors["weight"]))
        elif slopes_of(layer) is None:
            last = made.pop()
            made.append(Correlation(last.kernel, last.stride, last.padding, output_scale_of(layer, dict(tensors))))
    return made


def _correlation(layer: Any, weight: Tensor) -> Correlation:
    if isinstance(layer, layers.Linear):
        return Correlation(weight[:, :, None], (1,), (0,))
    return Correlation(weight, tuple(map(int, layer.stride)), tuple(map(int, layer.padding)))


def _identity(first: Correlation) -> Correlation:
    channels, count = first.kernel.shape[1], len(first.stride)
    eye = torch.eye(channels, dtype=torch.float64).reshape(channels, channels, *(1,) * count)
    return Correlation(eye, (1,) * count, (0,) * count)


def _size(place: Place) -> tuple[int, ...]:
    """Positions of the input; a linear layer acts on each alike."""
    linear = isinstance(place.layers[0], layers.Linear)
    return (1,) if linear else place.sizes()[1:]


def _centre(place: Place) -> tuple[float, float]:
    """Return the middle of the slopes as a float, and a bound on its error."""
    slopes = next(found for layer in place.layers if (found := slopes_of(layer)) is not None)
    middle = evaluated((slopes[0] + slopes[1]) / 2, {})
    nearest = float(middle.mid())
    return nearest, float((middle - nearest).abs_upper()) * (1.0 + 2.0**-50)
