"""ImportedGraph: a layer graph with the weights it came with, and how closely it repeats its source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fimtheory.graph import LayerGraph, Node
from fimtheory.instantiation import GraphModule, instantiate

__all__ = ["Difference", "ImportedGraph"]


@final
@dataclass(frozen=True, slots=True)
class Difference:
    """Largest difference of the logits from the source's, relative to their scale, by arithmetic."""

    float64: float
    float32: float


class ImportedGraph(LayerGraph):
    """A layer graph made from a model, with its weights.

    Attributes
    ----------
    weights : mapping of str to Tensor
        State dict of the graph; keys are the model's own where a layer holds its tensors.
    difference : Difference or None
        How far the graph's logits are from the model's.
    """

    def __init__(
        self, nodes: Iterable[Node], name: str, weights: Mapping[str, Tensor], difference: Difference | None = None
    ) -> None:
        super().__init__(nodes, name)
        self.weights = dict(weights)
        self.difference = difference

    def model(self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> GraphModule:
        """Return the graph with its weights as a torch model."""
        return instantiate(self, weights=self.weights, dtype=dtype, device=device)

    def weighing(self, weights: Mapping[str, Tensor]) -> ImportedGraph:
        """Return the graph with other weights."""
        return ImportedGraph(self.nodes, self.name, weights, self.difference)

    def compared(self, difference: Difference) -> ImportedGraph:
        """Return the graph with a measured difference."""
        return ImportedGraph(self.nodes, self.name, self.weights, difference)
