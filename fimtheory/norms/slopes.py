"""Slope intervals of the activations between two layers, as centre and radius, rounded outward."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fimtheory.errors import NonFiniteError, ShapeError
from fimtheory.norms.rounding import UNDERFLOW, UNIT
from fimtheory.norms.scaling import exact_float64, magnitude_bits, scale_rows

__all__ = ["SlopeInterval", "Slopes", "scaled_slopes"]

SlopeInterval = tuple[float | Tensor, float | Tensor]
"""The ends a <= b of the slopes of one layer: two numbers, or two vectors with one entry per neuron."""


@dataclass(frozen=True, slots=True)
class Slopes:
    """Every slope d_k of neuron k satisfies ``|d_k / 2^exponent - centre_k| <= radius_k``.

    ``radius`` is exactly zero only where the slope is known, and then it is ``2^exponent centre_k``; entries have
    magnitude at most 2.
    """

    centre: Tensor
    radius: Tensor
    exponent: int

    @property
    def largest(self) -> float:
        """Upper bound on the magnitude of all slopes, in units of 2^exponent."""
        return float((self.centre.abs() + self.radius).max()) * (1.0 + 4.0 * UNIT) + UNDERFLOW


def scaled_slopes(interval: SlopeInterval, neurons: int, name: str) -> Slopes | None:
    """Convert the ends of the slopes of one layer; None if every slope is exactly zero.

    Scaling by a power of two is exact, except that ends below 2^-522 of the largest may be lost.  With c = fl((a +
    b) / 2), any c at all, [a, b] lies within max(c - a, b - c) of c, which is one subtraction and so within u,
    relative; UNDERFLOW covers what was lost or flushed.  Equal ends whose scaled value is normal were scaled exactly.

    Raises
    ------
    ShapeError
        The ends are neither numbers nor vectors with one entry per neuron.
    NonFiniteError
        An end is NaN or infinite, or a lower end is above the upper one.

    >>> slopes = scaled_slopes((-0.5, 1.5), 2, "layer 1")
    >>> slopes.centre.tolist(), slopes.exponent
    ([0.25, 0.25], 1)
    """
    ends = []
    for end in interval:
        tensor = end if isinstance(end, Tensor) else torch.tensor(float(end), dtype=torch.float64, device="cpu")
        if tensor.dim() > 0 and tensor.shape != (neurons,):
            raise ShapeError(f"slopes of {name} have shape {tuple(tensor.shape)}, but it has {neurons} neurons")
        ends.append(exact_float64(tensor, f"slopes of {name}").expand(neurons).contiguous())
    lower, upper = ends
    ordered = _order(lower) <= _order(upper)
    if not bool(ordered.all()):
        k = int((~ordered).nonzero()[0])
        raise NonFiniteError(f"slopes of {name}, neuron {k}: the interval [{lower[k]}, {upper[k]}] is empty")
    scaled = scale_rows(torch.cat(ends)[None], None, f"the slopes of {name}")
    if scaled.values is None:
        return None
    a, b = scaled.values[0].split(neurons)
    centre = 0.5 * (a + b)
    radius = torch.maximum(centre - a, b - centre) * (1.0 + 4.0 * UNIT) + UNDERFLOW
    bits = magnitude_bits(lower)
    known = (_order(lower) == _order(upper)) & ((bits == 0) | (a.abs() >= math.sqrt(UNDERFLOW)))
    centre = torch.where(known, a, centre)
    return Slopes(centre, torch.where(known, 0.0, radius), scaled.exponent)


def _order(values: Tensor) -> Tensor:
    """Integers in the order of the float64 values, whether or not the processor reads denormals."""
    bits = magnitude_bits(values)
    return torch.where(values.view(torch.int64) < 0, -bits, bits)
