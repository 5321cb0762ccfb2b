r"""Closed forms as LaTeX: a sympy printer that writes sums and products in the order of the proof.

Symbols are printed by a table of ``Name`` (see ``fimtheory.latex.symbols``); every other symbol is a size, written as
it is called.  ``$\bigl(b^{(i)}_{\mathrm{conv1}}\bigr)^2$`` is the square of member i of a family.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, final

import sympy
from sympy.printing.latex import LatexPrinter

from fimtheory.latex.labels import math_name

__all__ = ["KAPPA", "Name", "Printer", "number"]

_GREEK = (
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "kappa", "lambda", "mu", "nu", "xi", "pi",
    "rho", "sigma", "tau", "phi", "chi", "psi", "omega",
)  # fmt: skip
_SIZE = re.compile(r"([A-Za-z])_?(\d*)")
KAPPA = sympy.Symbol("kappa", positive=True)
"""Largest slope of GELU, ``(1 + erf 1)/2 + 1/(e sqrt(pi))``."""
_KAPPA = {sympy.erf(1): 2 * KAPPA - 1 - 2 * sympy.exp(-1) / sympy.sqrt(sympy.pi)}
_DIGITS = 20
_SHORT_DENOMINATOR = 6


@final
@dataclass(frozen=True, slots=True)
class Name:
    """A symbol in print: ``glyph`` with ``letter`` (of a lemma) and ``node`` as subscript, and an index above.

    ``step`` tells a name that a proof introduces from a number read off the weights.
    """

    glyph: str
    letter: str = ""
    node: str = ""
    step: bool = False

    def latex(self, index: str | None, *, local: bool = False) -> str:
        """Return the symbol; ``local`` drops what a lemma's own proof need not say: the index, a step's letter."""
        letter = "" if local and self.step else self.letter
        below = ",".join(part for part in (letter, self.node) if part)
        above = "" if index is None or local else f"^{{({index})}}"
        return f"{self.glyph}{above}" + (f"_{{{below}}}" if below else "")


def number(value: Any) -> str:
    r"""Return a rational number: digits in groups of three, a small fraction, or the decimal a float stands for.

    >>> print(number(sympy.Rational(150528)), number(sympy.Rational(13824, 5)), number(sympy.Rational(0.01)))
    150\,528 2764.8 0.01
    """
    p, q = int(value.p), int(value.q)
    sign, p = ("-" if p < 0 else ""), abs(p)
    if q == 1:
        return sign + (_grouped(p) if len(str(p)) <= _DIGITS else _truncated(sympy.Integer(p)))
    places = next((k for k in range(1, 5) if 10**k % q == 0), 0)
    if p > 100 * q and places and len(str(p)) <= _DIGITS:
        whole, rest = divmod(p * 10**places // q, 10**places)
        return f"{sign}{_grouped(whole)}.{rest:0{places}d}"
    if len(str(q)) <= _SHORT_DENOMINATOR and len(str(p)) <= _DIGITS:
        return rf"{sign}\tfrac{{{_grouped(p)}}}{{{_grouped(q)}}}"
    nearest = float(sympy.Rational(p, q))
    if 1e-300 < nearest < 1e300 and sympy.Rational(nearest) == sympy.Rational(p, q):
        return sign + _decimal(repr(nearest))
    if 1e-4 < nearest < 1e9 and (sympy.Rational(p, q) * 10**_DIGITS).is_Integer:
        return sign + str(sympy.Rational(p, q).evalf(_DIGITS + 5)).rstrip("0")
    return sign + _truncated(sympy.Rational(p, q))


def _grouped(value: int) -> str:
    text = str(value)
    return text if len(text) <= 4 else f"{value:,}".replace(",", r"\,")


def _decimal(text: str) -> str:
    mantissa, _, exponent = text.partition("e")
    if not exponent:
        return mantissa
    power = f"10^{{{int(exponent)}}}"
    return power if mantissa in ("1", "1.0") else rf"{mantissa}\times {power}"


def _truncated(value: Any) -> str:
    """Return the first digits and an ellipsis; the exact number is in the derivation's file."""
    digits, power = value, 0
    while digits >= 10:
        digits, power = digits / 10, power + 1
    while digits < 1:
        digits, power = digits * 10, power - 1
    places = 7
    if -3 <= power <= 6:
        digits, power, places = digits * 10**power, 0, places - min(power, 0)
    whole, rest = divmod(int(digits * 10**places), 10**places)
    scale = rf"\times 10^{{{power}}}" if power else ""
    return rf"{whole}.{rest:0{places}d}\ldots{scale}"


