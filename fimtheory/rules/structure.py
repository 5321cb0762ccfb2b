"""Layers that move numbers about: every one is an isometry onto its image, a selection, or a shift."""

from __future__ import annotations

import sympy

from fimtheory import layers
from fimtheory.claims import Claim, Quantity, Reference, Relation, Status
from fimtheory.registry import Site, rule
from fimtheory.symmetry import Symmetry

__all__ = ["softmax_gain", "unit_gain"]

_MATRIX_ANALYSIS = Reference("horn2013", "section 5.6")


@rule(layers.Flatten, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
@rule(layers.Reshape, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
@rule(layers.Permute, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
@rule(layers.Dropout, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
@rule(layers.Identity, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
@rule(layers.ClassToken, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
@rule(layers.PositionEmbedding, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
@rule(layers.SelectToken, quantity=Quantity.GAIN, reference=_MATRIX_ANALYSIS)
def unit_gain(site: Site) -> Claim:
    """Gain 1: the entries are permuted, kept, selected, shifted by constants or joined by constants.

    Conditions: none (dropout is in evaluation).  Proof: the Jacobian is a 0-1 matrix with orthonormal rows or
    columns.

    >>> unit_gain(Site.of(layers.Flatten(), inputs=((8, 2, 2),))).expression
    1
    """
    return Claim(Relation.EQ, sympy.Integer(1), _MATRIX_ANALYSIS)


@rule(layers.Flatten, quantity=Quantity.JACOBIAN_VARIANCE, reference=_MATRIX_ANALYSIS)
@rule(layers.Reshape, quantity=Quantity.JACOBIAN_VARIANCE, reference=_MATRIX_ANALYSIS)
@rule(layers.Permute, quantity=Quantity.JACOBIAN_VARIANCE, reference=_MATRIX_ANALYSIS)
@rule(layers.Dropout, quantity=Quantity.JACOBIAN_VARIANCE, reference=_MATRIX_ANALYSIS)
@rule(layers.Identity, quantity=Quantity.JACOBIAN_VARIANCE, reference=_MATRIX_ANALYSIS)
@rule(layers.ClassToken, quantity=Quantity.JACOBIAN_VARIANCE, reference=_MATRIX_ANALYSIS)
@rule(layers.PositionEmbedding, quantity=Quantity.JACOBIAN_VARIANCE, reference=_MATRIX_ANALYSIS)
@rule(layers.SelectToken, quantity=Quantity.JACOBIAN_VARIANCE, reference=_MATRIX_ANALYSIS)
def unit_variance(site: Site) -> Claim:
    """Factor 1: rows of J are permuted, kept, dropped or joined by zero rows."""
    return Claim(Relation.LE, sympy.Integer(1), _MATRIX_ANALYSIS, status=Status.EXPECTED)


@rule(layers.Flatten, quantity=Quantity.SYMMETRY, reference=_MATRIX_ANALYSIS)
@rule(layers.Reshape, quantity=Quantity.SYMMETRY, reference=_MATRIX_ANALYSIS)
@rule(layers.Permute, quantity=Quantity.SYMMETRY, reference=_MATRIX_ANALYSIS)
@rule(layers.Dropout, quantity=Quantity.SYMMETRY, reference=_MATRIX_ANALYSIS)
@rule(layers.Identity, quantity=Quantity.SYMMETRY, reference=_MATRIX_ANALYSIS)
@rule(layers.SelectToken, quantity=Quantity.SYMMETRY, reference=_MATRIX_ANALYSIS)
def linear_symmetry(site: Site) -> Symmetry:
    """A linear map is odd; the two embeddings add or join constants and are not."""
    return Symmetry.ODD


@rule(
    layers.Dropout,
    quantity=Quantity.TOKEN_NORM,
    reference=_MATRIX_ANALYSIS,
    needs=(Quantity.TOKEN_NORM,),
)
@rule(
    layers.Identity,
    quantity=Quantity.TOKEN_NORM,
    reference=_MATRIX_ANALYSIS,
    needs=(Quantity.TOKEN_NORM,),
)
def same_token_norm(site: Site) -> Claim:
    """The identity keeps the norm of tokens."""
    (norm,) = site.premises
    return Claim(Relation.LE, norm, _MATRIX_ANALYSIS)


@rule(layers.Softmax, quantity=Quantity.GAIN, reference=Reference("nair2025", "theorem 1"))
def softmax_gain(site: Site) -> Claim:
    """``Lip(x -> softmax(x / tau)) = 1 / (2 tau)``; of a single entry it is constant, and that an upper bound.

    Conditions: tau > 0.  Proof: the Jacobian is S_p / tau and ``||S_p|| <= 1/2``: for unit u, ``u^T S_p u`` is the
    variance of a variable with range at most sqrt(2), at most 2/4 (Popoviciu).

    >>> softmax_gain(Site.of(layers.Softmax(), inputs=((5,),))).expression
    1/2
    """
    tau = sympy.Rational(site.layer.temperature)
    entries = site.inputs[0][-1]
    relation = Relation.EQ if isinstance(entries, int) and entries > 1 else Relation.LE
    return Claim(relation, 1 / (2 * tau), Reference("nair2025", "theorem 1"))


@rule(layers.Softmax, quantity=Quantity.JACOBIAN_VARIANCE, reference=Reference("nair2025", "theorem 1"))
def softmax_variance(site: Site) -> Claim:
    """The gain squared."""
    return Claim(
        Relation.LE,
        softmax_gain(site).expression ** 2,
        Reference("nair2025", "theorem 1"),
        status=Status.EXPECTED,
    )


@rule(
    layers.Softmax,
    quantity=Quantity.TOKEN_NORM,
    reference=Reference("nair2025"),
)
def softmax_token_norm(site: Site) -> Claim:
    """Probabilities have l2 norm at most 1."""
    return Claim(Relation.LE, sympy.Integer(1), Reference("nair2025"))
