"""Writing blocks: the same function writes a block into a graph, or as the body of a ``Repeat``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, final

import sympy

from fimtheory.errors import GraphError
from fimtheory.expressions import index_symbol, size_symbol
from fimtheory.graph import Builder, Repeat
from fimtheory.layers import Input, Layer, Shape, Size

__all__ = [
    "INDEX", "BlockWriter", "WriteBlock", "check_count", "check_image", "check_sequence", "repeat", "shape_after",
    "size_at",
]  # fmt: skip

INDEX = index_symbol("l")
"""The index of a repeated block: l = 1, ..., count."""


def size_at(name: str, index: Size) -> sympy.Expr:
    """Return member ``index`` of a family of sizes.

    >>> size_at("n", INDEX - 1)
    n[l - 1]
    """
    base: Any = sympy.IndexedBase(size_symbol(name))
    return base[index]


@final
class BlockWriter:
    """Adds the nodes of one block; their names start with the block's, unless ``block`` is ""."""

    def __init__(self, builder: Builder, block: str) -> None:
        self._builder = builder
        self._block = block

    def add(self, name: str, layer: Layer, *inputs: str) -> str:
        """Append the node ``name`` of the block and return its full name."""
        full = f"{self._block}.{name}" if self._block else name
        return self._builder.add(full, layer, *inputs, block=self._block)


class WriteBlock(Protocol):
    """A function that writes a block that reads the node ``x`` and returns its last node."""

    def __call__(self, block: BlockWriter, x: str, /) -> str:
        """Write into ``block``."""
        ...


def repeat(builder: Builder, name: str, x: str, *, shape: Shape, count: Size, write: WriteBlock) -> str:
    """Append ``count`` copies of a block as one ``Repeat`` node.

    Parameters
    ----------
    builder, name, x
        Where to append, the node's name, and the node it reads.
    shape
        What the block with index ``INDEX`` takes.
    count
        How often it is repeated.
    write
        Writes the block with index ``INDEX``.
    """
    body = Builder(name)
    write(BlockWriter(body, ""), body.add("x", Input(shape)))
    return builder.add(name, Repeat(body.graph(), INDEX, count), x, block=name)


def shape_after(builder: Builder) -> Shape:
    """Return what the last node written returns."""
    written = builder.graph()
    return written.shapes[written.output]


def check_image(shape: Any) -> Shape:
    """Return the shape of an image.

    Raises
    ------
    GraphError
        It is something else.
    """
    if not isinstance(shape, tuple) or len(shape) != 3:
        raise GraphError(f"input_shape is {shape!r}; expected (channels, height, width)")
    return shape


def check_count(what: str, value: Any) -> Size:
    """Return a whole number of at least 1, or a symbol for one.

    Raises
    ------
    GraphError
        It is something else.
    """
    if isinstance(value, sympy.Expr) and value.is_Integer:
        value = int(value)
    symbolic = isinstance(value, sympy.Expr) and value.is_integer and value.is_positive
    if symbolic or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise GraphError(
        f"{what} is {value!r}; expected a whole number of at least 1 or a symbol for one, "
        "such as sympy.Symbol('N', integer=True, positive=True)"
    )


def check_sequence(what: str, values: Any, check: Callable[[str, Any], Size] = check_count) -> Sequence[Size]:
    """Return a tuple of checked entries.

    Raises
    ------
    GraphError
        It is not a sequence, is empty, or an entry fails ``check``.
    """
    if not isinstance(values, tuple | list) or not values:
        raise GraphError(f"{what} is {values!r}; expected a tuple of at least one entry")
    return tuple(check(f"entry {k} of {what}", value) for k, value in enumerate(values))
