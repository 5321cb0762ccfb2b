"""Derive, check and verify bounds on the spectral norm of a classifier's input-space Fisher information.

>>> import fimtheory as ft
>>> derivation = ft.derive(ft.families.mlp(widths=(64,), inputs=16, classes=3))
>>> ft.check(derivation)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import fimtheory.rules  # noqa: F401  registers the built-in rules
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
    from fimtheory.blackbox import estimate_black_box
    from fimtheory.directions import sensitive_direction, spectral_attack
    from fimtheory.divergence import kl_interval
    from fimtheory.estimators import estimate, spectrum, trace
    from fimtheory.evaluation import evaluate
    from fimtheory.instantiation import instantiate
    from fimtheory.local import local_bound, local_radius
    from fimtheory.measures import evaluates
    from fimtheory.properties import check_rule
    from fimtheory.radii import certified_accuracy, certified_radius
    from fimtheory.ranges import ranged
    from fimtheory.reporting import report
    from fimtheory.search import worst_case
    from fimtheory.semidefinite import semidefinite_bound
    from fimtheory.sources import from_onnx, from_torch
    from fimtheory.surveys import survey
    from fimtheory.verification import verify

__version__ = "0.1.0"

_NEEDS_TORCH = {
    "certified_accuracy": "fimtheory.radii",
    "certified_radius": "fimtheory.radii",
    "check_rule": "fimtheory.properties",
    "estimate": "fimtheory.estimators",
    "estimate_black_box": "fimtheory.blackbox",
    "evaluate": "fimtheory.evaluation",
    "evaluates": "fimtheory.measures",
    "from_onnx": "fimtheory.sources",
    "from_torch": "fimtheory.sources",
    "instantiate": "fimtheory.instantiation",
    "kl_interval": "fimtheory.divergence",
    "local_bound": "fimtheory.local",
    "local_radius": "fimtheory.local",
    "ranged": "fimtheory.ranges",
    "report": "fimtheory.reporting",
    "semidefinite_bound": "fimtheory.semidefinite",
    "spectrum": "fimtheory.estimators",
    "sensitive_direction": "fimtheory.directions",
    "spectral_attack": "fimtheory.directions",
    "survey": "fimtheory.surveys",
    "trace": "fimtheory.estimators",
    "verify": "fimtheory.verification",
    "worst_case": "fimtheory.search",
}
"""Functions that import torch, loaded on first use so that deriving stays quick.  No module bears a function's name:
importing it would replace the function."""

__all__ = [
    "Builder", "Claim", "Condition", "Derivation", "FimTheoryError", "LayerGraph", "Node", "Quantity", "Reference",
    "Relation", "Repeat", "Site", "Status", "baseline", "certified_accuracy", "certified_radius", "check", "check_rule",
    "claims", "derive", "errors", "estimate", "estimate_black_box", "evaluate", "evaluates",
    "families", "from_onnx", "from_torch", "instantiate", "kl_interval", "layer", "layers", "load", "load_derivation",
    "load_graph", "local_bound", "local_radius", "measure", "ranged", "report", "rule", "rules", "save_graph",
    "semidefinite_bound", "sensitive_direction", "spectral_attack", "spectrum", "survey", "trace", "verify",
    "worst_case",
]  # fmt: skip

load = load_graph


def __dir__() -> list[str]:
    """List the public names, also of functions that are not loaded yet."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


def __getattr__(name: str) -> Any:
    if name in _NEEDS_TORCH:
        function = getattr(importlib.import_module(_NEEDS_TORCH[name]), name)
        globals()[name] = function
        return function
    raise AttributeError(f"module 'fimtheory' has no attribute {name!r}")
