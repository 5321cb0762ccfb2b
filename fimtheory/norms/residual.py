r"""Certified norms for a residual branch W_m D_{m-1} ... D_1 W_1 beside a shortcut P, with slopes around a centre.

The D_i are diagonal with entries in [c_i - r_i, c_i + r_i], so that D_i = c_i I + r_i E_i with ||E_i|| <= 1.
Multiplied out, the product has one term for each set S of borders i at which E_i is taken, and c_i elsewhere.  The
empty set's is c W_m ... W_1 with c = c_1 ... c_{m-1}; any other cuts the maps into runs V_0, ..., V_q, each a product
of maps with no border between them, and is V_q E V_{q-1} ... E V_0 times its c_i and r_i.  A positive diagonal T_k
commutes with the E at its border, so

    ||P + W_m D_{m-1} ... D_1 W_1||  <=  ||P + c W_m ... W_1||
        +  sum over S of  prod_{i not in S} |c_i|  prod_{i in S} r_i  prod_k ||T_k^-1 V_k T_{k-1}||,   T_q = T_-1 = I.

`centred_residual` bounds the first norm and `equilibrated_product` the last product, for one S.

All maps are zero-padded cross-correlations; a linear layer is one with a single tap on a single position.  Two
decompositions are used, both functions choosing the same one from the sizes of the branch alone.

- Finite, where the matrices are small: the maps and P as they are, zero padding included.
- On the lattice: each map takes all positions to all positions, without a border.  What the next one reads beyond its
  output is zero in the network, which is one more value of D there, so 0 must lie in [c_i - r_i, c_i + r_i] unless the
  next map has no padding.  Then maps without an E between them are one cross-correlation: B reads its input at
  s_B o + j - p_B, A its own at s_A q + i - p_A, so together they read s_A s_B o + (s_A j + i) - (s_A p_B + p_A).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from fimtheory.errors import ShapeError
from fimtheory.norms.certified import CertifiedNorm, unscaled, zero_norm
from fimtheory.norms.convolutions import convolution
from fimtheory.norms.groups import ungrouped
from fimtheory.norms.matrices import dense
from fimtheory.norms.rounding import UNDERFLOW, UNIT, gamma_n, up
from fimtheory.norms.scaling import RowScale, scale_rows
from fimtheory.norms.stride_one import Geometry, Sizes
from fimtheory.norms.toeplitz import toeplitz

__all__ = ["Correlation", "centred_residual", "equilibrated_product"]

_SIDE = 1100  # finite matrices have at most this many rows and columns
_MOST_FACTOR = 2.0**60  # equilibration changes a channel by at most this factor


@dataclass(frozen=True, slots=True)
class Correlation:
    """A zero-padded cross-correlation without dilation, with an optional factor for each output channel.

    ``kernel`` has shape (c_out, c_in / groups, *taps).
    """

    kernel: Tensor
    stride: Sizes
    padding: Sizes
    row_scale: RowScale | None = None
    groups: int = 1

    def geometry(self, size: Sizes) -> Geometry:
        """Sizes of the map on an input of ``size``."""
        one = (1,) * len(self.stride)
        return Geometry(tuple(self.kernel.shape), size, self.stride, self.padding, one, self.groups)


@dataclass(frozen=True, slots=True)
class _Run:
    """Maps one after the other as a single one, in units of 2^exponent; a finite one is a matrix, a kernel of no taps.

    Attributes
    ----------
    values
        Kernel of shape (c_out, c_in / groups, *taps), float64.
    majorant
        Matrix (c_out, c_in) of the sums over taps of A, the composition of the kernels' absolute values.
    relative
        Each entry of ``values`` is within ``relative`` times that of A of the exact one.
    """

    values: Tensor
    majorant: Tensor
    stride: Sizes
    padding: Sizes
    groups: int
    exponent: int
    relative: float

    @classmethod
    def of(cls, given: Correlation, size: Sizes, name: str, *, finite: bool) -> _Run:
        rows = scale_rows(given.kernel.flatten(1), given.row_scale, name)
        zero = torch.zeros(given.kernel.shape, dtype=torch.float64)
        kernel = zero if rows.values is None else rows.values.reshape(given.kernel.shape)
        stride, padding, groups = given.stride, given.padding, given.groups
        if finite:
            kernel = torch.block_diag(*toeplitz(kernel, given.geometry(size)))
            stride, padding, groups = (), (), 1
        majorant = ungrouped(kernel.abs(), groups).flatten(2).sum(2) if stride else kernel.abs()
        relative = up(up(rows.entry_error + rows.scale_error) * (1.0 + 2.0**-20))
        return cls(kernel, majorant, stride, padding, groups, rows.exponent, relative)

    @property
    def magnitude(self) -> float:
        """Upper bound on the norm of every map whose kernel A dominates entrywise.

        That norm is at most that of the sums over taps.  Those, products of at most four of them and the squares, of
        fewer than 2^32 terms each, err by less than 2^-17.
        """
        return up(up(float(torch.linalg.vector_norm(self.majorant)) * (1.0 + 2.0**-16)) + UNDERFLOW)

    def then(self, other: _Run) -> _Run:
        """Return this run followed by another.

        The computed kernel of inner products of n terms errs by gamma_n A beyond what the errors of its factors make;
        16 further roundings are allowed for.
        """
        first, second = ungrouped(self.values, self.groups), ungrouped(other.values, other.groups)
        own = up(gamma_n(math.prod(second.shape[1:]) + 16) + other.relative)
        return _Run(
            _composite(first, second, self.stride),
            other.majorant @ self.majorant,
            tuple(a * b for a, b in zip(self.stride, other.stride, strict=True)),
            tuple(s * b + a for s, a, b in zip(self.stride, self.padding, other.padding, strict=True)),
            1,
            self.exponent + other.exponent,
            up(self.relative + up(own * up(1.0 + self.relative))),
        )

    def rows_multiplied(self, factors: Tensor) -> _Run:
        """Return the run with its outputs multiplied by factors, each with one rounding of its own."""
        values = self.values * factors.reshape(-1, *(1,) * (self.values.dim() - 1))
        return self._rescaled(values, self.majorant * factors[:, None])

    def columns_multiplied(self, factors: Tensor) -> _Run:
        """Return the run with its inputs multiplied by factors, each with one rounding of its own."""
        split = self.values.unflatten(0, (self.groups, -1))
        split = split * factors.reshape(self.groups, 1, -1, *(1,) * (split.dim() - 3))
        return self._rescaled(split.flatten(0, 1), self.majorant * factors)

    def _rescaled(self, values: Tensor, majorant: Tensor) -> _Run:
        relative = up(self.relative + 4.0 * UNIT * (1.0 + 2.0 * self.relative))
        return replace(self, values=values, majorant=majorant, relative=relative)

    def column_norms(self) -> Tensor:
        split = self.values.unflatten(0, (self.groups, -1)).transpose(1, 2)
        return torch.linalg.vector_norm(split.flatten(2), dim=2).flatten()

    def norm(self, size: Sizes, padding: Sizes) -> CertifiedNorm:
        """Norm of the stored map on an input of ``size``, with a padding of one's own."""
        if not self.stride:
            return dense(self.values)
        return convolution(self.values, size, stride=self.stride, padding=padding, groups=self.groups)


