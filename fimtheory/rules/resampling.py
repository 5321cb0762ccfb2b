"""Padding, interpolation, and moving numbers between channels and positions."""

from __future__ import annotations

from fractions import Fraction

import sympy

from fimtheory import layers
from fimtheory.claims import Claim, Quantity, Reference, Relation, Status
from fimtheory.ensemble import no_parameters
from fimtheory.errors import ShapeError
from fimtheory.interpolation import Row, interpolation_rows
from fimtheory.layers import Shape
from fimtheory.registry import Site, rule
from fimtheory.sizes import checked_number, checked_size, concrete, input_shape, quotient
from fimtheory.symmetry import Symmetry

__all__ = ["pad_gain", "pixel_shuffle_gain", "upsample_gain"]

_OWN = Reference("fimtheory")
_MATRIX_ANALYSIS = Reference("horn2013", "section 5.6")
_MOST_ENTRIES = 2**16


# ---- shapes -----------------------------------------------------------------------------------------------------


@rule(layers.Pad, quantity=Quantity.SHAPE, reference=Reference("torch", "nn.functional.pad"))
def pad_shape(site: Site) -> Shape:
    """Shape of padding; mirrored and circular entries must be there."""
    (shape,), layer = site.inputs, site.layer
    if layer.mode not in ("constant", "reflect", "replicate", "circular"):
        raise ShapeError(f"mode is {layer.mode!r}; expected constant, reflect, replicate or circular")
    checked_number("value", layer.value)
    if not isinstance(layer.pads, tuple) or len(layer.pads) != len(shape):
        raise ShapeError(f"pads is {layer.pads!r}; expected a pair for each of the {len(shape)} dimensions of {shape}")
    result = []
    for n, pair in zip(shape, layer.pads, strict=True):
        if not isinstance(pair, tuple) or len(pair) != 2 or any(type(p) is not int for p in pair):
            raise ShapeError(f"a pair of pads is {pair!r}; expected two whole numbers (before, after)")
        if min(pair) < 0:
            raise ShapeError(f"the pads {pair} are negative, which crops; use a Slice")
        most = {"reflect": n - 1, "circular": n}.get(layer.mode)
        if most is not None and sympy.sympify(most - max(pair)).is_negative:
            raise ShapeError(f"the pads {pair} exceed {most}, the most that {layer.mode} padding of {n} entries can be")
        result.append(n + sum(pair))
    return tuple(result)


@rule(layers.Upsample, quantity=Quantity.SHAPE, reference=Reference("torch", "nn.functional.interpolate"))
def upsample_shape(site: Site) -> Shape:
    """Shape of interpolation."""
    (shape,), layer = site.inputs, site.layer
    if layer.mode not in ("nearest", "linear", "cubic"):
        raise ShapeError(f"mode is {layer.mode!r}; expected nearest, linear or cubic")
    if layer.mode == "nearest" and layer.align_corners:
        raise ShapeError("align_corners has no meaning for the nearest entry; expected false")
    if not isinstance(layer.output, tuple) or len(layer.output) != len(shape) - 1:
        raise ShapeError(f"output is {layer.output!r}; expected {len(shape) - 1} sizes for the input {shape}")
    sizes = tuple(checked_size("a size of output", size) for size in layer.output)
    if any(isinstance(size, int) and size > _MOST_ENTRIES for size in (*sizes, *shape[1:])):
        raise ShapeError(f"cannot interpolate from {shape[1:]} to {sizes}; sizes are at most {_MOST_ENTRIES}")
    return (shape[0], *sizes)


@rule(layers.PixelShuffle, quantity=Quantity.SHAPE, reference=Reference("torch", "nn.PixelShuffle"))
def pixel_shuffle_shape(site: Site) -> Shape:
    """Shape of a pixel shuffle."""
    channels, height, width = input_shape(site, "(channels, height, width)", 3)
    r = checked_size("factor", site.layer.factor)
    return (quotient(r**2, "channels", channels), r * height, r * width)


@rule(layers.PixelUnshuffle, quantity=Quantity.SHAPE, reference=Reference("torch", "nn.PixelUnshuffle"))
def pixel_unshuffle_shape(site: Site) -> Shape:
    """Shape of the inverse of a pixel shuffle."""
    channels, height, width = input_shape(site, "(channels, height, width)", 3)
    r = checked_size("factor", site.layer.factor)
    return (channels * r**2, quotient(r, "height", height), quotient(r, "width", width))


# ---- gains ------------------------------------------------------------------------------------------------------


