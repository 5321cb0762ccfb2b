"""Compare the bounds of random small networks with adversarial weights with what an ascent finds.

For every network the certified bound is compared with lam at a few inputs, and with the largest
``max_ij ||(e_i - e_j)^T J||^2 / 4`` that an ascent finds when every slope of an activation is a free number between its
ends and every maximum a free selection.  That relaxed supremum is what the rules claim to bound.  Transformers are
compared with lam, by ascent over inputs.

Run: python benchmarks/fuzz.py [--n 500] [--seed 0] [--kind residual]
"""

from __future__ import annotations

import argparse
import functools
import math
import random
import traceback
from collections import Counter
from collections.abc import Callable

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

import fimtheory as ft
from fimtheory import joint_stacks, layers, norms
from fimtheory.claims import Quantity
from fimtheory.errors import FimTheoryError
from fimtheory.registry import Site, require_rule
from fimtheory.slopes import slopes_of

KINDS = (
    "dense", "plain", "residual", "dense block", "pools", "branches", "mixed", "tokens", "extreme", "transformer",
)  # fmt: skip
ENTRIES = (0, 10, 40, 40, 150, 1100)
"""Entries of a state kept as one vector: a matter of cost, drawn so that small networks are bounded on a torus too."""
# Few steps of descent, and no network for longer than a second or so: any multipliers give a bound.
DESCENT, BUDGET = 3, 2.0**31
DRAWS = 5
"""Weights that are drawn for each architecture: deriving its bound takes longer than evaluating it."""


# ---- networks -----------------------------------------------------------------------------------------------------


