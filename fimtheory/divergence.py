"""How far a change of logits moves the predicted distribution: KL divergence enclosed by the Fisher quadratic form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from flint import arb, ctx
from torch import Tensor

from fimtheory.balls import PRECISION, ball, lower_float, upper_float
from fimtheory.claims import Status
from fimtheory.decimals import significant
from fimtheory.errors import DataError, NonFiniteError, ShapeError

__all__ = ["KLInterval", "kl_interval", "psi"]


@final
@dataclass(frozen=True, slots=True)
class KLInterval:
    """Two-sided bounds on KL divergences, in nats; each tensor is float64 and has one entry per pair of logit vectors.

    Attributes
    ----------
    lower, upper
        The divergence lies between them; rounded outward.  ``upper`` is inf where it exceeds the range of floats.
    quadratic_lower, quadratic_upper
        ``(1/2) D^T S_p D``, the second-order term around which they lie, rounded down and up.
    spread
        ``max D - min D``, rounded up.
    status
        Of the bounds: certified.
    """

    lower: Tensor
    upper: Tensor
    quadratic_lower: Tensor
    quadratic_upper: Tensor
    spread: Tensor
    status: Status

    def __repr__(self) -> str:
        if self.lower.numel() != 1:
            return f"<KLInterval: {self.lower.numel()} divergences ({self.status})>"
        low = significant(self.lower.item(), self.lower.log10().item(), up=False)
        high = significant(self.upper.item(), self.upper.log10().item(), up=True)
        return f"<KLInterval: {low} <= KL <= {high} ({self.status})>"


def kl_interval(z: Tensor, delta: Tensor) -> KLInterval:
    r"""Return certified bounds on ``KL(p_z || p_{z + D})`` for a known change D of the logits (T6).

    With ``p = softmax(z)``, ``S_p = diag(p) - p p^T``, ``R = max D - min D`` and ``psi(t) = 2 (e^t - t - 1) / t^2``,

        ``psi(-R) (1/2) D^T S_p D  <=  KL(p_z || p_{z + D})  <=  psi(R) (1/2) D^T S_p D.``

    Proof.  Let ``h(s) = logsumexp(z + s D)`` and ``p_s = softmax(z + s D)``.  Then ``h' = E_{p_s} D``,
    ``h'' = Var_{p_s} D`` and ``h''' = E_{p_s} (D - h')^3``, so that ``|h'''| <= R h''``, as ``|D_j - h'| <= R``.
    Hence ``h''(0) e^{-R s} <= h''(s) <= h''(0) e^{R s}`` for s in [0, 1] (Groenwall; if h'' is zero somewhere it is
    zero everywhere).  As ``log p_z(j) - log p_{z+D}(j) = h(1) - h(0) - D_j``, the divergence is
    ``h(1) - h(0) - h'(0) = int_0^1 (1 - s) h''(s) ds``, and ``int_0^1 (1 - s) e^{t s} ds = (e^t - t - 1) / t^2``.
    With ``h''(0) = D^T S_p D`` this is the statement.  The inequality is known as the generalised self-concordance of
    logsumexp (F. Bach, Self-concordant analysis for logistic regression, Electronic Journal of Statistics 4, 2010).

    The numbers given are taken as exact, and everything after them is ball arithmetic.  The variance is a sum of
    nonnegative terms around the most probable class, so that nothing is lost where the softmax saturates.

    Parameters
    ----------
    z, delta : Tensor
        ``(..., K)`` with ``K >= 1``, of one shape, floating point: logits (already divided by a temperature, if there
        is one) and their change.

    Raises
    ------
    DataError, ShapeError
        They are not floating-point tensors of one shape.
    NonFiniteError
        An entry is NaN or infinite.

    Examples
    --------
    >>> z, delta = torch.tensor([0.0, 0.0]), torch.tensor([0.5, -0.5])
    >>> kl_interval(z, delta)
    <KLInterval: 0.0919 <= KL <= 0.180 (certified)>
    """
    for name, given in (("z", z), ("delta", delta)):
        if not isinstance(given, Tensor) or not given.is_floating_point():
            raise DataError(f"{name} is {getattr(given, 'dtype', type(given).__name__)}; expected a tensor of floats")
        if not given.isfinite().all():
            raise NonFiniteError(f"{name} has NaN or infinite entries; leave those logits out")
    if z.shape != delta.shape or z.ndim == 0 or z.numel() == 0:
        raise ShapeError(f"z has shape {tuple(z.shape)} and delta {tuple(delta.shape)}; expected one shape (..., K)")
    size, shape = z.shape[-1], z.shape[:-1]
    pairs = zip(z.double().reshape(-1, size).tolist(), delta.double().reshape(-1, size).tolist(), strict=True)
    found = torch.tensor([_interval(row, change) for row, change in pairs], dtype=torch.float64)
    lower, upper, quadratic_lower, quadratic_upper, spread = (column.reshape(shape) for column in found.T)
    return KLInterval(lower, upper, quadratic_lower, quadratic_upper, spread, Status.CERTIFIED)


def psi(t: arb) -> arb:
    """Return a ball that contains ``psi(t) = 2 (e^t - t - 1) / t^2``, a positive and increasing function.

    Near 0 the quotient loses all digits, and the series ``2 sum_k t^k / (k + 2)!`` is cut after two terms: what is left
    out is at most ``(t^2 / 12) e^|t|``, as ``4! k! <= (k + 4)!``.

    >>> psi(arb(0)) == 1, psi(arb(1)).overlaps(2 * (arb(1).exp() - 2)), psi(arb(-1e-30)) < 1
    (True, True, True)
    """
    ctx.prec = PRECISION
    if abs(t) > arb(2) ** -40:
        return 2 * (t.expm1() - t) / t**2
    tail = t**2 * abs(t).exp() / 12
    return 1 + t / 3 + arb(0, tail.abs_upper())


def _interval(z: list[float], delta: list[float]) -> tuple[float, float, float, float, float]:
    """Bounds, the quadratic term from below and above, and the spread for one pair."""
    ctx.prec = PRECISION
    top = max(range(len(z)), key=z.__getitem__)
    others = [k for k in range(len(z)) if k != top]
    spread = ball(max(delta)) - ball(min(delta))
    if max(delta) == min(delta):
        return 0.0, 0.0, 0.0, 0.0, 0.0
    weights = {k: (ball(z[k]) - ball(z[top])).exp() for k in others}
    total = sum(weights.values(), arb(1))
    changes = {k: ball(delta[k]) - ball(delta[top]) for k in others}
    mean = sum((weights[k] * changes[k] for k in others), arb(0)) / total
    squares = (weights[k] * (changes[k] - mean) ** 2 for k in others)
    half = sum(squares, mean**2) / total / 2
    lower, upper = psi(-spread) * half, psi(spread) * half
    return lower_float(lower), _at_least(upper), lower_float(half), _at_least(half), _at_least(spread)


def _at_least(value: arb) -> float:
    made = upper_float(value)
    return torch.inf if made is None else made
