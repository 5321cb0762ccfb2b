"""Properties of a claim's closed form: monotone, homogeneous, and the same with symbols as with numbers."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import sympy
import torch

from fimtheory.balls import evaluated
from fimtheory.claims import Claim, Quantity, Relation
from fimtheory.ensemble import Initial
from fimtheory.errors import FimTheoryError
from fimtheory.expressions import nonnegative, size_symbol
from fimtheory.layers import Layer, Shape
from fimtheory.monotone import Direction, direction
from fimtheory.properties.cases import Case, Found, NotApplicableError, upper
from fimtheory.properties.truths import batched_jacobians
from fimtheory.registry import Site, find_measure, require_rule

__all__ = ["monotone", "scales", "symbolic_equals_numeric"]

_FACTOR = 4.0
"""A power of two, so that scaled weights are exact."""
_AGREEMENT = 1e-9


def monotone(case: Case) -> Found:
    """The claim does not decrease in measured numbers or premises, by a proof that the kernel finds as well.

    Measures and premises are known from above only; a claim that decreases in one would be no bound.

    Raises
    ------
    PropertyError
        It decreases, or no proof that it does not is found.
    NotApplicableError
        The claim is an interval.
    """
    if case.registered.quantity is Quantity.SLOPES:
        raise NotApplicableError("an interval of slopes has no measured numbers or premises")
    claim, symbols = _symbolic(case)
    moving = {each.symbol for each in claim.measured if not find_measure(each.kind).exact} | set(symbols)
    found = direction(claim.expression, moving)
    if found is Direction.DOWN:
        case.fail("monotone", f"{claim.expression} decreases in a number that is known from above only")
    if found is Direction.UNKNOWN:
        case.fail("monotone", f"no proof that {claim.expression} is nondecreasing in what is known from above only")
    return Found()


def scales(case: Case) -> Found:
    """A layer that is linear in its first weight has a gain that is homogeneous in it, where the claim is an equality.

    Raises
    ------
    PropertyError
        Four times the weight gives four times the Jacobian, but not four times the claim.
    NotApplicableError
        The claim is not an exact gain, or the layer is not linear in its first weight.
    """
    if case.registered.quantity is not Quantity.GAIN or case.joint or case.registered.needs:
        raise NotApplicableError("the claim is not a gain by itself")
    claim = case.registered.claim(case.site())
    if claim.relation is not Relation.EQ:
        raise NotApplicableError("the claim is not an equality, and an upper bound need not be homogeneous")
    place = next(((k, p.name) for k, site in enumerate(case.sites) for p in _weights(site)), None)
    if place is None:
        raise NotApplicableError("the layer has no weights")
    number, key = place
    scaled = tuple(
        {name: t * _FACTOR if (k, name) == (number, key) else t for name, t in held.items()}
        for k, held in enumerate(case.tensors)
    )
    x = torch.randn(2, *map(int, case.inputs[0]), generator=case.generator(), dtype=torch.float64)
    (usual,), (larger,) = (batched_jacobians(lambda v, t=t: case.computed(t, v), [x]) for t in (case.tensors, scaled))
    allowed = _AGREEMENT * usual.abs().max() * _FACTOR
    if not usual.isfinite().all() or usual.abs().max() == 0 or (larger - _FACTOR * usual).abs().max() > allowed:
        raise NotApplicableError("the layer is not linear in its first weight, or its Jacobian is zero or overflows")
    if case.is_tiny(claim):
        raise NotApplicableError("no norm is told below the smallest normal number, however small the weight")
    before, after = (upper(claim.expression, case.measured(claim, held)) for held in (case.tensors, scaled))
    if abs(after - _FACTOR * before) > _AGREEMENT * abs(after):
        case.fail("scales", "four times the weight gives four times the Jacobian but another claim", 4 * before, after)
    return Found()


def symbolic_equals_numeric(case: Case) -> Found:
    """The claim for symbolic sizes, with numbers put in, is the claim for these numbers.

    A rule may know less of a symbol than of a number: an inequality may then be larger, but never smaller.

    Raises
    ------
    PropertyError
        It is smaller, or an equality is another.
    NotApplicableError
        There is no size that may be a symbol, or the rule asks for numbers.
    """
    numbers: dict[sympy.Symbol, int] = {}
    layers = tuple(_with_symbols(layer, numbers) for layer in case.layers)
    inputs = tuple(_symbols(shape, numbers) for shape in case.inputs)
    if not numbers:
        raise NotApplicableError("there is no size that may be a symbol")
    try:
        general, _ = _symbolic(case, layers, inputs)
    except FimTheoryError as error:
        raise NotApplicableError(f"the rule asks for numbers: {error}") from None
    special, symbols = _symbolic(case)
    values = case.measured(special) | {symbol: evaluated(sympy.Rational(3, 2), {}) for symbol in symbols}
    put_in = general.expression.subs({symbol: sympy.Integer(n) for symbol, n in numbers.items()})
    pairs = zip(_parts(put_in), _parts(special.expression), strict=True)
    for made, known in ((upper(a, values), upper(b, values)) for a, b in pairs):
        exact = general.relation is special.relation is Relation.EQ
        if made < known * (1 - _AGREEMENT) or (exact and made > known * (1 + _AGREEMENT)):
            case.fail(
                "symbolic_equals_numeric", f"{general.expression} is the claim for symbols, {special.expression} that "
                f"for the numbers {numbers}", known, made,
            )  # fmt: skip
    return Found()


# ---- helpers ----------------------------------------------------------------------------------------------------


def _symbolic(
    case: Case, layers: tuple[Layer, ...] | None = None, inputs: tuple[Shape, ...] | None = None
) -> tuple[Claim, tuple[sympy.Expr, ...]]:
    """Return the claim with symbols for premises and gains, and these symbols."""
    rule = case.registered
    premises = tuple(nonnegative(f"p{k}") for k in range(len(rule.needs)))
    gains = tuple(nonnegative(f"g{k}") for k in range(len(case.inputs) if case.joint else 0))
    floor = None if case.token_variance is None else sympy.Rational(case.token_variance)
    site = Site.of(
        *(layers or case.layers), inputs=inputs or case.inputs, premises=premises, gains=gains, token_variance=floor
    )
    return rule.claim(site), (*premises, *gains)


def _weights(site: Site) -> Any:
    parameters = require_rule(site.layer, Quantity.PARAMETERS, site.nodes[0]).function(site)
    return (p for p in parameters if p.initial in (Initial.WEIGHT, Initial.ONE))


def _symbols(shape: Shape, numbers: dict[sympy.Symbol, int]) -> Shape:
    """Return the shape with a symbol for each size above 1, the same for equal ones, and note their numbers."""
    made: list[Any] = []
    for size in shape:
        if isinstance(size, int) and size > 1:
            symbol = size_symbol(f"n{size}")
            numbers[symbol] = size
            made.append(symbol)
        else:
            made.append(size)
    return tuple(made)


def _with_symbols(layer: Any, numbers: dict[sympy.Symbol, int]) -> Any:
    changed = {}
    for field in fields(layer):
        value = getattr(layer, field.name)
        if field.type == "Size":
            (changed[field.name],) = _symbols((value,), numbers)
        elif field.type == "Shape":
            changed[field.name] = _symbols(value, numbers)
    return replace(layer, **changed) if changed else layer


def _parts(expression: Any) -> tuple[Any, ...]:
    return tuple(expression) if isinstance(expression, sympy.Tuple) else (expression,)
