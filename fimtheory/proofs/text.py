"""A proof as plain text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sympy
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.str import StrPrinter

from fimtheory.proofs.proof import Hypothesis, Proof, Statement

__all__ = ["named", "proof_to_text", "signs"]


def proof_to_text(proof: Proof) -> str:
    """Return theorem, assumptions, definitions and steps, one to a line."""
    return "\n".join(_lines(proof))


def _lines(proof: Proof) -> Iterator[str]:
    yield f"Theorem {proof.name} ({proof.title}). {_plain(proof.words)}"
    claims = {step.name: step.claim for step in proof.steps}
    for name in proof.conclusions:
        yield f"  {_said(claims[name])}"
    declared = signs(proof)
    if proof.assumptions or declared:
        yield "Assumptions"
        yield from (_hypothesis(each, proof) for each in proof.assumptions)
        yield from (f"  {sign}" for sign in declared)
    definitions = [each for each in proof.hypotheses if each.definition]
    if definitions or named(proof):
        yield "Notation"
        yield from (_hypothesis(each, proof) for each in definitions)
        yield from (f"  {_plain(each)}" for each in named(proof))
    yield "Proof"
    for number, step in enumerate(proof.steps, start=1):
        source = f" from {', '.join(step.premises)}" if step.premises else ""
        yield f"  {number}. [{step.name}] {_said(step.claim)}    by {step.rule}{source}"
    where = f", {_plain(proof.reference.where)}" if proof.reference.where else ""
    yield f"Reference: {proof.reference.key}{where}"


def _hypothesis(hypothesis: Hypothesis, proof: Proof) -> str:
    scope = f" for all {', '.join(map(str, hypothesis.for_all))}" if hypothesis.for_all else ""
    ranges = sorted({proof.ranges[each] for each in hypothesis.for_all if each in proof.ranges})
    scope += f" ({', '.join(ranges)})" if ranges else ""
    return f"  [{hypothesis.name}] {_said(hypothesis.statement)}{scope}    {_plain(hypothesis.words)}"


def named(proof: Proof) -> list[str]:
    """Return what the kernel knows of symbols and functions besides the hypotheses, formulas between backticks."""
    return [
        *(f"`{dimension}` is the dimension of the space `{space}`." for space, dimension in proof.dimensions.items()),
        *(f"`{slope}` is the derivative of `{function}`." for function, slope in proof.derivatives.items()),
        *(f"`{symbol}` is one of the {over}." for symbol, over in proof.ranges.items()),
    ]


def _plain(words: str) -> str:
    """Words without the marks of formulas, which are for print."""
    return words.replace("`", "")


class _Printer(StrPrinter):
    """sympy's notation, with a T for the transpose."""

    def _print_transpose(self, expression: Any) -> str:
        return f"{self.parenthesize(expression.args[0], PRECEDENCE['Pow'])}^T"


def _said(statement: Statement) -> str:
    left, right = (_Printer().doprint(side) for side in (statement.left, statement.right))
    return f"{left} {statement.relation} {right}"


def signs(proof: Proof) -> list[str]:
    """Return what the numbers of a theorem are declared to be: it holds for those only."""
    claims = [step.claim for step in proof.steps if step.name in proof.conclusions]
    assumed = [each.statement for each in proof.assumptions]
    symbols: set[sympy.Basic] = set()
    for statement in (*claims, *assumed):
        for side in (statement.left, statement.right):
            symbols |= side.free_symbols
    found = []
    for symbol in sorted(symbols, key=str):
        if symbol.is_positive:
            found.append(f"{symbol} > 0")
        elif symbol.is_nonnegative:
            found.append(f"{symbol} >= 0")
    return found
