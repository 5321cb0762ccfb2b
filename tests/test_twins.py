"""A built-in family and torchvision's model of the same name, imported, have the same theorem and the same number."""

from __future__ import annotations

import pytest
import torch
import torchvision

import fimtheory as ft

CASES = ["vgg11_bn", "resnet18", "resnet50", "densenet121", "convnext_tiny"]
SHAPE = (3, 32, 32)


def twins(name):
    module = filled(getattr(torchvision.models, name)(weights=None, num_classes=10).eval())
    imported = ft.from_torch(module, torch.zeros(1, *SHAPE))
    return ft.families.PRESETS[name].build(classes=10, input_shape=SHAPE), module, imported


def filled(module):
    """Give every tensor random entries: a batch norm that is the identity, or a head of zeros, would hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    for key, value in module.state_dict().items():
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator)
            value.copy_(0.5 + noise if key.endswith(("running_var", "norm.weight")) else value + 0.05 * (noise - 0.5))
    return module


def bound_of(graph, weights):
    derivation = ft.derive(graph)
    ft.check(derivation)
    return ft.evaluate(derivation, weights).log10


@pytest.mark.parametrize("name", CASES)
def test_presets_and_imported_twins_measure_the_same(name):
    preset, _, imported = twins(name)
    assert imported.difference is not None
    assert imported.difference.float64 <= 1e-12
    one, other = ([each.kind for each in ft.derive(graph).theorem.measured] for graph in (preset, imported))
    assert one == other


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_presets_and_imported_twins_have_the_same_bound(name):
    preset, module, imported = twins(name)
    assert bound_of(preset, module) == pytest.approx(bound_of(imported, imported.weights), abs=4e-10)


def test_a_vision_transformer_and_its_imported_twin_have_the_same_bound():
    module = torchvision.models.VisionTransformer(32, 8, 2, 4, 64, 128, num_classes=10).eval()
    preset = ft.families.transformer(
        2, dim=64, heads=4, mlp_dim=128, patch=8, classes=10, input_shape=(3, 32, 32), name="vit"
    )
    imported = ft.from_torch(filled(module), torch.zeros(1, 3, 32, 32))
    assert [type(node.layer).__name__ for node in imported.nodes].count("MultiHeadSelfAttention") == 2
    assert bound_of(preset, module) == pytest.approx(bound_of(imported, imported.weights), abs=4e-10)
