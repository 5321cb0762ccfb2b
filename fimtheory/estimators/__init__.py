"""Estimators of lam(x) = ``||F(x)||_2`` and tr F(x) at given inputs.

One file per method, and one function for each quantity to choose among them: `estimate` and `trace`.
"""

from __future__ import annotations

import time

from torch import Tensor, nn

from fimtheory.estimators.exact import exact, rows_fit
from fimtheory.estimators.lanczos import error_bound, lanczos, planned_steps
from fimtheory.estimators.options import check_options
from fimtheory.estimators.paper import paper_hutchinson, paper_power, paper_rayleigh
from fimtheory.estimators.power import power
from fimtheory.estimators.probabilities import note_on_probabilities
from fimtheory.estimators.result import Estimate, TopEigenpair, rounding
from fimtheory.estimators.sketch import sketch
from fimtheory.estimators.spectra import Spectrum, spectrum
from fimtheory.estimators.traces import trace
from fimtheory.estimators.truncated import truncated
from fimtheory.fisher import FisherOperator

__all__ = [
    "Estimate",
    "Spectrum",
    "TopEigenpair",
    "cheapest",
    "error_bound",
    "estimate",
    "exact",
    "lanczos",
    "planned_steps",
    "power",
    "rounding",
    "sketch",
    "spectrum",
    "trace",
]

_LANCZOS_STEPS = 16
"""Steps of Lanczos at its default tolerance (9 to 18 on ResNet-18 with K = 10 to 1000)."""

_FORWARD_MODE_COST = 4
"""Cost of a forward-mode product in reverse-mode ones with the forward pass kept (3 to 5 on ResNet-18); by
transposition it is one."""


def cheapest(operator: FisherOperator, level: float | None = None) -> str:
    """Return ``"exact"`` where K - 1 reverse-mode products cost less than the Lanczos run expected, else ``"lanczos"``.

    Examples
    --------
    >>> import torch
    >>> x = torch.zeros(1, 3)
    >>> [cheapest(FisherOperator(nn.Linear(3, classes).eval(), x)) for classes in (10, 100)]
    ['exact', 'lanczos']
    """
    others = operator.K - 1
    steps = min(others, _LANCZOS_STEPS) if level is None else planned_steps(others, level, 0.05)
    pair = 1 + (_FORWARD_MODE_COST if operator.has_foreign_backward else 1)
    per_row = 1 if rows_fit(operator) else pair
    return "exact" if others * per_row <= steps * pair else "lanczos"


def estimate(
    module: nn.Module,
    x: Tensor,
    method: str = "auto",
    *,
    temperature: float = 1.0,
    tol: float | None = None,
    level: float | None = None,
    classes: int | None = None,
    probes: int | None = None,
    seed: int = 0,
) -> Estimate:
    r"""Estimate the largest eigenvalue of the input-space Fisher information at each input of a batch.

    Parameters
    ----------
    module : nn.Module
        Classifier in eval mode, ``(B, *input)`` to logits ``(B, K)``.
    x : Tensor
        ``(B, *input)``, in the dtype and on the device of the module.
    method : str
        ``"exact"``: K - 1 vector-Jacobian products and a dense eigenproblem; status ``EXACT``.
        ``"lanczos"``: a Ritz value; status ``LOWER``, or ``CONFIDENCE`` with ``level``.
        ``"truncated"``: the most probable classes, the others merged; status ``CONFIDENCE``, 0.95 unless ``level``.
        ``"power"``: 20 steps of power iteration, for comparison; status ``LOWER``.
        ``"sketch"``: an interval from random tangents; status ``CONFIDENCE``, 0.95 unless ``level``.
        ``"paper-power"``, ``"paper-rayleigh"``, ``"paper-hutchinson"``: what arXiv:2606.04767 and its public code
        compute, for comparison; status ``LOWER`` (see ``fimtheory.estimators.paper``).
        ``"auto"``: the cheaper of the first two; the result names it and says why.
    temperature : float
        tau of the softmax; F carries ``1 / tau^2``.
    tol : float, optional
        Relative accuracy of Lanczos; with ``level``, the width of the interval.
    level : float, optional
        Ask Lanczos for an upper bound that holds for each input with this probability, over its random start.
    classes : int, optional
        How many classes ``"truncated"`` keeps; by default enough for the others to matter little.
    probes : int, optional
        Random vectors of ``"sketch"``, ``"paper-rayleigh"`` and ``"paper-hutchinson"``; 100 by default.
    seed : int
        Of the random start or probes.

    Raises
    ------
    DataError, GraphError, ShapeError, NonFiniteError, MissingRuleError
        If module and inputs do not form a differentiable classifier; see `FisherOperator`.
    AdjointTestError
        If forward- and reverse-mode derivatives disagree; nothing is estimated then.

    References
    ----------
    theory.md, section 7.  J. Kuczynski and H. Wozniakowski, "Estimating the largest eigenvalue by the power and Lanczos
    algorithms with a random start", SIAM J. Matrix Anal. Appl. 13 (1992).

    Examples
    --------
    >>> import torch
    >>> head = nn.Linear(2, 2, bias=False).eval()
    >>> _ = head.weight.data.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    >>> result = estimate(head, torch.zeros(1, 2))  # p = (1/2, 1/2), so lam = |w_1 - w_2|^2 / 4
    >>> result.lam.item(), result.method, str(result.status)
    (1.0, 'exact', 'exact')
    """
    began = time.perf_counter()
    check_options(_OPTIONS, method, tol=tol, level=level, classes=classes, probes=probes)
    operator = FisherOperator(module, x, temperature, seed)
    operator.adjoint_test()
    notes = [note_on_probabilities(operator.logits)]
    if method == "auto":
        method = cheapest(operator, level)
        notes.append(f"{method} was taken as the cheaper of exact and lanczos for K = {operator.K} classes")
    drawn = 100 if probes is None else probes
    if method == "exact":
        pair = exact(operator)
    elif method == "lanczos":
        pair = lanczos(operator, tol=tol, level=level, seed=seed)
    elif method == "truncated":
        pair = truncated(operator, classes=classes, level=0.95 if level is None else level, seed=seed)
    elif method == "power":
        pair = power(operator, seed=seed)
    elif method == "sketch":
        pair = sketch(operator, probes=drawn, level=0.95 if level is None else level, seed=seed)
    elif method == "paper-power":
        pair = paper_power(operator)
    elif method == "paper-rayleigh":
        pair = paper_rayleigh(operator, probes=drawn, seed=seed)
    else:
        pair = paper_hutchinson(operator, probes=drawn, seed=seed)
    if method == "truncated" and pair.method == "exact":
        notes.append(f"exact was taken: leaving classes out saves nothing at these probabilities for K = {operator.K}")
    if "probes" in _OPTIONS[method] and drawn >= operator.K - 1:
        notes.append(f"the method 'exact' takes no more products: K - 1 = {operator.K - 1}")
    seconds, note = time.perf_counter() - began, "; ".join(filter(None, notes))
    return Estimate.from_finding(
        pair, operator.exponent, operator.logits.dtype, operator.evaluations, seconds, note=note
    )


_OPTIONS = {
    "auto": ("tol", "level"),
    "exact": (),
    "lanczos": ("tol", "level"),
    "power": (),
    "truncated": ("level", "classes"),
    "sketch": ("level", "probes"),
    "paper-power": (),
    "paper-rayleigh": ("probes",),
    "paper-hutchinson": ("probes",),
}
"""The methods, and the options that each takes."""
