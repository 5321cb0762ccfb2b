"""Operations that move entries: views, permutations, selections, repetitions, joins."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace as Call
from typing import Any

import torch
from torch import Tensor

from fimtheory import layers
from fimtheory.sources.builder import GraphBuilder
from fimtheory.sources.layout import Traced, UnsupportedError
from fimtheory.sources.operations.registry import reads

aten: Any = torch.ops.aten

LAST = 2**62
"""Ends of slices above this mean the end of the dimension."""


@reads(
    aten.clone.default, aten.alias.default, aten.contiguous.default, aten.detach.default, aten.dropout.default,
    aten.lift_fresh_copy.default, aten.view_as.default, aten.feature_dropout.default, aten.alpha_dropout.default,
)  # fmt: skip
def identity(g: GraphBuilder, call: Call) -> Traced:
    """Copies; dropout in evaluation."""
    if getattr(call, "train", False):
        raise UnsupportedError("dropout in training mode; call module.eval() first")
    return call.input


@reads(aten._to_copy.default, aten.to.dtype, aten.to.dtype_layout, aten.type_as.default)
def converted(g: GraphBuilder, call: Call) -> Traced:
    """Conversions between floating-point types, which change nothing but the rounding."""
    dtype = getattr(call, "dtype", None)
    if dtype is not None and not dtype.is_floating_point:
        raise UnsupportedError(f"converts to {dtype}, which has no derivative")
    return call.input


@reads(
    aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.flatten.using_ints, aten.squeeze.dim,
    aten.squeeze.dims, aten.squeeze.default, aten.unsqueeze.default, aten.unflatten.int,
)  # fmt: skip
def view(g: GraphBuilder, call: Call) -> Traced:
    """The same entries in another shape."""
    return g.viewed(call.input, g.shape)


@reads(aten.permute.default)
def permute(g: GraphBuilder, call: Call) -> Traced:
    """Dimensions in another order."""
    return g.permuted(call.input, list(call.dims))


@reads(aten.transpose.int)
def transpose(g: GraphBuilder, call: Call) -> Traced:
    """Two dimensions exchanged."""
    order = list(range(len(call.input.shape)))
    first, second = call.dim0 % len(order), call.dim1 % len(order)
    order[first], order[second] = order[second], order[first]
    return g.permuted(call.input, order)


@reads(aten.t.default, aten.numpy_T.default)
def matrix_transpose(g: GraphBuilder, call: Call) -> Traced:
    """All dimensions in reverse order."""
    return g.permuted(call.input, list(reversed(range(len(call.input.shape)))))


@reads(aten.expand.default)
def expand(g: GraphBuilder, call: Call) -> Traced:
    """Repeated along dimensions of size 1 and along new ones."""
    return expanded(g, call.input, g.shape)


def expanded(g: GraphBuilder, value: Traced, shape: tuple[int, ...]) -> Traced:
    """Return a value repeated to a shape."""
    if tuple(shape) == value.shape:
        return value
    at = value.layout.batch + len(shape) - len(value.shape)
    if shape[at] != value.shape[value.layout.batch]:
        raise UnsupportedError(f"repeats the inputs of a batch: {value.shape} to {tuple(shape)}")
    layout = replace(value.layout, shape=tuple(shape), batch=at)
    if layout.sample == value.sample:
        return Traced(value.node, layout)
    return g.add(layers.Expand(layout.sample), value, layout=layout)


@reads(aten.repeat.default)
def repeat(g: GraphBuilder, call: Call) -> Traced:
    """Copies side by side."""
    value, extra = call.input, len(call.repeats) - len(call.input.shape)
    if any(r != 1 for r in call.repeats[:extra]):
        value = expanded(g, value, (*call.repeats[:extra], *value.shape))
    elif extra:
        value = g.viewed(value, (*(1,) * extra, *value.shape))
    times = [1] * extra + list(call.repeats[extra:])
    if all(r == 1 for r in times):
        return value
    layout = value.layout
    if times[layout.batch] != 1:
        raise UnsupportedError("repeats the inputs of a batch")
    kept = [r for at, r in enumerate(times) if at != layout.batch or layout.merged > 1]
    return g.add(layers.Tile(tuple(kept)), value, layout=layout.resized(g.shape))


@reads(aten.repeat_interleave.self_int)
def repeat_interleave(g: GraphBuilder, call: Call) -> Traced:
    """Every entry of a dimension several times in a row."""
    if call.dim is None:
        raise UnsupportedError("repeats the entries of the flattened batch; name the dimension")
    return interleaved(g, call.input, call.dim % len(call.input.shape), int(call.repeats))


def interleaved(g: GraphBuilder, value: Traced, at: int, times: int) -> Traced:
    """Return a value with every entry of dimension ``at`` that many times in a row."""
    if times == 1:
        return value
    shape = (*value.shape[:at], value.shape[at] * times, *value.shape[at + 1 :])
    if at == value.layout.batch:  # copies of one input become rows of that input
        layout = replace(value.layout, shape=shape, inner=value.layout.inner * times)
        if value.layout.merged > 1:
            return g.add(layers.RepeatInterleave(at, times), value, layout=layout)
        if at > 0:
            raise UnsupportedError("repeats a batch that is not the first dimension")
        return g.add(layers.Expand(layout.sample), value, layout=layout)
    return g.add(layers.RepeatInterleave(value.layout.dim(at), times), value, layout=value.layout.resized(shape))


@reads(aten.slice.Tensor)
def slice_(g: GraphBuilder, call: Call) -> Traced:
    """Part of a dimension."""
    at = call.dim % len(call.input.shape)
    return sliced(g, call.input, at, call.start or 0, call.end if call.end is not None else LAST, call.step)


def sliced(g: GraphBuilder, value: Traced, at: int, start: int, stop: int, step: int = 1) -> Traced:
    """Return the entries start, start + step, ... of dimension ``at``."""
    size = value.shape[at]
    first, last = (min(max(end + size if end < 0 else end, 0), size) for end in (start, stop))
    if (first, last, step) == (0, size, 1):
        return value
    count = len(range(first, last, step))
    shape = (*value.shape[:at], count, *value.shape[at + 1 :])
    layer = layers.Slice(value.layout.dim(at), first, last, step)
    return g.add(layer, value, layout=value.layout.resized(shape))


@reads(aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default)
def split(g: GraphBuilder, call: Call) -> list[Traced]:
    """Neighbouring parts of a dimension."""
    at = call.dim % len(call.input.shape)
    size = call.input.shape[at]
    if hasattr(call, "chunks"):
        sizes = _equal_parts(size, -(-size // call.chunks))
    else:
        sizes = list(call.split_sizes) if hasattr(call, "split_sizes") else _equal_parts(size, call.split_size)
    ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
    return [sliced(g, call.input, at, end - part, end) for part, end in zip(sizes, ends, strict=True)]


def _equal_parts(size: int, part: int) -> list[int]:
    return [min(part, size - start) for start in range(0, size, part)]


@reads(aten.select.int)
def select(g: GraphBuilder, call: Call) -> Traced:
    """One entry of a dimension, which goes away."""
    return selected(g, call.input, call.dim % len(call.input.shape), call.index)


@reads(aten.unbind.int)
def unbind(g: GraphBuilder, call: Call) -> list[Traced]:
    """All entries of a dimension, one by one."""
    at = call.dim % len(call.input.shape)
    return [selected(g, call.input, at, index) for index in range(call.input.shape[at])]


def selected(g: GraphBuilder, value: Traced, at: int, index: int) -> Traced:
    """Return one entry of dimension ``at``."""
    layout = value.layout
    dim, index = layout.dim(at), index % value.shape[at]
    shape = (*value.shape[:at], *value.shape[at + 1 :])
    left = replace(layout, shape=shape, batch=layout.batch - (at < layout.batch))
    return g.add(layers.Select(dim, index), value, layout=left)


@reads(aten.roll.default)
def roll(g: GraphBuilder, call: Call) -> Traced:
    """Entries moved on in a circle."""
    if not call.dims:
        raise UnsupportedError("rolls the flattened batch; roll along named dimensions")
    dims = tuple(call.input.layout.dim(d) for d in call.dims)
    return g.add(layers.Roll(tuple(call.shifts), dims), call.input)


@reads(aten.flip.default)
def flip(g: GraphBuilder, call: Call) -> Traced:
    """Entries in reverse order."""
    return g.add(layers.Flip(call.input.layout.dims(call.dims)), call.input)


@reads(aten.index_select.default)
def index_select(g: GraphBuilder, call: Call) -> Traced:
    """Entries of a dimension in a given order."""
    return _indexed(g, call.input, call.dim % len(call.input.shape), call.index)


@reads(aten.index.Tensor)
def index(g: GraphBuilder, call: Call) -> Traced:
    """Entries at constant positions of one dimension, or one position for every input of the batch."""
    value: Traced = call.input
    places = [(at, each) for at, each in enumerate(call.indices) if each is not None]
    if not all(isinstance(each, Tensor) for _, each in places):
        raise UnsupportedError("the positions depend on the input, which has no derivative")
    if len(places) == 2 and _whole_batch(value, *places[0]) and places[1][1].unique().numel() == 1:
        at, each = places[1]
        return selected(g, value, at, int(each.flatten()[0]))
    if len(places) != 1:
        raise UnsupportedError("indexes by several tensors at once; only positions along one dimension are read")
    at, each = places[0]
    if each.dtype is torch.bool and each.dim() != 1:
        raise UnsupportedError("indexes by a mask of several dimensions")
    taken = _indexed(g, value, at, each.flatten())
    return taken if each.dim() == 1 else g.viewed(taken, g.shape)


def _whole_batch(value: Traced, at: int, places: Tensor) -> bool:
    """Whether positions are those of all inputs of a batch, in order."""
    layout = value.layout
    every = torch.arange(layout.count).tolist()
    return at == layout.batch == 0 and layout.merged == 1 and places.dim() == 1 and places.tolist() == every


@reads(aten.unfold.default)
def unfold(g: GraphBuilder, call: Call) -> Traced:
    """Windows of a dimension, side by side in a new last dimension."""
    value: Traced = call.input
    at = call.dimension % len(value.shape)
    starts = torch.arange(0, value.shape[at] - call.size + 1, call.step)
    places = starts[:, None] + torch.arange(call.size)
    taken = _indexed(g, value, at, places.flatten())
    split = g.viewed(taken, (*value.shape[:at], len(starts), call.size, *value.shape[at + 1 :]))
    rank = len(value.shape)
    return g.permuted(split, [*range(at + 1), *range(at + 2, rank + 1), at + 1])


def _indexed(g: GraphBuilder, value: Traced, at: int, places: Any) -> Traced:
    if not isinstance(places, Tensor):
        raise UnsupportedError("the positions depend on the input, which has no derivative")
    size = value.shape[at]
    if places.dtype is torch.bool:
        places = places.nonzero().flatten()
    layer = layers.IndexSelect(value.layout.dim(at), tuple(int(p) % size for p in places.tolist()))
    return g.add(layer, value, layout=value.layout.resized((*value.shape[:at], len(places), *value.shape[at + 1 :])))


@reads(aten.cat.default)
def cat(g: GraphBuilder, call: Call) -> Traced:
    """Values, and constants, side by side along a dimension."""
    parts = [p for p in call.tensors if not (isinstance(p, Tensor) and p.numel() == 0)]
    traced = next(p for p in parts if isinstance(p, Traced))
    at = call.dim % len(traced.shape)
    return joined(g, parts, at)


@reads(aten.stack.default)
def stack(g: GraphBuilder, call: Call) -> Traced:
    """Values side by side along a new dimension."""
    traced = next(p for p in call.tensors if isinstance(p, Traced))
    at = call.dim % (len(traced.shape) + 1)
    wide = (*traced.shape[:at], 1, *traced.shape[at:])
    return joined(g, [g.viewed(p, wide) if isinstance(p, Traced) else p.reshape(wide) for p in call.tensors], at)


def rows_inside(g: GraphBuilder, value: Traced) -> Traced:
    """Return a value (rows of the batch, channels, ...) with the rows of one input as a dimension behind the channels.

    What acts on every row alike, such as a convolution of windows, then acts with a kernel of size 1 along the rows.
    """
    return g.permuted(value, [1, 0, *range(2, len(value.shape))])


def joined(g: GraphBuilder, parts: list[Any], at: int) -> Traced:
    """Return parts side by side; what a model joins again and again (dense blocks) is joined once."""
    runs: list[list[Any]] = []
    for part in parts:
        if runs and isinstance(part, Traced) == isinstance(runs[-1][0], Traced):
            runs[-1].append(part)
        else:
            runs.append([part])
    made: list[Any] = [_joined_values(g, run, at) if isinstance(run[0], Traced) else torch.cat(run, at) for run in runs]
    here = next(k for k, part in enumerate(made) if isinstance(part, Traced))
    if sum(isinstance(part, Traced) for part in made) > 1:
        raise UnsupportedError("joins constants between values that depend on the input")
    value = made[here]
    for part, before in [*((p, True) for p in made[:here][::-1]), *((p, False) for p in made[here + 1 :])]:
        value = _with_constant(g, value, part, at, before)
    return value


def _joined_values(g: GraphBuilder, parts: list[Traced], at: int) -> Traced:
    """Join values two and more; a beginning that was joined before is taken as it is."""
    names = tuple(part.node for part in parts)
    for count in range(len(parts), 1, -1):
        known = g.concatenations.get((at, names[:count]))
        if known is not None:
            parts = [known, *parts[count:]]
            break
    value = parts[0]
    if len(parts) > 1:
        size = sum(part.shape[at] for part in parts)
        layout = value.layout.resized((*value.shape[:at], size, *value.shape[at + 1 :]))
        value = g.add(layers.Concat(value.layout.dim(at)), *parts, layout=layout)
    g.concatenations[at, names] = value
    return value


def _with_constant(g: GraphBuilder, value: Traced, part: Tensor, at: int, before: bool) -> Traced:
    layout = value.layout
    kept = layout.constant(part)
    wide = layout.resized((*value.shape[:at], value.shape[at] + part.shape[at], *value.shape[at + 1 :]))
    layer = layers.ConcatConstant(layout.dim(at), tuple(kept.shape), before)
    return g.add(layer, value, layout=wide, value=kept)
