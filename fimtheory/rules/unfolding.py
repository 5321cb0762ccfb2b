"""Windows side by side, and their sum: the gain counts the windows that one entry lies in."""

from __future__ import annotations

import math

import sympy

from fimtheory import layers
from fimtheory.claims import Claim, Quantity, Reference, Relation, Status
from fimtheory.ensemble import no_parameters
from fimtheory.layers import Shape, Size
from fimtheory.registry import Site, rule
from fimtheory.sizes import checked_sizes, concrete, covering, expect, input_shape, quotient, windows
from fimtheory.symmetry import Symmetry

__all__ = ["unfold_gain"]

_OWN = Reference("fimtheory")
_MOST_ENTRIES = 2**16
"""Longest side of an image whose entries are looked at one by one."""


# ---- shapes -----------------------------------------------------------------------------------------------------


def _placed(site: Site, image: Shape) -> tuple[Size, Size]:
    """Return how many windows there are along each side of an image, after a look at what places them."""
    layer = site.layer
    kernel, dilation = checked_sizes("kernel", layer.kernel, 2), checked_sizes("dilation", layer.dilation, 2)
    padding, stride = checked_sizes("padding", layer.padding, 2, least=0), checked_sizes("stride", layer.stride, 2)
    each = zip(image, kernel, stride, padding, dilation, strict=True)
    rows, columns = (windows(n, k, s, p, d) for n, k, s, p, d in each)
    return rows, columns


@rule(layers.Unfold, quantity=Quantity.SHAPE, reference=Reference("torch", "nn.Unfold"))
def unfold_shape(site: Site) -> Shape:
    """Shape of windows side by side: entries of a window, windows."""
    channels, *image = input_shape(site, "(channels, height, width)", 3)
    rows, columns = _placed(site, tuple(image))
    tall, wide = site.layer.kernel
    return (sympy.expand(channels * tall * wide), sympy.expand(rows * columns))


@rule(layers.Fold, quantity=Quantity.SHAPE, reference=Reference("torch", "nn.Fold"))
def fold_shape(site: Site) -> Shape:
    """Shape of the image that windows add to."""
    entries, count = input_shape(site, "(channels times entries of a window, windows)", 2)
    image = checked_sizes("output_size", site.layer.output_size, 2)
    rows, columns = _placed(site, image)
    tall, wide = site.layer.kernel
    expect("windows in its last dimension", count, rows * columns)
    return (quotient(tall * wide, "first dimension", entries), *image)


# ---- gains ------------------------------------------------------------------------------------------------------


@rule(layers.Unfold, quantity=Quantity.GAIN, reference=_OWN)
@rule(layers.Fold, quantity=Quantity.GAIN, reference=_OWN)
def unfold_gain(site: Site) -> Claim:
    """Gain of windows side by side, or of their sum: the root of the largest number of windows an entry lies in.

    Statement: exact for images of known size with sides of at most 2^16.  In general at most the root of the product
    over the two sides of ``min(ceil(k gcd(s, d) / s), m)`` with kernel k, stride s, dilation d and m windows.
    Conditions: none.  Proof: every output of Unfold is one entry of the image or zero, and a window takes an entry at
    most once, so J^T J is diagonal and counts the windows that an entry lies in; the count is a product over the
    sides.  A window at l s covers the entries l s + j d, 0 <= j < k; those j that put one entry at a multiple of s lie
    s / gcd(s, d) apart.  The sum of windows is the transpose of Unfold.

    >>> unfold_gain(Site.of(layers.Unfold((3, 3), padding=(1, 1)), inputs=((64, 28, 28),))).expression
    3
    """
    layer, folds = site.layer, isinstance(site.layer, layers.Fold)
    image: Shape = layer.output_size if folds else site.inputs[0][1:]
    known = all(isinstance(n, int) and n <= _MOST_ENTRIES for n in image)
    square = 1
    for n, k, s, p, d in zip(image, layer.kernel, layer.stride, layer.padding, layer.dilation, strict=True):
        m = windows(n, k, s, p, d)
        square *= _most_windows(n, k, s, p, d, m) if known else covering(k, s, d, m)
    return Claim(Relation.EQ if known else Relation.LE, sympy.sqrt(square), _OWN)


def _most_windows(*sizes: Size) -> int:
    """Return the largest number of m windows that one of n entries lies in.

    Entry i is tap j of a window where i + p - j d is one of 0, s, ..., (m-1) s.  With g = gcd(s, d) that takes an
    i + p divisible by g, and then one j of every s/g, between two ends.
    """
    n, k, s, p, d, m = (concrete(size, "a size of a window") for size in sizes)
    g = math.gcd(s, d)
    step = s // g
    inverse = pow(d // g, -1, step)
    most = 0
    for place in range(p + -p % g, p + n, g):
        tap = place // g * inverse % step
        first, last = max(0, -(((m - 1) * s - place) // d)), min(k - 1, place // d)
        most = max(most, len(range(first + (tap - first) % step, last + 1, step)))
    return most


# ---- growth and signs -------------------------------------------------------------------------------------------


@rule(layers.Unfold, quantity=Quantity.JACOBIAN_VARIANCE, reference=_OWN)
@rule(layers.Fold, quantity=Quantity.JACOBIAN_VARIANCE, reference=_OWN)
def unfold_variance(site: Site) -> Claim:
    """``||A J||_F^2 <= ||A||^2 ||J||_F^2``."""
    return Claim(Relation.LE, unfold_gain(site).expression ** 2, _OWN, status=Status.EXPECTED)


@rule(layers.Unfold, quantity=Quantity.SYMMETRY, reference=_OWN)
@rule(layers.Fold, quantity=Quantity.SYMMETRY, reference=_OWN)
def unfold_symmetry(site: Site) -> Symmetry:
    """A linear map is odd."""
    return Symmetry.ODD


for _kind in (layers.Unfold, layers.Fold):
    rule(_kind, quantity=Quantity.PARAMETERS, reference=Reference("torch", f"nn.{_kind.__name__}"))(no_parameters)
