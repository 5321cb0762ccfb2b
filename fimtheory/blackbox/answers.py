"""What a black box answered to one call, as a matrix, and whether answers are distributions over the same classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from fimtheory.blackbox.number_format import NumberFormat, number_format
from fimtheory.errors import AnswerError

__all__ = ["Answers", "as_matrix", "understood"]

_SUM_SLACK = 1e-4
"""Beyond the rounding of the outputs: what a softmax in low precision loses."""


def as_matrix(answer: Any, rows: int, classes: int | None, outputs: str) -> np.ndarray:
    """Return the answer to a call as float64 of shape ``(rows, K)``; NaN stands for a class that was left out.

    Parameters
    ----------
    answer
        A NumPy array, a torch tensor or nested lists; entries that are masked (``numpy.ma``) are classes left out.
    rows : int
        Inputs of the call.
    classes : int or None
        K of earlier answers, if there are any.
    outputs : str
        ``"probabilities"`` or ``"logits"``.

    Raises
    ------
    AnswerError
        Another shape, another number of classes than before, fewer than two, or entries that no probability or logit
        can be.
    """
    if isinstance(answer, Tensor):
        answer = answer.detach().cpu()
        answer = (answer.double() if answer.is_floating_point() else answer).numpy()  # NumPy has no bfloat16
    left_out = np.ma.getmaskarray(answer) if isinstance(answer, np.ma.MaskedArray) else False
    try:
        matrix = np.asarray(answer)
        if matrix.dtype.kind not in "fiu":
            raise ValueError(f"entries are {matrix.dtype}")
    except (ValueError, TypeError) as error:
        raise AnswerError(f"the black box answered with no matrix of real numbers: {error}") from None
    if matrix.ndim != 2 or matrix.shape[0] != rows or matrix.shape[1] < 2:
        raise AnswerError(
            f"the black box answered {rows} inputs with an array of shape {matrix.shape}; expected ({rows}, K) "
            "with one row for each input and K >= 2 classes"
        )
    if classes is not None and matrix.shape[1] != classes:
        raise AnswerError(f"the black box answered with {matrix.shape[1]} classes, and with {classes} before")
    matrix = matrix.astype(np.float64)
    if outputs == "logits":
        if np.any(left_out):
            raise AnswerError("the black box left logits out; lam needs those of all classes, or probabilities")
        if not np.isfinite(matrix).all():
            raise AnswerError("the black box answered with logits that are NaN or infinite")
    if outputs == "probabilities":
        matrix = np.where(left_out, 0.0, matrix)
        worst = matrix[~np.isfinite(matrix) | (matrix < 0)]
        if worst.size:
            raise AnswerError(
                f"the black box answered with {worst[0]:.6g} for a probability; if it gives logits, say "
                "outputs='logits', or --logits"
            )
        matrix = np.where(left_out, np.nan, matrix)
    return matrix


@final
@dataclass(frozen=True, slots=True)
class Answers:
    """What all answers so far say about the black box.

    Attributes
    ----------
    format : NumberFormat
        How finely numbers are written.
    top_k : int or None
        Most classes that one answer names, where answers leave classes out; None where they name all.
    """

    format: NumberFormat
    top_k: int | None


def understood(matrix: np.ndarray, outputs: str) -> Answers:
    """Return what a pool of answers ``(N, K)`` has in common.

    Raises
    ------
    AnswerError
        They are no distributions, name labels only, are truncated and normalised again, or are of the other kind.
    """
    written = number_format(matrix)
    if outputs == "logits":
        if (matrix >= 0).all() and (np.abs(matrix.sum(1) - 1) <= _SUM_SLACK).all():
            raise AnswerError(
                "every answer is nonnegative and sums to 1: these are probabilities, not logits; say "
                "outputs='probabilities', or leave out --logits"
            )
        return Answers(written, None)
    left_out = np.isnan(matrix)
    filled = np.where(left_out, 0.0, matrix)
    if (np.count_nonzero(filled, axis=1) == 1).all() and (filled.max(axis=1) == 1).all():
        raise AnswerError(
            "every answer gives one class all of the probability: labels only, or a softmax that is saturated at the "
            "precision of the answers; lam cannot be seen from these, so ask for logits or for more digits"
        )
    total = filled.sum(1)
    slack = written.half_spacing(torch.from_numpy(filled)).sum(1).numpy() + _SUM_SLACK
    named = np.count_nonzero(filled, axis=1)
    classes = matrix.shape[1]
    wrong = (total > 1 + slack) | ((total < 1 - slack) & (named == classes))
    if wrong.any():
        raise AnswerError(
            f"an answer sums to {total[wrong][0]:.6g}, expected 1; if the black box gives logits, say "
            "outputs='logits', or --logits"
        )
    incomplete = total < 1 - slack
    dropped = written.quantum is None or left_out.any()
    if not incomplete.any() and dropped and named.max() == named.min() < classes:
        raise AnswerError(
            f"every answer names {named.max()} of {classes} classes and they sum to 1: the others were dropped and the "
            "rest normalised again, or underflowed; ask for all probabilities, for those of the top classes as they "
            "are, or for logits"
        )
    return Answers(written, int(named.max()) if incomplete.any() or left_out.any() else None)
