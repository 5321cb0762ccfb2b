"""The test that every estimate begins with: forward and reverse mode must be adjoint, input by input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fimtheory.errors import AdjointTestError, GraphError
from fimtheory.fisher.linearisation import derivative_kernels
from fimtheory.fisher.scaling import normalised

if TYPE_CHECKING:
    from fimtheory.fisher.operator import FisherOperator

__all__ = ["adjoint_test", "require_symmetric"]


_TESTED = 2
"""Inputs of a batch that are tested where every backward is torch's own: its faults are of shapes, not of inputs."""


def adjoint_test(operator: FisherOperator) -> None:
    """Compare ``<J v, u>`` by forward mode with ``<v, J^T u>`` by reverse mode, per input, for random u and v.

    Forward mode runs on some inputs taken out of the batch, at most half of it, so it also shows whether an input's
    logits depend on the rest of the batch; and on all of them, if a backward of the module is written in Python.  The
    tolerance is ``4 sqrt(eps)`` of the size that such inner products have, eps that of the module's dtype: derivatives
    that are wrong in one layer fail by orders of magnitude more.

    Raises
    ------
    AdjointTestError
        If the two disagree for some input.
    GraphError
        If the logits of an input depend on the others, if two forward passes give different logits, if the module or
        its caller runs under ``torch.inference_mode``, or if J is zero at every input although the logits change around
        it.
    """
    _require_autograd(operator)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(operator.x.shape, generator=generator, dtype=torch.float64).to(operator.x).double()
    alone = _spread(operator, min(_TESTED, max(1, len(noise) // 2)))
    tested = _spread(operator, len(noise)) if operator.has_foreign_backward else alone
    direction, length = (part[tested] for part in normalised(operator.probe_vjp))
    each = (-1,) + (1,) * (noise.ndim - 1)
    v = torch.where((length > 0).view(each), direction, normalised(noise[tested])[0])
    v, probe = v.to(operator.x).double(), operator.probe[tested]
    logits, image = operator.forward_mode(v, tested)
    root_eps = torch.finfo(operator.logits.dtype).eps ** 0.5
    if len(tested) > len(alone):
        logits = operator.forward_mode(torch.zeros_like(v[alone]), alone)[0]
    _require_own_logits(operator, alone, logits, root_eps)
    if not image.any() and not operator.probe_vjp.any():
        _require_constant(operator, noise, root_eps)
    forward = (image * probe).sum(1)
    reverse = (operator.probe_vjp[tested] * v).flatten(1).sum(1)
    size = image.norm(dim=1) * probe.norm(dim=1) / operator.K**0.5 + length
    for k in ((forward - reverse).abs() > 4 * root_eps * size).nonzero()[:, 0].tolist():
        raise AdjointTestError(
            f"input {operator.places[tested[k]]}: forward mode gives <J v, u> = {forward[k]:.9g}, reverse mode "
            f"<v, J^T u> = {reverse[k]:.9g}; one is wrong, so no estimate can be trusted. Correct the backward or jvp "
            "of the module's own autograd functions, or evaluate fimtheory.fisher.double(module)."
        )


def _require_autograd(operator: FisherOperator) -> None:
    """Refuse logits computed under ``torch.inference_mode``."""
    if operator.logits.is_inference():
        where = "this was called" if torch.is_inference_mode_enabled() else "the module computes its output"
        raise GraphError(f"{where} under torch.inference_mode, whose tensors have no derivatives: remove it there")


def _spread(operator: FisherOperator, count: int) -> Tensor:
    """Return ``count`` of the batch's indices, evenly spread."""
    return torch.linspace(0, len(operator.x) - 1, count, device=operator.x.device).round().long()


def require_symmetric(operator: FisherOperator, u: Tensor, norm: Tensor, pushed: Tensor, image: Tensor) -> None:
    """Refuse a product ``image = G u`` whose ``<u, G u>`` is not the squared norm of ``J^T R^T u``.

    ``norm`` is that norm and ``pushed`` is J times the unit vector along ``J^T R^T u``; all are scaled.

    The two come from different derivatives, so each product of an iteration is an adjoint test of its own.

    Raises
    ------
    AdjointTestError
        If they disagree for some input.
    """
    root_eps = torch.finfo(operator.logits.dtype).eps ** 0.5
    # Rounding is relative to J v before R cancels what its rows have in common.
    size = (image.norm(dim=1) + 64 * root_eps * norm * pushed.norm(dim=1)) * u.norm(dim=1)
    quotient = norm.square()
    error = ((u * image).sum(1) - quotient).abs()
    for i in (error > 4 * root_eps * size).nonzero()[:, 0].tolist():
        raise AdjointTestError(
            f"input {operator.places[i]}: <u, G u> is {quotient[i]:.9g} by reverse mode and "
            f"{(u * image).sum(1)[i]:.9g} by a product with J; a derivative of the module is wrong or too inaccurate: "
            "evaluate fimtheory.fisher.double(module)"
        )


def _require_own_logits(operator: FisherOperator, tested: Tensor, logits: Tensor, root_eps: float) -> None:
    """Refuse logits of a part of the batch that are not those of the whole; a second pass tells why."""
    drift = (logits - operator.logits[tested]).abs().amax(1).double()
    moved = (drift > root_eps * operator.logits[tested].abs().amax(1).double()).nonzero()[:, 0].tolist()
    if not moved:
        return
    k = moved[0]
    again = operator.forward_mode(torch.zeros_like(operator.x[tested]), tested)[0]
    if (again - logits).abs().max() > root_eps * logits.abs().max():
        raise GraphError(
            f"input {operator.places[tested[k]]}: two forward passes gave logits that differ by {drift[k]:.3g}; "
            "the module is random or keeps state: remove noise and functional dropout"
        )
    raise GraphError(
        f"input {operator.places[tested[k]]}: the samples of a batch influence one another (batch statistics, "
        f"attention over it), as its logits move by {drift[k]:.3g} when others are left out, so lam of one input is "
        "undefined: give the module running statistics or pass one input at a time (or call x.contiguous() first, if "
        "the forward reads how x lies in memory)"
    )


def _require_constant(operator: FisherOperator, noise: Tensor, step: float) -> None:
    """Refuse a module that reports J = 0 at every input while its logits move along ``noise``."""
    with torch.no_grad(), derivative_kernels():
        change = operator.module(operator.x + (step * noise).to(operator.x)) - operator.logits
    if (change.abs().amax(1) > step**1.5 * operator.logits.abs().amax(1)).all():
        raise GraphError(
            "J is zero at every input, but the logits change nearby: the forward leaves autograd or rounds its input, "
            "or all inputs sit on a kink; remove torch.no_grad, torch.inference_mode and detach from the forward, or "
            "move the inputs"
        )
