"""Centred residual blocks: a better bound than 1 + the product of norms for a branch of two to four affine maps.

A sum P x + W_m phi_{m-1}( ... phi_1(W_1 x)) has the Jacobian P + W_m D_{m-1} ... D_1 W_1, where the D_i are diagonal
and their entries, the slopes of phi_i, lie in [a_i, b_i].  With c_i = (a_i + b_i)/2 and r_i = (b_i - a_i)/2,
D_i = c_i I + r_i E_i with ||E_i|| <= 1.  Multiplied out, the branch has a term for each set S of borders at which E_i
is taken; a positive diagonal T_k commutes with E there.  So with V_0, ..., V_q the products of maps between the
borders in S, and T_k at each of these (none at the ends),

    ||P + W_m D_{m-1} ... D_1 W_1||  <=  ||P + c_1 ... c_{m-1} W_m ... W_1||
        +  sum over S, not empty, of  prod_{i not in S} |c_i|  prod_{i in S} r_i  prod_k ||T_k^-1 V_k T_{k-1}||.

With every T = I it is the recursion theta_k = sum_j (prod_{j<i<k} c_i) r_j ||W_k ... W_{j+1}|| theta_j multiplied out,
from whichever end it starts.

Theory: P. L. Combettes and J.-C. Pesquet, SIAM J. Math. Data Sci. 2 (2020), for the centring.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, final

import sympy

from fimtheory import layers
from fimtheory.claims import Claim, Measured, Quantity, Reference, Relation
from fimtheory.graph import LayerGraph
from fimtheory.registry import Site, find_rule, measure
from fimtheory.slopes import slopes_of

__all__ = ["Branch", "branch_at", "centred_claim", "interval_between"]

CENTRED_RESIDUAL = measure(
    "centred residual",
    suffix="cen",
    latex=r"\lVert P + c\,W_m \cdots W_1 \rVert_2",
    meaning="norm of the shortcut P plus c times the branch's linear maps without a border between them, c the product "
    "of the middles of the slopes there",
)
EQUILIBRATED_PRODUCT = measure(
    "equilibrated product",
    suffix="bal",
    latex=r"\textstyle\prod_k \lVert T_k^{{-1}} V_k T_{{k-1}} \rVert_2",
    meaning="product of the norms of the parts V of the branch before, between and after the activations named, "
    "balanced by diagonals T there",
)
_REFERENCE = Reference("combettes2020", "section 3")
_LINEAR = (layers.Linear, layers.Conv1d, layers.Conv2d, layers.Conv3d)
_MOST_MAPS = 4
"""Maps of a branch: m maps give 2^(m-1) terms."""


@final
@dataclass(frozen=True, slots=True)
class Branch:
    """A sum P x + W_m phi_{m-1}( ... phi_1(W_1 x)) as a function of ``entry``.

    Attributes
    ----------
    shortcut
        Nodes of P, none for the identity.
    maps
        Nodes of W_1, ..., W_m.
    activations
        Nodes of phi_1, ..., phi_{m-1}.
    """

    entry: str
    shortcut: tuple[str, ...]
    maps: tuple[tuple[str, ...], ...]
    activations: tuple[str, ...]

    def cut(self, at: Collection[str]) -> tuple[str, ...]:
        """Return the nodes of the branch with no activations but those ``at`` which it is cut."""
        nodes = list(self.maps[0])
        for activation, run in zip(self.activations, self.maps[1:], strict=True):
            nodes += [activation, *run] if activation in at else run
        return tuple(nodes)

    @property
    def nodes(self) -> tuple[str, ...]:
        """All nodes, in the order in which their measure takes them."""
        return (*self.shortcut, *self.cut(self.activations))


def branch_at(body: LayerGraph, node: str) -> Branch | None:
    """Return the branch and the shortcut that meet at a sum, None where it is not of that form.

    The affine maps are two to four linear layers or convolutions without dilation, each with the batch norm that
    follows it; slopes are known; P reads no position that the branch does not.
    """
    sources = body.inputs(node)
    if not isinstance(body.layer(node), layers.Add) or len(sources) != 2 or len(set(sources)) != 2:
        return None
    one, other = sources
    return _branch(body, one, other) or _branch(body, other, one)


def _branch(body: LayerGraph, end: str, shortcut: str) -> Branch | None:
    straight = _affine(body, shortcut)
    start = None if straight is None else body.inputs(straight[0])[0]
    maps, activations, here = list[tuple[str, ...]](), list[str](), end
    while len(maps) < _MOST_MAPS:
        run = _affine(body, here)
        if run is None:
            return None
        maps.insert(0, run)
        (here,) = body.inputs(run[0])
        if here in (shortcut, start):
            own = () if here == shortcut or straight is None else straight
            found = Branch(here, own, tuple(maps), tuple(activations))
            return found if len(maps) > 1 and _aligned(body, found) else None
        if here == body.input or slopes_of(body.layer(here)) is None:
            return None
        activations.insert(0, here)
        (here,) = body.inputs(here)
    return None


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
    sizes = (*layer.kernel, *layer.stride, *layer.padding, layer.groups)
    return set(layer.dilation) == {1} and all(isinstance(size, int) for size in sizes)


def _aligned(body: LayerGraph, found: Branch) -> bool:
    """Whether shortcut and branch move alike, and the shortcut's taps lie among those of the branch."""
    own = [body.layer(run[0]) for run in found.maps]
    straight = body.layer(found.shortcut[0]) if found.shortcut else None
    kinds = {type(layer) for layer in (*own, straight) if layer is not None}
    if len(kinds) != 1:
        return False
    if isinstance(own[0], layers.Linear):
        return True
    for dimension, windows in enumerate(zip(*map(_windows, own), strict=True)):
        taps, stride, padding = 1, 1, 0
        for k, s, p in windows:
            taps, padding, stride = taps + stride * (k - 1), padding + stride * p, stride * s
        k, s, p = (1, 1, 0) if straight is None else _windows(straight)[dimension]
        if s != stride or not 0 <= padding - p <= taps - k:
            return False
    return True


