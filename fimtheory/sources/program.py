"""A torch module as a functional program: torch.export, and running the result operation by operation."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from fimtheory.errors import SourceError

__all__ = [
    "Arguments", "Program", "behind", "call", "dependent", "doubles", "exported", "first_line", "in_precision",
    "program_of", "quiet", "resolved", "shaped",
]  # fmt: skip

BATCH = 2
"""Number of inputs a module is exported with: with one, what joins inputs could not be told from what does not."""
MOST_ENTRIES = 2**32
"""Most entries of one tensor that a program may compute: a file could ask for any number."""


@final
@dataclass(frozen=True, eq=False)
class Arguments:
    """Positional and keyword arguments of a call, for one batch of ``BATCH`` inputs."""

    positional: tuple[Any, ...]
    keywords: Mapping[str, Any]

    @classmethod
    def of(cls, example: Any) -> Arguments:
        """Return the arguments a user's example stands for: a tensor, a tuple of arguments or a mapping of them.

        Raises
        ------
        SourceError
            It holds no tensor, or one without a batch.
        """
        positional, keywords = (example,), {}
        if isinstance(example, Mapping):
            positional, keywords = (), dict(example)
        elif isinstance(example, tuple | list):
            positional = tuple(example)
        tensors = [value for value in (*positional, *keywords.values()) if isinstance(value, Tensor)]
        if not tensors:
            raise SourceError(
                "from_torch needs an example input: a tensor with a batch dimension such as torch.zeros(1, 3, 224, "
                f"224), a tuple of arguments or a mapping of them; got {type(example).__name__}"
            )
        if any(value.dim() == 0 or value.shape[0] == 0 for value in tensors):
            raise SourceError("the example input has no batch dimension; its first dimension must be the batch")
        return cls(tuple(map(_two_rows, positional)), {key: _two_rows(value) for key, value in keywords.items()})

    def replacing(self, position: int, value: Tensor) -> Arguments:
        """Return the arguments with another tensor at a position among the leaves."""
        leaves, structure = pytree.tree_flatten((self.positional, dict(self.keywords)))
        leaves[position] = value.to(leaves[position].dtype)
        return Arguments(*pytree.tree_unflatten(leaves, structure))

    def rows(self, count: int) -> Arguments:
        """Return the arguments for a batch of another size: the rows of this one, again and again."""

        def taken(value: Any) -> Any:
            return value[torch.arange(count) % len(value)] if isinstance(value, Tensor) else value

        return Arguments(tuple(map(taken, self.positional)), {key: taken(v) for key, v in self.keywords.items()})

    def leaves(self) -> list[Any]:
        """Return the arguments one by one, as a program takes them."""
        return pytree.tree_leaves((self.positional, dict(self.keywords)))

    def in_precision(self, dtype: torch.dtype) -> Arguments:
        """Return the arguments with ``dtype`` in place of every other floating-point type."""
        keywords = {key: _in_precision(value, dtype) for key, value in self.keywords.items()}
        return Arguments(tuple(_in_precision(value, dtype) for value in self.positional), keywords)


def _two_rows(value: Any) -> Any:
    return value.detach()[:1].expand(BATCH, *value.shape[1:]).clone() if isinstance(value, Tensor) else value


def _in_precision(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _wide(value: Any) -> Any:
    return torch.float64 if value in (torch.float32, torch.float16, torch.bfloat16) else value


def in_precision(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy of a module with every floating-point tensor of it in ``dtype``.

    Raises
    ------
    SourceError
        The module cannot be copied.
    """
    # weights that the older weight_norm and spectral_norm compute before each call are results, not leaves to copy
    computed = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    try:
        return copy.deepcopy(module, computed).to(dtype)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise SourceError(f"{type(module).__name__} cannot be copied to {dtype}: {first_line(error)}") from None


def exported(module: nn.Module, arguments: Arguments) -> ExportedProgram:
    """Return a module as a functional program of ATen operations.

    Raises
    ------
    SourceError
        The module is in training mode, fails on the example, or its control flow depends on its data.
    """
    training = [name or type(module).__name__ for name, part in module.named_modules() if part.training]
    if training:
        raise SourceError(f"{training[0]} is in training mode; call module.eval() first")
    with quiet(), torch.no_grad():
        try:
            program = torch.export.export(module, arguments.positional, dict(arguments.keywords), strict=False)
            return program.run_decompositions({})
        except Exception as refused:
            reason = first_line(refused)
        try:
            module(*arguments.positional, **arguments.keywords)
        except Exception as error:
            raise SourceError(f"{type(module).__name__} fails on the example input: {first_line(error)}") from None
    raise SourceError(
        f"torch.export cannot trace {type(module).__name__} (control flow that depends on the data cannot be "
        f"imported): {reason}"
    )


