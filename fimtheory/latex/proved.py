r"""The content of a document with proved theorems: statements and steps as LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import sympy
from sympy.printing.latex import LatexPrinter
from sympy.printing.precedence import PRECEDENCE

from fimtheory.claims import Reference
from fimtheory.latex.asciimath import formula, sentence
from fimtheory.latex.labels import label_key
from fimtheory.latex.typesetting import LINE
from fimtheory.latex.widths import width
from fimtheory.proofs import Hypothesis, Proof, Statement
from fimtheory.proofs.proof import Relates
from fimtheory.proofs.text import named, signs

__all__ = ["ProvedTheorem", "Said", "proved_theorem"]


@final
@dataclass(frozen=True, slots=True)
class Said:
    """A statement with what is said of it; ``number`` is that of an assumption, a definition or a step."""

    number: str
    statement: str
    words: str


@final
@dataclass(frozen=True, slots=True)
class ProvedTheorem:
    """A theorem and its proof in print; every string is LaTeX."""

    key: str
    name: str
    title: str
    words: str
    conclusions: tuple[str, ...]
    assumptions: tuple[Said, ...]
    signs: tuple[str, ...]
    notation: tuple[Said, ...]
    named: tuple[str, ...]
    steps: tuple[Said, ...]
    source: str


def proved_theorem(proof: Proof) -> ProvedTheorem:
    """Return the content of a proof that the kernel has replayed."""
    printer = _Printer()
    assumed, defined = proof.assumptions, [each for each in proof.hypotheses if each.definition]
    numbers = {each.name: f"A{k}" for k, each in enumerate(assumed, start=1)}
    numbers |= {each.name: f"N{k}" for k, each in enumerate(defined, start=1)}
    numbers |= {each.name: str(k) for k, each in enumerate(proof.steps, start=1)}
    claims = {step.name: step.claim for step in proof.steps}
    return ProvedTheorem(
        label_key(proof.name),
        sentence(proof.name),
        sentence(proof.title),
        sentence(proof.words),
        tuple(printer.statement(claims[name]) for name in proof.conclusions),
        tuple(_hypothesis(each, proof, numbers, printer) for each in assumed),
        tuple(formula(each) for each in signs(proof)),
        tuple(_hypothesis(each, proof, numbers, printer) for each in defined),
        tuple(sentence(each) for each in named(proof)),
        tuple(
            Said(numbers[step.name], printer.statement(step.claim), _reason(step.rule, step.premises, numbers))
            for step in proof.steps
        ),
        _source(proof.reference),
    )


def _source(reference: Reference) -> str:
    """Whose theorem it is; the proof of an own one is the one that follows."""
    cited = "" if reference.key == "fimtheory" else rf"\cite{{{label_key(reference.key)}}}"
    return ", ".join(part for part in (cited, sentence(reference.where)) if part)


def _hypothesis(hypothesis: Hypothesis, proof: Proof, numbers: dict[str, str], printer: _Printer) -> Said:
    scope = ", ".join(printer.doprint(each) for each in hypothesis.for_all)
    ranges = ", ".join(sorted({proof.ranges[each] for each in hypothesis.for_all if each in proof.ranges}))
    words = (f"For all ${scope}$" + (f" ({sentence(ranges)}). " if ranges else ". ")) if scope else ""
    return Said(numbers[hypothesis.name], printer.statement(hypothesis.statement), words + sentence(hypothesis.words))


def _reason(rule: str, premises: Sequence[str], numbers: dict[str, str]) -> str:
    return rule + (f" from {', '.join(f'({numbers[name]})' for name in premises)}" if premises else "")


_SIZES = ((LINE, ""), (1.2 * LINE, r"\footnotesize"), (1.4 * LINE, r"\scriptsize"))
"""How wide the widest term of a statement may be in each size; lines are broken between terms only."""


class _Printer(LatexPrinter):
    """Statements of proofs."""

    def statement(self, statement: Statement) -> str:
        """Return a relation on lines of its own."""
        sign = r"\le" if statement.relation is Relates.LE else "="
        left, right = (self._multiplied_out(side) for side in (statement.left, statement.right))
        widest = max(self._widest(left), self._widest(right))
        size = next((size for limit, size in _SIZES if widest <= limit), _SIZES[-1][1])
        made = rf"{self.doprint(left)} {sign} {self.doprint(right)}"
        return rf"{size}\begin{{dmath*}}" + f"\n{made}\n" + r"\end{dmath*}" + (r"\normalsize" if size else "")

    def _widest(self, side: sympy.Expr) -> float:
        return max(width(self.doprint(term)) for term in sympy.Add.make_args(side))

    def _multiplied_out(self, side: sympy.Expr) -> sympy.Expr:
        """A side whose terms fit into lines, if that takes no more than to multiply them out."""
        return side if self._widest(side) <= LINE else sympy.expand_mul(side, deep=False)

    def _print_Symbol(self, expr: sympy.Symbol, style: str = "") -> str:
        return formula(expr.name)

    def _print_Function(self, expr: Any, exp: Any = None) -> str:
        if not isinstance(expr, sympy.core.function.AppliedUndef):
            return super()._print_Function(expr, exp)
        made = rf"{formula(str(expr.func))}({', '.join(map(self._print, expr.args))})"
        return made if exp is None else rf"{made}^{{{exp}}}"

    def _print_transpose(self, expr: Any) -> str:
        inner = expr.args[0]
        text = self.parenthesize(inner, PRECEDENCE["Pow"])
        return rf"{{{text}}}^{{\top}}" if "^" in text and isinstance(inner, sympy.Symbol) else rf"{text}^{{\top}}"

    def _number(self, text: str, exp: Any) -> str:
        return text if exp is None else rf"{text}^{{{exp}}}"

    def _print_Norm(self, expr: Any, exp: Any = None) -> str:
        return self._number(rf"\left\lVert {self._print(expr.of)} \right\rVert", exp)

    def _print_Form(self, expr: Any, exp: Any = None) -> str:
        return self._number(rf"\left\langle {self._print(expr.of)} \right\rangle", exp)

    def _print_Top(self, expr: Any, exp: Any = None) -> str:
        return self._number(rf"\lambda_{{\max}}\left({self._print(expr.of)}\right)", exp)

    def _print_Trace(self, expr: Any, exp: Any = None) -> str:
        return self._number(rf"\operatorname{{tr}}\left({self._print(expr.of)}\right)", exp)

    def _print_Expect(self, expr: Any, exp: Any = None) -> str:
        return self._number(rf"\mathbb{{E}}\left[{self._print(expr.of)}\right]", exp)

    def _print_Stack(self, expr: Any) -> str:
        rows = r" \\ ".join(map(self._print, expr.args))
        return rf"\begin{{bmatrix}} {rows} \end{{bmatrix}}"
