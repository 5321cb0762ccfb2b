"""Layer norm: gain, output norm and growth of the Jacobian in the mean."""

from __future__ import annotations

import sympy

from fimtheory.claims import Claim, Condition, Quantity, Reference, Relation, Status
from fimtheory.layers import LayerNorm
from fimtheory.registry import Site, measure, rule
from fimtheory.symmetry import Symmetry

__all__ = ["layer_norm_gain", "layer_norm_jacobian_variance", "layer_norm_token_norm"]

CENTRED_SCALE = measure(
    "centred scale",
    suffix="g",
    latex=r"\lVert \operatorname{{diag}}(\gamma)(I - \tfrac{{1}}{{n}} \mathbf{{1}}\mathbf{{1}}^\top) \rVert_2",
    meaning="norm of the layer norm's centring and scaling",
)
SHIFT_NORM = measure("shift norm", suffix="b", latex=r"\lVert \beta \rVert_2", meaning="norm of the layer norm's shift")
EPSILON = measure(
    "epsilon", suffix="eps", latex=r"\varepsilon", meaning="the constant added to the variance", exact=True
)


def _variance_floor(site: Site) -> tuple[sympy.Expr, tuple[Condition, ...]]:
    if site.token_variance is None:
        return sympy.Integer(0), ()
    statement = f"Every token that enters a layer norm has variance at least ${sympy.latex(site.token_variance)}$."
    return site.token_variance, (Condition(statement),)


@rule(LayerNorm, quantity=Quantity.GAIN, reference=Reference("kim2021", "appendix N"))
def layer_norm_gain(site: Site) -> Claim:
    """Gain of layer norm: ``||diag(gamma) (I - 11^T/n)||_2 / sqrt(v + eps)`` where the token variance is at least v.

    Statement: exact with v = 0, on all inputs.  Conditions: token variance at least v, if v > 0 is assumed.
    Proof: with ``s^2 = var + eps`` and ``P = I - 11^T/n`` the Jacobian is ``diag(gamma) (P - c c^T/(n s^2)) / s``,
    c = P x.  The bracket is P times a symmetric contraction, so the norm is at most ``||diag(gamma) P|| / s``;
    equality at constant inputs, where c = 0 and s^2 = eps.

    >>> layer_norm_gain(Site.of(LayerNorm(4), inputs=((4,),), node="ln")).expression
    ln_g/sqrt(ln_eps)
    """
    scale, epsilon = site.measured("centred scale"), site.measured("epsilon")
    floor, conditions = _variance_floor(site)
    return Claim(
        Relation.LE if conditions else Relation.EQ,
        scale.symbol / sympy.sqrt(floor + epsilon.symbol),
        Reference("kim2021", "appendix N"),
        conditions,
        (scale, epsilon),
    )


@rule(LayerNorm, quantity=Quantity.TOKEN_NORM, reference=Reference("ba2016"))
def layer_norm_token_norm(site: Site) -> Claim:
    """Norm of an output token: at most ``sqrt(n) ||diag(gamma) (I - 11^T/n)||_2 + ||beta||_2`` for every input.

    Conditions: none; this is what discharges the bounded-token assumption of attention.  Proof: the normalised
    token c/s lies in the range of P and has norm ``sqrt(n var / (var + eps)) < sqrt(n)``.

    >>> layer_norm_token_norm(Site.of(LayerNorm(4), inputs=((4,),), node="ln")).expression
    ln_b + 2*ln_g
    """
    scale, shift = site.measured("centred scale"), site.measured("shift norm")
    bound = sympy.sqrt(site.layer.features) * scale.symbol + shift.symbol
    return Claim(Relation.LE, bound, Reference("ba2016"), measured=(scale, shift))


@rule(LayerNorm, quantity=Quantity.JACOBIAN_VARIANCE, reference=Reference("ba2016"))
def layer_norm_jacobian_variance(site: Site) -> Claim:
    """``E ||J_out||_F^2 <= E ||J_in||_F^2 / (v + eps)`` where the token variance is at least v.

    Conditions: scale 1 and shift 0 (their initial values); token variance at least v, if assumed.  Proof: the gain
    bound with ``||P|| = 1``, applied column by column.

    >>> layer_norm_jacobian_variance(Site.of(LayerNorm(4), inputs=((4,),), node="ln")).expression
    1/ln_eps
    """
    epsilon = site.measured("epsilon")
    floor, conditions = _variance_floor(site)
    bound = 1 / (floor + epsilon.symbol)
    return Claim(Relation.LE, bound, Reference("ba2016"), conditions, (epsilon,), Status.EXPECTED)


@rule(LayerNorm, quantity=Quantity.SYMMETRY, reference=Reference("ba2016"))
def layer_norm_symmetry(site: Site) -> Symmetry:
    """Layer norm with zero shift is odd."""
    return Symmetry.ODD
