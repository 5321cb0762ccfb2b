"""LayerGraph to torch model: random weights from a seed, or weights from a state dict or file.

The model computes the graph in evaluation: batch norm with its running statistics, dropout as the identity.  There
is no training mode; ``fimtheory.zoo.train`` shows how a graph is trained.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, final

import torch
from torch import Tensor, nn

import fimtheory.forward
import fimtheory.rules  # noqa: F401
from fimtheory.claims import Quantity
from fimtheory.ensemble import (
    ATTENTION_VARIANCE,
    PRELU_SLOPE,
    TOKEN_DEVIATION,
    WEIGHT_VARIANCE,
    Initial,
    Parameter,
)
from fimtheory.errors import FimTheoryError, GraphError, ShapeError, SymbolicSizeError, WeightsError
from fimtheory.forward import Forward
from fimtheory.graph import LayerGraph
from fimtheory.registry import Site, require_rule
from fimtheory.weights import check_weights, read_weights

__all__ = ["GraphModule", "draw_weights", "graph_parameters", "instantiate", "random_weights"]


def instantiate(
    graph: LayerGraph,
    seed: int = 0,
    weights: Mapping[str, Tensor] | str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> GraphModule:
    """Return ``graph`` as a torch model in evaluation.

    Parameters
    ----------
    graph
        A graph without symbols.
    seed
        Of the random weights (see ``random_weights``); unused where ``weights`` are given.
    weights
        A state dict or the path of one (.safetensors, .pt), with exactly the tensors of the graph; 16-bit floats
        are accepted and converted.
    dtype
        Floating-point type of the parameters.
    device
        Where the model lives.

    Raises
    ------
    SymbolicSizeError
        Sizes are still symbols.
    WeightsError, NonFiniteError
        The weights do not fit the graph; the message names the keys.

    Examples
    --------
    >>> from fimtheory import layers
    >>> from fimtheory.graph import Builder
    >>> builder = Builder("tiny")
    >>> x = builder.add("x", layers.Input((3,)))
    >>> y = builder.add("fc", layers.Linear(3, 2), x)
    >>> model = instantiate(builder.graph(), seed=0)
    >>> model(torch.zeros(5, 3)).shape, sorted(model.state_dict())
    (torch.Size([5, 2]), ['fc.bias', 'fc.weight'])
    """
    if not dtype.is_floating_point:
        raise WeightsError(f"dtype is {dtype}; expected a floating-point type such as torch.float32")
    expected = graph_parameters(graph)
    if weights is None:
        tensors = random_weights(graph, seed)
    else:
        given, where = (weights, "weights") if isinstance(weights, Mapping) else (read_weights(weights), str(weights))
        tensors = check_weights(given, expected, dtype, where)
    return GraphModule(graph, tensors).to(device=device, dtype=dtype)


def graph_parameters(graph: LayerGraph) -> dict[str, Parameter]:
    """Return what a state dict of ``graph`` holds: the tensors by key, in the order of the nodes.

    Raises
    ------
    SymbolicSizeError
        Sizes are still symbols.
    GraphError
        Two nodes have a tensor of the same key.
    MissingRuleError
        A layer type has no rule for its parameters.
    """
    symbols = sorted(symbol.name for symbol in graph.symbols)
    if symbols or not graph.is_concrete():
        example = ", ".join(f"{symbol}: ..." for symbol in symbols[:3])
        raise SymbolicSizeError(
            f"graph {graph.name} has symbolic sizes ({', '.join(symbols) or 'a repeated block'}); "
            f"give them values with graph.subs({{{example}}})"
        )
    found: dict[str, Parameter] = {}
    for name in graph.order:
        for parameter in _parameters(graph, name):
            key = _key(name, parameter)
            if key in found:
                raise GraphError(f"node {name}: another node has a tensor named {key}; rename one of them")
            found[key] = parameter
    return found


def random_weights(graph: LayerGraph, seed: int) -> dict[str, Tensor]:
    """Return float32 tensors on the CPU drawn from the distributions of ``fimtheory.ensemble``.

    One generator serves all tensors in the order of ``graph_parameters``, so a seed means the same network in every
    run, and on every device and in every floating-point type it is converted to.

    Raises
    ------
    WeightsError
        ``seed`` is not a whole number from 0 to 2^63 - 1.
    SymbolicSizeError, GraphError, MissingRuleError
        See ``graph_parameters``.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise WeightsError(f"seed is {seed!r}; expected a whole number from 0 to 2^63 - 1")
    return draw_weights(graph_parameters(graph), seed)


def draw_weights(parameters: Mapping[str, Parameter], seed: int) -> dict[str, Tensor]:
    """Return what ``random_weights`` does, of a graph with these parameters."""
    generator = torch.Generator().manual_seed(seed)
    return {key: _draw(parameter, generator) for key, parameter in parameters.items()}


@final
@dataclass(frozen=True)
class _Step:
    """One node: what it computes, where its tensors are, what it reads, and what nothing reads after it."""

    name: str
    forward: Forward
    tensors: tuple[tuple[str, nn.Module, str], ...]
    inputs: tuple[str, ...]
    released: tuple[str, ...]

    def read(self) -> dict[str, Tensor]:
        return {name: getattr(owner, attribute) for name, owner, attribute in self.tensors}


