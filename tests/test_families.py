"""Families against torchvision, their symbolic forms against the written-out ones, and their refusals."""

import pytest
import sympy
import torch

from fimtheory import layers
from fimtheory.ensemble import Initial
from fimtheory.errors import GraphError, ShapeError, SymbolicSizeError
from fimtheory.expressions import size_symbol
from fimtheory.families import PRESETS, SYMBOLIC, convnext, densenet, mlp, mlp_mixer, resnet, transformer, vgg
from fimtheory.families.blocks import size_at
from fimtheory.graph import Repeat
from fimtheory.instantiation import graph_parameters, instantiate

N, c, d, k, s, K, H, W = (size_symbol(name) for name in ("N", "c", "d", "k", "s", "K", "H", "W"))


# ---- torchvision ------------------------------------------------------------------------------------------------


def torchvision_model(name, classes):
    """A torchvision model whose every tensor is random, also the head and the batch statistics."""
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        model = getattr(models, name)(num_classes=classes)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.dim() > 1:
                deviation = 0.02 if "embedding" in key or "token" in key else (2 / tensor[0].numel()) ** 0.5
                tensor.uniform_(-(3**0.5) * deviation, 3**0.5 * deviation)
            elif "running_var" in key or (tensor.dim() == 1 and key.endswith("weight")):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.uniform_(-0.1, 0.1)
            else:
                tensor.fill_(3)
    return model.eval()


def assert_same_as_torchvision(name, shape, classes):
    theirs = torchvision_model(name, classes)
    ours = instantiate(PRESETS[name].build(classes, shape), weights=theirs.state_dict())
    x = torch.randn(2, *shape)
    with torch.no_grad():
        expected, given = theirs(x), ours(x)
    assert expected.std() > 1e-3  # the comparison would prove nothing on constant logits
    assert (expected[0] - expected[1]).abs().max() > 1e-3 * expected.abs().max()
    assert (given - expected).abs().max() < 1e-5 * expected.abs().max()


COMPARED = {
    "vgg11": (3, 32, 32),
    "vgg16_bn": (3, 32, 48),
    "resnet18": (3, 64, 64),
    "resnet50": (3, 33, 70),
    "densenet121": (3, 64, 32),
    "vit_b_16": (3, 224, 224),
    "convnext_tiny": (3, 70, 66),
}
OTHERS = {"mlp", "resnet20", "resnet32", "resnet56", "vit_tiny", "mixer_s_16", "mixer_b_16", "mixer_l_16"}
TORCHVISION = sorted(set(PRESETS) - OTHERS)


@pytest.mark.parametrize("name", COMPARED)
def test_outputs_of_torchvision(name):
    assert_same_as_torchvision(name, COMPARED[name], 10)


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_outputs_of_torchvision_at_full_size(name):
    assert_same_as_torchvision(name, (3, 224, 224), 1000)


@pytest.mark.parametrize("name", TORCHVISION)
def test_tensors_of_torchvision(name):
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        theirs = getattr(models, name)(num_classes=1000)
    ours = graph_parameters(PRESETS[name].build(1000, (3, 224, 224)))
    assert {key: tuple(t.shape) for key, t in theirs.state_dict().items()} == {k: p.shape for k, p in ours.items()}
    trained = [p.shape for p in ours.values() if not p.initial.buffer]
    assert sum(map(sympy.prod, trained)) == sum(p.numel() for p in theirs.parameters())


# ---- presets and blocks -----------------------------------------------------------------------------------------


def test_cifar_resnets_have_the_sizes_of_the_paper():
    """Table 6 of arXiv:1512.03385: 0.27M, 0.46M and 0.85M, to which the projections add under 1 percent."""
    for name, millions in {"resnet20": 0.27, "resnet32": 0.46, "resnet56": 0.85}.items():
        parameters = graph_parameters(PRESETS[name].build(10, (3, 32, 32))).values()
        total = sum(int(sympy.prod(p.shape)) for p in parameters if not p.initial.buffer)
        assert total / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build_for_small_images(name):
    graph = PRESETS[name].build(7, (3, 32, 32))
    assert graph.shapes[graph.output] == (7,)
    assert graph.name == name
    head = graph[graph.output]
    assert isinstance(head.layer, layers.Linear)
    assert head.block == ""
    assert PRESETS[name].description


