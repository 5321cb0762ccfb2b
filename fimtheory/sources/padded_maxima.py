"""Maxima over windows of a value padded by minus infinity, as models with "same" padding write them.

Such padding only says where windows begin and end: entries outside are never a maximum, as in max pooling with padding
of its own or ``ceil_mode``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import fx

from fimtheory import layers
from fimtheory.sizes import windows
from fimtheory.sources.builder import GraphBuilder
from fimtheory.sources.layout import Traced, UnsupportedError
from fimtheory.sources.operations.movement import sliced

__all__ = ["padded_maxima"]

aten: Any = torch.ops.aten

_PADS = {aten.pad.default, aten.constant_pad_nd.default}

Found = tuple[tuple[fx.Node, ...], Callable[..., Traced]]


def padded_maxima(graph: fx.Graph) -> Iterator[tuple[fx.Node, Found]]:
    """Yield every max pooling of two dimensions, without padding of its own, of a value padded by minus infinity."""
    for node in graph.nodes:
        if node.target is not aten.max_pool2d.default or node.kwargs or len(node.args) > 3:
            continue
        source, kernel, stride = (*node.args, node.args[1])[:3]
        if isinstance(source, fx.Node) and source.target in _PADS and _fill(source) == -math.inf:
            value: Any
            room: Any
            value, room = source.args[:2]
            yield node, ((value,), functools.partial(_added, room, kernel, stride))


def _fill(pad: fx.Node) -> Any:
    """Return the number that a padding fills with, None if it repeats entries."""
    if pad.target is aten.constant_pad_nd.default:
        return pad.args[2] if len(pad.args) > 2 else 0.0
    mode = pad.args[2] if len(pad.args) > 2 else pad.kwargs.get("mode", "constant")
    fill = pad.args[3] if len(pad.args) > 3 else pad.kwargs.get("value")
    return fill if mode == "constant" else None


def _added(room: Sequence[int], kernel: Any, stride: Any, g: GraphBuilder, value: Traced) -> Traced:
    """Add a max pooling whose windows begin as far before the value as the padding goes.

    Window i begins at the same entry in both, and what lies outside counts in neither; further windows are cut off.
    """
    left, right, top, bottom = (*room, 0, 0)[:4]
    if len(kernel) != 2 or len(stride) != 2 or len(room) > 4 or min(room) < 0:
        raise UnsupportedError("max pooling of a value padded by minus infinity in other than two dimensions")
    sizes, wanted = value.shape[2:], g.shape[2:]
    each = list(zip(sizes, kernel, stride, (top, left), strict=True))
    if all(2 * p <= k for _, k, _, p in each):
        for ceil_mode in (False, True):
            counts = tuple(int(windows(n, k, s, p, ceil_mode=ceil_mode)) for n, k, s, p in each)
            if all(count >= least for count, least in zip(counts, wanted, strict=True)):
                made = layers.MaxPool2d(tuple(kernel), tuple(stride), (top, left), ceil_mode=ceil_mode)
                pooled = g.add(made, value, layout=value.layout.resized((*value.shape[:2], *counts)))
                for at, least in enumerate(wanted, start=2):
                    pooled = sliced(g, pooled, at, 0, least)
                return pooled
    raise UnsupportedError(
        f"max pooling by {tuple(kernel)} with stride {tuple(stride)} of a value padded by minus infinity, "
        f"{(top, bottom)} and {(left, right)} entries; no padding of a max pooling has the same windows"
    )
