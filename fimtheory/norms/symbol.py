"""Gram matrices of the Fourier symbol of a stride-one convolution, with an a priori error bound.

The symbol is K(w) = sum_j A_j exp(-i j.w) for the taps A_j (n x m).  Its Gram matrix on the smaller side is

    K(w) K(w)^H = sum_l exp(-i l.w) G_l,   G_l = sum_j A_{j+l} A_j^T,   G_{-l} = G_l^T,

a trigonometric sum over the few lags l of the kernel's autocorrelation, which costs far less per frequency than
multiplying symbols.  With l over half of the lags, in real arithmetic:

    Re = G_0 + sum_{l>0} cos(l.w) (G_l + G_l^T),   Im = - sum_{l>0} sin(l.w) (G_l - G_l^T).

Error.  Write B = sum_j |A_j|; the sum over all lags l of sum_j |A_{j+l}| |A_j|^T is B B^T.  A computed G_l is a matrix
of inner products of q <= m k terms, k the number of taps; G_l +- G_l^T adds one rounding; a computed cosine or sine is
within `COSINE` of the exact one; the sum over T lags is an inner product.  Entrywise, each of Re and Im errs by at most

    [ gamma_{q+1} + (gamma_T + COSINE) (1 + gamma_{q+1}) ] B B^T,

a complex entry by at most sqrt(2) times that, and a matrix dominated entrywise by x B B^T has norm at most
x ||B||_2^2 <= x ||B||_F^2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fimtheory.norms.rounding import UNDERFLOW, gamma_n, up

__all__ = ["COSINE", "GramSymbol", "half_grid"]

COSINE = 2.0**-48
"""Error of a computed cosine or sine of 2 pi f, |f| <= 1/2: the angle errs by three roundings, 3 u pi < 10 u, and the
library function by at most four units in the last place of 1, 8 u; 32 u is allowed."""

_CHUNK_ENTRIES = 2**19  # complex Gram entries held at a time: 8 MiB, which stays near the cache and the heap


class GramSymbol:
    """Gram matrices of the symbol of a kernel (groups, outputs, inputs, *taps), on the smaller side.

    Attributes
    ----------
    order
        n, the smaller of outputs and inputs.
    magnitude
        Upper bound on the norm of sum_j |A_j| over the groups: on the norm of any convolution whose kernel is
        dominated entrywise by this one, divided by the factor of domination.
    gram_error
        Upper bound on the spectral norm of the error of any computed Gram matrix.

    >>> symbol = GramSymbol(torch.ones(1, 1, 1, 3, 1, dtype=torch.float64))
    >>> [round(g.abs().max().item(), 12) for g in symbol.chunks((4, 1))]
    [9.0]
    """

    def __init__(self, kernel: Tensor) -> None:
        # The transposed symbol has the same norm, and conjugating all frequencies permutes them.
        taps = kernel if kernel.shape[1] <= kernel.shape[2] else kernel.transpose(1, 2)
        groups, n, m, *sizes = taps.shape
        lags: list[tuple[int, ...]] = []
        even: list[Tensor] = []
        odd: list[Tensor] = []
        for lag in _half_lags(sizes):
            ahead = taps[:, :, :, *(slice(max(0, t), k + min(0, t)) for t, k in zip(lag, sizes, strict=True))]
            behind = taps[:, :, :, *(slice(max(0, -t), k + min(0, -t)) for t, k in zip(lag, sizes, strict=True))]
            product = ahead.flatten(2) @ behind.flatten(2).mT
            lags.append(lag)
            even.append(product + product.mT if any(lag) else product)
            odd.append(product.mT - product)
        self.order = n
        self._groups = groups
        self._lags = torch.tensor(lags, dtype=torch.int64, device="cpu")
        self._even = torch.stack(even).flatten(1)
        self._odd = torch.stack(odd).flatten(1)
        self._odd[0] = 0.0  # lag 0 has no imaginary part
        # The Frobenius norm errs by less than 2^-19 relative: a rounding for each tap, fewer than 2^32 squares.
        block = torch.linalg.vector_norm(taps.abs().flatten(3).sum(3), dim=(1, 2))
        self.magnitude = up(up(float(block.max()) * (1.0 + 2.0**-18)) + UNDERFLOW)
        products = gamma_n(m * math.prod(sizes) + 4)
        relative = 1.5 * (products + (gamma_n(len(lags) + 4) + COSINE) * (1.0 + products))
        self.gram_error = up(up(relative * (1.0 + 2.0**-20)) * up(self.magnitude * self.magnitude))

    def chunks(self, sides: tuple[int, ...]) -> Iterator[Tensor]:
        """Yield computed Gram matrices, complex (b, n, n), at the frequencies 2 pi (a_1 / N_1, ...) of a grid.

        Opposite frequencies have conjugate Gram matrices, with the same eigenvalues, so one of each pair is visited.
        The order is shuffled: the first chunk then samples the whole torus and sets a nearly final level.
        """
        grid = half_grid(sides)
        generator = torch.Generator("cpu").manual_seed(0)
        order = torch.randperm(grid.shape[1], generator=generator, device="cpu")
        n, points = self.order, math.prod(sides)
        weights = torch.tensor([points // side for side in sides], dtype=torch.int64, device="cpu")[:, None]
        for chosen in order.split(max(1, _CHUNK_ENTRIES // (self._groups * n * n))):
            # Integer arithmetic reduces l.w modulo 2 pi exactly; then |turns| <= 1/2.
            numerator = (self._lags @ (grid[:, chosen] * weights)).T % points
            turns = torch.where(2 * numerator > points, numerator - points, numerator).to(torch.float64) / points
            angle = turns * (2.0 * math.pi)
            gram = torch.empty((len(chosen), self._even.shape[1]), dtype=torch.complex128, device="cpu")
            gram.real = torch.cos(angle) @ self._even
            gram.imag = torch.sin(angle) @ self._odd
            yield gram.view(-1, n, n)


def _half_lags(sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Zero and one of each pair of opposite lags between taps: the one whose first nonzero entry is positive.

    >>> list(_half_lags((2, 2)))
    [(0, 0), (0, 1), (1, -1), (1, 0), (1, 1)]
    """
    for lag in itertools.product(*(range(1 - size, size) for size in sizes)):
        if lag >= (0,) * len(lag):
            yield lag


def half_grid(sides: Sequence[int]) -> Tensor:
    """One of each pair of opposite points a, -a of the grid Z_N1 x Z_N2 x ..., as columns.

    >>> half_grid((2, 3)).tolist()
    [[0, 0, 1, 1], [0, 1, 0, 1]]
    """
    index = torch.arange(math.prod(sides), dtype=torch.int64, device="cpu")
    grid, opposite = index.new_empty(len(sides), len(index)), torch.zeros_like(index)
    rest = index
    for dimension in reversed(range(len(sides))):
        grid[dimension], rest = rest % sides[dimension], rest // sides[dimension]
    for dimension, side in enumerate(sides):
        opposite = opposite * side + -grid[dimension] % side
    return grid[:, index <= opposite]
