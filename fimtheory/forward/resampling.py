"""Padding, interpolation, windows side by side, and moving numbers between channels and positions, in torch.

Interpolation is computed from its exact matrices: torch's own rounds positions, and may take another nearest entry.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.forward.base import Forward, Tensors, in_torch
from fimtheory.interpolation import interpolation_rows
from fimtheory.registry import Site, rule


@rule(layers.Pad, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.pad"))
def _pad(site: Site) -> Forward:
    layer = site.layer
    if layer.mode == "constant":
        reverse = [pad for pair in reversed(layer.pads) for pad in pair]
        return lambda tensors, x: F.pad(x, reverse, value=layer.value)

    def forward(tensors: Tensors, x: Tensor) -> Tensor:
        for dim, (before, after) in enumerate(layer.pads, start=1):
            index = torch.arange(-before, x.shape[dim] + after, device=x.device)
            x = x.index_select(dim, _inside(index, x.shape[dim], layer.mode))
        return x

    return forward


def _inside(index: Tensor, size: int, mode: str) -> Tensor:
    """Positions that padded ones are copied from."""
    if mode == "circular":
        return index % size
    if mode == "replicate":
        return index.clamp(0, size - 1)
    return (size - 1) - ((size - 1) - index.abs()).abs()


@rule(layers.Upsample, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.interpolate"))
def _upsample(site: Site) -> Forward:
    layer = site.layer
    matrices = []
    for n, m in zip(site.inputs[0][1:], layer.output, strict=True):
        matrix = torch.zeros(int(m), int(n), dtype=torch.float64)
        for i, row in enumerate(interpolation_rows(int(n), int(m), layer.mode, layer.align_corners)):
            for entry, weight in row.items():
                matrix[i, entry] = float(weight)
        matrices.append(matrix)

    def forward(tensors: Tensors, x: Tensor) -> Tensor:
        for dim, matrix in enumerate(matrices, start=2):
            x = (x.movedim(dim, -1) @ matrix.T.to(x)).movedim(-1, dim)
        return x

    return forward


@rule(layers.PixelShuffle, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.pixel_shuffle"))
def _pixel_shuffle(site: Site) -> Forward:
    factor = site.layer.factor
    return lambda tensors, x: F.pixel_shuffle(x, factor)


@rule(layers.PixelUnshuffle, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.pixel_unshuffle"))
def _pixel_unshuffle(site: Site) -> Forward:
    factor = site.layer.factor
    return lambda tensors, x: F.pixel_unshuffle(x, factor)


@rule(layers.Unfold, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.unfold"))
def _unfold(site: Site) -> Forward:
    layer = site.layer
    return lambda tensors, x: F.unfold(x, layer.kernel, layer.dilation, layer.padding, layer.stride)


@rule(layers.Fold, quantity=Quantity.FORWARD, reference=in_torch("nn.functional.fold"))
def _fold(site: Site) -> Forward:
    layer = site.layer
    return lambda tensors, x: F.fold(x, layer.output_size, layer.kernel, layer.dilation, layer.padding, layer.stride)
