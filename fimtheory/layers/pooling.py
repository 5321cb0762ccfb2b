"""Pooling over windows of (C, L), (C, H, W) or (C, D, H, W).

With ``ceil_mode`` a last window may begin inside the input and end beyond it.
"""

from __future__ import annotations

from fimtheory.layers.base import Layer, Pair, Single, Triple, layer

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "LpPool2d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
]


@layer
class MaxPool1d(Layer):
    """Maximum over windows of (C, L), padded with minus infinity."""

    kernel: Single
    stride: Single
    padding: Single = (0,)
    dilation: Single = (1,)
    ceil_mode: bool = False


@layer
class MaxPool2d(Layer):
    """Maximum over windows of (C, H, W), padded with minus infinity."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False


@layer
class MaxPool3d(Layer):
    """Maximum over windows of (C, D, H, W), padded with minus infinity."""

    kernel: Triple
    stride: Triple
    padding: Triple = (0, 0, 0)
    dilation: Triple = (1, 1, 1)
    ceil_mode: bool = False


@layer
class AvgPool1d(Layer):
    """Mean over windows of (C, L), padded with zeros; see ``AvgPool2d``."""

    kernel: Single
    stride: Single
    padding: Single = (0,)
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor: int | None = None


@layer
class AvgPool2d(Layer):
    """Sum over windows of (C, H, W), padded with zeros, divided by how many entries the window holds.

    The zeros count unless ``count_include_pad`` is false; what lies beyond them, in ``ceil_mode``, never does.  Or
    divided by ``divisor``, if there is one.
    """

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor: int | None = None


@layer
class AvgPool3d(Layer):
    """Mean over windows of (C, D, H, W), padded with zeros; see ``AvgPool2d``."""

    kernel: Triple
    stride: Triple
    padding: Triple = (0, 0, 0)
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor: int | None = None


@layer
class LpPool2d(Layer):
    """l_p norm of windows of (C, H, W), as torch computes it: the p-th root of the sum of the p-th powers."""

    norm_type: int
    kernel: Pair
    stride: Pair
    ceil_mode: bool = False


@layer
class AdaptiveAvgPool1d(Layer):
    """Mean over ``output`` windows that cover (C, L), as torch places them."""

    output: Single


@layer
class AdaptiveAvgPool2d(Layer):
    """Mean over ``output`` = (h, w) windows that cover (C, H, W), as torch places them."""

    output: Pair


@layer
class AdaptiveAvgPool3d(Layer):
    """Mean over ``output`` = (d, h, w) windows that cover (C, D, H, W), as torch places them."""

    output: Triple


@layer
class AdaptiveMaxPool1d(Layer):
    """Maximum over ``output`` windows that cover (C, L), as torch places them."""

    output: Single


@layer
class AdaptiveMaxPool2d(Layer):
    """Maximum over ``output`` = (h, w) windows that cover (C, H, W), as torch places them."""

    output: Pair


@layer
class AdaptiveMaxPool3d(Layer):
    """Maximum over ``output`` = (d, h, w) windows that cover (C, D, H, W), as torch places them."""

    output: Triple
