"""Certified bounds on lam in balls around digits, against the largest lam that ascent finds there.

    python benchmarks/local_bounds.py --out FILE MODEL[:INPUTS] ...

Every ratio is a certified supremum over a value that was reached, so it is at least 1; what it exceeds 1 by is the
looseness of the bound and the weakness of the search together.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fimtheory import zoo
from fimtheory.data import load_data
from fimtheory.instantiation import GraphModule
from fimtheory.local import local_bound

_STARTS, _STEPS = 4, 40
_HEADER = (
    "| model | inputs | median | 90 % | largest | bound by probabilities | open slopes, median | seconds an input |"
)


def ascended(model: GraphModule, x: Tensor, radius: float, seed: int) -> float:
    """Largest lam found in the l2 ball around one input by projected gradient ascent on log lam."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn((_STARTS, *x.shape), generator=generator, dtype=x.dtype)
    steps = radius * steps / steps.flatten(1).norm(dim=1).reshape(-1, *[1] * x.dim())
    steps[0] = 0
    best = 0.0
    for k in range(_STEPS):
        points = (x + steps).requires_grad_(True)
        lam = fisher_norms(model, points)
        best = max(best, float(lam.max()))
        (slope,) = torch.autograd.grad(lam.clamp_min(1e-300).log().sum(), points)
        size = slope.flatten(1).norm(dim=1).clamp_min(1e-300).reshape(-1, *[1] * x.dim())
        moved = steps + 0.3 * radius * 0.05 ** (k / _STEPS) * slope / size
        length = moved.flatten(1).norm(dim=1).clamp_min(radius).reshape(-1, *[1] * x.dim())
        steps = (moved * radius / length).detach()
    return best


def fisher_norms(model: GraphModule, x: Tensor) -> Tensor:
    """Lam at each input, from dense Jacobians; differentiable."""
    jacobians = torch.func.vmap(torch.func.jacrev(lambda u: model(u[None])[0]))(x).flatten(2)
    p = model(x).softmax(-1)[:, :, None]
    factor = p.sqrt() * (jacobians - (p * jacobians).sum(1, keepdim=True))
    return torch.linalg.matrix_norm(factor, 2) ** 2


def row(name: str, inputs: Tensor, radius: float) -> str:
    """Row of the table for a model."""
    model = zoo.load(name).double()
    model.requires_grad_(False)
    start = time.process_time()
    found = local_bound(model, inputs, radius, progress=True)
    seconds = (time.process_time() - start) / len(inputs)
    reached = torch.tensor([ascended(model, x, radius, k) for k, x in enumerate(inputs)])
    ratios = found.value / reached
    assert bool((ratios >= 1).all()), f"{name}: a value above its certified bound"
    shares = [ratios.quantile(q).item() for q in (0.5, 0.9, 1.0)]
    by = sum(each == "probabilities" for each in found.by)
    numbers = " | ".join(f"{share:.3g}" for share in shares)
    return f"| {name} | {len(inputs)} | {numbers} | {by} | {int(found.open.median())} | {seconds:.2g} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="names of zoo models, each perhaps with :n, its number of inputs")
    parser.add_argument("--n", type=int, default=200, help="number of test digits, drawn by seed 0")
    parser.add_argument("--eps", type=float, default=0.05, help="radius of the l2 balls, pixels in [0, 1]")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    lines = [_HEADER, "|---|" + "---:|" * 7]
    for model in options.models:
        name, _, count = model.partition(":")
        data = load_data("digits:test", (1, 8, 8), int(count or options.n), 0).inputs.double()
        lines.append(row(name, data, options.eps))
        print(lines[-1], flush=True)
    text = (
        "# Certified bounds around inputs\n\n"
        f"Certified supremum of lam over the l2 ball of radius {options.eps:g} (pixels in [0, 1]) around test digits, "
        f"divided by the largest lam\nfound in the ball by projected gradient ascent ({_STARTS} starts, {_STEPS} "
        "steps). Seconds are of CPU time on one thread.\n\n"
        "Made by `python benchmarks/local_bounds.py` with the models and numbers of inputs of the table.\n\n"
        + "\n".join(lines)
        + "\n"
    )
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
