"""One name, one meaning: symbols that sizes and assumptions bring against those that a derivation introduces.

A size called ``i`` inside a product over the instances i = 1, ..., count of a lemma would be read as their index, and
one called ``D_W`` as the distance between two rows of the head: the closed form would say something else than what was
proved.  Names are compared, not symbols, because what is assumed of a symbol does not show in print.
"""

from __future__ import annotations

from collections.abc import Iterator

import sympy

from fimtheory.derivation import INDEX, Derivation
from fimtheory.errors import AssumptionError, GraphError
from fimtheory.graph import Repeat

__all__ = ["require_distinct_names"]


def require_distinct_names(derivation: Derivation) -> None:
    """Refuse a derivation in which a size, an index or an assumption holds a symbol whose name means something else.

    Raises
    ------
    GraphError
        The symbol is in a size, or the index of a repeated block.
    AssumptionError
        The symbol is in the temperature or in the token variance.
    """
    taken = dict(_introduced(derivation))
    for index in _indices(derivation):
        if index.name in taken:
            raise GraphError(
                f"the index {index.name} of a repeated block has the name of {taken[index.name]}; rename it"
            )
    taken |= {index.name: "the index of equal blocks" for index in _indices(derivation)}
    seen: dict[str, sympy.Symbol] = {}
    for what, symbol in _given(derivation):
        error = GraphError if what == "size" else AssumptionError
        if symbol.name in taken:
            raise error(f"the symbol {symbol.name} of a {what} has the name of {taken[symbol.name]}; rename it")
        if seen.setdefault(symbol.name, symbol) != symbol:
            raise error(f"the symbol {symbol.name} of a {what} has the name of another symbol; rename one of them")


def _introduced(derivation: Derivation) -> Iterator[tuple[str, str]]:
    """Names of steps and measures, and what they stand for."""
    for lemma in derivation.lemmas:
        for step in lemma.steps:
            yield _name(step.name), f"the {step.quantity} bounded in a step of lemma {lemma.letter}"
            yield from ((_name(each.symbol), f"the {each.kind} of {each.nodes[-1]}") for each in step.claim.measured)
    yield from ((_name(each.symbol), f"the {each.kind} of {each.nodes[-1]}") for each in derivation.theorem.symbols)


def _indices(derivation: Derivation) -> set[sympy.Symbol]:
    """Indices of repeated blocks, and of lemmas with several instances."""
    repeated = {node.layer.index for node in derivation.graph.nodes if isinstance(node.layer, Repeat)}
    return repeated | ({INDEX} if any(len(lemma.instances) > 1 for lemma in derivation.lemmas) else set())


def _given(derivation: Derivation) -> Iterator[tuple[str, sympy.Symbol]]:
    """Symbols of sizes and assumptions, and where they are."""
    yield from (("size", symbol) for symbol in sorted(derivation.graph.symbols, key=str))
    assumptions = {"temperature": derivation.temperature, "token variance": derivation.token_variance}
    for what, value in assumptions.items():
        if value is not None:
            yield from ((what, symbol) for symbol in sorted(value.atoms(sympy.Symbol), key=str))


def _name(symbol: sympy.Expr) -> str:
    """Name of a symbol, or of the family it is a member of."""
    return symbol.base.label.name if isinstance(symbol, sympy.Indexed) else str(symbol)  # type: ignore[attr-defined]
