"""The direction in which a classifier reacts most to a small change of its input, and the attack along it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from fimtheory.claims import Status
from fimtheory.decimals import significant
from fimtheory.domains import Box, Domain, norms
from fimtheory.errors import DataError
from fimtheory.estimators.block_krylov import block_krylov
from fimtheory.estimators.options import require_fraction
from fimtheory.estimators.result import rounding, told
from fimtheory.fisher import FisherOperator, check_logits, normalised, times_power_of_two

__all__ = ["Directions", "SpectralAttack", "divergence", "sensitive_direction", "spectral_attack"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """Unit top eigenvectors of ``F(x)`` in the space of inputs; tensors without a shape below are ``(B,)`` float64.

    Attributes
    ----------
    vector : Tensor
        ``(B, *input)`` float64, l2 norm 1; zero where lam is.  Of the two signs the one along which the predicted class
        becomes less probable.
    lam, log10_lam : Tensor
        ``v^T F v``, per squared unit of the input; where it leaves the range of floats, its decimal logarithm holds it.
    gap : Tensor
        ``(lam - second) / lam`` with the second largest eigenvalue of F, from 0 to 1; 0 where lam is.  Near 0 the
        direction is not unique: F reacts nearly as much along a whole plane, or more.
    residual : Tensor
        ``||G u - lam u|| / lam`` for the eigenvector u of the ``K x K`` matrix G behind v: an eigenvalue of F lies
        within that fraction of lam, and the sine of the angle between u and the eigenvectors of the top eigenvalue is
        at most about ``residual / gap``.
    status : Status
        Of lam and the second eigenvalue: ``EXACT`` where all K - 1 dimensions were spanned, else ``LOWER``.
    rounding : float
        Relative floating-point error that values carry besides.
    evaluations : int
        Vector-Jacobian and Jacobian-vector products, each of one input.
    seconds : float
        Wall time.
    """

    vector: Tensor
    lam: Tensor
    log10_lam: Tensor
    gap: Tensor
    residual: Tensor
    status: Status
    rounding: float
    evaluations: int
    seconds: float

    def __len__(self) -> int:
        return len(self.lam)

    def __repr__(self) -> str:
        least = significant(self.gap.min().item(), self.gap.min().log10().item(), up=True)
        return f"<Directions: {told(self.lam, self.log10_lam, self.status)}, least gap {least}>"


@final
@dataclass(frozen=True, slots=True, eq=False)
class SpectralAttack:
    """Inputs moved along their most sensitive directions; tensors without a shape below are ``(B,)`` float64.

    Attributes
    ----------
    x : Tensor
        ``(B, *input)``, in the dtype of the data: the moved inputs.
    eps : float
        Largest l2 length of a move.
    distance : Tensor
        The lengths, at most ``eps``: shorter where the box cuts a move, or by the rounding of the data's dtype.
    sign : Tensor
        Which way an input moved along its direction, 1 or -1: the way of the larger divergence.
    kl : Tensor
        ``KL(p(x) || p(x'))`` in nats, x' the moved input, from logits in the module's dtype.
    quadratic : Tensor
        ``(x' - x)^T F(x) (x' - x) / 2``, what the divergence is to second order; ``eps^2 lam / 2`` for a full move.
    before, after : Tensor
        ``(B,)`` int64: the predicted classes of x and x'.
    directions : Directions
        The directions.
    status : Status
        ``LOWER``: the largest divergence within ``eps`` is at least ``kl``.
    """

    x: Tensor
    eps: float
    distance: Tensor
    sign: Tensor
    kl: Tensor
    quadratic: Tensor
    before: Tensor
    after: Tensor
    directions: Directions
    status: Status

    def __len__(self) -> int:
        return len(self.kl)

    def __repr__(self) -> str:
        reached = told(self.kl, self.kl.log10(), self.status, "KL")
        return f"<SpectralAttack: {reached} within {self.eps:g}, {int(self.changed.sum())} predictions changed>"

    @property
    def changed(self) -> Tensor:
        """Which predictions changed, ``(B,)`` bool."""
        return self.before != self.after


def sensitive_direction(
    module: nn.Module,
    x: Tensor,
    *,
    temperature: float = 1.0,
    tol: float | None = None,
    seed: int = 0,
) -> Directions:
    r"""Return the direction at each input along which the predicted distribution changes fastest.

    ``KL(p(x) || p(x + eps v)) = eps^2 v^T F(x) v / 2 + O(eps^3)``, largest over unit v for the top eigenvector of F.
    With ``F = J^T R^T R J`` (`fimtheory.fisher`) and u the top eigenvector of ``G = R J J^T R^T``, it is
    ``v = J^T R^T u / ||J^T R^T u||``: one vector-Jacobian product, and nothing of size ``d x d``.

    The two largest eigenvalues of G come from block Lanczos, whose blocks of four vectors also find an eigenvalue that
    is multiple, where a single vector would see no sign of a second direction.

    Parameters
    ----------
    module : nn.Module
        Classifier in eval mode, ``(B, *input)`` to logits ``(B, K)``.
    x : Tensor
        ``(B, *input)``, in the dtype and on the device of the module.
    temperature : float
        tau of the softmax.
    tol : float, optional
        Accuracy of both eigenvalues relative to lam, 1e-6 or what the module's dtype allows by default.
    seed : int
        Of the random start.

    Raises
    ------
    DataError
        ``tol`` is no number between 0 and 1; else as for ``estimate``.
    GraphError, ShapeError, NonFiniteError, MissingRuleError, AdjointTestError
        As for ``estimate``.

    References
    ----------
    C. Zhao, P. T. Fletcher, M. Yu, Y. Peng, G. Zhang and C. Shen, "The adversarial attack and detection under the
    Fisher information metric", AAAI 2019, arXiv:1810.03806.

    Examples
    --------
    >>> head = nn.Linear(2, 2, bias=False).eval()
    >>> _ = head.weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    >>> found = sensitive_direction(head, torch.zeros(1, 2))  # p = (1/2, 1/2): v is along w_1 - w_2
    >>> [round(entry, 6) for entry in found.vector[0].tolist()], round(found.lam.item(), 6)
    ([-0.6, -0.8], 6.25)
    """
    began = time.perf_counter()
    operator = _operator(module, x, temperature, tol, seed)
    return _directions(operator, tol, seed, began)


def spectral_attack(
    module: nn.Module,
    x: Tensor,
    eps: float,
    *,
    box: Box | None = None,
    temperature: float = 1.0,
    tol: float | None = None,
    seed: int = 0,
) -> SpectralAttack:
    """Move each input by ``eps`` along its most sensitive direction, the way that changes the prediction more.

    Both ends ``x + eps v`` and ``x - eps v`` are evaluated, clipped to the box, and the one of the larger divergence is
    taken: the one-step spectral attack.  It is optimal to second order in ``eps``; a stronger attack takes many steps.

    Parameters
    ----------
    module, x, temperature, tol, seed
        As for ``sensitive_direction``.
    eps : float
        Length of a move, in l2 and in units of the input.
    box : (lo, hi), optional
        Stay in ``lo <= x <= hi``; numbers, or tensors that broadcast to ``(*input)``.  Must contain ``x``.

    Raises
    ------
    DataError
        ``eps`` is no positive number, or an input lies outside the box.
    GraphError, ShapeError, NonFiniteError, MissingRuleError, AdjointTestError
        As for ``estimate``.

    References
    ----------
    As for ``sensitive_direction``.

    Examples
    --------
    >>> head = nn.Linear(2, 2, bias=False).double().eval()
    >>> _ = head.weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    >>> found = spectral_attack(head, torch.tensor([[0.1, 0.1]], dtype=torch.float64), 0.2)
    >>> found.changed.tolist(), round(found.distance.item(), 6)
    ([True], 0.2)
    """
    began = time.perf_counter()
    if not 0 < eps < math.inf:
        raise DataError(f"eps is {eps}: expected a positive number, in units of the input")
    operator = _operator(module, x, temperature, tol, seed)
    domain = Domain(operator.x, box, eps)
    if not torch.equal(domain.project(operator.x), operator.x):
        raise DataError("some inputs lie outside the box: clip them first, or widen the box")
    directions = _directions(operator, tol, seed, began)
    ends, divergences, predictions = [], [], []
    for sign in (1, -1):
        end = domain.project((operator.x.double() + sign * eps * directions.vector).to(operator.x.dtype))
        with torch.no_grad():
            logits = module(end)
        check_logits(logits, len(end))
        ends.append(end)
        divergences.append(divergence(operator.log_probs, (logits.double() / temperature).log_softmax(1)))
        predictions.append(logits.argmax(1))
    forward = divergences[0] >= divergences[1]
    chosen = torch.where(forward.view(-1, *(1,) * (x.ndim - 1)), *ends)
    move = chosen.double() - operator.x.double()
    return SpectralAttack(
        chosen,
        eps,
        norms(move),
        torch.where(forward, 1.0, -1.0).double(),
        torch.where(forward, *divergences),
        _quadratic(operator, move),
        operator.logits.argmax(1),
        torch.where(forward, *predictions),
        directions,
        Status.LOWER,
    )


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return ``KL(p || q)`` in nats for each row of two tensors of log-probabilities, ``(B, K)`` float64.

    As the sum of ``q_i - p_i - p_i d_i = p_i (e^{d_i} - 1 - d_i)``, ``d_i = log q_i - log p_i``: the q and the p add up
    to 1, and no term is negative.  Where d_i is near 0 and the parts of a term cancel, it is taken by its series.

    >>> p, q = torch.tensor([[0.5, 0.5]], dtype=torch.float64), torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    >>> round(divergence(p.log(), q.log()).item(), 6)  # log(2)/2 - log(3/2)/2
    0.143841
    """
    d = log_q - log_p
    series = d.square() / 2 * (1 + d / 3 * (1 + d / 4 * (1 + d / 5 * (1 + d / 6))))
    terms = torch.where(d.abs() < 1e-2, log_p.exp() * series, log_q.exp() - log_p.exp() * (1 + d))
    return terms.clamp(min=0).sum(1)


def _operator(module: nn.Module, x: Tensor, temperature: float, tol: float | None, seed: int) -> FisherOperator:
    if tol is not None:
        require_fraction("tol", tol)
    operator = FisherOperator(module, x, temperature, seed)
    operator.adjoint_test()
    return operator


def _quadratic(operator: FisherOperator, move: Tensor) -> Tensor:
    """Return ``move^T F move / 2``."""
    direction, length = normalised(move)
    image = times_power_of_two(operator.jvp(direction), -operator.jacobian_exponent.unsqueeze(1))
    scaled = operator.factor.apply(image).square().sum(1)
    return times_power_of_two(scaled, operator.exponent) * length.square() / 2


def _directions(operator: FisherOperator, tol: float | None, seed: int, began: float) -> Directions:
    pairs = block_krylov(operator, min(2, operator.K - 1), tol=tol, seed=seed)
    vector, _ = operator.half_product(_lowering(operator, pairs.vectors[:, 0]))
    lam = pairs.values[:, 0]
    second = pairs.values[:, 1] if operator.K > 2 else torch.zeros_like(lam)
    positive = lam > 0
    unit = lam.where(positive, 1.0)
    return Directions(
        vector,
        times_power_of_two(lam, operator.exponent),
        lam.log10() + math.log10(2) * operator.exponent.double(),
        torch.where(positive, 1 - second / unit, 0.0),
        torch.where(positive, pairs.residuals[:, 0] / unit, 0.0),
        pairs.status,
        rounding(operator.logits.dtype),
        operator.evaluations,
        time.perf_counter() - began,
    )


def _lowering(operator: FisherOperator, u: Tensor) -> Tensor:
    """Return ``u`` or ``-u``, such that along ``J^T R^T u`` the most probable class becomes less probable.

    There ``d log p_t`` is a positive multiple of ``u_t``, as ``R J J^T R^T u = lam u``, and ``sqrt(p_t) u_t`` is minus
    the sum of the other ``sqrt(p_i) u_i``, which a saturated softmax leaves intact when scaled.
    """
    others = operator.log_probs.scatter(1, operator.factor.top, -torch.inf)
    weights = (0.5 * (others - others.amax(1, keepdim=True))).exp()
    return u * torch.where((weights * u).sum(1, keepdim=True) >= 0, 1.0, -1.0)
