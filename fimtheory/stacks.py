r"""Stacks: the layers that end in the head, bounded together instead of one by one.

With slopes D of the activations and selections S of the max pools, the Jacobian of the logits by the entry h is W M,
where M is a product of known maps and of such factors.  By the head theorem

    lam  <=  R^2 L(h)^2 / (4 tau^2),   R = sup over all admissible factors of max_{i<j} ||(w_i - w_j)^T M||,

because the product of norms bounds R, but only for matrices whose singular vectors meet.  R is bounded by carrying
P >= M M^T from layer to layer.  A known map W makes W P W^T of it, and unknown diagonal D with entries in c +- r makes
C H C + R K R with H = P + P (K - P)^-1 P, for any diagonal multipliers K > P.

- A chain of linear layers of at most 1024 features and activations, batch norms after linear layers (``norms.chain``).
  In terms of X = P^-1 and Lambda = (2 R^2 K)^-1 this is the recursion of LipSDP, X_0 = I and
  X_i = 2 Lambda_i - Lambda_i S_i W_i (X_{i-1} + 2 W_i^T Lambda_i P_i W_i)^-1 W_i^T S_i Lambda_i,
  S_i = diag(a_i + b_i), P_i = diag(a_i b_i).
- An end with convolutions, skips, joins and pools: P is that of all live nodes, at every frequency of a torus, and from
  where they have few entries one matrix (``joint_stacks``, ``norms.network_head``).

Theory: M. Fazlyab et al., NeurIPS 2019 (LipSDP); Y. Xu and S. Sivaranjani, NeurIPS 2024, for the recursion.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Any, final

from fimtheory import layers
from fimtheory.claims import Measured
from fimtheory.expressions import nonnegative
from fimtheory.graph import LayerGraph
from fimtheory.joint_stacks import Wiring, layout_of
from fimtheory.regions import head_of
from fimtheory.registry import measure
from fimtheory.slopes import slopes_of

__all__ = ["Stack", "recursion_symbol", "stack_of"]

PAIRWISE_RECURSION = measure(
    "pairwise recursion",
    suffix="rec",
    latex=r"\sup_{{M}} \max_{{i<j}} \lVert (w_i - w_j)^\top M \rVert_2",
    meaning="largest gain of a difference of two logits over all slopes and selections in the stack",
)
_MOST_LAYERS = 32
_MOST_NODES = 1000
_MOST_FEATURES = 1024
_SAME = (layers.Identity, layers.Dropout)


@final
@dataclass(frozen=True, slots=True)
class Stack:
    """Nodes from the one after ``entry`` to the head, in order; they read one another and the entry."""

    entry: str
    nodes: tuple[str, ...]


def stack_of(graph: LayerGraph, entries: Container[str]) -> Stack | None:
    """Return the longest stack from one of ``entries`` to the head, None where there is none."""
    chain, joint = _chain(graph, entries), _joint(graph, entries)
    found = [stack for stack in (joint, chain) if stack is not None]
    return max(found, key=lambda stack: len(stack.nodes), default=None)


def _joint(graph: LayerGraph, entries: Container[str]) -> Stack | None:
    """Return the longest end of a network with convolutions whose live nodes can be bounded jointly."""
    head = head_of(graph)
    if head is None or not graph.is_concrete():
        return None
    begin = max(1, len(graph.order) - _MOST_NODES)
    for k, entry in enumerate(graph.order[begin - 1 : -1], start=begin):
        if entry in entries:
            number = {name: i for i, name in enumerate((entry, *graph.order[k:]))}
            reads = [tuple(number.get(source, -1) for source in graph.inputs(name)) for name in graph.order[k:]]
            if any(source < 0 for read in reads for source in read):
                continue
            shapes: Any = tuple(graph.shapes[name] for name in number)
            if layout_of(Wiring.of([graph.layer(name) for name in graph.order[k:]], reads, shapes)):
                return Stack(entry, graph.order[k:])
    return None


def _chain(graph: LayerGraph, entries: Container[str]) -> Stack | None:
    """Return the longest chain of linear layers and activations.

    Every layer acts on one vector of at most 1024 features, and there are at most 32 of them: the matrices X_i are as
    wide as the layers, and are computed a few hundred times.  Batch norms follow their linear layer; the slopes of the
    activations are numbers.
    """
    head = head_of(graph)
    if head is None:
        return None
    found: Stack | None = None
    nodes: tuple[str, ...] = (head,)
    for _ in range(_MOST_LAYERS):
        before = _layer_before(graph, graph.inputs(nodes[0])[0])
        if before is None:
            return found
        nodes = (*before, *nodes)
        entry = graph.inputs(nodes[0])[0]
        found = Stack(entry, nodes) if entry in entries else found
    return found


def _layer_before(graph: LayerGraph, node: str) -> tuple[str, ...] | None:
    """Return a linear layer, perhaps its batch norm, and the activation that ends at a node."""
    run: tuple[str, ...] = ()
    while isinstance(graph.layer(node), _SAME):
        run, node = (node, *run), graph.inputs(node)[0]
    if slopes_of(graph.layer(node)) is None:
        return None
    run, node = (node, *run), graph.inputs(node)[0]
    while isinstance(graph.layer(node), (*_SAME, layers.BatchNorm1d)):
        run, node = (node, *run), graph.inputs(node)[0]
    layer: Any = graph.layer(node)
    if not isinstance(layer, layers.Linear) or len(graph.shapes[node]) != 1:
        return None
    sizes = (layer.in_features, layer.out_features)
    return None if any(isinstance(size, int) and size > _MOST_FEATURES for size in sizes) else (node, *run)


def recursion_symbol(stack: Stack) -> Measured:
    """Return R_W, the measure of a stack."""
    return Measured(nonnegative("R_W"), PAIRWISE_RECURSION.kind, stack.nodes)
