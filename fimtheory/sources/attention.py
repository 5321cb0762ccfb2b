"""Self-attention written out as projections, heads and products, recognised as one layer.

The bound on self-attention as one layer uses the products ``W_Q^T W_K`` of its projections, and is far smaller than
what the norms of queries, keys and values give.  How a model lays out its heads does not matter: the movement of
entries between a projection and the attention is run on their positions, which tells the row of the weight behind
each entry of each head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.graph import LayerGraph, Node
from fimtheory.layers import Linear, MultiHeadSelfAttention, ScaledDotProductAttention
from fimtheory.registry import Site, require_rule

__all__ = ["Fused", "fused_attention"]

_MOVEMENT = (layers.Reshape, layers.Permute, layers.Flatten, layers.Select, layers.Slice)


@final
@dataclass(frozen=True, eq=False)
class Fused:
    """A self-attention: the node whose value it computes, the node it reads, its layer and its tensors."""

    output: str
    source: str
    core: str
    layer: MultiHeadSelfAttention
    tensors: Mapping[str, Tensor]


def fused_attention(graph: LayerGraph, weights: Mapping[str, Tensor]) -> Iterator[Fused]:
    """Yield every self-attention of a graph whose projections read the same tokens."""
    for node in graph.nodes:
        if isinstance(node.layer, ScaledDotProductAttention):
            found = _fused(graph, weights, node)
            if found is not None:
                yield found


def _fused(graph: LayerGraph, weights: Mapping[str, Tensor], core: Node) -> Fused | None:
    layer = core.layer
    assert isinstance(layer, ScaledDotProductAttention), "only attention is fused"
    *leading, tokens, width = (int(size) for size in graph.shapes[core.name])
    heads = math.prod(leading)
    plain = not layer.causal and not layer.bias and math.isclose(layer.scale * math.sqrt(width), 1, rel_tol=1e-12)
    projections = [_projection(graph, source) for source in core.inputs]
    found = [each for each in projections if each is not None]
    end = _output(graph, core.name)
    if not plain or len(found) < 3 or end is None:
        return None
    sources = {graph.inputs(name)[0] for name, _ in found}
    source = sources.pop()
    dim = heads * width
    if sources or graph.shapes[source] != (tokens, dim):
        return None
    rows = [_rows(graph, name, chain, (heads, tokens, width)) for name, chain in found]
    last, chain = end
    columns = _columns(graph, chain, core.name, (heads, tokens, width))
    if columns is None or any(row is None for row in rows) or graph.shapes[last] != (tokens, dim):
        return None
    chosen = [(name, row) for (name, _), row in zip(found, rows, strict=True) if row is not None]
    kernel = torch.cat([weights[f"{name}.weight"][row] for name, row in chosen])
    bias = torch.cat([_bias(graph, weights, name)[row] for name, row in chosen])
    tensors = {
        "in_proj_weight": kernel,
        "in_proj_bias": bias,
        "out_proj.weight": weights[f"{last}.weight"][:, columns],
        "out_proj.bias": _bias(graph, weights, last),
    }
    return Fused(last, source, core.name, MultiHeadSelfAttention(dim, heads), tensors)


def _bias(graph: LayerGraph, weights: Mapping[str, Tensor], name: str) -> Tensor:
    weight = weights[f"{name}.weight"]
    layer = graph.layer(name)
    assert isinstance(layer, Linear), "projections are linear layers"
    return weights[f"{name}.bias"] if layer.bias else weight.new_zeros(weight.shape[0])


def _projection(graph: LayerGraph, name: str) -> tuple[str, list[str]] | None:
    """Return the linear layer whose entries flow to ``name``, and the movements on the way."""
    chain: list[str] = []
    while isinstance(graph.layer(name), _MOVEMENT):
        chain.insert(0, name)
        (name,) = graph.inputs(name)
    return (name, chain) if isinstance(graph.layer(name), Linear) else None


def _output(graph: LayerGraph, name: str) -> tuple[str, list[str]] | None:
    """Return the linear layer that alone reads the entries of ``name``, and the movements on the way."""
    chain: list[str] = []
    while True:
        readers = list(graph.digraph.successors(name))
        if len(readers) != 1:
            return None
        (name,) = readers
        if isinstance(graph.layer(name), Linear):
            return name, chain
        if not isinstance(graph.layer(name), _MOVEMENT):
            return None
        chain.append(name)


def _moved(graph: LayerGraph, chain: list[str], positions: Tensor) -> Tensor:
    """Run movements on a batch of one."""
    for name in chain:
        layer = graph.layer(name)
        site = Site((layer,), (name,), graph.input_shapes(name), graph.shapes[name])
        positions = require_rule(layer, Quantity.FORWARD, name).function(site)({}, positions)
    return positions


def _rows(graph: LayerGraph, name: str, chain: list[str], shape: tuple[int, int, int]) -> Tensor | None:
    """Return the row of a projection's weight behind each entry (head, position in it), if it is the same for all
    tokens.
    """  # noqa: D205
    heads, tokens, width = shape
    features = int(graph.shapes[name][-1])
    entries = torch.arange(tokens * features).reshape(1, tokens, features)
    moved = _moved(graph, chain, entries).reshape(-1)
    if moved.numel() != heads * tokens * width:
        return None
    places = moved.reshape(shape)
    rows = places[:, 0]
    if not torch.equal(places, rows[:, None] + features * torch.arange(tokens)[None, :, None]):
        return None
    return rows.flatten() if bool((rows < features).all()) else None


def _columns(graph: LayerGraph, chain: list[str], core: str, shape: tuple[int, int, int]) -> Tensor | None:
    """Return the column of the output projection that reads each entry (head, position in it) of a token."""
    heads, tokens, width = shape
    entries = torch.arange(heads * tokens * width).reshape(1, *(int(size) for size in graph.shapes[core]))
    moved = _moved(graph, chain, entries)[0]
    if moved.shape != (tokens, heads * width):
        return None
    first = moved[0]
    if not torch.equal(moved, first + width * torch.arange(tokens)[:, None]):
        return None
    head, place = first // (tokens * width), first % (tokens * width)
    if not bool((place < width).all()):
        return None
    return torch.argsort(head * width + place)
