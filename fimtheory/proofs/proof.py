"""Proofs as data: what is assumed, and steps that each claim a relation by a rule from earlier ones."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import sympy

from fimtheory.claims import Reference
from fimtheory.errors import CheckError, FormatError

__all__ = [
    "Hypothesis",
    "Premises",
    "Proof",
    "Relates",
    "Statement",
    "Step",
    "equal",
    "least",
    "require_premises",
    "require_relation",
]


class Relates(enum.StrEnum):
    """How the two sides of a statement compare."""

    LE = "<="
    EQ = "="


@final
@dataclass(frozen=True)
class Statement:
    """``left relation right``, of numbers or (equations only) of operators."""

    left: sympy.Expr
    relation: Relates
    right: sympy.Expr

    def __str__(self) -> str:
        return f"{self.left} {self.relation} {self.right}"


Premises = Sequence[Statement]
"""What a step follows from."""


def least(left: Any, right: Any) -> Statement:
    """Return the statement ``left <= right``."""
    left, right = sympy.sympify(left), sympy.sympify(right)
    return Statement(left, Relates.LE, right)


def equal(left: Any, right: Any) -> Statement:
    """Return the statement ``left = right``."""
    left, right = sympy.sympify(left), sympy.sympify(right)
    return Statement(left, Relates.EQ, right)


def require_relation(statement: Statement, relation: Relates) -> None:
    """Refuse a statement of the other relation."""
    if statement.relation is not relation:
        raise CheckError(f"the rule is about {relation}, got {statement}")


def require_premises(premises: Premises, count: int) -> Premises:
    """Return the premises if there are so many."""
    if len(premises) != count:
        raise CheckError(f"the rule takes {count} premises, got {len(premises)}")
    return premises


@final
@dataclass(frozen=True)
class Hypothesis:
    """What a proof starts from.

    ``words`` says it for readers.  A definition can be met whatever the rest of the proof is about; a theorem does not
    list it among its assumptions.  A statement with random numbers holds for every label, and one ``for_all`` symbols
    for everything in the range of each (see `Proof.ranges`).
    """

    name: str
    statement: Statement
    words: str
    definition: bool = False
    for_all: tuple[sympy.Expr, ...] = ()

    def __post_init__(self) -> None:
        _require_statement(f"hypothesis {self.name}", self.statement)


@final
@dataclass(frozen=True)
class Step:
    """One claim, the rule it follows by, and the names of the hypotheses and steps it follows from."""

    name: str
    claim: Statement
    rule: str
    premises: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_statement(f"step {self.name}", self.claim)
        _require_names(f"step {self.name}: premises", self.premises)


@final
@dataclass(frozen=True)
class Proof:
    """A theorem, with the steps that prove it.

    Attributes
    ----------
    name, title, words
        ``"T5"``, a short title, and the theorem in words.
    reference : Reference
        Where the theorem is from.
    spaces
        Source and target of every operator symbol, by names; ``"1"`` is the space of real numbers, and none has the
        dimension 0, so that ``Norm(1)`` and ``Top(1)`` are 1 in each.
    labels
        For each random number the label it depends on, and the number it is an independent copy of (or itself).  All
        numbers of a label are copies from one other label, or none is.
    unit
        Unit vectors that are arbitrary.
    dependent
        Symbols that stand for things chosen after the unit vectors, or for each value of a symbol of ``for_all``.
    dimensions
        Of spaces whose dimension matters, a positive symbol for it.
    derivatives
        Functions of a real variable that are differentiable on the nonnegative numbers, each with its derivative.
    ranges
        What each symbol of ``for_all`` ranges over, in words; also of the symbols it may be replaced by.
    hypotheses, steps
        What is assumed or defined, and the proof.
    conclusions
        Names of the steps that are the theorem.
    trial
        Draws numbers and returns both sides of each conclusion, evaluated in another way than the proof's.
    """

    name: str
    title: str
    words: str
    reference: Reference
    hypotheses: tuple[Hypothesis, ...]
    steps: tuple[Step, ...]
    conclusions: tuple[str, ...]
    trial: Callable[[int], list[tuple[float, float]]]
    spaces: Mapping[sympy.Expr, tuple[str, str]] = field(default_factory=dict)
    labels: Mapping[sympy.Expr, tuple[str, sympy.Expr]] = field(default_factory=dict)
    unit: tuple[sympy.Expr, ...] = ()
    dependent: tuple[sympy.Expr, ...] = ()
    dimensions: Mapping[str, sympy.Expr] = field(default_factory=dict)
    derivatives: Mapping[Any, Any] = field(default_factory=dict)
    ranges: Mapping[sympy.Expr, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_names(f"{self.name}: conclusions", self.conclusions)
        if not callable(self.trial):
            raise FormatError(f"{self.name}: trial must be a function of a seed, got {self.trial!r}")

    @property
    def assumptions(self) -> tuple[Hypothesis, ...]:
        """The hypotheses that are no definitions."""
        return tuple(each for each in self.hypotheses if not each.definition)


def _require_statement(where: str, given: Any) -> None:
    if not isinstance(given, Statement):
        raise FormatError(f"{where}: expected a statement made by least() or equal(), got {given!r}")


def _require_names(where: str, given: Any) -> None:
    """Refuse a name that stands for a tuple of names: a string would be read as one name for each letter."""
    if isinstance(given, str):
        raise FormatError(f"{where} must be a tuple of names, got {given!r}; write ({given!r},)")
