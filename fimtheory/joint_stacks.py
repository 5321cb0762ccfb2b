"""Ends of convolutional networks whose live nodes can be bounded jointly: in which order, and on which torus.

The nodes after an entry are gone through one by one.  What is still to be read is the state: on a torus of frequencies
(see ``norms.torus``), and, from where it has few enough entries, as one vector.  On the torus

- a strided map must read all that is live, and all maps that do so then have one stride, for one torus holds one
  resolution;
- a padded map must read zeros around the image, so an activation (whose slopes are widened to hold 0) or a max pool
  must come after the last map that was not pointwise;
- the sides are multiples of all strides together, and leave room at every level for what the padding reads.

An end of a network that does not fit this begins later.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from fimtheory import layers
from fimtheory.layers import Layer
from fimtheory.slopes import slopes_of

__all__ = ["Action", "Layout", "Map", "Wiring", "layout_of", "wired"]

_MOST_ENTRIES = 1100
"""Entries of a state that is one vector: factorisations are of twice that order."""
_MOST_WORK = 2.0**39.5
"""Multiplications of complex numbers in all factorisations: some minutes."""
_MOST_CHANNELS = 4096
_SAME = (layers.Identity, layers.Dropout)
_POOLS = (layers.AvgPool2d, layers.MaxPool2d)
_NORMS = (layers.BatchNorm1d, layers.BatchNorm2d)


@final
@dataclass(frozen=True, slots=True)
class Wiring:
    """Layers in order, what each reads (0 is the entry, k the k-th layer), and all shapes, the entry's first."""

    layers: tuple[Layer, ...]
    reads: tuple[tuple[int, ...], ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, given: Sequence[Layer], reads: Sequence[tuple[int, ...]], shapes: Sequence[tuple[int, ...]]) -> Wiring:
        """Return the wiring, with the mean over an image as the pool that it is."""
        made, sizes = list(given), list(shapes)
        for k, layer in enumerate(made, start=1):
            before = sizes[reads[k - 1][0]]
            if isinstance(layer, layers.Mean) and len(before) == 3 and sorted(layer.dims) == [1, 2]:
                made[k - 1], sizes[k] = layers.AdaptiveAvgPool2d((1, 1)), (before[0], 1, 1)
        return cls(tuple(made), tuple(reads), tuple(sizes))


@final
@dataclass(frozen=True, slots=True)
class Map:
    """A linear map to node ``target``: layer ``layer`` of what it reads, then batch norm ``scale`` if not 0."""

    target: int
    layer: int
    scale: int
    reads: tuple[int, ...]


@final
@dataclass(frozen=True, slots=True)
class Action:
    """Maps of one kind, and the nodes that stay live beside their targets.

    ``kind`` is "linear", "activation", "maximum" (both of a single map) or "copy": what a map reads comes first in the
    state, a copy of it if it stays live.
    """

    kind: str
    maps: tuple[Map, ...]
    kept: tuple[int, ...]


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """Actions, of which those from ``unrolled`` on act on one vector, and the sides of the torus at the entry."""

    actions: tuple[Action, ...]
    unrolled: int
    sides: tuple[int, int]


def layout_of(wiring: Wiring) -> Layout | None:
    """Return how to bound the layers jointly up to the last, which is the head; None if they do not fit."""
    maps = _effective(wiring)
    if maps is None:
        return None
    actions = _ordered(wiring, maps)
    sizes = [_entries(wiring, action) for action in actions]
    unrolled = len(actions)  # sizes count the state before an action too
    while unrolled > 0 and sizes[unrolled - 1] <= _MOST_ENTRIES:
        unrolled -= 1
    # Where the next action still has too many, only averaging on the torus makes few of them.
    if unrolled == len(actions) > 0 and not _is_global(wiring, actions[-1]):
        return None
    if unrolled > 0 and len(wiring.shapes[0]) != 3:
        return None
    sides = _sides(wiring, actions[:unrolled])
    if sides is None or _work(wiring, actions, unrolled, sides) > _MOST_WORK:
        return None
    return Layout(tuple(actions), unrolled, sides)


# ---- what each node is --------------------------------------------------------------------------------------------


