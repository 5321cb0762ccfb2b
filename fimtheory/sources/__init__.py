"""Models from outside to layer graphs with weights: torch modules, exported programs, ONNX files."""

from __future__ import annotations

from fimtheory.sources.imported import Difference, ImportedGraph
from fimtheory.sources.torch_models import from_torch

__all__ = ["Difference", "ImportedGraph", "from_torch"]
