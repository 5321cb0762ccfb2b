"""Largest gain of a difference of two logits over a program of joint steps, for all admissible factors."""

from __future__ import annotations

import math

from torch import Tensor

from fimtheory.norms.certified import CertifiedNorm, unscaled, zero_norm
from fimtheory.norms.joint import Program
from fimtheory.norms.proved import reach_of
from fimtheory.norms.reach import largest_difference
from fimtheory.norms.rounding import UNDERFLOW, up
from fimtheory.norms.scaling import scale_rows
from fimtheory.norms.trial import optimised, plain

__all__ = ["STEPS", "network_head"]

STEPS = 24
"""Descent steps on the multipliers: on trained networks within about one in a hundred of the optimum."""


def network_head(program: Program, weight: Tensor, *, steps: int = STEPS) -> CertifiedNorm | None:
    """Bound ``max_ij ||(w_i - w_j)^T M||`` over the admissible Jacobians M of a program, w_i the rows of ``weight``.

    Status: certified, by `proved`; None if no factorisation ran to completion.

    Raises
    ------
    NonFiniteError
        A weight is NaN or infinite, or a number on the way is beyond what can be scaled.

    >>> import torch
    >>> from fimtheory.norms.joint import Activation, Linear, Program
    >>> from fimtheory.norms.torus import Torus
    >>> none, first = torch.arange(0), torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    >>> half = torch.full((2,), 0.5, dtype=torch.float64)
    >>> linear = Linear(first[:, :, None], torch.zeros(1, 2, dtype=torch.int64), torch.arange(2), none)
    >>> bound = network_head(Program(Torus((1, 1)), 2, (linear, Activation(half, half))), torch.eye(2))
    >>> 2.0 <= bound.upper <= 2.1
    True
    """
    scaled = scale_rows(weight, None, "the last weight")
    if scaled.values is None:
        return zero_norm()
    for count in sorted({max(steps, 0), 0}, reverse=True):
        choices = optimised(program, scaled.values, count) if count > 0 else plain(program)
        reach = reach_of(program, choices)
        if reach is not None:
            squared, exponent = largest_difference(reach, scaled)
            if exponent % 2 == 1:
                squared, exponent = 2.0 * squared, exponent - 1
            kind = "torus " + "x".join(map(str, program.torus.sides)) if not program.torus.is_point else "matrix"
            root = up(math.sqrt(up(squared + UNDERFLOW)))
            return unscaled(root, exponent // 2, f"recursion, {kind}, {'descended' if count else 'uniform'}")
    return None
