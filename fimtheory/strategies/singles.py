"""Hypothesis strategies for elementwise layers, affine ones, those of tokens, and any layer of one input."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from fimtheory import layers
from fimtheory.layers import Layer
from fimtheory.strategies.drawing import Kinds, Sizes, register
from fimtheory.strategies.entries import constant, movement, reduction
from fimtheory.strategies.windows import convolution, normalisation, pooling, resampling

__all__ = ["ELEMENTWISE", "elementwise", "moving", "single_layers"]

ELEMENTWISE: Kinds = (
    *(layers.ReLU, layers.ReLU6, layers.LeakyReLU, layers.PReLU, layers.ELU, layers.CELU, layers.SELU, layers.GELU),
    *(layers.GELUTanh, layers.SiLU, layers.Mish, layers.Softplus, layers.Tanh, layers.Sigmoid, layers.Hardtanh),
    *(layers.Hardsigmoid, layers.Hardswish, layers.Softsign, layers.Softshrink, layers.Tanhshrink, layers.Dropout),
    *(layers.Identity, layers.Clamp, layers.Threshold, layers.LogSigmoid, layers.QuickGELU, layers.Abs, layers.Sin),
    *(layers.Cos, layers.Erf, layers.Atan),
)
_OVER_A_DIMENSION: tuple[Any, ...] = (layers.SoftmaxOver, layers.LogSoftmax)


@st.composite
def elementwise(draw: st.DrawFn, shape: Sizes, kinds: Kinds = ELEMENTWISE) -> Layer:
    """One elementwise layer, with parameters at and around the edges of its rules."""
    kind = draw(st.sampled_from(kinds))
    if kind is layers.LeakyReLU:
        return layers.LeakyReLU(draw(st.sampled_from([0.01, 0.2, 1.0, 3.0, -0.5, -2.0, 0.0])))
    if kind is layers.PReLU:
        return layers.PReLU(draw(st.sampled_from([1, shape[0]])))
    if kind is layers.ELU:
        return layers.ELU(draw(st.sampled_from([1.0, 0.3, 2.5, 0.0, -1.5])))
    if kind is layers.CELU:
        return layers.CELU(draw(st.sampled_from([1.0, 0.1, 5.0])))
    if kind is layers.Softplus:
        return layers.Softplus(draw(st.sampled_from([1.0, 0.2, 30.0])))
    if kind is layers.Hardtanh:
        return layers.Hardtanh(*draw(st.sampled_from([(-1.0, 1.0), (0.0, 2.0), (-3.0, -1.0)])))
    if kind is layers.Clamp:
        return layers.Clamp(*draw(st.sampled_from([(0.5, None), (None, 0.0), (-1.0, 1.0), (-2.0, 0.5)])))
    if kind is layers.Threshold:
        at = draw(st.sampled_from([0.0, -1.0, 0.5]))
        return layers.Threshold(at, at)
    if kind is layers.Softshrink:
        return layers.Softshrink(draw(st.sampled_from([0.5, 0.0, 2.0])))
    return kind()


@st.composite
def single_layers(draw: st.DrawFn, shape: Sizes) -> Layer:
    """One layer of one input that takes ``shape``, other than attention."""
    kinds = ["elementwise"] * 3 + ["norm"] * 2 + ["softmax", "move", "entries", "constant", "reduction"]
    if len(shape) == 3:
        kinds += ["patch"]
    if len(shape) in (2, 3, 4):
        kinds += ["conv", "pool"] * len(shape) + ["resampling"]
    if len(shape) <= 2:
        kinds += ["linear"] * 3
    if len(shape) == 2:
        kinds += ["token", "position", "select"]
    kind = draw(st.sampled_from(kinds))
    match kind:
        case "elementwise":
            return draw(elementwise(shape))
        case "norm":
            return draw(normalisation(shape))
        case "softmax":
            dim = draw(st.integers(0, len(shape) - 1))
            over = [kind(dim) for kind in _OVER_A_DIMENSION]
            return draw(st.sampled_from([*(layers.Softmax(t) for t in (1.0, 0.1, 7.0)), *over]))
        case "conv":
            return draw(convolution(shape))
        case "resampling":
            return draw(resampling(shape))
        case "pool":
            return draw(pooling(shape))
        case "patch":
            return draw(_patches(shape))
        case "linear":
            return layers.Linear(shape[-1], draw(st.integers(1, 6)), draw(st.booleans()))
        case "token":
            return layers.ClassToken(shape[1])
        case "position":
            return layers.PositionEmbedding(*shape)
        case "select":
            return layers.SelectToken(draw(st.integers(0, shape[0] - 1)))
        case "entries":
            return draw(movement(shape))
        case "constant":
            return draw(constant(shape))
        case "reduction":
            return draw(reduction(shape))
        case "move":
            return draw(moving(shape))
    raise AssertionError(kind)


@st.composite
def moving(draw: st.DrawFn, shape: Sizes) -> Layer:
    """Flatten, permute or reshape."""
    if len(shape) == 1 or draw(st.booleans()):
        return draw(_reshaped(shape))
    return draw(_permuted(shape))


# ---- by exact type ----------------------------------------------------------------------------------------------


@st.composite
def _patches(draw: st.DrawFn, shape: Sizes) -> Layer:
    sides = [p for p in (1, 2, 3) if shape[1] % p == 0 and shape[2] % p == 0]
    return layers.PatchEmbedding(shape[0], draw(st.integers(2, 4)), draw(st.sampled_from(sides)))


@st.composite
def _attention(draw: st.DrawFn, shape: Sizes) -> Layer:
    heads = draw(st.sampled_from([h for h in (1, 2, 3) if shape[1] % h == 0]))
    return layers.MultiHeadSelfAttention(shape[1], heads, draw(st.booleans()))


@st.composite
def _reshaped(draw: st.DrawFn, shape: Sizes) -> Layer:
    n = math.prod(shape)
    rows = draw(st.sampled_from([r for r in range(1, n + 1) if n % r == 0]))
    return layers.Reshape((rows, n // rows) if draw(st.booleans()) else (rows, n // rows, 1))


def _linear(shape: Sizes) -> Any:
    return st.builds(layers.Linear, st.just(shape[-1]), st.integers(1, 6), st.booleans())


def _permuted(shape: Sizes) -> Any:
    return st.permutations(range(len(shape))).map(lambda dims: layers.Permute(tuple(dims)))


for _kind in ELEMENTWISE:
    register(_kind, lambda shape, kind=_kind: elementwise(shape, (kind,)))
for _kind in _OVER_A_DIMENSION:
    register(_kind, lambda shape, kind=_kind: st.builds(kind, st.integers(0, len(shape) - 1)))
register(layers.Softmax, lambda shape: st.sampled_from([layers.Softmax(t) for t in (1.0, 0.1, 7.0)]))
register(layers.Linear, lambda shape: _linear(shape) if len(shape) <= 2 else None)
register(layers.PatchEmbedding, lambda shape: _patches(shape) if len(shape) == 3 else None)
register(layers.MultiHeadSelfAttention, lambda shape: _attention(shape) if len(shape) == 2 else None)
register(layers.ClassToken, lambda shape: st.just(layers.ClassToken(shape[1])) if len(shape) == 2 else None)
register(layers.PositionEmbedding, lambda shape: st.just(layers.PositionEmbedding(*shape)) if len(shape) == 2 else None)
register(
    layers.SelectToken,
    lambda shape: st.builds(layers.SelectToken, st.integers(0, shape[0] - 1)) if len(shape) == 2 else None,
)
register(layers.Flatten, lambda shape: st.just(layers.Flatten()))
register(layers.Reshape, _reshaped)
register(layers.Permute, _permuted)
