"""Certified Gram matrices of Jacobians that depend on unknown slopes, for networks of any shape.

A network at an input x is linear but for the slopes of its activations, and a slope that is only known to lie in
[c - r, c + r] is c plus r times an unknown number in [-1, 1].  A map of several numbers to several others, of which a
matrix is known up to r in the spectral norm, is that matrix plus r times an unknown contraction.  Pulling all unknown
*blocks* out leaves an *interconnection*: with u the change of the input, p_b what block b receives, q_b what it hands
on,

    q_b = Delta_b p_b,  ||Delta_b|| <= 1,      p = B u + M q,      z = D u + A q,

with M strictly lower triangular by layers, because the network has no loops.  The Jacobian of z in u is
``J(Delta) = D + A Delta (I - M Delta)^-1 B``.

Theorem.  Let t_b be positive numbers, one for each block, T and S diagonal with t_b where block b hands on and where
it receives, and Y symmetric.  If

    [[D, A], [B, M]]  diag(I, T)  [[D, A], [B, M]]^T   <=   diag(Y, S),                                             (*)

then ``J(Delta) J(Delta)^T <= Y`` for all admissible Delta.  Proof.  For a vector v let p' solve
``p' = A^T v + M^T Delta^T p'`` and let s = Delta^T p'; then ``J^T v = D^T v + B^T s`` and ``p' = A^T v + M^T s``.  The
quadratic form (*) at (v, s) reads ``|J^T v|^2 + sum t_b |p'_b|^2 <= v^T Y v + sum t_b |s_b|^2``, and |s_b| <= |p'_b|.

For a chain of layers this is LipSDP (Fazlyab, Robey, Hassani, Morari, Pappas 2019) with one multiplier per neuron; the
statement for arbitrary interconnections is the scaled small-gain theorem (Doyle 1982; Packard and Doyle 1993).

Only (*) has to be certified, by one completed Cholesky factorisation: the multipliers may come from anywhere
(`interconnection_multipliers`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from fimtheory.errors import NonFiniteError
from fimtheory.norms.rounding import UNDERFLOW, UNIT, gamma_n
from fimtheory.norms.scaling import power_of_two

__all__ = ["Interconnection", "Rows", "euclidean"]

_YOUNG = (2.0**-30, 2.0**-10)  # least and largest eta in (R + E)(R + E)^T <= (1 + eta) R R^T + (1 + 1/eta) E E^T
_ROOM = 2.0**-24  # of the blocks of (*), for what the factorisation of the whole may miss
_STEEPEST = 2.0**40  # factor of a multiplier
_BESIDE = 2.0**20  # times its error is the least size of a row, in the choice of multipliers and of its unit
_UP = 1.0 + 2.0**-18  # more than the roundings of a norm, a root and a few products of nonnegative numbers


def euclidean(values: Tensor, dim: int) -> Tensor:
    """Upper bounds on Euclidean norms along a dimension, of numbers whose squares may over- or underflow.

    >>> norm = euclidean(torch.tensor([[3e-200, 4e-200]], dtype=torch.float64), 1).item()
    >>> 5e-200 <= norm <= 5.0001e-200
    True
    """
    largest = values.abs().amax(dim, keepdim=True)
    exponent = torch.frexp(largest).exponent.long().clamp(-1000, 1000)
    scaled = torch.linalg.vector_norm(values * power_of_two(-exponent), dim=dim) * _UP
    return scaled * power_of_two(exponent).squeeze(dim)


@final
@dataclass(frozen=True, slots=True)
class Rows:
    """Linear forms in (u, q), one a row, with bounds on the Euclidean norm of what each misses of the exact row."""

    values: Tensor
    error: Tensor

    @property
    def norms(self) -> Tensor:
        """Upper bounds on the norms of the stored rows."""
        return euclidean(self.values, 1) + UNDERFLOW

    def padded(self, columns: int) -> Rows:
        """Return the rows with zeros for unknown numbers that they do not depend on."""
        missing = columns - self.values.shape[1]
        return self if missing == 0 else Rows(torch.nn.functional.pad(self.values, (0, missing)), self.error)


@final
@dataclass(frozen=True, slots=True)
class Interconnection:
    """The rows [B, M] of what unknown blocks receive, and one multiplier for each block, with which (*) is feasible.

    ``inputs`` is the dimension of u; ``rows`` has one row for each number received, and ``seen`` says on how many
    columns it may depend, with what it misses: those before its layer.  ``takes`` is the block that receives each row,
    ``gives`` the block that hands on each unknown number.  A slope of an activation is a block of one and one.

    >>> none = Interconnection.of_inputs(2)
    >>> one = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    >>> relu = none.extended(Rows(0.5 * one, torch.zeros(1, dtype=torch.float64)))
    >>> output = Rows(torch.tensor([[0.5, 0.0, 1.0]], dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    >>> bound = relu.gram(output)
    >>> bound is not None and 1.0 <= bound.item() <= 1.001  # z = slope x_1, slope in [0, 1]
    True
    """

    inputs: int
    rows: Rows
    multipliers: Tensor
    seen: Tensor
    takes: Tensor
    gives: Tensor

    @classmethod
    def of_inputs(cls, inputs: int) -> Interconnection:
        """Return the interconnection without unknown numbers."""
        empty = torch.zeros((0, inputs), dtype=torch.float64, device="cpu")
        none = empty.new_zeros(0).long()
        return cls(inputs, Rows(empty, empty.new_zeros(0)), empty.new_zeros(0), none, none, none)

    def __len__(self) -> int:
        """Number of unknown numbers."""
        return len(self.gives)

    def with_multipliers(self, multipliers: Tensor) -> Interconnection:
        """Return the same interconnection with other multipliers, which need not be feasible."""
        return replace(self, multipliers=multipliers)

    def extended(
        self, rows: Rows, known: Tensor | None = None, *, takes: Tensor | None = None, gives: Tensor | None = None
    ) -> Interconnection:
        """Return the interconnection with further unknown blocks, which receive ``rows`` of (u, q) so far.

        ``takes`` and ``gives`` count the new blocks from 0, and each has all of them; without them every row is a block
        that hands on one number.

        The new multipliers are feasible: S must exceed the Gram matrix G of the new rows, and with diagonal D, equal
        within a block and of about the diagonal of G, ``G <= D |D^-1/2 G D^-1/2|``.  ``known`` is what is known of a
        block in units of what is not: the bound ``(c + r)^2 |p|^2`` on ``|c p + r q|^2`` needs a multiplier of
        ``(1 + c / r) |p|^2``.

        Raises
        ------
        NonFiniteError
            The numbers are too large, or too uneven, for a certificate in float64.
        """
        each = torch.arange(len(rows.values))
        takes, gives = each if takes is None else takes, each if gives is None else gives
        blocks = int(takes.max()) + 1 if len(takes) > 0 else 0
        columns = self.inputs + len(self) + len(gives)
        gram = self.gram(rows)
        if gram is None or not bool(torch.isfinite(gram).all()):
            raise NonFiniteError(
                "the slopes that a ball leaves open cannot be bounded in float64; use a smaller radius, or weights of "
                "a more even size"
            )
        diagonal = gram.diagonal() + 1e-3 * gram.diagonal().mean() + 1e-60
        # A row may be small beside its error; with this, the errors of any number of rows leave (*) feasible.
        diagonal = diagonal + (_BESIDE * rows.error).square() * max(1.0, float(self.multipliers[self.gives].sum()))
        size = diagonal.new_zeros(blocks).scatter_reduce(0, takes, diagonal, "amax")
        scale = size.rsqrt()[takes]
        largest = float(torch.linalg.eigvalsh(scale[:, None] * gram * scale)[-1]) if len(gram) > 0 else 1.0
        factor = 2.0 if known is None else known.clamp(2.0, _STEEPEST)
        before, new = self.rows.padded(columns), rows.padded(columns)
        return Interconnection(
            self.inputs,
            Rows(torch.cat([before.values, new.values]), torch.cat([before.error, new.error])),
            torch.cat([self.multipliers, factor * max(largest, 0.1) * size]),
            torch.cat([self.seen, self.seen.new_full((len(rows.values),), self.inputs + len(self))]),
            torch.cat([self.takes, takes + len(self.multipliers)]),
            torch.cat([self.gives, gives + len(self.multipliers)]),
        )

    def block_norms(self, values: Tensor) -> Tensor:
        """Upper bounds on the norms of the parts of each row of ``values`` that belong to one block: (rows, blocks).

        The columns of ``values`` are those of the first unknown numbers.
        """
        gives = self.gives[: values.shape[1]].expand(values.shape)
        zeros = values.new_zeros((len(values), len(self.multipliers)))
        largest = zeros.scatter_reduce(1, gives, values.abs(), "amax")
        shares = values / torch.where(largest > 0, largest, 1.0).gather(1, gives)
        return largest * zeros.scatter_add(1, gives, shares.square()).sqrt() * (1.0 + 2.0**-36)

    def gram(self, rows: Rows) -> Tensor | None:
        """Y with ``J J^T <= Y`` for the Jacobian J of ``rows`` in u and all unknown numbers; None if (*) fails.

        Status: certified.  In coordinates in which T and S are identities, write R for the stored rows, of norms
        at most rho, and E for what they miss, of norms at most e: the error of the rows, and two roundings of each
        entry from the change of coordinates.  For N rows, ``E E^T <= N diag(e^2)`` and the computed G misses R R^T by
        at most ``gamma N diag(rho^2)``, because a matrix dominated entrywise by x x^T is at most N diag(x^2).  So

            (1 + eta) (G + gamma N diag(rho^2)) + (1 + 1/eta) N diag(e^2)  <=  diag(Y, I)

        implies (*).  With Y the Schur complement plus some room, the difference is handed to a Cholesky factorisation;
        completed, it proves that no eigenvalue is below ``-shift`` (`spectrum`), and the shift is less than the room
        that was left in both blocks.
        """
        m = len(rows.values)
        rows = rows.padded(self.inputs + len(self))
        received = rows.values[:, self.inputs :] * self.multipliers.sqrt()[self.gives]
        # In its unit a row's error is small: eta, which grows with it, would use up the room around the multipliers.
        largest = max([1.0, *self.multipliers.tolist()]) ** 0.5
        size = euclidean(torch.cat([rows.values[:, : self.inputs], received], 1), 1)
        size = size + rows.error * (largest * _BESIDE) + UNDERFLOW
        unit = torch.frexp(size).exponent.long()
        scale = power_of_two(-unit)  # of z, so that its diagonal is about one or less
        for _ in range(3):
            y = self._scaled_gram(rows, scale)
            if y is None:
                return None
            largest = y.diagonal()
            if m == 0 or float(largest.max()) <= 4.0:
                return y * power_of_two(unit)[:, None] * power_of_two(unit)
            unit = unit + torch.clamp(torch.frexp(largest).exponent.long() // 2, min=0)
            scale = power_of_two(-unit)
        return None

    def _scaled_gram(self, rows: Rows, scale: Tensor) -> Tensor | None:
        """Y for the rows times ``scale``; certified only if its diagonal is at most 4."""
        m = len(rows.values)
        order = m + len(self.takes)
        if order == 0:
            return rows.values.new_zeros((0, 0))
        root = self.multipliers.sqrt()
        columns = torch.cat([torch.ones(self.inputs, dtype=torch.float64), root[self.gives]])
        across = torch.cat([scale, 1.0 / root[self.takes]])
        stored = torch.cat([rows.values, self.rows.values]) * columns * across[:, None]
        size = torch.linalg.vector_norm(stored, dim=1) * _UP + UNDERFLOW
        largest = columns.cummax(0).values
        largest = torch.cat([largest[-1:].expand(m), largest[self.seen - 1]])
        missed = torch.cat([rows.error, self.rows.error]) * across * (largest * _UP)
        missed = (missed + 4.0 * UNIT * size) * _UP + UNDERFLOW
        gram = stored @ stored.T
        gram = 0.5 * (gram + gram.T)
        gamma = 1.01 * gamma_n(stored.shape[1] + 8) + 8.0 * UNIT
        eta = min(max(math.sqrt(order) * float(missed.max()), _YOUNG[0]), _YOUNG[1])
        slack = order * ((1.0 + eta) * gamma * size.square() + (1.0 + 2.0 / eta) * missed.square()) * _UP
        if not bool(torch.isfinite(slack).all()):
            return None
        inner = -(1.0 + eta) * gram[m:, m:]
        inner.diagonal().add_(1.0 - _ROOM - slack[m:])
        cross = (1.0 + eta) * gram[m:, :m]
        factor, info = torch.linalg.cholesky_ex(inner)
        if int(info) != 0:
            return None
        half = torch.linalg.solve_triangular(factor, cross, upper=False)
        y = (1.0 + eta) * gram[:m, :m] + half.T @ half
        y = 0.5 * (y + y.T)
        y.diagonal().add_(slack[:m]).mul_(1.0 + _ROOM).add_(_ROOM * 2.0**-6)
        if m > 0 and float(y.diagonal().max()) > 4.0:
            return y
        whole = torch.empty((order, order), dtype=torch.float64, device="cpu")
        whole[:m, :m] = y - (1.0 + eta) * gram[:m, :m]
        whole[:m, :m].diagonal().sub_(slack[:m])
        whole[m:, :m], whole[:m, m:], whole[m:, m:] = -cross, -cross.T, inner
        trace = float(whole.diagonal().clamp_min(0.0).sum()) * _UP
        factor, info = torch.linalg.cholesky_ex(whole)
        if int(info) != 0 or not bool((factor.diagonal() > 0).all()):
            return None
        # Forming ``whole`` rounded each entry a few times: u |entries|, whose largest row sum is at most that below.
        formed = 8.0 * UNIT * float((whole.abs() + gram.abs()).sum(1).max()) * _UP
        shift = 1.01 * gamma_n(8 * (order + 1)) * trace + formed + UNDERFLOW
        if not shift <= _ROOM:
            return None
        y.diagonal().add_(shift * _UP).mul_(1.0 + 4.0 * UNIT)
        return y
