"""Convolutions over (C, L), (C, H, W) and (C, D, H, W), and their adjoints."""

from __future__ import annotations

from fimtheory.layers.base import Layer, Pair, Single, Size, Triple, layer

__all__ = ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]


@layer
class Conv1d(Layer):
    """Zero-padded cross-correlation; kernel (out_channels, in_channels / groups, k), input (C, L)."""

    in_channels: Size
    out_channels: Size
    kernel: Single
    stride: Single = (1,)
    padding: Single = (0,)
    dilation: Single = (1,)
    groups: Size = 1
    bias: bool = True


@layer
class Conv2d(Layer):
    """Zero-padded cross-correlation; kernel (out_channels, in_channels / groups, kh, kw), input (C, H, W)."""

    in_channels: Size
    out_channels: Size
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: Size = 1
    bias: bool = True


@layer
class Conv3d(Layer):
    """Zero-padded cross-correlation; kernel (out_channels, in_channels / groups, kd, kh, kw), input (C, D, H, W)."""

    in_channels: Size
    out_channels: Size
    kernel: Triple
    stride: Triple = (1, 1, 1)
    padding: Triple = (0, 0, 0)
    dilation: Triple = (1, 1, 1)
    groups: Size = 1
    bias: bool = True


@layer
class ConvTranspose1d(Layer):
    """Transposed convolution: the adjoint of ``Conv1d``; kernel (in_channels, out_channels / groups, k)."""

    in_channels: Size
    out_channels: Size
    kernel: Single
    stride: Single = (1,)
    padding: Single = (0,)
    output_padding: Single = (0,)
    dilation: Single = (1,)
    groups: Size = 1
    bias: bool = True


@layer
class ConvTranspose2d(Layer):
    """Transposed convolution: the adjoint of ``Conv2d``; kernel (in_channels, out_channels / groups, kh, kw)."""

    in_channels: Size
    out_channels: Size
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    output_padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: Size = 1
    bias: bool = True


@layer
class ConvTranspose3d(Layer):
    """Transposed convolution: the adjoint of ``Conv3d``; kernel (in_channels, out_channels / groups, kd, kh, kw)."""

    in_channels: Size
    out_channels: Size
    kernel: Triple
    stride: Triple = (1, 1, 1)
    padding: Triple = (0, 0, 0)
    output_padding: Triple = (0, 0, 0)
    dilation: Triple = (1, 1, 1)
    groups: Size = 1
    bias: bool = True
