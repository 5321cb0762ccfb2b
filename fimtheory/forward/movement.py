"""Layers that select, reorder or repeat entries, in torch; dimension 0 is the batch."""

from __future__ import annotations

import torch

from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.forward.base import Forward, in_torch
from fimtheory.registry import Site, rule


@rule(layers.Slice, quantity=Quantity.FORWARD, reference=in_torch("aten.slice"))
def _slice(site: Site) -> Forward:
    layer = site.layer
    window = (*(slice(None),) * (layer.dim + 1), slice(layer.start, layer.stop, layer.step))
    return lambda tensors, x: x[window]


@rule(layers.Select, quantity=Quantity.FORWARD, reference=in_torch("aten.select"))
def _select(site: Site) -> Forward:
    dim, index = site.layer.dim + 1, site.layer.index
    return lambda tensors, x: x.select(dim, index)


@rule(layers.IndexSelect, quantity=Quantity.FORWARD, reference=in_torch("aten.index_select"))
def _index_select(site: Site) -> Forward:
    dim, indices = site.layer.dim + 1, torch.tensor(site.layer.indices)
    return lambda tensors, x: x.index_select(dim, indices.to(x.device))


@rule(layers.Flip, quantity=Quantity.FORWARD, reference=in_torch("aten.flip"))
def _flip(site: Site) -> Forward:
    dims = tuple(dim + 1 for dim in site.layer.dims)
    return lambda tensors, x: x.flip(dims)


@rule(layers.Roll, quantity=Quantity.FORWARD, reference=in_torch("aten.roll"))
def _roll(site: Site) -> Forward:
    shifts, dims = site.layer.shifts, tuple(dim + 1 for dim in site.layer.dims)
    return lambda tensors, x: x.roll(shifts, dims)


@rule(layers.Expand, quantity=Quantity.FORWARD, reference=in_torch("aten.expand"))
def _expand(site: Site) -> Forward:
    (shape,), target = site.inputs, site.layer.shape
    aligned = (1,) * (len(target) - len(shape)) + shape
    return lambda tensors, x: x.reshape(-1, *aligned).expand(-1, *target)


@rule(layers.Tile, quantity=Quantity.FORWARD, reference=in_torch("aten.repeat"))
def _tile(site: Site) -> Forward:
    repeats = (1, *site.layer.repeats)
    return lambda tensors, x: x.repeat(repeats)


@rule(layers.RepeatInterleave, quantity=Quantity.FORWARD, reference=in_torch("repeat_interleave"))
def _repeat_interleave(site: Site) -> Forward:
    dim, repeats = site.layer.dim + 1, site.layer.repeats
    return lambda tensors, x: x.repeat_interleave(repeats, dim)