class Printer(LatexPrinter):
    """Prints closed forms.

    Parameters
    ----------
    names
        How to print the symbols of a derivation, by symbol (of a family: by the label of its base).
    rank
        Position of each symbol in the proof: factors and terms are written in this order, numbers and sizes first.
    local
        Print names as inside the proof of their lemma (see ``Name.latex``).
    slashed
        Write fractions of products with a slash, as inside a line of text.
    """

    def __init__(
        self, names: Mapping[Any, Name], rank: Mapping[Any, int], *, local: bool = False, slashed: bool = False
    ) -> None:
        super().__init__()
        self._names = names
        self._rank = rank
        self._local = local
        self._slashed = slashed

    def doprint(self, expr: Any) -> str:
        """Return the LaTeX of an expression, with GELU's largest slope as kappa."""
        return super().doprint(expr.xreplace(_KAPPA) if isinstance(expr, sympy.Basic) else expr)

    def product(self, factors: Sequence[sympy.Expr]) -> str:
        """Return factors side by side, in the given order."""
        return self._juxtaposed([cast("sympy.Expr", factor.xreplace(_KAPPA)) for factor in factors])

    def factor(self, factor: sympy.Expr) -> str:
        """Return an expression as a factor, in brackets if it is a sum."""
        shown: Any = factor.xreplace(_KAPPA)  # erf(1) becomes a sum
        text = self.doprint(shown)
        return rf"\left({text}\right)" if shown.is_Add else text

    def ordered(self, parts: Sequence[sympy.Expr]) -> list[sympy.Expr]:
        """Return terms or factors in the order of the proof."""
        return sorted(parts, key=self._key)

    def _key(self, part: sympy.Expr) -> Any:
        if part.is_number or part == KAPPA:
            return 0, part == KAPPA, sympy.default_sort_key(part)
        found = [self._rank[a] for a in part.atoms(sympy.Symbol, sympy.Indexed) if a in self._rank]
        return 1, min(found, default=-1), sympy.default_sort_key(part)

    # ---- atoms --------------------------------------------------------------------------------------------------

    def _print_Symbol(self, expr: sympy.Symbol, style: str = "") -> str:
        name = self._names.get(expr)
        return _size(expr.name) if name is None else name.latex(None, local=self._local)

    def _print_Indexed(self, expr: sympy.Indexed) -> str:
        index = ",".join(self._print(i) for i in expr.indices)
        label = cast("sympy.IndexedBase", expr.base).label
        name = self._names.get(label)
        if name is None:
            return f"{_size(str(label))}_{{{index}}}"
        return name.latex(index, local=self._local)

    def _print_Rational(self, expr: sympy.Rational) -> str:
        return number(expr)

    _print_Integer = _print_Half = _print_One = _print_Zero = _print_NegativeOne = _print_Rational

    # ---- sums and products --------------------------------------------------------------------------------------

    def _print_Add(self, expr: sympy.Add, order: Any = None) -> str:
        made = ""
        for term in self.ordered(expr.args):
            negative = term.as_coeff_Mul()[0].is_negative
            text = self._print(-term if negative else term)
            sign = " - " if negative else " + "
            made += ("-" if negative else "") + text if not made else sign + text
        return made

    def _print_Mul(self, expr: Any) -> str:
        coefficient: Any
        coefficient, rest = expr.as_coeff_Mul()
        if not coefficient.is_Rational:
            coefficient, rest = sympy.Integer(1), expr
        if coefficient.is_negative:
            return "-" + self._print(-expr)
        above: list[sympy.Expr] = []
        below: list[sympy.Expr] = []
        for factor in self.ordered(sympy.Mul.make_args(rest)):
            base, power = factor.as_base_exp()
            if power.is_number and power.is_negative and base is not sympy.E:
                below.append(base**-power)
            else:
                above.append(factor)
        if not below and not rest.is_number:
            return self._scaled(coefficient, above)
        top = [f for f in (sympy.Integer(coefficient.p), *above) if f != 1] or [sympy.Integer(1)]
        bottom = [f for f in (sympy.Integer(coefficient.q), *below) if f != 1]
        if not bottom:
            return self._juxtaposed(top)
        if self._slashed:
            under = self._juxtaposed(bottom)
            return f"{self._juxtaposed(top)} / " + (under if len(bottom) == 1 else rf"\left({under}\right)")
        shape = "tfrac" if rest.is_number else "frac"
        return rf"\{shape}{{{self._juxtaposed(top, alone=True)}}}{{{self._juxtaposed(bottom, alone=True)}}}"

    def _scaled(self, coefficient: sympy.Expr, factors: list[sympy.Expr]) -> str:
        """Write a coefficient before factors; squares of a family's members share one bracket."""
        powers = [f.as_base_exp() for f in factors]
        squares = all(power == 2 for _, power in powers) and any(isinstance(b, sympy.Indexed) for b, _ in powers)
        root = sympy.sqrt(coefficient)
        if squares and root.is_Rational and (len(factors) > 1 or coefficient != 1):
            inside = self._scaled(root, [base for base, _ in powers])
            return rf"\left({inside}\right)^{{2}}"
        return self._juxtaposed([coefficient, *factors] if coefficient != 1 else factors)

    def _juxtaposed(self, factors: list[sympy.Expr], *, alone: bool = False) -> str:
        made = ""
        previous: sympy.Expr | None = None
        for factor in factors:
            text = self._print(factor)
            if isinstance(factor, sympy.Add) and not (alone and len(factors) == 1):
                text = rf"\left({text}\right)"
            if previous is not None:
                dot = isinstance(previous, sympy.Product) and not isinstance(factor, sympy.Product)
                dot = dot or (previous.is_Rational and text[0].isdigit())
                thin = isinstance(factor, sympy.Product) or (previous.is_Rational and len(made) > 3)
                made += r" \cdot " if dot else r"\, " if thin else " "
            made += text
            previous = factor
        return made

    def _print_Product(self, expr: sympy.Product) -> str:
        index, lower, upper = expr.limits[0]
        body = self._print(expr.function)
        if not (isinstance(expr.function, sympy.Pow) or self._bracketed(body)):
            body = rf"\left({body}\right)"
        limits = f"_{{{self._print(index)}={self._print(lower)}}}^{{{self._print(upper)}}}"
        return rf"\prod{limits} {body}"

    @staticmethod
    def _bracketed(body: str) -> bool:
        """Whether one pair of brackets, perhaps with a power, holds all of ``body``."""
        return body.startswith(r"\left(") and body.count(r"\left(") == 1 and body.endswith((r"\right)", r"\right)^{2}"))

    # ---- powers and functions -----------------------------------------------------------------------------------

    def _print_Pow(self, expr: sympy.Pow) -> str:
        base, power = expr.base, expr.exp
        if power.is_number and power.is_negative:
            below = base**-power
            if self._slashed:
                return f"1 / {self._juxtaposed([below])}"
            return rf"\frac{{1}}{{{self._print(below)}}}"
        if power == sympy.Rational(1, 2):
            return rf"\sqrt{{{self._print(base)}}}"
        text = self._print(base)
        simple = isinstance(base, sympy.Symbol) or (isinstance(base, sympy.Indexed) and "^" not in text)
        simple = simple or (base.is_Integer and base.is_nonnegative)
        return (text if simple else rf"\left({text}\right)") + f"^{{{self._print(power)}}}"

    def _print_exp(self, expr: sympy.exp, exp: Any = None) -> str:
        argument = self._print(expr.args[0])
        if "frac" in argument or len(argument) > 40:
            return rf"\exp\left({argument}\right)"
        return rf"e^{{{argument}}}"

    def _print_erf(self, expr: sympy.erf, exp: Any = None) -> str:
        return rf"\operatorname{{erf}}\left({self._print(expr.args[0])}\right)"

    def _print_Max(self, expr: sympy.Max, exp: Any = None) -> str:
        return self._listed("max", expr.args)

    def _print_Min(self, expr: sympy.Min, exp: Any = None) -> str:
        return self._listed("min", expr.args)

    def _listed(self, what: str, parts: Sequence[Any]) -> str:
        inside = r",\, ".join(self._print(part) for part in self.ordered(parts))
        return rf"\{what}\left\{{{inside}\right\}}"


def _size(name: str) -> str:
    """A size as its author called it: single letters and Greek ones as such, words upright."""
    found = _SIZE.fullmatch(name)
    if found:
        return found[1] + (f"_{{{found[2]}}}" if found[2] else "")
    return f"\\{name}" if name in _GREEK else math_name(name)
