"""The gain of SiLU is (a + 2) / 4 = 1.09984, a the positive root of (2 - a) + (2 + a) exp(-a) = 0."""

import scipy.optimize
import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Hypothesis, Proof, Step, equal, least

x, a = sympy.Symbol("x", nonnegative=True), sympy.Symbol("a", positive=True)
gain = (a + 2) / 4
bound = sympy.Rational(12, 5)


def slope(point: sympy.Expr) -> sympy.Expr:
    """The derivative of x / (1 + exp(-x))."""
    return (1 + (1 + point) * sympy.exp(-point)) / (1 + sympy.exp(-point)) ** 2


def trial(seed: int) -> list[tuple[float, float]]:
    """Take the slope by autograd at both signs of a random point, and the root by bisection."""
    root = scipy.optimize.brentq(lambda a: (2 - a) + (2 + a) * float(sympy.exp(-a)), 2, 3)
    generator = torch.Generator().manual_seed(seed)
    x = 5 * torch.rand(1, generator=generator, dtype=torch.float64)
    slopes = [torch.autograd.functional.jacobian(torch.nn.functional.silu, side).abs().item() for side in (x, -x)]
    return [*((each, (root + 2) / 4) for each in slopes), ((root + 2) / 4, 1.1)]


PROOF = Proof(
    name="SiLU",
    title="Gain of SiLU",
    words="|silu'(x)| <= silu'(a) = (a + 2) / 4 <= 1.1 for every real x, where (2 - a) + (2 + a) exp(-a) = 0.",
    reference=Reference("fimtheory", "theory, section 4"),
    hypotheses=(
        Hypothesis("a", equal(sympy.exp(-a), (a - 2) / (a + 2)), "a is the point where the slope is largest.",
                   definition=True),
    ),
    steps=(
        Step("falls", least(0, (a - x) * (sympy.exp(-x) - sympy.exp(-a))), "exponential"),
        Step("sign", least(0, (a - x) * sympy.diff(slope(x), x)), "arithmetic", ("a", "falls")),
        Step("peak", least(slope(x), slope(a)), "peak", ("sign",)),
        Step("value", equal(slope(a), gain), "arithmetic", ("a",)),
        Step("odd", equal(slope(-x), 1 - slope(x)), "arithmetic"),
        Step("right", least(sympy.Abs(slope(x)), gain), "arithmetic", ("peak", "value")),
        Step("left", least(sympy.Abs(slope(-x)), gain), "arithmetic", ("odd", "peak", "value", "a")),
        Step("near", least(0, (a - bound) * (sympy.exp(-bound) - sympy.exp(-a))), "exponential"),
        Step("at", least(sympy.exp(-bound), sympy.Rational(1, 11)), "numbers"),
        Step("gain", least(gain, sympy.Rational(11, 10)), "arithmetic", ("a", "near", "at")),
    ),
    conclusions=("right", "left", "gain"),
    trial=trial,
)  # fmt: skip
