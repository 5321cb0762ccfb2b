"""The slopes of sigmoid and tanh lie in [0, 1/4] and [0, 1], by the inequality of the means."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Hypothesis, Proof, Step, equal, least

x, origin = sympy.symbols("x o", real=True)
quarter = sympy.Rational(1, 4)


def sigmoid_slope(point: sympy.Expr) -> sympy.Expr:
    """The derivative of 1 / (1 + exp(-x))."""
    return sympy.exp(-point) / (1 + sympy.exp(-point)) ** 2


def trial(seed: int) -> list[tuple[float, float]]:
    """Take the slopes by autograd at a random point and at 0."""
    torch.manual_seed(seed)
    x = 3 * torch.randn(1, dtype=torch.float64)
    sides: list[tuple[float, float]] = []
    for f, high in ((torch.sigmoid, 0.25), (torch.tanh, 1.0)):
        slope, top = (torch.autograd.functional.jacobian(f, point).item() for point in (x, torch.zeros_like(x)))
        sides += [(0.0, slope), (slope, high), (top, high)]
    return sides


PROOF = Proof(
    name="Sigmoid",
    title="Slopes of sigmoid and tanh",
    words="`0 <= sigmoid'(x) <= sigmoid'(0) = 1/4` and `0 <= tanh'(x) = 4 sigmoid'(2x) <= tanh'(0) = 1`.",
    reference=Reference("fimtheory"),
    hypotheses=(Hypothesis("o", equal(origin, 0), "`o` is the origin.", definition=True),),
    steps=(
        Step("sigmoid low", least(0, sigmoid_slope(x)), "arithmetic"),
        Step("sigmoid high", least(sigmoid_slope(x), quarter), "arithmetic"),
        Step("sigmoid met", equal(sigmoid_slope(origin), quarter), "expansion", ("o",)),
        Step("tanh low", least(0, 4 * sigmoid_slope(2 * x)), "arithmetic"),
        Step("tanh high", least(4 * sigmoid_slope(2 * x), 1), "arithmetic"),
        Step("tanh met", equal(4 * sigmoid_slope(2 * origin), 1), "expansion", ("o",)),
    ),
    conclusions=("sigmoid low", "sigmoid high", "sigmoid met", "tanh low", "tanh high", "tanh met"),
    trial=trial,
)
