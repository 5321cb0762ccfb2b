"""Derive a theorem from a graph: split it into blocks, prove one lemma per kind of block, and compose them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import sympy

from fimtheory.blocks import BlockSteps
from fimtheory.claims import Quantity
from fimtheory.closed_form import theorem_of
from fimtheory.derivation import INDEX, Derivation, Instance, Lemma
from fimtheory.errors import AssumptionError, FimTheoryError, GraphError
from fimtheory.graph import LayerGraph, Repeat
from fimtheory.names import require_distinct_names
from fimtheory.regions import Region, head_of, regions, without_variance
from fimtheory.symmetry import Symmetry, symmetry_of

__all__ = ["baseline", "derive"]

Number = int | float | str | sympy.Expr


def derive(graph: LayerGraph, *, temperature: Number = 1, token_variance: Number | None = None) -> Derivation:
    """Derive bounds on ``lam(x) = ||F(x)||_2`` for every input x of the classifier ``graph`` describes.

    Parameters
    ----------
    graph : LayerGraph
        Sizes and depths may be symbols.
    temperature : number or sympy expression
        The softmax temperature tau; must be positive.
    token_variance : number, sympy expression or None
        Assume that every token entering a layer norm has at least this variance; the assumption is listed in the
        theorem.  With None the bound holds for all inputs.

    Returns
    -------
    Derivation
        ``.bound`` (worst case over inputs) and ``.expected_bound`` (mean over random weights) in closed form, with
        lemmas and steps.  There is no expected bound (None) where ``.without_variance`` names a layer type.

    Raises
    ------
    GraphError
        The output is not a vector of at least two logits, or a symbol in a size has a name that the theorem needs.
    AssumptionError
        The temperature or the token variance is not positive, or holds a symbol of such a name.
    MissingRuleError
        A layer has no rule; the message names it and how to register one.
    """
    return _derive(graph, temperature, token_variance, fold=True, use_head=True)


def baseline(graph: LayerGraph, *, temperature: Number = 1) -> Derivation:
    """Derive what is usually reported: one norm per layer, nothing folded, and the factor 1/2 for the softmax."""
    return _derive(graph, temperature, None, fold=False, use_head=False)


def _derive(
    graph: LayerGraph, temperature: Number, token_variance: Number | None, *, fold: bool, use_head: bool
) -> Derivation:
    tau = _positive(temperature, "the temperature")
    floor = None if token_variance is None else _positive(token_variance, "the token variance")
    if not isinstance(graph, LayerGraph):
        raise GraphError(f"derive takes a LayerGraph, got {type(graph).__name__}")
    graph.require_classifier()
    told = regions(graph)
    quantities = (Quantity.GAIN,) if without_variance(graph) else (Quantity.GAIN, Quantity.JACOBIAN_VARIANCE)
    head = head_of(graph)
    if head is not None and not use_head:
        told.append(Region(graph.inputs(head)[0], (head,), graph[head].block or "head"))
    lemmas: list[Lemma] = []
    for (group, index, body), letter in zip(_kinds(graph, told, floor, fold, quantities), _letters(), strict=False):
        block = BlockSteps(body, letter, index, floor, fold=fold)
        gain, *variance = [block.conclude(quantity) for quantity in quantities]
        instances = tuple(Instance(r.entry, r.members) for r in group)
        steps, growth = tuple(block.steps), variance[0] if variance else None
        lemmas.append(Lemma(letter, _title(graph, group), steps, gain, growth, instances))
    rule = "head" if head is not None and use_head else "softmax"
    made = Derivation(graph, tau, floor, tuple(lemmas), theorem_of(graph, lemmas, tau, rule))
    require_distinct_names(made)
    return made


def _kinds(
    graph: LayerGraph, told: list[Region], floor: sympy.Expr | None, fold: bool, quantities: tuple[Quantity, ...]
) -> Iterator[tuple[list[Region], sympy.Symbol | None, LayerGraph]]:
    """Group the regions about which the same lemma can be proved, keeping the order of first appearance."""
    groups: dict[Any, list[Region]] = {}
    kinds: dict[Any, Any] = {}
    configurations = [_configuration(graph, region) for region in told]
    different = dict(zip(configurations, told, strict=True))
    alike = Counter(_types(graph, region) for region in different.values())
    for region, config in zip(told, configurations, strict=True):
        if config not in kinds:
            unique = alike[_types(graph, region)] == 1  # nothing to compare it with
            kinds[config] = config if unique else _structure(graph, region, floor, fold, quantities)
        groups.setdefault(kinds[config], []).append(region)
    for group in groups.values():
        first = group[0]
        layer = graph.layer(first.members[0])
        if isinstance(layer, Repeat):
            yield group, layer.index, layer.body
        else:
            yield group, INDEX if len(group) > 1 else None, graph.fragment(first.entry, first.members)


def _types(graph: LayerGraph, region: Region) -> tuple[type, ...]:
    return tuple(type(graph.layer(m)) for m in region.members)


def _configuration(graph: LayerGraph, region: Region) -> Any:
    """Everything about a region but its names: layers, shapes and who reads whom."""
    position = {name: k for k, name in enumerate((region.entry, *region.members))}
    return graph.shapes[region.entry], tuple(
        (graph.layer(m), tuple(position[s] for s in graph.inputs(m))) for m in region.members
    )


def _structure(
    graph: LayerGraph, region: Region, floor: sympy.Expr | None, fold: bool, quantities: tuple[Quantity, ...]
) -> Any:
    """What a lemma about the region says, with nodes named by position; sizes matter only where the claims do."""
    layer = graph.layer(region.members[0])
    if isinstance(layer, Repeat):
        return region
    body = graph.fragment(region.entry, region.members, tuple(str(k) for k in range(len(region.members))))
    try:
        block = _concluded(body, floor, fold, quantities)
    except FimTheoryError as error:
        raise _with_names(error, graph, region, floor, fold, quantities) from None
    return _types(graph, region), tuple(block.steps)


def _with_names(
    error: FimTheoryError,
    graph: LayerGraph,
    region: Region,
    floor: sympy.Expr | None,
    fold: bool,
    quantities: tuple[Quantity, ...],
) -> FimTheoryError:
    """Return the error once more, with the names that the nodes have in the graph."""
    if "x" not in region.members:
        try:
            _concluded(graph.fragment(region.entry, region.members, region.members), floor, fold, quantities)
        except FimTheoryError as named:
            return named
    return error


def _concluded(body: LayerGraph, floor: sympy.Expr | None, fold: bool, quantities: tuple[Quantity, ...]) -> BlockSteps:
    block = BlockSteps(body, "", INDEX, floor, fold=fold)
    for quantity in quantities:
        block.conclude(quantity)
    return block


def _letters() -> Iterator[str]:
    single = "abfghkmpqrstuwyz"
    yield from single
    number = 2
    while True:
        yield from (f"{letter}{number}" for letter in single)
        number += 1


def _title(graph: LayerGraph, group: list[Region]) -> str:
    """Name of the first block, or of its first layer with random weights."""
    first = group[0]
    weighted = (member for member in first.members if symmetry_of(graph, member) is Symmetry.FRESH)
    return first.block or next(weighted, first.members[-1])


def _positive(value: Number, what: str) -> sympy.Expr:
    try:
        number = sympy.Rational(str(value)) if isinstance(value, float | int | str) else value
    except (TypeError, ValueError, ZeroDivisionError):
        number = None
    if not isinstance(number, sympy.Expr) or not number.is_positive:
        raise AssumptionError(f"{what} must be a positive number or a positive sympy expression, got {value!r}")
    return number
