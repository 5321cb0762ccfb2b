"""Blocks of an imported graph from the hierarchy of its modules, so that lemmas read "layer1.0"."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile

from fimtheory.graph import LayerGraph
from fimtheory.regions import elementary
from fimtheory.sources.builder import Origin

__all__ = ["blocks_of"]


def blocks_of(graph: LayerGraph, origins: Mapping[str, Origin], weights: Mapping[str, object]) -> dict[str, str]:
    """Return the block of each node.

    A region with several paths (a residual block, an attention) is named after the module that holds all of its
    weights, and takes its neighbours from that module along.  Other nodes stay without a name: a new block starts at
    each layer with weights.
    """
    owners = {key.rpartition(".")[0] for key in weights}
    named: dict[str, str] = {}
    for _, members in elementary(graph):
        if len(members) == 1:
            continue
        paths = [member for member in members if member in owners] or [origins[member].path for member in members]
        module = _common(paths)
        if module:
            named |= dict.fromkeys(members, module)
    modules = sorted(set(named.values()), key=len, reverse=True)
    for name in graph.order:
        if name not in named and name in origins:
            path = f"{origins[name].path}."
            inside = [module for module in modules if path.startswith(f"{module}.")]
            if inside:
                named[name] = inside[0]
    return named


def _common(paths: list[str]) -> str:
    """Longest module path that all paths lie in; one path lies in the module above it."""
    parts = [path.split(".") for path in paths]
    shared = [level[0] for level in takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))]
    return ".".join(shared[:-1] if len(set(paths)) == 1 else shared)