def _effective(wiring: Wiring) -> list[Map] | None:
    """Nodes as linear maps, activations and maxima, without those that change nothing or belong to their neighbours."""
    readers: dict[int, list[int]] = {}
    for k, read in enumerate(wiring.reads, start=1):
        for source in read:
            readers.setdefault(source, []).append(k)
    same = {0: 0}
    made: list[Map] = []
    fused: dict[int, int] = {}
    for k, (layer, read) in enumerate(zip(wiring.layers[:-1], wiring.reads[:-1], strict=True), start=1):
        if not _fits(layer, k, wiring):
            return None
        sources = tuple(same[source] for source in read)
        same[k] = k
        after = [wiring.layers[r - 1] for r in readers[k]]
        if isinstance(layer, (*_SAME, layers.Flatten)):
            same[k] = sources[0]
        elif isinstance(layer, (layers.Conv2d, layers.Linear)) and len(after) == 1 and isinstance(after[0], _NORMS):
            fused[k] = k
            made.append(Map(readers[k][0], k, readers[k][0], sources))
        elif isinstance(layer, _NORMS) and read[0] in fused:
            continue
        elif _is_absorbed(layer) and len(after) == 1 and isinstance(after[0], layers.MaxPool2d):
            same[k] = sources[0]
        else:
            made.append(Map(k, k, 0, sources))
    return made if any(isinstance(layer, layers.Conv2d) for layer in wiring.layers) else None


def _is_absorbed(layer: Layer) -> bool:
    """Whether an activation's factors are among those of a maximum."""
    slopes = slopes_of(layer)
    return slopes is not None and bool(slopes[0] >= 0) and bool(slopes[1] <= 1)


def _fits(layer: Any, k: int, wiring: Wiring) -> bool:
    """Whether a layer is of a kind, and of sizes, that some step bounds."""
    before, here = wiring.shapes[wiring.reads[k - 1][0]], wiring.shapes[k]
    if isinstance(layer, _SAME):
        return True
    if isinstance(layer, (layers.Conv2d, layers.MaxPool2d, layers.BatchNorm2d)):
        return len(before) == 3
    if isinstance(layer, layers.AvgPool2d):
        whole = not layer.ceil_mode and (layer.count_include_pad or not any(layer.padding))
        return whole or layer.divisor is not None
    if isinstance(layer, layers.AdaptiveAvgPool2d):
        return len(before) == 3 and all(n % m == 0 for n, m in zip(before[1:], here[1:], strict=True))
    if isinstance(layer, layers.Flatten):
        return len(here) == 1
    if isinstance(layer, layers.Linear):
        return len(here) == 1 and before == (layer.in_features, *(1,) * (len(before) - 1))
    if isinstance(layer, layers.BatchNorm1d):
        return all(size == 1 for size in before[1:])
    if isinstance(layer, layers.Add):
        return all(wiring.shapes[source] == here for source in wiring.reads[k - 1])
    if isinstance(layer, layers.Concat):
        return layer.dim == 0
    slopes = slopes_of(layer)
    return slopes is not None and slopes != (0, 0) and len(here) in (1, 3)


# ---- the order ----------------------------------------------------------------------------------------------------


def _ordered(wiring: Wiring, maps: Sequence[Map]) -> list[Action]:
    """Actions in order; strided maps that read one node are one action."""
    left = list(maps)
    head = _resolved(wiring)
    state: list[int] = [0]
    made: list[Action] = []
    while left:
        first = left[0]
        group = [m for m in left if m.reads == first.reads and _strided(wiring, m)] if _strided(wiring, first) else []
        group = group or [first]
        left = [m for m in left if m not in group]
        kept = tuple(n for n in state if n == head or any(n in m.reads for m in left))
        layer = wiring.layers[first.layer - 1]
        kind = "linear"
        if isinstance(layer, layers.MaxPool2d):
            kind = "maximum"
        elif slopes_of(layer) is not None:
            kind = "activation"
            if state[0] != first.reads[0] or first.reads[0] in kept:
                made.append(Action("copy", (first,), kept))
        made.append(Action(kind, tuple(group), kept))
        state = [*(m.target for m in group), *kept]
    return made


def _resolved(wiring: Wiring) -> int:
    """Node that the head reads, past layers that change nothing."""
    node = wiring.reads[-1][0]
    while node > 0 and isinstance(wiring.layers[node - 1], (*_SAME, layers.Flatten)):
        node = wiring.reads[node - 1][0]
    return node


def _strided(wiring: Wiring, each: Map) -> bool:
    layer: Any = wiring.layers[each.layer - 1]
    return isinstance(layer, (layers.Conv2d, layers.AvgPool2d)) and tuple(layer.stride) != (1, 1)


def _volume(shape: Sequence[int]) -> int:
    return math.prod(shape)


def _live(wiring: Wiring, action: Action) -> int:
    """Entries of the state before an action."""
    nodes = {source for m in action.maps for source in m.reads} | set(action.kept)
    return sum(_volume(wiring.shapes[n]) for n in nodes)


