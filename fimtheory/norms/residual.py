r"""Certified norms for a residual branch B D A with its shortcut P, where D is diagonal with entries around a centre c.

    ||P + B D A|| <= ||P + c B A|| + r ||B T|| ||T^-1 A||,     entries of D in [c - r, c + r], T positive diagonal,

because B D A = c B A + r (B T) E (T^-1 A) with E = (D - c) / r diagonal, which commutes with T and has norm at most 1.
`centred_residual` bounds the first norm and `equilibrated_product` the product of the other two.

All maps are zero-padded cross-correlations; a linear layer is one with a single tap on a single position.  Two
decompositions are used, both functions choosing the same one from the sizes alone.

- Finite, where the matrices are small: A, B and P as they are, zero padding included.
- On the lattice: A maps the image to all positions, without a border, and B reads all positions.  What B reads beyond
  the output of A is zero in the network, which is one more value of D there, so 0 must lie in [c - r, c + r].  Then B A
  is one cross-correlation: B reads its input at s_B o + j - p_B, A its own at s_A q + i - p_A, so together they read
  s_A s_B o + (s_A j + i) - (s_A p_B + p_A).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fimtheory.errors import ShapeError
from fimtheory.norms.certified import CertifiedNorm, unscaled, zero_norm
from fimtheory.norms.convolutions import convolution
from fimtheory.norms.matrices import dense
from fimtheory.norms.rounding import UNDERFLOW, UNIT, gamma_n, up
from fimtheory.norms.scaling import RowScale, scale_rows
from fimtheory.norms.stride_one import Geometry, Sizes
from fimtheory.norms.toeplitz import toeplitz

__all__ = ["Correlation", "centred_residual", "equilibrated_product"]

_SIDE = 1100  # finite matrices have at most this many rows and columns
_MOST_SHIFT = 60  # equilibration changes a channel by at most this power of two


@dataclass(frozen=True, slots=True)
class Correlation:
    """A zero-padded cross-correlation without groups and dilation, with an optional factor for each output channel.

    ``kernel`` has shape (c_out, c_in, *taps).
    """

    kernel: Tensor
    stride: Sizes
    padding: Sizes
    row_scale: RowScale | None = None

    def geometry(self, size: Sizes) -> Geometry:
        """Sizes of the map on an input of ``size``."""
        one = (1,) * len(self.stride)
        return Geometry(tuple(self.kernel.shape), size, self.stride, self.padding, one, 1)


@dataclass(frozen=True, slots=True)
class _Stored:
    """A kernel with the factors of its outputs, in units of 2^exponent.

    ``relative`` bounds the relative error of its entries, ``magnitude`` the norm of every cross-correlation whose
    kernel this one dominates entrywise.
    """

    values: Tensor
    exponent: int
    relative: float
    magnitude: float

    @classmethod
    def of(cls, given: Correlation, name: str) -> _Stored:
        rows = scale_rows(given.kernel.flatten(1), given.row_scale, name)
        if rows.values is None:
            return cls(torch.zeros(given.kernel.shape, dtype=torch.float64), 0, 0.0, 0.0)
        values = rows.values.reshape(given.kernel.shape)
        return cls(values, rows.exponent, up(up(rows.entry_error + rows.scale_error) * (1.0 + 2.0**-20)), _size(values))


def _size(kernel: Tensor) -> float:
    """Upper bound on ``|| sum_t |K_t| ||_F``: sums and squares of fewer than 2^32 terms err by less than 2^-19."""
    total = float(torch.linalg.vector_norm(kernel.abs().flatten(2).sum(2)))
    return up(up(total * (1.0 + 2.0**-18)) + UNDERFLOW)


def centred_residual(
    first: Correlation, second: Correlation, shortcut: Correlation, size: Sizes, centre: tuple[float, float]
) -> CertifiedNorm:
    """Norm of ``P + c B A`` for a branch A (``first``), B (``second``) and a shortcut P on an input of ``size``.

    Status: certified.  The matrix or the kernel of P + c B A is computed in float64.  Each of its entries is an inner
    product of m terms, with an error of at most ``gamma_m`` times that of the absolute values, whose operator has norm
    at most the product of the two kernels' magnitudes.

    Parameters
    ----------
    shortcut
        P; the identity has the kernel I on a single tap.
    centre
        c as a float, and a bound on its error.

    Raises
    ------
    ShapeError
        Shortcut and branch do not have outputs of one shape, or the shortcut reads beyond the branch.
    NonFiniteError
        A weight is NaN or infinite, or the norm is beyond float64.

    >>> one = Correlation(torch.ones(1, 1, 1), (1,), (0,))
    >>> norm = centred_residual(one, one, one, (1,), (0.5, 0.0))
    >>> 1.5 <= norm.upper <= 1.500001
    True
    """
    inner, outer = _Stored.of(first, "the first kernel"), _Stored.of(second, "the second kernel")
    straight = _Stored.of(shortcut, "the shortcut")
    middle = first.geometry(size).output_size
    if shortcut.geometry(size).output_size != second.geometry(middle).output_size:
        raise ShapeError("shortcut and branch have outputs of different sizes")
    # Factors of at most 1; what underflows is below UNDERFLOW.
    unit = max(inner.exponent + outer.exponent, straight.exponent)
    share, own = 2.0 ** (inner.exponent + outer.exponent - unit), 2.0 ** (straight.exponent - unit)
    terms = second.kernel.shape[1] * max(math.prod(second.kernel.shape[2:]), math.prod(middle))
    relative = up(gamma_n(terms + 16) + up(inner.relative + outer.relative))
    branch = up(up(inner.magnitude * outer.magnitude) * share)
    error = up(
        up(branch * up(up(abs(centre[0]) * relative) + centre[1]))
        + up(straight.magnitude * own) * up(straight.relative + 4.0 * UNIT)
    )
    if _finite(first, second, size):
        sum_ = _matrix(inner, first, size)
        sum_ = (centre[0] * share) * (_matrix(outer, second, middle) @ sum_) + own * _matrix(straight, shortcut, size)
        found = dense(sum_)
    else:
        kernel = (centre[0] * share) * _composite(inner.values, outer.values, first.stride)
        _place(kernel, own * straight.values, _padding(first, second), shortcut.padding)
        stride = tuple(a * b for a, b in zip(first.stride, second.stride, strict=True))
        found = convolution(kernel, size, stride=stride, padding=_padding(first, second))
    return unscaled(up(up(found.upper + up(error * (1.0 + 2.0**-18))) + UNDERFLOW), unit, f"{found.method} of a sum")


def equilibrated_product(first: Correlation, second: Correlation, size: Sizes) -> CertifiedNorm:
    """The product ``||B T|| ||T^-1 A||`` with T = diag(t) over the channels between A (``first``) and B (``second``).

    Status: certified for T = powers of two near ``sqrt(||row_k A|| / ||column_k B||)``, the choice that would balance
    the two factors in the Frobenius norm; multiplying by powers of two is exact.

    Raises
    ------
    NonFiniteError
        A weight is NaN or infinite, or the norm is beyond float64.

    >>> small = Correlation(torch.tensor([[[1.0]], [[1024.0]]]), (1,), (0,))
    >>> large = Correlation(torch.tensor([[[1024.0], [1.0]]]), (1,), (0,))
    >>> equilibrated_product(small, large, (1,)).upper < 2049
    True
    """
    inner, outer = _Stored.of(first, "the first kernel"), _Stored.of(second, "the second kernel")
    if inner.magnitude == 0.0 or outer.magnitude == 0.0:
        return zero_norm()
    shift = _balance(inner.values, outer.values)
    tail = (1,) * (inner.values.dim() - 2)
    left = outer.values * shift.reshape(1, -1, *tail)
    right = inner.values / shift.reshape(-1, 1, *tail)
    middle = first.geometry(size).output_size
    if _finite(first, second, size):
        norms = [
            dense(toeplitz(left, second.geometry(middle))[0]),
            dense(toeplitz(right, first.geometry(size))[0]),
        ]
    else:
        room = tuple(n + 2 * p for n, p in zip(middle, second.padding, strict=True))
        norms = [
            convolution(left, room, stride=second.stride),
            convolution(right, size, stride=first.stride, padding=_everywhere(first)),
        ]
    value = 1.0
    for norm, kernel, stored in zip(norms, (left, right), (outer, inner), strict=True):
        value = up(value * up(up(norm.upper + up(stored.relative * _size(kernel))) + UNDERFLOW))
    methods = " and ".join(dict.fromkeys(norm.method for norm in norms))
    return unscaled(value, inner.exponent + outer.exponent, f"{methods}, balanced")


def _balance(first: Tensor, second: Tensor) -> Tensor:
    """Powers of two near the balancing factors; 1 where a channel is not read or zero."""
    rows = torch.linalg.vector_norm(first.flatten(1), dim=1)
    columns = torch.linalg.vector_norm(second.transpose(0, 1).flatten(1), dim=1)
    exponent = (0.5 * (rows / columns).log2()).nan_to_num(0.0, 0.0, 0.0).round().clamp(-_MOST_SHIFT, _MOST_SHIFT)
    return 2.0**exponent


def _finite(first: Correlation, second: Correlation, size: Sizes) -> bool:
    middle = first.geometry(size).output_size
    sides = (
        first.kernel.shape[1] * math.prod(size),
        first.kernel.shape[0] * math.prod(middle),
        second.kernel.shape[0] * math.prod(second.geometry(middle).output_size),
    )
    return max(sides) <= _SIDE


def _matrix(stored: _Stored, given: Correlation, size: Sizes) -> Tensor:
    return toeplitz(stored.values, given.geometry(size))[0]


def _composite(first: Tensor, second: Tensor, stride: Sizes) -> Tensor:
    """Kernel of the second correlation after the first, which moves by ``stride``: the sum over s j + i of B_j A_i."""
    sizes = tuple(s * (b - 1) + a for s, a, b in zip(stride, first.shape[2:], second.shape[2:], strict=True))
    made = torch.zeros((second.shape[0], first.shape[1], *sizes), dtype=torch.float64)
    for tap in itertools.product(*(range(b) for b in second.shape[2:])):
        window = tuple(slice(s * j, s * j + a) for s, j, a in zip(stride, tap, first.shape[2:], strict=True))
        made[:, :, *window] += torch.einsum("oh,hi...->oi...", second[:, :, *tap], first)
    return made


def _padding(first: Correlation, second: Correlation) -> Sizes:
    return tuple(s * b + a for s, a, b in zip(first.stride, first.padding, second.padding, strict=True))


def _place(kernel: Tensor, other: Tensor, padding: Sizes, other_padding: Sizes) -> None:
    """Add a kernel to another where its taps read the same positions."""
    starts = [p - q for p, q in zip(padding, other_padding, strict=True)]
    each = zip(starts, kernel.shape[2:], other.shape[2:], strict=True)
    if other.shape[:2] != kernel.shape[:2] or any(a < 0 or a + k > n for a, n, k in each):
        raise ShapeError(
            f"a shortcut with kernel {tuple(other.shape)} reads beyond a branch with {tuple(kernel.shape)}"
        )
    window = tuple(slice(a, a + k) for a, k in zip(starts, other.shape[2:], strict=True))
    kernel[:, :, *window] += other


def _everywhere(given: Correlation) -> Sizes:
    """Padding, whole strides more than the map's own, with which every window that meets the input is an output."""
    each = zip(given.kernel.shape[2:], given.stride, given.padding, strict=True)
    return tuple(p + s * max(0, -(-(k - 1 - p) // s)) for k, s, p in each)
