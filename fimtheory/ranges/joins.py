"""Ranges of sums and of values side by side: with one another, or with a constant."""

from __future__ import annotations

from collections.abc import Iterable

from flint import arb
from torch import Tensor

from fimtheory import layers, norms
from fimtheory.balls import ball
from fimtheory.layers import Shape
from fimtheory.ranges.base import Flow, Range, ranged, root, size_of

__all__: list[str] = []


def _largest(parts: Iterable[arb]) -> arb:
    first, *others = parts
    for part in others:
        first = first.max(part)
    return first


def _root_of_squares(parts: Iterable[arb]) -> arb:
    return sum((part**2 for part in parts), ball(0)).sqrt()


def _sum(flow: Flow, *parts: Range) -> Range:
    """Triangle inequality."""
    return Range.of(
        flow.output,
        entry=sum((part.entry for part in parts), ball(0)),
        token=sum((part.token for part in parts), ball(0)),
        norm=sum((part.norm for part in parts), ball(0)),
    )


def _side_by_side(flow: Flow, dim: int, *parts: Range) -> Range:
    """Squares of what is joined add; tokens stay as they are unless they are what is joined."""
    tokens = [part.token for part in parts]
    return Range.of(
        flow.output,
        entry=_largest(part.entry for part in parts),
        token=_root_of_squares(tokens) if dim == len(flow.output) - 1 else _largest(tokens),
        norm=_root_of_squares(part.norm for part in parts),
    )


def _constant(tensor: Tensor, shape: Shape) -> Range:
    """Range of a constant that is repeated to ``shape``."""
    entry = ball(norms.diagonal(tensor.flatten()).upper)
    copies = root(size_of(shape) // tensor.numel())
    if tensor.dim() == 0 or tensor.shape[-1] != int(shape[-1]):
        return Range.of(shape, entry=entry, norm=copies * ball(norms.vector(tensor).upper))
    token = norms.two_to_infinity_norm(tensor.reshape(-1, tensor.shape[-1]))
    return Range.of(shape, entry=entry, token=ball(token.upper), norm=copies * ball(norms.vector(tensor).upper))


@ranged(layers.Add)
def _add(flow: Flow, *parts: Range) -> Range:
    return _sum(flow, *parts)


@ranged(layers.AddConstant)
@ranged(layers.PositionEmbedding)
def _add_constant(flow: Flow, x: Range) -> Range:
    return _sum(flow, x, _constant(flow.weights[""], flow.output))


@ranged(layers.Concat)
def _concat(flow: Flow, *parts: Range) -> Range:
    return _side_by_side(flow, flow.layer.dim, *parts)


@ranged(layers.ClassToken)
def _class_token(flow: Flow, x: Range) -> Range:
    return _side_by_side(flow, 0, x, _constant(flow.weights[""], (1, flow.output[-1])))


@ranged(layers.ConcatConstant)
def _concat_constant(flow: Flow, x: Range) -> Range:
    shape = flow.layer.shape[-len(flow.output) :]
    return _side_by_side(flow, flow.layer.dim, x, _constant(flow.weights[""], shape))
