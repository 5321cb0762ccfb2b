"""Ranges of layers that normalise; most need to know nothing of their input."""

from __future__ import annotations

from collections.abc import Mapping

from flint import arb
from torch import Tensor

from fimtheory import layers, norms
from fimtheory.balls import ball
from fimtheory.claims import Quantity
from fimtheory.ranges.base import Flow, Range, bounded, ranged, root, size_of, spread

__all__: list[str] = []

for _kind in (layers.Softmax, layers.SoftmaxOver, layers.L2Normalize):
    ranged(_kind, reads=())(bounded)


def _scaled(scale: arb, weights: Mapping[str, Tensor]) -> arb:
    """Return ``scale`` times the largest scale of a layer plus its largest shift, where it has them."""
    if "weight" in weights:
        scale = scale * ball(norms.diagonal(weights["weight"].flatten()).upper)
    return scale + ball(norms.diagonal(weights["bias"].flatten()).upper) if "bias" in weights else scale


@ranged(layers.LayerNorm, reads=())
def _layer_norm(flow: Flow) -> Range:
    """A centred vector of n entries and norm at most sqrt(n) has entries of at most sqrt(n - 1)."""
    entry = _scaled(root(int(flow.layer.features) - 1), flow.weights)
    return Range.of(flow.output, entry=entry, token=flow.value_bounds()[Quantity.TOKEN_NORM])


@ranged(layers.LayerNormOver, reads=())
def _layer_norm_over(flow: Flow) -> Range:
    """Each normalised part is in the range of the centring and has norm at most sqrt(n)."""
    entries = size_of(flow.layer.shape)
    part = root(entries) * flow.measured("centred scale") + flow.measured("shift norm")
    return Range.of(
        flow.output,
        entry=_scaled(root(entries - 1), flow.weights),
        norm=root(size_of(flow.output) // entries) * part,
    )


@ranged(layers.RMSNorm, reads=())
def _rms_norm(flow: Flow) -> Range:
    """A vector of n entries and norm at most sqrt(n) may have one of sqrt(n)."""
    entry = _scaled(root(int(flow.layer.features)), flow.weights)
    return Range.of(flow.output, entry=entry, token=flow.value_bounds()[Quantity.TOKEN_NORM])


@ranged(layers.GroupNorm, reads=())
def _group_norm(flow: Flow) -> Range:
    """Each group of n entries is centred and has norm at most sqrt(n), before a scale and a shift per channel."""
    entries = size_of(flow.output) // int(flow.layer.groups)
    whole = root(size_of(flow.output)) * flow.measured("group scale")
    if flow.layer.affine:
        whole += root(size_of(flow.output[1:])) * ball(norms.vector(flow.weights["bias"]).upper)
    return Range.of(flow.output, entry=_scaled(root(entries - 1), flow.weights), norm=whole)


@ranged(layers.LocalResponseNorm)
def _local_response_norm(flow: Flow, x: Range) -> Range:
    """Every entry is divided by at least ``k^beta``."""
    return spread(flow, x, ball(flow.layer.k) ** -ball(flow.layer.beta), ball(0))


@ranged(layers.GlobalResponseNorm)
def _global_response_norm(flow: Flow, x: Range) -> Range:
    """Every entry is multiplied by at most the number of channels: no norm exceeds their sum."""
    return spread(flow, x, ball(int(flow.output[flow.layer.channel])), ball(0))
