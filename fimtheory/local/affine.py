"""Affine layers acting on many columns at once, and on bounds of errors.

A layer that maps x to ``W x + b`` is applied to columns without b, and to nonnegative bounds with ``|W|``: both
with the function that the layer computes in a model, on other tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.layers import Layer, Shape
from fimtheory.norms.rounding import gamma_n
from fimtheory.norms.scaling import exact_float64
from fimtheory.registry import Site, require_rule

__all__ = ["LOST", "AffineMap", "is_affine"]

_OFFSETS: dict[type[Layer], tuple[str, ...]] = {
    layers.Linear: ("bias",),
    layers.PatchEmbedding: ("bias",),
    layers.Conv1d: ("bias",),
    layers.Conv2d: ("bias",),
    layers.Conv3d: ("bias",),
    layers.BatchNorm1d: ("bias", "running_mean"),
    layers.BatchNorm2d: ("bias", "running_mean"),
    layers.BatchNorm3d: ("bias", "running_mean"),
    layers.AddConstant: ("",),
    layers.ConcatConstant: ("",),
    layers.ClassToken: ("",),
    layers.PositionEmbedding: ("",),
    layers.MultiplyConstant: (),
    layers.AvgPool1d: (),
    layers.AvgPool2d: (),
    layers.AvgPool3d: (),
    layers.AdaptiveAvgPool1d: (),
    layers.AdaptiveAvgPool2d: (),
    layers.AdaptiveAvgPool3d: (),
    layers.Mean: (),
    layers.Sum: (),
    layers.Add: (),
    layers.Concat: (),
    layers.Flatten: (),
    layers.Reshape: (),
    layers.Permute: (),
    layers.SelectToken: (),
    layers.Select: (),
    layers.Slice: (),
    layers.Identity: (),
    layers.Dropout: (),
}
"""Affine layers, each with the names of the tensors that only shift its output."""
_KEPT = ("running_var", "num_batches_tracked")  # of a batch norm: not a factor with a sign
_UP = 1.0 + 2.0**-18
LOST = 2.0**-1000
"""More than what underflow takes from a sum of products, or from a column of them."""


def is_affine(layer: Layer) -> bool:
    """Whether a layer acts on columns."""
    return type(layer) in _OFFSETS


@final
@dataclass(frozen=True, slots=True)
class AffineMap:
    """An affine layer with weights in float64; ``terms`` bounds how many products an entry of its output adds."""

    apply: Callable[..., Tensor]
    tensors: Mapping[str, Tensor]
    offsets: tuple[str, ...]
    terms: int

    @classmethod
    def at(
        cls, layer: Layer, node: str, tensors: Mapping[str, Tensor], inputs: Sequence[Shape], output: Shape
    ) -> AffineMap:
        """Return the map of a layer at a node."""
        shapes = tuple(inputs)
        site = Site((layer,), (node,), shapes, output)
        terms = sum(int(torch.Size([int(n) for n in shape]).numel()) for shape in shapes)
        weight = tensors.get("weight")
        if weight is not None:  # an entry of the output sees one row of it, or one number
            terms = int(weight[0].numel())
        apply = require_rule(layer, Quantity.FORWARD, node).function(site)
        exact = {
            name: exact_float64(t, f"{node}.{name}") if t.is_floating_point() else t for name, t in tensors.items()
        }
        return cls(apply, exact, _OFFSETS[type(layer)], terms)

    def values(self, *inputs: Tensor) -> Tensor:
        """W x + b."""
        return self.apply(self.tensors, *inputs)

    def columns(self, *inputs: Tensor) -> Tensor:
        """W x for each column x."""
        return self.apply(self._changed(lambda t: t), *inputs)

    def bounds(self, *inputs: Tensor) -> Tensor:
        """|W| e for nonnegative bounds e, rounded up."""
        return self.apply(self._changed(torch.abs), *inputs) * _UP

    def rounding(self, *sizes: Tensor) -> Tensor:
        """How much the rounding of W x changes it, where the entries of x are at most ``sizes``."""
        return self.bounds(*sizes) * gamma_n(self.terms + 16) + LOST

    def offset_rounding(self, x: Tensor) -> Tensor:
        """How much the rounding of a sum with b changes it, for an input like x."""
        largest = sum(float(self.tensors[n].abs().max()) for n in self.offsets if n in self.tensors)
        total = torch.tensor(largest, dtype=torch.float64)
        if "running_mean" in self.tensors:
            mean = self.tensors["running_mean"].abs().reshape(-1, *[1] * (x.dim() - 1)).expand_as(x)
            total = total + self.bounds(mean[None])[0]
        return total * (gamma_n(64) * _UP)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        return {
            name: torch.zeros_like(t) if name in self.offsets else t if name in _KEPT else change(t)
            for name, t in self.tensors.items()
        }
