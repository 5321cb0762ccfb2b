"""ConvNeXt against torchvision's, imported too, and its bound against the largest lam there is."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import ascend, jacobians, lam_from, log10_lam, outputs, random_networks
from torch import nn

import fimtheory as ft
from fimtheory.families import convnext

models = pytest.importorskip("torchvision.models")


@pytest.fixture
def twins():
    """A small model of torchvision's with random tensors, and the family's graph of the same sizes."""
    block = models.convnext.CNBlockConfig
    module = models.ConvNeXt([block(8, 12, 1), block(12, None, 2)], num_classes=4, layer_scale=1.0).eval()
    with torch.no_grad():
        for tensor in module.parameters():
            tensor += 0.3 * torch.randn_like(tensor)
    return module, convnext((1, 2), widths=(8, 12), classes=4, input_shape=(3, 20, 28))


def test_outputs_of_torchvision(twins):
    module, graph = twins
    x = torch.randn(3, 3, 20, 28)
    expected, given = module(x), ft.instantiate(graph, weights=module.state_dict())(x)
    assert expected.std(0).min() > 1e-2  # the comparison would prove nothing on constant logits
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)


def test_the_import_of_torchvision_is_the_same_graph(twins):
    module, graph = twins
    imported = ft.from_torch(module, torch.zeros(1, 3, 20, 28))
    assert imported.difference.float64 <= 1e-12
    told = []
    for one in (graph, imported):
        position = {name: k for k, name in enumerate(one.order)}
        told.append([(n.layer, [position[s] for s in n.inputs], one.shapes[n.name]) for n in one.nodes])
    assert told[0] == told[1]


def test_the_import_of_torchvision_has_the_same_bound(twins):
    module, graph = twins
    imported = ft.from_torch(module, torch.zeros(1, 3, 20, 28))
    one, other = ft.derive(graph), ft.derive(imported)
    ft.check(one)
    ft.check(other)
    assert ft.evaluate(one, module).log10 == pytest.approx(ft.evaluate(other, imported.weights).log10, abs=4e-10)


# ---- lam --------------------------------------------------------------------------------------------------------

SMALL = [
    pytest.param(convnext((1,), widths=(4,), patch=None, classes=3, input_shape=(4, 5, 6)), id="stage"),
    pytest.param(convnext((2,), widths=(4,), patch=None, classes=3, input_shape=(4, 5, 6)), id="two blocks"),
    pytest.param(convnext((1, 1), widths=(4, 6), patch=2, classes=3, input_shape=(2, 8, 8)), id="two stages"),
]


@pytest.mark.parametrize("graph", SMALL)
def test_nothing_found_exceeds_the_bound(graph):
    """Zero biases let a zero input through as zero, where every layer norm is as steep as it gets."""
    shape, derivation = graph.shapes[graph.input], ft.derive(graph)
    ft.check(derivation)
    for seed in range(3):
        module = ft.instantiate(graph, seed, dtype=torch.float64)
        bound = ft.evaluate(derivation, module).log10
        start = torch.randn(shape, dtype=torch.float64)
        ascended, _ = ascend(module, start, 20, torch.Generator().manual_seed(seed))
        steepest = log10_lam(module, torch.zeros(shape, dtype=torch.float64))
        assert max(ascended, steepest) <= bound
        assert bound - steepest < 7  # of 13, 21 and 33 decades


def test_the_mean_over_random_weights_is_below_the_expected_bound():
    """At a zero input, where every layer norm is as steep as it gets."""
    graph = convnext((1, 1), widths=(4, 6), patch=2, classes=3, input_shape=(2, 8, 8))
    bound = ft.evaluate(ft.derive(graph), ft.instantiate(graph)).expected_value
    networks, x = random_networks(graph, 300), torch.zeros(2, 8, 8, dtype=torch.float64)
    jac = jacobians(graph, networks, x, [graph.output])[graph.output]
    logits = outputs(graph, networks, x)
    found = torch.tensor([10 ** lam_from(j, z) for j, z in zip(jac, logits, strict=True)], dtype=torch.float64)
    assert found.mean() - 3 * found.std() / 300**0.5 <= bound
    assert bound < 10_000 * found.mean()  # of 32 decades


def test_the_bound_is_attained():
    """Aligned weights of rank one, scales not 1; biases put GELU at its steepest and keep a zero input zero."""
    graph = convnext((2,), widths=(4,), patch=None, classes=2, input_shape=(4, 3, 5))
    module = ft.instantiate(graph, dtype=torch.float64)
    channel = torch.tensor([0.5, -0.5, 0.5, -0.5])
    with torch.no_grad():
        for name, layer in module.named_modules():
            if name.endswith(("block.2", "classifier.0")):
                layer.weight.fill_(2)
            elif name.endswith("block.0"):
                layer.weight.zero_()[:, :, 3, 3] = 3
            elif name.endswith("block.3"):
                layer.weight.zero_()[0] = channel
                layer.bias.fill_(2**0.5)
            elif name.endswith("block.5"):
                layer.weight.zero_()[:, 0] = channel
                layer.bias.copy_(-layer.weight[:, 0] * nn.functional.gelu(torch.tensor(2.0).double().sqrt()))
        for k in (0, 1):
            module.get_parameter(f"features.1.{k}.layer_scale").fill_(5)
        module.get_parameter("classifier.2.weight").copy_(torch.stack([channel, -channel]))
    bound = ft.evaluate(ft.derive(graph), module).log10
    attained = log10_lam(module, torch.zeros(4, 3, 5, dtype=torch.float64))
    assert attained > 15
    assert math.isclose(attained, bound, abs_tol=1e-6)
