"""The domain of a theorem that assumes a least token variance: the inputs at which every norm layer gets it.

Whether an input lies there is read off the model's own values.  They are rounded, so a margin is asked for that is far
above rounding: an input admitted here is one for which the theorem was claimed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fimtheory.claims import Quantity
from fimtheory.derivation import Derivation
from fimtheory.domains import Inside
from fimtheory.errors import AssumptionError, DataError
from fimtheory.instantiation import GraphModule
from fimtheory.layers import LayerNorm, RMSNorm
from fimtheory.registry import rule_named

__all__ = ["admits_variance", "least_spread", "require_variance"]

_MARGIN = 1e-3
_SPREADS: dict[type, Callable[[Tensor], Tensor]] = {
    LayerNorm: lambda x: x.var(-1, correction=0),
    RMSNorm: lambda x: x.square().mean(-1),
}
"""What a theorem assumes of the tokens that enter a norm, by the norm's type."""


def least_spread(model: GraphModule, x: Tensor) -> Tensor:
    """Return the least variance (RMS norms: mean square) of a token that enters a norm, ``(B,)``.

    Examples
    --------
    >>> from fimtheory.families import transformer
    >>> from fimtheory.instantiation import instantiate
    >>> graph = transformer(1, dim=8, heads=2, mlp_dim=8, patch=2, classes=3, input_shape=(1, 4, 4))
    >>> bool((least_spread(instantiate(graph), torch.rand(5, 1, 4, 4)) > 0).all())
    True
    """
    graph = model.graph
    readers: dict[str, set[type]] = {}
    for name in graph.order:
        kind = type(graph.layer(name))
        if kind in _SPREADS:
            readers.setdefault(graph.inputs(name)[0], set()).add(kind)
    least = torch.full((len(x),), math.inf, dtype=x.dtype, device=x.device)
    with torch.no_grad():
        for name, value in model.values(x):
            for kind in readers.get(name, ()):
                least = torch.minimum(least, _SPREADS[kind](value).flatten(1).amin(1))
    return least


def admits_variance(derivation: Derivation) -> Inside | None:
    """Return which inputs lie in the domain of a theorem; None where it assumes no token variance.

    Raises
    ------
    AssumptionError
        The variance is a symbol, or a layer of a type not known here has conditions of its own.
    """
    floor = derivation.token_variance
    if floor is None:
        return None
    if not floor.is_number:
        raise AssumptionError(f"the token variance is {floor}; which inputs have it can only be said of a number")
    for step in derivation.steps:
        rule = rule_named(step.rule)
        if rule is None or step.quantity is not Quantity.GAIN or not step.claim.conditions:
            continue
        if rule.types[0] not in _SPREADS:  # a run's conditions are about what enters its first layer
            raise AssumptionError(
                f"node {step.target}: the gain of {', '.join(kind.__name__ for kind in rule.types)} has conditions for "
                "which no test of an input is known; verify without a token variance"
            )
    least = float(floor) * (1 + _MARGIN)
    return lambda model, x: least_spread(model, x) >= least


def require_variance(derivation: Derivation, model: GraphModule, data: Tensor) -> None:
    """Refuse data outside of a theorem's domain.

    Raises
    ------
    DataError
        The message says how many inputs lie outside, and the variance they have.
    """
    admits = admits_variance(derivation)
    if admits is None:
        return
    outside = int((~admits(model, data)).sum())
    if outside:
        raise DataError(
            f"{outside} of {len(data)} inputs lie outside of the theorem's domain: a token of variance "
            f"{least_spread(model, data).min().item():.3g} enters a norm layer, but at least "
            f"{derivation.token_variance} is assumed; assume a smaller token variance, or give other data"
        )