def test_presets_have_default_sizes():
    assert PRESETS["mlp"].build().shapes["layers.0"] == (512,)
    assert PRESETS["resnet20"].build().shapes["x"] == (3, 32, 32)
    assert PRESETS["resnet18"].build(classes=5).shapes["fc"] == (5,)


@pytest.mark.parametrize("name", SYMBOLIC)
def test_symbolic_families(name):
    graph = SYMBOLIC[name].build()
    assert sum(isinstance(node.layer, Repeat) for node in graph.nodes) == 1
    assert graph.shapes[graph.output] == (K,)
    assert SYMBOLIC[name].description


def blocks(graph):
    return list(dict.fromkeys(node.block for node in graph.nodes if node.block))


def test_blocks_are_told_as_in_the_papers():
    assert blocks(PRESETS["resnet18"].build(10, (3, 32, 32)))[:3] == ["stem", "layer1.0", "layer1.1"]
    assert blocks(PRESETS["resnet18"].build(10, (3, 32, 32)))[-2:] == ["layer4.1", "pool"]
    assert blocks(vgg(((4,), (8,)), hidden=(5,), classes=3, input_shape=(1, 8, 8), batch_norm=True)) == [
        "features.0", "features.3", "features.4", "features.7", "pool", "classifier.0",
    ]  # fmt: skip
    assert blocks(densenet((1, 1), growth=4, stem="imagenet", input_shape=(3, 32, 32))) == [
        "stem", "features.denseblock1.denselayer1", "features.transition1", "features.denseblock2.denselayer1",
        "head norm", "pool",
    ]  # fmt: skip
    assert blocks(transformer(1, dim=8, heads=2, patch=4, input_shape=(3, 8, 8))) == [
        "embedding", "encoder.layers.encoder_layer_0", "encoder",
    ]  # fmt: skip
    assert blocks(mlp_mixer(2, dim=8, token_dim=4, patch=4, input_shape=(3, 8, 8))) == [
        "stem", "blocks.0", "blocks.1", "pool",
    ]  # fmt: skip
    assert blocks(convnext((1, 2), widths=(4, 8), input_shape=(3, 16, 16))) == [
        "stem", "features.1.0", "features.2", "features.3.0", "features.3.1", "pool",
    ]  # fmt: skip
    assert blocks(mlp((4, 5), inputs=3)) == ["layers.0", "layers.2"]


def test_activation_of_a_perceptron():
    graph = mlp((4, 5), activation=layers.Softplus(2.0), inputs=3, classes=2)
    assert [type(node.layer).__name__ for node in graph.nodes] == [
        "Input", "Linear", "Softplus", "Linear", "Softplus", "Linear",
    ]  # fmt: skip


# ---- symbolic sizes ---------------------------------------------------------------------------------------------

SIZES = {size_at("n", index): size for index, size in enumerate((3, 4, 6, 5))} | {H: 8, W: 6, K: 4}

FORMS = [
    pytest.param(
        mlp(depth=N, classes=K), mlp((4, 6, 5), inputs=3, classes=4), id="mlp",
    ),
    pytest.param(
        vgg(depth=N, classes=K, batch_norm=True),
        vgg(depth=3, classes=K, batch_norm=True), id="vgg",
    ),
    pytest.param(
        resnet((N, N), widths=(c, 2 * c), stem=None, classes=K),
        resnet((3, 3), widths=(5, 10), stem=None, classes=4, input_shape=(5, 8, 6)), id="resnet",
    ),
    pytest.param(
        resnet((N,), widths=(c,), stem=None, classes=K, block="bottleneck"),
        resnet((3,), widths=(5,), stem=None, classes=4, input_shape=(20, 8, 6), block="bottleneck"), id="bottleneck",
    ),
    pytest.param(
        densenet((N, N), growth=2 * k, stem=None, classes=K),
        densenet((3, 3), growth=4, channels=6, stem=None, classes=4, input_shape=(6, 8, 6)), id="densenet",
    ),
    pytest.param(
        transformer(N, dim=4 * d, heads=2, patch=None, classes=K),
        transformer(3, dim=20, heads=2, patch=None, classes=4, input_shape=(7, 20)), id="transformer",
    ),
    pytest.param(
        transformer(N, dim=4 * d, heads=2, patch=2, classes=K, input_shape=(c, H, W)),
        transformer(3, dim=20, heads=2, patch=2, classes=4, input_shape=(5, 8, 6)), id="vit",
    ),
    pytest.param(
        mlp_mixer(N, dim=4 * d, token_dim=s, patch=None, classes=K),
        mlp_mixer(3, dim=20, token_dim=9, patch=None, classes=4, input_shape=(7, 20)), id="mixer",
    ),
    pytest.param(
        mlp_mixer(N, dim=d, token_dim=s, channel_dim=k, patch=2, classes=K, input_shape=(c, H, W)),
        mlp_mixer(3, dim=5, token_dim=9, channel_dim=2, patch=2, classes=4, input_shape=(5, 8, 6)), id="image mixer",
    ),
    pytest.param(
        convnext((N, N), widths=(c, 2 * c), patch=None, classes=K),
        convnext((3, 3), widths=(5, 10), patch=None, classes=4, input_shape=(5, 8, 6)), id="convnext",
    ),
    pytest.param(
        convnext((N,), widths=(d,), patch=2, classes=K, input_shape=(c, H, W)),
        convnext((3,), widths=(5,), patch=2, classes=4, input_shape=(5, 8, 6)), id="convnext with its stem",
    ),
]  # fmt: skip
VALUES = {N: 3, c: 5, k: 2, d: 5, s: 9, K: 4, H: 8, W: 6, size_symbol("c0"): 6, size_symbol("T"): 7} | SIZES