def _windows(layer: Any) -> list[tuple[int, int, int]]:
    return list(zip(layer.kernel, layer.stride, layer.padding, strict=True))


def interval_between(activation: layers.Layer, reader: layers.Layer) -> tuple[sympy.Expr, sympy.Expr]:
    """Return an interval that contains the slopes of an activation, and 0 where its reader pads it with zeros.

    >>> from fimtheory import layers
    >>> interval_between(layers.LeakyReLU(0.5), layers.Linear(2, 2))
    (1/2, 1)
    >>> interval_between(layers.LeakyReLU(0.5), layers.Conv2d(2, 2, (3, 3), padding=(1, 1)))
    (0, 1)
    """
    slopes = slopes_of(activation)
    assert slopes is not None, "a branch has activations with slopes"
    low, high = slopes
    if isinstance(reader, layers.Linear) or not any(getattr(reader, "padding", ())):
        return low, high
    return sympy.Min(low, 0), sympy.Max(high, 0)


def centred_claim(body: LayerGraph, node: str, found: Branch, letter: str, index: sympy.Expr | None) -> Claim:
    """Return what centring says of the sum at ``node``: ``L <= N + sum over S of (its c_i and r_i) E_S``.

    N is the norm of P + c W_m ... W_1, E_S the balanced product of the parts between the activations in S; all are
    measured.  Conditions: none; where a convolution pads its input, the zeros around it are values of D too, for which
    0 is counted among the slopes.  Proof: see the module.
    """
    readers = [body.layer(run[0]) for run in found.maps[1:]]
    intervals = [interval_between(body.layer(a), w) for a, w in zip(found.activations, readers, strict=True)]
    norm = Measured(_symbol(CENTRED_RESIDUAL.kind, (node,), letter, index), CENTRED_RESIDUAL.kind, found.nodes)
    bound, measured = norm.symbol, [norm]
    for count in range(1, len(intervals) + 1):
        for at in itertools.combinations(found.activations, count):
            factor = sympy.Integer(1)
            for activation, (low, high) in zip(found.activations, intervals, strict=True):
                factor *= (high - low) / 2 if activation in at else abs(low + high) / 2
            if factor.is_zero:
                continue
            symbol = _symbol(EQUILIBRATED_PRODUCT.kind, (node, *at), letter, index)
            measured.append(Measured(symbol, EQUILIBRATED_PRODUCT.kind, found.cut(at)))
            bound += factor * symbol
    return Claim(Relation.LE, bound, _REFERENCE, measured=tuple(measured))


def _symbol(kind: str, nodes: tuple[str, ...], letter: str, index: sympy.Expr | None) -> sympy.Expr:
    return Site((), nodes, (), (), letter, index).measured(kind).symbol
