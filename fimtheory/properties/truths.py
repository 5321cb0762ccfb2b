"""Slow and plain truths in float64: dense Jacobians and lam by autograd, with nothing of fimtheory's estimators."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

__all__ = [
    "ascend", "batched_jacobians", "jacobian", "lam_from", "log10_lam", "norm", "rounding", "single", "spectral_norms",
]  # fmt: skip

Function = Callable[..., Tensor]

_LAST_DIGITS = 2.0**-52


def batched_jacobians(function: Function, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Dense Jacobians (batch, outputs, entries) by each of the ``inputs``, row by row, for a batch at once."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    y = function(*leaves).flatten(1)
    if not y.requires_grad:  # it depends on none of them
        return [torch.zeros(*y.shape, x[0].numel(), dtype=y.dtype) for x in inputs]
    rows = [
        torch.autograd.grad(y[:, k].sum(), leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        for k in range(y.shape[1])
    ]
    return [torch.stack([row[i].flatten(1) for row in rows], 1) for i in range(len(leaves))]


def spectral_norms(matrices: Tensor) -> Tensor:
    """Largest singular value of each matrix of a batch; NaN where an entry is not finite."""
    scale = matrices.flatten(1).abs().amax(1)
    usable = scale.isfinite()
    made = torch.full_like(scale, math.nan)
    unit = torch.where(scale[usable] > 0, scale[usable], 1.0)
    made[usable] = torch.linalg.matrix_norm(matrices[usable] / unit[:, None, None], 2) * scale[usable]
    return made


def jacobian(function: Function, x: Tensor) -> Tensor:
    """Dense Jacobian of ``function`` (one input to one output, any shapes) as a matrix."""
    made = torch.func.jacrev(lambda v: function(v.reshape(x.shape)).reshape(-1))(x.reshape(-1))
    return made.reshape(-1, x.numel())


def lam_from(jac: Tensor, logits: Tensor, temperature: float = 1.0) -> float:
    """Return log10 of the largest eigenvalue of J^T S_p J / tau^2; -inf where it is zero.

    Rows of J are taken relative to that of the top class (S_p annihilates constants), so equal rows cancel exactly and
    1 - p of a saturated softmax is never formed, and scaled by their largest entry, so nothing overflows.
    """
    p = (logits / temperature).softmax(0)
    relative = jac - jac[p.argmax()]
    size = relative.abs().max().item()
    if size == 0:
        return -math.inf
    relative = relative / size
    square = relative.T @ (torch.diag(p) - torch.outer(p, p)) @ relative
    largest = square.abs().max().item()
    if largest < 1e-290:  # beyond what a saturated softmax can tell from zero, and LAPACK's scaling from denormals
        return -math.inf
    top = torch.linalg.eigvalsh((square + square.T) / (2 * largest))[-1].item()
    return math.log10(top) + math.log10(largest) + 2 * math.log10(size / temperature) if top > 0 else -math.inf


def log10_lam(module: Function, x: Tensor, temperature: float = 1.0) -> float:
    """Return log10 lam at one input."""
    return lam_from(jacobian(single(module), x), module(x[None])[0], temperature)


def single(module: Function) -> Function:
    """Return the function of one input that a module computes on batches."""
    return lambda x: module(x[None])[0]


def norm(matrix: Tensor) -> float:
    """Largest singular value."""
    size = matrix.abs().max().item() if matrix.numel() else 0.0
    return size * torch.linalg.matrix_norm(matrix / size, 2).item() if size > 0 else 0.0


def rounding(functions: Sequence[Function], x: Tensor) -> float:
    """Return how far the Jacobian of functions one after another, at a batch of one, may be off by rounding.

    Ten times what it changes by when the values that each passes on change in their last digits: much where one removes
    what another needs, as a large shift removes the digits of what is shifted.
    """

    def through(v: Tensor, k: int) -> Tensor:
        generator = torch.Generator().manual_seed(k)
        for function in functions:
            v = function(v)
            v = v * (1 + k * _LAST_DIGITS * torch.randn(v.shape, generator=generator, dtype=v.dtype))
        return v

    usual, *others = (batched_jacobians(partial(through, k=k), [x])[0][0] for k in range(4))
    change = max(norm(other - usual) for other in others)
    return 10 * change if math.isfinite(change) else 0.0


def ascend(
    module: Function, x: Tensor, steps: int, generator: torch.Generator, box: float = math.inf
) -> tuple[float, Tensor]:
    """Ascend log lam by gradient steps, or random ones where it is flat; return the best log10 lam and its input.

    Entries stay within ``box``.
    """
    function = single(module)
    best = log10_lam(module, x)
    step = 0.3
    for _ in range(steps):
        direction = _gradient(function, x)
        if direction is None:
            direction = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        scale = max(x.norm().item(), 1.0) / max(direction.norm().item(), 1e-300)
        trial = (x + step * scale * direction).clamp(-box, box)
        found = log10_lam(module, trial)
        if found > best:
            best, x, step = found, trial, step * 1.5
        else:
            step *= 0.4
    return best, x


def _gradient(function: Function, x: Tensor) -> Tensor | None:
    """Gradient of u^T F(x) u with u the top eigenvector held fixed; None where there is none to follow."""
    logits, jac = function(x), jacobian(function, x)
    p = logits.softmax(0)
    relative = jac - p @ jac
    factor = p.sqrt()[:, None] * relative
    if not factor.isfinite().all() or factor.abs().max() == 0:
        return None
    u = torch.linalg.svd(factor, full_matrices=False).Vh[0].reshape(x.shape)

    def along(v: Tensor) -> Tensor:
        value, tangent = torch.func.jvp(function, (v,), (u,))[:2]
        q = value.softmax(0)
        return (q * (tangent - (q * tangent).sum()) ** 2).sum()

    try:
        gradient = torch.func.grad(along)(x)
    except RuntimeError as error:  # torch differentiates a few activations once only
        if "is not implemented" not in str(error):
            raise
        return None
    return gradient if gradient.isfinite().all() and gradient.abs().max() > 0 else None
