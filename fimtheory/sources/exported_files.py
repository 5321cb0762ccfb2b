"""``.pt2`` files, which torch.export.save writes, to layer graphs.

``torch.export.load`` runs code that a file may bring: pickles, custom objects, and formulas of symbolic sizes, which
it evaluates as Python.  So the archive is looked through first, and what could run anything is refused.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from fimtheory.errors import SourceError
from fimtheory.sources.comparison import compare_logits
from fimtheory.sources.imported import ImportedGraph
from fimtheory.sources.program import first_line, program_of, quiet
from fimtheory.sources.reading import input_of, output_of, read

__all__ = ["from_pt2"]

MOST_BYTES = 8 * 2**30
_TARGETS = ("torch.ops.aten.", "_operator.getitem")
"""What the operations of a file may be."""
_TENSOR = re.compile(r"(weight|tensor)_\d+")


def from_pt2(
    path: str | Path, *, input: str | None = None, output: str | None = None, name: str | None = None
) -> ImportedGraph:
    """Return the layer graph of a file that ``torch.export.save`` wrote, with its weights; nothing in it is executed.

    Parameters
    ----------
    path : str or Path
        A program with static shapes.
    input, output, name
        As in ``fimtheory.from_torch``.

    Raises
    ------
    SourceError
        The file is truncated, holds pickles of more than tensors, custom objects, symbolic sizes or operations
        outside ATen, or its program cannot be imported.
    """
    file = Path(path)
    exported = _loaded(file)
    example = [_example(node.meta.get("val")) for node in _placeholders(exported)]
    program = program_of(exported, example)
    start, end = input_of(program, input), output_of(program, output)
    wide = program.double()
    wide, inside, outside = wide.widened(start, end, _precision(exported)) or (wide, start, end)
    graph, trial = read(wide, name or file.stem, inside, outside)
    held = {**exported.constants, **exported.state_dict}
    weights = {k: held[k] if _same(held.get(k), value) else value for k, value in graph.weights.items()}
    made = graph.weighing({key: value.detach().clone() for key, value in weights.items()})
    logits = wide.run({inside: trial.input}, {outside})[outside]
    single = program.run({start: trial.input.float()}, {end})[end]
    return made.compared(compare_logits(made, trial, logits, single))


def _precision(exported: ExportedProgram) -> torch.dtype:
    """Return the type of the first floating-point tensor of a program, that of torch where it has none."""
    held = (value for value in exported.state_dict.values() if value.is_floating_point())
    return next((value.dtype for value in held), torch.get_default_dtype())


def _same(held: Any, read: Tensor) -> bool:
    return isinstance(held, Tensor) and held.shape == read.shape and torch.equal(held.to(read.dtype), read)


def _loaded(file: Path) -> ExportedProgram:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise SourceError(f"{file}: larger than {MOST_BYTES} bytes")
        content = file.read_bytes()
    except OSError as error:
        raise SourceError(f"{file}: cannot be read: {error.strerror or error}") from None
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _look_through(archive, file)
        with quiet():
            return torch.export.load(io.BytesIO(content)).run_decompositions({})
    except zipfile.BadZipFile:
        raise SourceError(f"{file}: not a file of torch.export.save, or truncated") from None
    except SourceError:
        raise
    except Exception as error:
        raise SourceError(f"{file}: torch.export cannot load it: {first_line(error)}") from None


def _look_through(archive: zipfile.ZipFile, file: Path) -> None:
    """Refuse what torch.export.load would execute."""
    if sum(member.file_size for member in archive.infolist()) > MOST_BYTES:
        raise SourceError(f"{file}: unpacks to more than {MOST_BYTES} bytes")
    for member in archive.namelist():
        content = archive.read(member)
        if member.endswith(".json"):
            _look_at_json(json.loads(content), file)
        elif member.endswith(".pt"):
            try:
                torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
            except (pickle.UnpicklingError, RuntimeError, EOFError):
                raise SourceError(f"{file}: {member} holds more than tensors, and loading it would run code") from None


def _look_at_json(value: Any, file: Path) -> None:
    for key, each in _fields(value):
        if key == "expr_str":
            raise SourceError(f"{file}: has symbolic sizes ({str(each)[:60]!r}); export it with static shapes")
        if (key == "use_pickle" and each) or (key == "path_name" and not _TENSOR.fullmatch(str(each))):
            raise SourceError(f"{file}: holds an object ({str(each)[:60]!r}), not a tensor; loading it would run code")
        called = key == "target" and isinstance(each, str) and each.startswith(("torch.", "_operator.", "math."))
        if called and not each.startswith(_TARGETS):
            raise SourceError(f"{file}: the operation {each[:80]!r} is not one of ATen; it is not run")


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    pending = [value]
    while pending:
        here = pending.pop()
        if isinstance(here, dict):
            yield from here.items()
            pending += here.values()
        elif isinstance(here, list):
            pending += here


def _placeholders(exported: ExportedProgram) -> list[torch.fx.Node]:
    user = set(exported.graph_signature.user_inputs)
    return [node for node in exported.graph_module.graph.nodes if node.op == "placeholder" and node.name in user]


def _example(meta: Any) -> Any:
    """Return an input of the shape and type that the program was exported with."""
    if not isinstance(meta, Tensor):
        raise SourceError(f"the program takes a {type(meta).__name__}; only tensors are")
    shape = tuple(int(size) for size in meta.shape)
    generator = torch.Generator().manual_seed(0)
    if meta.dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(meta.dtype)
    return torch.zeros(shape, dtype=meta.dtype)
