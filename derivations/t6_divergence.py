"""T6: the divergence of p from the p of other logits lies between two multiples of its second-order part."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Expect, Hypothesis, Proof, Step, equal, least

t, R = sympy.Symbol("t", nonnegative=True), sympy.Symbol("R", positive=True)
X = sympy.Symbol("X", real=True)
phi, slope, variance, skewness, divergence = (
    sympy.Function(name, real=True) for name in ("phi", "phi'", "phi''", "phi'''", "KL")
)
growing, falling = sympy.exp(R * t), sympy.exp(-R * t)
least_factor = (falling + R * t - 1) / R**2
largest_factor = (growing - R * t - 1) / R**2
rest = phi(t) - phi(0) - slope(0) * t


def trial(seed: int) -> list[tuple[float, float]]:
    """Compare the divergence of two softmaxes, by its definition, with the second-order part at the first."""
    generator = torch.Generator().manual_seed(seed)
    logits, step = torch.randn(2, 2 + seed % 6, generator=generator, dtype=torch.float64)
    logits, step = logits * (seed % 7), step * 10 ** (seed % 4 - 2)
    p, q = logits.softmax(0), (logits + step).softmax(0)
    kl = float((p * (p.log() - q.log())).sum())
    second = float(step @ (p.diag() - p.outer(p)) @ step)
    width = step.max() - step.min()
    low, high = (float((sign * (sign * width).expm1() - width) / width**2) for sign in (-1, 1))
    return [(-low * second, kl), (kl, high * second)]


def grows(name: str, slope_claim: sympy.Expr, whole: sympy.Expr, *premises: str) -> tuple[Step, ...]:
    """Show that a function is not negative, from its derivative and its value at 0."""
    start = sympy.expand(whole.subs(t, 0))
    return (
        Step(f"{name} slope", least(0, slope_claim), "arithmetic", premises),
        Step(f"{name} start", least(0, start), "arithmetic"),
        Step(name, least(0, whole), "growth", (f"{name} slope", f"{name} start")),
    )


PROOF = Proof(
    name="T6",
    title="Divergence",
    words="`KL(p_z || p_(z + t D))` lies between `psi(-R t)` and `psi(R t)` times `t^2 D^T S_p D / 2`, where "
    "`psi(s) = 2 (e^s - s - 1) / s^2` and `R` is at least `max D - min D`.",
    reference=Reference("fimtheory"),
    labels={X: ("y", X)},
    derivatives={phi: slope, slope: variance, variance: skewness},
    hypotheses=(
        Hypothesis("R", least(sympy.Abs(X), R),
                   "`X` is an entry of `D` less their mean under `p_(z + t D)`; `R` is at least `max D - min D`.",
                   for_all=(t,)),
        Hypothesis("variance", equal(variance(t), Expect(X**2)),
                   "`phi(t) = log sum exp(z + t D)`: its second derivative is the variance `D^T S_p D` of `D` at "
                   "`z + t D`.",
                   definition=True, for_all=(t,)),
        Hypothesis("skewness", equal(skewness(t), Expect(X**3)), "Its third derivative is the third central moment.",
                   definition=True, for_all=(t,)),
        Hypothesis("divergence", equal(divergence(t), rest),
                   "`KL(p_z || p_(z + t D))`, as `phi'(0)` is the mean of `D` under `p_z`.",
                   definition=True, for_all=(t,)),
    ),
    steps=(
        Step("above", least(0, (R + X) * X**2), "arithmetic", ("R",)),
        Step("below", least(0, (R - X) * X**2), "arithmetic", ("R",)),
        Step("mean above", least(0, Expect((R + X) * X**2)), "mean of nonnegative", ("above",)),
        Step("mean below", least(0, Expect((R - X) * X**2)), "mean of nonnegative", ("below",)),
        Step("sum above", equal(Expect((R + X) * X**2), R * Expect(X**2) + Expect(X**3)), "expansion"),
        Step("sum below", equal(Expect((R - X) * X**2), R * Expect(X**2) - Expect(X**3)), "expansion"),
        *grows("falls slowly", (skewness(t) + R * variance(t)) * growing, variance(t) * growing - variance(0),
               "mean above", "sum above", "variance", "skewness"),
        *grows("first", variance(t) - variance(0) * falling, slope(t) - slope(0) - variance(0) * (1 - falling) / R,
               "falls slowly"),
        *grows("lower", slope(t) - slope(0) - variance(0) * (1 - falling) / R, rest - variance(0) * least_factor,
               "first"),
        *grows("grows slowly", (R * variance(t) - skewness(t)) * falling, variance(0) - variance(t) * falling,
               "mean below", "sum below", "variance", "skewness"),
        *grows("second", variance(0) * growing - variance(t), variance(0) * (growing - 1) / R - slope(t) + slope(0),
               "grows slowly"),
        *grows("upper", variance(0) * (growing - 1) / R - slope(t) + slope(0), variance(0) * largest_factor - rest,
               "second"),
        Step("at least", least(least_factor * variance(0), divergence(t)), "arithmetic", ("lower", "divergence")),
        Step("at most", least(divergence(t), largest_factor * variance(0)), "arithmetic", ("upper", "divergence")),
    ),
    conclusions=("at least", "at most"),
    trial=trial,
)  # fmt: skip
