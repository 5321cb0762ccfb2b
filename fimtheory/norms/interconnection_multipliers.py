"""Multipliers of an `Interconnection`, by Newton's method.  Nothing here is certified, and nothing has to be.

Given T and a vector v, the least Y of (*) has ``v^T Y v = |D^T v|^2 + (A^T v)^T T (A^T v) + x^T Q^-1 x`` with

    Q = S - B B^T - M T M^T,      x = B D^T v + M T A^T v,

the supremum over q' of functions that are affine in T; so it is convex in T, on the domain Q > 0 where it grows without
bound at the end.  With q' = Q^-1 x and p' = A^T v + M^T q', its derivatives in t are, for unknowns of one number,

    gradient_k = p'_k^2 - q'_k^2,
    Hessian    = 2 E^T Q^-1 E,   E = M diag(p') - diag(q'),

and for blocks their sums over what each hands on (p') and receives (q').  Summed over many v the Hessian is a sum of
three Hadamard products: each step costs a few multiplications of matrices as large as Q, however many v there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fimtheory.norms.interconnection import Interconnection, Rows

__all__ = ["for_norm", "for_rows"]

_STEPS = 6  # of Newton's method for one objective
_ROUNDS = 10  # in which the directions of `for_norm` are chosen anew
_SPREAD = 0.3  # of the weights around the largest eigenvalue, relative
_ENOUGH = 1e-3  # relative decrease by a step at which it is the last
_BACKTRACKS = 25
_SEEN = 1e-7  # of the size of a row: as much of its error as a certificate may see
_COARSE = 2.0**8  # between limits on multipliers that are tried
_ROOM = 1e-4  # by which T stays inside the domain, so that a certificate finds room as well

_Objective = Callable[[Tensor], tuple[float, Tensor]]
"""From the values v^T Y v to a number, and its derivatives in them."""


def for_rows(system: Interconnection, rows: Rows) -> Interconnection:
    """Multipliers that make the sum of the roots of the diagonal of Y small: the bounds of all rows at once."""
    if len(system) == 0 or len(rows.values) == 0:
        return system
    problem = _Problem.of(system, rows)
    floor = 1e-12 * float(rows.norms.square().max()) + 1e-100

    def roots(values: Tensor) -> tuple[float, Tensor]:
        root = (values + floor).sqrt()
        return float(root.sum()), 0.5 / root

    directions = torch.eye(len(rows.values), dtype=torch.float64, device="cpu")
    t = _newton(problem, system.multipliers, directions, roots, _STEPS)
    return system.with_multipliers(_moderate(problem, rows, t, directions, lambda state: roots(state.values)[0]))


def for_norm(system: Interconnection, rows: Rows, directions: Tensor) -> Interconnection:
    """Multipliers that make the largest eigenvalue of ``V^T Y V`` small, for the columns V of ``directions``.

    The largest eigenvalue is the maximum of tr(W V^T Y V) over W >= 0 of trace one.  Minimising for one W after
    another, each moved towards the top eigenvectors, approaches the minimum of the maximum; the best T is kept.
    """
    if len(system) == 0:
        return system
    problem = _Problem.of(system, rows)
    weights = torch.eye(directions.shape[1], dtype=torch.float64, device="cpu")
    best, chosen, t = float("inf"), system.multipliers, system.multipliers
    for _ in range(_ROUNDS):
        values, vectors = torch.linalg.eigh(weights)
        seen = values > 1e-9 * values[-1]
        chosen_directions = (directions @ vectors[:, seen]) * values[seen].sqrt()
        t = _newton(problem, t, chosen_directions, _total, _STEPS)
        state = problem.at(t, directions)
        if state is None or not bool(torch.isfinite(state.forms).all()):
            break
        values, vectors = torch.linalg.eigh(0.5 * (state.forms + state.forms.T))
        largest = float(values[-1])
        if largest < best:
            done, best, chosen = largest > best * (1.0 - _ENOUGH), largest, t
            if done:
                break
        top = (vectors * ((values / max(largest, 1e-300) - 1.0) / _SPREAD).softmax(0)) @ vectors.T
        weights = 0.5 * weights / weights.trace() + 0.5 * top

    def norm(state: _State) -> float:
        return float(torch.linalg.eigvalsh(0.5 * (state.forms + state.forms.T))[-1])

    return system.with_multipliers(_moderate(problem, rows, chosen, directions, norm))


def _moderate(
    problem: _Problem, rows: Rows, t: Tensor, directions: Tensor, objective: Callable[[_State], float]
) -> Tensor:
    """The multipliers, without those far larger than they need to be.

    What a number with next to no slope receives may have any multiplier between its own size and the inverse square of
    its weight, while a certificate multiplies the errors of all rows with the largest one.
    """
    error = float(rows.error.max())
    if error == 0.0:
        return t
    cap = min(_SEEN * float(rows.norms.max()) / error, 1e150) ** 2
    state = problem.at(t, directions) if float(t.max()) > cap else None
    if state is None or not bool(state.forms.isfinite().all()):
        return t
    enough = (1.0 + _ENOUGH) * objective(state)
    while cap < float(t.max()):
        state = problem.at(t.clamp_max(cap), directions)
        if state is not None and bool(state.forms.isfinite().all()) and objective(state) <= enough:
            return t.clamp_max(cap)
        cap *= _COARSE
    return t


def _total(values: Tensor) -> tuple[float, Tensor]:
    return float(values.sum()), torch.ones_like(values)


@dataclass(frozen=True, slots=True)
class _State:
    """Factor of Q, the vectors q' and p' as columns, and the forms v^T Y w, at one T."""

    factor: Tensor
    q: Tensor
    p: Tensor
    forms: Tensor

    @property
    def values(self) -> Tensor:
        return self.forms.diagonal()


@dataclass(frozen=True, slots=True)
class _Problem:
    """The blocks of (*)."""

    d: Tensor
    a: Tensor
    b: Tensor
    m: Tensor
    gram: Tensor
    takes: Tensor
    gives: Tensor

    @classmethod
    def of(cls, system: Interconnection, rows: Rows) -> _Problem:
        values = rows.padded(system.inputs + len(system)).values
        d, a = values.split([system.inputs, len(system)], 1)
        b, m = system.rows.values.split([system.inputs, len(system)], 1)
        return cls(d, a, b, m, b @ b.T, system.takes, system.gives)

    def at(self, t: Tensor, directions: Tensor) -> _State | None:
        """Solve for all directions (columns); None outside the domain."""
        given = t[self.gives]
        difference = torch.diag(t[self.takes] * (1.0 - _ROOM)) - self.gram - (self.m * given) @ self.m.T
        factor, info = torch.linalg.cholesky_ex(difference)
        if int(info) != 0:
            return None
        straight, received = self.d.T @ directions, self.a.T @ directions
        x = self.b @ straight + self.m @ (given[:, None] * received)
        q = torch.cholesky_solve(x, factor)
        forms = straight.T @ straight + received.T @ (given[:, None] * received) + x.T @ q
        return _State(factor, q, received + self.m.T @ q, forms)

    def derivatives(self, state: _State, weights: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
        """Gradient and Hessian of the weighted sum of the values, in the multipliers of so many blocks."""
        p, q = state.p, state.q
        gradient = torch.zeros(blocks, dtype=torch.float64).index_add_(0, self.gives, (p.square() * weights).sum(1))
        gradient.index_add_(0, self.takes, (q.square() * weights).sum(1), alpha=-1.0)
        inverse = torch.cholesky_inverse(state.factor)
        across = inverse @ self.m
        mixed = _summed(((q * weights) @ p.T) * across, self.takes, self.gives, blocks)
        hessian = _summed(((p * weights) @ p.T) * (self.m.T @ across), self.gives, self.gives, blocks)
        hessian += _summed(((q * weights) @ q.T) * inverse, self.takes, self.takes, blocks) - mixed - mixed.T
        return gradient, 2.0 * hessian


def _summed(matrix: Tensor, rows: Tensor, columns: Tensor, blocks: int) -> Tensor:
    """Sums over blocks of rows and columns."""
    down = matrix.new_zeros((blocks, matrix.shape[1])).index_add_(0, rows, matrix)
    return matrix.new_zeros((blocks, blocks)).index_add_(1, columns, down)


def _newton(problem: _Problem, t: Tensor, directions: Tensor, objective: _Objective, steps: int) -> Tensor:
    """Minimise from a feasible T with damped steps, in units of T."""
    state = problem.at(t, directions)
    if state is None:
        return t
    value, weights = objective(state.values)
    for _ in range(steps):
        gradient, hessian = problem.derivatives(state, weights, len(t))
        slope, curvature = t * gradient, t[:, None] * hessian * t
        # In log t the curvature has the slope on its diagonal as well: without it, a t_k that should shrink would by
        # far too much, and hold up all others.
        curvature.diagonal().add_(slope.clamp_min(0.0) + 1e-8 * curvature.diagonal().mean() + 1e-280)
        factor, info = torch.linalg.cholesky_ex(curvature)
        if int(info) != 0:
            break
        step = -torch.cholesky_solve(slope[:, None], factor)[:, 0]
        decrease = -float(slope @ step)
        if not decrease > _ENOUGH * value:
            break
        found = _searched(problem, t, step, directions, objective, value, decrease)
        if found is None:
            break
        t, state, value, weights = found
    return t


def _searched(
    problem: _Problem,
    t: Tensor,
    step: Tensor,
    directions: Tensor,
    objective: _Objective,
    value: float,
    decrease: float,
) -> tuple[Tensor, _State, float, Tensor] | None:
    """Halve the step until the objective decreases enough."""
    length = 1.0
    for _ in range(_BACKTRACKS):
        factor = torch.where(step < 0, (length * step).clamp(-3.0, 0.0).exp(), 1.0 + length * step)
        state = problem.at(t * factor, directions)
        if state is not None:
            new, weights = objective(state.values)
            if new < value - 1e-4 * length * decrease:
                return t * factor, state, new, weights
        length *= 0.5
    return None
