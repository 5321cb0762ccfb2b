"""Normalisation, softmax, reductions and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace as Call
from typing import Any, cast

import torch
from torch import Tensor

from fimtheory import layers
from fimtheory.sources.builder import GraphBuilder
from fimtheory.sources.layout import Traced, UnsupportedError
from fimtheory.sources.operations.movement import rows_inside
from fimtheory.sources.operations.registry import reads

aten: Any = torch.ops.aten


def _or(value: Tensor | None, number: float, like: Tensor | Sequence[int]) -> Tensor:
    """Return a tensor, or a constant one where a layer has none of its own."""
    if value is not None:
        return value
    shape = like.shape if isinstance(like, Tensor) else tuple(like)
    return torch.full(tuple(shape), number, dtype=torch.float64)


_BATCH_NORMS: dict[int, Any] = {
    0: layers.BatchNorm1d,
    1: layers.BatchNorm1d,
    2: layers.BatchNorm2d,
    3: layers.BatchNorm3d,
}


@reads(aten._native_batch_norm_legit_no_training.default, aten.batch_norm.default)
def batch_norm(g: GraphBuilder, call: Call) -> list[Traced] | Traced:
    """Batch norm with its running statistics."""
    training = getattr(call, "training", False)
    if training or call.running_mean is None:
        raise UnsupportedError("batch norm that uses the statistics of the batch; call module.eval() first")
    value = call.input
    by_row = value.layout.merged > 1
    if by_row:
        value = rows_inside(g, value)
    rank = len(value.sample) - 1
    if rank not in _BATCH_NORMS:
        raise UnsupportedError(f"batch norm over {rank} dimensions")
    mean = call.running_mean
    made = g.add(
        _BATCH_NORMS[rank](mean.shape[0], float(call.eps)),
        value,
        layout=value.layout,
        weight=_or(call.weight, 1.0, mean),
        bias=_or(call.bias, 0.0, mean),
        running_mean=mean,
        running_var=call.running_var,
        num_batches_tracked=torch.zeros((), dtype=torch.int64),
    )
    made = rows_inside(g, made) if by_row else made
    return made if hasattr(call, "training") else [made]


@reads(aten.layer_norm.default, aten.native_layer_norm.default)
def layer_norm(g: GraphBuilder, call: Call) -> list[Traced] | Traced:
    """Layer norm over the last dimensions."""
    shape: list[int] = list(call.normalized_shape)
    value = call.input
    if value.layout.batch >= len(value.shape) - len(shape):
        raise UnsupportedError("layer norm over the batch")
    layer: Any = layers.LayerNorm(shape[0], float(call.eps))
    if len(shape) > 1:
        layer = layers.LayerNormOver(tuple(shape), float(call.eps))
    weight, bias = _or(call.weight, 1.0, shape), _or(call.bias, 0.0, shape)
    made = g.add(layer, value, layout=value.layout, weight=weight, bias=bias)
    return made if hasattr(call, "cudnn_enable") else [made]


@reads(aten.group_norm.default, aten.native_group_norm.default)
def group_norm(g: GraphBuilder, call: Call) -> list[Traced] | Traced:
    """Group norm."""
    value, native = call.input, not hasattr(call, "num_groups")
    channels, groups = value.shape[1], int(call.group if native else call.num_groups)
    layer = layers.GroupNorm(groups, channels, float(call.eps), affine=True)
    weight, bias = _or(call.weight, 1.0, (channels,)), _or(call.bias, 0.0, (channels,))
    made = g.add(layer, value, layout=value.layout, weight=weight, bias=bias)
    return [made] if native else made


@reads(aten.instance_norm.default)
def instance_norm(g: GraphBuilder, call: Call) -> Traced:
    """Instance norm: group norm with one channel a group."""
    if not call.use_input_stats:  # then it is a batch norm in evaluation
        call.training = False
        return cast(Traced, batch_norm(g, call))
    channels = call.input.shape[1]
    layer = layers.GroupNorm(channels, channels, float(call.eps), affine=True)
    weight, bias = _or(call.weight, 1.0, (channels,)), _or(call.bias, 0.0, (channels,))
    return g.add(layer, call.input, weight=weight, bias=bias)


@reads(aten.rms_norm.default)
def rms_norm(g: GraphBuilder, call: Call) -> Traced:
    """Root-mean-square norm over the last dimension."""
    if len(call.normalized_shape) != 1 or call.eps is None:
        raise UnsupportedError("RMS norm over several dimensions, or without an epsilon of its own")
    (size,) = call.normalized_shape
    return g.add(layers.RMSNorm(size, float(call.eps)), call.input, weight=_or(call.weight, 1.0, (size,)))


@reads(aten.softmax.int, aten._softmax.default, aten._safe_softmax.default)
def softmax(g: GraphBuilder, call: Call) -> Traced:
    """Softmax along a dimension."""
    dim = call.input.layout.dim(call.dim)
    last = dim == len(call.input.sample) - 1
    return g.add(layers.Softmax() if last else layers.SoftmaxOver(dim), call.input)


@reads(aten.log_softmax.int, aten._log_softmax.default)
def log_softmax(g: GraphBuilder, call: Call) -> Traced:
    """Logarithm of softmax along a dimension."""
    return g.add(layers.LogSoftmax(call.input.layout.dim(call.dim)), call.input)


@reads(aten.logsumexp.default)
def logsumexp(g: GraphBuilder, call: Call) -> Traced:
    """Logarithm of a sum of exponentials."""
    return _reduced(g, call, layers.LogSumExp)


@reads(aten.mean.dim, aten.mean.default)
def mean(g: GraphBuilder, call: Call) -> Traced:
    """Mean over dimensions."""
    return _reduced(g, call, layers.Mean)


@reads(aten.sum.dim_IntList)
def sum_(g: GraphBuilder, call: Call) -> Traced:
    """Sum over dimensions."""
    return _reduced(g, call, layers.Sum)


@reads(aten.amax.default)
def amax(g: GraphBuilder, call: Call) -> Traced:
    """Largest entry over dimensions."""
    return _reduced(g, call, layers.Amax)


@reads(aten.max.dim)
def max_along(g: GraphBuilder, call: Call) -> list[Traced]:
    """Largest entry along a dimension; its position has no derivative and is not read."""
    call.dim = [call.dim]
    return [_reduced(g, call, layers.Amax)]


def _reduced(g: GraphBuilder, call: Call, kind: Any) -> Traced:
    given = getattr(call, "dim", None)
    if not given:
        raise UnsupportedError("reduces over the batch too; name the dimensions")
    return reduced(g, call.input, kind, list(given), keep=bool(getattr(call, "keepdim", False)))


def reduced(g: GraphBuilder, value: Traced, kind: Any, given: list[int], *, keep: bool = False) -> Traced:
    """Return a value reduced over some dimensions by a layer of ``kind``."""
    gone = {d % len(value.shape) for d in given}
    layer, layout = kind(value.layout.dims(given), keep), value.layout
    if keep:
        shape = tuple(1 if d in gone else n for d, n in enumerate(value.shape))
        return g.add(layer, value, layout=layout.resized(shape))
    shape = tuple(n for d, n in enumerate(value.shape) if d not in gone)
    batch = layout.batch - sum(d < layout.batch for d in gone)
    return g.add(layer, value, layout=replace(layout, shape=shape, batch=batch))


# ---- windows ----------------------------------------------------------------------------------------------------


def _sizes(given: Any, rank: int) -> tuple[int, ...]:
    values = tuple(given) if isinstance(given, list | tuple) else (given,)
    return values if len(values) == rank else values * rank


_MAXIMA = {1: layers.MaxPool1d, 2: layers.MaxPool2d, 3: layers.MaxPool3d}
_MEANS = {1: layers.AvgPool1d, 2: layers.AvgPool2d, 3: layers.AvgPool3d}
_ADAPTIVE = {1: layers.AdaptiveAvgPool1d, 2: layers.AdaptiveAvgPool2d, 3: layers.AdaptiveAvgPool3d}
_ADAPTIVE_MAXIMA = {1: layers.AdaptiveMaxPool1d, 2: layers.AdaptiveMaxPool2d, 3: layers.AdaptiveMaxPool3d}


@reads(aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)
def max_pool(g: GraphBuilder, call: Call) -> Traced:
    """Maximum over windows."""
    rank = len(call.input.shape) - 2
    kernel = _sizes(call.kernel_size, rank)
    layer: Any = _MAXIMA[rank]
    made = layer(
        kernel,
        _sizes(call.stride, rank) if call.stride else kernel,
        _sizes(call.padding, rank),
        _sizes(call.dilation, rank),
        ceil_mode=bool(call.ceil_mode),
    )
    return g.add(made, call.input)


@reads(aten.max_pool2d_with_indices.default, aten.max_pool3d_with_indices.default)
def max_pool_with_indices(g: GraphBuilder, call: Call) -> list[Traced]:
    """Maximum over windows; the positions of the maxima are not read."""
    return [max_pool(g, call)]


@reads(aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default)
def avg_pool(g: GraphBuilder, call: Call) -> Traced:
    """Mean over windows."""
    rank = len(call.input.shape) - 2
    kernel = _sizes(call.kernel_size, rank)
    layer: Any = _MEANS[rank]
    made = layer(
        kernel,
        _sizes(call.stride, rank) if call.stride else kernel,
        _sizes(call.padding, rank),
        ceil_mode=bool(call.ceil_mode),
        count_include_pad=bool(call.count_include_pad),
        divisor=getattr(call, "divisor_override", None),
    )
    return g.add(made, call.input)


@reads(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default)
def adaptive_avg_pool(g: GraphBuilder, call: Call) -> Traced:
    """Mean over windows that cover the input."""
    rank = len(call.input.shape) - 2
    layer: Any = _ADAPTIVE[rank]
    return g.add(layer(_sizes(call.output_size, rank)), call.input)


@reads(aten.adaptive_max_pool1d.default, aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default)
def adaptive_max_pool(g: GraphBuilder, call: Call) -> list[Traced]:
    """Maximum over windows that cover the input; the positions of the maxima are not read."""
    size = tuple(call.output_size)
    if len(call.input.shape) != len(size) + 2:
        raise UnsupportedError(
            f"pools a value of shape {call.input.shape} to {size}; expected a batch, channels and {len(size)} more "
            "dimensions"
        )
    layer: Any = _ADAPTIVE_MAXIMA[len(size)]
    return [g.add(layer(size), call.input)]
