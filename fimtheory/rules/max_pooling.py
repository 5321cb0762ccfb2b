"""Pooling by a maximum or another norm of windows: the gain counts the windows that one entry lies in."""

from __future__ import annotations

import math

import sympy

from fimtheory import layers
from fimtheory.claims import Claim, Quantity, Reference, Relation, Status
from fimtheory.ensemble import no_parameters
from fimtheory.errors import ShapeError
from fimtheory.layers import Shape, Size
from fimtheory.registry import Site, rule
from fimtheory.sizes import checked_sizes, concrete, covering, input_shape, windows
from fimtheory.symmetry import Symmetry

__all__ = ["adaptive_max_pool_gain", "lp_pool_gain", "max_pool_gain"]

_WINDOWS = Reference("tsuzuku2018", "appendix D")
_OWN = Reference("fimtheory")
_FORM = {1: "(channels, length)", 2: "(channels, height, width)", 3: "(channels, depth, height, width)"}
_MAXIMA = {layers.MaxPool1d: 1, layers.MaxPool2d: 2, layers.MaxPool3d: 3}
_ADAPTIVE_MAXIMA = {layers.AdaptiveMaxPool1d: 1, layers.AdaptiveMaxPool2d: 2, layers.AdaptiveMaxPool3d: 3}


# ---- shapes -----------------------------------------------------------------------------------------------------


def max_pool_shape(site: Site) -> Shape:
    """Shape of max pooling; every window must hold an entry, for the maximum of none is minus infinity."""
    layer, count = site.layer, _MAXIMA[type(site.layer)]
    shape = input_shape(site, _FORM[count], count + 1)
    kernel, stride = checked_sizes("kernel", layer.kernel, count), checked_sizes("stride", layer.stride, count)
    padding = checked_sizes("padding", layer.padding, count, least=0)
    dilation = checked_sizes("dilation", layer.dilation, count)
    result = [shape[0]]
    for n, k, s, p, d in zip(shape[1:], kernel, stride, padding, dilation, strict=True):
        if sympy.sympify(k - 2 * p).is_negative:
            raise ShapeError(f"padding {padding} is more than half of the kernel {kernel}")
        result.append(windows(n, k, s, p, d, layer.ceil_mode))
        _require_entries(n, k, s, p, d)
    return tuple(result)


