"""lam(x) from the most probable classes alone, with an upper limit on what the others can add."""

from __future__ import annotations

import torch
from scipy.stats import chi2
from torch import Tensor

from fimtheory.claims import Status
from fimtheory.errors import DataError
from fimtheory.estimators.exact import ROW_BUDGET, exact, rows_fit, weighted_gram
from fimtheory.estimators.result import Finding, rounding
from fimtheory.fisher import FisherOperator, SoftmaxFactor, times_power_of_two

__all__ = ["truncated"]

_PROBES = 10
"""Random pullbacks that bound what is left out."""

_LEFT_OUT = 0.01
"""Largest share of the probability outside the top class that is left out by default."""


def truncated(operator: FisherOperator, *, classes: int | None = None, level: float = 0.95, seed: int = 0) -> Finding:
    r"""Bound lam from both sides by the m most probable classes and the others merged into one.

    Given whether ``y ~ p`` is among the m classes, the variance of ``J_y`` splits (law of total variance):
    ``F = F_m + N``, where ``F_m`` is the Fisher information of the output with the other classes merged into one of
    probability rho and of row ``sum p_j J_j / rho``, and ``N = rho Var(J_y | y not among them) / tau^2``.  Both are
    positive semidefinite, so ``lam(F_m) <= lam <= lam(F_m) + ||N||``.  ``F_m`` takes m pullbacks.  With N = B^T B and
    standard normal g, ``||B^T g||^2 >= ||N|| (g_1)^2`` along the top singular direction, so r such squares sum to at
    least ``||N||`` times a chi-square of r degrees: dividing by its quantile bounds ``||N||`` with probability
    ``level``.

    Parameters
    ----------
    operator : FisherOperator
        The operator of a batch.
    classes : int, optional
        m, from 1 to K; by default the fewest that leave at most 1 % of the probability outside the top class, for every
        input of the batch.  Where that saves nothing over `exact`, or leaves nothing to merge, `exact` runs instead.
    level : float
        Probability, over the random pullbacks, with which each upper limit holds.
    seed : int
        Of the random pullbacks.

    Raises
    ------
    DataError
        If ``classes`` is not from 1 to K, or their gradients do not fit in memory.
    """
    order = operator.log_probs.sort(dim=1, descending=True, stable=True)
    if classes is None:
        classes = _enough(order.values)
        if classes + _PROBES >= operator.K - 1 and rows_fit(operator):  # exactly costs no more
            return exact(operator)
    if not 1 <= classes <= operator.K:
        raise DataError(f"classes is {classes}: expected a number from 1 to K = {operator.K}")
    if classes >= operator.K - 1:
        return exact(operator)
    if classes * operator.x.numel() > ROW_BUDGET:
        raise DataError(
            f"gradients of {classes} classes at {len(operator.x)} inputs do not fit in memory: pass fewer inputs at a "
            "time, or use method='lanczos'"
        )
    kept, others = order.indices[:, :classes], order.indices[:, classes:]
    rest = operator.log_probs.gather(1, others)
    log_mass = rest.logsumexp(1, keepdim=True)
    factor = SoftmaxFactor(torch.cat([order.values[:, :classes], log_mass], 1), operator.temperature)
    # The merged class may outweigh every other: then it is the top one of the factor, and its row is the one left out.
    merged = torch.zeros_like(operator.log_probs).scatter(1, others, (rest - log_mass).exp())
    merged_row = operator.vjp(merged.scatter_add(1, kept[:, :1], -torch.ones_like(log_mass))).flatten(1)
    rows = operator.margin_gradients(kept[:, 1:], 1)
    rows = torch.cat([rows.double(), merged_row.unsqueeze(1)], 1)
    places = torch.arange(1, classes + 1, device=rest.device).expand(len(rest), -1)
    gram = weighted_gram(rows, places, operator.jacobian_exponent, factor, classes + 1)
    below = torch.linalg.eigvalsh((gram + gram.mT) / 2)[:, -1].clamp(min=0)
    above = below + _left_out(operator, others, rest, factor.exponent, level, seed)
    unit = factor.exponent - operator.factor.exponent
    lower, upper = (times_power_of_two(bound, unit) for bound in (below, above))
    upper = upper * (1 + rounding(operator.logits.dtype))
    return Finding(lower, lower, upper, Status.CONFIDENCE, level, "truncated")


def _enough(log_probs: Tensor) -> int:
    """Return the fewest classes that leave out little enough at every input; ``log_probs`` decrease."""
    tails = log_probs.flip(1).logcumsumexp(1).flip(1)  # of a class and all after it
    little = tails <= tails[:, 1:2] + torch.tensor(_LEFT_OUT).log()
    first = torch.where(little.any(1), little.int().argmax(1), log_probs.shape[1])
    return int(first.max())


def _left_out(
    operator: FisherOperator, others: Tensor, rest: Tensor, exponent: Tensor, level: float, seed: int
) -> Tensor:
    """Return the upper limit of ``||N||`` ``(B,)`` in units of ``2**(exponent + 2 jacobian_exponent)``."""
    generator = torch.Generator().manual_seed(seed)
    root = (0.5 * (rest - torch.log(torch.tensor(2.0, dtype=torch.float64)) * exponent.unsqueeze(1))).exp()
    conditional = rest.softmax(1)
    total = torch.zeros_like(rest[:, 0])
    for _ in range(_PROBES):
        g = root * torch.randn(rest.shape, generator=generator, dtype=torch.float64).to(rest.device)
        centred = g - conditional * g.sum(1, keepdim=True)
        pulled = operator.vjp(torch.zeros_like(operator.log_probs).scatter(1, others, centred)).flatten(1)
        total += times_power_of_two(pulled, -operator.jacobian_exponent.unsqueeze(1)).square().sum(1)
    return total / operator.temperature**2 / float(chi2.ppf(1 - level, _PROBES))
