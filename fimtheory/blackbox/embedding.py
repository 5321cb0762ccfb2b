r"""Answers as points of a Euclidean space in which the map from inputs has Jacobian norm ``sqrt(lam)`` at x.

For probabilities ``z = 2 sqrt(p)``: the Jacobian of z is ``R J`` with ``R = diag(sqrt p)(I - 1 p^T)``, and
``(R J)^T R J = F``.  For logits ``z = R f`` with R taken at x: the Jacobian at x is the same, and z bends only as much
as the logits do, not as the square root does (theory.md, section 7).
"""

from __future__ import annotations

import math
from typing import Protocol, final

import torch
from torch import Tensor

from fimtheory.blackbox.answers import Answers
from fimtheory.errors import AnswerError
from fimtheory.fisher import SoftmaxFactor

__all__ = ["CentredLogits", "Embedding", "Roots"]


class Embedding(Protocol):
    """Answers around one input as points."""

    exponent: int
    """Squared lengths count in units of ``2**exponent``."""
    rank: int
    """Largest rank of the Jacobian, K - 1."""
    distortion: float
    """Lengths may be wrong by this factor, up or down, since the answer at x is rounded itself."""

    def points(self, answers: Tensor) -> Tensor:
        """Return ``(R, K)`` points for ``(R, K)`` answers."""
        ...

    def blur(self, answers: Tensor) -> Tensor:
        """Return ``(R, K)``: how far each coordinate can be from that of the answer before it was rounded."""
        ...


@final
class Roots:
    r"""``z = 2 sqrt(p)``, and one more class, "other", where answers name the top classes only.

    Of a rounded probability, ``sqrt`` of the ends of its interval are known and z is the middle.  The entry of the top
    class t is written ``2 (sqrt(p_t) - 1) = -2 c / (1 + sqrt(1 - c))`` with c the mass of the other classes, so that
    nothing is lost to ``1 - p_t`` where the softmax is saturated.

    Where classes are left out, those named in every answer around x are kept and the others counted together.  Such a
    merging of classes is a function of the class, so by the chain rule ``F = F_merged + E Cov(score | merged class)``:
    ``F_merged <= F`` in the order of matrices, and its largest eigenvalue is at most lam (data processing).

    Parameters
    ----------
    centre : Tensor
        ``(K,)``: the answer at x.
    around : Tensor
        ``(N, K)``: all answers around x.
    known : Answers
        What they have in common.

    Raises
    ------
    AnswerError
        No class is named in all answers.
    """

    exponent = 0
    distortion = 1.0

    def __init__(self, centre: Tensor, around: Tensor, known: Answers) -> None:
        self._format = known.format
        self._merged = known.top_k is not None
        if self._merged:
            self._kept = (around.nan_to_num(0.0) > 0).all(0)
            if not self._kept.any():
                raise AnswerError("no class is named in all answers around an input; ask for more of the top classes")
        else:
            self._kept = torch.ones_like(centre, dtype=torch.bool)
        self._top = int(self._probabilities(centre.unsqueeze(0))[0].argmax())
        # Of the two ways to get the mass of the other classes, the one that loses less to rounding.
        self._sum_of_others = not self._merged and self._format.quantum is None
        self.rank = int(self._kept.sum()) + self._merged - 1

    def _probabilities(self, answers: Tensor) -> Tensor:
        p = answers[:, self._kept]
        return torch.cat([p, (1 - p.sum(1, keepdim=True)).clamp(min=0)], 1) if self._merged else p

    def _errors(self, answers: Tensor) -> Tensor:
        w = self._format.half_spacing(answers[:, self._kept])
        return torch.cat([w, w.sum(1, keepdim=True)], 1) if self._merged else w

    def _rest(self, p: Tensor) -> Tensor:
        others = torch.arange(p.shape[1]) != self._top
        return p[:, others].sum(1) if self._sum_of_others else (1 - p[:, self._top]).clamp(min=0)

    def _rest_error(self, w: Tensor) -> Tensor:
        return w.sum(1) - w[:, self._top] if self._sum_of_others else w[:, self._top]

    def points(self, answers: Tensor) -> Tensor:
        """Return the points, ``(R, K)`` float64."""
        p, w = self._probabilities(answers), self._errors(answers)
        z = (p - w).clamp(min=0).sqrt() + (p + w).clamp(max=1).sqrt()
        rest, lost = self._rest(p), self._rest_error(w)
        ends = (rest - lost).clamp(min=0), (rest + lost).clamp(max=1)
        z[:, self._top] = -sum(end / (1 + (1 - end).sqrt()) for end in ends)
        return z

    def blur(self, answers: Tensor) -> Tensor:
        """Return how far rounding can have moved each coordinate, ``(R, K)``."""
        p, w = self._probabilities(answers), self._errors(answers)
        p[:, self._top], w[:, self._top] = 1 - self._rest(p), self._rest_error(w)
        low, high = (p - w).clamp(min=0), (p + w).clamp(min=1e-300)
        return torch.where(p > w, 2 * w, high) / (high.sqrt() + low.sqrt())


@final
class CentredLogits:
    r"""``z = R f`` with the factor R of the softmax covariance at x, scaled so that saturation costs nothing.

    Parameters
    ----------
    centre : Tensor
        ``(K,)``: the logits at x.
    known : Answers
        What the answers have in common.
    """

    def __init__(self, centre: Tensor, known: Answers) -> None:
        self._format = known.format
        self._log_probs = centre.log_softmax(0).unsqueeze(0)
        self.exponent = int(SoftmaxFactor(self._log_probs, 1.0).exponent)
        self.rank = len(centre) - 1
        top = self._log_probs[0].argmax()
        lengths = 0.5 * (self._log_probs[0] - self.exponent * math.log(2))
        others = torch.arange(len(centre)) != top
        self._lengths = lengths.exp()
        self._lengths[top] = (lengths[top] + self._log_probs[0, others].logsumexp(0)).exp()
        # F is a sum over pairs of p_i p_j times squares, and errors w of logits change p_i p_j by at most exp(4 w).
        self.distortion = math.exp(2 * self._format.half_spacing(centre).max().item())

    def points(self, answers: Tensor) -> Tensor:
        """Return the points, ``(R, K)`` float64."""
        return SoftmaxFactor(self._log_probs.expand(len(answers), -1), 1.0).apply(answers)

    def blur(self, answers: Tensor) -> Tensor:
        """Return how far rounding can have moved each coordinate, ``(R, K)``.

        Of errors at most w, ``(R e)_i = sqrt(p_i) (e_i - sum_j p_j e_j)`` is at most ``2 w sqrt(p_i)``, and for the top
        class ``2 w sqrt(p_t) (1 - p_t)``.
        """
        return 2 * self._format.half_spacing(answers).amax(1, keepdim=True) * self._lengths
