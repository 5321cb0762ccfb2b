"""Ranges of products of values that depend on the data."""

from __future__ import annotations

from flint import arb

from fimtheory import layers
from fimtheory.layers import Shape
from fimtheory.ranges.base import Flow, Range, ranged, root, size_of

__all__: list[str] = []


@ranged(layers.Multiply)
def _multiply(flow: Flow, x: Range, y: Range) -> Range:
    return Range.of(
        flow.output,
        entry=x.entry * y.entry,
        token=(x.token * y.entry).min(x.entry * y.token),
        norm=(x.norm * y.entry).min(x.entry * y.norm),
    )


@ranged(layers.Gate)
def _gate(flow: Flow, x: Range, g: Range) -> Range:
    copies = root(size_of(flow.output) // size_of(flow.inputs[1]))
    return Range.of(
        flow.output,
        entry=x.entry * g.entry,
        token=x.token * g.entry,
        norm=(x.norm * g.entry).min(x.entry * copies * g.norm),
    )


@ranged(layers.MatMul)
def _matmul(flow: Flow, a: Range, b: Range) -> Range:
    """An entry is the inner product of a row and a column, a row the image of a row."""
    left, right = _operator(flow.inputs[0], a), _operator(flow.inputs[1], b)
    inner = root(int(flow.inputs[0][-1]))
    column = b.token if flow.layer.transpose_second else b.norm.min(inner * b.entry)
    return Range.of(
        flow.output, entry=a.token * column, token=a.token * right, norm=(a.norm * right).min(left * b.norm)
    )


def _operator(shape: Shape, matrix: Range) -> arb:
    """Bound on the operator norm of each of the matrices of a value."""
    return matrix.norm.min(root(int(shape[-2])) * matrix.token)


@ranged(layers.ScaledDotProductAttention, reads=(2,))
def _attention(flow: Flow, value: Range) -> Range:
    """Every output token is a mean of values."""
    return Range.of(flow.output, entry=value.entry, token=value.token)
