"""Jacobians of small convolutional networks for chosen slopes and selections, and a search for the largest."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from fimtheory import layers
from fimtheory.slopes import slopes_of


class Jacobian:
    """Jacobian of the logits by the entry, as a function of factors: slopes at every entry, weights at every window."""

    def __init__(self, graph, tensors):
        self.graph, self.tensors = graph, {name: value.double() for name, value in tensors.items()}
        self.unknown = {}
        for name in graph.order:
            layer = graph.layer(name)
            if isinstance(layer, layers.MaxPool2d):
                inside = self._windows(layer, torch.ones(1, *graph.input_shapes(name)[0], dtype=torch.float64))
                self.unknown[name] = ("select", inside[0] > 0)  # (channels, window, positions)
            elif not isinstance(layer, layers.Input) and (slopes := slopes_of(layer)) is not None:
                self.unknown[name] = ("slopes", tuple(map(float, slopes)))

    def _windows(self, layer, x):
        """Entries of windows of a batch (b, c, h, w), zeros outside: (b, c, window, positions)."""
        b, c, h, w = x.shape
        along = []
        for n, k, s, p, d in zip((h, w), layer.kernel, layer.stride, layer.padding, layer.dilation, strict=True):
            reach = n + 2 * p - d * (k - 1) - 1
            m = reach // s + 1
            if layer.ceil_mode:
                m = -(-reach // s) + 1
                m -= (m - 1) * s >= n + p
            along.append(torch.tensor([[o * s + t * d - p for o in range(m)] for t in range(k)]))
        rows, columns = along
        room = 64
        padded = functional.pad(x, (room, room, room, room))
        picked = padded[:, :, room + rows[:, None, :, None], room + columns[None, :, None, :]]
        return picked.reshape(b, c, rows.shape[0] * columns.shape[0], -1)

    def random(self, generator):
        factors = {}
        for name, (kind, about) in self.unknown.items():
            if kind == "slopes":
                low, high = about
                pick = torch.rand(self.graph.shapes[name], generator=generator, dtype=torch.float64)
                factors[name] = torch.where(pick < 0.5, low, high)
            else:
                score = torch.rand(about.shape, generator=generator, dtype=torch.float64) - 9.0 * ~about
                factors[name] = functional.one_hot(score.argmax(1), about.shape[1]).movedim(-1, 1).double()
        return factors

    def better(self, name, gradient):
        """Vertex of the admissible factors of a node in the direction of a gradient."""
        kind, about = self.unknown[name]
        if kind == "slopes":
            return torch.where(gradient > 0, about[1], about[0]).double()
        score = torch.where(about, gradient, -math.inf)
        return functional.one_hot(score.argmax(1), about.shape[1]).movedim(-1, 1).double()

    def logits(self, factors):
        """(classes, entries)."""
        graph, values = self.graph, {}
        for name in graph.order:
            layer, read = graph.layer(name), [values[n] for n in graph.inputs(name)]
            own = {key.removeprefix(f"{name}."): v for key, v in self.tensors.items() if key.startswith(f"{name}.")}
            if isinstance(layer, layers.Input):
                size = math.prod(layer.shape)
                values[name] = torch.eye(size, dtype=torch.float64).reshape(size, *layer.shape)
            elif isinstance(layer, layers.Conv2d):
                values[name] = functional.conv2d(
                    read[0], own["weight"], None, layer.stride, layer.padding, layer.dilation, layer.groups
                )
            elif isinstance(layer, layers.BatchNorm2d):
                values[name] = read[0] * (own["weight"] / (own["running_var"] + layer.eps).sqrt())[:, None, None]
            elif isinstance(layer, layers.BatchNorm1d):
                values[name] = read[0] * (own["weight"] / (own["running_var"] + layer.eps).sqrt())
            elif isinstance(layer, layers.AvgPool2d):
                values[name] = functional.avg_pool2d(
                    read[0], layer.kernel, layer.stride, layer.padding, layer.ceil_mode, layer.count_include_pad,
                    layer.divisor,
                )  # fmt: skip
            elif isinstance(layer, layers.AdaptiveAvgPool2d):
                values[name] = functional.adaptive_avg_pool2d(read[0], layer.output)
            elif isinstance(layer, layers.Mean):
                values[name] = read[0].mean([dim + 1 for dim in layer.dims], layer.keepdim)
            elif isinstance(layer, layers.MaxPool2d):
                windows = self._windows(layer, read[0])
                values[name] = (windows * factors[name]).sum(2).reshape(-1, *graph.shapes[name])
            elif isinstance(layer, layers.Add):
                values[name] = sum(read)
            elif isinstance(layer, layers.Concat):
                values[name] = torch.cat(read, 1)
            elif isinstance(layer, layers.Flatten):
                values[name] = read[0].flatten(1)
            elif isinstance(layer, layers.Linear):
                values[name] = read[0] @ own["weight"].T
            elif isinstance(layer, (layers.Identity, layers.Dropout)):
                values[name] = read[0]
            else:
                values[name] = read[0] * factors[name]
        return values[graph.output].T

    def value(self, factors):
        """Largest norm of a difference of two rows."""
        rows: Tensor = self.logits(factors)
        return (rows[:, None] - rows[None]).square().sum(-1).max().clamp_min(0.0)

    def ascended(self, seed, rounds=4):
        """Lower bound on the supremum: the norm is convex in each node's factors, so its vertices are tried in turn."""
        factors = self.random(torch.Generator().manual_seed(seed))
        best = float(self.value(factors))
        for _ in range(rounds):
            for name in factors:
                variable = factors[name].clone().requires_grad_()
                value = self.value(factors | {name: variable})
                (gradient,) = torch.autograd.grad(value, variable, allow_unused=True)
                if gradient is None:
                    continue
                changed = factors | {name: self.better(name, gradient)}
                found = float(self.value(changed))
                if found > best:
                    best, factors = found, changed
        return math.sqrt(best)
