"""Hypothesis strategies for products of values that depend on the data: by themselves, and inside random graphs."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st

from fimtheory import layers

_MOST_TOKENS = 8
PRODUCTS = (layers.Multiply, layers.Gate, layers.MatMul, layers.ScaledDotProductAttention)


@st.composite
def product_layers(draw):
    """A layer, shapes that it takes, and its tensors."""
    kind = draw(st.sampled_from(PRODUCTS))
    leading = draw(st.sampled_from([(), (2,), (3, 2)]))
    rows, inner, columns, keys = (draw(st.integers(1, 4)) for _ in range(4))
    if kind is layers.Multiply:
        return kind(), [(*leading, rows)] * 2, {}
    if kind is layers.Gate:
        shape = (*leading, rows, columns)
        gate = tuple(draw(st.sampled_from([1, n])) for n in shape)
        return kind(), [shape, gate[draw(st.integers(0, len(gate) - 1)) :]], {}
    if kind is layers.MatMul:
        transposed = draw(st.booleans())
        second = (columns, inner) if transposed else (inner, columns)
        return kind(transposed), [(*leading, rows, inner), (*leading, *second)], {}
    layer = draw(attention((rows, keys)))
    tensor = torch.randn(layer.bias, dtype=torch.float64) * draw(st.sampled_from([1.0, 30.0]))
    if layer.bias and draw(st.booleans()):
        tensor = hidden(tensor)
    shapes = [(*leading, *shape) for shape in ((rows, inner), (keys, inner), (keys, columns))]
    return layer, shapes, {"": tensor} if layer.bias else {}


@st.composite
def attention(draw, scores):
    """Attention whose scores have two last dimensions ``scores``."""
    rows, keys = scores
    bias = draw(st.sampled_from([(), (), (1, rows, keys), (keys,), (rows, 1)]))
    scale = draw(st.sampled_from([1.0, 0.3, -0.5, 4.0]))
    return layers.ScaledDotProductAttention(scale, not bias and draw(st.booleans()), bias)


def hidden(tensor):
    """A mask that hides the keys of negative bias, but the last."""
    seen = (tensor >= 0) | (torch.arange(tensor.shape[-1]) == tensor.shape[-1] - 1)
    return torch.where(seen, tensor, -math.inf)


def product_of_branches(growing, source):
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


def _attended(growing, source):
    """Attention in one or two heads, of all tokens to all or to the first ones."""
    draw, (tokens, dim) = growing.draw, growing.shapes[source]
    heads, width, keys = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, tokens))

    def split(here, rows):
        here = growing.add(layers.Linear(dim, heads * width, draw(st.booleans())), here)
        return growing.add(layers.Permute((1, 0, 2)), growing.add(layers.Reshape((rows, heads, width)), here))

    normalised = growing.add(layers.LayerNorm(dim, 1e-2), source) if draw(st.booleans()) else source
    attended = growing.add(layers.Slice(0, 0, keys), normalised)
    parts = split(normalised, tokens), split(attended, keys), split(attended, keys)
    mixed = growing.add(draw(attention((tokens, keys))), *parts)
    mixed = growing.add(layers.Reshape((tokens, heads * width)), growing.add(layers.Permute((1, 0, 2)), mixed))
    return mixed
