"""Layers that join, move, select or shift numbers, in torch."""

from __future__ import annotations

import functools

import torch

from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.forward.base import Forward, in_torch
from fimtheory.registry import Site, rule


@rule(layers.Add, quantity=Quantity.FORWARD, reference=in_torch("add"))
def _add(site: Site) -> Forward:
    return lambda tensors, *inputs: functools.reduce(torch.add, inputs)


@rule(layers.Concat, quantity=Quantity.FORWARD, reference=in_torch("cat"))
def _concat(site: Site) -> Forward:
    dim = site.layer.dim + 1
    return lambda tensors, *inputs: torch.cat(inputs, dim)


@rule(layers.Flatten, quantity=Quantity.FORWARD, reference=in_torch("flatten"))
def _flatten(site: Site) -> Forward:
    return lambda tensors, x: x.flatten(1)


@rule(layers.Reshape, quantity=Quantity.FORWARD, reference=in_torch("reshape"))
def _reshape(site: Site) -> Forward:
    shape = site.layer.shape
    return lambda tensors, x: x.reshape(-1, *shape)


@rule(layers.Permute, quantity=Quantity.FORWARD, reference=in_torch("permute"))
def _permute(site: Site) -> Forward:
    dims = (0, *(d + 1 for d in site.layer.dims))
    return lambda tensors, x: x.permute(dims)


@rule(layers.ClassToken, quantity=Quantity.FORWARD, reference=in_torch("torchvision.models.VisionTransformer"))
def _class_token(site: Site) -> Forward:
    return lambda tensors, x: torch.cat([tensors[""].expand(x.shape[0], -1, -1), x], 1)


@rule(
    layers.PositionEmbedding,
    quantity=Quantity.FORWARD,
    reference=in_torch("torchvision.models.VisionTransformer"),
)
def _position_embedding(site: Site) -> Forward:
    return lambda tensors, x: x + tensors[""]


@rule(layers.SelectToken, quantity=Quantity.FORWARD, reference=in_torch("select"))
def _select_token(site: Site) -> Forward:
    index = site.layer.index
    return lambda tensors, x: x[:, index]
