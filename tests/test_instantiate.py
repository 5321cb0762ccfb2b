"""GraphModule: its tensors, what it computes, its derivatives, and the weights it accepts and refuses."""

import copy
import gc
import weakref

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.func import functional_call, jvp, vjp, vmap
from torch_windows import WINDOWS

from fimtheory import layers
from fimtheory.claims import Quantity, Reference
from fimtheory.ensemble import Initial, Parameter
from fimtheory.errors import (
    FimTheoryError,
    GraphError,
    MissingRuleError,
    NonFiniteError,
    ShapeError,
    SymbolicSizeError,
    WeightsError,
)
from fimtheory.expressions import index_symbol, size_symbol
from fimtheory.graph import Builder, LayerGraph, Node, Repeat
from fimtheory.instantiation import GraphModule, graph_parameters, instantiate, random_weights
from fimtheory.registry import find_rule, rule
from fimtheory.weights import read_weights, write_weights


def single(layer, shape, name="y"):
    return LayerGraph([Node("x", layers.Input(shape)), Node(name, layer, ("x",))])


def small():
    """A graph with every kind of tensor that CNNs have."""
    builder = Builder("small")
    x = builder.add("x", layers.Input((2, 6, 6)))
    x = builder.add("features.0", layers.Conv2d(2, 4, (3, 3), padding=(1, 1), groups=2), x)
    x = builder.add("features.1", layers.BatchNorm2d(4), x)
    x = builder.add("relu", layers.ReLU(), x)
    x = builder.add("flat", layers.Flatten(), x)
    builder.add("fc", layers.Linear(144, 3), x)
    return builder.graph()


# ---- every layer type -------------------------------------------------------------------------------------------

TOKENS, IMAGE = (5, 8), (4, 7, 6)

TORCH = [
    (layers.Linear(8, 3), nn.Linear(8, 3), TOKENS),
    (layers.Linear(8, 3, bias=False), nn.Linear(8, 3, bias=False), (8,)),
    (
        layers.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), 2),
        nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), 2),
        IMAGE,
    ),
    (layers.Conv2d(4, 6, (3, 3), bias=False), nn.Conv2d(4, 6, 3, bias=False), IMAGE),
    (layers.BatchNorm2d(4, 1e-3), nn.BatchNorm2d(4, 1e-3), IMAGE),
    (layers.LayerNorm(8, 1e-6), nn.LayerNorm(8, 1e-6), TOKENS),
    (layers.PReLU(4), nn.PReLU(4), IMAGE),
    (layers.PReLU(), nn.PReLU(), TOKENS),
    (layers.ReLU(), nn.ReLU(), IMAGE),
    (layers.ReLU6(), nn.ReLU6(), IMAGE),
    (layers.LeakyReLU(0.3), nn.LeakyReLU(0.3), IMAGE),
    (layers.ELU(0.7), nn.ELU(0.7), IMAGE),
    (layers.CELU(0.7), nn.CELU(0.7), IMAGE),
    (layers.SELU(), nn.SELU(), IMAGE),
    (layers.GELU(), nn.GELU(), IMAGE),
    (layers.GELUTanh(), nn.GELU("tanh"), IMAGE),
    (layers.SiLU(), nn.SiLU(), IMAGE),
    (layers.Mish(), nn.Mish(), IMAGE),
    (layers.Softplus(2.0), nn.Softplus(2.0), IMAGE),
    (layers.Tanh(), nn.Tanh(), IMAGE),
    (layers.Sigmoid(), nn.Sigmoid(), IMAGE),
    (layers.Hardtanh(-0.5, 2.0), nn.Hardtanh(-0.5, 2.0), IMAGE),
    (layers.Hardsigmoid(), nn.Hardsigmoid(), IMAGE),
    (layers.Hardswish(), nn.Hardswish(), IMAGE),
    (layers.Softsign(), nn.Softsign(), IMAGE),
    (layers.Softshrink(0.3), nn.Softshrink(0.3), IMAGE),
    (layers.Tanhshrink(), nn.Tanhshrink(), IMAGE),
    (layers.Softmax(), nn.Softmax(-1), TOKENS),
    (
        layers.MaxPool2d((3, 2), (2, 1), (1, 0), (1, 2)),
        nn.MaxPool2d((3, 2), (2, 1), (1, 0), (1, 2)),
        IMAGE,
    ),
    (layers.AvgPool2d((3, 2), (2, 1), (1, 0)), nn.AvgPool2d((3, 2), (2, 1), (1, 0)), IMAGE),
    (layers.AdaptiveAvgPool2d((3, 9)), nn.AdaptiveAvgPool2d((3, 9)), IMAGE),
    (layers.Flatten(), nn.Flatten(), IMAGE),
    (layers.Reshape((6, 28)), nn.Unflatten(1, (6, 28)), (168,)),
    (layers.Dropout(), nn.Dropout(), TOKENS),
    (layers.Identity(), nn.Identity(), TOKENS),
]


