"""lam(x) exactly: the whole ``K x K`` matrix G and a dense eigenproblem in float64."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fimtheory.claims import Status
from fimtheory.estimators.result import TopEigenpair
from fimtheory.fisher import FisherOperator, SoftmaxFactor, normalised, times_power_of_two

__all__ = ["ROW_BUDGET", "exact", "rows_fit", "weighted_gram"]

ROW_BUDGET = 2**26
"""Numbers held as Jacobian rows at once: 256 MiB in float32."""

_TOGETHER = 2**17
"""Numbers of input gradients pulled back in one call; beyond it, batching buys no speed."""


_IN_FLOAT64 = 2**22
"""Numbers of Jacobian rows converted to float64 at once."""


def rows_fit(operator: FisherOperator) -> bool:
    """Whether the K - 1 margin gradients of all inputs may be held in memory together."""
    return (operator.K - 1) * operator.x.numel() <= ROW_BUDGET


def exact(operator: FisherOperator) -> TopEigenpair:
    """Compute the largest eigenvalue of G, status ``EXACT``: up to the rounding of the module's dtype.

    Where they fit in memory, the gradients of the K - 1 margins against the top class give ``J J^T`` up to what R
    annihilates, by K - 1 vector-Jacobian products.  Where they are batched by ``torch.func.vmap``, one more checks them
    against the single pullback of the adjoint test, and they are taken one at a time if they disagree.  Otherwise G is
    assembled by columns, K products with G.
    """
    gram = _gram_from_gradients(operator) if rows_fit(operator) else _gram_by_columns(operator)
    values, vectors = torch.linalg.eigh((gram + gram.mT) / 2)
    top = values[:, -1].clamp(min=0)
    return TopEigenpair(top, top, top, Status.EXACT, None, "exact", vectors[:, :, -1])


def _gram_from_gradients(operator: FisherOperator) -> Tensor:
    others = operator.other_classes()
    chunk = max(1, _TOGETHER // operator.x.numel())
    rows = operator.margin_gradients(others, chunk)
    if chunk > 1 and not _agree(operator, rows):  # a batching rule of torch is wrong for this module
        rows = operator.margin_gradients(others, 1)
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
    for part in _few_inputs(rows):
        scaled = times_power_of_two(rows[part].double(), -exponent[part].view(-1, 1, 1))
        places, inputs = classes[part], torch.arange(len(rows), device=rows.device)[part]
        gram[inputs.view(-1, 1, 1), places.unsqueeze(2), places.unsqueeze(1)] = scaled @ scaled.mT
    half = torch.stack([factor.apply(column) for column in gram.unbind(2)], dim=2)  # R M
    return torch.stack([factor.apply(row) for row in half.unbind(1)], dim=1)  # R M R^T


def _few_inputs(rows: Tensor) -> Iterator[slice]:
    """Split the inputs, so that only the rows ``(B, n, d)`` of some are held in float64."""
    step = max(1, _IN_FLOAT64 // rows[0].numel())
    for start in range(0, len(rows), step):
        yield slice(start, start + step)


def _agree(operator: FisherOperator, rows: Tensor) -> bool:
    """Whether ``sum_c u_c grad(f_c - f_t)``, u the probe, is the ``J^T u`` that was tested: u sums to zero."""
    top = torch.zeros_like(operator.probe).scatter(1, operator.factor.top, 1.0)
    common = normalised(operator.vjp(top))[1]  # the gradient of f_t: what margins lose to cancellation
    tolerance = 4 * torch.finfo(operator.logits.dtype).eps ** 0.5
    weights = operator.probe.gather(1, operator.other_classes())
    for part in _few_inputs(rows):
        exact_rows = rows[part].double()
        combined = torch.einsum("bn,bnd->bd", weights[part], exact_rows)
        error = normalised(combined - operator.probe_vjp[part].flatten(1))[1]
        size = (normalised(exact_rows)[1] + common[part]) * operator.probe[part].norm(dim=1)
        if (error > tolerance * size).any():
            return False
    return True


def _gram_by_columns(operator: FisherOperator) -> Tensor:
    identity = torch.eye(operator.K, dtype=torch.float64, device=operator.x.device)
    return torch.stack([operator.gram_product(unit.expand(len(operator.x), -1)) for unit in identity], dim=2)
