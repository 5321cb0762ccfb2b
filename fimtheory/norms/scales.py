"""Norms of diagonal operators, the folded batch-norm scale, and centring followed by a scale."""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

from fimtheory.errors import NonFiniteError, ShapeError
from fimtheory.norms.certified import CertifiedNorm, unscaled, zero_norm
from fimtheory.norms.rounding import UNIT, gamma, up
from fimtheory.norms.scaling import RowScale, exact_float64, magnitude_bits, scale_rows

__all__ = ["centred_scale", "diagonal", "folded_scale"]


def folded_scale(gamma_: Tensor, var: Tensor, eps: float) -> RowScale:
    """Batch-norm scale gamma / sqrt(var + eps) in float64, with a bound on its entrywise relative error.

    Status: certified.  exact = scale (1 + delta) with |delta| <= the returned error: var + eps errs by u, its root
    by u/2 + u, the quotient by u more, together below 2.5 u + O(u^2); 4 u is returned.

    Parameters
    ----------
    gamma_, var
        Weight and running variance of the batch norm, shape (channels,).
    eps
        Its epsilon, taken as the exact float64 number.

    Raises
    ------
    ShapeError
        The two vectors differ in shape or are not vectors.
    NonFiniteError
        An entry is NaN or infinite, var + eps is not positive, or a scale is outside the normal float64 numbers.

    >>> scale, error = folded_scale(torch.tensor([2.0]), torch.tensor([3.0]), 1.0)
    >>> scale.tolist(), error < 1e-15
    ([1.0], True)
    """
