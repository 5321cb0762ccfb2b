"""An ONNX file with its sizes fixed: what depends on the input becomes a module, everything else is computed.

With fixed sizes all arithmetic on shapes is constant.  A file made for a batch of exactly one input is widened to
several: its reshapes get the batch in one of their dimensions, and the result is compared with the file itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fimtheory.errors import SourceError
from fimtheory.sources.onnx_files import OnnxFile, OnnxInput, OnnxNode
from fimtheory.sources.onnx_modules import OnnxModule, Step, results_of, with_biases
from fimtheory.sources.onnx_operations import Call, operation_of
from fimtheory.sources.onnx_operations.registry import MANY
from fimtheory.sources.program import BATCH, first_line

__all__ = ["onnx_module"]

MOST_ENTRIES = 2**28
"""Most entries of one value, and of all constants that are computed: a file could ask for any number."""
_MOST_LISTED = 4096
_MOST_FAILURES = 1000
"""Most places of a batch that are tried in vain."""
_OF_SHAPES = {"Shape": 0, "Size": 0, "CastLike": 1}
"""Operators whose result depends on the values of that many of their first inputs only."""
_WIDENED = 1e-9
"""Largest difference between a batch and its inputs one by one, relative to the scale of the output."""
_DEPENDS = "what it computes for one input depends on the size of the batch"
_NOT_WIDENED = "the file is made for a batch of exactly 1 and could not be widened; export it with a dynamic batch"


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
    single = _evaluated(_Evaluation(file, start, (1, *sizes), {}), nodes)
    alone, fixed = single.module(end), start.sizes[0] == 1
    try:
        made = _evaluated(_Evaluation(file, start, (BATCH, *sizes), single.shapes if fixed else {}), nodes).module(end)
    except SourceError as error:
        raise SourceError(f"{error}; {_NOT_WIDENED}" if fixed else str(error)) from None
    if start.dtype.is_floating_point:
        _compare(made, alone, (BATCH, *sizes), f"{file.name}: {_NOT_WIDENED if fixed else _DEPENDS}")
    return made


def _compare(made: OnnxModule, alone: OnnxModule, shape: tuple[int, ...], reason: str) -> None:
    """Compare a batch with its inputs one by one, in float64."""
    batch = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wide = {module: {key: _double(value) for key, value in module.state_dict().items()} for module in (made, alone)}
    with torch.no_grad():
        together = torch.func.functional_call(made, wide[made], (batch,))
        expected = torch.cat([torch.func.functional_call(alone, wide[alone], (row[None],)) for row in batch])
    known = expected[expected.isfinite()]
    scale = float(known.abs().max()) if known.numel() and bool(known.any()) else 1.0
    close = together.shape == expected.shape and torch.isclose(
        together, expected, rtol=0.0, atol=_WIDENED * scale, equal_nan=True
    )
    if not torch.as_tensor(close).all():
        raise SourceError(reason)


def _double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


class _Evaluation:
    """Values so far: constants, computed in float64, and the shapes of what depends on the input.

    ``single`` holds the shapes for one input, where the file is made for just one and is evaluated for more.
    """

    def __init__(
        self, file: OnnxFile, start: OnnxInput, shape: tuple[int, ...], single: Mapping[str, tuple[int, ...]]
    ) -> None:
        self.file, self._start, self._single = file, start, single
        self._constants = dict(file.constants)
        dtype = torch.float64 if start.dtype.is_floating_point else start.dtype
        self._values = {start.name: torch.empty(shape, dtype=dtype, device="meta")}
        self._computed = 0
        self._steps: list[Step] = []

    def copy(self) -> _Evaluation:
        """Return the same state, to go on from in another way."""
        made = _Evaluation(self.file, self._start, tuple(self._values[self._start.name].shape), self._single)
        made._constants, made._values = dict(self._constants), dict(self._values)
        made._computed, made._steps = self._computed, list(self._steps)
        return made

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the values that depend on the input."""
        return {name: tuple(value.shape) for name, value in self._values.items()}

    def module(self, end: str) -> OnnxModule:
        """Return the module of all nodes so far."""
        if end not in self._values:
            raise SourceError(f"{self.file.name}: the output {end} does not depend on the input {self._start.name}")
        steps = with_biases(self._steps, self._constants, end)
        return OnnxModule(steps, self._constants, self.file.opset, self._start.name, end)

    def targets(self, node: OnnxNode) -> list[list[int] | None]:
        """Return the shapes a reshape for one input may have for several, likely ones first; else the one given."""
        if not self._single or node.operator != "Reshape" or node.inputs[0] not in self._values:
            return [None]
        target = self._single[node.outputs[0]]
        at = self._batch(node.inputs[0])
        before = 1 if at is None else math.prod(self._single[node.inputs[0]][:at])
        places = sorted(range(len(target)), key=lambda place: math.prod(target[:place]) != before)
        return [[*target[:place], target[place] * BATCH, *target[place + 1 :]] for place in places]

    def evaluate(self, node: OnnxNode, target: list[int] | None) -> None:
        """Compute a constant, or take a step of the module; ``target`` replaces the shape of a reshape."""
        deciding = node.inputs[: _OF_SHAPES.get(node.operator, len(node.inputs))]
        dependent = any(name in self._values for name in deciding)
        if dependent and self._single and node.operator == "Concat":
            node = self._repeated(node)
        numbers = [_numbers(self._constants.get(name)) for name in node.inputs]
        if target is not None:
            numbers[1] = target
        run = operation_of(node.operator)
        call = self._call(node, numbers, real=False)
        results = results_of(run(call))
        if call.unread:
            raise SourceError(f"{', '.join(call.unread)} cannot be imported")
        if any(value.numel() > MOST_ENTRIES for value in results):
            raise SourceError(f"a result of shape {tuple(results[0].shape)} is too large")
        if dependent:
            self._steps.append(Step(node, tuple(numbers)))
            self._values.update(zip(node.outputs, results, strict=False))
            return
        self._computed += sum(value.numel() for value in results)
        if self._computed > MOST_ENTRIES:
            raise SourceError(f"the constants computed so far have more than {MOST_ENTRIES} entries")
        if any(value.is_meta for value in results):
            results = results_of(run(self._call(node, numbers, real=True)))
        self._constants.update(zip(node.outputs, results, strict=False))

    def _call(self, node: OnnxNode, numbers: Sequence[Any], real: bool) -> Call:
        inputs = tuple(self._input(name, real) for name in node.inputs)
        return Call(self.file.opset, node.attributes, inputs, tuple(numbers), len(node.outputs))

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

    def _batch(self, name: str) -> int | None:
        """Return the dimension of a value that grows with the number of inputs."""
        both = zip(self._single[name], self._values[name].shape, strict=True)
        changed = [at for at, (one, more) in enumerate(both) if one != more]
        return changed[0] if len(changed) == 1 else None

    def _repeated(self, node: OnnxNode) -> OnnxNode:
        """Return a concatenation whose constants, made for one input, are repeated for each."""
        name = next(name for name in node.inputs if name in self._values)
        at, shape = self._batch(name), self._values[name].shape
        if at is None or at == node.attributes["axis"] % len(shape):
            return node
        inputs = []
        for each in node.inputs:
            value = self._constants.get(each)
            if value is not None and value.shape[at] == 1:
                each = f"{each}.batch"
                self._constants[each] = value.expand(*value.shape[:at], shape[at], *value.shape[at + 1 :])
            inputs.append(each)
        return OnnxNode(node.operator, node.name, tuple(inputs), node.outputs, node.attributes)


