"""Elementwise operations, sums and scalings."""

from __future__ import annotations

import math
from types import SimpleNamespace as Call
from typing import Any

import torch
from torch import Tensor

from fimtheory import layers
from fimtheory.layers import Layer
from fimtheory.sources.builder import GraphBuilder
from fimtheory.sources.formulas import LEAST_THRESHOLD
from fimtheory.sources.layout import Traced, UnsupportedError
from fimtheory.sources.operations.movement import expanded, sliced
from fimtheory.sources.operations.registry import reads

aten: Any = torch.ops.aten

_MOST_FACTORS = 4

for _target, _kind in (
    (aten.relu.default, layers.ReLU),
    (aten.relu6.default, layers.ReLU6),
    (aten.sigmoid.default, layers.Sigmoid),
    (aten.silu.default, layers.SiLU),
    (aten.mish.default, layers.Mish),
    (aten.tanh.default, layers.Tanh),
    (aten.hardswish.default, layers.Hardswish),
    (aten.hardsigmoid.default, layers.Hardsigmoid),
    (aten.selu.default, layers.SELU),
    (aten.log_sigmoid.default, layers.LogSigmoid),
    (aten.abs.default, layers.Abs),
    (aten.erf.default, layers.Erf),
    (aten.special_erf.default, layers.Erf),
    (aten.sin.default, layers.Sin),
    (aten.cos.default, layers.Cos),
    (aten.atan.default, layers.Atan),
):

    def _elementwise(g: GraphBuilder, call: Call, kind: type[Layer] = _kind) -> Traced:
        return g.add(kind(), call.input)

    reads(_target)(_elementwise)


@reads(aten.gelu.default)
def gelu(g: GraphBuilder, call: Call) -> Traced:
    """GELU, exact or with tanh."""
    return g.add(layers.GELUTanh() if call.approximate == "tanh" else layers.GELU(), call.input)


@reads(aten.leaky_relu.default)
def leaky_relu(g: GraphBuilder, call: Call) -> Traced:
    """Leaky ReLU."""
    return g.add(layers.LeakyReLU(float(call.negative_slope)), call.input)


@reads(aten.prelu.default)
def prelu(g: GraphBuilder, call: Call) -> Traced:
    """Leaky ReLU with a learned slope, or one for each channel."""
    value, slopes = call.input, call.weight
    if isinstance(slopes, Traced):
        raise UnsupportedError("PReLU with slopes that depend on the input")
    if slopes.numel() > 1 and (value.layout.batch != 0 or value.layout.merged > 1):
        raise UnsupportedError("PReLU by channels of a value whose rows are not the inputs of the batch")
    return g.add(layers.PReLU(slopes.numel()), value, weight=slopes)


@reads(aten.rrelu.default)
def rrelu(g: GraphBuilder, call: Call) -> Traced:
    """Randomised leaky ReLU: in evaluation its slope is the mean of the two limits."""
    if call.training:
        raise UnsupportedError("randomised leaky ReLU in training mode; call module.eval() first")
    return g.add(layers.LeakyReLU((float(call.lower) + float(call.upper)) / 2), call.input)


@reads(aten.threshold.default)
def threshold(g: GraphBuilder, call: Call) -> Traced:
    """The input above a threshold, a number elsewhere."""
    limit, below = float(call.threshold), float(call.value)
    if limit != below:
        raise UnsupportedError(f"jumps at its threshold, from {below} to {limit}: no gain is finite")
    return g.add(layers.ReLU() if limit == below == 0 else layers.Threshold(limit, below), call.input)


@reads(aten.glu.default)
def glu(g: GraphBuilder, call: Call) -> Traced:
    """The first half of a dimension times the sigmoid of the second."""
    value: Traced = call.input
    at = call.dim % len(value.shape)
    half = value.shape[at] // 2
    first, second = sliced(g, value, at, 0, half), sliced(g, value, at, half, 2 * half)
    return g.add(layers.Multiply(), first, g.add(layers.Sigmoid(), second, layout=second.layout), layout=first.layout)


@reads(aten.elu.default)
def elu(g: GraphBuilder, call: Call) -> Traced:
    """ELU, and SELU and CELU, which are written as ELU with scales."""
    alpha, scale, inside = float(call.alpha), float(call.scale), float(call.input_scale)
    if scale == 1 and inside == 1:
        return g.add(layers.ELU(alpha), call.input)
    if scale == 1 and math.isclose(alpha * inside, 1, rel_tol=1e-12):
        return g.add(layers.CELU(alpha), call.input)
    if inside == 1:
        return g.add(layers.Scale(scale), g.add(layers.ELU(alpha), call.input))
    raise UnsupportedError(f"ELU with alpha {alpha}, scale {scale} and input scale {inside}")


@reads(aten.celu.default)
def celu(g: GraphBuilder, call: Call) -> Traced:
    """CELU."""
    return g.add(layers.CELU(float(call.alpha)), call.input)


