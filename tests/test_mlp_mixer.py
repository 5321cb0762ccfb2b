"""MLP-Mixer against a model written in plain torch and timm's, and its bound against the largest lam there is."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import ascend, jacobians, lam_from, log10_lam, outputs, random_networks
from torch import nn

import fimtheory as ft
from fimtheory.families import PRESETS, mlp_mixer

DEPTH, DIM, TOKEN_DIM, CLASSES = 2, 6, 5, 3


class Perceptron(nn.Module):
    def __init__(self, size, hidden):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, size)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class MixerLayer(nn.Module):
    def __init__(self, tokens, dim, token_dim):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, 1e-6), nn.LayerNorm(dim, 1e-6)
        self.mlp_tokens, self.mlp_channels = Perceptron(tokens, token_dim), Perceptron(dim, 4 * dim)

    def forward(self, x):
        x = x + self.mlp_tokens(self.norm1(x).mT).mT
        return x + self.mlp_channels(self.norm2(x))


class Mixer(nn.Module):
    """Figure 1 and appendix E of arXiv:2105.01601."""

    def __init__(self, channels=2, height=4, width=6, patch=2):
        super().__init__()
        tokens = height // patch * (width // patch)
        self.stem = nn.ModuleDict({"proj": nn.Conv2d(channels, DIM, patch, patch)})
        self.blocks = nn.Sequential(*(MixerLayer(tokens, DIM, TOKEN_DIM) for _ in range(DEPTH)))
        self.norm, self.head = nn.LayerNorm(DIM, 1e-6), nn.Linear(DIM, CLASSES)

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.stem["proj"](x).flatten(2).mT)).mean(1))


@pytest.fixture
def twins():
    """The model with random tensors, and the family's graph of the same sizes."""
    module = Mixer().eval()
    with torch.no_grad():
        for tensor in module.parameters():
            tensor += 0.3 * torch.randn_like(tensor)
    graph = mlp_mixer(DEPTH, dim=DIM, token_dim=TOKEN_DIM, patch=2, classes=CLASSES, input_shape=(2, 4, 6))
    return module, graph


def test_outputs_of_a_plain_torch_model(twins):
    module, graph = twins
    x = torch.randn(3, 2, 4, 6)
    expected, given = module(x), ft.instantiate(graph, weights=module.state_dict())(x)
    assert expected.std(0).min() > 1e-2  # the comparison would prove nothing on constant logits
    torch.testing.assert_close(given, expected)


def test_a_plain_torch_model_imported_has_the_same_bound(twins):
    module, graph = twins
    imported = ft.from_torch(module, torch.zeros(1, 2, 4, 6))
    assert imported.difference.float64 <= 1e-12
    one, other = ft.derive(graph), ft.derive(imported)
    ft.check(one)
    ft.check(other)
    assert ft.evaluate(one, module).log10 == pytest.approx(ft.evaluate(other, imported.weights).log10, abs=4e-10)


@pytest.mark.parametrize("name", ["mixer_s_16", "mixer_b_16", "mixer_l_16"])
def test_tensors_of_timm(name):
    models = pytest.importorskip("timm.models.mlp_mixer")
    with torch.device("meta"):
        theirs = getattr(models, f"{name.replace('_16', '16')}_224")()
    ours = ft.instantiation.graph_parameters(PRESETS[name].build())
    assert {key: tuple(t.shape) for key, t in theirs.state_dict().items()} == {k: p.shape for k, p in ours.items()}


def test_outputs_of_timm():
    models = pytest.importorskip("timm.models.mlp_mixer")
    theirs = models.MlpMixer(num_classes=5, img_size=16, patch_size=4, num_blocks=2, embed_dim=8).eval()
    nn.init.normal_(theirs.head.weight)
    graph = mlp_mixer(2, dim=8, token_dim=4, patch=4, classes=5, input_shape=(3, 16, 16))
    x = torch.randn(3, 3, 16, 16)
    expected = theirs(x)
    assert expected.std(0).min() > 1e-2
    torch.testing.assert_close(ft.instantiate(graph, weights=theirs.state_dict())(x), expected)


# ---- lam --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", [None, 2])
@pytest.mark.parametrize("depth", [1, 2])
def test_nothing_found_exceeds_the_bound(depth, patch):
    """Zero biases let a zero input through as zero, where every layer norm is as steep as it gets."""
    shape = (4, 6) if patch is None else (2, 4, 4)
    graph = mlp_mixer(depth, dim=6, token_dim=5, patch=patch, classes=3, input_shape=shape)
    derivation = ft.derive(graph)
    ft.check(derivation)
    for seed in range(3):
        module = ft.instantiate(graph, seed, dtype=torch.float64)
        bound = ft.evaluate(derivation, module).log10
        start = torch.randn(shape, dtype=torch.float64)
        ascended, _ = ascend(module, start, 20, torch.Generator().manual_seed(seed))
        steepest = log10_lam(module, torch.zeros(shape, dtype=torch.float64))
        assert max(ascended, steepest) <= bound
        assert bound - steepest < 4 * depth  # of 20 and 35 decades


def test_the_mean_over_random_weights_is_below_the_expected_bound():
    """At a zero input, where every layer norm is as steep as it gets."""
    graph = mlp_mixer(2, dim=6, token_dim=5, patch=2, classes=3, input_shape=(2, 4, 4))
    bound = ft.evaluate(ft.derive(graph), ft.instantiate(graph)).expected_value
    networks, x = random_networks(graph, 300), torch.zeros(2, 4, 4, dtype=torch.float64)
    jac = jacobians(graph, networks, x, [graph.output])[graph.output]
    logits = outputs(graph, networks, x)
    found = torch.tensor([10 ** lam_from(j, z) for j, z in zip(jac, logits, strict=True)], dtype=torch.float64)
    assert found.mean() - 3 * found.std() / 300**0.5 <= bound
    assert bound < 1000 * found.mean()  # of 32 decades


def test_the_bound_is_attained():
    """Aligned weights of rank one, scales not 1; biases put GELU at its steepest and keep a zero input zero."""
    graph = mlp_mixer(2, dim=4, token_dim=3, patch=None, classes=2, input_shape=(5, 4))
    module = ft.instantiate(graph, dtype=torch.float64)
    feature, token = torch.tensor([0.5, -0.5, 0.5, -0.5]), torch.full((5,), 5**-0.5)
    with torch.no_grad():
        for name, layer in module.named_modules():
            if "norm" in name:
                layer.weight.fill_(2)
            elif name.endswith("fc1"):
                layer.weight.zero_()[0] = token if "tokens" in name else feature
                layer.bias.fill_(2**0.5)
            elif name.endswith("fc2"):
                layer.weight.zero_()[:, 0] = token if "tokens" in name else feature
                layer.bias.copy_(-layer.weight[:, 0] * nn.functional.gelu(torch.tensor(2.0).double().sqrt()))
        module.get_parameter("head.weight").copy_(torch.stack([feature, -feature]))
    bound = ft.evaluate(ft.derive(graph), module).log10
    attained = log10_lam(module, torch.zeros(5, 4, dtype=torch.float64))
    assert attained > 25
    assert math.isclose(attained, bound, abs_tol=1e-6)
