"""Average pooling: gains per dimension, multiplied over dimensions, as the map is a Kronecker product."""

from __future__ import annotations

from fractions import Fraction

import sympy

from fimtheory import layers
from fimtheory.claims import Claim, Quantity, Reference, Relation, Status
from fimtheory.ensemble import no_parameters
from fimtheory.errors import ShapeError
from fimtheory.layers import Shape
from fimtheory.registry import Site, rule
from fimtheory.sizes import checked_size, checked_sizes, concrete, input_shape, windows
from fimtheory.symmetry import Symmetry

__all__ = ["adaptive_average_pool_gain", "average_pool_gain"]

_MOST_ENTRIES = 2**16
_OWN = Reference("fimtheory")
_FORM = {1: "(channels, length)", 2: "(channels, height, width)", 3: "(channels, depth, height, width)"}
_AVERAGES = {layers.AvgPool1d: 1, layers.AvgPool2d: 2, layers.AvgPool3d: 3}
_ADAPTIVE_AVERAGES = {layers.AdaptiveAvgPool1d: 1, layers.AdaptiveAvgPool2d: 2, layers.AdaptiveAvgPool3d: 3}


# ---- shapes -----------------------------------------------------------------------------------------------------


def average_pool_shape(site: Site) -> Shape:
    """Shape of average pooling; half of a window at most is padding, as torch asks."""
    layer, count = site.layer, _AVERAGES[type(site.layer)]
    shape = input_shape(site, _FORM[count], count + 1)
    kernel, stride = checked_sizes("kernel", layer.kernel, count), checked_sizes("stride", layer.stride, count)
    padding = checked_sizes("padding", layer.padding, count, least=0)
    if any(sympy.sympify(k - 2 * p).is_negative for k, p in zip(kernel, padding, strict=True)):
        raise ShapeError(f"padding {padding} is more than half of the kernel {kernel}")
    if count == 3 and any(sympy.sympify(n - k).is_negative for n, k in zip(shape[1:], kernel, strict=True)):
        raise ShapeError(f"the volume {shape[1:]} is smaller than the kernel {kernel}, which torch refuses")
    if layer.divisor is not None:
        checked_size("divisor", layer.divisor)
    each = zip(shape[1:], kernel, stride, padding, strict=True)
    return (shape[0], *(windows(n, k, s, p, ceil_mode=layer.ceil_mode) for n, k, s, p in each))


def adaptive_average_pool_shape(site: Site) -> Shape:
    """Shape of adaptive average pooling."""
    count = _ADAPTIVE_AVERAGES[type(site.layer)]
    shape = input_shape(site, _FORM[count], count + 1)
    return (shape[0], *checked_sizes("output", site.layer.output, count))


# ---- gains ------------------------------------------------------------------------------------------------------


@rule(layers.AvgPool1d, quantity=Quantity.GAIN, reference=_OWN)
@rule(layers.AvgPool2d, quantity=Quantity.GAIN, reference=_OWN)
@rule(layers.AvgPool3d, quantity=Quantity.GAIN, reference=_OWN)
def average_pool_gain(site: Site) -> Claim:
    """Gain of average pooling.

    Statement: where every window is divided by its size k, per dimension at most
    ``sqrt(k (2q+1) - s q (q+1)) / k`` with ``q = ceil(k/s) - 1``; attained in the limit of large inputs.  Where windows
    at the ends are divided by fewer (padding that does not count, windows that reach beyond it), per dimension at most
    the root of the largest row sum of A A^T or of A^T A for the 0-1-average matrix A.  With a divisor D, the first
    times the product of k over D.  Conditions: none.  Proof: the pool in one dimension is a nonnegative matrix A;
    ``||A||^2 = ||A A^T|| = ||A^T A||`` is at most the largest row sum of either.  Windows m steps apart overlap in at
    most k - s m entries, so with the divisor k the row sums of A A^T are at most
    ``(k + 2 sum_{m=1}^{q} (k - s m)) / k^2``.  In several dimensions A is a Kronecker product.

    >>> average_pool_gain(Site.of(layers.AvgPool2d((2, 2), (2, 2)), inputs=((8, 6, 6),))).expression
    1/2
    >>> average_pool_gain(Site.of(layers.AvgPool1d((2,), (2,), ceil_mode=True), inputs=((8, 5),))).expression
    1
    """
    layer, square = site.layer, sympy.Integer(1)
    each = zip(site.inputs[0][1:], site.output[1:], layer.kernel, layer.stride, layer.padding, strict=True)
    for n, m, k, s, p in each:
        k, s, p = concrete(k, "kernel"), concrete(s, "stride"), concrete(p, "padding")
        if layer.divisor is not None:
            square *= _even_square(k, s) * k * k
        elif (layer.count_include_pad or p == 0) and not layer.ceil_mode:
            square *= _even_square(k, s)
        else:
            n, m = concrete(n, "input size"), concrete(m, "output size")
            square *= _uneven_square(n, m, k, s, p, zeros_count=layer.count_include_pad)
    if layer.divisor is not None:
        square /= sympy.Integer(layer.divisor) ** 2
    return Claim(Relation.LE, sympy.sqrt(square), _OWN)


