"""The tensors of each layer type, with names and shapes as in torch (see ``fimtheory.ensemble``)."""

from __future__ import annotations

from fimtheory import layers
from fimtheory.claims import Quantity, Reference
from fimtheory.ensemble import (
    Initial,
    Parameter,
    Parameters,
    no_parameters,
    weight_and_bias,
)
from fimtheory.registry import Site, rule

__all__: list[str] = []

_HE = Reference("he2015", "eq. (10)")


def _torch(where: str) -> Reference:
    return Reference("torch", where)


@rule(layers.Linear, quantity=Quantity.PARAMETERS, reference=_HE)
def _linear(site: Site) -> Parameters:
    layer = site.layer
    shape = (layer.out_features, layer.in_features)
    return weight_and_bias(shape, layer.in_features, layer.out_features, layer.bias)


@rule(layers.PatchEmbedding, quantity=Quantity.PARAMETERS, reference=_HE)
def _patch_embedding(site: Site) -> Parameters:
    layer = site.layer
    shape = (layer.dim, layer.in_channels, layer.patch, layer.patch)
    return weight_and_bias(shape, layer.in_channels * layer.patch**2, layer.dim, layer.bias)


@rule(layers.MultiHeadSelfAttention, quantity=Quantity.PARAMETERS, reference=_torch("nn.MultiheadAttention"))
def _attention(site: Site) -> Parameters:
    dim = site.layer.dim
    weights = (
        Parameter("in_proj_weight", (3 * dim, dim), Initial.ATTENTION, dim),
        Parameter("out_proj.weight", (dim, dim), Initial.ATTENTION, dim),
    )
    biases = (Parameter("in_proj_bias", (3 * dim,), Initial.ZERO), Parameter("out_proj.bias", (dim,), Initial.ZERO))
    return weights + biases if site.layer.bias else weights


@rule(layers.PReLU, quantity=Quantity.PARAMETERS, reference=_torch("nn.PReLU"))
def _prelu(site: Site) -> Parameters:
    return (Parameter("weight", (site.layer.channels,), Initial.SLOPE),)


@rule(layers.ClassToken, quantity=Quantity.PARAMETERS, reference=Reference("dosovitskiy2021", "sec. 3.1"))
def _class_token(site: Site) -> Parameters:
    return (Parameter("", (1, 1, site.layer.dim), Initial.TOKEN),)


@rule(layers.PositionEmbedding, quantity=Quantity.PARAMETERS, reference=Reference("dosovitskiy2021", "sec. 3.1"))
def _position_embedding(site: Site) -> Parameters:
    return (Parameter("", (1, site.layer.tokens, site.layer.dim), Initial.TOKEN),)


for _kind in (
    layers.Input, layers.ReLU, layers.ReLU6, layers.LeakyReLU, layers.ELU, layers.CELU, layers.SELU, layers.GELU,
    layers.GELUTanh, layers.SiLU, layers.Mish, layers.Softplus, layers.Tanh, layers.Sigmoid, layers.Hardtanh,
    layers.Hardsigmoid, layers.Hardswish, layers.Softsign, layers.Softshrink, layers.Tanhshrink, layers.Softmax,
    layers.Add, layers.Concat, layers.Flatten,
    layers.Reshape, layers.Permute, layers.Dropout, layers.Identity, layers.SelectToken, layers.LogSigmoid, layers.Abs,
    layers.Sin, layers.Cos, layers.Erf, layers.Atan, layers.QuickGELU, layers.Clamp, layers.Threshold,
):  # fmt: skip
    rule(_kind, quantity=Quantity.PARAMETERS, reference=_torch(f"nn.{_kind.__name__}"))(no_parameters)
