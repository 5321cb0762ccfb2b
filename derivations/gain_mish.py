"""The slopes of Mish lie in [-0.1125262, 1.0884981612518], its extreme slopes rounded outwards."""

from collections.abc import Iterator
from typing import Any

import sympy
import torch
from sympy import Rational, exp

from fimtheory.claims import Reference
from fimtheory.proofs import Hypothesis, Proof, Step, equal, least

x, y = sympy.symbols("x y", nonnegative=True)
a, b, *ends = sympy.symbols("a b a_1 a_2 b_1 b_2", positive=True)
near = ("1.490571179485428", "1.490571179485429", "2.256376396", "2.256376397")
ENDS = dict(zip(ends, map(Rational, near), strict=True))
low, high = Rational("-0.1125262"), Rational("1.0884981612518")


def slope(point: Any) -> Any:
    """The derivative of x tanh(log(1 + exp x)) = x (e^2 + 2 e) / (e^2 + 2 e + 2), e = exp x."""
    e = exp(point)
    inner = e**2 + 2 * e + 2
    return 1 - 2 / inner + 4 * point * e * (e + 1) / inner**2


def left_slope(point: Any) -> Any:
    """Minus the slope at -x, in e = exp x."""
    e = exp(point)
    inner = 1 + 2 * e + 2 * e**2
    return -1 + 2 * e**2 / inner + 4 * point * e**2 * (e + 1) / inner**2


# The derivatives of the two are 4 e (2 N - x D) / (e^2 + 2 e + 2)^3 and 4 e^2 (2 N - x D) / (1 + 2 e + 2 e^2)^3.
N = {1: lambda e: (e + 1) * (e**2 + 2 * e + 2), -1: lambda e: (e + 1) * (1 + 2 * e + 2 * e**2)}
D = {1: lambda e: 2 * e**3 + 3 * e**2 - 2 * e - 2, -1: lambda e: 2 * e**3 + 2 * e**2 - 3 * e - 2}


def turn(side: int, point: Any) -> Any:
    """Return 2 N - x D, which has the sign of the derivative."""
    return 2 * N[side](exp(point)) - point * D[side](exp(point))


def turns(side: int, z: Any, top: Any) -> Iterator[Step]:
    """Show that the turn is positive before top and negative after it: N / D falls as exp x rises."""
    e, s, where = exp(z), exp(top), f"{top} and {z}"
    product = N[side](s) * D[side](e) - N[side](e) * D[side](s)
    yield Step(f"{where} order", least(0, (z - top) * (e - s)), "exponential")
    yield Step(f"{where} cross", least(0, (z - top) * product), "arithmetic", (f"{where} order",))
    yield Step(f"{where} turn", least(0, (top - z) * turn(side, z)), "arithmetic", (f"{where} cross", str(top)))


def extreme(side: int, z: Any, top: Any, f: Any, factor: Any) -> Iterator[Step]:
    """Show that f, whose derivative is ``factor`` times the turn, is largest at top."""
    change = sympy.diff(f(z), z)
    yield from turns(side, z, top)
    yield Step(f"{top} scaled", least(0, (top - z) * factor * turn(side, z)), "arithmetic", (f"{top} and {z} turn",))
    yield Step(f"{top} derivative", equal(change, factor * turn(side, z)), "arithmetic")
    yield Step(f"{top} sign", least(0, (top - z) * change), "replacement", (f"{top} scaled", f"{top} derivative"))
    yield Step(f"{top} peak", least(f(z), f(top)), "peak", (f"{top} sign",))


def bracket(side: int, top: Any, begin: Any, end: Any) -> Iterator[Step]:
    """Show that top lies between two numbers: the turn is positive at one and negative at the other."""
    for number, sign in ((begin, 1), (end, -1)):
        value, clear = ENDS[number], sign * turn(side, number) - Rational(1, 10**20)
        yield from turns(side, number, top)
        yield Step(f"{number} from", least(value, number), "arithmetic", (str(number),))
        yield Step(f"{number} to", least(number, value), "arithmetic", (str(number),))
        yield Step(f"{number} clear", least(0, clear), "enclosure", (f"{number} from", f"{number} to"))
    yield Step(
        f"{top} from",
        least(ENDS[begin], top),
        "arithmetic",
        (f"{top} and {begin} turn", f"{begin} clear", f"{begin} to", f"{begin} from"),
    )
    yield Step(
        f"{top} to",
        least(top, ENDS[end]),
        "arithmetic",
        (f"{top} and {end} turn", f"{end} clear", f"{end} to", f"{end} from"),
    )


def trial(seed: int) -> list[tuple[float, float]]:
    """Take the slope by autograd at both signs of a random point."""
    generator = torch.Generator().manual_seed(seed)
    x = 4 * torch.rand(1, generator=generator, dtype=torch.float64)
    right, left = (torch.autograd.functional.jacobian(torch.nn.functional.mish, side).item() for side in (x, -x))
    return [(float(low), right), (right, float(high)), (float(low), left), (left, float(high))]


PROOF = Proof(
    name="Mish",
    title="Slopes of Mish",
    words="`-0.1125262 <= mish'(x) <= 1.0884981612518` for every real `x`.",
    reference=Reference("fimtheory"),
    hypotheses=(
        Hypothesis("a", equal(a * D[1](exp(a)), 2 * N[1](exp(a))),
                   "`a` is where the slope is largest; it exists, as the derivative of the slope changes sign: steps "
                   "`a_1` clear and `a_2` clear.", definition=True),
        Hypothesis("b", equal(b * D[-1](exp(b)), 2 * N[-1](exp(b))),
                   "`-b` is where it is least; it exists likewise.", definition=True),
        *(Hypothesis(str(end), equal(end, value), "An end of an interval that holds `a`, or `b`.", definition=True)
          for end, value in ENDS.items()),
    ),
    steps=(
        *extreme(1, x, a, slope, 4 * exp(x) / (exp(2 * x) + 2 * exp(x) + 2) ** 3),
        *bracket(1, a, *ends[:2]),
        Step("largest", least(slope(a), high), "enclosure", ("a from", "a to")),
        *extreme(-1, y, b, left_slope, 4 * exp(2 * y) / (1 + 2 * exp(y) + 2 * exp(2 * y)) ** 3),
        *bracket(-1, b, *ends[2:]),
        Step("least", least(left_slope(b), -low), "enclosure", ("b from", "b to")),
        Step("same", equal(slope(-y), -left_slope(y)), "arithmetic"),
        Step("right low", least(low, slope(x)), "arithmetic"),
        Step("right high", least(slope(x), high), "arithmetic", ("a peak", "largest")),
        Step("left low", least(low, slope(-y)), "arithmetic", ("same", "b peak", "least")),
        Step("left high", least(slope(-y), high), "arithmetic"),
    ),
    conclusions=("right low", "right high", "left low", "left high"),
    trial=trial,
)  # fmt: skip
