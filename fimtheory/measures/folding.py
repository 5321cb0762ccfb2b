"""The norm layer in front of a weight, folded into it: W diag(gamma) P, with P = I - 11^T/n where it centres."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fimtheory.layers import Layer, LayerNorm
from fimtheory.measures.approximations import Approximation

__all__ = ["folded"]


def folded(weight: Tensor, norm: Layer, tensors: Mapping[str, Tensor]) -> Approximation:
    """Return the weight as it acts on normalised tokens: those of a layer norm lie in the range of P."""
    scaled = Approximation.of(weight).scaled(tensors["weight"])
    return scaled.centred() if isinstance(norm, LayerNorm) else scaled
