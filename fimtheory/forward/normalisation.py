"""Normalisation layers, in torch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.forward.base import Forward, Tensors, in_torch
from fimtheory.registry import Site, rule


@rule(layers.BatchNorm2d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.batch_norm, training=False"))
def _batch_norm(site: Site) -> Forward:
    eps = site.layer.eps

    def forward(tensors: Tensors, x: Tensor) -> Tensor:
        scale = tensors["weight"] * (tensors["running_var"] + eps).rsqrt()
        shift = tensors["bias"] - tensors["running_mean"] * scale
        return x * scale[:, None, None] + shift[:, None, None]

    return forward


@rule(layers.LayerNorm, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.layer_norm"))
def _layer_norm(site: Site) -> Forward:
    shape, eps = (site.layer.features,), site.layer.eps
    return lambda tensors, x: F.layer_norm(x, shape, tensors["weight"], tensors["bias"], eps)
