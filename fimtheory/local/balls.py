"""A ball of inputs around a centre, in the l2 or the l-infinity norm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from fimtheory.errors import DataError
from fimtheory.norms.interconnection import euclidean

__all__ = ["NORMS", "Ball"]

NORMS = ("l2", "linf")
_UP = 1.0 + 2.0**-40


@final
@dataclass(frozen=True, slots=True)
class Ball:
    """All ``centre + u`` with ``|u| <= radius`` in the ``norm``."""

    centre: Tensor
    radius: float
    norm: str

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise DataError(f"the norm is {self.norm!r}; expected one of {', '.join(NORMS)}")
        if not isinstance(self.radius, int | float) or not 0.0 <= self.radius < math.inf:
            raise DataError(
                f"the radius of the ball is {self.radius}; expected a finite number of at least 0, one for all inputs"
            )

    @property
    def euclidean(self) -> float:
        """Largest Euclidean norm of a u in the ball, rounded up."""
        return self.radius * (1.0 if self.norm == "l2" else math.sqrt(self.centre.numel())) * _UP

    def extent(self, rows: Tensor) -> Tensor:
        """Largest ``row . u`` over the ball for each row, but for rounding.

        >>> import torch
        >>> rows = torch.tensor([[3.0, 4.0]])
        >>> [Ball(torch.zeros(2), 1.0, norm).extent(rows.double()).item() for norm in NORMS]
        [5.0..., 7.0]
        """
        return self.radius * (euclidean(rows, 1) if self.norm == "l2" else rows.abs().sum(1))
