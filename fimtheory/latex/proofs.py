r"""Lemmas in print: statement, notation and numbered steps, one for each step of the derivation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import sympy

from fimtheory.bibliography import BIBLIOGRAPHY
from fimtheory.claims import VALUE_BOUNDS, Measured, Quantity, Reference, Relation
from fimtheory.closed_form import conclusion
from fimtheory.derivation import Derivation, Lemma, Step, body_of
from fimtheory.graph import LayerGraph
from fimtheory.latex.facts import fact_of, layer_words
from fimtheory.latex.labels import escaped, label_key, math_name, typewriter
from fimtheory.latex.symbols import Names, lemma_letter
from fimtheory.latex.typesetting import LINE, Display, Typesetter
from fimtheory.latex.widths import width
from fimtheory.registry import find_measure, rule_named

__all__ = ["Item", "LemmaText", "Part", "Row", "cited", "lemma_text", "part_text"]

_INLINE = 28.0
"""Widest claim that stands inside a line of the proof, in em."""
_COMPOSED = {
    (Quantity.GAIN, "series"): "by the chain rule",
    (Quantity.GAIN, "sum"): "by the triangle inequality",
    (Quantity.GAIN, "concat"): "by concatenation",
    (Quantity.GAIN, "identity"): "for the identity",
    (Quantity.GAIN, "minimum"): "as the smaller one",
    (Quantity.JACOBIAN_VARIANCE, "series"): "by the chain rule",
    (Quantity.JACOBIAN_VARIANCE, "orthogonal sum"): "by orthogonality",
    (Quantity.JACOBIAN_VARIANCE, "dependent sum"): "by Minkowski's inequality",
    (Quantity.JACOBIAN_VARIANCE, "concat"): "by concatenation",
    (Quantity.JACOBIAN_VARIANCE, "identity"): "for the identity",
    **{(quantity, "assumption"): "by assumption" for quantity in VALUE_BOUNDS},
}
_PARTS = {
    Quantity.GAIN: ("L", VALUE_BOUNDS | {Quantity.GAIN}),
    Quantity.JACOBIAN_VARIANCE: ("C", frozenset({Quantity.JACOBIAN_VARIANCE})),
}
"""The bound that a lemma concludes, and what the steps of its proof are about."""


@final
@dataclass(frozen=True, slots=True)
class Item:
    """A step of a proof (two, where a layer of gain 1 is composed at once): its number and what it says.

    A wide claim is in ``display``, and the text before it is its reason.
    """

    number: str
    text: str
    display: Display | None


@final
@dataclass(frozen=True, slots=True)
class Row:
    """A measured symbol: what it is called, how it is defined, what that means, where it is read off."""

    symbol: str
    definition: str
    meaning: str
    nodes: str


@final
@dataclass(frozen=True, slots=True)
class Part:
    """What a lemma says of the gain or of the growth, with its proof; every field is LaTeX.

    ``step`` is the position of the concluding step.
    """

    letter: str
    title: str
    instances: str
    conclusion: Display
    names: tuple[Display, ...]
    symbols: tuple[Row, ...]
    step: int
    proof: tuple[Item, ...]


@final
@dataclass(frozen=True, slots=True)
class LemmaText:
    """A lemma's block, and the bound on its gain; every field is LaTeX."""

    wiring: tuple[str, ...]
    aliases: tuple[tuple[str, str], ...]
    gain: Part


def cited(reference: Reference) -> str:
    r"""Return a reference as a citation; the rule's own proof needs none.

    >>> print(cited(Reference("kim2021", "appendix N")))
    \cite[{appendix N}]{kim2021}
    """
    words = reference.where.split(" ")
    if reference.key == "fimtheory":
        known = any(word in BIBLIOGRAPHY for word in words)
        return " ".join(rf"\cite{{{w}}}" if w in BIBLIOGRAPHY else escaped(w) for w in words) if known else ""
    where = f"[{{{' '.join(escaped(word) for word in words)}}}]" if reference.where else ""
    return rf"\cite{where}{{{label_key(reference.key)}}}"


def lemma_text(derivation: Derivation, lemma: Lemma, names: Names) -> LemmaText:
    """Return a lemma of a derivation for print, without its bound on the growth."""
    body, _, _ = body_of(derivation.graph, lemma)
    return LemmaText(
        tuple(f"${layer}$" for layer in _wiring(lemma, body, names)),
        tuple((math_name(alias), typewriter(node)) for node, alias in names.aliases(lemma).items()),
        part_text(derivation, lemma, lemma.gain, names),
    )


def part_text(derivation: Derivation, lemma: Lemma, position: int, names: Names) -> Part:
    """Return for print what step ``position``, of the lemma's two conclusions, says of its block."""
    _, index, count = body_of(derivation.graph, lemma)
    printer, letter = names.printer(), lemma_letter(lemma.letter)
    glyph, quantities = _PARTS[lemma.steps[position].quantity]
    above = "" if index is None else f"^{{({printer.doprint(index)})}}"
    shown, kept = _conclusion(Typesetter(names), lemma, position, f"{glyph}_{{{letter}}}{above}", index)
    return Part(
        letter,
        typewriter(lemma.title),
        "" if index is None else rf"{printer.doprint(index)} = 1, \dots, {printer.doprint(sympy.sympify(count))}",
        shown,
        (*shown.where, *kept),
        _rows(lemma, quantities, names),
        position,
        tuple(_Proof(lemma, index, names).items(quantities)),
    )


