"""A layer by itself: what its rules claim, in numbers, and the torch module to hold the claims against."""

from __future__ import annotations

import torch

import fimtheory as ft
from fimtheory import layers
from fimtheory.balls import ball, evaluated
from fimtheory.claims import Quantity
from fimtheory.measures import Place, measured_value
from fimtheory.registry import find_measure, find_rule

SLACK = 1 + 1e-12
"""Relative rounding of the float64 truths."""


def site_of(layer, shape, **context):
    return ft.Site.of(layer, inputs=(shape,), node="f", **context)


def claim_of(quantity, layer, shape, **context):
    return find_rule((type(layer),), quantity).function(site_of(layer, shape, **context))


def value_of(claim, layer, shape, tensors=None, known=()):
    """Upper value of a claim, from the certified measures of the layer's tensors."""
    values = {symbol: ball(number) for symbol, number in known}
    for each in claim.measured:
        found, _ = measured_value(each.kind, Place((layer,), (tensors or {},), shape, ("f",)))
        values[each.symbol] = found if find_measure(each.kind).exact else found.abs_upper()
    return float(evaluated(claim.expression, values).abs_upper())


def gain_of(layer, shape, tensors=None, known=(), **context):
    return value_of(claim_of(Quantity.GAIN, layer, shape, **context), layer, shape, tensors, known)


def graph_of(*chain, shape):
    builder = ft.Builder("chain")
    here = builder.add("x", layers.Input(shape))
    for number, layer in enumerate(chain):
        here = builder.add(f"n{number}", layer, here)
    return builder.graph()


def module_of(*chain, shape, weights=None, seed=0):
    graph = graph_of(*chain, shape=shape)
    return ft.instantiate(graph, seed, weights, dtype=torch.float64)