@rule(layers.Pad, quantity=Quantity.GAIN, reference=_OWN)
def pad_gain(site: Site) -> Claim:
    """Gain of padding: the square root of how often one entry comes, multiplied over dimensions.

    Statement: per dimension 1 for constants; one more than the longer pad for replicated ends (than both, where there
    is one entry); 2 where entries are mirrored or moved round, 3 where pads at both ends hold one entry.  Conditions:
    none.  Proof: J copies entries, J^T J is diagonal and counts the copies.  Mirrored, the pads hold the entries
    1, ..., b and n-1-a, ..., n-2; moved round, n-b, ..., n-1 and 0, ..., a-1.

    >>> pad_gain(Site.of(layers.Pad(((0, 0), (1, 1), (1, 1)), "reflect"), inputs=((3, 8, 8),))).expression
    2
    """
    layer, copies = site.layer, 1
    for n, (before, after) in zip(site.inputs[0], layer.pads, strict=True):
        if layer.mode != "constant" and before + after > 0:
            copies *= _copies(concrete(n, "input size"), before, after, layer.mode)
    return Claim(Relation.EQ, sympy.sqrt(copies), _OWN)


def _copies(n: int, before: int, after: int, mode: str) -> int:
    """Most copies of one entry along a dimension with some padding that is not constant."""
    if mode == "replicate":
        return 1 + (before + after if n == 1 else max(before, after))
    if mode == "circular":
        return 3 if before + after > n else 2
    return 3 if min(before, after) > 0 and max(1, n - 1 - after) <= min(before, n - 2) else 2


@rule(layers.Upsample, quantity=Quantity.GAIN, reference=_OWN)
def upsample_gain(site: Site) -> Claim:
    """Gain of interpolation, multiplied over dimensions.

    Statement: per dimension the root of how many outputs take one entry (nearest; exact), else at most the root of the
    largest absolute row sum of A A^T or of A^T A, the smaller, for the interpolation matrix A.  Conditions: none.
    Proof: of nearest entries A^T A is diagonal and counts the outputs of each; ``||A||^2 = ||A A^T|| = ||A^T A||`` is
    at most the largest absolute row sum of either.  In several dimensions the map is a Kronecker product.

    >>> upsample_gain(Site.of(layers.Upsample((8, 8), "linear"), inputs=((3, 4, 4),))).expression
    2
    """
    layer, square = site.layer, sympy.Integer(1)
    for n, m in zip(site.inputs[0][1:], layer.output, strict=True):
        n, m = concrete(n, "input size"), concrete(m, "output size")
        rows = interpolation_rows(n, m, layer.mode, layer.align_corners)
        columns: list[Row] = [{} for _ in range(n)]
        for i, row in enumerate(rows):
            for entry, weight in row.items():
                columns[entry][i] = weight
        bound = min(_largest_row_sum(rows, columns), _largest_row_sum(columns, rows))
        square *= sympy.Rational(bound.numerator, bound.denominator)
    return Claim(Relation.EQ if layer.mode == "nearest" else Relation.LE, sympy.sqrt(square), _OWN)


def _largest_row_sum(rows: list[Row], columns: list[Row]) -> Fraction:
    """Largest absolute row sum of A A^T, from the rows and the columns of A."""
    largest = Fraction(0)
    for row in rows:
        products: Row = {}
        for entry, weight in row.items():
            for other, factor in columns[entry].items():
                products[other] = products.get(other, Fraction(0)) + weight * factor
        largest = max(largest, sum((abs(product) for product in products.values()), Fraction(0)))
    return largest


@rule(layers.PixelShuffle, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
@rule(layers.PixelUnshuffle, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
def pixel_shuffle_gain(site: Site) -> Claim:
    """Gain 1: the entries are permuted.

    Conditions: none.  Proof: the Jacobian is a permutation matrix.

    >>> pixel_shuffle_gain(Site.of(layers.PixelShuffle(2), inputs=((8, 3, 3),))).expression
    1
    """
    return Claim(Relation.EQ, sympy.Integer(1), _MATRIX_ANALYSIS)


# ---- everything else --------------------------------------------------------------------------------------------


_GAINS = {
    layers.Pad: pad_gain,
    layers.Upsample: upsample_gain,
    layers.PixelShuffle: pixel_shuffle_gain,
    layers.PixelUnshuffle: pixel_shuffle_gain,
}


def resampling_variance(site: Site) -> Claim:
    """``||A J||_F^2 <= ||A||^2 ||J||_F^2``."""
    gain = _GAINS[type(site.layer)](site)
    return Claim(Relation.LE, gain.expression**2, gain.reference, status=Status.EXPECTED)


def resampling_symmetry(site: Site) -> Symmetry:
    """Return ODD, as the map is linear, unless it joins constants other than zero."""
    constant = isinstance(site.layer, layers.Pad) and site.layer.mode == "constant" and site.layer.value != 0
    return Symmetry.BROKEN if constant else Symmetry.ODD


for _kind in _GAINS:
    rule(_kind, quantity=Quantity.PARAMETERS, reference=Reference("torch", f"nn.{_kind.__name__}"))(no_parameters)
    rule(_kind, quantity=Quantity.JACOBIAN_VARIANCE, reference=_OWN)(resampling_variance)
    rule(_kind, quantity=Quantity.SYMMETRY, reference=_OWN)(resampling_symmetry)
