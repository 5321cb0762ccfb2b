r"""What a network is made of when the Jacobians of all its live nodes are bounded jointly: a program of steps.

The state is the vector of the values that are still to be read, on a torus (`torus`) or, where the torus is a point,
as one vector.  Its Jacobian M by the entry is a product of the factors below, some of them unknown but admissible; a
bound on the network is a bound on M M^* carried from step to step (`proved`), for any multipliers (`trial` finds good
ones).

Images on a torus.  An image of n positions lies at 0, ..., n - 1 of a side N, and the network's values elsewhere, which
its zero padding reads, are zero.  A correlation of an image that is zero elsewhere is right inside the next image if N
leaves room for what the padding reads; outside, it holds numbers that the network does not have.  Setting those to zero
is one more factor between 0 and 1 for each position, so where 0 is an admissible slope the activation does it, and
where a maximum over a window may be taken with a factor in [0, 1] the pooling does.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fimtheory.norms.rounding import UNIT, gamma_n
from fimtheory.norms.symbol import COSINE
from fimtheory.norms.torus import Sides, Torus

__all__ = ["Activation", "Linear", "Maximum", "Program", "Readout", "Step", "remainder"]


@dataclass(frozen=True, slots=True)
class Linear:
    """New coordinates from some of the state, by a correlation, followed by coordinates that are kept.

    ``taps`` has shape (new, len(sources), count) and ``offsets`` (count, 2); each entry of the exact taps is within
    ``relative``, relative, of the stored one.  Every ``stride``-th position is kept; then nothing else is.
    """

    taps: Tensor
    offsets: Tensor
    sources: Tensor
    kept: Tensor
    relative: float = 0.0
    stride: Sides = (1, 1)

    @property
    def size(self) -> int:
        """Number of coordinates after the step."""
        return len(self.taps) + len(self.kept)

    def symbol(self, torus: Torus, frequencies: Tensor) -> Tensor:
        """Symbols at frequencies given as columns, shape (frequencies, new, sources)."""
        new, old, count = self.taps.shape
        if torus.is_point and count == 1:
            return self.taps[None, :, :, 0]
        phases = torus.phases(frequencies, self.offsets)
        return (phases @ self.taps.reshape(-1, count).T.to(phases.dtype)).reshape(-1, new, old)

    @property
    def magnitude(self) -> Tensor:
        """Sum of the magnitudes of the taps, rounded up: entrywise above every exact and computed symbol.

        A sum of fewer than 2^20 magnitudes errs by less than 2^-30, relative.
        """
        return self.taps.abs().sum(-1) * (1.0 + 2.0**-20)

    @property
    def error(self) -> float:
        """Bound on the error of a computed symbol's entry, in units of `magnitude`.

        Of the real and of the imaginary part, an inner product of ``count`` terms with one factor within `COSINE`,
        after the error of the taps; both together at most sqrt(2) times that.
        """
        return 1.5 * (gamma_n(self.taps.shape[2] + 4) + COSINE) + self.relative * (1.0 + 2.0**-20)


@dataclass(frozen=True, slots=True)
class Activation:
    """Factors c +- r, r > 0, on the first coordinates of the state, at every position another."""

    centre: Tensor
    radius: Tensor

    @property
    def count(self) -> int:
        """Number of coordinates concerned."""
        return len(self.centre)

    window = 1


@dataclass(frozen=True, slots=True)
class Maximum:
    """Of each window one entry is kept, times a factor in [0, 1].

    The first ``window * count`` coordinates are entry k of the windows of channel j, at k count + j; ``count``
    coordinates replace them.  Max pooling of what an activation with slopes in [0, 1] gives is one such step.
    """

    window: int
    count: int


@dataclass(frozen=True, slots=True)
class Readout:
    """From every channel of the state the same combinations of positions, all that is left: the torus becomes a point.

    ``weights`` has shape (combinations, positions) and ``offsets`` holds the positions; coordinate (c, o) of the result
    is number c * combinations + o.
    """

    weights: Tensor
    offsets: Tensor


Step = Linear | Activation | Maximum | Readout


@dataclass(frozen=True, slots=True)
class Program:
    """The entry's torus and number of channels, and the steps."""

    torus: Torus
    channels: int
    steps: tuple[Step, ...]


def remainder(step: Maximum, slack: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    r"""Centre t and remainder rho of a maximum, for multipliers K = alpha I + beta 1 1^T on every window.

    The selected row of a window of q entries is v s, with s in the convex hull of 0 and the unit vectors, so that
    |s|^2 <= 1.s and (1.s)^2 <= 1.s with 0 <= 1.s <= 1.  For e = s - t 1,

        e^T K e = alpha |s|^2 + beta (1.s)^2 - 2 t (alpha + q beta) 1.s + t^2 q (alpha + q beta)
               <= |alpha + beta - 2 t (alpha + q beta)| + t^2 q (alpha + q beta)  =  rho.

    The first term vanishes at t = (alpha + beta) / (2 (alpha + q beta)); fewer than 16 roundings of nonnegative terms,
    and a difference of two that are at most 2 (alpha + beta), are covered by 64 u rho and 16 u (alpha + beta).
    """
    alpha, beta = slack
    q = float(step.window)
    whole = alpha + q * beta
    t = (alpha + beta) / (2.0 * whole)
    rho = t * t * q * whole + (alpha + beta - 2.0 * t * whole).abs()
    return t, rho * (1.0 + 64.0 * UNIT) + (alpha + beta) * (16.0 * UNIT)
