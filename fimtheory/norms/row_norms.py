"""Largest row of a matrix, in l1 and in l2: how far single entries of its image can go."""

from __future__ import annotations

import torch
from torch import Tensor

from fimtheory.errors import ShapeError
from fimtheory.norms.certified import CertifiedNorm, unscaled, zero_norm
from fimtheory.norms.rounding import UNDERFLOW, gamma_n, up
from fimtheory.norms.scaling import RowScale, scale_rows

__all__ = ["infinity_norm", "two_to_infinity_norm"]


def infinity_norm(matrix: Tensor, *, row_scale: RowScale | None = None) -> CertifiedNorm:
    """Largest l1 norm of a row: ``|A x| <= ||A||_inf max |x|`` for every entry of A x.

    Status: certified, relative error about (number of columns) * 2^-53.  ``row_scale`` is as for `dense`.

    Raises
    ------
    ShapeError
        The tensor is not a matrix, a dimension is empty, or the row scale has another length.
    NonFiniteError
        A weight is NaN or infinite, or the norm is beyond float64.

    >>> 7.0 <= infinity_norm(torch.tensor([[3.0, -4.0], [5.0, 1.0]])).upper < 7.0000001
    True
    """
    return _largest_row(matrix, row_scale, 1)


def two_to_infinity_norm(matrix: Tensor, *, row_scale: RowScale | None = None) -> CertifiedNorm:
    """Largest l2 norm of a row: ``|A x| <= ||A||_(2,inf) ||x||`` for every entry of A x.

    Status and errors: see `infinity_norm`.

    >>> 5.0 <= two_to_infinity_norm(torch.tensor([[3.0, -4.0], [1.0, 1.0]])).upper < 5.0000001
    True
    """
    return _largest_row(matrix, row_scale, 2)


def _largest_row(matrix: Tensor, row_scale: RowScale | None, order: int) -> CertifiedNorm:
    """Largest norm of a row, as n sums of magnitudes or squares and a root: relative error below gamma_{n+2}.

    Squares that are flushed lose at most 2^-511 sqrt(n) in the root, and magnitudes 2^-1022 n.
    """
    if matrix.dim() != 2:
        raise ShapeError(f"the norm of rows needs a matrix, got a tensor of shape {tuple(matrix.shape)}")
    scaled = scale_rows(matrix, row_scale, "the matrix")
    if scaled.values is None:
        return zero_norm()
    largest = float(torch.linalg.vector_norm(scaled.values, order, dim=1).max())
    value = up(up(largest * (1.0 + gamma_n(matrix.shape[1] + 4))) + UNDERFLOW)
    return unscaled(scaled.outward(value, value), scaled.exponent, f"largest row in l{order}")
