"""Real arithmetic, decided by z3: whether a relation follows from others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy

from fimtheory.errors import CheckError, DataError
from fimtheory.proofs.proof import Relates, Statement

try:
    import z3
except ImportError:
    z3: Any = None

__all__ = ["require_consequence"]

_EFFORT = 1_000_000
"""z3's own measure of work, the same on every machine: three times what the hardest shipped step takes."""


def require_consequence(claim: Statement, premises: Sequence[Statement]) -> None:
    """Refuse a claim that does not follow from the premises by arithmetic of real numbers.

    Rational functions, roots, exponentials, absolute values, minima and maxima are understood; every other term is an
    unknown of which nothing but its declared sign is known.  Denominators must be nonzero and radicands nonnegative, as
    far as premises and signs say.

    Raises
    ------
    CheckError
        It does not follow, z3 gives up, or a term has no meaning.
    DataError
        z3 is not installed.
    """
    if z3 is None:
        raise DataError("replaying proofs needs z3; install it with: pip install 'fimtheory[proofs]'")
    reals = _Reals()
    known = [reals.relation(premise) for premise in premises]
    wanted = reals.relation(claim)
    facts = [*known, *reals.signs]
    for must, what, meaning in reals.partial:  # inner terms first: each is known to exist before it is used
        reals.require(facts, must, f"{what} does not follow from the premises")
        facts += meaning
    reals.require(facts, wanted, f"{claim} does not follow from the premises by arithmetic")


class _Reals:
    """sympy expressions as terms of z3; one unknown for each term that is not arithmetic."""

    def __init__(self) -> None:
        self._unknowns: dict[sympy.Expr, Any] = {}
        self.signs: list[Any] = []
        self.partial: list[tuple[Any, str, list[Any]]] = []
        """Terms that need not exist: when they do, in words, and what defines them then."""

    def relation(self, statement: Statement) -> Any:
        left, right = self.term(statement.left), self.term(statement.right)
        return left <= right if statement.relation is Relates.LE else left == right

    def term(self, expression: sympy.Expr) -> Any:
        match expression:
            case sympy.Rational():
                return z3.RealVal(f"{expression.p}/{expression.q}")
            case sympy.Add():
                return z3.Sum([self.term(each) for each in expression.args])
            case sympy.Mul() if expression.is_commutative:
                return z3.Product([self.term(each) for each in expression.args])
            case sympy.Pow() if expression.is_commutative and expression.exp.is_Rational:
                return self._power(expression)
            case sympy.Abs():
                inner = self.term(expression.args[0])
                return z3.If(inner >= 0, inner, -inner)
            case sympy.exp():
                return self._exponential(expression)
            case sympy.Max() | sympy.Min():
                return self._extreme(expression)
            case _:
                return self._unknown(expression)

    def _power(self, expression: Any) -> Any:
        base, exponent = expression.base, expression.exp
        inner = self.term(base)
        power, root = abs(int(exponent.p)), int(exponent.q)
        if root > 1:
            whole = self._fresh(sympy.Pow(base, sympy.Rational(1, root), evaluate=False))
            meaning = [whole >= 0, z3.Product([whole] * root) == inner]
            self.partial.append((inner >= 0, f"0 <= {base}, of which a root is taken,", meaning))
            inner = whole
        if exponent < 0:
            self.partial.append((inner != 0, f"{base} != 0, by which is divided,", []))
        result = z3.Product([inner] * power) if power > 1 else inner
        return result if exponent > 0 else 1 / result

    def _exponential(self, expression: Any) -> Any:
        """The power ``exp(t)^n`` for ``exp(n t)``, so that those of multiples are related."""
        factor, rest = expression.exp.as_coeff_Mul()
        inner = self._unknown(sympy.exp(rest / factor.q, evaluate=False))
        power = z3.Product([inner] * abs(int(factor.p)))
        return power if factor > 0 else 1 / power

    def _extreme(self, expression: Any) -> Any:
        first, *rest = (self.term(each) for each in expression.args)
        for other in rest:
            first = z3.If((first >= other) if isinstance(expression, sympy.Max) else (first <= other), first, other)
        return first

    def _unknown(self, expression: sympy.Expr) -> Any:
        if not (expression.is_commutative and expression.is_real):
            raise CheckError(f"{expression} is not a real number, so arithmetic says nothing of it")
        known = expression in self._unknowns
        unknown = self._fresh(expression)
        if not known:
            if expression.is_positive:
                self.signs.append(unknown > 0)
            elif expression.is_nonnegative:
                self.signs.append(unknown >= 0)
            elif expression.is_negative:
                self.signs.append(unknown < 0)
        return unknown

    def require(self, facts: list[Any], wanted: Any, message: str) -> None:
        """Refuse what the facts do not imply, with values of the terms for which they hold and it does not."""
        solver = z3.Solver()
        solver.set("rlimit", _EFFORT)
        solver.add(*facts, z3.Not(wanted))
        found = solver.check()
        if found == z3.sat:
            values = ((name, solver.model()[unknown]) for name, unknown in self._unknowns.items())
            told = ", ".join(f"{name} = {value.as_decimal(9)}" for name, value in values if value is not None)
            raise CheckError(f"{message}; as far as it knows these terms, they could be {told}" if told else message)
        if found != z3.unsat:
            raise CheckError(f"{message}, or z3 cannot tell: make the step smaller")

    def _fresh(self, expression: sympy.Expr) -> Any:
        if expression not in self._unknowns:
            self._unknowns[expression] = z3.Real(f"t{len(self._unknowns)}")
        return self._unknowns[expression]
