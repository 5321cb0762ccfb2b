r"""Estimated width of a formula, in em: enough to decide where to break it, never less than by a few per cent."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["width"]

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)
_SPACES = {r"\,": 0.17, r"\;": 0.28, r"\ ": 0.33, r"\quad": 1.0, r"\qquad": 2.0, r"\bigl": 0.0, r"\bigr": 0.0}
_SILENT = frozenset([r"\allowbreak", r"\displaystyle", r"\limits"])
_RELATIONS = frozenset(["=", "<", ">", r"\le", r"\ge", r"\to", r"\sim", ":"])
_OPERATORS = frozenset(["+", "-", r"\cdot", r"\times", r"\circ"])
_WIDE = {r"\prod": 1.0, r"\sum": 1.1, r"\max": 1.9, r"\min": 1.8, r"\exp": 1.6, r"\ldots": 1.2, r"\lambda": 0.6}
_WORDS = frozenset([r"\mathrm", r"\textnormal", r"\operatorname", r"\mathsf", r"\texttt", r"\text", r"\mathbf"])
_SCRIPT = 0.72


def width(latex: str) -> float:
    r"""Return the width of a formula in display style, in em.

    >>> 1.5 < width(r"a + b") < 3
    True
    >>> width(r"\frac{a}{b b b}") < width("b b b b")
    True
    """
    return _row(iter(_TOKEN.findall(latex)), None)


def _row(tokens: Iterator[str], end: str | None) -> float:
    """Width of everything up to ``end``."""
    total = above = below = 0.0
    limits = 0.0
    for token in tokens:
        if token == end:
            break
        if token in "^_":
            script = _SCRIPT * _argument(tokens)
            above, below = (script, below) if token == "^" else (above, script)
            continue
        total += max(above, below, limits) if limits else max(above, below)
        above = below = limits = 0.0
        if token in (r"\prod", r"\sum"):
            limits = _WIDE[token] + 0.2
        else:
            total += _single(token, tokens)
    return total + max(above, below, limits)


def _argument(tokens: Iterator[str]) -> float:
    for token in tokens:
        if token != " ":
            return _single(token, tokens)
    return 0.0


def _single(token: str, tokens: Iterator[str]) -> float:
    if token == "{":
        return _row(tokens, "}")
    if token in (r"\frac", r"\tfrac", r"\dfrac"):
        scale = _SCRIPT if token == r"\tfrac" else 1.0
        return scale * max(_argument(tokens), _argument(tokens)) + 0.3
    if token == r"\sqrt":
        return _argument(tokens) + 1.0
    if token in (r"\left", r"\right"):
        next(tokens, None)
        return 0.65
    if token in _WORDS:
        return _word(tokens)
    return _glyph(token)


def _word(tokens: Iterator[str]) -> float:
    """Width of an upright word: its characters, whatever their commands are called."""
    depth, characters = 0, 0.0
    for token in tokens:
        depth += (token == "{") - (token == "}")
        if depth == 0:
            break
        characters += 0.0 if token in "{}" else 0.53
    return characters


def _glyph(token: str) -> float:
    if token in _SPACES:
        return _SPACES[token]
    if token == " " or token in _SILENT:
        return 0.0
    if token in _RELATIONS:
        return 1.35
    if token in _OPERATORS:
        return 1.25
    if token in _WIDE:
        return _WIDE[token]
    if token in ",.":
        return 0.45
    if token in "()[]|":
        return 0.4
    return 0.6 if token.isalpha() or token.startswith("\\") else 0.5
