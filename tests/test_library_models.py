"""Models of timm and transformers, as their libraries make them: imported, bounded, and not exceeded."""

from __future__ import annotations

import math

import pytest
import torch
from coverage_models import build

import fimtheory as ft

INPUT_BOUND = 1.0
"""Largest entry of inputs where a theorem assumes bounded values; what is tried lies inside."""

NAMES = [
    *(f"transformers:{family}" for family in ("ViT", "Swinv2", "ResNet", "Bert", "Deberta", "Llama", "GPT2")),
    *(f"timm:{name}" for name in ("levit_128s", "poolformerv2_s12", "mobilenetv3_small_050")),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_library_model_is_imported_and_not_exceeded(name):
    module, example, arguments = build(name)
    graph = ft.from_torch(module, example, **arguments)
    assert graph.difference is not None
    assert graph.difference.float64 <= 1e-12
    assert graph.difference.float32 <= 1e-5
    derivation = ft.derive(graph)
    ft.check(derivation)
    try:
        bound = ft.evaluate(derivation, graph.weights)
    except ft.errors.AssumptionError:
        bound = ft.evaluate(derivation, graph.weights, input_bound=INPUT_BOUND)
    assert math.isfinite(bound.log10)
    x = torch.rand(1, *graph.shapes[graph.input], dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = ft.estimate(graph.model(torch.float64), INPUT_BOUND * (2 * x - 1), method="lanczos")
    assert float(found.lower[0]) > 0
    assert math.log10(float(found.lower[0])) <= bound.log10
