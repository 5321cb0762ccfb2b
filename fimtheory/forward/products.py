"""Products of values that depend on the data, in torch."""

from __future__ import annotations

import torch
from torch import Tensor

from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.forward.base import Forward, Tensors, in_torch
from fimtheory.registry import Site, rule


@rule(layers.Multiply, quantity=Quantity.FORWARD, reference=in_torch("aten.mul"))
def _multiply(site: Site) -> Forward:
    return lambda tensors, x, y: x * y


@rule(layers.Gate, quantity=Quantity.FORWARD, reference=in_torch("aten.mul"))
def _gate(site: Site) -> Forward:
    shape, gate = site.inputs
    aligned = (1,) * (len(shape) - len(gate)) + gate
    return lambda tensors, x, g: x * g.reshape(-1, *aligned)


@rule(layers.MatMul, quantity=Quantity.FORWARD, reference=in_torch("aten.matmul"))
def _matmul(site: Site) -> Forward:
    transposed = site.layer.transpose_second
    return lambda tensors, a, b: a @ (b.mT if transposed else b)


@rule(
    layers.ScaledDotProductAttention,
    quantity=Quantity.FORWARD,
    reference=in_torch("nn.functional.scaled_dot_product_attention"),
)
def _attention(site: Site) -> Forward:
    layer = site.layer

    def forward(tensors: Tensors, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scores = (query * layer.scale) @ key.mT
        if layer.bias:
            scores = scores + tensors[""]
        if layer.causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        return scores.softmax(-1) @ value

    return forward
