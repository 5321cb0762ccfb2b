"""Products of matrices, and attention."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fimtheory.errors import SourceError
from fimtheory.sources.onnx_operations.registry import Call, operation


@operation("MatMul")
def matmul(call: Call) -> Tensor:
    """A product of matrices; with a constant on the right, and perhaps a third input, a linear layer."""
    first, second, bias = call[0], call[1], call.get(2)
    if call.constant(1) and not call.constant(0) and second.dim() == 2:
        return functional.linear(first, second.t(), bias)
    return torch.matmul(first, second) if bias is None else torch.matmul(first, second) + bias


@operation("Gemm")
def gemm(call: Call) -> Tensor:
    """``alpha A B + beta C``; with constant B and C, a linear layer."""
    first, second, bias = call[0], call[1], call.get(2)
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    first = first.t() if call.attribute("transA", 0) else first
    weight = second if call.attribute("transB", 0) else second.t()
    weight = weight if alpha == 1 else weight * alpha
    if bias is None or beta == 0:
        return functional.linear(first, weight)
    bias = bias if beta == 1 else bias * beta
    if bias.shape == weight.shape[:1] and call.constant(2):
        return functional.linear(first, weight, bias)
    return functional.linear(first, weight) + bias


@operation("Einsum")
def einsum(call: Call) -> Tensor:
    """A sum of products over indices."""
    return torch.einsum(call.attribute("equation"), *(call[place] for place in range(len(call.inputs))))


@operation("Attention")
def attention(call: Call) -> Tensor:
    """Softmax attention of queries, keys and values; without a cache of earlier keys."""
    call.ignore("softmax_precision", "qk_matmul_output_mode")
    if call.attribute("softcap", 0.0) or any(call.get(place) is not None for place in (4, 5, 6)):
        raise SourceError("attention with capped scores or earlier keys is not supported")
    query, key, value, mask = call[0], call[1], call[2], call.get(3)
    flat = query.dim() == 3
    if flat:
        heads, others = call.attribute("q_num_heads"), call.attribute("kv_num_heads")
        query, key, value = _split(query, heads), _split(key, others), _split(value, others)
    call.ignore("q_num_heads", "kv_num_heads")
    causal, scale = bool(call.attribute("is_causal", 0)), call.attribute("scale", None)
    shared = query.shape[1] != key.shape[1]
    result = functional.scaled_dot_product_attention(
        query, key, value, mask, 0.0, causal, scale=scale, enable_gqa=shared
    )
    return result.transpose(1, 2).flatten(2) if flat else result


def _split(value: Tensor, heads: int) -> Tensor:
    return value.unflatten(2, (heads, value.shape[2] // heads)).transpose(1, 2)
