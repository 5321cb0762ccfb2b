"""Checks of sizes and shapes, which are numbers or sympy expressions: what shape rules are made of.

Two sizes are equal when their difference expands to zero; a size about which nothing is known passes.  What does not
pass raises ``ShapeError`` with what was given and what was expected; the graph adds the node's name and the layer type.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import sympy

from fimtheory.errors import ShapeError, SymbolicSizeError
from fimtheory.graph import MAX_SIZE
from fimtheory.layers import Layer, Shape, Size
from fimtheory.registry import Site

__all__ = [
    "adds_windows",
    "checked_dim",
    "checked_dims",
    "checked_number",
    "checked_size",
    "checked_sizes",
    "concrete",
    "covering",
    "equal",
    "expect",
    "input_shape",
    "quotient",
    "repeats_to",
    "same_shape",
    "windows",
]


def checked_size(what: str, value: Any, least: int = 1) -> Size:
    """Return a size of at least ``least``, as an int where it is a number.

    >>> checked_size("stride", sympy.Integer(2))
    2
    """
    if isinstance(value, sympy.Expr):
        if value.is_Integer:
            value = int(value)
        elif value.is_number or value.is_integer is False or (value - least).is_negative:
            raise ShapeError(f"{what} is {value}; expected a whole number of at least {least}")
        elif not all(symbol.is_integer and symbol.is_positive for symbol in value.atoms(sympy.Symbol)):
            raise ShapeError(f"{what} is {value}; expected symbols for positive integers, see expressions.size_symbol")
        elif value.has(sympy.Product, sympy.Sum):
            raise ShapeError(f"{what} is {value}; expected a size without a product or a sum over an index")
        else:
            return value
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MAX_SIZE:
        raise ShapeError(f"{what} is {value!r}; expected a whole number of at least {least} and at most 2^48")
    return value


def checked_sizes(what: str, value: Any, count: int, least: int = 1) -> Shape:
    """Return one size for each of ``count`` dimensions.

    >>> checked_sizes("kernel", (3, 5), 2)
    (3, 5)
    """
    if not isinstance(value, tuple) or len(value) != count:
        form = {1: "a tuple of one size", 2: "a pair (height, width)", 3: "a triple (depth, height, width)"}
        raise ShapeError(f"{what} is {value!r}; expected {form[count]}")
    return tuple(checked_size(what, each, least) for each in value)


def checked_dim(value: Any, shape: Shape) -> int:
    """Return a dimension of ``shape``, which is counted from 0 without the batch.

    >>> checked_dim(1, (3, 8, 8))
    1
    """
    if type(value) is not int or not 0 <= value < len(shape):
        raise ShapeError(f"dim is {value!r}; expected 0 to {len(shape) - 1} for an input of shape {shape}")
    return value


def checked_dims(value: Any, shape: Shape) -> tuple[int, ...]:
    """Return different dimensions of ``shape``, at least one.

    >>> checked_dims((1, 2), (3, 8, 8))
    (1, 2)
    """
    if not isinstance(value, tuple) or not value or len(set(value)) != len(value):
        raise ShapeError(f"dims is {value!r}; expected a tuple of different dimensions, counted without the batch")
    return tuple(checked_dim(dim, shape) for dim in value)


def checked_number(what: str, value: Any, *, above: float = -math.inf, least: float = -math.inf) -> None:
    """Refuse what is not a finite number above ``above`` and at least ``least``, and what may be read as zero."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ShapeError(f"{what} is {value!r}; expected a finite number")
    if isinstance(value, float) and _is_denormal(value):
        raise ShapeError(
            f"{what} is not zero but below 2^-1022, where processors may round to zero; expected a larger one"
        )
    if not value > above:
        raise ShapeError(f"{what} is {value}; expected a number above {above}")
    if not value >= least:
        raise ShapeError(f"{what} is {value}; expected a number of at least {least}")


def _is_denormal(value: float) -> bool:
    """Whether a float is below the normal ones but not zero, by its bits: arithmetic may read it as zero."""
    (bits,) = struct.unpack("<Q", struct.pack("<d", value))
    return 0 < bits & (2**63 - 1) < 2**52


