"""Layer norm and RMS norm: gain, output norm and growth of the Jacobian in the mean."""

from __future__ import annotations

import sympy

from fimtheory.claims import Claim, Quantity, Reference, Relation, Status
from fimtheory.ensemble import Initial, Parameter, Parameters, scale_and_shift
from fimtheory.errors import ShapeError
from fimtheory.layers import LayerNorm, LayerNormOver, RMSNorm, Shape
from fimtheory.registry import Site, measure, rule
from fimtheory.sizes import checked_number, checked_size, expect, same_shape
from fimtheory.steepness import steepness
from fimtheory.symmetry import Symmetry

__all__ = ["layer_norm_gain", "layer_norm_over_gain", "rms_norm_gain"]

CENTRED_SCALE = measure(
    "centred scale",
    suffix="g",
    latex=r"\lVert \operatorname{{diag}}(\gamma)(I - \tfrac{{1}}{{n}} \mathbf{{1}}\mathbf{{1}}^\top) \rVert_2",
    meaning="norm of the layer norm's centring and scaling",
)
LARGEST_SCALE = measure(
    "largest scale", suffix="s", latex=r"\max_k |\gamma_k|", meaning="largest absolute scale of the norm"
)
SHIFT_NORM = measure("shift norm", suffix="b", latex=r"\lVert \beta \rVert_2", meaning="norm of the layer norm's shift")
EPSILON = measure(
    "epsilon", suffix="eps", latex=r"\varepsilon", meaning="the constant added to the variance", exact=True
)
_RMS = Reference("zhang2019", "section 4")


# ---- layer norm -------------------------------------------------------------------------------------------------


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
    scale, (slope, epsilon, conditions) = site.measured("centred scale"), steepness(site)
    return Claim(
        Relation.LE if conditions else Relation.EQ,
        scale.symbol * slope,
        Reference("kim2021", "appendix N"),
        conditions,
        (scale, epsilon),
    )


@rule(LayerNormOver, quantity=Quantity.GAIN, reference=Reference("kim2021", "appendix N"))
def layer_norm_over_gain(site: Site) -> Claim:
    """Gain of layer norm over several dimensions: ``||diag(gamma) (I - 11^T/n)||_2 / sqrt(eps)``, n their entries.

    Statement: exact, on all inputs.  Conditions: none.  Proof: that of layer norm over one dimension of n entries.

    >>> layer_norm_over_gain(Site.of(LayerNormOver((2, 3)), inputs=((4, 2, 3),), node="ln")).expression
    ln_g/sqrt(ln_eps)
    """
    scale, epsilon = site.measured("centred scale"), site.measured("epsilon")
    gain = scale.symbol / sympy.sqrt(epsilon.symbol)
    return Claim(Relation.EQ, gain, Reference("kim2021", "appendix N"), measured=(scale, epsilon))


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
    slope, epsilon, conditions = steepness(site)
    return Claim(Relation.LE, slope**2, Reference("ba2016"), conditions, (epsilon,), Status.EXPECTED)


@rule(LayerNormOver, quantity=Quantity.JACOBIAN_VARIANCE, reference=Reference("ba2016"))
def layer_norm_over_jacobian_variance(site: Site) -> Claim:
    """``E ||J_out||_F^2 <= E ||J_in||_F^2 / eps``.

    Conditions: scale 1 and shift 0 (their initial values).  Proof: the gain bound with ``||P|| = 1``, applied column
    by column.
    """
    epsilon = site.measured("epsilon")
    return Claim(Relation.LE, 1 / epsilon.symbol, Reference("ba2016"), measured=(epsilon,), status=Status.EXPECTED)


@rule(LayerNorm, quantity=Quantity.SYMMETRY, reference=Reference("ba2016"))
@rule(LayerNormOver, quantity=Quantity.SYMMETRY, reference=Reference("ba2016"))
def layer_norm_symmetry(site: Site) -> Symmetry:
    """Layer norm with zero shift is odd."""
    return Symmetry.ODD


@rule(LayerNorm, quantity=Quantity.SHAPE, reference=Reference("torch", "nn.LayerNorm"))
@rule(RMSNorm, quantity=Quantity.SHAPE, reference=Reference("torch", "nn.RMSNorm"))
def last_dimension_shape(site: Site) -> Shape:
    """Shape of a norm over the last dimension: that of its input."""
    (shape,) = site.inputs
    checked_number("eps", site.layer.eps, above=0.0)
    expect("features in its last dimension", shape[-1], checked_size("features", site.layer.features))
    return shape


