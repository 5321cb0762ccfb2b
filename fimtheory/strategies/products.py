"""Hypothesis strategies for products of values that depend on the data: by themselves, and inside random graphs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from fimtheory import layers
from fimtheory.layers import Layer
from fimtheory.strategies.drawing import Kinds, Sizes, register

if TYPE_CHECKING:
    from fimtheory.strategies.graphs import Growing

__all__ = ["PRODUCTS", "attention", "hidden", "product_layers", "product_of_branches"]

_MOST_TOKENS = 8
PRODUCTS: Kinds = (layers.Multiply, layers.Gate, layers.MatMul, layers.ScaledDotProductAttention)


@st.composite
def product_of(draw: st.DrawFn, shape: Sizes, kind: type[Layer]) -> tuple[Layer, tuple[Sizes, ...]]:
    """A product whose first input has ``shape``, and the shapes of all its inputs."""
    *leading, rows, inner = shape if len(shape) > 1 else (1, *shape)
    columns, keys = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    if kind is layers.Multiply:
        return layers.Multiply(), (shape, shape)
    if kind is layers.Gate:
        gate = tuple(draw(st.sampled_from([1, n])) for n in shape)
        return layers.Gate(), (shape, gate[draw(st.integers(0, len(gate) - 1)) :])
    if kind is layers.MatMul:
        transposed = draw(st.booleans())
        second = (columns, inner) if transposed else (inner, columns)
        return layers.MatMul(transposed), (shape, (*leading, *second))
    layer = draw(attention((rows, keys)))
    return layer, (shape, (*leading, keys, inner), (*leading, keys, columns))


for _kind in PRODUCTS:
    _least = 2 if _kind in (layers.MatMul, layers.ScaledDotProductAttention) else 1
    register(_kind, lambda s, kind=_kind, least=_least: product_of(s, kind) if len(s) >= least else None)


@st.composite
def product_layers(draw: st.DrawFn) -> tuple[Layer, tuple[Sizes, ...], dict[str, Tensor]]:
    """A layer, shapes that it takes, and its tensors."""
    leading = draw(st.sampled_from([(), (2,), (3, 2)]))
    shape = *leading, draw(st.integers(1, 4)), draw(st.integers(1, 4))
    layer, shapes = draw(product_of(shape, draw(st.sampled_from(PRODUCTS))))
    if not isinstance(layer, layers.ScaledDotProductAttention) or not layer.bias:
        return layer, shapes, {}
    bias: Any = layer.bias
    tensor = torch.randn(bias, dtype=torch.float64) * draw(st.sampled_from([1.0, 30.0]))
    return layer, shapes, {"": hidden(tensor) if draw(st.booleans()) else tensor}


@st.composite
def attention(draw: st.DrawFn, scores: tuple[int, int]) -> layers.ScaledDotProductAttention:
    """Attention whose scores have two last dimensions ``scores``."""
    rows, keys = scores
    bias = draw(st.sampled_from([(), (), (1, rows, keys), (keys,), (rows, 1)]))
    scale = draw(st.sampled_from([1.0, 0.3, -0.5, 4.0]))
    return layers.ScaledDotProductAttention(scale, not bias and draw(st.booleans()), bias)


def hidden(tensor: Tensor) -> Tensor:
    """A mask that hides the keys of negative bias, but the last."""
    seen = (tensor >= 0) | (torch.arange(tensor.shape[-1]) == tensor.shape[-1] - 1)
    return torch.where(seen, tensor, -math.inf)


def product_of_branches(growing: Growing, source: str) -> str:
    """Add a product of functions of ``source`` to a graph under construction, and return its node."""
    draw, shape = growing.draw, growing.shapes[source]
    kinds = [layers.Multiply, layers.Gate]
    if len(shape) == 2 and shape[0] <= _MOST_TOKENS:
        kinds += [layers.MatMul, layers.ScaledDotProductAttention, layers.ScaledDotProductAttention]
    match draw(st.sampled_from(kinds)):
        case layers.Multiply:
            return growing.add(layers.Multiply(), source if draw(st.booleans()) else growing.branch(source),
                               growing.branch(source))  # fmt: skip
        case layers.Gate:
            dims = tuple(k for k in range(len(shape)) if draw(st.booleans())) or (0,)
            gate = growing.branch(growing.add(layers.Mean(dims, True), source))
            return growing.add(layers.Gate(), source, growing.add(layers.Sigmoid(), gate))
        case layers.MatMul:
            transposed = draw(st.booleans())
            second = growing.branch(source)
            if not transposed:
                second = growing.add(layers.Permute((1, 0)), second)
            return growing.add(layers.MatMul(transposed), growing.branch(source), second)
        case _:
            return _attended(growing, source)


def _attended(growing: Growing, source: str) -> str:
    """Attention in one or two heads, of all tokens to all or to the first ones."""
    draw, (tokens, dim) = growing.draw, growing.shapes[source]
    heads, width, keys = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, tokens))

    def split(here: str, rows: int) -> str:
        here = growing.add(layers.Linear(dim, heads * width, draw(st.booleans())), here)
        return growing.add(layers.Permute((1, 0, 2)), growing.add(layers.Reshape((rows, heads, width)), here))

    normalised = growing.add(layers.LayerNorm(dim, 1e-2), source) if draw(st.booleans()) else source
    attended = growing.add(layers.Slice(0, 0, keys), normalised)
    parts = split(normalised, tokens), split(attended, keys), split(attended, keys)
    mixed = growing.add(draw(attention((tokens, keys))), *parts)
    mixed = growing.add(layers.Reshape((tokens, heads * width)), growing.add(layers.Permute((1, 0, 2)), mixed))
    return mixed
