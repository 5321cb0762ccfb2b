"""Torch modules to layer graphs: every operation and every tensor that the output depends on, or an error."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_any, tree_leaves

from fimtheory.errors import FimTheoryError, SourceError
from fimtheory.instantiation import graph_parameters
from fimtheory.layers import Input
from fimtheory.sources.attention import fused_attention
from fimtheory.sources.builder import GraphBuilder
from fimtheory.sources.comparison import compare_logits, compare_nodes
from fimtheory.sources.hierarchy import blocks_of
from fimtheory.sources.imported import ImportedGraph
from fimtheory.sources.layout import Traced, UnsupportedError
from fimtheory.sources.operations import arguments_of, reader_of
from fimtheory.sources.patterns import patterns_of
from fimtheory.sources.program import Arguments, Program, call, exported, in_precision, program_of, resolved

__all__ = ["from_torch"]

aten: Any = torch.ops.aten


def from_torch(
    module: nn.Module,
    example_input: Any,
    *,
    input: str | None = None,
    output: str | None = None,
    name: str | None = None,
) -> ImportedGraph:
    """Return the layer graph of a torch module, with its weights.

    Every operation of the exported program becomes layers, or the import fails with one error that lists all that
    cannot be read.  The graph is run beside the module before it is returned: in float64 they agree in every node,
    and in the output to 1e-12 of its scale; in float32 to 1e-5.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode.
    example_input : Tensor, tuple or mapping
        Arguments of one call, with a batch dimension first (only the first input of the batch is used).
    input : str or None
        Name of the argument that the Fisher information is about, where there are several; with token ids it is the
        output of the embedding that reads them.
    output : str or None
        Name of the logits among several outputs.
    name : str or None
        Name of the graph; by default that of the module's class.

    Returns
    -------
    ImportedGraph
        A ``LayerGraph`` with ``weights`` (a state dict; the module's own keys where a layer has its tensors),
        ``model()`` and the measured ``difference``.

    Raises
    ------
    SourceError
        The module is in training mode, its control flow depends on data, an operation has no layer, the input or the
        output is ambiguous, or graph and module disagree.

    Examples
    --------
    >>> made = from_torch(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), torch.zeros(1, 3))
    >>> made, sorted(made.weights)
    (<LayerGraph Sequential: 4 nodes, (3,) -> (2,)>, ['0.bias', '0.weight', '2.bias', '2.weight'])
    """
    if not isinstance(module, nn.Module):
        raise SourceError(f"from_torch takes a torch.nn.Module, got a {type(module).__name__}")
    arguments = Arguments.of(example_input)
    wide = in_precision(module, torch.float64)
    program = program_of(exported(wide, arguments.double()), arguments.double())
    start, end = _input_node(program, input), _output_node(program, output)
    graph = _read(program, name or type(module).__name__, start, end)
    own = module.state_dict()
    weights = {key: own[key] if _same(own.get(key), value) else value for key, value in graph.weights.items()}
    made = graph.weighing({key: value.detach().clone() for key, value in weights.items()})
    both = {torch.float64: wide, torch.float32: in_precision(module, torch.float32)}
    return made.compared(compare_logits(made, both, arguments, program, start, end))


def _same(own: Tensor | None, read: Tensor) -> bool:
    return own is not None and own.shape == read.shape and torch.equal(own.to(read.dtype), read)


@torch.no_grad()
def _read(program: Program, name: str, start: fx.Node, end: fx.Node) -> ImportedGraph:
    """Return the graph of a program, compared with it node by node."""
    values: dict[fx.Node, Any] = {}
    builder = GraphBuilder({id(program.tensors[place]): key for place, key in program.keys.items()})
    missing: list[tuple[fx.Node, str]] = []
    builder.at(start)
    patterns, absorbed = patterns_of(program.graph, start)
    for node in program.graph.nodes:
        if node in absorbed:
            continue
        if node is start:
            values[node] = builder.input(tuple(int(size) for size in node.meta["val"].shape))
        elif node.op == "placeholder":
            values[node] = program.tensors[node.name]
        elif node in patterns:
            builder.at(node)
            source, add = patterns[node]
            values[node] = add(builder, values[source]) if isinstance(values[source], Traced) else _Unread()
        elif node.op == "call_function":
            builder.at(node)
            values[node] = _value(builder, node, values, missing)
    if missing:
        raise _unsupported(missing, name)
    result = values[end]
    if not isinstance(result, Traced):
        raise SourceError(f"{name}: the output does not depend on the input {start.name}")
    return _finished(builder, result, name, program, start)


class _Unread:
    """Stands for the value of an operation that could not be read; what depends on it is not reported again."""


def _value(builder: GraphBuilder, node: fx.Node, values: Mapping[fx.Node, Any], missing: list[Any]) -> Any:
    args, kwargs = resolved(node, values)
    if tree_any(lambda leaf: isinstance(leaf, _Unread), (args, kwargs)):
        return _Unread()
    if not any(isinstance(leaf, Traced) for leaf in tree_leaves((args, kwargs))):
        return call(node, args, kwargs)
    if node.target is operator.getitem:
        return args[0][args[1]] if args[1] < len(args[0]) else _Unread()
    reader = reader_of(node.target)
    try:
        if reader is None:
            raise UnsupportedError("no layer for this operation")
        return reader(builder, arguments_of(node.target, args, kwargs))  # type: ignore[arg-type]
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


def _input_node(program: Program, given: str | None) -> fx.Node:
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


def _embeddings(placeholder: fx.Node) -> list[fx.Node]:
    return [user for user in placeholder.users if user.target is aten.embedding.default]


def _output_node(program: Program, given: str | None) -> fx.Node:
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


def _finished(builder: GraphBuilder, result: Traced, name: str, program: Program, start: fx.Node) -> ImportedGraph:
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
    compare_nodes(made, program, start, origins)
    return made
