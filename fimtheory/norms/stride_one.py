"""Exact reduction of a strided, dilated, grouped, zero-padded convolution to stride-one convolutions.

Dimensions are reduced one by one.  In one of them, output o = 0 .. n_out - 1, tap j = 0 .. k - 1, input position
s o + d j - p (zero outside the image).

1. g = gcd(s, d): every position read is -p modulo g, so the operator lives on that sublattice and s, d may be divided
   by g.
2. Now gcd(s, d) = 1.  Write o = d q + r with r = o mod d and j = s t + i with i = j mod s: the position is
   s d (q + t) + (s r + d i) - p.  By the Chinese remainder theorem (r, i) is determined by the position modulo s d, so
   distinct r read distinct inputs: the operator is the direct sum over r of stride-one convolutions in q, all with the
   kernel K'[i, t] = K[s t + i], the phase i being one more input channel, each with at most ceil(n_out / d) outputs.
3. If that number of outputs is 1, nothing is shared between windows and every tap is a channel of its own (s = k).

Zero padding restricts the inputs to those inside the image, which only deletes columns.  Hence the norm is at most the
norm of the stride-one convolution with all its inputs free, and equal to it when no window is cut by the padding.
Taps that never meet the image (wide dilations on small images) are dropped first: only the range of live taps is kept,
which shifts the input positions and changes nothing above.
Groups are a direct sum of operators, so the norm is the maximum over them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fimtheory.errors import ShapeError

__all__ = ["Geometry", "StrideOne"]

Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of a zero-padded cross-correlation of some dimensions, as in ``torch.nn.functional.conv2d``."""

    kernel_shape: Sizes
    input_size: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int

    def __post_init__(self) -> None:
        count = len(self.kernel_shape) - 2
        for name, sizes, least in (
            ("input_size", self.input_size, 1),
            ("stride", self.stride, 1),
            ("padding", self.padding, 0),
            ("dilation", self.dilation, 1),
        ):
            if len(sizes) != count or min(sizes) < least:
                raise ShapeError(f"{name} must be {count} integers, each at least {least}, got {sizes}")
        if min(self.kernel_shape) < 1:
            raise ShapeError(f"the kernel has shape {self.kernel_shape}: an empty operator has no norm")
        if self.groups < 1 or self.kernel_shape[0] % self.groups:
            raise ShapeError(f"{self.kernel_shape[0]} output channels cannot be split into {self.groups} groups")
        if min(self.output_size) < 1:
            raise ShapeError(
                f"a kernel of size {self.kernel_shape[2:]} with dilation {self.dilation} does not fit an input of size "
                f"{self.input_size} with padding {self.padding}"
            )

    @property
    def output_size(self) -> Sizes:
        """Number of outputs per dimension."""
        each = zip(self.input_size, self.kernel_shape[2:], self.stride, self.padding, self.dilation, strict=True)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in each)

    def placements(self, dimension: int, tap: int) -> tuple[Tensor, Tensor]:
        """Output indices whose window puts a tap inside the image, and the input indices on which it falls."""
        outputs = torch.arange(self.output_size[dimension], dtype=torch.int64, device="cpu")
        inputs = outputs * self.stride[dimension] + tap * self.dilation[dimension] - self.padding[dimension]
        inside = (inputs >= 0) & (inputs < self.input_size[dimension])
        return outputs[inside], inputs[inside]

    def live_taps(self, dimension: int) -> list[int]:
        """Taps that some window puts inside the image; the others only ever multiply padding.

        >>> Geometry((1, 1, 3, 3), (14, 40), (1, 1), (18, 18), (18, 18), 1).live_taps(0)
        [1]
        """
        return [t for t in range(self.kernel_shape[2 + dimension]) if len(self.placements(dimension, t)[0]) > 0]


@dataclass(frozen=True, slots=True)
class StrideOne:
    """Direct sum of stride-one convolutions with free inputs; the norm is the largest one over the groups.

    Attributes
    ----------
    kernel
        Shape (groups, outputs, inputs, *taps), float64.
    outputs
        Most output positions in one of the convolutions, per dimension.
    """

    kernel: Tensor
    outputs: Sizes

    @classmethod
    def of(cls, kernel: Tensor, geometry: Geometry) -> StrideOne:
        """Reduce a float64 kernel (c_out, c_in / groups, *taps) with some live tap in each dimension."""
        taps: list[int] = []
        phases: list[int] = []
        outputs: list[int] = []
        fill: list[int] = []
        for i, n_out in enumerate(geometry.output_size):
            live = geometry.live_taps(i)
            kernel = kernel.narrow(2 + i, live[0], live[-1] + 1 - live[0])
            common = math.gcd(geometry.stride[i], geometry.dilation[i])
            stride, dilation = geometry.stride[i] // common, geometry.dilation[i] // common
            size = kernel.shape[2 + i]
            shared = -(-n_out // dilation)
            phase = size if shared == 1 else min(stride, size)
            taps.append(-(-size // phase))
            phases.append(phase)
            outputs.append(shared)
            fill = [
                0,
                taps[-1] * phase - size,
                *fill,
            ]  # zero taps up to whole phases; torch begins at the last dimension
        c_out, c_in = kernel.shape[:2]
        both = [size for pair in zip(taps, phases, strict=True) for size in pair]
        split = torch.nn.functional.pad(kernel, fill).reshape(geometry.groups, c_out // geometry.groups, c_in, *both)
        dimensions = range(len(taps))
        merged = split.permute(0, 1, 2, *(4 + 2 * i for i in dimensions), *(3 + 2 * i for i in dimensions)).reshape(
            geometry.groups, c_out // geometry.groups, c_in * math.prod(phases), *taps
        )
        return cls(merged, tuple(outputs))

    @property
    def torus(self) -> Sizes:
        """Sides of a torus on which the circular convolution contains each of the operators as a submatrix.

        Outputs q = 0 .. n - 1 read inputs q + t = 0 .. n + k - 2, which are distinct modulo n + k - 1.  With a single
        tap (k = 1) windows do not overlap, and a side of 1 gives the same norm.
        """
        return tuple(1 if k == 1 else n + k - 1 for n, k in zip(self.outputs, self.kernel.shape[3:], strict=True))
