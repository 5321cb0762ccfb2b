"""Matching of a group of operations with a pattern, in which names stand for what may be anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from torch import fx

__all__ = ["Hole", "Rest", "match"]


@final
@dataclass(frozen=True, slots=True)
class Hole:
    """Stands for one argument; where a name comes twice, for the same argument both times."""

    name: str


@final
@dataclass(frozen=True, slots=True)
class Rest:
    """Stands for all arguments that follow."""

    name: str


def match(given: Any, pattern: Any) -> dict[str, Any] | None:
    """Return what the names in a pattern stand for, None where an operation is not of that form.

    A pattern is a ``Hole``, a number, or ``(target, *patterns of the arguments)``; with a set of targets in place of
    one, any of them.  Operations with keyword arguments are of no such form.
    """
    found: dict[str, Any] = {}
    return found if _matches(given, pattern, found) else None


def _matches(given: Any, pattern: Any, found: dict[str, Any]) -> bool:
    if isinstance(pattern, Hole):
        known = found.setdefault(pattern.name, given)
        return known is given or (not isinstance(given, fx.Node) and known == given)
    if not isinstance(pattern, tuple):
        return not isinstance(given, fx.Node) and given == pattern
    target, *patterns = pattern
    if not isinstance(given, fx.Node) or given.kwargs:
        return False
    if given.target not in target if isinstance(target, frozenset) else given.target is not target:
        return False
    arguments = list(given.args)
    if patterns and isinstance(patterns[-1], Rest):
        *patterns, rest = patterns
        found[rest.name] = tuple(arguments[len(patterns) :])
        arguments = arguments[: len(patterns)]
    return len(arguments) == len(patterns) and all(map(lambda a, p: _matches(a, p, found), arguments, patterns))
