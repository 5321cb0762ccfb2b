"""The bias of the top eigenvalue of a sample covariance."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["least_biased"]


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
