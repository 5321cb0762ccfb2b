r"""Central differences along lines, what their error is, and the step at which it is least.

With ``z(s)`` a curve of points, ``D(s) = (z(s) - z(-s)) / (2 s)`` differs from ``z'(0)`` by ``s^2 z''' / 6`` where the
curve is smooth, by ``c (s - t) / (2 s)`` for a kink of slope change c at distance t < s, and by noise and rounding over
s.  A second step ``r s`` shows the first two without knowing the truth:

- ``D(r s) - D(s)`` is ``(r^2 - 1)`` times the error of a smooth curve;
- ``(r^2 A(s) - A(r s)) / (2 s (r^2 - r))`` with ``A(s) = z(s) + z(-s) - 2 z(0)`` vanishes on a parabola.  Of a kink at
  0 it is the error c / 2, and over kinks at uniform distances it has the mean square of their errors, for every r.

Noise enters both with more weight than it has in D.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LINES", "RATIO", "SCALES", "central", "error", "ladder", "steadiest"]

RATIO = 2.0
"""Of the second step to the first, where the error of a difference is measured."""

_LADDER_RATIO = 3.0
_LADDER = (2, 1, 0, -1, -2)
"""Powers of the ratio at which a pilot looks, around the step that balances noise against curvature of size 1."""

SCALES = len(_LADDER)
LINES = 2
"""Directions in which a pilot looks at all steps."""

_MOST = 1 / 9
"""Largest middle of the ladder, relative to the size of an input: the largest step chosen is a third of that size."""


def central(plus: Tensor, minus: Tensor, step: Tensor) -> Tensor:
    """Return ``D``; points ``(R, K)``, steps ``(R,)``."""
    return (plus - minus) / (2 * step.unsqueeze(1))


def error(
    centre: Tensor, near: tuple[Tensor, Tensor], far: tuple[Tensor, Tensor], step: Tensor, ratio: float
) -> Tensor:
    """Return an estimate of ``|D(s) - z'(0)|``, ``(R,)``, from pairs of points at ``s`` and at ``ratio * s``.

    The smooth part counts three times, so that it covers the truth also where higher orders matter: for ``tanh`` it
    does up to ``s = 1``, where a quarter of the slope is lost.
    """
    smooth = central(*far, ratio * step) - central(*near, step)
    bends = [sum(pair) - 2 * centre for pair in (near, far)]
    kinked = (ratio**2 * bends[0] - bends[1]) / (2 * (ratio**2 - ratio) * step.unsqueeze(1))
    return (3 / (ratio**2 - 1) * smooth.norm(dim=1)).hypot(kinked.norm(dim=1))


def ladder(resolution: float, size: float) -> Tensor:
    """Return the steps of a pilot, largest first, ``(SCALES,)``.

    Noise costs ``resolution / s`` and curvature ``s^2``, in units of the input's size, so that the best step is about
    the cube root of the resolution.

    Parameters
    ----------
    resolution : float
        Relative size of the noise to expect.
    size : float
        l2 size of an input.
    """
    middle = min(resolution ** (1 / 3), _MOST)
    return size * middle * torch.tensor([_LADDER_RATIO**k for k in _LADDER], dtype=torch.float64)


def steadiest(centre: Tensor, plus: Tensor, minus: Tensor, blur: Tensor, steps: Tensor) -> float:
    """Return the step of a ladder, the largest excepted, at which differences along some lines are wrong by least.

    Parameters
    ----------
    centre : Tensor
        ``(K,)`` point at x.
    plus, minus : Tensor
        ``(L, SCALES, K)`` points at the steps, on both sides, along L lines.
    blur : Tensor
        ``(L, SCALES)``: bound on the rounding of a pair of points.
    steps : Tensor
        ``(SCALES,)``, decreasing by the ratio of the ladder.
    """
    squares = torch.zeros(SCALES - 1, dtype=torch.float64)
    for line in range(len(plus)):
        near, far = (plus[line, 1:], minus[line, 1:]), (plus[line, :-1], minus[line, :-1])
        wrong = error(centre, near, far, steps[1:], _LADDER_RATIO) + blur[line, 1:] / (2 * steps[1:])
        squares += wrong.square()
    return steps[1 + int(squares.argmin())].item()
