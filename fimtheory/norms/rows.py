"""Largest distance between two rows of a matrix: the head constant D_W of the bound lam <= D_W^2 ||J_g||^2 / 4."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fimtheory.errors import ShapeError
from fimtheory.norms.certified import CertifiedNorm, unscaled, zero_norm
from fimtheory.norms.rounding import UNDERFLOW, UNIT, gamma_n, up
from fimtheory.norms.scaling import scale_rows

__all__ = ["row_diameter"]

_BLOCK = 1024  # rows multiplied with all earlier ones at a time


def row_diameter(matrix: Tensor) -> CertifiedNorm:
    """Largest Euclidean distance between two rows, max_{i<j} ||w_i - w_j||, of a matrix (classes, features).

    Status: certified, relative error about (number of features) * 2^-51.

    With x_i = w_i - w_0, the squared distance is computed as |x_i|^2 + |x_j|^2 - 2 x_i.x_j.  The squares are inner
    products of n terms, and n more may be added to them one after the other, so it errs by at most
    gamma_{2n+8} (|x_i| + |x_j|)^2.  Since w_0 is a row, |x_i| is itself one of the distances, so the error is at most
    4 gamma_{2n+8} relative.  Each entry of x_i is one subtraction, hence within u relative, which changes a distance by
    at most 2.01 u max |x_i|.

    Raises
    ------
    ShapeError
        The tensor is not a matrix with at least two rows and one column.
    NonFiniteError
        A weight is NaN or infinite, or the distance is beyond float64.

    >>> norm = row_diameter(torch.tensor([[1.0, 0.0], [4.0, 4.0], [1.0, 1.0]]))
    >>> 5.0 <= norm.upper < 5.0000001
    True
    """
    if matrix.dim() != 2 or matrix.shape[0] < 2:
        raise ShapeError(f"row_diameter needs a matrix with at least two rows, got shape {tuple(matrix.shape)}")
    scaled = scale_rows(matrix, None, "the matrix")
    # The same bits in every row: the distance is exactly zero, which the rounding errors below would hide.
    patterns = matrix.detach()
    patterns = patterns.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[patterns.element_size()])
    if scaled.values is None or bool((patterns == patterns[0]).all()):
        return zero_norm()
    rows = scaled.values.sub_(scaled.values[0].clone())
    squares = torch.linalg.vector_norm(rows, dim=1).square_()
    largest = 0.0
    for i in range(0, len(rows), _BLOCK):
        stop = min(i + _BLOCK, len(rows))
        distances = torch.addmm(squares[i:stop, None] + squares[:stop], rows[i:stop], rows[:stop].T, alpha=-2.0)
        largest = max(largest, float(distances.max()))
    n = rows.shape[1]
    radius = up(float(squares.max()) * (1.0 + 2.0**-19))
    squared = up(up(largest + up(4.0 * gamma_n(2 * n + 8) * radius)) + UNDERFLOW)
    value = up(up(math.sqrt(squared)) + up(3.0 * UNIT * up(math.sqrt(radius))))
    return unscaled(scaled.outward(value, value), scaled.exponent, "pairwise distances")
