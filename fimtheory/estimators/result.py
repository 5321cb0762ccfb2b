"""What an estimator returns: eigenpairs to other code, an `Estimate` to the user."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fimtheory.claims import Status
from fimtheory.decimals import significant
from fimtheory.fisher import times_power_of_two

__all__ = ["Estimate", "TopEigenpair", "rounding", "told"]


def rounding(dtype: torch.dtype) -> float:
    """Return the relative error to allow for in a value computed by a module of this dtype: 128 machine epsilons.

    A convention, not a proof: the rounding of a network has no bound that does not depend on its weights, and a ReLU
    network may take another linear piece in float32.  Before a lower bound refutes anything, confirm it in float64.

    Examples
    --------
    >>> f"{rounding(torch.float64):.2g}"
    '2.8e-14'
    """
    return 128 * torch.finfo(dtype).eps


def told(lam: Tensor, log10: Tensor, status: Status) -> str:
    """Return the range of lam over a batch, in words.

    >>> told(torch.tensor([2.0, 0.25]), torch.tensor([2.0, 0.25]).log10(), Status.EXACT)
    'lam of 2 inputs from 0.25 to 2 (exact)'
    """
    least, most = int(log10.argmin()), int(log10.argmax())
    shown = [significant(lam[k].item(), log10[k].item(), up=False) for k in (least, most)]
    return f"lam of {len(lam)} inputs from {shown[0]} to {shown[1]} ({status})"


@dataclass(frozen=True)
class TopEigenpair:
    """Top eigenvalue of the scaled ``G(x)`` of a `FisherOperator`, per input, as one method found it.

    Attributes
    ----------
    value : Tensor
        ``(B,)`` float64, scaled: lam is about ``value * 2**operator.exponent``.  A Rayleigh quotient, so never above
        the eigenvalue by more than rounding.
    upper : Tensor
        ``(B,)`` float64, scaled; ``inf`` where the method has no upper bound.
    vector : Tensor
        ``(B, K)`` float64 unit vectors u with ``u^T G u = value``.
    status : Status
        ``EXACT``, ``LOWER`` or ``CONFIDENCE``.
    level : float or None
        Probability that ``upper`` holds, for each input, over the random start.
    method : str
        ``"exact"``, ``"lanczos"`` or ``"power"``.
    """

    value: Tensor
    upper: Tensor
    vector: Tensor
    status: Status
    level: float | None
    method: str


@dataclass(frozen=True)
class Estimate:
    """lam(x) = ``||F(x)||_2`` for a batch of inputs; every tensor is ``(B,)`` float64.

    Attributes
    ----------
    lam, lower, upper : Tensor
        Estimate and bounds, per squared unit of the input.  Where lam leaves the float64 range they are 0 or ``inf``
        and the logarithms below still hold it.
    log10_lam, log10_lower, log10_upper : Tensor
        Their decimal logarithms; ``-inf`` for a zero, ``inf`` for an absent upper bound.
    level : float or None
        Probability with which each ``upper`` holds, where the status is ``CONFIDENCE``.
    status : Status
        ``EXACT`` (all three equal), ``LOWER`` (a Rayleigh quotient: lam(x) is at least ``lower``; no upper bound) or
        ``CONFIDENCE``.
    rounding : float
        Relative floating-point error that every value carries besides; see `rounding`.
    method : str
        The method that ran, also where ``"auto"`` was asked for.
    evaluations : int
        Vector-Jacobian and Jacobian-vector products, each of one input, with those of the adjoint test.
    seconds : float
        Wall time.
    """

    lam: Tensor
    lower: Tensor
    upper: Tensor
    log10_lam: Tensor
    log10_lower: Tensor
    log10_upper: Tensor
    level: float | None
    status: Status
    rounding: float
    method: str
    evaluations: int
    seconds: float

    def __repr__(self) -> str:
        return f"<Estimate: {told(self.lam, self.log10_lam, self.status)}, by {self.method}>"

    @classmethod
    def from_eigenpair(
        cls, pair: TopEigenpair, exponent: Tensor, dtype: torch.dtype, evaluations: int, seconds: float
    ) -> Estimate:
        """Take the scaling off ``pair``: its values count in units of ``2**exponent``, ``(B,)`` int64."""
        lam, upper = (times_power_of_two(value, exponent) for value in (pair.value, pair.upper))
        decades = math.log10(2) * exponent.double()
        log10_lam, log10_upper = pair.value.log10() + decades, pair.upper.log10() + decades
        return cls(
            lam=lam,
            lower=lam,
            upper=upper,
            log10_lam=log10_lam,
            log10_lower=log10_lam,
            log10_upper=log10_upper,
            level=pair.level,
            status=pair.status,
            rounding=rounding(dtype),
            method=pair.method,
            evaluations=evaluations,
            seconds=seconds,
        )