def _entries(wiring: Wiring, action: Action) -> int:
    """Most entries of the state during and after an action."""
    targets = sum(_volume(wiring.shapes[m.target]) * _window(wiring, m, action) for m in action.maps)
    after = targets + sum(_volume(wiring.shapes[n]) for n in action.kept)
    return max(after, _live(wiring, action))


def _window(wiring: Wiring, each: Map, action: Action) -> int:
    layer: Any = wiring.layers[each.layer - 1]
    return math.prod(layer.kernel) if action.kind == "maximum" else 1


def _is_global(wiring: Wiring, action: Action) -> bool:
    """Whether an action averages all that is live over windows, and reads nothing else afterwards."""
    return isinstance(wiring.layers[action.maps[0].layer - 1], layers.AdaptiveAvgPool2d) and not action.kept


# ---- the torus ----------------------------------------------------------------------------------------------------


def wired(layer: Any) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Kernel, stride, padding and dilation of a convolution or a pool."""
    height, width = zip(layer.kernel, layer.stride, layer.padding, getattr(layer, "dilation", (1, 1)), strict=True)
    kernel, stride, padding, dilation = zip(height, width, strict=True)
    return kernel, stride, padding, dilation


def _sides(wiring: Wiring, actions: Sequence[Action]) -> tuple[int, int] | None:
    """Sides of the torus at the entry on which the actions are right inside the image; None where none is."""
    if not actions:
        return 1, 1
    if len(wiring.shapes[0]) != 3:
        return None
    level: dict[int, tuple[int, int]] = {0: (1, 1)}
    clean: dict[int, bool] = {0: True}
    needs = [list(wiring.shapes[0][1:])]
    for position, action in enumerate(actions):
        for each in action.maps:
            layer: Any = wiring.layers[each.layer - 1]
            source, target = each.reads[0], each.target
            if len(wiring.shapes[target]) != 3 or len({level[n] for n in each.reads}) > 1:
                return None
            here, image = level[source], wiring.shapes[source][1:]
            level[target] = here
            reads_clean = clean[target] = all(clean[n] for n in each.reads)
            if isinstance(layer, layers.AdaptiveAvgPool2d):
                if position + 1 < len(actions) or action.kept:
                    return None
                continue
            if action.kind != "linear":
                clean[target] = True
            if isinstance(layer, (layers.Conv2d, *_POOLS)):
                kernel, stride, padding, dilation = wired(layer)
                if action.kept and stride != (1, 1):
                    return None
                pointwise = kernel == stride == (1, 1) and not any(padding)
                if not isinstance(layer, layers.MaxPool2d):
                    clean[target] = reads_clean and pointwise
                level[target] = (here[0] * stride[0], here[1] * stride[1])
                outputs = wiring.shapes[target][1:]
                each_way = zip(image, outputs, kernel, stride, padding, dilation, strict=True)
                around = [max(p, s * (m - 1) + d * (k - 1) - p - (n - 1), 0) for n, m, k, s, p, d in each_way]
                if any(around) and not reads_clean and not isinstance(layer, layers.MaxPool2d):
                    return None
                needs.append([unit * (n + more) for unit, n, more in zip(here, image, around, strict=True)])
        if len({level[n] for n in (*(each.target for each in action.maps), *action.kept)}) > 1:
            return None
    steps = [math.lcm(*(unit[i] for unit in level.values())) for i in range(2)]
    first, second = (-(-max(need[i] for need in needs) // steps[i]) * steps[i] for i in range(2))
    return first, second


def _work(wiring: Wiring, actions: Sequence[Action], unrolled: int, sides: tuple[int, int]) -> float:
    """Multiplications of complex numbers in the factorisations."""
    total = 0.0
    shrunk: dict[int, Any] = {0: 1}
    for k, action in enumerate(actions):
        on_torus = k < unrolled
        for each in action.maps:
            layer: Any = wiring.layers[each.layer - 1]
            step = math.prod(layer.stride) if isinstance(layer, (layers.Conv2d, *_POOLS)) else 1
            shrunk[each.target] = shrunk[each.reads[0]] * step
        if action.kind in ("activation", "maximum"):
            (each,) = action.maps
            own = _size(wiring, each.target, on_torus) * _window(wiring, each, action)
            rest = sum(_size(wiring, n, on_torus) for n in action.kept)
            count = math.prod(sides) / shrunk[each.target] / 2 + 1 if on_torus else 0.25
            total += count * float(2 * own + rest) ** 3
            if max(own + rest, 0) > _MOST_CHANNELS:
                return math.inf
    return total


def _size(wiring: Wiring, node: int, on_torus: bool) -> int:
    """Coordinates of a node in the state."""
    shape = wiring.shapes[node]
    return shape[0] if on_torus else _volume(shape)
