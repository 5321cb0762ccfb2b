"""Row diameter of a head, and mean square gain of random weights."""

from __future__ import annotations

import math

from fimtheory import norms
from fimtheory.balls import ball
from fimtheory.ensemble import WEIGHT_VARIANCE
from fimtheory.errors import MissingRuleError
from fimtheory.layers import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Linear,
    MatmulConstant,
    PatchEmbedding,
)
from fimtheory.measures.base import Place, Value, certified, evaluates

_CONVOLUTIONS = Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d


@evaluates("row diameter")
def row_diameter(place: Place) -> Value:
    """Largest distance between two rows of the head's weight."""
    return certified(norms.row_diameter(place.tensors[0]["weight"]))


@evaluates("mean square gain")
def mean_square_gain(place: Place) -> Value:
    """``E ||W u||^2 / ||u||^2`` at most, for weights of variance WEIGHT_VARIANCE / fan_in: exact sizes."""
    (layer,) = place.layers
    if isinstance(layer, Linear):
        return WEIGHT_VARIANCE * ball(int(layer.out_features)) / int(layer.in_features), "exact"
    if isinstance(layer, MatmulConstant):
        inputs, outputs = reversed(layer.shape) if layer.before else layer.shape
        return WEIGHT_VARIANCE * ball(int(outputs)) / int(inputs), "exact"
    if isinstance(layer, PatchEmbedding):
        return WEIGHT_VARIANCE * ball(int(layer.dim)) / (int(layer.in_channels) * int(layer.patch) ** 2), "exact"
    if isinstance(layer, _CONVOLUTIONS):
        each = zip(layer.kernel, layer.stride, layer.dilation, strict=True)
        ratio = ball(int(layer.out_channels)) / int(layer.in_channels)  # the same within every group
        most = math.prod(-(-int(k) * math.gcd(int(s), int(d)) // int(s)) for k, s, d in each)
        taps = math.prod(int(k) for k in layer.kernel)
        feeds, sums = (most, taps) if isinstance(layer, _CONVOLUTIONS[:3]) else (taps, most)
        return WEIGHT_VARIANCE * ratio * feeds / sums, "exact"
    raise MissingRuleError(f"node {place.nodes[-1]}: no mean square gain of a {type(layer).__name__}")