def _even_square(k: int, s: int) -> sympy.Expr:
    """Largest row sum of A A^T where every window is divided by k."""
    q = -(-k // s) - 1
    return sympy.Rational(k * (2 * q + 1) - s * q * (q + 1), k * k)


def _uneven_square(n: int, m: int, k: int, s: int, p: int, *, zeros_count: bool) -> sympy.Expr:
    """Largest row sum of A A^T or of A^T A, the smaller, for m windows over n entries.

    Only rows within a few windows of an end differ from those of a large input: whole strides are left out of the
    middle.
    """
    least = 8 * (k + s + p)
    if n > least:
        left_out = (n - least) // s
        n, m = n - left_out * s, m - left_out
    low, high = (-p, n + p) if zeros_count else (0, n)
    starts = [i * s - p for i in range(m)]
    divisors = [min(start + k, high) - max(start, low) for start in starts]
    if set(divisors) == {k}:
        return _even_square(k, s)
    entries = [set(range(max(start, 0), min(start + k, n))) for start in starts]
    rows, columns = [Fraction(0)] * m, [Fraction(0)] * n
    for i in range(m):
        for j in range(max(0, i - k // s), min(m, i + k // s + 1)):
            rows[i] += Fraction(len(entries[i] & entries[j]), divisors[i] * divisors[j])
        for entry in entries[i]:
            columns[entry] += Fraction(len(entries[i]), divisors[i] ** 2)
    return _rational(min(max(rows), max(columns)))


def _rational(number: Fraction) -> sympy.Expr:
    return sympy.Rational(number.numerator, number.denominator)


@rule(layers.AdaptiveAvgPool1d, quantity=Quantity.GAIN, reference=_OWN)
@rule(layers.AdaptiveAvgPool2d, quantity=Quantity.GAIN, reference=_OWN)
@rule(layers.AdaptiveAvgPool3d, quantity=Quantity.GAIN, reference=_OWN)
def adaptive_average_pool_gain(site: Site) -> Claim:
    """Gain of adaptive average pooling from n to m entries, per dimension.

    Statement: ``sqrt(m/n)`` if one of m, n divides the other (exact; the global pool has gain 1/sqrt(H W)), else at
    most ``sqrt(||A||_inf ||A||_1)`` for the 0-1-average matrix A.  Conditions: none.  Proof: in the first case the
    windows are disjoint and of one size, or repeat single entries; the second is Riesz-Thorin between l1 and
    l-infinity.  The map is a Kronecker product over dimensions.

    >>> adaptive_average_pool_gain(Site.of(layers.AdaptiveAvgPool2d((1, 1)), inputs=((512, 7, 7),))).expression
    1/7
    """
    square, exact = sympy.Integer(1), True
    for n, m in zip(site.inputs[0][1:], site.layer.output, strict=True):
        if m == 1:
            square = square / n
            continue
        n, m = concrete(n, "input size"), concrete(m, "output size")
        if n % m == 0 or m % n == 0:
            square *= sympy.Rational(m, n)
        else:
            square *= _riesz_thorin_square(n, m)
            exact = False
    return Claim(Relation.EQ if exact else Relation.LE, sympy.sqrt(square), _OWN)


def _riesz_thorin_square(n: int, m: int) -> sympy.Expr:
    """``||A||_inf ||A||_1`` of the averaging matrix torch uses: window i is [floor(i n/m), ceil((i+1) n/m)).

    ``||A||_inf`` is 1.  Large sizes get a bound on the column sums: at most ceil(m/n) + 1 windows cover an entry, and
    none is shorter than ceil(n/m).
    """
    if n + m > _MOST_ENTRIES:
        return sympy.Rational(-(-m // n) + 1, -(-n // m))
    column = [Fraction(0)] * n
    for i in range(m):
        start, end = i * n // m, -(-(i + 1) * n // m)
        for j in range(start, end):
            column[j] += Fraction(1, end - start)
    return _rational(max(column))


# ---- everything else --------------------------------------------------------------------------------------------


def average_pool_jacobian_variance(site: Site) -> Claim:
    """``||A J||_F^2 <= ||A||^2 ||J||_F^2``."""
    gain = average_pool_gain(site) if type(site.layer) in _AVERAGES else adaptive_average_pool_gain(site)
    return Claim(Relation.LE, gain.expression**2, _OWN, status=Status.EXPECTED)


def linear_pool_symmetry(site: Site) -> Symmetry:
    """An average is linear, hence odd."""
    return Symmetry.ODD


for _kind in (*_AVERAGES, *_ADAPTIVE_AVERAGES):
    _shape = average_pool_shape if _kind in _AVERAGES else adaptive_average_pool_shape
    _torch = Reference("torch", f"nn.{_kind.__name__}")
    rule(_kind, quantity=Quantity.SHAPE, reference=_torch)(_shape)
    rule(_kind, quantity=Quantity.PARAMETERS, reference=_torch)(no_parameters)
    rule(_kind, quantity=Quantity.JACOBIAN_VARIANCE, reference=_OWN)(average_pool_jacobian_variance)
    rule(_kind, quantity=Quantity.SYMMETRY, reference=_OWN)(linear_pool_symmetry)
