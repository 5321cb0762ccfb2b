"""Closed forms as data: the sympy heads fimtheory uses, to and from JSON, without ever evaluating a string.

``sympy.sympify`` on a string runs ``eval``; files from outside go through ``from_json`` instead, which builds an
expression from a fixed list of heads and refuses everything else.
"""

from __future__ import annotations

import re
import reprlib
from functools import lru_cache
from typing import Any

import sympy
from sympy.core.function import UndefinedFunction

from fimtheory.errors import FormatError

__all__ = ["MAX_DEPTH", "from_json", "index_symbol", "nonnegative", "positive", "size_symbol", "to_json"]

MAX_DEPTH = 64
"""Deepest nesting accepted from a file."""
_MAX_DIGITS = 50_000
_MAX_BITS = 200_000
_MAX_NUMBER = 2**20
_MAX_NAME = 1000
_WHOLE = re.compile("-?([0-9]{1,1000}|0x[0-9a-f]+)")

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
_UNARY = (sympy.exp, sympy.erf, sympy.sin, sympy.cos, sympy.ceiling, sympy.floor)
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
def _member(symbol: sympy.Symbol, index: sympy.Expr | None) -> Any:
    base: Any = sympy.IndexedBase(symbol)
    return symbol if index is None else base[index]


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
        return value if abs(value) < 2**53 else ["Integer", _digits(value)]
    if isinstance(expression, sympy.Rational):
        return ["Rational", _digits(int(expression.p)), _digits(int(expression.q))]
    if isinstance(expression, sympy.Symbol):
        return ["Symbol", expression.name, _kind(expression)]
    if isinstance(expression, sympy.Indexed):
        label: Any = expression.base.label  # type: ignore[attr-defined]
        return ["Indexed", label.name, _kind(label), *(to_json(i) for i in expression.indices)]
    if isinstance(expression, sympy.Product):
        made = to_json(expression.function)
        for limits in expression.limits:
            made = ["Product", made, *(to_json(part) for part in limits)]
        return made
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
        if len(numbers) != (1 if head == "Integer" else 2) or (numbers[-1] == 0 and head == "Rational"):
            raise FormatError(f"{where}: malformed {head} {_short(value)}")
        return sympy.Rational(*numbers)
    if head == "Symbol" and len(arguments) == 2:
        return _symbol(arguments[0], arguments[1], where)
    if head == "Constant" and len(arguments) == 1 and isinstance(arguments[0], str) and arguments[0] in _CONSTANTS:
        return _CONSTANTS[arguments[0]]
    if head == "Indexed" and len(arguments) == 3:
        base, index = _symbol(arguments[0], arguments[1], where), _read(arguments[2], where, depth + 1)
        if not isinstance(index, sympy.Expr) or not index.is_integer:
            raise FormatError(f"{where}: {_short(arguments[2])} is not an index")
        family: Any = sympy.IndexedBase(base)
        return family[index]
    if head == "Product" and len(arguments) == 4:
        body, index, lower, upper = (_read(argument, where, depth + 1) for argument in arguments)
        if not isinstance(index, sympy.Symbol) or not all(isinstance(e, sympy.Expr) for e in (body, lower, upper)):
            raise FormatError(f"{where}: a Product runs over a symbol, got {_short(arguments[1])}")
        return sympy.Product(body, (index, lower, upper))
    if head in _HEADS and arguments:
        made = _apply(head, [_read(argument, where, depth + 1) for argument in arguments])
        if made is not None:
            return made
    raise FormatError(f"{where}: {_short(value)} is not an expression fimtheory writes")


def _apply(head: str, parts: list[Any]) -> Any:
    """Apply a head; None where closed forms do not, or where the number that comes out would be huge or not real."""
    function = _HEADS[head]
    if function is sympy.Tuple:
        return function(*parts)
    if not all(isinstance(part, sympy.Expr) for part in parts):
        return None
    if function is sympy.Pow:
        if len(parts) != 2 or not _power_is_small(*parts):
            return None
    elif function in _UNARY:
        (inner, *more) = parts
        if more or not _argument_is_small(function, inner):
            return None
    try:
        made = function(*parts)
    except (TypeError, ValueError):  # complex arguments of Max and Min
        return None
    return None if made.is_finite is False or made.is_extended_real is False or made is sympy.nan else made


def _power_is_small(base: Any, exponent: Any) -> bool:
    """Whether computing a power is cheap; sympy multiplies out powers of numbers, however long the result."""
    if not exponent.is_number:
        return True
    if not exponent.is_Rational or abs(exponent) > _MAX_NUMBER:
        return False
    length = int(base.p).bit_length() + int(base.q).bit_length() if base.is_Rational else 1
    return length * abs(exponent) <= _MAX_BITS


def _argument_is_small(function: Any, inner: sympy.Expr) -> bool:
    """Whether a function of one argument is cheap; to round a number, sympy computes it to all its digits."""
    if function in (sympy.floor, sympy.ceiling):
        return all(part.is_Rational for part in sympy.preorder_traversal(inner) if part.is_number)
    return not inner.is_number or bool(not inner.has(*_UNARY) and abs(inner) <= _MAX_NUMBER)


_KINDS: dict[str, dict[str, bool]] = {
    "nonnegative": {"nonnegative": True},
    "positive": {"positive": True},
    "positive integer": {"integer": True, "positive": True},
    "integer": {"integer": True},
}


def _kind(symbol: sympy.Symbol) -> str:
    for kind, assumptions in _KINDS.items():
        if symbol == sympy.Symbol(symbol.name, **assumptions):
            return kind
    raise TypeError(f"closed forms use sizes, indices, positive and nonnegative symbols, not {sympy.srepr(symbol)}")


def _symbol(name: Any, kind: Any, where: str) -> sympy.Symbol:
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME:
        raise FormatError(f"{where}: a symbol's name is a string of 1 to {_MAX_NAME} characters, got {_short(name)}")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise FormatError(f"{where}: unknown kind of symbol {_short(kind)} for {name}")
    return sympy.Symbol(name, **_KINDS[kind])


def _digits(value: int) -> str:
    """Write a whole number in decimal, or in hexadecimal where it is long: Python reads no more than 4300 digits."""
    return str(value) if value.bit_length() <= 1024 else hex(value)


def _integer(text: Any, where: str) -> int:
    if not isinstance(text, str) or len(text) > _MAX_DIGITS or not _WHOLE.fullmatch(text):
        raise FormatError(f"{where}: expected a whole number in a string, got {_short(text)}")
    return int(text, 16 if "x" in text else 10)


def _short(value: Any) -> str:
    text = reprlib.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