class Net:
    """A graph in the making, with the shape of every node."""

    def __init__(self, rng: random.Random, shape: tuple[int, ...]) -> None:
        self.rng, self.nodes, self.shapes = rng, [ft.Node("x", layers.Input(shape))], {"x": shape}

    def add(self, layer: layers.Layer, *read: str) -> str:
        """Append a node; a shape that does not fit is refused before."""
        name = f"n{len(self.nodes)}"
        rule = require_rule(layer, Quantity.SHAPE, name)
        found = rule.function(Site((layer,), (name,), tuple(self.shapes[r] for r in read), ()))
        shape = tuple(int(size) for size in found)
        if min(shape) < 1:
            raise FimTheoryError("an empty image")
        self.nodes.append(ft.Node(name, layer, read))
        self.shapes[name] = shape
        return name

    def activation(self, here: str) -> str:
        """Any activation with slopes."""
        pick = self.rng.choice
        made = pick([
            layers.ReLU(), layers.ReLU(), layers.LeakyReLU(round(self.rng.uniform(-0.5, 1.5), 3)), layers.GELU(),
            layers.SiLU(), layers.Hardswish(), layers.Tanh(), layers.ELU(pick([0.5, 1.0, 2.0])), layers.Abs(),
        ])  # fmt: skip
        return self.add(made, here)

    def norm(self, here: str) -> str:
        """A batch norm, now and then."""
        if self.rng.random() < 0.5:
            return here
        shape = self.shapes[here]
        return self.add((layers.BatchNorm2d if len(shape) == 3 else layers.BatchNorm1d)(shape[0]), here)

    def conv(self, here: str, outputs: int | None = None, **fixed: tuple[int, int]) -> str:
        """A convolution of any geometry."""
        pick, inputs = self.rng.choice, self.shapes[here][0]
        groups = pick([g for g in range(1, inputs + 1) if inputs % g == 0]) if self.rng.random() < 0.25 else 1
        outputs = outputs or groups * self.rng.randint(1, max(1, 4 // groups))
        groups = groups if outputs % groups == 0 else 1
        options = {
            "kernel": tuple(pick([1, 2, 3, 3]) for _ in range(2)),
            "stride": tuple(pick([1, 1, 2, 3]) for _ in range(2)),
            "padding": tuple(pick([0, 1, 1, 2]) for _ in range(2)),
            "dilation": tuple(pick([1, 1, 1, 2]) for _ in range(2)),
        } | fixed
        return self.add(layers.Conv2d(inputs, outputs, **options, groups=groups, bias=pick([True, False])), here)

    def same(self, here: str, outputs: int) -> str:
        """A convolution that keeps the size of the image."""
        k, d = self.rng.choice([(1, 1), (3, 1), (3, 1), (3, 2)])
        p = d * (k - 1) // 2
        return self.conv(here, outputs, kernel=(k, k), stride=(1, 1), padding=(p, p), dilation=(d, d))

    def pool(self, here: str) -> str:
        """A pool over windows."""
        pick = self.rng.choice
        kernel = tuple(pick([1, 2, 2, 3]) for _ in range(2))
        stride = tuple(pick([1, 2, 3]) for _ in range(2))
        padding = tuple(self.rng.randint(0, k // 2) for k in kernel)
        ceil = pick([True, False])
        if self.rng.random() < 0.6:
            return self.add(layers.MaxPool2d(kernel, stride, padding, ceil_mode=ceil), here)
        divisor = pick([None, None, 3])
        return self.add(layers.AvgPool2d(kernel, stride, padding, ceil, pick([True, False]), divisor), here)

    def reduced(self, here: str) -> str:
        """A vector."""
        if len(self.shapes[here]) != 3:
            return here if len(self.shapes[here]) == 1 else self.add(layers.Flatten(), here)
        match self.rng.randrange(5):
            case 0:
                return self.add(layers.Mean((1, 2)), here)
            case 1:
                return self.add(layers.Flatten(), self.add(layers.Mean((1, 2), True), here))
            case 2:
                sizes = [self.rng.choice([m for m in range(1, n + 1) if n % m == 0]) for n in self.shapes[here][1:]]
                return self.add(layers.Flatten(), self.add(layers.AdaptiveAvgPool2d(tuple(sizes)), here))
            case 3:
                return self.add(layers.Flatten(), self.add(layers.AdaptiveAvgPool2d((1, 1)), here))
        return self.add(layers.Flatten(), here)

    def graph(self, here: str) -> ft.LayerGraph:
        """Add the head; what nothing reads is left out."""
        here = self.reduced(here)
        if self.rng.random() < 0.4:
            here = self.activation(
                self.norm(self.add(layers.Linear(self.shapes[here][0], self.rng.randint(1, 6)), here))
            )
        end = self.add(layers.Linear(self.shapes[here][0], self.rng.randint(2, 4)), here)
        used = {end}
        for node in reversed(self.nodes):
            if node.name in used:
                used.update(node.inputs)
        return ft.LayerGraph([node for node in self.nodes if node.name in used])


def block(net: Net, here: str, kind: str) -> str:
    """Add a block of a kind and return its exit."""
    rng, shape = net.rng, net.shapes[here]
    if kind == "mixed":
        kind = rng.choice(["plain", "residual", "dense block", "pools", "branches"])
    if kind == "plain":
        return net.activation(net.norm(net.conv(here)))
    if kind == "pools":
        here = net.norm(net.conv(here)) if rng.random() < 0.5 else here
        here = net.activation(here) if rng.random() < 0.6 else here
        here = net.pool(here)
        return net.activation(here) if rng.random() < 0.3 else here
    if kind == "dense block":
        for _ in range(rng.randint(1, 3)):
            start = net.activation(net.add(layers.BatchNorm2d(net.shapes[here][0]), here))
            new = net.same(start, rng.randint(1, 2))
            read = [here, new] if rng.random() < 0.8 else [new, here, new]
            here = net.add(layers.Concat(0), *read)
        return here
    if kind == "branches":
        ends = [net.activation(net.norm(net.conv(here))) for _ in range(rng.randint(2, 3))]
        if rng.random() < 0.5 and len({net.shapes[end] for end in ends}) == 1:
            return net.add(layers.Add(), *ends)
        if rng.random() < 0.5 and len({net.shapes[end][1:] for end in ends}) == 1:
            return net.add(layers.Concat(0), *ends)
        return net.add(layers.Concat(0), *(net.reduced(end) for end in ends))
    if rng.random() < 0.5:  # identity shortcut
        inner = net.activation(net.norm(net.same(here, rng.randint(1, 4))))
        out, short = net.norm(net.same(inner, shape[0])), here
    else:
        stride, outputs = rng.choice([(1, 1), (2, 2), (1, 2)]), rng.randint(1, 4)
        first = net.conv(here, None, kernel=(3, 3), stride=stride, padding=(1, 1), dilation=(1, 1))
        out = net.norm(net.same(net.activation(net.norm(first)), outputs))
        short = net.norm(net.conv(here, outputs, kernel=(1, 1), stride=stride, padding=(0, 0), dilation=(1, 1)))
    made = net.add(layers.Add(), *rng.sample([out, short], 2))
    return net.activation(made) if rng.random() < 0.7 else made


def drawn(rng: random.Random, kind: str) -> ft.LayerGraph:
    """Return a random classifier of a kind."""
    if kind == "transformer":
        return transformer(rng)
    if kind in ("dense", "tokens"):
        size = rng.randint(1, 6)
        net = Net(rng, (size,) if kind == "dense" else (rng.randint(1, 3), size))
        here = "x"
        for _ in range(rng.randint(1, 4)):
            new = net.add(layers.Linear(net.shapes[here][-1], rng.randint(1, 7)), here)
            new = net.norm(new) if kind == "dense" else new
            new = net.activation(new) if rng.random() < 0.9 else new
            if rng.random() < 0.3:
                new = net.add(layers.Linear(net.shapes[new][-1], net.shapes[here][-1]), new)
                new = net.add(layers.Add(), here, new)
            here = new
        return net.graph(here)
    net = Net(rng, (rng.randint(1, 5), rng.randint(3, 7), rng.randint(3, 6)))
    here = "x"
    for _ in range(rng.randint(1, 3)):
        for _ in range(20):
            kept = len(net.nodes)
            try:
                here = block(net, here, "mixed" if kind == "extreme" else kind)
                break
            except (FimTheoryError, TypeError, ZeroDivisionError):
                for node in net.nodes[kept:]:
                    del net.shapes[node.name]
                del net.nodes[kept:]
        if len(net.shapes[here]) != 3:
            break
    if not any(isinstance(node.layer, layers.Conv2d) for node in net.nodes):
        here = net.activation(net.same(here, 2)) if len(net.shapes[here]) == 3 else here
    return net.graph(here)


def transformer(rng: random.Random) -> ft.LayerGraph:
    """Return a pre-norm encoder of one or two layers."""
    heads = rng.randint(1, 2)
    tokens, dim = rng.randint(1, 4), heads * rng.randint(1, 3)
    eps = rng.choice([1e-6, 1e-3, 0.1, 1.0])
    net = Net(rng, (tokens, dim))

    def norm(here: str) -> str:
        return net.add(rng.choice([layers.LayerNorm(dim, eps), layers.RMSNorm(dim, eps)]), here)

    here = "x"
    for _ in range(rng.randint(1, 2)):
        made = net.add(layers.MultiHeadSelfAttention(dim, heads, rng.choice([True, False])), norm(here))
        here = net.add(layers.Add(), here, made) if rng.random() < 0.8 else made
        if rng.random() < 0.6:
            wide = net.activation(net.add(layers.Linear(dim, 3), norm(here)))
            here = net.add(layers.Add(), here, net.add(layers.Linear(3, dim), wide))
    here = norm(here) if rng.random() < 0.5 else here
    here = net.add(layers.SelectToken(rng.randrange(tokens)) if rng.random() < 0.5 else layers.Flatten(), here)
    net.add(layers.Linear(net.shapes[here][0], rng.randint(2, 3)), here)
    return ft.LayerGraph(net.nodes)


def weights(rng: random.Random, graph: ft.LayerGraph, kind: str) -> dict[str, Tensor]:
    """Return adversarial weights in float64."""
    generator = torch.Generator().manual_seed(rng.getrandbits(40))
    made = {}
    for key, value in ft.instantiate(graph, 0, dtype=torch.float64).state_dict().items():
        if not value.is_floating_point():
            made[key] = value
            continue
        normal = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if key.endswith("running_var"):
            made[key] = normal.square() if rng.random() < 0.7 else normal.square() * 1e-8
        elif value.ndim < 2:
            made[key] = normal * rng.choice([0.0, 1.0, 1.0, 30.0])
        else:
            made[key] = _matrix(rng, normal, generator)
            if kind == "extreme":
                made[key] = made[key] * 10.0 ** rng.choice([-30, -12, 0, 12, 30])
    return made


def _matrix(rng: random.Random, normal: Tensor, generator: torch.Generator) -> Tensor:
    flat = normal.flatten(1)
    match rng.randrange(8):
        case 0:
            flat = flat[:, :1] * flat[:1]
        case 1:
            flat = flat * (torch.rand(flat.shape, generator=generator) < 0.3)
        case 2:
            u, _, v = torch.linalg.svd(flat, full_matrices=False)
            flat = u @ v
        case 3:
            flat = flat * 10.0 ** (6 * torch.rand(len(flat), 1, generator=generator, dtype=torch.float64) - 3)
        case 4:
            flat = flat * (torch.rand(len(flat), 1, generator=generator) < 0.5)
        case 5:
            flat = torch.ones_like(flat)
        case 6:
            flat = flat.abs()
    return flat.reshape(normal.shape) * rng.choice([1.0, 1.0, 0.1])


# ---- what is found ------------------------------------------------------------------------------------------------


class Relaxed:
    """Rows of the Jacobian as a function of slopes and selections, by the forward functions of the model itself."""

    def __init__(self, graph: ft.LayerGraph, tensors: dict[str, Tensor]) -> None:
        self.graph = graph
        shifts = ("bias", "running_mean")
        plain = {key: torch.zeros_like(v) if key.endswith(shifts) else v for key, v in tensors.items()}
        self.model = ft.instantiate(graph, weights=plain, dtype=torch.float64)
        self.ends: dict[str, Tensor] = {}
        self.inside: dict[str, Tensor] = {}
        for name in graph.order[1:]:
            layer = graph.layer(name)
            if isinstance(layer, layers.MaxPool2d):
                _, *image = graph.input_shapes(name)[0]
                each = torch.eye(math.prod(image), dtype=torch.float64).reshape(-1, 1, *image)
                pooled = self.model.forward_of(name)({}, each)  # 1 where a window holds the position
                self.inside[name] = pooled.flatten(1).T > 0
            elif (slopes := slopes_of(layer)) is not None:
                self.ends[name] = torch.tensor([float(slope) for slope in slopes], dtype=torch.float64)

    def start(self, generator: torch.Generator, number: int) -> dict[str, Tensor]:
        """Random vertices; the first time, the steepest slopes."""
        made = {}
        for name, (low, high) in self.ends.items():
            chance = torch.rand(self.graph.shapes[name], generator=generator, dtype=torch.float64)
            steepest = high if abs(high) >= abs(low) else low
            made[name] = torch.where(chance < 0.5, low, high) if number else steepest.expand_as(chance)
        for name, inside in self.inside.items():
            score = torch.rand(self.graph.shapes[name][0], *inside.shape, generator=generator, dtype=torch.float64)
            made[name] = self._selected(name, score)
        return made

    def _selected(self, name: str, score: Tensor) -> Tensor:
        best = torch.where(self.inside[name], score, -math.inf).argmax(-1, keepdim=True)
        return torch.zeros_like(score).scatter_(-1, best, 1.0)

    def rows(self, factors: dict[str, Tensor]) -> Tensor:
        """Jacobian of the logits, transposed."""
        size = math.prod(self.graph.shapes["x"])
        values = {"x": torch.eye(size, dtype=torch.float64).reshape(size, *self.graph.shapes["x"])}
        for name in self.graph.order[1:]:
            read = [values[source] for source in self.graph.inputs(name)]
            if name in self.ends:
                values[name] = read[0] * factors[name]
            elif name in self.inside:
                picked = torch.einsum("bcp,cop->bco", read[0].flatten(2), factors[name])
                values[name] = picked.reshape(-1, *self.graph.shapes[name])
            else:
                values[name] = self.model.forward_of(name)(self.model.tensors(name), *read)
        return values[self.graph.output]

    def value(self, factors: dict[str, Tensor]) -> Tensor:
        """Quarter of the largest squared norm of a difference of two logits."""
        rows = self.rows(factors)
        return _without_noise(0.25 * (rows[:, :, None] - rows[:, None, :]).square().sum(0).max(), rows)

    def ascended(self, seed: int, starts: int = 3, rounds: int = 3) -> float:
        """Largest value found; it is convex in the factors of each node, so its vertices are gone to in turn."""
        best = 0.0
        generator = torch.Generator().manual_seed(seed)
        for number in range(starts):
            factors = self.start(generator, number)
            found = float(self.value(factors).detach())
            for _ in range(rounds):
                before = found
                for name in reversed(list(factors)):
                    variable = factors[name].clone().requires_grad_()
                    value = self.value(factors | {name: variable})
                    (slope,) = torch.autograd.grad(value, variable, allow_unused=True)
                    if slope is None:
                        continue
                    if name in self.ends:
                        low, high = self.ends[name]
                        changed = torch.where(slope > 0, high, low)
                    else:
                        changed = self._selected(name, slope)
                    reached = float(self.value(factors | {name: changed}).detach())
                    if reached > found:
                        found, factors[name] = reached, changed
                if found <= before * (1 + 1e-6):
                    break
            best = max(best, found)
        return best


def lam(model: torch.nn.Module, x: Tensor, differentiable: bool) -> Tensor:
    """Largest eigenvalue of ``J^T S_p J`` at each input of a batch."""
    z = model(x)
    rows = torch.stack(
        [torch.autograd.grad(each.sum(), x, retain_graph=True, create_graph=differentiable)[0] for each in z.unbind(1)],
        1,
    ).flatten(2)
    p = z.softmax(1)[:, :, None]
    centred = p.sqrt() * (rows - (p * rows).sum(1, keepdim=True))
    gram = centred @ centred.mT
    finite = gram.flatten(1).isfinite().all(1)
    largest = torch.linalg.eigvalsh(torch.where(finite[:, None, None], gram, 0.0))[:, -1]
    return torch.where(finite, _without_noise(largest, rows), torch.nan)


def _without_noise(value: Tensor, rows: Tensor) -> Tensor:
    """Zero where rows of a Jacobian differ by what rounding leaves of equal rows."""
    return torch.where(value > 1e-26 * rows.square().sum((-1, -2)), value, 0.0)


def inputs(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    """Inputs of many sizes, constant ones, and tokens that are nearly constant or aligned."""
    normal = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(6)]
    line = normal[4].flatten(1)[:1] if len(shape) > 1 else normal[4][:1]
    aligned = (line * torch.ones(shape[0], 1) + 1e-3 * normal[5].flatten(1)) if len(shape) > 1 else normal[5]
    return torch.stack([
        normal[0], normal[1] * 1e-3, normal[2] * 1e4, torch.ones_like(normal[0]), torch.zeros_like(normal[0]),
        normal[3] * 0.1 + 2.0, 1.0 + normal[5] * 1e-2, aligned.reshape(shape),
    ])  # fmt: skip


def largest_lam(graph: ft.LayerGraph, tensors: dict[str, Tensor], seed: int, steps: int) -> float:
    """Largest lam found at inputs of many sizes, after ``steps`` sign steps with shrinking length from each."""
    model = ft.instantiate(graph, weights=tensors, dtype=torch.float64)
    x = inputs(torch.Generator().manual_seed(seed), graph.shapes["x"])
    size = x.flatten(1).abs().mean(1).reshape(-1, *[1] * (x.ndim - 1)) + 1e-3
    best = 0.0
    for k in range(steps + 1):
        x = x.detach().requires_grad_()
        value = lam(model, x, differentiable=k < steps)
        best = max([best, *(each for each in value.tolist() if math.isfinite(each))])
        if k < steps:
            (slope,) = torch.autograd.grad(value.nan_to_num().sum(), x)
            x = x + 0.3 * size * 0.8**k * slope.nan_to_num().sign()
    return best


# ---- the comparison -----------------------------------------------------------------------------------------------


def winner(found: ft.evaluation.Evaluation) -> str:
    """Name of the rule that gave the bound."""
    last = found.ladder[-1]
    if len(found.ladder) > 1 and last.name == "joint recursion" and last.log10 < found.ladder[-2].log10:
        row = next(row for row in found.rows if row.rule == "recursion")
        parts = row.method.replace(",", "").split()
        return "joint " + (parts[1] if parts[0] == "recursion" and len(parts) > 1 else row.method)
    special = [r for r in found.rules if r.startswith("minimum") or "attention" in r]
    return "product with " + ", ".join(sorted(special)) if special else "product"


def recursion_alone(found: ft.evaluation.Evaluation) -> float:
    """Decimal logarithm of the bound by the recursion from the input, whether or not it is the smallest; or infinity.

    The product of norms is often smaller on tiny networks, and would hide a recursion that is wrong.
    """
    recursion = found.derivation.theorem.recursion
    if recursion is None or found.derivation.graph.inputs(recursion.nodes[0]) != ("x",):
        return math.inf
    (row,) = (row for row in found.rows if row.rule == "recursion")
    return 2 * row.log10 - math.log10(4)


def snippet(graph: ft.LayerGraph, seed: int, kind: str) -> str:
    """How to make the network again."""
    nodes = "\n".join(f"  {n.name} = {n.layer!r} of {', '.join(n.inputs)} {graph.shapes[n.name]}" for n in graph.nodes)
    return f"graph, tensors, entries = network({seed}, {kind!r})\n{nodes}"


@functools.lru_cache(1)
def architecture(number: int, kind: str) -> tuple[ft.LayerGraph, int]:
    """Return a graph of a kind, and the number of entries from which on a state is one vector."""
    rng = random.Random(f"{kind} {number}")
    return drawn(rng, kind), rng.choice(ENTRIES)


def network(seed: int, kind: str) -> tuple[ft.LayerGraph, dict[str, Tensor], int]:
    """Return a network of a kind, its weights, and the number of entries from which on a state is one vector."""
    graph, entries = architecture(seed // DRAWS, kind)
    return graph, weights(random.Random(f"{kind} {seed}"), graph, kind), entries


@functools.lru_cache(1)
def derived(number: int, kind: str) -> ft.Derivation:
    """Derivation for an architecture."""
    graph, joint_stacks._MOST_ENTRIES = architecture(number, kind)
    return ft.derive(graph)


def compared(seed: int, kind: str) -> tuple[float, float, str]:
    """Return the decimal logarithm of the smallest bound, the largest value found, and the rule that won."""
    graph, tensors, entries = network(seed, kind)
    joint_stacks._MOST_ENTRIES = entries
    model = ft.instantiate(graph, weights=tensors, dtype=torch.float64)
    found = ft.evaluate(derived(seed // DRAWS, kind), model)
    reached = largest_lam(graph, tensors, seed, 12 if kind == "transformer" else 0)
    if kind != "transformer":
        reached = max(reached, Relaxed(graph, tensors).ascended(seed))
    if found.log10 == -math.inf and _constant(model, inputs(torch.Generator().manual_seed(seed), graph.shapes["x"])):
        reached = 0.0  # what autograd leaves of a derivative that is zero
    alone = recursion_alone(found)
    return min(found.log10, alone), reached, winner(found) + (", recursion checked" if alone < math.inf else "")


def _constant(model: torch.nn.Module, x: Tensor) -> bool:
    """Whether the logits are the same at all inputs, but for rounding."""
    z = model(x).detach()
    return bool(((z - z[0]).abs() <= 1e-12 * z.abs().max()).all())


def hurry() -> None:
    """Take few steps of descent in the recursions."""
    norms.trial._BUDGET = BUDGET
    functions: list[Callable[..., object]] = [norms.network_head, norms.chain_head, norms.chain]
    for function in functions:
        function.__kwdefaults__["steps"] = DESCENT


def main() -> None:
    """Compare, and print what is too small, what failed, and how close the bounds came."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, nargs="+", default=KINDS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    hurry()
    console = Console(width=140)
    kinds, rules, closest = Counter[str](), Counter[str](), dict[str, tuple[float, int]]()
    failed = 0
    with Progress(console=Console(stderr=True)) as bar:
        for k in bar.track(range(arguments.n), description="networks"):
            seed, kind = arguments.seed + k, arguments.kind[k // DRAWS % len(arguments.kind)]
            try:
                log10, reached, rule = compared(seed, kind)
            except Exception:  # a failure is a finding too
                failed += 1
                console.print(f"[red]failed[/red]: network({seed}, {kind!r})\n{traceback.format_exc(limit=-3)}")
                continue
            kinds[kind] += 1
            rules[rule] += 1
            looseness = log10 - math.log10(reached) if reached > 0 else math.inf
            if math.isfinite(looseness):
                closest[rule] = min(closest.get(rule, (math.inf, 0)), (looseness, seed))
            if looseness < -math.log10(1 + 1e-9):
                failed += 1
                told = snippet(network(seed, kind)[0], seed, kind)
                console.print(f"[red]too small[/red] by 10^{-looseness:.3g}, {rule}: {told}")
    table = Table("kind", "networks")
    for kind, count in sorted(kinds.items()):
        table.add_row(kind, str(count))
    console.print(table)
    table = Table("rule that won", "networks", "smallest looseness", "seed")
    for rule, count in rules.most_common():
        least, seed = closest.get(rule, (math.nan, -1))
        table.add_row(rule, str(count), f"{10**least:.9f}", str(seed))
    console.print(table)
    console.print(f"{sum(kinds.values())} networks, {failed} failures")


if __name__ == "__main__":
    main()
