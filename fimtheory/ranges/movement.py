"""Ranges of layers whose output consists of entries of their input."""

from __future__ import annotations

from collections import Counter

from fimtheory import layers
from fimtheory.ranges.base import Flow, Range, ranged, root

__all__: list[str] = []


def _within_tokens(flow: Flow, x: Range) -> Range:
    """Entries keep their tokens: one of k times the length holds k copies of an entry at most, and a part is smaller.

    The whole grows by the gain, which is the root of how often an entry is copied.
    """
    copies = -(-int(flow.output[-1]) // int(flow.inputs[0][-1]))
    return Range.of(flow.output, entry=x.entry, token=x.token * root(copies), norm=x.norm * flow.gain())


for _kind in (
    layers.Slice, layers.Flip, layers.Roll, layers.Expand, layers.Tile, layers.RepeatInterleave, layers.SelectToken,
):  # fmt: skip
    ranged(_kind)(_within_tokens)


@ranged(layers.IndexSelect)
def _index_select(flow: Flow, x: Range) -> Range:
    along_tokens = flow.layer.dim == len(flow.output) - 1
    copies = max(Counter(flow.layer.indices).values()) if along_tokens else 1
    return Range.of(flow.output, entry=x.entry, token=x.token * root(copies), norm=x.norm * flow.gain())


@ranged(layers.Flatten)
@ranged(layers.Reshape)
def _reshape(flow: Flow, x: Range) -> Range:
    """A new token is a part of an old one, or several in a row."""
    old, new = int(flow.inputs[0][-1]), int(flow.output[-1])
    if old % new and new % old:
        return Range.of(flow.output, entry=x.entry, norm=x.norm)
    return Range.of(flow.output, entry=x.entry, token=x.token * root(max(1, new // old)), norm=x.norm)


@ranged(layers.Permute)
def _permute(flow: Flow, x: Range) -> Range:
    if flow.layer.dims[-1] == len(flow.output) - 1:
        return x
    return Range.of(flow.output, entry=x.entry, norm=x.norm)


@ranged(layers.Select)
def _select(flow: Flow, x: Range) -> Range:
    if flow.layer.dim < len(flow.inputs[0]) - 1:
        return Range.of(flow.output, entry=x.entry, token=x.token, norm=x.norm)
    return Range.of(flow.output, entry=x.entry, norm=x.norm)