@reads(aten.softplus.default)
def softplus(g: GraphBuilder, call: Call) -> Traced:
    """Softplus; torch's jump of 2e-9 where it turns linear is left out, a larger one is refused."""
    if call.threshold < LEAST_THRESHOLD:
        raise UnsupportedError(
            f"softplus with threshold {call.threshold} jumps where it turns linear: no gain is finite; expected at "
            f"least {LEAST_THRESHOLD}"
        )
    return g.add(layers.Softplus(float(call.beta)), call.input)


@reads(aten.softshrink.default)
def softshrink(g: GraphBuilder, call: Call) -> Traced:
    """Soft shrinkage."""
    return g.add(layers.Softshrink(float(call.lambd)), call.input)


@reads(aten.hardtanh.default)
def hardtanh(g: GraphBuilder, call: Call) -> Traced:
    """Clipping to an interval."""
    low, high = float(call.min_val), float(call.max_val)
    return g.add(layers.ReLU6() if (low, high) == (0.0, 6.0) else layers.Hardtanh(low, high), call.input)


@reads(aten.clamp.default)
def clamp(g: GraphBuilder, call: Call) -> Traced:
    """Clipping to an interval that may be half open."""
    return _clamped(g, call.input, call.min, call.max)


@reads(aten.clamp_min.default)
def clamp_min(g: GraphBuilder, call: Call) -> Traced:
    """Clipping from below."""
    return _clamped(g, call.input, call.min, None)


@reads(aten.clamp_max.default)
def clamp_max(g: GraphBuilder, call: Call) -> Traced:
    """Clipping from above."""
    return _clamped(g, call.input, None, call.max)


def _clamped(g: GraphBuilder, value: Traced, low: float | None, high: float | None) -> Traced:
    if low == 0 and high is None:
        return g.add(layers.ReLU(), value)
    if low is not None and high is not None:
        return g.add(layers.Hardtanh(float(low), float(high)), value)
    ends = (None if low is None else float(low)), (None if high is None else float(high))
    return g.add(layers.Clamp(*ends), value)


# ---- sums and scalings ------------------------------------------------------------------------------------------


@reads(aten.add.Tensor, aten.add.Scalar)
def add(g: GraphBuilder, call: Call) -> Traced:
    """A sum with another value or a constant, the second one scaled."""
    return _sum(g, call.input, call.other, 1.0, float(call.alpha))


@reads(aten.sub.Tensor, aten.sub.Scalar)
def sub(g: GraphBuilder, call: Call) -> Traced:
    """A difference."""
    return _sum(g, call.input, call.other, 1.0, -float(call.alpha))


@reads(aten.rsub.Scalar, aten.rsub.Tensor)
def rsub(g: GraphBuilder, call: Call) -> Traced:
    """A difference the other way round."""
    return _sum(g, call.input, call.other, -float(call.alpha), 1.0)


def _sum(g: GraphBuilder, first: Any, second: Any, one: float, other: float) -> Traced:
    values = [(v, factor) for v, factor in ((first, one), (second, other)) if isinstance(v, Traced)]
    traced = [_scaled(g, expanded(g, value, g.shape), factor) for value, factor in values]
    if len(traced) == 2:
        return g.add(layers.Add(), *traced)
    (constant,) = ((c, factor) for c, factor in ((first, one), (second, other)) if not isinstance(c, Traced))
    value, factor = constant
    if not isinstance(value, Tensor):
        return g.add(layers.Shift(float(value) * factor), traced[0]) if value != 0 else traced[0]
    stored = _stored(g, traced[0], value if factor == 1 else value * factor)
    return g.add(layers.AddConstant(tuple(stored.shape)), traced[0], value=stored)


def _stored(g: GraphBuilder, value: Traced, constant: Tensor) -> Tensor:
    """Return a constant as it is stored: the model's own tensor where its leading 1 is the batch's."""
    constant = constant if constant.is_floating_point() else constant.to(torch.float64)
    kept = value.layout.constant(constant)
    whole = constant.dim() == len(value.shape) and value.layout.batch == 0 and value.layout.merged == 1
    if g.key_of(constant) is not None and (kept is constant or (whole and constant.shape[0] == 1)):
        return constant
    return kept.reshape(1) if kept.dim() == 0 else kept


def _scaled(g: GraphBuilder, value: Traced, factor: float) -> Traced:
    return value if factor == 1 else g.add(layers.Scale(factor), value, layout=value.layout)


@reads(aten.neg.default)
def neg(g: GraphBuilder, call: Call) -> Traced:
    """A change of sign."""
    return _scaled(g, call.input, -1.0)


@reads(aten.mul.Tensor, aten.mul.Scalar)
def mul(g: GraphBuilder, call: Call) -> Traced:
    """A product with a constant, or a gate."""
    if isinstance(call.input, Traced) and isinstance(call.other, Traced):
        return _product(g, call.input, call.other)
    value, constant = (call.input, call.other) if isinstance(call.input, Traced) else (call.other, call.input)
    return _multiplied(g, expanded(g, value, g.shape), constant)


