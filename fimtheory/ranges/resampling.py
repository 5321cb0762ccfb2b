"""Ranges of padding, interpolation and pixel shuffles."""

from __future__ import annotations

from fractions import Fraction

from fimtheory import layers
from fimtheory.balls import ball
from fimtheory.interpolation import interpolation_rows
from fimtheory.ranges.base import Flow, Range, ranged, root, size_of

__all__: list[str] = []


@ranged(layers.Pad)
def _pad(flow: Flow, x: Range) -> Range:
    """Entries are those of x, or the constant."""
    layer = flow.layer
    if layer.mode != "constant":
        return Range.of(flow.output, entry=x.entry, norm=flow.gain() * x.norm)
    value, added = abs(ball(layer.value)), size_of(flow.output) - size_of(flow.inputs[0])
    entry = x.entry.max(value) if added else x.entry
    return Range.of(flow.output, entry=entry, norm=x.norm + root(added) * value)


@ranged(layers.Upsample)
def _upsample(flow: Flow, x: Range) -> Range:
    """An entry is a sum of entries, whose absolute weights are products over dimensions."""
    layer, weights = flow.layer, ball(1)
    for n, m in zip(flow.inputs[0][1:], layer.output, strict=True):
        rows = interpolation_rows(int(n), int(m), layer.mode, layer.align_corners)
        most = max(sum((abs(weight) for weight in row.values()), Fraction(0)) for row in rows)
        weights = weights * most.numerator / most.denominator
    return Range.of(flow.output, entry=weights * x.entry, norm=flow.gain() * x.norm)


@ranged(layers.PixelShuffle)
@ranged(layers.PixelUnshuffle)
def _pixel_shuffle(flow: Flow, x: Range) -> Range:
    return Range.of(flow.output, entry=x.entry, norm=x.norm)
