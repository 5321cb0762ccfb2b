"""Layers that combine their input with a constant: a number, or a tensor stored under the node's own name.

The shape of a tensor is as it is stored, with or without a leading 1 for the batch.
"""

from __future__ import annotations

from fimtheory.layers.base import Layer, Pair, Shape, layer

__all__ = ["AddConstant", "ConcatConstant", "MatmulConstant", "MultiplyConstant", "Scale", "Shift"]


@layer
class Scale(Layer):
    """``factor`` x."""

    factor: float


@layer
class Shift(Layer):
    """x + ``value``."""

    value: float


@layer
class AddConstant(Layer):
    """x + c with a constant of ``shape``, which is repeated to the shape of x and does not enlarge it."""

    shape: Shape


@layer
class MultiplyConstant(Layer):
    """c x, entry by entry, with a constant of ``shape``, which is repeated to the shape of x as in ``AddConstant``."""

    shape: Shape


@layer
class ConcatConstant(Layer):
    """A constant of ``shape`` beside x along dimension ``dim`` (counted without the batch), ``before`` it or after."""

    dim: int
    shape: Shape
    before: bool = False


@layer
class MatmulConstant(Layer):
    """x W with a constant matrix W of ``shape``, over the last dimension; ``before``: W x, over the last but one."""

    shape: Pair
    before: bool = False
