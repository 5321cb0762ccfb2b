"""Operations with weights: linear maps, convolutions, products with constant matrices."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace as Call
from typing import Any

import torch
from torch import Tensor

from fimtheory import layers
from fimtheory.sources.builder import GraphBuilder
from fimtheory.sources.layout import Traced, UnsupportedError
from fimtheory.sources.operations.movement import expanded, rows_inside
from fimtheory.sources.operations.registry import reads
from fimtheory.sources.operations.resampling import padded

aten: Any = torch.ops.aten

_CONVOLUTIONS: dict[tuple[int, bool], Any] = {
    (1, False): layers.Conv1d,
    (2, False): layers.Conv2d,
    (3, False): layers.Conv3d,
    (1, True): layers.ConvTranspose1d,
    (2, True): layers.ConvTranspose2d,
    (3, True): layers.ConvTranspose3d,
}


@reads(aten.linear.default)
def linear(g: GraphBuilder, call: Call) -> Traced:
    """``x W^T + b``."""
    _constant(call.weight, "weight")
    _constant(call.bias, "bias")
    return _linear(g, call.input, call.weight, call.bias)


@reads(aten.addmm.default)
def addmm(g: GraphBuilder, call: Call) -> Traced:
    """``b + x W``."""
    if call.beta != 1 or call.alpha != 1:
        raise UnsupportedError("addmm with factors")
    _constant(call.mat2, "matrix")
    _constant(call.input, "bias")
    return _linear(g, call.mat1, call.mat2.T.contiguous(), call.input)


def _linear(g: GraphBuilder, value: Traced, weight: Tensor, bias: Tensor | None) -> Traced:
    value.layout.dim(-1)  # refused where it holds the batch
    layer = layers.Linear(weight.shape[1], weight.shape[0], bias is not None)
    return g.add(layer, value, weight=weight, bias=bias)


def _constant(value: Any, what: str) -> None:
    if isinstance(value, Traced):
        raise UnsupportedError(f"the {what} depends on the input; their product has no global Lipschitz constant")


@reads(aten.matmul.default, aten.mm.default, aten.bmm.default)
def matmul(g: GraphBuilder, call: Call) -> Traced:
    """A product of two matrices, of which one may be constant."""
    first = call.input
    second = call.other if hasattr(call, "other") else call.mat2
    if isinstance(first, Traced) and isinstance(second, Traced):
        for each in (first, second):
            each.layout.dims((-1, -2))  # refused where one holds the batch
        *leading, rows, _ = g.shape
        left = expanded(g, first, (*leading, rows, first.shape[-1]))
        right = expanded(g, second, (*leading, *second.shape[-2:]))
        return g.add(layers.MatMul(), left, right)
    value, matrix = (first, second) if isinstance(first, Traced) else (second, first)
    plain = matrix.reshape(matrix.shape[-2:]) if matrix.numel() == matrix.shape[-2] * matrix.shape[-1] else matrix
    if plain.dim() != 2:
        raise UnsupportedError(f"multiplies by a constant stack of matrices {tuple(matrix.shape)}")
    before = value is second
    value.layout.dim(-2 if before else -1)
    layer = layers.MatmulConstant(tuple(plain.shape), before)
    return g.add(layer, value, value=plain)


@reads(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.convolution.default)
def convolution(g: GraphBuilder, call: Call) -> Traced:
    """A convolution, or a transposed one."""
    transposed = getattr(call, "transposed", False)
    if transposed:
        return _convolution(g, call, transposed, list(call.output_padding))
    return _convolution(g, call, transposed, None)


@reads(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding)
def same_convolution(g: GraphBuilder, call: Call) -> Traced:
    """A convolution with padding "valid" (none) or "same" (one entry more after than before, where it is odd)."""
    _constant(call.weight, "kernel")
    rank = call.weight.dim() - 2
    dilation = tuple(call.dilation) if len(call.dilation) == rank else tuple(call.dilation) * rank
    room = [d * (k - 1) if call.padding == "same" else 0 for d, k in zip(dilation, call.weight.shape[2:], strict=True)]
    for at, total in enumerate(room, start=2):
        if total % 2:
            call.input = padded(g, call.input, at, 0, 1)
    call.padding = [total // 2 for total in room]
    return _convolution(g, call, False, None)


@reads(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
def transposed_convolution(g: GraphBuilder, call: Call) -> Traced:
    """The adjoint of a convolution."""
    return _convolution(g, call, True, list(call.output_padding))


def _convolution(g: GraphBuilder, call: Call, transposed: bool, output_padding: Sequence[int] | None) -> Traced:
    _constant(call.weight, "kernel")
    rank = call.weight.dim() - 2

    def sizes(given: Sequence[int]) -> tuple[int, ...]:
        return tuple(given) if len(given) == rank else tuple(given) * rank

    value, groups = call.input, int(call.groups)
    by_row = value.layout.merged > 1
    if by_row and rank == 3:
        raise UnsupportedError("a convolution of three dimensions over a batch with several images an input")
    first, second, *kernel = call.weight.shape
    rows, zero = ((1,), (0,)) if by_row else ((), ())
    layer = _CONVOLUTIONS[rank + by_row, transposed]
    channels = (first, second * groups) if transposed else (second * groups, first)
    more = {} if output_padding is None else {"output_padding": (*zero, *sizes(output_padding))}
    made = layer(
        *channels,
        (*rows, *kernel),
        stride=(*rows, *sizes(call.stride)),
        padding=(*zero, *sizes(call.padding)),
        dilation=(*rows, *sizes(call.dilation)),
        groups=groups,
        bias=call.bias is not None,
        **more,
    )
    if not by_row:
        return g.add(made, value, weight=call.weight, bias=call.bias)
    inside = rows_inside(g, value)
    layout = inside.layout.resized((g.shape[1], inside.shape[1], *g.shape[2:]))
    return rows_inside(g, g.add(made, inside, layout=layout, weight=call.weight.unsqueeze(2), bias=call.bias))
