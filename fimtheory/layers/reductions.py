"""Layers that reduce dimensions to one number each, or divide by such a number; dimensions do not count the batch."""

from __future__ import annotations

from fimtheory.layers.base import Layer, layer

__all__ = ["Amax", "L2Normalize", "LogSumExp", "Mean", "Sum"]


@layer
class Mean(Layer):
    """Mean over ``dims``, which go away or, with ``keepdim``, keep size 1."""

    dims: tuple[int, ...]
    keepdim: bool = False


@layer
class Sum(Layer):
    """Sum over ``dims``."""

    dims: tuple[int, ...]
    keepdim: bool = False


@layer
class Amax(Layer):
    """Largest entry over ``dims``."""

    dims: tuple[int, ...]
    keepdim: bool = False


@layer
class LogSumExp(Layer):
    """``log sum_k e^(x_k)`` over ``dims``."""

    dims: tuple[int, ...]
    keepdim: bool = False


@layer
class L2Normalize(Layer):
    """``x / max(||x||, eps)`` for every vector x along dimension ``dim``; eps > 0."""

    dim: int
    eps: float = 1e-12