@contextlib.contextmanager
def doubles() -> Iterator[None]:
    """Let the tensors that a model makes on the way, as torch.ones(3) does, be float64."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out torch's warnings about its own exporter, and its fused attention, which hides the operations."""
    fast, muted = torch.backends.mha.get_fastpath_enabled(), logging.root.manager.disable
    torch.backends.mha.set_fastpath_enabled(False)
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        logging.disable(muted)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


@final
@dataclass(frozen=True, eq=False)
class Program:
    """An exported program with its tensors by placeholder; ``keys`` holds each one's key in the state dict."""

    graph: fx.Graph
    tensors: Mapping[str, Any]
    keys: Mapping[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[fx.Node | None, ...]
    labels: tuple[str, ...]

    def run(self, given: Mapping[fx.Node, Tensor], wanted: set[fx.Node]) -> dict[fx.Node, Any]:
        """Return the values of ``wanted`` operations where those in ``given`` are replaced; nothing else is run."""
        needed = behind(wanted, given)
        last = {source: node for node in self.graph.nodes if node in needed for source in node.all_input_nodes}
        dying: dict[fx.Node, list[fx.Node]] = {}
        for source, node in last.items():
            dying.setdefault(node, []).append(source)
        values: dict[fx.Node, Any] = {}
        found: dict[fx.Node, Any] = {}
        with torch.no_grad():
            for node in self.graph.nodes:
                if node not in needed:
                    continue
                if node in given:
                    values[node] = given[node]
                elif node.op == "placeholder":
                    values[node] = self.tensors[node.name]
                elif node.op == "call_function":
                    values[node] = call(node, *resolved(node, values))
                if node in wanted:
                    found[node] = values[node]
                for source in dying.get(node, ()):
                    values.pop(source, None)
        return found

    def double(self) -> Program:
        """Return the program with float64 tensors in place of every other floating-point type."""
        return replace(
            self, tensors={name: _in_precision(value, torch.float64) for name, value in self.tensors.items()}
        )

    def widened(self, start: fx.Node, end: fx.Node, dtype: torch.dtype) -> tuple[Program, fx.Node, fx.Node] | None:
        """Return the program in which float64 changes only the rounding, with its ends; None where that is this one.

        Language models normalise in float32 whatever the type of their weights.  Bounds are about the exact function,
        so graph and program are compared without this rounding.  Constants stay as the model computes them.  An RMS
        norm without an epsilon of its own takes that of its type, which is ``dtype`` in the model.
        """
        graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        graph.graph_copy(self.graph, copies)
        changed = False
        for node in dependent(graph, copies[start]) - {copies[start]}:
            if node.op == "call_function":
                given = node.args, dict(node.kwargs)
                node.args, node.kwargs = pytree.tree_map(_wide, given)
                if node.target is torch.ops.aten.rms_norm.default and (len(node.args) < 4 or node.args[3] is None):
                    value, sizes, weight, _ = (*node.args, None, None)[:4]
                    node.args = value, sizes, weight, torch.finfo(dtype).eps
                changed = changed or (node.args, dict(node.kwargs)) != given
        if not changed:
            return None
        names = {node.name: copy.name for node, copy in copies.items()}
        made = replace(
            self,
            graph=graph,
            tensors={names[name]: value for name, value in self.tensors.items()},
            keys={names[name]: key for name, key in self.keys.items()},
            inputs=tuple(names[name] for name in self.inputs),
            outputs=tuple(None if node is None else copies[node] for node in self.outputs),
        )
        return made, copies[start], copies[end]

    def logits_of(self, module: nn.Module, arguments: Arguments, end: fx.Node) -> Tensor:
        """Return what the module itself computes where the program computes ``end``.

        Raises
        ------
        SourceError
            The module fails on these arguments.
        """
        with quiet(), torch.no_grad():
            try:
                results = pytree.tree_leaves(module(*arguments.positional, **arguments.keywords))
            except Exception as error:
                shapes = [tuple(leaf.shape) for leaf in arguments.leaves() if isinstance(leaf, Tensor)]
                raise SourceError(
                    f"{type(module).__name__} fails on inputs of shape {shapes}: {first_line(error)}"
                ) from None
        return results[self.outputs.index(end)]


_SHAPED = {
    getattr(torch.ops.aten, name).default
    for name in ("new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like", "empty_like")
}


def shaped(node: fx.Node) -> bool:
    """Whether an operation takes only the shape and the type of its input: its result is a constant."""
    return node.target in _SHAPED


def dependent(graph: fx.Graph, start: fx.Node) -> set[fx.Node]:
    """Return all operations whose values depend on that of one, and itself."""
    found = {start}
    for node in graph.nodes:
        if not shaped(node) and found.intersection(node.all_input_nodes):
            found.add(node)
    return found


def behind(ends: Iterable[fx.Node], given: Container[fx.Node] = ()) -> set[fx.Node]:
    """Return everything that some operations depend on, and themselves, back to those in ``given``."""
    found: set[fx.Node] = set()
    pending = list(ends)
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += () if node in given else node.all_input_nodes
    return found


def resolved(node: fx.Node, values: Mapping[fx.Node, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of an operation with values in the place of other operations."""
    both: Any = map_arg((node.args, dict(node.kwargs)), values.__getitem__)
    args, kwargs = both
    return tuple(args), dict(kwargs)


def call(node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the result of one operation.

    Raises
    ------
    SourceError
        It is not a pure ATen operation, or its result would not fit into memory.
    """
    target = node.target
    pure = isinstance(target, torch._ops.OpOverload) and target.namespace == "aten" and "file" not in target.name()
    if not pure and getattr(target, "__name__", "") != "getitem":
        raise SourceError(f"{node.name}: {target} is not an operation of ATen; it is not run")
    value = node.meta.get("val")
    if isinstance(value, Tensor) and value.numel() > MOST_ENTRIES:
        raise SourceError(f"{node.name}: a result of shape {tuple(value.shape)} is too large")
    try:
        return target(*args, **kwargs)  # type: ignore[operator]
    except (RuntimeError, TypeError) as error:
        raise SourceError(
            f"{node.name}: {target} fails in float64: {first_line(error)}; give the tensors that the model makes on "
            "the way the type of their input (torch.ones(3, dtype=x.dtype))"
        ) from None


def program_of(exported: ExportedProgram, leaves: Sequence[Any]) -> Program:
    """Return the operations of an exported program with its tensors, and values for its inputs.

    Raises
    ------
    SourceError
        The program has inputs of an unknown kind, or changes its own state.
    """
    signature = exported.graph_signature
    held = {**exported.constants, **exported.state_dict}
    tensors: dict[str, Any] = {}
    keys: dict[str, str] = {}
    inputs = []
    user = iter(leaves)
    for spec in signature.input_specs:
        name = spec.arg.name
        if spec.kind is InputKind.USER_INPUT:
            tensors[name] = next(user)
            inputs.append(name)
        elif spec.target in held:
            tensors[name], keys[name] = held[spec.target], str(spec.target)
        else:
            raise SourceError(f"the program's input {name} ({spec.kind.name.lower()}) is not supported")
    graph = exported.graph_module.graph
    by_name = {node.name: node for node in graph.nodes}
    outputs = []
    for spec in signature.output_specs:
        if spec.kind is not OutputKind.USER_OUTPUT:
            raise SourceError(f"the module changes its own state ({spec.target}) in evaluation; that is not supported")
        outputs.append(by_name.get(getattr(spec.arg, "name", "")))
    return Program(graph, tensors, keys, tuple(inputs), tuple(outputs), _labels(exported, len(outputs)))


def _labels(exported: ExportedProgram, count: int) -> tuple[str, ...]:
    """Names of the outputs: their places in the structure that the module returns."""
    spec = exported.call_spec.out_spec
    paths = []
    if spec is not None:
        structure = pytree.tree_unflatten(list(range(count)), spec)
        paths = [pytree.keystr(path) for path, _ in pytree.tree_leaves_with_path(structure)]
    named = ["".join(c for c in path if c.isalnum() or c == "_") for path in paths]
    return tuple(named) if len(named) == count else tuple(str(k) for k in range(count))
