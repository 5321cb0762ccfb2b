r"""The semidefinite end of the ladder: lam bounded for every input by one matrix inequality with a multiplier a neuron.

The whole network is one interconnection: every activation has slopes in its global interval [a, b], a maximum of two
values is ``y + relu(x - y)``, and everything else is affine (``local.walk``, without a ball).

Theorem.  If Y >= J J^T for the Jacobians J of the logits under all admissible slopes (``norms.interconnection``), then
``lam(x) <= (1/4) max_ij (e_i - e_j)^T Y (e_i - e_j)`` for every x, and no difference of two logits has a Lipschitz
constant above twice the root of that.  Proof.  J(x) is one of the Jacobians, and ``w^T F w`` is the variance of the
entries of J w under p, at most a quarter of their squared range (Popoviciu).

For a chain of layers the least such Y is LipSDP with one multiplier per neuron (Fazlyab et al., NeurIPS 2019).  The
multipliers come from Newton's method, and a Cholesky factorisation certifies the bound that they give, whether they are
optimal or not.

A nondecreasing activation goes behind a max pool that alone reads it: the maximum commutes with it, and fewer slopes
are unknown.  Rows of the Jacobian that follow any winner of a tie are admissible before and after.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import final

import sympy
import torch

from fimtheory import layers
from fimtheory.claims import Status
from fimtheory.decimals import significant
from fimtheory.errors import GraphError, MissingRuleError, NonFiniteError, SizeError
from fimtheory.graph import LayerGraph, Node
from fimtheory.instantiation import GraphModule
from fimtheory.layers import Layer
from fimtheory.local.activations import Interval
from fimtheory.local.affine import AffineMap, is_affine
from fimtheory.local.balls import Ball
from fimtheory.local.bounds import diameter
from fimtheory.local.walk import Form, Walk
from fimtheory.measures import MeasuredGraph
from fimtheory.norms.interconnection_diameter import feasible, for_diameter, postponed
from fimtheory.slopes import slopes_of

__all__ = ["MOST_SLOPES", "SemidefiniteBound", "bound_of", "require_small", "semidefinite_bound"]

MOST_SLOPES = 1024
"""Unknown slopes at most: memory grows like the square of their number, time like the cube (minutes at the limit)."""
_ROUNDING = 2.0**-40


@final
@dataclass(frozen=True, slots=True)
class SemidefiniteBound:
    """An upper bound on lam at every input.

    Attributes
    ----------
    value : float
        In the units of the module's input; rounded up.
    multipliers : int
        One for each unknown slope: of neurons, and of pairs in max pools.
    seconds : float
        Time taken.
    status : Status
        Certified.
    """

    value: float
    multipliers: int
    seconds: float
    status: Status

    def __repr__(self) -> str:
        log10 = math.log10(self.value) if self.value > 0 else -math.inf
        text = significant(self.value, log10, up=True)
        return f"<SemidefiniteBound: lam <= {text} with {self.multipliers} multipliers ({self.status})>"


def semidefinite_bound(module: GraphModule) -> SemidefiniteBound:
    """Return a certified bound on lam at every input, by one matrix inequality for the whole network.

    For networks of affine layers, activations with known slopes, max pools of images (MaxPool2d), sums and
    concatenations, of any shape, with at most `MOST_SLOPES` unknown slopes.

    Parameters
    ----------
    module : GraphModule
        From ``ft.instantiate(graph)``, or ``ft.from_torch(...).model()``.

    Raises
    ------
    GraphError
        The module is no such model, or its graph does not end in two logits or more.
    MissingRuleError
        A layer is none of those; the message names it.
    SizeError
        Too many slopes are unknown.
    NonFiniteError
        A weight is NaN or infinite, or the bound is beyond float64.

    Notes
    -----
    The bound is about the exact function with the stored weights, at temperature 1.

    Examples
    --------
    >>> from fimtheory import zoo
    >>> bound = semidefinite_bound(zoo.load("digits_mlp"))
    >>> bound.multipliers, str(bound.status), 100 < bound.value < 180
    (128, 'certified', True)
    """
    if not isinstance(module, GraphModule):
        raise GraphError(
            f"a semidefinite bound needs a model with its graph, got {type(module).__name__}; give "
            "ft.instantiate(graph), or ft.from_torch(module, example).model()"
        )
    return bound_of(MeasuredGraph(module.graph, {n: t.detach().cpu() for n, t in module.state_dict().items()}))


@torch.no_grad()
def bound_of(measured: MeasuredGraph) -> SemidefiniteBound:
    """Return the bound for a graph with weights; errors are those of `semidefinite_bound`."""
    start = time.perf_counter()
    measured.graph.require_classifier()
    require_small(measured.graph)
    graph = _commuted(measured.graph)
    maps = {
        node: AffineMap.at(
            graph.layer(node), node, measured.tensors(node), graph.input_shapes(node), graph.shapes[node]
        )
        for node in graph.order
        if node != graph.input and is_affine(graph.layer(node))
    }
    origin = torch.zeros(tuple(int(n) for n in graph.shapes[graph.input]), dtype=torch.float64)
    walk = Walk.at(graph, maps, Ball(origin, 0.0, "l2"), postponed)
    rows = walk.run(_everywhere).rows()
    if not bool(torch.isfinite(rows.values).all()):
        raise NonFiniteError("the slopes cannot be bounded in float64; use weights of a more even size")
    system = feasible(walk.system)
    value = math.inf
    for each in (for_diameter(system, rows), system):
        gram = each.gram(rows)
        if gram is not None and bool(torch.isfinite(gram).all()):
            value = min(value, diameter(gram))
    if not math.isfinite(value):
        raise NonFiniteError("the semidefinite bound is beyond float64; use weights of a more even size")
    return SemidefiniteBound(value, len(system), time.perf_counter() - start, Status.CERTIFIED)


def _ends(layer: Layer) -> tuple[float, float]:
    """Global slopes of an activation, rounded outward unless they are floats."""
    ends = slopes_of(layer)
    assert ends is not None, "an activation has slopes"
    room = _ROUNDING * max(1.0, *(abs(float(end)) for end in ends))
    low, high = (0.0 if sympy.Rational(float(end)) == end else room for end in ends)
    return float(ends[0]) - low, float(ends[1]) + high


def _everywhere(name: str, layer: Layer, form: Form) -> Interval:
    low, high = _ends(layer)
    return torch.full_like(form.centre, low), torch.full_like(form.centre, high)


def _commuted(graph: LayerGraph) -> LayerGraph:
    """Put every nondecreasing activation that only a max pool reads behind the pool."""
    readers = [source for name in graph.order for source in graph.inputs(name)]
    changed: dict[str, Layer] = {}
    for name in graph.order:
        if isinstance(graph.layer(name), layers.MaxPool2d):
            (source,) = graph.inputs(name)
            ends = slopes_of(graph.layer(source))
            if source != graph.input and ends is not None and float(ends[0]) >= 0 and readers.count(source) == 1:
                changed |= {source: graph.layer(name), name: graph.layer(source)}
    return LayerGraph([Node(node.name, changed.get(node.name, node.layer), node.inputs) for node in graph.nodes])


def require_small(graph: LayerGraph) -> None:
    """Refuse a graph with other layers or too many unknown slopes, before any work is done.

    Raises
    ------
    MissingRuleError, SizeError
        As `semidefinite_bound` does.
    """
    graph = _commuted(graph)
    count = 0
    for node in graph.order:
        layer = graph.layer(node)
        size = math.prod(int(n) for n in graph.shapes[node])
        if node == graph.input or is_affine(layer):
            continue
        if isinstance(layer, layers.MaxPool2d):
            count += size * (math.prod(int(n) for n in layer.kernel) - 1)
        elif slopes_of(layer) is not None:
            low, high = _ends(layer)
            count += size if low < high else 0
        else:
            raise MissingRuleError(
                f"node {node}: no semidefinite bound for layer type {type(layer).__name__}; it is for networks of "
                "affine layers, activations and max pools (fimtheory bound TARGET, without --sdp, bounds lam as well)"
            )
    if count > MOST_SLOPES:
        raise SizeError(
            f"{count} slopes are unknown, and a semidefinite bound takes at most {MOST_SLOPES}; use the bound of "
            "ft.evaluate (fimtheory bound TARGET, without --sdp), whose joint recursion takes networks of any width"
        )
