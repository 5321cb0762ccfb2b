"""What an estimator returns: a `Finding` to other code, an `Estimate` to the user."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fimtheory.claims import Status
from fimtheory.decimals import significant
from fimtheory.fisher import times_power_of_two

__all__ = ["Estimate", "Finding", "TopEigenpair", "rounding", "told"]


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


def told(value: Tensor, log10: Tensor, status: Status, quantity: str = "lam") -> str:
    """Return the range of a quantity over a batch, in words.

    >>> told(torch.tensor([2.0, 0.25]), torch.tensor([2.0, 0.25]).log10(), Status.EXACT)
    'lam of 2 inputs from 0.25 to 2 (exact)'
    """
    least, most = int(log10.argmin()), int(log10.argmax())
    shown = [significant(value[k].item(), log10[k].item(), up=False) for k in (least, most)]
    return f"{quantity} of {len(value)} inputs from {shown[0]} to {shown[1]} ({status})"


@dataclass(frozen=True)
class Finding:
    """What one method found for each input of a batch, in units of a power of two per input.

    Attributes
    ----------
    value, lower, upper : Tensor
        ``(B,)`` float64, scaled: the quantity is about ``value * 2**operator.exponent``.  ``lower`` is 0 and ``upper``
        is ``inf`` where the method has no such bound.
    status : Status
        ``EXACT`` (all three equal), ``LOWER`` (the quantity is at least ``lower``; no upper bound), ``CONFIDENCE``, or
        ``HEURISTIC`` (nothing is proven of the interval; see the method).
    level : float or None
        Probability that the interval holds, for each input, over the randomness of the method.
    method : str
        Its name.
    """

    value: Tensor
    lower: Tensor
    upper: Tensor
    status: Status
    level: float | None
    method: str


@dataclass(frozen=True)
class TopEigenpair(Finding):
    """Top eigenvalue of the scaled ``G(x)`` of a `FisherOperator`, per input, with its vector.

    ``value`` and ``lower`` are one Rayleigh quotient, so never above the eigenvalue by more than rounding.

    Attributes
    ----------
    vector : Tensor
        ``(B, K)`` float64 unit vectors u with ``u^T G u = value``.
    """

    vector: Tensor


@dataclass(frozen=True)
class Estimate:
    """A spectral quantity of ``F(x)`` for a batch of inputs; every tensor is ``(B,)`` float64.

    Attributes
    ----------
    quantity : str
        ``"lam"``, the largest eigenvalue, or ``"trace"``.
    value, lower, upper : Tensor
        Estimate and bounds, per squared unit of the input.  Where the quantity leaves the float64 range they are 0 or
        ``inf`` and the logarithms below still hold it.
    log10_value, log10_lower, log10_upper : Tensor
        Their decimal logarithms; ``-inf`` for a zero, ``inf`` for an absent upper bound.
    level : float or None
        Probability with which each interval holds, where the status is ``CONFIDENCE``.
    status : Status
        ``EXACT`` (all three equal), ``LOWER`` (the quantity is at least ``lower``; no upper bound), ``CONFIDENCE``, or
        ``HEURISTIC`` (nothing is proven of the interval; see the method).
    rounding : float
        Relative floating-point error that every value carries besides; see `rounding`.
    method : str
        The method that ran, also where ``"auto"`` was asked for.
    note : str
        Why ``"auto"`` took that method, which method would serve better, or that the outputs are no logits; mostly
        empty.
    evaluations : int
        Vector-Jacobian and Jacobian-vector products, each of one input, with those of the adjoint test; of a black
        box, its queries.
    seconds : float
        Wall time.
    """

    quantity: str
    value: Tensor
    lower: Tensor
    upper: Tensor
    log10_value: Tensor
    log10_lower: Tensor
    log10_upper: Tensor
    level: float | None
    status: Status
    rounding: float
    method: str
    note: str
    evaluations: int
    seconds: float

    def __repr__(self) -> str:
        return f"<Estimate: {told(self.value, self.log10_value, self.status, self.quantity)}, by {self.method}>"

    @property
    def lam(self) -> Tensor:
        """The estimate of lam(x) = ``||F(x)||_2``."""
        self._require_lam()
        return self.value

    @property
    def log10_lam(self) -> Tensor:
        """Its decimal logarithm."""
        self._require_lam()
        return self.log10_value

    def _require_lam(self) -> None:
        if self.quantity != "lam":
            raise AttributeError(f"this is an estimate of the {self.quantity} of F, not of lam: read .value")

    @classmethod
    def from_finding(
        cls,
        finding: Finding,
        exponent: Tensor,
        dtype: torch.dtype,
        evaluations: int,
        seconds: float,
        *,
        quantity: str = "lam",
        note: str = "",
    ) -> Estimate:
        """Take the scaling off ``finding``: its values count in units of ``2**exponent``, ``(B,)`` int64."""
        decades = math.log10(2) * exponent.double()
        value, lower, upper = finding.value, finding.lower, finding.upper
        return cls(
            quantity=quantity,
            value=times_power_of_two(value, exponent),
            lower=times_power_of_two(lower, exponent),
            upper=times_power_of_two(upper, exponent),
            log10_value=value.log10() + decades,
            log10_lower=lower.log10() + decades,
            log10_upper=upper.log10() + decades,
            level=finding.level,
            status=finding.status,
            rounding=rounding(dtype),
            method=finding.method,
            note=note,
            evaluations=evaluations,
            seconds=seconds,
        )
