"""Padding, interpolation, windows side by side, and moving numbers between channels and positions."""

from __future__ import annotations

from typing import Literal

from fimtheory.layers.base import Layer, Pair, Shape, Size, layer

__all__ = ["Fold", "Pad", "PixelShuffle", "PixelUnshuffle", "Unfold", "Upsample"]


@layer
class Pad(Layer):
    """``pads`` = ((before, after), ...) entries more for each dimension, all of them counted without the batch.

    They are ``value``, or entries of the input: mirrored at the ends without repeating those (reflect), the ends
    themselves (replicate), or what is at the other end (circular).
    """

    pads: tuple[tuple[int, int], ...]
    mode: Literal["constant", "reflect", "replicate", "circular"] = "constant"
    value: float = 0.0


@layer
class Upsample(Layer):
    """(C, ...) resized to ``output`` sizes after the channels, up or down, as torch does without a scale factor.

    Every dimension by itself: the nearest entry, a linear or a cubic interpolation.  With ``align_corners`` the
    positions of the first and last entries agree, else the ends of the intervals around them; nearest has no such.
    """

    output: Shape
    mode: Literal["nearest", "linear", "cubic"] = "nearest"
    align_corners: bool = False


@layer
class PixelShuffle(Layer):
    """(C r^2, H, W) to (C, r H, r W): groups of r^2 channels become squares, r the ``factor``."""

    factor: Size


@layer
class PixelUnshuffle(Layer):
    """(C, r H, r W) to (C r^2, H, W): the inverse of ``PixelShuffle``."""

    factor: Size


@layer
class Unfold(Layer):
    """(C, H, W) to (C k_h k_w, L): the entries of each of L windows, padded with zeros, in a column."""

    kernel: Pair
    dilation: Pair = (1, 1)
    padding: Pair = (0, 0)
    stride: Pair = (1, 1)


@layer
class Fold(Layer):
    """(C k_h k_w, L) to (C, H, W): the sum of L windows in their places of an image of ``output_size`` = (H, W).

    The adjoint of ``Unfold``; what falls on the padding is left out.
    """

    output_size: Pair
    kernel: Pair
    dilation: Pair = (1, 1)
    padding: Pair = (0, 0)
    stride: Pair = (1, 1)
