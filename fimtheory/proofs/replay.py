"""The kernel of proofs: goes through the steps as they are written and refuses the first that does not follow."""

from __future__ import annotations

from collections.abc import Iterator

import sympy

from fimtheory.errors import CheckError
from fimtheory.proofs.inference import RULES, variable
from fimtheory.proofs.proof import Hypothesis, Proof, Relates, Statement, Step
from fimtheory.proofs.terms import REALS, Form, Norm, Stack, Top, Trace, free_of_means, space_of

__all__ = ["replay"]


def replay(proof: Proof) -> None:
    """Check every step of a proof.

    Raises
    ------
    CheckError
        The first step that does not follow; the message names it and the cause.
    """
    for symbol in (*proof.spaces, *proof.unit):
        if symbol.is_commutative or not isinstance(symbol, sympy.Symbol):
            raise CheckError(f"{proof.name}: {symbol} is not the symbol of an operator")
    known: dict[str, Statement] = {}
    rests_on: dict[str, frozenset[Hypothesis]] = {}
    for hypothesis in proof.hypotheses:
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
            rule(step.claim, [known[name] for name in step.premises], proof)
        except CheckError as error:
            raise CheckError(f"{where} ({step.rule}): {error}") from None
        if step.rule == "supremum":
            used = _generalised(step, used, proof, where)
        if step.rule == "peak":
            _require_unbound(variable(step.claim), used, where)
        _introduce(known, proof, step.name, step.claim)
        rests_on[step.name] = used
    if not proof.conclusions:
        raise CheckError(f"{proof.name}: nothing is concluded")
    for name in proof.conclusions:
        if name not in {step.name for step in proof.steps}:
            raise CheckError(f"{proof.name}: the conclusion {name} is not a step")
        _require_free_of(known[name], (*proof.dependent, *proof.labels), f"{proof.name}: the conclusion {name}")
    unused = set(proof.assumptions).difference(*(rests_on[name] for name in proof.conclusions))
    if unused:
        names = ", ".join(sorted(each.name for each in unused))
        raise CheckError(f"{proof.name}: the assumptions {names} are not used; leave them out")


def _introduce(known: dict[str, Statement], proof: Proof, name: str, statement: Statement) -> None:
    if name in known:
        raise CheckError(f"{proof.name}: {name} is the name of two things")
    _require_typed(statement, proof)
    known[name] = statement


def _require_typed(statement: Statement, proof: Proof) -> None:
    """Refuse operators whose spaces do not fit, and relations between what is no number."""
    for number in _numbers(statement):
        space = space_of(number.args[0], proof.spaces)
        if isinstance(number, Form) and space not in ((REALS, REALS), None):
            raise CheckError(f"{number} is not a number: it leads from {space[0]} to {space[1]}")  # pyright: ignore
        if isinstance(number, (Top, Trace)) and space is not None and space[0] != space[1]:
            raise CheckError(f"{number}: an operator from {space[0]} to {space[1]} has none")
    sides = (statement.left, statement.right)
    if all(side.is_commutative for side in sides):
        if not all(side.is_real for side in sides):
            raise CheckError(f"{statement} is not a relation of real numbers")
    elif statement.relation is not Relates.EQ or len({space_of(side, proof.spaces) for side in sides} - {None}) > 1:
        raise CheckError(f"{statement} is not an equation of operators between the same spaces")


def _numbers(statement: Statement) -> Iterator[sympy.Expr]:
    for side in (statement.left, statement.right):
        for part in sympy.preorder_traversal(side):
            if isinstance(part, (Norm, Form, Top, Trace)):
                yield part
            if isinstance(part, Stack) and part.is_commutative:
                raise CheckError(f"{part} is not an operator")


def _generalised(step: Step, used: frozenset[Hypothesis], proof: Proof, where: str) -> frozenset[Hypothesis]:
    """Take back that vectors are unit vectors, and see that nothing else was assumed of them."""
    _require_free_of(step.claim, (*proof.unit, *proof.dependent, *proof.labels), where, inside_means=True)
    kept = set[Hypothesis]()
    for hypothesis in used:
        chosen = _mentions(hypothesis.statement, (*proof.unit, *proof.dependent))
        is_unit = any(hypothesis.statement == Statement(Norm(u), Relates.EQ, sympy.Integer(1)) for u in proof.unit)
        if is_unit:
            continue
        if chosen and not hypothesis.definition:
            raise CheckError(f"{where}: {hypothesis.name} assumes something of an arbitrary unit vector")
        kept.add(hypothesis)
    return frozenset(kept)


def _require_unbound(symbol: sympy.Expr, used: frozenset[Hypothesis], where: str) -> None:
    for hypothesis in used:
        if _mentions(hypothesis.statement, (symbol,)):
            raise CheckError(f"{where}: {hypothesis.name} assumes something of {symbol}")


def _require_free_of(
    statement: Statement, symbols: tuple[sympy.Expr, ...], where: str, *, inside_means: bool = False
) -> None:
    """Refuse a statement that speaks of symbols; a mean binds the random numbers in it."""
    if inside_means:
        found = _mentions(statement, symbols)
    else:
        free = free_of_means(statement.left) | free_of_means(statement.right)
        found = [symbol for symbol in symbols if symbol in free]
    if found:
        raise CheckError(f"{where}: {statement} still speaks of {', '.join(map(str, found))}")


def _mentions(statement: Statement, symbols: tuple[sympy.Expr, ...]) -> list[sympy.Expr]:
    found = statement.left.free_symbols | statement.right.free_symbols
    return [symbol for symbol in symbols if symbol in found]
