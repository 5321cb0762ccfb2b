"""Run every property of a rule with hypothesis, and say what came of each."""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import hypothesis
from hypothesis import Phase, given, settings

from fimtheory.claims import VALUE_BOUNDS, Quantity, Relation
from fimtheory.errors import PropertyError, RuleError
from fimtheory.layers import Layer
from fimtheory.properties.cases import Case, Found, NotApplicableError, cases
from fimtheory.properties.closed_forms import monotone, scales, symbolic_equals_numeric
from fimtheory.properties.composition import composes
from fimtheory.properties.covering import QUIET, covering
from fimtheory.properties.sampling import expected_matches_sampling
from fimtheory.properties.shapes import shapes_agree
from fimtheory.properties.signs import symmetric
from fimtheory.properties.soundness import TIGHT, sound
from fimtheory.registry import Rule, rules

__all__ = ["PROPERTIES", "Outcome", "Report", "Result", "check_property", "check_rule", "claiming_rules"]

PROPERTIES: dict[str, tuple[Callable[[Case], Found], int]] = {
    "shapes_agree": (shapes_agree, 1),
    "symmetric": (symmetric, 1),
    "monotone": (monotone, 1),
    "sound": (sound, 1),
    "scales": (scales, 3),
    "symbolic_equals_numeric": (symbolic_equals_numeric, 3),
    "composes": (composes, 6),
    "expected_matches_sampling": (expected_matches_sampling, 3),
}
"""Every property of one case, and by what its number of examples is divided: slow ones, and ones that vary little."""

_COVERING = 12
"""Most cases that are chosen; further ones are drawn at random."""
_FURTHER = 50
"""Cases drawn in search of a simpler one that fails, or of one that reaches an equality."""
_CLAIMS = frozenset({Quantity.GAIN, Quantity.SLOPES, Quantity.JACOBIAN_VARIANCE, *VALUE_BOUNDS})


class Outcome(enum.StrEnum):
    """What came of a property; one that does not hold is a ``PropertyError``."""

    PASSED = "passed"
    NOT_APPLICABLE = "not applicable"


@final
@dataclass(frozen=True)
class Result:
    """What came of one property of one rule.

    Attributes
    ----------
    rule, prop, outcome
        Names of the rule and of the property, and what came of it.
    examples
        Cases in which the property was tested.
    closest
        Largest ratio of what was found to what is claimed; None where no number is compared.
    reasons
        Why other cases were left out, and how many; at least one where the property does not apply.
    """

    rule: str
    prop: str
    outcome: Outcome
    examples: int
    closest: float | None = None
    reasons: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        closest = "" if self.closest is None else f", closest ratio {self.closest:.4f}"
        told = f"{self.examples} examples{closest}" if self.examples else next(iter(self.reasons), "")
        left = sum(self.reasons.values())
        beside = f" ({left} left out: {next(iter(self.reasons))})" if left and self.examples else ""
        return f"{self.rule:<32} {self.prop:<26} {self.outcome:<15} {told}{beside}"


@final
@dataclass(frozen=True)
class Report:
    """What came of all properties of one rule, or of all rules of a layer type."""

    results: tuple[Result, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.results))


def check_rule(rule: Rule | type[Layer], *, examples: int = 50, seed: int | None = None) -> Report:
    """Test every property of a rule, or of all rules of a layer type, on drawn layers, weights and inputs.

    Parameters
    ----------
    rule
        A registered rule, or a layer type.
    examples
        Cases of each property; slow properties get a third or a sixth.
    seed
        Of the drawing; by default every run draws the same cases.

    Returns
    -------
    Report
        For each property whether it passed or does not apply, and how close the search came to the claim.

    Raises
    ------
    PropertyError
        A property does not hold; the error has the simplest case found, and a program that fails in the same way.
    RuleError
        No rule of that layer type claims a bound.
    StrategyError
        No strategy draws such layers.

    Examples
    --------
    >>> from fimtheory import layers
    >>> report = check_rule(layers.Tanh, examples=3)
    >>> {result.outcome for result in report.results if result.prop == "sound" and "gain" in result.rule}
    {<Outcome.PASSED: 'passed'>}
    """
    if isinstance(rule, Rule):
        chosen = [rule]
    else:
        chosen = [each for each in claiming_rules() if each.types == (rule,)]
        if not chosen:
            name = getattr(rule, "__name__", repr(rule))
            raise RuleError(f"no rule of layer type {name} claims a bound; register one with @ft.rule({name}, ...)")
    results = []
    for each in chosen:
        first = covering(each, min(examples, _COVERING), seed or 0)
        for prop in PROPERTIES:
            results += _checked(each, prop, first, examples, seed)
    return Report(tuple(results))


