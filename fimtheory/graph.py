"""LayerGraph: an architecture as a directed acyclic graph of layers, over networkx.

A graph is validated when it is made: names, arities, one input, one output, no cycle, nothing off the path from the
input to the output, and a shape for every node.  ``Repeat`` is the layer that holds a graph: a block repeated a
symbolic number of times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, final

import networkx as nx
import sympy

from fimtheory.claims import Quantity
from fimtheory.errors import FimTheoryError, GraphError, ShapeError, SymbolicSizeError
from fimtheory.layers import Input, Layer, Shape, Size, layer
from fimtheory.registry import Site, measures, require_rule

__all__ = ["MAX_NAME", "MAX_NODES", "MAX_SIZE", "Builder", "LayerGraph", "Node", "Repeat"]

MAX_NODES = 200_000
"""Most nodes that a file may hold, or that writing out repeated blocks may make."""
MAX_NAME = 200
"""Most characters in the name of a graph, a node or a block."""
MAX_SIZE = 2**48
"""Largest dimension; more cannot be a model's, and would only make later steps run out of memory."""


@final
@dataclass(frozen=True)
class Node:
    """A named layer, the nodes it reads (in order) and the block it belongs to ("" for none)."""

    name: str
    layer: Layer
    inputs: tuple[str, ...] = ()
    block: str = ""


