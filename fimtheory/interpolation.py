"""The matrices of interpolation in one dimension, exactly: what torch's resizing computes up to rounding.

An output at i of m reads the input of n entries around a position: i n/m rounded down for the nearest entry,
(i + 1/2) n/m - 1/2 otherwise, or i (n-1)/(m-1) with aligned corners.  Linear weights hold the two entries beside it
(positions below 0 are taken as 0), cubic ones the four of Keys' kernel with a = -3/4; entries beyond the ends are the
ends.
"""

from __future__ import annotations

import math
from fractions import Fraction

__all__ = ["Row", "interpolation_rows"]

Row = dict[int, Fraction]
_KEYS = Fraction(-3, 4)


def interpolation_rows(n: int, m: int, mode: str, align_corners: bool) -> list[Row]:
    """Return the nonzero weights of each of m outputs from n entries, by entry.

    >>> [list(row.items()) for row in interpolation_rows(2, 3, "nearest", False)]
    [[(0, Fraction(1, 1))], [(0, Fraction(1, 1))], [(1, Fraction(1, 1))]]
    """
    if mode == "nearest":
        return [{i * n // m: Fraction(1)} for i in range(m)]
    rows = []
    for i in range(m):
        position = _aligned(i, n, m) if align_corners else Fraction((2 * i + 1) * n, 2 * m) - Fraction(1, 2)
        if mode == "linear":
            position = max(position, Fraction(0))
        first = math.floor(position)
        t = position - first
        weights = {0: 1 - t, 1: t} if mode == "linear" else {k: _cubic(t - k) for k in range(-1, 3)}
        row: Row = {}
        for k, weight in weights.items():
            entry = min(max(first + k, 0), n - 1)
            row[entry] = row.get(entry, Fraction(0)) + weight
        rows.append({entry: weight for entry, weight in row.items() if weight})
    return rows


def _aligned(i: int, n: int, m: int) -> Fraction:
    return Fraction(i * (n - 1), m - 1) if m > 1 else Fraction(0)


def _cubic(distance: Fraction) -> Fraction:
    """Keys' kernel at a distance of at most 2."""
    x = abs(distance)
    if x <= 1:
        return ((_KEYS + 2) * x - (_KEYS + 3)) * x * x + 1
    return ((_KEYS * x - 5 * _KEYS) * x + 8 * _KEYS) * x - 4 * _KEYS
