"""C7 to C9: an activation is its middle slope and a small rest, which a positive diagonal may rebalance."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Hypothesis, Norm, Proof, Step, equal, least, operator

P, A, B, D, T, T_inverse = (operator(name) for name in ("P", "A", "B", "D", "T", "T^-1"))
c, r = sympy.Symbol("c", real=True), sympy.Symbol("r", nonnegative=True)
centred, rest = P + c * B * A, B * T * (D - c) * T_inverse * A
bound = Norm(centred) + r * Norm(B * T) * Norm(T_inverse * A)


def trial(seed: int) -> list[tuple[float, float]]:
    """Compare norms of random matrices, slopes and diagonals."""
    torch.manual_seed(seed)
    inner, outer = torch.randn(6, 4, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    low, high = sorted(torch.randn(2).tolist())
    slopes = low + (high - low) * torch.rand(6, dtype=torch.float64).round(decimals=seed % 2)
    scale = torch.randn(6, dtype=torch.float64).exp()
    middle, radius = (low + high) / 2, (high - low) / 2
    norm = lambda matrix: float(torch.linalg.matrix_norm(matrix, 2))  # noqa: E731
    shortcut = torch.eye(4, dtype=torch.float64)
    side = norm(shortcut + middle * outer @ inner) + radius * norm(outer * scale) * norm(inner / scale[:, None])
    return [(norm(shortcut + (outer * slopes) @ inner), side)]


PROOF = Proof(
    name="C9",
    title="Centred residual",
    words="`||P + B D A|| <= ||P + c B A|| + r ||B T|| ||T^-1 A||` for diagonal `D` with entries in "
    "`[c - r, c + r]`, `T > 0`.",
    reference=Reference("combettes2020", ""),
    spaces={P: ("x", "z"), A: ("x", "y"), B: ("y", "z"), **dict.fromkeys((D, T, T_inverse), ("y", "y"))},
    hypotheses=(
        Hypothesis("slopes", least(Norm(D - c), r), "The entries of the diagonal `D` lie in `[c - r, c + r]`."),
        Hypothesis("inverse", equal(T * T_inverse, 1), "`T` is an invertible diagonal.", definition=True),
        Hypothesis("diagonal", equal(T * D * T_inverse, D), "Diagonals commute.", definition=True),
    ),
    steps=(
        Step("split", equal(P + B * D * A, centred + rest), "expansion", ("diagonal", "inverse")),
        Step("triangle", least(Norm(centred + rest), Norm(centred) + Norm(rest)), "triangle"),
        Step("factors", least(Norm(rest), Norm(B * T) * Norm(D - c) * Norm(T_inverse * A)), "submultiplicative"),
        Step("small", least(Norm(B * T) * Norm(D - c) * Norm(T_inverse * A), r * Norm(B * T) * Norm(T_inverse * A)),
             "arithmetic", ("slopes",)),
        Step("sum", least(Norm(centred + rest), bound), "arithmetic", ("triangle", "factors", "small")),
        Step("theorem", least(Norm(P + B * D * A), bound), "replacement", ("sum", "split")),
    ),
    conclusions=("theorem",),
    trial=trial,
)  # fmt: skip
