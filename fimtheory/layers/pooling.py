"""Pooling over windows."""

from __future__ import annotations

from fimtheory.layers.base import Layer, Pair, layer

__all__ = ["AdaptiveAvgPool2d", "AvgPool2d", "MaxPool2d"]


@layer
class MaxPool2d(Layer):
    """Maximum over windows of (C, H, W), padded with minus infinity."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)


@layer
class AvgPool2d(Layer):
    """Mean over windows of (C, H, W), padded with zeros that count."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)


@layer
class AdaptiveAvgPool2d(Layer):
    """Mean over ``output`` = (h, w) windows that cover (C, H, W), as torch places them."""

    output: Pair
