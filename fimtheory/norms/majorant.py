r"""The quadratic inequality behind every bound on unknown factors, certified for a batch of Hermitian matrices.

For Hermitian G of order n and multipliers K on its first coordinates J, (*) asks for

    Q = [[H - G, -G_J^*], [-G_J, K - G_JJ]]  >=  0,        G_J the rows of G that belong to J,

which says ``(p + e)^* G (p + e) <= p^* H p + e^* K e`` for all p, and all e that are zero outside J.  Over the
frequencies of a torus it says the same of signals p and e (Parseval), and there K is the same at all of them: a
multiplier that is constant over the positions, which is why unknown factors that change from position to position are
covered.  Given K > G_JJ the smallest H is G + G_J^* (K - G_JJ)^-1 G_J.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fimtheory.norms.rounding import UNDERFLOW, UNIT, gamma_n
from fimtheory.norms.scaling import power_of_two

__all__ = ["Multipliers", "majorant"]

_MARGINS = (2.0**4, 2.0**12, 2.0**20, 2.0**28)  # raise H and K by these, relative, in units of the order times u
_LARGEST = 2.0**400  # multipliers beyond are refused: nothing overflows below
_ENTRIES = 2**21  # of the matrices factorised together


@dataclass(frozen=True, slots=True)
class Multipliers:
    """K = alpha I + beta 1 1^T on each window, whose entry k of channel j is coordinate k len(alpha) + j."""

    alpha: Tensor
    beta: Tensor
    window: int = 1

    def matrix(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """K as a matrix; its entries alpha + beta are rounded."""
        same = torch.eye(self.window, dtype=self.alpha.dtype)
        every = torch.ones_like(same)
        made = torch.kron(same, torch.diag(self.alpha)) + torch.kron(every, torch.diag(self.beta))
        return made.to(dtype)

    def times(self, factor: float) -> Multipliers:
        """Multiply K, and keep its entries above underflow."""
        return Multipliers(self.alpha * factor + UNDERFLOW, self.beta * factor, self.window)


def majorant(gram: Tensor, multipliers: Multipliers) -> tuple[Tensor, Multipliers] | None:
    """H for each G of a batch, and one K close to the given one, for which (*) is proved; None if K is too small.

    Let Q' = d Q d with powers of two d that bring the diagonals of H and K to size one, as stored.  An entry of Q' is
    one subtraction, so Q' misses the exact matrix by at most u ||Q'||_F in norm, and a completed factorisation gives
    Q' >= -k / (1 - k) tr(Q') with k <= gamma_{8(N+1)} for order N (`spectrum`).  So (*) holds once the diagonals of H
    and K are raised by the sum of the two over d^2.  alpha is raised by the largest raise of all, which keeps (*), and
    by the rounding of alpha + beta.
    """
    batch, n, _ = gram.shape
    order = n + multipliers.window * len(multipliers.alpha)
    upper = torch.empty_like(gram)
    used = multipliers
    step = max(1, _ENTRIES // (order * order))
    for i in range(0, batch, step):
        found = None
        for margin in _MARGINS:
            found = _certified(gram[i : i + step], multipliers, 1.0 + margin * order * UNIT)
            if found is not None:
                break
        if found is None:
            return None
        upper[i : i + step], raised = found
        used = Multipliers(torch.maximum(used.alpha, raised.alpha), torch.maximum(used.beta, raised.beta), used.window)
    rounding = (used.alpha + used.beta) * (4.0 * UNIT)
    return upper, Multipliers(used.alpha + rounding, used.beta, used.window)


def _certified(gram: Tensor, multipliers: Multipliers, raised: float) -> tuple[Tensor, Multipliers] | None:
    batch, n, _ = gram.shape
    used = multipliers.times(raised)
    matrix = used.matrix(gram.dtype)
    if not bool((matrix.abs() < _LARGEST).all()):
        return None
    size = len(matrix)
    order = n + size
    rows = gram[:, :size]
    inner = matrix - rows[:, :, :size]
    factor, info = torch.linalg.cholesky_ex(inner)
    if bool((info != 0).any()):
        return None
    half = torch.linalg.solve_triangular(factor, rows, upper=False)
    h = gram + half.mH @ half
    h = 0.5 * (h + h.mH)
    h.diagonal(dim1=-2, dim2=-1).mul_(raised)
    on_diagonal = h.diagonal(dim1=-2, dim2=-1).real
    both = torch.cat([on_diagonal, matrix.diagonal().real.expand(batch, -1)], 1)
    d = power_of_two(-(torch.frexp(both).exponent.long() // 2))
    scaled = torch.zeros((batch, order, order), dtype=gram.dtype)
    scaled[:, :n, :n] = h - gram
    scaled[:, n:, :n] = -rows
    scaled[:, :n, n:] = -rows.mH
    scaled[:, n:, n:] = inner
    scaled *= d[:, :, None] * d[:, None, :]
    factor, info = torch.linalg.cholesky_ex(scaled)
    traces = scaled.diagonal(dim1=-2, dim2=-1).real.sum(1) * (1.0 + 2.0**-19)
    complete = (info == 0) & (factor.diagonal(dim1=-2, dim2=-1).real > 0).all(1) & (traces < 4.0 * order)
    if not bool(complete.all()):
        return None
    parts = torch.view_as_real(scaled) if scaled.is_complex() else scaled
    frobenius = torch.linalg.vector_norm(parts.flatten(1), dim=1) * (1.0 + 2.0**-19)
    shift = (1.01 * gamma_n(8 * (order + 1))) * traces + (2.0 * UNIT) * frobenius + UNDERFLOW
    slack = shift[:, None] / d.square() * (1.0 + 2.0**-40)
    h.diagonal(dim1=-2, dim2=-1).add_(slack[:, :n]).mul_(1.0 + 4.0 * UNIT)
    most = slack[:, n:].amax(0).reshape(used.window, -1).amax(0)
    return h, Multipliers((used.alpha + most) * (1.0 + 4.0 * UNIT), used.beta, used.window)
