"""What each layer computes, in torch: one rule per layer type, for evaluation.

A forward rule takes a site and returns a function of the layer's tensors (by the names of its parameter rule) and
of its batched inputs.  Everything is written with operations whose forward- and reverse-mode derivatives are right
and compose with ``torch.func``: batch norm is an affine map (``F.batch_norm`` of torch 2.13 has a wrong gradient on
CPU at batch size 1), attention is two matrix products and a softmax (flash attention has no forward mode).
Importing this package registers the rules.
"""

from __future__ import annotations

from fimtheory.forward import (
    activations,
    constants,
    convolutions,
    movement,
    normalisation,
    pooling,
    products,
    reductions,
    resampling,
    structure,
    weights,
)
from fimtheory.forward.base import Forward

__all__ = [
    "Forward",
    "activations",
    "constants",
    "convolutions",
    "movement",
    "normalisation",
    "pooling",
    "products",
    "reductions",
    "resampling",
    "structure",
    "weights",
]
