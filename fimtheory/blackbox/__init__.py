"""lam of a classifier that can only be queried: differences of its outputs, with limits that say what they cost."""

from __future__ import annotations

from fimtheory.blackbox.estimation import estimate_black_box
from fimtheory.blackbox.http_query import HttpQuery
from fimtheory.blackbox.onnx_query import OnnxQuery
from fimtheory.blackbox.result import BlackBoxEstimate
from fimtheory.blackbox.sklearn_query import SklearnQuery

__all__ = ["BlackBoxEstimate", "HttpQuery", "OnnxQuery", "SklearnQuery", "estimate_black_box"]
