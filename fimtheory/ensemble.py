"""The tensors of a layer, and the random ensemble they are drawn from: what parameter rules are made of.

The initial distributions are the ensemble of the expected bound, so they are part of a theorem's statement:

- weights of linear maps, convolutions and ``PatchEmbedding``: independent N(0, 2 / fan_in), fan_in being in_features,
  or in_channels / groups times the taps that meet one output: those of the kernel, of a transposed convolution the
  product of ceil(k gcd(stride, dilation) / stride) at most (He et al. 2015);
- projections of ``MultiHeadSelfAttention``: independent N(0, 1 / fan_in), fan_in = dim;
- biases 0; norms the identity: weight 1, bias 0, running mean 0, running variance 1;
- class token and position embeddings: independent N(0, 0.02^2) (Dosovitskiy et al. 2021);
- slope of ``PReLU``: 0.25.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import final

from fimtheory.layers import Shape, Size
from fimtheory.registry import Site

__all__ = [
    "ATTENTION_VARIANCE",
    "PRELU_SLOPE",
    "TOKEN_DEVIATION",
    "WEIGHT_VARIANCE",
    "Initial",
    "Parameter",
    "Parameters",
    "no_parameters",
    "scale_and_shift",
    "weight_and_bias",
]

WEIGHT_VARIANCE = 2
"""fan_in times the variance of a weight."""
ATTENTION_VARIANCE = 1
"""fan_in times the variance of a weight of an attention projection."""
TOKEN_DEVIATION = 0.02
"""Standard deviation of the class token and of position embeddings."""
PRELU_SLOPE = 0.25


class Initial(enum.StrEnum):
    """How the entries of a tensor start."""

    WEIGHT = "weight"
    """Independent N(0, WEIGHT_VARIANCE / fan_in)."""
    ATTENTION = "attention"
    """Independent N(0, ATTENTION_VARIANCE / fan_in)."""
    TOKEN = "token"
    """Independent N(0, TOKEN_DEVIATION^2)."""
    ZERO = "zero"
    ONE = "one"
    SLOPE = "slope"
    """PRELU_SLOPE."""
    MEAN = "mean"
    """A buffer of zeros: batch norm's running mean."""
    VARIANCE = "variance"
    """A nonnegative buffer of ones: batch norm's running variance."""
    MASK = "mask"
    """Zeros that are added to attention scores; minus infinity hides a key, but not every key of a query."""
    COUNT = "count"
    """An int64 buffer, zero: how many batches batch norm has seen."""

    @property
    def buffer(self) -> bool:
        """Whether the tensor is a buffer, which no gradient reaches."""
        return self in (Initial.MEAN, Initial.VARIANCE, Initial.COUNT)


@final
@dataclass(frozen=True, slots=True)
class Parameter:
    """One tensor of a layer.

    Attributes
    ----------
    name
        Path below the node in a state dict; "" where the node's own name is the key.
    shape
        Shape of the tensor; () for a scalar.
    initial
        Distribution of its entries in a random network.
    fan_in
        Number of inputs that each output sums over; 1 where it does not matter.
    """

    name: str
    shape: Shape
    initial: Initial
    fan_in: Size = 1


Parameters = tuple[Parameter, ...]


def no_parameters(site: Site) -> Parameters:
    """Return the tensors of a layer that has none."""
    return ()


def weight_and_bias(weight: Shape, fan_in: Size, outputs: Size, bias: bool) -> Parameters:
    """Return a weight of random entries and, with ``bias``, one zero for each output."""
    made = (Parameter("weight", weight, Initial.WEIGHT, fan_in),)
    return (*made, Parameter("bias", (outputs,), Initial.ZERO)) if bias else made


def scale_and_shift(shape: Shape) -> Parameters:
    """Return a weight of ones and a bias of zeros."""
    return Parameter("weight", shape, Initial.ONE), Parameter("bias", shape, Initial.ZERO)
