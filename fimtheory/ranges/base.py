"""A range, what it is computed from, and the two arguments that most layers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, final

from flint import arb
from torch import Tensor

from fimtheory.balls import ball, evaluated
from fimtheory.claims import VALUE_BOUNDS, Quantity
from fimtheory.errors import RuleError
from fimtheory.layers import Layer, Shape
from fimtheory.registry import LayerTypes, Site, find_rule, require_rule

__all__ = ["RANGED", "Flow", "Range", "Ranged", "bounded", "ranged", "spread"]

_UNKNOWN = arb("inf")
_F = TypeVar("_F", bound=Callable[..., "Range"])
Slots = tuple[int, ...] | None
"""Slots of inputs; None for all of them."""
Reads = Slots | Callable[[Any], Slots]


@final
@dataclass(frozen=True, slots=True)
class Range:
    """Upper bounds on the entries, the tokens (vectors along the last dimension) and the whole of a value."""

    entry: arb
    token: arb
    norm: arb

    @classmethod
    def of(cls, shape: Shape, *, entry: arb = _UNKNOWN, token: arb = _UNKNOWN, norm: arb = _UNKNOWN) -> Range:
        """Return the tightest bounds that follow for a value of ``shape`` from those that are given, at least one.

        An entry is at most its token, a token at most the whole; n entries of at most E have norm at most
        ``sqrt(n) E``.

        >>> made = Range.of((4, 9), token=ball(5))
        >>> float(made.entry), float(made.token), float(made.norm)
        (5.0, 5.0, 10.0)
        """
        entry, token, norm = (bound.abs_upper() for bound in (entry, token, norm))
        entry = entry.min(token).min(norm)
        token = token.min(entry * root(int(shape[-1]))).min(norm).abs_upper()
        norm = norm.min(token * root(size_of(shape[:-1]))).abs_upper()
        assert norm.is_finite(), "a range needs at least one bound"
        return cls(entry, token, norm)

    def bound(self, quantity: Quantity) -> arb:
        """Return the bound on entries, tokens or the whole that ``quantity`` names."""
        return {
            Quantity.ENTRY_BOUND: self.entry,
            Quantity.TOKEN_NORM: self.token,
            Quantity.NORM_BOUND: self.norm,
        }[quantity]


def size_of(shape: Shape) -> int:
    """Return the number of entries of a value of ``shape``; 1 without dimensions."""
    size = 1
    for dimension in shape:
        size *= int(dimension)
    return size


def root(number: int) -> arb:
    """Return the square root of a number, rounded up."""
    return ball(number).sqrt().abs_upper()


@final
@dataclass(frozen=True, eq=False)
class Flow:
    """A run of layers (mostly one), its tensors by name inside each layer, and the shapes before and after.

    ``measured`` evaluates a measure of the run.
    """

    nodes: tuple[str, ...]
    layers: tuple[Layer, ...]
    tensors: tuple[Mapping[str, Tensor], ...]
    inputs: tuple[Shape, ...]
    output: Shape
    measured: Callable[[str], arb]

    @property
    def layer(self) -> Any:
        """The layer, where the run has one."""
        (only,) = self.layers
        return only

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The tensors of the layer, where the run has one."""
        (only,) = self.tensors
        return only

    def gain(self) -> arb:
        """Certified gain of the layer, whose rule must need no bound on values."""
        return self._evaluated(Quantity.GAIN)

    def value_bounds(self) -> dict[Quantity, arb]:
        """Bounds on the output that rules of the layer give whatever flows in."""
        kinds = tuple(type(layer) for layer in self.layers)
        found = {quantity: find_rule(kinds, quantity) for quantity in VALUE_BOUNDS}
        return {q: self._evaluated(q) for q, rule in found.items() if rule is not None and not rule.needs}

    def _evaluated(self, quantity: Quantity) -> arb:
        found = require_rule(self.layer, quantity, self.nodes[-1])
        assert not found.needs, f"{found.name} rests on bounds of values, which are what is being computed"
        claim = found.claim(Site(self.layers, self.nodes, self.inputs, self.output))
        return evaluated(claim.expression, {m.symbol: self.measured(m.kind) for m in claim.measured}).abs_upper()


@final
@dataclass(frozen=True, slots=True)
class Ranged:
    """The range of a layer type, and the slots of the inputs whose ranges the function takes."""

    function: Callable[..., Range]
    reads: Reads

    def slots(self, layers: tuple[Layer, ...], inputs: int) -> tuple[int, ...]:
        """Return the slots that are read behind a run of layers with so many inputs."""
        read = self.reads(layers[-1]) if callable(self.reads) else self.reads
        return tuple(range(inputs)) if read is None else read


RANGED: dict[LayerTypes, Ranged] = {}
"""Range functions by layer type, or by a run of types that is bounded as one map."""


def ranged(*types: type[Layer], reads: Reads = None) -> Callable[[_F], _F]:
    """Register a function of a ``Flow`` and of the ranges of the inputs ``reads`` for a layer type or a run of types.

    ``reads`` are slots of inputs, or a function that gives them for a layer; by default all are read.

    Raises
    ------
    RuleError
        There is such a function already.
    """

    def register(function: _F) -> _F:
        if types in RANGED:
            names = ", ".join(kind.__name__ for kind in types)
            raise RuleError(f"there is a range of {names} already; two would make a bound ambiguous")
        RANGED[types] = Ranged(function, reads)
        return function

    return register


def bounded(flow: Flow) -> Range:
    """Range of a layer whose own rules bound its output whatever flows in."""
    found = flow.value_bounds()
    return Range.of(
        flow.output,
        entry=found.get(Quantity.ENTRY_BOUND, _UNKNOWN),
        token=found.get(Quantity.TOKEN_NORM, _UNKNOWN),
        norm=found.get(Quantity.NORM_BOUND, _UNKNOWN),
    )


def spread(flow: Flow, x: Range, slope: arb, at_zero: arb) -> Range:
    """Range of an elementwise function with ``|f(x)| <= slope |x| + at_zero``; both are nonnegative.

    >>> flow = Flow(("f",), (), (), ((4,),), (4,), ball)
    >>> made = spread(flow, Range.of((4,), norm=ball(1)), ball(1), ball(2))
    >>> float(made.entry), float(made.norm)
    (3.0, 5.0)
    """
    return Range.of(
        flow.output,
        entry=slope * x.entry + at_zero,
        token=slope * x.token + at_zero * root(int(flow.output[-1])),
        norm=slope * x.norm + at_zero * root(size_of(flow.output)),
    )
