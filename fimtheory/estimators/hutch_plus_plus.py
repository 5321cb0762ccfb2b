"""Hutch++: the trace of G on a subspace exactly, of the rest by Hutchinson's estimator."""

from __future__ import annotations

import torch

from fimtheory.claims import Status
from fimtheory.estimators.hutchinson import trace_limits
from fimtheory.estimators.options import require_probes
from fimtheory.estimators.probes import class_probe
from fimtheory.estimators.result import Finding
from fimtheory.fisher import FisherOperator

__all__ = ["hutch_plus_plus"]


def hutch_plus_plus(operator: FisherOperator, *, probes: int = 100, level: float = 0.95, seed: int = 0) -> Finding:
    """Split tr G into ``tr Q^T G Q`` and the trace on the complement of Q; status ``CONFIDENCE``.

    Q is an orthonormal basis of the range of G times ``m // 3`` random vectors.  ``tr Q^T G Q`` takes one
    vector-Jacobian product for each vector of Q and is exact; the remaining probes, standard normal and independent of
    Q, give the trace of the rest with the limits of `trace_limits`.  So the interval holds in finite samples, its lower
    end is never below ``tr Q^T G Q``, and its width shrinks with the part of the trace that Q misses.

    Parameters
    ----------
    operator, level, seed
        As for ``hutchinson``.
    probes : int
        m: ``m // 3`` products with G, as many vectors of Q, and the rest; Q has K - 1 vectors at most.

    Raises
    ------
    DataError
        ``probes`` is below 3, or ``level`` not between 0 and 1.

    References
    ----------
    R. A. Meyer, C. Musco, C. Musco and D. P. Woodruff, "Hutch++: optimal stochastic trace estimation", SOSA (2021).
    """
    require_probes(probes, 3, "Hutch++")
    generator = torch.Generator().manual_seed(seed)
    size = min(probes // 3, operator.K - 1)
    images = [operator.gram_product(class_probe(operator, generator)) for _ in range(size)]
    basis = torch.linalg.qr(torch.stack(images, dim=2))[0]
    inside = torch.stack([operator.half_product(q)[1].square() for q in basis.unbind(2)]).sum(0)
    rest = probes - 2 * size
    total = torch.zeros_like(inside)
    for _ in range(rest):
        g = class_probe(operator, generator)
        g = g - torch.einsum("bkc,bc->bk", basis, torch.einsum("bkc,bk->bc", basis, g))
        total += operator.half_product(g)[1].square()
    lower, upper = trace_limits(total / rest, rest, level)
    return Finding(inside + total / rest, inside + lower, inside + upper, Status.CONFIDENCE, level, "hutch++")
