"""Operators that act entry by entry."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fimtheory.errors import SourceError
from fimtheory.sources.onnx_operations.registry import Call, operation

for _name, _function in {
    "Abs": torch.abs,
    "And": torch.logical_and,
    "Atan": torch.atan,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": functional.hardswish,
    "Log": torch.log,
    "Mish": functional.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "Reciprocal": torch.reciprocal,
    "Relu": functional.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Softplus": functional.softplus,
    "Softsign": functional.softsign,
    "Sqrt": torch.sqrt,
    "Tanh": torch.tanh,
}.items():

    def _plain(call: Call, function: Callable[..., Tensor] = _function) -> Tensor:
        return function(*(call[place] for place in range(len(call.inputs))))

    operation(_name)(_plain)


@operation("LeakyRelu")
def leaky_relu(call: Call) -> Tensor:
    """Leaky ReLU: alpha x where x is negative."""
    return functional.leaky_relu(call[0], call.attribute("alpha", 0.01))


@operation("Elu")
def elu(call: Call) -> Tensor:
    """ELU: alpha (exp x - 1) where x is negative."""
    return functional.elu(call[0], call.attribute("alpha", 1.0))


@operation("Celu")
def celu(call: Call) -> Tensor:
    """CELU: alpha (exp(x / alpha) - 1) where x is negative."""
    return functional.celu(call[0], call.attribute("alpha", 1.0))


_SELU = (1.6732632423543772, 1.0507009873554805)


@operation("Selu")
def selu(call: Call) -> Tensor:
    """SELU, or ELU times another constant."""
    alpha, gamma = call.attribute("alpha", _SELU[0]), call.attribute("gamma", _SELU[1])
    usual = all(math.isclose(*pair, rel_tol=1e-7) for pair in zip((alpha, gamma), _SELU, strict=True))
    return functional.selu(call[0]) if usual else gamma * functional.elu(call[0], alpha)


@operation("PRelu")
def prelu(call: Call) -> Tensor:
    """Leaky ReLU with one slope, or one for each channel."""
    value, slope = call[0], call[1]
    channels = value.shape[1] if value.dim() > 1 else 1
    per_channel = (1,) * (slope.dim() - value.dim() + 1) + (channels,) + (1,) * (value.dim() - 2)
    if slope.numel() != 1 and slope.shape != per_channel:
        raise SourceError(f"slopes of shape {tuple(slope.shape)}; expected one, or one for each channel")
    return functional.prelu(value, slope.reshape(-1))


@operation("ThresholdedRelu")
def thresholded_relu(call: Call) -> Tensor:
    """ReLU with a threshold: 0 where x is not above alpha."""
    return functional.threshold(call[0], call.attribute("alpha", 1.0), 0.0)


@operation("Shrink")
def shrink(call: Call) -> Tensor:
    """Soft or hard shrinkage."""
    bias, lambd = call.attribute("bias", 0.0), call.attribute("lambd", 0.5)
    if bias == 0:
        return functional.hardshrink(call[0], lambd)
    if bias == lambd:
        return functional.softshrink(call[0], lambd)
    raise SourceError(f"shrinks by {bias} beyond {lambd}; expected equal numbers, or no bias")


@operation("HardSigmoid")
def hard_sigmoid(call: Call) -> Tensor:
    """Clipping of alpha x + beta to [0, 1]."""
    alpha, beta = call.attribute("alpha", 0.2), call.attribute("beta", 0.5)
    if (alpha, beta) == (1 / 6, 0.5):
        return functional.hardsigmoid(call[0])
    return functional.hardtanh(call[0] * alpha + beta, 0.0, 1.0)


@operation("Clip")
def clip(call: Call) -> Tensor:
    """Clipping to an interval that may be half open."""
    low, high = call.number(1, None), call.number(2, None)
    if low == 0 and high is None:
        return functional.relu(call[0])
    if low is None and high is None:
        return call[0]
    if low is None or high is None:
        return torch.clamp(call[0], low, high) if low is None else torch.clamp_min(call[0], low)
    if low > high:
        raise SourceError(f"clips to [{low}, {high}], which is empty")
    return functional.hardtanh(call[0], low, high) if call[0].is_floating_point() else torch.clamp(call[0], low, high)


@operation("Gelu")
def gelu(call: Call) -> Tensor:
    """GELU, exact or with tanh."""
    return functional.gelu(call[0], approximate=call.attribute("approximate", "none"))


@operation("Swish")
def swish(call: Call) -> Tensor:
    """SiLU: x sigmoid(alpha x)."""
    alpha = call.attribute("alpha", 1.0)
    return functional.silu(call[0]) if alpha == 1 else call[0] * torch.sigmoid(call[0] * alpha)


@operation("Identity")
def identity(call: Call) -> Tensor:
    """The input."""
    return call[0]


@operation("Dropout")
def dropout(call: Call) -> Tensor:
    """The input; dropout in training is refused."""
    call.ignore("ratio", "seed")
    call.entries(1, None)
    if call.number(2, False):
        raise SourceError("dropout in training mode; export the model in evaluation mode")
    return call[0]


# ---- two operands and more --------------------------------------------------------------------------------------


def _operands(call: Call) -> tuple[Any, Any]:
    """Both operands, a constant of one entry as a number."""
    first, second = call.scalar(0), call.scalar(1)
    return (first, second) if isinstance(first, Tensor) or isinstance(second, Tensor) else (call[0], call[1])


@operation("Add")
def add(call: Call) -> Tensor:
    """A sum."""
    first, second = _operands(call)
    return first + second


@operation("Sub")
def sub(call: Call) -> Tensor:
    """A difference."""
    first, second = _operands(call)
    return first - second


@operation("Mul")
def mul(call: Call) -> Tensor:
    """A product entry by entry."""
    first, second = _operands(call)
    return first * second


@operation("Div")
def div(call: Call) -> Tensor:
    """A quotient; that of integers is cut off towards zero."""
    first, second = _operands(call)
    return first / second if call[0].is_floating_point() else torch.div(first, second, rounding_mode="trunc")


@operation("Pow")
def power(call: Call) -> Tensor:
    """A power."""
    exponent = call.scalar(1)
    return torch.pow(call[0], float(exponent) if isinstance(exponent, int) else exponent)


@operation("Mod")
def mod(call: Call) -> Tensor:
    """A remainder."""
    return (torch.fmod if call.attribute("fmod", 0) else torch.remainder)(call[0], call[1])


@operation("Equal")
def equal(call: Call) -> Tensor:
    """Where two values are equal."""
    return torch.eq(call[0], call[1])


@operation("Greater")
def greater(call: Call) -> Tensor:
    """Where the first value is greater."""
    return torch.gt(call[0], call[1])


@operation("GreaterOrEqual")
def greater_or_equal(call: Call) -> Tensor:
    """Where the first value is not less."""
    return torch.ge(call[0], call[1])


@operation("Less")
def less(call: Call) -> Tensor:
    """Where the first value is less."""
    return torch.lt(call[0], call[1])


@operation("LessOrEqual")
def less_or_equal(call: Call) -> Tensor:
    """Where the first value is not greater."""
    return torch.le(call[0], call[1])


@operation("Where")
def where(call: Call) -> Tensor:
    """The second value where the first is true, else the third."""
    return torch.where(call[0], call[1], call[2])


@operation("Max")
def maximum(call: Call) -> Tensor:
    """The largest of several values."""
    return _extreme(call, torch.clamp_min, torch.maximum)


@operation("Min")
def minimum(call: Call) -> Tensor:
    """The smallest of several values."""
    return _extreme(call, torch.clamp_max, torch.minimum)


def _extreme(call: Call, clamp: Callable[..., Tensor], joined: Callable[..., Tensor]) -> Tensor:
    if len(call.inputs) == 2:
        first, second = _operands(call)
        if not isinstance(first, Tensor) or not isinstance(second, Tensor):
            return clamp(first, second) if isinstance(first, Tensor) else clamp(second, first)
    return functools.reduce(joined, _values(call))


def _values(call: Call) -> list[Tensor]:
    return [call[place] for place in range(len(call.inputs))]


@operation("Sum")
def sum_(call: Call) -> Tensor:
    """The sum of several values."""
    return functools.reduce(torch.add, _values(call))


@operation("Mean")
def mean(call: Call) -> Tensor:
    """The mean of several values."""
    return functools.reduce(torch.add, _values(call)) / len(call.inputs)


# ---- types ------------------------------------------------------------------------------------------------------

_FLOATS = {1, 10, 11, 16}
_INTEGERS = {2, 3, 4, 5, 6, 7, 12, 13}
_BOOL = 9


@operation("Cast")
def cast(call: Call) -> Tensor:
    """A conversion; between floating-point types it changes nothing but the rounding."""
    call.ignore("saturate", "round_mode")
    return _converted(call, int(call.attribute("to")))


@operation("CastLike")
def cast_like(call: Call) -> Tensor:
    """A conversion to the type of the second input."""
    call.ignore("saturate", "round_mode")
    kind = call[1]
    if kind.is_floating_point():
        return _converted(call, min(_FLOATS))
    return _converted(call, _BOOL if kind.dtype is torch.bool else 7)


def _converted(call: Call, to: int) -> Tensor:
    value = call[0]
    if to in _FLOATS:
        return value if value.is_floating_point() else value.to(torch.float64)
    if value.is_floating_point() and not call.constant(0):
        raise SourceError("converts a value that depends on the input to whole numbers, which has no derivative")
    if to in _INTEGERS:
        return value.to(torch.int64)
    if to == _BOOL:
        return value.to(torch.bool)
    raise SourceError(f"converts to type {to}, which is not supported")
