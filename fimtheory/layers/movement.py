"""Layers that select, reorder or repeat entries along dimensions, which are counted from 0 without the batch."""

from __future__ import annotations

from fimtheory.layers.base import Layer, Shape, layer

__all__ = ["Expand", "Flip", "IndexSelect", "RepeatInterleave", "Roll", "Select", "Slice", "Tile"]


@layer
class Slice(Layer):
    """Entries start, start + step, ... before stop along dimension ``dim``."""

    dim: int
    start: int
    stop: int
    step: int = 1


@layer
class Select(Layer):
    """One entry along dimension ``dim``, which goes away."""

    dim: int
    index: int


@layer
class IndexSelect(Layer):
    """The entries ``indices`` along dimension ``dim``, in that order; an index may come more than once."""

    dim: int
    indices: tuple[int, ...]


@layer
class Flip(Layer):
    """Entries in reverse order along every one of ``dims``."""

    dims: tuple[int, ...]


@layer
class Roll(Layer):
    """Entries moved on by ``shifts`` along ``dims``; what leaves at one end enters at the other."""

    shifts: tuple[int, ...]
    dims: tuple[int, ...]


@layer
class Expand(Layer):
    """Repeated to ``shape``: along dimensions of size 1, and along new ones before all others."""

    shape: Shape


@layer
class Tile(Layer):
    """Copies side by side: ``repeats`` of them along each dimension."""

    repeats: tuple[int, ...]


@layer
class RepeatInterleave(Layer):
    """Every entry ``repeats`` times in a row along dimension ``dim``."""

    dim: int
    repeats: int
