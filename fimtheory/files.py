"""LayerGraph to and from JSON.  Reading validates everything and executes nothing."""

from __future__ import annotations

import json
import math
import types
import typing
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import sympy

from fimtheory.errors import FormatError
from fimtheory.expressions import from_json, to_json
from fimtheory.graph import MAX_NAME, MAX_NODES, LayerGraph, Node, Repeat
from fimtheory.layers import LAYER_TYPES, Layer

__all__ = [
    "graph_from_json", "graph_to_json", "load_graph", "read_json", "require_json_path", "save_graph", "write_json",
]  # fmt: skip

MAX_BYTES = 256 * 2**20
_MOST_SIZES = 64
_MOST_INDICES = 2**20
_FORMAT = "fimtheory-graph"


def save_graph(graph: LayerGraph, path: str | Path) -> None:
    """Write a graph as JSON; the file appears whole or not at all."""
    write_json(graph_to_json(graph), path)


def load_graph(path: str | Path) -> LayerGraph:
    """Read a graph that ``save_graph`` wrote.

    Raises
    ------
    FormatError, GraphError, ShapeError
        The file is missing, truncated, too large, or does not describe a valid graph.
    """
    return graph_from_json(read_json(path), where=str(path))


def read_json(path: str | Path) -> Any:
    """Return the JSON value of a file of at most ``MAX_BYTES`` bytes.

    Raises
    ------
    FormatError
        The file cannot be read or is not JSON.
    """
    try:
        size = Path(path).stat().st_size
        if size > MAX_BYTES:
            raise FormatError(f"{path}: {size} bytes; at most {MAX_BYTES} are read")
        return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_no_constant)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not a JSON file, or truncated: {error}") from None


def require_json_path(path: str | Path) -> Path:
    """Return ``path`` if a JSON file may be written there; asked before the work whose result it is to hold.

    Raises
    ------
    FormatError
        It does not end in .json, by which targets and proofs are known, is a directory, or lies in none.
    """
    target = Path(path)
    if target.suffix != ".json":
        raise FormatError(f"{str(path)!r}: expected the path of a file that ends in .json, such as proof.json")
    if target.is_dir() or not target.parent.is_dir():
        raise FormatError(f"{path}: cannot be written: it is a directory, or {target.parent} is none")
    return target


def write_json(value: Any, path: str | Path) -> None:
    """Write a JSON value through a temporary file beside ``path``, so that nothing half-written is left.

    Raises
    ------
    FormatError
        The file cannot be written, or is not called .json.
    """
    target = require_json_path(path)
    partial = target.with_name(target.name + ".partial")
    try:
        partial.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise FormatError(f"{path}: cannot be written: {error.strerror}") from None


def graph_to_json(graph: LayerGraph) -> dict[str, Any]:
    """Return a graph as a JSON value."""
    return {
        "format": _FORMAT,
        "version": 1,
        "name": graph.name,
        "nodes": [
            {"name": n.name, "layer": _layer_to_json(n.layer), "inputs": list(n.inputs), "block": n.block}
            for n in graph.nodes
        ],
    }


def graph_from_json(value: Any, *, where: str = "graph") -> LayerGraph:
    """Return the graph that ``graph_to_json`` wrote.

    Raises
    ------
    FormatError, GraphError, ShapeError
        See ``load_graph``.
    """
    if not isinstance(value, dict) or value.get("format") != _FORMAT or value.get("version") != 1:
        raise FormatError(f'{where}: not a layer graph; expected {{"format": "{_FORMAT}", "version": 1, ...}}')
    name, nodes = value.get("name"), value.get("nodes")
    if not isinstance(name, str) or len(name) > MAX_NAME or not isinstance(nodes, list):
        raise FormatError(f'{where}: a graph has a "name" (a string) and "nodes" (a list)')
    if len(nodes) > MAX_NODES:
        raise FormatError(f"{where}: {len(nodes)} nodes; at most {MAX_NODES} are read")
    return LayerGraph([_node_from_json(node, f"{where}: node {k}") for k, node in enumerate(nodes)], name)