def concrete(size: Size, what: str) -> int:
    """Return a size that a rule needs as a number.

    Raises
    ------
    SymbolicSizeError
        It is a symbol.
    """
    if not isinstance(size, int):
        raise SymbolicSizeError(f"{what} is {size}; this layer needs a number there, see graph.subs")
    return size


def equal(a: Size, b: Size) -> bool:
    """Whether two sizes are known to be equal."""
    return sympy.expand(a - b) == 0


def same_shape(a: Shape, b: Shape) -> bool:
    """Whether two shapes are known to be equal."""
    return len(a) == len(b) and all(equal(p, q) for p, q in zip(a, b, strict=True))


def repeats_to(small: Shape, shape: Shape) -> bool:
    """Whether a tensor of shape ``small`` is known to repeat to ``shape``, along dimensions of size 1 and leading ones.

    >>> repeats_to((3, 1), (2, 3, 5)), repeats_to((2, 3), (3,))
    (True, False)
    """
    pairs = zip(reversed(small), reversed(shape), strict=False)
    return len(small) <= len(shape) and all(equal(size, 1) or equal(size, whole) for size, whole in pairs)


def expect(what: str, given: Size, expected: Size) -> None:
    """Refuse an input that does not have the number of ``what`` that the layer is for."""
    if not equal(given, expected):
        raise ShapeError(f"the input has {given} {what}, but the layer is for {expected}")


def input_shape(site: Site, form: str, dimensions: int) -> Shape:
    """Return the shape of a layer's only input, which must have so many dimensions."""
    (shape,) = site.inputs
    if len(shape) != dimensions:
        raise ShapeError(f"the input has shape {shape}; expected {form}")
    return shape


def quotient(divisor: Size, what: str, value: Size) -> Size:
    """Return ``value / divisor``; one that may or may not be whole passes.

    >>> quotient(2, "features", 6)
    3
    """
    result = sympy.expand(sympy.sympify(value) / divisor)
    if result.is_integer is False:
        raise ShapeError(f"{divisor} does not divide the {what} {value}")
    return int(result) if result.is_Integer else result


def covering(k: Size, s: Size, d: Size, m: Size) -> int:
    """Return a bound on how many of m windows one entry lies in."""
    k, s, d = concrete(k, "kernel"), concrete(s, "stride"), concrete(d, "dilation")
    most = -(-k * math.gcd(s, d) // s)
    return min(most, m) if isinstance(m, int) else most


def windows(
    size: Size, kernel: Size, stride: Size, padding: Size = 0, dilation: Size = 1, ceil_mode: bool = False
) -> Size:
    """Return how many windows fit: floor((size + 2 padding - dilation (kernel - 1) - 1) / stride) + 1.

    With ``ceil_mode`` the last window may reach beyond the padding, as long as it starts before the padding on the
    right.

    >>> windows(7, 3, 2, 1), windows(6, 3, 2), windows(6, 3, 2, ceil_mode=True)
    (4, 2, 3)
    """
    room = sympy.expand(size + 2 * padding - dilation * (kernel - 1) - 1)
    count = sympy.floor(room / stride) + 1
    if ceil_mode:
        count = sympy.Min(sympy.ceiling(room / stride), sympy.floor((size + padding - sympy.Integer(1)) / stride)) + 1
    if count.is_nonpositive or (room.is_negative and not ceil_mode):
        raise ShapeError(
            f"a window of {sympy.expand(dilation * (kernel - 1) + 1)} does not fit into {size} entries with padding "
            f"{padding}; use a larger input"
        )
    return int(count) if count.is_Integer else count


def adds_windows(layer: Layer) -> bool:
    """Whether the output padding of a transposed convolution may make room for windows that no input belongs to.

    >>> from fimtheory.layers import Conv1d, ConvTranspose1d
    >>> wide = ConvTranspose1d(1, 1, (2,), dilation=(3,), output_padding=(1,))
    >>> adds_windows(wide), adds_windows(Conv1d(1, 1, (2,)))
    (True, False)
    """
    added: Any = getattr(layer, "output_padding", ())
    stride: Any = getattr(layer, "stride", ()) if added else ()
    return not all(sympy.sympify(s - o).is_positive for o, s in zip(added, stride, strict=True))
