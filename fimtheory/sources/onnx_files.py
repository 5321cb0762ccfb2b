"""ONNX files: read, checked, and turned into plain nodes and tensors.  Nothing in a file is executed.

Data outside the file is read from the file's own folder only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import ModuleType
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from fimtheory.errors import SourceError
from fimtheory.sources.program import first_line

__all__ = ["MOST_BYTES", "OPSETS", "OnnxFile", "OnnxInput", "OnnxNode", "read_onnx"]

MOST_BYTES = 2**31
"""Largest file, and largest sum of the data outside it: the limit of the format itself."""
OPSETS = range(11, 29)
"""Versions of the operator set whose definitions the operations follow."""


@final
@dataclass(frozen=True, eq=False)
class OnnxNode:
    """One operation: its names of values ("" for an input or output that is left out) and its attributes."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def __str__(self) -> str:
        return f"node {self.name or self.outputs[0]} ({self.operator})"


@final
@dataclass(frozen=True, slots=True)
class OnnxInput:
    """An input: its sizes, where a name stands for a size that is not fixed."""

    name: str
    dtype: torch.dtype
    sizes: tuple[int | str, ...]


@final
@dataclass(frozen=True, eq=False)
class OnnxFile:
    """What an ONNX file says: nodes in order, constants, inputs and names of the outputs."""

    name: str
    opset: int
    nodes: tuple[OnnxNode, ...]
    constants: Mapping[str, Tensor]
    inputs: tuple[OnnxInput, ...]
    outputs: tuple[str, ...]


def read_onnx(path: str | Path, operators: frozenset[str]) -> OnnxFile:
    """Return what a file says.

    Parameters
    ----------
    path
        An ONNX file of at most 2 GB, with an operator set of version 11 to 28.
    operators
        Names of the operations that can be evaluated.

    Raises
    ------
    SourceError
        The package ``onnx`` is missing; there is no such file, or it is not a valid model; it holds operations or
        types that are not supported (all are named), or data outside its folder.
    """
    where = Path(path)
    onnx = _onnx()
    if not where.is_file():
        raise SourceError(f"{where}: no such file")
    if where.stat().st_size > MOST_BYTES:
        raise SourceError(f"{where}: larger than 2 GB, the most an ONNX file may have; keep its weights outside it")
    try:
        model = onnx.load_model_from_string(where.read_bytes())
    except Exception:
        raise SourceError(f"{where}: not an ONNX file, or damaged") from None
    if not model.graph.node:
        raise SourceError(f"{where}: not an ONNX file (it holds no nodes)")
    opset = _opset(model, where)
    _refuse_unsupported(model, operators, where)
    _refuse_outside(model, where)
    inputs = _inputs(onnx, model, where)
    try:
        onnx.checker.check_model(str(where))
    except Exception as error:
        raise SourceError(f"{where}: not a valid ONNX model: {first_line(error)}") from None
    return _plain(onnx, model, opset, inputs, where)


def _onnx() -> ModuleType:
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError:
        raise SourceError("reading ONNX files needs the package onnx; pip install fimtheory[onnx]") from None
    return onnx


# ---- what is refused --------------------------------------------------------------------------------------------


def _opset(model: Any, where: Path) -> int:
    versions = [each.version for each in model.opset_import if each.domain in ("", "ai.onnx")]
    if len(versions) != 1 or versions[0] not in OPSETS:
        told = ", ".join(map(str, versions)) or "none"
        raise SourceError(
            f"{where}: version of the operator set is {told}; expected one from {OPSETS[0]} to {OPSETS[-1]} (export "
            "again, or convert with onnx.version_converter)"
        )
    return int(versions[0])


def _refuse_unsupported(model: Any, operators: frozenset[str], where: Path) -> None:
    """Name every operation that cannot be read at once."""
    unknown: dict[str, int] = {}
    for node in model.graph.node:
        own = node.domain in ("", "ai.onnx")
        if not own or (node.op_type not in operators and node.op_type != "Constant"):
            label = node.op_type if own else f"{node.domain}.{node.op_type}"
            unknown[label] = unknown.get(label, 0) + 1
    if unknown:
        listed = ", ".join(f"{label} ({count})" for label, count in sorted(unknown.items()))
        raise SourceError(
            f"{where}: operations that cannot be imported: {listed}. Export the model with standard operations, or "
            "build its graph with ft.Builder"
        )
    if model.functions:
        raise SourceError(f"{where}: holds functions of its own; write them out with onnx.inliner first")
    if model.graph.sparse_initializer:
        raise SourceError(f"{where}: holds sparse tensors; store them densely")


def _tensors(model: Any) -> Iterator[Any]:
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def _refuse_outside(model: Any, where: Path) -> None:
    """Refuse data that a path names outside the file's folder, before anything opens it."""
    folder = where.parent.resolve()
    total = 0
    for tensor in _tensors(model):
        if tensor.data_location != tensor.EXTERNAL:
            continue
        location, _, length = _external(tensor, where)
        windows = PureWindowsPath(location)
        named = PurePosixPath(location)
        inside = (folder / location).resolve()
        if (
            not location or named.is_absolute() or windows.drive or windows.is_absolute() or ".." in windows.parts
            or ".." in named.parts or not inside.is_relative_to(folder)
        ):  # fmt: skip
            raise SourceError(
                f"{where}: tensor {tensor.name} has its data in {location!r}, outside the folder of the file; that "
                "is not read"
            )
        if not inside.is_file():
            raise SourceError(f"{where}: tensor {tensor.name} has its data in {location!r}; there is no such file")
        total += length if length is not None else inside.stat().st_size
    if total > MOST_BYTES:
        raise SourceError(f"{where}: {total} bytes of data outside the file; expected at most 2 GB")


