r"""Multipliers for a program, by gradient descent.  Nothing here is certified, and nothing has to be.

A step of unknown factors has multipliers ``kappa (1 + excess) shape``, where kappa is the least for which K >= G.  In
these units a change of an early step leaves the later ones admissible, and twenty steps of Adam on the logarithms of
shape and excess go where two hundred do not go on the logarithms of the multipliers themselves.  The objective is the
smoothed largest (w_i - w_j)^T P (w_i - w_j), on a logarithmic scale; gradients are by reverse differentiation.  All of
it is in single precision, with P scaled to size one after every step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fimtheory.norms.joint import Activation, Linear, Maximum, Program, Readout
from fimtheory.norms.proved import Choice, shaped
from fimtheory.norms.torus import Torus

__all__ = ["optimised", "plain"]

_RATE = (0.2, 0.01)  # of Adam, at the first and the last step
_SMOOTHING = (0.3, 0.003)  # of the maximum, relative, at the first and the last step
_BUDGET = 2.0**39  # multiplications, of reals: about a minute
_FLOOR = 1e-30
_SINGLE = {torch.float64: torch.float32, torch.complex128: torch.complex64}
_EXCESS = (-5.0, 5.0)  # of the logarithm of the excess
_LEAST_CENTRE = 0.01  # of slopes, in units of their radius: there H grows without bound at K = G
_COMMON = -2.0  # logarithm of beta, relative to alpha, at the start
_ITERATIONS = 24


@dataclass(frozen=True, slots=True)
class _Multiplied:
    """Symbols of a linear step at every frequency, one for each alias, and where each alias is stored."""

    step: Linear
    aliases: list[tuple[Tensor, Tensor, Tensor]]


_Prepared = _Multiplied | Activation | Maximum | tuple[Tensor, int]


def plain(program: Program) -> list[Choice]:
    """Multipliers of equal shape, twice the least."""
    made: list[Choice] = []
    for step in program.steps:
        if isinstance(step, Activation):
            made.append((torch.zeros(step.count, dtype=torch.float64), 1.0))
        elif isinstance(step, Maximum):
            shape = torch.zeros(2 * step.count, dtype=torch.float64)
            shape[step.count :] = _COMMON
            made.append((shape, 1.0))
    return made


def optimised(program: Program, last: Tensor, steps: int) -> list[Choice]:
    """Choices for every step of unknown factors, after at most ``steps`` steps of descent, fewer if they are costly."""
    start = plain(program)
    steps = min(steps, int(_BUDGET / _work(program)))
    if steps < 2 or not start:
        return start
    prepared = _prepared(program)
    last = last.float()
    shapes = [shape.float().requires_grad_() for shape, _ in start]
    excesses = [torch.tensor(math.log(excess), dtype=torch.float32).requires_grad_() for _, excess in start]
    descent = torch.optim.Adam([*shapes, *excesses], lr=_RATE[0], betas=(0.9, 0.99))
    best, chosen, pace = math.inf, start, 1.0
    with torch.enable_grad():
        for k in range(steps):
            passed = _passed(program, prepared, shapes, excesses)
            if passed is None:  # a step too far: go on from the best point, more slowly
                pace *= 0.5
                _restore(shapes, excesses, chosen)
                continue
            reach, scale = passed
            forms = _forms(last, reach)
            largest = forms.detach().max().clamp_min(_FLOOR)
            value = math.log(float(largest)) + scale
            if value < best:
                best = value
                chosen = [(s.detach().double(), float(e.detach().exp())) for s, e in zip(shapes, excesses, strict=True)]
            smoothing = _between(_SMOOTHING, k / steps)
            objective = smoothing * torch.logsumexp(((forms / largest - 1.0) / smoothing).flatten(), 0)
            for group in descent.param_groups:
                group["lr"] = pace * _between(_RATE, k / steps)
            descent.zero_grad()
            objective.backward()
            descent.step()
            with torch.no_grad():
                for excess in excesses:
                    excess.clamp_(*_EXCESS)
    return chosen


def _passed(
    program: Program, prepared: Sequence[_Prepared], shapes: Sequence[Tensor], excesses: Sequence[Tensor]
) -> tuple[Tensor, float] | None:
    """P after all steps and the logarithm of its scale; None where single precision does not hold the numbers."""
    try:
        passed = _forward(program, prepared, shapes, excesses)
    except RuntimeError:  # torch's own LinAlgError, for an eigenvector of what is not finite
        return None
    return passed if passed is not None and bool(torch.isfinite(passed[0].detach()).all()) else None


def _restore(shapes: Sequence[Tensor], excesses: Sequence[Tensor], chosen: Sequence[Choice]) -> None:
    with torch.no_grad():
        for shape, excess, (best_shape, best_excess) in zip(shapes, excesses, chosen, strict=True):
            shape.copy_(best_shape)
            excess.fill_(math.log(best_excess))


def _between(ends: tuple[float, float], done: float) -> float:
    """Geometric interpolation."""
    return ends[0] * (ends[1] / ends[0]) ** done


def _work(program: Program) -> float:
    """Multiplications of one pass and its derivative."""
    torus, size, total = program.torus, program.channels, 1.0
    for step in program.steps:
        count = torus.frequencies.shape[1] * (1.0 if torus.is_point else 4.0)
        if isinstance(step, Linear):
            images = len(step.taps) * len(step.sources)
            total += 3.0 * count * images * (size + step.size)
            torus, size = torus.coarser(step.stride), step.size
        elif isinstance(step, Readout):
            size *= len(step.weights)
            torus = Torus((1, 1))
        else:
            order = step.window * step.count
            total += 3.0 * count * order * (order * order / 3.0 + size * order + size * size)
            size -= order - step.count
    return total


def _prepared(program: Program) -> list[_Prepared]:
    torus, made = program.torus, list[_Prepared]()
    for step in program.steps:
        if isinstance(step, Linear):
            aliases = [
                (_single(step.symbol(torus, f)), index, mirrored) for f, index, mirrored in torus.aliases(step.stride)
            ]
            made.append(_Multiplied(step, aliases))
            torus = torus.coarser(step.stride)
        elif isinstance(step, Readout):
            phases = torus.phases(torus.frequencies, step.offsets) @ step.weights.T.to(torus.dtype)
            outer = phases[:, :, None] * phases[:, None, :].conj() * torus.weights[:, None, None]
            made.append((_single(outer.flatten(1)), len(step.weights)))
            torus = Torus((1, 1))
        elif isinstance(step, Activation):
            made.append(Activation(step.centre.float(), step.radius.float()))
        else:
            made.append(step)
    return made


def _single(matrices: Tensor) -> Tensor:
    return matrices.to(_SINGLE[matrices.dtype])


def _forward(
    program: Program, prepared: Sequence[_Prepared], shapes: Sequence[Tensor], excesses: Sequence[Tensor]
) -> tuple[Tensor, float] | None:
    """P after all steps and the logarithm of its scale, None where a factorisation fails."""
    count, scale = program.torus.frequencies.shape[1], 0.0
    p = torch.eye(program.channels, dtype=_SINGLE[program.torus.dtype]).expand(count, -1, -1)
    unknown = zip(shapes, excesses, strict=True)
    for step in prepared:
        if isinstance(step, _Multiplied):
            p = _through(p, step)
        elif isinstance(step, tuple):
            outer, o = step
            n = p.shape[-1]
            right = p.flatten(1)
            product = outer.real.T @ right.real - outer.imag.T @ right.imag if p.is_complex() else outer.T @ right
            p = product.reshape(o, o, n, n).permute(2, 0, 3, 1).reshape(1, n * o, n * o)
        else:
            after = _after(p, step, *next(unknown))
            if after is None:
                return None
            p = after
        size = float(p.detach().diagonal(dim1=-2, dim2=-1).real.max())
        if not 0.0 < size < math.inf:
            return None
        p, scale = p / size, scale + math.log(size)
    return p[0], scale


def _through(p: Tensor, multiplied: _Multiplied) -> Tensor:
    step, total = multiplied.step, None
    for symbol, index, mirrored in multiplied.aliases:
        before = p if len(multiplied.aliases) == 1 else p[index]
        if bool(mirrored.any()):
            before = torch.where(mirrored[:, None, None], before.conj(), before)
        images = symbol @ before[:, step.sources]
        square = images[:, :, step.sources] @ symbol.mH
        if len(step.kept) > 0:
            mixed = images[:, :, step.kept]
            rest = before[:, step.kept][:, :, step.kept]
            square = torch.cat([torch.cat([square, mixed], 2), torch.cat([mixed.mH, rest], 2)], 1)
        total = square if total is None else total + square
    assert total is not None
    total = total / len(multiplied.aliases)
    total = 0.5 * (total + total.mH)
    return total.real if len(total) == 1 and total.is_complex() else total  # one position is left


def _after(p: Tensor, step: Activation | Maximum, shape: Tensor, excess: Tensor) -> Tensor | None:
    form = shaped(step, shape)
    q, m = form.window, step.count
    mean = (form.alpha + q * form.beta).rsqrt()
    matrix = form.matrix(p.dtype) if q > 1 else torch.diag(form.alpha).to(p.dtype)
    inner = p[:, : q * m, : q * m]
    if q == 1:
        even = mean[:, None] * inner * mean
    else:
        alone = form.alpha.rsqrt()
        root = _windowed(alone, (mean - alone) / q, q).to(p.dtype)
        even = root @ inner @ root
    factor = _largest(even) * (1.0 + excess.exp())
    lower, info = torch.linalg.cholesky_ex((factor * matrix - inner).detach())
    if bool((info != 0).any()):
        return None
    rows = p[:, : q * m]
    if q > 1:
        rows = torch.cat([rows[:, :, : q * m].unflatten(2, (q, m)).sum(2), rows[:, :, q * m :]], 2)
    if isinstance(step, Activation):
        centre = torch.where(step.centre.abs() < _LEAST_CENTRE * step.radius, _LEAST_CENTRE * step.radius, step.centre)
        base, added = p, step.radius.square() * form.alpha * factor
    else:
        sums = torch.cat([rows[:, : q * m].unflatten(1, (q, m)).sum(1), _rest(p, q, m)], 1)
        base = sums
        both = form.alpha + form.beta
        centre = both / (2.0 * (form.alpha + q * form.beta))
        added = factor * q * both.square() / (4.0 * (form.alpha + q * form.beta))
    fractional: Tensor = _Fractional.apply(rows, factor * matrix - inner, lower)  # type: ignore[assignment]
    h = base + fractional
    rest = h.shape[-1] - m
    whole = torch.cat([centre, torch.ones(rest)])
    extra = torch.cat([added, torch.zeros(rest)])
    return h * (whole[:, None] * whole) + torch.diag(extra)


class _Fractional(torch.autograd.Function):
    """R^* A^-1 R from R, A and the Cholesky factor of A.

    With V = A^-1 R, its differential is dR^* V + V^* dR - V^* dA V.

    The derivatives need V alone, which takes less than half the time of differentiating the factorisation.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, matrix: Tensor, lower: Tensor) -> Tensor:
        solved = torch.cholesky_solve(rows, lower)
        ctx.save_for_backward(solved)
        return rows.mH @ solved

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, None]:
        (solved,) = ctx.saved_tensors
        gradient = gradients[0]
        return solved @ (gradient + gradient.mH), -(solved @ gradient @ solved.mH), None


