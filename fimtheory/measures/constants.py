"""Norms of constant factors and of a constant matrix."""

from __future__ import annotations

from fimtheory import norms
from fimtheory.layers import MatmulConstant, MultiplyConstant
from fimtheory.measures.base import Place
from fimtheory.measures.operators import Tensors, linear_part, output_scale
from fimtheory.norms import CertifiedNorm, RowScale

__all__: list[str] = []


@output_scale(MultiplyConstant)
def _factors(layer: MultiplyConstant, tensors: Tensors) -> RowScale:
    return tensors[""].flatten(), 0.0


@linear_part(MatmulConstant)
def _matrix(place: Place, scale: RowScale | None) -> CertifiedNorm:
    return norms.dense(place.tensors[0][""], row_scale=scale)