@pytest.mark.parametrize(("symbolic", "written"), FORMS)
def test_symbolic_form_is_the_written_out_one(symbolic, written):
    """With numbers for its symbols, a repeated block gives the layers, wiring, shapes and blocks written out."""
    with pytest.raises(SymbolicSizeError):
        instantiate(symbolic)
    assert any(isinstance(node.layer, Repeat) for node in symbolic.nodes)
    filled, written = symbolic.subs(VALUES), written.subs(VALUES)
    assert filled.is_concrete()
    position, expected = ({name: p for p, name in enumerate(g.order)} for g in (filled, written))
    assert len(position) == len(expected)
    for ours, theirs in zip(filled.nodes, written.nodes, strict=True):
        assert ours.layer == theirs.layer
        assert [position[s] for s in ours.inputs] == [expected[s] for s in theirs.inputs]
        assert filled.shapes[ours.name] == written.shapes[theirs.name]
    assert len(blocks(filled)) == len(blocks(written))


def test_a_stage_that_changes_nothing_is_only_repeated():
    kinds = [type(node.layer) for node in resnet((N,), widths=(c,), stem=None, classes=K).nodes]
    assert kinds == [layers.Input, Repeat, layers.AdaptiveAvgPool2d, layers.Flatten, layers.Linear]
    graph = resnet((N, N), stem="cifar", classes=K)
    assert [(n, graph.layer(n).count) for n in graph.order if isinstance(graph.layer(n), Repeat)] == [
        ("layer1", N),
        ("layer2", N - 1),
    ]


def test_symbolic_sizes_of_outputs():
    assert densenet((N,), growth=k, stem=None, classes=K).shapes["features.denseblock1"] == (
        size_symbol("c0") + N * k, H, W,
    )  # fmt: skip
    assert vgg(depth=N, classes=K).shapes["features"] == (size_at("n", N), H, W)
    assert vgg(depth=N, pool=(2, 2), hidden=(d,), classes=K).layer("classifier.0").in_features == 4 * size_at("n", N)
    assert transformer(N, dim=d, heads=4, patch=None, classes=K).layer("encoder.layers").body.shapes["mlp.0"] == (
        size_symbol("T"), 4 * d,
    )  # fmt: skip


def test_random_networks_of_every_family_are_alive():
    """Random logits differ between inputs and are of order one."""
    graphs = [
        mlp((32, 32), inputs=(1, 8, 8)),
        vgg(((8, 8), (16,)), pool=(1, 1), hidden=(), classes=10, input_shape=(1, 8, 8)),
        resnet((1, 1), stem="cifar", classes=10, input_shape=(1, 8, 8)),
        densenet((2, 2), growth=4, stem="cifar", classes=10, input_shape=(1, 8, 8)),
        transformer(2, dim=16, heads=2, patch=2, classes=10, input_shape=(1, 8, 8)),
        mlp_mixer(2, dim=16, token_dim=8, patch=2, classes=10, input_shape=(1, 8, 8)),
        convnext((2, 2), widths=(8, 16), patch=2, classes=10, input_shape=(1, 8, 8)),
    ]
    for graph in graphs:
        logits = instantiate(graph, seed=1)(torch.randn(8, 1, 8, 8))
        assert logits.shape == (8, 10)
        assert 0.01 < (logits - logits.mean(0)).std() < 30, graph.name
        assert not {p.initial for p in graph_parameters(graph).values()} - set(Initial)


