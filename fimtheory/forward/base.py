"""The type of a forward function."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from fimtheory.claims import Reference

__all__ = ["Forward", "Tensors", "in_torch"]

Forward = Callable[..., Tensor]
"""``forward(tensors, *inputs)``: tensors by name, inputs of shape (batch, ...)."""

Tensors = Mapping[str, Tensor]


def in_torch(where: str) -> Reference:
    """Return the reference to a function of torch."""
    return Reference("torch", where)
