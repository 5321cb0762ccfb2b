"""Norm of an affine layer, or of one with diagonal layers folded in.

``linear_part`` registers the certified norm of a layer type's linear part, ``output_scale`` the factors by which a
diagonal layer multiplies the channels (or features) of what flows in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor

from fimtheory import norms
from fimtheory.errors import MissingRuleError
from fimtheory.layers import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Layer,
    Linear,
    PatchEmbedding,
    Shape,
)
from fimtheory.measures.base import Place, Value, certified, evaluates
from fimtheory.norms import CertifiedNorm, RowScale

__all__ = ["linear_part", "output_scale", "output_scale_of"]

Tensors = Mapping[str, Tensor]
LinearPart = Callable[[Place, RowScale | None], CertifiedNorm]
OutputScale = Callable[[Any, Tensors], RowScale]

_LINEAR_PARTS: dict[type[Layer], LinearPart] = {}
_OUTPUT_SCALES: dict[type[Layer], OutputScale] = {}
_P = TypeVar("_P", bound=LinearPart)
_S = TypeVar("_S", bound=OutputScale)


def linear_part(*kinds: type[Layer]) -> Callable[[_P], _P]:
    """Register a function of a run's place and of the folded scale of its outputs as the norm of its first layer."""

    def register(function: _P) -> _P:
        _LINEAR_PARTS.update(dict.fromkeys(kinds, function))
        return function

    return register


def output_scale(*kinds: type[Layer]) -> Callable[[_S], _S]:
    """Register a function of a diagonal layer and its tensors as the factors it multiplies channels by."""

    def register(function: _S) -> _S:
        _OUTPUT_SCALES.update(dict.fromkeys(kinds, function))
        return function

    return register


def output_scale_of(layer: Layer, tensors: Tensors) -> RowScale:
    """Return the factors by which a diagonal layer multiplies the channels (or features) of what flows in."""
    return _OUTPUT_SCALES[type(layer)](layer, tensors)


@evaluates("operator norm")
def operator_norm(place: Place) -> Value:
    """Norm of the linear part of a layer, or of a run of one and a diagonal layer.

    Raises
    ------
    MissingRuleError
        No norm of such a layer, or of such a run, is registered.
    """
    first, *rest = (type(each) for each in place.layers)
    if first in _OUTPUT_SCALES and not rest:
        return certified(norms.diagonal(*_OUTPUT_SCALES[first](place.layers[0], place.tensors[0])))
    if first not in _LINEAR_PARTS or len(rest) > 1 or not _OUTPUT_SCALES.keys() >= set(rest):
        names = ", ".join(kind.__name__ for kind in (first, *rest))
        raise MissingRuleError(
            f"node {place.nodes[-1]}: no operator norm of {names}; register one in fimtheory.measures.operators"
        )
    scale = _OUTPUT_SCALES[rest[0]](place.layers[1], place.tensors[1]) if rest else None
    return certified(_LINEAR_PARTS[first](place, scale))


@linear_part(Linear, PatchEmbedding)
def _dense(place: Place, scale: RowScale | None) -> CertifiedNorm:
    return norms.dense(place.tensors[0]["weight"].flatten(1), row_scale=scale)


@linear_part(Conv1d, Conv2d, Conv3d)
def _convolution(place: Place, scale: RowScale | None) -> CertifiedNorm:
    layer: Any = place.layers[0]
    return norms.convolution(
        place.tensors[0]["weight"],
        place.sizes()[1:],
        stride=_ints(layer.stride),
        padding=_ints(layer.padding),
        dilation=_ints(layer.dilation),
        groups=int(layer.groups),
        row_scale=scale,
    )


@linear_part(ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)
def _transposed_convolution(place: Place, scale: RowScale | None) -> CertifiedNorm:
    layer: Any = place.layers[0]
    return norms.transposed_convolution(
        place.tensors[0]["weight"],
        place.sizes()[1:],
        stride=_ints(layer.stride),
        padding=_ints(layer.padding),
        output_padding=_ints(layer.output_padding),
        dilation=_ints(layer.dilation),
        groups=int(layer.groups),
        row_scale=scale,
    )


def _ints(sizes: Shape) -> tuple[int, ...]:
    return tuple(int(size) for size in sizes)


@output_scale(BatchNorm1d, BatchNorm2d, BatchNorm3d)
def _batch_norm(layer: Any, tensors: Tensors) -> RowScale:
    return norms.folded_scale(tensors["weight"], tensors["running_var"], layer.eps)
