"""Norms inside a self-attention layer, head by head; a norm layer in front is folded into the projections."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from flint import arb
from torch import Tensor

from fimtheory import norms
from fimtheory.balls import ball
from fimtheory.layers import MultiHeadSelfAttention
from fimtheory.measures.approximations import Approximation, concatenated, norm_of
from fimtheory.measures.base import Place, Value, certified, evaluates
from fimtheory.measures.folding import folded

__all__: list[str] = []

_SHARES = (0.5, 0.0, 0.25, 0.75, 1.0)
"""Shares of the ratio of a head's two factors that its t may take: the first is best if nothing cancels."""
_MOST_ENTRIES = 2**20
"""Entries of all heads' factors up to which the other shares are tried; beyond they would cost more than the norms."""
_ITERATIONS = 12


@final
@dataclass(frozen=True, eq=False)
class _Heads:
    """Projections of one attention layer, (d_h, dim) for each head, and its query biases as columns."""

    query: tuple[Approximation, ...]
    key: tuple[Approximation, ...]
    query_bias: tuple[Approximation, ...]

    @classmethod
    def at(cls, place: Place) -> _Heads:
        layer, tensors = _attention(place)
        query, key, _ = _split(tensors["in_proj_weight"], layer)
        biases = [torch.zeros(len(each), 1, dtype=torch.float64) for each in query]
        if layer.bias:
            bias = norms.exact_float64(tensors["in_proj_bias"], "in_proj_bias")
            biases = list(bias[: int(layer.dim)].reshape(layer.heads, -1, 1))
        shifts = tuple(map(Approximation.of, biases))
        if len(place.layers) > 1 and "bias" in place.tensors[0]:  # W_Q (x + beta) + b_Q
            beta = Approximation.of(place.tensors[0]["bias"][:, None])
            shifts = tuple(Approximation.of(q).times(beta).plus(b) for q, b in zip(query, shifts, strict=True))
        return cls(_folded(query, place), _folded(key, place), shifts)

    def root(self) -> arb:
        """sqrt(d_h)."""
        return ball(len(self.query[0].values)).sqrt()

    def forms(self) -> list[Approximation]:
        """``W_K,h^T W_Q,h``."""
        return [k.transposed().times(q) for q, k in zip(self.query, self.key, strict=True)]

    def shifts(self) -> list[Approximation]:
        """``W_K,h^T b_Q,h``."""
        return [k.transposed().times(b) for k, b in zip(self.key, self.query_bias, strict=True)]


def _attention(place: Place) -> tuple[Any, Any]:
    layer = place.layers[-1]
    assert isinstance(layer, MultiHeadSelfAttention), "only attention has heads"
    return layer, place.tensors[-1]


def _split(weight: Tensor, layer: MultiHeadSelfAttention) -> list[tuple[Tensor, ...]]:
    """Queries, keys and values of each head."""
    exact = norms.exact_float64(weight, "in_proj_weight")
    return [tuple(part.reshape(layer.heads, -1, int(layer.dim))) for part in exact.split(int(layer.dim))]


def _folded(weights: Sequence[Tensor], place: Place) -> tuple[Approximation, ...]:
    if len(place.layers) == 1:
        return tuple(map(Approximation.of, weights))
    return tuple(folded(weight, place.layers[0], place.tensors[0]) for weight in weights)


@evaluates("logit norm")
def logit_norm(place: Place) -> Value:
    """``max_h ||W_Q,h^T W_K,h|| / sqrt(d_h)``."""
    heads = _Heads.at(place)
    return _largest(heads.forms()) / heads.root(), "product per head"


@evaluates("query shift")
def query_shift(place: Place) -> Value:
    """``max_h ||W_K,h^T b_Q,h|| / sqrt(d_h)``."""
    heads = _Heads.at(place)
    return _largest(heads.shifts()) / heads.root(), "product per head"


