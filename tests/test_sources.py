"""Importing torch modules: what every reader makes of its operation, held against the module itself in float64."""

import functools
from collections import Counter

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from source_modules import GROUPS, Apply, Side, rms_norm, rms_norm_in_float32
from torch import nn
from torch.export import ExportedProgram
from torch.nn.utils import parametrizations

import fimtheory as ft
from fimtheory import layers
from fimtheory.sources import reading
from fimtheory.sources.operations import registry

INPUTS = 3
"""Inputs of the batches that graph and module are compared on; programs are exported with another number."""
RELATIVE = 1e-11


def agree(graph, module, example, keywords=None, output=None):
    """Compare a graph with a module in float64 on a batch of new inputs, one at a time and together."""
    shape = graph.shapes[graph.input]
    x = torch.randn(INPUTS, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    wide = module.double()
    with torch.no_grad():
        expected = wide(x)
        if output is not None:
            expected = expected[output]
        model = graph.model(torch.float64)
        together = model(x)
        apart = torch.cat([model(each[None]) for each in x])
    scale = expected.abs().max()
    assert scale > 0
    assert (together - expected).abs().max() <= RELATIVE * scale
    assert (apart - expected).abs().max() <= RELATIVE * scale
    assert tuple(graph.shapes[graph.output]) == tuple(expected.shape[1:])


def types_of(graph, *without):
    return Counter(type(node.layer).__name__ for node in graph.nodes if type(node.layer).__name__ not in without)


def imported(module, *shape, **more):
    graph = ft.from_torch(module.eval(), torch.randn(1, *shape), **more)
    assert graph.difference.float64 <= 1e-12
    agree(graph, module, shape)
    return graph


# ---- readers ----------------------------------------------------------------------------------------------------


@functools.cache
def group(name):
    """Import a group of operations on the same input; return its graph, its module and what operations were read."""
    read, (shape, parts, table) = set(), GROUPS[name]
    own, decomposed = registry.reader_of, ExportedProgram.run_decompositions
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reading, "reader_of", lambda target: (read.add(target), own(target))[1])
        patched.setattr(
            ExportedProgram,
            "run_decompositions",
            lambda program, _: program if table() is None else decomposed(program, table()),
        )
        module = Side(parts)
        graph = ft.from_torch(module, torch.randn(1, *shape))
    return graph, module, read


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_of_operations_becomes_its_layers(name):
    graph, module, _ = group(name)
    agree(graph, module, GROUPS[name].shape)
    expected = Counter(kind for part in GROUPS[name].parts for kind in part.layers)
    assert types_of(graph, "Input", "Flatten") == expected + Counter(["Concat"])


# ---- weights ----------------------------------------------------------------------------------------------------


def test_weights_keep_the_keys_and_the_precision_of_the_model():
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)).eval()
    graph = ft.from_torch(module, torch.randn(1, 2, 6, 6))
    own = module.state_dict()
    assert set(graph.weights) == set(own)
    assert all(torch.equal(graph.weights[key], own[key]) for key in own)
    assert {value.dtype for value in graph.weights.values()} == {torch.float32, torch.int64}
    assert [node.name for node in graph.nodes] == ["x", "0", "1", "2", "3", "4"]
    own["4.bias"].zero_()
    assert graph.weights["4.bias"].abs().max() > 0


