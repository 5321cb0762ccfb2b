"""Chains inside a block: a norm, linear layers and the activations between them, bounded together.

The Jacobian of W_m phi_{m-1}(... phi_1(W_1 h + b_1) ...) + b_m is W_m D_{m-1} ... D_1 W_1 with diagonal D_i whose
entries lie between the slopes of phi_i.  The largest norm of that over all such D_i is mostly far below the product of
norms.  After a norm layer h = diag(gamma) u + beta, where u are normalised tokens; the norm's own
Jacobian is at most 1 / sqrt(v + eps), and W_1 acts on u as W_1 diag(gamma) P, with P = I - 11^T/n for a layer norm.

Theory: P. L. Combettes and J.-C. Pesquet, SIAM J. Math. Data Sci. 2 (2020); M. Fazlyab et al., NeurIPS 2019 (LipSDP).
"""

from __future__ import annotations

import sympy

from fimtheory.claims import Claim, Condition, Measured, Quantity, Reference, Relation
from fimtheory.graph import LayerGraph
from fimtheory.layers import Dropout, Identity, Linear
from fimtheory.registry import Site, find_rule, measure
from fimtheory.slopes import slopes_of
from fimtheory.steepness import NORMS, steepness

__all__ = ["chain_at", "chain_claim"]

CHAIN_GAIN = measure(
    "chain gain",
    suffix="ch",
    latex=r"\sup_{{D}} \lVert W_m D_{{m-1}} \cdots D_1 W_1 \rVert_2",
    meaning="largest norm of the chain of linear layers over all slopes of the activations between them; a norm before "
    "it is folded in",
)
_REFERENCE = Reference("fazlyab2019")
_SAME = (Identity, Dropout)
_MOST_LAYERS = 32


def chain_at(body: LayerGraph, node: str) -> tuple[str, ...] | None:
    """Return the longest chain that ends at a node, None where the node's own norm says as much.

    It is a norm and a linear layer at least, or two linear layers; every node but the last is read once.  Linear layers
    that are run together with what follows them, and chains of more than 32 nodes, are left alone.
    """
    if not isinstance(body.layer(node), Linear):
        return None
    chain = found = (node,)
    while len(chain) <= _MOST_LAYERS:
        before = _before(body, chain[0])
        if before is None:
            break
        chain = (before, *chain)
        if isinstance(body.layer(before), NORMS):
            found = chain if isinstance(body.layer(chain[1]), Linear) else found
            break
        if isinstance(body.layer(before), Linear):
            found = chain
    return None if len(found) == 1 or len(chain) > _MOST_LAYERS else found


def _before(body: LayerGraph, node: str) -> str | None:
    """Return what a node of a chain reads, if that may belong to the chain."""
    (source,) = body.inputs(node)
    if source == body.input or body.digraph.out_degree(source) != 1:
        return None
    layer, reader = body.layer(source), body.layer(node)
    if isinstance(layer, Linear):
        return None if isinstance(reader, Linear) or _folded(body, source, node) else source
    if isinstance(layer, NORMS):
        return source if isinstance(reader, Linear) else None
    return source if isinstance(layer, _SAME) or slopes_of(layer) is not None else None


def _folded(body: LayerGraph, node: str, reader: str) -> bool:
    return find_rule((type(body.layer(node)), type(body.layer(reader))), Quantity.GAIN) is not None


def chain_claim(
    body: LayerGraph,
    nodes: tuple[str, ...],
    letter: str,
    index: sympy.Expr | None,
    token_variance: sympy.Expr | None,
) -> Claim:
    """Return what is known of the gain of a chain: the supremum over the slopes, over sqrt(v + eps) after a norm.

    Conditions: tokens have variance at least v, if that is assumed.  Proof: see the module.
    """
    layers = tuple(body.layer(node) for node in nodes)
    gain = Site(layers, nodes, (), (), letter, index).measured(CHAIN_GAIN.kind)
    if not isinstance(layers[0], NORMS):
        return Claim(Relation.LE, gain.symbol, _REFERENCE, measured=(gain,))
    norm = Site(layers[:1], nodes[:1], (), (), letter, index, token_variance=token_variance)
    slope, epsilon, conditions = steepness(norm)
    measured: tuple[Measured, ...] = (gain, epsilon)
    told: tuple[Condition, ...] = conditions
    return Claim(Relation.LE, gain.symbol * slope, _REFERENCE, told, measured)
