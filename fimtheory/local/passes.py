"""Which layers pass a walk, and what each of a model needs to."""

from __future__ import annotations

import math

from torch import Tensor

from fimtheory import layers
from fimtheory.errors import MissingRuleError
from fimtheory.graph import LayerGraph
from fimtheory.instantiation import GraphModule
from fimtheory.layers import Layer
from fimtheory.local.affine import AffineMap, is_affine
from fimtheory.local.attention import Attention, SelfAttention
from fimtheory.local.normalisation import NORMALISATIONS, Normalisation
from fimtheory.local.products import Product
from fimtheory.local.walk import Pass
from fimtheory.measures import MeasuredGraph
from fimtheory.norms.scaling import exact_float64
from fimtheory.slopes import slopes_of

__all__ = ["passes", "require_local"]

_PRODUCTS = (layers.Multiply, layers.Gate, layers.MatMul)
_ATTENTION = (layers.MultiHeadSelfAttention, layers.ScaledDotProductAttention)


def require_local(graph: LayerGraph) -> None:
    """Refuse a graph with a layer that no walk passes, before any work is done.

    Raises
    ------
    MissingRuleError
        The message names the first such node.
    """
    for node in graph.order:
        layer = graph.layer(node)
        passed = is_affine(layer) or slopes_of(layer) is not None
        passed = passed or isinstance(layer, (layers.MaxPool2d, *NORMALISATIONS, *_PRODUCTS, *_ATTENTION))
        if node != graph.input and not passed:
            raise MissingRuleError(
                f"node {node}: no local bound for layer type {type(layer).__name__}; local bounds are for networks of "
                "affine layers, activations, max pools of images (MaxPool2d), layer norms and RMS norms, group norms, "
                "products and attention (without --around or --local, the bound for all inputs is used)"
            )


def passes(module: GraphModule) -> dict[str, AffineMap | Pass]:
    """Affine maps, norms, products and attention of a model by node, with their weights in float64."""
    graph = module.graph
    weights = MeasuredGraph(graph, {name: t.detach().cpu() for name, t in module.state_dict().items()})
    made = {node: _passed(graph, weights, node, graph.layer(node)) for node in graph.order if node != graph.input}
    return {node: each for node, each in made.items() if each is not None}


def _passed(graph: LayerGraph, weights: MeasuredGraph, node: str, layer: Layer) -> AffineMap | Pass | None:
    """What a node needs to pass, but for activations and max pools, which need nothing."""
    shape, inputs = graph.shapes[node], graph.input_shapes(node)
    if is_affine(layer):
        return AffineMap.at(layer, node, weights.tensors(node), inputs, shape)
    if isinstance(layer, NORMALISATIONS):
        return Normalisation.at(layer, node, weights.tensors(node), shape)
    if isinstance(layer, _PRODUCTS):
        return Product(layer, shape)
    if isinstance(layer, layers.MultiHeadSelfAttention):
        return SelfAttention.at(layer, node, weights.tensors(node), shape)
    if isinstance(layer, layers.ScaledDotProductAttention):
        bias = weights.tensors(node).get("")
        return Attention(layer, None if bias is None else _scores(bias, node))
    return None


def _scores(bias: Tensor, node: str) -> Tensor:
    """A bias on scores in float64, with minus infinity where a key is hidden."""
    hidden = bias == -math.inf
    return exact_float64(bias.masked_fill(hidden, 0.0), node).masked_fill(hidden, -math.inf)
