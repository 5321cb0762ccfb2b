"""The r largest eigenvalues of F(x), by block Lanczos on G with full reorthogonalisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fimtheory.claims import Status
from fimtheory.estimators.lanczos import default_tolerance
from fimtheory.estimators.start import null_vector
from fimtheory.fisher import FisherOperator

__all__ = ["Eigenpairs", "block_krylov"]

_SPARE = 2
"""Vectors of a block beyond those asked for: they speed the last eigenvalue up."""


@dataclass(frozen=True)
class Eigenpairs:
    """The top eigenvalues of the scaled ``G(x)`` of a `FisherOperator`, per input.

    Attributes
    ----------
    values : Tensor
        ``(B, r)`` float64, decreasing, scaled: in units of ``2**operator.exponent``.  Each is at most the eigenvalue of
        its rank (Cauchy interlacing), up to rounding.
    residuals : Tensor
        ``(B, r)``, ``||G u - value u||``, scaled: some eigenvalue lies within this distance of the value.
    vectors : Tensor
        ``(B, r, K)`` orthonormal.
    status : Status
        ``EXACT`` where the blocks span the whole space, else ``LOWER``.
    """

    values: Tensor
    residuals: Tensor
    vectors: Tensor
    status: Status


def block_krylov(operator: FisherOperator, rank: int, *, tol: float | None = None, seed: int = 0) -> Eigenpairs:
    """Return the ``rank`` largest eigenpairs of G.

    A block of ``rank + 2`` random vectors grows a Krylov space until, for every input, the error estimate
    ``min(r, r^2 / gap)`` of each value wanted is at most ``tol`` of the largest value, or the space is all of the
    K - 1 dimensions orthogonal to ``sqrt(p)``.  A block finds eigenvalues of multiplicity up to its width, where single
    vectors find one of each (Golub and Underwood 1977).

    Parameters
    ----------
    operator : FisherOperator
        The operator of a batch.
    rank : int
        Eigenpairs wanted, from 1 to K - 1.
    tol : float, optional
        Accuracy relative to the largest eigenvalue; 1e-6, or what the module's dtype allows.
    seed : int
        Of the random start.
    """
    size, batch = operator.K - 1, len(operator.x)
    tol = default_tolerance(operator.logits.dtype) if tol is None else tol
    generator = torch.Generator().manual_seed(seed)
    width = min(size, rank + _SPARE)
    block = torch.randn(batch, width, operator.K, generator=generator, dtype=torch.float64).to(operator.x.device)
    basis = null_vector(operator).unsqueeze(1)  # G maps it to zero: deflated by being in the basis from the start
    images = torch.zeros_like(basis)
    while True:
        block = _orthonormal(block[:, : size + 1 - basis.shape[1]], basis)
        image = torch.stack([operator.gram_product(u) for u in block.unbind(1)], 1)
        basis, images = torch.cat([basis, block], 1), torch.cat([images, image], 1)
        projected = torch.einsum("bik,bjk->bij", basis, images)
        values, s = torch.linalg.eigh((projected + projected.mT) / 2)
        values, s = values.flip(1)[:, : rank + 1], s.flip(2)[:, :, :rank]
        vectors = torch.einsum("bji,bjk->bik", s, basis)
        residuals = (torch.einsum("bji,bjk->bik", s, images) - values[:, :rank, None] * vectors).norm(dim=2)
        whole = basis.shape[1] == size + 1
        if whole or _converged(values, residuals, rank, tol).all():
            status = Status.EXACT if whole else Status.LOWER
            return Eigenpairs(values[:, :rank].clamp(min=0), residuals, vectors, status)
        block = image


def _converged(values: Tensor, residuals: Tensor, rank: int, tol: float) -> Tensor:
    """Whether all values wanted are as accurate as asked, ``(B,)``; ``values`` has one more than are wanted."""
    top = values[:, :1]
    distance = values[:, :rank] - values[:, rank : rank + 1]  # to the first value that is not wanted
    error = torch.where(distance > residuals, residuals.square() / distance.where(distance > 0, 1.0), residuals)
    return ((error <= tol * top) & (residuals <= max(10 * tol, 1e-5) * top)).all(1)


def _orthonormal(block: Tensor, basis: Tensor) -> Tensor:
    """Return an orthonormal basis ``(B, w, K)`` of the block's part orthogonal to ``basis`` ``(B, n, K)``.

    Where that part has a lower dimension (the Krylov space is exhausted), random directions fill it up.
    """
    generator = torch.Generator().manual_seed(basis.shape[1])
    filling = torch.randn(block.shape, generator=generator, dtype=torch.float64).to(block.device)
    scale = block.norm(dim=2, keepdim=True)
    block = block / scale.where(scale > 0, 1.0)
    done: list[Tensor] = []
    for k in range(block.shape[1]):
        known = torch.cat([basis, *(d.unsqueeze(1) for d in done)], 1)
        u = _projected_off(block[:, k], known)
        lost = u.norm(dim=1, keepdim=True) < 1e-8
        u = torch.where(lost, _projected_off(filling[:, k], known), u)
        done.append(u / u.norm(dim=1, keepdim=True))
    return torch.stack(done, 1)


def _projected_off(u: Tensor, basis: Tensor) -> Tensor:
    for _ in range(2):
        u = u - torch.einsum("bnk,bn->bk", basis, torch.einsum("bnk,bk->bn", basis, u))
    return u
