"""Linear layers, and layers made of them."""

from __future__ import annotations

from fimtheory.layers.base import Layer, Size, layer

__all__ = ["Linear", "MultiHeadSelfAttention", "PatchEmbedding"]


@layer
class Linear(Layer):
    """``x W^T + b`` over the last dimension; W is (out_features, in_features)."""

    in_features: Size
    out_features: Size
    bias: bool = True


@layer
class PatchEmbedding(Layer):
    """Cut (C, H, W) into disjoint patches and map each linearly to a token: output (H W / patch^2, dim)."""

    in_channels: Size
    dim: Size
    patch: Size
    bias: bool = True


@layer
class MultiHeadSelfAttention(Layer):
    """Softmax attention of (tokens, dim) to itself with input projections q, k, v and an output projection."""

    dim: Size
    heads: int
    bias: bool = True
