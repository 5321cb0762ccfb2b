"""Layers with a weight: gain and growth of the Jacobian in the mean."""

from __future__ import annotations

from fimtheory.claims import Claim, Quantity, Reference, Relation, Status
from fimtheory.layers import Linear, PatchEmbedding
from fimtheory.registry import Site, measure, rule
from fimtheory.symmetry import Symmetry

__all__ = ["affine_gain", "random_weight_variance", "weight_symmetry"]

OPERATOR_NORM = measure(
    "operator norm",
    suffix="",
    latex=r"\lVert {at} \rVert_2",
    meaning="largest singular value of the layer's linear part",
)
ROW_DIAMETER = measure(
    "row diameter",
    suffix="D",
    latex=r"\max_{{i<j}} \lVert w_i - w_j \rVert_2",
    meaning="largest distance between two rows of the weight",
)
WEIGHT_VARIANCE = measure(
    "mean square gain",
    suffix="v",
    latex=r"\sup_u \mathbb{{E}}\,\lVert {at}\, u\rVert_2^2 \allowbreak / \lVert u\rVert_2^2",
    meaning="mean square gain of the layer's random weights",
)


@rule(Linear, quantity=Quantity.GAIN, reference=Reference("horn2013", "section 5.6"))
@rule(PatchEmbedding, quantity=Quantity.GAIN, reference=Reference("horn2013", "section 5.6"))
def affine_gain(site: Site) -> Claim:
    """Gain of an affine map: the norm of its linear part.

    Statement: ``Lip(x -> A x + b) = ||A||_2``.  Conditions: none.  Proof: ``||A x - A y|| <= ||A|| ||x - y||``, with
    equality for x - y along a right singular vector.

    >>> from fimtheory.layers import Linear
    >>> affine_gain(Site.of(Linear(3, 2), inputs=((3,),), node="fc")).expression
    fc
    """
    norm = site.measured("operator norm")
    return Claim(Relation.EQ, norm.symbol, Reference("horn2013", "section 5.6"), measured=(norm,))


@rule(Linear, quantity=Quantity.JACOBIAN_VARIANCE, reference=Reference("poole2016", "section 3"))
@rule(PatchEmbedding, quantity=Quantity.JACOBIAN_VARIANCE, reference=Reference("poole2016", "section 3"))
def random_weight_variance(site: Site) -> Claim:
    """Mean square gain of a layer with independent zero-mean weights of variance s^2 / fan_in.

    Statement: ``E ||W J||_F^2 <= v E ||J||_F^2`` with ``v = s^2 n_out / fan_in`` and n_out the number of outputs.
    Conditions: W independent of J.  Proof: entries of W are uncorrelated, so ``E ||W u||^2`` is the sum of the
    variances that u meets; sum over the columns u of J.

    >>> from fimtheory.layers import Linear
    >>> random_weight_variance(Site.of(Linear(3, 2), inputs=((3,),), node="fc")).expression
    fc_v
    """
    growth = site.measured("mean square gain")
    reference = Reference("poole2016", "section 3")
    return Claim(Relation.LE, growth.symbol, reference, measured=(growth,), status=Status.EXPECTED)


@rule(Linear, quantity=Quantity.SYMMETRY, reference=Reference("hanin2020", "section 2"))
@rule(PatchEmbedding, quantity=Quantity.SYMMETRY, reference=Reference("hanin2020", "section 2"))
def weight_symmetry(site: Site) -> Symmetry:
    """Flipping the sign of all weights of the layer (biases are zero at random init) flips its output."""
    return Symmetry.FRESH
