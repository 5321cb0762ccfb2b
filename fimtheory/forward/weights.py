"""Layers with weights, in torch."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.forward.base import Forward, Tensors, in_torch
from fimtheory.registry import Site, rule


@rule(layers.Linear, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.linear"))
def _linear(site: Site) -> Forward:
    return lambda tensors, x: F.linear(x, tensors["weight"], tensors.get("bias"))


@rule(layers.PatchEmbedding, quantity=Quantity.FORWARD, reference=in_torch("torchvision.models.VisionTransformer"))
def _patch_embedding(site: Site) -> Forward:
    patch = site.layer.patch

    def forward(tensors: Tensors, x: Tensor) -> Tensor:
        return F.conv2d(x, tensors["weight"], tensors.get("bias"), stride=patch).flatten(2).transpose(1, 2)

    return forward


@rule(layers.MultiHeadSelfAttention, quantity=Quantity.FORWARD, reference=in_torch("nn.MultiheadAttention"))
def _attention(site: Site) -> Forward:
    heads, width = site.layer.heads, site.layer.dim // site.layer.heads

    def forward(tensors: Tensors, x: Tensor) -> Tensor:
        projected = F.linear(x, tensors["in_proj_weight"], tensors.get("in_proj_bias"))
        query, key, value = projected.unflatten(-1, (3, heads, width)).permute(2, 0, 3, 1, 4)
        scores = (query / math.sqrt(width)) @ key.transpose(-2, -1)
        mixed = scores.softmax(-1) @ value
        return F.linear(mixed.transpose(1, 2).flatten(2), tensors["out_proj.weight"], tensors.get("out_proj.bias"))

    return forward
