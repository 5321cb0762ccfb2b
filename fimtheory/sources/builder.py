"""Nodes, weights and names of an imported graph, as the operations of a program are read one by one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import networkx as nx
from torch import Tensor, fx

from fimtheory.graph import LayerGraph, Node
from fimtheory.layers import Flatten, Input, Layer, Permute, Reshape
from fimtheory.sources.attention import Fused
from fimtheory.sources.layout import Layout, Traced

__all__ = ["GraphBuilder", "Origin"]


@final
@dataclass(frozen=True, slots=True)
class Origin:
    """Where a node comes from: the operation that computes its value, its layout there, and its module's path."""

    operation: fx.Node
    layout: Layout
    path: str


class GraphBuilder:
    """Collects nodes and weights; ``at`` says which operation the next nodes belong to.

    ``names`` gives the key in the model's state dict of each of its tensors; a node that has tensors of one module is
    named after that module, so that state dicts fit.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        self._nodes: dict[str, Node] = {}
        self._current: fx.Node | None = None
        self.weights: dict[str, Tensor] = {}
        self.origins: dict[str, Origin] = {}
        self.concatenations: dict[tuple[int, tuple[str, ...]], Traced] = {}

    def at(self, operation: fx.Node) -> None:
        """Say which operation the next nodes belong to."""
        self._current = operation

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the current operation's (first) result, the batch included."""
        assert self._current is not None, "an operation is being read"
        value = self._current.meta["val"]
        first = value[0] if isinstance(value, tuple | list) else value
        return tuple(int(size) for size in first.shape)

    def input(self) -> Traced:
        """Add the input: the current operation's result, whose first dimension is the batch."""
        return self._place("x", Input(self.shape[1:]), (), Layout(self.shape, self.shape[0]))

    def add(self, layer: Layer, *inputs: Traced, layout: Layout | None = None, **tensors: Tensor | None) -> Traced:
        """Add a node and return its value; ``layout`` is by default that of the first input with the result's shape.

        ``tensors`` are named as the layer's parameter rule names them, dots written as two underscores; the one
        tensor of a layer that has just one without a name is ``value``.
        """
        held = {key.replace("__", "."): value for key, value in tensors.items() if value is not None}
        name = self._name(type(layer).__name__.lower(), held)
        made = layout if layout is not None else inputs[0].layout.resized(self.shape)
        for key, value in held.items():
            self.weights[name if key == "value" else f"{name}.{key}"] = value
        return self._place(name, layer, tuple(each.node for each in inputs), made)

    def viewed(self, value: Traced, shape: tuple[int, ...]) -> Traced:
        """Return a value with its entries in another shape."""
        layout = value.layout.viewed(shape)
        if layout.sample == value.sample:
            return Traced(value.node, layout)
        layer = Flatten() if len(layout.sample) == 1 else Reshape(layout.sample)
        return self.add(layer, value, layout=layout)

    def permuted(self, value: Traced, dims: list[int]) -> Traced:
        """Return a value with its dimensions in another order."""
        layout, order = value.layout.permuted(dims)
        if order == tuple(range(len(order))):
            return Traced(value.node, layout)
        return self.add(Permute(order), value, layout=layout)

    def key_of(self, value: Tensor) -> str | None:
        """Return the key of a tensor in the model's state dict, None for a computed one."""
        return self._names.get(id(value))

    def fuse(self, found: Iterable[Fused], output: Traced) -> Traced:
        """Put self-attentions in the place of the nodes they stand for, and return the output, which may be one."""
        renamed: dict[str, str] = {}
        for each in found:
            origin = self.origins[each.output]
            owner = each.output.rpartition(".")[0]
            name = self._free(self.origins[each.core].path or owner or "attention")
            renamed[each.output] = name
            self.origins[name] = Origin(origin.operation, origin.layout, self.origins[each.core].path)
            self._nodes = _inserted(self._nodes, each.output, Node(name, each.layer, (each.source,)))
            self.weights |= {f"{name}.{key}": value for key, value in each.tensors.items()}
        self._nodes = {
            name: Node(name, node.layer, tuple(renamed.get(source, source) for source in node.inputs))
            for name, node in self._nodes.items()
        }
        return Traced(renamed.get(output.node, output.node), output.layout)

    def graph(self, name: str, output: Traced, blocks: Mapping[str, str] | None = None) -> LayerGraph:
        """Return the graph of everything that the output depends on."""
        network = nx.DiGraph((source, node.name) for node in self._nodes.values() for source in node.inputs)
        network.add_node(output.node)
        needed = nx.ancestors(network, output.node) | {output.node}
        kept = [node for node in self._nodes.values() if node.name in needed]
        told = blocks or {}
        return LayerGraph([Node(n.name, n.layer, n.inputs, told.get(n.name, "")) for n in kept], name)

    def _place(self, name: str, layer: Layer, inputs: tuple[str, ...], layout: Layout) -> Traced:
        self._nodes[name] = Node(name, layer, inputs)
        if self._current is not None:
            self.origins[name] = Origin(self._current, layout, _module_path(self._current))
        return Traced(name, layout)

    def _name(self, kind: str, tensors: Mapping[str, Tensor]) -> str:
        """Name a node after the module that owns its tensors, else after the module whose operation it is."""
        assert self._current is not None, "an operation is being read"
        name = self._owner(tensors)
        if name is None:
            path, call = _module_path(self._current), _leaf(self._current)
            whole = call and path and path not in self._nodes and "value" not in tensors
            name = path if whole else f"{path}.{kind}" if path else kind
        return self._free(name)

    def _free(self, name: str) -> str:
        free, number = name, 1
        while free in self._nodes or free == "x":
            number += 1
            free = f"{name}_{number}"
        return free

    def _owner(self, tensors: Mapping[str, Tensor]) -> str | None:
        for key, value in tensors.items():
            known = self.key_of(value)
            if known is None:
                continue
            if key == "value":
                return known
            if known.endswith(f".{key}"):
                return known[: -len(key) - 1]
        return None


def _inserted(nodes: Mapping[str, Node], before: str, node: Node) -> dict[str, Node]:
    made: dict[str, Node] = {}
    for name, each in nodes.items():
        if name == before:
            made[node.name] = node
        made[name] = each
    return made


def _modules(operation: fx.Node) -> list[tuple[str, Any]]:
    """Path and class of the modules whose call led to an operation, outermost first."""
    return [(re.sub(r"@\d+", "", path), kind) for path, kind in operation.meta.get("nn_module_stack", {}).values()]


def _module_path(operation: fx.Node) -> str:
    stack = _modules(operation)
    path = stack[-1][0] if stack else ""
    return ".".join(part for part in path.split(".") if part)


def _leaf(operation: fx.Node) -> bool:
    """Whether the operation was called by a module of torch itself, which does little else."""
    stack = _modules(operation)
    kind = stack[-1][1] if stack else ""
    return (kind if isinstance(kind, str) else kind.__module__).startswith("torch.nn.")
