"""Slow and plain truths to test against: dense Jacobians and lam in float64, with nothing of fimtheory's estimators."""

from __future__ import annotations

import math

import torch

import fimtheory as ft


def jacobian(function, x):
    """Dense Jacobian of ``function`` (one input to one output, any shapes) as a matrix."""
    made = torch.func.jacrev(lambda v: function(v.reshape(x.shape)).reshape(-1))(x.reshape(-1))
    return made.reshape(-1, x.numel())


def lam_from(jac, logits, temperature=1.0):
    """Return log10 of the largest eigenvalue of J^T S_p J / tau^2; -inf where it is zero.

    Rows of J are taken relative to that of the top class (S_p annihilates constants), so equal rows cancel exactly and
    1 - p of a saturated softmax is never formed, and scaled by their largest entry, so nothing overflows.
    """
    p = (logits / temperature).softmax(0)
    relative = jac - jac[p.argmax()]
    size = relative.abs().max().item()
    if size == 0:
        return -math.inf
    relative = relative / size
    square = relative.T @ (torch.diag(p) - torch.outer(p, p)) @ relative
    largest = square.abs().max().item()
    if largest < 1e-290:  # beyond what a saturated softmax can tell from zero, and LAPACK's scaling from denormals
        return -math.inf
    top = torch.linalg.eigvalsh((square + square.T) / (2 * largest))[-1].item()
    return math.log10(top) + math.log10(largest) + 2 * math.log10(size / temperature) if top > 0 else -math.inf


def log10_lam(module, x, temperature=1.0):
    """Return log10 lam at one input."""
    return lam_from(jacobian(single(module), x), module(x[None])[0], temperature)


def single(module):
    """Return the function of one input that a module computes on batches."""
    return lambda x: module(x[None])[0]


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


def norm(matrix):
    """Largest singular value."""
    size = matrix.abs().max().item() if matrix.numel() else 0.0
    return size * torch.linalg.matrix_norm(matrix / size, 2).item() if size > 0 else 0.0


def ascend(module, x, steps, generator, box=math.inf):
    """Ascend log lam by gradient steps, or random ones where it is flat; return the best log10 lam and its input.

    Entries stay within ``box``.
    """
    function = single(module)
    best = log10_lam(module, x)
    step = 0.3
    for _ in range(steps):
        direction = _gradient(function, x)
        if direction is None:
            direction = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        scale = max(x.norm().item(), 1.0) / max(direction.norm().item(), 1e-300)
        trial = (x + step * scale * direction).clamp(-box, box)
        found = log10_lam(module, trial)
        if found > best:
            best, x, step = found, trial, step * 1.5
        else:
            step *= 0.4
    return best, x


def _gradient(function, x):
    """Gradient of u^T F(x) u with u the top eigenvector held fixed; None where there is none to follow."""
    logits, jac = function(x), jacobian(function, x)
    p = logits.softmax(0)
    relative = jac - p @ jac
    factor = p.sqrt()[:, None] * relative
    if not factor.isfinite().all() or factor.abs().max() == 0:
        return None
    u = torch.linalg.svd(factor, full_matrices=False).Vh[0].reshape(x.shape)

    def along(v):
        value, tangent = torch.func.jvp(function, (v,), (u,))
        q = value.softmax(0)
        return (q * (tangent - (q * tangent).sum()) ** 2).sum()

    try:
        gradient = torch.func.grad(along)(x)
    except RuntimeError as error:  # torch differentiates a few activations once only
        if "is not implemented" not in str(error):
            raise
        return None
    return gradient if gradient.isfinite().all() and gradient.abs().max() > 0 else None


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
