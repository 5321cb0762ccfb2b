"""What a layer is said to do to signs, against what it computes with random initial weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

import torch
from torch import Tensor

from fimtheory import layers
from fimtheory.claims import Quantity
from fimtheory.ensemble import Initial
from fimtheory.graph import Builder
from fimtheory.instantiation import random_weights
from fimtheory.properties.cases import Case, Found, NotApplicableError
from fimtheory.properties.networks import activations
from fimtheory.strategies import parameters_of
from fimtheory.symmetry import Symmetry, symmetry_of

__all__ = ["symmetric"]

_CERTAIN = frozenset({Initial.ONE, Initial.MEAN, Initial.VARIANCE, Initial.COUNT, Initial.SLOPE, Initial.MASK})
"""Kinds of parameters whose initial sign is no matter of chance."""


def symmetric(case: Case) -> Found:
    """At initialisation an odd layer's output flips with its input, a fresh one's with some of its random weights.

    Raises
    ------
    PropertyError
        The output does not flip.
    NotApplicableError
        Nothing is claimed, the layer has several inputs, or the rule is not about the gain.
    """
    if case.registered.quantity is not Quantity.GAIN:
        raise NotApplicableError("the layer is tested with the rule of its gain")
    if case.joint:
        raise NotApplicableError("the symmetry of a layer of several inputs is not tested")
    shape = tuple(int(n) for n in case.inputs[0])
    builder = Builder("flipped")
    here = builder.add("x", layers.Input(shape))
    for layer, node in zip(case.layers, case.nodes, strict=True):
        here = builder.add(node, layer, here)
    graph = builder.graph()
    said = {symmetry_of(graph, node) for node in case.nodes}
    if Symmetry.BROKEN in said or len(said) > 1:
        raise NotApplicableError("nothing is claimed of its signs")
    weights = {key: t.double() if t.is_floating_point() else t for key, t in random_weights(graph, case.seed).items()}
    x = torch.randn(shape, generator=case.generator(), dtype=torch.float64)
    usual = activations(graph, weights, x)[here]
    if said == {Symmetry.ODD}:
        flipped = [activations(graph, weights, -x)[here]]
    else:
        chance = [key for key, parameter in parameters_of(graph) if parameter.initial not in _CERTAIN]
        flipped = [activations(graph, other, x)[here] for other in _flips(weights, chance)]
    if not any(torch.allclose(made, -usual, rtol=1e-9, atol=1e-12) for made in flipped):
        by = "its input" if said == {Symmetry.ODD} else "any of its random weights"
        case.fail("symmetric", f"its output does not flip with {by}")
    return Found()


def _flips(weights: Mapping[str, Tensor], chance: list[str]) -> Iterator[dict[str, Tensor]]:
    """Yield the weights with each set of the ``chance`` ones flipped, the largest set first."""
    for count in range(len(chance), 0, -1):
        for chosen in combinations(chance, count):
            yield {key: -t if key in chosen else t for key, t in weights.items()}
