"""Slow and plain truths about graphs, beside those of ``fimtheory.properties.truths``, which are named here too."""

from __future__ import annotations

import torch

import fimtheory as ft
from fimtheory.properties.truths import ascend, jacobian, lam_from, log10_lam, norm, single

__all__ = [
    "activations", "ascend", "fragment_module", "jacobian", "jacobians", "lam_from", "log10_lam", "norm", "outputs",
    "random_networks", "single",
]  # fmt: skip


def fragment_module(graph, weights, entry, members):
    """Return the map from node ``entry`` through ``members`` as a module of its own, with its share of the weights."""
    names = tuple(f"m{k}" for k in range(len(members)))
    body = graph.fragment(entry, members, names)
    chosen = {}
    for name, member in zip(names, members, strict=True):
        for key, tensor in weights.items():
            if key == member or key.startswith(f"{member}."):
                chosen[name + key[len(member) :]] = tensor
    return ft.instantiate(body, weights=chosen, dtype=torch.float64)


def activations(graph, weights, x):
    """Return the value of every node at input ``x``, node by node."""
    values = {graph.input: x}
    for name in graph.order:
        if name != graph.input:
            layer = graph.layer(name)
            site = ft.Site((layer,), (name,), graph.input_shapes(name), graph.shapes[name])
            forward = ft.registry.require_rule(layer, ft.Quantity.FORWARD, name).function(site)
            own = {key[len(name) + 1 :]: t for key, t in weights.items() if key == name or key.startswith(f"{name}.")}
            values[name] = forward(own, *(values[source][None] for source in graph.inputs(name)))[0]
    return values


def random_networks(graph, seeds):
    """Stack the weights of ``seeds`` random networks of the ensemble, in float64, along a new first dimension."""
    states = [ft.instantiate(graph, seed).state_dict() for seed in range(seeds)]
    stacked = {key: torch.stack([state[key] for state in states]) for key in states[0]}
    networks = {key: t.double() if t.dtype.is_floating_point else t for key, t in stacked.items()}
    return networks or {"": torch.zeros(seeds)}  # no weights: as many equal networks


def jacobians(graph, networks, x, nodes):
    """Dense Jacobians of ``nodes`` by the input, for all stacked networks: (seeds, node size, input size)."""

    def values(weights, v):
        found = activations(graph, weights, v)
        return {name: found[name].reshape(-1) for name in nodes}

    differentiate = torch.func.jacrev(values, argnums=1)
    if any(isinstance(node.layer, ft.layers.PReLU) for node in graph.nodes):  # which torch cannot batch over slopes
        seeds = len(next(iter(networks.values())))
        each = [differentiate({key: t[k] for key, t in networks.items()}, x) for k in range(seeds)]
        made = {name: torch.stack([one[name] for one in each]) for name in nodes}
    else:
        made = torch.func.vmap(differentiate, in_dims=(0, None))(networks, x)
    return {name: jac.flatten(2) for name, jac in made.items()}


def outputs(graph, networks, x):
    """Return the logits of all stacked networks."""
    return torch.func.vmap(lambda weights: activations(graph, weights, x)[graph.output])(networks)
