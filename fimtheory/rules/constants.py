"""Layers that combine their input with a constant: shifts of gain 1, factors, and a constant matrix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sympy

from fimtheory import layers
from fimtheory.claims import Claim, Quantity, Reference, Relation, Status
from fimtheory.ensemble import Initial, Parameter, Parameters, no_parameters
from fimtheory.errors import ShapeError
from fimtheory.layers import Shape
from fimtheory.registry import Site, rule
from fimtheory.sizes import checked_dim, checked_number, checked_size, equal, expect, repeats_to, same_shape
from fimtheory.symmetry import Symmetry

__all__ = ["affine_gain", "factor_gain", "folded_constant_gain", "shifted_gain"]

_MATRIX_ANALYSIS = Reference("horn2013", "section 5.6")


def _torch(where: str) -> Reference:
    return Reference("torch", where)


# ---- shapes -----------------------------------------------------------------------------------------------------


def _sizes(shape: Any) -> Shape:
    if not isinstance(shape, tuple):
        raise ShapeError(f"shape is {shape!r}; expected the shape of the constant, a tuple of sizes")
    return tuple(checked_size("a dimension of the constant", size) for size in shape)


@rule(layers.AddConstant, quantity=Quantity.SHAPE, reference=_torch("aten.add"))
@rule(layers.MultiplyConstant, quantity=Quantity.SHAPE, reference=_torch("aten.mul"))
def _broadcast(site: Site) -> Shape:
    (shape,), constant = site.inputs, _sizes(site.layer.shape)
    if not repeats_to(constant, (1, *shape)):
        raise ShapeError(
            f"a constant of shape {constant} would enlarge an input of shape {shape}; put an Expand before it"
        )
    return shape


@rule(layers.ConcatConstant, quantity=Quantity.SHAPE, reference=_torch("aten.cat"))
def _concat_constant(site: Site) -> Shape:
    (shape,), constant = site.inputs, _sizes(site.layer.shape)
    dim = checked_dim(site.layer.dim, shape)
    joined = constant[1:] if len(constant) == len(shape) + 1 and equal(constant[0], 1) else constant
    if not same_shape(joined[:dim] + joined[dim + 1 :], shape[:dim] + shape[dim + 1 :]) or len(joined) != len(shape):
        raise ShapeError(f"cannot join a constant of shape {constant} to an input of shape {shape} along dim {dim}")
    return (*shape[:dim], sympy.expand(shape[dim] + joined[dim]), *shape[dim + 1 :])


@rule(layers.MatmulConstant, quantity=Quantity.SHAPE, reference=_torch("aten.matmul"))
def _matmul_constant(site: Site) -> Shape:
    (shape,), layer = site.inputs, site.layer
    matrix = _sizes(layer.shape)
    if len(matrix) != 2 or (layer.before and len(shape) < 2):
        raise ShapeError(
            f"cannot multiply an input of shape {shape} by a constant of shape {matrix}; expected matrices"
        )
    rows, columns = matrix
    if layer.before:
        expect("entries in its last dimension but one", shape[-2], columns)
        return (*shape[:-2], rows, shape[-1])
    expect("entries in its last dimension", shape[-1], rows)
    return (*shape[:-1], columns)


@rule(layers.Scale, quantity=Quantity.SHAPE, reference=_torch("aten.mul"))
def _scale(site: Site) -> Shape:
    checked_number("factor", site.layer.factor)
    return site.inputs[0]


@rule(layers.Shift, quantity=Quantity.SHAPE, reference=_torch("aten.add"))
def _shift(site: Site) -> Shape:
    checked_number("value", site.layer.value)
    return site.inputs[0]


# ---- tensors ----------------------------------------------------------------------------------------------------

rule(layers.Scale, quantity=Quantity.PARAMETERS, reference=_torch("aten.mul"))(no_parameters)
rule(layers.Shift, quantity=Quantity.PARAMETERS, reference=_torch("aten.add"))(no_parameters)


@rule(layers.AddConstant, quantity=Quantity.PARAMETERS, reference=_torch("aten.add"))
def _zeros(site: Site) -> Parameters:
    return (Parameter("", site.layer.shape, Initial.ZERO),)


@rule(layers.MultiplyConstant, quantity=Quantity.PARAMETERS, reference=_torch("aten.mul"))
def _ones(site: Site) -> Parameters:
    return (Parameter("", site.layer.shape, Initial.ONE),)


@rule(layers.ConcatConstant, quantity=Quantity.PARAMETERS, reference=Reference("dosovitskiy2021", "sec. 3.1"))
def _token(site: Site) -> Parameters:
    return (Parameter("", site.layer.shape, Initial.TOKEN),)


@rule(layers.MatmulConstant, quantity=Quantity.PARAMETERS, reference=Reference("he2015", "eq. (10)"))
def _matrix(site: Site) -> Parameters:
    rows, columns = site.layer.shape
    return (Parameter("", site.layer.shape, Initial.WEIGHT, columns if site.layer.before else rows),)


# ---- shifts -----------------------------------------------------------------------------------------------------


@rule(layers.AddConstant, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
@rule(layers.ConcatConstant, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
@rule(layers.Shift, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
def shifted_gain(site: Site) -> Claim:
    """Gain 1: a constant is added to the input, or put beside it.

    Conditions: none.  Proof: the constant cancels in every difference of two outputs.

    >>> shifted_gain(Site.of(layers.Shift(3.0), inputs=((8,),))).expression
    1
    """
    return Claim(Relation.EQ, sympy.Integer(1), _MATRIX_ANALYSIS)


@rule(layers.AddConstant, quantity=Quantity.JACOBIAN_VARIANCE, reference=_MATRIX_ANALYSIS)
@rule(layers.ConcatConstant, quantity=Quantity.JACOBIAN_VARIANCE, reference=_MATRIX_ANALYSIS)
@rule(layers.Shift, quantity=Quantity.JACOBIAN_VARIANCE, reference=_MATRIX_ANALYSIS)
def shifted_variance(site: Site) -> Claim:
    """Factor 1: J stays as it is, or is joined by zero rows."""
    return Claim(Relation.LE, sympy.Integer(1), _MATRIX_ANALYSIS, status=Status.EXPECTED)


# ---- factors ----------------------------------------------------------------------------------------------------


@rule(layers.Scale, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
def factor_gain(site: Site) -> Claim:
    """``Lip(x -> a x) = |a|``, a the rational number that the float is.

    Conditions: none.  Proof: ``||a x - a y|| = |a| ||x - y||``.

    >>> factor_gain(Site.of(layers.Scale(-0.125), inputs=((8,),))).expression
    1/8
    """
    return Claim(Relation.EQ, abs(sympy.Rational(site.layer.factor)), _MATRIX_ANALYSIS)


@rule(layers.MultiplyConstant, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
@rule(layers.MatmulConstant, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
def affine_gain(site: Site) -> Claim:
    """Gain of a product with a constant: the largest magnitude of the factors, or the norm of the matrix.

    Statement: ``Lip(x -> c x) = max_k |c_k|`` and ``Lip(X -> X W) = Lip(X -> W X) = ||W||_2``.  Conditions: none.
    Proof: the first map is diag(c); the other two apply W^T or W to every row or column of X by itself, so their
    matrices are block diagonal with equal blocks.

    >>> affine_gain(Site.of(layers.MultiplyConstant((3, 1, 1)), inputs=((3, 8, 8),), node="c")).expression
    c
    """
    norm = site.measured("operator norm")
    return Claim(Relation.EQ, norm.symbol, _MATRIX_ANALYSIS, measured=(norm,))


@rule(layers.Conv2d, layers.MultiplyConstant, quantity=Quantity.GAIN, reference=Reference("gouk2021", "section 3.3"))
@rule(layers.Linear, layers.MultiplyConstant, quantity=Quantity.GAIN, reference=Reference("gouk2021", "section 3.3"))
def folded_constant_gain(site: Site) -> Claim:
    """Gain of a weight layer followed by a constant factor: one norm where the factor is per channel or feature.

    Statement: with one factor c_k for each channel (or feature) the run is the weight layer whose row k is multiplied
    by c_k, and the gain is its norm; for any other constant it is at most ``||A|| max_k |c_k|``.  Conditions: none.
    Proof: a product of linear maps is linear, and the norm submultiplicative.

    >>> conv = layers.Conv2d(2, 3, (1, 1))
    >>> folded_constant_gain(Site.of(conv, layers.MultiplyConstant((3, 1, 1)), inputs=((2, 8, 8),))).expression
    f2∘f1
    >>> folded_constant_gain(Site.of(conv, layers.MultiplyConstant((8,)), inputs=((2, 8, 8),))).expression
    f1*f2
    """
    reference = Reference("gouk2021", "section 3.3")
    if _is_per_output(site):
        norm = site.measured("operator norm")
        return Claim(Relation.EQ, norm.symbol, reference, measured=(norm,))
    norms = tuple(
        replace(site, layers=(layer,), nodes=(node,)).measured("operator norm")
        for layer, node in zip(site.layers, site.nodes, strict=True)
    )
    return Claim(Relation.LE, sympy.Mul(*(norm.symbol for norm in norms)), reference, measured=norms)


def _is_per_output(site: Site) -> bool:
    """Whether the constant has one factor for each row of the weight, and no others."""
    weight, constant = site.layers
    assert isinstance(constant, layers.MultiplyConstant), "the rule is for runs that end in a factor"
    rows = len(site.output) - 1 if isinstance(weight, layers.Linear) else 0
    factors: Shape = (1, *(size if dim == rows else 1 for dim, size in enumerate(site.output)))
    aligned = factors[len(factors) - len(constant.shape) :]
    return same_shape(aligned, constant.shape) and equal(sympy.prod(aligned), site.output[rows])


@rule(layers.Scale, quantity=Quantity.JACOBIAN_VARIANCE, reference=_MATRIX_ANALYSIS)
def factor_variance(site: Site) -> Claim:
    """The factor squared."""
    square = sympy.Rational(site.layer.factor) ** 2
    return Claim(Relation.LE, square, _MATRIX_ANALYSIS, status=Status.EXPECTED)


@rule(layers.MultiplyConstant, quantity=Quantity.JACOBIAN_VARIANCE, reference=_MATRIX_ANALYSIS)
def initial_factor_variance(site: Site) -> Claim:
    """Factor 1: the constants start at one.

    >>> initial_factor_variance(Site.of(layers.MultiplyConstant((3,)), inputs=((3,),))).expression
    1
    """
    return Claim(Relation.LE, sympy.Integer(1), _MATRIX_ANALYSIS, status=Status.EXPECTED)


@rule(layers.MatmulConstant, quantity=Quantity.JACOBIAN_VARIANCE, reference=Reference("poole2016", "section 3"))
def random_matrix_variance(site: Site) -> Claim:
    """``E ||W J||_F^2 <= v E ||J||_F^2`` for independent zero-mean entries, as for a linear layer.

    >>> random_matrix_variance(Site.of(layers.MatmulConstant((3, 2)), inputs=((3,),), node="m")).expression
    m_v
    """
    growth = site.measured("mean square gain")
    reference = Reference("poole2016", "section 3")
    return Claim(Relation.LE, growth.symbol, reference, measured=(growth,), status=Status.EXPECTED)


@rule(layers.Scale, quantity=Quantity.SYMMETRY, reference=_MATRIX_ANALYSIS)
@rule(layers.MultiplyConstant, quantity=Quantity.SYMMETRY, reference=_MATRIX_ANALYSIS)
def factor_symmetry(site: Site) -> Symmetry:
    """A linear map is odd."""
    return Symmetry.ODD


@rule(layers.MatmulConstant, quantity=Quantity.SYMMETRY, reference=Reference("hanin2020", "section 2"))
def matrix_symmetry(site: Site) -> Symmetry:
    """Flipping the sign of all entries of the matrix flips the output."""
    return Symmetry.FRESH
