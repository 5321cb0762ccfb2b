"""The largest slope of GELU is that at sqrt(2), (1 + erf 1) / 2 + exp(-1) / sqrt(pi) = 1.1289."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Hypothesis, Proof, Step, equal, least

x = sympy.Symbol("x", nonnegative=True)
top = sympy.Symbol("a", nonnegative=True)
gain = (1 + sympy.erf(1)) / 2 + sympy.exp(-1) / sympy.sqrt(sympy.pi)


def slope(point: sympy.Expr) -> sympy.Expr:
    """The derivative of x (1 + erf(x / sqrt 2)) / 2."""
    density = sympy.exp(-(point**2) / 2) / sympy.sqrt(2 * sympy.pi)
    return (1 + sympy.erf(point / sympy.sqrt(2))) / 2 + point * density


def trial(seed: int) -> list[tuple[float, float]]:
    """Take the slope by autograd at both signs of a random point."""
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.rand(1, generator=generator, dtype=torch.float64)
    slope = lambda point: torch.autograd.functional.jacobian(torch.nn.functional.gelu, point).item()  # noqa: E731
    high, right, left = float(gain), slope(x), slope(-x)
    return [(1 - high, right), (right, high), (1 - high, left), (left, high), (slope(torch.full_like(x, 2**0.5)), high)]


rises = (top - x) * sympy.diff(slope(x), x)

PROOF = Proof(
    name="GELU",
    title="Slopes of GELU",
    words="`1 - g <= gelu'(x) <= gelu'(sqrt 2) = g = (1 + erf 1) / 2 + exp(-1) / sqrt(pi)` for every real `x`.",
    reference=Reference("fimtheory"),
    hypotheses=(Hypothesis("a", equal(top, sympy.sqrt(2)), "`a` is where the slope is largest.", definition=True),),
    steps=(
        Step("sign", least(0, sympy.expand(rises)), "arithmetic", ("a",)),
        Step("peak", least(slope(x), slope(top)), "peak", ("sign",)),
        Step("value", equal(slope(top), gain), "expansion", ("a",)),
        Step("one", least(1, gain), "numbers"),
        Step("odd", equal(slope(-x), 1 - slope(x)), "expansion"),
        Step("right high", least(slope(x), gain), "arithmetic", ("peak", "value")),
        Step("right low", least(1 - gain, slope(x)), "arithmetic", ("one",)),
        Step("left low", least(1 - gain, slope(-x)), "arithmetic", ("odd", "right high")),
        Step("left high", least(slope(-x), gain), "arithmetic", ("odd", "right low")),
    ),
    conclusions=("right low", "right high", "left low", "left high", "value"),
    trial=trial,
)  # fmt: skip
