"""Norms over channels: group norm, local and global response normalisation."""

from __future__ import annotations

import sympy

from fimtheory.claims import Claim, Quantity, Reference, Relation, Status
from fimtheory.ensemble import Parameters, no_parameters, scale_and_shift
from fimtheory.errors import ShapeError
from fimtheory.layers import GlobalResponseNorm, GroupNorm, LocalResponseNorm, Shape
from fimtheory.registry import Site, measure, rule
from fimtheory.sizes import checked_dim, checked_dims, checked_number, checked_size, expect, quotient
from fimtheory.symmetry import Symmetry

__all__ = ["global_response_norm_gain", "group_norm_gain", "local_response_norm_gain"]

GROUP_SCALE = measure(
    "group scale",
    suffix="G",
    latex=r"\max_g \lVert \operatorname{{diag}}(\gamma_g)(I - \tfrac{{1}}{{n}} \mathbf{{1}}\mathbf{{1}}^\top) \rVert_2",
    meaning="largest norm over groups of the group norm's centring and scaling",
)
RESPONSE_GAIN = measure(
    "response gain",
    suffix="L",
    latex=r"k^{{-\beta}}\bigl(1 + 2\sqrt{{m}}\,(\beta/(\beta+1))^{{\beta+1}}\bigr)",
    meaning="gain of the local response normalisation over m channels",
)
_GROUPS = Reference("wu2018", "section 3.1")
_RESPONSES = Reference("krizhevsky2012", "section 3.3")
_GLOBAL = Reference("woo2023", "section 3")
_OWN = Reference("fimtheory")


# ---- group norm -------------------------------------------------------------------------------------------------


@rule(GroupNorm, quantity=Quantity.GAIN, reference=_GROUPS)
def group_norm_gain(site: Site) -> Claim:
    """Gain of group norm: ``max_g ||diag(gamma_g) (I - 11^T/n)||_2 / sqrt(eps)``, n the entries of a group.

    Statement: exact, on all inputs; gamma_g holds the scale of each entry of group g.  Where a channel has two entries
    or more, the norm is that of gamma's largest magnitude.  Conditions: none.  Proof: every group is a layer norm of
    its own, so the Jacobian is block diagonal.  Differences of two entries of one channel have mean zero, so centring
    keeps them, and the channel's scale multiplies them.

    >>> group_norm_gain(Site.of(GroupNorm(2, 4), inputs=((4, 8, 8),), node="gn")).expression
    gn_G/sqrt(gn_eps)
    """
    scale, epsilon = site.measured("group scale"), site.measured("epsilon")
    return Claim(Relation.EQ, scale.symbol / sympy.sqrt(epsilon.symbol), _GROUPS, measured=(scale, epsilon))


@rule(GroupNorm, quantity=Quantity.JACOBIAN_VARIANCE, reference=_GROUPS)
def group_norm_jacobian_variance(site: Site) -> Claim:
    """``E ||J_out||_F^2 <= E ||J_in||_F^2 / eps``.

    Conditions: scale 1 and shift 0 (their initial values).  Proof: the gain bound with the norm of centring, 1,
    applied column by column.
    """
    epsilon = site.measured("epsilon")
    return Claim(Relation.LE, 1 / epsilon.symbol, _GROUPS, measured=(epsilon,), status=Status.EXPECTED)


@rule(GroupNorm, quantity=Quantity.SYMMETRY, reference=_GROUPS)
def group_norm_symmetry(site: Site) -> Symmetry:
    """Group norm with zero shift is odd."""
    return Symmetry.ODD


@rule(GroupNorm, quantity=Quantity.SHAPE, reference=Reference("torch", "nn.GroupNorm"))
def group_norm_shape(site: Site) -> Shape:
    """Shape of group norm: that of its input."""
    (shape,), layer = site.inputs, site.layer
    checked_number("eps", layer.eps, above=0.0)
    expect("channels in its first dimension", shape[0], checked_size("channels", layer.channels))
    quotient(checked_size("groups", layer.groups), "channels", layer.channels)
    return shape


@rule(GroupNorm, quantity=Quantity.PARAMETERS, reference=Reference("torch", "nn.GroupNorm"))
def group_norm_parameters(site: Site) -> Parameters:
    """Scale and shift of a group norm, where it has them."""
    return scale_and_shift((site.layer.channels,)) if site.layer.affine else ()


# ---- local response normalisation -------------------------------------------------------------------------------


@rule(LocalResponseNorm, quantity=Quantity.GAIN, reference=Reference("fimtheory"))
def local_response_norm_gain(site: Site) -> Claim:
    """Gain of local response normalisation: at most ``k^-beta (1 + 2 sqrt(m) (beta/(beta+1))^(beta+1))``.

    m is the smaller of the window's size and the number of channels; at least ``k^-beta``, the gain at zero.
    Conditions: k > 0, alpha and beta nonnegative.  Proof: at one position let W_c be the window around channel c,
    a = alpha / size and ``d_c = k + a ||x_{W_c}||^2``.  Row c of the Jacobian is ``d_c^-beta`` at c, at most
    ``k^-beta``, minus ``2 a beta x_c d_c^(-beta-1) x_{W_c}``, whose norm is at most ``2 beta (d_c - k) d_c^(-beta-1)``
    as c lies in W_c; that is largest at ``d_c = k (beta+1)/beta``, where it is
    ``r = 2 k^-beta (beta/(beta+1))^(beta+1)``.  Rows of norm at most r whose supports hold a channel at most m times
    form a matrix of norm at most ``sqrt(m) r``.

    >>> local_response_norm_gain(Site.of(LocalResponseNorm(5), inputs=((8, 4, 4),), node="lrn")).expression
    lrn_L
    """
    gain = site.measured("response gain")
    return Claim(Relation.LE, gain.symbol, Reference("fimtheory"), measured=(gain,))


