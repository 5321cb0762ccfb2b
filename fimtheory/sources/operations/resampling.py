"""Padding and resizing, written with selections and linear maps along one dimension at a time; windows side by side."""

from __future__ import annotations

from types import SimpleNamespace as Call
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fimtheory import layers
from fimtheory.sources.builder import GraphBuilder
from fimtheory.sources.layout import Traced, UnsupportedError
from fimtheory.sources.operations.movement import joined, sliced
from fimtheory.sources.operations.registry import reads

aten: Any = torch.ops.aten


@reads(aten.pad.default, aten.constant_pad_nd.default)
def pad(g: GraphBuilder, call: Call) -> Traced:
    """Padding of the last dimensions: by a constant, or by entries of the value itself."""
    mode, fill = getattr(call, "mode", "constant"), float(call.value or 0)
    value: Traced = call.input
    for k in range(len(call.pad) // 2):
        at = len(value.shape) - 1 - k
        before, after = int(call.pad[2 * k]), int(call.pad[2 * k + 1])
        value = padded(g, value, at, before, after, mode, fill)
    return value


def padded(
    g: GraphBuilder, value: Traced, at: int, before: int, after: int, mode: str = "constant", fill: float = 0.0
) -> Traced:
    """Return a value with entries put before and after dimension ``at`` (negative: taken away)."""
    size = value.shape[at]
    if before < 0 or after < 0:
        value = sliced(g, value, at, max(-before, 0), size - max(-after, 0))
        before, after, size = max(before, 0), max(after, 0), value.shape[at]
    if not before and not after:
        return value
    if mode != "constant":
        line = torch.arange(size, dtype=torch.float64).reshape(1, 1, size)
        return _selected(g, value, at, F.pad(line, (before, after), mode=mode).flatten())

    def constant(width: int) -> list[Tensor]:
        shape = (*value.shape[:at], width, *value.shape[at + 1 :])
        return [torch.full(shape, fill, dtype=torch.float64)] if width else []

    return joined(g, [*constant(before), value, *constant(after)], at)


def _selected(g: GraphBuilder, value: Traced, at: int, places: Tensor) -> Traced:
    layer = layers.IndexSelect(value.layout.dim(at), tuple(int(p) for p in places.tolist()))
    shape = (*value.shape[:at], len(places), *value.shape[at + 1 :])
    return g.add(layer, value, layout=value.layout.resized(shape))


@reads(
    aten.upsample_nearest2d.default, aten.upsample_nearest2d.vec, aten.upsample_nearest1d.default,
    aten.upsample_nearest1d.vec, aten.upsample_nearest3d.default, aten.upsample_nearest3d.vec,
)  # fmt: skip
def upsample_nearest(g: GraphBuilder, call: Call) -> Traced:
    """Every output entry is the nearest input entry."""
    return _nearest(g, call, "nearest")


def _nearest(g: GraphBuilder, call: Call, mode: str) -> Traced:
    value: Traced = call.input
    for at in range(2, len(value.shape)):
        size, wanted = value.shape[at], g.shape[at]
        if size != wanted:
            line = torch.arange(size, dtype=torch.float64).reshape(1, 1, size)
            value = _selected(g, value, at, F.interpolate(line, size=wanted, mode=mode).flatten())
    return value


@reads(
    aten._upsample_nearest_exact1d.default, aten._upsample_nearest_exact1d.vec, aten._upsample_nearest_exact2d.default,
    aten._upsample_nearest_exact2d.vec, aten._upsample_nearest_exact3d.default, aten._upsample_nearest_exact3d.vec,
)  # fmt: skip
def upsample_nearest_exact(g: GraphBuilder, call: Call) -> Traced:
    """Every output entry is the input entry whose middle is nearest."""
    return _nearest(g, call, "nearest-exact")


@reads(
    aten.upsample_linear1d.default, aten.upsample_linear1d.vec, aten.upsample_bilinear2d.default,
    aten.upsample_bilinear2d.vec,
)  # fmt: skip
def upsample_bilinear(g: GraphBuilder, call: Call) -> Traced:
    """Linear interpolation: a linear map of the rows and one of the columns."""
    return _interpolated(g, call, "bilinear")


@reads(aten.upsample_bicubic2d.default, aten.upsample_bicubic2d.vec)
def upsample_bicubic(g: GraphBuilder, call: Call) -> Traced:
    """Cubic interpolation: a linear map of the rows and one of the columns."""
    return _interpolated(g, call, "bicubic")


@reads(aten._upsample_bilinear2d_aa.default, aten._upsample_bilinear2d_aa.vec)
def upsample_bilinear_smoothed(g: GraphBuilder, call: Call) -> Traced:
    """Linear interpolation that averages where it makes an image smaller."""
    return _interpolated(g, call, "bilinear", antialias=True)


@reads(aten._upsample_bicubic2d_aa.default, aten._upsample_bicubic2d_aa.vec)
def upsample_bicubic_smoothed(g: GraphBuilder, call: Call) -> Traced:
    """Cubic interpolation that averages where it makes an image smaller."""
    return _interpolated(g, call, "bicubic", antialias=True)


def _interpolated(g: GraphBuilder, call: Call, mode: str, antialias: bool = False) -> Traced:
    _require_no_scale(call)
    value: Traced = call.input
    corners, last = bool(call.align_corners), len(value.shape) - 1
    for at in range(2, last + 1):
        size, wanted = value.shape[at], g.shape[at]
        if size == wanted:
            continue
        matrix = _line(size, wanted, mode, corners, antialias)
        shape = (*value.shape[:at], wanted, *value.shape[at + 1 :])
        if at == last:
            matrix, layer = matrix.T.contiguous(), layers.MatmulConstant((size, wanted))
        else:
            layer = layers.MatmulConstant((wanted, size), before=True)
        value = g.add(layer, value, layout=value.layout.resized(shape), value=matrix)
    return value


def _require_no_scale(call: Call) -> None:
    """Refuse a scale that is not the ratio of the sizes, where torch computes with the scale."""
    given = [getattr(call, name, None) for name in ("scales", "scales_d", "scales_h", "scales_w")]
    if any(each is not None for each in given):
        raise UnsupportedError("interpolation by a scale that the sizes do not give; interpolate to a size instead")


def _line(size: int, wanted: int, mode: str, corners: bool, antialias: bool) -> Tensor:
    """Return the matrix (wanted, size) of interpolation along one dimension."""
    # along the width: on images of width 1, torch's antialiasing is wrong
    identity = torch.eye(size, dtype=torch.float64)[:, None, None, :]
    made = F.interpolate(identity, size=(1, wanted), mode=mode, align_corners=corners, antialias=antialias)
    return made[:, 0, 0, :].T.contiguous()


@reads(aten.pixel_shuffle.default)
def pixel_shuffle(g: GraphBuilder, call: Call) -> Traced:
    """Channels become pixels of a larger image."""
    batch, channels, height, width = call.input.shape
    by = int(call.upscale_factor)
    split = g.viewed(call.input, (batch, channels // by**2, by, by, height, width))
    return g.viewed(g.permuted(split, [0, 1, 4, 2, 5, 3]), g.shape)


@reads(aten.channel_shuffle.default)
def channel_shuffle(g: GraphBuilder, call: Call) -> Traced:
    """Channels of all groups take turns."""
    batch, channels, *rest = call.input.shape
    split = g.viewed(call.input, (batch, call.groups, channels // call.groups, *rest))
    return g.viewed(g.permuted(split, [0, 2, 1, *range(3, len(split.shape))]), g.shape)


@reads(aten.pixel_unshuffle.default)
def pixel_unshuffle(g: GraphBuilder, call: Call) -> Traced:
    """Pixels become channels of a smaller image."""
    batch, channels, height, width = call.input.shape
    by = int(call.downscale_factor)
    split = g.viewed(call.input, (batch, channels, height // by, by, width // by, by))
    return g.viewed(g.permuted(split, [0, 1, 3, 5, 2, 4]), g.shape)


@reads(aten.im2col.default)
def im2col(g: GraphBuilder, call: Call) -> Traced:
    """Windows side by side."""
    value = _single(call.input, "(batch, channels, height, width)", 4)
    return g.add(layers.Unfold(*_placement(call)), value)


@reads(aten.col2im.default)
def col2im(g: GraphBuilder, call: Call) -> Traced:
    """The sum of windows in their places."""
    value = _single(call.input, "(batch, channels times entries of a window, windows)", 3)
    rows, columns = call.output_size
    return g.add(layers.Fold((rows, columns), *_placement(call)), value)


def _single(value: Traced, form: str, rank: int) -> Traced:
    """Return a value whose first dimension is the batch and nothing else, for channels may not be taken for it."""
    layout = value.layout
    if len(value.shape) != rank or layout.batch != 0 or layout.merged != 1:
        raise UnsupportedError(
            f"takes windows of a value of shape {value.shape}, {value.sample} of which are one input's; expected {form}"
        )
    return value


def _placement(call: Call) -> Any:
    """Return kernel, dilation, padding and stride, each for rows and columns."""
    return (tuple(each) for each in (call.kernel_size, call.dilation, call.padding, call.stride))
