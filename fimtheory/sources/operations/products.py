"""Attention."""

from __future__ import annotations

import math
from types import SimpleNamespace as Call
from typing import Any

import torch
from torch import Tensor

from fimtheory import layers
from fimtheory.sources.builder import GraphBuilder
from fimtheory.sources.layout import Traced, UnsupportedError
from fimtheory.sources.operations.movement import expanded, interleaved
from fimtheory.sources.operations.registry import reads

aten: Any = torch.ops.aten


@reads(aten.scaled_dot_product_attention.default)
def attention(g: GraphBuilder, call: Call) -> Traced:
    """Softmax attention of separate queries, keys and values, with a constant mask or bias."""
    query, key, value = call.query, call.key, call.value
    if not all(isinstance(each, Traced) for each in (query, key, value)):
        raise UnsupportedError("attention in which queries, keys or values are constant")
    for each in (query, key, value):
        each.layout.dims((-1, -2))  # refused where one holds the batch
    if call.dropout_p:
        raise UnsupportedError("attention with dropout; call module.eval() first")
    if call.enable_gqa:
        key, value = (interleaved(g, each, 1, query.shape[1] // each.shape[1]) for each in (key, value))
    *leading, _, _ = query.shape
    key, value = (expanded(g, each, (*leading, *each.shape[-2:])) for each in (key, value))
    scale = 1 / math.sqrt(query.shape[-1]) if call.scale is None else float(call.scale)
    bias = call.attn_mask
    if isinstance(bias, Traced):
        raise UnsupportedError("attention with a bias that depends on the input")
    layout = query.layout.resized((*query.shape[:-1], value.shape[-1]))
    if bias is None:
        made = layers.ScaledDotProductAttention(scale, causal=bool(call.is_causal))
        return g.add(made, query, key, value, layout=layout)
    if bias.dtype is torch.bool:
        bias = torch.zeros(bias.shape, dtype=torch.float64).masked_fill(~bias, -math.inf)
    scores = query.layout.resized((*query.shape[:-1], key.shape[-2]))
    kept: Tensor = scores.constant(bias)
    made = layers.ScaledDotProductAttention(scale, causal=bool(call.is_causal), bias=tuple(kept.shape))
    return g.add(made, query, key, value, layout=layout, value=kept)
