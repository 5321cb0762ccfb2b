"""Pooling: exact gains per dimension, multiplied over dimensions."""

from __future__ import annotations

import math
from fractions import Fraction

import sympy

from fimtheory.claims import Claim, Quantity, Reference, Relation, Status
from fimtheory.errors import SymbolicSizeError
from fimtheory.layers import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d, Size
from fimtheory.registry import Site, rule
from fimtheory.symmetry import Symmetry

__all__ = ["adaptive_average_pool_gain", "average_pool_gain", "max_pool_gain"]

_MOST_ENTRIES = 2**16
_MAX_WINDOWS = Reference("tsuzuku2018", "appendix D")


def _number(size: Size, what: str) -> int:
    if not isinstance(size, int):
        raise SymbolicSizeError(f"{what} is {size}; the gain of this pooling needs a number there")
    return size


@rule(MaxPool2d, quantity=Quantity.GAIN, reference=_MAX_WINDOWS)
def max_pool_gain(site: Site) -> Claim:
    """Gain of max pooling: the square root of the largest number of windows an entry can be the maximum of.

    Statement: per dimension ``sqrt(min(ceil(k gcd(s, d) / s), n_out))``, k the kernel, s the stride, d the dilation.
    Conditions: none.  Proof: J selects entries, J^T J is diagonal and counts the windows that select each one; a
    window at m s covers the entries m s + j d, and an entry lies in at most that many of them.  The 3x3/2 pool
    at the stem of a ResNet has gain 2.

    >>> max_pool_gain(Site.of(MaxPool2d((3, 3), (2, 2), (1, 1)), inputs=((64, 112, 112),))).expression
    2
    """
    windows = 1
    for k, s, d, n in zip(site.layer.kernel, site.layer.stride, site.layer.dilation, site.output[1:], strict=True):
        k, s, d = _number(k, "kernel"), _number(s, "stride"), _number(d, "dilation")
        covering = -(-k * math.gcd(s, d) // s)
        windows *= min(covering, n) if isinstance(n, int) else covering
    return Claim(Relation.LE, sympy.sqrt(windows), _MAX_WINDOWS)


@rule(AvgPool2d, quantity=Quantity.GAIN, reference=Reference("fimtheory"))
def average_pool_gain(site: Site) -> Claim:
    """Gain of average pooling with padding that counts.

    Statement: per dimension at most ``sqrt(k (2q+1) - s q (q+1)) / k`` with ``q = ceil(k/s) - 1``; attained in the
    limit of large inputs.  Conditions: none.  Proof: the pool in one dimension is a matrix A with A A^T Toeplitz and
    nonnegative: windows m steps apart overlap in k - s m entries.  Its norm is at most the largest row sum
    ``(k + 2 sum_{m=1}^{q} (k - s m)) / k^2``; in two dimensions A is a Kronecker product.

    >>> average_pool_gain(Site.of(AvgPool2d((2, 2), (2, 2)), inputs=((8, 6, 6),))).expression
    1/2
    """
    square = sympy.Integer(1)
    for k, s in zip(site.layer.kernel, site.layer.stride, strict=True):
        k, s = _number(k, "kernel"), _number(s, "stride")
        q = -(-k // s) - 1
        square *= sympy.Rational(k * (2 * q + 1) - s * q * (q + 1), k * k)
    return Claim(Relation.LE, sympy.sqrt(square), Reference("fimtheory"))


@rule(AdaptiveAvgPool2d, quantity=Quantity.GAIN, reference=Reference("fimtheory"))
def adaptive_average_pool_gain(site: Site) -> Claim:
    """Gain of adaptive average pooling from n to m entries, per dimension.

    Statement: ``sqrt(m/n)`` if one of m, n divides the other (exact; the global pool has gain 1/sqrt(H W)), else at
    most ``sqrt(||A||_inf ||A||_1)`` for the 0-1-average matrix A.  Conditions: none.  Proof: in the first case the
    windows are disjoint and of one size, or repeat single entries; the second is Riesz-Thorin between l1 and
    l-infinity.  Both maps are Kronecker products over dimensions.

    >>> adaptive_average_pool_gain(Site.of(AdaptiveAvgPool2d((1, 1)), inputs=((512, 7, 7),))).expression
    1/7
    """
    square, exact = sympy.Integer(1), True
    for n, m in zip(site.inputs[0][1:], site.layer.output, strict=True):
        if m == 1:
            square = square / n
            continue
        n, m = _number(n, "input size"), _number(m, "output size")
        if n % m == 0 or m % n == 0:
            square *= sympy.Rational(m, n)
        else:
            square *= _riesz_thorin_square(n, m)
            exact = False
    return Claim(Relation.EQ if exact else Relation.LE, sympy.sqrt(square), Reference("fimtheory"))


def _riesz_thorin_square(n: int, m: int) -> sympy.Expr:
    """``||A||_inf ||A||_1`` of the averaging matrix torch uses: window i is [floor(i n/m), ceil((i+1) n/m)).

    ``||A||_inf`` is 1.  Large sizes get a bound on the column sums: at most ceil(m/n) + 1 windows cover an entry, and
    none is shorter than ceil(n/m).
    """
    if n + m > _MOST_ENTRIES:
        return sympy.Rational(-(-m // n) + 1, -(-n // m))
    column = [Fraction(0)] * n
    for i in range(m):
        start, end = i * n // m, -(-(i + 1) * n // m)
        for j in range(start, end):
            column[j] += Fraction(1, end - start)
    largest = max(column)
    return sympy.Rational(largest.numerator, largest.denominator)


def _deterministic(site: Site, gain: Claim) -> Claim:
    return Claim(Relation.LE, gain.expression**2, gain.reference, status=Status.EXPECTED)


@rule(MaxPool2d, quantity=Quantity.JACOBIAN_VARIANCE, reference=_MAX_WINDOWS)
def max_pool_jacobian_variance(site: Site) -> Claim:
    """``||A J||_F^2 <= ||A||^2 ||J||_F^2`` for the selection A made at this input."""
    return _deterministic(site, max_pool_gain(site))


@rule(AvgPool2d, quantity=Quantity.JACOBIAN_VARIANCE, reference=Reference("fimtheory"))
def average_pool_jacobian_variance(site: Site) -> Claim:
    """``||A J||_F^2 <= ||A||^2 ||J||_F^2``."""
    return _deterministic(site, average_pool_gain(site))


@rule(AdaptiveAvgPool2d, quantity=Quantity.JACOBIAN_VARIANCE, reference=Reference("fimtheory"))
def adaptive_average_pool_jacobian_variance(site: Site) -> Claim:
    """``||A J||_F^2 <= ||A||^2 ||J||_F^2``."""
    return _deterministic(site, adaptive_average_pool_gain(site))


@rule(AvgPool2d, quantity=Quantity.SYMMETRY, reference=Reference("fimtheory"))
@rule(AdaptiveAvgPool2d, quantity=Quantity.SYMMETRY, reference=Reference("fimtheory"))
def linear_pool_symmetry(site: Site) -> Symmetry:
    """An average is linear, hence odd."""
    return Symmetry.ODD