class Attention(nn.MultiheadAttention):
    def __init__(self, bias=True):
        super().__init__(8, 2, bias=bias, batch_first=True)

    def forward(self, x):
        return super().forward(x, x, x, need_weights=True)[0]


class Patches(nn.Conv2d):
    def __init__(self):
        super().__init__(4, 5, 3, 3)

    def forward(self, x):
        return super().forward(x).flatten(2).transpose(1, 2)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


TORCH += [
    (layers.MultiHeadSelfAttention(8, 2), Attention(), TOKENS),
    (layers.MultiHeadSelfAttention(8, 2, bias=False), Attention(bias=False), TOKENS),
    (layers.PatchEmbedding(4, 5, 3), Patches(), (4, 6, 9)),
    (layers.Softmax(0.25), Function(lambda x: (4 * x).softmax(-1)), TOKENS),
    (layers.Permute((1, 2, 0)), Function(lambda x: x.permute(0, 2, 3, 1)), IMAGE),
    (layers.SelectToken(2), Function(lambda x: x[:, 2]), TOKENS),
    (layers.QuickGELU(), Function(lambda x: x * (1.702 * x).sigmoid()), IMAGE),
    (layers.LogSigmoid(), nn.LogSigmoid(), IMAGE),
    (layers.Clamp(-0.5), Function(lambda x: x.clamp(min=-0.5)), IMAGE),
    (layers.Clamp(maximum=0.5), Function(lambda x: x.clamp(max=0.5)), IMAGE),
    (layers.Threshold(0.5, 0.5), nn.Threshold(0.5, 0.5), IMAGE),
    (layers.Abs(), Function(torch.abs), IMAGE),
    (layers.Sin(), Function(torch.sin), IMAGE),
    (layers.Cos(), Function(torch.cos), IMAGE),
    (layers.Erf(), Function(torch.erf), IMAGE),
    (layers.Atan(), Function(torch.atan), IMAGE),
    (layers.SoftmaxOver(1), nn.Softmax(2), IMAGE),
    (layers.LogSoftmax(0), nn.LogSoftmax(1), TOKENS),
]
TORCH += WINDOWS


