"""The largest norm of a chain of linear layers over the slopes of the activations between them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from flint import arb
from torch import Tensor

from fimtheory import layers, norms
from fimtheory.balls import ball, evaluated
from fimtheory.errors import NonFiniteError
from fimtheory.layers import Layer
from fimtheory.measures.approximations import Approximation, norm_of
from fimtheory.measures.base import Place, Value, evaluates
from fimtheory.measures.folding import folded
from fimtheory.slopes import slopes_of
from fimtheory.steepness import NORMS

__all__: list[str] = []

_WIDEST = 256
"""Features of a layer up to which all layers are bounded together: it takes seconds, and minutes at ten times that."""
_MOST_PRODUCTS = 2**35
"""Multiplications in W_2 W_1 up to which two layers are bounded together."""
_STEPS = 60
_FACTORS = 2.0**100

Interval = tuple[float, float]


@evaluates("chain gain")
def chain_gain(place: Place) -> Value:
    """``sup_D ||W_m D_{m-1} ... D_1 W_1||``: by the recursion on narrow layers, else two layers at a time."""
    weights, slopes = _read(place)
    if len(weights) == 1:
        return norm_of(weights[0]), "gram-cholesky"
    if any(weight.is_zero for weight in weights):
        return ball(0), "zero"
    bounds = [_in_pairs(weights, slopes)]
    if all(max(weight.values.shape) <= _WIDEST for weight in weights):
        bounds += _together(weights, slopes)
    return min(bounds, key=lambda bound: bound[0].abs_upper())


def _read(place: Place) -> tuple[list[Approximation], list[Interval]]:
    """Return the weights, the first with the norm before it folded in, and the slopes between them."""
    weights: list[Approximation] = []
    between: list[Layer] = []
    slopes: list[Interval] = []
    for layer, tensors in zip(place.layers, place.tensors, strict=True):
        if not isinstance(layer, layers.Linear):
            between.append(layer)
            continue
        if not weights and between:
            weights.append(folded(tensors["weight"], between[0], place.tensors[0]))
        else:
            weights.append(Approximation.of(tensors["weight"]))
        if len(weights) > 1:
            slopes.append(_interval(between))
        between = []
    return weights, slopes


def _interval(activations: Sequence[Layer]) -> Interval:
    """Return an interval that contains the slopes of some activations, one after the other."""
    low, high = ball(1), ball(1)
    for layer in activations:
        ends = None if isinstance(layer, NORMS) else slopes_of(layer)
        if ends is not None:
            one, two = (evaluated(end, {}) for end in ends)
            corners = [low * one, low * two, high * one, high * two]
            low, high = corners[0], corners[0]
            for corner in corners[1:]:
                low, high = low.min(corner), high.max(corner)
    room = 1.0 + 2.0**-50  # that of the two conversions below
    least, largest = float(low.lower()), float(high.upper())
    return least * (room if least < 0 else 1 / room), largest * (room if largest > 0 else 1 / room)


def _together(weights: Sequence[Approximation], slopes: Sequence[Interval]) -> list[Value]:
    """Bound by `norms.chain` for the values, and by the product of norms for what their errors add."""
    try:
        stored = norms.chain([weight.values for weight in weights], slopes, steps=_STEPS)
    except NonFiniteError:
        return []
    exact, wide = ball(1), ball(1)
    for weight in weights:
        norm = ball(norms.dense(weight.values).upper)
        exact, wide = exact * norm, wide * (norm + ball(weight.error))
    for ends in slopes:
        wide, exact = wide * _largest(ends), exact * _largest(ends)
    total = ball(stored.upper) + (wide - exact).abs_upper()
    return [((total * ball(2) ** sum(weight.exponent for weight in weights)).abs_upper(), stored.method)]


def _in_pairs(weights: Sequence[Approximation], slopes: Sequence[Interval]) -> Value:
    """Bound W_1 and W_2 by centring, then W_3 and W_4, and so on, and multiply."""
    total, methods = ball(1), []
    for first in range(0, len(weights), 2):
        pair = weights[first : first + 2]
        if len(pair) == 1:
            total *= norm_of(pair[0])
            continue
        value = _centred(pair[0], pair[1], slopes[first])
        methods.append("product of norms" if value is None else "centred")
        if value is None:
            value = norm_of(pair[0]) * norm_of(pair[1]) * _largest(slopes[first])
        if first + 2 < len(weights):
            value *= _largest(slopes[first + 1])
        total *= value
    return total.abs_upper(), "; ".join(dict.fromkeys(methods))


def _centred(first: Approximation, second: Approximation, slopes: Interval) -> arb | None:
    """Return ``|c| ||B A|| + r ||B T|| ||T^-1 A||`` for slopes c +- r and a good diagonal T; None where too costly.

    Factors and their reciprocals as floats are inverse up to two roundings, which is less than the last factor.
    """
    hidden, inputs = first.values.shape
    if hidden * inputs * len(second.values) > _MOST_PRODUCTS:
        return None
    low, high = map(ball, slopes)
    factors = _balance(first.values, second.values)
    product = norm_of(second.times(first))
    apart = norm_of(second.scaled(factors)) * norm_of(first.transposed().scaled(1.0 / factors))
    return abs((low + high) / 2) * product + (high - low) / 2 * apart * (1 + ball(2.0**-50))


def _balance(first: Tensor, second: Tensor) -> Tensor:
    """Return factors that make the columns of B T and the rows of T^-1 A equally long."""
    root = (first.norm(dim=1) / second.norm(dim=0)).sqrt()
    usable = torch.isfinite(root) & (root < _FACTORS) & (root > 1.0 / _FACTORS)
    return torch.where(usable, root, 1.0)


def _largest(slopes: Interval) -> arb:
    return ball(max(map(abs, slopes)))
