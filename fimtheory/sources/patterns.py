"""Several operations that are one layer: activations written as formulas, normalisation by l2 norms, attention.

As for everything imported, the values of what is recognised are then compared with the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from fimtheory import layers
from fimtheory.layers import Layer
from fimtheory.sources.builder import GraphBuilder
from fimtheory.sources.decomposed import decomposed
from fimtheory.sources.formulas import FORMULAS, activation_of, formula_of
from fimtheory.sources.layout import Traced
from fimtheory.sources.padded_maxima import padded_maxima
from fimtheory.sources.program import behind, dependent
from fimtheory.sources.written_attention import written_attentions
from fimtheory.sources.written_norms import written_norms

__all__ = ["Pattern", "patterns_of"]

aten: Any = torch.ops.aten

Pattern = tuple[tuple[fx.Node, ...], Callable[..., Traced]]
"""The operations whose values a layer takes, and the function that adds the layer to a builder, given these values."""


def patterns_of(graph: fx.Graph, start: fx.Node) -> tuple[dict[fx.Node, Pattern], set[fx.Node]]:
    """Return the layers by operation, and the operations inside them, which need no reading."""
    moving = dependent(graph, start)
    every = (
        *_activations(graph),
        *_l2_normalisations(graph),
        *_global_response_norms(graph),
        *written_norms(graph),
        *padded_maxima(graph),
        *decomposed(graph),
        *written_attentions(graph, moving),
    )
    found = {node: pattern for node, pattern in every if pattern[0][0] in moving}
    sources = {source for taken, _ in found.values() for source in taken}
    absorbed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        inner = node in moving and node not in found and node not in sources
        if inner and node.users and all(user in absorbed or user in found for user in node.users):
            absorbed.add(node)
    return found, absorbed


def _activations(graph: fx.Graph) -> Iterator[tuple[fx.Node, Pattern]]:
    """Yield formulas of one tensor that are an activation, each as long as can be."""
    roots: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node.target in FORMULAS and _is_tensor(node):
            sources: list[Any] = [roots.get(s, s) for s in node.all_input_nodes if _is_tensor(s)]
            if len(set(sources)) == 1:
                roots[node] = sources[0]
    for node, root in roots.items():
        if any(roots.get(user) is root for user in node.users):
            continue
        layer = _activation(node, root)
        if layer is not None:
            yield node, ((root,), lambda g, x, layer=layer: g.add(layer, x))


def _activation(node: fx.Node, root: fx.Node) -> Layer | None:
    chain = behind([node], {root}) - {root}
    order = [each for each in node.graph.nodes if each in chain]
    if len(order) < 2 or any(each.target not in FORMULAS for each in order):
        return None
    formula = formula_of(order, root)
    return None if formula is None else activation_of(formula)


def _l2_normalisations(graph: fx.Graph) -> Iterator[tuple[fx.Node, Pattern]]:
    """Yield ``x / max(||x||_2, eps)`` along one dimension, as torch.nn.functional.normalize writes it."""
    for node in graph.nodes:
        if node.target is not aten.div.Tensor:
            continue
        value, divisor = _two(node)
        if isinstance(divisor, fx.Node) and divisor.target is aten.expand.default:
            divisor = divisor.args[0]
        if not isinstance(divisor, fx.Node) or divisor.target is not aten.clamp_min.default:
            continue
        norm, floor = _two(divisor)
        dims = _norm_dims(norm, value)
        if dims is not None and len(dims) == 1:
            dim, eps = dims[0], float(floor)
            yield node, ((value,), lambda g, x, d=dim, e=eps: g.add(layers.L2Normalize(x.layout.dim(d), e), x))


def _global_response_norms(graph: fx.Graph) -> Iterator[tuple[fx.Node, Pattern]]:
    """Yield ``x g / (g.mean(channel) + eps)`` with ``g = x.norm(dim=dims)``, all dimensions kept."""
    for node in graph.nodes:
        if node.target is aten.mul.Tensor:
            first, second = _two(node)
            for value, factor in ((first, second), (second, first)):
                add = _response(value, factor)
                if add is not None:
                    yield node, ((value,), add)


def _response(value: Any, factor: Any) -> Callable[..., Traced] | None:
    """Return what adds the layer that ``value`` times ``factor`` is, or None."""
    if not _calls(factor, aten.div.Tensor):
        return None
    norm, divisor = _two(factor)
    dims = _norm_dims(norm, value)
    if dims is None or not _calls(divisor, aten.add.Tensor):
        return None
    mean, eps = _two(divisor)
    if not _calls(mean, aten.mean.dim) or not isinstance(eps, int | float):
        return None
    averaged, channels, *keep = mean.args
    if averaged is not norm or not isinstance(channels, list | tuple) or len(channels) != 1 or keep != [True]:
        return None
    (channel,) = channels

    def add(g: GraphBuilder, x: Traced) -> Traced:
        return g.add(layers.GlobalResponseNorm(x.layout.dims(dims), x.layout.dim(channel), float(eps)), x)

    return add


def _norm_dims(norm: Any, value: Any) -> tuple[int, ...] | None:
    """Return the dimensions along which an operation takes l2 norms of ``value`` and keeps them; None for any other."""
    if not _calls(norm, aten.linalg_vector_norm.default):
        return None
    given: tuple[Any, ...] = (*norm.args, *(2, None, False)[len(norm.args) - 1 :])
    source, order, dims, keep = given[:4]
    if source is not value or order not in (2, 2.0) or not isinstance(dims, list | tuple) or not keep:
        return None
    return tuple(int(dim) for dim in dims)


def _calls(node: Any, target: Any) -> bool:
    """Whether something is a call of an operation with none but positional arguments."""
    return isinstance(node, fx.Node) and node.target is target and not node.kwargs


def _two(node: fx.Node) -> tuple[Any, Any]:
    """Return the first two arguments of an operation."""
    first, second = node.args[:2]
    return first, second


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)
