"""Layers that multiply values which all depend on the data: gates, matrix products and attention on q, k and v."""

from __future__ import annotations

from typing import ClassVar

from fimtheory.layers.base import Layer, Shape, layer

__all__ = ["Gate", "MatMul", "Multiply", "ScaledDotProductAttention"]


@layer
class Multiply(Layer):
    """x y, entry by entry, of two inputs of one shape."""

    arity: ClassVar[int | None] = 2


@layer
class Gate(Layer):
    """x g, entry by entry, with g repeated to the shape of x: along dimensions of size 1, and along leading ones."""

    arity: ClassVar[int | None] = 2


@layer
class MatMul(Layer):
    """A B over the last two dimensions, the leading ones being equal; ``transpose_second``: A B^T."""

    arity: ClassVar[int | None] = 2
    transpose_second: bool = False


@layer
class ScaledDotProductAttention(Layer):
    """softmax(``scale`` q k^T + bias) v for q (..., N, d), k (..., M, d) and v (..., M, e).

    Leading dimensions are heads or windows.  ``causal``: query i sees keys 0 to i.  ``bias`` is the shape of a constant
    under the node's own name, which is repeated to (..., N, M), with or without a leading 1 for the batch; its
    entries may be minus infinity, which hides a key.  () means that there is none.
    """

    arity: ClassVar[int | None] = 3
    scale: float
    causal: bool = False
    bias: Shape = ()
