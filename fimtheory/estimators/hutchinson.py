"""Hutchinson's estimator of tr F(x) = tr G(x), with limits that hold for every spectrum."""

from __future__ import annotations

import torch
from scipy.special import gammainccinv, gammaincinv
from torch import Tensor

from fimtheory.claims import Status
from fimtheory.estimators.options import require_fraction, require_probes
from fimtheory.estimators.probes import class_probe
from fimtheory.estimators.result import Finding
from fimtheory.fisher import FisherOperator

__all__ = ["hutchinson", "trace_limits"]


def trace_limits(mean: Tensor, probes: int, level: float) -> tuple[Tensor, Tensor]:
    r"""Return limits between which ``tr A`` lies with probability ``level``, for any positive semidefinite A.

    ``mean`` is that of ``g^T A g`` over ``probes`` independent standard normal g.  Let q be the quantiles of the
    chi-square X with m = ``probes`` degrees of freedom at ``(1 -+ level) / 2``; the limits are
    ``m mean / max(q_upper, m + 2)`` and ``m mean / q_lower``, which is what rank one gives, and rank one is the worst:

    ``mean / tr A`` is distributed as ``Q = sum_i w_i X_i / m`` with the ``X_i`` independent copies of X and w in the
    simplex.  Write ``h = 1 / m``; E, E' for independent exponentials of mean 2h; f, ``f_i`` and ``f_ij`` for the
    densities of Q, ``Q + w_i E`` and ``Q + w_i E + w_j E'``, which have one mode as those of all sums of gammas
    (Yamazato 1978).  By Laplace transforms,

    1. ``d P(Q <= x) / d w_i = -f_i(x)``;
    2. moving weight from j to i changes ``P(Q <= x)`` at the rate ``2h (w_i - w_j) f_ij'(x)``;
    3. ``f_i + 2h w_i f_i' = f``, ``f_ij + 2h w_j f_ij' = f_i`` and ``x f(x) = sum_i w_i f_i(x)``.

    Lower tail, ``x < 1``.  Let w maximise ``P(Q <= x)``.  By 1 the ``f_i(x)`` with ``w_i > 0`` are equal, by 3 to
    ``x f(x) < f(x)``, so ``f_i'(x) > 0``: ``f_i`` grows from 0 to x.  Then ``f_ij(x)``, which is the mean of
    ``f_i(x - w_j E')``, is below ``f_i(x)``, so ``f_ij'(x) > 0`` by 3.  By 2 any two positive weights could be made
    more unequal with gain: there is only one.

    Upper tail, ``x >= 1 + 2h``.  A sum of gammas has ``x f(x) = int_0^x f(x - y) k(y) dy`` with ``k >= 0`` of integral
    its mean, so its mode is at most its mean; that of ``f_ij`` is at most ``1 + 2h (w_i + w_j) <= x``.  By 2 every move
    that makes weights more unequal lowers ``P(Q <= x)``, down to that of rank one.

    Parameters
    ----------
    mean : Tensor
        Any shape; each entry from probes of its own.
    probes : int
        m.
    level : float
        Of the two-sided interval; each side fails with probability ``(1 - level) / 2`` at most.

    Raises
    ------
    DataError
        ``probes`` is below 1, or ``level`` not between 0 and 1.

    References
    ----------
    G. J. Szekely and N. K. Bakirov, "Extremal probabilities for Gaussian quadratic forms", Probab. Theory Relat. Fields
    126 (2003).  F. Roosta-Khorasani, G. J. Szekely and U. M. Ascher, SIAM/ASA J. Uncertain. Quantif. 3 (2015), prove it
    for sums of gammas.
    """
    require_probes(probes, 1, "a trace estimate")
    require_fraction("level", level)
    failure = (1 - level) / 2
    low, high = 2 * float(gammaincinv(probes / 2, failure)), 2 * float(gammainccinv(probes / 2, failure))
    return probes * mean / max(high, probes + 2), probes * mean / low


def hutchinson(operator: FisherOperator, *, probes: int = 100, level: float = 0.95, seed: int = 0) -> Finding:
    """Average ``g^T G g = |J^T R^T g|^2 / tau^2`` over standard normal g in the class space; status ``CONFIDENCE``.

    Each costs one vector-Jacobian product and is exact for its g.  The standard deviation is ``sqrt(2 / m) |G|_F``, at
    most ``sqrt(2 / m)`` of the trace.  Signs in place of normal entries would remove the diagonal from the variance,
    but the classes are a poor basis for that: where two compete, G is nearly ``a [[1, -1], [-1, 1]]``, and half of the
    signs give zero.  Normal probes do not depend on a basis, and have limits that hold for every spectrum
    (`trace_limits`).

    Parameters
    ----------
    operator : FisherOperator
        The operator of a batch; every input has probes of its own.
    probes : int
        m, the number of vectors.
    level : float
        Probability, over the probes, with which each interval holds.
    seed : int
        Of the probes.

    Raises
    ------
    DataError
        ``probes`` is below 1, or ``level`` not between 0 and 1.

    References
    ----------
    M. F. Hutchinson, Commun. Stat. Simul. Comput. 18 (1989).
    """
    require_probes(probes, 1, "Hutchinson's estimator")
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(operator.log_probs[:, 0])
    for _ in range(probes):
        total += operator.half_product(class_probe(operator, generator))[1].square()
    mean = total / probes
    return Finding(mean, *trace_limits(mean, probes, level), Status.CONFIDENCE, level, "hutchinson")
