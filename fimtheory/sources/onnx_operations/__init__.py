"""ONNX operators as torch computations, one file per family.  Importing this package registers them."""

from __future__ import annotations

from fimtheory.sources.onnx_operations import elementwise, movement, products, reductions, windows
from fimtheory.sources.onnx_operations.registry import Call, operation_of, operators

__all__ = ["Call", "elementwise", "movement", "operation_of", "operators", "products", "reductions", "windows"]
