"""Norms of centred residual branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from flint import arb
from torch import Tensor

from fimtheory import layers, norms
from fimtheory.balls import ball, evaluated
from fimtheory.centring import interval_between
from fimtheory.errors import NonFiniteError
from fimtheory.measures.base import Place, Value, certified, evaluates
from fimtheory.measures.operators import output_scale_of
from fimtheory.norms import Correlation

__all__: list[str] = []

_LINEAR = (layers.Linear, layers.Conv1d, layers.Conv2d, layers.Conv3d)
_NORMS = (layers.BatchNorm1d, layers.BatchNorm2d, layers.BatchNorm3d)


@evaluates("centred residual")
def centred_residual(place: Place) -> Value:
    """``||P + c W_m ... W_1||``; the shortcut, if it has a layer, comes first."""
    head, *rest = _runs(place)
    branch = [*head[-1:], *(given for run in rest for given in run)]
    straight = head[0] if len(head) == 2 else _identity(branch[0])
    size, centre = _size(place), _centre(place)
    try:
        return certified(norms.centred_residual(branch, straight, size, centre))
    except NonFiniteError:  # beyond float64, as balls are not; a NaN is refused again
        alone = norms.convolution(
            straight.kernel,
            size,
            stride=straight.stride,
            padding=straight.padding,
            groups=straight.groups,
            row_scale=straight.row_scale,
        )
        share = ball(abs(centre[0])) + ball(centre[1])
        return (ball(alone.upper) + share * _product(branch, size)).abs_upper(), "sum of norms"


@evaluates("equilibrated product")
def equilibrated_product(place: Place) -> Value:
    """Product of the ``||T_k^-1 V_k T_{k-1}||``, the branch being cut at the activations that are there."""
    runs, size = _runs(place), _size(place)
    try:
        return certified(norms.equilibrated_product(runs, size))
    except NonFiniteError:
        return _product([given for run in runs for given in run], size), "product of norms"


def _product(branch: Sequence[Correlation], size: tuple[int, ...]) -> arb:
    """Product of the norms of the maps with values at all positions between them, from those that the last one writes.

    However they lie to the image, n outputs in a row read s (n - 1) + k positions.
    """
    for given in branch:
        size = given.geometry(size).output_size
    total = ball(1)
    for given in reversed(branch):
        size = tuple(s * (n - 1) + k for n, k, s in zip(size, given.kernel.shape[2:], given.stride, strict=True))
        norm = norms.convolution(
            given.kernel, size, stride=given.stride, groups=given.groups, row_scale=given.row_scale
        )
        total *= ball(norm.upper)
    return total.abs_upper()


def _runs(place: Place) -> list[list[Correlation]]:
    """Return the affine maps of a place, cut at its activations."""
    runs: list[list[Correlation]] = [[]]
    for layer, tensors in zip(place.layers, place.tensors, strict=True):
        if isinstance(layer, _LINEAR):
            runs[-1].append(_correlation(layer, tensors["weight"]))
        elif isinstance(layer, _NORMS):
            last = runs[-1].pop()
            scale = output_scale_of(layer, dict(tensors))
            runs[-1].append(Correlation(last.kernel, last.stride, last.padding, scale, last.groups))
        else:
            runs.append([])
    return runs


def _correlation(layer: Any, weight: Tensor) -> Correlation:
    if isinstance(layer, layers.Linear):
        return Correlation(weight[:, :, None], (1,), (0,))
    stride, padding = tuple(map(int, layer.stride)), tuple(map(int, layer.padding))
    return Correlation(weight, stride, padding, groups=int(layer.groups))


def _identity(first: Correlation) -> Correlation:
    channels, count = first.kernel.shape[1] * first.groups, len(first.stride)
    eye = torch.eye(channels, dtype=torch.float64).reshape(channels, channels, *(1,) * count)
    return Correlation(eye, (1,) * count, (0,) * count)


def _size(place: Place) -> tuple[int, ...]:
    """Positions of the input; a linear layer acts on each alike."""
    linear = isinstance(place.layers[0], layers.Linear)
    return (1,) if linear else place.sizes()[1:]


def _centre(place: Place) -> tuple[float, float]:
    """Return the product of the middles of the slopes as a float, and a bound on its error."""
    middle = ball(1)
    for k, layer in enumerate(place.layers):
        if not isinstance(layer, (*_LINEAR, *_NORMS)):
            low, high = interval_between(layer, place.layers[k + 1])
            middle *= evaluated((low + high) / 2, {})
    nearest = float(middle.mid())
    return nearest, float((middle - nearest).abs_upper()) * (1.0 + 2.0**-50)
