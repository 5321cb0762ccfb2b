"""How finely a black box writes its numbers, read off the numbers themselves.

Differences of outputs lose what the outputs were rounded to, and an interval must say so.  The format is the coarsest
one that holds every number seen: multiples of one quantum, a number of significant digits, or binary floating point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

__all__ = ["NumberFormat", "number_format"]

_FLOATS = (("bfloat16", 8, 2.0**-134), ("float16", 11, 2.0**-25), ("float32", 24, 2.0**-150), ("float64", 53, 0.0))
_DECIMALS = 6
_QUANTA = sorted(
    [(10.0**-k, f"{k} decimals") for k in range(1, _DECIMALS + 1)]
    + [(2.0**-k, f"multiples of 2^-{k}") for k in range(1, 17)]
    + [(1.0, "whole numbers"), (1 / 255, "multiples of 1/255"), (1 / 65535, "multiples of 1/65535")],
    reverse=True,
)
_FEW = 1000


@final
@dataclass(frozen=True, slots=True)
class NumberFormat:
    """A set of numbers to which outputs are rounded.

    Attributes
    ----------
    name : str
        Such as ``"float32"``, ``"4 decimals"`` or ``"5 significant digits"``.
    quantum : float or None
        Distance of neighbours where it is the same everywhere.
    relative, floor : float
        Half the distance of neighbours is otherwise at most ``relative * |value| + floor``.
    """

    name: str
    quantum: float | None
    relative: float
    floor: float

    def half_spacing(self, values: Tensor) -> Tensor:
        """Return the largest rounding error of each value; same shape."""
        if self.quantum is not None:
            return torch.full_like(values, self.quantum / 2)
        return self.relative * values.abs() + self.floor


def number_format(values: np.ndarray) -> NumberFormat:
    """Return the coarsest format that holds all finite entries of a float64 array.

    A number that was rounded to decimals and then stored as float32 counts as rounded to decimals.

    Examples
    --------
    >>> number_format(np.array([0.1234, 0.5, 0.3766])).name
    '4 decimals'
    >>> number_format(np.float64(np.float32([0.1, 1 / 3, 1e-7]))).name
    'float32'
    """
    distinct = np.unique(np.abs(values[np.isfinite(values)]))
    some = distinct[:: max(1, len(distinct) // _FEW)]
    largest = float(distinct[-1]) if len(distinct) else 0.0
    for quantum, name in _QUANTA:
        # A quantum near the spacing of float32 would hold every float32 number.
        if quantum >= 2.0**-20 * largest and _all(_multiples, some, distinct, quantum):
            return NumberFormat(name, quantum, 0.0, 0.0)
    for digits in range(1, _DECIMALS + 1):
        if _all(_rounded, some, distinct, digits):
            return NumberFormat(f"{digits} significant digits", None, 0.5 * 10.0 ** (1 - digits), 0.0)
    for name, bits, floor in _FLOATS[:-1]:
        if _all(_has_bits, some, distinct, bits):
            return NumberFormat(name, None, 2.0**-bits, floor)
    name, bits, floor = _FLOATS[-1]
    return NumberFormat(name, None, 2.0**-bits, floor)


def _all(test, some: np.ndarray, distinct: np.ndarray, parameter: float) -> bool:  # noqa: ANN001
    return bool(test(some, parameter).all()) and bool(test(distinct, parameter).all())


def _multiples(values: np.ndarray, quantum: float) -> np.ndarray:
    return np.abs(values - quantum * np.round(values / quantum)) <= 2.0**-23 * values


def _rounded(values: np.ndarray, digits: int) -> np.ndarray:
    positive = values[values > 1e-290]
    unit = 10.0 ** (np.floor(np.log10(positive)) - digits + 1)
    return np.abs(positive - unit * np.round(positive / unit)) <= 2.0**-23 * positive


def _has_bits(values: np.ndarray, bits: int) -> np.ndarray:
    significand = np.ldexp(np.frexp(values)[0], bits)
    return significand == np.round(significand)
