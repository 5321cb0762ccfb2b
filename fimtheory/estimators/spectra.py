"""The top of the spectrum of F(x), for the user: eigenvalues, how well they are known, and their directions."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fimtheory.claims import Status
from fimtheory.errors import DataError
from fimtheory.estimators.block_krylov import block_krylov
from fimtheory.estimators.options import require_fraction
from fimtheory.estimators.result import rounding
from fimtheory.fisher import FisherOperator, times_power_of_two

__all__ = ["Spectrum", "spectrum"]


@dataclass(frozen=True)
class Spectrum:
    """The r largest eigenvalues of ``F(x)`` for a batch of inputs.

    Attributes
    ----------
    values : Tensor
        ``(B, r)`` float64, decreasing, per squared unit of the input; at most the eigenvalue of their rank.
    log10_values : Tensor
        Their decimal logarithms, also where they leave the float64 range; ``-inf`` for a zero.
    residuals : Tensor
        ``(B, r)``: within this distance of each value lies an eigenvalue.
    vectors : Tensor
        ``(B, r, *input)`` float64 unit vectors: the directions to which the output is most sensitive, orthogonal to one
        another; zero where the eigenvalue is zero.  Each is determined up to its sign, and up to a rotation among
        eigenvalues that are equal.
    status : Status
        ``EXACT`` (the whole space was spanned; up to ``rounding``) or ``LOWER``.
    rounding : float
        Relative floating-point error besides.
    evaluations : int
        Vector-Jacobian and Jacobian-vector products, each of one input.
    seconds : float
        Wall time.
    """

    values: Tensor
    log10_values: Tensor
    residuals: Tensor
    vectors: Tensor
    status: Status
    rounding: float
    evaluations: int
    seconds: float

    def __repr__(self) -> str:
        batch, rank = self.values.shape
        return f"<Spectrum: the {rank} largest eigenvalues of F at {batch} inputs ({self.status})>"


def spectrum(
    module: nn.Module,
    x: Tensor,
    rank: int = 5,
    *,
    temperature: float = 1.0,
    tol: float | None = None,
    seed: int = 0,
) -> Spectrum:
    """Return the ``rank`` largest eigenvalues of the input-space Fisher information at each input, with directions.

    Parameters
    ----------
    module : nn.Module
        Classifier in eval mode, ``(B, *input)`` to logits ``(B, K)``.
    x : Tensor
        ``(B, *input)``, in the dtype and on the device of the module.
    rank : int
        Eigenvalues wanted, from 1 to ``min(K - 1, d)``, the largest rank F can have.
    temperature : float
        tau of the softmax.
    tol : float, optional
        Accuracy relative to the largest eigenvalue.
    seed : int
        Of the random start.

    Raises
    ------
    DataError
        If ``rank`` or ``tol`` makes no sense for the model; else as for ``fimtheory.estimate``.

    Examples
    --------
    >>> head = nn.Linear(3, 3, bias=False).eval()
    >>> _ = head.weight.data.copy_(torch.diag(torch.tensor([3.0, 3.0, 0.0])))
    >>> found = spectrum(head, torch.zeros(1, 3), rank=2)  # p = 1/3 each: F = diag(3, 3, 0) - (1, 1, 0) (1, 1, 0)^T
    >>> [round(value, 4) for value in found.values[0].tolist()], str(found.status)
    ([3.0, 1.0], 'exact')
    """
    began = time.perf_counter()
    operator = FisherOperator(module, x, temperature, seed)
    most = min(operator.K - 1, x[0].numel())
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= most:
        raise DataError(
            f"rank is {rank!r}: expected the number of eigenvalues to find, from 1 to min(K - 1, d) = {most}; F has no "
            "more that are nonzero"
        )
    if tol is not None:
        require_fraction("tol", tol)
    operator.adjoint_test()
    pairs = block_krylov(operator, rank, tol=tol, seed=seed)
    exponent = operator.exponent.unsqueeze(1)
    return Spectrum(
        values=times_power_of_two(pairs.values, exponent),
        log10_values=pairs.values.log10() + math.log10(2) * exponent.double(),
        residuals=times_power_of_two(pairs.residuals, exponent),
        vectors=torch.stack([operator.half_product(u)[0] for u in pairs.vectors.unbind(1)], 1),
        status=pairs.status,
        rounding=rounding(operator.logits.dtype),
        evaluations=operator.evaluations,
        seconds=time.perf_counter() - began,
    )
