"""What evaluates a measure: a function of a place, registered by the measure's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar, final

from flint import arb
from torch import Tensor

from fimtheory import norms
from fimtheory.balls import ball
from fimtheory.errors import MissingRuleError
from fimtheory.layers import Layer, Shape

__all__ = ["EVALUATIONS", "Place", "Value", "certified", "evaluates", "measured_value"]

Value = tuple[arb, str]


@final
@dataclass(frozen=True, eq=False)
class Place:
    """A run of layers with their tensors (by name inside the layer) and the shape that flows in.

    ``reads`` says what each layer reads, 0 for what flows in and k for the k-th layer, and ``shapes`` holds the shapes
    of all of them; both are empty where nobody asked for them.
    """

    layers: tuple[Layer, ...]
    tensors: tuple[Mapping[str, Tensor], ...]
    input: Shape
    nodes: tuple[str, ...]
    reads: tuple[tuple[int, ...], ...] = ()
    shapes: tuple[Shape, ...] = ()

    def sizes(self) -> tuple[int, ...]:
        """Shape that flows in, as ints."""
        return tuple(int(size) for size in self.input)


EVALUATIONS: dict[str, Callable[[Place], Value]] = {}
_F = TypeVar("_F", bound=Callable[[Place], Value])


def evaluates(kind: str) -> Callable[[_F], _F]:
    """Register a function as the evaluation of the measure ``kind``."""

    def register(function: _F) -> _F:
        EVALUATIONS[kind] = function
        return function

    return register


def measured_value(kind: str, place: Place) -> Value:
    """Evaluate the measure ``kind`` at a place.

    Raises
    ------
    MissingRuleError
        No evaluation is registered for it.
    """
    if kind not in EVALUATIONS:
        raise MissingRuleError(
            f"node {place.nodes[-1]}: no evaluation of the measure {kind!r}; register one with @ft.evaluates({kind!r})"
        )
    return EVALUATIONS[kind](place)


def certified(norm: norms.CertifiedNorm) -> Value:
    """Return a certified norm as a measure's value."""
    return ball(norm.upper), norm.method
