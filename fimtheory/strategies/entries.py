"""Hypothesis strategies for layers that move entries, for those with a constant and for reductions."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from fimtheory import layers
from fimtheory.layers import Layer
from fimtheory.strategies.drawing import Kinds, Sizes, register

__all__ = ["CONSTANTS", "MOVEMENT", "REDUCTIONS", "constant", "movement", "reduction"]

MOVEMENT: Kinds = (
    layers.Slice,
    layers.Select,
    layers.IndexSelect,
    layers.Flip,
    layers.Roll,
    layers.Expand,
    layers.Tile,
    layers.RepeatInterleave,
)
CONSTANTS: Kinds = (
    layers.Scale,
    layers.Shift,
    layers.AddConstant,
    layers.MultiplyConstant,
    layers.ConcatConstant,
    layers.MatmulConstant,
)
REDUCTIONS: Kinds = (layers.Mean, layers.Sum, layers.Amax, layers.LogSumExp, layers.L2Normalize)


@st.composite
def movement(draw: st.DrawFn, shape: Sizes, kinds: Kinds = MOVEMENT) -> Layer:
    """One layer that selects, reorders or repeats entries."""
    dim = draw(st.integers(0, len(shape) - 1))
    size = shape[dim]
    dims = tuple(draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True)))
    match draw(st.sampled_from([k for k in kinds if k is not layers.Select or len(shape) > 1])):
        case layers.Slice:
            start = draw(st.integers(0, size - 1))
            return layers.Slice(dim, start, draw(st.integers(start + 1, size)), draw(st.integers(1, 3)))
        case layers.Select:
            return layers.Select(dim, draw(st.integers(0, size - 1)))
        case layers.IndexSelect:
            indices = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=size + 2))
            return layers.IndexSelect(dim, tuple(indices))
        case layers.Flip:
            return layers.Flip(dims)
        case layers.Roll:
            return layers.Roll(tuple(draw(st.integers(-7, 7)) for _ in dims), dims)
        case layers.Expand:
            new = draw(st.sampled_from([(), (1,), (2,)])) if len(shape) < 3 else ()
            return layers.Expand((*new, *(draw(st.integers(1, 3)) if n == 1 else n for n in shape)))
        case layers.Tile:
            return layers.Tile(tuple(draw(st.integers(1, 3)) for _ in shape))
        case layers.RepeatInterleave:
            return layers.RepeatInterleave(dim, draw(st.integers(1, 3)))
        case kind:
            raise AssertionError(kind)


@st.composite
def broadcast(draw: st.DrawFn, shape: Sizes) -> tuple[int, ...]:
    """Sizes of a constant that an input of ``shape`` does not grow by, perhaps with a leading 1 for the batch."""
    whole = (1, *(draw(st.sampled_from([1, n])) for n in shape))
    return whole[draw(st.integers(0, len(whole))) :]


@st.composite
def constant(draw: st.DrawFn, shape: Sizes, kinds: Kinds = CONSTANTS) -> Layer:
    """One layer that combines its input with a constant."""
    match draw(st.sampled_from(kinds)):
        case layers.Scale:
            return layers.Scale(draw(st.sampled_from([-1.0, 0.3, 2.5, 0.0, -1e-3])))
        case layers.Shift:
            return layers.Shift(draw(st.sampled_from([0.7, -2.0, 0.0])))
        case layers.AddConstant:
            return layers.AddConstant(draw(broadcast(shape)))
        case layers.MultiplyConstant:
            return layers.MultiplyConstant(draw(broadcast(shape)))
        case layers.ConcatConstant:
            dim = draw(st.integers(0, len(shape) - 1))
            joined = (*shape[:dim], draw(st.integers(1, 2)), *shape[dim + 1 :])
            return layers.ConcatConstant(dim, draw(st.sampled_from([joined, (1, *joined)])), draw(st.booleans()))
        case layers.MatmulConstant:
            size = draw(st.integers(1, 4))
            before = len(shape) > 1 and draw(st.booleans())
            return layers.MatmulConstant((size, shape[-2]) if before else (shape[-1], size), before)
        case kind:
            raise AssertionError(kind)


@st.composite
def reduction(draw: st.DrawFn, shape: Sizes, kinds: Kinds = REDUCTIONS) -> Layer:
    """One layer that reduces dimensions, or divides by the norm along one."""
    kind = draw(st.sampled_from(kinds))
    if kind is layers.L2Normalize:
        return layers.L2Normalize(draw(st.integers(0, len(shape) - 1)), draw(st.sampled_from([1e-12, 1e-2, 1.0])))
    dims = tuple(draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True)))
    made: Any = kind
    return made(dims, len(dims) == len(shape) or draw(st.booleans()))


def _register(kinds: Kinds, family: Any) -> None:
    for kind in kinds:
        least = 2 if kind is layers.Select else 1
        register(kind, lambda shape, kind=kind, least=least: family(shape, (kind,)) if len(shape) >= least else None)


_register(MOVEMENT, movement)
_register(CONSTANTS, constant)
_register(REDUCTIONS, reduction)
