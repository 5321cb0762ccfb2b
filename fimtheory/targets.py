"""TARGET of the command line: a family, a zoo model, a saved graph or a model to import, with its weights and data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from fimtheory import families
from fimtheory.errors import TargetError
from fimtheory.files import load_graph
from fimtheory.graph import LayerGraph

if TYPE_CHECKING:
    from fimtheory.data import Data
    from fimtheory.instantiation import GraphModule
    from fimtheory.sources import ImportedGraph

__all__ = ["Target", "parse_shape", "resolve"]

_ZOO = "zoo:"


@final
@dataclass(frozen=True, slots=True)
class Target:
    """A named graph; ``zoo`` is the name of its trained weights in the zoo, or None.

    ``imported`` is the graph with the weights it came with.
    """

    name: str
    graph: LayerGraph
    zoo: str | None = None
    imported: ImportedGraph | None = None

    def model(self, weights: Path | None, seed: int, device: str) -> GraphModule:
        """Return the graph as a torch model: with the weights of a file, of the zoo, or drawn from ``seed``.

        Raises
        ------
        WeightsError, NonFiniteError, SymbolicSizeError, TargetError
            The weights do not fit, or the device does not exist.
        """
        from fimtheory.instantiation import instantiate

        where = _device(device)
        if not self.graph.is_concrete():
            raise TargetError(
                f"{self.name} has symbolic sizes, so a theorem but no numbers: `fimtheory derive` and `report` take "
                "it; for numbers give a target with sizes, such as resnet18 (`fimtheory families` lists them)"
            )
        if self.imported is not None:
            return self.imported.model(device=where)
        if self.zoo is None or weights is not None:
            return instantiate(self.graph, seed, weights, device=where)
        from fimtheory import zoo

        return zoo.load(self.zoo).to(where)

    def inputs(self, data: str | None, n: int | None, seed: int, *, at_most: int | None = None) -> Data:
        """Return inputs of the data in the shape that the graph takes; see ``fimtheory.data.load_data``.

        Raises
        ------
        DataError
            They cannot be read, are too few or have another shape.
        """
        from fimtheory.data import load_data

        shape = tuple(int(size) for size in self.graph.shapes[self.graph.input])
        return load_data(data or self.default_data, shape, n, seed, at_most=at_most)

    @property
    def default_data(self) -> str:
        """Data used when none are named."""
        return "random:64" if self.zoo is None else "digits:test"


@final
@dataclass(frozen=True, slots=True)
class Importing:
    """What importing a model needs besides its name.

    ``arguments`` are passed to the callable that makes the model; ``input`` and ``output`` name the tensors that the
    Fisher information is about; ``weights`` is a state dict of the model and ``seed`` that of its random weights.
    """

    arguments: tuple[str, ...] = ()
    input: str | None = None
    output: str | None = None
    weights: Path | None = None
    seed: int = 0


def resolve(
    target: str, shape: tuple[int, ...] | None, classes: int | None, importing: Importing | None = None
) -> Target:
    """Return the target a user named.

    Parameters
    ----------
    target : str
        A preset (``resnet18``), a symbolic family (``ResNet``), ``zoo:NAME``, the path of a saved graph, or a model to
        import: ``package.module:callable``, ``.onnx`` or ``.pt2``.
    shape, classes
        Input shape and number of classes of a preset, None for its own; the input shape of a callable's model.
    importing : Importing or None
        What importing a model needs.

    Raises
    ------
    TargetError, SourceError
        Nothing has that name, the sizes of this kind of target are fixed, or the model cannot be imported.
    """
    if target.startswith(_ZOO):
        from fimtheory import zoo

        name = target.removeprefix(_ZOO)
        if name not in zoo.names():
            raise TargetError(f"no zoo model {name!r}; there are {', '.join(zoo.names())}")
        _refuse_sizes(target, shape, classes)
        return Target(target, zoo.graph(name), name)
    if target in families.PRESETS:
        sizes = {"classes": classes, "input_shape": shape}
        given = {name: size for name, size in sizes.items() if size is not None}
        return Target(target, families.PRESETS[target].build(**given), None)
    if target in families.SYMBOLIC:
        _refuse_sizes(target, shape, classes)
        return Target(target, families.SYMBOLIC[target].build(), None)
    if target.endswith(".json"):
        _refuse_sizes(target, shape, classes)
        return Target(Path(target).stem, load_graph(target), None)
    if target.endswith((".onnx", ".pt2")) or ":" in target:
        made = _imported(target, shape, classes, importing or Importing())
        return Target(target, made, imported=made)
    raise TargetError(
        f"{target!r} is no family, zoo model (zoo:NAME), saved graph (.json) or model to import (.onnx, .pt2, "
        "package.module:callable); `fimtheory families` lists the names"
    )


def _imported(target: str, shape: tuple[int, ...] | None, classes: int | None, importing: Importing) -> ImportedGraph:
    if classes is not None:
        raise TargetError(f"{target} has classes of its own; pass a callable's with --arg")
    if target.endswith((".onnx", ".pt2")):
        from fimtheory import sources

        _refuse_sizes(target, shape, classes)
        read = sources.from_onnx if target.endswith(".onnx") else sources.from_pt2
        return read(target, input=importing.input, output=importing.output)
    from fimtheory.sources import from_callable

    if shape is None:
        raise TargetError(f"{target}: give the input's shape, such as --input 3,224,224")
    return from_callable(
        target,
        shape,
        importing.arguments,
        weights=importing.weights,
        seed=importing.seed,
        input=importing.input,
        output=importing.output,
    )


def parse_shape(text: str | None) -> tuple[int, ...] | None:
    """Return the shape written as "3,32,32".

    Raises
    ------
    TargetError
        It is not a list of positive integers.

    >>> parse_shape("3,32,32")
    (3, 32, 32)
    """
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise TargetError(f"--input {text}: expected positive integers separated by commas, such as 3,32,32")
    return tuple(int(part) for part in parts)


def _refuse_sizes(target: str, shape: tuple[int, ...] | None, classes: int | None) -> None:
    if shape is not None or classes is not None:
        raise TargetError(f"{target} has sizes of its own; --input and --classes are for families such as resnet18")


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu" or (name.startswith("cuda") and torch.cuda.is_available()):
        return name
    raise TargetError(f"--device {name}: not available here; use cpu or auto")
