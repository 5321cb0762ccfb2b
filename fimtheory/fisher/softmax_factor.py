"""A square root of the softmax covariance that keeps full relative accuracy when the softmax saturates."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["SoftmaxFactor"]

_LN2 = math.log(2)


class SoftmaxFactor:
    r"""A factor of the scaled softmax covariance: ``R^T R = 2**-exponent S_p / tau**2``.

    With top class t, ``(R w)_i = sqrt(p_i) (w_i - w_t - m)`` for ``i != t`` and ``(R w)_t = -sqrt(p_t) m``, where
    ``m = sum_{j != t} p_j (w_j - w_t)``.  Only off-top probabilities enter, each from its own log-probability, so
    nothing is lost to ``1 - p_t`` however saturated the softmax is; the exponent brings the largest weight near 1, so
    that probabilities below the float64 range still give full accuracy.

    Parameters
    ----------
    log_probs : Tensor
        ``(B, K)`` float64, ``log softmax(f / tau)``.  Differentiable (the exponent counts as a constant).
    temperature : float
        tau.

    Attributes
    ----------
    exponent : Tensor
        ``(B,)`` int64: ``2**exponent`` is the power of two nearest to ``p_2 / tau**2``, p_2 the runner-up.
    top : Tensor
        ``(B, 1)`` int64: the most probable class.
    """

    def __init__(self, log_probs: Tensor, temperature: float) -> None:
        self.top = log_probs.argmax(1, keepdim=True)
        is_top = torch.zeros_like(log_probs, dtype=torch.bool).scatter(1, self.top, True)
        rest = log_probs.masked_fill(is_top, -torch.inf)
        runner_up = rest.detach().amax(1, keepdim=True)
        log_scale = runner_up - 2 * math.log(temperature)
        exponent = (log_scale / _LN2).round().clamp(-(2.0**62), 2.0**62)
        self.exponent = exponent.squeeze(1).long()
        remainder = (log_scale - _LN2 * exponent).clamp(-1, 1)  # |remainder| <= ln(2)/2 unless log_scale exceeds 1e15
        self._p = rest.exp()
        self._row = (0.5 * (rest - runner_up + remainder)).exp()  # sqrt(p_i), scaled; 0 for the top class
        self._top_row = self._row * (0.5 * (rest + log_probs.gather(1, self.top))).exp()  # sqrt(p_t) p_j, scaled

    def apply(self, w: Tensor) -> Tensor:
        """Return ``R w``; ``w`` and the result are ``(B, K)`` float64."""
        centred = w - w.gather(1, self.top)
        mean = (self._p * centred).sum(1, keepdim=True)
        return (self._row * (centred - mean)).scatter(1, self.top, -(self._top_row * centred).sum(1, keepdim=True))

    def apply_transposed(self, u: Tensor) -> Tensor:
        """Return ``R^T u``, whose entries sum to zero; ``u`` and the result are ``(B, K)`` float64."""
        inner = (self._row * u).sum(1, keepdim=True)
        c = self._row * u - self._p * inner - self._top_row * u.gather(1, self.top)
        return c.scatter(1, self.top, -c.sum(1, keepdim=True))