REFUSED = [
    (lambda: mlp(()), r"widths is \(\); expected a tuple of at least one entry"),
    (lambda: mlp((4, 0)), "entry 1 of widths is 0"),
    (lambda: mlp(5), "widths is 5"),
    (lambda: mlp((4,), depth=2), "mlp takes widths or depth, not both"),
    (lambda: mlp(depth=sympy.Symbol("N")), "depth is N; expected a whole number of at least 1 or a symbol for one"),
    (lambda: mlp(depth=-1), "depth is -1"),
    (lambda: mlp((4,), classes=0), "node head .*out_features is 0"),
    (lambda: mlp(depth=N, inputs=(3, 8)), r"node layers \(Repeat\): the input has shape \(24,\)"),
    (lambda: vgg(((4,),), depth=2), "vgg takes stages or depth, not both"),
    (lambda: vgg(((4,), ())), r"stage 1 is \(\)"),
    (lambda: vgg((4, 4)), "stage 0 is 4"),
    (lambda: vgg(()), r"stages is \(\)"),
    (lambda: vgg(input_shape=(3, 32)), r"input_shape is \(3, 32\); expected \(channels, height, width\)"),
    (lambda: PRESETS["vgg11"].build(10, (3, 16, 16)), r"node features.20 \(MaxPool2d\): a window of 2 does not fit"),
    (lambda: resnet((2, 0)), "entry 1 of depths is 0"),
    (lambda: resnet((2, 2), widths=(8,)), r"1 widths \(8,\) for 2 stages"),
    (lambda: resnet(block="wide"), "block is 'wide'; expected 'basic' or 'bottleneck'"),
    (lambda: resnet(stem="none"), "stem is 'none'; expected 'imagenet', 'cifar' or None"),
    (lambda: resnet(input_shape=(3,)), r"input_shape is \(3,\)"),
    (lambda: resnet((2,), widths=(8,), stem=None, input_shape=(0, 4, 4)), "a dimension of the input is 0"),
    (lambda: densenet(stem="vgg"), "stem is 'vgg'"),
    (lambda: densenet(growth=0), "growth is 0"),
    (lambda: densenet(input_shape=(3, 16, 16)), r"node features.transition3.pool \(AvgPool2d\)"),
    (lambda: transformer(0), "depth is 0"),
    (lambda: transformer(2, dim=10, heads=4), "4 does not divide the dim 10"),
    (lambda: transformer(2, input_shape=(3, 30, 32)), r"node conv_proj \(PatchEmbedding\): 16 does not divide"),
    (lambda: transformer(2, patch=0), "patch is 0"),
    (lambda: transformer(2, dim=8, heads=2, patch=None, input_shape=(5, 7)), "7 features in its last dimension"),
    (lambda: mlp_mixer(0), "depth is 0"),
    (lambda: mlp_mixer(2, token_dim=0), "token_dim is 0"),
    (lambda: mlp_mixer(2, channel_dim=-1), "channel_dim is -1"),
    (lambda: mlp_mixer(2, patch=0), "patch is 0"),
    (lambda: mlp_mixer(2, input_shape=(3, 30, 32)), r"node stem.proj \(PatchEmbedding\): 16 does not divide"),
    (lambda: mlp_mixer(2, dim=8, patch=None, input_shape=(5, 7)), "7 features in its last dimension"),
    (lambda: convnext((2, 0)), "entry 1 of depths is 0"),
    (lambda: convnext((2, 2), widths=(8,)), r"1 widths \(8,\) for 2 stages"),
    (lambda: convnext((2,), widths=(0,)), "entry 0 of widths is 0"),
    (lambda: convnext((2,), patch=0), "patch is 0"),
    (lambda: convnext((2,), input_shape=(3, 8)), r"input_shape is \(3, 8\)"),
    (lambda: convnext((1, 1), input_shape=(3, 4, 4)), r"node features.2.1 \(Conv2d\)"),
]


@pytest.mark.parametrize(("build", "message"), REFUSED)
def test_refused_arguments(build, message):
    with pytest.raises((GraphError, ShapeError), match=message):
        build()
