"""Reductions over dimensions, and division by the norm along one."""

from __future__ import annotations

import sympy

from fimtheory import layers
from fimtheory.claims import Claim, Quantity, Reference, Relation, Status
from fimtheory.ensemble import no_parameters
from fimtheory.errors import ShapeError
from fimtheory.layers import Shape
from fimtheory.registry import Site, rule
from fimtheory.sizes import checked_dim, checked_dims, checked_number
from fimtheory.symmetry import Symmetry

__all__ = ["l2_normalize_gain", "l2_normalize_token_norm", "mean_gain", "selection_gain", "sum_gain"]

_MATRIX_ANALYSIS = Reference("horn2013", "section 5.6")
_OWN = Reference("fimtheory")


def _torch(where: str) -> Reference:
    return Reference("torch", where)


# ---- shapes -----------------------------------------------------------------------------------------------------


@rule(layers.Mean, quantity=Quantity.SHAPE, reference=_torch("aten.mean.dim"))
@rule(layers.Sum, quantity=Quantity.SHAPE, reference=_torch("aten.sum.dim_IntList"))
@rule(layers.Amax, quantity=Quantity.SHAPE, reference=_torch("aten.amax"))
@rule(layers.LogSumExp, quantity=Quantity.SHAPE, reference=_torch("aten.logsumexp"))
def _reduced(site: Site) -> Shape:
    (shape,), layer = site.inputs, site.layer
    dims = checked_dims(layer.dims, shape)
    if layer.keepdim:
        return tuple(1 if dim in dims else size for dim, size in enumerate(shape))
    if len(dims) == len(shape):
        raise ShapeError("nothing but a number would be left; set keepdim=True and reshape what it leaves")
    return tuple(size for dim, size in enumerate(shape) if dim not in dims)


@rule(layers.L2Normalize, quantity=Quantity.SHAPE, reference=_torch("nn.functional.normalize"))
def _l2_normalize(site: Site) -> Shape:
    checked_dim(site.layer.dim, site.inputs[0])
    checked_number("eps", site.layer.eps, above=0.0)
    return site.inputs[0]


# ---- gains ------------------------------------------------------------------------------------------------------


def _reduced_entries(site: Site) -> sympy.Expr:
    """Return how many entries are reduced to one."""
    return sympy.Mul(*(site.inputs[0][dim] for dim in site.layer.dims))


