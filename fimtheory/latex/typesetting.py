r"""Break closed forms over lines: at factors and terms, with names s_1, s_2, ... for what is too wide or repeated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast, final

import sympy

from fimtheory.latex.printer import Printer
from fimtheory.latex.symbols import Names
from fimtheory.latex.widths import width

__all__ = ["LINE", "Display", "Typesetter", "lines_of"]

LINE = 34.0
"""Width of a display, in em: a column of 5.5 inches in 10 point type, less a margin for an equation's number."""
_REPEATED_OPERATIONS = 3


@final
@dataclass(frozen=True, slots=True)
class Display:
    """A relation in print: a left side, right-hand sides of one or more lines, and the names they use.

    Attributes
    ----------
    left
        LaTeX of the left side.
    rows
        One relation after the other: its sign and its lines.
    where
        Definitions of the names s_k, in the order in which they build on one another.
    """

    left: str
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    where: tuple[Display, ...] = ()

    @property
    def latex(self) -> str:
        """Body of an ``aligned`` or ``align*`` environment."""
        made: list[str] = []
        for number, (sign, lines) in enumerate(self.rows):
            for k, line in enumerate(lines):
                start = (self.left if number == 0 else "") + f" &{sign} " if k == 0 else r" &\qquad "
                made.append(start + line)
        return " \\\\\n".join(made)

    @property
    def inline(self) -> str:
        """All of it on one line."""
        return " ".join([self.left, *(f"{sign} {' '.join(lines)}" for sign, lines in self.rows)])


@final
class Typesetter:
    """Writes closed forms of one derivation within a given width."""

    def __init__(self, names: Names, *, local: bool = False, line: float = LINE) -> None:
        self._names = names
        self._line = line
        self.printer: Printer = names.printer(local=local)

    def display(self, left: str, sign: str, expression: sympy.Expr, index: sympy.Expr | None = None) -> Display:
        """Return ``left sign expression`` in lines that fit.

        Names s_k depend on ``index`` where their definition does; only those not yet defined are defined here.
        """
        room = self._line - width(left) - 1.5
        form, lets = expression, dict[sympy.Expr, sympy.Expr]()
        if width(self.printer.doprint(expression)) > room:
            form, lets = self._shortened(expression, room)
        renamed: dict[sympy.Expr, sympy.Expr] = {}
        where: list[Display] = []
        for placeholder in _dependencies_first(lets):
            definition = _replaced(lets[placeholder], renamed)
            renamed[placeholder], new = self._names.let(definition, index)
            if new:
                name = self.printer.doprint(renamed[placeholder])
                where.append(Display(name, (("=", self._lines(definition, room)),)))
        return Display(left, ((sign, self._lines(_replaced(form, renamed), room)),), tuple(where))

    def _lines(self, expression: sympy.Expr, room: float) -> tuple[str, ...]:
        return lines_of(self._units(expression), room)

    def _units(self, expression: sympy.Expr) -> list[str]:
        """Parts of the outermost sum or product, with the signs between them: what a line cannot be broken inside."""
        if width(self.printer.doprint(expression)) <= self._line - 6:
            return [self.printer.doprint(expression)]
        if isinstance(expression, sympy.Add):
            terms = [self.printer.doprint(term) for term in self.printer.ordered(expression.args)]
            return [terms[0], *(t if t.startswith("-") else f"+ {t}" for t in terms[1:])]
        if isinstance(expression, sympy.Mul) and not any(_inverse(f) for f in expression.args):
            factors = self.printer.ordered(expression.args)
            return [self.printer.factor(factor) for factor in factors]
        return [self.printer.doprint(expression)]

    def _shortened(self, expression: sympy.Expr, room: float) -> tuple[sympy.Expr, dict[sympy.Expr, sympy.Expr]]:
        """Name repeated parts, then the largest part of what is still too wide, until every unit fits."""
        forms: dict[sympy.Expr | None, sympy.Expr] = {None: expression}
        while (part := self._repeated(list(forms.values()))) is not None or (
            part := self._too_wide(list(forms.values()), room)
        ) is not None:
            placeholder = sympy.Dummy(f"s{len(forms)}", nonnegative=True)
            forms = {name: _replaced(form, {part: placeholder}) for name, form in forms.items()}
            forms[placeholder] = part
        final_form = forms.pop(None)
        return final_form, {name: form for name, form in forms.items() if name is not None}

    def _repeated(self, forms: list[sympy.Expr]) -> sympy.Expr | None:
        """Largest part that occurs twice."""
        found: Counter[sympy.Expr] = Counter()
        for form in forms:
            found.update(_parts(form))
        twice = [p for p, times in found.items() if times > 1 and p.count_ops() >= _REPEATED_OPERATIONS - p.is_Add]
        return max(twice, key=self._size, default=None)

    def _too_wide(self, forms: list[sympy.Expr], room: float) -> sympy.Expr | None:
        """Largest part of the first form that has a unit wider than a line."""
        for form in forms:
            if all(width(unit) <= room for unit in self._units(form)):
                continue
            parts = {part for part in _parts(form) if part.count_ops() > 1}
            fitting = [p for p in parts if max(width(u) for u in self._units(p)) <= room]
            if fitting:
                return max(fitting, key=self._size)
        return None

    def _size(self, part: sympy.Expr) -> tuple[int, str]:
        return part.count_ops(), self.printer.doprint(part)


def lines_of(units: list[str], room: float) -> tuple[str, ...]:
    """Return units side by side in as few lines as they fit."""
    lines: list[str] = []
    used = 0.0
    for unit in units:
        taken = width(unit) + 0.3
        if lines and used + taken <= room:
            lines[-1] += (" " if unit.startswith(("+", "-")) else r"\, ") + unit
            used += taken
        else:
            continued = unit if not lines or unit.startswith(("+", "-")) else rf"\cdot {unit}"
            lines.append(continued)
            used = taken + 2.0 * (len(lines) > 1)
    return tuple(lines)


def _replaced(expression: sympy.Expr, parts: Mapping[sympy.Expr, sympy.Expr]) -> sympy.Expr:
    return cast("sympy.Expr", expression.xreplace(parts))


def _parts(form: sympy.Expr) -> Iterator[sympy.Expr]:
    """Proper parts of a form that may get a name, each as often as it occurs."""
    for part in sympy.preorder_traversal(form):
        if part is not form and _nameable(part):
            yield cast("sympy.Expr", part)


def _nameable(part: sympy.Basic) -> bool:
    """Whether a part may get a name: neither a symbol nor a power, whose base is named instead."""
    if not isinstance(part, sympy.Expr) or not part.args:
        return False
    return not isinstance(part, sympy.Indexed | sympy.Product | sympy.Pow)


def _inverse(factor: sympy.Expr) -> bool:
    power = factor.as_base_exp()[1]
    return bool(power.is_number and power.is_negative) or (factor.is_Rational and not factor.is_Integer)


def _dependencies_first(lets: dict[sympy.Expr, sympy.Expr]) -> list[sympy.Expr]:
    """Order names so that each is defined by earlier ones."""
    ordered: list[sympy.Expr] = []
    pending = list(lets)
    while pending:
        ready = [name for name in pending if not any(lets[name].has(other) for other in pending if other != name)]
        ordered += ready
        pending = [name for name in pending if name not in ready]
    return ordered
