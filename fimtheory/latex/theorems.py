r"""The theorem in print: both bounds by lemma and written out, and what the proof needs to say."""

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

__all__ = ["TheoremText", "assumption_texts", "theorem_text"]


@final
@dataclass(frozen=True, slots=True)
class TheoremText:
    """The theorem, ready for print; every field is LaTeX.

    ``kept`` lists the names that the written-out bounds take from lemmas, ``order`` the lemmas in the order in which
    the input passes their blocks.
    """

    with_head: bool
    head: str
    temperature: str
    dimension: str
    classes: str
    bound: Display
    expected: Display
    expected_status: str
    kept: tuple[str, ...]
    order: str


def theorem_text(derivation: Derivation, names: Names) -> TheoremText:
    """Return the theorem of a derivation for print."""
    theorem, tau = derivation.theorem, derivation.temperature
    printer = names.printer()
    dimension, classes = (sympy.sympify(size) for size in derivation.graph.require_classifier())
    if theorem.head == "head":
        diameter, growth = (m.symbol for m in theorem.measured)
        worst = inference.worst_case_head(diameter, (), tau)
        mean = inference.expected_head(growth, (), dimension, classes, tau)
        worst_start, mean_start = r"\frac{D_W^2}{4%s}", r"\frac{1}{2%s}\Bigl(1-\frac{1}{K}\Bigr) d\, v_W"
    else:
        worst, mean = inference.worst_case_softmax((), tau), inference.expected_softmax((), dimension, tau)
        worst_start, mean_start = r"\frac{1}{2%s}", r"\frac{d}{2%s}"
    over = "" if tau == 1 else r"\tau^2"
    gains = [_factor(derivation, lemma, lemma.gain, names, 2) for lemma in derivation.lemmas]
    growths = [_factor(derivation, lemma, lemma.variance, names, 1) for lemma in derivation.lemmas]
    for start, factors, whole in ((worst, gains, theorem.bound), (mean, growths, theorem.expected)):
        assert sympy.Mul(start, *(factor.form for factor in factors)) == whole, "the printed bound is the theorem's"
    return TheoremText(
        theorem.head == "head",
        typewriter(derivation.graph.output),
        printer.doprint(tau),
        printer.doprint(dimension),
        printer.doprint(classes),
        _display(r"\lambda(x)", worst_start % over, worst, gains, names),
        _display(r"\mathbb{E}\,\lambda(x)", mean_start % over, mean, growths, names),
        theorem.expected_status.value,
        tuple(dict.fromkeys(name for factor in (*gains, *growths) if factor.shown for name in factor.kept)),
        ", ".join(_order(derivation, printer)),
    )


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


def _display(left: str, start: str, before: sympy.Expr, factors: list[_Factor], names: Names) -> Display:
    """Return a bound as a product over lemmas, and written out."""
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
    return Display(left, tuple(rows))


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
    """Return conditions as sentences; an assumed bound on tokens names its node and its symbol."""
    special: dict[Condition, str] = {}
    printer = names.printer()
    for lemma in derivation.lemmas:
        for step in lemma.steps:
            if step.rule == "assumption":
                (condition,) = step.claim.conditions
                radius = printer.doprint(step.claim.expression)
                where = f"the node {typewriter(step.target)} of every block of Lemma ${lemma_letter(lemma.letter)}$"
                where = where.replace("the node \\texttt{x}", "the entry")
                special[condition] = f"Every token at {where} has norm at most ${radius}$."
    return tuple(special.get(condition) or prose(condition.statement) for condition in conditions)
