"""The growth of the Jacobian in the mean, against many random networks."""

from __future__ import annotations

import math

import torch

from fimtheory import layers
from fimtheory.claims import Quantity, Status
from fimtheory.graph import Builder
from fimtheory.properties.cases import Case, Found, NotApplicableError, upper
from fimtheory.properties.networks import jacobians, random_networks

__all__ = ["expected_matches_sampling"]

_NETWORKS = 256
_DEVIATIONS = 4.7534
"""Standard errors that a right rule exceeds with probability 1e-6."""
_ROUNDING = 1e-9
_LARGEST = 48
_SCALES = (1.0, 1e-4, 1.0, 0.03, 30.0)
"""Sizes of inputs, one after another by the seed; an odd number of them, so that each meets both kinds of input."""


def expected_matches_sampling(case: Case) -> Found:
    """Over random initial weights the mean of ``||J_out||_F^2`` stays below the claim times that of ``||J_in||_F^2``.

    By the seed the layer reads the input itself, or a random linear map of it, whose sign is fair.  The difference is
    tested at level 1e-6, so a right rule practically never fails.

    Raises
    ------
    PropertyError
        The mean exceeds the claim by more than its sampling error.
    NotApplicableError
        The claim is not about the growth of the Jacobian, is a heuristic, the layer is large, or a Jacobian overflows.
    """
    rule = case.registered
    if rule.quantity is not Quantity.JACOBIAN_VARIANCE:
        raise NotApplicableError("the claim is not about the growth of the Jacobian in the mean")
    if rule.status is Status.HEURISTIC:
        raise NotApplicableError("the claim is a heuristic, which no test can refute")
    shape = tuple(int(n) for n in case.inputs[0])
    if max(math.prod(shape), *(math.prod(site.output) for site in case.sites)) > _LARGEST:
        raise NotApplicableError(f"the layer has more than {_LARGEST} entries, too many for dense Jacobians of many")
    symmetric = case.seed % 2 == 1
    claim = rule.claim(case.site(symmetric=symmetric))
    builder = Builder("sampled")
    before = here = builder.add("x", layers.Input(shape))
    if symmetric:
        before = here = builder.add("random", layers.MatmulConstant((shape[-1], shape[-1])), here)
    for layer, node in zip(case.layers, case.nodes, strict=True):
        here = builder.add(node, layer, here)
    graph = builder.graph()
    scale = _SCALES[case.seed % len(_SCALES)]
    x = scale * torch.randn(shape, generator=case.generator(), dtype=torch.float64)
    if case.token_variance is not None and (symmetric or x.var(-1, correction=0).min() < case.token_variance):
        raise NotApplicableError("the tokens do not have the variance that the claim assumes")
    found = jacobians(graph, random_networks(graph, _NETWORKS), x, [before, here])
    start, end = (found[node].square().sum((1, 2)) for node in (before, here))
    growth = upper(claim.expression, case.measured(claim))
    excess = end - growth * start
    error = (excess.std() / _NETWORKS**0.5).item()
    if not (start.isfinite().all() and end.isfinite().all()):
        raise NotApplicableError("a Jacobian overflows")
    if not excess.mean().item() <= _DEVIATIONS * error + _ROUNDING * growth * start.mean().item():
        case.fail("expected_matches_sampling", "the Jacobian grows by more in the mean", growth,
                  (end.mean() / start.mean()).item())  # fmt: skip
    return Found((end.mean() / (growth * start.mean())).item() if growth else None, claim.relation)
