"""Derive, check and verify bounds on the spectral norm of a classifier's input-space Fisher information.

>>> import fimtheory as ft
>>> derivation = ft.derive(ft.families.mlp(widths=(64,), inputs=16, classes=3))
>>> ft.check(derivation)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import fimtheory.rules as _rules  # registers the built-in rules
from fimtheory import claims, errors, families, layers
from fimtheory.claims import Claim, Condition, Quantity, Reference, Relation, Status
from fimtheory.derivation import Derivation
from fimtheory.derive import baseline, derive
from fimtheory.errors import FimTheoryError
from fimtheory.files import load_graph, save_graph
from fimtheory.graph import Builder, LayerGraph, Node, Repeat
from fimtheory.kernel import check
from fimtheory.layers import layer
from fimtheory.proof_files import load_derivation
from fimtheory.registry import Site, measure, rule, rules

if TYPE_CHECKING:
    from fimtheory.estimators import estimate
    from fimtheory.evaluate import evaluate
    from fimtheory.instantiate import instantiate
    from fimtheory.report import report
    from fimtheory.search import worst_case
    from fimtheory.verify import verify

__version__ = "0.1.0"

_NEEDS_TORCH = {
    "estimate": "fimtheory.estimators",
    "evaluate": "fimtheory.evaluate",
    "instantiate": "fimtheory.instantiate",
    "report": "fimtheory.report",
    "verify": "fimtheory.verify",
    "worst_case": "fimtheory.search",
}
"""Functions that import torch, loaded on first use so that deriving stays quick."""

__all__ = [
    "Builder", "Claim", "Condition", "Derivation", "FimTheoryError", "LayerGraph", "Node", "Quantity", "Reference",
    "Relation", "Repeat", "Site", "Status", "baseline", "check", "claims", "derive", "errors", "estimate", "evaluate",
    "families", "instantiate", "layer", "layers", "load", "load_derivation", "load_graph", "measure", "report", "rule",
    "rules", "save_graph", "verify", "worst_case",
]  # fmt: skip

load = load_graph


def __getattr__(name: str) -> Any:
    if name in _NEEDS_TORCH:
        return getattr(importlib.import_module(_NEEDS_TORCH[name]), name)
    raise AttributeError(f"module 'fimtheory' has no attribute {name!r}")
