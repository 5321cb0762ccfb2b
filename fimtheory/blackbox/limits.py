r"""Limits on the largest eigenvalue of G from the sketch ``Y = sqrt(G) Omega``, Omega standard normal with m columns.

The columns of Y are independent ``N(0, G)``, so that ``lhat = |Y|^2 / m`` is the top eigenvalue of a sample covariance:

- ``m lhat >= |u^T Y|^2``, u the top eigenvector of G, and that is lam times a chi-square variable of m degrees;
- ``|Y| <= sqrt(lam) |P Omega|``, P a projection of rank r, and ``|P Omega| <= sqrt(m) + sqrt(r) + t`` except with
  probability ``exp(-t^2 / 2)``.

Both limits hold at every finite m (theory.md, section 7; K. R. Davidson and S. J. Szarek, "Local operator theory,
random matrices and Banach spaces", 2001).
"""

from __future__ import annotations

import math

from scipy.special import gammaincinv
from torch import Tensor

__all__ = ["confidence_limits", "least_biased"]


def confidence_limits(top: Tensor, probes: int, rank: int, level: float) -> tuple[Tensor, Tensor]:
    """Return limits between which the eigenvalue lies with probability ``level``, half of the rest on each side.

    Parameters
    ----------
    top : Tensor
        Largest eigenvalue of the sample covariance ``Y Y^T / probes``, any shape.
    probes : int
        Columns of the sketch.
    rank : int
        Bound on the rank of G.
    level : float
        Between 0 and 1.

    Examples
    --------
    >>> import torch
    >>> low, high = confidence_limits(torch.tensor(1.0), 100, 9, 0.95)
    >>> round(low.item(), 3), round(high.item(), 3)
    (0.405, 1.347)
    """
    tail = (1 - level) / 2
    quantile = 2 * float(gammaincinv(probes / 2, tail))
    spread = 1 + math.sqrt(rank / probes) + math.sqrt(-2 * math.log(tail) / probes)
    return top / spread**2, top * (probes / quantile)


def least_biased(eigenvalues: Tensor, probes: int) -> Tensor:
    r"""Return the largest eigenvalue of a sample covariance without the first order of its bias.

    The mean is ``l_1 (1 + sum_j l_j / (l_1 - l_j) / m)`` up to ``1 / m^2``, l the eigenvalues of the covariance itself
    (D. N. Lawley, "Tests of significance for the latent roots of covariance and correlation matrices", Biometrika 43,
    1956).  Gaps below two standard deviations are not resolved by m probes and count as that; there the value stays too
    large.

    Parameters
    ----------
    eigenvalues : Tensor
        ``(K,)``, largest first.
    probes : int
        Columns of the sketch.
    """
    if eigenvalues[0] == 0:
        return eigenvalues[0]
    ratio = eigenvalues[1:] / eigenvalues[0]
    return eigenvalues[0] / (1 + (ratio / (1 - ratio).clamp(min=2 / math.sqrt(probes))).sum() / probes)
