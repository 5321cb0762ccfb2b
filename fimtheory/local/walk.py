"""Carry an enclosure of all values, and of the Jacobian, through a network around one input.

Every node has a `Form`: an enclosure of its value at the centre x of a ball, and rows that say how it changes with the
input, linear in the change u of the input and in the unknown numbers q of an `Interconnection` (one for each slope, and
some for each matrix, that the ball leaves open).  Two walks are made.  In the first the slopes are those of secants
from the centre, so that the forms enclose *increments*, and with them the values over the ball:

    |z_i(x + u) - z_i(x)|  <=  eps sqrt(Y_ii)                                          (Gram matrix of the increments)
                           <=  eps |D_i| + sum_k |A_ik| r_k, r_k a bound on |q_k|      (term by term).

In the second the slopes are derivatives over the values found, and the forms enclose the Jacobian.  A maximum of two
values is ``b + relu(a - b)``, so a pool is a tree of activations.  Norms, products and attention know a matrix each,
and what it may miss of their Jacobian (`unknown`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, final

import torch
from torch import Tensor

from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.errors import NonFiniteError
from fimtheory.graph import LayerGraph
from fimtheory.layers import Layer
from fimtheory.local.activations import Interval, secants, slopes
from fimtheory.local.affine import LOST, AffineMap
from fimtheory.local.balls import Ball
from fimtheory.local.summaries import factor
from fimtheory.norms import interconnection_multipliers as multipliers
from fimtheory.norms.interconnection import Interconnection, Rows, euclidean
from fimtheory.norms.rounding import UNIT, gamma_n
from fimtheory.norms.scaling import power_of_two
from fimtheory.registry import Site, require_rule
from fimtheory.sizes import windows
from fimtheory.slopes import slopes_of

__all__ = ["FAR", "VISIBLE", "Form", "Pass", "Walk", "increments", "jacobian"]

_UP = 1.0 + 2.0**-18
_RELU = layers.ReLU()
_MANY = 1200
"""Unknown numbers after which a walk starts anew where it can: their cube is the time that each bound takes."""
FAR = 900  # largest exponent of a unit, either way
VISIBLE = 2.0**30  # an error is at most the inverse of this, in units of what an unknown number receives


@final
@dataclass(frozen=True, slots=True)
class Form:
    """A value near ``centre`` (within ``spread``, entry by entry), and its columns: coefficients of u, then of q.

    ``error`` bounds, for each entry, the Euclidean norm over columns of what they miss.
    """

    centre: Tensor
    spread: Tensor
    columns: Tensor
    error: Tensor

    def padded(self, count: int) -> Form:
        """Return the form with zero columns up to ``count``."""
        missing = count - len(self.columns)
        if missing == 0:
            return self
        zeros = self.columns.new_zeros((missing, *self.columns.shape[1:]))
        return Form(self.centre, self.spread, torch.cat([self.columns, zeros]), self.error)

    def viewed(self, view: Callable[[Tensor], Tensor]) -> Form:
        """Return the form with entries moved, or repeated, by a function of one tensor of them."""
        columns = torch.func.vmap(view)(self.columns)
        return Form(view(self.centre), view(self.spread), columns, view(self.error))

    def rows(self) -> Rows:
        """Return one row for each entry."""
        return Rows(self.columns.flatten(1).T.contiguous(), self.error.flatten())


_Slopes = Callable[[str, Layer, Form], Interval]
"""Slopes of the activation of a name, which reads a form."""
_Extend = Callable[[Interconnection, Rows, Tensor], Interconnection]
"""``Interconnection.extended``, or another choice of multipliers."""


class Pass(Protocol):
    """A layer that is neither affine nor an activation, with what it needs to pass a walk."""

    def form(self, walk: Walk, node: str, inputs: Sequence[Form]) -> Form:
        """Form of its output."""
        ...


@dataclass
class Walk:
    """One pass over a graph.

    ``system`` collects the unknown blocks, and ``reach`` bounds each |q_b| over the ball.  ``ranges`` and ``moved`` are
    what the first walk found: where the values of an activation lie, and how far others move, by node.  ``passed`` is
    the number of unknown blocks before the last new start (`summaries`), where u became another vector.
    ``centres`` are enclosures of values at the centre that are known beforehand.
    """

    graph: LayerGraph
    maps: Mapping[str, AffineMap | Pass]
    ball: Ball
    system: Interconnection
    reach: Tensor
    ranges: dict[str, Interval] = field(default_factory=dict)
    moved: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    secant: bool = True
    passed: int = 0
    centres: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    extend: _Extend = Interconnection.extended

    @classmethod
    def at(
        cls,
        graph: LayerGraph,
        maps: Mapping[str, AffineMap | Pass],
        ball: Ball,
        extend: _Extend = Interconnection.extended,
    ) -> Walk:
        """Start at the input; ``extend`` adds unknown numbers to the system."""
        none = torch.zeros(0, dtype=torch.float64)
        return cls(graph, maps, ball, Interconnection.of_inputs(ball.centre.numel()), none, extend=extend)

    @property
    def columns(self) -> int:
        """How many columns a form may have by now."""
        return self.system.inputs + len(self.system)

    def run(self, slopes_of_form: _Slopes) -> Form:
        """Return the form of the logits."""
        graph = self.graph
        last = {source: name for name in graph.order for source in graph.inputs(name)}
        forms = {graph.input: self._input()}
        for node in graph.order:
            if node == graph.input:
                continue
            sources = graph.inputs(node)
            form = self._node(node, [forms[source] for source in sources], slopes_of_form)
            forms[node] = self._sharpened(node, form)
            for source in dict.fromkeys(sources):
                if last[source] == node:
                    del forms[source]
            feasible = self.extend == Interconnection.extended  # a certificate needs multipliers that are
            if feasible and len(forms) == 1 and len(self.system.takes) > _MANY:
                forms[node] = self._summarised(forms[node])
        return forms[graph.order[-1]].padded(self.columns)

    def _sharpened(self, node: str, form: Form) -> Form:
        """The form around a better enclosure of the value at the centre, if one is known."""
        if node not in self.centres:
            return form
        centre, spread = self.centres[node]
        return replace(form, centre=centre, spread=spread) if bool((spread <= form.spread).all()) else form

    @property
    def open(self) -> int:
        """How many unknown blocks there are."""
        return self.passed + len(self.system.multipliers)

    def _summarised(self, form: Form) -> Form:
        """Start anew from a value that all others read: without the unknown numbers, if a certificate is found."""
        rows = form.padded(self.columns).rows()
        gram = multipliers.for_rows(self.system, rows).gram(rows)
        made = None if gram is None else factor(gram)
        if made is None:
            return form
        self.passed += len(self.system.multipliers)
        size = len(made)
        self.ball = Ball(torch.zeros(size, dtype=torch.float64), self.ball.euclidean, "l2")
        self.system, self.reach = Interconnection.of_inputs(size), torch.zeros(0, dtype=torch.float64)
        columns = made.T.reshape(size, *form.centre.shape)
        return Form(form.centre, form.spread, columns, torch.full_like(form.error, LOST))

    def _input(self) -> Form:
        centre = self.ball.centre
        columns = torch.eye(centre.numel(), dtype=torch.float64).reshape(-1, *centre.shape)
        zero = torch.zeros_like(centre)
        return Form(centre, zero, columns, zero)

    def _node(self, node: str, inputs: list[Form], slopes_of_form: _Slopes) -> Form:
        layer = self.graph.layer(node)
        own = self.maps.get(node)
        if isinstance(own, AffineMap):
            return self.affine(own, inputs)
        if own is not None:
            return own.form(self, node, inputs)
        if isinstance(layer, layers.MaxPool2d):
            return self._maximum(node, layer, inputs[0], slopes_of_form)
        return self.activation(node, layer, inputs[0], slopes_of_form)

    def movement(self, node: str, what: str, measure: Callable[[], Tensor]) -> Tensor:
        """How far something moves at a node: the first walk measures, the second looks it up."""
        if self.secant:
            self.moved[node, what] = measure()
        return self.moved[node, what]

    def affine(self, affine: AffineMap, inputs: Sequence[Form]) -> Form:
        """Form of an affine layer's output."""
        inputs = [form.padded(self.columns) for form in inputs]
        centre = affine.values(*(form.centre[None] for form in inputs))[0]
        magnitudes = [form.centre.abs()[None] for form in inputs]
        spread = affine.bounds(*(form.spread[None] for form in inputs))[0]
        spread = spread + affine.rounding(*magnitudes)[0] + affine.offset_rounding(inputs[0].centre)
        columns = affine.columns(*(form.columns for form in inputs))
        sizes = [euclidean(form.columns, 0)[None] for form in inputs]
        error = affine.bounds(*(form.error[None] for form in inputs))[0] + affine.rounding(*sizes)[0]
        return Form(centre, spread * _UP, columns, error * _UP)

    def activation(self, name: str, layer: Layer, form: Form, slopes_of_form: _Slopes) -> Form:
        """Form of ``phi(z)``: c times that of z, plus an unknown number where the slope is not known."""
        form = form.padded(self.columns)
        low, high = slopes_of_form(name, layer, form)
        exact = low == high
        middle = torch.where(exact, low, 0.5 * (low + high))
        radius = torch.where(exact, 0.0, torch.maximum(high - middle, middle - low) * (1.0 + 4.0 * UNIT))
        open_ = (radius.flatten() > 0).nonzero().flatten()
        rows = form.rows()
        factor = radius.flatten()[open_]
        size = euclidean(rows.values[open_], 1)
        # In units of about what it receives, an unknown number and its multiplier are of the size of one.
        unit = torch.frexp(torch.maximum(size, rows.error[open_] * VISIBLE) * factor).exponent.long()
        unit = unit.clamp(-FAR, FAR)
        factor = factor * power_of_two(-unit)
        received = Rows(
            rows.values[open_] * factor[:, None], (rows.error[open_] * factor + 2.0 * UNIT * size * factor + LOST) * _UP
        )
        if len(open_) > 0:
            extent = self.extent(received)
            if name in self.ranges:
                low, high = self.ranges[name]  # the centre lies in the middle
                extent = torch.minimum(extent, 0.5 * (high - low).flatten()[open_] * factor * _UP)
            self.reach = torch.cat([self.reach, extent])
            self.system = self.extend(self.system, received, middle.abs().max() / radius.flatten()[open_])
        added = torch.zeros((len(open_), radius.numel()), dtype=torch.float64)
        added[torch.arange(len(open_)), open_] = power_of_two(unit)
        scaled = form.columns * middle
        error = (form.error * middle.abs() + 2.0 * UNIT * euclidean(scaled, 0) + LOST) * _UP
        centre, spread = self._applied(layer, form)
        return Form(centre, spread, torch.cat([scaled, added.reshape(-1, *radius.shape)]), error)

    def _applied(self, layer: Layer, form: Form) -> tuple[Tensor, Tensor]:
        """Enclosure of the value: the activation is Lipschitz between any two points, torch's a little off."""
        apply = require_rule(layer, Quantity.FORWARD, "").function(Site((layer,), ("",), (), ()))
        centre = apply({}, form.centre[None])[0]
        ends = slopes_of(layer)
        assert ends is not None, "an activation has slopes"
        steepest = max(abs(float(end)) for end in ends)
        spread = form.spread * (steepest * _UP) + 2.0**-40 * (centre.abs() + form.centre.abs()) + LOST
        return centre, spread

    def extent(self, rows: Rows) -> Tensor:
        """Bounds on |row . (u, q)| over the ball, term by term."""
        inputs = self.system.inputs
        values = rows.values
        by_term = self.ball.extent(values[:, :inputs]) + self.system.block_norms(values[:, inputs:]) @ self.reach
        whole = math.hypot(self.ball.euclidean, *self.reach.tolist()) * _UP
        return (by_term * (1.0 + 2.0 * gamma_n(values.shape[1] + 8)) + rows.error * whole) * _UP

    def increment(self, rows: Rows) -> Tensor:
        """Bounds on how much entries of which ``rows`` are the increments change over the ball: the better of two."""
        by_term = self.extent(rows)
        if len(self.system) == 0:
            return by_term
        system = multipliers.for_rows(self.system, rows)
        gram = system.gram(rows)
        if gram is None:
            return by_term
        self.system = system
        return torch.minimum(by_term, gram.diagonal().clamp_min(0.0).sqrt() * (self.ball.euclidean * _UP))

    def pairwise(self, rows: Rows) -> Tensor:
        """Bounds on how much every difference of two rows' entries changes over the ball, term by term."""
        inputs = self.system.inputs
        values = rows.padded(self.columns).values
        straight = values[:, :inputs]
        by_term = self.ball.radius * torch.cdist(
            straight, straight, 2.0 if self.ball.norm == "l2" else 1.0, "donot_use_mm_for_euclid_dist"
        )
        unknown = values[:, inputs:]
        by_term = by_term + torch.stack([self.system.block_norms(unknown - row) @ self.reach for row in unknown])
        size = rows.norms[:, None] + rows.norms
        whole = math.hypot(self.ball.euclidean, *self.reach.tolist()) * _UP
        missed = rows.error[:, None] + rows.error + gamma_n(values.shape[1] + 64) * size
        return (by_term * (1.0 + 2.0 * gamma_n(values.shape[1] + 8)) + missed * whole) * _UP

    def _maximum(self, node: str, layer: layers.MaxPool2d, form: Form, slopes_of_form: _Slopes) -> Form:
        """Maxima over windows: candidates meet in pairs, and the winner of a pair is b + relu(a - b)."""
        candidates = list(_windows(layer, form))
        level = 0
        while len(candidates) > 1:
            left, right = candidates[0::2], candidates[1::2]
            winners = [
                self._larger(f"{node}/{level}.{i}", *pair, slopes_of_form)
                for i, pair in enumerate(zip(left, right, strict=False))
            ]
            candidates = winners + left[len(right) :]
            level += 1
        (form, _), shape = candidates[0], self.graph.shapes[node]
        size = tuple(int(n) for n in shape)
        return Form(
            form.centre.reshape(size),
            form.spread.reshape(size),
            form.columns.reshape(-1, *size),
            form.error.reshape(size),
        )

    def _larger(
        self, name: str, a: tuple[Form, Tensor], b: tuple[Form, Tensor], slopes_of_form: _Slopes
    ) -> tuple[Form, Tensor]:
        """The larger of two candidates; where one of them lies in the padding, the other."""
        (first, inside), (second, other) = a, b
        first, second = first.padded(self.columns), second.padded(self.columns)
        difference = _sum(first, second, -1.0)

        def known(name: str, layer: Layer, form: Form) -> Interval:
            low, high = slopes_of_form(name, layer, form)
            low, high = torch.where(inside, low, 0.0), torch.where(inside, high, 0.0)
            only = inside & ~other
            return torch.where(only, 1.0, low), torch.where(only, 1.0, high)

        gain = self.activation(name, _RELU, difference, known)
        only = inside & ~other
        centre = torch.where(only, difference.centre, torch.where(inside, gain.centre, 0.0))
        spread = torch.where(only, difference.spread, torch.where(inside, gain.spread, 0.0))
        gained = Form(centre, spread, gain.columns, gain.error)
        return _sum(second.padded(self.columns), gained, 1.0), inside | other


