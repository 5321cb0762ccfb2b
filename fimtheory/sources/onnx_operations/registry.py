"""Which torch computation evaluates which ONNX operator, and what the function of an operator is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, final

import numpy as np
from torch import Tensor

from fimtheory.errors import SourceError

__all__ = ["MANY", "Call", "Operation", "operation", "operation_of", "operators", "unrounded"]

MANY = object()
"""Stands for the entries of a constant that are too many to be listed."""
_NO = object()


@final
@dataclass(frozen=True, eq=False)
class Call:
    """One evaluation of an operator; what it does not read of its attributes and inputs is in ``unread``.

    ``numbers`` holds the entries of the inputs that are constants, None for those that depend on the data.
    """

    opset: int
    attributes: Mapping[str, Any]
    inputs: tuple[Tensor | None, ...]
    numbers: tuple[Any, ...]
    outputs: int = 1
    _read: set[str | int] = field(default_factory=set)

    def __getitem__(self, place: int) -> Tensor:
        value = self.get(place)
        if value is None:
            raise SourceError(f"input {place} is missing")
        return value

    def get(self, place: int) -> Tensor | None:
        """Return an input that may be left out."""
        self._read.add(place)
        return self.inputs[place] if place < len(self.inputs) else None

    def constant(self, place: int) -> bool:
        """Whether an input is a constant."""
        return place < len(self.inputs) and self.numbers[place] is not None

    def listed(self, place: int) -> bool:
        """Whether an input is a constant that has few enough entries to be listed."""
        return self.constant(place) and self.numbers[place] is not MANY

    def entries(self, place: int, otherwise: Any = _NO) -> Any:
        """Return the entries of a constant input, as nested lists, or of one number.

        Raises
        ------
        SourceError
            The input depends on the data.
        """
        if self.get(place) is None:
            if otherwise is _NO:
                raise SourceError(f"input {place} is missing")
            return otherwise
        if self.numbers[place] is None:
            raise SourceError(f"input {place} depends on the data; only a constant can be imported there")
        if self.numbers[place] is MANY:
            raise SourceError(f"input {place} is a constant with too many entries")
        return self.numbers[place]

    def number(self, place: int, otherwise: Any = _NO) -> Any:
        """Return the entry of a constant input that has just one."""
        found = self.entries(place, otherwise)
        while isinstance(found, list):
            if len(found) != 1:
                raise SourceError(f"input {place} has several entries; expected one number")
            found = found[0]
        return unrounded(found) if isinstance(found, float) else found

    def scalar(self, place: int) -> Any:
        """Return the entry of an input that is a constant of one entry and does not raise the rank, else the input."""
        value = self[place]
        rank = max(each.dim() for k, each in enumerate(self.inputs) if each is not None and k != place)
        return self.number(place) if self.constant(place) and value.numel() == 1 and value.dim() <= rank else value

    def attribute(self, name: str, otherwise: Any = _NO) -> Any:
        """Return an attribute; numbers as they were before they were rounded to 32 bits."""
        self._read.add(name)
        if name not in self.attributes and otherwise is _NO:
            raise SourceError(f"attribute {name} is missing")
        value = self.attributes.get(name, otherwise)
        return unrounded(value, decimal=True) if isinstance(value, float) else value

    def axes(self, place: int = 1) -> list[int] | None:
        """Return axes, which are an attribute in older versions and an input in newer ones."""
        given = self.entries(place, None)
        return self.attribute("axes", None) if given is None else list(given) if isinstance(given, list) else [given]

    def ignore(self, *names: str) -> None:
        """Leave out attributes that do not change the result."""
        self._read.update(names)

    @property
    def unread(self) -> list[str]:
        """Attributes and inputs that were given and not read."""
        places = [f"input {k}" for k, value in enumerate(self.inputs) if value is not None and k not in self._read]
        return [*(name for name in self.attributes if name not in self._read), *places]


Operation = Callable[[Call], Any]
"""Returns the result of an operator, or the tuple of its results."""

_OPERATIONS: dict[str, Operation] = {}
_F = TypeVar("_F", bound=Operation)


def operation(*names: str) -> Callable[[_F], _F]:
    """Register a function as the evaluation of some operators."""

    def register(function: _F) -> _F:
        for name in names:
            assert name not in _OPERATIONS, f"two functions for {name}"
            _OPERATIONS[name] = function
        return function

    return register


def operation_of(name: str) -> Operation:
    """Return the function of an operator."""
    return _OPERATIONS[name]


def operators() -> frozenset[str]:
    """Names of the operators that have a function."""
    return frozenset(_OPERATIONS)


_CONSTANTS = (0.044715, 1.702, math.sqrt(2 / math.pi))


def unrounded(number: float, decimal: bool = False) -> float:
    """Return the number whose rounding to 32 bits a file holds.

    Files in 32 bits hold formulas such as that of GELU with 1.4142135 for the root of 2.  A number whose 32 bits are
    those of a constant of GELU, or of a whole number to the power 1/2, 1/4 or their opposites, is read as that; any
    other one as it is.  ``decimal``: the numbers of an attribute are also read as decimals of at most six digits, and
    as one over a whole number.

    >>> unrounded(float(np.float32(2**0.5))) == 2**0.5, unrounded(float(np.float32(1e-5)), decimal=True)
    (True, 1e-05)
    """
    if number == 0 or not math.isfinite(number) or float(np.float32(number)) != number:
        return number
    size = abs(number)
    candidates = [*_CONSTANTS, *(_root(size, exponent) for exponent in (2, -2, 4, -4))]
    if decimal:
        candidates = [float(f"{size:.6g}"), _root(size, -1), *candidates]
    found = next((each for each in candidates if float(np.float32(each)) == size), size)
    return math.copysign(found, number)


def _root(size: float, exponent: int) -> float:
    """Return the whole number to the power ``1 / exponent`` that is next to ``size``, or 0."""
    power = size**exponent if 2.0**-10 < size < 2.0**10 else 0.0
    return round(power) ** (1 / exponent) if 1.5 <= power < 2**20 else 0.0
