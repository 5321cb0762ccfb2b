"""Split a graph into the blocks a theorem is told by.

A node through which every path from the input to the output passes separates the graph.  Between two neighbouring
separators lies one layer, or a region with several paths (a residual block, a dense layer).  Neighbouring regions
that carry the same block name are told as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from fimtheory.claims import Quantity
from fimtheory.graph import LayerGraph, Repeat
from fimtheory.layers import Add, Concat, Input, Linear
from fimtheory.registry import find_rule
from fimtheory.symmetry import Symmetry, symmetry_of

__all__ = ["Region", "elementary", "head_of", "regions", "without_variance"]


@final
@dataclass(frozen=True, slots=True)
class Region:
    """Nodes ``members`` (in order, the last is the exit) that read nothing but ``entry`` and one another."""

    entry: str
    members: tuple[str, ...]
    block: str


def head_of(graph: LayerGraph) -> str | None:
    """Return the output node if it is a linear map applied to one vector, else None."""
    node = graph[graph.output]
    return node.name if isinstance(node.layer, Linear) else None


def regions(graph: LayerGraph) -> list[Region]:
    """Return the blocks of ``graph`` in order, from the input to the features that the head reads.

    Where nodes carry no block name, a new block starts at every layer with random weights and at every region with
    several paths; other layers join the block before them, as does a layer whose gain depends on what flows in.
    """
    blocks: list[Region] = []
    head = head_of(graph)
    for entry, members in elementary(graph):
        if members == (head,):
            continue
        name = graph[members[-1]].block
        previous = blocks[-1] if blocks else None
        joins = previous is not None and previous.block == name and (name or not _starts_block(graph, members))
        alone = any(isinstance(graph.layer(m), Repeat) for m in members)
        follows_repeat = previous is not None and isinstance(graph.layer(previous.members[-1]), Repeat)
        if previous is not None and joins and not alone and not follows_repeat:
            blocks[-1] = Region(previous.entry, previous.members + members, name)
        else:
            blocks.append(Region(entry, members, name))
    return blocks


def elementary(graph: LayerGraph) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield entry and members of each region between neighbouring separators, in order.

    In a topological order a node is a separator exactly when no edge passes over it.
    """
    position = {name: k for k, name in enumerate(graph.order)}
    farthest = entry = 0
    for k in range(1, len(graph.order)):
        farthest = max(farthest, *(position[t] for t in graph.digraph.successors(graph.order[k - 1])), 0)
        if farthest <= k:
            yield graph.order[entry], graph.order[entry + 1 : k + 1]
            entry = k


def without_variance(graph: LayerGraph) -> tuple[str, ...]:
    """Return the layer types of ``graph`` for which no rule bounds the growth of the Jacobian over random weights."""
    composed = (Input, Add, Concat)
    kinds: dict[type, None] = {}
    for node in graph.nodes:
        if isinstance(node.layer, Repeat):
            kinds |= dict.fromkeys(type(inner.layer) for inner in node.layer.body.nodes)
        else:
            kinds[type(node.layer)] = None
    lacking = (k for k in kinds if k not in composed and find_rule((k,), Quantity.JACOBIAN_VARIANCE) is None)
    return tuple(kind.__name__ for kind in lacking)


def _starts_block(graph: LayerGraph, members: tuple[str, ...]) -> bool:
    first = members[0]
    if len(members) > 1:
        return True
    gain = find_rule((type(graph.layer(first)),), Quantity.GAIN)
    return symmetry_of(graph, first) is Symmetry.FRESH and not (gain is not None and gain.needs)
