"""What a rule claims, against what is found: dense Jacobians, difference quotients and values, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import sympy
import torch
from flint import arb
from torch import Tensor

from fimtheory.balls import ball, evaluated
from fimtheory.claims import VALUE_BOUNDS, Claim, Quantity, Relation
from fimtheory.expressions import nonnegative
from fimtheory.properties.cases import Case, Found, NotApplicableError, upper
from fimtheory.properties.truths import batched_jacobians, rounding, spectral_norms
from fimtheory.strategies import INPUT_STYLES, input_in_style

__all__ = ["ROUNDING", "TIGHT", "size_of", "sound"]

ROUNDING = 1e-9
"""Relative rounding allowed to float64 values that a claim is compared with."""
_CANCELLATION = 1e-12
"""Rounding allowed relative to the largest weight: what is left where everything cancels."""
TIGHT = 0.9
"""How much of an exact gain the search must reach."""
_LINEAR = 0.5
"""How much of it a linear layer must reach in every case: certified norms of large kernels are a little above."""
_FAR = 1e3
"""Factor of inputs that are so large that no eps matters beside them."""
_ROUNDS = 2
_STEPS = (1.0, 0.3, 0.1, 0.03)


def sound(case: Case) -> Found:
    """Nothing found exceeds the claim.

    A gain is at least the norm of the dense Jacobian at random, adversarial and ascended inputs, and every difference
    quotient between them; a bound on values at least every value; an interval of slopes contains every derivative.
    Premises are what the inputs themselves have.

    Raises
    ------
    PropertyError
        Something exceeds it.
    NotApplicableError
        The rule claims something else, or every input overflows.
    """
    quantity = case.registered.quantity
    if quantity is Quantity.JACOBIAN_VARIANCE:
        raise NotApplicableError("the claim is about a mean over random weights, see expected_matches_sampling")
    _require_shape(case)
    if quantity in VALUE_BOUNDS:
        return _values(case)
    if quantity is Quantity.SLOPES:
        return _slopes(case)
    if quantity is not Quantity.GAIN:
        raise NotApplicableError(f"the {quantity} bounds neither a value nor a derivative at an input")
    return _gain(case)


# ---- gains ------------------------------------------------------------------------------------------------------


def _gain(case: Case) -> Found:
    claim, bounds_of = _claimed(case)
    maps = _common(case)
    inputs, best, worst = [torch.cat([x, _FAR * x[:1]]) for x in _start(case)], -1.0, (math.nan, math.nan)
    for number in range(_ROUNDS + 1):
        found = _norms(case, inputs, maps)
        usable = found.isfinite()
        if case.token_variance is not None:
            usable &= inputs[0].var(-1, correction=0).reshape(len(found), -1).amin(1) >= case.token_variance
        ratios, sizes = torch.full_like(found, -1.0), _sizes(case, inputs)
        bounds, estimates = bounds_of(sizes), found.tolist()
        for k in usable.nonzero().flatten().tolist():
            bound, estimate = bounds[k], estimates[k]
            off = 0.0
            if estimate > bound and len(case.layers) > 1:
                off = rounding(case.functions(case.tensors), inputs[0][k : k + 1])
            _compare(case, "the norm of the Jacobian exceeds the gain", bound, estimate, off)
            ratios[k] = estimate / bound if bound > 0 and math.isfinite(bound) else 0.0
            if ratios[k] > best:
                best, worst = ratios[k].item(), (bound, estimate)
        if not maps and case.token_variance is None:  # domains must be convex
            _quotients(case, inputs[0], sizes, bounds_of, usable)
        if not case.joint and _is_affine(case, inputs[0][usable]):
            if number == 0:  # later inputs are near one another
                _require_attained(case, claim, *worst)
            break  # the Jacobian is the same everywhere
        inputs = _ascend(case, inputs, ratios)
    if best < 0:
        raise NotApplicableError("the Jacobian is not finite at any input that was tried, or no input is admitted")
    return Found(best if worst[0] > 0 else None, claim.relation)


def _is_affine(case: Case, x: Tensor) -> bool:
    """Whether the map takes the middle of every two inputs that follow one another to the middle of their values."""
    if len(x) < 2:
        return False
    x = torch.cat([x, -_FAR * x])  # beyond a flat part, where they were on one
    y, middle = case.forward(x), case.forward((x + x.roll(1, 0)) / 2)
    size = (y.abs() + y.roll(1, 0).abs()).flatten(1).amax(1)
    apart = (middle - (y + y.roll(1, 0)) / 2).abs().flatten(1).amax(1)
    return bool((apart <= ROUNDING * size).all())


def _require_attained(case: Case, claim: Claim, bound: float, estimate: float) -> None:
    """Of an affine map a claim that is an equality must be attained in every case, not in some."""
    if claim.relation is Relation.EQ and estimate < _LINEAR * bound < math.inf and not case.is_tiny(claim):
        case.fail("sound", "the Jacobian is the same everywhere, and its norm is below the equality", bound, estimate)


def _sizes(case: Case, inputs: list[Tensor]) -> Tensor:
    """Return for each input of a batch what the premises of the rule bound, premise by premise."""
    needs = case.registered.needs
    sizes = [size_of(need.quantity, inputs[need.slot]).detach() for need in needs]
    return torch.stack(sizes, 1) if sizes else torch.zeros(len(inputs[0]), 0)


def _claimed(case: Case) -> tuple[Claim, Callable[[Tensor], list[float]]]:
    """Return the claim, and its values as a function of what `_sizes` gives."""
    rule = case.registered
    premises = tuple(nonnegative(f"p{k}") for k in range(len(rule.needs)))
    maps = _common(case)
    gains = tuple(nonnegative(f"g{k}") for k in range(len(maps)))
    claim = rule.claim(case.site(premises=premises, gains=gains))
    values = case.measured(claim) | {g: ball(_norm(a)) for g, a in zip(gains, maps, strict=True)}
    if not rule.needs:
        constant = upper(claim.expression, values)
        return claim, lambda sizes: [constant] * len(sizes)
    return claim, lambda sizes: [
        upper(claim.expression, values | dict(zip(premises, map(ball, row), strict=True))) for row in sizes.tolist()
    ]


def _common(case: Case) -> list[Tensor]:
    """Linear maps from a common node to each input of a layer of several; none for a layer of one."""
    if not case.joint:
        return []
    generator = case.generator()
    entries = [math.prod(int(n) for n in shape) for shape in case.inputs]
    made = []
    for number, n in enumerate(entries):
        a = torch.randn(n, max(entries), generator=generator, dtype=torch.float64)
        if case.seed % 2 == 0:  # the same map, up to size, where most bounds are nearly attained
            a = torch.eye(n, max(entries), dtype=torch.float64) * (1 + number)
        made.append(a)
    return made


def _norms(case: Case, inputs: list[Tensor], maps: list[Tensor]) -> Tensor:
    jacobians = batched_jacobians(case.forward, inputs)
    if maps:
        return spectral_norms(sum((j @ a for j, a in zip(jacobians, maps, strict=True)), torch.zeros(())))
    return spectral_norms(jacobians[0])


def _quotients(
    case: Case, x: Tensor, sizes: Tensor, bounds_of: Callable[[Tensor], list[float]], usable: Tensor
) -> None:
    """Compare the gain with difference quotients between each input and the one before."""
    x, sizes = x[usable], sizes[usable]
    if len(x) < 2:
        return
    y = case.forward(x).flatten(1)
    distance = (x - x.roll(1, 0)).flatten(1).norm(dim=1)
    change = (y - y.roll(1, 0)).norm(dim=1)
    norms = y.norm(dim=1)
    quotients, off = change / distance, 1e-14 * (norms + norms.roll(1)) / distance
    told = ((distance > 0) & change.isfinite()).nonzero().flatten()
    bounds = bounds_of(torch.maximum(sizes, sizes.roll(1, 0))[told])
    for bound, quotient, allowed in zip(bounds, quotients[told].tolist(), off[told].tolist(), strict=True):
        _compare(case, "a difference quotient exceeds the gain", bound, quotient, allowed)


def _require_shape(case: Case) -> None:
    made = tuple(case.forward(*_start(case)).shape[1:])
    if made != case.sites[-1].output:
        case.fail("sound", f"the shape rule says {case.sites[-1].output}, but the output has shape {made}")


def _start(case: Case) -> list[Tensor]:
    generator = case.generator()
    return [
        torch.stack([input_in_style(_ints(shape), style, generator) for style in (*INPUT_STYLES, "normal")])
        for shape in case.inputs
    ]


def _ascend(case: Case, inputs: list[Tensor], ratios: Tensor) -> list[Tensor]:
    """Steps of several sizes from the two best inputs: no derivative is needed, so kinks do no harm."""
    best = ratios.topk(min(2, len(ratios))).indices
    generator = torch.Generator().manual_seed(case.seed + int(best[0]) + 2)
    made = []
    for x in inputs:
        start = x[best].repeat_interleave(len(_STEPS), 0)
        step = torch.tensor(_STEPS * len(best), dtype=x.dtype).view(-1, *(1,) * (x.ndim - 1))
        size = 0.1 + start.abs().flatten(1).mean(1).view(step.shape)
        random = torch.randn(start.shape, generator=generator, dtype=x.dtype)
        made.append(torch.cat([x[best], start + step * size * random]))
    return made


# ---- values and slopes ------------------------------------------------------------------------------------------


def size_of(quantity: Quantity, values: Tensor) -> Tensor:
    """Return what a bound on values bounds, for each value of a batch."""
    if quantity is Quantity.ENTRY_BOUND:
        return values.flatten(1).abs().amax(1)
    if quantity is Quantity.TOKEN_NORM:
        return values.norm(dim=-1).reshape(len(values), -1).amax(1)
    return values.flatten(1).norm(dim=1)


def _values(case: Case) -> Found:
    claim, bounds_of = _claimed(case)
    inputs = _start(case)
    inputs = [torch.cat([x, _FAR * x[:2]]) for x in inputs]
    found = size_of(case.registered.quantity, case.forward(*inputs))
    best = -1.0
    for bound, value in zip(bounds_of(_sizes(case, inputs)), found.tolist(), strict=True):
        if math.isfinite(value):
            _compare(case, f"the {case.registered.quantity} is exceeded", bound, value)
            best = max(best, value / bound if bound > 0 else 0.0)
    if best < 0:
        raise NotApplicableError("every value overflows")
    return Found(best, claim.relation)


def _slopes(case: Case) -> Found:
    claim = case.registered.claim(case.site())
    ends: Any = claim.expression
    values = case.measured(claim)
    low, high = (evaluated(end, values) for end in ends)
    (x,) = _start(case)
    x = torch.cat([x, x * 3, x * 0.3, torch.linspace(-5, 5, 4 * x[0].numel()).to(x).reshape(4, *x.shape[1:])])
    x.requires_grad_()
    (slope,) = torch.autograd.grad(case.forward(x).sum(), x, allow_unused=True, materialize_grads=True)
    slope = slope[slope.isfinite()]
    if not slope.numel():
        raise NotApplicableError("every derivative overflows")
    least, most = slope.min().item(), slope.max().item()
    bottom, top = float(arb(low.lower())), float(arb(high.upper()))
    allowed = 1e-12 * max(1.0, abs(bottom), abs(top))
    if not most <= top + allowed:
        case.fail("sound", "a derivative is above the interval of slopes", top, most)
    if not least >= bottom - allowed:
        case.fail("sound", "a derivative is below the interval of slopes", bottom, least)
    widest = max(abs(bottom), abs(top))
    return Found(max(abs(least), abs(most)) / widest if widest else None, claim.relation)


# ---- comparing --------------------------------------------------------------------------------------------------


def _compare(case: Case, cause: str, bound: float, estimate: float, off: float = 0.0) -> None:
    if estimate <= bound:  # and a bound that is no number bounds nothing
        return
    largest = max((t.abs().max().item() for held in case.tensors for t in held.values() if t.numel()), default=1.0)
    allowed = _CANCELLATION * largest if math.isfinite(largest) else 0.0
    if not estimate <= bound * (1 + ROUNDING) + allowed + off:
        case.fail("sound", cause, bound, estimate)


def _norm(matrix: Tensor) -> float:
    return spectral_norms(matrix[None])[0].item() * (1 + 1e-12)


def _ints(shape: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(int(sympy.sympify(size)) for size in shape)
