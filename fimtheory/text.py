"""A derivation as plain text."""

from __future__ import annotations

import re

import sympy

from fimtheory.derivation import Derivation, Lemma, Step, body_of
from fimtheory.registry import find_measure

__all__ = ["derivation_to_text", "plain"]


_PLAIN = (
    (re.compile(r"\\frac\{([^{}]+)\}\{([^{}]+)\}"), r"\1/\2"),
    (re.compile(r"\\(sqrt)\{([^{}]+)\}"), r"\1(\2)"),
    (re.compile(r"_\{([^{}]+)\}"), lambda found: "_" + found[1].replace(" ", "_")),
    (re.compile(r"\\leq?\b"), "<="),
    (re.compile(r"\\geq?\b"), ">="),
    (re.compile(r"\\(?:left|right|,| )|[{}\\]"), ""),
)
"""LaTeX that a condition may hold, from the inside out, and how a terminal shows it."""


def plain(statement: str) -> str:
    r"""Return a sentence in which ``$...$`` holds LaTeX for a terminal.

    >>> plain(r"Every token has variance at least $\frac{1}{10}$ and norm at most $R_{a ln}$.")
    'Every token has variance at least 1/10 and norm at most R_a_ln.'
    """
    pieces = statement.split("$")
    for k in range(1, len(pieces), 2):
        for pattern, shown in _PLAIN:
            pieces[k] = pattern.sub(shown, pieces[k])
    return "".join(pieces)


def derivation_to_text(derivation: Derivation) -> str:
    """Return the theorem with its lemmas, steps, notation and assumptions."""
    theorem = derivation.theorem
    lines = [
        f"Theorem ({derivation.graph.name}). For every input x,",
        f"    lam(x) <= {theorem.bound}",
        *_in_the_mean(derivation),
        *(f"with {name} = {form}" for name, form in theorem.definitions),
    ]
    lines += ["", "Assumptions of the worst-case bound:"]
    lines += [f"    {plain(c.statement)}" for c in theorem.assumptions] or [
        "    none: it holds for every input and all weights."
    ]
    for lemma in derivation.lemmas:
        lines += ["", *_lemma_lines(derivation, lemma)]
    lines += ["", "Notation:"]
    lines += [f"    {m.symbol}: {find_measure(m.kind).meaning} ({', '.join(m.nodes)})" for m in derivation.measured()]
    return "\n".join(lines)


def _in_the_mean(derivation: Derivation) -> list[str]:
    theorem = derivation.theorem
    if theorem.expected is None:
        lacking = ", ".join(derivation.without_variance)
        return [f"There is no bound on E lam(x): no rule for the Jacobian variance of {lacking}."]
    return [
        "and in the mean over random weights, for every input x,",
        f"    E lam(x) <= {theorem.expected}    [{theorem.expected_status}]",
    ]


def _lemma_lines(derivation: Derivation, lemma: Lemma) -> list[str]:
    _, index, count = body_of(derivation.graph, lemma)
    many = "" if index is None else f", {index} = 1, ..., {count}"
    lines = [f"Lemma {lemma.letter} ({lemma.title}{many})."]
    return lines + [f"    ({k}) {_step_line(step)}" for k, step in enumerate(lemma.steps)]


def _step_line(step: Step) -> str:
    why = step.rule if not step.premises else f"{step.rule} from {', '.join(f'({p})' for p in step.premises)}"
    expression: sympy.Expr = step.claim.expression
    return f"{step.name} {step.claim.relation} {expression}    {step.quantity} {step.source} -> {step.target}; {why}"
