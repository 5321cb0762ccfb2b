"""Ranges of elementwise functions, from a slope through the origin or from bounds that hold whatever flows in."""

from __future__ import annotations

from fimtheory import layers
from fimtheory.balls import ball
from fimtheory.ranges.base import Flow, Range, bounded, ranged, spread

__all__ = ["contraction", "lipschitz_through_zero"]


def contraction(flow: Flow, x: Range) -> Range:
    """|f(x)| <= |x|: the function is x times a factor in [-1, 1], or moves x towards zero."""
    return spread(flow, x, ball(1), ball(0))


def lipschitz_through_zero(flow: Flow, x: Range) -> Range:
    """|f(x)| <= L |x|, as f(0) = 0."""
    return spread(flow, x, flow.gain(), ball(0))


for _kind in (
    layers.ReLU, layers.GELU, layers.GELUTanh, layers.SiLU, layers.QuickGELU, layers.Mish, layers.Hardswish,
    layers.Softshrink, layers.Tanhshrink, layers.Abs, layers.Dropout, layers.Identity,
):  # fmt: skip
    ranged(_kind)(contraction)

for _kind in (layers.LeakyReLU, layers.PReLU, layers.ELU, layers.CELU, layers.SELU, layers.Scale):
    ranged(_kind)(lipschitz_through_zero)

for _kind in (
    layers.ReLU6, layers.Tanh, layers.Sigmoid, layers.Hardtanh, layers.Hardsigmoid, layers.Softsign, layers.Sin,
    layers.Cos, layers.Erf, layers.Atan,
):  # fmt: skip
    ranged(_kind, reads=())(bounded)


@ranged(layers.Softplus)
def _softplus(flow: Flow, x: Range) -> Range:
    """``log(1 + e^(b x)) / b <= max(x, 0) + log(2) / b``."""
    return spread(flow, x, ball(1), ball(2).log() / ball(flow.layer.beta))


@ranged(layers.LogSigmoid)
def _log_sigmoid(flow: Flow, x: Range) -> Range:
    """Minus the softplus of -x."""
    return spread(flow, x, ball(1), ball(2).log())


@ranged(layers.Clamp, reads=lambda layer: None if layer.minimum is None or layer.maximum is None else ())
def _clamp(flow: Flow, *x: Range) -> Range:
    """The nearest point of an interval: x, or no larger than x or f(0); with two ends, no larger than one of them."""
    low, high = flow.layer.minimum, flow.layer.maximum
    if not x:
        return Range.of(flow.output, entry=abs(ball(low)).max(abs(ball(high))))
    return _at_least(flow, x[0], max(low or 0.0, 0.0) + min(high or 0.0, 0.0))


@ranged(layers.Threshold)
def _threshold(flow: Flow, x: Range) -> Range:
    return _at_least(flow, x, flow.layer.value)


def _at_least(flow: Flow, x: Range, value: float) -> Range:
    """|f(x)| is at most the larger of |x| and the magnitude of ``value``, hence at most their sum."""
    summed = spread(flow, x, ball(1), abs(ball(value)))
    return Range.of(flow.output, entry=x.entry.max(abs(ball(value))), token=summed.token, norm=summed.norm)


@ranged(layers.Shift)
def _shift(flow: Flow, x: Range) -> Range:
    return spread(flow, x, ball(1), abs(ball(flow.layer.value)))
