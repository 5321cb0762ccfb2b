"""Layers that bound their output whatever flows in: by entries, by tokens (vectors along the last dimension), whole.

Entries of at most E give tokens of norm at most ``sqrt(n) E`` and a whole of at most ``sqrt(N) E``, with n entries in
a token and N in all.  Where every vector along one dimension has norm at most 1, the whole has at most the root of
their number.
"""

from __future__ import annotations

from collections.abc import Callable

import sympy

from fimtheory import layers
from fimtheory.claims import Claim, Quantity, Reference, Relation
from fimtheory.layers import Layer
from fimtheory.registry import Site, rule

__all__ = ["BOUNDED_FUNCTIONS", "UNIT_VECTORS", "unit_entries", "unit_vectors"]

_OWN = Reference("fimtheory")
_ONE = sympy.Integer(1)

BOUNDED_FUNCTIONS: dict[type[Layer], Callable[..., sympy.Expr]] = {
    layers.Sigmoid: lambda f: _ONE,
    layers.Hardsigmoid: lambda f: _ONE,
    layers.Tanh: lambda f: _ONE,
    layers.Softsign: lambda f: _ONE,
    layers.Erf: lambda f: _ONE,
    layers.Sin: lambda f: _ONE,
    layers.Cos: lambda f: _ONE,
    layers.Atan: lambda f: sympy.pi / 2,
    layers.ReLU6: lambda f: sympy.Integer(6),
    layers.Hardtanh: lambda f: sympy.Max(abs(sympy.Rational(f.minimum)), abs(sympy.Rational(f.maximum))),
}
"""Largest magnitude of each elementwise function that has one."""

UNIT_VECTORS: dict[type[Layer], Callable[[Site], int]] = {
    layers.Softmax: lambda site: len(site.output) - 1,
    layers.SoftmaxOver: lambda site: site.layer.dim,
    layers.L2Normalize: lambda site: site.layer.dim,
}
"""Layers whose output has vectors of norm at most 1 along a dimension, and which one."""


def _register_function(kind: type[Layer], largest: Callable[..., sympy.Expr]) -> None:
    @rule(kind, quantity=Quantity.ENTRY_BOUND, reference=_OWN)
    def entries(site: Site) -> Claim:
        """Entries of the output: at most the supremum of the function's magnitude.

        Proof: sigmoid and its piecewise linear form lie in [0, 1]; tanh, softsign, erf, sine and cosine in [-1, 1];
        the inverse tangent in [-pi/2, pi/2]; a clipped value between its two ends.
        """
        return Claim(Relation.LE, largest(site.layer), _OWN)

    @rule(kind, quantity=Quantity.TOKEN_NORM, reference=_OWN)
    def tokens(site: Site) -> Claim:
        """Tokens of the output: at most the root of their length times the largest magnitude.

        Proof: n squares of at most E^2 each.
        """
        return Claim(Relation.LE, sympy.sqrt(site.output[-1]) * largest(site.layer), _OWN)

    @rule(kind, quantity=Quantity.NORM_BOUND, reference=_OWN)
    def whole(site: Site) -> Claim:
        """Norm of the output: at most the root of the number of its entries times the largest magnitude.

        Proof: N squares of at most E^2 each.
        """
        return Claim(Relation.LE, sympy.sqrt(sympy.prod(site.output)) * largest(site.layer), _OWN)


for _kind, _largest in BOUNDED_FUNCTIONS.items():
    _register_function(_kind, _largest)


@rule(layers.Softmax, quantity=Quantity.ENTRY_BOUND, reference=_OWN)
@rule(layers.SoftmaxOver, quantity=Quantity.ENTRY_BOUND, reference=_OWN)
@rule(layers.L2Normalize, quantity=Quantity.ENTRY_BOUND, reference=_OWN)
def unit_entries(site: Site) -> Claim:
    """Entries of the output: at most 1.

    Proof: each is a probability, or an entry of a vector of norm at most 1.

    >>> unit_entries(Site.of(layers.SoftmaxOver(0), inputs=((5, 9),))).expression
    1
    """
    return Claim(Relation.LE, _ONE, _OWN)


@rule(layers.Softmax, quantity=Quantity.NORM_BOUND, reference=_OWN)
@rule(layers.SoftmaxOver, quantity=Quantity.NORM_BOUND, reference=_OWN)
@rule(layers.L2Normalize, quantity=Quantity.NORM_BOUND, reference=_OWN)
def unit_vectors(site: Site) -> Claim:
    """Norm of the output: at most the root of the number of vectors that add to one, or are normalised.

    Proof: each has norm at most 1, probabilities because their squares add up to at most their sum; squares of
    disjoint vectors add.

    >>> unit_vectors(Site.of(layers.SoftmaxOver(0), inputs=((5, 9),))).expression
    3
    """
    dim = UNIT_VECTORS[type(site.layer)](site)
    vectors = sympy.Mul(*(size for k, size in enumerate(site.output) if k != dim))
    return Claim(Relation.LE, sympy.sqrt(vectors), _OWN)
