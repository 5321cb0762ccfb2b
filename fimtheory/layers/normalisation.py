"""Normalisation layers."""

from __future__ import annotations

from fimtheory.layers.base import Layer, Shape, Size, layer

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GlobalResponseNorm",
    "GroupNorm",
    "LayerNorm",
    "LayerNormOver",
    "LocalResponseNorm",
    "RMSNorm",
]


@layer
class BatchNorm1d(Layer):
    """Batch norm in evaluation: ``gamma (x - mean) / sqrt(var + eps) + beta`` per channel of (C,) or (C, L)."""

    channels: Size
    eps: float = 1e-5


@layer
class BatchNorm2d(Layer):
    """Batch norm in evaluation: ``gamma (x - mean) / sqrt(var + eps) + beta`` per channel of (C, H, W)."""

    channels: Size
    eps: float = 1e-5


@layer
class BatchNorm3d(Layer):
    """Batch norm in evaluation: ``gamma (x - mean) / sqrt(var + eps) + beta`` per channel of (C, D, H, W)."""

    channels: Size
    eps: float = 1e-5


@layer
class LayerNorm(Layer):
    """Layer norm over the last dimension with the biased variance."""

    features: Size
    eps: float = 1e-5


@layer
class LayerNormOver(Layer):
    """Layer norm over all of the last dimensions, which have sizes ``shape``, with the biased variance."""

    shape: Shape
    eps: float = 1e-5


@layer
class RMSNorm(Layer):
    """``gamma x / sqrt(mean(x^2) + eps)`` over the last dimension."""

    features: Size
    eps: float


@layer
class GroupNorm(Layer):
    """Layer norm of each of ``groups`` groups of channels of (C, ...), with a scale and a shift per channel.

    Instance norm has as many groups as channels.
    """

    groups: Size
    channels: Size
    eps: float = 1e-5
    affine: bool = True


@layer
class LocalResponseNorm(Layer):
    """``x / (k + alpha / size * sum of squares)^beta`` over ``size`` channels around each of (C, ...)."""

    size: Size
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0


@layer
class GlobalResponseNorm(Layer):
    """``x_c ||x_c|| / (mean_d ||x_d|| + eps)`` for every channel c, with l2 norms over ``dims``.

    Channels lie along dimension ``channel``.  What lies along any other dimension is normalised by itself.  The scale,
    the shift and the residual sum of ConvNeXt V2 are layers of their own.
    """

    dims: tuple[int, ...]
    channel: int
    eps: float = 1e-6
