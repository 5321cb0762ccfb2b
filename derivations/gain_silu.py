"""The slopes of SiLU reach (a + 2) / 4 = 1.09984, a the positive root of (2 - a) + (2 + a) exp(-a) = 0."""

import scipy.optimize
import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Hypothesis, Proof, Step, equal, least

x, y = sympy.Symbol("x", nonnegative=True), sympy.Symbol("y", real=True)
a, h, k = sympy.symbols("a h k", positive=True)
gain, bound = (a + 2) / 4, sympy.Rational("1.0998393201289")
end = 4 * bound - 2


def slope(point: sympy.Expr) -> sympy.Expr:
    """The derivative of x / (1 + exp(-x))."""
    return (1 + (1 + point) * sympy.exp(-point)) / (1 + sympy.exp(-point)) ** 2


def trial(seed: int) -> list[tuple[float, float]]:
    """Take the slope by autograd at both signs of a random point, and the root by bisection."""
    root = scipy.optimize.brentq(lambda a: (2 - a) + (2 + a) * float(sympy.exp(-a)), 2, 3)
    generator = torch.Generator().manual_seed(seed)
    x = 5 * torch.rand(1, generator=generator, dtype=torch.float64)
    slope = lambda f, point: torch.autograd.functional.jacobian(f, point).item()  # noqa: E731
    right, left = (slope(torch.nn.functional.silu, side) for side in (x, -x))
    top, quick, y = (root + 2) / 4, 1.702, x - 2
    return [
        *[(1 - top, right), (right, top), (1 - top, left), (left, top)],
        (slope(torch.nn.functional.silu, torch.full_like(x, root)), top),
        (top, float(bound)),
        (slope(lambda y: y * torch.sigmoid(quick * y), y), slope(torch.nn.functional.silu, quick * y)),
    ]


PROOF = Proof(
    name="SiLU",
    title="Slopes of SiLU and QuickGELU",
    words="`1 - g <= silu'(x) <= silu'(a) = g = (a + 2) / 4 <= 1.0998393201289` for every real `x`, where `(2 - a) "
    "+ (2 + a) exp(-a) = 0`. The slope of `y sigmoid(k y)` at `y` is `silu'(k y)`: QuickGELU has `k = 1.702`.",
    reference=Reference("fimtheory"),
    hypotheses=(
        Hypothesis("a", equal(sympy.exp(-a), (a - 2) / (a + 2)), "a is where the slope is largest; it exists, as "
        "`(2 - a) + (2 + a) exp(-a)` is positive at 2 and negative at 3.", definition=True),
        Hypothesis("h", equal(h, end), "`h` is a little larger than a.", definition=True),
    ),
    steps=(
        Step("falls", least(0, (a - x) * (sympy.exp(-x) - sympy.exp(-a))), "exponential"),
        Step("sign", least(0, (a - x) * sympy.diff(slope(x), x)), "arithmetic", ("a", "falls")),
        Step("peak", least(slope(x), slope(a)), "peak", ("sign",)),
        Step("value", equal(slope(a), gain), "arithmetic", ("a",)),
        Step("odd", equal(slope(-x), 1 - slope(x)), "arithmetic"),
        Step("right high", least(slope(x), gain), "arithmetic", ("peak", "value")),
        Step("right low", least(1 - gain, slope(x)), "arithmetic", ("a",)),
        Step("left low", least(1 - gain, slope(-x)), "arithmetic", ("odd", "right high")),
        Step("left high", least(slope(-x), gain), "arithmetic", ("odd", "right low")),
        Step("near", least(0, (a - h) * (sympy.exp(-h) - sympy.exp(-a))), "exponential"),
        Step("from", least(end, h), "arithmetic", ("h",)),
        Step("to", least(h, end), "arithmetic", ("h",)),
        Step("after", least(sympy.exp(-h), (h - 2) / (h + 2)), "enclosure", ("from", "to")),
        Step("before", least(a, h), "arithmetic", ("a", "near", "after")),
        Step("number", least(gain, bound), "arithmetic", ("before", "to")),
        Step("quick", equal(sympy.diff(y / (1 + sympy.exp(-k * y)), y), slope(k * y)), "arithmetic"),
    ),
    conclusions=("right low", "right high", "left low", "left high", "value", "number", "quick"),
    trial=trial,
)  # fmt: skip
