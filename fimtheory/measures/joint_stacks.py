"""The program of a convolutional end of a network: its layers with their weights as steps on a joint state."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from flint import arb
from torch import Tensor

from fimtheory import layers, norms
from fimtheory.balls import ball, evaluated
from fimtheory.claims import Quantity
from fimtheory.errors import NonFiniteError
from fimtheory.joint_stacks import Action, Layout, Map, Wiring, layout_of, wired
from fimtheory.measures.base import Place, measured_value
from fimtheory.measures.operators import output_scale_of
from fimtheory.norms import joint
from fimtheory.norms.groups import ungrouped
from fimtheory.norms.rounding import UNIT
from fimtheory.norms.scaling import scale_rows
from fimtheory.norms.torus import Torus
from fimtheory.registry import Site, require_rule
from fimtheory.slopes import slopes_of

__all__ = ["gains_one_by_one", "program_of", "wiring_of"]

_MOST_BITS = 64  # weights beyond 2^64, or all below 2^-64, are left to products
_COPY = -1  # stands for what the activation reads that follows at once
_Taps = tuple[Tensor, Tensor, float]
"""Taps (new, old, count), their offsets (count, 2), and a bound on their relative error."""


def wiring_of(place: Place) -> Wiring:
    """Return the layers of a place, what they read and their shapes."""
    shapes = tuple(tuple(int(size) for size in shape) for shape in place.shapes)
    return Wiring.of(place.layers, place.reads, shapes)


def program_of(place: Place) -> joint.Program | None:
    """Return the steps up to the head; None where the layers do not fit one program.

    Raises
    ------
    NonFiniteError
        A weight is NaN or infinite, or too far from 1.
    """
    wiring = wiring_of(place)
    layout = layout_of(wiring)
    return None if layout is None else _Compiler(place, wiring, layout).program()


def gains_one_by_one(place: Place) -> arb:
    """Bound R_W by composing the gains of single layers: sums at sums, and roots of sums of squares at joins."""
    gains = [ball(1)]
    for k, (layer, read) in enumerate(zip(place.layers, place.reads, strict=True), start=1):
        sources = [gains[source] for source in read]
        own: arb
        if k == len(place.layers):
            own = ball(norms.row_diameter(place.tensors[-1]["weight"]).upper)
        elif isinstance(layer, layers.Add):
            gains.append(sum(sources, ball(0)).abs_upper())
            continue
        elif isinstance(layer, layers.Concat):
            gains.append(sum((source * source for source in sources), ball(0)).sqrt().abs_upper())
            continue
        elif (slopes := slopes_of(layer)) is not None:
            low, high = (evaluated(end, {}) for end in slopes)
            own = low.abs_upper().max(high.abs_upper())
        elif isinstance(layer, (layers.Conv2d, layers.Linear, layers.BatchNorm1d, layers.BatchNorm2d)):
            alone = Place((layer,), (place.tensors[k - 1],), place.shapes[read[0]], (place.nodes[k - 1],))
            own = measured_value("operator norm", alone)[0]
        else:
            site = Site((layer,), ("",), (place.shapes[read[0]],), place.shapes[k])
            own = evaluated(require_rule(layer, Quantity.GAIN, "").claim(site).expression, {})
        gains.append((sources[0] * own).abs_upper())
    return gains[-1]


class _Compiler:
    """Turns actions into steps; ``_state`` holds the live nodes in the order of their coordinates."""

    def __init__(self, place: Place, wiring: Wiring, layout: Layout) -> None:
        self._place, self._wiring, self._layout = place, wiring, layout
        self._state: list[int] = [0]
        self._flat = layout.unrolled == 0
        self._steps: list[joint.Step] = []

    def program(self) -> joint.Program:
        channels = self._size(0)
        for position, action in enumerate(self._layout.actions):
            if position == self._layout.unrolled > 0 and not self._flat:
                self._unroll()
            self._add(action)
        return joint.Program(Torus(self._layout.sides), channels, tuple(self._steps))

    def _shape(self, node: int) -> tuple[int, ...]:
        return self._wiring.shapes[node]

    def _size(self, node: int) -> int:
        """Coordinates of a node: entries of the vector, or channels of the image."""
        return math.prod(self._shape(node)) if self._flat else self._shape(node)[0]

    def _columns(self, node: int) -> Tensor:
        start = 0
        for each in self._state:
            if each == node:
                return torch.arange(start, start + self._size(node))
            start += self._size(each)
        raise AssertionError(f"node {node} is not live")

    def _unroll(self) -> None:
        """Every position of every channel becomes a coordinate; images smaller than others keep their own positions."""
        images = [self._shape(node) for node in self._state]
        sides = [max(image[i] for image in images) for i in (1, 2)]
        offsets = torch.cartesian_prod(*map(torch.arange, sides)).reshape(-1, 2)
        self._steps.append(joint.Readout(torch.eye(len(offsets), dtype=torch.float64), offsets))
        self._flat = True
        if len({image[1:] for image in images}) > 1:
            own, start = list[Tensor](), 0
            for channels, height, width in images:
                places = torch.arange(start, start + channels * len(offsets)).reshape(channels, *sides)
                own.append(places[:, :height, :width].flatten())
                start += channels * len(offsets)
            taps, nowhere, _ = _identity(len(own[0]))
            self._steps.append(joint.Linear(taps, nowhere, own[0], torch.cat([torch.arange(0), *own[1:]])))

    def _add(self, action: Action) -> None:
        first = action.maps[0]
        layer: Any = self._wiring.layers[first.layer - 1]
        if action.kind == "activation":
            self._steps.append(_activation(layer, self._size(first.target)))
            self._state = [first.target, *action.kept]
        elif action.kind == "copy":
            self._linear(action, [_identity(self._size(first.reads[0]))], (1, 1))
            self._state = [_COPY, *action.kept]
        elif action.kind == "maximum":
            taps = self._gathered(layer, first)
            self._linear(action, [taps], (1, 1) if self._flat else wired(layer)[1])
            self._steps.append(joint.Maximum(math.prod(layer.kernel), self._size(first.target)))
            self._state = [first.target, *action.kept]
        elif isinstance(layer, layers.AdaptiveAvgPool2d) and not self._flat:
            self._steps.append(_pooled(self._shape(first.reads[0])[1:], self._shape(first.target)[1:]))
            self._flat = True
            self._state = [first.target]
        else:
            on_torus = isinstance(layer, (layers.Conv2d, layers.AvgPool2d)) and not self._flat
            stride = wired(layer)[1] if on_torus else (1, 1)
            self._linear(action, [self._taps(m) for m in action.maps], stride)
            self._state = [*(m.target for m in action.maps), *action.kept]

    def _linear(self, action: Action, made: Sequence[_Taps], stride: tuple[int, int]) -> None:
        """One step for maps that read the same nodes, their rows below one another."""
        sources = tuple(dict.fromkeys(action.maps[0].reads))
        columns = torch.cat([self._columns(node) for node in sources])
        kept = [self._columns(node) for node in action.kept]
        offsets = torch.cat([o for _, o, _ in made])
        offsets = torch.unique(offsets, dim=0)
        rows = []
        for taps, own, _ in made:
            spread = torch.zeros((*taps.shape[:2], len(offsets)), dtype=torch.float64)
            for k, offset in enumerate(own):
                spread[:, :, int((offsets == offset).all(1).nonzero()[0, 0])] += taps[:, :, k]
            rows.append(spread)
        together = torch.cat([torch.arange(0), *kept])
        relative = max(error for _, _, error in made)
        self._steps.append(joint.Linear(torch.cat(rows), offsets, columns, together, relative, stride))

    # ---- linear maps ----------------------------------------------------------------------------------------------

    def _taps(self, each: Map) -> _Taps:
        layer: Any = self._wiring.layers[each.layer - 1]
        if isinstance(layer, (layers.Add, layers.Concat)):
            return self._joined(each, adds=isinstance(layer, layers.Add))
        if isinstance(layer, layers.Linear):
            values, error = self._weights(each)
            return values[:, :, None], _nowhere(), error
        if isinstance(layer, (layers.BatchNorm1d, layers.BatchNorm2d)):
            scale, error = output_scale_of(layer, dict(self._place.tensors[each.layer - 1]))
            _require_size(scale)
            repeats = self._size(each.target) // len(scale)
            return torch.diag(scale.repeat_interleave(repeats))[:, :, None], _nowhere(), error
        before, after = self._shape(each.reads[0])[1:], self._shape(each.target)[1:]
        if isinstance(layer, layers.AdaptiveAvgPool2d):
            window = tuple(n // m for n, m in zip(before, after, strict=True))
            return self._averaged(each, window, window, (0, 0), math.prod(window))
        if isinstance(layer, layers.AvgPool2d):
            kernel, stride, padding, _ = wired(layer)
            return self._averaged(each, kernel, stride, padding, layer.divisor or math.prod(kernel))
        values, error = self._weights(each)
        kernel, stride, padding, dilation = wired(layer)
        whole = ungrouped(values.reshape(values.shape[0], -1, *kernel), int(layer.groups))
        if not self._flat:
            return whole.flatten(2), _offsets(kernel, padding, dilation), error
        matrix = torch.einsum(
            "oct,tqp->oqcp", whole.flatten(2), _placed(before, after, kernel, stride, padding, dilation)
        )
        return matrix.reshape(self._size(each.target), -1, 1), _nowhere(), error

    def _weights(self, each: Map) -> tuple[Tensor, float]:
        """Weight as a matrix, batch norm included, and its relative error."""
        scale = None
        if each.scale:
            norm = self._wiring.layers[each.scale - 1]
            scale = output_scale_of(norm, dict(self._place.tensors[each.scale - 1]))
        weight = self._place.tensors[each.layer - 1]["weight"]
        rows = scale_rows(weight.flatten(1), scale, f"the weight of {self._place.nodes[each.layer - 1]}")
        if rows.values is None:
            return torch.zeros(weight.flatten(1).shape, dtype=torch.float64), 0.0
        if abs(rows.exponent) > _MOST_BITS:
            raise NonFiniteError(f"the weight of {self._place.nodes[each.layer - 1]} is too far from 1 to be scaled")
        return rows.values * 2.0**rows.exponent, (rows.entry_error + rows.scale_error) * (1.0 + 2.0**-20)

    def _joined(self, each: Map, *, adds: bool) -> _Taps:
        """Sum or concatenation of nodes, each a block of the sources."""
        sources = tuple(dict.fromkeys(each.reads))
        starts = dict(zip(sources, itertools.accumulate((self._size(n) for n in sources), initial=0), strict=False))
        taps = torch.zeros(self._size(each.target), sum(self._size(n) for n in sources), 1, dtype=torch.float64)
        row = 0
        for node in each.reads:
            index = torch.arange(self._size(node))
            taps[row + index, starts[node] + index, 0] += 1.0
            row += 0 if adds else self._size(node)
        return taps, _nowhere(), 0.0

    def _averaged(
        self, each: Map, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], divisor: int
    ) -> _Taps:
        """Windows of every channel, summed and divided."""
        channels = torch.eye(self._shape(each.target)[0], dtype=torch.float64)
        if not self._flat:
            offsets = _offsets(kernel, padding, (1, 1))
            return (channels[:, :, None] / divisor).expand(-1, -1, len(offsets)), offsets, 2.0 * UNIT
        before, after = self._shape(each.reads[0])[1:], self._shape(each.target)[1:]
        window = _placed(before, after, kernel, stride, padding, (1, 1)).sum(0) / divisor
        return torch.kron(channels, window)[:, :, None], _nowhere(), 2.0 * UNIT

    def _gathered(self, layer: Any, each: Map) -> _Taps:
        """Entry k of every window of channel j, at k count + j; a window reads zero where it leaves the image."""
        kernel, stride, padding, dilation = wired(layer)
        count, channels = math.prod(kernel), torch.eye(self._shape(each.target)[0], dtype=torch.float64)
        if not self._flat:
            taps = torch.einsum("kt,oc->koct", torch.eye(count, dtype=torch.float64), channels)
            return taps.reshape(-1, len(channels), count), _offsets(kernel, padding, dilation), 0.0
        before, after = self._shape(each.reads[0])[1:], self._shape(each.target)[1:]
        placed = _placed(before, after, kernel, stride, padding, dilation)
        matrix = torch.einsum("kqp,oc->koqcp", placed, channels)
        return matrix.reshape(count * self._size(each.target), -1, 1), _nowhere(), 0.0


def _nowhere() -> Tensor:
    return torch.zeros(1, 2, dtype=torch.int64)


def _identity(size: int) -> _Taps:
    return torch.eye(size, dtype=torch.float64)[:, :, None], _nowhere(), 0.0


def _offsets(kernel: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """Where the taps of a window are read, relative to its output."""
    along = [torch.arange(k) * d - p for k, p, d in zip(kernel, padding, dilation, strict=True)]
    return torch.cartesian_prod(*along).reshape(-1, 2)


def _placed(
    before: Sequence[int],
    after: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """For each tap, the 0-1 matrix from positions of the image to the windows that read them, zero outside."""
    along = []
    for n, m, k, s, p, d in zip(before, after, kernel, stride, padding, dilation, strict=True):
        made = torch.zeros(k, m, n, dtype=torch.float64)
        for tap, output in itertools.product(range(k), range(m)):
            position = output * s + tap * d - p
            if 0 <= position < n:
                made[tap, output, position] = 1.0
        along.append(made)
    whole = torch.einsum("kqp,lrs->klqrps", *along)
    return whole.reshape(math.prod(kernel), math.prod(after), math.prod(before))


def _pooled(before: Sequence[int], after: Sequence[int]) -> joint.Readout:
    """Averages over equal windows, a readout of every channel."""
    window = [n // m for n, m in zip(before, after, strict=True)]
    placed = _placed(before, after, window, window, (0, 0), (1, 1)).sum(0) / math.prod(window)
    offsets = torch.cartesian_prod(torch.arange(before[0]), torch.arange(before[1])).reshape(-1, 2)
    return joint.Readout(placed, offsets)


def _activation(layer: Any, count: int) -> joint.Activation:
    """Slopes, with 0 among them, as centre and radius rounded outward."""
    slopes = slopes_of(layer)
    assert slopes is not None, "an activation has slopes"
    low, high = (evaluated(end, {}) for end in slopes)
    low, high = min(float(low.lower()), 0.0), max(float(high.upper()), 0.0)
    centre = 0.5 * (low + high)
    radius = max(centre - low, high - centre) * (1.0 + 2.0**-50)
    whole = torch.ones(count, dtype=torch.float64)
    return joint.Activation(centre * whole, radius * whole)


def _require_size(scale: Tensor) -> None:
    largest = float(scale.abs().max())
    if largest > 2.0**_MOST_BITS or 0.0 < largest < 2.0**-_MOST_BITS:
        raise NonFiniteError("the scale of a batch norm is too far from 1")
