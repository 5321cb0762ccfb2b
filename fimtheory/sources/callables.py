"""``package.module:callable``: a model that Python code of the user's makes."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fimtheory.errors import SourceError, WeightsError
from fimtheory.sources.imported import ImportedGraph
from fimtheory.sources.program import first_line
from fimtheory.sources.torch_models import from_torch
from fimtheory.weights import read_weights

__all__ = ["from_callable", "module_of", "torchvision_operators"]


def from_callable(
    target: str,
    shape: tuple[int, ...],
    arguments: Sequence[str] = (),
    *,
    weights: Path | None = None,
    seed: int = 0,
    input: str | None = None,
    output: str | None = None,
) -> ImportedGraph:
    """Return the layer graph of the module that ``package.module:callable`` makes, in evaluation mode.

    This runs the named code, as ``python -m`` would; the directory of the command comes first in the search for it.

    Parameters
    ----------
    target : str
        Such as ``torchvision.models:resnet18``.
    shape : tuple of int
        Shape of one input.
    arguments : sequence of str
        ``name=value`` each, passed to the callable; values are Python literals, else strings.
    weights : Path or None
        State dict for the module.
    seed : int
        Seed of torch while the callable runs.
    input, output
        As in ``fimtheory.from_torch``.

    Raises
    ------
    SourceError, WeightsError
        There is no such callable, it fails or returns no module, the weights do not fit, or the import fails.
    """
    module = module_of(target, arguments, seed)
    if weights is not None:
        try:
            module.load_state_dict(read_weights(weights))
        except RuntimeError as error:
            raise WeightsError(f"{weights}: does not fit {target}: {' '.join(str(error).split())[:300]}") from None
    name = target.rpartition(":")[2]
    return from_torch(module.eval(), torch.zeros(1, *shape), input=input, output=output, name=name)


def module_of(target: str, arguments: Sequence[str], seed: int) -> nn.Module:
    """Return the module that a callable makes.

    Raises
    ------
    SourceError
        There is no such callable, or it does not return a module.
    """
    path, _, name = target.partition(":")
    given = dict(_argument(text) for text in arguments)
    torchvision_operators()
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        made: Any = importlib.import_module(path)
        for part in name.split("."):
            made = getattr(made, part)
    except Exception as error:  # importing runs the user's code, which may fail in any way
        raise SourceError(f"{target}: cannot be imported: {type(error).__name__}: {first_line(error)}") from None
    torch.manual_seed(seed)
    try:
        module = made(**given)
    except Exception as error:
        raise SourceError(f"{target}({', '.join(arguments)}) fails: {first_line(error)}") from None
    if not isinstance(module, nn.Module):
        raise SourceError(f"{target} returns a {type(module).__name__}; expected a torch.nn.Module")
    return module


def _argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise SourceError(f"--arg {text}: expected name=value")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


@functools.cache
def torchvision_operators() -> torch.library.Library | None:
    """Declare two operators that torchvision's compiled library brings, where that library does not load.

    It does not beside a torch without CUDA, and importing torchvision fails without them; no classifier calls them.
    They stay declared as long as the returned library lives.  Other libraries of models import torchvision too.
    """
    if "torchvision" in sys.modules:
        return None
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return None
    try:
        for compiled in Path(found.origin).parent.glob("_C.*"):
            torch.ops.load_library(compiled)
        return None
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
