"""Normalisation layers, in torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.forward.base import Forward, Tensors, in_torch
from fimtheory.registry import Site, rule


@rule(layers.BatchNorm1d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.batch_norm, training=False"))
@rule(layers.BatchNorm2d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.batch_norm, training=False"))
@rule(layers.BatchNorm3d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.batch_norm, training=False"))
def _batch_norm(site: Site) -> Forward:
    eps, each = site.layer.eps, (-1, *[1] * (len(site.output) - 1))

    def forward(tensors: Tensors, x: Tensor) -> Tensor:
        scale = tensors["weight"] * (tensors["running_var"] + eps).rsqrt()
        shift = tensors["bias"] - tensors["running_mean"] * scale
        return x * scale.reshape(each) + shift.reshape(each)

    return forward


@rule(layers.LayerNorm, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.layer_norm"))
def _layer_norm(site: Site) -> Forward:
    shape, eps = (site.layer.features,), site.layer.eps
    return lambda tensors, x: F.layer_norm(x, shape, tensors["weight"], tensors["bias"], eps)


@rule(layers.LayerNormOver, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.layer_norm"))
def _layer_norm_over(site: Site) -> Forward:
    shape, eps = site.layer.shape, site.layer.eps
    return lambda tensors, x: F.layer_norm(x, shape, tensors["weight"], tensors["bias"], eps)


@rule(layers.RMSNorm, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.rms_norm"))
def _rms_norm(site: Site) -> Forward:
    eps = site.layer.eps
    return lambda tensors, x: x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * tensors["weight"]


@rule(layers.GroupNorm, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.group_norm"))
def _group_norm(site: Site) -> Forward:
    groups, eps, affine = site.layer.groups, site.layer.eps, site.layer.affine
    each = (-1, *[1] * (len(site.output) - 1))

    def forward(tensors: Tensors, x: Tensor) -> Tensor:
        grouped = x.reshape(x.shape[0], groups, -1)  # F.group_norm refuses groups of one entry
        normalised = F.layer_norm(grouped, grouped.shape[2:], eps=eps).reshape(x.shape)
        return normalised * tensors["weight"].reshape(each) + tensors["bias"].reshape(each) if affine else normalised

    return forward


@rule(layers.LocalResponseNorm, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.local_response_norm"))
def _local_response_norm(site: Site) -> Forward:
    layer = site.layer
    size, factor = layer.size, layer.alpha / layer.size

    def forward(tensors: Tensors, x: Tensor) -> Tensor:
        squares = x.square().flatten(2)
        around = F.pad(squares, (0, 0, size // 2, (size - 1) // 2))
        sums = torch.stack([around[:, i : i + x.shape[1]] for i in range(size)]).sum(0)
        return x / (layer.k + factor * sums.reshape(x.shape)) ** layer.beta

    return forward


@rule(layers.GlobalResponseNorm, quantity=Quantity.FORWARD, reference=in_torch("linalg.vector_norm"))
def _global_response_norm(site: Site) -> Forward:
    layer = site.layer
    dims, channel = tuple(dim + 1 for dim in layer.dims), layer.channel + 1

    def forward(tensors: Tensors, x: Tensor) -> Tensor:
        responses = torch.linalg.vector_norm(x, dim=dims, keepdim=True)
        return x * (responses / (responses.mean(channel, keepdim=True) + layer.eps))

    return forward
