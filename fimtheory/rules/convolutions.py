"""Convolutions and transposed convolutions in one, two and three dimensions."""

from __future__ import annotations

import math

import sympy

from fimtheory import layers
from fimtheory.claims import Claim, Quantity, Reference, Relation, Status
from fimtheory.ensemble import Parameters, weight_and_bias
from fimtheory.errors import ShapeError
from fimtheory.layers import Shape, Size
from fimtheory.registry import Site, rule
from fimtheory.sizes import adds_windows, checked_size, checked_sizes, expect, input_shape, quotient, windows
from fimtheory.symmetry import Symmetry

__all__ = ["convolution_gain", "convolution_jacobian_variance"]

_FORM = {1: "(channels, length)", 2: "(channels, height, width)", 3: "(channels, depth, height, width)"}
_CONVOLUTIONS = {layers.Conv1d: 1, layers.Conv2d: 2, layers.Conv3d: 3}
_TRANSPOSED = {layers.ConvTranspose1d: 1, layers.ConvTranspose2d: 2, layers.ConvTranspose3d: 3}
_SYMBOL = Reference("sedghi2019", "theorem 6")
_WEIGHTS = Reference("poole2016", "section 3")


@rule(layers.Conv1d, quantity=Quantity.GAIN, reference=_SYMBOL)
@rule(layers.Conv2d, quantity=Quantity.GAIN, reference=_SYMBOL)
@rule(layers.Conv3d, quantity=Quantity.GAIN, reference=_SYMBOL)
@rule(layers.ConvTranspose1d, quantity=Quantity.GAIN, reference=_SYMBOL)
@rule(layers.ConvTranspose2d, quantity=Quantity.GAIN, reference=_SYMBOL)
@rule(layers.ConvTranspose3d, quantity=Quantity.GAIN, reference=_SYMBOL)
def convolution_gain(site: Site) -> Claim:
    """Gain of a convolution, or of a transposed one: the norm of its linear part.

    Statement: ``Lip(x -> A x + b) = ||A||_2``; a transposed convolution has the norm of the convolution with the same
    kernel that maps its outputs to its inputs, or less where output padding makes room for one more window, which is
    not among the inputs.  Conditions: none.  Proof: ``||A x - A y|| <= ||A|| ||x - y||``, with
    equality for x - y along a right singular vector; adjoints have equal norms.

    >>> convolution_gain(Site.of(layers.Conv1d(3, 2, (5,)), inputs=((3, 8),), node="conv")).expression
    conv
    """
    norm = site.measured("operator norm")
    relation = Relation.LE if adds_windows(site.layer) else Relation.EQ
    return Claim(relation, norm.symbol, _SYMBOL, measured=(norm,))


@rule(layers.Conv1d, quantity=Quantity.JACOBIAN_VARIANCE, reference=_WEIGHTS)
@rule(layers.Conv2d, quantity=Quantity.JACOBIAN_VARIANCE, reference=_WEIGHTS)
@rule(layers.Conv3d, quantity=Quantity.JACOBIAN_VARIANCE, reference=_WEIGHTS)
@rule(layers.ConvTranspose1d, quantity=Quantity.JACOBIAN_VARIANCE, reference=_WEIGHTS)
@rule(layers.ConvTranspose2d, quantity=Quantity.JACOBIAN_VARIANCE, reference=_WEIGHTS)
@rule(layers.ConvTranspose3d, quantity=Quantity.JACOBIAN_VARIANCE, reference=_WEIGHTS)
def convolution_jacobian_variance(site: Site) -> Claim:
    """Mean square gain of a convolution with independent zero-mean weights of variance s^2 / fan_in.

    Statement: ``E ||W J||_F^2 <= v E ||J||_F^2`` with ``v = s^2 n_out / fan_in`` and n_out the most outputs that one
    input feeds: with c = ceil(k gcd(s, d) / s) per dimension, out_channels / groups times the product of c, as an input
    lies in at most c windows; for a transposed convolution times the product of k.  Conditions: W independent of J.
    Proof: every output sums distinct independent entries of W, so ``E ||W u||^2`` is the sum of ``u_k^2`` times the
    variance of every weight that ``u_k`` meets; sum over the columns u of J.

    >>> convolution_jacobian_variance(Site.of(layers.Conv1d(3, 2, (5,)), inputs=((3, 8),), node="conv")).expression
    conv_v
    """
    growth = site.measured("mean square gain")
    return Claim(Relation.LE, growth.symbol, _WEIGHTS, measured=(growth,), status=Status.EXPECTED)