def centred_residual(
    branch: Sequence[Correlation], shortcut: Correlation, size: Sizes, centre: tuple[float, float]
) -> CertifiedNorm:
    """Norm of ``P + c W_m ... W_1`` for the maps W_1, ..., W_m of a branch and a shortcut P on an input of ``size``.

    Status: certified.  The matrix or the kernel of the sum is computed in float64, with the error that `_Run` states.

    Parameters
    ----------
    branch
        At least two maps, in the order in which they are applied.
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
    >>> norm = centred_residual([one, one], one, (1,), (0.5, 0.0))
    >>> 1.5 <= norm.upper <= 1.500001
    True
    """
    sizes = _sizes(branch, size)
    if shortcut.geometry(size).output_size != sizes[-1]:
        raise ShapeError("shortcut and branch have outputs of different sizes")
    finite = _finite(branch, sizes)
    whole = reduce(_Run.then, _stored(branch, sizes, finite=finite))
    straight = _Run.of(shortcut, size, "the shortcut", finite=finite)
    # Factors of at most 1; what underflows is below UNDERFLOW.
    unit = max(whole.exponent, straight.exponent)
    share, own = 2.0 ** (whole.exponent - unit), 2.0 ** (straight.exponent - unit)
    error = up(
        up(up(whole.magnitude * share) * up(up(abs(centre[0]) * whole.relative) + centre[1]))
        + up(straight.magnitude * own) * up(straight.relative + 4.0 * UNIT)
    )
    kernel = (centre[0] * share) * whole.values
    _place(kernel, own * ungrouped(straight.values, straight.groups), whole.padding, straight.padding)
    found = replace(whole, values=kernel, groups=1).norm(size, whole.padding)
    return unscaled(up(up(found.upper + up(error * (1.0 + 2.0**-18))) + UNDERFLOW), unit, f"{found.method} of a sum")


def equilibrated_product(runs: Sequence[Sequence[Correlation]], size: Sizes) -> CertifiedNorm:
    """The product of the ``||T_k^-1 V_k T_{k-1}||`` for a branch cut into the runs V_0, ..., V_q of maps.

    Status: certified for T_k near ``sqrt(||row_k|| / ||column_k||)``, of the runs before and after the cut and over its
    channels, from the first cut to the last: the choice that would balance two factors in the Frobenius norm; and for
    the powers of two nearest to them, of which the smaller product is returned.  The roundings of T and of its inverse
    count as errors of the entries.

    Parameters
    ----------
    runs
        At least two, of at least one map each, in the order in which they are applied.

    Raises
    ------
    NonFiniteError
        A weight is NaN or infinite, or the norm is beyond float64.

    >>> small = Correlation(torch.tensor([[[1.0]], [[1024.0]]]), (1,), (0,))
    >>> large = Correlation(torch.tensor([[[1024.0], [1.0]]]), (1,), (0,))
    >>> equilibrated_product([[small], [large]], (1,)).upper < 2049
    True
    """
    branch = [given for run in runs for given in run]
    sizes = _sizes(branch, size)
    finite = _finite(branch, sizes)
    stored = _stored(branch, sizes, finite=finite)
    if not all(each.majorant.any() for each in stored):
        return zero_norm()
    rest = iter(stored)
    parts = [reduce(_Run.then, itertools.islice(rest, len(run))) for run in runs]
    positions = [math.prod(sizes[k]) if finite else 1 for k in itertools.accumulate(map(len, runs[:-1]))]
    norms = [_product(_balanced(parts, positions, even=even), size, sizes[-1]) for even in (False, True)]
    return min(norms, key=lambda norm: norm.upper)


