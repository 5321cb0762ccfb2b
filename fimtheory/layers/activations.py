"""Elementwise functions, and softmax."""

from __future__ import annotations

from fimtheory.layers.base import Layer, Size, layer

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "SELU",
    "Abs",
    "Atan",
    "Clamp",
    "Cos",
    "Erf",
    "GELUTanh",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "PReLU",
    "QuickGELU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Sin",
    "Softmax",
    "SoftmaxOver",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Threshold",
]


@layer
class ReLU(Layer):
    """max(x, 0)."""


@layer
class ReLU6(Layer):
    """min(max(x, 0), 6)."""


@layer
class LeakyReLU(Layer):
    """x where positive, ``negative_slope`` x elsewhere."""

    negative_slope: float = 0.01


@layer
class PReLU(Layer):
    """Leaky ReLU with a learned slope, one for all channels or one per channel (dimension 0)."""

    channels: Size = 1


@layer
class ELU(Layer):
    """x where positive, ``alpha (e^x - 1)`` elsewhere."""

    alpha: float = 1.0


@layer
class CELU(Layer):
    """x where positive, ``alpha (e^(x/alpha) - 1)`` elsewhere; alpha > 0."""

    alpha: float = 1.0


@layer
class SELU(Layer):
    """ELU with the two constants of self-normalising networks."""


@layer
class GELU(Layer):
    """x Phi(x) with the Gaussian distribution function."""


@layer
class GELUTanh(Layer):
    """The tanh approximation of GELU, as torch computes it."""


@layer
class SiLU(Layer):
    """x sigmoid(x)."""


@layer
class QuickGELU(Layer):
    """x sigmoid(1.702 x)."""


@layer
class Mish(Layer):
    """x tanh(softplus(x))."""


@layer
class Softplus(Layer):
    """log(1 + e^(beta x)) / beta."""

    beta: float = 1.0


@layer
class Tanh(Layer):
    """tanh(x)."""


@layer
class Sigmoid(Layer):
    """1 / (1 + e^-x)."""


@layer
class LogSigmoid(Layer):
    """log(sigmoid(x))."""


@layer
class Hardtanh(Layer):
    """x clipped to [minimum, maximum]."""

    minimum: float = -1.0
    maximum: float = 1.0


@layer
class Clamp(Layer):
    """x clipped to [minimum, maximum]; one of the two may be None, for no end there."""

    minimum: float | None = None
    maximum: float | None = None


@layer
class Threshold(Layer):
    """x where above ``threshold``, ``value`` elsewhere; it jumps, and has no gain, unless the two are equal."""

    threshold: float = 0.0
    value: float = 0.0


@layer
class Hardsigmoid(Layer):
    """x/6 + 1/2 clipped to [0, 1]."""


@layer
class Hardswish(Layer):
    """x hardsigmoid(x)."""


@layer
class Abs(Layer):
    """|x|."""


@layer
class Sin(Layer):
    """sin(x)."""


@layer
class Cos(Layer):
    """cos(x)."""


@layer
class Erf(Layer):
    """The error function."""


@layer
class Atan(Layer):
    """The inverse tangent, in radians."""


@layer
class Softsign(Layer):
    """x / (1 + |x|)."""


@layer
class Softshrink(Layer):
    """x moved towards zero by ``threshold``, zero inside."""

    threshold: float = 0.5


@layer
class Tanhshrink(Layer):
    """x - tanh(x)."""


@layer
class Softmax(Layer):
    """softmax(x / temperature) over the last dimension."""

    temperature: float = 1.0


@layer
class SoftmaxOver(Layer):
    """softmax(x) over dimension ``dim``, counted without the batch."""

    dim: int


@layer
class LogSoftmax(Layer):
    """log(softmax(x)) over dimension ``dim``, counted without the batch."""

    dim: int
