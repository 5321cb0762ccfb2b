"""Theorems from Python files: each holds a ``PROOF``, or the ``GRAPH`` of an architecture."""

from __future__ import annotations

import importlib.util
import traceback
from pathlib import Path

from fimtheory.errors import FimTheoryError, FormatError
from fimtheory.graph import LayerGraph
from fimtheory.proofs.proof import Proof

__all__ = ["load_theorem", "theorem_files"]


def theorem_files(directory: str | Path) -> list[Path]:
    """Return the Python files of a directory, in order of their names.

    Raises
    ------
    FormatError
        It has none.
    """
    found = sorted(Path(directory).glob("*.py"))
    if not found:
        raise FormatError(f"{directory}: no theorem there; expected Python files that hold PROOF or GRAPH")
    return found


def load_theorem(path: str | Path) -> Proof | LayerGraph:
    """Run a file and return its proof, or the graph of which the theorem is to be derived.

    Raises
    ------
    FormatError
        The file is missing, does not run, or holds neither.
    """
    path = Path(path)
    if not path.is_file():
        raise FormatError(f"{path}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"theorem_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        cause = str(error) if isinstance(error, FimTheoryError) else f"{type(error).__name__}: {error}"
        raise FormatError(f"{path}: running it failed{_line_of(error, path)}: {cause}") from error
    proof, graph = getattr(module, "PROOF", None), getattr(module, "GRAPH", None)
    if isinstance(proof, Proof):
        return proof
    if isinstance(graph, LayerGraph):
        return graph
    raise FormatError(
        f"{path}: holds no PROOF (a fimtheory.proofs.Proof) and no GRAPH (a LayerGraph); give one such a name"
    )


def _line_of(error: Exception, path: Path) -> str:
    """The last line of the file that was running, in words; none of it runs where its syntax is wrong."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
    return f" in line {lines[-1]}" if lines else ""