@rule(layers.Mean, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
def mean_gain(site: Site) -> Claim:
    """Gain of a mean over n entries: ``1 / sqrt(n)``.

    Conditions: none.  Proof: after a permutation the map is block diagonal with the row ``1^T / n`` in every block,
    whose norm is ``sqrt(n) / n``.

    >>> mean_gain(Site.of(layers.Mean((1, 2)), inputs=((512, 7, 7),))).expression
    1/7
    """
    return Claim(Relation.EQ, 1 / sympy.sqrt(_reduced_entries(site)), _MATRIX_ANALYSIS)


@rule(layers.Sum, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
def sum_gain(site: Site) -> Claim:
    """Gain of a sum over n entries: ``sqrt(n)``.

    Conditions: none.  Proof: after a permutation the map is block diagonal with the row ``1^T`` in every block.

    >>> sum_gain(Site.of(layers.Sum((0,)), inputs=((9, 4),))).expression
    3
    """
    return Claim(Relation.EQ, sympy.sqrt(_reduced_entries(site)), _MATRIX_ANALYSIS)


@rule(layers.Amax, quantity=Quantity.GAIN, reference=_OWN)
@rule(layers.LogSumExp, quantity=Quantity.GAIN, reference=_OWN)
def selection_gain(site: Site) -> Claim:
    """Gain 1: the largest entry, or the logarithm of a sum of exponentials, of disjoint groups of entries.

    Conditions: none.  Proof: both are maxima of ``<p, x> + H(p)`` over probability vectors p, with H zero or the
    entropy; for p that is best at y, the value at y exceeds that at x by at most ``<p, y - x> <= ||y - x||``, as
    ``||p|| <= 1``; squares of disjoint groups add.
    The gain of the maximum is attained where one entry exceeds the others, and that of the other approached there.

    >>> selection_gain(Site.of(layers.Amax((1,)), inputs=((9, 4),))).expression
    1
    """
    return Claim(Relation.EQ, sympy.Integer(1), _OWN)


@rule(layers.L2Normalize, quantity=Quantity.GAIN, reference=_OWN)
def l2_normalize_gain(site: Site) -> Claim:
    """``Lip(x -> x / max(||x||, eps)) = 1 / eps``.

    Conditions: eps > 0.  Proof: ``eps x / max(||x||, eps)`` is the nearest point of the ball of radius eps, and the
    nearest point of a convex set moves by no more than x does; inside the ball the map is ``x / eps``.

    >>> l2_normalize_gain(Site.of(layers.L2Normalize(0, 0.25), inputs=((5,),))).expression
    4
    """
    return Claim(Relation.EQ, 1 / sympy.Rational(site.layer.eps), _OWN)


@rule(layers.L2Normalize, quantity=Quantity.TOKEN_NORM, reference=_OWN)
def l2_normalize_token_norm(site: Site) -> Claim:
    """Norm of an output token: at most 1 where tokens are normalised, else at most the root of their length.

    Proof: a normalised vector has norm at most 1, hence so have its entries; a token is such a vector or collects one
    entry of each of as many as it has entries.

    >>> l2_normalize_token_norm(Site.of(layers.L2Normalize(0), inputs=((5, 9),))).expression
    3
    """
    (shape,) = site.inputs
    last = site.layer.dim == len(shape) - 1
    return Claim(Relation.LE, sympy.Integer(1) if last else sympy.sqrt(shape[-1]), _OWN)


# ---- growth and signs -------------------------------------------------------------------------------------------


def _squared(gain: Claim) -> Claim:
    return Claim(Relation.LE, gain.expression**2, gain.reference, status=Status.EXPECTED)


@rule(layers.Mean, quantity=Quantity.JACOBIAN_VARIANCE, reference=_MATRIX_ANALYSIS)
def mean_variance(site: Site) -> Claim:
    """``||A J||_F^2 <= ||A||^2 ||J||_F^2``."""
    return _squared(mean_gain(site))


@rule(layers.Sum, quantity=Quantity.JACOBIAN_VARIANCE, reference=_MATRIX_ANALYSIS)
def sum_variance(site: Site) -> Claim:
    """``||A J||_F^2 <= ||A||^2 ||J||_F^2``."""
    return _squared(sum_gain(site))


@rule(layers.Amax, quantity=Quantity.JACOBIAN_VARIANCE, reference=_OWN)
@rule(layers.LogSumExp, quantity=Quantity.JACOBIAN_VARIANCE, reference=_OWN)
def selection_variance(site: Site) -> Claim:
    """``||A J||_F^2 <= ||A||^2 ||J||_F^2`` for the Jacobian A at this input."""
    return _squared(selection_gain(site))


@rule(layers.L2Normalize, quantity=Quantity.JACOBIAN_VARIANCE, reference=_OWN)
def l2_normalize_variance(site: Site) -> Claim:
    """``||A J||_F^2 <= ||A||^2 ||J||_F^2`` for the Jacobian A at this input."""
    return _squared(l2_normalize_gain(site))


@rule(layers.Mean, quantity=Quantity.SYMMETRY, reference=_MATRIX_ANALYSIS)
@rule(layers.Sum, quantity=Quantity.SYMMETRY, reference=_MATRIX_ANALYSIS)
@rule(layers.L2Normalize, quantity=Quantity.SYMMETRY, reference=_OWN)
def reduction_symmetry(site: Site) -> Symmetry:
    """A linear map is odd, and so is division by the norm."""
    return Symmetry.ODD


for _kind in (layers.Mean, layers.Sum, layers.Amax, layers.LogSumExp, layers.L2Normalize):
    rule(_kind, quantity=Quantity.PARAMETERS, reference=_torch("Tensor"))(no_parameters)
