"""Layers that join, move, select or shift numbers."""

from __future__ import annotations

from typing import ClassVar

from fimtheory.layers.base import Layer, Shape, Size, layer

__all__ = [
    "Add",
    "ClassToken",
    "Concat",
    "Dropout",
    "Flatten",
    "Identity",
    "Permute",
    "PositionEmbedding",
    "Reshape",
    "SelectToken",
]


@layer
class Add(Layer):
    """Sum of its inputs, all of one shape."""

    arity: ClassVar[int | None] = None


@layer
class Concat(Layer):
    """Inputs side by side along dimension ``dim`` (counted without the batch)."""

    arity: ClassVar[int | None] = None
    dim: int = 0


@layer
class Flatten(Layer):
    """All dimensions into one."""


@layer
class Reshape(Layer):
    """The same numbers in another shape."""

    shape: Shape


@layer
class Permute(Layer):
    """Dimensions in another order."""

    dims: tuple[int, ...]


@layer
class Dropout(Layer):
    """Dropout in evaluation: the identity."""

    p: float = 0.5


@layer
class Identity(Layer):
    """The identity."""


@layer
class ClassToken(Layer):
    """A learned token before the others: (N, dim) to (N + 1, dim)."""

    dim: Size


@layer
class PositionEmbedding(Layer):
    """A learned vector added to each token."""

    tokens: Size
    dim: Size


@layer
class SelectToken(Layer):
    """One token of (N, dim)."""

    index: int = 0
