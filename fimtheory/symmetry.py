"""Which nodes change sign with random weights: what the Jacobian-variance rules need to know of a graph.

At random initialisation the weights of a layer are symmetric: flipping the sign of all of them leaves their
distribution unchanged.  A node is symmetric under a set of layers if flipping the weights of all of those flips
the sign of the node's value, hence of its Jacobian.  Two consequences are used.  The sign of a symmetric
preactivation is fair and independent of the norm of its Jacobian's rows; and if a node u is flipped by a set of
layers none of which v depends on, then E <J_u, J_v> = 0, so the mean squares of a sum add.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import networkx as nx

from fimtheory.claims import Quantity
from fimtheory.graph import LayerGraph
from fimtheory.layers import Add, Concat
from fimtheory.registry import Site, find_rule

__all__ = ["Symmetry", "flips", "orthogonal", "symmetry_of"]


class Symmetry(enum.Enum):
    """What a layer does to signs."""

    FRESH = "fresh"
    """Its own random weights flip its output."""
    ODD = "odd"
    """Its output flips when its input does."""
    BROKEN = "broken"
    """Neither is known."""


def flips(graph: LayerGraph) -> Mapping[str, frozenset[str]]:
    """For each node, a set of layers whose joint sign flip flips the node; empty where none is known."""
    found: dict[str, frozenset[str]] = {}
    for name in graph.order:
        sources = graph.inputs(name)
        joined = isinstance(graph.layer(name), Add | Concat)
        if joined:
            union = frozenset().union(*(found[s] for s in sources))
            together = all(
                found[s] and not ((union - found[s]) & (nx.ancestors(graph.digraph, s) | {s})) for s in sources
            )
            found[name] = union if together else frozenset()
            continue
        symmetry = symmetry_of(graph, name)
        if symmetry is Symmetry.FRESH:
            found[name] = frozenset({name})
        else:
            found[name] = found[sources[0]] if sources and symmetry is Symmetry.ODD else frozenset()
    return found


def symmetry_of(graph: LayerGraph, name: str) -> Symmetry:
    """Return what the layer of a node does to signs; BROKEN where no rule says."""
    layer = graph.layer(name)
    rule = find_rule((type(layer),), Quantity.SYMMETRY)
    if rule is None:
        return Symmetry.BROKEN
    return rule.function(Site((layer,), (name,), graph.input_shapes(name), graph.shapes[name]))


def orthogonal(graph: LayerGraph, flipped: Mapping[str, frozenset[str]], nodes: tuple[str, ...]) -> bool:
    """Whether the Jacobians of ``nodes`` are known to be orthogonal in the mean, pair by pair."""

    def free(u: str, v: str) -> bool:
        return bool(flipped[u]) and not (flipped[u] & (nx.ancestors(graph.digraph, v) | {v}))

    return all(free(u, v) or free(v, u) for k, u in enumerate(nodes) for v in nodes[k + 1 :])