@reads(aten.addcmul.default)
def addcmul(g: GraphBuilder, call: Call) -> Traced:
    """A sum with a product, which is scaled."""
    first, second = call.tensor1, call.tensor2
    if not isinstance(first, Traced) and not isinstance(second, Traced):
        return _sum(g, call.input, first * second, 1.0, float(call.value))
    if torch.broadcast_shapes(first.shape, second.shape) != g.shape:
        raise UnsupportedError(f"adds a product of {tuple(first.shape)} and {tuple(second.shape)} to a larger value")
    product = mul(g, Call(input=first, other=second))
    return _sum(g, call.input, product, 1.0, float(call.value))


@reads(aten.div.Tensor, aten.div.Scalar)
def div(g: GraphBuilder, call: Call) -> Traced:
    """A division by a constant."""
    if isinstance(call.other, Traced):
        raise UnsupportedError("divides by a value that depends on the input, which has no global Lipschitz constant")
    if isinstance(call.other, Tensor):
        return _multiplied(g, expanded(g, call.input, g.shape), 1 / call.other)
    if call.other == 0:
        raise UnsupportedError("divides by zero")
    return _scaled(g, call.input, 1 / float(call.other))


@reads(aten.pow.Tensor_Scalar)
def power(g: GraphBuilder, call: Call) -> Traced:
    """A small whole power, as products."""
    exponent = int(call.exponent)
    if exponent != call.exponent or not 1 <= exponent <= _MOST_FACTORS:
        raise UnsupportedError(f"the power {call.exponent}; those read are 1 to {_MOST_FACTORS}, as products")
    value = call.input
    for _ in range(exponent - 1):
        value = g.add(layers.Multiply(), value, call.input)
    return value


@reads(aten.square.default)
def square(g: GraphBuilder, call: Call) -> Traced:
    """The product of a value with itself."""
    return g.add(layers.Multiply(), call.input, call.input)


@reads(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def masked_fill(g: GraphBuilder, call: Call) -> Traced:
    """A number in the place of the entries that a constant mask marks."""
    mask, fill = call.mask, call.value
    if not isinstance(call.input, Traced) or isinstance(mask, Traced) or isinstance(fill, Traced):
        raise UnsupportedError("fills where, or with what, depends on the input, or fills a constant")
    return _kept(g, call.input, ~mask, fill)


@reads(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf)
def where(g: GraphBuilder, call: Call) -> Traced:
    """One of two values, as a constant mask says."""
    mask, one, other = call.condition, call.input, call.other
    if isinstance(mask, Traced):
        raise UnsupportedError("chooses by the input, which is no continuous function of it")
    if isinstance(one, Traced) and isinstance(other, Traced):
        return g.add(layers.Add(), _kept(g, one, mask, 0.0), _kept(g, other, ~mask, 0.0))
    return _kept(g, one, mask, other) if isinstance(one, Traced) else _kept(g, other, ~mask, one)


def _kept(g: GraphBuilder, value: Traced, mask: Tensor, fill: Any) -> Traced:
    """Return the entries that a constant mask marks, with a constant in the place of all others."""
    value = expanded(g, value, g.shape)
    if bool(mask.all()):
        return value
    filled = torch.where(mask, torch.zeros((), dtype=torch.float64), torch.as_tensor(fill, dtype=torch.float64))
    if not bool(filled.isfinite().all()):
        raise UnsupportedError("fills with infinity; only attention by softmax hides entries so")
    kept = _multiplied(g, value, mask.to(torch.float64))
    return kept if not bool(filled.any()) else _sum(g, kept, filled, 1.0, 1.0)


def _multiplied(g: GraphBuilder, value: Traced, constant: Any) -> Traced:
    if not isinstance(constant, Tensor):
        return _scaled(g, value, float(constant))
    stored = _stored(g, value, constant)
    return g.add(layers.MultiplyConstant(tuple(stored.shape)), value, value=stored)


def _product(g: GraphBuilder, first: Traced, second: Traced) -> Traced:
    """A product of two values: a gate where one of them is repeated along dimensions of the other."""
    if first.shape == second.shape:
        return g.add(layers.Multiply(), first, second)
    wide, gate = (first, second) if first.shape == g.shape else (second, first)
    if wide.shape != g.shape:
        return g.add(layers.Multiply(), expanded(g, first, g.shape), expanded(g, second, g.shape))
    missing = len(wide.shape) - len(gate.shape)
    if (gate.layout.batch + missing, gate.layout.outer, gate.layout.inner) != (
        (wide.layout.batch, wide.layout.outer, wide.layout.inner)
    ):
        raise UnsupportedError(f"multiplies {first.shape} by {second.shape}, whose batches are laid out differently")
    return g.add(layers.Gate(), wide, gate, layout=wide.layout)