def _sum(first: Form, second: Form, sign: float) -> Form:
    """Sum, or difference, of two forms with columns for the same unknown numbers."""
    sizes = euclidean(first.columns.abs() + second.columns.abs(), 0)
    return Form(
        first.centre + sign * second.centre,
        (first.spread + second.spread + UNIT * (first.centre.abs() + second.centre.abs())) * _UP,
        first.columns + sign * second.columns,
        (first.error + second.error + 2.0 * UNIT * sizes) * _UP,
    )


def _windows(layer: layers.MaxPool2d, form: Form) -> Iterator[tuple[Form, Tensor]]:
    """Candidate number i of every window, for each i, and where it lies inside the image."""
    channels, height, width = form.centre.shape
    index = torch.arange(1, height * width + 1, dtype=torch.float64).reshape(1, 1, height, width)
    taken = _taken(layer, index).long()
    for entry in taken:
        inside = (entry > 0).expand(channels, -1)
        chosen = (entry - 1).clamp_min(0)
        centre, spread, error = (
            torch.where(inside, part.reshape(channels, -1)[:, chosen], 0.0)
            for part in (form.centre, form.spread, form.error)
        )
        columns = torch.where(inside, form.columns.flatten(2)[:, :, chosen], 0.0)
        yield Form(centre, spread, columns, error), inside


