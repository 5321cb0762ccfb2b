"""The gains of sigmoid and tanh, a quarter and 1, by the inequality of the means."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Proof, Step, least

x = sympy.Symbol("x", real=True)
quarter = sympy.Rational(1, 4)


def sigmoid_slope(point: sympy.Expr) -> sympy.Expr:
    """The derivative of 1 / (1 + exp(-x))."""
    return sympy.exp(-point) / (1 + sympy.exp(-point)) ** 2


def trial(seed: int) -> list[tuple[float, float]]:
    """Take the slopes by autograd at a random point."""
    torch.manual_seed(seed)
    x = 3 * torch.randn(1, dtype=torch.float64)
    slopes = [torch.autograd.functional.jacobian(f, x).abs().item() for f in (torch.sigmoid, torch.tanh)]
    return [(slopes[0], 0.25), (slopes[1], 1.0)]


PROOF = Proof(
    name="Sigmoid",
    title="Gains of sigmoid and tanh",
    words="|sigmoid'(x)| <= 1/4 and |tanh'(x)| = 4 sigmoid'(2x) <= 1.",
    reference=Reference("fimtheory", "theory, section 4"),
    hypotheses=(),
    steps=(
        Step("sigmoid", least(sympy.Abs(sigmoid_slope(x)), quarter), "arithmetic"),
        Step("tanh", least(sympy.Abs(4 * sigmoid_slope(2 * x)), 1), "arithmetic"),
    ),
    conclusions=("sigmoid", "tanh"),
    trial=trial,
)
