"""The gain of GELU by tanh is at most 1.1289930686588, its largest slope rounded up."""

from collections.abc import Iterator
from typing import Any

import sympy
import torch
from sympy import Rational, exp

from fimtheory.claims import Reference
from fimtheory.proofs import Hypothesis, Proof, Step, equal, least

x = sympy.Symbol("x", nonnegative=True)
a, low, high, k = sympy.symbols("a l h k", positive=True)
m = sympy.Symbol("m", real=True)
c, scale, gain = Rational("0.044715"), 2 * sympy.sqrt(2 / sympy.pi), Rational("1.1289930686588")
ENDS = {low: Rational("1.418504008790828"), high: Rational("1.418504008790829")}


def power(point: Any) -> Any:
    """Return exp(2 sqrt(2 / pi) (x + c x^3)): the function is x e / (1 + e)."""
    return exp(k * point * (1 + c * point**2))


def slope(point: Any) -> Any:
    """The derivative of x (1 + tanh(sqrt(2 / pi) (x + c x^3))) / 2."""
    e = power(point)
    return e / (1 + e) + k * point * (1 + 3 * c * point**2) * e / (1 + e) ** 2


def P(point: Any) -> Any:  # noqa: N802
    """Return P in the derivative of the slope, k e (2 P (1 + e) - k Q (e - 1)) / (1 + e)^3."""
    return 1 + 6 * c * point**2


def Q(point: Any) -> Any:  # noqa: N802
    """Return Q."""
    return point * (1 + 3 * c * point**2) ** 2


def turn(point: Any) -> Any:
    """Return what has the sign of the derivative of the slope."""
    return 2 * P(point) * (1 + power(point)) - k * Q(point) * (power(point) - 1)


def turns(z: Any) -> Iterator[Step]:
    """Show that the turn is positive before a and negative after it: P / Q falls and (e - 1) / (e + 1) rises."""
    e, s = power(z), power(a)
    yield Step(f"{z} power", least(0, (e.exp - s.exp) * (e - s)), "exponential")
    yield Step(f"{z} order", least(0, (z - a) * (e - s)), "arithmetic", (f"{z} power",))
    yield Step(f"{z} start", least(0, e.exp * (e - 1)), "exponential")
    yield Step(f"{z} above", least(0, z * (e - 1)), "arithmetic", (f"{z} start",))
    yield Step(f"{z} cross", least(0, (z - a) * (P(a) * Q(z) - P(z) * Q(a))), "arithmetic")
    yield Step(f"{z} turn", least(0, (a - z) * turn(z)), "arithmetic", (f"{z} order", f"{z} above", f"{z} cross", "a"))


def cleared(number: Any, sign: int) -> Iterator[Step]:
    """Show that the turn has a sign at a number near a."""
    clear = least(0, sign * turn(number) - Rational(1, 10**20))
    yield from turns(number)
    yield Step(f"{number} from", least(ENDS[number], number), "arithmetic", (str(number),))
    yield Step(f"{number} to", least(number, ENDS[number]), "arithmetic", (str(number),))
    yield Step(f"{number} value", least(0, clear.right.subs(k, scale)), "enclosure", (f"{number} from", f"{number} to"))
    yield Step(f"{number} clear", clear, "replacement", (f"{number} value", "k"))


def trial(seed: int) -> list[tuple[float, float]]:
    """Take the slope by autograd at both signs of a random point."""
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.rand(1, generator=generator, dtype=torch.float64)
    f = lambda x: torch.nn.functional.gelu(x, approximate="tanh")  # noqa: E731
    right, left = (torch.autograd.functional.jacobian(f, side).item() for side in (x, -x))
    return [(1 - float(gain), right), (right, float(gain)), (1 - float(gain), left), (left, float(gain))]


change = sympy.diff(slope(x), x)
factor = k * power(x) / (1 + power(x)) ** 3
PROOF = Proof(
    name="GELU by tanh",
    title="Slopes of GELU by tanh",
    words="`1 - g <= gelu'(x) <= g = 1.1289930686588` for every real `x`, gelu the form of GELU that uses tanh.",
    reference=Reference("fimtheory"),
    hypotheses=(
        Hypothesis("k", equal(k, scale), "The function is `x / (1 + exp(-k (x + c x^3))), c = 0.044715`.",
                   definition=True),
        Hypothesis("a", equal(2 * P(a) * (1 + power(a)), k * Q(a) * (power(a) - 1)),
                   "a is where the slope is largest; it exists, as the derivative of the slope changes sign: steps "
                   "`l` clear and `h` clear.", definition=True),
        Hypothesis("slope at a", equal(m, slope(a)), "`m` is the largest slope.", definition=True),
        *(Hypothesis(str(end), equal(end, value), "An end of an interval that holds a.", definition=True)
          for end, value in ENDS.items()),
    ),
    steps=(
        *turns(x),
        Step("derivative", equal(change, factor * turn(x)), "arithmetic"),
        Step("scaled", least(0, (a - x) * factor * turn(x)), "arithmetic", ("x turn",)),
        Step("sign", least(0, (a - x) * change), "replacement", ("scaled", "derivative")),
        Step("peak", least(slope(x), slope(a)), "peak", ("sign",)),
        *cleared(low, 1),
        *cleared(high, -1),
        Step("from", least(ENDS[low], a), "arithmetic", ("l turn", "l clear", "l")),
        Step("to", least(a, ENDS[high]), "arithmetic", ("h turn", "h clear", "h")),
        Step("value", least(slope(a).subs(k, scale), gain), "enclosure", ("from", "to")),
        Step("largest", least(slope(a), gain), "replacement", ("value", "k")),
        Step("below m", least(slope(x), m), "replacement", ("peak", "slope at a")),
        Step("m", least(m, gain), "replacement", ("largest", "slope at a")),
        Step("odd", equal(slope(-x), 1 - slope(x)), "arithmetic"),
        Step("right low", least(1 - gain, slope(x)), "arithmetic"),
        Step("right high", least(slope(x), gain), "arithmetic", ("below m", "m")),
        Step("left low", least(1 - gain, slope(-x)), "arithmetic", ("odd", "right high")),
        Step("left high", least(slope(-x), gain), "arithmetic", ("odd", "right low")),
    ),
    conclusions=("right low", "right high", "left low", "left high"),
    trial=trial,
)  # fmt: skip
