"""tr F(x) at given inputs: exactly, and one function to choose among the methods."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from fimtheory.claims import Status
from fimtheory.estimators.hutch_plus_plus import hutch_plus_plus
from fimtheory.estimators.hutchinson import hutchinson
from fimtheory.estimators.options import check_options
from fimtheory.estimators.probabilities import note_on_probabilities
from fimtheory.estimators.result import Estimate, Finding
from fimtheory.estimators.start import null_vector
from fimtheory.estimators.xtrace import xtrace
from fimtheory.fisher import FisherOperator

__all__ = ["exact_trace", "trace"]


def exact_trace(operator: FisherOperator) -> Finding:
    """Sum ``q^T G q`` over an orthonormal basis of the space orthogonal to ``sqrt(p)``, which G maps to zero.

    K - 1 vector-Jacobian products; every term is a square, so nothing cancels.  Status ``EXACT``.
    """
    total = torch.zeros_like(operator.log_probs[:, 0])
    for k in range(operator.K - 1):
        total += operator.half_product(_basis_vector(operator, k))[1].square()
    return Finding(total, total, total, Status.EXACT, None, "exact")


def _basis_vector(operator: FisherOperator, k: int) -> Tensor:
    """Return the k-th column, that of the top class t left out, of the reflection that maps ``e_t`` to ``-sqrt(p)``."""
    root = null_vector(operator)
    i, top = operator.other_classes()[:, k : k + 1], operator.factor.top
    share = root.gather(1, i) / (1 + root.gather(1, top))
    vector = -share * root
    return vector.scatter_add(1, i, torch.ones_like(share)).scatter_add(1, top, -share)


def trace(
    module: nn.Module,
    x: Tensor,
    method: str = "auto",
    *,
    temperature: float = 1.0,
    probes: int | None = None,
    level: float | None = None,
    seed: int = 0,
) -> Estimate:
    r"""Estimate the trace of the input-space Fisher information at each input of a batch.

    Between the trace and the largest eigenvalue: ``tr F / min(K - 1, d) <= lam <= tr F``.

    Parameters
    ----------
    module : nn.Module
        Classifier in eval mode, ``(B, *input)`` to logits ``(B, K)``.
    x : Tensor
        ``(B, *input)``, in the dtype and on the device of the module.
    method : str
        ``"exact"``: K - 1 vector-Jacobian products; status ``EXACT``.
        ``"hutchinson"``: an average over ``probes`` normal vectors, one such product each; status ``CONFIDENCE``.
        ``"hutch++"``: exact on a subspace, the rest by Hutchinson; status ``CONFIDENCE``.
        ``"xtrace"``: leave-one-out average, the most accurate of the three where eigenvalues decay; its interval is
        two standard errors to both sides, so status ``HEURISTIC``.
        ``"auto"``: ``"exact"`` unless Hutch++ takes less than half its products; the note says which and why.
    temperature : float
        tau of the softmax; F carries ``1 / tau^2``.
    probes : int, optional
        Random vectors, or products with G, as each method counts them; 100 by default.
    level : float, optional
        Probability, over the probes, with which each interval of Hutchinson or Hutch++ holds; 0.95 by default.
    seed : int
        Of the probes.

    Returns
    -------
    Estimate
        Its ``quantity`` is ``"trace"``.

    Raises
    ------
    DataError, GraphError, ShapeError, NonFiniteError, MissingRuleError
        If module and inputs do not form a differentiable classifier (see `FisherOperator`), or an option does not fit.
    AdjointTestError
        If forward- and reverse-mode derivatives disagree; nothing is estimated then.

    References
    ----------
    theory.md, sections 2 (T2) and 7; `trace_limits` has the proof of the intervals.

    Examples
    --------
    >>> head = nn.Linear(2, 2, bias=False).eval()
    >>> _ = head.weight.data.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    >>> result = trace(head, torch.zeros(1, 2))
    >>> round(result.value.item(), 6), result.method, str(result.status)
    (1.0, 'exact', 'exact')
    """
    began = time.perf_counter()
    check_options(_OPTIONS, method, probes=probes, level=level)
    operator = FisherOperator(module, x, temperature, seed)
    operator.adjoint_test()
    notes = [note_on_probabilities(operator.logits)]
    if method == "auto":
        method, counted = _cheaper(operator, probes)
        notes.append(counted)
    probes, level = 100 if probes is None else probes, 0.95 if level is None else level
    if method == "exact":
        finding = exact_trace(operator)
    elif method == "hutchinson":
        finding = hutchinson(operator, probes=probes, level=level, seed=seed)
    elif method == "hutch++":
        finding = hutch_plus_plus(operator, probes=probes, level=level, seed=seed)
    else:
        finding = xtrace(operator, probes=probes, seed=seed)
    if method != "exact" and probes >= operator.K - 1:
        notes.append(f"the method 'exact' takes no more products: K - 1 = {operator.K - 1}")
    seconds, note = time.perf_counter() - began, "; ".join(filter(None, notes))
    dtype, evaluations = operator.logits.dtype, operator.evaluations
    return Estimate.from_finding(finding, operator.exponent, dtype, evaluations, seconds, quantity="trace", note=note)


def _cheaper(operator: FisherOperator, probes: int | None) -> tuple[str, str]:
    others, probes = operator.K - 1, 100 if probes is None else probes
    randomised = probes + min(probes // 3, others)
    counted = f"the trace takes K - 1 = {others} products exactly and {randomised} by Hutch++"
    return "exact" if others <= 2 * randomised else "hutch++", counted


_OPTIONS = {
    "auto": ("probes", "level"),
    "exact": (),
    "hutchinson": ("probes", "level"),
    "hutch++": ("probes", "level"),
    "xtrace": ("probes",),
}
"""The methods, and the options that each takes."""
