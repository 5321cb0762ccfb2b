"""The operations of an ONNX file that depend on its input, as a torch module."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor, nn

from fimtheory.sources.onnx_files import OnnxNode
from fimtheory.sources.onnx_operations import Call, operation_of

__all__ = ["OnnxModule", "Step", "results_of", "with_biases"]


@final
@dataclass(frozen=True, eq=False)
class Step:
    """An operation that depends on the input, and the entries of its inputs that are constants."""

    node: OnnxNode
    numbers: tuple[Any, ...]


@final
class OnnxModule(nn.Module):
    """The operations of a file in evaluation; tensors have the names that the file gives them."""

    def __init__(
        self, steps: Sequence[Step], constants: Mapping[str, Tensor], opset: int, start: str, end: str
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
            values.update(zip(node.outputs, results_of(operation_of(node.operator)(call)), strict=False))
            for name in set(node.inputs):
                if self._last[name] is step and name != self._end:
                    values.pop(name, None)
        return values[self._end]

    def _value(self, values: Mapping[str, Tensor], name: str) -> Tensor | None:
        if name in self._keys:
            path, _, attribute = self._keys[name].rpartition(".")
            return getattr(self.get_submodule(path), attribute)
        return values[name] if name else None


def results_of(result: Any) -> tuple[Tensor, ...]:
    """Return the results of an operation, of which most have one."""
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


def with_biases(steps: Sequence[Step], constants: Mapping[str, Tensor], end: str) -> list[Step]:
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
    made: dict[str, Step] = {}
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
                step = Step(joined, (*product.numbers, constants[second].tolist()))
        made[node.outputs[0]] = step
    return list(made.values())


def _rank(constants: Mapping[str, Tensor], name: str) -> int | None:
    return constants[name].dim() if name in constants else None
