"""How much the differences of two logits change over a ball."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fimtheory.local.walk import Form, Walk
from fimtheory.norms import interconnection_multipliers as multipliers
from fimtheory.norms.interconnection import Rows
from fimtheory.norms.rounding import UNIT

__all__ = ["LogitDifferences"]

_UP = 1.0 + 2.0**-18


@final
@dataclass(frozen=True, slots=True)
class LogitDifferences:
    """Differences ``z_j - z_y`` in row y and column j, each ``(K, K)``.

    Attributes
    ----------
    centre, room : Tensor
        The differences at the centre of the ball, and by how much they may be off.
    change : Tensor
        Bounds on how much they change over the ball.
    slope : Tensor
        Bounds on how much they change between the centre and a u of the ball, over ``|u|_2``; infinite where no
        certificate was found.
    """

    centre: Tensor
    room: Tensor
    change: Tensor
    slope: Tensor

    @classmethod
    def over(cls, walk: Walk, logits: Form) -> LogitDifferences:
        """Bound the differences over the ball of a first walk, which enclosed increments.

        The change is the smaller of the sum term by term and ``|u| sqrt((e_j - e_y)^T Y (e_j - e_y))``, with the Gram
        matrix Y of the increments.
        """
        rows = logits.rows()
        top = int(logits.centre.argmax())
        system = multipliers.for_rows(walk.system, Rows(rows.values - rows.values[top], rows.error + rows.error[top]))
        by_term = walk.pairwise(rows)
        gram = system.gram(rows)
        change = by_term
        if gram is None or not bool(torch.isfinite(gram).all()):
            slope = torch.full_like(by_term, math.inf)
        else:
            squares = gram.diagonal()
            size = squares[:, None] + squares
            forms = (size - gram - gram.T).clamp_min(0.0) + 8.0 * UNIT * size
            slope = forms.sqrt() * _UP
            change = torch.minimum(by_term, slope * walk.ball.euclidean) * (1.0 + 4.0 * UNIT)
        centre, error = logits.centre, logits.spread
        room = error[:, None] + error + 4.0 * UNIT * (centre.abs()[:, None] + centre.abs())
        return cls(centre[None, :] - centre[:, None], room, change, slope)

    @property
    def least(self) -> Tensor:
        """Lower bounds on the differences over the ball; exactly 0 on the diagonal."""
        least = self.centre - self.room - self.change
        least.diagonal().zero_()
        return least
