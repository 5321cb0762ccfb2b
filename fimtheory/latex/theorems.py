r"""The theorems in print: each bound by lemma and written out, and what the proofs need to say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import final

import sympy

from fimtheory import inference
from fimtheory.claims import Condition
from fimtheory.closed_form import conclusion
from fimtheory.derivation import Derivation, Lemma, body_of
from fimtheory.graph import Repeat
from fimtheory.latex.labels import prose, typewriter
from fimtheory.latex.printer import Printer
from fimtheory.latex.symbols import Names, lemma_letter
from fimtheory.latex.typesetting import LINE, Display, lines_of
from fimtheory.latex.widths import width

__all__ = ["Bound", "TheoremText", "assumption_texts", "mean_text", "theorem_text"]


@final
@dataclass(frozen=True, slots=True)
class Bound:
    """A theorem's bound in print; ``kept`` lists the names that the written-out form takes from lemmas."""

    display: Display
    kept: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class TheoremText:
    """The worst-case theorem, ready for print; every field is LaTeX.

    ``order`` lists the lemmas in the order in which the input passes their blocks; ``stack`` is the first layer of the
    stack that ends in the head, if the theorem has one.
    """

    with_head: bool
    head: str
    temperature: str
    dimension: str
    classes: str
    bound: Bound
    order: str
    stack: str


def theorem_text(derivation: Derivation, names: Names) -> TheoremText:
    """Return the worst-case theorem of a derivation for print."""
    theorem, tau = derivation.theorem, derivation.temperature
    printer = names.printer()
    dimension, classes = (sympy.sympify(size) for size in derivation.graph.require_classifier())
    with_head = theorem.head == "head"
    if with_head:
        worst = inference.worst_case_head(theorem.measured[0].symbol, (), tau)
    else:
        worst = inference.worst_case_softmax((), tau)
    start = (r"\frac{D_W^2}{4%s}" if with_head else r"\frac{1}{2%s}") % _over(tau)
    gains = [_factor(derivation, lemma, lemma.gain, names, 2) for lemma in derivation.lemmas]
    return TheoremText(
        with_head,
        typewriter(derivation.graph.output),
        printer.doprint(tau),
        printer.doprint(dimension),
        printer.doprint(classes),
        _bound(r"\lambda(x)", start, worst, gains, theorem.bound, names),
        ", ".join(_order(derivation, printer)),
        "" if theorem.recursion is None else typewriter(theorem.recursion.nodes[0]),
    )


def mean_text(derivation: Derivation, names: Names) -> Bound | None:
    """Return the bound in the mean over random weights for print, if the derivation has one."""
    theorem, tau = derivation.theorem, derivation.temperature
    if theorem.expected is None:
        return None
    dimension, classes = (sympy.sympify(size) for size in derivation.graph.require_classifier())
    with_head = theorem.head == "head"
    if with_head:
        mean = inference.expected_head(theorem.measured[1].symbol, (), dimension, classes, tau)
    else:
        mean = inference.expected_softmax((), dimension, tau)
    start = (r"\frac{1}{2%s}\Bigl(1-\frac{1}{K}\Bigr) d\, v_W" if with_head else r"\frac{d}{2%s}") % _over(tau)
    growths = [
        _factor(derivation, lemma, lemma.variance, names, 1)
        for lemma in derivation.lemmas
        if lemma.variance is not None
    ]
    return _bound(r"\mathbb{E}\,\lambda(x)", start, mean, growths, theorem.expected, names)


def _over(tau: sympy.Expr) -> str:
    return "" if tau == 1 else r"\tau^2"


@final
@dataclass(frozen=True, slots=True)
class _Factor:
    """What one lemma contributes: in its own name, and as a closed form (``shown`` if it fits on a line)."""

    named: str
    form: sympy.Expr
    kept: tuple[str, ...]
    shown: bool


