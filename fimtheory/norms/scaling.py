"""Exact conversion to float64 and scaling by a power of two, safe for every finite weight.

Weights may be huge, tiny or denormal, and the caller may have ``torch.set_flush_denormal(True)`` switched on, under
which the processor reads denormal operands as zero.  So decisions about magnitude are taken on the integer bit
patterns, whose order is the order of the magnitudes, and rows made of very small numbers are decoded with integer
arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fimtheory.errors import NonFiniteError, ShapeError
from fimtheory.norms.rounding import UNDERFLOW, UNIT, up

__all__ = ["RowScale", "ScaledRows", "exact_float64", "magnitude_bits", "power_of_two", "scale_rows"]

RowScale = tuple[Tensor, float]
"""A vector of factors and a bound on the relative error of each: exact = stored * (1 + delta), |delta| <= bound."""

_FRACTION_BITS = {torch.float16: 10, torch.bfloat16: 7, torch.float32: 23}
_PATTERN = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32}
_SIGNLESS = 2**63 - 1
_CHUNK = 2**15 - 1  # entries converted at a time: they stay in cache, and torch starts no threads for so few
_TINY = -500  # rows below 2^_TINY are decoded by integers; elsewhere a flushed input costs at most 2^(-1022 + 500)


def exact_float64(tensor: Tensor, name: str) -> Tensor:
    """Convert to a float64 CPU tensor with exactly the stored values, whatever the denormal mode.

    Raises
    ------
    TypeError
        The dtype is none of float16, bfloat16, float32, float64.
    NonFiniteError
        An entry is NaN or infinite.

    >>> denormal = torch.tensor([1], dtype=torch.int32).view(torch.float32)
    >>> exact_float64(denormal, "v").item() == 2.0**-149
    True
    """
    return _exact(_finite(tensor, name))


def _finite(tensor: Tensor, name: str) -> Tensor:
    """CPU copy without gradient, of a supported dtype and without NaN or infinity."""
    stored = tensor.detach().cpu().contiguous()
    if stored.dtype not in (*_FRACTION_BITS, torch.float64):
        raise TypeError(f"{name} has dtype {stored.dtype}; a norm needs float16, bfloat16, float32 or float64")
    if not all(bool(torch.isfinite(block).all()) for block in stored.flatten().split(_CHUNK)):
        nans = int(torch.isnan(stored).sum())
        infinite = int(torch.isinf(stored).sum())
        raise NonFiniteError(
            f"{name} holds {nans} NaN and {infinite} infinite of {stored.numel()} entries; an operator norm needs "
            "finite weights: reload them, or find the training step that diverged"
        )
    return stored


def _exact(stored: Tensor) -> Tensor:
    """Exact float64 values of finite entries.

    A denormal operand may be read as zero by the conversion, so its integer fraction is converted instead.  Its unit
    is 2^(smallest normal exponent - fraction bits), and the product is exact and normal in float64.
    """
    if stored.dtype == torch.float64:
        return stored
    exact = stored.to(torch.float64)
    fraction_bits = _FRACTION_BITS[stored.dtype]
    pattern = stored.view(_PATTERN[stored.dtype])
    magnitude = pattern & torch.iinfo(pattern.dtype).max
    denormal = (magnitude > 0) & (magnitude < 2**fraction_bits)
    if denormal.any():
        unit = math.ldexp(torch.finfo(stored.dtype).tiny, -fraction_bits)
        values = magnitude[denormal].to(torch.float64) * unit
        exact[denormal] = torch.where(pattern[denormal] < 0, -values, values)
    return exact


def magnitude_bits(values: Tensor) -> Tensor:
    """Bit patterns of |values|: int64, in the same order as the magnitudes, zero only for a zero.

    >>> magnitude_bits(torch.tensor([-0.0, 1.0], dtype=torch.float64)).tolist() == [0, 1023 << 52]
    True
    """
    return values.view(torch.int64) & _SIGNLESS


def power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent for int64 exponents of normal numbers, written as a bit pattern and so exact.

    >>> power_of_two(torch.tensor([-1022, 3])).tolist() == [2.0**-1022, 8.0]
    True
    """
    return ((exponent + 1023) << 52).view(torch.float64)


def _exponent(bits: Tensor) -> Tensor:
    """Return the integer e with 2^(e-1) <= magnitude < 2^e, from nonzero magnitude bits."""
    normal = (bits >> 52) - 1022
    # A denormal is an integer multiple of 2^-1074; the integer is a normal float64, whose frexp needs no denormals.
    denormal = torch.frexp(bits.to(torch.float64)).exponent.to(torch.int64) - 1074
    return torch.where(bits < 2**52, denormal, normal)


