"""Exported programs to layer graphs: every operation that the output depends on, or one error that lists the rest."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from fimtheory.errors import FimTheoryError, SourceError
from fimtheory.instantiation import graph_parameters
from fimtheory.layers import Input
from fimtheory.sources.attention import fused_attention
from fimtheory.sources.builder import GraphBuilder
from fimtheory.sources.comparison import Trial, compare_nodes
from fimtheory.sources.hierarchy import blocks_of
from fimtheory.sources.imported import ImportedGraph
from fimtheory.sources.layout import Traced, UnsupportedError
from fimtheory.sources.operations import arguments_of, reader_of
from fimtheory.sources.patterns import patterns_of
from fimtheory.sources.program import Program, behind, call, resolved, shaped

__all__ = ["input_of", "output_of", "read"]

aten: Any = torch.ops.aten

_VIEWS = {
    aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.clone.default, aten.alias.default,
    aten.unsqueeze.default, aten.squeeze.dim,
}  # fmt: skip


@torch.no_grad()
def read(program: Program, name: str, start: fx.Node, end: fx.Node) -> tuple[ImportedGraph, Trial]:
    """Return the graph of a program from one operation to another, and the trial that compared their nodes.

    Raises
    ------
    SourceError
        Operations cannot be read (all of them are listed), the output does not depend on the input or is not a vector
        of logits, or a node's values differ from the program's.
    """
    needed = behind([end])
    values: dict[fx.Node, Any] = {}
    builder = GraphBuilder({id(program.tensors[place]): key for place, key in program.keys.items()})
    missing: list[tuple[fx.Node, str]] = []
    patterns, absorbed = patterns_of(program.graph, start)
    for node in program.graph.nodes:
        if node in absorbed or node not in needed:
            continue
        if node is start:
            builder.at(start)
            values[node] = builder.input()
        elif node.op == "placeholder":
            values[node] = program.tensors[node.name]
        elif node in patterns:
            builder.at(node)
            sources, add = patterns[node]
            given = [values[source] for source in sources]
            values[node] = _added(node, missing, given, lambda add=add, given=given: add(builder, *given))
        elif node.op == "call_function":
            builder.at(node)
            values[node] = _value(builder, node, values, missing)
    if missing:
        raise _unsupported(missing, name)
    result = values[end]
    if start not in needed or not isinstance(result, Traced):
        raise SourceError(f"{name}: the output does not depend on the input {start.name}")
    return _finished(builder, result, name, program, start)


class _Unread:
    """Stands for the value of an operation that could not be read; what depends on it is read no further.

    Only operations that nobody could read, whatever they are given, are listed behind it.
    """


def _value(builder: GraphBuilder, node: fx.Node, values: Mapping[fx.Node, Any], missing: list[Any]) -> Any:
    args, kwargs = resolved(node, values)
    leaves = tree_leaves((args, kwargs))
    if not any(isinstance(leaf, Traced | _Unread) for leaf in leaves):
        return call(node, args, kwargs)
    if shaped(node):
        sample = torch.zeros(node.args[0].meta["val"].shape, dtype=torch.float64)  # type: ignore[union-attr]
        return call(node, (sample, *args[1:]), kwargs)
    if node.target is operator.getitem and not isinstance(args[0], _Unread):
        return args[0][args[1]] if args[1] < len(args[0]) else _Unread()
    reader = reader_of(node.target)

    def add() -> Any:
        if reader is None:
            raise UnsupportedError("no layer for this operation")
        return reader(builder, arguments_of(node.target, args, kwargs))  # type: ignore[arg-type]

    if reader is None and node.target is not operator.getitem and any(isinstance(leaf, _Unread) for leaf in leaves):
        missing.append((node, "no layer for this operation"))
        return _Unread()
    return _added(node, missing, leaves, add)


def _added(node: fx.Node, missing: list[Any], given: list[Any], add: Callable[[], Any]) -> Any:
    """Return what ``add`` returns; where it cannot, list the operation as missing."""
    if any(isinstance(each, _Unread) for each in given):
        return _Unread()
    try:
        return add()
    except UnsupportedError as reason:
        missing.append((node, str(reason)))
    except FimTheoryError as error:
        missing.append((node, f"{type(error).__name__}: {error}"))
    return _Unread()


def _unsupported(missing: list[tuple[fx.Node, str]], name: str) -> SourceError:
    """One error that lists every operation that cannot be read, the same ones together."""
    lines: dict[tuple[str, str], list[fx.Node]] = {}
    for node, reason in missing:
        lines.setdefault((str(node.target), reason), []).append(node)
    told = []
    for (target, reason), nodes in lines.items():
        first = nodes[0]
        shapes = [tuple(source.meta["val"].shape) for source in first.all_input_nodes if _is_tensor(source)]
        stack = list(first.meta.get("nn_module_stack", {}).values())
        where = stack[-1][0] if stack else ""
        more = f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""
        told.append(f"{target} at {first.name} (module {where or 'top'!r}, inputs {shapes}){more}: {reason}")
    return SourceError(
        f"{name}: {len(missing)} operations cannot be imported: " + "; ".join(told) + ". To add one, declare a layer "
        "(@ft.layer) with its rules (@ft.rule) and build the graph with ft.Builder, or register a reader with "
        "fimtheory.sources.operations.registry.reads"
    )


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def input_of(program: Program, given: str | None) -> fx.Node:
    """Return the node at which the input enters: a floating-point argument, or the embedding of token ids."""
    nodes = {node.name: node for node in program.graph.nodes}
    tensors = [p for p in program.inputs if isinstance(program.tensors[p], Tensor)]
    floats = [p for p in tensors if program.tensors[p].is_floating_point()]
    chosen = given
    if chosen is None:
        candidates = floats or [p for p in tensors if _embeddings(nodes[p])]
        if len(candidates) != 1:
            listed = ", ".join(candidates or tensors) or "none"
            raise SourceError(
                f"which argument is the input? There are {listed}; say so with from_torch(..., input='NAME') or "
                "--model-input NAME"
            )
        chosen = candidates[0]
    if chosen not in tensors:
        raise SourceError(f"no tensor argument {chosen!r}; there are {', '.join(tensors)}")
    value = program.tensors[chosen]
    if value.is_floating_point():
        return nodes[chosen]
    if value.is_complex():
        raise SourceError(f"the input {chosen} is complex; expected real numbers")
    embeddings = _embeddings(nodes[chosen])
    if len(embeddings) != 1:
        raise SourceError(
            f"the input {chosen} has type {value.dtype}, which has no derivative, and {len(embeddings)} embeddings "
            "read it; expected floating-point numbers, or token ids that one embedding reads"
        )
    return embeddings[0]


def _embeddings(tokens: fx.Node) -> list[fx.Node]:
    """Embeddings that read token ids, or views of them."""
    found = [user for user in tokens.users if user.target is aten.embedding.default and user.args[1] is tokens]
    return found + [each for user in tokens.users if user.target in _VIEWS for each in _embeddings(user)]


def output_of(program: Program, given: str | None) -> fx.Node:
    """Return the node of the logits."""
    known = {label: node for label, node in zip(program.labels, program.outputs, strict=True) if node is not None}
    if given is None:
        if len(known) != 1:
            raise SourceError(
                f"which output are the logits? There are {', '.join(known) or 'none'}; say so with from_torch(..., "
                "output='NAME') or --model-output NAME"
            )
        return next(iter(known.values()))
    if given not in known:
        raise SourceError(f"no output {given!r}; there are {', '.join(known) or 'none'}")
    return known[given]


def _finished(
    builder: GraphBuilder, result: Traced, name: str, program: Program, start: fx.Node
) -> tuple[ImportedGraph, Trial]:
    if result.layout.batch != 0 or result.layout.merged != 1 or len(result.sample) != 1:
        raise SourceError(
            f"{name}: the output has shape {result.shape}; expected logits (batch, classes) for one prediction an input"
        )
    result = builder.fuse(fused_attention(builder.graph(name, result), builder.weights), result)
    plain = builder.graph(name, result)
    if isinstance(plain.layer(result.node), Input):
        raise SourceError(f"{name}: the output is the input")
    blocks = blocks_of(plain, builder.origins, builder.weights)
    graph = builder.graph(name, result, blocks)
    weights = {key: builder.weights[key] for key in graph_parameters(graph)}
    origins = {node: builder.origins[node] for node in graph.order[1:]}
    made = ImportedGraph(graph.nodes, name, weights)
    return made, compare_nodes(made, program, start, origins)
