r"""Lemmas in print: statement, notation and numbered steps, one for each step of the derivation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import sympy

from fimtheory.bibliography import BIBLIOGRAPHY
from fimtheory.claims import Measured, Quantity, Reference, Relation
from fimtheory.closed_form import conclusion
from fimtheory.derivation import Derivation, Lemma, Step, body_of
from fimtheory.latex.facts import Fact, fact_of, layer_words
from fimtheory.graph import LayerGraph
from fimtheory.latex.labels import escaped, label_key, typewriter
from fimtheory.registry import find_measure, rule_named
from fimtheory.latex.symbols import Names, lemma_letter
from fimtheory.latex.typesetting import LINE, Display, Typesetter
from fimtheory.latex.widths import width

__all__ = ["Item", "LemmaText", "Row", "cited", "lemma_text"]

_INLINE = 21.0
"""Widest claim that stands inside a line of the proof, in em."""
_COMPOSED = {
    (Quantity.GAIN, "series"): "by the chain rule",
    (Quantity.GAIN, "sum"): "by the triangle inequality",
    (Quantity.GAIN, "concat"): "by concatenation",
    (Quantity.GAIN, "identity"): "the identity on the input of the block",
    (Quantity.JACOBIAN_VARIANCE, "series"): "by the chain rule",
    (Quantity.JACOBIAN_VARIANCE, "orthogonal sum"): "an orthogonal sum",
    (Quantity.JACOBIAN_VARIANCE, "dependent sum"): "by Minkowski's inequality",
    (Quantity.JACOBIAN_VARIANCE, "concat"): "by concatenation",
    (Quantity.JACOBIAN_VARIANCE, "identity"): "the identity on the input of the block",
    (Quantity.TOKEN_NORM, "assumption"): "by assumption",
}


@final
@dataclass(frozen=True, slots=True)
class Item:
    """A step of a proof (two, where a layer of gain 1 is composed at once): numbers, claims, reason."""

    numbers: str
    inline: str
    display: Display | None
    reason: str


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
class LemmaText:
    """A lemma with its proof, ready for print; every field is LaTeX."""

    letter: str
    title: str
    instances: str
    wiring: tuple[str, ...]
    aliases: tuple[tuple[str, str], ...]
    symbols: tuple[Row, ...]
    gain: Display
    growth: Display
    names: tuple[Display, ...]
    gain_step: int
    growth_step: int
    gain_proof: tuple[Item, ...]
    growth_proof: tuple[Item, ...]


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
    """Return a lemma of a derivation for print."""
    body, index, count = body_of(derivation.graph, lemma)
    upper = names.printer().doprint(sympy.sympify(count))
    setter = Typesetter(names)
    above = "" if index is None else f"^{{({names.printer().doprint(index)})}}"
    letter = lemma_letter(lemma.letter)
    proof = _Proof(lemma, body, names)
    gain, gain_names = _conclusion(setter, lemma, lemma.gain, f"L_{{{letter}}}{above}", index)
    growth, growth_names = _conclusion(setter, lemma, lemma.variance, f"C_{{{letter}}}{above}", index)
    return LemmaText(
        letter,
        typewriter(lemma.title),
        "" if index is None else f"{names.printer().doprint(index)} = 1, \\dots, {upper}",
        tuple(f"${layer}$" for layer in _wiring(lemma, body, names)),
        tuple((rf"\mathrm{{{escaped(alias)}}}", typewriter(node)) for node, alias in names.aliases(lemma).items()),
        tuple(_row(m, lemma, names) for m in _measured(lemma)),
        gain,
        growth,
        (*gain.where, *gain_names, *growth.where, *growth_names),
        lemma.gain,
        lemma.variance,
        tuple(proof.items((Quantity.GAIN, Quantity.TOKEN_NORM))),
        tuple(proof.items((Quantity.JACOBIAN_VARIANCE,))),
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
        read = r",\,".join(names.node(lemma, source) for source in body.inputs(node))
        made.append(rf"{names.node(lemma, node)}=\mathrm{{{escaped(kind)}}}({read})")
    return made


def _measured(lemma: Lemma) -> list[Measured]:
    return list(dict.fromkeys(m for step in lemma.steps for m in step.claim.measured))


def _row(measured: Measured, lemma: Lemma, names: Names) -> Row:
    symbol = names.printer(local=True).doprint(measured.symbol)
    definition = names.definition(measured, (names.node(lemma, n) for n in measured.nodes))
    shown = "" if definition == symbol or definition in symbol.split("_")[0] else definition
    return Row(symbol, shown, find_measure(measured.kind).meaning, ", ".join(typewriter(n) for n in measured.nodes))


@final
class _Proof:
    """Steps of one lemma as items; the index and the lemma's letter are left out of names."""

    def __init__(self, lemma: Lemma, body: LayerGraph, names: Names) -> None:
        self._lemma = lemma
        self._body = body
        self._setter = Typesetter(names, local=True)
        self._letter = f"${lemma_letter(lemma.letter)}$"

    def items(self, quantities: tuple[Quantity, ...]) -> list[Item]:
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
            if following is not None and self._trivial(position, step, following):
                made.append(self._pair(position, step, following))
                position += 2
            else:
                made.append(self._item(position, step))
                position += 1
        return made

    def _trivial(self, position: int, step: Step, following: Step) -> bool:
        one = step.claim.expression == 1 and step.rule not in ("identity", "assumption")
        return one and following.rule == "series" and following.premises[-1] == position

    def _pair(self, position: int, step: Step, following: Step) -> Item:
        first, second = self._claim(position, step), self._claim(position + 1, following)
        reason = f"{self._reason(step)}; {self._reason(following)}"
        numbers = f"({self._letter}.{position}), ({self._letter}.{position + 1})"
        return Item(numbers, f"${first.inline}$ and ${second.inline}$", None, reason)

    def _item(self, position: int, step: Step) -> Item:
        claim = self._claim(position, step)
        number = f"({self._letter}.{position})"
        if len(claim.rows) == 1 and (claim.where or width(claim.inline) > _INLINE):
            return Item(number, "", claim, self._reason(step))
        return Item(number, f"${claim.inline}$", None, self._reason(step))

    def _claim(self, position: int, step: Step) -> Display:
        """Return a step's claim, and what it amounts to in measured symbols where that is short."""
        printer = self._setter.printer
        name = printer.doprint(step.name)
        sign = "=" if step.claim.relation is Relation.EQ else r"\le"
        if rule_named(step.rule) is None and step.premises:
            premises = [self._lemma.steps[p].name for p in step.premises]
            text = printer.product(premises) if step.rule == "series" else printer.doprint(step.claim.expression)
            written, kept = conclusion(self._lemma.steps, position)
            amounts = printer.doprint(written)
            if not kept and width(amounts) + width(text) + width(name) < LINE - 8:
                return Display(name, ((sign, (text,)), (r"\le", (amounts,))))
            if width(text) < _INLINE:
                return Display(name, ((sign, (text,)),))
        return self._setter.display(name, sign, step.claim.expression)

    def _reason(self, step: Step) -> str:
        fact = fact_of(step.rule, step.quantity)
        found = rule_named(step.rule)
        before = " and ".join(f"({self._letter}.{p})" for p in step.premises)
        if found is None:
            words = _COMPOSED[step.quantity, step.rule]
            return f"{words} from {before}" if before else words
        words = layer_words(tuple(t.__name__ for t in found.types))
        source = ", ".join(part for part in (self.fact_reference(fact), cited(step.claim.reference)) if part)
        return f"{words} ({source})" + (f", using {before}" if before else "")

    @staticmethod
    def fact_reference(fact: Fact) -> str:
        """Return a reference to a fact, which the template numbers."""
        return rf"\factref{{{label_key(fact.key)}}}"
