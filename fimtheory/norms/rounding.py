"""Outward rounding: the a priori error constants and the one-ulp steps that every certified norm uses.

All arithmetic is IEEE binary64 with rounding to nearest.  Sums of products may be evaluated in any order, with or
without fused multiply-adds: the constant gamma_n of Higham, *Accuracy and Stability of Numerical Algorithms* (2002),
Lemma 3.1 and section 3.1, covers every order, so it covers any conventional BLAS and any number of threads.
"""

from __future__ import annotations

import math

UNIT = 2.0**-53
"""Unit roundoff u of binary64."""

SMALLEST_NORMAL = 2.0**-1022
"""Results below this may be flushed to zero (``torch.set_flush_denormal``), so no bound is reported below it."""

UNDERFLOW = 2.0**-400
"""More than all the underflow of one computation on operators scaled to have their largest entry in [1/4, 1).

One operation loses at most 2^-500 (`scaling`: 2^-522 on input; one flushed result: 2^-1022, or 2^-511 after a square
root), and one computation has fewer than 2^90 of them.
"""


def up(value: float) -> float:
    """Next float above: after one operation rounded to nearest, an upper bound on its exact result.

    >>> up(1.0) > 1.0
    True
    """
    return math.nextafter(value, math.inf)


def gamma_n(n: int) -> float:
    """Upper bound on n u / (1 - n u), the relative error of n roundings (Higham 2002, Lemma 3.1).

    n u / (1 - n u) <= n u (1 + 2 n u) <= n u (1 + 2^-20) as long as n <= 2^32, and the rounding of the product
    computed here is far below the gap between the last two.

    >>> gamma_n(1) > 2.0**-53
    True
    """
    assert 0 <= n <= 2**32, f"gamma_n(n={n}) is outside the range of this bound"
    return n * UNIT * (1.0 + 2.0**-20)