def _normalised(block: Tensor, exponent: Tensor) -> Tensor:
    """Rows divided by 2^exponent: exact, except that entries below 2^-522 of their row's largest may be lost."""
    half = exponent // 2  # two steps, as 2^-1024 and 2^1074 are not normal float64 numbers
    rows = block * power_of_two(-half)[:, None]
    rows *= power_of_two(half - exponent)[:, None]
    tiny = (exponent < _TINY).nonzero().flatten()
    if len(tiny) > 0:
        bits = magnitude_bits(block[tiny])
        field = bits >> 52
        fraction = (bits & (2**52 - 1)) + torch.where(field > 0, 2**52, 0)
        shift = torch.clamp(field, min=1) - 1075 - exponent[tiny, None]
        values = fraction.to(torch.float64) * power_of_two(shift)
        rows[tiny] = torch.where(block[tiny].view(torch.int64) < 0, -values, values)
    return rows


@dataclass(frozen=True, slots=True)
class ScaledRows:
    """A matrix in units of 2^exponent, and what its stored entries may miss of the exact ones.

    With D = diag(1 + delta_i), |delta_i| <= scale_error, and |eps_ij| <= entry_error, the exact matrix is
    ``2^exponent D (values (1 + eps) + underflow)``, where ``underflow`` is entrywise below 2^-500.
    ``values`` has its largest magnitude in [1/4, 1), or is None if the exact matrix is zero.
    """

    values: Tensor | None
    exponent: int
    entry_error: float
    scale_error: float

    def outward(self, stored_norm: float, magnitude: float) -> float:
        """Norm bound for the exact operator, in units of 2^exponent.

        ``stored_norm`` bounds the operator that ``values`` defines and ``magnitude`` the operator with entrywise
        absolute values; any operator dominated entrywise by entry_error |values| has norm at most
        entry_error * magnitude.  ||D A|| <= (1 + scale_error) ||A|| for the diagonal factor.
        """
        value = up(stored_norm + up(self.entry_error * magnitude))
        return up(up(1.0 + self.scale_error) * up(value + UNDERFLOW))


def scale_rows(matrix: Tensor, row_scale: RowScale | None, name: str) -> ScaledRows:
    """Scale a matrix (rows, columns) to unit size by powers of two, after an optional factor per row.

    Raises
    ------
    ShapeError
        A dimension is empty, or the row scale does not have one factor per row.
    NonFiniteError
        An entry, a factor or the factors' error bound is NaN or infinite.
    """
    if matrix.numel() == 0:
        raise ShapeError(f"{name} has shape {tuple(matrix.shape)}: an empty operator has no norm")
    stored = _finite(matrix, name)
    rows, columns = stored.shape
    step = max(1, _CHUNK // columns)
    row_bits = torch.cat([magnitude_bits(_exact(block)).amax(1) for block in stored.split(step)])
    exponent = _exponent(row_bits)
    factor, factor_exponent, scale_error = _factors(row_scale, rows)
    nonzero = (row_bits > 0) & (factor != 0)
    if not nonzero.any():
        return ScaledRows(None, 0, 0.0, 0.0)
    product_exponent = exponent + factor_exponent
    largest = int(product_exponent[nonzero].max())
    # A row 2^-1000 below the largest one is kept at 2^-1000 of it: far below the underflow allowance anyway.
    multiplier = factor * power_of_two((product_exponent - largest).clamp(-1000, 0))
    multiplier[~nonzero] = 0.0
    exponent[row_bits == 0] = 0
    values = torch.empty((rows, columns), dtype=torch.float64, device="cpu")
    for i in range(0, rows, step):
        block = slice(i, i + step)
        torch.mul(_normalised(_exact(stored[block]), exponent[block]), multiplier[block, None], out=values[block])
    # Without a row scale the multipliers are powers of two.  With one, an entry is rounded once: exact product =
    # stored / (1 + d), |d| <= u, which is within 2 u of the stored entry.
    return ScaledRows(values, largest, 0.0 if row_scale is None else 2.0 * UNIT, scale_error)


def _factors(row_scale: RowScale | None, rows: int) -> tuple[Tensor, Tensor, float]:
    """Row factors as mantissa in [1/2, 1) (or 0) and int64 exponent, with their relative error."""
    if row_scale is None:
        one = torch.ones(rows, dtype=torch.float64, device="cpu")
        return one, torch.zeros(rows, dtype=torch.int64, device="cpu"), 0.0
    scale, scale_error = row_scale
    if scale.shape != (rows,):
        raise ShapeError(f"row scale has shape {tuple(scale.shape)}, but the operator has {rows} output rows")
    if not (math.isfinite(scale_error) and scale_error >= 0.0):
        raise NonFiniteError(f"the relative error of a row scale must be finite and nonnegative, not {scale_error}")
    exact = exact_float64(scale, "row scale").contiguous()
    bits = magnitude_bits(exact)
    exponent = torch.where(bits > 0, _exponent(bits), 0)
    mantissa = _normalised(exact[:, None], exponent)[:, 0]
    return mantissa, exponent, scale_error
