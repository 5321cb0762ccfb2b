"""The one result type: a number that is at least the exact norm, and the name of the argument that proves it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fimtheory.errors import NonFiniteError, ShapeError
from fimtheory.norms.rounding import SMALLEST_NORMAL, UNIT, up

__all__ = ["CertifiedNorm", "stacked", "unscaled", "zero_norm"]


@dataclass(frozen=True, slots=True)
class CertifiedNorm:
    """Certified upper bound on an operator norm.

    Attributes
    ----------
    upper
        At least the exact norm of the exact operator with the stored weights; rounded outward, finite, and exactly
        0.0 only if the operator is zero.
    method
        The certificate that gave the smallest value, for example ``"gram-cholesky"`` or ``"torus 34x34"``.
    """

    upper: float
    method: str


def zero_norm() -> CertifiedNorm:
    """Norm of an operator whose weights are all exactly zero."""
    return CertifiedNorm(0.0, "zero")


def unscaled(value: float, exponent: int, method: str) -> CertifiedNorm:
    """Return ``value * 2**exponent`` as a certified norm; ``value`` is an upper bound in scaled units.

    The product by a power of two is exact unless it leaves the range of normal numbers.  Below, the smallest normal
    number is reported, which is larger and survives a caller that flushes denormals.

    Raises
    ------
    NonFiniteError
        The bound is larger than every float64.

    >>> unscaled(0.75, 1, "frobenius")
    CertifiedNorm(upper=1.5, method='frobenius')
    """
    assert 0.0 < value < math.inf, f"{method} produced {value}, which bounds nothing"
    try:
        upper = math.ldexp(value, exponent)
    except OverflowError:
        raise NonFiniteError(
            f"the operator norm is about {value:.6g} * 2**{exponent}, beyond the largest float64 (1.8e308); "
            "rescale the weights before asking for their norm"
        ) from None
    return CertifiedNorm(max(upper, SMALLEST_NORMAL), method)


def stacked(norms: Sequence[CertifiedNorm]) -> CertifiedNorm:
    """Norm of operators stacked on one input (or concatenated on one output): sqrt of the sum of squares.

    Status: certified, ||[A; B] x||^2 = ||A x||^2 + ||B x||^2 <= (||A||^2 + ||B||^2) ||x||^2.

    Raises
    ------
    ShapeError
        The sequence is empty.
    NonFiniteError
        The result is larger than every float64.

    >>> 5.0 <= stacked([CertifiedNorm(3.0, "exact"), CertifiedNorm(4.0, "exact")]).upper < 5.00001
    True
    """
    if not norms:
        raise ShapeError("stacked needs at least one norm; an operator without rows has none")
    largest = max(norm.upper for norm in norms)
    if largest == 0.0:
        return zero_norm()
    # Dividing by a power of two at most 2 * largest is exact, or underflows, which costs at most 2^-1022 each.
    exponent = math.frexp(largest)[1]
    total = 0.0
    for norm in norms:
        ratio = math.ldexp(norm.upper, -exponent) + SMALLEST_NORMAL
        total = up(total + up(ratio * ratio))
    # One more rounding for each ratio above: relative error u in ratio is 2 u in its square, u in the root.
    return unscaled(up(up(math.sqrt(total)) * (1.0 + 4.0 * UNIT)), exponent, "stacked")
