"""Outputs that are probabilities already: lam of the softmax of a softmax is hardly what is meant."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["note_on_probabilities"]

_SLACK = 32
"""Machine epsilons that a row of a softmax may be away from the sum 1."""


def note_on_probabilities(logits: Tensor) -> str:
    """Return what to know if all rows of ``logits`` ``(B, K)`` are probability vectors; otherwise nothing.

    Examples
    --------
    >>> [bool(note_on_probabilities(torch.tensor([row]))) for row in ([0.25, 0.75], [0.25, 1.75])]
    [True, False]
    """
    within = ((logits >= 0) & (logits <= 1)).all()
    off = (logits.double().sum(1) - 1).abs().amax()
    if not within or off > _SLACK * torch.finfo(logits.dtype).eps:
        return ""
    return (
        "the outputs of the model are probabilities (all in [0, 1], of sum 1), and lam is that of their softmax: leave "
        "out the last softmax of the model, so that it returns logits"
    )