def _largest(matrices: Sequence[Approximation]) -> arb:
    largest = ball(0)
    for matrix in matrices:
        largest = largest.max(norm_of(matrix))
    return largest


@evaluates("value norm")
def value_norm(place: Place) -> Value:
    """``(sum_h ||W_V,h||^2)^(1/2)``."""
    layer, tensors = _attention(place)
    squares = ball(0)
    for value in _folded(_split(tensors["in_proj_weight"], layer)[2], place):
        squares += norm_of(value) ** 2
    return squares.sqrt(), "stacked"


@evaluates("joint value norm")
def joint_value_norm(place: Place) -> Value:
    """``||W_V||``, all heads one above the other."""
    layer, tensors = _attention(place)
    (value,) = _folded([tensors["in_proj_weight"][2 * int(layer.dim) :]], place)
    return norm_of(value), "gram-cholesky"


@evaluates("output projection norm")
def output_projection_norm(place: Place) -> Value:
    """``||W_O||``."""
    return certified(norms.dense(_attention(place)[1]["out_proj.weight"]))


@evaluates("logit coupling")
def logit_coupling(place: Place) -> Value:
    """``||[W_O,h W_V,h / t_h]|| ||[t_h W_K,h^T W_Q,h]|| / sqrt(d_h)``."""
    heads = _Heads.at(place)
    return _balanced(_outputs(place), heads.forms()) / heads.root(), "heads balanced"


@evaluates("shift coupling")
def shift_coupling(place: Place) -> Value:
    """``||[W_O,h W_V,h / t_h]|| ||[t_h W_K,h^T b_Q,h]|| / sqrt(d_h)``."""
    heads = _Heads.at(place)
    return _balanced(_outputs(place), heads.shifts()) / heads.root(), "heads balanced"


def _outputs(place: Place) -> list[Approximation]:
    """``W_O,h W_V,h``."""
    layer, tensors = _attention(place)
    values = _folded(_split(tensors["in_proj_weight"], layer)[2], place)
    exact = norms.exact_float64(tensors["out_proj.weight"], "out_proj.weight")
    outputs = exact.split(int(layer.dim) // layer.heads, dim=1)
    return [Approximation.of(o).times(v) for o, v in zip(outputs, values, strict=True)]


def _balanced(left: Sequence[Approximation], right: Sequence[Approximation]) -> arb:
    """Return ``||[L_h / t_h]|| ||[t_h R_h]||``, L side by side and R one above the other, for good powers of two t_h.

    Any t_h > 0 would do; several are compared by estimates.  A head of which a factor is zero adds nothing.
    """
    pairs = [(a, b) for a, b in zip(left, right, strict=True) if not (a.is_zero or b.is_zero)]
    if not pairs:
        return ball(0)
    sizes = [_log2(a) - _log2(b) for a, b in pairs]
    few = len(pairs) * pairs[0][0].values.numel() > _MOST_ENTRIES
    candidates = []
    for share in _SHARES[:1] if few else _SHARES:
        shifts = [round(share * size) for size in sizes]
        one = concatenated([a for a, _ in pairs], 1, [-shift for shift in shifts])
        two = concatenated([b for _, b in pairs], 0, shifts)
        candidates.append((one, two))
    one, two = candidates[0] if few else min(candidates, key=lambda found: _log2(found[0]) + _log2(found[1]))
    return norm_of(one) * norm_of(two)


def _log2(matrix: Approximation) -> float:
    """Estimate of the norm's logarithm, by the power method from the longest row, whose image is not zero."""
    values = matrix.values
    v = values[values.norm(dim=1).argmax()]
    v = v / v.norm().clamp_min(1e-300)
    for _ in range(_ITERATIONS):
        w = values @ v
        v = values.T @ (w / w.norm().clamp_min(1e-300))
        v = v / v.norm().clamp_min(1e-300)
    size = max(float((values @ v).norm()), matrix.error, 1e-300)
    return math.log2(size) + matrix.exponent
