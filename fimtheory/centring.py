"""Centred residual blocks: a better bound than 1 + ||B|| ||A|| for a branch of two affine maps around an activation.

A sum P x + B phi(A x) has the Jacobian P + B D A, where D is diagonal and its entries, the slopes of phi, lie in
[a, b].  With c = (a + b)/2 and r = (b - a)/2, D = c I + r E with ||E|| <= 1, and any positive diagonal T commutes with
E, so

    ||P + B D A||  <=  ||P + c B A|| + r ||B T|| ||T^-1 A||.

Theory: P. L. Combettes and J.-C. Pesquet, SIAM J. Math. Data Sci. 2 (2020), for the centring.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import sympy

from fimtheory import layers
from fimtheory.claims import Claim, Measured, Quantity, Reference, Relation
from fimtheory.graph import LayerGraph
from fimtheory.registry import Site, find_rule, measure
from fimtheory.slopes import slopes_of

__all__ = ["Branch", "branch_at", "centred_claim"]

CENTRED_RESIDUAL = measure(
    "centred residual",
    suffix="cen",
    latex=r"\lVert P + c\,BA \rVert_2",
    meaning="norm of the shortcut P plus c times the branch's two linear maps without a border between them, c the "
    "middle of the slopes there",
)
EQUILIBRATED_PRODUCT = measure(
    "equilibrated product",
    suffix="bal",
    latex=r"\lVert BT \rVert_2 \lVert T^{{-1}}A \rVert_2",
    meaning="product of the norms of the branch's linear maps, balanced by a diagonal T between them",
)
_REFERENCE = Reference("combettes2020", "section 3")
_LINEAR = (layers.Linear, layers.Conv1d, layers.Conv2d, layers.Conv3d)


@final
@dataclass(frozen=True, slots=True)
class Branch:
    """Nodes of P (none for the identity), A, phi and B where a sum is P x + B phi(A x) as a function of ``entry``."""

    entry: str
    shortcut: tuple[str, ...]
    first: tuple[str, ...]
    activation: str
    second: tuple[str, ...]

    @property
    def nodes(self) -> tuple[str, ...]:
        """All of them, in the order in which their measures take them."""
        return (*self.shortcut, *self.first, self.activation, *self.second)


def branch_at(body: LayerGraph, node: str) -> Branch | None:
    """Return the branch and the shortcut that meet at a sum, None where it is not of that form.

    The affine maps are linear layers and convolutions without groups and dilation, each with the batch norm that
    follows it; 0 lies between the activation's slopes; P reads no position that B A does not.
    """
    sources = body.inputs(node)
    if not isinstance(body.layer(node), layers.Add) or len(sources) != 2 or len(set(sources)) != 2:
        return None
    one, other = sources
    return _branch(body, one, other) or _branch(body, other, one)


def _branch(body: LayerGraph, end: str, shortcut: str) -> Branch | None:
    second = _affine(body, end)
    if second is None:
        return None
    (activation,) = body.inputs(second[0])
    if activation == body.input or not _around_zero(body.layer(activation)):
        return None
    first = _affine(body, body.inputs(activation)[0])
    if first is None:
        return None
    (entry,) = body.inputs(first[0])
    straight = () if shortcut == entry else _affine(body, shortcut)
    if straight is None or (straight and body.inputs(straight[0]) != (entry,)):
        return None
    found = Branch(entry, straight, first, activation, second)
    return found if _aligned(body, found) else None


def _affine(body: LayerGraph, end: str) -> tuple[str, ...] | None:
    """Return the run of an affine map and perhaps a batch norm that ends at a node."""
    if end == body.input:
        return None
    layer = body.layer(end)
    if isinstance(layer, _LINEAR):
        return (end,) if _plain(layer) else None
    if not isinstance(layer, layers.BatchNorm1d | layers.BatchNorm2d | layers.BatchNorm3d):
        return None
    (before,) = body.inputs(end)
    kind = body.layer(before)
    by_channel = not isinstance(kind, layers.Linear) or len(body.shapes[before]) == 1
    folded = find_rule((type(kind), type(layer)), Quantity.GAIN) is not None
    return (before, end) if isinstance(kind, _LINEAR) and folded and _plain(kind) and by_channel else None


def _plain(layer: Any) -> bool:
    if isinstance(layer, layers.Linear):
        return True
    sizes = (*layer.kernel, *layer.stride, *layer.padding)
    return layer.groups == 1 and set(layer.dilation) == {1} and all(isinstance(size, int) for size in sizes)


def _around_zero(layer: layers.Layer) -> bool:
    slopes = slopes_of(layer)
    return slopes is not None and bool(slopes[0].is_nonpositive and slopes[1].is_nonnegative)


def _aligned(body: LayerGraph, found: Branch) -> bool:
    """Whether shortcut and branch move alike, and the shortcut's taps lie among those of B A."""
    first, second = body.layer(found.first[0]), body.layer(found.second[0])
    straight = body.layer(found.shortcut[0]) if found.shortcut else None
    kinds = {type(layer) for layer in (first, second, straight) if layer is not None}
    if len(kinds) != 1:
        return False
    if isinstance(first, layers.Linear):
        return True
    each = zip(*(_windows(layer) for layer in (first, second)), strict=True)
    for dimension, ((k1, s1, p1), (k2, s2, p2)) in enumerate(each):
        k, s, p = (1, 1, 0) if straight is None else _windows(straight)[dimension]
        start = s1 * p2 + p1 - p
        if s != s1 * s2 or not 0 <= start <= s1 * (k2 - 1) + k1 - k:
            return False
    return True


def _windows(layer: Any) -> list[tuple[int, int, int]]:
    return list(zip(layer.kernel, layer.stride, layer.padding, strict=True))


def centred_claim(body: LayerGraph, node: str, found: Branch, letter: str, index: sympy.Expr | None) -> Claim:
    """Return what centring says of the sum at ``node``: ``L <= N + r E``.

    N is the norm of P + c B A, E that of the balanced product; both are measured.  Conditions: 0 is one of the values
    between the slopes; then the zeros around the output of A are values of D too.  Proof: see the module.
    """
    slopes = slopes_of(body.layer(found.activation))
    assert slopes is not None, "a branch has an activation with slopes"
    low, high = slopes
    site = Site((), (node,), (), (), letter, index)
    measured = [Measured(site.measured(kind).symbol, kind, found.nodes) for kind in _KINDS]
    norm, product = (each.symbol for each in measured)
    return Claim(Relation.LE, norm + (high - low) / 2 * product, _REFERENCE, measured=tuple(measured))


_KINDS = (CENTRED_RESIDUAL.kind, EQUILIBRATED_PRODUCT.kind)
