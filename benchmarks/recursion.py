"""Worst-case bounds on lam for perceptrons on the digits: product, closed form, descended recursion, LipSDP.

Rows are width x number of weight layers; a bound is divided by the largest lam that an ascent over inputs finds.  The
semidefinite program is LipSDP with one multiplier per neuron, by Clarabel with one thread; it needs cvxpy and clarabel,
and memory and time that grow like the fourth and the sixth power of the width, so it is left out above --sdp-width.

Run: python benchmarks/recursion.py [--sdp-width 32] [--limit 1800] [--seeds 3]
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import time
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise

import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn

import fimtheory as ft
from fimtheory import norms

NETWORKS = [(24, 3), (32, 3), (64, 3), (128, 4), (128, 6)]
INPUTS, CLASSES, HELD_OUT = 64, 10, 297


def digits() -> tuple[Tensor, Tensor]:
    """Images in [0, 1] and labels."""
    data = load_digits()
    return torch.tensor(data["data"] / 16, dtype=torch.float32), torch.tensor(data["target"])


def trained(width: int, depth: int, seed: int, images: Tensor, labels: Tensor, epochs: int = 60) -> nn.Sequential:
    """ReLU perceptron with ``depth`` weight layers, by Adam on all but the held-out images."""
    torch.manual_seed(seed)
    sizes = [INPUTS, *[width] * (depth - 1), CLASSES]
    layers = [layer for n, m in pairwise(sizes) for layer in (nn.Linear(n, m), nn.ReLU())]
    net = nn.Sequential(*layers[:-1])
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images) - HELD_OUT).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimiser.step()
    return net.eval()


def product(weights: Sequence[Tensor]) -> float:
    """D_W^2 / 4 times the product of the squared norms: lam by layer norms and the head theorem."""
    return norms.row_diameter(weights[-1]).upper ** 2 / 4 * math.prod(norms.dense(w).upper ** 2 for w in weights[:-1])


def timed(bound: Callable[[], norms.CertifiedNorm]) -> tuple[float, float]:
    """Bound on lam from a head bound, and the seconds it took."""
    start = time.perf_counter()
    value = bound().upper ** 2 / 4
    return value, time.perf_counter() - start


def leading_pairs(weights: Sequence[Tensor], within: float = 0.9) -> list[tuple[int, int]]:
    """Pairs of classes whose own bound is close to the largest; to leave out others can only lower the optimum."""
    slopes = [(0.0, 1.0)] * (len(weights) - 1)
    own = {
        (i, j): norms.chain([*weights[:-1], (weights[-1][i] - weights[-1][j])[None]], slopes, steps=20).upper ** 2
        for i, j in combinations(range(len(weights[-1])), 2)
    }
    return [pair for pair, value in own.items() if value >= within * max(own.values())]


def semidefinite(weights: Sequence[Tensor], limit: float) -> tuple[float, float, str]:
    """Optimum of LipSDP with the head objective over the leading pairs, the seconds and the solver's status."""
    import cvxpy as cp
    import numpy as np

    exact = [weight.double() for weight in weights]
    pairs = leading_pairs(exact)
    scales = [float(torch.linalg.matrix_norm(weight, 2)) for weight in exact]
    *body, last = [(weight / scale).numpy() for weight, scale in zip(exact, scales, strict=True)]
    reach, constraints = np.eye(INPUTS), []
    for weight in body:
        multipliers = cp.diag(cp.Variable(len(weight), nonneg=True))
        after = cp.Variable((len(weight), len(weight)), symmetric=True)
        coupling = multipliers @ weight
        constraints.append(cp.bmat([[reach, -coupling.T], [-coupling, 2 * multipliers - after]]) >> 0)
        reach = after
    squared = cp.Variable((1, 1))
    for i, j in pairs:
        difference = (last[i] - last[j])[:, None]
        constraints.append(cp.bmat([[reach, difference], [difference.T, squared]]) >> 0)
    problem = cp.Problem(cp.Minimize(squared[0, 0]), constraints)
    start = time.perf_counter()
    problem.solve(solver=cp.CLARABEL, direct_solve_method="faer", time_limit=limit)
    seconds = time.perf_counter() - start
    value = math.nan if problem.value is None else float(problem.value) * math.prod(scales) ** 2 / 4
    return value, seconds, str(problem.status)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--sdp-width", type=int, default=32, help="widest network to solve the semidefinite program for"
    )
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds for one semidefinite program")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    torch.set_num_threads(1)
    solver = all(importlib.util.find_spec(name) is not None for name in ("cvxpy", "clarabel"))
    images, labels = digits()
    columns = ("network", "seed", "accuracy", "worst lam found", "product", "closed form", "descended", "LipSDP")
    table = Table(*columns, "descended / LipSDP", "seconds: closed", "descended", "LipSDP")
    for width, depth in NETWORKS:
        for seed in range(arguments.seeds):
            net = trained(width, depth, seed, images, labels)
            accuracy = float((net(images[-HELD_OUT:]).argmax(1) == labels[-HELD_OUT:]).float().mean())
            weights = [layer.weight.detach() for layer in net if isinstance(layer, nn.Linear)]
            slopes = [(0.0, 1.0)] * (depth - 1)
            worst = ft.worst_case(net, images, starts=256, steps=100).value
            closed, closed_seconds = timed(lambda w=weights, s=slopes: norms.chain_head(w, s, steps=0))
            descended, seconds = timed(lambda w=weights, s=slopes: norms.chain_head(w, s))
            row = [f"{width}x{depth}", str(seed), f"{accuracy:.3f}", f"{worst:.4g}"]
            row += [f"{bound / worst:.2f}" for bound in (product(weights), closed, descended)]
            if solver and width <= arguments.sdp_width and depth == 3:
                optimum, sdp_seconds, status = semidefinite(weights, arguments.limit)
                solved = status == "optimal"
                row += [f"{optimum / worst:.2f}", f"{descended / optimum:.4f}"] if solved else [status, "-"]
            else:
                sdp_seconds = None
                row += ["-", "-"]
            row += [f"{closed_seconds:.2f}", f"{seconds:.2f}", "-" if sdp_seconds is None else f"{sdp_seconds:.0f}"]
            table.add_row(*row)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
