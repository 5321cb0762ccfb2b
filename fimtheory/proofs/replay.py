"""The kernel of proofs: goes through the steps as they are written and refuses the first that does not follow."""

from __future__ import annotations

import re
from typing import Any

import sympy
from sympy.core.function import AppliedUndef

from fimtheory.errors import CheckError
from fimtheory.proofs.inference import RULES
from fimtheory.proofs.proof import Hypothesis, Proof, Relates, Statement, Step
from fimtheory.proofs.terms import (
    REALS,
    Expect,
    Form,
    Norm,
    Top,
    Trace,
    free_of_means,
    has_identity,
    is_of_language,
    space_of,
)

__all__ = ["replay"]

_NAME = r"[^\W\d][\w']*(_[+-]|\^-1)?'*"
_TAKEN = ("Abs", "E", "Max", "Min", "erf", "exp", "lam", "pi", "sqrt", "tr")
"""What the text prints for other numbers and functions."""


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
        _require_one_label(hypothesis, proof)
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
            if step.rule != "arithmetic":  # which sees for itself that roots and quotients exist
                _require_real(step.claim, step.claim.left, step.claim.right)
            variable = rule(step.claim, [known[name] for name in step.premises], proof)
        except CheckError as error:
            raise CheckError(f"{where} ({step.rule}): {error}") from None
        if step.rule == "supremum":
            used = _generalised(step, used, proof, where)
        if variable is not None:
            _require_unbound(variable, used, proof, where)
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
    """Refuse what is not of the language, spaces that do not fit, and relations between what is no number."""
    if not isinstance(statement.relation, Relates):
        raise CheckError(f"{statement}: the relation must be Relates.LE or Relates.EQ; use least() or equal()")
    sides = (statement.left, statement.right)
    for part in (part for side in sides for part in sympy.preorder_traversal(side)):
        if not is_of_language(part):
            raise CheckError(f"{statement}: {part} is not of the language; write a rounded number as a fraction")
        if isinstance(part, (Norm, Form, Top, Trace, Expect, AppliedUndef)):
            _require_number(part, proof)
    if not all(side.is_commutative for side in sides):
        if statement.relation is not Relates.EQ or len({space_of(side, proof.spaces) for side in sides} - {None}) > 1:
            raise CheckError(f"{statement} is not an equation of operators between the same spaces")
        _require_real(statement, *sides)


def _require_number(number: Any, proof: Proof) -> None:
    """Refuse a number made of what need not exist: its inside is real, and an operator between the right spaces."""
    _require_real(number, *number.args)
    if isinstance(number, (Expect, AppliedUndef)):
        if not all(each.is_commutative for each in number.args):
            raise CheckError(f"{number} is made of an operator, not of numbers")
        return
    space = space_of(number.of, proof.spaces)
    if isinstance(number, Form) and space not in ((REALS, REALS), None):
        raise CheckError(f"{number} is not a number: it leads from {space[0]} to {space[1]}")  # pyright: ignore
    if isinstance(number, Top) and space is not None and space[0] != space[1]:
        raise CheckError(f"{number}: an operator from {space[0]} to {space[1]} has none")
    if isinstance(number, Trace) and (space is None or space[0] != space[1] or has_identity(number.of, proof.spaces)):
        raise CheckError(f"{number}: an operator has a trace if it is made of symbols, from one named space to itself")


def _require_real(whole: Any, *expressions: Any) -> None:
    """Refuse an expression with a part that is a number, not an operator, and need not be real."""
    for part in (part for each in expressions for part in sympy.preorder_traversal(each)):
        if part.is_commutative and not part.is_real:
            raise CheckError(f"{whole} is made of {part}, which need not be a real number")


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
    for named in (*functions, *symbols):
        name = getattr(named, "name", str(named))
        if not re.fullmatch(_NAME, name) or (named.is_commutative and name in _TAKEN):
            raise CheckError(f"{proof.name}: {name} is no name; expected letters and digits, and none of {_TAKEN}")
        if by_name.setdefault(name, named) != named:
            raise CheckError(f"{proof.name}: two symbols or functions are called {name}")
    for function in functions:
        if function != sympy.Function(function.name, real=True):
            raise CheckError(f"{proof.name}: {function} must be a function with real values, and nothing more")
    for symbol in symbols:
        kinds = ({"commutative": False}, {"real": True}, {"nonnegative": True}, {"positive": True})
        if symbol not in (sympy.Symbol(symbol.name, **kind) for kind in kinds):
            raise CheckError(f"{proof.name}: {symbol} must be an operator, or a real, nonnegative or positive symbol")
        if symbol in proof.dimensions.values() and not symbol.is_positive:
            raise CheckError(f"{proof.name}: the dimension {symbol} must be a positive symbol")
        if symbol.is_commutative and (symbol in proof.spaces or symbol in proof.unit):
            raise CheckError(f"{proof.name}: {symbol} is not the symbol of an operator")
        if symbol in proof.unit and symbol in proof.ranges:
            raise CheckError(f"{proof.name}: {symbol} is any unit vector, and so of no range")
    copied_from: dict[str, str] = {}
    for symbol, (label, original) in proof.labels.items():
        own, copied = proof.labels.get(original, ("", None))
        if copied != original or (symbol == original) != (label == own) or symbol.assumptions0 != original.assumptions0:
            raise CheckError(f"{proof.name}: {symbol} is not an independent copy of a random number with another label")
        if copied_from.setdefault(label, own) != own:
            raise CheckError(f"{proof.name}: what depends on {label} is not all copied from what depends on {own}")


def _require_one_label(hypothesis: Hypothesis, proof: Proof) -> None:
    """Refuse to relate independent random numbers; what holds for every label holds for each pair of these two."""
    outside = free_of_means(hypothesis.statement.left) | free_of_means(hypothesis.statement.right)
    if len({label for symbol, (label, _) in proof.labels.items() if symbol in outside}) > 1:
        raise CheckError(f"{proof.name}: {hypothesis.name} relates random numbers of independent labels")


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


def _require_unbound(symbol: sympy.Expr, used: frozenset[Hypothesis], proof: Proof, where: str) -> None:
    """Refuse to say something for every value of a symbol where it was assumed of some only."""
    if symbol in proof.ranges or symbol in proof.dimensions.values():
        raise CheckError(f"{where}: {symbol} is of a range or a dimension, and so not any number")
    for hypothesis in used:
        chosen = _mentions(hypothesis.statement, (*proof.dependent, *proof.labels))
        is_about = bool(_mentions(hypothesis.statement, (symbol,)))
        if symbol not in hypothesis.for_all and (is_about or chosen):
            raise CheckError(f"{where}: {hypothesis.name} assumes something of {symbol}, or of what may depend on it")
        is_defined = bool(chosen) or _has_function_of(symbol, hypothesis.statement)
        if hypothesis.definition and is_about and not is_defined:
            raise CheckError(f"{where}: {hypothesis.name} defines something by {symbol} that is not in `dependent`")


def _has_function_of(symbol: sympy.Expr, statement: Statement) -> bool:
    found = statement.left.atoms(AppliedUndef) | statement.right.atoms(AppliedUndef)
    return any(symbol in each.args for each in found)


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