def claiming_rules() -> list[Rule]:
    """Return the registered rules that claim a number: those that have properties to test."""
    return [rule for rule in rules() if rule.quantity in _CLAIMS]


def check_property(rule: Rule, prop: str, *, examples: int = 50, seed: int | None = None) -> tuple[Result, ...]:
    """Test one property of a rule; with ``sound`` comes whether an equality is reached, ``tight_somewhere``.

    Raises
    ------
    PropertyError
        It does not hold.
    """
    first = covering(rule, min(examples, _COVERING), seed or 0)
    return _checked(rule, prop, first, examples, seed)


def _checked(rule: Rule, prop: str, first: tuple[Case, ...], examples: int, seed: int | None) -> tuple[Result, ...]:
    """Test one property, on the chosen cases first and then on drawn ones."""
    check, divisor = PROPERTIES[prop]
    run = _Run(rule, check)
    budget = max(1, examples // divisor)
    try:
        _test(run, first, budget, seed)
        if prop == "sound" and run.exact is not None and run.exact[0] < TIGHT:
            _draw(run, _FURTHER, seed)  # one case that reaches the equality is enough
        tight = (run.tight(),) if prop == "sound" else ()
    except PropertyError as error:
        error.example = run.failed or run.taken
        raise
    outcome = Outcome.PASSED if run.examples else Outcome.NOT_APPLICABLE
    return (Result(rule.name, prop, outcome, run.examples, run.closest, dict(run.reasons)), *tight)


def _test(run: _Run, first: tuple[Case, ...], budget: int, seed: int | None) -> None:
    try:
        for case in first:
            if run.examples < budget:  # those that do not apply cost little, and tell nothing
                run.take(case)
    except PropertyError:
        _draw(run, _FURTHER, seed)  # raises a simpler case where there is one
        raise
    if budget > len(first):
        _draw(run, budget - len(first), seed)


def _draw(run: _Run, count: int, seed: int | None) -> None:
    """Test so many drawn cases; hypothesis makes the first that fails simpler, and climbs where claims are near."""

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=seed is None,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.target, Phase.shrink),
        suppress_health_check=QUIET,
    )
    @given(cases(run.rule))
    def test(case: Case) -> None:
        ratio = run.take(case)
        if ratio is not None:
            hypothesis.target(ratio)

    (test if seed is None else hypothesis.seed(seed)(test))()


class _Run:
    """Tests cases one after another, and remembers the closest."""

    def __init__(self, rule: Rule, check: Callable[[Case], Found]) -> None:
        self.rule, self.check = rule, check
        self.taken, self.failed = 0, 0
        self.examples, self.reasons = 0, Counter[str]()
        self.closest: float | None = None
        self.exact: tuple[float, Case] | None = None

    def take(self, case: Case) -> float | None:
        """Test one case; return its ratio where numbers are compared."""
        self.taken += 1
        try:
            found = self.check(case)
        except NotApplicableError as error:
            self.reasons[str(error)] += 1
            return None
        except PropertyError:
            self.failed = self.failed or self.taken
            raise
        self.examples += 1
        if found.ratio is None or not math.isfinite(found.ratio):
            return None
        self.closest = max(found.ratio, self.closest or 0.0)
        if found.relation is Relation.EQ and (self.exact is None or found.ratio > self.exact[0]):
            self.exact = found.ratio, case
        return found.ratio

    def tight(self) -> Result:
        """Return whether the search reached an equality."""
        name, prop = self.rule.name, "tight_somewhere"
        if self.exact is None:
            reason = "no case claims an equality" if self.examples else "no number is compared"
            return Result(name, prop, Outcome.NOT_APPLICABLE, 0, self.closest, {reason: 1})
        ratio, case = self.exact
        if ratio < TIGHT:
            case.fail("sound", f"the claim is an equality, of which the search reached {ratio:.3g} only", 1.0, ratio)
        return Result(name, prop, Outcome.PASSED, self.examples, ratio)
