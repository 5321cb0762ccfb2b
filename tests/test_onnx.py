"""Importing ONNX files: the bound of the torch model they were exported from, and onnxruntime's logits."""

import contextlib
import functools
import importlib
import warnings

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import fimtheory as ft
from fimtheory import zoo
from fimtheory.errors import SourceError
from fimtheory.sources import onnx_evaluation
from fimtheory.sources.onnx_operations import registry

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

DYNAMIC = {"dynamo": True, "dynamic_shapes": ({0: torch.export.Dim("batch")},)}
SINGLE = {"dynamo": True}
UNOPTIMISED = {**DYNAMIC, "optimize": False}
SCRIPT = {"dynamo": False, "input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
SCRIPT_SINGLE = {"dynamo": False, "input_names": ["x"]}
EXACT = 1e-9
"""Difference of log10 of the bound from that of the torch model."""
FOLDED = 1e-6
"""The same where the exporter multiplied weights by batch norm, and rounded the products to 32 bits."""


def exported(module, shape, options, path):
    """Export a module to a file with one of torch's exporters, both of which warn about themselves."""
    batch = 2 if "dynamic_shapes" in options or "dynamic_axes" in options else 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.zeros(batch, *shape),), path, verbose=False, **options)
    return path


def bounds_agree(made, expected, tolerance):
    """The product to the tolerance; where weights differ in the last bits, descent finds other multipliers."""
    one, other = (ft.evaluate(ft.derive(graph), graph.model(torch.float64)) for graph in (made, expected))
    for name in ("layers folded, head rule", "centred branches"):
        first, second = ([rung.log10 for rung in each.ladder if rung.name == name] for each in (one, other))
        assert first == pytest.approx(second, rel=1e-12, abs=tolerance)
    assert one.log10 == pytest.approx(other.log10, rel=1e-12, abs=0.02 if tolerance == FOLDED else tolerance)


def logits_agree(graph, path):
    x = torch.randn(1, *graph.shapes[graph.input], generator=torch.Generator().manual_seed(3))
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        logits = graph.model()(x).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def compare(module, shape, options, tolerance, tmp_path):
    path = exported(module, shape, options, tmp_path / "model.onnx")
    made = ft.from_onnx(path)
    assert made.difference is not None
    assert made.difference.float64 <= 1e-12
    expected = reference(module, shape)
    bounds_agree(made, expected, tolerance)
    logits_agree(made, path)
    return made, expected


@functools.cache
def reference(module, shape):
    return ft.from_torch(module, torch.zeros(1, *shape))


@functools.cache
def trained(name):
    return zoo.load(name)


@functools.cache
def small_vit():
    torch.manual_seed(0)
    module = torchvision.models.VisionTransformer(16, 8, 1, 2, 16, 32, num_classes=4).eval()
    return randomised(module)


@torch.no_grad()
def randomised(module):
    """Give every tensor entries of its own: exporters store equal ones once, under one name."""
    for value in module.state_dict().values():
        if value.is_floating_point():
            value += 0.05 * torch.rand(value.shape)
    return module


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.GELU(approximate="tanh"))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = nn.functional.silu(self.norm(self.stem(x)))
        x = nn.functional.max_pool2d(x + self.inner(x), 2)
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


# ---- the same model twice ---------------------------------------------------------------------------------------


def test_a_zoo_model_has_the_bound_it_has_in_torch(tmp_path):
    compare(trained("digits_vit"), (1, 8, 8), DYNAMIC, EXACT, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("digits_mlp", EXACT), ("digits_vgg", EXACT), ("digits_resnet", FOLDED), ("digits_densenet", FOLDED)],
)
@pytest.mark.parametrize("options", [DYNAMIC, SINGLE], ids=["dynamic", "single"])
def test_every_zoo_model_has_the_bound_it_has_in_torch(name, tolerance, options, tmp_path):
    compare(trained(name), (1, 8, 8), options, tolerance, tmp_path)


@pytest.mark.parametrize("options", [SCRIPT, SCRIPT_SINGLE], ids=["dynamic", "single"])
def test_self_attention_is_one_layer_however_it_is_written(options, tmp_path):
    made, expected = compare(small_vit(), (3, 16, 16), options, EXACT, tmp_path)
    kinds = [[type(node.layer).__name__ for node in graph.nodes] for graph in (made, expected)]
    assert kinds[0] == kinds[1]
    assert "MultiHeadSelfAttention" in kinds[0]
    assert {node.block for node in made.nodes} == {node.block for node in expected.nodes}


