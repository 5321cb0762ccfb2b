"""Each ONNX operator as it is evaluated in torch, beside the cases of the format's definition and onnxruntime."""

import functools
import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch

from fimtheory.errors import SourceError
from fimtheory.sources.onnx_evaluation import onnx_module
from fimtheory.sources.onnx_files import read_onnx
from fimtheory.sources.onnx_operations import Call, operation_of, operators
from fimtheory.sources.onnx_operations.registry import unrounded

onnx = pytest.importorskip("onnx")

RELATIVE = {np.float64: 1e-9, np.float32: 1e-4, np.float16: 2e-2}
"""Some expected values of the definition are written down with four digits."""
WITHOUT_CASES = {"Cast", "CastLike", "PRelu"}
"""Operators whose cases are all of refused types, or refused; they are below."""


class Case(NamedTuple):
    name: str
    call: Call
    expected: list
    tolerance: float


def entries(value):
    """Return an array as the importer holds it, or None for a type it refuses."""
    array = np.asarray(value)
    if array.dtype.kind in "iu":
        return torch.from_numpy(array.astype(np.int64))
    if array.dtype.kind == "f":
        return torch.from_numpy(array.astype(np.float64))
    return torch.from_numpy(np.array(array)) if array.dtype == bool else None


def case_of(test):
    (node,) = test.model.graph.node
    ((inputs, outputs),) = test.data_sets
    given = dict(zip((each.name for each in test.model.graph.input), inputs, strict=True))
    values = tuple(entries(given[name]) if name else None for name in node.input)
    expected = [entries(output) for output in outputs]
    if any(value is None for value in (*expected, *(v for v, name in zip(values, node.input, strict=True) if name))):
        return None
    attributes = {}
    for each in node.attribute:
        value = onnx.helper.get_attribute_value(each)
        if isinstance(value, onnx.TensorProto):
            value = entries(onnx.numpy_helper.to_array(value))
        attributes[each.name] = value.decode() if isinstance(value, bytes) else value
    known = 0 if node.op_type in ("ConstantOfShape", "Range") else 1
    numbers = tuple(None if v is None or k < known else v.tolist() for k, v in enumerate(values))
    opset = next(each.version for each in test.model.opset_import if not each.domain)
    kinds = [np.asarray(each).dtype.type for each in (*inputs, *outputs)]
    tolerance = max(RELATIVE.get(kind, 0.0) for kind in kinds)
    return Case(test.name, Call(opset, attributes, values, numbers, len(node.output)), expected, tolerance)


