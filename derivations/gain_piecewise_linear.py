"""The slopes of ReLU, ReLU6, LeakyReLU, Hardtanh, Clamp, Softshrink, Abs, Hardsigmoid and Hardswish."""

from collections.abc import Iterator

import sympy
import torch
from sympy import Abs, Integer, Max, Min, Rational
from torch.nn import functional

from fimtheory.claims import Reference
from fimtheory.proofs import Hypothesis, Proof, Statement, Step, equal, least

x, a, low, high, q = sympy.symbols("x a l h q", real=True)
t, threshold = sympy.symbols("t lambda", nonnegative=True)


def hardsigmoid(point: sympy.Expr) -> sympy.Expr:
    """Return x/6 + 1/2 clipped to [0, 1]."""
    return Min(1, Max(0, point / Integer(6) + Rational(1, 2)))


# Each activation, its two extreme slopes, its gain, and steps (start, length) on one of which it has the gain.
ACTIVATIONS = {
    "relu": (lambda p: Max(0, p), (0, 1), 1, [(0, q)]),
    "relu6": (lambda p: Min(6, Max(0, p)), (0, 1), 1, [(0, q)]),
    "leaky": (lambda p: Max(0, p) + a * Min(0, p), (Min(1, a), Max(1, a)), Max(1, Abs(a)), [(0, q), (-q, q)]),
    "hardtanh": (lambda p: Min(high, Max(low, p)), (0, 1), 1, [(low, high - low)]),
    "clamp below": (lambda p: Max(low, p), (0, 1), 1, [(low, q)]),
    "clamp above": (lambda p: Min(high, p), (0, 1), 1, [(high - q, q)]),
    "softshrink": (lambda p: Max(0, p - threshold) + Min(0, p + threshold), (0, 1), 1, [(threshold, q)]),
    "abs": (Abs, (-1, 1), 1, [(0, q)]),
    "hardsigmoid": (hardsigmoid, (0, Rational(1, 6)), Rational(1, 6), [(0, q)]),
    "hardswish": (lambda p: p * hardsigmoid(p), (Rational(-1, 2), Rational(3, 2)), Rational(3, 2), []),
}


def claims(name: str) -> Iterator[Statement]:
    """Bound a rise from below, from above and in size, and reach the size."""
    f, (least_slope, most), gain, steps = ACTIVATIONS[name]
    rise = f(x + t) - f(x)
    yield least(least_slope * t, rise)
    yield least(rise, most * t)
    yield least(Abs(rise), gain * t)
    if steps:
        yield equal(Max(*(Abs(f(start + length) - f(start)) for start, length in steps)), gain * steps[0][1])
    else:
        yield least((gain - t / 6) * t, f(Integer(3)) - f(3 - t))


def trial(seed: int) -> list[tuple[float, float]]:
    """Take the same rises of torch's functions, over short and long steps."""
    generator = torch.Generator().manual_seed(seed)
    q, (start, a, *drawn) = (seed + 1) % 9 / 8, (4 * torch.randn(5, generator=generator, dtype=torch.float64)).tolist()
    t, (low, high), threshold = 10 ** (drawn[0] / 3 - 1), sorted(drawn[1:]), abs(drawn[0])
    sides: list[tuple[float, float]] = []
    for f, slopes, steps in (
        (functional.relu, (0, 1), [(0, q)]),
        (functional.relu6, (0, 1), [(0, q)]),
        (lambda p: functional.leaky_relu(p, a), (min(1, a), max(1, a)), [(0, q), (-q, q)]),
        (lambda p: functional.hardtanh(p, low, high), (0, 1), [(low, high - low)]),
        (lambda p: p.clamp(min=low), (0, 1), [(low, q)]),
        (lambda p: p.clamp(max=high), (0, 1), [(high - q, q)]),
        (lambda p: functional.softshrink(p, threshold), (0, 1), [(threshold, q)]),
        (torch.abs, (-1, 1), [(0, q)]),
        (functional.hardsigmoid, (0, 1 / 6), [(0, q)]),
        (functional.hardswish, (-1 / 2, 3 / 2), []),
    ):
        points = [(start, t), *steps, (3 - t, t)]
        rise, *rises, last = (
            (f(torch.tensor(p + length, dtype=torch.float64)) - f(torch.tensor(p, dtype=torch.float64))).item()
            for p, length in points
        )
        gain = max(map(abs, slopes))
        sides += [(slopes[0] * t, rise), (rise, slopes[1] * t), (abs(rise), gain * t)]
        sides.append((max(map(abs, rises)), gain * steps[0][1]) if steps else ((gain - t / 6) * t, last))
    return sides


def steps() -> Iterator[Step]:
    """Name the claims, each of which arithmetic decides."""
    for name, (*_, met) in ACTIVATIONS.items():
        below, above, size, reached = claims(name)
        yield Step(f"{name} low", below, "arithmetic")
        yield Step(f"{name} high", above, "arithmetic")
        yield Step(name, size, "arithmetic", (f"{name} low", f"{name} high"))
        yield Step(f"{name} met", reached, "arithmetic", ("order", "q from", "q to") if met else ())


PROOF = Proof(
    name="Piecewise linear",
    title="Slopes of ReLU, ReLU6, LeakyReLU(a), Hardtanh(l, h), Clamp, Softshrink(lambda), Abs, Hardsigmoid, Hardswish",
    words="Over any step `t` the rise of each lies between its least and its largest slope times `t`; that of "
    "larger size is met over some step, of any length `q <= 1` or of `h - l`, and by Hardswish as `t -> 0`.",
    reference=Reference("fimtheory"),
    hypotheses=(
        Hypothesis("order", least(low, high), "Hardtanh's ends are in order."),
        Hypothesis("q from", least(0, q), "`q` is a length of at most 1."),
        Hypothesis("q to", least(q, 1), "`q` is a length of at most 1."),
    ),
    steps=tuple(steps()),
    conclusions=tuple(step.name for step in steps()),
    trial=trial,
)
