"""The tensors of each layer type: names and shapes as in torch, and the random ensemble they are drawn from.

The initial distributions are the ensemble of the expected bound, so they are part of a theorem's statement:

- weights of ``Linear``, ``Conv2d`` and ``PatchEmbedding``: independent N(0, 2 / fan_in), with
  fan_in = in_features, or in_channels / groups * kh * kw (He et al. 2015);
- projections of ``MultiHeadSelfAttention``: independent N(0, 1 / fan_in), fan_in = dim;
- biases 0; norms the identity: weight 1, bias 0, running mean 0, running variance 1;
- class token and position embeddings: independent N(0, 0.02^2) (Dosovitskiy et al. 2021);
- slope of ``PReLU``: 0.25.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import final

import sympy

from fimtheory import layers
from fimtheory.claims import Quantity, Reference
from fimtheory.layers import Shape, Size
from fimtheory.registry import Site, rule

__all__ = ["ATTENTION_VARIANCE", "PRELU_SLOPE", "TOKEN_DEVIATION", "WEIGHT_VARIANCE", "Initial", "Parameter"]

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
_HE = Reference("he2015", "eq. (10)")


def _torch(where: str) -> Reference:
    return Reference("torch", where)


def _affine(weight: Shape, fan_in: Size, bias: bool) -> Parameters:
    made = (Parameter("weight", weight, Initial.WEIGHT, fan_in),)
    return (*made, Parameter("bias", weight[:1], Initial.ZERO)) if bias else made


def _scale_and_shift(features: Size) -> Parameters:
    return Parameter("weight", (features,), Initial.ONE), Parameter("bias", (features,), Initial.ZERO)


@rule(layers.Linear, quantity=Quantity.PARAMETERS, reference=_HE)
def _linear(site: Site) -> Parameters:
    layer = site.layer
    return _affine((layer.out_features, layer.in_features), layer.in_features, layer.bias)


@rule(layers.Conv2d, quantity=Quantity.PARAMETERS, reference=_HE)
def _conv2d(site: Site) -> Parameters:
    layer = site.layer
    per_group = sympy.sympify(layer.in_channels) / layer.groups
    per_group = int(per_group) if per_group.is_Integer else per_group
    height, width = layer.kernel
    return _affine((layer.out_channels, per_group, height, width), per_group * height * width, layer.bias)


@rule(layers.PatchEmbedding, quantity=Quantity.PARAMETERS, reference=_HE)
def _patch_embedding(site: Site) -> Parameters:
    layer = site.layer
    shape = (layer.dim, layer.in_channels, layer.patch, layer.patch)
    return _affine(shape, layer.in_channels * layer.patch**2, layer.bias)


@rule(layers.MultiHeadSelfAttention, quantity=Quantity.PARAMETERS, reference=_torch("nn.MultiheadAttention"))
def _attention(site: Site) -> Parameters:
    dim = site.layer.dim
    weights = (
        Parameter("in_proj_weight", (3 * dim, dim), Initial.ATTENTION, dim),
        Parameter("out_proj.weight", (dim, dim), Initial.ATTENTION, dim),
    )
    biases = (Parameter("in_proj_bias", (3 * dim,), Initial.ZERO), Parameter("out_proj.bias", (dim,), Initial.ZERO))
    return weights + biases if site.layer.bias else weights


@rule(layers.BatchNorm2d, quantity=Quantity.PARAMETERS, reference=_torch("nn.BatchNorm2d"))
def _batch_norm(site: Site) -> Parameters:
    channels = site.layer.channels
    return (
        *_scale_and_shift(channels),
        Parameter("running_mean", (channels,), Initial.MEAN),
        Parameter("running_var", (channels,), Initial.VARIANCE),
        Parameter("num_batches_tracked", (), Initial.COUNT),
    )


@rule(layers.LayerNorm, quantity=Quantity.PARAMETERS, reference=_torch("nn.LayerNorm"))
def _layer_norm(site: Site) -> Parameters:
    return _scale_and_shift(site.layer.features)


@rule(layers.PReLU, quantity=Quantity.PARAMETERS, reference=_torch("nn.PReLU"))
def _prelu(site: Site) -> Parameters:
    return (Parameter("weight", (site.layer.channels,), Initial.SLOPE),)


@rule(layers.ClassToken, quantity=Quantity.PARAMETERS, reference=Reference("dosovitskiy2021", "sec. 3.1"))
def _class_token(site: Site) -> Parameters:
    return (Parameter("", (1, 1, site.layer.dim), Initial.TOKEN),)


@rule(layers.PositionEmbedding, quantity=Quantity.PARAMETERS, reference=Reference("dosovitskiy2021", "sec. 3.1"))
def _position_embedding(site: Site) -> Parameters:
    return (Parameter("", (1, site.layer.tokens, site.layer.dim), Initial.TOKEN),)


def _none(site: Site) -> Parameters:
    return ()


for _kind in (
    layers.Input, layers.ReLU, layers.ReLU6, layers.LeakyReLU, layers.ELU, layers.CELU, layers.SELU, layers.GELU,
    layers.GELUTanh, layers.SiLU, layers.Mish, layers.Softplus, layers.Tanh, layers.Sigmoid, layers.Hardtanh,
    layers.Hardsigmoid, layers.Hardswish, layers.Softsign, layers.Softshrink, layers.Tanhshrink, layers.Softmax,
    layers.MaxPool2d, layers.AvgPool2d, layers.AdaptiveAvgPool2d, layers.Add, layers.Concat, layers.Flatten,
    layers.Reshape, layers.Permute, layers.Dropout, layers.Identity, layers.SelectToken,
):  # fmt: skip
    rule(_kind, quantity=Quantity.PARAMETERS, reference=_torch(f"nn.{_kind.__name__}"))(_none)
