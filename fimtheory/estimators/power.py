"""Power iteration on G: a lower bound on lam(x) for a fixed number of products."""

from __future__ import annotations

import torch

from fimtheory.claims import Status
from fimtheory.estimators.result import TopEigenpair
from fimtheory.estimators.start import random_start
from fimtheory.fisher import FisherOperator

__all__ = ["power"]


def power(operator: FisherOperator, *, products: int = 20, seed: int = 0) -> TopEigenpair:
    """Iterate ``u <- G u / ||G u||`` and return the last Rayleigh quotient ``u^T G u``, status ``LOWER``.

    The mean relative error of k products is at most ``0.871 ln(K) / (k - 1)`` whatever the spectrum (Kuczynski and
    Wozniakowski 1992); Lanczos does better for the same products, and this method is here for comparison.

    Parameters
    ----------
    operator : FisherOperator
        The operator of a batch.
    products : int
        Products with G.
    seed : int
        Of the random start.
    """
    u = random_start(operator, seed)
    for _ in range(products):
        image = operator.gram_product(u)
        norm = image.norm(dim=1, keepdim=True)
        u = torch.where(norm > 0, image / norm.where(norm > 0, 1.0), u)
    value = operator.half_product(u)[1].square()
    return TopEigenpair(value, value, torch.full_like(value, torch.inf), Status.LOWER, None, "power", u)
