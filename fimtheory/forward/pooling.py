"""Pooling over windows, in torch."""

from __future__ import annotations

from torch.nn import functional as F  # noqa: N812

from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.forward.base import Forward, in_torch
from fimtheory.registry import Site, rule


@rule(layers.MaxPool2d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.max_pool2d"))
def _max_pool(site: Site) -> Forward:
    layer = site.layer
    return lambda tensors, x: F.max_pool2d(x, layer.kernel, layer.stride, layer.padding, layer.dilation)


@rule(layers.AvgPool2d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.avg_pool2d"))
def _avg_pool(site: Site) -> Forward:
    layer = site.layer
    return lambda tensors, x: F.avg_pool2d(x, layer.kernel, layer.stride, layer.padding)


@rule(layers.AdaptiveAvgPool2d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.adaptive_avg_pool2d"))
def _adaptive_avg_pool(site: Site) -> Forward:
    size = site.layer.output
    return lambda tensors, x: F.adaptive_avg_pool2d(x, size)
