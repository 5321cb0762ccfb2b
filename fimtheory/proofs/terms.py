"""The language of proofs: linear operators and the real numbers made of them.

An operator is a noncommutative sympy expression: products, sums, real multiples and `transpose` of symbols, and 1 for
the identity.  Vectors are operators from the reals, ``u``, and rows are operators into the reals, ``transpose(u)``.
What is written of them as a number is one of the classes here, a commutative real expression.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import sympy
from sympy.core.function import AppliedUndef

from fimtheory.errors import CheckError

__all__ = [
    "REALS",
    "Expect",
    "Form",
    "Labels",
    "Norm",
    "Spaces",
    "Stack",
    "Top",
    "Trace",
    "free_of_means",
    "has_identity",
    "is_of_language",
    "normal_form",
    "operator",
    "space_of",
]

REALS = "1"
"""The space of real numbers."""

Spaces = Mapping[sympy.Expr, tuple[str, str]]
"""Source and target of every operator symbol."""
Labels = Mapping[sympy.Expr, tuple[str, sympy.Expr]]
"""The label of every random number, and the number it is a copy of."""


class _Number(sympy.Expr):
    """A real number made of one expression."""

    is_commutative = True

    def __new__(cls, of: Any) -> _Number:
        return sympy.Expr.__new__(cls, sympy.sympify(of))

    @property
    def of(self) -> sympy.Expr:
        """The expression."""
        return self.args[0]  # pyright: ignore

    def _eval_is_extended_real(self) -> bool:
        return True

    def _eval_is_finite(self) -> bool:
        return True


class Norm(_Number):
    """``||A||``: the spectral norm of an operator, the l2 norm of a vector."""

    def _sympystr(self, printer: Any) -> str:
        return f"||{printer.doprint(self.of)}||"

    def _eval_is_extended_nonnegative(self) -> bool:
        return True


class Form(_Number):
    """An operator from the reals to the reals, as the number it is: ``u^T A u``."""

    def _sympystr(self, printer: Any) -> str:
        return f"<{printer.doprint(self.of)}>"


class Top(_Number):
    """``sup u^T A u`` over unit vectors u: the largest eigenvalue of a symmetric A."""

    def _sympystr(self, printer: Any) -> str:
        return f"lam({printer.doprint(self.of)})"


class Trace(_Number):
    """The trace of a symmetric operator."""

    def _sympystr(self, printer: Any) -> str:
        return f"tr({printer.doprint(self.of)})"


class Expect(_Number):
    """The mean over the label y ~ p of a polynomial in random numbers."""

    def _sympystr(self, printer: Any) -> str:
        return f"E[{printer.doprint(self.of)}]"


class Stack(sympy.Expr):
    """Operators from one space, one above the other."""

    is_commutative = False

    def _sympystr(self, printer: Any) -> str:
        return f"[{'; '.join(map(printer.doprint, self.args))}]"

    def __new__(cls, *parts: Any) -> Stack:
        """Stack operators, the first on top."""
        return sympy.Expr.__new__(cls, *map(sympy.sympify, parts))


_LANGUAGE = (
    sympy.Symbol, sympy.Rational, type(sympy.pi), type(sympy.E), sympy.Add, sympy.Mul, sympy.exp, sympy.erf, sympy.Abs,
    sympy.Max, sympy.Min, AppliedUndef, sympy.transpose, Norm, Form, Top, Trace, Expect, Stack,
)  # fmt: skip


def operator(name: str) -> sympy.Symbol:
    """Return the symbol of an operator."""
    return sympy.Symbol(name, commutative=False)


def is_of_language(part: Any) -> bool:
    """Whether one node of an expression is one that the rules understand; powers have rational exponents."""
    if isinstance(part, sympy.Pow):
        return bool(part.exp.is_Rational and part.exp != 0)
    return isinstance(part, _LANGUAGE)


def has_identity(expression: Any, spaces: Spaces) -> bool:
    """Whether a term of an operator is a multiple of the identity, which does not tell its space."""
    return any(term != 0 and space_of(term, spaces) is None for term in sympy.Add.make_args(sympy.expand(expression)))


def space_of(expression: Any, spaces: Spaces) -> tuple[str, str] | None:
    """Return source and target of an operator, None for multiples of the identity of any space.

    Raises
    ------
    CheckError
        A symbol has no spaces, or products or sums do not fit.
    """
    if expression.is_commutative:
        return None
    if isinstance(expression, sympy.transpose):
        found = space_of(expression.args[0], spaces)
        return None if found is None else (found[1], found[0])
    if isinstance(expression, sympy.Mul):
        return _composed([space_of(factor, spaces) for factor in expression.args], expression)
    if isinstance(expression, sympy.Pow):
        base, exponent = expression.args
        if not (exponent.is_Integer and exponent > 0):
            raise CheckError(f"{expression}: operators have positive integer powers only")
        return _composed([space_of(base, spaces)] * int(exponent), expression)
    if isinstance(expression, sympy.Add):
        found = {space_of(term, spaces) for term in expression.args}
        kinds = found - {None}
        if len(kinds) > 1 or (None in found and any(kind and kind[0] != kind[1] for kind in kinds)):
            raise CheckError(f"{expression}: the terms are not operators between the same spaces")
        return next(iter(kinds), None)
    if isinstance(expression, Stack):
        parts = [space_of(part, spaces) for part in expression.args]
        if None in parts or len({part[0] for part in parts if part}) != 1:
            raise CheckError(f"{expression}: what is stacked does not start from one space")
        return parts[0][0], " + ".join(part[1] for part in parts if part)  # pyright: ignore
    if expression not in spaces:
        raise CheckError(f"{expression} is not an operator of this proof; give its source and target in `spaces`")
    return spaces[expression]


def _composed(parts: list[tuple[str, str] | None], expression: sympy.Expr) -> tuple[str, str] | None:
    known = [part for part in parts if part is not None]
    for outer, inner in pairwise(known):
        if outer[0] != inner[1]:
            raise CheckError(f"{expression}: a factor starts from {outer[0]}, but the one after it ends in {inner[1]}")
    return (known[-1][0], known[0][1]) if known else None


def normal_form(number: Any, spaces: Spaces, labels: Labels) -> sympy.Expr:
    """Expand a number: forms into forms of words that do not pass through the reals, means into moments.

    A mean is linear, and that of a product of functions of independent labels the product of their means; ``labels``
    tells the label of each random number and the one it is a copy of.
    """
    return sympy.expand(
        number.replace(Form, lambda of: _forms(of, spaces)).replace(Expect, lambda of: _moments(of, labels))  # pyright: ignore
    )


def _forms(of: sympy.Expr, spaces: Spaces) -> sympy.Expr:
    total = sympy.Integer(0)
    for term in sympy.Add.make_args(sympy.expand(of)):
        product, word = sympy.Integer(1), sympy.Integer(1)
        for factor in sympy.Mul.make_args(term):
            if factor.is_commutative:
                product *= factor
                continue
            word *= factor
            space = space_of(factor, spaces)
            if space is not None and space[0] == REALS:  # what follows ends in the reals, and so is a number too
                product *= Form(_turned(word))
                word = sympy.Integer(1)
        total += product if word == 1 else product * Form(_turned(word))
    return total


def _turned(word: Any) -> Any:
    """The same for a word and its transpose, which are one number."""
    return min(word, sympy.transpose(word), key=sympy.default_sort_key)


def free_of_means(expression: sympy.Expr) -> set[sympy.Basic]:
    """Return the symbols of an expression outside of means."""
    return expression.replace(Expect, lambda of: sympy.Dummy(real=True)).free_symbols  # pyright: ignore


def _moments(of: sympy.Expr, labels: Labels) -> sympy.Expr:
    total = sympy.Integer(0)
    for term in sympy.Add.make_args(sympy.expand(of)):
        groups: dict[str, sympy.Expr] = {}
        constant = sympy.Integer(1)
        for factor in sympy.Mul.make_args(term):
            if not free_of_means(factor) & set(labels):
                constant *= factor
                continue
            base, exponent = factor.as_base_exp()
            if base not in labels or not (exponent.is_Integer and exponent > 0):
                raise CheckError(f"the mean of {factor} is not that of a polynomial in random numbers")
            label, original = labels[base]
            groups[label] = groups.get(label, sympy.Integer(1)) * original**exponent
        total += constant * sympy.Mul(*(Expect(group) for group in groups.values()))
    return total
