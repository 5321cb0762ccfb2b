"""The cases that are tried first: few of them, that differ from one another in as much as they can.

Most faults of a rule show for one value of one field, such as a stride above 1 or a negative slope, or for weights of
one style.  Drawing at random meets the same value again and again; out of many layers that are drawn, but not tested,
those are taken that show most values not seen before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import MISSING, fields, replace
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings

from fimtheory.properties.cases import Case, layers_of
from fimtheory.registry import Rule

__all__ = ["QUIET", "covering"]

QUIET = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)
_POOL = 2
"""Cases that are drawn for each that is taken."""
_STYLES = (
    "normal", "identity", "large", "tiny", "rank one", "ones", "orthogonal", "signs", "single", "zero", "denormal",
    "huge",
)  # fmt: skip
"""Styles of weights in the order in which they are tried: those that tell most faults first."""


def covering(rule: Rule, count: int, seed: int = 0) -> tuple[Case, ...]:
    """Return ``count`` cases of a rule, or fewer where there are not so many, the most telling first.

    Parameters
    ----------
    rule
        A registered rule.
    count
        How many cases are wanted.
    seed
        Of the drawing.
    """
    pool = _drawn(rule, _POOL * count, seed)
    shown = [frozenset(_shown(case)) for case in pool]
    left, seen, taken = list(range(len(pool))), set[Any](), list[Case]()
    while left and len(taken) < count:
        best = max(left, key=lambda k: len(shown[k] - seen))
        left.remove(best)
        seen |= shown[best]
        number = len(taken)
        style = _STYLES[number % len(_STYLES)]
        taken.append(replace(pool[best], styles=(style,), seed=number + 1 + count * seed))
    return tuple(taken)


def _drawn(rule: Rule, count: int, seed: int) -> list[Case]:
    made: dict[Case, None] = {}

    @hypothesis.seed(seed)
    @settings(
        max_examples=count, deadline=None, database=None, phases=(Phase.generate,), suppress_health_check=QUIET
    )  # fmt: skip
    @given(layers_of(rule))
    def draw(case: Case) -> None:
        made[case] = None

    draw()
    return list(made)


def _shown(case: Case) -> Iterator[tuple[Any, ...]]:
    """Yield what a case shows: values of fields, those that are no default or lopsided, and its shapes."""
    for place, layer in enumerate(case.layers):
        made: Any = layer
        for field in fields(made):
            value = getattr(layer, field.name)
            yield place, field.name, repr(value)
            if field.default is not MISSING and value != field.default:
                yield place, field.name, "no default"
            if isinstance(value, tuple) and len(set(value)) > 1:
                yield place, field.name, "lopsided"
    for slot, shape in enumerate(case.inputs):
        yield "dimensions", slot, len(shape)
        if math.prod(int(n) for n in shape) > 1:
            yield "entries", slot
    yield "variance", case.token_variance
