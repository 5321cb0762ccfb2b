"""Reductions over dimensions, and division by the norm along one, in torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.forward.base import Forward, in_torch
from fimtheory.registry import Site, rule


def _log_sum_exp(x: Tensor, dims: tuple[int, ...], keepdim: bool) -> Tensor:
    """``torch.logsumexp``, whose derivative is exp(x - result) there: wrong once the result rounds log n away."""
    largest = x.detach().amax(dims, keepdim=True)
    largest = torch.where(largest.isfinite(), largest, 0)
    result = (x - largest).exp().sum(dims, keepdim=True).log() + largest
    return result if keepdim else result.squeeze(dims)


def _reducing(reduce: Callable[..., Tensor]) -> Callable[[Site], Forward]:
    """Return the rule of a layer that reduces ``dims``; dimension 0 is the batch."""

    def forward_rule(site: Site) -> Forward:
        dims, keepdim = tuple(dim + 1 for dim in site.layer.dims), site.layer.keepdim
        return lambda tensors, x: reduce(x, dims, keepdim)

    return forward_rule


for _kind, _reduce, _name in (
    (layers.Mean, torch.mean, "mean"),
    (layers.Sum, torch.sum, "sum"),
    (layers.Amax, torch.amax, "amax"),
    (layers.LogSumExp, _log_sum_exp, "logsumexp"),
):
    rule(_kind, quantity=Quantity.FORWARD, reference=in_torch(_name))(_reducing(_reduce))


@rule(layers.L2Normalize, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.normalize"))
def _l2_normalize(site: Site) -> Forward:
    dim, eps = site.layer.dim + 1, site.layer.eps
    return lambda tensors, x: F.normalize(x, dim=dim, eps=eps)
