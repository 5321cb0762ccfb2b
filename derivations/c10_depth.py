"""C10: three weight matrices with diagonals of slopes in [c - r, c + r] between them."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Hypothesis, Norm, Proof, Step, equal, least, operator

W1, W2, W3, D1, D2 = (operator(name) for name in ("W_1", "W_2", "W_3", "D_1", "D_2"))
c, r = sympy.Symbol("c", real=True), sympy.Symbol("r", nonnegative=True)
theta_1 = Norm(W1)
theta_2 = sympy.Abs(c) * Norm(W2 * W1) + r * Norm(W2) * theta_1
theta_3 = c**2 * Norm(W3 * W2 * W1) + r * sympy.Abs(c) * Norm(W3 * W2) * theta_1 + r * Norm(W3) * theta_2
two = W2 * D1 * W1
outer, inner = W3 * (D2 - c) * W2 * D1 * W1, c * W3 * W2 * (D1 - c) * W1
middle = c**2 * W3 * W2 * W1


def trial(seed: int) -> list[tuple[float, float]]:
    """Compare norms of random matrices and slopes, some at the ends of their interval, with the recursion."""
    torch.manual_seed(seed)
    first, second, third = (torch.randn(size, dtype=torch.float64) for size in ((5, 3), (4, 5), (3, 4)))
    low, high = sorted(torch.randn(2, dtype=torch.float64).tolist())
    slopes = [low + (high - low) * torch.rand(n, dtype=torch.float64).round(decimals=seed % 2) for n in (5, 4)]
    norm = lambda each: float(torch.linalg.matrix_norm(each, 2))  # noqa: E731
    middle, radius = abs(low + high) / 2, (high - low) / 2
    theta_2 = middle * norm(second @ first) + radius * norm(second) * norm(first)
    theta_3 = middle**2 * norm(third @ second @ first) + middle * radius * norm(third @ second) * norm(first)
    two = second * slopes[0] @ first
    return [(norm(two), theta_2), (norm(third * slopes[1] @ two), theta_3 + radius * norm(third) * theta_2)]


PROOF = Proof(
    name="C10",
    title="Centring in depth three",
    words="||W_3 D_2 W_2 D_1 W_1|| <= theta_3 = c^2 ||W_3 W_2 W_1|| + r |c| ||W_3 W_2|| theta_1 + r ||W_3|| theta_2, "
    "theta_2 = |c| ||W_2 W_1|| + r ||W_2|| theta_1, theta_1 = ||W_1||, for diagonals with entries in [c - r, c + r].",
    reference=Reference("combettes2020", ""),
    spaces={
        W1: ("x_0", "x_1"), D1: ("x_1", "x_1"), W2: ("x_1", "x_2"), D2: ("x_2", "x_2"), W3: ("x_2", "x_3"),
    },
    hypotheses=(
        Hypothesis("slopes_1", least(Norm(D1 - c), r), "The entries of the diagonal D_1 lie in [c - r, c + r]."),
        Hypothesis("slopes_2", least(Norm(D2 - c), r), "The entries of the diagonal D_2 lie in [c - r, c + r]."),
    ),
    steps=(
        Step("split", equal(two, c * W2 * W1 + W2 * (D1 - c) * W1), "expansion"),
        Step("sum", least(Norm(c * W2 * W1 + W2 * (D1 - c) * W1), Norm(c * W2 * W1) + Norm(W2 * (D1 - c) * W1)),
             "triangle"),
        Step("scale", equal(Norm(c * W2 * W1), sympy.Abs(c) * Norm(W2 * W1)), "scaling"),
        Step("rest", least(Norm(W2 * (D1 - c) * W1), Norm(W2) * Norm(D1 - c) * Norm(W1)), "submultiplicative"),
        Step("small", least(Norm(D1 - c) * Norm(W1), r * Norm(W1)), "arithmetic", ("slopes_1",)),
        Step("second", least(Norm(W2) * Norm(D1 - c) * Norm(W1), r * Norm(W2) * Norm(W1)), "arithmetic", ("small",)),
        Step("added", least(Norm(c * W2 * W1 + W2 * (D1 - c) * W1), theta_2), "arithmetic",
             ("sum", "scale", "rest", "second")),
        Step("theta_2", least(Norm(two), theta_2), "replacement", ("added", "split")),
        Step("terms", equal(W3 * D2 * W2 * D1 * W1, middle + inner + outer), "expansion"),
        Step("three", least(Norm(middle + inner + outer), Norm(middle) + Norm(inner) + Norm(outer)), "triangle"),
        Step("middle", equal(Norm(middle), sympy.Abs(c) ** 2 * Norm(W3 * W2 * W1)), "scaling"),
        Step("inner", equal(Norm(inner), sympy.Abs(c) * Norm(W3 * W2 * (D1 - c) * W1)), "scaling"),
        Step("around", least(Norm(W3 * W2 * (D1 - c) * W1), Norm(W3 * W2) * Norm(D1 - c) * Norm(W1)),
             "submultiplicative"),
        Step("before", least(Norm(W3 * W2) * Norm(D1 - c) * Norm(W1), r * Norm(W3 * W2) * theta_1), "arithmetic",
             ("small",)),
        Step("two", least(Norm(inner), r * sympy.Abs(c) * Norm(W3 * W2) * theta_1), "arithmetic",
             ("inner", "around", "before")),
        Step("outer", least(Norm(outer), Norm(W3) * Norm(D2 - c) * Norm(two)), "submultiplicative"),
        Step("thin", least(Norm(D2 - c) * Norm(two), r * theta_2), "arithmetic", ("slopes_2", "theta_2")),
        Step("last", least(Norm(W3) * Norm(D2 - c) * Norm(two), r * Norm(W3) * theta_2), "arithmetic", ("thin",)),
        Step("bound", least(Norm(middle + inner + outer), theta_3), "arithmetic",
             ("three", "middle", "two", "outer", "last")),
        Step("theta_3", least(Norm(W3 * D2 * W2 * D1 * W1), theta_3), "replacement", ("bound", "terms")),
    ),
    conclusions=("theta_2", "theta_3"),
    trial=trial,
)  # fmt: skip