def randomised(module):
    """Give every tensor of a torch module random values; the module as torch starts it has ones and zeros."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if "var" in name else torch.randn_like(tensor))
    return module.double().eval()


@pytest.mark.parametrize(("layer", "module", "shape"), TORCH, ids=lambda v: type(v).__name__)
def test_layer_against_torch(layer, module, shape):
    module = randomised(copy.deepcopy(module))
    weights = {f"y.{key}": value for key, value in module.state_dict().items()}
    ours = instantiate(single(layer, shape), weights=weights, dtype=torch.float64)
    assert ours.state_dict().keys() == weights.keys()
    assert dict(ours.named_buffers()).keys() == {f"y.{name}" for name, _ in module.named_buffers()}
    x = 3 * torch.randn(3, *shape, dtype=torch.float64)
    # torch's softplus drops e^-20 where it turns linear
    torch.testing.assert_close(ours(x), module(x), rtol=1e-12, atol=3e-9 if type(layer) is layers.Softplus else 1e-12)


def joins():
    """Graphs for the layers that read several inputs or have a tensor named like the node."""
    for made in (layers.Add(), layers.Concat(1)):
        builder = Builder("join")
        x = builder.add("x", layers.Input(TOKENS))
        builder.add("y", made, x, builder.add("z", layers.Tanh(), x))
        yield builder.graph()
    builder = Builder("tokens")
    x = builder.add("class_token", layers.ClassToken(8), builder.add("x", layers.Input(TOKENS)))
    builder.add("encoder.pos_embedding", layers.PositionEmbedding(6, 8), x)
    yield builder.graph()


def test_joins_and_tokens():
    add, concat, tokens = (instantiate(graph, seed=1) for graph in joins())
    x = torch.randn(2, *TOKENS)
    assert torch.equal(add(x), x + x.tanh())
    assert torch.equal(concat(x), torch.cat([x, x.tanh()], 2))
    state = tokens.state_dict()
    assert {key: tuple(t.shape) for key, t in state.items()} == {
        "class_token": (1, 1, 8),
        "encoder.pos_embedding": (1, 6, 8),
    }
    expected = torch.cat([state["class_token"].expand(2, 1, 8), x], 1) + state["encoder.pos_embedding"]
    assert torch.equal(tokens(x), expected)


def products():
    """Graphs for the layers that multiply what they read: tokens x, tanh(x), and sigmoid(x) or its mean over tokens."""
    attention = layers.ScaledDotProductAttention(0.5, bias=(5, 5))
    for made, reads in (
        (layers.Multiply(), "xz"),
        (layers.Gate(), "xg"),
        (layers.MatMul(True), "xz"),
        (attention, "xzs"),
        (layers.ScaledDotProductAttention(2.0, causal=True), "xzs"),
    ):
        builder = Builder("product")
        builder.add("x", layers.Input(TOKENS))
        known = {"z": layers.Tanh(), "s": layers.Sigmoid(), "g": layers.Mean((0,), True)}
        for name in reads[1:]:
            builder.add(name, known[name], "x")
        builder.add("y", made, *reads)
        yield builder.graph()


def test_products():
    x = torch.randn(2, *TOKENS)
    z, s, g = x.tanh(), x.sigmoid(), x.mean(1, keepdim=True)
    models = [instantiate(graph, seed=1) for graph in products()]
    with torch.no_grad():
        models[3].y.copy_(torch.randn(5, 5))
    attended = torch.nn.functional.scaled_dot_product_attention
    expected = [x * z, x * g, x @ z.mT, attended(x, z, s, models[3].y, scale=0.5)]
    expected.append(attended(x, z, s, is_causal=True, scale=2.0))
    for model, truth in zip(models, expected, strict=True):
        torch.testing.assert_close(model(x), truth)


ELSEWHERE = {
    f"fimtheory.layers.{family}" for family in ("constants", "movement", "normalisation", "pooling", "reductions")
}
"""Families whose layers are compared with torch in files of their own, tests/test_rules_<family>.py."""


def test_every_layer_type_is_compared():
    compared = {type(layer) for layer, _, _ in TORCH}
    compared |= {type(n.layer) for graph in (*joins(), *products()) for n in graph.nodes}
    kinds = [getattr(layers, name) for name in layers.__all__]
    kinds = {k for k in kinds if isinstance(k, type) and issubclass(k, layers.Layer) and k is not layers.Layer}
    assert {kind for kind in kinds if kind.__module__ not in ELSEWHERE} <= compared
    for quantity in (Quantity.PARAMETERS, Quantity.FORWARD):
        without = {k for k in kinds if find_rule((k,), quantity) is None}
        assert without <= {layers.Input}, quantity


GRAPHS = [pytest.param(single(layer, shape), id=type(layer).__name__) for layer, _, shape in TORCH]
GRAPHS += [pytest.param(graph, id=graph.name) for graph in (*joins(), *products())]


def normalised_tokens():
    """Batch norm read as tokens: torch 2.13's own has a wrong gradient here at batch size 1."""
    builder = Builder("normalised tokens")
    x = builder.add("norm", layers.BatchNorm2d(4), builder.add("x", layers.Input(IMAGE)))
    builder.add("tokens", layers.Permute((1, 0)), builder.add("flat", layers.Reshape((4, 42)), x))
    return builder.graph()


