"""Which function reads which ATen operation."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

import torch

from fimtheory.sources.builder import GraphBuilder

__all__ = ["Read", "arguments_of", "reader_of", "reads"]

Read = Callable[[GraphBuilder, SimpleNamespace], Any]
"""Adds the nodes of one operation, given its arguments by the names of its ATen schema, and returns its value."""

_READERS: dict[torch._ops.OpOverload, Read] = {}
_F = TypeVar("_F", bound=Read)


def reads(*targets: torch._ops.OpOverload) -> Callable[[_F], _F]:
    """Register a function as the reader of some operations."""

    def register(function: _F) -> _F:
        for target in targets:
            assert target not in _READERS, f"two readers of {target}"
            _READERS[target] = function
        return function

    return register


def reader_of(target: Any) -> Read | None:
    """Return the reader of an operation, or None."""
    return _READERS.get(target)


def arguments_of(target: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> SimpleNamespace:
    """Return all arguments of a call by name, defaults included."""
    found = {}
    for position, argument in enumerate(target._schema.arguments):
        name = "input" if argument.name == "self" else argument.name
        if position < len(args):
            found[name] = args[position]
        elif argument.name in kwargs:
            found[name] = kwargs[argument.name]
        else:
            found[name] = argument.default_value
    return SimpleNamespace(**found)