@rule(LocalResponseNorm, quantity=Quantity.JACOBIAN_VARIANCE, reference=Reference("fimtheory"))
def local_response_norm_jacobian_variance(site: Site) -> Claim:
    """``||A J||_F^2 <= ||A||^2 ||J||_F^2`` for the Jacobian A at this input."""
    gain = site.measured("response gain")
    return Claim(Relation.LE, gain.symbol**2, Reference("fimtheory"), measured=(gain,), status=Status.EXPECTED)


@rule(LocalResponseNorm, quantity=Quantity.SYMMETRY, reference=_RESPONSES)
def local_response_norm_symmetry(site: Site) -> Symmetry:
    """Every entry is divided by an even function, so the map is odd."""
    return Symmetry.ODD


@rule(LocalResponseNorm, quantity=Quantity.SHAPE, reference=Reference("torch", "nn.LocalResponseNorm"))
def local_response_norm_shape(site: Site) -> Shape:
    """Shape of local response normalisation: that of its input."""
    (shape,), layer = site.inputs, site.layer
    if len(shape) < 2:
        raise ShapeError(f"the input has shape {shape}; expected (channels, ...) with at least two dimensions")
    checked_size("size", layer.size)
    checked_number("alpha", layer.alpha, least=0.0)
    checked_number("beta", layer.beta, least=0.0)
    checked_number("k", layer.k, above=0.0)
    return shape


rule(LocalResponseNorm, quantity=Quantity.PARAMETERS, reference=Reference("torch", "nn.LocalResponseNorm"))(
    no_parameters
)


# ---- global response normalisation ------------------------------------------------------------------------------


@rule(GlobalResponseNorm, quantity=Quantity.GAIN, reference=_OWN)
def global_response_norm_gain(site: Site) -> Claim:
    """Gain of global response normalisation of C channels: ``C^(3/2)``, on all inputs and for every eps > 0.

    Statement: exact; approached where one channel is large, the others are small, and it grows as they shrink.
    Conditions: none.  Proof: let ``g_c = ||x_c||``, m their mean and ``q_c = g_c / (C (m + eps))``, so that q >= 0 has
    a sum below 1 and ``y_c = C q_c x_c``.  Inputs with a zero channel are a null set, on which the map is Lipschitz.
    Elsewhere a change of x_c orthogonal to x_c stays so and is multiplied by ``C q_c <= C <= C^(3/2)``.  Changes v_c
    along x_c become ``C q_c (2 v_c - q_c s)`` along x_c, s the sum of v; let ``||v|| = 1``.  A square is convex, so
    ``(2 v_c - q_c s)^2 <= (1 - q_c) 4 v_c^2 + q_c (2 v_c - s)^2``, which is at most ``4 (1 - q_c) + C q_c``, as v has
    the coefficients 1 and -1 in ``2 v_c - s``.  For C >= 2, ``C - q (4 (1 - q) + C q) = (1 - q) (C + (C - 4) q) >= 0``,
    so ``q_c^2 (2 v_c - q_c s)^2 <= C q_c``, which add to at most C; for C = 1 it is ``q^2 (2 - q)^2 <= 1``.  For q near
    (1, 0, ..., 0) and v = (1, -1, ..., -1) / sqrt(C) they add to nearly C.

    >>> global_response_norm_gain(Site.of(GlobalResponseNorm((0, 1), 2), inputs=((7, 7, 4),))).expression
    8
    """
    return Claim(Relation.EQ, sympy.sqrt(_channels(site)) ** 3, _OWN)


def _channels(site: Site) -> sympy.Expr:
    return sympy.sympify(site.inputs[0][site.layer.channel])


@rule(GlobalResponseNorm, quantity=Quantity.JACOBIAN_VARIANCE, reference=_OWN)
def global_response_norm_jacobian_variance(site: Site) -> Claim:
    """``||A J||_F^2 <= ||A||^2 ||J||_F^2`` for the Jacobian A at this input."""
    return Claim(Relation.LE, _channels(site) ** 3, _OWN, status=Status.EXPECTED)


@rule(GlobalResponseNorm, quantity=Quantity.SYMMETRY, reference=_GLOBAL)
def global_response_norm_symmetry(site: Site) -> Symmetry:
    """Every entry is multiplied by an even function, so the map is odd."""
    return Symmetry.ODD


@rule(GlobalResponseNorm, quantity=Quantity.SHAPE, reference=_GLOBAL)
def global_response_norm_shape(site: Site) -> Shape:
    """Shape of global response normalisation: that of its input."""
    (shape,), layer = site.inputs, site.layer
    dims = checked_dims(layer.dims, shape)
    if checked_dim(layer.channel, shape) in dims:
        raise ShapeError(f"channel is {layer.channel}, one of the dims {dims}; expected another dimension of {shape}")
    checked_number("eps", layer.eps, above=0.0)
    return shape


rule(GlobalResponseNorm, quantity=Quantity.PARAMETERS, reference=_GLOBAL)(no_parameters)
