"""Lanczos estimate of the largest eigenvalue of Hermitian matrices: a LOWER bound, used only to choose trial levels.

Nothing here is certified.  `spectrum` turns an estimate into an upper bound by a completed Cholesky factorisation.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["largest_ritz_value"]

_MAX_STEPS = 320
_CHECK_EVERY = 8
_SETTLED = 2.0**-34
_EXHAUSTED = 2.0**-40


def largest_ritz_value(matrices: Tensor) -> float:
    """Estimate the largest eigenvalue over a batch (b, n, n) of Hermitian positive semidefinite matrices.

    Lanczos with full reorthogonalisation from a fixed random start, all matrices in step, until the estimate changes
    by less than 2^-34 relative over eight steps.

    >>> round(largest_ritz_value(torch.diag_embed(torch.tensor([[1.0, 3.0], [2.0, 0.5]], dtype=torch.float64))), 9)
    3.0
    """
    batch, n, _ = matrices.shape
    steps = min(n, _MAX_STEPS)
    generator = torch.Generator("cpu").manual_seed(0)
    start = torch.randn(batch, n, dtype=torch.float64, device="cpu", generator=generator)
    basis = torch.zeros(batch, steps, n, dtype=matrices.dtype, device="cpu")
    basis[:, 0] = start / torch.linalg.vector_norm(start, dim=-1, keepdim=True)
    tridiagonal = torch.zeros(batch, steps, steps, dtype=torch.float64, device="cpu")
    size = torch.zeros(batch, dtype=torch.float64, device="cpu")
    estimate = 0.0
    for k in range(steps):
        image = (matrices @ basis[:, k, :, None])[..., 0]
        size = torch.maximum(size, torch.linalg.vector_norm(image, dim=-1))
        done = basis[:, : k + 1]
        tridiagonal[:, k, k] = (basis[:, k].conj() * image).sum(-1).real
        for _ in range(2):  # twice is enough (Parlett, The Symmetric Eigenvalue Problem, section 6.9)
            image = image - (done.mT @ (done.conj() @ image[..., None]))[..., 0]
        norm = torch.linalg.vector_norm(image, dim=-1)
        if k + 1 == steps or (k + 1) % _CHECK_EVERY == 0:
            previous = estimate
            estimate = float(torch.linalg.eigvalsh(tridiagonal[:, : k + 1, : k + 1])[:, -1].max())
            if estimate - previous <= _SETTLED * estimate:
                break
        if k + 1 < steps:
            # An exhausted Krylov space leaves only rounding noise: continue that matrix with zero vectors.
            exhausted = norm <= _EXHAUSTED * size
            norm[exhausted] = 0.0
            tridiagonal[:, k, k + 1] = tridiagonal[:, k + 1, k] = norm
            basis[:, k + 1] = torch.where(exhausted, 0.0, 1.0 / norm)[:, None] * image
    return estimate
