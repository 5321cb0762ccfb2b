"""Batch norm in evaluation, by itself and folded into the layer before it."""

from __future__ import annotations

from dataclasses import replace

import sympy

from fimtheory import layers
from fimtheory.claims import Claim, Quantity, Reference, Relation, Status
from fimtheory.ensemble import Initial, Parameter, Parameters, scale_and_shift
from fimtheory.errors import ShapeError
from fimtheory.layers import Shape
from fimtheory.registry import Site, rule
from fimtheory.sizes import adds_windows, checked_number, checked_size, expect
from fimtheory.symmetry import Symmetry

__all__ = ["batch_norm_gain", "folded_batch_norm_gain"]

_REFERENCE = Reference("gouk2021", "section 3.3")
_FORMS = {
    layers.BatchNorm1d: ("(channels,) or (channels, length)", (1, 2)),
    layers.BatchNorm2d: ("(channels, height, width)", (3,)),
    layers.BatchNorm3d: ("(channels, depth, height, width)", (4,)),
}


@rule(layers.BatchNorm1d, quantity=Quantity.GAIN, reference=_REFERENCE)
@rule(layers.BatchNorm2d, quantity=Quantity.GAIN, reference=_REFERENCE)
@rule(layers.BatchNorm3d, quantity=Quantity.GAIN, reference=_REFERENCE)
def batch_norm_gain(site: Site) -> Claim:
    """Gain of batch norm in evaluation: ``max_c |gamma_c| / sqrt(var_c + eps)``.

    Conditions: none.  Proof: it multiplies channel c by that number and shifts it.

    >>> batch_norm_gain(Site.of(layers.BatchNorm2d(3), inputs=((3, 8, 8),), node="bn")).expression
    bn
    """
    norm = site.measured("operator norm")
    return Claim(Relation.EQ, norm.symbol, _REFERENCE, measured=(norm,))


@rule(layers.Linear, layers.BatchNorm1d, quantity=Quantity.GAIN, reference=_REFERENCE)
@rule(layers.Conv1d, layers.BatchNorm1d, quantity=Quantity.GAIN, reference=_REFERENCE)
@rule(layers.Conv2d, layers.BatchNorm2d, quantity=Quantity.GAIN, reference=_REFERENCE)
@rule(layers.Conv3d, layers.BatchNorm3d, quantity=Quantity.GAIN, reference=_REFERENCE)
@rule(layers.ConvTranspose1d, layers.BatchNorm1d, quantity=Quantity.GAIN, reference=_REFERENCE)
@rule(layers.ConvTranspose2d, layers.BatchNorm2d, quantity=Quantity.GAIN, reference=_REFERENCE)
@rule(layers.ConvTranspose3d, layers.BatchNorm3d, quantity=Quantity.GAIN, reference=_REFERENCE)
def folded_batch_norm_gain(site: Site) -> Claim:
    """Gain of a linear map or convolution followed by batch norm in evaluation: one norm is taken, not two.

    Statement: the norm of the map whose row, or kernel of output channel, c is multiplied by
    ``gamma_c / sqrt(var_c + eps)``.  On tokens batch norm multiplies whole tokens, so there it is the product of both
    norms.  Conditions: none.  Proof: a composition of affine maps is affine, with the product of their linear parts; a
    matrix that acts on features and factors that act on tokens form a Kronecker product, whose norm is the product.

    >>> linear, norm = layers.Linear(3, 2), layers.BatchNorm1d(2)
    >>> folded_batch_norm_gain(Site.of(linear, norm, inputs=((3,),), node="f")).expression
    f2∘f1
    """
    if len(site.output) == 2 and isinstance(site.layers[0], layers.Linear):
        parts = tuple(
            replace(site, layers=(layer,), nodes=(node,)).measured("operator norm")
            for layer, node in zip(site.layers, site.nodes, strict=True)
        )
        return Claim(Relation.EQ, parts[0].symbol * parts[1].symbol, _REFERENCE, measured=parts)
    norm = site.measured("operator norm")
    relation = Relation.LE if adds_windows(site.layers[0]) else Relation.EQ
    return Claim(relation, norm.symbol, _REFERENCE, measured=(norm,))


def initial_batch_norm_variance(site: Site) -> Claim:
    """Batch norm at its initial statistics shrinks: ``E ||A J||_F^2 = E ||J||_F^2 / (1 + eps)``.

    Proof: mean 0, variance 1, scale 1 and shift 0 make it multiplication by ``1 / sqrt(1 + eps) <= 1``.

    >>> initial_batch_norm_variance(Site.of(layers.BatchNorm2d(3), inputs=((3, 8, 8),))).expression
    1
    """
    return Claim(Relation.LE, sympy.Integer(1), Reference("ioffe2015"), status=Status.EXPECTED)


def batch_norm_symmetry(site: Site) -> Symmetry:
    """Batch norm at its initial statistics is linear, hence odd."""
    return Symmetry.ODD


def batch_norm_shape(site: Site) -> Shape:
    """Shape of batch norm: that of its input."""
    (shape,), (form, dimensions) = site.inputs, _FORMS[type(site.layer)]
    if len(shape) not in dimensions:
        raise ShapeError(f"the input has shape {shape}; expected {form}")
    checked_number("eps", site.layer.eps, above=0.0)
    expect("channels", shape[0], checked_size("channels", site.layer.channels))
    return shape


def batch_norm_parameters(site: Site) -> Parameters:
    """Tensors of batch norm: scale, shift and running statistics."""
    channels = site.layer.channels
    return (
        *scale_and_shift((channels,)),
        Parameter("running_mean", (channels,), Initial.MEAN),
        Parameter("running_var", (channels,), Initial.VARIANCE),
        Parameter("num_batches_tracked", (), Initial.COUNT),
    )


for _kind in _FORMS:
    _torch = Reference("torch", f"nn.{_kind.__name__}")
    rule(_kind, quantity=Quantity.SHAPE, reference=_torch)(batch_norm_shape)
    rule(_kind, quantity=Quantity.PARAMETERS, reference=_torch)(batch_norm_parameters)
    rule(_kind, quantity=Quantity.JACOBIAN_VARIANCE, reference=Reference("ioffe2015"))(initial_batch_norm_variance)
    rule(_kind, quantity=Quantity.SYMMETRY, reference=Reference("ioffe2015"))(batch_norm_symmetry)
