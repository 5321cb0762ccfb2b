"""The kernel of proofs: goes through the steps as they are written and refuses the first that does not follow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sympy
from sympy.core.function import AppliedUndef

from fimtheory.errors import CheckError
from fimtheory.proofs.inference import RULES
from fimtheory.proofs.proof import Hypothesis, Proof, Relates, Statement, Step
from fimtheory.proofs.terms import REALS, Expect, Form, Norm, Top, Trace, free_of_means, space_of

__all__ = ["replay"]


def replay(proof: Proof) -> None:
    """Check every step of a proof.

    Raises
    ------
    CheckError
        The first step that does not follow; the message names it and the cause.
    """
    _require_declared(proof)
    known: dict[str, Statement] = {}
    rests_on: dict[str, frozenset[Hypothesis]] = {}
    for hypothesis in proof.hypotheses:
        _require_typed(hypothesis.statement, proof)
        _introduce(known, proof, hypothesis.name, hypothesis.statement)
        rests_on[hypothesis.name] = frozenset({hypothesis})
    for step in proof.steps:
        where = f"{proof.name}, step {step.name}"
        missing = [name for name in step.premises if name not in known]
        if missing:
            raise CheckError(f"{where}: {', '.join(missing)} is no hypothesis and no earlier step")
        rule = RULES.get(step.rule)
        if rule is None:
            raise CheckError(f"{where}: there is no rule {step.rule!r}; expected one of {', '.join(RULES)}")
        used = frozenset[Hypothesis]().union(*(rests_on[name] for name in step.premises))
        try:
            _require_typed(step.claim, proof)
            variable = rule(step.claim, [known[name] for name in step.premises], proof)
        except CheckError as error:
            raise CheckError(f"{where} ({step.rule}): {error}") from None
        if step.rule == "supremum":
            used = _generalised(step, used, proof, where)
        if variable is not None:
            _require_unbound(variable, used, where)
        _introduce(known, proof, step.name, step.claim)
        rests_on[step.name] = used
    if not proof.conclusions:
        raise CheckError(f"{proof.name}: nothing is concluded")
    for name in proof.conclusions:
        if name not in {step.name for step in proof.steps}:
            raise CheckError(f"{proof.name}: the conclusion {name} is not a step")
        _require_bound(known[name], proof, f"{proof.name}: the conclusion {name}")
    unused = set(proof.assumptions).difference(*(rests_on[name] for name in proof.conclusions))
    if unused:
        names = ", ".join(sorted(each.name for each in unused))
        raise CheckError(f"{proof.name}: the assumptions {names} are not used; leave them out")


def _introduce(known: dict[str, Statement], proof: Proof, name: str, statement: Statement) -> None:
    if name in known:
        raise CheckError(f"{proof.name}: {name} is the name of two things")
    known[name] = statement


def _require_typed(statement: Statement, proof: Proof) -> None:
    """Refuse operators whose spaces do not fit, and relations between what is no number."""
    sides = (statement.left, statement.right)
    for side in sides:
        if side.atoms(sympy.Float):
            raise CheckError(f"{statement} has a rounded number; write it as a fraction")
        for part in sympy.preorder_traversal(side):
            if isinstance(part, (Norm, Form, Top, Trace, Expect)):
                _require_number(part, proof)
    if all(side.is_commutative for side in sides):
        if not all(side.is_real is not False for side in sides):
            raise CheckError(f"{statement} is not a relation of real numbers")
    elif statement.relation is not Relates.EQ or len({space_of(side, proof.spaces) for side in sides} - {None}) > 1:
        raise CheckError(f"{statement} is not an equation of operators between the same spaces")
    elif any(not part.is_real for side in sides for part in _factors(side)):
        raise CheckError(f"{statement} has a factor that need not be a real number")


def _require_number(number: Any, proof: Proof) -> None:
    """Refuse a number made of what need not exist: its inside is real, and an operator between the right spaces."""
    if any(not part.is_real for part in _factors(number.of)):
        raise CheckError(f"{number} is made of something that need not be a real number")
    if isinstance(number, Expect):
        return
    space = space_of(number.of, proof.spaces)
    if isinstance(number, Form) and space not in ((REALS, REALS), None):
        raise CheckError(f"{number} is not a number: it leads from {space[0]} to {space[1]}")  # pyright: ignore
    if isinstance(number, Top) and space is not None and space[0] != space[1]:
        raise CheckError(f"{number}: an operator from {space[0]} to {space[1]} has none")
    if isinstance(number, Trace) and (space is None or space[0] != space[1]):
        raise CheckError(f"{number}: an operator has a trace if it leads from one named space to itself")


def _factors(expression: Any) -> Iterator[Any]:
    """Every part of an expression that is a number, not an operator."""
    for part in sympy.preorder_traversal(expression):
        if isinstance(part, sympy.Expr) and part.is_commutative:
            yield part


def _require_declared(proof: Proof) -> None:
    """Refuse symbols that a reader could mistake: of other kinds than the text can say, or two of one name."""
    symbols: set[Any] = {*proof.spaces, *proof.unit, *proof.dependent, *proof.ranges, *proof.labels}
    symbols |= set(proof.dimensions.values())
    functions: set[Any] = {*proof.derivatives, *proof.derivatives.values()}
    for statement in (*(each.statement for each in proof.hypotheses), *(step.claim for step in proof.steps)):
        symbols |= statement.left.free_symbols | statement.right.free_symbols
        for side in (statement.left, statement.right):
            functions |= {each.func for each in side.atoms(AppliedUndef)}
    by_name: dict[str, Any] = {}
    for function in functions:
        if by_name.setdefault(str(function), function) != function:
            raise CheckError(f"{proof.name}: two functions are called {function}")
        if not function(sympy.Dummy(nonnegative=True)).is_real:
            raise CheckError(f"{proof.name}: {function} must be a function with real values")
    for symbol in symbols:
        if by_name.setdefault(str(symbol), symbol) != symbol:
            raise CheckError(f"{proof.name}: two symbols are called {symbol}")
        kinds = ({"commutative": False}, {"real": True}, {"nonnegative": True}, {"positive": True})
        known = any(sympy.Symbol(symbol.name, **kind).assumptions0 == symbol.assumptions0 for kind in kinds)
        if not known or not isinstance(symbol, sympy.Symbol):
            raise CheckError(f"{proof.name}: {symbol} must be an operator, or a real, nonnegative or positive symbol")
        if symbol in proof.dimensions.values() and not symbol.is_positive:
            raise CheckError(f"{proof.name}: the dimension {symbol} must be a positive symbol")
        if symbol.is_commutative and (symbol in proof.spaces or symbol in proof.unit):
            raise CheckError(f"{proof.name}: {symbol} is not the symbol of an operator")
    for symbol, (label, original) in proof.labels.items():
        own, copied = proof.labels.get(original, ("", None))
        if copied != original or (
            symbol != original and (label == own or symbol.assumptions0 != original.assumptions0)
        ):
            raise CheckError(f"{proof.name}: {symbol} is not an independent copy of a random number with another label")


def _generalised(step: Step, used: frozenset[Hypothesis], proof: Proof, where: str) -> frozenset[Hypothesis]:
    """Take back that vectors are unit vectors, and see that nothing else was assumed of them."""
    chosen = _mentions(step.claim, (*proof.unit, *proof.dependent, *proof.labels))
    if chosen:
        raise CheckError(f"{where}: {step.claim} still speaks of {', '.join(map(str, chosen))}")
    kept = set[Hypothesis]()
    for hypothesis in used:
        chosen = _mentions(hypothesis.statement, (*proof.unit, *proof.dependent, *proof.labels))
        is_unit = any(hypothesis.statement == Statement(Norm(u), Relates.EQ, sympy.Integer(1)) for u in proof.unit)
        if is_unit:
            continue
        if chosen and not hypothesis.definition:
            raise CheckError(f"{where}: {hypothesis.name} assumes something of an arbitrary unit vector")
        if chosen and set(chosen) <= set(proof.unit):
            raise CheckError(
                f"{where}: {hypothesis.name} defines something by a unit vector that is not in `dependent`"
            )
        kept.add(hypothesis)
    return frozenset(kept)


def _require_unbound(symbol: sympy.Expr, used: frozenset[Hypothesis], where: str) -> None:
    """Refuse to say something for every value of a symbol where it was assumed of some only."""
    for hypothesis in used:
        if _mentions(hypothesis.statement, (symbol,)) and symbol not in hypothesis.for_all:
            raise CheckError(f"{where}: {hypothesis.name} assumes something of {symbol}")


def _require_bound(statement: Statement, proof: Proof, where: str) -> None:
    """Refuse a conclusion about things chosen in the proof; a mean binds the random numbers in it."""
    outside = free_of_means(statement.left) | free_of_means(statement.right)
    chosen = [symbol for symbol in proof.labels if symbol in outside]
    chosen += _mentions(statement, tuple(symbol for symbol in proof.dependent if symbol not in proof.labels))
    if chosen:
        raise CheckError(f"{where}: {statement} still speaks of {', '.join(map(str, chosen))}")


def _mentions(statement: Statement, symbols: tuple[sympy.Expr, ...]) -> list[sympy.Expr]:
    found = statement.left.free_symbols | statement.right.free_symbols
    return [symbol for symbol in symbols if symbol in found]
