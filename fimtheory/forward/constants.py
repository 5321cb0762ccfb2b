"""Layers that combine their input with a constant, in torch."""

from __future__ import annotations

import torch
from torch import Tensor

from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.forward.base import Forward, Tensors, in_torch
from fimtheory.registry import Site, rule


@rule(layers.Scale, quantity=Quantity.FORWARD, reference=in_torch("aten.mul"))
def _scale(site: Site) -> Forward:
    factor = site.layer.factor
    return lambda tensors, x: x * factor


@rule(layers.Shift, quantity=Quantity.FORWARD, reference=in_torch("aten.add"))
def _shift(site: Site) -> Forward:
    value = site.layer.value
    return lambda tensors, x: x + value


@rule(layers.AddConstant, quantity=Quantity.FORWARD, reference=in_torch("aten.add"))
def _add_constant(site: Site) -> Forward:
    return lambda tensors, x: x + tensors[""]


@rule(layers.MultiplyConstant, quantity=Quantity.FORWARD, reference=in_torch("aten.mul"))
def _multiply_constant(site: Site) -> Forward:
    return lambda tensors, x: x * tensors[""]


@rule(layers.ConcatConstant, quantity=Quantity.FORWARD, reference=in_torch("aten.cat"))
def _concat_constant(site: Site) -> Forward:
    layer, dimensions = site.layer, len(site.inputs[0])
    shape = layer.shape[-dimensions:]

    def forward(tensors: Tensors, x: Tensor) -> Tensor:
        constant = tensors[""].expand(x.shape[0], *shape)
        return torch.cat((constant, x) if layer.before else (x, constant), layer.dim + 1)

    return forward


@rule(layers.MatmulConstant, quantity=Quantity.FORWARD, reference=in_torch("aten.matmul"))
def _matmul_constant(site: Site) -> Forward:
    before = site.layer.before
    return lambda tensors, x: tensors[""] @ x if before else x @ tensors[""]
