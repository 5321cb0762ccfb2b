"""Norms written as formulas over the last dimension: ``x / sqrt(mean(x^2) + eps)``, and the same of x minus its mean.

Language models write their norms out.  A division by a value that depends on the input has no global Lipschitz
constant, so the whole has to be recognised as one layer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx

from fimtheory import layers
from fimtheory.sources.builder import GraphBuilder
from fimtheory.sources.layout import Traced, UnsupportedError

__all__ = ["written_norms"]

aten: Any = torch.ops.aten

_COPIES = {aten._to_copy.default, aten.clone.default, aten.alias.default}
_REPEATED = {aten.sub.Tensor, aten.mean.dim}

Found = tuple[tuple[fx.Node, ...], Callable[..., Traced]]


def written_norms(graph: fx.Graph) -> Iterator[tuple[fx.Node, Found]]:
    """Yield every operation whose value is a root-mean-square norm or a layer norm without scale and shift.

    Both are the same division, ``c / sqrt(mean(c^2) + eps)``: of c = x, or of c = x - mean(x).
    """
    for node in graph.nodes:
        divided = _divided(node)
        if divided is None:
            continue
        value, epsilon = divided
        centred = _centred(value)
        if centred is None:
            yield node, ((value,), functools.partial(_added, layers.RMSNorm, epsilon))
        else:
            yield node, ((centred,), functools.partial(_added, layers.LayerNorm, epsilon))


def _divided(node: fx.Node) -> tuple[fx.Node, float] | None:
    """Return c and eps of ``c * rsqrt(mean(c^2) + eps)`` or ``c / sqrt(mean(c^2) + eps)``."""
    if node.target is aten.mul.Tensor:
        pairs, root = (node.args, node.args[::-1]), aten.rsqrt.default
    elif node.target is aten.div.Tensor and not node.kwargs:
        pairs, root = (node.args,), aten.sqrt.default
    else:
        return None
    for value, divisor in pairs:
        if not isinstance(value, fx.Node) or not isinstance(divisor, fx.Node):
            continue
        under = _behind(divisor)
        if under.target is root:
            squares = _shifted_mean(_behind(under.args[0]))
            if squares is not None and _same(squares[0], value):
                return _behind(value), squares[1]
    return None


def _shifted_mean(node: fx.Node) -> tuple[fx.Node, float] | None:
    """Return c and eps of ``mean(c^2) + eps`` over the last dimension, which is kept."""
    if node.target not in (aten.add.Tensor, aten.add.Scalar) or node.kwargs:
        return None
    mean, epsilon = node.args
    if not isinstance(mean, fx.Node) or not isinstance(epsilon, int | float) or not epsilon > 0:
        return None
    squares = _mean_of(_behind(mean))
    value = None if squares is None else _squared(squares)
    return None if value is None else (value, float(epsilon))


def _mean_of(node: fx.Node) -> fx.Node | None:
    """Return x of ``mean(x)`` over the last dimension, which is kept."""
    if node.target is not aten.mean.dim or len(node.args) != 3 or node.args[2] is not True:
        return None
    source, dims = node.args[:2]
    last = len(source.meta["val"].shape) - 1  # type: ignore[union-attr]
    return _behind(source) if list(dims) in ([-1], [last]) else None  # type: ignore[arg-type]


def _squared(node: fx.Node) -> fx.Node | None:
    if node.target is aten.pow.Tensor_Scalar and node.args[1] == 2:
        return _behind(node.args[0])
    if node.target is aten.square.default:
        return _behind(node.args[0])
    if node.target is aten.mul.Tensor and _same(*node.args):
        return _behind(node.args[0])
    return None


def _centred(node: fx.Node) -> fx.Node | None:
    """Return x of ``x - mean(x)``."""
    if node.target is not aten.sub.Tensor or node.kwargs:
        return None
    value, mean = (_behind(each) for each in node.args)
    return value if isinstance(mean, fx.Node) and _same(_mean_of(mean), value) else None


def _behind(node: Any) -> Any:
    """Return the operation behind copies of the same real numbers."""
    while isinstance(node, fx.Node) and node.target in _COPIES and node.meta["val"].is_floating_point():
        node = node.args[0]
    return node


def _same(first: Any, second: Any) -> bool:
    """Whether two operations are one, or the same mean or difference of the same values, computed twice."""
    first, second = _behind(first), _behind(second)
    if not isinstance(first, fx.Node) or not isinstance(second, fx.Node) or first is second:
        return first is second or (not isinstance(first, fx.Node) and first == second)
    alike = first.target is second.target and first.target in _REPEATED and not first.kwargs and not second.kwargs
    pairs = zip(first.args, second.args, strict=False)
    return alike and len(first.args) == len(second.args) and all(_same(a, b) for a, b in pairs)


def _added(kind: Any, epsilon: float, g: GraphBuilder, value: Traced) -> Traced:
    size = value.shape[-1]
    if value.layout.batch == len(value.shape) - 1:
        raise UnsupportedError("a norm over the batch")
    tensors = {"weight": torch.ones(size, dtype=torch.float64)}
    if kind is layers.LayerNorm:
        tensors["bias"] = torch.zeros(size, dtype=torch.float64)
    return g.add(kind(size, epsilon), value, layout=value.layout, **tensors)
