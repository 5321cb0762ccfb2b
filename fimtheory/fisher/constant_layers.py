"""Layers with constant weights as what they are: linear maps, which are their own derivatives.

torch differentiates a convolution twice by computing the gradients of its weight besides, pushes tangents of zeros
through the weights of linear layers and convolutions in forward mode, and pulls back eval-mode batch norm wrongly in
one case (CPU, batch size 1, followed by ``flatten(2).transpose(1, 2)``).  Here a linear layer, a convolution and the
scale of an eval-mode batch norm are a map and its transpose, and every derivative is one application of either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import BackwardCFunction
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from fimtheory.fisher.packed_convolution import PackedConvolution, PackedConvolutions

__all__ = ["has_foreign_backward", "layers_with_constant_weights"]


class layers_with_constant_weights(TorchFunctionMode):  # noqa: N801  a context manager, named like torch.no_grad
    """Within this context, evaluate linear layers, convolutions and eval-mode batch norms by `_Apply`.

    Parameters
    ----------
    packed : PackedConvolutions, optional
        Those of the module, kept from pass to pass; without them convolutions are torch's own.
    """

    def __init__(self, packed: PackedConvolutions | None = None) -> None:
        self._packed = packed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _DIMENSIONS:
            return _convolve(self._packed, func, *args, **(kwargs or {}))
        by = _REPLACEMENTS.get(func)
        return func(*args, **(kwargs or {})) if by is None else by(func, *args, **(kwargs or {}))


class _Map(Protocol):
    """A linear map of tensors."""

    @property
    def weight(self) -> Tensor:
        """What the map is made of."""
        ...

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor: ...

    def transpose(self, shape: torch.Size) -> _Map:
        """Return the transpose; ``shape`` is that of the map's argument."""
        ...


class _Apply(torch.autograd.Function):
    """``x -> map(x) + bias``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, linear: _Map, bias: Tensor | None) -> Tensor:
        return linear(x, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, ctx.linear, _ = inputs
        ctx.shape, ctx.version = x.shape, _version(ctx.linear.weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        if _version(ctx.linear.weight) != ctx.version:
            raise RuntimeError("a weight was modified by an in-place operation after the forward pass.")
        return _Apply.apply(gradients[0], ctx.linear.transpose(ctx.shape), None), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _Apply.apply(tangents[0], ctx.linear, None)


def _version(weight: Tensor) -> int:
    """Count the in-place operations on a tensor, as torch does for tensors saved for a backward."""
    return 0 if weight.is_inference() else weight._version


def has_foreign_backward(output: Tensor) -> bool:
    """Whether a backward written in Python, other than that of this file, takes part in the gradient of ``output``."""
    waiting, seen = [output.grad_fn], {output.grad_fn}
    while waiting:
        node = waiting.pop()
        if isinstance(node, BackwardCFunction) and not isinstance(node, _OURS):
            return True
        for follower, _ in node.next_functions if node is not None else ():
            if follower is not None and follower not in seen:
                seen.add(follower)
                waiting.append(follower)
    return False


def _constant(*tensors: Tensor | None) -> bool:
    """Whether no derivative passes through the tensors, in either mode."""
    return all(t is None or not (t.requires_grad or forward_ad.unpack_dual(t).tangent is not None) for t in tensors)


# ---- linear layers ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Linear:
    weight: Tensor

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # torch would multiply some strided arrays matrix by matrix
        return F.linear(rows, self.weight, bias).view(*x.shape[:-1], -1)

    def transpose(self, shape: torch.Size) -> _Linear:
        return _Linear(self.weight.mT)


def _linear(func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    if weight.ndim != 2 or not _constant(weight, bias):
        return func(input, weight, bias)
    return _Apply.apply(input, _Linear(weight), bias)


def _attend(func: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Multi-head attention: torch's own, whose projections multiply a transposed batch row by row, on a copy of it."""
    copies = {id(x): x.contiguous() for x in (query, key, value)}  # those that are one tensor stay one
    return func(*(copies[id(x)] for x in (query, key, value)), *args, **kwargs)


# ---- convolutions -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Convolution:
    """Options as ``aten.convolution`` takes them: stride, padding, dilation, transposed, output padding, groups."""

    weight: Tensor
    options: tuple[list[int], list[int], list[int], bool, list[int], int]
    packed: PackedConvolution | None

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if self.packed is not None:
            return self.packed(x, bias)
        return torch.convolution(x, self.weight, bias, *self.options)

    def transpose(self, shape: torch.Size) -> _TransposedConvolution:
        return _TransposedConvolution(self, shape)