@functools.cache
def cases():
    """Return the cases of every operator."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {name: [] for name in operators()}
        for test in collect_testcases(None):
            nodes = test.model.graph.node if test.model is not None else ()
            if len(nodes) == 1 and nodes[0].op_type in found and not nodes[0].domain:
                if any(
                    isinstance(value, list | type(None)) for both in test.data_sets for part in both for value in part
                ):
                    continue
                case = case_of(test)
                if case is not None:
                    found[nodes[0].op_type].append(case)
    return found


def evaluated(case, name):
    """Return the results, or None where the case is refused."""
    try:
        results = operation_of(name)(case.call)
    except (SourceError, RuntimeError, IndexError):
        return None
    return None if case.call.unread else results if isinstance(results, tuple) else (results,)


@pytest.mark.parametrize("name", sorted(operators()))
def test_an_operator_returns_what_its_definition_says_or_refuses(name):
    compared = name in WITHOUT_CASES
    for case in cases()[name]:
        results = evaluated(case, name)
        for result, expected in zip(results or (), case.expected, strict=False):
            assert result.shape == expected.shape, case.name
            near = torch.isclose(result.double(), expected.double(), case.tolerance, case.tolerance, equal_nan=True)
            assert bool(near.all()), case.name
            compared += 1
    assert compared


# ---- beside onnxruntime -----------------------------------------------------------------------------------------


class One(NamedTuple):
    """A model of one operator: the shape of its input, its constants and its attributes."""

    operator: str
    opset: int
    shape: tuple
    constants: tuple = ()
    attributes: dict = {}  # noqa: RUF012  read only


def ints(*numbers):
    return np.array(numbers, dtype=np.int64)


def floats(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


ONES = {
    "slopes by channel": One("PRelu", 16, (2, 3, 4), (floats(3, 1),)),
    "slopes by channel with a leading 1": One("PRelu", 16, (2, 3, 4), (floats(1, 3, 1),)),
    "one slope": One("PRelu", 16, (2, 3), (floats(1),)),
    "cast": One("Cast", 13, (2, 3), (), {"to": 11}),
    "cast to the type of a constant": One("CastLike", 15, (2, 3), (floats(1),)),
    "softmax over the rest, version 11": One("Softmax", 11, (2, 3, 4)),
    "log-softmax over the last, version 12": One("LogSoftmax", 12, (2, 3, 4), (), {"axis": 2}),
    "softmax over the last, version 13": One("Softmax", 13, (2, 3, 4)),
    "squeeze by attribute": One("Squeeze", 11, (2, 1, 4, 1), (), {"axes": [1, -1]}),
    "unsqueeze by attribute": One("Unsqueeze", 12, (2, 4), (), {"axes": [1, 3]}),
    "sum by attribute": One("ReduceSum", 12, (2, 3, 4), (), {"axes": [1], "keepdims": 0}),
    "mean by input": One("ReduceMean", 18, (2, 3, 4), (ints(-1),)),
    "pad around space": One("Pad", 13, (2, 3, 4), (ints(0, 0, 1, 0, 0, 2), np.float32(1.5))),
    "pad by reflection": One("Pad", 19, (2, 3, 4), (ints(1, 2),), {"mode": "reflect", "axes": None}),
    "instance norm of one dimension": One("InstanceNormalization", 11, (2, 3, 5), (floats(3), floats(3))),
    "layer norm over two": One("LayerNormalization", 17, (2, 3, 4), (floats(3, 4), floats(3, 4)), {"axis": 1}),
    "uneven convolution": One("Conv", 11, (2, 4, 7), (floats(6, 2, 3),), {"pads": [0, 2], "group": 2}),
    "same convolution": One(
        "Conv", 11, (2, 2, 7, 6), (floats(3, 2, 3, 3), floats(3)), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}
    ),
    "transposed convolution": One(
        "ConvTranspose", 11, (2, 4, 5, 5), (floats(4, 3, 3, 3), floats(6)),
        {"group": 2, "strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    ),
    "dilated transposed convolution": One(
        "ConvTranspose", 11, (2, 2, 5), (floats(2, 3, 3),), {"dilations": [2], "strides": [3]}
    ),
    "uneven maximum": One("MaxPool", 12, (2, 2, 7), (), {"kernel_shape": [3], "strides": [2], "pads": [0, 1]}),
    "maximum up to the end": One("MaxPool", 12, (2, 2, 6), (), {"kernel_shape": [3], "strides": [2], "ceil_mode": 1}),
    "mean without padding": One("AveragePool", 11, (2, 2, 6), (), {"kernel_shape": [3], "pads": [1, 1]}),
    "uneven mean with padding": One(
        "AveragePool", 11, (2, 2, 6), (), {"kernel_shape": [3], "pads": [0, 1], "count_include_pad": 1}
    ),
    "resize twofold": One("Resize", 13, (2, 2, 3, 4), (floats(0), np.float32([1, 1, 2, 2])), {"mode": "nearest"}),
    "resize as old exporters write it": One(
        "Resize", 11, (2, 2, 3, 4), (floats(0), np.float32([1, 1, 2, 3])),
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    "resize bilinearly": One(
        "Resize", 13, (2, 2, 3, 4), (floats(0), floats(0), ints(2, 2, 5, 7)), {"mode": "linear"}
    ),
    "resize between corners": One(
        "Resize", 13, (2, 2, 3, 4), (floats(0), floats(0), ints(2, 2, 5, 7)),
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
    "resize by cubics": One("Resize", 13, (2, 2, 4, 4), (floats(0), floats(0), ints(2, 2, 7, 6)), {"mode": "cubic"}),
    "gather rows": One("Gather", 13, (2, 5, 3), (np.array([[1, -1], [0, 2]]),), {"axis": 1}),
    "gather in order": One("Gather", 13, (2, 6), (np.arange(6).reshape(3, 2),), {"axis": 1}),
    "slice backwards": One("Slice", 13, (2, 6), (ints(-1), ints(-7), ints(1), ints(-2))),
    "split by attribute": One("Split", 11, (2, 6), (), {"axis": 1, "split": [2, 4]}),
    "depth to space": One("DepthToSpace", 13, (2, 8, 2, 3), (), {"blocksize": 2, "mode": "CRD"}),
    "gemm": One("Gemm", 13, (2, 4), (floats(4, 3), floats(1, 3)), {"alpha": 0.5, "beta": 2.0}),
    "product on the left": One("MatMul", 13, (2, 4, 3), (floats(5, 4),), {"first": True}),
    "local response": One("LRN", 13, (2, 5, 3, 3), (), {"size": 3, "alpha": 0.3, "bias": 2.0}),
    "clip": One("Clip", 13, (2, 3), (np.float32(-0.5), np.float32(0.25))),
}  # fmt: skip


def saved(one, path):
    """Write the model and return its path."""
    attributes = {key: value for key, value in one.attributes.items() if value is not None and key != "first"}
    names = [f"c{k}" for k in range(len(one.constants))]
    inputs = [*names, "x"] if one.attributes.get("first") else ["x", *names]
    if one.operator == "Pad" and len(names) == 1:
        one = one._replace(constants=(*one.constants, np.float32(0), ints(2)))
        names, inputs = ["c0", "c1", "c2"], ["x", "c0", "c1", "c2"]
    outputs = ["y", "z"] if one.operator == "Split" else ["y"]
    node = onnx.helper.make_node(one.operator, inputs, outputs, **attributes)
    kind = onnx.TensorProto.DOUBLE if one.operator == "Cast" else onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", *one.shape[1:]])],
        [onnx.helper.make_tensor_value_info(outputs[-1], kind, None)],
        [onnx.numpy_helper.from_array(np.asarray(c), n) for c, n in zip(one.constants, names, strict=True)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", one.opset)], ir_version=8)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


@pytest.mark.parametrize("one", ONES.values(), ids=ONES)
def test_a_model_of_one_operator_computes_what_onnxruntime_does(one, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    path = saved(one, tmp_path / "one.onnx")
    file = read_onnx(path, operators())
    module = onnx_module(file, file.nodes, file.inputs[0], file.outputs[0])
    x = np.random.default_rng(2).normal(size=one.shape).astype(np.float32)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x})
    result = module(torch.from_numpy(x))
    assert result.shape == expected.shape
    assert torch.allclose(result, torch.from_numpy(expected).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("number", "read", "decimal"),
    [
        (2**0.5, 2**0.5, False),
        (-(8**-0.25), -(8**-0.25), False),
        ((2 / np.pi) ** 0.5, (2 / np.pi) ** 0.5, False),
        (0.044715, 0.044715, False),
        (0.3, float(np.float32(0.3)), False),
        (0.3, 0.3, True),
        (1 / 6, 1 / 6, True),
        (1e-5, 1e-5, True),
        (0.123456789, float(np.float32(0.123456789)), True),
        (3.0, 3.0, True),
        (0.0, 0.0, True),
        (float("inf"), float("inf"), True),
    ],
)
def test_numbers_of_32_bits_are_read_as_what_they_round(number, read, decimal):
    assert unrounded(float(np.float32(number)), decimal) == read