GRAPHS += [pytest.param(normalised_tokens(), id="normalised tokens")]


@pytest.mark.parametrize("graph", GRAPHS)
def test_derivatives(graph):
    """Forward mode, reverse mode and central differences agree, also under vmap and at batch size 1."""
    model = instantiate(graph, dtype=torch.float64)
    for tensor in model.parameters():
        tensor.data += 0.1 * torch.randn_like(tensor)
    shape = graph.shapes[graph.input]
    for batch in (1, 2):
        x, u = torch.randn(2, batch, *shape, dtype=torch.float64)
        y, forward = jvp(model, (x,), (u,))
        v = torch.randn(y.shape, dtype=y.dtype)  # contiguous, whatever y is
        (back,) = vjp(model, x)[1](v)
        torch.testing.assert_close((back * u).sum(), (forward * v).sum(), rtol=1e-9, atol=1e-9)
        step = 1e-6
        torch.testing.assert_close(
            (model(x + step * u) - model(x - step * u)) / (2 * step), forward, rtol=1e-4, atol=1e-6
        )
        mapped = vmap(lambda p, q: jvp(lambda z: model(z[None])[0], (p,), (q,))[1])(x, u)
        torch.testing.assert_close(mapped, forward)


# ---- random weights ---------------------------------------------------------------------------------------------


ENSEMBLE = [
    (layers.Linear(4, 3000), (4,), {"weight": 2 / 4}),
    (layers.Conv2d(6, 3000, (3, 1), groups=3), (6, 5, 5), {"weight": 2 / 6}),
    (layers.PatchEmbedding(1, 3000, 2), (1, 4, 4), {"weight": 2 / 4}),
    (layers.MultiHeadSelfAttention(4, 2), (3, 4), {"in_proj_weight": 1 / 4, "out_proj.weight": 1 / 4}),
    (layers.ClassToken(4000), (2, 4000), {"": 0.02**2}),
    (layers.PositionEmbedding(1000, 4), (1000, 4), {"": 0.02**2}),
    (layers.BatchNorm2d(3), (3, 2, 2), {}),
    (layers.LayerNorm(3), (3,), {}),
    (layers.PReLU(3), (3,), {}),
]
CONSTANTS = {"bias": 0.0, "in_proj_bias": 0.0, "out_proj.bias": 0.0, "weight": 1.0, "running_mean": 0.0,
             "running_var": 1.0, "num_batches_tracked": 0}  # fmt: skip


@pytest.mark.parametrize(("layer", "shape", "variances"), ENSEMBLE, ids=lambda v: type(v).__name__)
def test_ensemble(layer, shape, variances):
    """Moments 1, 2 and 4 of the normal entries over some seeds, within 5 standard errors; constants elsewhere."""
    draws = [random_weights(single(layer, shape), seed) for seed in range(200 if "Attention" in str(layer) else 4)]
    for key in draws[0]:
        name = key[2:]
        entries = torch.stack([draw[key] for draw in draws]).flatten()
        if name in variances:
            scaled = entries.double() / variances[name] ** 0.5
            error = len(scaled) ** -0.5
            assert abs(scaled.mean()) < 5 * error
            assert abs(scaled.square().mean() - 1) < 5 * 2**0.5 * error
            assert abs(scaled.pow(4).mean() - 3) < 5 * 96**0.5 * error
        else:
            expected = 0.25 if type(layer) is layers.PReLU else CONSTANTS[name]
            assert set(entries.tolist()) == {expected}
    assert {key[2:] for key in draws[0]} >= set(variances)


