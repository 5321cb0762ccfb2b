"""Certified quadratic bounds on what a chain of layers can reach, carried from one layer to the next.

Let M_i = D_i W_i ... D_1 W_1 with unknown diagonal D_i, entries in c +- r.  A `Reach` is a matrix P_i of float64
numbers with M_i M_i^T <= P_i for ALL admissible D, in the order of symmetric matrices; P_0 = I.

Lemma.  Let G be symmetric, K and H symmetric, K >= 0 diagonal, and with J the neurons with r > 0 let

    Q = [[H - G, -G_J^T], [-G_J, K - G_JJ]]  >=  0,        G_J the rows of G that belong to J.                  (*)

Then D G D <= C H C + R^2 K for every diagonal D with |D - C| <= R.  Proof.  Let p = C v and e = (D - C) v, which is
zero outside J.  Then (p, e_J)^T Q (p, e_J) >= 0 reads (p + e)^T G (p + e) <= p^T H p + e^T K e.  The left side is
v^T D G D v, and e_k^2 <= r_k^2 v_k^2.

Telescoping.  M_i M_i^T = D_i W_i M_{i-1} M_{i-1}^T W_i^T D_i <= D_i G D_i for every G >= W_i P_{i-1} W_i^T, so
P_i = C H C + R^2 K is a reach again.

LipSDP.  Given K > G_JJ the smallest H is G + G_J^T (K - G_JJ)^-1 G_J.  Then X_i = P_i^-1 and the multipliers
Lambda = (2 R^2 K)^-1 satisfy, for slopes in [A, B],

    X_i = 2 Lambda - Lambda (A + B) W (X_{i-1} + 2 W^T A B Lambda W)^-1 W^T (A + B) Lambda,

the Schur complement that makes x^T X_{i-1} x - y^T X_i y - 2 (y - A W x)^T Lambda (B W x - y) >= 0 for all x, y, which
is LipSDP (Fazlyab, Robey, Hassani, Morari, Pappas 2019) solved one layer after the other.  Indeed, with
C = (A + B) / 2, R = (B - A) / 2, A B = C^2 - R^2 and N = X_{i-1} - 2 W^T R^2 Lambda W, the form without y^T X_i y is
x^T N x + 2 (y - C W x)^T Lambda (y - C W x), whose minimum over x is y^T (C W N^-1 W^T C + (2 Lambda)^-1)^-1 y; and
W N^-1 W^T = (G^-1 - K^-1)^-1 = G + G (K - G)^-1 G.  In terms of P nothing is inverted but K - G, X_i > 0 holds by
itself, and neurons of known slope, r = 0 and Lambda infinite, cost nothing.

Only (*) has to be certified, by a completed Cholesky factorisation (`spectrum`): K may come from anywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fimtheory.norms.matrices import frobenius
from fimtheory.norms.rounding import UNDERFLOW, UNIT, gamma_n, up
from fimtheory.norms.scaling import ScaledRows, power_of_two
from fimtheory.norms.slopes import Slopes
from fimtheory.norms.spectrum import SpectralLevel

__all__ = ["Gram", "Reach", "largest_difference", "largest_eigenvalue"]

_MARGINS = (2.0**4, 2.0**12, 2.0**20, 2.0**28)  # raise H and K by these, relative, in units of the order times u
_LARGEST = 2.0**400  # multipliers beyond are refused: nothing overflows below


@dataclass(frozen=True, slots=True)
class Gram:
    """A bound ``W M M^T W^T <= 2^exponent matrix`` for every admissible M; diagonal entries are at least 2^-401.

    With slopes in [-1, 1] the reach is K, and K >= G suffices:

    >>> weight = ScaledRows(torch.tensor([[0.5, 0.5]], dtype=torch.float64), 0, 0.0, 0.0)
    >>> one = torch.ones(1, dtype=torch.float64)
    >>> reach = Reach.whole(2).through(weight).after(Slopes(0 * one, one, 0), 1.0001 * one)
    >>> reach is not None and 0.5 <= reach.matrix.item() * 2.0**reach.exponent <= 0.501
    True
    """

    matrix: Tensor
    exponent: int

    def after(self, slopes: Slopes, relative: Tensor) -> Reach | None:
        """Reach after slopes, with multipliers K of ``relative`` times the largest diagonal entry, one per neuron.

        None if no factorisation ran to completion, as when K does not exceed G.  Then H >= G >= 0 by (*), hence
        |H_ij| <= sqrt(H_ii H_jj), and the two roundings of an entry of C H C cost at most 3 u n c_i^2 H_ii on the
        diagonal, for n neurons.
        """
        c, r = slopes.centre, slopes.radius
        n = len(c)
        free = (r > 0).nonzero().flatten()
        upper, on_diagonal = self.matrix, torch.zeros_like(c)
        if len(free) > 0:
            certified = _certified(self.matrix, free, relative[free] * float(self.matrix.diagonal().max()))
            if certified is None:
                return None
            upper, multipliers = certified
            on_diagonal[free] = r[free] * r[free] * multipliers
        on_diagonal += c * c * upper.diagonal() * (8.0 * n * UNIT)
        reach = upper * (c[:, None] * c)  # symmetric as stored
        reach.diagonal().add_(on_diagonal).mul_(1.0 + 16.0 * UNIT).add_(UNDERFLOW)
        shift = math.frexp(float(reach.diagonal().max()))[1]
        return Reach(reach * 2.0**-shift, self.exponent + 2 * slopes.exponent + shift)


def _certified(gram: Tensor, free: Tensor, multipliers: Tensor) -> tuple[Tensor, Tensor] | None:
    """H and K close to the smallest H for the given K, for which (*) is proved, or None.

    Let Q' = d Q d with powers of two d that bring the diagonals of H and K to size one, as stored.  An entry of Q' is
    one subtraction, so Q' misses the exact matrix by at most u ||Q'||_F in norm, and a completed factorisation gives
    Q' >= -k / (1 - k) tr(Q') with k <= gamma_{8(N+1)} for order N.  So (*) holds once the diagonals of H and K are
    raised by the sum of the two over d^2.
    """
    n, order = len(gram), len(gram) + len(free)
    rows = gram[free]
    inner = rows[:, free]
    for margin in _MARGINS:
        raised = 1.0 + margin * order * UNIT
        k = multipliers * raised + UNDERFLOW
        if not bool((k < _LARGEST).all()):
            return None
        factor, info = torch.linalg.cholesky_ex(torch.diag(k) - inner)
        if int(info) != 0:
            continue
        half = torch.linalg.solve_triangular(factor, rows, upper=False)
        h = gram + half.T @ half
        h = 0.5 * (h + h.T)
        h.diagonal().mul_(raised)
        d = power_of_two(-(torch.frexp(torch.cat([h.diagonal(), k])).exponent.long() // 2))
        scaled = torch.empty((order, order), dtype=torch.float64, device="cpu")
        scaled[:n, :n] = h - gram
        scaled[n:, :n] = -rows
        scaled[:n, n:] = -rows.T
        scaled[n:, n:] = torch.diag(k) - inner
        scaled *= d[:, None] * d
        factor, info = torch.linalg.cholesky_ex(scaled)
        trace = float(scaled.diagonal().sum()) * (1.0 + 2.0**-19)
        if int(info) == 0 and bool((factor.diagonal() > 0).all()) and trace < 4.0 * order:
            shift = 1.01 * gamma_n(8 * (order + 1)) * trace + 2.0 * UNIT * frobenius(scaled[None]) + UNDERFLOW
            slack = shift / d.square() * (1.0 + 2.0**-40)
            h.diagonal().add_(slack[:n]).mul_(1.0 + 4.0 * UNIT)
            return h, (k + slack[n:]) * (1.0 + 4.0 * UNIT)
    return None


@dataclass(frozen=True, slots=True)
class Reach:
    """A bound ``M M^T <= 2^exponent matrix`` for every admissible M; the largest diagonal entry is in [1/4, 1]."""

    matrix: Tensor
    exponent: int

    @staticmethod
    def whole(dimension: int) -> Reach:
        """The unit ball, M = I."""
        return Reach(torch.eye(dimension, dtype=torch.float64, device="cpu"), 0)

    def through(self, weight: ScaledRows) -> Gram:
        """Gram matrix W P W^T, rounded up in the order of symmetric matrices.

        P >= M M^T >= 0 has |P_kl| <= s_k s_l with s_k = sqrt(P_kk).  So the two products, of n terms each, err by at
        most gamma_{2n} p_i p_j with p = |W| s, entrywise; and a symmetric matrix E with |E_ij| <= g p_i p_j satisfies
        E <= g m diag(p^2) for m rows.  The index of gamma allows for the rounding of the sum on the diagonal, 1.01
        for that of p.
        """
        values = weight.values
        assert values is not None
        rows, columns = values.shape
        product = (values @ self.matrix @ values.T).tril_()
        matrix = product + product.tril(-1).T
        matrix.diagonal().add_(self.sizes(values).square_() * (1.01 * rows * gamma_n(2 * columns + 8)) + UNDERFLOW)
        return Gram(matrix, self.exponent + 2 * weight.exponent)

    def sizes(self, rows: Tensor) -> Tensor:
        """|w| sqrt(diag P) for each row w, an upper bound on sqrt(w^T P w); relative error below 2^-18."""
        return (rows.abs() @ self.matrix.diagonal().sqrt()) * (1.0 + 2.0**-19)


def largest_eigenvalue(gram: Gram) -> float:
    """Upper bound on the largest eigenvalue, in units of 2^exponent.

    >>> bool(3.0 <= largest_eigenvalue(Gram(torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64), 0)) <= 3.001)
    True
    """
    level = SpectralLevel(0.25 * UNDERFLOW)
    level.cover(gram.matrix[None].clone())
    return level.upper(len(gram.matrix))


def largest_difference(reach: Reach, weight: ScaledRows) -> tuple[float, int]:
    """Upper bound on ``(w_i - w_j)^T M M^T (w_i - w_j)`` over all rows and M, as a value and its binary exponent.

    With x_i = w_i - w_0 stored, G = fl(X P X^T) and p the `Reach.sizes` of the x_i, the form at x_i - x_j is
    G_ii + G_jj - 2 G_ij but for three more roundings and gamma_{2n+8} (p_i + p_j)^2.  Each entry of x_i is one
    subtraction, so w_i - w_j = x_i - x_j + e with |e| <= 1.01 u (|x_i| + |x_j|), and sqrt(e^T P e) <=
    1.01 u (p_i + p_j) adds to the root of the form.
    """
    assert weight.values is not None
    rows = weight.values - weight.values[0]
    product = rows @ reach.matrix @ rows.T
    squares = product.diagonal()
    forms = squares[:, None] + squares - product - product.T
    size = 2.0 * float(reach.sizes(rows).max())
    form = up(float(forms.max()) + up(1.01 * gamma_n(2 * rows.shape[1] + 16) * size * size)) + UNDERFLOW
    root = up(up(math.sqrt(up(form))) + 2.0 * UNIT * size) + UNDERFLOW
    return up(root * root), reach.exponent + 2 * weight.exponent
