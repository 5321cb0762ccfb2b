"""Softmax and its logarithm over a dimension of choice."""

from __future__ import annotations

import sympy

from fimtheory import layers
from fimtheory.claims import Claim, Quantity, Reference, Relation, Status
from fimtheory.ensemble import no_parameters
from fimtheory.layers import Shape
from fimtheory.registry import Site, rule
from fimtheory.sizes import checked_dim

__all__ = ["log_softmax_gain", "softmax_over_gain", "softmax_over_token_norm"]

_SOFTMAX = Reference("nair2025", "theorem 1")
_OWN = Reference("fimtheory")


@rule(layers.SoftmaxOver, quantity=Quantity.SHAPE, reference=Reference("torch", "softmax"))
@rule(layers.LogSoftmax, quantity=Quantity.SHAPE, reference=Reference("torch", "log_softmax"))
def _unchanged(site: Site) -> Shape:
    checked_dim(site.layer.dim, site.inputs[0])
    return site.inputs[0]


rule(layers.SoftmaxOver, quantity=Quantity.PARAMETERS, reference=Reference("torch", "softmax"))(no_parameters)
rule(layers.LogSoftmax, quantity=Quantity.PARAMETERS, reference=Reference("torch", "log_softmax"))(no_parameters)


def _approached(site: Site) -> Relation:
    """Both suprema are over probabilities of at least two entries; of one, the functions are constant."""
    entries = site.inputs[0][site.layer.dim]
    return Relation.EQ if isinstance(entries, int) and entries > 1 else Relation.LE


@rule(layers.SoftmaxOver, quantity=Quantity.GAIN, reference=_SOFTMAX)
def softmax_over_gain(site: Site) -> Claim:
    """``Lip(softmax) = 1/2``, over any dimension of at least two entries.

    Conditions: none.  Proof: the Jacobian is block diagonal with blocks ``S_p = diag(p) - p p^T``, one for each vector
    along the dimension, and ``||S_p|| <= 1/2``: for unit u, ``u^T S_p u`` is the variance of a variable with range at
    most sqrt(2), at most 2/4 (Popoviciu).  It is approached as two equal entries exceed all others.

    >>> softmax_over_gain(Site.of(layers.SoftmaxOver(0), inputs=((5, 2),))).expression
    1/2
    """
    return Claim(_approached(site), sympy.Rational(1, 2), _SOFTMAX)


@rule(layers.LogSoftmax, quantity=Quantity.GAIN, reference=_OWN)
def log_softmax_gain(site: Site) -> Claim:
    """``Lip(log softmax) = sqrt(n)`` over n entries, n at least two.

    Conditions: none.  Proof: the Jacobian is block diagonal with blocks ``A = I - 1 p^T``.  ``||A||`` is convex in p,
    hence largest at a vertex p = e_k of the simplex.  There row k vanishes and the others are e_j - e_k, so
    ``A A^T = I + 1 1^T`` on n - 1 entries, whose norm is n.  The vertex is approached as entry k exceeds all others.

    >>> log_softmax_gain(Site.of(layers.LogSoftmax(0), inputs=((9, 2),))).expression
    3
    """
    return Claim(_approached(site), sympy.sqrt(site.inputs[0][site.layer.dim]), _OWN)


@rule(layers.SoftmaxOver, quantity=Quantity.JACOBIAN_VARIANCE, reference=_SOFTMAX)
def softmax_over_variance(site: Site) -> Claim:
    """The gain squared."""
    return Claim(Relation.LE, softmax_over_gain(site).expression ** 2, _SOFTMAX, status=Status.EXPECTED)


@rule(layers.LogSoftmax, quantity=Quantity.JACOBIAN_VARIANCE, reference=_OWN)
def log_softmax_variance(site: Site) -> Claim:
    """The gain squared."""
    return Claim(Relation.LE, log_softmax_gain(site).expression ** 2, _OWN, status=Status.EXPECTED)


@rule(layers.SoftmaxOver, quantity=Quantity.TOKEN_NORM, reference=_SOFTMAX)
def softmax_over_token_norm(site: Site) -> Claim:
    """Norm of an output token: at most 1 where tokens hold probabilities, else at most the root of their length.

    Proof: squares of probabilities add up to at most their sum; a token across several distributions has entries of
    at most 1.

    >>> softmax_over_token_norm(Site.of(layers.SoftmaxOver(0), inputs=((5, 9),))).expression
    3
    """
    (shape,) = site.inputs
    last = site.layer.dim == len(shape) - 1
    return Claim(Relation.LE, sympy.Integer(1) if last else sympy.sqrt(shape[-1]), _SOFTMAX)
