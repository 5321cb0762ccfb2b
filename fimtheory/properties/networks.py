"""Many random networks of a graph at once, and the values and dense Jacobians of their nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fimtheory.claims import Quantity
from fimtheory.graph import LayerGraph
from fimtheory.instantiation import draw_weights, graph_parameters
from fimtheory.layers import PReLU
from fimtheory.registry import Site, require_rule

__all__ = ["activations", "jacobians", "outputs", "random_networks"]

Weights = Mapping[str, Tensor]


def activations(graph: LayerGraph, weights: Weights, x: Tensor) -> dict[str, Tensor]:
    """Return the value of every node at input ``x``, node by node."""
    values = {graph.input: x}
    for name in graph.order:
        if name != graph.input:
            layer = graph.layer(name)
            site = Site((layer,), (name,), graph.input_shapes(name), graph.shapes[name])
            forward = require_rule(layer, Quantity.FORWARD, name).function(site)
            own = {key[len(name) + 1 :]: t for key, t in weights.items() if key == name or key.startswith(f"{name}.")}
            values[name] = forward(own, *(values[source][None] for source in graph.inputs(name)))[0]
    return values


def random_networks(graph: LayerGraph, seeds: int) -> dict[str, Tensor]:
    """Stack the weights of ``seeds`` random networks of the ensemble, in float64, along a new first dimension."""
    parameters = graph_parameters(graph)
    states = [draw_weights(parameters, seed) for seed in range(seeds)]
    stacked = {key: torch.stack([state[key] for state in states]) for key in states[0]}
    networks = {key: t.double() if t.dtype.is_floating_point else t for key, t in stacked.items()}
    return networks or {"": torch.zeros(seeds)}  # no weights: as many equal networks


def jacobians(graph: LayerGraph, networks: Weights, x: Tensor, nodes: Sequence[str]) -> dict[str, Tensor]:
    """Dense Jacobians of ``nodes`` by the input, for all stacked networks: (seeds, node size, input size)."""

    def values(weights: Weights, v: Tensor) -> dict[str, Tensor]:
        found = activations(graph, weights, v)
        return {name: found[name].reshape(-1) for name in nodes}

    differentiate = torch.func.jacrev(values, argnums=1)
    if any(isinstance(node.layer, PReLU) for node in graph.nodes):  # which torch cannot batch over slopes
        seeds = len(next(iter(networks.values())))
        each = [differentiate({key: t[k] for key, t in networks.items()}, x) for k in range(seeds)]
        made = {name: torch.stack([one[name] for one in each]) for name in nodes}
    else:
        made = torch.func.vmap(differentiate, in_dims=(0, None))(networks, x)
    return {name: jac.flatten(2) for name, jac in made.items()}


def outputs(graph: LayerGraph, networks: Weights, x: Tensor) -> Tensor:
    """Return the logits of all stacked networks."""
    return torch.func.vmap(lambda weights: activations(graph, weights, x)[graph.output])(networks)
