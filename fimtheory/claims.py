"""Claims: what a rule says of one layer, a lemma of one block and the theorem of the graph.

One type serves all three scales, so that composing claims is the only thing a derivation does.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import final

import sympy

__all__ = ["VALUE_BOUNDS", "Claim", "Condition", "Measured", "Quantity", "Reference", "Relation", "Status"]


class Status(enum.StrEnum):
    """How far a number can be trusted; shown wherever the number is shown.

    Only ``LOWER`` and ``EXACT`` values can refute a bound, and only ``CERTIFIED`` ones can state one.
    """

    CERTIFIED = "certified"
    """A bound that holds in floating point (every rounding goes outward)."""
    EXACT = "exact"
    """The quantity itself, up to the rounding of the arithmetic it was computed in."""
    LOWER = "lower"
    """A value the quantity attains or exceeds."""
    CONFIDENCE = "confidence"
    """A two-sided interval at a stated level."""
    EXPECTED = "expected"
    """A bound on the mean over random weights, exact at finite width or in the wide limit."""
    HEURISTIC = "heuristic"
    """Supported by experiment only."""


class Quantity(enum.StrEnum):
    """What a rule can be asked about a layer."""

    SHAPE = "shape"
    """Output shape from the input shapes."""
    PARAMETERS = "parameters"
    """Names, shapes and initial distribution of the layer's tensors."""
    FORWARD = "forward"
    """The torch computation."""
    GAIN = "gain"
    """Lipschitz constant, l2 to l2."""
    SLOPES = "slopes"
    """Interval that contains every derivative of an elementwise layer."""
    ENTRY_BOUND = "entry bound"
    """Largest absolute value of an output entry."""
    TOKEN_NORM = "token norm"
    """Largest l2 norm of one output token (a vector along the last dimension)."""
    NORM_BOUND = "norm bound"
    """Largest l2 norm of the whole output."""
    JACOBIAN_VARIANCE = "jacobian variance"
    """Factor by which E||J||_F^2 grows, the mean being over random weights."""
    SYMMETRY = "symmetry"
    """Whether the output changes sign with the layer's random weights or with its input."""


VALUE_BOUNDS = frozenset({Quantity.ENTRY_BOUND, Quantity.TOKEN_NORM, Quantity.NORM_BOUND})
"""Quantities that bound a node's value, not its derivative, on the theorem's domain."""


class Relation(enum.StrEnum):
    """How a claim's quantity and its expression compare."""

    LE = "<="
    EQ = "=="


@final
@dataclass(frozen=True, slots=True)
class Reference:
    """Where a statement comes from: ``key`` is a bibliography entry, ``where`` a theorem, section or equation."""

    key: str
    where: str = ""


@final
@dataclass(frozen=True, slots=True)
class Condition:
    """One assumption under which a claim holds.

    ``statement`` is a sentence in which ``$...$`` holds LaTeX; two conditions are the same when it is.
    """

    statement: str


@final
@dataclass(frozen=True, slots=True)
class Measured:
    """A nonnegative number read off the weights or sizes of ``nodes``, and the symbol that stands for it.

    ``kind`` names a measure (see ``fimtheory.registry.measure``), which says how it is evaluated and written.
    """

    symbol: sympy.Expr
    kind: str
    nodes: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Claim:
    """``quantity relation expression``, under ``conditions``, by ``reference``.

    ``expression`` is nondecreasing in every measured symbol and every premise, so that replacing them by upper
    bounds keeps the claim true.
    """

    relation: Relation
    expression: sympy.Expr
    reference: Reference
    conditions: tuple[Condition, ...] = ()
    measured: tuple[Measured, ...] = ()
    status: Status = Status.EXACT