def _rest(p: Tensor, q: int, m: int) -> Tensor:
    """Rows of P beyond the windows, with the columns of the windows summed."""
    rest = p[:, q * m :]
    return torch.cat([rest[:, :, : q * m].unflatten(2, (q, m)).sum(2), rest[:, :, q * m :]], 2)


def _windowed(alone: Tensor, common: Tensor, q: int) -> Tensor:
    same = torch.eye(q)
    return torch.kron(same, torch.diag(alone)) + torch.kron(torch.ones_like(same), torch.diag(common))


def _largest(matrices: Tensor) -> Tensor:
    """Largest eigenvalue over a batch, a little above: the form at an approximate eigenvector, which is stationary."""
    with torch.no_grad():
        generator = torch.Generator("cpu").manual_seed(0)
        vectors = torch.randn(matrices.shape[-1], 1, generator=generator).to(matrices.dtype)
        vectors = vectors.expand(len(matrices), -1, 1)
        index = 0
        for _ in range(8 if len(matrices) > 1 else 0):
            images = matrices @ vectors
            sizes = torch.linalg.vector_norm(images, dim=1, keepdim=True)
            vectors = images / sizes.clamp_min(_FLOOR)
            index = int(sizes.flatten().argmax())
        matrix = matrices[index]
        basis = [vectors[index] / torch.linalg.vector_norm(vectors[index])]
        for _ in range(min(_ITERATIONS, len(matrix)) - 1):
            image, done = matrix @ basis[-1], torch.cat(basis, 1)
            for _ in range(2):
                image = image - done @ (done.mH @ image)
            size = torch.linalg.vector_norm(image)
            if float(size) < 1e-5 * float(torch.linalg.vector_norm(matrix @ basis[-1])):
                break
            basis.append(image / size)
        done = torch.cat(basis, 1)
        vector = done @ torch.linalg.eigh(done.mH @ matrix @ done).eigenvectors[:, -1:]
    return (vector.mH @ matrices[index] @ vector).real.squeeze() * (1.0 + 1e-3) + _FLOOR


def _forms(last: Tensor, reach: Tensor) -> Tensor:
    """(w_i - w_j)^T P (w_i - w_j) for all pairs of rows."""
    product = last @ reach @ last.T
    squares = product.diagonal()
    return squares[:, None] + squares - product - product.T
