"""lam(x) exactly: the whole ``K x K`` matrix G and a dense eigenproblem in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from fimtheory.claims import Status
from fimtheory.errors import AdjointTestError
from fimtheory.estimators.result import TopEigenpair
from fimtheory.fisher import FisherOperator, SoftmaxFactor, normalised, times_power_of_two

__all__ = ["ROW_BUDGET", "exact", "rows_fit", "weighted_gram"]

ROW_BUDGET = 2**26
"""Numbers held as Jacobian rows at once: 256 MiB in float32."""

_BATCH = 16
"""Inputs times classes pulled back in one call; beyond it, batching buys no speed."""


def rows_fit(operator: FisherOperator) -> bool:
    """Whether the K - 1 margin gradients of all inputs may be held in memory together."""
    return (operator.K - 1) * operator.x.numel() <= ROW_BUDGET


def exact(operator: FisherOperator) -> TopEigenpair:
    """Compute the largest eigenvalue of G, status ``EXACT``: up to the rounding of the module's dtype.

    Where they fit in memory, the gradients of the K - 1 margins against the top class give ``J J^T`` up to what R
    annihilates, by K - 1 vector-Jacobian products, and one more as a check where they are batched.  Otherwise G is
    assembled by columns, K products with G.

    Raises
    ------
    AdjointTestError
        If batched pullbacks (``torch.func.vmap``) disagree with single ones.
    """
    gram = _gram_from_gradients(operator) if rows_fit(operator) else _gram_by_columns(operator)
    values, vectors = torch.linalg.eigh((gram + gram.mT) / 2)
    top = values[:, -1].clamp(min=0)
    return TopEigenpair(top, top, top, Status.EXACT, None, "exact", vectors[:, :, -1])


def _gram_from_gradients(operator: FisherOperator) -> Tensor:
    batch, others = len(operator.x), operator.other_classes()
    chunk = max(1, _BATCH // batch)
    rows = operator.margin_gradients(others, chunk)
    if chunk > 1:
        _check_batched(operator, rows)
    return weighted_gram(rows, others, operator.jacobian_exponent, operator.factor, operator.K)


def weighted_gram(rows: Tensor, classes: Tensor, exponent: Tensor, factor: SoftmaxFactor, size: int) -> Tensor:
    """Return ``R M R^T``, ``(B, size, size)`` float64, M the Gram matrix of the rows, those left out being zero.

    Parameters
    ----------
    rows : Tensor
        ``(B, n, d)``; they are scaled by ``2**-exponent`` first.
    classes : Tensor
        ``(B, n)``: the place of each row among the ``size`` classes of ``factor``.
    exponent : Tensor
        ``(B,)`` int64.
    factor : SoftmaxFactor
        R.
    size : int
        Number of classes.
    """
    gram = torch.zeros(len(rows), size, size, dtype=torch.float64, device=rows.device)
    for i in range(len(rows)):  # one input at a time, so that only its rows are held in float64
        scaled = times_power_of_two(rows[i].double(), -exponent[i])
        gram[i, classes[i].unsqueeze(1), classes[i]] = scaled @ scaled.T
    half = torch.stack([factor.apply(column) for column in gram.unbind(2)], dim=2)  # R M
    return torch.stack([factor.apply(row) for row in half.unbind(1)], dim=1)  # R M R^T


def _check_batched(operator: FisherOperator, rows: Tensor) -> None:
    """Compare sum_c u_c grad(f_c - f_t), u the probe, whose entries sum to zero, with the J^T u of the adjoint test."""
    top = torch.zeros_like(operator.probe).scatter(1, operator.factor.top, 1.0)
    common = normalised(operator.vjp(top))[1]  # the gradient of f_t: what margins lose to cancellation
    tolerance = 4 * torch.finfo(operator.logits.dtype).eps ** 0.5
    for i, others in enumerate(operator.other_classes()):
        combined = operator.probe[i, others] @ rows[i].double()
        error = normalised((combined - operator.probe_vjp[i].flatten()).unsqueeze(0))[1]
        size = (normalised(rows[i : i + 1].double())[1] + common[i]) * operator.probe[i].norm()
        if error > tolerance * size:
            raise AdjointTestError(
                f"input {i}: batched vector-Jacobian products differ from single ones by {(error / size).item():.3g} "
                "relative; a batching rule of torch is wrong for this module: use method='lanczos'"
            )


def _gram_by_columns(operator: FisherOperator) -> Tensor:
    identity = torch.eye(operator.K, dtype=torch.float64, device=operator.x.device)
    return torch.stack([operator.gram_product(unit.expand(len(operator.x), -1)) for unit in identity], dim=2)
