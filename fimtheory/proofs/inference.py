"""The inference rules of proofs.  Each decides whether a claim follows from its premises, and knows nothing else.

Here are those of operators and means, and the list of all; `calculus` has those of functions of a real variable.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import sympy

from fimtheory.errors import CheckError
from fimtheory.proofs.arithmetic import require_consequence
from fimtheory.proofs.calculus import enclosure, exponential, growth, numbers, peak
from fimtheory.proofs.proof import Premises, Proof, Relates, Statement, require_premises, require_relation
from fimtheory.proofs.terms import REALS, Expect, Form, Norm, Stack, Top, Trace, has_identity, normal_form, space_of

__all__ = ["RULES"]

_T = sympy.transpose


def arithmetic(claim: Statement, premises: Premises, proof: Proof) -> None:
    """The claim follows from the premises by the arithmetic of real numbers."""
    require_consequence(claim, premises)


def expansion(claim: Statement, premises: Premises, proof: Proof) -> None:
    """Both sides expand to the same: forms and means are linear, means of independent factors multiply.

    Premises are equations of operators or numbers, whose left sides are replaced by their right sides first; the
    squared norm of a vector v is the form ``v^T v``.
    """
    require_relation(claim, Relates.EQ)
    difference = _expanded(claim.left - claim.right, proof)
    for premise in premises:
        require_relation(premise, Relates.EQ)
        _require_own_traces(difference, premise, proof)
        difference = difference.subs(premise.left, premise.right)
    if not _vanishes(difference, proof):
        raise CheckError(f"the two sides of {claim} do not expand to the same")


def replacement(claim: Statement, premises: Premises, proof: Proof) -> None:
    """The claim is the first premise with the left side of an equation, the second, in place of its right side."""
    fact, equation = require_premises(premises, 2)
    require_relation(equation, Relates.EQ)
    _require_own_traces(claim.left - claim.right, equation, proof)
    exchanged = _exchanged(claim, {equation.left: equation.right})
    if exchanged != fact:
        raise CheckError(f"{claim} does not become {fact} by {equation}")


def instance(claim: Statement, premises: Premises, proof: Proof) -> None:
    """What holds for all symbols of a range holds for those that are named."""
    (premise,) = require_premises(premises, 1)
    sources = [each for each in proof.hypotheses if each.statement == premise and each.for_all]
    if not sources:
        raise CheckError(f"{premise} is not a hypothesis about all symbols of a range")
    bound = sources[0].for_all
    choices = [[symbol for symbol in proof.ranges if _of_one_range(symbol, each, proof)] for each in bound]
    for chosen in itertools.product(*choices):
        exchange = dict(zip(bound, chosen, strict=True))
        if _exchanged(premise, exchange) == claim:
            return
    raise CheckError(f"{claim} is no instance of {premise}")


def _of_one_range(one: Any, other: Any, proof: Proof) -> bool:
    return proof.ranges[one] == proof.ranges.get(other) and one.assumptions0 == other.assumptions0


def _exchanged(statement: Statement, exchange: dict[Any, Any]) -> Statement:
    left, right = (side.subs(exchange, simultaneous=True) for side in (statement.left, statement.right))
    return Statement(left, statement.relation, right)


def mean_of_nonnegative(claim: Statement, premises: Premises, proof: Proof) -> None:
    """From ``0 <= a`` for every label, ``0 <= E a``."""
    (premise,) = require_premises(premises, 1)
    require_relation(claim, Relates.LE)
    require_relation(premise, Relates.LE)
    if (premise.left, claim.left) != (0, 0) or claim.right != Expect(premise.right):
        raise CheckError(f"{claim} is not the mean of both sides of {premise}")


def mean_of_constant(claim: Statement, premises: Premises, proof: Proof) -> None:
    """``E 1 = 1``."""
    require_premises(premises, 0)
    if (claim.left, claim.relation, claim.right) != (Expect(1), Relates.EQ, 1):
        raise CheckError(f"{claim} is not E 1 = 1")


def triangle(claim: Statement, premises: Premises, proof: Proof) -> None:
    """``||A + B|| <= ||A|| + ||B||``."""
    parts = _norms(claim, premises, sympy.Add)
    if sympy.expand(sum(parts, sympy.Integer(0)) - _normed(claim.left)) != 0:
        raise CheckError(f"in {claim} the norms on the right are not of terms that add up to the left")


def submultiplicative(claim: Statement, premises: Premises, proof: Proof) -> None:
    """``||A B|| <= ||A|| ||B||``."""
    _is_product(_normed(claim.left), _norms(claim, premises, sympy.Mul), claim)


def cauchy_schwarz(claim: Statement, premises: Premises, proof: Proof) -> None:
    """``v^T w <= ||v|| ||w||``, for a product of several operators as well."""
    if not isinstance(claim.left, Form):
        raise CheckError(f"the left side of {claim} is not a form")
    parts = _norms(claim, premises, sympy.Mul)
    for turned in itertools.product((False, True), repeat=len(parts)):
        factors = [_T(part) if turn else part for part, turn in zip(parts, turned, strict=True)]
        if any(_same(claim.left.of, sympy.Mul(*order)) for order in itertools.permutations(factors)):
            return
    raise CheckError(f"in {claim} the norms on the right are not of factors of the left")


def transposition(claim: Statement, premises: Premises, proof: Proof) -> None:
    """``||A^T|| = ||A||``."""
    require_premises(premises, 0)
    require_relation(claim, Relates.EQ)
    if not _same(_normed(claim.left), _T(_normed(claim.right))):
        raise CheckError(f"in {claim} one side is not the transpose of the other")


def gram(claim: Statement, premises: Premises, proof: Proof) -> None:
    """``||A^T A|| = ||A||^2`` and ``sup u^T A^T A u = ||A||^2``."""
    require_premises(premises, 0)
    require_relation(claim, Relates.EQ)
    base, exponent = claim.right.as_base_exp()
    inner = claim.left.of if isinstance(claim.left, Top) else _normed(claim.left)
    if exponent != 2 or not _same(inner, _T(_normed(base)) * _normed(base)):
        raise CheckError(f"{claim} is not ||A^T A|| = ||A||^2")


def scaling(claim: Statement, premises: Premises, proof: Proof) -> None:
    """``||c A|| = |c| ||A||``; the premises say that factors outside of absolute values are not negative."""
    require_relation(claim, Relates.EQ)
    factor, norm = claim.right.as_independent(Norm, as_Add=False)
    sizes = [each for each in sympy.Mul.make_args(factor) if isinstance(each, sympy.Abs)]
    rest = factor / sympy.Mul(*sizes)
    require_consequence(Statement(sympy.Integer(0), Relates.LE, rest), premises)
    taken = sympy.Mul(rest, *(each.args[0] for each in sizes)) * _normed(norm)
    if not (_same(_normed(claim.left), taken) or _same(_normed(claim.left), -taken)):
        raise CheckError(f"{claim} does not take a factor out of a norm")


def unit_identity(claim: Statement, premises: Premises, proof: Proof) -> None:
    """``||1|| <= 1``: the identity does not expand."""
    require_premises(premises, 0)
    if (claim.left, claim.relation, claim.right) != (Norm(1), Relates.LE, 1):
        raise CheckError(f"{claim} is not ||1|| <= 1")


def stacking(claim: Statement, premises: Premises, proof: Proof) -> None:
    """``||[A; B] u||^2 = ||A u||^2 + ||B u||^2``."""
    require_premises(premises, 0)
    require_relation(claim, Relates.EQ)
    base, exponent = claim.left.as_base_exp()
    inner = _normed(base)
    stack, vector = (inner.args[0], sympy.Mul(*inner.args[1:])) if isinstance(inner, sympy.Mul) else (inner, None)
    if exponent != 2 or vector is None or not isinstance(stack, Stack) or not _is_vector(vector, proof):
        raise CheckError(f"the left side of {claim} is not ||[A; B] u||^2")
    if sympy.expand(claim.right - sum((Norm(part * vector) ** 2 for part in stack.args), sympy.Integer(0))) != 0:
        raise CheckError(f"the right side of {claim} is not the sum of the squares of the parts")


def rayleigh(claim: Statement, premises: Premises, proof: Proof) -> None:
    """``u^T A u <= sup_v (v^T A v) ||u||^2``, the supremum over unit vectors v."""
    require_premises(premises, 0)
    require_relation(claim, Relates.LE)
    suprema = [each for each in sympy.Mul.make_args(claim.right) if isinstance(each, Top)]
    if not isinstance(claim.left, Form) or len(suprema) != 1:
        raise CheckError(f"{claim} does not bound a form by the supremum of it")
    vector = _normed(sympy.sqrt(claim.right / suprema[0]))
    if not _same(claim.left.of, _T(vector) * suprema[0].of * vector):
        raise CheckError(f"{claim}: the form and the supremum are not of one operator")


def supremum(claim: Statement, premises: Premises, proof: Proof) -> None:
    """From ``u^T A u <= c`` or ``||A u|| <= c`` for every unit vector u, ``sup u^T A u <= c`` or ``||A|| <= c``."""
    (premise,) = require_premises(premises, 1)
    require_relation(claim, Relates.LE)
    require_relation(premise, Relates.LE)
    if premise.right != claim.right:
        raise CheckError(f"{claim}: its right side is not that of {premise}")
    for u in proof.unit:
        if isinstance(claim.left, Top) and _vanishes(premise.left - Form(_T(u) * claim.left.of * u), proof):
            return
        if isinstance(claim.left, Norm) and _vanishes(premise.left - Norm(claim.left.of * u), proof):
            return
    raise CheckError(f"{claim} is not the supremum of {premise} over unit vectors")


def trace_of_semidefinite(claim: Statement, premises: Premises, proof: Proof) -> None:
    """``sup u^T A^T A u <= tr A^T A``: the largest eigenvalue is at most the sum of all, where none is negative."""
    require_premises(premises, 0)
    require_relation(claim, Relates.LE)
    if not (isinstance(claim.left, Top) and isinstance(claim.right, Trace) and claim.left.of == claim.right.of):
        raise CheckError(f"{claim} does not bound a largest eigenvalue by the trace")
    factors = sympy.Mul.make_args(sympy.expand(claim.left.of))
    half, odd = divmod(len(factors), 2)
    if odd or not _same(sympy.Mul(*factors[:half]), _T(sympy.Mul(*factors[half:]))):
        raise CheckError(f"{claim.left.of} is not of the form A^T A")


def trace_and_dimension(claim: Statement, premises: Premises, proof: Proof) -> None:
    """``tr A <= n sup u^T A u``, n the dimension of the space: the sum of n forms of unit vectors."""
    require_premises(premises, 0)
    require_relation(claim, Relates.LE)
    if not isinstance(claim.left, Trace):
        raise CheckError(f"the left side of {claim} is not a trace")
    (space, _) = space_of(claim.left.of, proof.spaces) or ("", "")
    dimension = proof.dimensions.get(space)
    if dimension is None or claim.right != dimension * Top(claim.left.of):
        raise CheckError(f"the right side of {claim} is not the dimension of {space} times the supremum")


def cyclic_trace(claim: Statement, premises: Premises, proof: Proof) -> None:
    """``tr A B = tr B A``."""
    require_premises(premises, 0)
    require_relation(claim, Relates.EQ)
    if not (isinstance(claim.left, Trace) and isinstance(claim.right, Trace)):
        raise CheckError(f"{claim} is not about two traces")
    factors = sympy.Mul.make_args(claim.left.of)
    turns = (sympy.Mul(*factors[k:], *factors[:k]) for k in range(len(factors)))
    if not any(_same(claim.right.of, turned) for turned in turns):
        raise CheckError(f"in {claim} the factors on one side are not those of the other, turned round")


def _normed(expression: sympy.Expr) -> sympy.Expr:
    if not isinstance(expression, Norm):
        raise CheckError(f"{expression} is not a norm")
    return expression.of


def _norms(claim: Statement, premises: Premises, kind: type) -> list[sympy.Expr]:
    """The operators whose norms the right side adds or multiplies, those with powers several times."""
    require_premises(premises, 0)
    require_relation(claim, Relates.LE)
    parts: list[sympy.Expr] = []
    for each in kind.make_args(claim.right):  # pyright: ignore
        base, exponent = each.as_base_exp() if kind is sympy.Mul else (each, sympy.Integer(1))
        if not (exponent.is_Integer and exponent > 0):
            raise CheckError(f"{each} is no norm")
        parts += [_normed(base)] * int(exponent)
    return parts


def _is_product(inner: sympy.Expr, factors: list[sympy.Expr], claim: Statement) -> None:
    if not any(_same(inner, sympy.Mul(*order)) for order in itertools.permutations(factors)):
        raise CheckError(f"in {claim} the norms on the right are not of factors of the left")


def _same(one: sympy.Expr, other: sympy.Expr) -> bool:
    return sympy.expand(one - other) == 0


def _vanishes(number: Any, proof: Proof) -> bool:
    return _expanded(number, proof) == 0


def _expanded(number: Any, proof: Proof) -> Any:
    """The normal form of a number, in which squared norms of vectors are forms."""

    def is_square(e: Any) -> bool:
        return (
            isinstance(e, sympy.Pow)
            and isinstance(e.base, Norm)
            and bool(e.exp.is_even)
            and _is_vector(e.base.of, proof)
        )

    squares = number.replace(is_square, lambda e: Form(_T(e.base.of) * e.base.of) ** (e.exp / 2))
    return normal_form(squares, proof.spaces, proof.labels)


def _require_own_traces(number: Any, equation: Statement, proof: Proof) -> None:
    """Refuse to put the identity into a trace: those of the identities of two spaces differ."""
    if number.has(Trace) and not equation.left.is_commutative and has_identity(equation.right, proof.spaces):
        raise CheckError(f"{equation} may not be used in a trace, which would not tell spaces apart")


def _is_vector(expression: Any, proof: Proof) -> bool:
    space = space_of(expression, proof.spaces)
    return space is not None and space[0] == REALS


RULES: dict[str, Callable[[Statement, Premises, Proof], Any]] = {
    function.__name__.replace("_", " "): function
    for function in (
        arithmetic, expansion, replacement, instance, mean_of_nonnegative, mean_of_constant, triangle,
        submultiplicative, cauchy_schwarz, transposition, gram, scaling, unit_identity, stacking, rayleigh, supremum,
        trace_of_semidefinite, trace_and_dimension, cyclic_trace, peak, growth, exponential, numbers, enclosure,
    )
}  # fmt: skip
"""The rules by the names that steps carry; those that speak of every value of a symbol return it."""
