"""Tables in print: which lemma covers which blocks, the certified value of every layer, and the verdict."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import sympy

from fimtheory.claims import VALUE_BOUNDS
from fimtheory.derivation import Derivation, Lemma, body_of
from fimtheory.graph import Repeat
from fimtheory.latex.facts import layer_words
from fimtheory.latex.labels import escaped, prose, typewriter
from fimtheory.latex.numbers import decimals, scientific
from fimtheory.latex.symbols import Names, lemma_letter
from fimtheory.registry import rule_named

if TYPE_CHECKING:
    from fimtheory.evaluation import Evaluation, Row

__all__ = [
    "BlockRows", "Coverage", "LayerRow", "Total", "certificates", "coverage", "layer_rows", "ranges", "totals",
    "verdict_rows",
]  # fmt: skip

_CERTIFICATES = {
    "torus": "largest norm of the convolution's symbol over the frequencies of a torus that holds the padded image",
    "grid": "the same on a coarser grid of frequencies, times a factor that covers the frequencies between",
    "reshaped": "windows do not overlap, so the norm is that of the kernel as a matrix",
    "dense": "the convolution written out as a matrix",
    "gram-cholesky": r"verified Cholesky factorisation of $cI-A^\top A$~\cite{rump2006}",
    "frobenius": "Frobenius norm",
    "pairwise": "all distances of two rows",
    "product": "norms of the computed products, with their rounding error",
    "stacked": "square root of the sum of the squares of the heads' norms",
    "heads": "norm of all heads' matrices side by side, times that of all one above the other, balanced head by head",
    "centred": "two layers at a time: the middle of the slopes times the norm of the product, and a balanced product",
    "recursion": r"linear matrix inequality solved layer by layer~\cite{fazlyab2019}",
    "largest": "largest absolute entry of a diagonal",
    "range": "bound on values there for every input of the domain, layer by layer from the input on",
    "secular": "secular equation of a diagonal and a rank-one matrix",
}
"""What a certificate's name means, by its first word."""
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
    """One block with its value and what it contributes to the bound, in decades; its layers with theirs.

    ``rule`` is empty where the layers below say it.
    """

    block: str
    rule: str
    certificate: str
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
    r"""Return names as LaTeX, three or more that differ by consecutive numbers as a range.

    >>> print(ranges(["a.b1", "a.b2", "a.b3", "c"]))
    ['\\texttt{a.\\allowbreak{}b1} to \\texttt{b3}', '\\texttt{c}']
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
            made.append(f"{typewriter(run[0])} to {typewriter(run[-1].rpartition('.')[2])}")
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


def layer_rows(derivation: Derivation, evaluation: Evaluation) -> tuple[BlockRows, ...]:
    """Return the worst-case bound block by block, with the layers whose gain is not 1."""
    made: list[BlockRows] = []
    pending: list[Row] = []
    for row in evaluation.rows:
        pending.append(row)
        if row.decades is None:
            continue
        own = (decimals(row.log10, up=True), decimals(row.decades, up=True))
        if row.rule == "head":
            words = r"head, $D_W$; contributes $D_W^2/(4\tau^2)$"
            made.append(BlockRows(typewriter(row.target), words, _certificate(row), (), *own))
        elif row.rule == "recursion":
            words = r"stack with the head, $R_W$; taken below the product by"
            made.append(BlockRows(typewriter(row.target), words, _certificate(row), (), *own))
        else:
            layers = [r for r in pending if r.method or (rule_named(r.rule) is not None and r.log10 != 0)]
            made.append(BlockRows(typewriter(row.block), "", "", tuple(map(_layer_row, layers)), *own))
        pending = []
    if derivation.theorem.head == "softmax" and derivation.temperature.is_Rational:
        factor = math.log10(1 / (2 * float(derivation.temperature) ** 2))
        shown = decimals(factor, up=True)
        made.append(BlockRows("softmax", r"factor $1/(2\tau^2)$", "", (), shown, shown))
    return tuple(made)


def _layer_row(row: Row) -> LayerRow:
    """Return one layer's row; its name is told without that of its block."""
    found = rule_named(row.rule)
    words = "values, by assumption" if found is None else " + ".join(layer_words((k.__name__,)) for k in found.types)
    if found is not None and found.quantity in VALUE_BOUNDS:
        words = f"{found.quantity} after {words}"
    node = row.target.removeprefix(f"{row.block}.")
    return LayerRow(typewriter(node), words, decimals(row.log10, up=True), _certificate(row))


def _certificate(row: Row) -> str:
    return escaped(row.method).replace(r"\ ", " ")


def certificates(evaluation: Evaluation) -> tuple[str, ...]:
    """Return what the names of the certificates used mean, as sentences without a full stop."""
    used = {method.split(" ")[0] for row in evaluation.rows for method in row.method.split("; ")}
    return tuple(rf"\emph{{{name}}}: {meaning}" for name, meaning in _CERTIFICATES.items() if name in used)


def totals(evaluation: Evaluation) -> tuple[Total, ...]:
    """Return the two bounds of an evaluation."""
    what = rf"bound on $\lambda(x)$, {prose(evaluation.domain)}"
    worst = _total(what, evaluation.log10, evaluation.status.value, up=True)
    if evaluation.expected_status is None:
        return (worst,)
    mean = r"bound on $\mathbb{E}\,\lambda(x)$, random weights"
    return worst, _total(mean, evaluation.expected_log10, evaluation.expected_status.value, up=True)


def _total(what: str, log10: float | None, status: str, *, up: bool) -> Total:
    return Total(what, scientific(log10, up=up), decimals(log10, up=up), escaped(status))


def verdict_rows(verdict: Mapping[str, Any]) -> tuple[Total, ...]:
    """Return a verdict (as ``fimtheory verify --json`` prints it): what was proved, found, and how far apart."""
    bound, usual, expected = verdict["bound"], verdict["baseline"], verdict["expected"]
    found, worst = verdict["estimates"], verdict["worst_case"]
    starts, steps = worst["starts"], worst.get("steps")
    searched = f"{starts} starts" + (f" of {steps} steps" if steps is not None else "")
    method = escaped(str(found["method"])).replace(r"\ ", " ")
    inputs = prose(verdict["data"])
    worst_log10 = worst.get("log10", _log10(worst["value"]))
    mean = r"bound on $\mathbb{E}\,\lambda(x)$, random weights"
    in_the_mean = () if expected["status"] is None else (_total(mean, expected["log10"], expected["status"], up=True),)
    return (
        _total(rf"bound on $\lambda(x)$, {prose(bound['domain'])}", bound["log10"], bound["status"], up=True),
        _total(
            r"product of all layer norms, factor $\tfrac12$", usual["log10"], usual.get("status", "certified"), up=True
        ),
        *in_the_mean,
        _total(f"largest estimate on {inputs} ({method})", _log10(found["max"]), found["status"], up=False),
        _total(f"mean estimate on {inputs} ({method})", _log10(found["mean"]), found["status"], up=False),
        _total(f"largest value found by search, {searched}", worst_log10, worst.get("status", "lower"), up=False),
    )


def _log10(value: float | None) -> float | None:
    if value is None or value != value:
        return None
    return math.log10(value) if value > 0 else -math.inf