def _require_entries(*sizes: Size) -> None:
    """Refuse a window that begins in the padding and steps over all entries; sizes that are symbols pass.

    Steps longer than the input are needed for that.  A window of such steps fits only if it has few of them.
    """
    if not all(isinstance(size, int) for size in sizes):
        return
    n, k, s, p, d = (int(size) for size in sizes)
    if d <= n:
        return
    for start in range(-p, 0, s):
        steps = -(start // d)
        if steps >= k or start + steps * d >= n:
            raise ShapeError(
                f"a window with dilation {d} steps over all {n} entries, and its maximum is minus infinity; "
                "use less padding or dilation"
            )


def adaptive_max_pool_shape(site: Site) -> Shape:
    """Shape of adaptive max pooling."""
    count = _ADAPTIVE_MAXIMA[type(site.layer)]
    shape = input_shape(site, _FORM[count], count + 1)
    return (shape[0], *checked_sizes("output", site.layer.output, count))


def lp_pool_shape(site: Site) -> Shape:
    """Shape of l_p pooling.

    Torch takes powers of entries, not of magnitudes: an odd p leaves negative sums, whose roots are not numbers.
    """
    layer, shape = site.layer, input_shape(site, _FORM[2], 3)
    if type(layer.norm_type) is not int or layer.norm_type < 1 or (layer.norm_type > 1 and layer.norm_type % 2):
        raise ShapeError(
            f"norm_type is {layer.norm_type!r}; expected 1 (the sum) or an even whole number: torch takes roots of "
            "sums of powers of entries, and with any other power those may be negative"
        )
    kernel, stride = checked_sizes("kernel", layer.kernel, 2), checked_sizes("stride", layer.stride, 2)
    each = zip(shape[1:], kernel, stride, strict=True)
    return (shape[0], *(windows(n, k, s, ceil_mode=layer.ceil_mode) for n, k, s in each))


# ---- gains ------------------------------------------------------------------------------------------------------


@rule(layers.MaxPool1d, quantity=Quantity.GAIN, reference=_WINDOWS)
@rule(layers.MaxPool2d, quantity=Quantity.GAIN, reference=_WINDOWS)
@rule(layers.MaxPool3d, quantity=Quantity.GAIN, reference=_WINDOWS)
def max_pool_gain(site: Site) -> Claim:
    """Gain of max pooling: the square root of the largest number of windows an entry can be the maximum of.

    Statement: per dimension ``sqrt(min(ceil(k gcd(s, d) / s), n_out))``, k the kernel, s the stride, d the dilation.
    Conditions: none.  Proof: J selects entries, J^T J is diagonal and counts the windows that select each one; a
    window at m s covers the entries m s + j d, and an entry lies in at most that many of them.  The 3x3/2 pool
    at the stem of a ResNet has gain 2.

    >>> max_pool_gain(Site.of(layers.MaxPool2d((3, 3), (2, 2), (1, 1)), inputs=((64, 112, 112),))).expression
    2
    """
    layer, product = site.layer, 1
    for k, s, d, m in zip(layer.kernel, layer.stride, layer.dilation, site.output[1:], strict=True):
        product *= covering(k, s, d, m)
    return Claim(Relation.LE, sympy.sqrt(product), _WINDOWS)


@rule(layers.AdaptiveMaxPool1d, quantity=Quantity.GAIN, reference=_WINDOWS)
@rule(layers.AdaptiveMaxPool2d, quantity=Quantity.GAIN, reference=_WINDOWS)
@rule(layers.AdaptiveMaxPool3d, quantity=Quantity.GAIN, reference=_WINDOWS)
def adaptive_max_pool_gain(site: Site) -> Claim:
    """Gain of adaptive max pooling: the square root of the largest number of windows an entry lies in.

    Statement: from n to m entries, with m/n = a/b in lowest terms, per dimension ``sqrt(ceil((a + b - 1) / b))``; 1 for
    the global maximum.  Conditions: none.  Proof: as for max pooling; window i is [floor(i n/m), ceil((i+1) n/m)), so
    the entry j lies in the windows from floor(j a/b) to ceil((j+1) a/b) - 1, which are most where j a/b exceeds a whole
    number by (b - 1)/b, as it does for some j < b.

    >>> adaptive_max_pool_gain(Site.of(layers.AdaptiveMaxPool2d((1, 1)), inputs=((512, 7, 7),))).expression
    1
    """
    product = 1
    for n, m in zip(site.inputs[0][1:], site.layer.output, strict=True):
        if m != 1:
            n, m = concrete(n, "input size"), concrete(m, "output size")
            common = math.gcd(n, m)
            a, b = m // common, n // common
            product *= -(-(a + b - 1) // b)
    return Claim(Relation.LE, sympy.sqrt(product), _WINDOWS)


@rule(layers.LpPool2d, quantity=Quantity.GAIN, reference=_OWN)
def lp_pool_gain(site: Site) -> Claim:
    """Gain of l_p pooling.

    Statement: the root of the product over dimensions of ``c r``, c the largest number of windows an entry lies in
    (see max pooling) and r = k / k' where a last window holds k' < k entries (ceil mode), else 1; for p = 1 times the
    root of the product of k.  Conditions: p is 1 or even.  Proof: torch computes ``(K/K')^(1/p) ||x_W||_p`` for a
    window W of K' entries, K the product of k.  For p >= 2, ``|| ||_p <= || ||_2``, so y and y' for the inputs x and x'
    have ``||y - y'||^2 <= sum_W (K/K')^(2/p) ||x_W - x'_W||_2^2 <= max_W (K/K') c ||x - x'||^2``; for p = 1 it is a
    sum, and the square of a sum of K' entries is at most K' times the sum of squares, where ``(K/K')^2 K' = (K/K') K``.

    >>> lp_pool_gain(Site.of(layers.LpPool2d(2, (3, 3), (2, 2)), inputs=((8, 7, 7),))).expression
    2
    """
    layer, square = site.layer, sympy.Integer(1)
    for n, m, k, s in zip(site.inputs[0][1:], site.output[1:], layer.kernel, layer.stride, strict=True):
        square *= covering(k, s, 1, m)
        if layer.ceil_mode:
            last = concrete(n, "input size") - (concrete(m, "output size") - 1) * s
            square *= sympy.Rational(k, min(k, last))
        if layer.norm_type == 1:
            square *= k
    return Claim(Relation.LE, sympy.sqrt(square), _OWN)


# ---- everything else --------------------------------------------------------------------------------------------


_SHAPES = {
    **dict.fromkeys(_MAXIMA, max_pool_shape),
    **dict.fromkeys(_ADAPTIVE_MAXIMA, adaptive_max_pool_shape),
    layers.LpPool2d: lp_pool_shape,
}
_GAINS = {
    **dict.fromkeys(_MAXIMA, max_pool_gain),
    **dict.fromkeys(_ADAPTIVE_MAXIMA, adaptive_max_pool_gain),
    layers.LpPool2d: lp_pool_gain,
}


def max_pool_jacobian_variance(site: Site) -> Claim:
    """``||A J||_F^2 <= ||A||^2 ||J||_F^2`` for the Jacobian A at this input."""
    gain = _GAINS[type(site.layer)](site)
    return Claim(Relation.LE, gain.expression**2, gain.reference, status=Status.EXPECTED)


@rule(layers.LpPool2d, quantity=Quantity.SYMMETRY, reference=_OWN)
def lp_pool_symmetry(site: Site) -> Symmetry:
    """Return ODD for the sum; a norm is even."""
    return Symmetry.ODD if site.layer.norm_type == 1 else Symmetry.BROKEN


for _kind in _GAINS:
    _torch = Reference("torch", f"nn.{_kind.__name__}")
    rule(_kind, quantity=Quantity.SHAPE, reference=_torch)(_SHAPES[_kind])
    rule(_kind, quantity=Quantity.PARAMETERS, reference=_torch)(no_parameters)
    rule(_kind, quantity=Quantity.JACOBIAN_VARIANCE, reference=_WINDOWS)(max_pool_jacobian_variance)
