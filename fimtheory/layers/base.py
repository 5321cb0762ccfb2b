"""What a layer description is: a frozen, final class with parameters and sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeVar, cast, dataclass_transform

import sympy

from fimtheory.errors import RuleError

__all__ = ["LAYER_TYPES", "Input", "Layer", "Pair", "Shape", "Single", "Size", "Triple", "layer"]

Size = int | sympy.Expr
"""A positive integer, or an expression that stands for one."""
Shape = tuple[Size, ...]
Single = tuple[Size]
Pair = tuple[Size, Size]
Triple = tuple[Size, Size, Size]

LAYER_TYPES: dict[str, type[Layer]] = {}
"""Every layer type by name: what a graph file may contain."""


class Layer:
    """Base of every layer description; ``arity`` is the number of inputs, None for one or more."""

    __slots__ = ()
    arity: ClassVar[int | None] = 1


_L = TypeVar("_L", bound=Layer)


@dataclass_transform(frozen_default=True)
def layer(cls: type[_L]) -> type[_L]:
    """Make ``cls`` a layer type: a frozen dataclass that graph files can name and nothing can inherit from.

    Raises
    ------
    RuleError
        ``cls`` does not derive from ``Layer`` directly, or its name is taken.
    """
    if cls.__bases__ != (Layer,):
        raise RuleError(
            f"layer type {cls.__name__} must derive from fimtheory.layers.Layer and nothing else: "
            "a layer derived from another would inherit bounds that need not hold for it"
        )
    if cls.__name__ in LAYER_TYPES:
        raise RuleError(f"a layer type named {cls.__name__} exists already; give yours another name")

    def refuse(subclass: type, /, **_: object) -> None:
        raise RuleError(f"layer type {cls.__name__} is final; derive {subclass.__name__} from Layer instead")

    made = dataclass(frozen=True)(cls)
    made.__init_subclass__ = classmethod(refuse)  # type: ignore[assignment]
    LAYER_TYPES[cls.__name__] = made
    return cast("type[_L]", made)


@layer
class Input(Layer):
    """The input of a graph, of the given shape."""

    arity: ClassVar[int | None] = 0
    shape: Shape
