"""What a derivation's symbols are called in print: from measures, lemmas and nodes to glyphs and subscripts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import cast, final

import sympy

from fimtheory.claims import Measured, Quantity
from fimtheory.derivation import Derivation, Lemma, Step, body_of
from fimtheory.expressions import nonnegative
from fimtheory.graph import LayerGraph
from fimtheory.latex.labels import escaped, math_name
from fimtheory.latex.printer import Name, Printer
from fimtheory.registry import find_measure, rule_named

__all__ = ["VALUES_WORDS", "Names", "lemma_letter"]

_STEP_GLYPHS = {
    Quantity.GAIN: (r"\ell", "L"),
    Quantity.JACOBIAN_VARIANCE: ("c", "C"),
    Quantity.ENTRY_BOUND: (r"\mu", ""),
    Quantity.TOKEN_NORM: (r"\rho", ""),
    Quantity.NORM_BOUND: (r"\nu", ""),
}
"""Glyphs of what a step bounds: one layer, and several together."""
VALUES_WORDS = {
    Quantity.ENTRY_BOUND: r"$\mu_v$ bounds the absolute value of every entry",
    Quantity.TOKEN_NORM: r"$\rho_v$ bounds the norm of every token",
    Quantity.NORM_BOUND: r"$\nu_v$ bounds the norm of the whole",
}
"""What the names of bounds on the value of a node v mean."""
_SUFFIX_GLYPHS = {"a": r"\alpha", "b": r"\beta", "g": r"\gamma", "q": r"\eta"}
"""Suffixes that would read as the letter of a lemma."""
_TOKEN = re.compile(r"\\?[A-Za-z]+")
_LONGEST = 18


def lemma_letter(letter: str) -> str:
    """Return a lemma's letter for a formula: a2 becomes a with a subscript.

    >>> lemma_letter("a2")
    'a_{2}'
    """
    found = re.fullmatch(r"([A-Za-z])(\d+)", letter)
    if found:
        return f"{found[1]}_{{{found[2]}}}"
    return letter if re.fullmatch("[A-Za-z]", letter) else math_name(letter)


@final
class Names:
    """The table of names of one derivation, and the printers that use it.

    Attributes
    ----------
    table : dict
        ``Name`` of each symbol; of a family, of its base's label.
    rank : dict
        Position of each symbol in the proof.
    """

    def __init__(self, derivation: Derivation) -> None:
        self.table: dict[sympy.Basic, Name] = {}
        self.rank: dict[sympy.Basic, int] = {}
        self._nodes: dict[tuple[str, str], str] = {}
        self._aliases: dict[str, dict[str, str]] = {}
        self._lets: dict[sympy.Expr, sympy.Expr] = {}
        head = derivation.theorem.symbols
        for measured in head:
            self._add(measured.symbol, Name(measured.symbol.name[0], node="W"))  # type: ignore[attr-defined]
        for lemma in derivation.lemmas:
            body, _, _ = body_of(derivation.graph, lemma)
            self._add_nodes(lemma.letter, body)
            self._add_measured(lemma)
            for step in lemma.steps:
                self._add(step.name, self._step_name(lemma, step, body.input))

    def _step_name(self, lemma: Lemma, step: Step, entry: str) -> Name:
        """Name what a step bounds: small letters for one layer, capitals from the block's entry or between nodes."""
        layer, whole = _STEP_GLYPHS[step.quantity]
        found = rule_named(step.rule)
        alone = step.rule in ("assumption", "chain") or (found is not None and not found.joint)
        node = self.node(lemma, step.target)
        if not alone and step.source != entry:
            node = rf"{self.node(lemma, step.source)}\to {node}"
        compared = any(step is lemma.steps[p] for s in lemma.steps if s.rule == "minimum" for p in s.premises)
        if compared:  # of several bounds on one block the smaller one keeps the plain name
            whole = rf"\bar {whole}" if step.rule == "centred residual" else rf"\hat {whole}"
        return Name(layer if alone else whole, lemma_letter(lemma.letter), node, step=True)

    def _add(self, symbol: sympy.Basic, name: Name) -> None:
        key = cast("sympy.IndexedBase", symbol.base).label if isinstance(symbol, sympy.Indexed) else symbol
        self.table.setdefault(key, name)
        self.rank.setdefault(symbol, len(self.rank))

    def _add_nodes(self, letter: str, body: LayerGraph) -> None:
        aliases: dict[str, str] = {}
        for position, node in enumerate(body.order):
            shown = node
            if len(escaped(node)) > _LONGEST:
                taken = {*body.order, *aliases.values()}
                shown = node.rpartition(".")[2]
                if len(escaped(shown)) > _LONGEST or shown in taken:
                    shown = next(f"n{k}" for k in itertools.count(position) if f"n{k}" not in taken)
                aliases[node] = shown
            self._nodes[letter, node] = "x" if node == body.input else math_name(shown)
        self._aliases[letter] = aliases

    def _add_measured(self, lemma: Lemma) -> None:
        every = list(dict.fromkeys(m for step in lemma.steps for m in step.claim.measured))
        for measured in every:
            suffix = find_measure(measured.kind).suffix
            alike = [m.nodes for m in every if m.kind == measured.kind and m.nodes[0] == measured.nodes[0]]
            nodes = measured.nodes[:1] if len(alike) == 1 else tuple(reversed(_own(measured.nodes, alike)))
            node = r" \circ ".join(self.node(lemma, n) for n in nodes)
            if not suffix:
                letter, _, number = lemma_letter(lemma.letter).partition("_")
                below = ",".join(part for part in (number.strip("{}"), node) if part)
                self._add(measured.symbol, Name(letter, node=below))
            else:
                self._add(measured.symbol, Name(_glyph(measured.kind), lemma_letter(lemma.letter), node))

    def node(self, lemma: Lemma, node: str) -> str:
        """Return a node of a lemma's body as a word in a formula."""
        return self._nodes[lemma.letter, node]

    def aliases(self, lemma: Lemma) -> dict[str, str]:
        """Return the short names given to nodes whose own are too long for a formula."""
        return self._aliases[lemma.letter]

    def printer(self, *, local: bool = False, slashed: bool = False) -> Printer:
        """Return a printer of this derivation's closed forms."""
        return Printer(self.table, self.rank, local=local, slashed=slashed)

    def let(self, definition: sympy.Expr, index: sympy.Expr | None) -> tuple[sympy.Expr, bool]:
        """Return the symbol s_1, s_2, ... for a part of long formulas, and whether it is new.

        It is a family if its definition holds ``index``.
        """
        known = self._lets.get(definition)
        if known is not None:
            return known, False
        name = f"let {len(self._lets) + 1}"
        symbol = nonnegative(name, index if index is not None and definition.has(index) else None)
        self._add(symbol, Name("s", node=str(len(self._lets) + 1)))
        self._lets[definition] = symbol
        return symbol, True

    def definition(self, measured: Measured, nodes: Iterable[str]) -> str:
        """Return how a measured number is defined, in terms of the linear parts W of ``nodes`` (in print)."""
        operator = r"\,".join(f"W_{{{node}}}" for node in reversed(list(nodes)))
        return find_measure(measured.kind).latex.format(at=operator)


def _own(nodes: tuple[str, ...], alike: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the nodes that are not in all of some runs, where that tells each run from the others, else all.

    >>> runs = [("a", "r", "b", "c"), ("a", "b", "t", "c"), ("a", "r", "b", "t", "c")]
    >>> [_own(run, runs) for run in runs]
    [('r',), ('t',), ('r', 't')]
    """
    shared = set(alike[0]).intersection(*alike)
    told = [tuple(node for node in run if node not in shared) for run in alike]
    enough = all(told) and len(set(told)) == len(told)
    return tuple(node for node in nodes if node not in shared) if enough else nodes


def _glyph(kind: str) -> str:
    measure = find_measure(kind)
    if _TOKEN.fullmatch(measure.latex):
        return measure.latex
    if measure.suffix in _SUFFIX_GLYPHS:
        return _SUFFIX_GLYPHS[measure.suffix]
    return measure.suffix if re.fullmatch("[A-Za-z]", measure.suffix) else rf"\mathsf{{{escaped(measure.suffix)}}}"
