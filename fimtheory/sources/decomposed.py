"""Layers that torch's exporter writes out in other operations: soft shrinkage, l_p pooling, local response norm."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx

from fimtheory import layers
from fimtheory.sources.builder import GraphBuilder
from fimtheory.sources.layout import Traced, UnsupportedError
from fimtheory.sources.matching import Hole, Rest, match

__all__ = ["decomposed"]

aten: Any = torch.ops.aten

_X = Hole("x")
_MUL, _POW = aten.mul.Tensor, aten.pow.Tensor_Scalar

_SHRUNK = (aten.sub.Tensor, _X, (_MUL, (aten.sign.default, _X), Hole("threshold")))
_SOFTSHRINK = (
    aten.where.self, (aten.gt.Scalar, (aten.abs.default, _X), Hole("threshold")), _SHRUNK, (_MUL, _X, 0),
)  # fmt: skip

_MEANS = frozenset({aten.avg_pool1d.default, aten.avg_pool2d.default})
_MEAN = (_MEANS, (_POW, _X, Hole("power")), Hole("kernel"), Rest("more"))
_POSITIVE = (aten.relu.default, (aten.abs.default, _MEAN))
_LP_POOL = (_POW, (_MUL, (_MUL, (aten.sign.default, _MEAN), _POSITIVE), Hole("entries")), Hole("root"))

_ROOM = (aten.pad.default, Hole("squares"), Hole("room"))
_SUMS = (frozenset({aten.avg_pool2d.default, aten.avg_pool3d.default}), _ROOM, Hole("kernel"), Rest("more"))
_AROUND = (aten.squeeze.dim, _SUMS, 1)
_VIEWS = frozenset({aten.view.default, aten.unsqueeze.default, aten.reshape.default})


def _responses(around: Any) -> Any:
    scale = (aten.add.Tensor, (_MUL, around, Hole("alpha")), Hole("k"))
    return (aten.div.Tensor, _X, (_POW, scale, Hole("beta")))


_RESPONSE_NORMS = _responses(_AROUND), _responses((_VIEWS, _AROUND, Hole("shape")))
"""Local response norm of (C, L), and of more dimensions, which torch views as three."""

_WINDOWS: tuple[Any, ...] = [], [0], False
"""Stride, padding and ceil mode of a mean over windows, by default."""

Found = tuple[tuple[fx.Node, ...], Callable[..., Traced]]


def decomposed(graph: fx.Graph) -> Iterator[tuple[fx.Node, Found]]:
    """Yield the last operation of every such layer, its input and the function that adds the layer."""
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if (found := match(node, _SOFTSHRINK)) is not None:
            layer = layers.Softshrink(float(found["threshold"]))
            yield node, ((found["x"],), lambda g, x, layer=layer: g.add(layer, x))
        elif (found := match(node, _LP_POOL)) is not None:
            yield node, ((found["x"],), functools.partial(_lp_pool, found))
        else:
            for pattern in _RESPONSE_NORMS:
                if (found := match(node, pattern)) is not None and _squares(found):
                    yield node, ((found["x"],), functools.partial(_response_norm, found))


def _lp_pool(found: dict[str, Any], g: GraphBuilder, value: Traced) -> Traced:
    """Add an l_p pooling: ``(K mean(x^p))^(1/p)`` over windows of K entries."""
    kernel, more = list(found["kernel"]), found["more"]
    stride, padding, ceil_mode = (*more, *_WINDOWS[len(more) :])[:3]
    power, entries = found["power"], functools.reduce(int.__mul__, kernel)
    plain = entries == found["entries"] and power * found["root"] == 1 and not any(padding)
    if not plain or (power != 1 and power % 2):
        raise UnsupportedError(
            f"l_p pooling with p = {power}; expected 1 or an even number (other powers of negative numbers are NaN)"
        )
    if len(value.shape) not in (3, 4) or len(kernel) != len(value.shape) - 2:
        raise UnsupportedError("l_p pooling without a batch")
    stride = list(stride) or kernel
    if len(kernel) == 2:
        return g.add(layers.LpPool2d(int(power), tuple(kernel), tuple(stride), bool(ceil_mode)), value)
    batch, channels, length = value.shape
    flat = g.viewed(value, (batch, channels, 1, length))
    layer = layers.LpPool2d(int(power), (1, *kernel), (1, *stride), bool(ceil_mode))
    pooled = g.add(layer, flat, layout=flat.layout.resized((batch, channels, 1, g.shape[-1])))
    return g.viewed(pooled, g.shape)


def _squares(found: dict[str, Any]) -> bool:
    """Whether the squares that a response norm sums are those of its input, in a view."""
    pattern = (_MUL, _X, _X)
    inside = match(found["squares"], (_VIEWS, pattern, Hole("shape")))
    return inside is not None and inside["x"] is found["x"]


def _response_norm(found: dict[str, Any], g: GraphBuilder, value: Traced) -> Traced:
    """Add a local response norm: a mean of squares over ``size`` channels, of which (size - 1) // 2 follow."""
    size, *single = found["kernel"]
    stride, *rest = (*found["more"], None)
    room = [*(0 for _ in range(2 * len(single))), size // 2, (size - 1) // 2]
    if any(k != 1 for k in single) or any(s != 1 for s in stride or [size]) or any(rest[:-1]):
        raise UnsupportedError("a mean of squares over windows that is no local response norm")
    if list(found["room"]) != room:
        raise UnsupportedError("a local response norm with other padding than torch's")
    layer = layers.LocalResponseNorm(size, float(found["alpha"]), float(found["beta"]), float(found["k"]))
    return g.add(layer, value)