def _factor(derivation: Derivation, lemma: Lemma, position: int, names: Names, power: int) -> _Factor:
    _, index, count = body_of(derivation.graph, lemma)
    printer = names.printer()
    glyph = f"{'L' if power == 2 else 'C'}_{{{lemma_letter(lemma.letter)}}}"
    if index is None:
        named = f"{glyph}^{{2}}" if power == 2 else glyph
    else:
        member = f"{glyph}^{{({printer.doprint(index)})}}"
        member = rf"\bigl({member}\bigr)^{{2}}" if power == 2 else member
        limits = f"_{{{printer.doprint(index)}=1}}^{{{printer.doprint(sympy.sympify(count))}}}"
        named = rf"\prod{limits} {member}"
    gain, kept = conclusion(lemma.steps, position)
    form = inference.repeated(gain**power, index, count)
    shown = width(printer.doprint(form)) <= LINE - 8
    return _Factor(named, form, tuple(f"${printer.doprint(name)}$" for name in kept), shown)


def _bound(left: str, start: str, before: sympy.Expr, factors: list[_Factor], whole: sympy.Expr, names: Names) -> Bound:
    """Return the bound ``whole``, or the one of two that it takes the smaller of, as a product, and written out."""
    product = sympy.Mul(before, *(factor.form for factor in factors))
    assert product in (whole, *whole.args), "the printed bound is the theorem's"
    printer = names.printer()
    room = LINE - width(left) - 1.5
    rows = [(r"\le", lines_of([start, *(f.named for f in factors)], room))]
    if any(factor.shown for factor in factors):
        coefficient, rest = before.as_coeff_Mul()
        units: list[str] = []
        for factor in factors:
            if not factor.shown:
                units.append(factor.named)
                continue
            number, form = factor.form.as_coeff_Mul()
            coefficient *= number
            if not form.atoms(sympy.Indexed, sympy.Symbol) & names.rank.keys():
                rest *= form
            else:
                units.append(printer.factor(form))
        if coefficient * rest != 1 or not units:
            units.insert(0, printer.factor(coefficient * rest))
        rows.append(("=", lines_of(units, room)))
    kept = dict.fromkeys(name for factor in factors if factor.shown for name in factor.kept)
    return Bound(Display(left, tuple(rows)), tuple(kept))


def _order(derivation: Derivation, printer: Printer) -> Iterator[str]:
    """Lemmas in the order of the blocks, runs of one lemma told once."""
    graph = derivation.graph
    position = {name: k for k, name in enumerate(graph.order)}
    blocks = sorted((position[i.entry], k) for k, lemma in enumerate(derivation.lemmas) for i in lemma.instances)
    for k, run in groupby(blocks, key=lambda block: block[1]):
        lemma = derivation.lemmas[k]
        layer = graph.layer(lemma.instances[0].members[0])
        times = printer.doprint(layer.count) if isinstance(layer, Repeat) else str(len(list(run)))
        shown = f"${lemma_letter(lemma.letter)}$"
        yield shown if times == "1" else f"{shown} (${times}$ times)"


def assumption_texts(derivation: Derivation, conditions: tuple[Condition, ...], names: Names) -> tuple[str, ...]:
    """Return conditions as sentences; an assumed bound on values names its node and its symbol."""
    special: dict[Condition, str] = {}
    printer = names.printer()
    for lemma in derivation.lemmas:
        body, index, _ = body_of(derivation.graph, lemma)
        blocks = "the block" if index is None else "every block"
        for step in lemma.steps:
            if step.rule == "assumption":
                (condition,) = step.claim.conditions
                node = "the entry" if step.target == body.input else f"the node {typewriter(step.target)}"
                where = f"{node} of {blocks} of Lemma ${lemma_letter(lemma.letter)}$"
                radius = printer.doprint(step.claim.expression)
                special[condition] = inference.RADII[step.quantity][1].format(where=where, radius=radius)
    return tuple(special.get(condition) or prose(condition.statement) for condition in conditions)
