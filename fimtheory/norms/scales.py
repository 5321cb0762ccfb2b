"""The folded batch-norm scale, and certified norms of diagonal operators and of centring followed by a scale."""

from __future__ import annotations

import torch
from torch import Tensor

from fimtheory.errors import NonFiniteError, ShapeError
from fimtheory.norms.certified import CertifiedNorm, unscaled, zero_norm
from fimtheory.norms.rounding import UNIT, gamma_n, up
from fimtheory.norms.scaling import RowScale, exact_float64, magnitude_bits, scale_rows

__all__ = ["centred_scale", "diagonal", "folded_scale"]

_FOLDED_ERROR = 4.0 * UNIT
_LEAST = 2.0**-900  # smaller values of var + eps, or smaller nonzero scales, are refused: they could lose precision


def folded_scale(gamma: Tensor, var: Tensor, eps: float) -> RowScale:
    """Batch-norm scale gamma / sqrt(var + eps) in float64, with a bound on its entrywise relative error.

    Status: certified.  exact = scale * (1 + delta) with |delta| at most the returned error: the sum errs by u, hence
    its root by u/2 + u, and the quotient by u more; 4 u is returned for 2.5 u + O(u^2).

    Parameters
    ----------
    gamma, var
        Weight and running variance of the batch norm, both of shape (channels,).
    eps
        Its epsilon, taken as the exact float64 number.

    Raises
    ------
    ShapeError
        The two are not vectors of the same length.
    NonFiniteError
        An entry is NaN or infinite, var + eps is below 2^-900, or a scale is beyond float64 or below 2^-900.

    >>> scale, error = folded_scale(torch.tensor([2.0]), torch.tensor([3.0]), 1.0)
    >>> scale.tolist(), error < 1e-15
    ([1.0], True)
    """
    if gamma.dim() != 1 or gamma.shape != var.shape:
        raise ShapeError(f"gamma and var must be vectors of one length, got {tuple(gamma.shape)}, {tuple(var.shape)}")
    weight = exact_float64(gamma, "gamma")
    total = exact_float64(var, "var") + eps
    if not bool((total >= _LEAST).all()):
        raise NonFiniteError(
            f"var + eps must be positive and at least 2**-900, but its smallest entry is {float(total.min())}; "
            "the batch norm has no finite scale there"
        )
    scale = weight / torch.sqrt(total)
    usable = torch.isfinite(scale) & ((scale.abs() >= _LEAST) | (magnitude_bits(weight) == 0))
    if not bool(usable.all()):
        channel = int((~usable).nonzero()[0, 0])
        raise NonFiniteError(
            f"the folded scale of channel {channel} is {float(scale[channel])}: gamma {float(weight[channel])} over "
            f"the root of {float(total[channel])} leaves the range 2**-900 to 2**1024; set so small a gamma to zero"
        )
    return scale, _FOLDED_ERROR


def diagonal(scale: Tensor, relative_error: float = 0.0) -> CertifiedNorm:
    """Norm of diag(scale), the largest magnitude, where each exact entry is within ``relative_error`` of the stored.

    Status: certified; the result of `folded_scale` may be passed as ``diagonal(*folded_scale(...))``.

    Raises
    ------
    ShapeError
        The scale is not a vector, or is empty.
    NonFiniteError
        An entry or the error is NaN or infinite, or the norm is beyond float64.

    >>> diagonal(torch.tensor([1.0, -3.0])).upper
    3.0
    """
    if scale.dim() != 1:
        raise ShapeError(f"a diagonal operator is given by a vector, got shape {tuple(scale.shape)}")
    unit = torch.ones(scale.shape[0], 1, dtype=torch.float64, device="cpu")
    scaled = scale_rows(unit, (scale, relative_error), "the diagonal")
    if scaled.values is None:
        return zero_norm()
    # Ones were multiplied without rounding, so only the error of the scale itself is left.
    largest = float(scaled.values.abs().max())
    value = largest if relative_error == 0.0 else up(up(1.0 + relative_error) * largest)
    return unscaled(value, scaled.exponent, "largest entry")


def centred_scale(gamma: Tensor) -> CertifiedNorm:
    """Norm of diag(gamma) (I - 1 1^T / n): centring a vector, then scaling its entries.

    Status: certified, relative error about n * 2^-53.  This is the exact gain of layer norm times sqrt(eps).

    Raises
    ------
    ShapeError
        gamma is not a vector, or is empty.
    NonFiniteError
        An entry is NaN or infinite, or the norm is beyond float64.

    Notes
    -----
    The squared norm is the maximum of sum gamma_i^2 x_i^2 over unit x with sum x_i = 0.  Sort t_i = |gamma_i|, t_1 the
    largest.  It is at most t_1^2; and for t_2 < tau < t_1 it is at most tau^2 if and only if

        (t_1^2 - tau^2) sum_{i>1} 1 / (tau^2 - t_i^2)  <=  1.

    Proof: put m_i = tau^2 - t_i^2 and x_1 = - sum_{i>1} x_i; then sum m_i x_i^2 = sum_{i>1} m_i x_i^2 - |m_1|
    (sum_{i>1} x_i)^2, and (sum x_i)^2 <= sum m_i x_i^2 sum 1/m_i by Cauchy-Schwarz, with equality for x_i = 1/m_i.
    The differences of squares are computed as products (t - tau)(t + tau), so that every term has a small relative
    error and the check is rigorous at gamma_{n+16}.

    >>> norm = centred_scale(torch.tensor([3.0, 4.0]))
    >>> 12.5**0.5 <= norm.upper < 12.5**0.5 * (1 + 1e-12)
    True
    """
    if gamma.dim() != 1:
        raise ShapeError(f"centred_scale needs a vector gamma, got shape {tuple(gamma.shape)}")
    scaled = scale_rows(gamma.reshape(-1, 1), None, "gamma")
    if scaled.values is None or len(gamma) == 1:  # a single entry minus its mean is zero
        return zero_norm()
    sizes = scaled.values[:, 0].abs().sort(descending=True).values
    value = _centred_level(float(sizes[0]), sizes[1:])
    return unscaled(scaled.outward(value, value), scaled.exponent, "secular equation")


def _centred_level(largest: float, others: Tensor) -> float:
    """Smallest tau found by bisection that passes the check of `centred_scale`; the largest entry always bounds."""
    allowed = 1.0 - gamma_n(len(others) + 17)
    low, high = float(others[0]), largest
    while low < (middle := low + (high - low) / 2.0) < high:
        inverse = float((1.0 / ((middle - others) * (middle + others))).sum())
        if (largest - middle) * (largest + middle) * inverse <= allowed:
            high = middle
        else:
            low = middle
    return high
