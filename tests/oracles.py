"""The slow and plain truths of ``fimtheory.properties``, under one name."""

from __future__ import annotations

from fimtheory.properties.networks import activations, jacobians, outputs, random_networks
from fimtheory.properties.steps import fragment_module
from fimtheory.properties.truths import ascend, jacobian, lam_from, log10_lam, norm, single

__all__ = [
    "activations", "ascend", "fragment_module", "jacobian", "jacobians", "lam_from", "log10_lam", "norm", "outputs",
    "random_networks", "single",
]  # fmt: skip