class GraphModule(nn.Module):
    """A graph as a torch model in evaluation; parameters and buffers have the keys of ``graph_parameters``.

    An activation is released as soon as no later node reads it.

    Parameters
    ----------
    graph
        A graph without symbols.
    tensors
        One tensor for each key of ``graph_parameters(graph)``, of the right shape.

    Attributes
    ----------
    graph : LayerGraph
    """

    def __init__(self, graph: LayerGraph, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.graph = graph
        for key, parameter in graph_parameters(graph).items():
            self._place(key, parameter, tensors[key])
        self._steps = tuple(self._make_steps())
        self.train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch: (batch, *input shape) to (batch, K).

        Raises
        ------
        ShapeError
            ``x`` is not a batch of the graph's inputs.
        """
        ((_, logits),) = deque(self.values(x), maxlen=1)  # all others are released on the way
        return logits

    def values(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the value of every node, in order, for a batch of inputs.

        Raises
        ------
        ShapeError
            ``x`` is not a batch of the graph's inputs.
        """
        expected = self.graph.shapes[self.graph.input]
        if tuple(x.shape[1:]) != expected:
            raise ShapeError(f"input of shape {tuple(x.shape)}; expected a batch (n, {', '.join(map(str, expected))})")
        values = {self.graph.input: x}
        yield self.graph.input, x
        for step in self._steps:
            values[step.name] = step.forward(step.read(), *(values[source] for source in step.inputs))
            yield step.name, values[step.name]
            for name in step.released:
                del values[name]

    def tensors(self, node: str) -> dict[str, Tensor]:
        """Return the tensors of a node by the names of its parameter rule."""
        return next((step.read() for step in self._steps if step.name == node), {})

    def train(self, mode: bool = True) -> Self:
        """Keep the model in evaluation; any other mode is refused.

        Raises
        ------
        FimTheoryError
            ``mode`` is true.
        """
        if mode:
            raise FimTheoryError(
                f"model {self.graph.name}: there is no training mode (batch norm and dropout are those of evaluation); "
                "see fimtheory.zoo.train for training a graph"
            )
        return super().train(False)

    def extra_repr(self) -> str:
        """Name the graph."""
        return repr(self.graph)

    def forward_of(self, node: str) -> Forward:
        """Return the function of a node; asked once, when the model is made, so a subclass may give another."""
        layer = self.graph.layer(node)
        return require_rule(layer, Quantity.FORWARD, node).function(_site(self.graph, node))

    def _make_steps(self) -> Iterator[_Step]:
        last_reader = {source: name for name in self.graph.order for source in self.graph.inputs(name)}
        for name in self.graph.order:
            if name == self.graph.input:
                continue
            inputs = self.graph.inputs(name)
            released = tuple(source for source in dict.fromkeys(inputs) if last_reader[source] == name)
            located = []
            for parameter in _parameters(self.graph, name):
                path, _, attribute = _key(name, parameter).rpartition(".")
                located.append((parameter.name, self.get_submodule(path), attribute))
            yield _Step(name, self.forward_of(name), tuple(located), inputs, released)

    def _place(self, key: str, parameter: Parameter, tensor: Tensor) -> None:
        *path, attribute = key.split(".")
        owner: nn.Module = self
        for part in path:
            if part not in owner._modules:
                _refuse_taken(owner, part, key)
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        _refuse_taken(owner, attribute, key)
        if parameter.initial.buffer:
            owner.register_buffer(attribute, tensor)
        else:
            owner.register_parameter(attribute, nn.Parameter(tensor))


def _refuse_taken(owner: nn.Module, attribute: str, key: str) -> None:
    if hasattr(owner, attribute):
        raise GraphError(
            f"tensor {key}: {attribute!r} is an attribute of every torch module or of another node; rename the node"
        )


def _site(graph: LayerGraph, node: str) -> Site:
    return Site((graph.layer(node),), (node,), graph.input_shapes(node), graph.shapes[node])


def _parameters(graph: LayerGraph, node: str) -> tuple[Parameter, ...]:
    return require_rule(graph.layer(node), Quantity.PARAMETERS, node).function(_site(graph, node))


def _key(node: str, parameter: Parameter) -> str:
    return f"{node}.{parameter.name}" if parameter.name else node


def _draw(parameter: Parameter, generator: torch.Generator) -> Tensor:
    shape = tuple(int(size) for size in parameter.shape)
    fan_in = int(parameter.fan_in)
    match parameter.initial:
        case Initial.WEIGHT:
            return torch.randn(shape, generator=generator) * (WEIGHT_VARIANCE / fan_in) ** 0.5
        case Initial.ATTENTION:
            return torch.randn(shape, generator=generator) * (ATTENTION_VARIANCE / fan_in) ** 0.5
        case Initial.TOKEN:
            return torch.randn(shape, generator=generator) * TOKEN_DEVIATION
        case Initial.SLOPE:
            return torch.full(shape, PRELU_SLOPE)
        case Initial.ONE | Initial.VARIANCE:
            return torch.ones(shape)
        case Initial.ZERO | Initial.MEAN | Initial.MASK:
            return torch.zeros(shape)
        case Initial.COUNT:
            return torch.zeros(shape, dtype=torch.int64)
