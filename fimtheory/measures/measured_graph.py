"""The measures of a graph's layers with given weights, each computed once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from fimtheory.claims import Quantity
from fimtheory.ensemble import Initial, Parameter
from fimtheory.errors import WeightsError
from fimtheory.graph import LayerGraph
from fimtheory.measures.base import Place, Value, measured_value
from fimtheory.registry import Site, find_measure, require_rule
from fimtheory.weights import FLOATS

__all__ = ["MeasuredGraph"]


@final
class MeasuredGraph:
    """A graph with concrete sizes, a state dict, and the numbers that are read off them."""

    def __init__(self, graph: LayerGraph, tensors: Mapping[str, Tensor]) -> None:
        self.graph = graph
        self._tensors = tensors
        self._found: dict[tuple[str, tuple[str, ...]], Value] = {}

    def value(self, kind: str, nodes: tuple[str, ...]) -> Value:
        """Return the measure ``kind`` of a run of nodes, rounded up unless it is exact, and its certificate."""
        if (kind, nodes) not in self._found:
            value, method = measured_value(kind, self.place(nodes))
            self._found[kind, nodes] = value if find_measure(kind).exact else value.abs_upper(), method
        return self._found[kind, nodes]

    def place(self, nodes: tuple[str, ...]) -> Place:
        """Return nodes as a run; where they read one another and one entry, with what each reads."""
        layers = tuple(self.graph.layer(n) for n in nodes)
        tensors = tuple(self.tensors(n) for n in nodes)
        entry = self.graph.inputs(nodes[0])[0]
        number = {name: k for k, name in enumerate((entry, *nodes))}
        shapes = tuple(self.graph.shapes[name] for name in number)
        sources = [self.graph.inputs(name) for name in nodes]
        if not all(source in number for read in sources for source in read):
            return Place(layers, tensors, shapes[0], nodes)
        reads = tuple(tuple(number[source] for source in read) for read in sources)
        return Place(layers, tensors, shapes[0], nodes, reads, shapes)

    def tensors(self, node: str) -> dict[str, Tensor]:
        """Return the tensors of one node by their names inside it.

        Raises
        ------
        WeightsError
            One is missing, or has another shape or type.
        """
        layer, graph = self.graph.layer(node), self.graph
        rule = require_rule(layer, Quantity.PARAMETERS, node)
        found = {}
        for parameter in rule.function(Site((layer,), (node,), graph.input_shapes(node), graph.shapes[node])):
            key = f"{node}.{parameter.name}" if parameter.name else node
            tensor: Any = self._tensors.get(key)
            wrong = _wrong_with(tensor, parameter)
            if wrong is not None:
                raise WeightsError(f"node {node}: the tensor {key} {wrong}; expected shape {tuple(parameter.shape)}")
            found[parameter.name] = tensor.resolve_neg()
        return found


def _wrong_with(tensor: Any, parameter: Parameter) -> str | None:
    if tensor is None:
        return "is missing"
    if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided or tensor.is_meta:
        return f"is a {type(tensor).__name__} without dense data"
    if parameter.initial is not Initial.COUNT and tensor.dtype not in FLOATS:
        return f"has type {tensor.dtype} instead of float16, bfloat16, float32 or float64"
    return f"has shape {tuple(tensor.shape)}" if tuple(tensor.shape) != tuple(parameter.shape) else None
