"""Attention written as products of matrices, softmax(scale q k^T + bias) v, recognised as one operation.

Exporters write attention out, and so do many models.  The scale may stand at the scores, at q or at k.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx

from fimtheory.sources.builder import GraphBuilder
from fimtheory.sources.layout import Traced
from fimtheory.sources.operations.products import attention

__all__ = ["written_attentions"]

aten: Any = torch.ops.aten

_PRODUCTS = {aten.matmul.default, aten.bmm.default}
_SOFTMAX = {aten.softmax.int, aten._softmax.default}
_COPIES = {aten.clone.default, aten.dropout.default, aten.contiguous.default, aten.alias.default}
_SHAPES = {aten.expand.default, aten.view.default, aten.reshape.default, aten._unsafe_view.default}

Found = tuple[tuple[fx.Node, ...], Callable[..., Traced]]


def written_attentions(graph: fx.Graph, dependent: Container[fx.Node]) -> Iterator[tuple[fx.Node, Found]]:
    """Yield every product that is an attention, with q, k^T, v and perhaps a bias, and the function that adds it.

    ``dependent`` holds the operations whose values depend on the input.
    """
    for node in graph.nodes:
        if node.target not in _PRODUCTS:
            continue
        weights, value = _through(node.args[0]), node.args[1]
        if weights.target not in _SOFTMAX or weights.args[1] not in (-1, _rank(weights) - 1):
            continue
        scores, bias = _biased(_through(weights.args[0]), dependent)
        scores, scale = _scaled(scores)
        if scores.target not in _PRODUCTS:
            continue
        (query, first), (key, second) = (_scaled(each) for each in scores.args)
        if all(each in dependent for each in (query, key, value)):
            sources = (query, key, value) if bias is None else (query, key, value, bias)
            yield node, (sources, functools.partial(_added, scale * first * second))


def _added(
    scale: float, g: GraphBuilder, query: Traced, key: Traced, value: Traced, bias: Tensor | None = None
) -> Traced:
    """Add an attention whose ``key`` is k^T."""
    rank = len(key.shape)
    keys = g.permuted(key, [*range(rank - 2), rank - 1, rank - 2])
    call = SimpleNamespace(query=query, key=keys, value=value, attn_mask=bias, scale=scale)
    call.dropout_p, call.is_causal, call.enable_gqa = 0.0, False, False
    return attention(g, call)


def _through(node: Any) -> fx.Node:
    """Return the operation behind copies and views of the same shape."""
    while _is_copy(node) or (node.target in _SHAPES and _shape(node) == _shape(node.args[0])):
        node = node.args[0]
    return node


def _is_copy(node: fx.Node) -> bool:
    """Whether an operation returns its input; dropout does in evaluation only."""
    return node.target in _COPIES and not (node.target is aten.dropout.default and node.args[2])


def _scaled(given: Any) -> tuple[fx.Node, float]:
    """Return the value behind multiplications by numbers, and the product of these numbers."""
    node, factor = _through(given), 1.0
    while node.target in (aten.mul.Tensor, aten.div.Tensor) and isinstance(node.args[1], int | float):
        factor = factor * node.args[1] if node.target is aten.mul.Tensor else factor / node.args[1]
        node = _through(node.args[0])
    return node, factor


def _biased(scores: fx.Node, dependent: Container[fx.Node]) -> tuple[fx.Node, fx.Node | None]:
    """Return scores without the constant that is added to them, and the constant."""
    if scores.target is aten.add.Tensor and not scores.kwargs:
        given = [each for each in scores.args if isinstance(each, fx.Node)]
        inner = [each for each in given if each in dependent]
        if len(given) == 2 and len(inner) == 1:
            return _through(inner[0]), given[given.index(inner[0]) - 1]
    return scores, None


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _rank(node: fx.Node) -> int:
    return len(_shape(node))
