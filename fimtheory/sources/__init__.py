"""Models from outside to layer graphs with weights: torch modules, exported programs, ONNX files."""

from __future__ import annotations

from fimtheory.sources.callables import from_callable
from fimtheory.sources.exported_files import from_pt2
from fimtheory.sources.imported import Difference, ImportedGraph
from fimtheory.sources.onnx_models import from_onnx
from fimtheory.sources.torch_models import from_torch

__all__ = ["Difference", "ImportedGraph", "from_callable", "from_onnx", "from_pt2", "from_torch"]
