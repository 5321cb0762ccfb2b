"""Layer descriptions: parameters and sizes, no mathematics.

Each class is frozen and final.  What a layer does, and what is known about it, are rules registered for its exact
type (see ``fimtheory.registry``), so a subclass with another forward can never inherit a bound.  Shapes are those of
one input, without the batch dimension; sizes are ints or sympy expressions of sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeVar, cast, dataclass_transform

import sympy

from fimtheory.errors import RuleError

__all__ = [
    "CELU", "ELU", "GELU", "LAYER_TYPES", "SELU", "AdaptiveAvgPool2d", "Add", "AvgPool2d", "BatchNorm2d",
    "ClassToken", "Concat", "Conv2d", "Dropout", "Flatten", "GELUTanh", "Hardsigmoid", "Hardswish", "Hardtanh",
    "Identity", "Input", "Layer", "LayerNorm", "LeakyReLU", "Linear", "MaxPool2d", "Mish",
    "MultiHeadSelfAttention", "PReLU", "Pair", "PatchEmbedding", "Permute", "PositionEmbedding", "ReLU", "ReLU6",
    "Reshape", "SelectToken", "Shape", "SiLU", "Sigmoid", "Size", "Softmax", "Softplus", "Softshrink", "Softsign",
    "Tanh", "Tanhshrink", "layer",
]  # fmt: skip

Size = int | sympy.Expr
"""A positive integer, or an expression that stands for one."""
Shape = tuple[Size, ...]
Pair = tuple[Size, Size]

LAYER_TYPES: dict[str, type[Layer]] = {}
"""Every layer type by name: what a graph file may contain."""


class Layer:
    """Base of every layer description; ``arity`` is the number of inputs, None for one or more."""

    __slots__ = ()
    arity: ClassVar[int | None] = 1


_L = TypeVar("_L", bound=Layer)


@dataclass_transform(frozen_default=True)
def layer(cls: type[_L]) -> type[_L]:
    """Make ``cls`` a layer type: a frozen dataclass that graph files can name and nothing can inherit from.

    Raises
    ------
    RuleError
        ``cls`` does not derive from ``Layer`` directly, or its name is taken.
    """
    if cls.__bases__ != (Layer,):
        raise RuleError(
            f"layer type {cls.__name__} must derive from fimtheory.layers.Layer and nothing else: "
            "a layer derived from another would inherit bounds that need not hold for it"
        )
    if cls.__name__ in LAYER_TYPES:
        raise RuleError(f"a layer type named {cls.__name__} exists already; give yours another name")

    def refuse(subclass: type, /, **_: object) -> None:
        raise RuleError(f"layer type {cls.__name__} is final; derive {subclass.__name__} from Layer instead")

    made = dataclass(frozen=True)(cls)
    made.__init_subclass__ = classmethod(refuse)  # type: ignore[assignment]
    LAYER_TYPES[cls.__name__] = made
    return cast("type[_L]", made)


@layer
class Input(Layer):
    """The input of a graph, of the given shape."""

    arity: ClassVar[int | None] = 0
    shape: Shape


# ---- weights ----------------------------------------------------------------------------------------------------


@layer
class Linear(Layer):
    """``x W^T + b`` over the last dimension; W is (out_features, in_features)."""

    in_features: Size
    out_features: Size
    bias: bool = True


@layer
class Conv2d(Layer):
    """Zero-padded cross-correlation; kernel (out_channels, in_channels / groups, kh, kw), input (C, H, W)."""

    in_channels: Size
    out_channels: Size
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: Size = 1
    bias: bool = True


@layer
class PatchEmbedding(Layer):
    """Cut (C, H, W) into disjoint patches and map each linearly to a token: output (H W / patch^2, dim)."""

    in_channels: Size
    dim: Size
    patch: Size
    bias: bool = True


@layer
class MultiHeadSelfAttention(Layer):
    """Softmax attention of (tokens, dim) to itself with input projections q, k, v and an output projection."""

    dim: Size
    heads: int
    bias: bool = True


# ---- normalisation ----------------------------------------------------------------------------------------------


@layer
class BatchNorm2d(Layer):
    """Batch norm in evaluation: ``gamma (x - mean) / sqrt(var + eps) + beta`` per channel of (C, H, W)."""

    channels: Size
    eps: float = 1e-5


@layer
class LayerNorm(Layer):
    """Layer norm over the last dimension with the biased variance."""

    features: Size
    eps: float = 1e-5


# ---- elementwise ------------------------------------------------------------------------------------------------


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
class Hardtanh(Layer):
    """x clipped to [minimum, maximum]."""

    minimum: float = -1.0
    maximum: float = 1.0


@layer
class Hardsigmoid(Layer):
    """x/6 + 1/2 clipped to [0, 1]."""


@layer
class Hardswish(Layer):
    """x hardsigmoid(x)."""


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


# ---- pooling ----------------------------------------------------------------------------------------------------


@layer
class MaxPool2d(Layer):
    """Maximum over windows of (C, H, W), padded with minus infinity."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)


@layer
class AvgPool2d(Layer):
    """Mean over windows of (C, H, W), padded with zeros that count."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)


@layer
class AdaptiveAvgPool2d(Layer):
    """Mean over ``output`` = (h, w) windows that cover (C, H, W), as torch places them."""

    output: Pair


# ---- structure --------------------------------------------------------------------------------------------------


@layer
class Add(Layer):
    """Sum of its inputs, all of one shape."""

    arity: ClassVar[int | None] = None


@layer
class Concat(Layer):
    """Inputs side by side along dimension ``dim`` (counted without the batch)."""

    arity: ClassVar[int | None] = None
    dim: int = 0


@layer
class Flatten(Layer):
    """All dimensions into one."""


@layer
class Reshape(Layer):
    """The same numbers in another shape."""

    shape: Shape


@layer
class Permute(Layer):
    """Dimensions in another order."""

    dims: tuple[int, ...]


@layer
class Dropout(Layer):
    """Dropout in evaluation: the identity."""

    p: float = 0.5


@layer
class Identity(Layer):
    """The identity."""


@layer
class ClassToken(Layer):
    """A learned token before the others: (N, dim) to (N + 1, dim)."""

    dim: Size


@layer
class PositionEmbedding(Layer):
    """A learned vector added to each token."""

    tokens: Size
    dim: Size


@layer
class SelectToken(Layer):
    """One token of (N, dim)."""

    index: int = 0