class LayerGraph:
    """An immutable graph of layers with one input and one output.

    Attributes
    ----------
    name : str
    order : tuple of str
        Node names, each after the nodes it reads.
    input, output : str
    digraph : networkx.MultiDiGraph
        Frozen; nodes carry ``layer`` and ``block``, edges the input ``slot`` they feed.
    shapes : mapping of str to Shape
        Output shape of every node, without the batch.

    Raises
    ------
    GraphError, ShapeError, MissingRuleError
        The nodes do not form such a graph; the message names the node and the cause.
    """

    def __init__(self, nodes: Iterable[Node], name: str = "graph") -> None:
        if not isinstance(name, str) or len(name) > MAX_NAME:
            raise GraphError(f"a graph's name is a string of at most {MAX_NAME} characters, got {str(name)[:60]!r}")
        self.name = name
        given = tuple(nodes)
        self._nodes: dict[str, Node] = {}
        for node in given:
            _check_node(node)
            if node.name in self._nodes:
                raise GraphError(f"two nodes are named {node.name!r}; names must be unique")
            self._nodes[node.name] = node
        self.digraph = self._network()
        self.order: tuple[str, ...] = self._sorted()
        self.input, self.output = self._ends()
        self.shapes: Mapping[str, Shape] = self._infer_shapes()

    def _network(self) -> nx.MultiDiGraph:
        network = nx.MultiDiGraph()
        for node in self._nodes.values():
            network.add_node(node.name, layer=node.layer, block=node.block)
        for node in self._nodes.values():
            arity = type(node.layer).arity
            if (arity is None and not node.inputs) or (arity is not None and len(node.inputs) != arity):
                expected = "at least 1" if arity is None else str(arity)
                raise GraphError(
                    f"node {node.name}: {type(node.layer).__name__} takes {expected} input(s), got {len(node.inputs)}"
                )
            for slot, source in enumerate(node.inputs):
                if source not in self._nodes:
                    raise GraphError(f"node {node.name}: its input {source!r} is not a node of the graph")
                network.add_edge(source, node.name, slot=slot)
        return nx.freeze(network)

    def _sorted(self) -> tuple[str, ...]:
        placed: set[str] = set()
        for node in self._nodes.values():
            if not placed.issuperset(node.inputs):
                break
            placed.add(node.name)
        else:
            return tuple(self._nodes)
        position = {name: k for k, name in enumerate(self._nodes)}
        try:
            return tuple(nx.lexicographical_topological_sort(self.digraph, key=position.__getitem__))
        except nx.NetworkXUnfeasible:
            cycle = " -> ".join(str(edge[0]) for edge in nx.find_cycle(self.digraph))
            raise GraphError(f"the graph has a cycle ({cycle}); a feed-forward network has none") from None

    def _ends(self) -> tuple[str, str]:
        sources = [n for n in self.order if isinstance(self.layer(n), Input)]
        if len(sources) != 1:
            raise GraphError(f"a graph has exactly one Input node, got {len(sources)}: {', '.join(sources) or 'none'}")
        sinks = [n for n in self.order if self.digraph.out_degree(n) == 0]
        if len(sinks) != 1:
            raise GraphError(
                f"a graph has exactly one output, but nothing reads {', '.join(sinks[:5])}; remove what is not used"
            )
        reached = nx.descendants(self.digraph, sources[0]) | {sources[0]}
        if len(reached) != len(self.order):
            lost = [n for n in self.order if n not in reached]
            raise GraphError(f"disconnected graph: the input does not reach {', '.join(lost[:5])}")
        return sources[0], sinks[0]

    def _infer_shapes(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {}
        for name in self.order:
            node = self._nodes[name]
            found = require_rule(node.layer, Quantity.SHAPE, name)
            site = Site((node.layer,), (name,), tuple(shapes[s] for s in node.inputs), ())
            try:
                shapes[name] = tuple(_plain(size) for size in found.function(site))
            except FimTheoryError as error:
                raise type(error)(f"node {name} ({type(node.layer).__name__}): {error}") from None
        return shapes

    # ---- reading ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.order)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LayerGraph):
            return NotImplemented
        return self.name == other.name and self.nodes == other.nodes

    def __hash__(self) -> int:
        return hash((self.name, self.nodes))

    def __repr__(self) -> str:
        return f"<LayerGraph {self.name}: {len(self)} nodes, {self.shapes[self.input]} -> {self.shapes[self.output]}>"

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes in order."""
        return tuple(self._nodes[n] for n in self.order)

    def __getitem__(self, name: str) -> Node:
        return self._nodes[name]

    def layer(self, name: str) -> Layer:
        """Layer of a node."""
        return self._nodes[name].layer

    def inputs(self, name: str) -> tuple[str, ...]:
        """Names of the nodes a node reads, in order."""
        return self._nodes[name].inputs

    def input_shapes(self, name: str) -> tuple[Shape, ...]:
        """Shapes a node reads."""
        return tuple(self.shapes[source] for source in self.inputs(name))

    def is_concrete(self) -> bool:
        """Whether every size is a number and no block is repeated symbolically."""
        return all(isinstance(size, int) for shape in self.shapes.values() for size in shape) and not any(
            isinstance(node.layer, Repeat) for node in self._nodes.values()
        )

    @property
    def symbols(self) -> frozenset[sympy.Symbol]:
        """Every symbol in the sizes of the layers; of a repeated block, all but its index."""
        return frozenset(symbol for node in self._nodes.values() for symbol in _symbols(node.layer))

    def require_classifier(self) -> tuple[Size, Size]:
        """Return the input dimension d and the number of classes K.

        Raises
        ------
        GraphError
            The output is not a vector of at least two logits.
        """
        shape = self.shapes[self.output]
        if len(shape) != 1:
            raise GraphError(f"node {self.output}: a classifier's output is a vector of logits, got shape {shape}")
        if shape[0] == 1:
            raise GraphError(
                f"node {self.output}: one logit (K = 1); softmax over one class is constant and its Fisher "
                "information zero. Give a binary classifier two logits (0 and z)"
            )
        return _plain(sympy.prod(self.shapes[self.input])), shape[0]

    def fragment(self, entry: str, members: tuple[str, ...], names: tuple[str, ...] | None = None) -> LayerGraph:
        """Return the subgraph of ``members`` as a graph of its own; ``entry`` becomes its input, named x.

        The members are called ``names``, by default their names inside their block.

        Raises
        ------
        GraphError
            A member reads a node that is neither ``entry`` nor a member.
        """
        unknown = [m for m in (entry, *members) if m not in self._nodes]
        if unknown:
            raise GraphError(f"{unknown[0]!r} is not a node of the graph")
        local = dict(zip(members, names or _local_names([self._nodes[m] for m in members]), strict=True))
        local[entry] = "x"
        nodes = [Node("x", Input(self.shapes[entry]))]
        for member in members:
            outside = [s for s in self.inputs(member) if s not in local]
            if outside:
                raise GraphError(f"node {member} reads {outside[0]}, which is outside its block")
            nodes.append(Node(local[member], self.layer(member), tuple(local[s] for s in self.inputs(member))))
        return LayerGraph(nodes, self._nodes[members[0]].block)

    def save(self, path: str | Path) -> None:
        """Write the graph as JSON; the file appears whole or not at all."""
        from fimtheory.files import save_graph

        save_graph(self, path)

    # ---- changing -----------------------------------------------------------------------------------------------

    def subs(self, values: Mapping[Any, int]) -> LayerGraph:
        """Return the graph with sizes replaced by numbers; blocks whose count becomes a number are written out.

        Raises
        ------
        SymbolicSizeError
            A count would be below 1.
        """
        builder: list[Node] = []
        renamed: dict[str, str] = {}
        for node in self.nodes:
            made = _substituted(node.layer, values)
            inputs = tuple(renamed[s] for s in node.inputs)
            renamed[node.name] = node.name
            if isinstance(made, Repeat) and isinstance(made.count, int):
                if made.count < 1:
                    raise SymbolicSizeError(f"node {node.name}: repeated {made.count} times; expected at least 1")
                if made.count * len(made.body) > MAX_NODES:
                    raise SymbolicSizeError(
                        f"node {node.name}: {made.count} blocks of {len(made.body) - 1} nodes are too many to write; "
                        f"at most {MAX_NODES} nodes are"
                    )
                current = inputs[0]
                for k in range(1, made.count + 1):
                    body = made.body.subs({made.index: k}).subs(values)
                    prefix = f"{node.name}.{k}"
                    names = {body.input: current} | {n: f"{prefix}.{n}" for n in body.order[1:]}
                    builder += [
                        Node(names[n], body.layer(n), tuple(names[s] for s in body.inputs(n)), prefix)
                        for n in body.order[1:]
                    ]
                    current = names[body.output]
                renamed[node.name] = current
            else:
                builder.append(replace(node, layer=made, inputs=inputs))
        return LayerGraph(builder, self.name)


@layer
class Repeat(Layer):
    """``body`` applied ``count`` times, with the index 1, ..., count in its sizes; weights differ each time."""

    body: LayerGraph
    index: sympy.Symbol
    count: Size
    arity: ClassVar[int | None] = 1


class Builder:
    """Builds a graph node by node: each call returns the name to read from.

    >>> from fimtheory import layers
    >>> g = Builder("tiny")
    >>> x = g.add("x", layers.Input((3,)))
    >>> y = g.add("fc", layers.Linear(3, 2), x)
    >>> g.graph()
    <LayerGraph tiny: 2 nodes, (3,) -> (2,)>
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[Node] = []

    def add(self, name: str, made: Layer, *inputs: str, block: str = "") -> str:
        """Append a node and return its name."""
        self._nodes.append(Node(name, made, inputs, block))
        return name

    def graph(self) -> LayerGraph:
        """Return the validated graph."""
        return LayerGraph(self._nodes, self._name)


def _check_node(node: Node) -> None:
    name, inputs = node.name, node.inputs
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable() or "" in name.split("."):
        raise GraphError(
            f"node name {name!r}: expected 1 to {MAX_NAME} printable characters, without a leading, trailing or "
            "doubled dot"
        )
    if not isinstance(node.layer, Layer):
        raise GraphError(
            f"node {name}: {node.layer!r} is not a layer; expected one of fimtheory.layers, such as Linear(3, 2)"
        )
    if not isinstance(node.block, str) or len(node.block) > MAX_NAME:
        raise GraphError(f"node {name}: its block's name is a string of at most {MAX_NAME} characters")
    if not isinstance(inputs, tuple) or not all(isinstance(source, str) for source in inputs):
        raise GraphError(f"node {name}: inputs are {inputs!r}; expected a tuple of node names")


def _plain(size: Any) -> Size:
    """Return a Python int where sympy says integer, so that equal shapes compare equal; refuse sizes below 1."""
    if isinstance(size, int) and not isinstance(size, bool):
        number = size
    else:
        if not isinstance(size, sympy.Expr):
            raise ShapeError(f"a size is a positive integer or a sympy expression, got {size!r}")
        expression = sympy.expand(size)
        if not expression.is_number:
            return expression
        if not expression.is_Integer:
            raise ShapeError(f"size {size} is not a whole number")
        number = int(expression)
    if not 1 <= number <= MAX_SIZE:
        raise ShapeError(f"size {number}; every dimension must be at least 1 and at most 2^48")
    return number


def _local_names(nodes: list[Node]) -> list[str]:
    """Names without their common prefix; layer types where that would leave bare numbers or ambiguous symbols.

    The measure with suffix v of a node fc is written fc_v, as is the norm of a node fc_v.
    """
    paths = [n.name.split(".") for n in nodes]
    common = 0
    while all(len(p) > common + 1 and p[: common + 1] == paths[0][: common + 1] for p in paths):
        common += 1
    names = [".".join(p[common:]) for p in paths]
    suffixes = {m.suffix for m in measures()}
    split = [n.rpartition("_") for n in names]
    ambiguous = any(suffix in suffixes and stem in names for stem, _, suffix in split)
    if "x" not in names and not ambiguous and not any(n.isdecimal() for n in names):
        return names
    names, seen = [], dict[str, int]()
    for node in nodes:
        kind = type(node.layer).__name__.lower()
        seen[kind] = seen.get(kind, 0) + 1
        names.append(kind if seen[kind] == 1 else f"{kind}{seen[kind]}")
    return names


def _substituted(value: Any, values: Mapping[Any, int]) -> Any:
    if isinstance(value, sympy.Expr):
        result = value.subs(values).subs(values)  # the first turns n[N] into n[3], the second that into a number
        return int(result) if result.is_Integer else result
    if isinstance(value, tuple):
        return tuple(_substituted(part, values) for part in value)
    if isinstance(value, LayerGraph):
        return value.subs(values)
    if isinstance(value, Repeat):
        outer = {symbol: number for symbol, number in values.items() if symbol != value.index}
        return Repeat(_substituted(value.body, outer), value.index, _substituted(value.count, outer))
    if isinstance(value, Layer):
        changes = {f.name: _substituted(getattr(value, f.name), values) for f in fields(value)}  # type: ignore[arg-type]
        return replace(value, **changes)  # type: ignore[type-var]
    return value


def _symbols(value: Any) -> Iterator[sympy.Symbol]:
    if isinstance(value, sympy.Basic):
        yield from value.atoms(sympy.Symbol)
    elif isinstance(value, tuple):
        yield from (symbol for part in value for symbol in _symbols(part))
    elif isinstance(value, LayerGraph):
        yield from value.symbols
    elif isinstance(value, Repeat):
        yield from value.body.symbols - {value.index}
        yield from _symbols(value.count)
    elif isinstance(value, Layer):
        yield from (symbol for field in fields(value) for symbol in _symbols(getattr(value, field.name)))  # type: ignore[arg-type]
