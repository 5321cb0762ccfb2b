"""A derivation as plain text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import sympy

from fimtheory.derivation import Derivation, Lemma, Step, body_of
from fimtheory.graph import LayerGraph, Repeat
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


_BLOCKS = 8
"""Most blocks of a lemma that are named one by one."""


def _shown(expression: sympy.Expr) -> str:
    """Return a formula in which Euler's number is exp(1), since E stands for the mean over random weights.

    >>> _shown(2 * sympy.E + sympy.exp(-1))
    '2*exp(1) + exp(-1)'
    """
    return str(expression.xreplace({sympy.E: sympy.Symbol("exp(1)")}))


def derivation_to_text(derivation: Derivation) -> str:
    """Return the theorem with its lemmas, steps, notation and assumptions."""
    theorem = derivation.theorem
    lines = [
        f"Theorem ({derivation.graph.name}). For every input x,",
        f"    lam(x) <= {_shown(theorem.bound)}",
        *_in_the_mean(derivation),
        *(f"with {name} = {_shown(form)}" for name, form in theorem.definitions),
    ]
    lines += ["", "Assumptions of the worst-case bound:"]
    lines += [f"    {plain(c.statement)}" for c in theorem.assumptions] or [
        "    none: it holds for every input and all weights."
    ]
    for lemma in derivation.lemmas:
        lines += ["", *_lemma_lines(derivation, lemma)]
    lines += ["", "Notation:"]
    lines += ["    lam(x): largest eigenvalue of the Fisher information at x, with respect to the input"]
    if theorem.expected is not None:
        lines += ["    E: mean over random weights"]
    lines += [f"    {symbol}: {meaning}" for symbol, meaning in _sizes(derivation).items()]
    lines += [f"    {m.symbol}: {find_measure(m.kind).meaning} ({', '.join(m.nodes)})" for m in derivation.measured()]
    return "\n".join(lines)


def _in_the_mean(derivation: Derivation) -> list[str]:
    theorem = derivation.theorem
    if theorem.expected is None:
        lacking = ", ".join(derivation.without_variance)
        return [f"There is no bound on E lam(x): no rule for the Jacobian variance of {lacking}."]
    return [
        "and in the mean over random weights, for every input x,",
        f"    E lam(x) <= {_shown(theorem.expected)}    [{theorem.expected_status}]",
    ]


def _sizes(derivation: Derivation) -> dict[str, str]:
    """Return what each size that is a symbol means: where it occurs first in the graph."""
    graph = derivation.graph
    names = {str(step.name) for step in derivation.steps} | {str(m.symbol) for m in derivation.measured()}
    found: dict[str, str] = {}
    for where, size in (
        *((f"{what} of the theorem", value) for what, value in _parameters(derivation)),
        (f"a size of the input, {graph.shapes[graph.input]}", graph.shapes[graph.input]),
        ("the number of classes", graph.shapes[graph.output][0]),
        *_named_sizes(graph),
    ):
        for symbol in sorted(map(str, _symbols(size))):
            if symbol not in names:
                found.setdefault(symbol, where)
    return found


def _parameters(derivation: Derivation) -> Iterator[tuple[str, sympy.Expr]]:
    yield "the temperature", derivation.temperature
    if derivation.token_variance is not None:
        yield "the least variance of a token", derivation.token_variance


def _named_sizes(graph: LayerGraph) -> Iterator[tuple[str, Any]]:
    """Yield what every size in the graph is called, from the input to the output."""
    for node in graph.nodes:
        if isinstance(node.layer, Repeat):
            yield f"how often the block {node.name} is repeated", node.layer.count
            for where, size in _named_sizes(node.layer.body):
                yield where, size if not _symbols(size) & {node.layer.index} else 0
        else:
            for each in fields(node.layer):  # type: ignore[arg-type]
                yield f"{each.name} of {type(node.layer).__name__} ({node.name})", getattr(node.layer, each.name)


def _symbols(size: Any) -> set[sympy.Basic]:
    if isinstance(size, tuple):
        return {symbol for part in size for symbol in _symbols(part)}
    if not isinstance(size, sympy.Basic):
        return set()
    families = size.atoms(sympy.Indexed)
    return {*families, *size.free_symbols} - {each for family in families for each in family.base.free_symbols}


def _lemma_lines(derivation: Derivation, lemma: Lemma) -> list[str]:
    _, index, count = body_of(derivation.graph, lemma)
    many = "" if index is None else f"; {index} = 1, ..., {count}"
    lines = [f"Lemma {lemma.letter} ({', '.join(_blocks(derivation.graph, lemma))}{many})."]
    return lines + [f"    ({k}) {_step_line(step)}" for k, step in enumerate(lemma.steps)]


def _blocks(graph: LayerGraph, lemma: Lemma) -> list[str]:
    """Return the names of the blocks that a lemma is about, the middle ones of many left out."""
    if len(lemma.instances) == 1:
        return [lemma.title]
    named = [graph[instance.members[-1]].block or instance.members[-1] for instance in lemma.instances]
    return named if len(named) <= _BLOCKS else [*named[:2], "...", named[-1]]


def _step_line(step: Step) -> str:
    why = step.rule if not step.premises else f"{step.rule} from {', '.join(f'({p})' for p in step.premises)}"
    bound = f"{step.name} {step.claim.relation} {_shown(step.claim.expression)}"
    return f"{bound}    {step.quantity} {step.source} -> {step.target}; {why}"
