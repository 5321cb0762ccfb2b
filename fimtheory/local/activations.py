"""Slopes of activations where the value is known to lie in an interval, one interval per neuron.

A derivative that is monotone between a few known points has its extremes over [low, high] at the ends or at those
points.  Points that are not known exactly are given by brackets: an interval that meets a bracket gets the global
extreme of the slopes, which is attained there.  Derivatives are evaluated in float64 and widened by `_ROUNDING` of the
steepest, far more than the error of torch's elementary functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from fimtheory import layers
from fimtheory.layers import Layer
from fimtheory.slopes import slopes_of

__all__ = ["Interval", "secants", "slopes"]

Interval = tuple[Tensor, Tensor]
"""Lower and upper ends, entry by entry."""

_ROUNDING = 2.0**-36
_TINY = 1e-280  # centres nearer to a kink are taken to lie on both sides: the quotients below would underflow
_NOWHERE: tuple[tuple[float, float], ...] = ()


@final
@dataclass(frozen=True, slots=True)
class _Derivative:
    """Derivative of an activation; ``extremes`` are brackets around the points where it turns or jumps."""

    of: Callable[[Tensor], Tensor]
    extremes: tuple[tuple[float, float], ...] = _NOWHERE


def _at(x: float) -> tuple[float, float]:
    return x, x


def _near(x: float) -> tuple[float, float]:
    return x - 1e-9, x + 1e-9


def _normal(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))) + x * _normal(x)


def _silu(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1.0 + x * (1.0 - s))


def _tanh(x: Tensor) -> Tensor:
    return 1.0 - torch.tanh(x).square()


def _sigmoid(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1.0 - s)


def _step(edge: float) -> Callable[[Tensor], Tensor]:
    return lambda x: (x > edge).to(x.dtype)


def _between(low: float, high: float, slope: float = 1.0) -> Callable[[Tensor], Tensor]:
    return lambda x: slope * ((x > low) & (x < high)).to(x.dtype)


_DERIVATIVES: dict[type[Layer], Callable[[Any], _Derivative]] = {
    layers.ReLU: lambda f: _Derivative(_step(0.0), (_at(0.0),)),
    layers.ReLU6: lambda f: _Derivative(_between(0.0, 6.0), (_at(0.0), _at(6.0))),
    layers.LeakyReLU: lambda f: _Derivative(
        lambda x: torch.full_like(x, float(f.negative_slope)).where(x <= 0, 1.0), (_at(0.0),)
    ),
    layers.ELU: lambda f: _Derivative(
        lambda x: torch.where(x > 0, 1.0, float(f.alpha) * torch.exp(x.clamp_max(0.0))), (_at(0.0),)
    ),
    layers.CELU: lambda f: _Derivative(
        lambda x: torch.where(x > 0, 1.0, torch.exp(x.clamp_max(0.0) / float(f.alpha))), (_at(0.0),)
    ),
    layers.GELU: lambda f: _Derivative(_gelu, (_near(math.sqrt(2.0)), _near(-math.sqrt(2.0)))),
    layers.SiLU: lambda f: _Derivative(_silu, ((2.39, 2.41), (-2.41, -2.39))),
    layers.Tanh: lambda f: _Derivative(_tanh, (_at(0.0),)),
    layers.Sigmoid: lambda f: _Derivative(_sigmoid, (_at(0.0),)),
    layers.Softplus: lambda f: _Derivative(lambda x: torch.sigmoid(float(f.beta) * x)),
    layers.LogSigmoid: lambda f: _Derivative(lambda x: torch.sigmoid(-x)),
    layers.Hardtanh: lambda f: _Derivative(
        _between(float(f.minimum), float(f.maximum)), (_at(float(f.minimum)), _at(float(f.maximum)))
    ),
    layers.Hardsigmoid: lambda f: _Derivative(_between(-3.0, 3.0, 1.0 / 6.0), (_at(-3.0), _at(3.0))),
    layers.Hardswish: lambda f: _Derivative(
        lambda x: torch.where(x >= 3.0, 1.0, torch.where(x <= -3.0, 0.0, (2.0 * x + 3.0) / 6.0)),
        (_at(-3.0), _at(3.0)),
    ),
    layers.Softsign: lambda f: _Derivative(lambda x: (1.0 + x.abs()).square().reciprocal(), (_at(0.0),)),
    layers.Abs: lambda f: _Derivative(torch.sign, (_at(0.0),)),
    layers.Atan: lambda f: _Derivative(lambda x: (1.0 + x.square()).reciprocal(), (_at(0.0),)),
    layers.Erf: lambda f: _Derivative(lambda x: torch.exp(-x.square()) * (2.0 / math.sqrt(math.pi)), (_at(0.0),)),
}
"""Activations with local slopes; the others keep their global ones, which hold on every interval."""
_KINKED = (layers.ReLU, layers.LeakyReLU)
"""Linear on both sides of zero."""


def slopes(layer: Layer, low: Tensor, high: Tensor) -> Interval | None:
    """Least and largest derivative over [low, high]; None where no slopes of the layer are known.

    >>> ends = slopes(layers.ReLU(), torch.tensor([-1.0, 0.5, -2.0]), torch.tensor([1.0, 1.0, -1.0]))
    >>> assert ends is not None
    >>> ends[0].tolist(), ends[1].tolist()
    ([0.0, 1.0, 0.0], [1.0, 1.0, 0.0])
    """
    ends = slopes_of(layer)
    if ends is None:
        return None
    room = _ROUNDING * max(1.0, abs(float(ends[0])), abs(float(ends[1])))
    least, largest = float(ends[0]) - room, float(ends[1]) + room
    made = _DERIVATIVES.get(type(layer))
    if made is None:
        return torch.full_like(low, least), torch.full_like(high, largest)
    derivative = made(layer)
    at_low, at_high = derivative.of(low), derivative.of(high)
    lower, upper = torch.minimum(at_low, at_high), torch.maximum(at_low, at_high)
    if not isinstance(layer, _KINKED):
        lower, upper = lower - room, upper + room
    for left, right in derivative.extremes:
        meets = (low <= right) & (high >= left)
        lower = torch.where(meets, float(ends[0]) if isinstance(layer, _KINKED) else least, lower)
        upper = torch.where(meets, float(ends[1]) if isinstance(layer, _KINKED) else largest, upper)
    return lower, upper


def secants(layer: Layer, centre: Interval, low: Tensor, high: Tensor) -> Interval | None:
    """Least and largest slope of a secant from a point of ``centre`` to a point of [low, high], which holds it.

    By the mean value theorem it is a slope.  Where the activation is linear on both sides of zero and the centre lies
    on one side, the secant to the far end is the extreme one: its slope is a mean of the two.

    >>> point, low, high = torch.tensor([0.9]), torch.tensor([-0.1]), torch.tensor([1.9])
    >>> ends = secants(layers.ReLU(), (point, point), low, high)
    >>> assert ends is not None
    >>> [round(end.item(), 6) for end in ends]
    [0.9, 1.0]
    """
    ends = slopes(layer, low, high)
    if ends is None or not isinstance(layer, _KINKED):
        return ends
    left, right = float(getattr(layer, "negative_slope", 0.0)), 1.0
    first, last = centre
    crosses = (low < 0) & (high > 0)
    # From z0 > 0 to z' < 0 the secant has the slope right - (right - left) |z'| / (z0 + |z'|); least z0, largest |z'|.
    to_left = right + (left - right) * (low / (low - first).clamp_max(-1e-300)).clamp(0.0, 1.0)
    to_right = left + (right - left) * (high / (high - last).clamp_min(1e-300)).clamp(0.0, 1.0)
    above, below = crosses & (first > _TINY), crosses & (last < -_TINY)
    lower, upper = ends
    room = _ROUNDING * (1.0 + abs(left))
    one = torch.minimum(torch.full_like(low, right), to_left), torch.maximum(torch.full_like(low, right), to_left)
    other = torch.minimum(torch.full_like(low, left), to_right), torch.maximum(torch.full_like(low, left), to_right)
    for side, (a, b) in ((above, one), (below, other)):
        lower, upper = torch.where(side, a - room, lower), torch.where(side, b + room, upper)
    return torch.maximum(lower, ends[0]), torch.minimum(upper, ends[1])