@pytest.mark.parametrize("options", [SCRIPT, SCRIPT_SINGLE], ids=["dynamic", "single"])
def test_a_residual_network_has_the_bound_it_has_in_torch(options, tmp_path):
    torch.manual_seed(1)
    made, _ = compare(randomised(Residual().eval()), (1, 8, 8), options, FOLDED, tmp_path)
    assert {"head.weight", "head.bias", "inner.0.weight"} <= made.weights.keys()


def test_unrounded_batch_norm_has_exactly_the_bound_it_has_in_torch(tmp_path):
    torch.manual_seed(1)
    compare(randomised(Residual().eval()), (1, 8, 8), UNOPTIMISED, EXACT, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
@pytest.mark.parametrize("options", [DYNAMIC, SCRIPT_SINGLE], ids=["dynamic", "script"])
def test_a_torchvision_model_has_the_bound_it_has_in_torch(name, options, tmp_path):
    torch.manual_seed(0)
    module = getattr(torchvision.models, name)(weights=None, num_classes=10).eval()
    compare(module, (3, 32, 32), options, FOLDED, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("options", [DYNAMIC, SINGLE, UNOPTIMISED], ids=["dynamic", "single", "unoptimised"])
def test_a_vision_transformer_has_the_bound_it_has_in_torch(options, tmp_path):
    compare(small_vit(), (3, 16, 16), options, EXACT, tmp_path)


# ---- models by hand ---------------------------------------------------------------------------------------------


def tensor(array, name, dtype=np.float32):
    return onnx.numpy_helper.from_array(np.asarray(array, dtype=dtype), name)


def value(name, sizes, kind=None):
    return onnx.helper.make_tensor_value_info(name, kind or onnx.TensorProto.FLOAT, sizes)


def node(operator, inputs, outputs=("y",), **attributes):
    return onnx.helper.make_node(operator, list(inputs), list(outputs), name=f"the_{operator}", **attributes)


def save(path, nodes, constants=(), inputs=None, outputs=None, opset=17, domains=()):
    graph = onnx.helper.make_graph(
        nodes, "hand", inputs or [value("x", ["n", 3])], outputs or [value("y", ["n", 2])], list(constants)
    )
    imports = [onnx.helper.make_opsetid("", opset), *(onnx.helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


WEIGHT = np.array([[1.0, 2.0], [-1.0, 0.5], [0.25, 4.0]])


def linear(path, **more):
    return save(path, [node("MatMul", ["x", "w"])], [tensor(WEIGHT, "w")], **more)


def test_half_precision_and_double_precision_weights_are_read(tmp_path):
    for kind, dtype in ((onnx.TensorProto.FLOAT16, np.float16), (onnx.TensorProto.DOUBLE, np.float64)):
        ends = {"inputs": [value("x", ["n", 3], kind)], "outputs": [value("y", ["n", 2], kind)]}
        path = save(tmp_path / "typed.onnx", [node("MatMul", ["x", "w"])], [tensor(WEIGHT, "w", dtype)], **ends)
        (weight,) = ft.from_onnx(path).weights.values()
        assert torch.equal(weight.double(), torch.from_numpy(WEIGHT.T))


def test_data_beside_the_file_are_read(tmp_path):
    path = linear(tmp_path / "m.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert (tmp_path / "w.bin").exists()
    (weight,) = ft.from_onnx(path).weights.values()
    assert torch.equal(weight.double(), torch.from_numpy(WEIGHT.T))


def test_the_output_is_chosen_by_name(tmp_path):
    nodes = [node("MatMul", ["x", "w"]), node("Relu", ["y"], ["z"])]
    path = linear(tmp_path / "m.onnx")
    save(path, nodes, [tensor(WEIGHT, "w")], outputs=[value("y", ["n", 2]), value("z", ["n", 2])])
    with pytest.raises(SourceError, match=r"which output are the logits.*y, z"):
        ft.from_onnx(path)
    with pytest.raises(SourceError, match="no output 'q'; there are y, z"):
        ft.from_onnx(path, output="q")
    assert len(ft.from_onnx(path, output="z")) == len(ft.from_onnx(path, output="y", name="other")) + 1


def test_the_input_is_chosen_by_name(tmp_path):
    ends = {"inputs": [value("x", ["n", 3]), value("m", ["n", 3])]}
    path = save(tmp_path / "m.onnx", [node("MatMul", ["x", "w"])], [tensor(WEIGHT, "w")], **ends)
    assert ft.from_onnx(path).name == "m"
    with pytest.raises(SourceError, match="no input 'q'; there are x, m"):
        ft.from_onnx(path, input="q")
    both = [node("Mul", ["x", "m"], ["h"]), node("MatMul", ["h", "w"])]
    save(path, both, [tensor(WEIGHT, "w")], **ends)
    with pytest.raises(SourceError, match=r"which input.*depends on x, m"):
        ft.from_onnx(path)
    with pytest.raises(SourceError, match="also depends on the inputs m, which have no values"):
        ft.from_onnx(path, input="x")


# ---- what is refused --------------------------------------------------------------------------------------------


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def refused(path, message, **more):
    """Expect one error of one line, and that nothing is written."""
    before = sorted(path.parent.iterdir())
    with pytest.raises(SourceError, match=message) as caught:
        ft.from_onnx(path, **more)
    assert "\n" not in str(caught.value)
    assert sorted(path.parent.iterdir()) == before


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    refused(tmp_path / "none.onnx", "no such file")
    refused(tmp_path, "no such file")


def test_bytes_that_are_no_model_are_refused_and_not_executed(tmp_path):
    pickle = importlib.import_module("pickle")
    path = tmp_path / "m.onnx"
    for content in (b"", bytes(range(256)) * 8, pickle.dumps(Payload(tmp_path / "written")), b"\x08\x08"):
        path.write_bytes(content)
        refused(path, "not an ONNX file")


def test_a_truncated_model_is_refused(tmp_path):
    content = linear(tmp_path / "m.onnx").read_bytes()
    for length in range(1, len(content) - 1, 7):
        (tmp_path / "m.onnx").write_bytes(content[:length])
        refused(tmp_path / "m.onnx", "not an ONNX file|not a valid ONNX model|version of the operator set")


def test_a_damaged_model_is_refused_or_read(tmp_path):
    path = linear(tmp_path / "m.onnx")
    content = path.read_bytes()
    numbers = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(content)
        for at in numbers.integers(len(content), size=2):
            damaged[at] = numbers.integers(256)
        path.write_bytes(bytes(damaged))
        with contextlib.suppress(ft.FimTheoryError):
            ft.from_onnx(path)


@pytest.mark.parametrize("location", ["/etc/hostname", "../secret", "a/../../secret", "C:\\secret", "link", ""])
def test_data_outside_the_folder_are_refused(location, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(24))
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    path = linear(folder / "m.onnx")
    model = onnx.load(path)
    (weight,) = model.graph.initializer
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    path.write_bytes(model.SerializeToString())
    refused(path, "outside the folder of the file")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "gone"}, "no such file"),
        ({"location": "w", "offset": "-4"}, "damaged offset"),
        ({"location": "w", "offset": "8"}, "damaged"),
        ({"location": "w", "length": "12"}, "12 bytes"),
    ],
)
def test_data_that_do_not_fit_are_refused(entries, message, tmp_path):
    (tmp_path / "w").write_bytes(bytes(24))
    path = linear(tmp_path / "m.onnx")
    model = onnx.load(path)
    (weight,) = model.graph.initializer
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, entry in entries.items():
        weight.external_data.add(key=key, value=entry)
    path.write_bytes(model.SerializeToString())
    refused(path, message)


def test_all_unknown_operations_are_named_at_once(tmp_path):
    nodes = [node("STFT", ["x"], ["a"]), node("Det", ["a"], ["b"]), node("Det", ["b"], ["c"])]
    nodes.append(onnx.helper.make_node("Fused", ["c"], ["y"], domain="com.example"))
    path = save(tmp_path / "m.onnx", nodes, domains=("com.example",))
    refused(path, r"cannot be imported: Det \(2\), STFT \(1\), com.example.Fused \(1\)")


def test_functions_and_sparse_tensors_are_refused(tmp_path):
    path = linear(tmp_path / "m.onnx")
    model = onnx.load(path)
    made = onnx.helper.make_function("own", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [])
    model.functions.append(made)
    onnx.save(model, path)
    refused(path, "functions of its own")


INTEGER = 7
BOOL = 9


@pytest.mark.parametrize(
    ("sizes", "kind", "message"),
    [
        (["n", 3], INTEGER, "no derivative"),
        (["n", 3], BOOL, "expected floating-point numbers"),
        (None, 1, "known rank"),
        (["n", "width"], 1, "only the batch may be left open"),
        (["n", None], 1, "only the batch may be left open"),
        ([4, 3], 1, "a batch of exactly 4"),
        ([], 1, "no batch dimension"),
    ],
)
def test_an_input_that_is_no_batch_of_one_shape_is_refused(sizes, kind, message, tmp_path):
    first = node("Cast", ["x"], ["h"], to=1) if kind == INTEGER else node("Identity", ["x"], ["h"])
    nodes = [first, node("MatMul", ["h", "w"])]
    path = save(tmp_path / "m.onnx", nodes, [tensor(WEIGHT, "w")], inputs=[value("x", sizes, kind)])
    refused(path, message)


def test_old_and_new_operator_sets_are_refused(tmp_path):
    refused(linear(tmp_path / "m.onnx", opset=9), "is 9; expected one from 11 to 28")


@pytest.mark.parametrize(
    ("operator", "first", "numbers"),
    [
        ("ConstantOfShape", None, [2**40]),
        ("Expand", "w", [2**20, 2**20, 1, 1]),
        ("Expand", "x", [2**30, 1, 3]),
        ("Tile", "w", [2**20, 2**20]),
    ],
)
def test_a_file_that_asks_for_huge_tensors_is_refused(operator, first, numbers, tmp_path):
    inputs = [name for name in (first, "s") if name]
    nodes = [node(operator, inputs, ["h"]), node("ReduceSum", ["h"], ["t"]), node("Add", ["x", "t"])]
    constants = [tensor(WEIGHT, "w"), tensor(numbers, "s", np.int64)]
    refused(save(tmp_path / "m.onnx", nodes, constants, outputs=[value("y", ["n", 3])]), "the_.*too large")


def test_constants_that_are_huge_together_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_evaluation, "MOST_ENTRIES", 10)
    nodes = [*(node("ConstantOfShape", ["s"], [name]) for name in "abc"), node("Sum", ["x", "a", "b", "c"])]
    path = save(tmp_path / "m.onnx", nodes, [tensor([4, 1], "s", np.int64)], outputs=[value("y", ["n", 3])])
    refused(path, "constants computed so far")


