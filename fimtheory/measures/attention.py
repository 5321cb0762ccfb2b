"""Norms inside a self-attention layer, head by head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from flint import arb
from torch import Tensor

from fimtheory import norms
from fimtheory.balls import ball
from fimtheory.layers import MultiHeadSelfAttention
from fimtheory.measures.base import Place, Value, certified, evaluates
from fimtheory.norms.rounding import UNDERFLOW, gamma_n
from fimtheory.norms.scaling import scale_rows


@final
@dataclass(frozen=True, eq=False)
class _Heads:
    """Projections of one attention layer in float64, (heads, d_h, dim) each, and the query bias (heads, d_h)."""

    query: Tensor
    key: Tensor
    value: Tensor
    query_bias: Tensor

    @classmethod
    def at(cls, place: Place) -> _Heads:
        (layer,) = place.layers
        assert isinstance(layer, MultiHeadSelfAttention), "only attention has heads"
        tensors = place.tensors[0]
        dim = int(layer.dim)
        weight = norms.exact_float64(tensors["in_proj_weight"], "in_proj_weight")
        query, key, value = (w.reshape(layer.heads, dim // layer.heads, dim) for w in weight.split(dim))
        if layer.bias:
            bias = norms.exact_float64(tensors["in_proj_bias"], "in_proj_bias")[:dim]
        else:
            bias = torch.zeros(dim, dtype=torch.float64, device=weight.device)
        return cls(query, key, value, bias.reshape(layer.heads, dim // layer.heads))

    def root(self) -> arb:
        """sqrt(d_h)."""
        return ball(self.query.shape[1]).sqrt()


def _product_norm(left: Tensor, right: Tensor) -> arb:
    """Upper bound on ``||left^T right||``: norm of the computed product plus that of its rounding error.

    The factors are multiplied in units of powers of two in which their largest entries are in [1/4, 1).  There each
    entry is an inner product of length d, so ``|fl(A^T B) - A^T B| <= gamma_d |A|^T |B|`` (Higham 2002, section 3.5),
    whose Frobenius norm is at most ``gamma_d ||A||_F ||B||_F``; what underflows adds less than `UNDERFLOW`.
    """
    first, second = scale_rows(left, None, "the left factor"), scale_rows(right, None, "the right factor")
    if first.values is None or second.values is None:
        return ball(0)
    computed = norms.dense(first.values.T @ second.values)
    sizes = ball(norms.vector(first.values).upper) * ball(norms.vector(second.values).upper)
    scaled = ball(computed.upper) + ball(gamma_n(left.shape[0])) * sizes + ball(UNDERFLOW)
    return scaled * ball(2) ** (first.exponent + second.exponent)


@evaluates("logit norm")
def logit_norm(place: Place) -> Value:
    """``max_h ||W_Q,h^T W_K,h|| / sqrt(d_h)``."""
    heads = _Heads.at(place)
    largest = ball(0)
    for query, key in zip(heads.query, heads.key, strict=True):
        largest = largest.max(_product_norm(query, key))
    return largest / heads.root(), "product per head"


@evaluates("query shift")
def query_shift(place: Place) -> Value:
    """``max_h ||W_K,h^T b_Q,h|| / sqrt(d_h)``."""
    heads = _Heads.at(place)
    largest = ball(0)
    for key, bias in zip(heads.key, heads.query_bias, strict=True):
        largest = largest.max(_product_norm(key, bias[:, None]))
    return largest / heads.root(), "product per head"


@evaluates("value norm")
def value_norm(place: Place) -> Value:
    """``(sum_h ||W_V,h||^2)^(1/2)``."""
    return certified(norms.stacked([norms.dense(value) for value in _Heads.at(place).value]))


@evaluates("output projection norm")
def output_projection_norm(place: Place) -> Value:
    """``||W_O||``."""
    return certified(norms.dense(place.tensors[0]["out_proj.weight"]))
