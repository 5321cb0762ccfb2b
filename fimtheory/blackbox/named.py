"""SOURCE of the command line: an address, an ONNX file or a Python callable, as a black box."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fimtheory.blackbox.http_query import HttpQuery
from fimtheory.blackbox.onnx_query import OnnxQuery
from fimtheory.errors import SourceError

__all__ = ["named_query"]


def named_query(
    source: str, *, output: str | None = None, timeout: float = 30.0
) -> tuple[Callable[[Any], Any], tuple[int, ...] | None]:
    """Return the black box that ``source`` names, and the shape of its inputs if it says so.

    Parameters
    ----------
    source : str
        ``http://...`` or ``https://...``, ``FILE.onnx``, or ``package.module:callable``.  Importing a callable runs the
        code of its module, as ``python -m`` would; the directory of the command comes first in the search for it.
    output : str, optional
        Which output of an ONNX file to read, where there are several.
    timeout : float
        Seconds that a service may be silent.

    Raises
    ------
    SourceError, DataError
        It names none of these, or nothing that can be loaded.
    """
    if output is not None and not source.endswith(".onnx"):
        raise SourceError(f"{source}: only ONNX files have named outputs")
    if source.startswith(("http://", "https://")):
        return HttpQuery(source, timeout=timeout), None
    if source.endswith(".onnx"):
        query = OnnxQuery(source, output=output)
        return query, query.input_shape
    path, colon, name = source.partition(":")
    if not colon or not path or not name:
        raise SourceError(f"{source!r}: expected http://HOST:PORT/PATH, FILE.onnx or package.module:callable")
    return _imported(source, path, name), None


def _imported(source: str, path: str, name: str) -> Callable[[Any], Any]:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        made: Any = importlib.import_module(path)
        for part in name.split("."):
            made = getattr(made, part)
    except Exception as error:  # importing runs the user's code, which may fail in any way
        text = " ".join(str(error).split())[:300]
        raise SourceError(f"{source}: cannot be imported: {type(error).__name__}: {text}") from None
    if not callable(made):
        raise SourceError(f"{source} is a {type(made).__name__}; expected a callable from inputs to outputs")
    return made