@dataclass(frozen=True, eq=False)
class _TransposedConvolution:
    convolution: _Convolution
    shape: torch.Size

    @property
    def weight(self) -> Tensor:
        return self.convolution.weight

    def __call__(self, y: Tensor, bias: Tensor | None) -> Tensor:
        packed = self.convolution.packed
        if packed is not None and packed.transpose is not None:
            return packed.transpose(y, self.shape[2:])
        sizes_only = y.new_empty(1).expand(self.shape)  # no value of the argument of a linear map is read
        weight, options = self.convolution.weight, self.convolution.options
        return torch.ops.aten.convolution_backward(y, sizes_only, weight, None, *options, (True, False, False))[0]

    def transpose(self, shape: torch.Size) -> _Convolution:
        return self.convolution


def _convolve(
    packed: PackedConvolutions | None,
    func: Any,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Any:
    dimensions = _DIMENSIONS[func]
    if isinstance(padding, str) or input.ndim != dimensions + 2 or not _constant(weight, bias):
        return func(input, weight, bias, stride, padding, dilation, groups)
    stride, padding, dilation = (_each(v, dimensions) for v in (stride, padding, dilation))
    options = (stride, padding, dilation, False, [0] * dimensions, groups)
    found = None if packed is None else packed.find(input, weight, stride, padding, dilation, groups)
    return _Apply.apply(input, _Convolution(weight, options, found), bias)


_DIMENSIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}


def _each(value: int | Sequence[int], dimensions: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * dimensions if len(values) == 1 else values


# ---- concatenation ----------------------------------------------------------------------------------------------


class _Concatenate(torch.autograd.Function):
    """``torch.cat``; its transpose splits, where torch's own pulls back into slices of arrays of zeros."""

    generate_vmap_rule = True

    @staticmethod
    def forward(dim: int, *parts: Tensor) -> Tensor:
        return torch.cat(parts, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.dim, *parts = inputs
        ctx.sizes = [part.shape[ctx.dim] for part in parts]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return None, *_Split.apply(gradients[0], ctx.sizes, ctx.dim)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _Concatenate.apply(ctx.dim, *tangents[1:])


class _Split(torch.autograd.Function):
    """``torch.split`` into parts of given sizes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(whole: Tensor, sizes: list[int], dim: int) -> tuple[Tensor, ...]:
        return tuple(part.clone() for part in whole.split(sizes, dim))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, ctx.sizes, ctx.dim = inputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Concatenate.apply(ctx.dim, *gradients), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _Split.apply(tangents[0], ctx.sizes, ctx.dim)


def _concatenate(func: Any, tensors: Sequence[Tensor], *args: Any, **kwargs: Any) -> Any:
    alike = len({(part.dtype, part.ndim) for part in tensors}) == 1 and tensors[0].is_floating_point()
    if len(args) + len(kwargs) > 1 or "out" in kwargs or not alike or len(tensors) < 2:
        return func(tensors, *args, **kwargs)
    dim = next(iter((*args, *kwargs.values())), 0)  # torch calls it dim or axis
    return _Concatenate.apply(dim, *tensors)


# ---- batch norm -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Scale:
    weight: Tensor

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return x * self.weight if bias is None else torch.addcmul(bias, x, self.weight)

    def transpose(self, shape: torch.Size) -> _Scale:
        return self


def _normalise(
    func: Any,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    statistics = (running_mean, running_var, weight, bias)
    if (
        training or running_mean is None or running_var is None or not _constant(*statistics)
        or any(each is not None and each.dtype != input.dtype for each in statistics)
    ):  # fmt: skip
        return func(input, *statistics, training, momentum, eps)
    channels = (1, -1) + (1,) * (input.ndim - 2)
    scale = (running_var + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -running_mean * scale
    shift = shift if bias is None else shift + bias
    return _Apply.apply(input, _Scale(scale.view(channels)), shift.view(channels))


_OURS = tuple(function._backward_cls for function in (_Apply, _Concatenate, _Split))

_REPLACEMENTS: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    F.multi_head_attention_forward: _attend,
    torch.cat: _concatenate,
    F.batch_norm: _normalise,
}