def test_tensors_are_drawn_independently():
    builder = Builder("two")
    x = builder.add("a", layers.Linear(50, 50), builder.add("x", layers.Input((50,))))
    builder.add("b", layers.Linear(50, 50), x)
    weights = random_weights(builder.graph(), 0)
    correlation = (weights["a.weight"] * weights["b.weight"]).mean() / (2 / 50)
    assert abs(correlation) < 5 / 50


def test_seed_names_the_network():
    first, again, other = (instantiate(small(), seed=s).state_dict() for s in (5, 5, 6))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])
    double = instantiate(small(), seed=5, dtype=torch.float64).state_dict()
    assert all(torch.equal(first[key].to(double[key].dtype), double[key]) for key in first)
    assert double["fc.weight"].dtype == torch.float64
    assert double["features.1.num_batches_tracked"].dtype == torch.int64


def test_seed_does_not_touch_the_global_generator():
    before = torch.get_rng_state()
    instantiate(small(), seed=5)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("seed", [-1, 1.5, True, 2**63])
def test_refused_seeds(seed):
    with pytest.raises(WeightsError, match="seed is"):
        instantiate(small(), seed=seed)


def test_refused_dtype():
    with pytest.raises(WeightsError, match="floating-point"):
        instantiate(small(), dtype=torch.int32)


# ---- given weights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin"])
def test_weights_from_files(tmp_path, suffix):
    state = instantiate(small(), seed=1).state_dict()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        write_weights(state, path, {"made by": "a test"})
    else:
        torch.save(state, path)
    read = instantiate(small(), weights=path).state_dict()
    assert all(torch.equal(state[key], read[key]) for key in state)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_converted(dtype):
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in random_weights(small(), 1).items()}
    made = instantiate(small(), weights=state)
    assert made.fc.weight.dtype == torch.float32
    assert torch.equal(made.fc.weight, state["fc.weight"].float())


def test_given_weights_are_copied():
    state = random_weights(small(), 1)
    made = instantiate(small(), weights=state)
    state["fc.weight"].zero_()
    assert made.fc.weight.abs().sum() > 0


def changed(**tensors):
    state = random_weights(small(), 1)
    for key, tensor in tensors.items():
        state[key.replace("__", ".")] = tensor
    return state


REFUSED = [
    ({"a": torch.ones(1)}, WeightsError, r"missing features.0.weight, .* and 4 more; unknown a;"),
    (changed(extra=torch.ones(1)), WeightsError, "unknown extra; expected the 9 tensors"),
    (changed(fc__weight=torch.ones(3, 143)), WeightsError, r"fc.weight has shape \(3, 143\) instead of \(3, 144\)"),
    (changed(fc__bias=[0.0] * 3), WeightsError, "not tensors: fc.bias"),
    (changed(fc__bias=torch.ones(3, dtype=torch.int64)), WeightsError, "fc.bias is torch.int64"),
    (changed(fc__bias=torch.ones(3, dtype=torch.complex64)), WeightsError, "fc.bias is torch.complex64"),
    (changed(features__1__num_batches_tracked=torch.tensor(0.0)), WeightsError, "tracked is torch.float32"),
    (changed(fc__bias=torch.tensor([0.0, float("nan"), 0.0])), NonFiniteError, "NaN or infinite values in fc.bias"),
    (changed(fc__bias=torch.tensor([0.0, float("-inf"), 0.0])), NonFiniteError, "NaN or infinite values in fc.bias"),
    (changed(fc__bias=torch.full((3,), 1e300, dtype=torch.float64)), NonFiniteError, "too large for torch.float32"),
    (changed(features__1__running_var=-torch.ones(4)), WeightsError, "negative running variance in features.1"),
]