def _conclusion(
    setter: Typesetter, lemma: Lemma, position: int, left: str, index: sympy.Expr | None
) -> tuple[Display, tuple[Display, ...]]:
    """Return the lemma's closed form and the definitions of the step names that it keeps."""
    form, kept = conclusion(lemma.steps, position)
    shown = setter.display(left, "=", form, index)
    definitions = [setter.display(setter.printer.doprint(name), "=", written, index) for name, written in kept.items()]
    flat = [each for definition in definitions for each in (definition, *definition.where)]
    return shown, tuple(flat)


def _wiring(lemma: Lemma, body: LayerGraph, names: Names) -> list[str]:
    made = []
    for node in body.order[1:]:
        kind = type(body.layer(node)).__name__
        read = r",\allowbreak\,".join(names.node(lemma, source) for source in body.inputs(node))
        made.append(rf"{names.node(lemma, node)}=\mathrm{{{escaped(kind)}}}({read})")
    return made


def _rows(lemma: Lemma, quantities: frozenset[Quantity], names: Names) -> tuple[Row, ...]:
    """Return the symbols measured for some quantities, one kind after the other; what a kind means is said once."""
    every = dict.fromkeys(m for step in lemma.steps if step.quantity in quantities for m in step.claim.measured)
    kinds = dict.fromkeys(m.kind for m in every)
    made = []
    for kind in kinds:
        meaning = find_measure(kind).meaning
        for measured in (m for m in every if m.kind == kind):
            made.append(_row(measured, meaning, lemma, names))
            meaning = ""
    return tuple(made)


def _row(measured: Measured, meaning: str, lemma: Lemma, names: Names) -> Row:
    symbol = names.printer(local=True).doprint(measured.symbol)
    definition = names.definition(measured, (names.node(lemma, n) for n in measured.nodes))
    shown = "" if definition == symbol.split("_")[0] else f"${definition}$"
    return Row(symbol, shown, meaning, ", ".join(typewriter(n) for n in measured.nodes))


def _sign(step: Step) -> str:
    return "=" if step.claim.relation is Relation.EQ else r"\le"


@final
class _Proof:
    """Steps of one lemma as items; the index and the lemma's letter are left out of names."""

    def __init__(self, lemma: Lemma, index: sympy.Expr | None, names: Names) -> None:
        self._lemma = lemma
        self._index = index
        self._setter = Typesetter(names, local=True, line=LINE - 5.0)
        self._inline = names.printer(local=True, slashed=True)
        self._letter = f"${lemma_letter(lemma.letter)}$"

    def items(self, quantities: frozenset[Quantity]) -> list[Item]:
        """Return the items about some quantities, in the order of the derivation."""
        steps = self._lemma.steps
        made: list[Item] = []
        position = 0
        while position < len(steps):
            step = steps[position]
            if step.quantity not in quantities:
                position += 1
                continue
            following = steps[position + 1] if position + 1 < len(steps) else None
            pair = None if following is None else self._pair(position, step, following)
            if pair is not None:
                made.append(pair)
                position += 2
            else:
                made.append(self._item(position, step))
                position += 1
        return made

    def _pair(self, position: int, step: Step, following: Step) -> Item | None:
        """Return one item for a layer of gain or growth 1 and the step that composes it at once."""
        one = step.claim.expression == 1 and step.rule not in ("identity", "assumption")
        if not one or following.rule != "series" or following.premises[-1] != position:
            return None
        first, second = self._claim(position, step), self._claim(position + 1, following)
        if first is None or second is None:
            return None
        told = f"${first}$ {self._reason(step)}, so ${second}$ {self._reason(following)}"
        return Item(f"({self._letter}.{position}--{position + 1})", told, None)

    def _item(self, position: int, step: Step) -> Item:
        number = f"({self._letter}.{position})"
        reason = self._reason(step)
        claim = self._claim(position, step)
        if claim is None:
            name = self._setter.printer.doprint(step.name)
            shown = self._setter.display(name, _sign(step), step.claim.expression, self._index)
            return Item(number, reason[0].upper() + reason[1:], shown)
        return Item(number, f"${claim}$ {reason}", None)

    def _claim(self, position: int, step: Step) -> str | None:
        """Return a step's claim for a line of text, with what it amounts to in measured symbols where that is short.

        None if it is too wide.
        """
        printer = self._inline
        name = printer.doprint(step.name)
        premises = [self._lemma.steps[p].name for p in step.premises]
        found = rule_named(step.rule)
        composed = bool(premises) and (found is None or found.joint)
        text = printer.product(premises) if step.rule == "series" else printer.doprint(step.claim.expression)
        made = f"{name} {_sign(step)} {text}"
        if width(made) > _INLINE:
            return None
        written, kept = conclusion(self._lemma.steps, position)
        amounts = printer.doprint(written)
        if composed and not kept and width(amounts) <= _INLINE:
            made += rf" \le {amounts}"
        return made

    def _reason(self, step: Step) -> str:
        fact = fact_of(step.rule, step.quantity)
        found = rule_named(step.rule)
        *most, last = ["", *(f"({self._letter}.{p})" for p in step.premises)]
        before = f"{', '.join(most[1:])} and {last}" if len(most) > 1 else last
        if found is None and (step.quantity, step.rule) not in _COMPOSED:
            return rf"by \factref{{{label_key(fact.key)}}}"
        if found is None:
            words = _COMPOSED[step.quantity, step.rule]
            return f"{words} from {before}" if before else words
        words = layer_words(tuple(t.__name__ for t in found.types))
        source = "; ".join(part for part in (words, cited(step.claim.reference)) if part)
        using = f", from {before}" if before else ""
        return rf"by \factref{{{label_key(fact.key)}}} ({source}){using}"
