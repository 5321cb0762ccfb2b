"""An ONNX file as a torch module: what depends on the input stays an operation, everything else is computed before.

Shapes are fixed, so all arithmetic on shapes is constant.  A file made for a batch of exactly one input is widened to
several, and compared with itself afterwards.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from fimtheory.errors import SourceError
from fimtheory.sources.onnx_files import OnnxFile, OnnxInput, OnnxNode
from fimtheory.sources.onnx_operations import Call, operation_of
from fimtheory.sources.onnx_operations.registry import MANY
from fimtheory.sources.program import BATCH

__all__ = ["OnnxModule", "onnx_module"]

MOST_ENTRIES = 2**28
"""Most entries of one value, and of all constants that are computed: a file could ask for any number."""
_MOST_LISTED = 4096
_OF_SHAPES = {"Shape": 0, "Size": 0, "CastLike": 1}
"""Operators whose result depends on the values of that many of their first inputs only."""
_WIDENED = 1e-9
"""Largest difference between a batch and its inputs one by one, relative to the scale of the output."""


@final
@dataclass(frozen=True, eq=False)
class _Step:
    """An operation that depends on the input, and the entries of its inputs that are constants."""

    node: OnnxNode
    numbers: tuple[Any, ...]


@final
class OnnxModule(nn.Module):
    """The operations of a file in evaluation; tensors have the names that the file gives them."""

    def __init__(
        self, steps: Sequence[_Step], constants: Mapping[str, Tensor], opset: int, start: str, end: str
    ) -> None:
        super().__init__()
        self._steps = tuple(steps)
        self._opset, self._start, self._end = opset, start, end
        self._last = {name: step for step in steps for name in step.node.inputs}
        used = dict.fromkeys(name for step in steps for name in step.node.inputs if name in constants)
        self._keys = {name: _place(self, name, constants[name]) for name in used}
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for a batch of inputs."""
        values = {self._start: x}
        for step in self._steps:
            node = step.node
            inputs = tuple(self._value(values, name) for name in node.inputs)
            call = Call(self._opset, node.attributes, inputs, step.numbers, len(node.outputs))
            values.update(zip(node.outputs, _results(operation_of(node.operator)(call)), strict=False))
            for name in set(node.inputs):
                if self._last[name] is step and name != self._end:
                    values.pop(name, None)
        return values[self._end]

    def _value(self, values: Mapping[str, Tensor], name: str) -> Tensor | None:
        if name in self._keys:
            path, _, attribute = self._keys[name].rpartition(".")
            return getattr(self.get_submodule(path), attribute)
        return values[name] if name else None


def _results(result: Any) -> tuple[Tensor, ...]:
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def _place(module: nn.Module, name: str, value: Tensor) -> str:
    """Register a tensor under its own name, as far as torch can, and return its key."""
    parts = [part for part in re.sub(r"[^0-9A-Za-z_.]+", "_", name).strip("_").split(".") if part] or ["constant"]
    owner = module
    for at, part in enumerate(parts):
        last = at == len(parts) - 1
        while hasattr(owner, part) and (last or part not in owner._modules):
            part += "_"
        parts[at] = part
        if not last:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
    if value.is_floating_point():
        owner.register_parameter(parts[-1], nn.Parameter(value, requires_grad=False))
    else:
        owner.register_buffer(parts[-1], value)
    return ".".join(parts)


def onnx_module(file: OnnxFile, nodes: Sequence[OnnxNode], start: OnnxInput, end: str) -> OnnxModule:
    """Return the module that computes a value from an input.

    Parameters
    ----------
    file
        What the ONNX file says.
    nodes
        Those of its nodes that the value depends on, in order.
    start, end
        The input, with fixed sizes except perhaps for the first, and the name of the value.

    Raises
    ------
    SourceError
        A node cannot be evaluated, or the file is made for one input and cannot be widened.
    """
    sizes = tuple(int(size) for size in start.sizes[1:])
    if start.sizes[0] != 1:
        return _Evaluation(file, start, (BATCH, *sizes), {}).module(nodes, end)
    single = _Evaluation(file, start, (1, *sizes), {})
    alone = single.module(nodes, end)
    try:
        made = _Evaluation(file, start, (BATCH, *sizes), single.shapes).module(nodes, end)
    except SourceError as error:
        raise SourceError(f"{error}; {_NOT_WIDENED}") from None
    if start.dtype.is_floating_point:
        _compare(made, alone, (BATCH, *sizes), file.name)
    return made