def _product(parts: Sequence[_Run], size: Sizes, outputs: Sizes) -> CertifiedNorm:
    """The product of the norms of runs one after the other, on an input of ``size`` and up to ``outputs`` positions."""
    norms, span = list[CertifiedNorm](), outputs
    for part in reversed(parts[1:]):
        span = _read_by(part, span)
        norms.insert(0, part.norm(span, (0,) * len(span)))
    norms.insert(0, parts[0].norm(size, _everywhere(parts[0])))
    value = 1.0
    for norm, part in zip(norms, parts, strict=True):
        value = up(value * up(up(norm.upper + up(part.relative * part.magnitude)) + UNDERFLOW))
    methods = " and ".join(dict.fromkeys(norm.method for norm in norms))
    return unscaled(value, sum(part.exponent for part in parts), f"{methods}, balanced")


def _balanced(runs: Sequence[_Run], positions: Sequence[int], *, even: bool) -> list[_Run]:
    """Runs with a diagonal and its inverse at each cut, from the first to the last; of powers of two where ``even``.

    Powers of two leave nearly equal channels alone, which may serve the spectral norm better.
    """
    parts = list(runs)
    for k, count in enumerate(positions):
        factors = _balance(parts[k], parts[k + 1], count)
        factors = 2.0 ** factors.log2().round() if even else factors
        parts[k] = parts[k].rows_multiplied(1.0 / factors)
        parts[k + 1] = parts[k + 1].columns_multiplied(factors)
    return parts


def _balance(before: _Run, after: _Run, positions: int) -> Tensor:
    """Factors that make columns of the second as long as rows of the first, 1 where either are zero.

    All ``positions`` of a channel have the same factor.
    """
    rows = torch.linalg.vector_norm(before.values.unflatten(0, (-1, positions)).flatten(1), dim=1)
    columns = torch.linalg.vector_norm(after.column_norms().unflatten(0, (-1, positions)), dim=1)
    factors = (rows / columns).sqrt().nan_to_num(0.0, 0.0, 0.0)
    usable = torch.where(factors > 0.0, factors.clamp(1.0 / _MOST_FACTOR, _MOST_FACTOR), 1.0)
    return usable.repeat_interleave(positions)


def _sizes(branch: Sequence[Correlation], size: Sizes) -> list[Sizes]:
    """Numbers of positions before the first map and after each."""
    sizes = [size]
    for given in branch:
        sizes.append(given.geometry(sizes[-1]).output_size)
    return sizes


def _finite(branch: Sequence[Correlation], sizes: Sequence[Sizes]) -> bool:
    channels = (branch[0].kernel.shape[1] * branch[0].groups, *(given.kernel.shape[0] for given in branch))
    return max(count * math.prod(size) for count, size in zip(channels, sizes, strict=True)) <= _SIDE


def _stored(branch: Sequence[Correlation], sizes: Sequence[Sizes], *, finite: bool) -> list[_Run]:
    each = enumerate(zip(branch, sizes, strict=False), start=1)
    return [_Run.of(given, size, f"kernel {k} of the branch", finite=finite) for k, (given, size) in each]


def _composite(first: Tensor, second: Tensor, stride: Sizes) -> Tensor:
    """Kernel of the second correlation after the first, which moves by ``stride``: the sum over s j + i of B_j A_i."""
    sizes = tuple(s * (b - 1) + a for s, a, b in zip(stride, first.shape[2:], second.shape[2:], strict=True))
    made = torch.zeros((second.shape[0], first.shape[1], *sizes), dtype=torch.float64)
    for tap in itertools.product(*(range(b) for b in second.shape[2:])):
        window = tuple(slice(s * j, s * j + a) for s, j, a in zip(stride, tap, first.shape[2:], strict=True))
        made[:, :, *window] += torch.einsum("oh,hi...->oi...", second[:, :, *tap], first)
    return made


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


def _everywhere(run: _Run) -> Sizes:
    """Padding, whole strides more than the run's own, with which every window that meets the input is an output."""
    each = zip(run.values.shape[2:], run.stride, run.padding, strict=True)
    return tuple(p + s * max(0, -(-(k - 1 - p) // s)) for k, s, p in each)


def _read_by(run: _Run, outputs: Sizes) -> Sizes:
    """How many positions a number of outputs in a row read; a matrix has no positions."""
    each = zip(run.values.shape[2:], run.stride, outputs, strict=False)
    return tuple(s * (n - 1) + k for k, s, n in each)
