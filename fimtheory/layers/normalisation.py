"""Normalisation layers."""

from __future__ import annotations

from fimtheory.layers.base import Layer, Size, layer

__all__ = ["BatchNorm2d", "LayerNorm"]


@layer
class BatchNorm2d(Layer):
    """Batch norm in evaluation: ``gamma (x - mean) / sqrt(var + eps) + beta`` per channel of (C, H, W)."""

    channels: Size
    eps: float = 1e-5


@layer
class LayerNorm(Layer):
    """Layer norm over the last dimension with the biased variance."""

    features: Size
    eps: float = 1e-5
