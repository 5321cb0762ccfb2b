"""Projected gradient descent in an l2 ball (Madry et al., arXiv:1706.06083)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

__all__ = ["pgd"]


def pgd(
    model: nn.Module, inputs: Tensor, labels: Tensor, *, epsilon: float, steps: int, generator: torch.Generator
) -> Tensor:
    """Return inputs within l2 distance ``epsilon`` that raise the cross-entropy of ``model``.

    Starts at a random point of the ball, takes ``steps`` steps of length 2.5 epsilon / steps along the normalised
    gradient, and stays within the ball and the pixel range [0, 1].

    Parameters
    ----------
    model
        Maps (n, *shape) to logits (n, K).
    inputs, labels
        (n, *shape) in [0, 1], and (n,).
    epsilon, steps
        Radius of the ball, and number of steps.
    generator
        Of the starting points.
    """
    start = torch.randn(inputs.shape, generator=generator)
    radius = torch.rand(len(inputs), generator=generator) ** (1 / inputs[0].numel())
    change = _projected(_unit(start) * _per_input(radius, inputs) * epsilon, inputs, epsilon)
    for _ in range(steps):
        change.requires_grad_()
        loss = F.cross_entropy(model(inputs + change), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, change)
        change = _projected(change.detach() + 2.5 * epsilon / steps * _unit(gradient), inputs, epsilon)
    return inputs + change


def _projected(change: Tensor, inputs: Tensor, epsilon: float) -> Tensor:
    """Clip the pixels, which shortens the change, after clipping its length."""
    length = change.flatten(1).norm(dim=1)
    inside = change * _per_input((epsilon / length.clamp_min(1e-12)).clamp_max(1), inputs)
    return (inputs + inside).clamp(0, 1) - inputs


def _unit(directions: Tensor) -> Tensor:
    return directions / _per_input(directions.flatten(1).norm(dim=1).clamp_min(1e-12), directions)


def _per_input(values: Tensor, inputs: Tensor) -> Tensor:
    return values.reshape(-1, *(1,) * (inputs.dim() - 1))
