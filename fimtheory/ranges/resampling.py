"""Ranges of padding, interpolation, windows side by side and pixel shuffles."""

from __future__ import annotations

from fractions import Fraction

from fimtheory import layers
from fimtheory.balls import ball
from fimtheory.interpolation import interpolation_rows
from fimtheory.ranges.base import Flow, Range, ranged, root, size_of
from fimtheory.sizes import windows

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


@ranged(layers.Unfold)
def _unfold(flow: Flow, x: Range) -> Range:
    """A token holds different entries of one channel, from one row of the image for each row of windows."""
    layer = flow.layer
    rows = windows(flow.inputs[0][1], layer.kernel[0], layer.stride[0], layer.padding[0], layer.dilation[0])
    token = (x.token * root(int(rows))).min(x.norm)
    return Range.of(flow.output, entry=x.entry, token=token, norm=flow.gain() * x.norm)


@ranged(layers.Fold)
def _fold(flow: Flow, x: Range) -> Range:
    """An entry is a sum of one entry of each window it lies in, whose number is the square of the gain."""
    return Range.of(flow.output, entry=flow.gain() ** 2 * x.entry, norm=flow.gain() * x.norm)
