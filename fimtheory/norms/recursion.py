"""Worst case over the slopes of a dense chain: LipSDP by a recursion in closed form, certified, and its head form."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fimtheory.errors import ShapeError
from fimtheory.norms.certified import CertifiedNorm, unscaled, zero_norm
from fimtheory.norms.matrices import batch_norm_bound
from fimtheory.norms.multipliers import Layer, optimised
from fimtheory.norms.reach import Reach, largest_difference, largest_eigenvalue
from fimtheory.norms.rounding import UNDERFLOW, up
from fimtheory.norms.rows import row_diameter
from fimtheory.norms.scaling import ScaledRows, exact_float64, scale_rows
from fimtheory.norms.slopes import SlopeInterval, Slopes, scaled_slopes

__all__ = ["STEPS", "chain", "chain_head"]

STEPS = 120
"""Descent steps on the multipliers: on trained networks within about one in a thousand of the optimum."""

Bound = tuple[float, int, str]
"""A value, its binary exponent and its method."""


def chain(weights: Sequence[Tensor], slopes: Sequence[SlopeInterval], *, steps: int = STEPS) -> CertifiedNorm:
    """Largest norm of ``W_m D_{m-1} W_{m-1} ... D_1 W_1`` over all diagonal D_i with entries in [a_i, b_i].

    Status: certified.  By the mean value theorem also the Lipschitz constant of the network with these weights and
    any activations with these slopes.  Never above the product of the certified norms and of the largest slopes.

    Proof.  `reach` proves M M^T <= P for M = D_{m-1} W_{m-1} ... D_1 W_1 and every admissible D, so the squared norm
    is at most the largest eigenvalue of W_m P W_m^T, which `spectrum` bounds.  The multipliers come from `multipliers`
    and need no proof.

    Parameters
    ----------
    weights
        W_1, ..., W_m: matrices of any floating dtype, converted exactly; W_i has as many columns as W_{i-1} has rows.
    slopes
        The m - 1 slope intervals: numbers, or vectors with one entry per neuron, of any signs.
    steps
        Descent steps on the multipliers; 0 keeps the ones of the closed form.

    Raises
    ------
    ShapeError
        The weights or the slopes do not fit together.
    NonFiniteError
        A weight or a slope is NaN or infinite, an interval is empty, or the bound is beyond float64.

    Notes
    -----
    Fazlyab, Robey, Hassani, Morari, Pappas, Efficient and accurate estimation of Lipschitz constants for deep neural
    networks, NeurIPS 2019; Xu, Sivaranjani, ECLipsE, NeurIPS 2024, for the recursion with slopes in [0, 1].

    >>> first, last = torch.tensor([[1.0, 1.0], [1.0, -1.0]]), torch.tensor([[1.0, 1.0]])
    >>> bound = chain([first, last], [(0.0, 1.0)])
    >>> 2.0 <= bound.upper <= 2.000001, bound.method  # the product of the norms: |(1, 1)| sqrt(2) = 2
    (True, 'product')
    """
    return _bound(weights, slopes, steps, head=False)


def chain_head(weights: Sequence[Tensor], slopes: Sequence[SlopeInterval], *, steps: int = STEPS) -> CertifiedNorm:
    """Largest norm of ``(w_i - w_j)^T D_{m-1} W_{m-1} ... D_1 W_1`` over D as for `chain` and rows w_i, w_j of W_m.

    Status: certified.  The spectral norm lam of the input Fisher information of the network with logits W_m g(x) + b
    is at most a quarter of its square, at every x (Popoviciu's inequality for the variance of the gradient).  Never
    above the largest distance of two rows times the product of the other norms and of the largest slopes.

    Proof.  As for `chain`: the squared norm is at most (w_i - w_j)^T P (w_i - w_j); see `largest_difference`.

    Parameters, errors and references are those of `chain`; W_m needs two rows at least.

    >>> bound = chain_head([torch.eye(2), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])], [(0.0, 1.0)])
    >>> 2.0 <= bound.upper <= 2.000001
    True
    """
    return _bound(weights, slopes, steps, head=True)


def _bound(weights: Sequence[Tensor], slopes: Sequence[SlopeInterval], steps: int, *, head: bool) -> CertifiedNorm:
    """The smaller of the recursion and the product."""
    _require_fit(weights, slopes, head)
    scaled = [scale_rows(weight, None, f"weight {i + 1}") for i, weight in enumerate(weights)]
    intervals = [scaled_slopes(ends, len(weights[i]), f"layer {i + 1}") for i, ends in enumerate(slopes)]
    known = [interval for interval in intervals if interval is not None]
    if any(weight.values is None for weight in scaled) or len(known) < len(intervals):
        return zero_norm()
    if head and _rows_equal(weights[-1]):
        return zero_norm()
    norms = [_norm(weight) for weight in scaled[:-1]]
    norms.append(_diameter(scaled[-1]) if head else _norm(scaled[-1]))
    bounds = [_product(norms, scaled, known)]
    if len(weights) > 1:
        recursion = _recursion(scaled, known, norms, steps, head)
        bounds += [] if recursion is None else [recursion]
    common = max(exponent for _, exponent, _ in bounds)
    value, exponent, method = min(bounds, key=lambda bound: math.ldexp(bound[0], max(bound[1] - common, -1000)))
    return unscaled(value, exponent, method)


def _require_fit(weights: Sequence[Tensor], slopes: Sequence[SlopeInterval], head: bool) -> None:
    if not weights or len(slopes) != len(weights) - 1:
        raise ShapeError(
            f"a chain of {len(weights)} weights needs {len(weights) - 1} slope intervals, got {len(slopes)}"
        )
    for i, weight in enumerate(weights):
        if weight.dim() != 2 or weight.numel() == 0:
            raise ShapeError(f"weight {i + 1} has shape {tuple(weight.shape)}; a chain is made of matrices")
        if i > 0 and weight.shape[1] != len(weights[i - 1]):
            raise ShapeError(f"weight {i + 1} has {weight.shape[1]} columns, weight {i} has {len(weights[i - 1])} rows")
    if head and len(weights[-1]) < 2:
        raise ShapeError("a head needs two rows at least: with one class there is nothing to tell apart")


def _rows_equal(weight: Tensor) -> bool:
    patterns = exact_float64(weight, "the last weight").contiguous().view(torch.int64)
    return bool((patterns == patterns[0]).all())


def _norm(weight: ScaledRows) -> float:
    """Norm of a weight, in units of its 2^exponent."""
    assert weight.values is not None
    bound = batch_norm_bound(weight.values[None])
    return weight.outward(bound.value, bound.magnitude)


def _diameter(weight: ScaledRows) -> float:
    """Largest distance of two rows of a weight, in units of its 2^exponent."""
    assert weight.values is not None
    value = row_diameter(weight.values).upper
    return weight.outward(value, value)


def _product(norms: Sequence[float], weights: Sequence[ScaledRows], slopes: Sequence[Slopes]) -> Bound:
    """Product of the norms and the largest slopes: multiplied as mantissas, so that only the end can overflow."""
    factors = [(norm, weight.exponent) for norm, weight in zip(norms, weights, strict=True)]
    factors += [(interval.largest, interval.exponent) for interval in slopes]
    value, exponent = 1.0, 0
    for factor, shift in factors:
        value, carried = math.frexp(up(value * factor))
        exponent += shift + carried
    return value, exponent, "product"


def _recursion(
    weights: Sequence[ScaledRows], slopes: Sequence[Slopes], norms: Sequence[float], steps: int, head: bool
) -> Bound | None:
    """Bound by `reach`: with the descended multipliers, or where rounding spoils these with the closed form's."""
    values = [weight.values / norm for weight, norm in zip(weights, norms, strict=True) if weight.values is not None]
    last = values[-1] - values[-1][0] if head else values[-1]
    layers = [Layer(value, interval) for value, interval in zip(values[:-1], slopes, strict=True)]
    for count in sorted({max(steps, 0), 0}, reverse=True):
        multipliers = optimised(layers, last, head=head, steps=count)
        reach = None if multipliers is None else _reach(weights[:-1], slopes, multipliers)
        if reach is None:
            continue
        if head:
            squared, exponent = largest_difference(reach, weights[-1])
        else:
            gram = reach.through(weights[-1])
            squared, exponent = largest_eigenvalue(gram), gram.exponent
        if exponent % 2 == 1:
            squared, exponent = 2.0 * squared, exponent - 1
        method = f"recursion, {'descended' if count > 0 else 'uniform'} multipliers"
        return up(math.sqrt(up(squared + UNDERFLOW))), exponent // 2, method
    return None


def _reach(weights: Sequence[ScaledRows], slopes: Sequence[Slopes], multipliers: Sequence[Tensor]) -> Reach | None:
    """Certified reach of D_{m-1} W_{m-1} ... D_1 W_1, or None if a factorisation fails."""
    assert weights[0].values is not None
    reach = Reach.whole(weights[0].values.shape[1])
    for weight, interval, relative in zip(weights, slopes, multipliers, strict=True):
        after = reach.through(weight).after(interval, relative)
        if after is None:
            return None
        reach = after
    return reach
