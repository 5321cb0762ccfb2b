"""ONNX files to layer graphs."""

from __future__ import annotations

from pathlib import Path

import torch

from fimtheory.errors import SourceError
from fimtheory.sources.imported import ImportedGraph
from fimtheory.sources.onnx_evaluation import onnx_module
from fimtheory.sources.onnx_files import OnnxFile, OnnxInput, OnnxNode, read_onnx
from fimtheory.sources.onnx_operations import operators
from fimtheory.sources.program import BATCH
from fimtheory.sources.torch_models import imported

__all__ = ["from_onnx"]


def from_onnx(
    path: str | Path, *, input: str | None = None, output: str | None = None, name: str | None = None
) -> ImportedGraph:
    """Return the layer graph of an ONNX file, with its weights.

    The file is checked and read, and nothing in it is executed.  Its operations are evaluated in torch, with fixed
    sizes except for the batch, and imported by ``from_torch``, which compares the graph with them.  Numbers in
    formulas and attributes that are known roundings to 32 bits, such as 1.4142135, are read as what they round.

    Parameters
    ----------
    path : str or Path
        A file of at most 2 GB with an operator set of version 11 to 28; further data lie in its own folder.
    input : str or None
        Name of the input that the Fisher information is about, where there are several.  All others must be constants
        of the file, or have no influence on the output.
    output : str or None
        Name of the logits among several outputs.
    name : str or None
        Name of the graph; by default that of the file.

    Returns
    -------
    ImportedGraph
        A ``LayerGraph`` with ``weights``, ``model()`` and the measured ``difference``.

    Raises
    ------
    SourceError
        The package ``onnx`` is missing; the file is no valid model or is not supported; the input or the output is
        ambiguous; an operation has no layer.
    """
    file = read_onnx(path, operators())
    end = _output(file, output, path)
    nodes, read = _needed(file, end)
    start = _input(file, input, read, path)
    module = onnx_module(file, nodes, start, end)
    example = torch.zeros((BATCH, *(int(size) for size in start.sizes[1:])), dtype=start.dtype)
    return imported(module, example, (), input="x", name=name or file.name)  # its sizes are fixed to that of the batch


def _output(file: OnnxFile, given: str | None, path: str | Path) -> str:
    listed = ", ".join(file.outputs)
    if given is None and len(file.outputs) != 1:
        raise SourceError(
            f"{path}: which output are the logits? There are {listed or 'none'}; say so with from_onnx(..., "
            "output='NAME') or --model-output NAME"
        )
    if given is not None and given not in file.outputs:
        raise SourceError(f"{path}: no output {given!r}; there are {listed or 'none'}")
    return given or file.outputs[0]


def _needed(file: OnnxFile, end: str) -> tuple[list[OnnxNode], set[str]]:
    """Return the nodes that a value depends on, in order, and the names of all values they read."""
    needed, nodes = {end}, list[OnnxNode]()
    for node in reversed(file.nodes):
        if needed.intersection(node.outputs):
            nodes.insert(0, node)
            needed.update(name for name in node.inputs if name)
    return nodes, needed


def _input(file: OnnxFile, given: str | None, read: set[str], path: str | Path) -> OnnxInput:
    known = {each.name: each for each in file.inputs}
    used = [name for name in known if name in read]
    if given is not None and given not in known:
        raise SourceError(f"{path}: no input {given!r}; there are {', '.join(known) or 'none'}")
    if given is None and len(used) != 1:
        raise SourceError(
            f"{path}: which input is it about? The output depends on {', '.join(used) or 'none'}; say so with "
            "from_onnx(..., input='NAME') or --model-input NAME"
        )
    chosen = known[given or used[0]]
    others = [name for name in used if name != chosen.name]
    if others:
        raise SourceError(
            f"{path}: the output also depends on the inputs {', '.join(others)}, which have no values; make them "
            "constants (initializers) of the file, or import the torch module with from_torch"
        )
    _check_sizes(chosen, path)
    return chosen


def _check_sizes(chosen: OnnxInput, path: str | Path) -> None:
    batch, *sizes = chosen.sizes or ("",)
    if batch == "":
        raise SourceError(f"{path}: the input {chosen.name} has no batch dimension")
    told = f"({', '.join(map(str, chosen.sizes))})"
    if any(not isinstance(size, int) or size < 1 for size in sizes):
        raise SourceError(
            f"{path}: the input {chosen.name} has shape {told}; only the batch may be left open, fix the other sizes "
            "(onnx.tools.update_model_dims, or export again)"
        )
    if isinstance(batch, int) and batch != 1:
        raise SourceError(
            f"{path}: the input {chosen.name} has shape {told}, a batch of exactly {batch}; export the model with a "
            "dynamic batch, or with a batch of 1"
        )