@rule(LayerNormOver, quantity=Quantity.SHAPE, reference=Reference("torch", "nn.LayerNorm"))
def last_dimensions_shape(site: Site) -> Shape:
    """Shape of a norm over the last dimensions: that of its input."""
    (shape,), over = site.inputs, site.layer.shape
    checked_number("eps", site.layer.eps, above=0.0)
    if not isinstance(over, tuple) or not over:
        raise ShapeError(f"shape is {over!r}; expected a tuple of at least one size, without the batch")
    sizes = tuple(checked_size("a dimension of shape", size) for size in over)
    if not same_shape(shape[-len(sizes) :], sizes):
        raise ShapeError(f"the last dimensions of the input {shape} are not {sizes}, which the layer is for")
    return shape


@rule(LayerNorm, quantity=Quantity.PARAMETERS, reference=Reference("torch", "nn.LayerNorm"))
def layer_norm_parameters(site: Site) -> Parameters:
    """Scale and shift of a layer norm."""
    return scale_and_shift((site.layer.features,))


@rule(LayerNormOver, quantity=Quantity.PARAMETERS, reference=Reference("torch", "nn.LayerNorm"))
def layer_norm_over_parameters(site: Site) -> Parameters:
    """Scale and shift of a layer norm over several dimensions."""
    return scale_and_shift(site.layer.shape)


# ---- RMS norm ---------------------------------------------------------------------------------------------------


@rule(RMSNorm, quantity=Quantity.GAIN, reference=_RMS)
def rms_norm_gain(site: Site) -> Claim:
    """Gain of RMS norm: ``max_k |gamma_k| / sqrt(v + eps)`` where the mean square of tokens is at least v.

    Statement: exact with v = 0, on all inputs.  Conditions: tokens have a mean square of at least v, if v > 0 is
    assumed.  Proof: with ``s^2 = mean(x^2) + eps`` the Jacobian is ``diag(gamma) (I - x x^T/(n s^2)) / s``, and the
    bracket is symmetric with the eigenvalues 1 and ``1 - ||x||^2/(n s^2) = eps/s^2 <= 1``, so the norm is at most
    ``max |gamma| / s``; equality at x = 0, where the Jacobian is ``diag(gamma) / sqrt(eps)``.

    >>> rms_norm_gain(Site.of(RMSNorm(4, 1e-6), inputs=((4,),), node="rms")).expression
    rms_s/sqrt(rms_eps)
    """
    scale, (slope, epsilon, conditions) = site.measured("largest scale"), steepness(site)
    return Claim(
        Relation.LE if conditions else Relation.EQ,
        scale.symbol * slope,
        _RMS,
        conditions,
        (scale, epsilon),
    )


@rule(RMSNorm, quantity=Quantity.TOKEN_NORM, reference=_RMS)
def rms_norm_token_norm(site: Site) -> Claim:
    """Norm of an output token: at most ``sqrt(n) max_k |gamma_k|`` for every input.

    Conditions: none.  Proof: the normalised token x/s has norm ``sqrt(n m / (m + eps)) < sqrt(n)``, m its mean square.

    >>> rms_norm_token_norm(Site.of(RMSNorm(4, 1e-6), inputs=((4,),), node="rms")).expression
    2*rms_s
    """
    scale = site.measured("largest scale")
    return Claim(Relation.LE, sympy.sqrt(site.layer.features) * scale.symbol, _RMS, measured=(scale,))


@rule(RMSNorm, quantity=Quantity.JACOBIAN_VARIANCE, reference=_RMS)
def rms_norm_jacobian_variance(site: Site) -> Claim:
    """``E ||J_out||_F^2 <= E ||J_in||_F^2 / (v + eps)`` where the mean square of tokens is at least v.

    Conditions: scale 1 (its initial value); tokens have a mean square of at least v, if assumed.  Proof: the gain
    bound, applied column by column.

    >>> rms_norm_jacobian_variance(Site.of(RMSNorm(4, 1e-6), inputs=((4,),), node="rms")).expression
    1/rms_eps
    """
    slope, epsilon, conditions = steepness(site)
    return Claim(Relation.LE, slope**2, _RMS, conditions, (epsilon,), Status.EXPECTED)


@rule(RMSNorm, quantity=Quantity.SYMMETRY, reference=_RMS)
def rms_norm_symmetry(site: Site) -> Symmetry:
    """RMS norm is odd."""
    return Symmetry.ODD


@rule(RMSNorm, quantity=Quantity.PARAMETERS, reference=Reference("torch", "nn.RMSNorm"))
def rms_norm_parameters(site: Site) -> Parameters:
    """Scale of an RMS norm."""
    return (Parameter("weight", (site.layer.features,), Initial.ONE),)
