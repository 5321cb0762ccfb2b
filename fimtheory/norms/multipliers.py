"""Multipliers for the recursion of `reach`, by gradient descent.  Nothing here is certified, and nothing has to be.

P_i is a jointly convex and monotone function of P_{i-1} and the multipliers K_i (G (K - G)^-1 G is the matrix
fractional function), so the objective, the largest eigenvalue or the largest distance at the last layer, is convex in
all multipliers together, and its minimum is the optimum of LipSDP with one multiplier per neuron.  The descent is Adam
on log K with the exact gradient of a smoothed maximum; a step out of the domain K > G is drawn back.

Derivatives.  With Y = (K - G_JJ)^-1, V = Y G_J (rows J) and H = G + G_J^T Y G_J,

    dH = U^T dG U - V^T dK V,      U = I + E_J V,      E_J the columns J of the identity,

so if S is the derivative of the objective in P = C H C + R^2 K, then diag(R^2 S - V C S C V^T) is its derivative in
K and W^T U C S C U^T W that in the P before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fimtheory.norms.slopes import Slopes

__all__ = ["Layer", "optimised"]

_RATE = (0.2, 0.002)  # of Adam, at the first and the last step
_SMOOTHING = (0.3, 0.003)  # of the maximum, relative, at the first and the last step
_DECAY = (0.9, 0.99)  # of the averages of the gradient and of its square
_FLOOR = 1e-120  # added to Gram matrices of operators of norm one, so that none is zero
_BUDGET = 2.0**38  # multiplications: less than a minute
_OFF_CENTRE = (0.5, 0.003)  # least centre of slopes, in units of their radius, at the first and the last step
_BACKTRACKS = 30


@dataclass(frozen=True, slots=True)
class Layer:
    """A weight of norm about one, and the slopes after it."""

    weight: Tensor
    slopes: Slopes

    def centre(self, least: float) -> Tensor:
        """Centre of the slopes, moved off zero by ``least`` radii: there H grows without bound at K = G."""
        least_centre = least * self.slopes.radius
        return torch.where(self.slopes.centre.abs() < least_centre, least_centre, self.slopes.centre)


@dataclass(frozen=True, slots=True)
class _Stage:
    """C, K, and what the derivative needs of one layer: V, the largest diagonal entry of G, and the neurons J."""

    centre: Tensor
    multipliers: Tensor
    ratio: Tensor
    unit: float
    free: Tensor


@dataclass(frozen=True, slots=True)
class _Pass:
    """The last P, and every stage on the way."""

    reach: Tensor
    stages: list[_Stage]

    @property
    def relative(self) -> list[Tensor]:
        """Multipliers in the units that `optimised` promises."""
        return [stage.multipliers / stage.unit for stage in self.stages]


def _uniform(centre: Tensor, radius: Tensor, largest: float) -> Tensor:
    """K = (1 + max |c| / r) ``largest``, with ``largest`` the largest eigenvalue of G.

    With slopes alike, P <= max(|a|, |b|)^2 ``largest``: never worse than the product of norms.
    """
    return (1.0 + centre.abs().max() / torch.where(radius > 0, radius, 1.0)) * (largest * (1.0 + 1e-6))


def _forward(layers: Sequence[Layer], multipliers: Sequence[Tensor] | None, off: float) -> _Pass | None:
    """P after all layers, None outside the domain; with multipliers None, those of `_uniform`."""
    reach = torch.eye(layers[0].weight.shape[1], dtype=torch.float64, device="cpu")
    stages = []
    for i, layer in enumerate(layers):
        c, r = layer.centre(off), layer.slopes.radius
        gram = layer.weight @ reach @ layer.weight.T
        gram.diagonal().add_(_FLOOR)
        k = _uniform(c, r, float(torch.linalg.eigvalsh(gram)[-1])) if multipliers is None else multipliers[i]
        free = (r > 0).nonzero().flatten()
        rows = gram[free]
        factor, info = torch.linalg.cholesky_ex(torch.diag(k[free]) - rows[:, free])
        if len(free) > 0 and int(info) != 0:
            return None
        ratio = torch.cholesky_solve(rows, factor)
        upper = gram + rows.T @ ratio
        reach = c[:, None] * (0.5 * (upper + upper.T)) * c + torch.diag(r * r * k)
        stages.append(_Stage(c, k, ratio, float(gram.diagonal().max()), free))
    return _Pass(reach, stages)


def _backward(layers: Sequence[Layer], stages: Sequence[_Stage], derivative: Tensor) -> list[Tensor]:
    """Derivatives in the multipliers of each layer, from that in the last P."""
    gradients = []
    for layer, stage in zip(reversed(layers), reversed(stages), strict=True):
        c, r = stage.centre, layer.slopes.radius
        free, ratio = stage.free, stage.ratio
        gradient = r * r * derivative.diagonal()
        inner = c[:, None] * derivative * c
        image = ratio @ inner
        gradient[free] -= (image * ratio).sum(1)
        inner[free] += image
        inner[:, free] += image.T
        inner[free[:, None], free] += image @ ratio.T
        gradients.append(gradient)
        derivative = layer.weight.T @ inner @ layer.weight
    return gradients[::-1]


def _eigenvalue(last: Tensor, reach: Tensor, smoothing: float) -> tuple[float, Tensor]:
    """Largest eigenvalue of W P W^T, and the derivative in P of a smoothed one, relative to it."""
    values, vectors = torch.linalg.eigh(last @ reach @ last.T)
    largest = max(float(values[-1]), _FLOOR)
    images = last.T @ vectors
    return largest, (images * ((values / largest - 1.0) / smoothing).softmax(0)) @ images.T / largest


def _difference(last: Tensor, reach: Tensor, smoothing: float) -> tuple[float, Tensor]:
    """Largest (w_i - w_j)^T P (w_i - w_j), and the derivative in P of a smoothed one, relative to it."""
    product = last @ reach @ last.T
    squares = product.diagonal()
    forms = squares[:, None] + squares - product - product.T
    largest = max(float(forms.max()), _FLOOR)
    weights = ((forms / largest - 1.0) / smoothing).flatten().softmax(0).view_as(forms)
    weights = weights + weights.T
    return largest, last.T @ (torch.diag(weights.sum(0)) - weights) @ last / largest


def optimised(layers: Sequence[Layer], last: Tensor, *, head: bool, steps: int) -> list[Tensor] | None:
    """Multipliers of each layer, relative to the largest diagonal entry of its Gram matrix; None if rounding forbids.

    ``last`` is the last weight; ``head`` asks for the largest distance of its rows instead of its norm.  Fewer than
    ``steps`` steps are taken if the matrices are large.  With no step the multipliers are those of `_uniform`.
    """
    objective = _difference if head else _eigenvalue
    if not head and last.shape[0] > last.shape[1]:
        last = torch.linalg.qr(last).R  # the same norms
    work = sum(8.0 * len(layer.weight) * max(layer.weight.shape) ** 2 for layer in layers)
    if not any(bool((layer.slopes.radius > 0).any()) for layer in layers):
        steps = 0
    steps = min(steps, int(_BUDGET / (work + 10.0 * last.numel() * len(last))))
    sizes = [len(layer.weight) for layer in layers]
    now = _forward(layers, None, _OFF_CENTRE[0 if steps > 0 else 1])
    if now is None:
        return None
    point = torch.cat([stage.multipliers for stage in now.stages]).log()
    mean, square = torch.zeros_like(point), torch.zeros_like(point)
    best, derivative = objective(last, now.reach, _SMOOTHING[0])
    chosen = now.relative
    for step in range(steps):
        done = step / steps
        gradient = torch.cat(_backward(layers, now.stages, derivative)) * point.exp()
        mean = _DECAY[0] * mean + (1.0 - _DECAY[0]) * gradient
        square = _DECAY[1] * square + (1.0 - _DECAY[1]) * gradient.square()
        size = (square / (1.0 - _DECAY[1] ** (step + 1))).sqrt() + 1e-12
        move = -_between(_RATE, done) * mean / (1.0 - _DECAY[0] ** (step + 1)) / size
        now = None
        for _ in range(_BACKTRACKS):
            now = _forward(layers, (point + move).exp().split(sizes), _between(_OFF_CENTRE, done))
            if now is not None:
                break
            move = 0.5 * move
        if now is None:
            break
        point = point + move
        value, derivative = objective(last, now.reach, _between(_SMOOTHING, done))
        if value < best:
            best, chosen = value, now.relative
    return chosen


def _between(ends: tuple[float, float], done: float) -> float:
    """Geometric interpolation."""
    return ends[0] * (ends[1] / ends[0]) ** done
