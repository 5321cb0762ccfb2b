"""Spectral norm of a dense matrix: Gram matrix on the smaller side, certified by Cholesky."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fimtheory.errors import ShapeError
from fimtheory.norms.certified import CertifiedNorm, unscaled, zero_norm
from fimtheory.norms.rounding import UNDERFLOW, gamma_n, up
from fimtheory.norms.scaling import RowScale, scale_rows
from fimtheory.norms.spectrum import SpectralLevel

__all__ = ["StoredNorm", "batch_norm_bound", "dense", "frobenius", "vector"]

_BLOCK = 512  # rows of the Gram matrix formed at a time
_BATCH_ENTRIES = 2**20  # Gram entries held at a time: 8 MiB, unless one matrix is larger


@dataclass(frozen=True, slots=True)
class StoredNorm:
    """Certified norm of an operator defined by float64 values, in scaled units.

    ``magnitude`` bounds the norm of the operator with entrywise absolute values, to which errors in the entries
    are proportional.
    """

    value: float
    magnitude: float
    method: str


def frobenius(matrices: Tensor) -> float:
    """Upper bound on the largest Frobenius norm in a batch (b, rows, columns).

    A sum of N squares and its root have relative error at most gamma_{N+2}, and flushed squares lose at most
    2^-511 sqrt(N) in the root.
    """
    largest = float(torch.linalg.vector_norm(matrices, dim=(-2, -1)).max())
    return up(up(largest * (1.0 + gamma_n(matrices.shape[-2] * matrices.shape[-1] + 4))) + UNDERFLOW)


def batch_norm_bound(matrices: Tensor) -> StoredNorm:
    """Bound the largest spectral norm in a float64 batch (b, rows, columns) whose largest entry is in [1/4, 1).

    Certificates: the Frobenius norm (exact for a vector), and the square root of the largest eigenvalue of the Gram
    matrices X X^T.  Each computed Gram entry is an inner product of m terms, so the error E of forming the matrix has
    |E| <= gamma_m |X| |X|^T and ||E||_2 <= gamma_m || |X| ||_2^2 <= gamma_m ||X||_F^2.
    """
    whole = frobenius(matrices)
    bounds = [StoredNorm(whole, whole, "frobenius")]
    wide = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT
    n, m = wide.shape[-2:]
    if n > 1:
        level = SpectralLevel(2.0**-5)  # the largest entry is at least 1/4, so the largest eigenvalue at least 1/16
        step = max(1, _BATCH_ENTRIES // (n * n))
        for i in range(0, len(wide), step):
            level.cover(_gram(wide[i : i + step]))
        eigenvalue = up(level.upper(n) + up(gamma_n(m + 2) * up(whole * whole)))
        bounds.append(StoredNorm(up(math.sqrt(eigenvalue)), whole, f"gram-{level.certificate}"))
    return min(bounds, key=lambda bound: bound.value)


def _gram(wide: Tensor) -> Tensor:
    """Gram matrices of the rows of a batch (b, n, m); only the lower block triangle is multiplied out."""
    batch, n, _ = wide.shape
    gram = torch.empty((batch, n, n), dtype=torch.float64, device="cpu")
    for i in range(0, n, _BLOCK):
        rows = slice(i, min(i + _BLOCK, n))
        gram[:, rows, : rows.stop] = wide[:, rows] @ wide[:, : rows.stop].mT
        gram[:, : rows.start, rows] = gram[:, rows, : rows.start].mT
    return gram


def dense(matrix: Tensor, *, row_scale: RowScale | None = None) -> CertifiedNorm:
    """Spectral norm of a matrix (rows, columns), after an optional factor per row.

    Status: certified.  Typically within 3e-8 of the exact norm, relative.

    Parameters
    ----------
    matrix
        Any shape and any floating dtype; converted exactly to float64.
    row_scale
        ``(scale, relative_error)`` as returned by `folded_scale`: the operator is diag(scale) @ matrix, where each
        exact factor is within ``relative_error``, relative, of the stored one.

    Raises
    ------
    ShapeError
        The tensor is not a matrix, a dimension is empty, or the row scale has another length.
    NonFiniteError
        A weight is NaN or infinite, or the norm is beyond float64.

    Notes
    -----
    Rump, Verification of positive definiteness, BIT 46 (2006); Higham, Accuracy and Stability of Numerical
    Algorithms (2002), sections 3.5 and 10.1.  See `spectrum` and `batch_norm_bound` for the proof.

    >>> norm = dense(torch.tensor([[3.0, 0.0], [4.0, 5.0]]))
    >>> bool(45**0.5 <= norm.upper <= 45**0.5 * (1 + 1e-7)), norm.method
    (True, 'gram-cholesky')
    """
    if matrix.dim() != 2:
        raise ShapeError(f"dense needs a matrix, got a tensor of shape {tuple(matrix.shape)}; flatten it first")
    scaled = scale_rows(matrix, row_scale, "the matrix")
    if scaled.values is None:
        return zero_norm()
    bound = batch_norm_bound(scaled.values[None])
    return unscaled(scaled.outward(bound.value, bound.magnitude), scaled.exponent, bound.method)


def vector(v: Tensor) -> CertifiedNorm:
    """Euclidean norm of a tensor of any shape, read as one vector.

    Status: certified, relative error about (number of entries) * 2^-53.

    Raises
    ------
    ShapeError
        The tensor is empty.
    NonFiniteError
        An entry is NaN or infinite, or the norm is beyond float64.

    >>> 5.0 <= vector(torch.tensor([3.0, 4.0])).upper < 5.00000001
    True
    """
    scaled = scale_rows(v.reshape(1, -1), None, "the vector")
    if scaled.values is None:
        return zero_norm()
    value = frobenius(scaled.values[None])
    return unscaled(scaled.outward(value, value), scaled.exponent, "frobenius")