def convolution_symmetry(site: Site) -> Symmetry:
    """Flipping the sign of all weights of the layer (biases are zero at random init) flips its output."""
    return Symmetry.FRESH


def convolution_shape(site: Site) -> Shape:
    """Shape of a convolution."""
    layer, count = site.layer, _CONVOLUTIONS[type(site.layer)]
    shape, channels = _channels(site, count)
    kernel, stride = checked_sizes("kernel", layer.kernel, count), checked_sizes("stride", layer.stride, count)
    padding = checked_sizes("padding", layer.padding, count, least=0)
    dilation = checked_sizes("dilation", layer.dilation, count)
    each = zip(shape[1:], kernel, stride, padding, dilation, strict=True)
    return (channels, *(windows(n, k, s, p, d) for n, k, s, p, d in each))


def transposed_convolution_shape(site: Site) -> Shape:
    """Shape of a transposed convolution: (n - 1) s - 2 p + d (k - 1) + o + 1 per dimension."""
    layer, count = site.layer, _TRANSPOSED[type(site.layer)]
    shape, channels = _channels(site, count)
    kernel, stride = checked_sizes("kernel", layer.kernel, count), checked_sizes("stride", layer.stride, count)
    padding = checked_sizes("padding", layer.padding, count, least=0)
    added = checked_sizes("output_padding", layer.output_padding, count, least=0)
    dilation = checked_sizes("dilation", layer.dilation, count)
    result = [channels]
    for n, k, s, p, o, d in zip(shape[1:], kernel, stride, padding, added, dilation, strict=True):
        if sympy.sympify(o - s).is_nonnegative and sympy.sympify(o - d).is_nonnegative:
            raise ShapeError(f"output_padding {o} is neither below the stride {s} nor below the dilation {d}")
        size = sympy.expand((n - 1) * s - 2 * p + d * (k - 1) + o + 1)
        if size.is_nonpositive:
            raise ShapeError(f"padding {p} leaves {size} entries of {size + 2 * p}; use less padding or a larger input")
        result.append(int(size) if size.is_Integer else size)
    return tuple(result)


def _channels(site: Site, count: int) -> tuple[Shape, Size]:
    """Return the input shape and the number of output channels, both of which the groups must divide."""
    shape, layer = input_shape(site, _FORM[count], count + 1), site.layer
    groups, channels = checked_size("groups", layer.groups), checked_size("out_channels", layer.out_channels)
    expect("channels", shape[0], checked_size("in_channels", layer.in_channels))
    quotient(groups, "in_channels", layer.in_channels)
    quotient(groups, "out_channels", channels)
    return shape, channels


def convolution_parameters(site: Site) -> Parameters:
    """Tensors of a convolution; every output sums over the inputs of one window."""
    layer = site.layer
    inputs = quotient(layer.groups, "in_channels", layer.in_channels)
    shape = (layer.out_channels, inputs, *layer.kernel)
    return weight_and_bias(shape, inputs * math.prod(layer.kernel), layer.out_channels, layer.bias)


def transposed_convolution_parameters(site: Site) -> Parameters:
    """Tensors of a transposed convolution; an output meets at most ceil(k gcd(s, d) / s) taps per dimension."""
    layer = site.layer
    inputs, outputs = (quotient(layer.groups, what, getattr(layer, what)) for what in ("in_channels", "out_channels"))
    meets = math.prod(
        sympy.ceiling(sympy.sympify(k) * sympy.gcd(s, d) / s)
        for k, s, d in zip(layer.kernel, layer.stride, layer.dilation, strict=True)
    )
    return weight_and_bias((layer.in_channels, outputs, *layer.kernel), inputs * meets, layer.out_channels, layer.bias)


for _kind in (*_CONVOLUTIONS, *_TRANSPOSED):
    _shape, _parameters = (
        (convolution_shape, convolution_parameters)
        if _kind in _CONVOLUTIONS
        else (transposed_convolution_shape, transposed_convolution_parameters)
    )
    rule(_kind, quantity=Quantity.SHAPE, reference=Reference("torch", f"nn.{_kind.__name__}"))(_shape)
    rule(_kind, quantity=Quantity.PARAMETERS, reference=Reference("he2015", "eq. (10)"))(_parameters)
    rule(_kind, quantity=Quantity.SYMMETRY, reference=Reference("hanin2020", "section 2"))(convolution_symmetry)
