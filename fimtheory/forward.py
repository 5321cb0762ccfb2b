"""What each layer computes, in torch: one rule per layer type, for evaluation.

A forward rule takes a site and returns a function of the layer's tensors (by the names of its parameter rule) and
of its batched inputs.  Everything is written with operations whose forward- and reverse-mode derivatives are right
and compose with ``torch.func``: batch norm is an affine map (``F.batch_norm`` of torch 2.13 has a wrong gradient on
CPU at batch size 1), attention is two matrix products and a softmax (flash attention has no forward mode).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fimtheory import layers
from fimtheory.claims import Quantity, Reference
from fimtheory.registry import Site, rule

__all__ = ["Forward"]

Forward = Callable[..., Tensor]
"""``forward(tensors, *inputs)``: tensors by name, inputs of shape (batch, ...)."""

Tensors = Mapping[str, Tensor]


def _torch(where: str) -> Reference:
    return Reference("torch", where)


# ---- weights ----------------------------------------------------------------------------------------------------


@rule(layers.Linear, quantity=Quantity.FORWARD, reference=_torch("nn.functional.linear"))
def _linear(site: Site) -> Forward:
    return lambda tensors, x: F.linear(x, tensors["weight"], tensors.get("bias"))


@rule(layers.Conv2d, quantity=Quantity.FORWARD, reference=_torch("nn.functional.conv2d"))
def _conv2d(site: Site) -> Forward:
    layer = site.layer

    def forward(tensors: Tensors, x: Tensor) -> Tensor:
        weight, bias = tensors["weight"], tensors.get("bias")
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)

    return forward


@rule(layers.PatchEmbedding, quantity=Quantity.FORWARD, reference=_torch("torchvision.models.VisionTransformer"))
def _patch_embedding(site: Site) -> Forward:
    patch = site.layer.patch

    def forward(tensors: Tensors, x: Tensor) -> Tensor:
        return F.conv2d(x, tensors["weight"], tensors.get("bias"), stride=patch).flatten(2).transpose(1, 2)

    return forward


@rule(layers.MultiHeadSelfAttention, quantity=Quantity.FORWARD, reference=_torch("nn.MultiheadAttention"))
def _attention(site: Site) -> Forward:
    heads, width = site.layer.heads, site.layer.dim // site.layer.heads

    def forward(tensors: Tensors, x: Tensor) -> Tensor:
        projected = F.linear(x, tensors["in_proj_weight"], tensors.get("in_proj_bias"))
        query, key, value = projected.unflatten(-1, (3, heads, width)).permute(2, 0, 3, 1, 4)
        scores = (query / math.sqrt(width)) @ key.transpose(-2, -1)
        mixed = scores.softmax(-1) @ value
        return F.linear(mixed.transpose(1, 2).flatten(2), tensors["out_proj.weight"], tensors.get("out_proj.bias"))

    return forward


# ---- normalisation ----------------------------------------------------------------------------------------------


@rule(layers.BatchNorm2d, quantity=Quantity.FORWARD, reference=_torch("nn.functional.batch_norm, training=False"))
def _batch_norm(site: Site) -> Forward:
    eps = site.layer.eps

    def forward(tensors: Tensors, x: Tensor) -> Tensor:
        scale = tensors["weight"] * (tensors["running_var"] + eps).rsqrt()
        shift = tensors["bias"] - tensors["running_mean"] * scale
        return x * scale[:, None, None] + shift[:, None, None]

    return forward


@rule(layers.LayerNorm, quantity=Quantity.FORWARD, reference=_torch("nn.functional.layer_norm"))
def _layer_norm(site: Site) -> Forward:
    shape, eps = (site.layer.features,), site.layer.eps
    return lambda tensors, x: F.layer_norm(x, shape, tensors["weight"], tensors["bias"], eps)


# ---- elementwise ------------------------------------------------------------------------------------------------


def _without_tensors(apply: Callable[[Tensor], Tensor]) -> Callable[[Site], Forward]:
    """Return the rule of a layer that has neither tensors nor numbers of its own."""
    return lambda site: lambda tensors, x: apply(x)


def _same(x: Tensor) -> Tensor:
    return x


def _hardsigmoid(x: Tensor) -> Tensor:
    """Hard sigmoid of slope 1/6; in float64 F.hardsigmoid has 1/6 rounded to float32, and no second derivative."""
    return (x / 6 + 0.5).clamp(0, 1)


for _kind, _map in (
    (layers.ReLU, F.relu),
    (layers.ReLU6, F.relu6),
    (layers.SELU, F.selu),
    (layers.GELU, F.gelu),
    (layers.GELUTanh, functools.partial(F.gelu, approximate="tanh")),
    (layers.SiLU, F.silu),
    (layers.Mish, F.mish),
    (layers.Tanh, torch.tanh),
    (layers.Sigmoid, torch.sigmoid),
    (layers.Hardsigmoid, _hardsigmoid),
    (layers.Hardswish, F.hardswish),
    (layers.Softsign, F.softsign),
    (layers.Tanhshrink, F.tanhshrink),
    (layers.Identity, _same),
    (layers.Dropout, _same),
):
    rule(_kind, quantity=Quantity.FORWARD, reference=_torch(f"nn.{_kind.__name__}"))(_without_tensors(_map))


@rule(layers.PReLU, quantity=Quantity.FORWARD, reference=_torch("nn.functional.prelu"))
def _prelu(site: Site) -> Forward:
    return lambda tensors, x: F.prelu(x, tensors["weight"])


@rule(layers.LeakyReLU, quantity=Quantity.FORWARD, reference=_torch("nn.functional.leaky_relu"))
def _leaky_relu(site: Site) -> Forward:
    slope = site.layer.negative_slope
    return lambda tensors, x: F.leaky_relu(x, slope)


@rule(layers.ELU, quantity=Quantity.FORWARD, reference=_torch("nn.functional.elu"))
def _elu(site: Site) -> Forward:
    alpha = site.layer.alpha
    return lambda tensors, x: F.elu(x, alpha)


@rule(layers.CELU, quantity=Quantity.FORWARD, reference=_torch("nn.functional.celu"))
def _celu(site: Site) -> Forward:
    alpha = site.layer.alpha
    return lambda tensors, x: F.celu(x, alpha)


@rule(layers.Softplus, quantity=Quantity.FORWARD, reference=_torch("nn.functional.softplus"))
def _softplus(site: Site) -> Forward:
    beta = site.layer.beta
    # F.softplus jumps by 2e-9 where it turns linear, so it has no Lipschitz constant; this one has
    return lambda tensors, x: torch.logaddexp(beta * x, torch.zeros_like(x)) / beta


@rule(layers.Hardtanh, quantity=Quantity.FORWARD, reference=_torch("nn.functional.hardtanh"))
def _hardtanh(site: Site) -> Forward:
    low, high = site.layer.minimum, site.layer.maximum
    return lambda tensors, x: F.hardtanh(x, low, high)


@rule(layers.Softshrink, quantity=Quantity.FORWARD, reference=_torch("nn.functional.softshrink"))
def _softshrink(site: Site) -> Forward:
    threshold = site.layer.threshold
    return lambda tensors, x: F.softshrink(x, threshold)


@rule(layers.Softmax, quantity=Quantity.FORWARD, reference=_torch("softmax"))
def _softmax(site: Site) -> Forward:
    temperature = site.layer.temperature
    return lambda tensors, x: (x / temperature).softmax(-1)


# ---- pooling ----------------------------------------------------------------------------------------------------


@rule(layers.MaxPool2d, quantity=Quantity.FORWARD, reference=_torch("nn.functional.max_pool2d"))
def _max_pool(site: Site) -> Forward:
    layer = site.layer
    return lambda tensors, x: F.max_pool2d(x, layer.kernel, layer.stride, layer.padding, layer.dilation)


@rule(layers.AvgPool2d, quantity=Quantity.FORWARD, reference=_torch("nn.functional.avg_pool2d"))
def _avg_pool(site: Site) -> Forward:
    layer = site.layer
    return lambda tensors, x: F.avg_pool2d(x, layer.kernel, layer.stride, layer.padding)


@rule(layers.AdaptiveAvgPool2d, quantity=Quantity.FORWARD, reference=_torch("nn.functional.adaptive_avg_pool2d"))
def _adaptive_avg_pool(site: Site) -> Forward:
    size = site.layer.output
    return lambda tensors, x: F.adaptive_avg_pool2d(x, size)


# ---- structure --------------------------------------------------------------------------------------------------


@rule(layers.Add, quantity=Quantity.FORWARD, reference=_torch("add"))
def _add(site: Site) -> Forward:
    return lambda tensors, *inputs: functools.reduce(torch.add, inputs)


@rule(layers.Concat, quantity=Quantity.FORWARD, reference=_torch("cat"))
def _concat(site: Site) -> Forward:
    dim = site.layer.dim + 1
    return lambda tensors, *inputs: torch.cat(inputs, dim)


@rule(layers.Flatten, quantity=Quantity.FORWARD, reference=_torch("flatten"))
def _flatten(site: Site) -> Forward:
    return lambda tensors, x: x.flatten(1)


@rule(layers.Reshape, quantity=Quantity.FORWARD, reference=_torch("reshape"))
def _reshape(site: Site) -> Forward:
    shape = site.layer.shape
    return lambda tensors, x: x.reshape(-1, *shape)


@rule(layers.Permute, quantity=Quantity.FORWARD, reference=_torch("permute"))
def _permute(site: Site) -> Forward:
    dims = (0, *(d + 1 for d in site.layer.dims))
    return lambda tensors, x: x.permute(dims)


@rule(layers.ClassToken, quantity=Quantity.FORWARD, reference=_torch("torchvision.models.VisionTransformer"))
def _class_token(site: Site) -> Forward:
    return lambda tensors, x: torch.cat([tensors[""].expand(x.shape[0], -1, -1), x], 1)


@rule(layers.PositionEmbedding, quantity=Quantity.FORWARD, reference=_torch("torchvision.models.VisionTransformer"))
def _position_embedding(site: Site) -> Forward:
    return lambda tensors, x: x + tensors[""]


@rule(layers.SelectToken, quantity=Quantity.FORWARD, reference=_torch("select"))
def _select_token(site: Site) -> Forward:
    index = site.layer.index
    return lambda tensors, x: x[:, index]
