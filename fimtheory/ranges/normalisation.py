"""Ranges of layers that normalise, which need to know nothing of their input."""

from __future__ import annotations

from fimtheory import layers, norms
from fimtheory.balls import ball
from fimtheory.claims import Quantity
from fimtheory.ranges.base import Flow, Range, bounded, ranged, root

__all__: list[str] = []

for _kind in (layers.Softmax, layers.SoftmaxOver, layers.L2Normalize):
    ranged(_kind, reads=())(bounded)


@ranged(layers.LayerNorm, reads=())
def _layer_norm(flow: Flow) -> Range:
    """A centred vector of n entries and norm at most sqrt(n) has entries of at most sqrt(n - 1)."""
    features, weights = int(flow.layer.features), flow.weights
    entry = root(features - 1) * ball(norms.diagonal(weights["weight"]).upper)
    return Range.of(
        flow.output,
        entry=entry + ball(norms.diagonal(weights["bias"]).upper),
        token=flow.value_bounds()[Quantity.TOKEN_NORM],
    )