@pytest.mark.parametrize(("state", "error", "message"), REFUSED)
def test_refused_weights(state, error, message):
    with pytest.raises(error, match=message):
        instantiate(small(), weights=state)


class Payload:
    def __reduce__(self):
        return print, ("this must not run",)


BAD_FILES = [
    ("missing.safetensors", None, "cannot be read"),
    ("missing.pt", None, "cannot be read"),
    ("weights.npz", b"", "unknown suffix '.npz'"),
    ("short.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{}", "not a safetensors file"),
    ("empty.pt", b"", "not a torch file"),
    ("zip.pt", b"PK\x03\x04", "not a torch file"),
    ("code.pt", Payload(), "would run code"),
    ("model.pt", nn.Linear(2, 2), "would run code"),
    ("list.pt", [torch.ones(2)], "holds a list"),
    ("nested.pt", {"state_dict": {"a": torch.ones(2)}}, "not named tensors: state_dict"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES, ids=lambda v: v if isinstance(v, str) else "")
def test_refused_files(tmp_path, capsys, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(WeightsError, match=f"{name}: .*{message}"):
        read_weights(path)
    assert capsys.readouterr().out == ""


def test_messages_name_the_file(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"other.safetensors: missing"):
        instantiate(small(), weights=tmp_path / "other.safetensors")


def test_writing_to_a_missing_folder(tmp_path):
    with pytest.raises(WeightsError, match="cannot be written"):
        write_weights({"a": torch.ones(1)}, tmp_path / "none" / "w.safetensors")


# ---- graphs -----------------------------------------------------------------------------------------------------

N, d, i = size_symbol("N"), size_symbol("d"), index_symbol("i")


def test_symbolic_sizes_are_refused():
    with pytest.raises(SymbolicSizeError, match=r"symbolic sizes \(d\); give them values with graph.subs\({d: ...}\)"):
        instantiate(single(layers.Linear(d, 3), (d,)))
    with pytest.raises(SymbolicSizeError, match=r"\(d\)"):
        instantiate(single(layers.Conv2d(1, 1, (2 * d + 1, 1), padding=(d, 0)), (1, 5, 5)))


def test_repeated_blocks_are_refused_until_written_out():
    body = single(layers.Linear(4, 4), (4,))
    repeated = single(Repeat(body, i, N), (4,))
    with pytest.raises(SymbolicSizeError, match=r"\(N\)"):
        instantiate(repeated)
    with pytest.raises(SymbolicSizeError, match=r"\(a repeated block\).*graph.subs\({}\)"):
        instantiate(single(Repeat(body, i, 3), (4,)))
    written = instantiate(repeated.subs({N: 3}))
    assert sorted(written.state_dict()) == [f"y.{k}.y.{name}" for k in (1, 2, 3) for name in ("bias", "weight")]
    x = torch.randn(2, 4)
    expected = x
    for k in (1, 2, 3):
        expected = nn.functional.linear(expected, *(written.tensors(f"y.{k}.y")[name] for name in ("weight", "bias")))
    assert torch.equal(written(x), expected)


@pytest.mark.parametrize("name", ["graph", "forward", "features.0.weight.train"])
def test_names_that_torch_modules_use_are_refused(name):
    with pytest.raises(GraphError, match="rename the node"):
        instantiate(single(layers.Linear(4, 4), (4,), name))


def test_equal_keys_are_refused():
    builder = Builder("clash")
    x = builder.add("a", layers.LayerNorm(4), builder.add("x", layers.Input((5, 4))))
    builder.add("a.weight", layers.PositionEmbedding(5, 4), x)
    with pytest.raises(GraphError, match=r"another node has a tensor named a\.weight"):
        instantiate(builder.graph())


def test_inputs_of_another_shape_are_refused():
    with pytest.raises(ShapeError, match=r"input of shape \(2, 2, 6, 5\); expected a batch \(n, 2, 6, 6\)"):
        instantiate(small())(torch.zeros(2, 2, 6, 5))


def test_training_mode_is_refused():
    model = instantiate(small())
    assert not any(module.training for module in model.modules())
    with pytest.raises(FimTheoryError, match="no training mode"):
        model.train()
    assert model.eval() is model


def test_activations_are_released():
    """Of a chain, the module holds one activation at a time; of a shortcut, what is still to be read."""
    alive, most = [], []

    @layers.layer
    class Watched(layers.Layer):
        """The identity, which counts the tensors that are alive."""

    @rule(Watched, quantity=Quantity.SHAPE, reference=Reference("test"))
    def _shape(site):
        return site.inputs[0]

    @rule(Watched, quantity=Quantity.PARAMETERS, reference=Reference("test"))
    def _parameters(site):
        return ()

    @rule(Watched, quantity=Quantity.FORWARD, reference=Reference("test"))
    def _forward(site):
        def forward(tensors, x):
            most.append(sum(reference() is not None for reference in alive))
            made = x.clone()
            alive.append(weakref.ref(made))
            return made

        return forward

    builder = Builder("chain")
    x = first = builder.add("x", layers.Input((4,)))
    for k in range(6):
        x = builder.add(f"y{k}", Watched(), x)
        first = x if k == 0 else first
    builder.add("add", layers.Add(), first, x)
    model = instantiate(builder.graph())
    gc.collect()
    model(torch.zeros(1, 4))
    assert most == [0, 1, 2, 2, 2, 2]  # the input of each node, and y0 for the sum


def test_custom_layer_with_weights():
    @layers.layer
    class Stretched(layers.Layer):
        """x times a learned vector."""

        features: int

    @rule(Stretched, quantity=Quantity.SHAPE, reference=Reference("test"))
    def _shape(site):
        return site.inputs[0]

    graph = single(Stretched(4), (4,))
    with pytest.raises(MissingRuleError, match="no rule for the parameters of layer type Stretched"):
        instantiate(graph)

    @rule(Stretched, quantity=Quantity.PARAMETERS, reference=Reference("test"))
    def _parameters(site):
        return (Parameter("gamma", (site.layer.features,), Initial.ONE),)

    with pytest.raises(MissingRuleError, match="no rule for the forward of layer type Stretched"):
        instantiate(graph)

    @rule(Stretched, quantity=Quantity.FORWARD, reference=Reference("test"))
    def _forward(site):
        return lambda tensors, x: x * tensors["gamma"]

    model = instantiate(graph, weights={"y.gamma": torch.arange(4.0)})
    assert torch.equal(model(torch.ones(1, 4)), torch.arange(4.0)[None])


def test_parameters_in_the_order_of_the_nodes():
    assert list(graph_parameters(small()))[:4] == [
        "features.0.weight",
        "features.0.bias",
        "features.1.weight",
        "features.1.bias",
    ]


def test_copies_and_functional_calls_use_their_own_weights():
    model = instantiate(small(), seed=1)
    x = torch.randn(2, 2, 6, 6)
    twin = copy.deepcopy(model)
    for tensor in twin.parameters():
        tensor.data.zero_()
    assert twin(x).abs().sum() == 0
    assert model(x).abs().sum() > 0
    zeros = {name: torch.zeros_like(tensor) for name, tensor in model.named_parameters()}
    assert functional_call(model, zeros, (x,)).abs().sum() == 0


def test_loading_a_state_dict_is_strict():
    model = GraphModule(small(), random_weights(small(), 0))
    model.load_state_dict(random_weights(small(), 7))
    assert torch.equal(model.fc.weight, random_weights(small(), 7)["fc.weight"])
    assert torch.equal(model.tensors("fc")["weight"], model.fc.weight)
    assert model.tensors("relu") == {}
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({})