class Shifted(nn.Module):
    """A classifier with a second floating-point argument."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

    def forward(self, x, shift):
        return self.body(x + shift)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_model_of_any_floating_point_type_is_imported_with_inputs_of_its_type(dtype):
    module = Shifted().to(dtype).eval()
    shift = torch.tensor([[1.0, -2.0, 0.5]]).to(dtype)
    graph = ft.from_torch(module, {"x": torch.zeros(1, 3, dtype=dtype), "shift": shift}, input="x")
    own = module.state_dict()
    assert all(torch.equal(graph.weights[key], own[key]) for key in own)
    assert {graph.weights[key].dtype for key in own} == {dtype}
    x, wide = torch.randn(INPUTS, 3, dtype=torch.float64), module.double()
    expected = wide(x, shift.double())
    assert (graph.model(torch.float64)(x) - expected).abs().max() <= RELATIVE * expected.abs().max()


class Twice(nn.Module):
    """One layer called twice, and the same tensor in two layers."""

    def __init__(self):
        super().__init__()
        self.shared, self.first, self.tied = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 5)
        self.tied.weight = self.first.weight

    def forward(self, x):
        x = self.shared(torch.tanh(self.shared(x)))
        return self.tied(torch.sin(self.first(x)))


def test_a_module_called_twice_and_tied_weights_become_layers_with_equal_weights():
    module = Twice()
    graph = imported(module, 5)
    assert types_of(graph, "Input") == Counter({"Linear": 4, "Tanh": 1, "Sin": 1})
    linear = [node.name for node in graph.nodes if isinstance(node.layer, layers.Linear)]
    own = module.state_dict()
    for name, key in zip(linear, ("shared", "shared", "first", "tied"), strict=True):
        assert torch.equal(graph.weights[f"{name}.weight"].double(), own[f"{key}.weight"])
        assert torch.equal(graph.weights[f"{name}.bias"].double(), own[f"{key}.bias"])


class InPlace(nn.Module):
    def forward(self, x):
        y = x * 2
        y += 1
        F.relu(y, inplace=True)
        y[:, :2].mul_(3)
        return y


def test_operations_in_place_become_layers_on_new_values():
    with pytest.raises(ft.errors.SourceError, match="slice_scatter"):  # writing into a part has no layer
        ft.from_torch(InPlace().eval(), torch.randn(1, 4))
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Dropout(inplace=True), nn.Hardswish(inplace=True))
    assert types_of(imported(module, 4), "Input") == Counter(["Linear", "ReLU", "Hardswish"])


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize(
    "norm",
    [parametrizations.weight_norm, parametrizations.spectral_norm, nn.utils.weight_norm, nn.utils.spectral_norm],
)
def test_a_parametrised_weight_is_computed_once(norm):
    module = nn.Sequential(norm(nn.Linear(4, 6)), nn.ReLU(), norm(nn.Linear(6, 3)))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.7)
    module.eval()(torch.zeros(1, 4))  # the older parametrisations compute their weights in a call
    weight = module[0].weight.detach().clone()
    graph = imported(module, 4)
    assert types_of(graph, "Input") == Counter({"Linear": 2, "ReLU": 1})
    first = next(node.name for node in graph.nodes if isinstance(node.layer, layers.Linear))
    torch.testing.assert_close(graph.weights[f"{first}.weight"].double(), weight.double(), rtol=1e-6, atol=0)


class Normalised(nn.Module):
    """Statistics as buffers, one of them left out of the state dict, and a constant made in the forward pass."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.rand(3, 1, 1))
        self.register_buffer("scale", 1 + torch.rand(3, 1, 1), persistent=False)
        self.head = nn.Linear(48, 3)

    def forward(self, x):
        x = (x - self.mean) / self.scale
        x = x + torch.linspace(0, 1, 4, dtype=x.dtype)
        return self.head(x.flatten(1))


def test_tensors_made_on_the_way_take_the_type_of_the_model():
    def function(x):
        return x @ torch.full((4, 4), 0.1) + torch.ones(4)

    graph = ft.from_torch(nn.Sequential(nn.Linear(3, 4), Apply(function), nn.Linear(4, 2)).eval(), torch.randn(1, 3))
    assert torch.get_default_dtype() is torch.float32
    assert types_of(graph) == Counter(["Input", "Linear", "MatmulConstant", "AddConstant", "Linear"])


def test_rounding_to_float32_on_the_way_is_not_part_of_the_function():
    module = nn.Sequential(nn.Linear(3, 4), Apply(rms_norm_in_float32), nn.Linear(4, 2)).eval()
    graph = ft.from_torch(module, torch.randn(1, 3))
    assert types_of(graph) == Counter(["Input", "Linear", "RMSNorm", "Linear"])
    assert graph.difference.float64 <= 1e-12
    x = torch.randn(2, 3, dtype=torch.float64)
    exact = nn.Sequential(module[0], Apply(rms_norm), module[2]).double()
    rounded = module.double()(x)
    assert torch.allclose(graph.model(torch.float64)(x), exact(x), rtol=1e-13, atol=1e-13)
    assert not torch.allclose(graph.model(torch.float64)(x), rounded, rtol=1e-13, atol=1e-13)


def test_an_rms_norm_without_an_epsilon_has_that_of_its_type():
    module = nn.Sequential(nn.Linear(3, 4), nn.RMSNorm(4), nn.Linear(4, 2)).eval()
    graph = ft.from_torch(module, torch.randn(1, 3))
    (norm,) = [node.layer for node in graph.nodes if isinstance(node.layer, layers.RMSNorm)]
    assert norm.eps == torch.finfo(torch.float32).eps


def test_buffers_and_constants_of_the_forward_pass_are_constants():
    graph = imported(Normalised(), 3, 4, 4)
    assert types_of(graph, "Input", "Flatten", "Linear") == Counter({"AddConstant": 2, "MultiplyConstant": 1})


# ---- arguments and results --------------------------------------------------------------------------------------


