"""Starting vectors in the space where G acts: orthogonal to ``sqrt(p)``, which it maps to zero."""

from __future__ import annotations

import torch
from torch import Tensor

from fimtheory.fisher import FisherOperator, normalised

__all__ = ["null_vector", "orthonormal_to_null", "random_start"]


def null_vector(operator: FisherOperator) -> Tensor:
    """Return ``sqrt(p)``, ``(B, K)`` unit vectors that G maps to zero."""
    return (0.5 * operator.log_probs).exp()


def random_start(operator: FisherOperator, seed: int) -> Tensor:
    """Return unit vectors ``(B, K)``, uniform on the sphere orthogonal to ``sqrt(p)``, which G maps to zero."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(operator.log_probs.shape, generator=generator, dtype=torch.float64).to(operator.x.device)
    return orthonormal_to_null(operator, start)


def orthonormal_to_null(operator: FisherOperator, u: Tensor) -> Tensor:
    """Project ``u`` ``(B, K)`` off ``sqrt(p)`` and scale it to norm 1; a row of zeros becomes a random one."""
    null = null_vector(operator)
    u = normalised(u)[0]
    u = u - null * (null * u).sum(1, keepdim=True)
    norm = u.norm(dim=1, keepdim=True)
    if (norm == 0).any():
        return torch.where(norm > 0, u / norm.where(norm > 0, 1.0), random_start(operator, 0))
    return u / norm
