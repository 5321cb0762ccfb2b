"""Layers that select, reorder or repeat entries: the gain is the root of how often one entry is copied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import sympy

from fimtheory import layers
from fimtheory.claims import Claim, Quantity, Reference, Relation, Status
from fimtheory.ensemble import no_parameters
from fimtheory.errors import ShapeError
from fimtheory.layers import Layer, Shape, Size
from fimtheory.registry import Site, rule
from fimtheory.sizes import checked_dim, checked_dims, checked_size, equal
from fimtheory.symmetry import Symmetry

__all__ = ["moved_gain", "repeated_gain"]

_MATRIX_ANALYSIS = Reference("horn2013", "section 5.6")


def _torch(where: str) -> Reference:
    return Reference("torch", where)


# ---- shapes -----------------------------------------------------------------------------------------------------


def _whole(what: str, value: Any) -> int:
    if type(value) is not int:
        raise ShapeError(f"{what} is {value!r}; expected a whole number")
    return value


def _index(value: Any, size: Size) -> int:
    if _whole("index", value) < 0 or sympy.sympify(size - value - 1).is_negative:
        raise ShapeError(f"index is {value}; expected 0 to {size - 1} in a dimension of {size} entries")
    return value


@rule(layers.Slice, quantity=Quantity.SHAPE, reference=_torch("aten.slice"))
def _slice(site: Site) -> Shape:
    (shape,), layer = site.inputs, site.layer
    dim = checked_dim(layer.dim, shape)
    start, stop, step = (_whole(what, getattr(layer, what)) for what in ("start", "stop", "step"))
    if not 0 <= start < stop or step < 1 or sympy.sympify(shape[dim] - stop).is_negative:
        raise ShapeError(
            f"start, stop and step are {start}, {stop} and {step}; expected 0 <= start < stop <= {shape[dim]} and a "
            "step of at least 1"
        )
    return (*shape[:dim], -(-(stop - start) // step), *shape[dim + 1 :])


@rule(layers.Select, quantity=Quantity.SHAPE, reference=_torch("aten.select"))
def _select(site: Site) -> Shape:
    (shape,) = site.inputs
    dim = checked_dim(site.layer.dim, shape)
    _index(site.layer.index, shape[dim])
    if len(shape) == 1:
        raise ShapeError("nothing but a number would be left; expected another dimension, or take a Slice")
    return (*shape[:dim], *shape[dim + 1 :])


@rule(layers.IndexSelect, quantity=Quantity.SHAPE, reference=_torch("aten.index_select"))
def _index_select(site: Site) -> Shape:
    (shape,), indices = site.inputs, site.layer.indices
    dim = checked_dim(site.layer.dim, shape)
    if not isinstance(indices, tuple) or not indices:
        raise ShapeError(f"indices is {indices!r}; expected a tuple of at least one index")
    for index in indices:
        _index(index, shape[dim])
    return (*shape[:dim], len(indices), *shape[dim + 1 :])


@rule(layers.Flip, quantity=Quantity.SHAPE, reference=_torch("aten.flip"))
def _flip(site: Site) -> Shape:
    checked_dims(site.layer.dims, site.inputs[0])
    return site.inputs[0]


@rule(layers.Roll, quantity=Quantity.SHAPE, reference=_torch("aten.roll"))
def _roll(site: Site) -> Shape:
    dims, shifts = checked_dims(site.layer.dims, site.inputs[0]), site.layer.shifts
    if not isinstance(shifts, tuple) or len(shifts) != len(dims):
        raise ShapeError(f"shifts is {shifts!r}; expected one whole number for each of the dimensions {dims}")
    for shift in shifts:
        _whole("a shift", shift)
    return site.inputs[0]


@rule(layers.Expand, quantity=Quantity.SHAPE, reference=_torch("aten.expand"))
def _expand(site: Site) -> Shape:
    (shape,), target = site.inputs, site.layer.shape
    if not isinstance(target, tuple) or len(target) < len(shape):
        raise ShapeError(f"shape is {target!r}; expected a tuple of at least {len(shape)} sizes, without the batch")
    result = tuple(checked_size("a dimension of shape", size) for size in target)
    for given, made in zip(shape, result[len(result) - len(shape) :], strict=True):
        if not equal(given, 1) and not equal(given, made):
            raise ShapeError(f"cannot expand {shape} to {result}: only a dimension of size 1 can be repeated")
    return result


@rule(layers.Tile, quantity=Quantity.SHAPE, reference=_torch("aten.repeat"))
def _tile(site: Site) -> Shape:
    (shape,), repeats = site.inputs, site.layer.repeats
    if not isinstance(repeats, tuple) or len(repeats) != len(shape):
        raise ShapeError(f"repeats is {repeats!r}; expected one number for each dimension of {shape}")
    return tuple(
        sympy.expand(size * checked_size("a number of repeats", count))
        for size, count in zip(shape, repeats, strict=True)
    )


@rule(layers.RepeatInterleave, quantity=Quantity.SHAPE, reference=_torch("repeat_interleave"))
def _repeat_interleave(site: Site) -> Shape:
    (shape,) = site.inputs
    dim = checked_dim(site.layer.dim, shape)
    repeats = checked_size("repeats", _whole("repeats", site.layer.repeats))
    return (*shape[:dim], sympy.expand(shape[dim] * repeats), *shape[dim + 1 :])


# ---- gains ------------------------------------------------------------------------------------------------------


@rule(layers.Slice, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
@rule(layers.Select, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
@rule(layers.Flip, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
@rule(layers.Roll, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
def moved_gain(site: Site) -> Claim:
    """Gain 1: every entry of the input appears at most once, and one does.

    Conditions: none.  Proof: the Jacobian is a 0-1 matrix with orthonormal rows.

    >>> moved_gain(Site.of(layers.Slice(0, 1, 8, 2), inputs=((8,),))).expression
    1
    """
    return Claim(Relation.EQ, sympy.Integer(1), _MATRIX_ANALYSIS)


@rule(layers.Slice, quantity=Quantity.JACOBIAN_VARIANCE, reference=_MATRIX_ANALYSIS)
@rule(layers.Select, quantity=Quantity.JACOBIAN_VARIANCE, reference=_MATRIX_ANALYSIS)
@rule(layers.Flip, quantity=Quantity.JACOBIAN_VARIANCE, reference=_MATRIX_ANALYSIS)
@rule(layers.Roll, quantity=Quantity.JACOBIAN_VARIANCE, reference=_MATRIX_ANALYSIS)
def moved_variance(site: Site) -> Claim:
    """Factor 1: rows of J are reordered or dropped."""
    return Claim(Relation.LE, sympy.Integer(1), _MATRIX_ANALYSIS, status=Status.EXPECTED)


_COPIES: dict[type[Layer], Callable[[Site], Size]] = {
    layers.Expand: lambda site: sympy.sympify(sympy.prod(site.output)) / sympy.prod(site.inputs[0]),
    layers.Tile: lambda site: sympy.prod(site.layer.repeats),
    layers.RepeatInterleave: lambda site: site.layer.repeats,
    layers.IndexSelect: lambda site: max(Counter(site.layer.indices).values()),
}
"""Largest number of outputs that are copies of one entry."""


@rule(layers.Expand, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
@rule(layers.Tile, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
@rule(layers.RepeatInterleave, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
@rule(layers.IndexSelect, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
def repeated_gain(site: Site) -> Claim:
    """Gain of a layer that copies entries: the root of the largest number of copies of one entry.

    Conditions: none.  Proof: every output is one entry of the input, so ``||A x||^2 = sum_k m_k x_k^2`` with m_k the
    number of copies of entry k; the largest m_k is attained at that entry.

    >>> repeated_gain(Site.of(layers.Expand((4, 9, 5)), inputs=((1, 5),))).expression
    6
    """
    return Claim(Relation.EQ, sympy.sqrt(_COPIES[type(site.layer)](site)), _MATRIX_ANALYSIS)


@rule(layers.Expand, quantity=Quantity.JACOBIAN_VARIANCE, reference=_MATRIX_ANALYSIS)
@rule(layers.Tile, quantity=Quantity.JACOBIAN_VARIANCE, reference=_MATRIX_ANALYSIS)
@rule(layers.RepeatInterleave, quantity=Quantity.JACOBIAN_VARIANCE, reference=_MATRIX_ANALYSIS)
@rule(layers.IndexSelect, quantity=Quantity.JACOBIAN_VARIANCE, reference=_MATRIX_ANALYSIS)
def repeated_variance(site: Site) -> Claim:
    """Largest number of copies of one entry: so often a row of J comes again."""
    copies = sympy.sympify(_COPIES[type(site.layer)](site))
    return Claim(Relation.LE, copies, _MATRIX_ANALYSIS, status=Status.EXPECTED)


def _odd(site: Site) -> Symmetry:
    """A linear map is odd."""
    return Symmetry.ODD


for _kind in (
    layers.Slice, layers.Select, layers.Flip, layers.Roll, layers.Expand, layers.Tile, layers.RepeatInterleave,
    layers.IndexSelect,
):  # fmt: skip
    rule(_kind, quantity=Quantity.SYMMETRY, reference=_MATRIX_ANALYSIS)(_odd)
    rule(_kind, quantity=Quantity.PARAMETERS, reference=_torch("Tensor"))(no_parameters)
