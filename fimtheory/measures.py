"""How each measure is read off weights and sizes: the certified numbers that enter a bound.

A measure's function gets the layers of a run, their tensors and the shape that flows in, and returns a ball that
contains the number, or whose upper end is at least the number, with the name of the certificate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar, final

import torch
from flint import arb
from torch import Tensor

from fimtheory import norms
from fimtheory.balls import ball
from fimtheory.errors import AssumptionError, MissingRuleError
from fimtheory.layers import (
    BatchNorm2d,
    Conv2d,
    Layer,
    LayerNorm,
    Linear,
    MultiHeadSelfAttention,
    Pair,
    PatchEmbedding,
    Shape,
)
from fimtheory.norms.rounding import gamma_n
from fimtheory.rules.parameters import WEIGHT_VARIANCE

__all__ = ["Place", "evaluates", "measured_value"]

Value = tuple[arb, str]


@final
@dataclass(frozen=True, eq=False)
class Place:
    """A run of layers with their tensors (by name inside the layer) and the shape that flows in."""

    layers: tuple[Layer, ...]
    tensors: tuple[Mapping[str, Tensor], ...]
    input: Shape
    nodes: tuple[str, ...]

    def sizes(self) -> tuple[int, ...]:
        """Shape that flows in, as ints."""
        return tuple(int(size) for size in self.input)


_EVALUATIONS: dict[str, Callable[[Place], Value]] = {}
_F = TypeVar("_F", bound=Callable[[Place], Value])


def evaluates(kind: str) -> Callable[[_F], _F]:
    """Register a function as the evaluation of the measure ``kind``."""

    def register(function: _F) -> _F:
        _EVALUATIONS[kind] = function
        return function

    return register


def measured_value(kind: str, place: Place) -> Value:
    """Evaluate the measure ``kind`` at a place.

    Raises
    ------
    MissingRuleError
        No evaluation is registered for it.
    """
    if kind not in _EVALUATIONS:
        raise MissingRuleError(
            f"node {place.nodes[-1]}: no evaluation of the measure {kind!r}; register one with @ft.evaluates({kind!r})"
        )
    return _EVALUATIONS[kind](place)


def _certified(norm: norms.CertifiedNorm) -> Value:
    return ball(norm.upper), norm.method


@evaluates("operator norm")
def operator_norm(place: Place) -> Value:
    """Norm of the linear part of a weight layer, a batch norm, or a convolution with batch norm folded in."""
    first, *rest = place.layers
    own = place.tensors[0]
    if isinstance(first, BatchNorm2d) and not rest:
        return _certified(norms.diagonal(*_batch_norm_scale(first, own)))
    scale = None
    if len(rest) == 1 and isinstance(rest[0], BatchNorm2d):
        scale = _batch_norm_scale(rest[0], place.tensors[1])
    elif rest:
        raise MissingRuleError(
            f"node {place.nodes[-1]}: no norm of a run of {[type(x).__name__ for x in place.layers]}"
        )
    if isinstance(first, Conv2d):
        height, width = place.sizes()[-2:]
        made = norms.convolution(
            own["weight"],
            (height, width),
            stride=_ints(first.stride),
            padding=_ints(first.padding),
            dilation=_ints(first.dilation),
            groups=int(first.groups),
            row_scale=scale,
        )
    elif isinstance(first, Linear | PatchEmbedding):
        made = norms.dense(own["weight"].flatten(1), row_scale=scale)
    else:
        raise MissingRuleError(f"node {place.nodes[-1]}: no operator norm of a {type(first).__name__}")
    return _certified(made)


def _ints(pair: Pair) -> tuple[int, int]:
    return int(pair[0]), int(pair[1])


def _batch_norm_scale(layer: BatchNorm2d, tensors: Mapping[str, Tensor]) -> tuple[Tensor, float]:
    return norms.folded_scale(tensors["weight"], tensors["running_var"], layer.eps)


@evaluates("row diameter")
def row_diameter(place: Place) -> Value:
    """Largest distance between two rows of the head's weight."""
    return _certified(norms.row_diameter(place.tensors[0]["weight"]))


@evaluates("mean square gain")
def mean_square_gain(place: Place) -> Value:
    """``E ||W u||^2 / ||u||^2`` at most, for weights of variance WEIGHT_VARIANCE / fan_in: exact sizes."""
    (layer,) = place.layers
    if isinstance(layer, Linear):
        return WEIGHT_VARIANCE * ball(int(layer.out_features)) / int(layer.in_features), "exact"
    if isinstance(layer, PatchEmbedding):
        return WEIGHT_VARIANCE * ball(int(layer.dim)) / (int(layer.in_channels) * int(layer.patch) ** 2), "exact"
    if isinstance(layer, Conv2d):
        windows = math.prod(
            -(-int(k) * math.gcd(int(s), int(d)) // int(s))
            for k, s, d in zip(layer.kernel, layer.stride, layer.dilation, strict=True)
        )
        taps = int(layer.kernel[0]) * int(layer.kernel[1])
        ratio = ball(int(layer.out_channels)) / int(layer.in_channels)  # the same within every group
        return WEIGHT_VARIANCE * ratio * windows / taps, "exact"
    raise MissingRuleError(f"node {place.nodes[-1]}: no mean square gain of a {type(layer).__name__}")


@evaluates("centred scale")
def centred_scale(place: Place) -> Value:
    """``||diag(gamma) (I - 11^T/n)||``."""
    return _certified(norms.centred_scale(place.tensors[0]["weight"]))


@evaluates("shift norm")
def shift_norm(place: Place) -> Value:
    """``||beta||``."""
    return _certified(norms.vector(place.tensors[0]["bias"]))


@evaluates("epsilon")
def epsilon(place: Place) -> Value:
    """The layer's epsilon, the float it is."""
    (layer,) = place.layers
    assert isinstance(layer, LayerNorm), "only layer norm declares an epsilon"
    return ball(layer.eps), "exact"


@evaluates("largest slope")
def largest_slope(place: Place) -> Value:
    """Largest absolute slope of a PReLU."""
    return _certified(norms.diagonal(place.tensors[0]["weight"]))


@evaluates("token radius")
def token_radius(place: Place) -> Value:
    """An assumption, not a measurement: it has no value of its own."""
    raise AssumptionError(
        f"node {place.nodes[-1]}: the theorem assumes a bound R on the norm of its tokens; put a layer norm before "
        "the attention, or read the bound as a function of R"
    )


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

    Each entry is an inner product of length d, so ``|fl(A B) - A B| <= gamma_d |A| |B|`` (Higham 2002, section 3.5),
    whose Frobenius norm is at most ``gamma_d ||A||_F ||B||_F``; underflow adds at most d 2^-1022 an entry.
    """
    computed = left.T @ right
    error = (
        gamma_n(left.shape[0]) * ball(norms.vector(left.flatten()).upper) * ball(norms.vector(right.flatten()).upper)
    )
    underflow = left.shape[0] * ball(computed.numel()) * ball(2.0**-1022)
    return ball(norms.dense(computed).upper) + error + underflow


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
    return _certified(norms.stacked([norms.dense(value) for value in _Heads.at(place).value]))


@evaluates("output projection norm")
def output_projection_norm(place: Place) -> Value:
    """``||W_O||``."""
    return _certified(norms.dense(place.tensors[0]["out_proj.weight"]))
