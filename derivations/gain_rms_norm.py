"""The gain of RMS norm is |diag(gamma)| / sqrt(eps), and its output has norm at most sqrt(n) |diag(gamma)|."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Form, Hypothesis, Norm, Proof, Step, equal, least, operator

s, eps, n = sympy.symbols("s eps n", positive=True)
least_square = sympy.Symbol("v_0", nonnegative=True)
J, J_0, G, v, u, y = (operator(name) for name in ("J", "J_0", "G", "v", "u", "y"))
along, length = Form(sympy.transpose(v) * u), Form(sympy.transpose(v) * v)
shrinks = 1 - v * sympy.transpose(v)
product = sympy.transpose(shrinks * u) * (shrinks * u)
local, steepest = 1 / sympy.sqrt(least_square + eps), 1 / sympy.sqrt(eps)


def trial(seed: int) -> list[tuple[float, float]]:
    """Compare the norm of the Jacobian, by autograd, with the bounds, near, far from and at zero."""
    torch.manual_seed(seed)
    gamma, x = torch.randn(2, 5, dtype=torch.float64)
    x *= 10 ** (seed % 5 - 3)
    f = lambda x: torch.nn.functional.rms_norm(x, (5,), gamma, 1e-3)  # noqa: E731
    norm = lambda x: float(torch.linalg.matrix_norm(torch.func.jacrev(f)(x), 2))  # noqa: E731
    largest, at_zero, square = float(gamma.abs().max()), norm(torch.zeros_like(x)), float((x**2).mean())
    return [
        (norm(x), largest * (square + 1e-3) ** -0.5),
        (norm(x), largest * 1e-3**-0.5),
        (at_zero, largest * 1e-3**-0.5),
        (float(f(x).norm()), 5**0.5 * largest),
    ]


PROOF = Proof(
    name="RMSNorm",
    title="Gain and output of RMS norm",
    words="`L(RMS norm) <= ||G|| / sqrt(v_0 + eps)` on inputs whose mean square is at least `v_0`, so `||G|| / "
    "sqrt(eps)` on all (`v_0 = 0`), which is met at zero; and `||y|| <= sqrt(n) ||G||`. `G = diag(gamma)`, whose "
    "norm is the largest `|gamma_k|` (theorem BatchNorm).",
    reference=Reference("fimtheory"),
    spaces={**dict.fromkeys((J, J_0, G), ("n", "n")), **dict.fromkeys((v, u, y), ("1", "n"))},
    unit=(u,),
    hypotheses=(
        Hypothesis("J", equal(J, G * shrinks / s),
                   "`G` multiplies by `gamma`, `s^2 = |x|^2 / n + eps`, `v = x / (sqrt(n) s)`.", definition=True),
        Hypothesis("J_0", equal(J_0, G / sympy.sqrt(eps)), "`J` at zero: `v = 0` and `s^2 = eps`.", definition=True),
        Hypothesis("y", equal(y, sympy.sqrt(n) * G * v), "`y` is the output, `G x / s`.", definition=True),
        Hypothesis("short", least(Norm(v), 1), "`|x|^2 / n <= s^2`.", definition=True),
        Hypothesis("square", least(sympy.sqrt(least_square + eps), s), "The mean square `|x|^2 / n` is at least "
        "`v_0`."),
        Hypothesis("unit", equal(Norm(u), 1), "`u` is any unit vector.", definition=True),
    ),
    steps=(
        Step("form", equal(Norm(shrinks * u) ** 2, Form(product)), "expansion"),
        Step("expand", equal(Form(product), Norm(u) ** 2 - (2 - length) * along**2), "expansion"),
        Step("length", equal(Norm(v) ** 2, length), "expansion"),
        Step("inside", least(Norm(shrinks * u), 1), "arithmetic", ("form", "expand", "length", "short", "unit")),
        Step("shrinks", least(Norm(shrinks), 1), "supremum", ("inside",)),
        Step("factors", least(Norm(G * shrinks / s), Norm(G) * Norm(shrinks / s)), "submultiplicative"),
        Step("scale", equal(Norm(shrinks / s), Norm(shrinks) / s), "scaling"),
        Step("product", least(Norm(J), Norm(G) * Norm(shrinks / s)), "replacement", ("factors", "J")),
        Step("bound", least(Norm(J), Norm(G) / s), "arithmetic", ("product", "scale", "shrinks")),
        Step("local", least(Norm(J), Norm(G) * local), "arithmetic", ("bound", "square")),
        Step("global", least(Norm(J), Norm(G) * steepest), "arithmetic", ("local",)),
        Step("met", equal(Norm(G / sympy.sqrt(eps)), Norm(G) * steepest), "scaling"),
        Step("zero", equal(Norm(J_0), Norm(G) * steepest), "replacement", ("met", "J_0")),
        Step("root", equal(Norm(sympy.sqrt(n) * G * v), sympy.sqrt(n) * Norm(G * v)), "scaling"),
        Step("part", least(Norm(G * v), Norm(G) * Norm(v)), "submultiplicative"),
        Step("outer", least(Norm(sympy.sqrt(n) * G * v), sympy.sqrt(n) * Norm(G)), "arithmetic",
             ("root", "part", "short")),
        Step("norm", least(Norm(y), sympy.sqrt(n) * Norm(G)), "replacement", ("outer", "y")),
    ),
    conclusions=("local", "global", "zero", "norm"),
    trial=trial,
)  # fmt: skip
