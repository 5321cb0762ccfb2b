"""A proof as plain text."""

from __future__ import annotations

from collections.abc import Iterator

import sympy

from fimtheory.proofs.proof import Hypothesis, Proof

__all__ = ["proof_to_text"]


def proof_to_text(proof: Proof) -> str:
    """Return theorem, assumptions, definitions and steps, one to a line."""
    return "\n".join(_lines(proof))


def _lines(proof: Proof) -> Iterator[str]:
    yield f"Theorem {proof.name} ({proof.title}). {proof.words}"
    claims = {step.name: step.claim for step in proof.steps}
    for name in proof.conclusions:
        yield f"  {claims[name]}"
    signs = _signs(proof)
    if proof.assumptions or signs:
        yield "Assumptions"
        yield from (_hypothesis(each) for each in proof.assumptions)
        yield from (f"  {sign}" for sign in signs)
    definitions = [each for each in proof.hypotheses if each.definition]
    if definitions:
        yield "Notation"
        yield from (_hypothesis(each) for each in definitions)
    yield "Proof"
    for number, step in enumerate(proof.steps, start=1):
        source = f" from {', '.join(step.premises)}" if step.premises else ""
        yield f"  {number}. [{step.name}] {step.claim}    by {step.rule}{source}"
    where = f", {proof.reference.where}" if proof.reference.where else ""
    yield f"Reference: {proof.reference.key}{where}"


def _hypothesis(hypothesis: Hypothesis) -> str:
    return f"  [{hypothesis.name}] {hypothesis.statement}    {hypothesis.words}"


def _signs(proof: Proof) -> list[str]:
    """What the numbers of a theorem are declared to be: it holds for those only."""
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
