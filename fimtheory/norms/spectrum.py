"""Certified upper bound on the largest eigenvalue of Hermitian matrices, by completed Cholesky factorisations.

Theorem (Rump, *Verification of positive definiteness*, BIT 46, 2006; Higham 2002, Theorem 10.3).  If the
floating-point Cholesky factorisation of a Hermitian H of order n runs to completion, its factor satisfies
L L^H = H + E with |E| <= k |L| |L^H| entrywise.  Hence ||E||_2 <= k ||L||_F^2, while
||L||_F^2 = tr(H) + tr(E) <= tr(H) + k ||L||_F^2, and since L L^H is positive semidefinite

    lambda_min(H)  >=  -k / (1 - k) tr(H).

With H = fl(c I - A) this bounds the largest eigenvalue of A.  Only the trial level c is taken from an estimate, and
a bad estimate costs tightness or time, never truth.

The constant k is gamma_{n+1} in real arithmetic, for any order of evaluation and any blocking by substitution.  In
complex arithmetic the real and imaginary parts of an entry are real inner products of at most 2n terms, so k is at
most sqrt(2) gamma_{2n+2}.  gamma_{8(n+1)} is used for both: the remaining factor 2.8 allows for reciprocals in place
of divisions and for complex products by three multiplications.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fimtheory.norms.lanczos import largest_ritz_value
from fimtheory.norms.rounding import UNDERFLOW, UNIT, gamma_n, up

__all__ = ["SpectralLevel"]

_ESTIMATED_AT_A_TIME = 2**18  # entries of the matrices handed to Lanczos together
_MARGIN = 2.0**-25  # a trial level above an estimate by this much: 1.5e-8 on the norm


class SpectralLevel:
    """A level that lies above every eigenvalue of every Hermitian matrix it was made to `cover`.

    Matrices arrive in batches; those that the level already covers cost one Cholesky factorisation each, and those
    that it does not raise it.  Start at a number known to be below the final level.

    >>> level = SpectralLevel(2.0**-10)
    >>> level.cover(torch.tensor([[[2.0, 1.0], [1.0, 2.0]]], dtype=torch.float64))
    >>> 3.0 <= level.upper(2) <= 3.000001, level.certificate
    (True, 'cholesky')
    """

    def __init__(self, start: float) -> None:
        self._level = start
        self._estimated = False  # factorising at the start level would be wasted: nearly every matrix lies above it
        self.certificate = "cholesky"

    def upper(self, n: int) -> float:
        """Upper bound on the eigenvalues of the covered matrices, all of order at most n, as stored.

        With c the level and |a_ii| <= c: subtracting the diagonal errs by at most u |c - a_ii| <= 2 u c, and
        tr(H) <= 2 n c (1 + u), so k / (1 - k) tr(H) <= 2.01 n gamma_{8(n+1)} c whenever k <= 1/1000.
        """
        shift = gamma_n(8 * (n + 1))
        assert shift <= 1e-3, f"order {n} is beyond the range of the Cholesky error bound"
        return up(up(self._level * (1.0 + 4.0 * UNIT + 2.02 * n * shift)) + UNDERFLOW)

    def cover(self, matrices: Tensor) -> None:
        """Raise the level until it covers a batch (b, n, n) of Hermitian matrices; their storage is overwritten.

        Both triangles must be stored.  The lower one with the real diagonal is taken as the matrix.
        """
        n = matrices.shape[-1]
        diagonal = matrices.diagonal(dim1=-2, dim2=-1).real.clone()
        frobenius = _frobenius(matrices)
        negative = matrices.neg_()
        open_ = (frobenius > self._level).nonzero().flatten()
        step = _MARGIN
        while len(open_) > 0:
            if self._estimated:
                open_ = open_[~_factorises(negative, diagonal, open_, self._level)]
            if len(open_) == 0:
                return
            # Estimating the few with the largest Frobenius norm is enough: the rest is tried again at the new level.
            few = open_[frobenius[open_].argsort(descending=True)[: 1 + _ESTIMATED_AT_A_TIME // n**2]]
            candidates = -negative[few]
            candidates.diagonal(dim1=-2, dim2=-1).copy_(diagonal[few])
            trial = largest_ritz_value(candidates) * (1.0 + _MARGIN)
            self._estimated = True
            if not trial > self._level:  # the estimates, perhaps NaN, do not explain the failure, so climb
                trial = self._level * (1.0 + step)
                step = min(1.0, 4.0 * step)
            # ||A||_2 <= ||A||_F holds whatever the factorisations do, so the climb ends there.
            highest = float(frobenius[open_].max())
            self.certificate = "cholesky" if trial < highest else "frobenius"
            self._level = min(trial, highest)
            open_ = open_[frobenius[open_] > self._level]


def _frobenius(matrices: Tensor) -> Tensor:
    """Upper bounds on the Frobenius norms of a batch.

    The sum of N = 2 n^2 squares and its root err by less than gamma_{N+2} <= 2^-20 for N <= 2^32, and each square
    may lose an underflow below 2^-1022, so the root at most 2^-511 sqrt(N).
    """
    parts = torch.view_as_real(matrices) if matrices.is_complex() else matrices
    return torch.linalg.vector_norm(parts.flatten(1), dim=1) * (1.0 + 2.0**-19) + UNDERFLOW


def _factorises(negative: Tensor, diagonal: Tensor, which: Tensor, level: float) -> Tensor:
    """For each selected matrix -A, whether the Cholesky factorisation of level I - A ran to completion."""
    shifted = negative if len(which) == len(negative) else negative[which]
    selected = diagonal if len(which) == len(negative) else diagonal[which]
    shifted.diagonal(dim1=-2, dim2=-1).copy_(level - selected)
    factor, info = torch.linalg.cholesky_ex(shifted)
    pivots = factor.diagonal(dim1=-2, dim2=-1).real
    # |a_ii| <= level is what `SpectralLevel.upper` assumes; a_ii < level is implied by a positive first pivot.
    return (info == 0) & (pivots > 0).all(-1) & (selected >= -level).all(-1)