class Several(nn.Module):
    """Two inputs and two outputs."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, left, right=None, scale=1.0):
        logits = self.first(left) * scale
        if right is not None:
            logits = logits + self.second(right)
        return {"logits": logits, "features": {"left": torch.tanh(logits)}}


def test_the_input_and_the_logits_are_chosen_by_name():
    module, left, right = Several().eval(), torch.randn(2, 4), torch.randn(2, 5)
    for example in ((left, right), {"left": left, "right": right}):
        with pytest.raises(ft.errors.SourceError, match=r"which argument is the input\? There are left, right"):
            ft.from_torch(module, example, output="logits")
    with pytest.raises(ft.errors.SourceError, match=r"which output are the logits\? There are logits, featuresleft"):
        ft.from_torch(module, (left,))
    with pytest.raises(ft.errors.SourceError, match=r"no output 'probabilities'; there are logits, featuresleft"):
        ft.from_torch(module, (left,), output="probabilities")
    with pytest.raises(ft.errors.SourceError, match=r"no tensor argument 'scale'"):
        ft.from_torch(module, {"left": left, "right": right, "scale": 2.0}, input="scale", output="logits")
    example = {"left": left, "right": right, "scale": 2.0}
    graph = ft.from_torch(module, example, input="right", output="logits")
    x, model, wide = torch.randn(INPUTS, 5).double(), graph.model(torch.float64), module.double()
    expected = wide(left[:1].double().expand(INPUTS, 4), x, 2.0)
    torch.testing.assert_close(model(x), expected["logits"], rtol=1e-12, atol=1e-12)
    graph = ft.from_torch(module, example, input="left", output="featuresleft")
    expected = wide(x[:, :4], right[:1].double().expand(INPUTS, 5), 2.0)
    torch.testing.assert_close(
        graph.model(torch.float64)(x[:, :4]), expected["features"]["left"], rtol=1e-12, atol=1e-12
    )


def test_only_the_first_input_of_an_example_is_used():
    module = nn.Linear(3, 2).eval()
    one, four = (ft.from_torch(module, torch.arange(3.0 * n).reshape(n, 3)) for n in (1, 4))
    assert one.nodes == four.nodes
    assert one.difference == four.difference


class Tokens(nn.Module):
    """A transformer's classifier of sentences: token ids, embedding, encoder."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(11, 8)
        self.places = nn.Parameter(torch.randn(1, 5, 8))
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, activation="gelu")
        self.head = nn.Linear(8, 3)

    def forward(self, ids):
        return self.head(self.encoder(self.words(ids) + self.places).mean(1))


def test_the_input_of_a_model_of_tokens_is_what_its_embedding_returns():
    module, ids = Tokens().eval(), torch.tensor([[1, 4, 9, 0, 10]])
    graph = ft.from_torch(module, ids)
    assert graph.shapes[graph.input] == (5, 8)
    assert "MultiHeadSelfAttention" in types_of(graph)
    assert "words.weight" not in graph.weights
    wide = module.double()
    with torch.no_grad():
        found = graph.model(torch.float64)(wide.words(ids))
        torch.testing.assert_close(found, wide(ids), rtol=1e-12, atol=1e-12)


# ---- attention --------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Self-attention as timm writes it: one projection to q, k and v, heads apart."""

    def __init__(self, dim=8, heads=2):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, dim))


class Built(nn.Module):
    """torch's own attention of a value to itself."""

    def __init__(self, dim=8, heads=2, **more):
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True, **more)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class Separate(nn.Module):
    """Three projections, heads interleaved in the features."""

    def __init__(self, dim=8, heads=2):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.out = nn.Linear(dim, dim)

    def forward(self, x):
        def apart(value):
            return value.unflatten(2, (-1, self.heads)).permute(0, 3, 1, 2)

        y = F.scaled_dot_product_attention(apart(self.query(x)), apart(self.key(x)), apart(self.value(x)))
        return self.out(y.permute(0, 2, 3, 1).flatten(2))


@pytest.mark.parametrize("kind", [Attention, Built, Separate])
def test_self_attention_becomes_one_layer(kind):
    module = nn.Sequential(nn.LayerNorm(8), kind(), nn.Flatten(), nn.Linear(40, 3))
    graph = imported(module, 5, 8)
    assert types_of(graph, "Input", "Flatten") == Counter(["LayerNorm", "MultiHeadSelfAttention", "Linear"])


def test_attention_that_is_not_plain_self_attention_keeps_its_parts():
    class Crossed(Attention):
        def forward(self, x):
            q, k, v = (each[:, None] for each in self.qkv(x).chunk(3, -1))
            return self.proj(F.scaled_dot_product_attention(q, k, torch.sin(v))[:, 0])

    graph = imported(nn.Sequential(Crossed(), nn.Flatten(), nn.Linear(40, 3)), 5, 8)
    assert "ScaledDotProductAttention" in types_of(graph)
    assert "MultiHeadSelfAttention" not in types_of(graph)


# ---- blocks -----------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        return x + self.second(torch.relu(self.first(x)))


def test_blocks_are_named_after_modules_and_equal_ones_share_a_lemma():
    module = nn.Sequential(nn.Linear(4, 6), Residual(6), Residual(6), nn.Linear(6, 3))
    graph = imported(module, 4)
    assert {node.block for node in graph.nodes if "." in node.name} == {"1", "2"}
    derivation = ft.derive(graph)
    ft.check(derivation)
    assert sorted(len(lemma.instances) for lemma in derivation.lemmas) == [1, 2]
    assert ft.evaluate(derivation, graph.weights).log10 > -10
