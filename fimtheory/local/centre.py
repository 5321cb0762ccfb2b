"""Values at the centre of a ball, in ball arithmetic: enclosures that do not grow with depth.

A walk knows the value at the centre up to roundings, which each layer's absolute weights would enlarge: a factor of ten
or so per layer, and too much for the many layers of a transformer.  Here every number is a ball of 192 bits (Johansson,
*Arb*, 2017), so that what grows is 2^-192.  Layers without an arithmetic here, and all that follow them, are left out:
a walk encloses them by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from flint import arb, ctx
from torch import Tensor

from fimtheory import layers
from fimtheory.graph import LayerGraph
from fimtheory.layers import Layer
from fimtheory.local.affine import LOST, AffineMap
from fimtheory.local.attention import SelfAttention
from fimtheory.local.normalisation import Normalisation
from fimtheory.local.walk import Pass

__all__ = ["centres"]

_BITS = 192
_LARGEST = 2**20  # entries of a matrix that is multiplied with balls
_UP = 1.0 + 2.0**-40
_Balls = np.ndarray[Any, Any]

_EXACT = (
    layers.Linear,
    layers.PatchEmbedding,
    layers.Conv1d,
    layers.Conv2d,
    layers.Conv3d,
    layers.AddConstant,
    layers.MultiplyConstant,
    layers.ConcatConstant,
    layers.ClassToken,
    layers.PositionEmbedding,
    layers.Add,
    layers.Sum,
    layers.Concat,
    layers.Flatten,
    layers.Reshape,
    layers.Permute,
    layers.SelectToken,
    layers.Select,
    layers.Slice,
    layers.Identity,
    layers.Dropout,
)
"""Affine layers whose values at zero and at unit vectors are exact: sums with zeros of products with one."""


def _gelu(x: arb) -> arb:
    return x * (1 + (x / arb(2).sqrt()).erf()) / 2


_FUNCTIONS: dict[type[Layer], Callable[[arb], arb]] = {
    layers.ReLU: lambda x: x.max(arb(0)),
    layers.GELU: _gelu,
    layers.Tanh: lambda x: x.tanh(),
    layers.Sigmoid: lambda x: 1 / (1 + (-x).exp()),
    layers.SiLU: lambda x: x / (1 + (-x).exp()),
}


def centres(graph: LayerGraph, made: Mapping[str, AffineMap | Pass], x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Enclosures of the values of nodes at x: the number, and a bound on what it misses, entry by entry."""
    before = ctx.prec
    ctx.prec = _BITS
    try:
        values: dict[str, _Balls] = {graph.input: _balls(x)}
        for node in graph.order[1:]:
            if all(source in values for source in graph.inputs(node)):
                found = _value(graph.layer(node), made.get(node), [values[source] for source in graph.inputs(node)])
                if found is not None:
                    values[node] = found
        return {node: _rounded(value) for node, value in values.items()}
    finally:
        ctx.prec = before


def _value(layer: Layer, own: AffineMap | Pass | None, inputs: list[_Balls]) -> _Balls | None:
    if isinstance(own, AffineMap) and isinstance(layer, _EXACT):
        return _affine(own, inputs)
    if isinstance(own, Normalisation):
        return _normalised(own, inputs[0])
    if isinstance(own, SelfAttention):
        return _attended(own, inputs[0])
    function = _FUNCTIONS.get(type(layer))
    return None if function is None else np.vectorize(function, otypes=[object])(inputs[0])


def _affine(affine: AffineMap, inputs: list[_Balls]) -> _Balls | None:
    """W x + b, with the nonzero entries of W as it acts on unit vectors."""
    shapes = [each.shape for each in inputs]
    sizes = [each.size for each in inputs]
    zeros = [torch.zeros((1, *shape), dtype=torch.float64) for shape in shapes]
    offset = affine.values(*zeros)[0]
    if sum(sizes) * offset.numel() > _LARGEST:
        return None
    units = torch.eye(sum(sizes), dtype=torch.float64).split(sizes, 1)
    matrix = affine.columns(*(unit.reshape(-1, *shape) for unit, shape in zip(units, shapes, strict=True))).flatten(1).T
    entries = np.concatenate([each.reshape(-1) for each in inputs])
    sums = [arb(v) for v in offset.flatten().tolist()]
    for row, column in matrix.nonzero().tolist():
        sums[row] += matrix[row, column].item() * entries[column]
    return np.array([*sums, None], dtype=object)[:-1].reshape(tuple(offset.shape))


def _normalised(own: Normalisation, given: _Balls) -> _Balls | None:
    tokens = given.reshape(-1, own.size)
    if own.centres:
        tokens = tokens - tokens.sum(1, keepdims=True) / arb(own.size)
    variance = (tokens * tokens).sum(1, keepdims=True) / arb(own.size) + arb(own.eps)
    made: _Balls | None = (tokens * np.vectorize(lambda v: v.rsqrt(), otypes=[object])(variance)).reshape(given.shape)
    for affine in own.affine:
        made = None if made is None else _affine(affine, [made])
    return made


def _attended(own: SelfAttention, given: _Balls) -> _Balls | None:
    projected = _affine(own.inward, [given])
    if projected is None:
        return None
    tokens, wide = projected.shape
    width = wide // (3 * own.heads)
    query, key, value = projected.reshape(tokens, 3, own.heads, width).transpose(1, 2, 0, 3)
    scores = (query @ key.transpose(0, 2, 1)) / arb(width).sqrt()
    powers = np.vectorize(lambda v: v.exp(), otypes=[object])(scores)
    mixed = (powers @ value) / powers.sum(2, keepdims=True)
    return _affine(own.outward, [mixed.transpose(1, 0, 2).reshape(tokens, own.heads * width)])


def _balls(x: Tensor) -> _Balls:
    return np.array([*(arb(v) for v in x.flatten().tolist()), None], dtype=object)[:-1].reshape(tuple(x.shape))


def _rounded(value: _Balls) -> tuple[Tensor, Tensor]:
    flat = value.reshape(-1).tolist()
    middle = [float(v.mid()) for v in flat]
    missed = [
        float((v - arb(m)).abs_upper()) if math.isfinite(m) else math.inf for v, m in zip(flat, middle, strict=True)
    ]
    shape = value.shape
    centre, spread = (torch.tensor(each, dtype=torch.float64).reshape(shape) for each in (middle, missed))
    return centre, spread * _UP + LOST
