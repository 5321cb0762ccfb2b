"""Tables in print: which lemma covers which blocks, the certified value of every layer, and the verdict."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import sympy

from fimtheory.claims import Quantity
from fimtheory.derivation import Derivation, Lemma, body_of
from fimtheory.graph import Repeat
from fimtheory.latex.facts import layer_words
from fimtheory.latex.labels import escaped, typewriter
from fimtheory.latex.numbers import decimals, scientific
from fimtheory.latex.symbols import Names, lemma_letter
from fimtheory.registry import rule_named

if TYPE_CHECKING:
    from fimtheory.evaluation import Evaluation, Row

__all__ = ["BlockRows", "Coverage", "LayerRow", "Total", "coverage", "layer_rows", "ranges", "totals", "verdict_rows"]

_NUMBERED = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)


@final
@dataclass(frozen=True, slots=True)
class Coverage:
    """A lemma's blocks: their names, how many there are and how many nodes each has."""

    letter: str
    blocks: str
    count: str
    nodes: str


@final
@dataclass(frozen=True, slots=True)
class LayerRow:
    """The certified value of one layer's bound."""

    node: str
    rule: str
    log10: str
    certificate: str


@final
@dataclass(frozen=True, slots=True)
class BlockRows:
    """The layers of one block with their values, and what the block contributes to the bound, in decades."""

    block: str
    layers: tuple[LayerRow, ...]
    log10: str
    decades: str


@final
@dataclass(frozen=True, slots=True)
class Total:
    """A number with what it is, its decimal logarithm and its status."""

    what: str
    value: str
    log10: str
    status: str


def ranges(names: Sequence[str]) -> list[str]:
    """Return names as LaTeX, three or more that differ by consecutive numbers as a range.

    >>> ranges(["a.1", "a.2", "a.3", "b"])[0].count("texttt")
    2
    """
    made: list[str] = []
    runs: list[list[str]] = []
    for name in names:
        if runs and _follows(runs[-1][-1], name):
            runs[-1].append(name)
        else:
            runs.append([name])
    for run in runs:
        if len(run) > 2:
            made.append(f"{typewriter(run[0])} to {typewriter(run[-1])}")
        else:
            made += map(typewriter, run)
    return made


def _follows(before: str, after: str) -> bool:
    first, second = _NUMBERED.fullmatch(before), _NUMBERED.fullmatch(after)
    if first is None or second is None:
        return False
    return (first[1], first[3]) == (second[1], second[3]) and int(second[2]) == int(first[2]) + 1


def coverage(derivation: Derivation, names: Names) -> tuple[Coverage, ...]:
    """Return which blocks of the graph each lemma is about."""
    graph = derivation.graph
    made = []
    for lemma in derivation.lemmas:
        body, _, count = body_of(graph, lemma)
        first = graph.layer(lemma.instances[0].members[0])
        if isinstance(first, Repeat):
            blocks = [f"the blocks repeated at {typewriter(lemma.instances[0].members[0])}"]
        else:
            blocks = ranges([_block_name(derivation, lemma, k) for k in range(len(lemma.instances))])
        upper = names.printer().doprint(sympy.sympify(count))
        made.append(Coverage(lemma_letter(lemma.letter), ", ".join(blocks), upper, str(len(body) - 1)))
    return tuple(made)


def _block_name(derivation: Derivation, lemma: Lemma, k: int) -> str:
    last = lemma.instances[k].members[-1]
    return derivation.graph[last].block or last


def layer_rows(evaluation: Evaluation) -> tuple[BlockRows, ...]:
    """Return the layers of the worst-case bound block by block; those of gain 1 are left out."""
    made: list[BlockRows] = []
    pending: list[Row] = []
    for row in evaluation.rows:
        pending.append(row)
        if row.decades is not None:
            kept = [r for r in pending if _is_layer(r) and not (r.log10 == 0 and not r.method)]
            block = typewriter(row.block)
            shown = decimals(row.log10, up=True)
            made.append(BlockRows(block, tuple(map(_layer_row, kept)), shown, decimals(row.decades, up=True)))
            pending = []
    return tuple(made)


def _is_layer(row: Row) -> bool:
    return row.rule == "head" or rule_named(row.rule) is not None


def _layer_row(row: Row) -> LayerRow:
    found = rule_named(row.rule)
    words = r"distance of rows, $D_W$" if found is None else layer_words(tuple(t.__name__ for t in found.types))
    if found is not None and found.quantity is Quantity.TOKEN_NORM:
        words = f"token norm after {words}"
    certificate = "; ".join(escaped(part) for part in row.method.split("; "))
    return LayerRow(typewriter(row.target), words, decimals(row.log10, up=True), certificate.replace(r"\ ", " "))


def totals(evaluation: Evaluation) -> tuple[Total, ...]:
    """Return the two bounds of an evaluation."""
    return (
        _total(r"bound on $\lambda(x)$", evaluation.log10, evaluation.status.value, up=True),
        _total(
            r"bound on $\mathbb{E}\,\lambda(x)$, random weights",
            evaluation.expected_log10,
            evaluation.expected_status.value,
            up=True,
        ),
    )


def _total(what: str, log10: float | None, status: str, *, up: bool) -> Total:
    return Total(what, scientific(log10, up=up), decimals(log10, up=up), escaped(status))


def verdict_rows(verdict: Mapping[str, Any]) -> tuple[Total, ...]:
    """Return a verdict (as ``fimtheory verify --json`` prints it): what was proved, found, and how far apart."""
    bound, usual, expected = verdict["bound"], verdict["baseline"], verdict["expected"]
    found, worst = verdict["estimates"], verdict["worst_case"]
    starts, steps = worst["starts"], worst.get("steps")
    searched = f"{starts} starts" + (f" of {steps} steps" if steps is not None else "")
    method = escaped(str(found["method"])).replace(r"\ ", " ")
    inputs = f"{found['n']} input" + ("s" if found["n"] != 1 else "")
    worst_log10 = worst.get("log10", _log10(worst["value"]))
    return (
        _total(r"bound on $\lambda(x)$, all inputs", bound["log10"], bound["status"], up=True),
        _total(
            r"product of all layer norms, factor $\tfrac12$", usual["log10"], usual.get("status", "certified"), up=True
        ),
        _total(r"bound on $\mathbb{E}\,\lambda(x)$, random weights", expected["log10"], expected["status"], up=True),
        _total(f"largest estimate on {inputs} ({method})", _log10(found["max"]), found["status"], up=False),
        _total(f"mean estimate on {inputs} ({method})", _log10(found["mean"]), found["status"], up=False),
        _total(f"largest value found by search, {searched}", worst_log10, worst.get("status", "lower"), up=False),
    )


def _log10(value: float | None) -> float | None:
    if value is None or value != value:
        return None
    return math.log10(value) if value > 0 else -math.inf