def _evaluated(evaluation: _Evaluation, nodes: Sequence[OnnxNode]) -> _Evaluation:
    """Go through all nodes; where one fails, the last reshape that may have another shape gets that."""
    pending: list[tuple[int, _Evaluation, list[list[int] | None]]] = []
    position, failures = 0, list[SourceError]()
    targets = evaluation.targets(nodes[0])
    while position < len(nodes):
        if len(targets) > 1:
            pending.append((position, evaluation.copy(), targets[1:]))
        try:
            _evaluate(evaluation, nodes[position], targets[0])
        except SourceError as error:
            failures.append(error)
            if not pending or len(failures) > _MOST_FAILURES:
                raise failures[0] from None
            position, evaluation, targets = pending.pop()
            continue
        position += 1
        targets = evaluation.targets(nodes[position]) if position < len(nodes) else []
    return evaluation


def _evaluate(evaluation: _Evaluation, node: OnnxNode, target: list[int] | None) -> None:
    try:
        evaluation.evaluate(node, target)
    except Exception as error:
        raise SourceError(f"{evaluation.file.name}: {node}: {first_line(error)}") from None


def _numbers(value: Tensor | None) -> Any:
    if value is None:
        return None
    return value.tolist() if value.numel() <= _MOST_LISTED else MANY
