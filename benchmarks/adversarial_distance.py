"""How near another class is, from above: a minimal-norm attack from many starts, in float64.

It knows nothing of certificates: DeepFool steps (Moosavi-Dezfooli et al., arXiv:1511.04599) lead across the boundary,
bisection back to it, and a walk along it, by projections of the input onto the tangent plane, to nearer points.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["adversarial_distance"]

_DEEPFOOL = 30
_BISECTIONS = 10
"""On the way; the last point gets four times as many."""
_OVERSHOOT = 1.05


def adversarial_distance(
    model: nn.Module, x: Tensor, *, starts: int = 4, steps: int = 20, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return the distance to the nearest input found that is classified otherwise, and that input.

    Parameters
    ----------
    model
        Classifier in float64, ``(B, *input)`` to logits ``(B, K)``.
    x
        ``(B, *input)`` float64.
    starts, steps
        Starts per input (the input itself, then random points around it), and steps along the boundary from each.
    seed
        Of the random points.

    Returns
    -------
    tuple of Tensor
        l2 distances ``(B,)``, inf where nothing was found, and inputs ``(B, *input)``.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        predicted = model(x).argmax(1)
    best, nearest = torch.full((len(x),), torch.inf, dtype=torch.float64), x.clone()
    scale = x.flatten(1).norm(dim=1).mean() / x[0].numel() ** 0.5
    for start in range(starts):
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        point = _cross(model, x + (0.5 * start / starts) * scale * noise, predicted)
        point = _back(model, x, point, predicted)
        length = torch.ones(len(x), dtype=torch.float64)
        for _ in range(steps):
            _, gradient = _margin(model, point, predicted)
            direction = gradient / _norm(gradient).clamp_min(1e-300)
            towards = (direction * (point - x)).flatten(1).sum(1)
            projection = x + _column(towards, x) * direction  # of x onto the tangent plane at the point
            trial = point + _column(length, x) * (projection - point)
            trial = x + _OVERSHOOT * (trial - x)
            crossed = _crossed(model, trial, predicted)
            trial = torch.where(_column(crossed, x), trial, point)
            trial = _back(model, x, trial, predicted)
            nearer = _distance(x, trial) < _distance(x, point)
            point = torch.where(_column(nearer, x), trial, point)
            length = torch.where(nearer, (1.5 * length).clamp_max(1), 0.5 * length)
        point = _back(model, x, point, predicted, 4 * _BISECTIONS)
        best, nearest = _nearer(x, point, best, nearest, model, predicted)
    return best, nearest


def _cross(model: nn.Module, point: Tensor, predicted: Tensor) -> Tensor:
    """Return points that DeepFool's steps lead to, across the boundary where they succeed."""
    for _ in range(_DEEPFOOL):
        distance, gradient = _margin(model, point, predicted)
        inside = distance > 0
        if not inside.any():
            break
        size = _norm(gradient).clamp_min(1e-300)
        change = -_OVERSHOOT * (_column(distance, point) + 1e-9 * size) * gradient / size**2
        point = torch.where(_column(inside, point), point + change, point)
    return point


def _margin(model: nn.Module, point: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
    """Return the margin ``z_c - z_j`` over the class j that is nearest to first order, and its gradient."""
    point = point.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(point)
        rows = [torch.autograd.grad(column.sum(), point, retain_graph=True)[0] for column in logits.unbind(1)]
    jacobian = torch.stack(rows, 1).detach()
    logits = logits.detach()
    own = predicted.unsqueeze(1)
    index = own.view(-1, 1, *(1,) * (point.ndim - 1)).expand(-1, 1, *point.shape[1:])
    slopes = jacobian.gather(1, index) - jacobian
    gaps = logits.gather(1, own) - logits
    ratio = gaps / slopes.flatten(2).norm(dim=2).clamp_min(1e-300)
    other = ratio.scatter(1, own, torch.inf).argmin(1)
    rows = torch.arange(len(point))
    return gaps[rows, other], slopes[rows, other]


def _back(model: nn.Module, x: Tensor, point: Tensor, predicted: Tensor, bisections: int = _BISECTIONS) -> Tensor:
    """Return the points of the segments from ``x`` that bisection finds just beyond the boundary."""
    low, high = torch.zeros(len(x), dtype=torch.float64), torch.ones(len(x), dtype=torch.float64)
    for _ in range(bisections):
        middle = (low + high) / 2
        crossed = _crossed(model, x + _column(middle, x) * (point - x), predicted)
        low, high = torch.where(crossed, low, middle), torch.where(crossed, middle, high)
    return x + _column(high, x) * (point - x)


def _crossed(model: nn.Module, point: Tensor, predicted: Tensor) -> Tensor:
    with torch.no_grad():
        return model(point).argmax(1) != predicted


def _nearer(
    x: Tensor, point: Tensor, best: Tensor, nearest: Tensor, model: nn.Module, predicted: Tensor
) -> tuple[Tensor, Tensor]:
    distance = torch.where(_crossed(model, point, predicted), _distance(x, point), torch.inf)
    better = distance < best
    return torch.where(better, distance, best), torch.where(_column(better, x), point, nearest)


def _distance(x: Tensor, point: Tensor) -> Tensor:
    return (point - x).flatten(1).norm(dim=1)


def _norm(x: Tensor) -> Tensor:
    return _column(x.flatten(1).norm(dim=1), x)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (like.ndim - 1))