_NOT_WIDENED = "the file is made for a batch of exactly 1 and could not be widened; export it with a dynamic batch"


def _compare(made: OnnxModule, alone: OnnxModule, shape: tuple[int, ...], name: str) -> None:
    """Compare a batch with its inputs one by one, in float64."""
    batch = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    precise = {module: {key: _double(value) for key, value in module.state_dict().items()} for module in (made, alone)}
    with torch.no_grad():
        together = torch.func.functional_call(made, precise[made], (batch,))
        rows = [torch.func.functional_call(alone, precise[alone], (row[None],)) for row in batch]
    expected = torch.cat(rows)
    scale = float(expected.abs().max()) or 1.0
    if together.shape != expected.shape or not float((together - expected).abs().max()) <= _WIDENED * scale:
        raise SourceError(f"{name}: {_NOT_WIDENED}")


def _double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


class _Evaluation:
    """Goes through the nodes once: constants are computed in float64, values that depend on the input have a shape.

    ``single`` holds the shapes for one input, where the file is made for just one and is evaluated for more.
    """

    def __init__(
        self, file: OnnxFile, start: OnnxInput, shape: tuple[int, ...], single: Mapping[str, tuple[int, ...]]
    ) -> None:
        self._file, self._start, self._single = file, start, single
        self._constants = dict(file.constants)
        dtype = torch.float64 if start.dtype.is_floating_point else start.dtype
        self._values = {start.name: torch.empty(shape, dtype=dtype, device="meta")}
        self._computed = 0
        self._steps: list[_Step] = []

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the values that depend on the input."""
        return {name: tuple(value.shape) for name, value in self._values.items()}

    def module(self, nodes: Iterable[OnnxNode], end: str) -> OnnxModule:
        """Return the module of all nodes."""
        for node in nodes:
            try:
                self._evaluate(node)
            except Exception as error:
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                told = lines[0][:300] if lines else type(error).__name__
                raise SourceError(f"{self._file.name}: {node}: {told}") from None
        if end not in self._values:
            raise SourceError(f"{self._file.name}: the output {end} does not depend on the input {self._start.name}")
        steps = _with_biases(self._steps, self._constants, end)
        return OnnxModule(steps, self._constants, self._file.opset, self._start.name, end)

    def _evaluate(self, node: OnnxNode) -> None:
        deciding = node.inputs[: _OF_SHAPES.get(node.operator, len(node.inputs))]
        dependent = any(name in self._values for name in deciding)
        numbers = [_numbers(self._constants.get(name)) for name in node.inputs]
        if dependent and self._single:
            node = self._widened(node, numbers)
        run = operation_of(node.operator)
        call = self._call(node, numbers, real=False)
        results = _results(run(call))
        if call.unread:
            raise SourceError(f"{', '.join(call.unread)} cannot be imported")
        if any(value.numel() > MOST_ENTRIES for value in results):
            raise SourceError(f"a result of shape {tuple(results[0].shape)} is too large")
        if dependent:
            self._steps.append(_Step(node, tuple(numbers)))
            self._values.update(zip(node.outputs, results, strict=False))
            return
        self._computed += sum(value.numel() for value in results)
        if self._computed > MOST_ENTRIES:
            raise SourceError(f"the constants computed so far have more than {MOST_ENTRIES} entries")
        if any(value.is_meta for value in results):
            results = _results(run(self._call(node, numbers, real=True)))
        self._constants.update(zip(node.outputs, results, strict=False))

    def _call(self, node: OnnxNode, numbers: Sequence[Any], real: bool) -> Call:
        inputs = tuple(self._input(name, real) for name in node.inputs)
        return Call(self._file.opset, node.attributes, inputs, tuple(numbers), len(node.outputs))

    def _input(self, name: str, real: bool) -> Tensor | None:
        """Return a value with its entries, or with its shape only."""
        if not name:
            return None
        if name in self._values:
            return self._values[name]
        if name not in self._constants:
            raise SourceError(f"reads {name}, an output that its operation does not have here")
        value = _double(self._constants[name])
        return value if real else value.to("meta")

    def _widened(self, node: OnnxNode, numbers: list[Any]) -> OnnxNode:
        """Return a node made for one input as a node for several; the shape of a reshape changes in ``numbers``."""
        place, name = next((at, name) for at, name in enumerate(node.inputs) if name in self._values)
        before, here = self._single[name], tuple(self._values[name].shape)
        changed = [at for at, (one, many) in enumerate(zip(before, here, strict=True)) if one != many]
        if len(changed) != 1:
            return node
        (batch,) = changed
        if node.operator == "Reshape" and place == 0:
            numbers[1] = _reshaped(before, batch, self._single[node.outputs[0]])
        if node.operator == "Concat" and batch != node.attributes["axis"] % len(here):
            inputs = tuple(self._repeated(each, batch, here[batch]) for each in node.inputs)
            return OnnxNode(node.operator, node.name, inputs, node.outputs, node.attributes)
        return node

    def _repeated(self, name: str, at: int, times: int) -> str:
        """Return the name of a constant, repeated for each input where it was made for one."""
        value = self._constants.get(name)
        if value is None or value.shape[at] != 1:
            return name
        made = f"{name}.batch"
        self._constants[made] = value.expand(*value.shape[:at], times, *value.shape[at + 1 :])
        return made


def _numbers(value: Tensor | None) -> Any:
    if value is None:
        return None
    return value.tolist() if value.numel() <= _MOST_LISTED else MANY


def _reshaped(before: tuple[int, ...], batch: int, target: tuple[int, ...]) -> list[int]:
    """Return the shape that several inputs get where one gets ``target``; the batch is in dimension ``batch``."""
    for at in range(len(target)):
        if math.prod(target[:at]) == math.prod(before[:batch]):
            return [*target[:at], target[at] * BATCH, *target[at + 1 :]]
    raise SourceError(f"the batch has no place in {target}")


def _with_biases(steps: Sequence[_Step], constants: Mapping[str, Tensor], end: str) -> list[_Step]:
    """Join products with a constant matrix and sums with a constant vector, which are one linear layer."""
    readers: dict[str, int] = {}
    for step in steps:
        for name in step.node.inputs:
            readers[name] = readers.get(name, 0) + 1
    products = {
        step.node.outputs[0]: step
        for step in steps
        if step.node.operator == "MatMul" and _rank(constants, step.node.inputs[1]) == 2
        if readers.get(step.node.outputs[0]) == 1 and step.node.outputs[0] != end
    }
    made: dict[str, _Step] = {}
    for step in steps:
        node = step.node
        for first, second in (node.inputs[:2], node.inputs[1::-1]) if node.operator == "Add" else ():
            product = products.get(first)
            if product is None or _rank(constants, second) != 1:
                continue
            factors = product.node.inputs
            if constants[second].shape[0] == constants[factors[1]].shape[1]:
                joined = OnnxNode("MatMul", node.name, (*factors, second), node.outputs, {})
                del made[first]
                step = _Step(joined, (*product.numbers, _numbers(constants[second])))
        made[node.outputs[0]] = step
    return list(made.values())


def _rank(constants: Mapping[str, Tensor], name: str) -> int | None:
    return constants[name].dim() if name in constants else None
