r"""Multipliers of an `Interconnection` for the largest difference of two rows, by Newton's method along a path.

Wanted are multipliers T that make ``max_ij f_ij(T)``, ``f_ij = (e_i - e_j)^T Y(T) (e_i - e_j)``, small: for a chain of
layers this is LipSDP with one multiplier per neuron (Fazlyab, Robey, Hassani, Morari, Pappas 2019).  Nothing here is
certified, and nothing has to be: `Interconnection.gram` certifies whatever comes out.

Every f_ij is convex in T on the domain Q(T) > 0 of `interconnection_multipliers`.  For mu > 0 the method takes Newton
steps on

    min_s ( s / mu - sum_ij log(s - f_ij(T)) )  -  w log det Q(T),

halves mu after a few steps, and ends where the two barriers are worth less than `_CLOSE` of the objective.  Without the
second barrier steps would run into the end of the domain, where a direction that no f_ij sees yet may lie.  Both
Hessians are sums of Hadamard products of Q^-1, Q^-1 M and M^T Q^-1 M, so a step costs a few multiplications of
matrices with one row for each unknown number.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fimtheory.errors import NonFiniteError
from fimtheory.norms.interconnection import Interconnection, Rows

__all__ = ["feasible", "for_diameter", "postponed"]

_CLOSE = 1e-3
_FIRST = 0.5  # of the objective is what the barriers are worth at first
_SHRINK = 0.5
_INNER = 3  # steps for one mu
_CENTRED = 3.0  # squared Newton decrement at which mu shrinks at once
_WEIGHT = 0.3  # w
_STEPS = 60
_BACKTRACKS = 20
_TO_THE_END = 0.9  # of the way along which the first multiplier vanishes
_PAIRS = 512  # whose curvature enters a step
_BESIDE = 2.0**20  # times its error is the least size of a row, as in `interconnection`
_ROOM = 1e-6  # by which T stays inside the domain, so that a certificate finds room as well


def postponed(system: Interconnection, rows: Rows, known: Tensor | None = None) -> Interconnection:
    """Return the interconnection with further unknown numbers, whose multipliers are still to be chosen: `feasible`.

    The arguments are those of ``Interconnection.extended``, which chooses feasible ones at once, for one more
    factorisation of the whole.
    """
    columns = system.inputs + len(system) + len(rows.values)
    before, new = system.rows.padded(columns), rows.padded(columns)
    blocks = torch.arange(len(rows.values)) + len(system.multipliers)  # each of one number
    return Interconnection(
        system.inputs,
        Rows(torch.cat([before.values, new.values]), torch.cat([before.error, new.error])),
        torch.cat([system.multipliers, system.multipliers.new_ones(len(rows.values))]),
        torch.cat([system.seen, system.seen.new_full((len(rows.values),), system.inputs + len(system))]),
        torch.cat([system.takes, blocks]),
        torch.cat([system.gives, blocks]),
    )


def feasible(system: Interconnection) -> Interconnection:
    """Return the interconnection with multipliers for which (*) is feasible, by one factorisation, block by block.

    As in ``Interconnection.extended``: of a block with Gram matrix G, given those before it, a multiple of about G's
    diagonal, twice what G and the errors of the rows need.

    Raises
    ------
    NonFiniteError
        The rows are too large, or too uneven, for a factorisation in float64.
    """
    b, m = system.rows.values.split([system.inputs, len(system)], 1)
    t, factor = torch.zeros_like(system.multipliers), torch.zeros_like(m)
    begin = 0
    for size in torch.unique_consecutive(system.seen, return_counts=True)[1].tolist():
        old, new = slice(0, begin), slice(begin, begin + size)
        weighted = m[new, old] * t[old]
        across = b[old] @ b[new].T + m[old, old] @ weighted.T
        half = torch.linalg.solve_triangular(factor[old, old], across, upper=False)
        gram = b[new] @ b[new].T + weighted @ m[new, old].T + half.T @ half
        if not bool(torch.isfinite(gram).all()):
            raise NonFiniteError("the slopes cannot be bounded in float64; use weights of a more even size")
        diagonal = gram.diagonal() + 1e-3 * gram.diagonal().mean() + 1e-60 + _missed(system.rows.error[new], t)
        scale = diagonal.rsqrt()
        largest = float(torch.linalg.eigvalsh(scale[:, None] * gram * scale)[-1])
        t[new] = 2.0 * max(largest, 1.0) * diagonal
        block, info = torch.linalg.cholesky_ex(torch.diag(t[new]) - gram)
        if int(info) != 0:
            raise NonFiniteError("the slopes cannot be bounded in float64; use weights of a more even size")
        factor[new, old], factor[new, new] = -half.T, block
        begin += size
    return system.with_multipliers(t)


def for_diameter(system: Interconnection, rows: Rows) -> Interconnection:
    """Multipliers that make the largest ``(e_i - e_j)^T Y (e_i - e_j)`` small, from feasible ones.

    >>> none, row = Interconnection.of_inputs(1), torch.ones(1, 1, dtype=torch.float64)
    >>> relu = none.extended(Rows(0.5 * row, torch.zeros(1, dtype=torch.float64)))
    >>> head = Rows(torch.tensor([[0.5, 1.0], [-0.5, -1.0]], dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    >>> y = for_diameter(relu, head).gram(head)
    >>> y is not None and 4.0 <= (y[0, 0] + y[1, 1] - 2 * y[0, 1]).item() <= 4.01  # slope x and -slope x
    True
    """
    problem = _Problem.of(system, rows)
    t = system.multipliers
    point = problem.at(t)
    if point is None or len(system) == 0 or len(point.forms) == 0 or not float(point.forms.max()) > 0:
        return system
    order = _WEIGHT * len(system) + len(point.forms)
    best, chosen, spent = float(point.forms.max()), t, 0
    mu = _FIRST * best / order
    for _ in range(_STEPS):
        step, decrement = problem.direction(point, mu)
        spent += 1
        if decrement < _CENTRED or spent > _INNER:
            if order * mu < _CLOSE * best:
                break
            mu, spent = _SHRINK * mu, 0
            step, decrement = problem.direction(point, mu)
        found = _searched(problem, point, step, decrement, mu)
        if found is None:
            break
        point = found
        largest = float(point.forms.max())
        if largest < best:
            best, chosen = largest, point.t
    return system.with_multipliers(chosen)


@dataclass(frozen=True, slots=True)
class _Point:
    """Feasible multipliers, a factor of Q, the vectors q' and p' of the unit vectors as columns, and all f_ij."""

    t: Tensor
    factor: Tensor
    q: Tensor
    p: Tensor
    forms: Tensor


@dataclass(frozen=True, slots=True)
class _Problem:
    """The blocks of (*), the pairs i < j, and which unknown numbers something reads: the others keep their t."""

    d: Tensor
    a: Tensor
    b: Tensor
    m: Tensor
    pairs: tuple[Tensor, Tensor]
    read: Tensor
    missed: Tensor

    @classmethod
    def of(cls, system: Interconnection, rows: Rows) -> _Problem:
        sizes = [system.inputs, len(system)]
        d, a = rows.padded(sum(sizes)).values.split(sizes, 1)
        b, m = system.rows.values.split(sizes, 1)
        first, second = torch.triu_indices(len(d), len(d), 1).unbind()
        read = (a != 0).any(0) | (m != 0).any(0)
        return cls(d, a, b, m, (first, second), read, _missed(system.rows.error, system.multipliers))

    def at(self, t: Tensor) -> _Point | None:
        """Evaluate all forms; None outside the domain."""
        matrix = self.b @ self.b.T
        matrix.addmm_(self.m * t, self.m.T).neg_().diagonal().add_(t * (1.0 - _ROOM) - self.missed)
        factor, info = torch.linalg.cholesky_ex(matrix)
        if int(info) != 0:
            return None
        received = t[:, None] * self.a.T
        x = self.b @ self.d.T + self.m @ received
        q = torch.cholesky_solve(x, factor)
        gram = self.d @ self.d.T + self.a @ received + x.T @ q
        size, (first, second) = gram.diagonal(), self.pairs
        return _Point(t, factor, q, self.a.T + self.m.T @ q, size[first] + size[second] - 2.0 * gram[first, second])

    def direction(self, point: _Point, mu: float) -> tuple[Tensor, float]:
        """Newton step in units of t, and the square of its decrement."""
        p, q, (first, second) = point.p, point.q, self.pairs
        z = (_level(point.forms, mu) - point.forms).reciprocal()
        laplacian = p.new_zeros((p.shape[1], p.shape[1]))
        laplacian[first, second] = -z
        laplacian = laplacian + laplacian.T
        laplacian.diagonal().sub_(laplacian.sum(1))  # sum_ij z_ij (e_i - e_j)(e_i - e_j)^T
        weighted_p, weighted_q = p @ laplacian, q @ laplacian
        inverse = torch.cholesky_inverse(point.factor)
        across = inverse @ self.m
        through = self.m.T @ across
        slope = (weighted_p * p).sum(1) - (weighted_q * q).sum(1)
        slope = point.t * (slope - _WEIGHT * (inverse.diagonal() - through.diagonal()))
        # Each term is added in place: these matrices are what limits the size.
        mixed = (weighted_q @ p.T).mul_(across).mul_(2.0).add_(across.square(), alpha=_WEIGHT)
        hessian = (weighted_p @ p.T).mul_(2.0).add_(through, alpha=_WEIGHT).mul_(through)
        hessian.add_((weighted_q @ q.T).mul_(2.0).add_(inverse, alpha=_WEIGHT).mul_(inverse)).sub_(mixed).sub_(mixed.T)
        weight, leading = z.square().topk(min(len(z), _PAIRS))  # to leave some out only changes the direction
        i, j = first[leading], second[leading]
        slopes = (p[:, i] - p[:, j]).square() - (q[:, i] - q[:, j]).square()
        slopes = slopes - (slopes @ weight / weight.sum())[:, None]
        hessian.addmm_(slopes * weight, slopes.T).mul_(point.t).mul_(point.t[:, None])
        hessian.diagonal().mul_(1.0 + 1e-13)
        hessian[~self.read] = 0.0
        hessian[:, ~self.read] = 0.0
        hessian.diagonal()[~self.read] = 1.0
        slope = torch.where(self.read, slope, 0.0)
        factor, info = torch.linalg.cholesky_ex(hessian)
        if int(info) != 0:
            return torch.zeros_like(slope), 0.0
        step = -torch.cholesky_solve(slope[:, None], factor)[:, 0]
        return step, -float(slope @ step)


def _missed(error: Tensor, t: Tensor) -> Tensor:
    """What the errors of rows take from Q, with room for any number of rows: a row may be smaller than its error."""
    return (_BESIDE * error).square() * max(1.0, float(t.sum()))


def _level(forms: Tensor, mu: float) -> float:
    """The s of the minimum: ``sum 1 / (s - f) = 1 / mu``, by bisection."""
    top = float(forms.max())
    low, high = top + mu, top + mu * len(forms)
    for _ in range(60):
        s = 0.5 * (low + high)
        if float((s - forms).reciprocal().sum()) > 1.0 / mu:
            low = s
        else:
            high = s
    return high


def _merit(point: _Point, mu: float) -> float:
    s = _level(point.forms, mu)
    return s / mu - float((s - point.forms).log().sum()) - 2.0 * _WEIGHT * float(point.factor.diagonal().log().sum())


def _searched(problem: _Problem, point: _Point, step: Tensor, decrement: float, mu: float) -> _Point | None:
    """Halve the step until what is minimised decreases enough."""
    before = _merit(point, mu)
    length = min(1.0, _TO_THE_END / max(-float(step.min()), 1e-9))
    for _ in range(_BACKTRACKS):
        found = problem.at(point.t * (1.0 + length * step))
        if found is not None and _merit(found, mu) < before - 1e-3 * length * decrement:
            return found
        length *= 0.5
    return None
