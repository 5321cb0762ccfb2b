"""Readers of ATen operations, one file per family.  Importing this package registers them."""

from __future__ import annotations

from fimtheory.sources.operations import einsum, elementwise, movement, normalisation, products, resampling, weights
from fimtheory.sources.operations.registry import arguments_of, reader_of

__all__ = [
    "arguments_of", "einsum", "elementwise", "movement", "normalisation", "products", "reader_of", "resampling",
    "weights",
]  # fmt: skip