def _external(tensor: Any, where: Path) -> tuple[str, int, int | None]:
    """Return where the data of a tensor lie: path, offset and length (None for the rest of the file)."""
    told = {entry.key: entry.value for entry in tensor.external_data}
    numbers = [told.get("offset", "0"), told.get("length")]
    if any(number is not None and not number.isdecimal() for number in numbers):
        raise SourceError(f"{where}: tensor {tensor.name} has a damaged offset or length")
    return told.get("location", ""), int(numbers[0] or 0), None if numbers[1] is None else int(numbers[1])


# ---- plain nodes and tensors ------------------------------------------------------------------------------------


def _plain(onnx: ModuleType, model: Any, opset: int, inputs: tuple[OnnxInput, ...], where: Path) -> OnnxFile:
    constants = {each.name: _tensor(onnx, each, where) for each in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        attributes = {each.name: _attribute(onnx, each, where) for each in node.attribute}
        if node.op_type == "Constant":
            (value,) = attributes.values()
            constants[node.output[0]] = value if isinstance(value, Tensor) else _constant(value, node.name, where)
        else:
            nodes.append(OnnxNode(node.op_type, node.name, tuple(node.input), tuple(node.output), attributes))
    return OnnxFile(where.stem, opset, tuple(nodes), constants, inputs, tuple(each.name for each in model.graph.output))


def _attribute(onnx: ModuleType, attribute: Any, where: Path) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.type == attribute.TENSOR:
        return _tensor(onnx, value, where)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if attribute.type in (attribute.INT, attribute.FLOAT):
        return value
    if attribute.type in (attribute.INTS, attribute.FLOATS):
        return list(value)
    raise SourceError(f"{where}: attribute {attribute.name} is of a type that is not supported")


def _constant(value: Any, name: str, where: Path) -> Tensor:
    """Return a constant that is written as numbers; those with a fraction have 32 bits."""
    if isinstance(value, str):
        raise SourceError(f"{where}: constant {name} is a text; expected numbers")
    made = torch.tensor(value)
    return made if made.is_floating_point() else made.to(torch.int64)


def _tensor(onnx: ModuleType, tensor: Any, where: Path) -> Tensor:
    """Return a tensor; 16-bit floating-point numbers have 32 bits afterwards, integers 64."""
    try:
        if tensor.data_location == tensor.EXTERNAL:
            made = _outside(onnx, tensor, where)
        else:
            made = onnx.numpy_helper.to_array(tensor)
    except SourceError:
        raise
    except Exception as error:
        raise SourceError(f"{where}: tensor {tensor.name} is damaged: {first_line(error)}") from None
    kind = onnx.TensorProto.DataType.Name(tensor.data_type)
    if kind in ("FLOAT16", "BFLOAT16"):
        made = made.astype(np.float32)
    elif kind in ("INT8", "INT16", "INT32", "UINT8", "UINT16", "UINT32"):
        made = made.astype(np.int64)
    elif kind not in ("FLOAT", "DOUBLE", "INT64", "BOOL"):
        raise SourceError(f"{where}: tensor {tensor.name} has type {kind}, which is not supported")
    return torch.from_numpy(np.array(made, order="C", copy=True))


def _outside(onnx: ModuleType, tensor: Any, where: Path) -> np.ndarray:
    location, offset, length = _external(tensor, where)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    count = math.prod(tensor.dims)
    if length is not None and length != count * dtype.itemsize:
        raise SourceError(f"{where}: tensor {tensor.name} of shape {tuple(tensor.dims)} has {length} bytes of data")
    with (where.parent / location).open("rb") as file:
        file.seek(offset)
        data = file.read(count * dtype.itemsize)
    return np.frombuffer(data, dtype.newbyteorder("<"), count).reshape(tuple(tensor.dims))


def _inputs(onnx: ModuleType, model: Any, where: Path) -> tuple[OnnxInput, ...]:
    """Return the inputs; older files list their constants among them."""
    constants = {each.name for each in model.graph.initializer}
    return tuple(_input(onnx, each, where) for each in model.graph.input if each.name not in constants)


def _input(onnx: ModuleType, value: Any, where: Path) -> OnnxInput:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        raise SourceError(f"{where}: input {value.name} is not a tensor of known rank; export the model with shapes")
    sizes = tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"dimension {at}"
        for at, dim in enumerate(kind.shape.dim)
    )
    name = onnx.TensorProto.DataType.Name(kind.elem_type)
    if name in ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"):
        dtype = torch.float32
    elif name in ("INT64", "INT32"):
        dtype = torch.int64
    else:
        raise SourceError(f"{where}: input {value.name} has type {name}; expected floating-point numbers")
    return OnnxInput(value.name, dtype, sizes)