def test_what_an_operation_does_not_read_is_refused(tmp_path, monkeypatch):
    path = save(tmp_path / "m.onnx", [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"])], [tensor(WEIGHT, "w")])
    monkeypatch.setitem(registry._OPERATIONS, "Relu", lambda call: call.inputs[0])
    refused(path, r"node the_Relu \(Relu\): input 0 cannot be imported")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (node("Dropout", ["h", "ratio", "training"]), "training mode"),
        (node("Reshape", ["h", "bad"]), "the_Reshape"),
        (node("Div", ["weight", "h"]), "no global Lipschitz constant"),
        (node("Pow", ["h", "h"]), "no layer"),
        (node("Softmax", ["h"], axis=0), "depends on the size of the batch"),
        (node("TopK", ["h", "k"], ["values", "y"]), "TopK"),
        (node("Cast", ["h"], to=7), "no derivative"),
    ],
    ids=lambda made: getattr(made, "op_type", ""),
)
def test_a_node_without_a_layer_is_named(made, message, tmp_path):
    constants = [
        tensor(WEIGHT, "w"), tensor(0.5, "ratio"), tensor(True, "training", bool), tensor([7, 7], "bad", np.int64),
        tensor([1, 1], "weight"), tensor([1], "k", np.int64),
    ]  # fmt: skip
    kind = INTEGER if made.op_type in ("TopK", "Cast") else 1
    path = save(
        tmp_path / "m.onnx", [node("MatMul", ["x", "w"], ["h"]), made], constants, outputs=[value("y", ["n", 2], kind)]
    )
    refused(path, message)


def test_a_file_for_one_input_that_joins_inputs_is_refused(tmp_path):
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Softmax", ["h"], axis=0)]
    path = save(tmp_path / "m.onnx", nodes, [tensor(WEIGHT, "w")], inputs=[value("x", [1, 3])])
    refused(path, "batch of exactly 1 and could not be widened")


def test_without_the_package_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    path = linear(tmp_path / "m.onnx")
    monkeypatch.setitem(importlib.import_module("sys").modules, "onnx", None)
    with pytest.raises(SourceError, match=r"pip install fimtheory\[onnx\]"):
        ft.from_onnx(path)
