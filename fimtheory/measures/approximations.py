"""Matrices that are computed from weights in floating point, each with a bound on its error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from flint import arb
from torch import Tensor

from fimtheory import norms
from fimtheory.balls import ball
from fimtheory.norms.matrices import frobenius
from fimtheory.norms.rounding import UNDERFLOW, gamma_n, up
from fimtheory.norms.scaling import scale_rows

__all__ = ["Approximation", "concatenated", "norm_of"]

_FARTHEST = 300
"""Binary digits by which scales may differ; of two summands in other units less is lost, blocks are enlarged."""


@final
@dataclass(frozen=True, eq=False)
class Approximation:
    """A matrix that differs from ``2^exponent values`` by one of Frobenius norm ``2^exponent error`` at most.

    Entries of ``values`` are below 1; it is near 1 what is larger, their largest or the error, unless both are zero.
    """

    values: Tensor
    exponent: int
    error: float

    @classmethod
    def of(cls, weight: Tensor) -> Approximation:
        """Return a stored weight, of any floating dtype; only what underflows in its units is lost."""
        scaled = scale_rows(weight, None, "the weight")
        if scaled.values is None:
            return cls(torch.zeros(weight.shape, dtype=torch.float64), 0, 0.0)
        return cls(scaled.values, scaled.exponent, UNDERFLOW)

    @classmethod
    def computed(cls, matrix: Tensor, error: float, exponent: int) -> Approximation:
        """Return ``2^exponent matrix``, known up to ``2^exponent error``, in units that suit it.

        The error is above 2^-400, so that what is lost of the entries when units change is below 2^-600 in new ones.
        """
        unit = math.frexp(max(float(matrix.abs().max()), error))[1]
        return cls(matrix * 2.0**-unit, exponent + unit, up(up(math.ldexp(error, -unit)) + UNDERFLOW))

    @property
    def is_zero(self) -> bool:
        """Whether the matrix is known to be zero."""
        return self.error == 0.0

    @property
    def frobenius(self) -> float:
        """Upper bound on the Frobenius norm of ``values``."""
        return frobenius(self.values[None])

    def transposed(self) -> Approximation:
        """Return the transpose."""
        return Approximation(self.values.T.contiguous(), self.exponent, self.error)

    def times(self, other: Approximation) -> Approximation:
        """Return the product.

        Each entry is an inner product of length d, so ``|fl(A B) - A B| <= gamma_d |A| |B|`` (Higham 2002, section
        3.5), whose Frobenius norm is at most ``gamma_d ||A||_F ||B||_F``; what underflows adds less than `UNDERFLOW`.
        The factors' own errors add ``e_A ||B||_F + (||A||_F + e_A) e_B``.
        """
        product = self.values @ other.values
        if self.is_zero or other.is_zero:
            return _zero(product)
        one, two = self.frobenius, other.frobenius
        rounding = up(up(gamma_n(self.values.shape[1]) * up(one * two)) + UNDERFLOW)
        inherited = up(up(self.error * two) + up(up(one + self.error) * other.error))
        return Approximation.computed(product, up(rounding + inherited), self.exponent + other.exponent)

    def plus(self, other: Approximation) -> Approximation:
        """Return the sum: one more rounding of every entry."""
        if self.is_zero or other.is_zero:
            return other if self.is_zero else self
        unit = max(self.exponent, other.exponent)
        parts = [_in_units(each, unit) for each in (self, other)]
        total = parts[0][0] + parts[1][0]
        error = up(parts[0][1] + parts[1][1])
        return Approximation.computed(total, up(error + up(2.0**-52 * frobenius(total[None]))), unit)

    def scaled(self, factors: Tensor) -> Approximation:
        """Return ``A diag(factors)``: one more rounding of every entry."""
        right = Approximation.of(factors[None])
        product = self.values * right.values
        if self.is_zero or right.is_zero:
            return _zero(product)
        relative = up(2.0**-52 + right.error)  # factors are below 1
        error = up(self.error + up(up(up(self.frobenius + self.error) * relative) + UNDERFLOW))
        return Approximation.computed(product, up(error * (1.0 + right.error)), self.exponent + right.exponent)

    def centred(self) -> Approximation:
        """Return ``A (I - 11^T/n)``, every row without its mean.

        A row's mean errs by at most gamma_{n+1} times that of the magnitudes, and the difference by one rounding; the
        mean of the magnitudes, n times, has at most the row's norm.  The projection does not enlarge the error of A.
        """
        if self.is_zero:
            return self
        rounding = up(gamma_n(self.values.shape[1] + 4) * up(2.0 * self.frobenius))
        error = up(rounding + up(self.error + UNDERFLOW))
        return Approximation.computed(self.values - self.values.mean(1, keepdim=True), error, self.exponent)


def _zero(like: Tensor) -> Approximation:
    return Approximation(torch.zeros_like(like), 0, 0.0)


def _in_units(matrix: Approximation, unit: int) -> tuple[Tensor, float]:
    """Values and error in larger units than the matrix's own; what is lost there counts as an error."""
    shift = max(matrix.exponent - unit, -2 * _FARTHEST)
    return matrix.values * 2.0**shift, up(up(math.ldexp(matrix.error, shift)) + UNDERFLOW)


def norm_of(matrix: Approximation) -> arb:
    """Upper bound on the spectral norm: that of the values plus the error."""
    stored = ball(norms.dense(matrix.values).upper) + ball(matrix.error)
    return stored * ball(2) ** matrix.exponent


def concatenated(blocks: Sequence[Approximation], dimension: int, shifts: Sequence[int]) -> Approximation:
    """Return blocks ``2^shift B``, side by side (1) or one above the other (0), or with some of them enlarged.

    Blocks that are far smaller than the largest are; the norm of the whole does not decrease in the factor of a block.
    """
    exponents = [block.exponent + shift for block, shift in zip(blocks, shifts, strict=True)]
    largest = max(exponents)
    relative = [max(exponent - largest, -_FARTHEST) for exponent in exponents]
    values = torch.cat([b.values * 2.0**r for b, r in zip(blocks, relative, strict=True)], dimension)
    squares = 0.0
    for block, shift in zip(blocks, relative, strict=True):
        error = up(math.ldexp(block.error, shift) + 2.0**-500)
        squares = up(squares + up(error * error))
    return Approximation(values, largest, up(up(math.sqrt(squares)) + UNDERFLOW))
