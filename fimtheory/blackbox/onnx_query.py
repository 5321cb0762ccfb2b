"""A model in an ONNX file, run by onnxruntime, as a black box."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import numpy as np

from fimtheory.errors import SourceError

__all__ = ["OnnxQuery"]

_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}


@final
class OnnxQuery:
    """One output of a model as a function of its only input.

    A model that was exported for a fixed batch is run in batches of that size, the last one filled up with its own
    last input.

    Parameters
    ----------
    path : str or Path
        The .onnx file.
    output : str, optional
        Which output to read, where there are several.

    Attributes
    ----------
    input_shape : tuple of int or None
        Shape of one input, where the file fixes it.

    Raises
    ------
    SourceError
        onnxruntime is missing, the file cannot be loaded, or it has not one real input and that output.
    """

    def __init__(self, path: str | Path, *, output: str | None = None) -> None:
        try:
            import onnxruntime  # an optional dependency
        except ImportError:
            raise SourceError(
                "ONNX models are queried by onnxruntime; install it with: pip install 'fimtheory[blackbox]'"
            ) from None
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4  # what goes wrong is raised below
        try:
            self._session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base
            raise SourceError(f"{path}: onnxruntime cannot load it: {' '.join(str(error).split())[:300]}") from None
        inputs, outputs = self._session.get_inputs(), [found.name for found in self._session.get_outputs()]
        if len(inputs) != 1 or inputs[0].type not in _TYPES:
            found = ", ".join(f"{each.name} {each.type}" for each in inputs)
            raise SourceError(f"{path}: inputs are {found or 'none'}; expected one tensor of real numbers")
        if output is None and len(outputs) != 1:
            raise SourceError(f"{path}: outputs are {', '.join(outputs)}; say which holds the probabilities or logits")
        if output is not None and output not in outputs:
            raise SourceError(f"{path}: there is no output {output!r}; there are {', '.join(outputs)}")
        self._output = outputs[0] if output is None else output
        self._input, self._type = inputs[0].name, _TYPES[inputs[0].type]
        shape = inputs[0].shape
        self._batch: int | None = shape[0] if shape and isinstance(shape[0], int) else None
        fixed = all(isinstance(size, int) for size in shape[1:])
        self.input_shape: tuple[int, ...] | None = tuple(shape[1:]) if fixed and len(shape) > 1 else None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the output at ``(B, *input)`` inputs."""
        given = np.ascontiguousarray(x, dtype=self._type)
        if self._batch is None:
            return self._run(given)
        parts = [given[start : start + self._batch] for start in range(0, len(given), self._batch)]
        missing = self._batch - len(parts[-1])
        parts[-1] = np.concatenate([parts[-1], np.repeat(parts[-1][-1:], missing, axis=0)])
        return np.concatenate([self._run(part) for part in parts])[: len(given)]

    def _run(self, given: np.ndarray) -> np.ndarray:
        answer: Any = self._session.run([self._output], {self._input: given})[0]
        return np.asarray(answer)