def _node_from_json(value: Any, where: str) -> Node:
    if not isinstance(value, dict) or set(value) != {"name", "layer", "inputs", "block"}:
        raise FormatError(f'{where}: a node has exactly "name", "layer", "inputs" and "block"')
    name, inputs, block = value["name"], value["inputs"], value["block"]
    if not isinstance(name, str) or not isinstance(block, str) or len(block) > MAX_NAME:
        raise FormatError(f'{where}: "name" and "block" are strings of at most {MAX_NAME} characters')
    if not isinstance(inputs, list) or not all(isinstance(i, str) for i in inputs):
        raise FormatError(f'{where}: "inputs" is a list of node names')
    return Node(name, _layer_from_json(value["layer"], f"{where} ({name})"), tuple(inputs), block)


def _layer_to_json(layer: Layer) -> dict[str, Any]:
    made: dict[str, Any] = {"type": type(layer).__name__}
    for field in fields(layer):  # type: ignore[arg-type]
        made[field.name] = _field_to_json(getattr(layer, field.name))
    return made


def _field_to_json(value: Any) -> Any:
    if isinstance(value, LayerGraph):
        return graph_to_json(value)
    if isinstance(value, sympy.Expr):
        return {"size": to_json(value)}
    if isinstance(value, tuple):
        return [_field_to_json(part) for part in value]
    return value


def _layer_from_json(value: Any, where: str) -> Layer:
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise FormatError(f'{where}: a layer is an object with a "type"')
    kind = LAYER_TYPES.get(value["type"])
    if kind is None:
        raise FormatError(
            f"{where}: unknown layer type {value['type'][:60]!r}; `fimtheory rules` lists the known ones, and a type "
            "of your own must be declared (@ft.layer) before the file is read, which only a Python program can do"
        )
    hints = get_type_hints(kind)
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    given = set(value) - {"type"}
    required = {f.name for f in fields(kind) if f.default is MISSING}  # type: ignore[arg-type]
    if not required <= given <= set(names):
        missing, extra = sorted(required - given), sorted(given - set(names))
        raise FormatError(f"{where}: {value['type']} has fields {names}; missing {missing}, unknown {extra}")
    return kind(**{n: _field_from_json(value[n], hints[n], f"{where}.{n}") for n in names if n in given})


def _field_from_json(value: Any, hint: Any, where: str) -> Any:
    if hint is LayerGraph:
        if _holds_repeat(value):  # before reading it, which would recurse
            raise FormatError(f"{where}: a repeated block cannot hold another Repeat")
        return graph_from_json(value, where=where)
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        most = _MOST_INDICES if parts[0] is int else _MOST_SIZES
        if not isinstance(value, list) or len(value) > most or (Ellipsis not in parts and len(value) != len(parts)):
            raise FormatError(f"{where}: expected a list of {len(parts) if Ellipsis not in parts else f'up to {most}'}")
        each = [parts[0]] * len(value) if Ellipsis in parts else list(parts)
        return tuple(_field_from_json(v, h, f"{where}[{k}]") for k, (v, h) in enumerate(zip(value, each, strict=True)))
    if get_origin(hint) is Literal and value in get_args(hint):
        return value
    if isinstance(hint, types.UnionType) or get_origin(hint) is typing.Union or hint is sympy.Symbol:
        options = get_args(hint)
        if value is None and type(None) in options:
            return None
        if isinstance(value, dict) and set(value) == {"size"} and (sympy.Expr in options or hint is sympy.Symbol):
            size = from_json(value["size"], where=where)
            if hint is not sympy.Symbol or isinstance(size, sympy.Symbol):
                return size
        hint = float if float in options else int
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if hint in (int, bool) and type(value) is hint:
        return value
    raise FormatError(f"{where}: {str(value)[:60]!r} is not a {getattr(hint, '__name__', hint)}")


def _holds_repeat(value: Any) -> bool:
    nodes = value.get("nodes") if isinstance(value, dict) else None
    layers = [node.get("layer") for node in nodes if isinstance(node, dict)] if isinstance(nodes, list) else []
    return any(isinstance(layer, dict) and layer.get("type") == Repeat.__name__ for layer in layers)


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")
