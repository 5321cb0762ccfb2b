"""Convolutions and transposed convolutions, in torch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.forward.base import Forward, Tensors, in_torch
from fimtheory.registry import Site, rule

_CONVOLUTIONS = {layers.Conv1d: F.conv1d, layers.Conv2d: F.conv2d, layers.Conv3d: F.conv3d}
_TRANSPOSED = {
    layers.ConvTranspose1d: F.conv_transpose1d,
    layers.ConvTranspose2d: F.conv_transpose2d,
    layers.ConvTranspose3d: F.conv_transpose3d,
}


@rule(layers.Conv1d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.conv1d"))
@rule(layers.Conv2d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.conv2d"))
@rule(layers.Conv3d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.conv3d"))
def _convolution(site: Site) -> Forward:
    layer, convolve = site.layer, _CONVOLUTIONS[type(site.layer)]

    def forward(tensors: Tensors, x: Tensor) -> Tensor:
        weight, bias = tensors["weight"], tensors.get("bias")
        return convolve(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)

    return forward


@rule(layers.ConvTranspose1d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.conv_transpose1d"))
@rule(layers.ConvTranspose2d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.conv_transpose2d"))
@rule(layers.ConvTranspose3d, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.conv_transpose3d"))
def _transposed(site: Site) -> Forward:
    layer, convolve = site.layer, _TRANSPOSED[type(site.layer)]

    def forward(tensors: Tensors, x: Tensor) -> Tensor:
        weight, bias = tensors["weight"], tensors.get("bias")
        more = layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
        return convolve(x, weight, bias, *more)

    return forward
