"""Pooling over windows, in torch.

Pools of (C, L) are pools of (C, L, 1): torch's own of one dimension have no forward mode, or no divisor.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.forward.base import Forward, Tensors, in_torch
from fimtheory.layers import Shape
from fimtheory.registry import Site, rule


def _on_columns(pool: Callable[[Tensor], Tensor]) -> Forward:
    return lambda tensors, x: pool(x[..., None]).squeeze(-1)


@rule(layers.MaxPool1d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.max_pool1d"))
def _max_pool1d(site: Site) -> Forward:
    (k,), (s,), (p,), (d,) = (getattr(site.layer, name) for name in ("kernel", "stride", "padding", "dilation"))
    ceil_mode = site.layer.ceil_mode
    return _on_columns(lambda x: F.max_pool2d(x, (k, 1), (s, 1), (p, 0), (d, 1), ceil_mode))


@rule(layers.MaxPool2d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.max_pool2d"))
def _max_pool2d(site: Site) -> Forward:
    layer = site.layer
    return lambda tensors, x: F.max_pool2d(
        x, layer.kernel, layer.stride, layer.padding, layer.dilation, layer.ceil_mode
    )


@rule(layers.MaxPool3d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.max_pool3d"))
def _max_pool3d(site: Site) -> Forward:
    layer = site.layer
    return lambda tensors, x: F.max_pool3d(
        x, layer.kernel, layer.stride, layer.padding, layer.dilation, layer.ceil_mode
    )


@rule(layers.AvgPool1d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.avg_pool1d"))
def _avg_pool1d(site: Site) -> Forward:
    (k,), (s,), (p,) = (getattr(site.layer, name) for name in ("kernel", "stride", "padding"))
    ceil_mode, zeros_count, divisor = site.layer.ceil_mode, site.layer.count_include_pad, site.layer.divisor
    return _on_columns(lambda x: F.avg_pool2d(x, (k, 1), (s, 1), (p, 0), ceil_mode, zeros_count, divisor))


@rule(layers.AvgPool2d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.avg_pool2d"))
def _avg_pool2d(site: Site) -> Forward:
    layer = site.layer
    return lambda tensors, x: F.avg_pool2d(
        x, layer.kernel, layer.stride, layer.padding, layer.ceil_mode, layer.count_include_pad, layer.divisor
    )


@rule(layers.AvgPool3d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.avg_pool3d"))
def _avg_pool3d(site: Site) -> Forward:
    layer = site.layer
    return lambda tensors, x: F.avg_pool3d(
        x, layer.kernel, layer.stride, layer.padding, layer.ceil_mode, layer.count_include_pad, layer.divisor
    )


@rule(layers.LpPool2d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.lp_pool2d"))
def _lp_pool2d(site: Site) -> Forward:
    """As torch, but with the derivative 0 where a window is zero, in place of NaN."""
    layer, size = site.layer, site.output[1:]

    def forward(tensors: Tensors, x: Tensor) -> Tensor:
        images = F.pad(x, _beyond(x.shape[2:], layer.kernel, layer.stride, size)).flatten(0, 1)[:, None]
        windows = F.unfold(images, layer.kernel, stride=layer.stride)
        powers = windows.sum(1) if layer.norm_type == 1 else torch.linalg.vector_norm(windows, layer.norm_type, dim=1)
        held = F.avg_pool2d(
            torch.ones_like(x[:1, :1]), layer.kernel, layer.stride, 0, layer.ceil_mode, divisor_override=1
        )
        factor = (layer.kernel[0] * layer.kernel[1] / held) ** (1 / layer.norm_type)
        return powers.reshape(*x.shape[:2], *factor.shape[2:]) * factor

    return forward


def _beyond(shape: Shape, kernel: Shape, stride: Shape, count: Shape) -> list[int]:
    """Zeros to add on the right of the last dimension, then of the one before, so that the last windows are full."""
    ends = [(m - 1) * s + k for m, s, k in zip(count, stride, kernel, strict=True)]
    added = [max(0, int(end) - int(n)) for end, n in zip(ends, shape, strict=True)]
    return [0, added[1], 0, added[0]]


@rule(layers.AdaptiveAvgPool1d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.adaptive_avg_pool1d"))
def _adaptive_avg_pool1d(site: Site) -> Forward:
    (size,) = site.layer.output
    return _on_columns(lambda x: F.adaptive_avg_pool2d(x, (size, 1)))


@rule(layers.AdaptiveAvgPool2d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.adaptive_avg_pool2d"))
def _adaptive_avg_pool2d(site: Site) -> Forward:
    size = site.layer.output
    return lambda tensors, x: F.adaptive_avg_pool2d(x, size)


@rule(layers.AdaptiveAvgPool3d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.adaptive_avg_pool3d"))
def _adaptive_avg_pool3d(site: Site) -> Forward:
    size = site.layer.output
    return lambda tensors, x: F.adaptive_avg_pool3d(x, size)


@rule(layers.AdaptiveMaxPool1d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.adaptive_max_pool1d"))
def _adaptive_max_pool1d(site: Site) -> Forward:
    (size,) = site.layer.output
    return _on_columns(lambda x: F.adaptive_max_pool2d(x, (size, 1)))


@rule(layers.AdaptiveMaxPool2d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.adaptive_max_pool2d"))
def _adaptive_max_pool2d(site: Site) -> Forward:
    size = site.layer.output
    return lambda tensors, x: F.adaptive_max_pool2d(x, size)


@rule(layers.AdaptiveMaxPool3d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.adaptive_max_pool3d"))
def _adaptive_max_pool3d(site: Site) -> Forward:
    size = site.layer.output
    return lambda tensors, x: F.adaptive_max_pool3d(x, size)
