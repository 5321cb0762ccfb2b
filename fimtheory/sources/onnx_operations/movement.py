"""Operators that move entries, and those that compute shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fimtheory.errors import SourceError
from fimtheory.sources.onnx_operations.registry import Call, operation


@operation("Shape")
def shape(call: Call) -> Tensor:
    """Sizes of the input."""
    start, end = call.attribute("start", 0), call.attribute("end", None)
    return torch.tensor(list(call[0].shape)[start:end], dtype=torch.int64)


@operation("Size")
def size(call: Call) -> Tensor:
    """Number of entries of the input."""
    return torch.tensor(call[0].numel(), dtype=torch.int64)


@operation("ConstantOfShape")
def constant_of_shape(call: Call) -> Tensor:
    """A constant in every entry."""
    value = call.attribute("value", torch.zeros(1)).reshape(())
    return torch.full(_sizes(call, 0), value.item(), dtype=value.dtype, device=call[0].device)


@operation("Range")
def range_(call: Call) -> Tensor:
    """Numbers at equal distances."""
    start, limit, delta = (call.number(place) for place in range(3))
    dtype = torch.float64 if call[0].is_floating_point() else torch.int64
    call.ignore("stash_type")
    if delta == 0:
        raise SourceError("a range with steps of 0")
    count = max(0, math.ceil((limit - start) / delta))
    return start + delta * torch.arange(count, dtype=dtype, device=call[0].device)


def _sizes(call: Call, place: int) -> list[int]:
    return [int(entry) for entry in call.entries(place)]


@operation("Reshape")
def reshape(call: Call) -> Tensor:
    """The same entries in another shape: 0 keeps a size, -1 is what is left."""
    value, sizes = call[0], _sizes(call, 1)
    if not call.attribute("allowzero", 0):
        if any(size == 0 for size in sizes[value.dim() :]):
            raise SourceError(f"keeps a dimension that {tuple(value.shape)} does not have")
        sizes = [value.shape[at] if size == 0 else size for at, size in enumerate(sizes)]
    return torch.reshape(value, sizes)


@operation("Flatten")
def flatten(call: Call) -> Tensor:
    """A matrix whose rows are the dimensions before ``axis``."""
    value, axis = call[0], call.attribute("axis", 1)
    at = axis + value.dim() if axis < 0 else axis
    return torch.reshape(value, (math.prod(value.shape[:at]), math.prod(value.shape[at:])))


@operation("Transpose")
def transpose(call: Call) -> Tensor:
    """Dimensions in another order, by default reversed."""
    value = call[0]
    return torch.permute(value, call.attribute("perm", list(reversed(range(value.dim())))))


@operation("Squeeze")
def squeeze(call: Call) -> Tensor:
    """Without dimensions of size 1."""
    value, axes = call[0], call.axes()
    dims = [at for at, n in enumerate(value.shape) if n == 1] if axes is None else [a % value.dim() for a in axes]
    if any(value.shape[at] != 1 for at in dims):
        raise SourceError(f"leaves out dimensions {dims} of {tuple(value.shape)}, which are not all of size 1")
    return torch.reshape(value, [n for at, n in enumerate(value.shape) if at not in dims])


@operation("Unsqueeze")
def unsqueeze(call: Call) -> Tensor:
    """With new dimensions of size 1."""
    value, axes = call[0], call.axes()
    if axes is None:
        raise SourceError("axes are missing")
    rank = value.dim() + len(axes)
    places, sizes = {a % rank for a in axes}, iter(value.shape)
    return torch.reshape(value, [1 if at in places else next(sizes) for at in range(rank)])


@operation("Expand")
def expand(call: Call) -> Tensor:
    """Repeated along dimensions of size 1, and along new ones."""
    value = call[0]
    sizes = list(torch.broadcast_shapes(value.shape, _sizes(call, 1)))
    return value.expand(sizes)


@operation("Tile")
def tile(call: Call) -> Tensor:
    """Copies side by side."""
    return call[0].repeat(_sizes(call, 1))


@operation("Concat")
def concat(call: Call) -> Tensor:
    """Values side by side."""
    return torch.cat([call[place] for place in range(len(call.inputs))], call.attribute("axis"))


@operation("Split")
def split(call: Call) -> tuple[Tensor, ...]:
    """Neighbouring parts of a dimension; equal ones except perhaps for the last."""
    value, axis, count = call[0], call.attribute("axis", 0), call.attribute("num_outputs", call.outputs)
    sizes = call.entries(1, None)
    sizes = call.attribute("split", None) if sizes is None else sizes
    if sizes is None:
        part = -(-value.shape[axis] // count)
        sizes = [min(part, value.shape[axis] - start) for start in range(0, value.shape[axis], part)]
    return torch.split(value, sizes, axis)


@operation("Slice")
def slice_(call: Call) -> Tensor:
    """Part of some dimensions; a negative step goes backwards."""
    value, starts, ends = call[0], _sizes(call, 1), _sizes(call, 2)
    axes = call.entries(3, list(range(len(starts))))
    steps = call.entries(4, [1] * len(starts))
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        places = range(value.shape[axis])[start:end:step]
        forward = places if step > 0 else places[::-1]
        index = [slice(None)] * value.dim()
        index[axis] = slice(forward.start, forward.stop, forward.step) if forward else slice(0, 0)
        value = value[tuple(index)]
        if step < 0:
            value = torch.flip(value, [axis])
    return value


@operation("Gather")
def gather(call: Call) -> Tensor:
    """Entries of one dimension at given places; rows of a constant matrix at token ids."""
    value, places, axis = call[0], call[1], call.attribute("axis", 0)
    if not call.constant(1):
        if value.dim() != 2 or axis != 0 or not call.constant(0):
            raise SourceError("takes entries at places that depend on the input, which has no derivative")
        return functional.embedding(places, value)
    at, size = axis % value.dim(), value.shape[axis]
    if places.dim() == 0:
        return torch.select(value, at, int(call.entries(1)))
    shape = (*value.shape[:at], *places.shape, *value.shape[at + 1 :])
    if call.listed(1) and np.array_equal(np.ravel(call.entries(1)), np.arange(size)):
        return value.reshape(shape)  # a view that exporters write as places of the flattened batch
    positive = torch.where(places < 0, places + size, places)
    taken = torch.index_select(value, at, positive.flatten())
    return taken if places.dim() == 1 else taken.reshape(shape)


@operation("ScatterND")
def scatter(call: Call) -> Tensor:
    """Entries replaced at given places."""
    if call.attribute("reduction", "none") != "none":
        raise SourceError("replaces entries by sums or products with them; that is not supported")
    return torch.index_put(call[0], tuple(call[1].unbind(-1)), call[2])


@operation("Trilu")
def trilu(call: Call) -> Tensor:
    """Entries on one side of a diagonal."""
    return (torch.triu if call.attribute("upper", 1) else torch.tril)(call[0], call.number(1, 0))


@operation("DepthToSpace")
def depth_to_space(call: Call) -> Tensor:
    """Blocks of channels laid out in space."""
    value, block, mode = call[0], call.attribute("blocksize"), call.attribute("mode", "DCR")
    if mode == "CRD":
        return functional.pixel_shuffle(value, block)
    n, c, h, w = value.shape
    split = torch.reshape(value, (n, block, block, c // block**2, h, w))
    return torch.reshape(split.permute(0, 3, 4, 1, 5, 2), (n, c // block**2, h * block, w * block))


@operation("SpaceToDepth")
def space_to_depth(call: Call) -> Tensor:
    """Blocks of space laid out in channels."""
    value, block = call[0], call.attribute("blocksize")
    if call.attribute("mode", "DCR") == "CRD":
        return functional.pixel_unshuffle(value, block)
    n, c, h, w = value.shape
    split = torch.reshape(value, (n, c, h // block, block, w // block, block))
    return torch.reshape(split.permute(0, 3, 5, 1, 2, 4), (n, c * block**2, h // block, w // block))


_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@operation("Pad")
def pad(call: Call) -> Tensor:
    """Entries around the value: a constant, or copies of its own."""
    value, given, mode = call[0], _sizes(call, 1), call.attribute("mode", "constant")
    axes = call.entries(3, list(range(value.dim())))
    fill = call.number(2, 0.0)
    amounts = [(0, 0)] * value.dim()
    for k, axis in enumerate(axes):
        amounts[axis] = (given[k], given[k + len(axes)])
    return padded(value, amounts, _MODES[mode], fill if mode == "constant" else None)


def padded(value: Tensor, amounts: Sequence[tuple[int, int]], mode: str, fill: float | None) -> Tensor:
    """Return a value with ``amounts`` of entries before and after each dimension."""
    if any(part < 0 for both in amounts for part in both):
        raise SourceError(f"pads by {list(amounts)}; negative padding is not supported, use a slice")
    used = len(amounts) - next((at for at, both in enumerate(amounts) if both != (0, 0)), len(amounts))
    flat = [part for both in reversed(amounts[len(amounts) - used :]) for part in both]
    if not flat:
        return value
    if mode != "constant" and used > 2 and value.dim() <= used:
        raise SourceError(f"pads the batch by {list(amounts)} with mode {mode}")
    return functional.pad(value, flat, mode, fill)


# ---- resampling -------------------------------------------------------------------------------------------------


@operation("Resize")
def resize(call: Call) -> Tensor:
    """Interpolation in space, as far as torch has the same."""
    value, mode = call[0], call.attribute("mode", "nearest")
    where = call.attribute("coordinate_transformation_mode", "half_pixel")
    rounding = call.attribute("nearest_mode", "round_prefer_floor")
    coefficient = call.attribute("cubic_coeff_a", -0.75)
    call.ignore("extrapolation_value", "keep_aspect_ratio_policy")
    if call.attribute("antialias", 0) or call.attribute("exclude_outside", 0) or call.attribute("axes", None):
        raise SourceError("resizing with antialias, exclude_outside or axes is not supported")
    if call.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise SourceError("resizing that keeps the aspect ratio is not supported")
    if call.get(1) is not None and where != "tf_crop_and_resize":
        call.ignore("roi")
    target = _resized(call, value)
    if mode == "nearest":
        return functional.interpolate(value, target, mode=_nearest(value, target, where, rounding))
    kinds = {("linear", 3): "linear", ("linear", 4): "bilinear", ("linear", 5): "trilinear", ("cubic", 4): "bicubic"}
    if (mode, value.dim()) not in kinds or where not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        raise SourceError(f"resizing {mode} with coordinates {where} in {value.dim() - 2} dimensions is not supported")
    if (mode == "cubic" and coefficient != -0.75) or (where == "pytorch_half_pixel" and 1 in target):
        raise SourceError(f"resizing {mode} with coefficient {coefficient} to {target} is not supported")
    return functional.interpolate(value, target, mode=kinds[mode, value.dim()], align_corners=where == "align_corners")


def _resized(call: Call, value: Tensor) -> list[int]:
    """Return the sizes in space."""
    scales, sizes = call.entries(2, None), call.entries(3, None)
    if sizes:
        if sizes[1] != value.shape[1]:
            raise SourceError(f"resizes the channels of {tuple(value.shape)} to {sizes}")
        return [int(size) for size in sizes[2:]]
    exact = [size * scale for size, scale in zip(value.shape, scales or (), strict=True)]
    if scales[:2] != [1, 1] or any(abs(size - round(size)) > 1e-4 for size in exact):
        raise SourceError(f"resizes {tuple(value.shape)} by {scales}; expected whole sizes, and factors 1 at first")
    return [round(size) for size in exact[2:]]


def _nearest(value: Tensor, target: Sequence[int], where: str, rounding: str) -> str:
    """Return torch's name of a choice of the nearest entry."""
    whole = all(out % size == 0 for size, out in zip(value.shape[2:], target, strict=True))
    odd = all((out // size) % 2 for size, out in zip(value.shape[2:], target, strict=True))
    if (where, rounding) == ("asymmetric", "floor"):
        return "nearest"
    if where == "half_pixel" and whole and (odd or rounding in ("round_prefer_floor", "round_prefer_ceil")):
        return "nearest-exact"
    raise SourceError(f"resizing to the nearest entry with coordinates {where} and {rounding} is not supported")