def _taken(layer: layers.MaxPool2d, index: Tensor) -> Tensor:
    """Which entry (counted from 1; 0 in the padding) each window has at each of its places: (places, windows)."""
    k1, k2, s1, s2, p1, p2, d1, d2 = (
        int(n) for pair in (layer.kernel, layer.stride, layer.padding, layer.dilation) for n in pair
    )
    height, width = index.shape[2:]
    rows, columns = (
        int(windows(n, k, s, p, d, layer.ceil_mode))
        for n, k, s, p, d in ((height, k1, s1, p1, d1), (width, k2, s2, p2, d2))
    )
    room = [(count - 1) * s + d * (k - 1) + 1 for count, s, d, k in ((rows, s1, d1, k1), (columns, s2, d2, k2))]
    bottom, right = max(0, room[0] - height - p1), max(0, room[1] - width - p2)
    padded = torch.nn.functional.pad(index, (p2, right, p1, bottom))
    unfolded = torch.nn.functional.unfold(padded, (k1, k2), dilation=(d1, d2), stride=(s1, s2))
    per_row = (padded.shape[3] - d2 * (k2 - 1) - 1) // s2 + 1
    return unfolded[0].reshape(k1 * k2, -1, per_row)[:, :rows, :columns].flatten(1)


def increments(walk: Walk) -> Form:
    """First walk: form of the increments of the logits, with the ranges of all activations left in ``walk.ranges``.

    Raises
    ------
    NonFiniteError
        A value, or how much it changes, is beyond float64.
    """

    def from_centre(name: str, layer: Layer, form: Form) -> Interval:
        radius = walk.increment(form.rows()).reshape(form.centre.shape)
        first, last = form.centre - form.spread, form.centre + form.spread
        room = (form.centre.abs() + radius) * (4.0 * UNIT)
        low, high = first - radius - room, last + radius + room
        if not bool((low.isfinite() & high.isfinite()).all()):  # a comparison with NaN would call a slope known
            raise NonFiniteError(f"node {name}: its values in the ball are beyond float64; use a smaller radius")
        walk.ranges[name] = (low, high)
        return _known(secants(layer, (first, last), low, high))

    return walk.run(from_centre)


def jacobian(walk: Walk, first: Walk) -> Form:
    """Second walk: form of the Jacobian of the logits, from what the first found."""
    walk.secant, walk.moved = False, first.moved
    return walk.run(lambda name, layer, form: _known(slopes(layer, *first.ranges[name])))


def _known(found: Interval | None) -> Interval:
    assert found is not None, "a walk passes only activations with slopes"
    return found
