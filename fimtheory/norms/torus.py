r"""Frequencies of a torus, the symbols of cross-correlations on it, and how strides fold one torus into a coarser one.

A map from signals x on Z_N1 x Z_N2 with n channels to signals with m channels that commutes with shifts is multiplied
out frequency by frequency: ``y(o) = sum_t A_t x(o + j_t)`` has the symbol ``W(w) = sum_t A_t exp(i w.j_t)``.  A matrix
P(w) for each frequency w = 2 pi (a_1/N_1, a_2/N_2) stands for the map with that symbol; ``P >= Q`` for maps is the same
for every w.  Everything is real in space, so the matrix at -w is the conjugate of that at w, and one of each pair of
opposite frequencies is stored.

Strides.  Keeping the positions s o of y makes of P a map on the torus with sides N/s.  P has the entries
``C(p - q) = mean over w of P(w) exp(i w.(p - q))``, so the kept ones are C(s (o - o')), and their symbol at w' is the
mean of P over the s_1 s_2 frequencies (w' + 2 pi k)/s, its aliases.

The torus with sides 1 has one frequency, 0: a map on it is a real matrix.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fimtheory.norms.symbol import half_grid

__all__ = ["Sides", "Torus"]

Sides = tuple[int, int]


@dataclass(frozen=True)
class Torus:
    """A torus of given sides; its frequencies are numbered as `frequencies` lists them.

    >>> Torus((4, 1)).frequencies.T.tolist()
    [[0, 0], [1, 0], [2, 0]]
    """

    sides: Sides

    @cached_property
    def frequencies(self) -> Tensor:
        """Integers (a_1, a_2), one of each pair of opposite frequencies, as columns."""
        return half_grid(self.sides)

    @property
    def is_point(self) -> bool:
        """Whether maps are single real matrices."""
        return self.sides == (1, 1)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the matrices."""
        return torch.float64 if self.is_point else torch.complex128

    @cached_property
    def weights(self) -> Tensor:
        """Share of each stored frequency, and of its opposite, in a mean over all."""
        first, second = self.sides
        opposite = (-self.frequencies) % torch.tensor([[first], [second]])
        alone = (opposite == self.frequencies).all(0)
        return torch.where(alone, 1.0, 2.0).to(torch.float64) / (first * second)

    def phases(self, frequencies: Tensor, offsets: Tensor) -> Tensor:
        """exp(i w.j) for frequencies as columns and offsets j as rows; each part is within `COSINE` of the exact one.

        Integer arithmetic reduces w.j modulo 2 pi exactly.
        """
        points = math.prod(self.sides)
        scale = torch.tensor([points // side for side in self.sides], dtype=torch.int64)[:, None]
        numerator = (offsets @ (frequencies * scale)).T % points
        turns = torch.where(2 * numerator > points, numerator - points, numerator).to(torch.float64) / points
        angle = turns * (2.0 * math.pi)
        if self.is_point:
            return torch.cos(angle)
        return torch.complex(torch.cos(angle), torch.sin(angle))

    def coarser(self, stride: Sides) -> Torus:
        """Return the torus of the kept positions."""
        (first, second), (s, t) = self.sides, stride
        assert (first % s, second % t) == (0, 0), f"a torus {self.sides} has no stride {stride}"
        return Torus((first // s, second // t))

    def aliases(self, stride: Sides) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each alias k: the frequencies (w' + 2 pi k)/s, where they or their opposites are stored, and which.

        >>> [(f[0].tolist(), i.tolist(), o.tolist()) for f, i, o in Torus((4, 1)).aliases((2, 1))]
        [([0, 1], [0, 1], [False, False]), ([2, 3], [2, 1], [False, True])]
        """
        coarse = self.coarser(stride)
        first, second = self.sides
        sides = torch.tensor([[first], [second]])
        place = torch.full((first * second,), -1, dtype=torch.int64)
        place[self.frequencies[0] * second + self.frequencies[1]] = torch.arange(self.frequencies.shape[1])
        made = []
        for shift in itertools.product(*(range(s) for s in stride)):
            step = torch.tensor(shift)[:, None] * torch.tensor(coarse.sides)[:, None]
            frequencies = coarse.frequencies + step
            opposite = (-frequencies) % sides
            index = place[frequencies[0] * second + frequencies[1]]
            mirrored = index < 0
            index = torch.where(mirrored, place[opposite[0] * second + opposite[1]], index)
            made.append((frequencies, index, mirrored))
        return made
