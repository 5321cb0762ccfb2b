"""Convolutions and pooling over windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from fimtheory.errors import SourceError
from fimtheory.sources.onnx_operations.movement import padded
from fimtheory.sources.onnx_operations.registry import Call, operation

_CONVOLUTIONS: dict[int, Any] = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
_TRANSPOSED: dict[int, Any] = {1: torch.conv_transpose1d, 2: torch.conv_transpose2d, 3: torch.conv_transpose3d}
_MAXIMA: dict[int, Any] = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_MEANS: dict[int, Any] = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


class _Windows(NamedTuple):
    """Sizes of windows in each dimension of space; ``pads`` before and after."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    @property
    def symmetric(self) -> bool:
        return all(before == after for before, after in self.pads)

    @property
    def small(self) -> bool:
        """Whether a pool of torch takes the padding: even, and at most half of a window."""
        return self.symmetric and all(2 * pad <= size for pad, size in zip(self.before, self.kernel, strict=True))

    @property
    def before(self) -> tuple[int, ...]:
        return tuple(before for before, _ in self.pads)

    @property
    def amounts(self) -> list[tuple[int, int]]:
        """Padding of a whole batch."""
        return [(0, 0), (0, 0), *self.pads]


def _windows(call: Call, space: Sequence[int], kernel: Sequence[int]) -> _Windows:
    rank = len(space)
    stride = call.attribute("strides", [1] * rank)
    dilation = call.attribute("dilations", [1] * rank)
    given = call.attribute("pads", [0] * 2 * rank)
    auto = call.attribute("auto_pad", "NOTSET")
    if rank not in _CONVOLUTIONS or not len(kernel) == len(stride) == len(dilation) == len(given) // 2 == rank:
        raise SourceError(f"windows over {rank} dimensions with strides {stride}, dilations {dilation}, pads {given}")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        if any(d != 1 for d in dilation):
            raise SourceError(f"dilated windows with auto_pad {auto}; export them with pads")
        pads = []
        for size, k, s in zip(space, kernel, stride, strict=True):
            total = max(0, (-(-size // s) - 1) * s + k - size)
            pads.append((total // 2, total - total // 2) if auto == "SAME_UPPER" else (total - total // 2, total // 2))
    elif auto == "VALID":
        pads = [(0, 0)] * rank
    else:
        pads = list(zip(given[:rank], given[rank:], strict=True))
    return _Windows(tuple(kernel), tuple(stride), tuple(dilation), tuple(pads))


@operation("Conv")
def convolution(call: Call) -> Tensor:
    """A convolution; uneven padding is written out."""
    value, kernel, bias = call[0], call[1], call.get(2)
    call.ignore("kernel_shape")
    windows = _windows(call, value.shape[2:], kernel.shape[2:])
    function, groups = _CONVOLUTIONS[len(windows.kernel)], call.attribute("group", 1)
    padding = windows.before
    if not windows.symmetric:
        value, padding = padded(value, windows.amounts, "constant", 0.0), 0
    return function(value, kernel, bias, windows.stride, padding, windows.dilation, groups)


@operation("ConvTranspose")
def transposed_convolution(call: Call) -> Tensor:
    """The adjoint of a convolution."""
    value, kernel, bias = call[0], call[1], call.get(2)
    call.ignore("kernel_shape")
    if call.attribute("output_shape", None) is not None or call.attribute("auto_pad", "NOTSET") not in (
        "NOTSET", "VALID"
    ):  # fmt: skip
        raise SourceError("a transposed convolution with output_shape or auto_pad; export it with pads")
    windows = _windows(call, value.shape[2:], kernel.shape[2:])
    rank = len(windows.kernel)
    extra = call.attribute("output_padding", [0] * rank)
    function, groups = _TRANSPOSED[rank], call.attribute("group", 1)
    if not windows.symmetric:
        raise SourceError(f"a transposed convolution with pads {windows.pads}; expected the same on both sides")
    return function(value, kernel, bias, windows.stride, windows.before, extra, groups, windows.dilation)


@operation("MaxPool")
def max_pool(call: Call) -> Tensor:
    """Maximum over windows."""
    call.ignore("storage_order")
    value = call[0]
    windows, ceil = _pool(call, value)
    padding = windows.before
    if not windows.small:
        value, padding = padded(value, windows.amounts, "constant", -math.inf), 0
    function = _MAXIMA[len(windows.kernel)]
    return function(value, windows.kernel, windows.stride, padding, windows.dilation, ceil_mode=ceil)


@operation("AveragePool")
def average_pool(call: Call) -> Tensor:
    """Mean over windows."""
    value, counted = call[0], bool(call.attribute("count_include_pad", 0))
    windows, ceil = _pool(call, value)
    if any(d != 1 for d in windows.dilation):
        raise SourceError("a mean over dilated windows is not supported")
    padding = windows.before
    if not windows.small:
        if not counted:
            raise SourceError(f"a mean over windows with pads {windows.pads} that are not counted; expected even pads")
        value, padding = padded(value, windows.amounts, "constant", 0.0), 0
    function = _MEANS[len(windows.kernel)]
    return function(value, windows.kernel, windows.stride, padding, ceil, counted)


def _pool(call: Call, value: Tensor) -> tuple[_Windows, bool]:
    """Return the windows of a pool, and whether the last ones may leave the value."""
    windows = _windows(call, value.shape[2:], call.attribute("kernel_shape"))
    ceil = bool(call.attribute("ceil_mode", 0))
    if ceil and not windows.small:
        raise SourceError(f"a pool with ceil_mode and pads {windows.pads}; expected small, even pads")
    return windows, ceil
