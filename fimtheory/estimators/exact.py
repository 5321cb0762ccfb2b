"""lam(x) exactly: the whole ``K x K`` matrix G and a dense eigenproblem in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from fimtheory.claims import Status
from fimtheory.errors import AdjointTestError
from fimtheory.estimators.result import TopEigenpair
from fimtheory.fisher import FisherOperator, times_power_of_two

__all__ = ["exact", "rows_fit"]

_ROW_BUDGET = 2**26
"""Numbers held as Jacobian rows at once: 256 MiB in float32."""

_VMAP_WIDTH = 32
"""Inputs times classes pulled back in one call; beyond it, batching buys no speed."""


def rows_fit(operator: FisherOperator) -> bool:
    """Whether the K - 1 margin gradients of all inputs may be held in memory together."""
    return (operator.K - 1) * operator.x.numel() <= _ROW_BUDGET


def exact(operator: FisherOperator) -> TopEigenpair:
    """Compute the largest eigenvalue of G, status ``EXACT``: up to the rounding of the module's dtype.

    Where they fit in memory, the gradients of the K - 1 margins against the top class give ``J J^T`` up to what R
    annihilates, by K - 1 vector-Jacobian products.  Otherwise G is assembled by columns, K products with G.

    Raises
    ------
    AdjointTestError
        If batched pullbacks (``torch.func.vmap``) disagree with single ones.
    """
    gram = _gram_from_gradients(operator) if rows_fit(operator) else _gram_by_columns(operator)
    values, vectors = torch.linalg.eigh((gram + gram.mT) / 2)
    top = values[:, -1].clamp(min=0)
    return TopEigenpair(top, top, vectors[:, :, -1], Status.EXACT, None, "exact")


def _gram_from_gradients(operator: FisherOperator) -> Tensor:
    batch, others = len(operator.x), operator.other_classes()
    rows = operator.margin_gradients(0, operator.K - 1, max(1, _VMAP_WIDTH // batch))
    gram = torch.zeros(batch, operator.K, operator.K, dtype=torch.float64, device=rows.device)
    for i in range(batch):  # one input at a time, so that only its rows are held in float64
        scaled = times_power_of_two(rows[i].double(), -operator.jacobian_exponent[i])
        _check_rows(operator, scaled, i)
        gram[i, others[i].unsqueeze(1), others[i]] = scaled @ scaled.T
    half = torch.stack([operator.factor.apply(column) for column in gram.unbind(2)], dim=2)  # R M
    return torch.stack([operator.factor.apply(row) for row in half.unbind(1)], dim=1)  # R M R^T


def _check_rows(operator: FisherOperator, scaled: Tensor, i: int) -> None:
    """Compare sum_c u_c grad(f_c - f_t), u the probe (its entries sum to zero), with the J^T u of the adjoint test."""
    combined = operator.probe[i, operator.other_classes()[i]] @ scaled
    expected = times_power_of_two(operator.probe_vjp[i].flatten(), -operator.jacobian_exponent[i])
    error, size = (combined - expected).norm(), operator.probe[i].norm() * scaled.norm()
    if error > 4 * torch.finfo(operator.logits.dtype).eps ** 0.5 * size:
        raise AdjointTestError(
            f"input {i}: batched vector-Jacobian products differ from single ones by {(error / size).item():.3g} "
            "relative; a batching rule of torch is wrong for this module: use method='lanczos'"
        )


def _gram_by_columns(operator: FisherOperator) -> Tensor:
    identity = torch.eye(operator.K, dtype=torch.float64, device=operator.x.device)
    return torch.stack([operator.gram_product(unit.expand(len(operator.x), -1)) for unit in identity], dim=2)
