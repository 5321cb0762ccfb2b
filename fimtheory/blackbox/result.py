"""What a black-box estimate returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from fimtheory.claims import Status
from fimtheory.estimators.result import Estimate, told

__all__ = ["BlackBoxEstimate"]


@final
@dataclass(frozen=True)
class BlackBoxEstimate:
    """lam of a black box at each input of a batch, and what was noticed about the black box.

    Attributes
    ----------
    estimate : Estimate
        Values, limits, status and cost; the properties below are its.
    step : Tensor
        ``(B,)``: how far each query moved the input, in l2.
    difference_error : Tensor
        ``(B,)``: estimated error of ``sqrt(lam)`` by finite differences, relative to ``sqrt(lam)``; the limits are
        widened by it.
    probes : int
        Directions along which each input was moved.
    number_format : str
        How finely outputs are written, such as ``"float32"`` or ``"4 decimals"``.
    quantum : float or None
        Distance of neighbouring outputs, where it is the same everywhere.
    top_k : int or None
        Most classes that one answer names, where answers leave classes out.  The estimate is then of those classes and
        "other": at most lam, so that there is no upper limit.
    reused : int
        Answers that came from the checkpoint.
    """

    estimate: Estimate
    step: Tensor
    difference_error: Tensor
    probes: int
    number_format: str
    quantum: float | None
    top_k: int | None
    reused: int

    def __repr__(self) -> str:
        e = self.estimate
        return f"<BlackBoxEstimate: {told(e.value, e.log10_value, e.status)}, by {e.method}, {e.evaluations} queries>"

    @property
    def lam(self) -> Tensor:
        """The estimate of lam(x), ``(B,)`` float64."""
        return self.estimate.value

    @property
    def lower(self) -> Tensor:
        """Lower limits."""
        return self.estimate.lower

    @property
    def upper(self) -> Tensor:
        """Upper limits; ``inf`` where there is none."""
        return self.estimate.upper

    @property
    def log10_lam(self) -> Tensor:
        """Decimal logarithm of the estimate."""
        return self.estimate.log10_value

    @property
    def log10_lower(self) -> Tensor:
        """Decimal logarithm of the lower limits."""
        return self.estimate.log10_lower

    @property
    def log10_upper(self) -> Tensor:
        """Decimal logarithm of the upper limits."""
        return self.estimate.log10_upper

    @property
    def status(self) -> Status:
        """``CONFIDENCE`` or ``HEURISTIC``; see ``fimtheory.estimate_black_box``."""
        return self.estimate.status

    @property
    def level(self) -> float | None:
        """Probability with which each interval holds."""
        return self.estimate.level

    @property
    def method(self) -> str:
        """``"sketch"`` or ``"basis"``."""
        return self.estimate.method

    @property
    def note(self) -> str:
        """What to know before using the numbers, in sentences."""
        return self.estimate.note

    @property
    def queries(self) -> int:
        """All queries, those of a checkpoint included; also called ``evaluations``."""
        return self.estimate.evaluations

    @property
    def evaluations(self) -> int:
        """The same as ``queries``."""
        return self.estimate.evaluations

    @property
    def seconds(self) -> float:
        """Wall time."""
        return self.estimate.seconds
