"""Closed forms as data: the sympy heads fimtheory uses, to and from JSON, without ever evaluating a string.

``sympy.sympify`` on a string runs ``eval``; files from outside go through ``from_json`` instead, which builds an
expression from a fixed list of heads and refuses everything else.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sympy
from sympy.core.function import UndefinedFunction

from fimtheory.errors import FormatError

__all__ = ["MAX_DEPTH", "from_json", "index_symbol", "nonnegative", "positive", "size_symbol", "to_json"]

MAX_DEPTH = 64
"""Deepest nesting accepted from a file."""

_HEADS: dict[str, Any] = {
    "Add": sympy.Add,
    "Mul": sympy.Mul,
    "Pow": sympy.Pow,
    "Max": sympy.Max,
    "Min": sympy.Min,
    "exp": sympy.exp,
    "erf": sympy.erf,
    "sin": sympy.sin,
    "cos": sympy.cos,
    "ceiling": sympy.ceiling,
    "floor": sympy.floor,
    "Tuple": sympy.Tuple,
}
_NAMES: dict[Any, str] = {head: name for name, head in _HEADS.items()}
_CONSTANTS: dict[str, sympy.Expr] = {"pi": sympy.pi, "E": sympy.E}


def nonnegative(name: str, index: sympy.Expr | None = None) -> sympy.Expr:
    """Return the symbol of a nonnegative number, or its ``index``-th member.

    >>> nonnegative("a").is_nonnegative
    True
    >>> nonnegative("a", index_symbol("i"))
    a[i]
    """
    return _member(sympy.Symbol(name, nonnegative=True), index)


def positive(name: str, index: sympy.Expr | None = None) -> sympy.Expr:
    """Return the symbol of a positive number, or its ``index``-th member."""
    return _member(sympy.Symbol(name, positive=True), index)


@lru_cache(maxsize=65536)
def _member(symbol: sympy.Symbol, index: sympy.Expr | None) -> sympy.Expr:
    return symbol if index is None else sympy.IndexedBase(symbol)[index]


def size_symbol(name: str) -> sympy.Symbol:
    """Return the symbol of a size: a positive integer."""
    return sympy.Symbol(name, integer=True, positive=True)


def index_symbol(name: str) -> sympy.Symbol:
    """Return the symbol of an index that counts from 1."""
    return sympy.Symbol(name, integer=True, positive=True)


def to_json(expression: sympy.Basic) -> Any:
    """Return ``expression`` as JSON: integers, and lists that start with a head's name.

    >>> to_json(sympy.Rational(1, 4) * nonnegative("D") ** 2)
    ['Mul', ['Rational', '1', '4'], ['Pow', ['Symbol', 'D', 'nonnegative'], 2]]

    Raises
    ------
    TypeError
        The expression has a head that closed forms do not use.
    """
    if isinstance(expression, sympy.Integer):
        value = int(expression)
        return value if abs(value) < 2**53 else ["Integer", str(value)]
    if isinstance(expression, sympy.Rational):
        return ["Rational", str(expression.p), str(expression.q)]
    if isinstance(expression, sympy.Symbol):
        return ["Symbol", expression.name, _kind(expression)]
    if isinstance(expression, sympy.Indexed):
        label = expression.base.label
        return ["Indexed", label.name, _kind(label), *(to_json(i) for i in expression.indices)]
    if isinstance(expression, sympy.Product):
        index, lower, upper = expression.limits[0]
        return ["Product", to_json(expression.function), to_json(index), to_json(lower), to_json(upper)]
    for name, constant in _CONSTANTS.items():
        if expression == constant:
            return ["Constant", name]
    head = _NAMES.get(expression.func)
    if head is None or isinstance(expression.func, UndefinedFunction):
        raise TypeError(f"closed forms do not use {expression.func.__name__}: {expression}")
    return [head, *(to_json(argument) for argument in expression.args)]


def from_json(value: Any, *, where: str = "expression") -> Any:
    """Return the sympy expression that ``to_json`` wrote as ``value``.

    >>> from_json(["Pow", ["Symbol", "D", "nonnegative"], 2])
    D**2

    Raises
    ------
    FormatError
        ``value`` is not such an expression; the message names ``where``.
    """
    return _read(value, where, 0)


def _read(value: Any, where: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise FormatError(f"{where}: nested deeper than {MAX_DEPTH}; this is not an expression fimtheory wrote")
    if isinstance(value, int) and not isinstance(value, bool):
        return sympy.Integer(value)
    if not isinstance(value, list) or not value or not isinstance(value[0], str):
        raise FormatError(f"{where}: expected an integer or a list that starts with a head's name, got {_short(value)}")
    head, *arguments = value
    if head in ("Integer", "Rational"):
        numbers = [_integer(text, where) for text in arguments]
        if len(numbers) != (1 if head == "Integer" else 2) or numbers[-1] == 0 and head == "Rational":
            raise FormatError(f"{where}: malformed {head} {_short(value)}")
        return sympy.Rational(*numbers)
    if head == "Symbol" and len(arguments) == 2:
        return _symbol(arguments[0], arguments[1], where)
    if head == "Constant" and len(arguments) == 1 and arguments[0] in _CONSTANTS:
        return _CONSTANTS[arguments[0]]
    if head == "Indexed" and len(arguments) == 3:
        return sympy.IndexedBase(_symbol(arguments[0], arguments[1], where))[_read(arguments[2], where, depth + 1)]
    if head == "Product" and len(arguments) == 4:
        body, index, lower, upper = (_read(argument, where, depth + 1) for argument in arguments)
        if not isinstance(index, sympy.Symbol):
            raise FormatError(f"{where}: a Product runs over a symbol, got {_short(arguments[1])}")
        return sympy.Product(body, (index, lower, upper))
    if head in _HEADS and arguments:
        parts = [_read(argument, where, depth + 1) for argument in arguments]
        try:
            return _HEADS[head](*parts)
        except (TypeError, ValueError) as error:
            raise FormatError(f"{where}: {head} does not take {_short(arguments)}: {error}") from None
    raise FormatError(f"{where}: {_short(value)} is not an expression fimtheory writes")


def _kind(symbol: sympy.Symbol) -> str:
    if symbol.is_integer:
        return "positive integer" if symbol.is_positive else "integer"
    if symbol.is_positive:
        return "positive"
    if symbol.is_nonnegative:
        return "nonnegative"
    raise TypeError(f"closed forms use sizes, indices and nonnegative symbols, not {symbol!r}")


def _symbol(name: Any, kind: Any, where: str) -> sympy.Symbol:
    if not isinstance(name, str) or not 0 < len(name) <= 200:
        raise FormatError(f"{where}: a symbol's name is a string of 1 to 200 characters, got {_short(name)}")
    if kind == "nonnegative":
        return sympy.Symbol(name, nonnegative=True)
    if kind == "positive":
        return sympy.Symbol(name, positive=True)
    if kind == "positive integer":
        return sympy.Symbol(name, integer=True, positive=True)
    if kind == "integer":
        return sympy.Symbol(name, integer=True)
    raise FormatError(f"{where}: unknown kind of symbol {_short(kind)} for {name}")


def _integer(text: Any, where: str) -> int:
    if not isinstance(text, str) or len(text) > 1000 or not text.lstrip("-").isdecimal():
        raise FormatError(f"{where}: expected a whole number in a string, got {_short(text)}")
    return int(text)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
