"""Which strategy draws the layers of a type: a table by exact type that built-in and own layers share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from hypothesis import reject
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from fimtheory.errors import FimTheoryError, RuleError, StrategyError
from fimtheory.layers import Layer
from fimtheory.registry import Site

__all__ = ["SHAPES", "Drawing", "Kinds", "Sizes", "draws_of", "placed", "register", "runs"]

Sizes = Sequence[int]
"""A shape in numbers, without the batch."""
Kinds = tuple[type[Layer], ...]

Drawing = Callable[[Sizes], "SearchStrategy[Any] | None"]
"""From the shape of a layer's input to a strategy of layers that take it; None where none does.

For a type of several inputs the shape is that of the first one, and the strategy draws pairs of a layer and the shapes
of all its inputs.
"""

_DRAWINGS: dict[type[Layer], Drawing] = {}

SHAPES: tuple[Sizes, ...] = (
    *((n,) for n in (4, 2, 3, 1, 6)),
    *((3, 4), (2, 3), (4, 2), (1, 4), (6, 3)),
    *((2, 4, 4), (1, 5, 3), (4, 3, 3), (3, 4, 5), (2, 2, 6)),
    *((2, 2, 3, 3), (1, 3, 2, 4)),
)
"""Shapes on which layers are tried by themselves: vectors, tokens, images and volumes, small enough for a dense J."""


def register(kind: type[Layer], drawing: Drawing, *, replace: bool = False) -> None:
    """Say how layers of type ``kind`` are drawn, as a function of the shape of the (first) input.

    Parameters
    ----------
    kind
        A layer type, declared with ``@ft.layer``.
    drawing
        From a shape to a hypothesis strategy of layers that take it, or None where no such layer takes it; see
        ``Drawing`` for types of several inputs.
    replace
        Whether an earlier registration may be replaced.

    Raises
    ------
    RuleError
        ``kind`` is no layer type, or has a strategy already.

    >>> from fimtheory import layers
    >>> register(layers.Identity, lambda shape: st.just(layers.Identity()), replace=True)
    """
    if not (isinstance(kind, type) and issubclass(kind, Layer) and kind is not Layer):
        raise RuleError(f"a strategy is for a layer type, got {kind!r}; declare yours with @ft.layer")
    if kind in _DRAWINGS and not replace:
        raise RuleError(f"there is a strategy for {kind.__name__} already; pass replace=True to replace it")
    _DRAWINGS[kind] = drawing
    draws_of.cache_clear()


@lru_cache(maxsize=4096)  # making a strategy costs more than drawing from it
def draws_of(kind: type[Layer], shape: Sizes) -> SearchStrategy[Any] | None:
    """Return a strategy of layers of type ``kind`` that take ``shape``, or None where there is none.

    A type without a registered strategy is built from its dataclass fields, which must be numbers or have defaults.

    Raises
    ------
    StrategyError
        Nothing is registered, and some field is not a number and has no default.
    """
    if kind in _DRAWINGS:
        return _DRAWINGS[kind](shape)
    if kind.arity != 1:
        raise StrategyError(_how(kind, f"it has {'any number of' if kind.arity is None else kind.arity} inputs"))
    return _from_fields(kind).filter(lambda layer: _takes(layer, shape))


def _fitting(kind: type[Layer], shapes: Sequence[Sizes]) -> SearchStrategy[Sizes]:
    fitting = [shape for shape in shapes if draws_of(kind, shape) is not None]
    if not fitting:
        raise StrategyError(f"the strategy of {kind.__name__} takes none of {len(shapes)} shapes, such as {shapes[0]}")
    return st.sampled_from(fitting)


@st.composite
def placed(draw: st.DrawFn, kind: type[Layer], shapes: tuple[Sizes, ...] = SHAPES) -> tuple[Layer, tuple[Sizes, ...]]:
    """One layer of type ``kind``, and the shapes of its inputs, the first one out of ``shapes``."""
    shape = draw(_fitting(kind, shapes))
    strategy = draws_of(kind, tuple(shape))
    assert strategy is not None
    drawn = draw(strategy)
    return drawn if kind.arity != 1 else (drawn, (shape,))


@st.composite
def runs(
    draw: st.DrawFn, kinds: Kinds, shapes: tuple[Sizes, ...] = SHAPES
) -> tuple[tuple[Layer, ...], tuple[Sizes, ...]]:
    """Layers of the given types, each of which takes what the one before it returns, and the shapes that flow in."""
    if len(kinds) == 1:
        layer, inputs = draw(placed(kinds[0], shapes))
        return (layer,), inputs
    shape = draw(_fitting(kinds[0], shapes))
    made: list[Layer] = []
    here = shape
    for kind in kinds:
        strategy = draws_of(kind, tuple(here))
        if strategy is None:  # what the layers before it return does not fit
            reject()
        made.append(draw(strategy))
        here = tuple(int(size) for size in Site.of(made[-1], inputs=(tuple(here),)).output)
    return tuple(made), (shape,)


_NUMBERS: dict[str, SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int": st.integers(1, 4),
    "Size": st.integers(1, 4),
    "float": st.sampled_from([1.0, 0.5, 2.0, 0.1, 3.0, -0.5, -2.0]),
}
"""What a field annotated so is drawn from."""


def _from_fields(kind: type[Layer]) -> SearchStrategy[Any]:
    drawn: dict[str, SearchStrategy[Any]] = {}
    for field in _fields(kind):
        numbers = _NUMBERS.get(field.type if isinstance(field.type, str) else getattr(field.type, "__name__", ""))
        given = field.default is not dataclasses.MISSING
        if numbers is None and not given:
            raise StrategyError(_how(kind, f"its field {field.name} is a {field.type}"))
        if numbers is not None:
            drawn[field.name] = st.just(field.default) | numbers if given else numbers
    return st.builds(kind, **drawn)


def _fields(kind: Any) -> Iterator[dataclasses.Field[Any]]:
    yield from dataclasses.fields(kind)


def _takes(layer: Layer, shape: Sizes) -> bool:
    try:
        Site.of(layer, inputs=(tuple(shape),))
    except FimTheoryError:
        return False
    return True


def _how(kind: type[Layer], cause: str) -> str:
    name = kind.__name__
    return (
        f"no strategy for layers of type {name}: {cause}; register one with "
        f"fimtheory.strategies.register({name}, lambda shape: st.builds({name}, ...))"
    )
