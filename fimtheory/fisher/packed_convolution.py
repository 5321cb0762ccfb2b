"""Convolutions on the CPU whose weights are laid out for oneDNN (mkldnn in torch) once, not at every call.

oneDNN multiplies blocked copies of the weights.  torch makes that copy anew in each call, which is most of the time of
a convolution with many channels on a small image, and iterations apply the same ones many times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

__all__ = ["Geometry", "PackedConvolution", "PackedConvolutions", "packs"]

_MOST_WASTED = 1.5
"""Multiplications of `_Phases` per one needed, above which torch's own transpose is the faster one."""


def packs(x: Tensor) -> bool:
    """Whether convolutions of arrays like x are packed."""
    mkldnn = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    return mkldnn and x.ndim == 4 and x.dtype == torch.float32 and x.device.type == "cpu"


@dataclass(frozen=True)
class Geometry:
    """Stride and padding, two of each, and the groups of a convolution, as ``torch.conv2d`` takes them."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int

    def output(self, shape: torch.Size, weight: Tensor) -> torch.Size:
        """Return the shape of the output for arguments of a shape."""
        sides = (
            (side + 2 * padding - size) // stride + 1
            for side, size, stride, padding in zip(shape[2:], weight.shape[2:], self.stride, self.padding, strict=True)
        )
        return torch.Size((shape[0], len(weight), *sides))

    @property
    def arguments(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
        """In the order of oneDNN's operators."""
        return self.padding, self.stride, (1, 1), self.groups


class PackedConvolutions:
    """The packed convolutions of a module: each weight is laid out once for all passes."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int, Geometry], PackedConvolution] = {}

    def find(
        self, x: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
    ) -> PackedConvolution | None:
        """Return the convolution of arrays like x, or None where oneDNN does not apply.

        Kernels with gaps and padding as wide as a kernel are left to torch: with both strides and gaps oneDNN reads
        beyond its arrays (torch 2.13).
        """
        usual = dilation == [1, 1] and all(p < size for p, size in zip(padding, weight.shape[2:], strict=False))
        if not (packs(x) and packs(weight) and usual) or 0 in (x.numel(), weight.numel()) or weight.is_inference():
            return None
        geometry = Geometry(tuple(stride), tuple(padding), groups)
        key = (id(weight), weight._version, geometry)  # a weight that is held here keeps its id
        if key not in self._made:
            self._made[key] = PackedConvolution(weight, geometry, x.shape)
        return self._made[key]


class PackedConvolution:
    """``x -> conv2d(x, weight) + bias``, in float32 on the CPU.

    Parameters
    ----------
    weight : Tensor
        ``(out, in / groups, *kernel)``.
    geometry : Geometry
        Of the convolution.
    shape : torch.Size
        Of the arguments, ``(B, in, H, W)``: layouts are chosen for it; others work as well.
    """

    def __init__(self, weight: Tensor, geometry: Geometry, shape: torch.Size) -> None:
        self._weight, self._geometry, self._shape = weight, geometry, shape
        self._packed = _Packed(weight, geometry, shape)

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return ``conv2d(x, weight) + bias`` in the layout of x, as torch does."""
        return self._packed(x, bias)

    @cached_property
    def transpose(self) -> Callable[[Tensor, torch.Size], Tensor] | None:
        """The transpose into images of given sides, where convolutions give it at little more than its cost."""
        weight, geometry, (height, width) = self._weight, self._geometry, self._weight.shape[2:]
        step, other = geometry.stride
        if step == other == 1:
            padding = height - 1 - geometry.padding[0], width - 1 - geometry.padding[1]
            return _Flipped(weight, geometry, padding, self._shape)
        padded = -(-height // step) * -(-width // step) * step**2
        if step != other or padded > _MOST_WASTED * height * width:
            return None
        return _Phases(weight, geometry, self._shape)


class _Packed:
    def __init__(self, weight: Tensor, geometry: Geometry, shape: torch.Size) -> None:
        self._geometry = geometry.arguments
        self._blocks = torch.ops.aten.mkldnn_reorder_conv2d_weight(weight.to_mkldnn(), *self._geometry, list(shape))

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        bias = None if bias is None else bias.contiguous()  # the operator reads it as if it were
        result = torch.ops.mkldnn._convolution_pointwise(x, self._blocks, bias, *self._geometry, "none", [], "")
        return result.contiguous() if x.is_contiguous() else result


class _Flipped:
    """The transpose of a convolution with stride 1: one with the kernel turned round."""

    def __init__(self, weight: Tensor, geometry: Geometry, padding: tuple[int, ...], shape: torch.Size) -> None:
        kernel = weight.flip(2, 3).unflatten(0, (geometry.groups, -1)).transpose(1, 2).flatten(0, 1).contiguous()
        self._convolution = _Packed(kernel, replace(geometry, padding=padding), geometry.output(shape, weight))

    def __call__(self, y: Tensor, sides: torch.Size) -> Tensor:
        return self._convolution(y)


class _Phases:
    """The transpose of a convolution with stride s: one with stride 1 into s^2 phases of the image, interleaved.

    Row i of the image meets row ``t = i + p - s o`` of the kernel for row o of the argument, p the padding.  With
    ``i + p = s m + r`` that is ``t = s j + r``, ``j = m - o``: for each phase r a convolution over m.
    """

    def __init__(self, weight: Tensor, geometry: Geometry, shape: torch.Size) -> None:
        self._step, self._padding = geometry.stride[0], geometry.padding
        height, width = (-(-size // self._step) for size in weight.shape[2:])
        missing = width * self._step - weight.shape[3], height * self._step - weight.shape[2]
        whole = F.pad(weight, (0, missing[0], 0, missing[1])).unflatten(0, (geometry.groups, -1))
        taps = whole.unflatten(4, (width, self._step)).unflatten(3, (height, self._step))  # g, out, in, j, r, j, r
        kernel = taps.permute(0, 2, 4, 6, 1, 3, 5).flatten(0, 3).flip(2, 3).contiguous()
        everywhere = Geometry((1, 1), (height - 1, width - 1), geometry.groups)
        self._into_phases = _Packed(kernel, everywhere, geometry.output(shape, weight))

    def __call__(self, y: Tensor, sides: torch.Size) -> Tensor:
        image = F.pixel_shuffle(self._into_phases(y), self._step)
        above, left = self._padding
        return F.pad(image, (-left, sides[1] + left - image.shape[3], -above, sides[0] + above - image.shape[2]))
