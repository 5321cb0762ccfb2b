"""A new start in the middle of a network, where a walk has met many unknown numbers.

Theorem.  If every Jacobian J of z in u, or every matrix of its increments, has ``J J^T <= L L^T``, then ``J = L K``
with ``||K|| <= 1``: what follows may take ``e = K u`` for its input, a vector with ``|e| <= |u|``, and ``z = L e``.

Proof.  ``|J^T v| <= |L^T v|`` for all v, so that ``J^T v = K^T L^T v`` defines a contraction on the range of L^T
(Douglas 1966).

What is lost is that the unknown numbers before and after are the same for all directions, and the shape of a ball in
another norm than l2.  L L^T still tends to J J^T as the ball shrinks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fimtheory.norms.rounding import gamma_n
from fimtheory.norms.scaling import power_of_two

__all__ = ["factor"]


def factor(gram: Tensor) -> Tensor | None:
    """L with ``L L^T >= gram``, a symmetric matrix that is positive semidefinite; None if it cannot be found.

    A completed factorisation of H has ``||L L^T - H|| <= k tr(H) / (1 - k)`` (`spectrum`), and forming H, in units in
    which its diagonal is about one, rounds its diagonal only.

    >>> made = factor(torch.tensor([[4.0, 2.0], [2.0, 1.0]], dtype=torch.float64))
    >>> made is not None and bool(torch.allclose(made @ made.T, torch.tensor([[4.0, 2.0], [2.0, 1.0]]).double()))
    True
    """
    order = len(gram)
    unit = torch.frexp(gram.diagonal().clamp_min(1e-280)).exponent.long() // 2
    scale = power_of_two(-unit)
    raised = scale[:, None] * gram * scale
    room = 4.0 * gamma_n(8 * (order + 1)) * (float(raised.diagonal().sum()) + order)
    raised.diagonal().add_(room)
    lower, info = torch.linalg.cholesky_ex(raised)
    if int(info) != 0 or not bool((lower.diagonal() > 0).all()) or not bool(torch.isfinite(lower).all()):
        return None
    return power_of_two(unit)[:, None] * lower
