"""The gain of layer norm is |diag(gamma) C| / sqrt(eps), C = I - 11^T / n; its output is bounded."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Form, Hypothesis, Norm, Proof, Step, equal, least, operator

s, eps, n = sympy.symbols("s eps n", positive=True)
least_variance = sympy.Symbol("v_0", nonnegative=True)
J, J_0, G, C, v, u, beta, y = (operator(name) for name in ("J", "J_0", "G", "C", "v", "u", "beta", "y"))
along, length = Form(sympy.transpose(v) * u), Form(sympy.transpose(v) * v)
shrinks = 1 - v * sympy.transpose(v)
product = sympy.transpose(shrinks * u) * (shrinks * u)
local, steepest = 1 / sympy.sqrt(least_variance + eps), 1 / sympy.sqrt(eps)


def trial(seed: int) -> list[tuple[float, float]]:
    """Compare the norm of the Jacobian, by autograd, with the bounds, near, far from and at constant inputs."""
    torch.manual_seed(seed)
    gamma, beta, x = torch.randn(3, 5, dtype=torch.float64)
    x *= 10 ** (seed % 5 - 3)
    f = lambda x: torch.nn.functional.layer_norm(x, (5,), gamma, beta, 1e-3)  # noqa: E731
    norm = lambda x: float(torch.linalg.matrix_norm(torch.func.jacrev(f)(x), 2))  # noqa: E731
    scale = float(torch.linalg.matrix_norm(gamma.diag() - gamma[:, None] / 5, 2))
    at_constant, variance = norm(torch.ones_like(x)), float(x.var(correction=0))
    return [
        (norm(x), scale * (variance + 1e-3) ** -0.5),
        (norm(x), scale * 1e-3**-0.5),
        (at_constant, scale * 1e-3**-0.5),
        (scale, float(gamma.abs().max())),
        (float(f(x).norm()), 5**0.5 * scale + float(beta.norm())),
    ]


PROOF = Proof(
    name="LayerNorm",
    title="Gain and output of layer norm",
    words="`L(layer norm) <= ||G C|| / sqrt(v_0 + eps)` on inputs whose variance is at least `v_0`, so `||G C|| "
    "/ sqrt(eps)` on all (`v_0 = 0`), which is met at constant inputs; and `||y|| <= sqrt(n) ||G C|| + ||beta||`. "
    "`G = diag(gamma)`, and `||G C|| <= ||G||`.",
    reference=Reference("fimtheory"),
    spaces={**dict.fromkeys((J, J_0, G, C), ("n", "n")), **dict.fromkeys((v, u, beta, y), ("1", "n"))},
    unit=(u,),
    hypotheses=(
        Hypothesis("J", equal(J, G * (C - v * sympy.transpose(v)) / s),
                   "`G` multiplies by `gamma`, `C` subtracts the mean, `s^2 = |C x|^2 / n + eps`, `v = C x / "
                   "(sqrt(n) s)`.",
                   definition=True),
        Hypothesis("J_0", equal(J_0, G * C / sympy.sqrt(eps)), "`J` at constant inputs: `v = 0` and `s^2 = eps`.",
                   definition=True),
        Hypothesis("y", equal(y, sympy.sqrt(n) * G * v + beta), "`y` is the output, `G C x / s + beta`.",
                   definition=True),
        Hypothesis("symmetric", equal(sympy.transpose(C), C), "`C` is a projection.", definition=True),
        Hypothesis("projection", equal(C * C, C), "`C` is a projection.", definition=True),
        Hypothesis("centred", equal(C * v, v), "`v` has mean zero.", definition=True),
        Hypothesis("short", least(Norm(v), 1), "`|C x|^2 / n <= s^2`.", definition=True),
        Hypothesis("variance", least(sympy.sqrt(least_variance + eps), s), "The variance `|C x|^2 / n` is at least "
        "`v_0`."),
        Hypothesis("unit", equal(Norm(u), 1), "`u` is any unit vector.", definition=True),
    ),
    steps=(
        Step("square", equal(Norm(shrinks * u) ** 2, Form(product)), "expansion"),
        Step("expand", equal(Form(product), Norm(u) ** 2 - (2 - length) * along**2), "expansion"),
        Step("length", equal(Norm(v) ** 2, length), "expansion"),
        Step("inside", least(Norm(shrinks * u), 1), "arithmetic", ("square", "expand", "length", "short", "unit")),
        Step("shrinks", least(Norm(shrinks), 1), "supremum", ("inside",)),
        Step("factors", least(Norm(G * C * shrinks / s), Norm(G * C) * Norm(shrinks / s)), "submultiplicative"),
        Step("scale", equal(Norm(shrinks / s), Norm(shrinks) / s), "scaling"),
        Step("split", equal(J, G * C * shrinks / s), "expansion", ("J", "centred")),
        Step("product", least(Norm(J), Norm(G * C) * Norm(shrinks / s)), "replacement", ("factors", "split")),
        Step("bound", least(Norm(J), Norm(G * C) / s), "arithmetic", ("product", "scale", "shrinks")),
        Step("local", least(Norm(J), Norm(G * C) * local), "arithmetic", ("bound", "variance")),
        Step("global", least(Norm(J), Norm(G * C) * steepest), "arithmetic", ("local",)),
        Step("met", equal(Norm(G * C / sympy.sqrt(eps)), Norm(G * C) * steepest), "scaling"),
        Step("constant", equal(Norm(J_0), Norm(G * C) * steepest), "replacement", ("met", "J_0")),
        Step("centring", equal(Norm(u - C * u) ** 2, Norm(u) ** 2 - Norm(C * u) ** 2), "expansion",
             ("symmetric", "projection")),
        Step("centred u", least(Norm(C * u), 1), "arithmetic", ("centring", "unit")),
        Step("C", least(Norm(C), 1), "supremum", ("centred u",)),
        Step("G C", least(Norm(G * C), Norm(G) * Norm(C)), "submultiplicative"),
        Step("scales", least(Norm(G * C), Norm(G)), "arithmetic", ("G C", "C")),
        Step("sum", least(Norm(sympy.sqrt(n) * G * C * v + beta), Norm(sympy.sqrt(n) * G * C * v) + Norm(beta)),
             "triangle"),
        Step("root", equal(Norm(sympy.sqrt(n) * G * C * v), sympy.sqrt(n) * Norm(G * C * v)), "scaling"),
        Step("part", least(Norm(G * C * v), Norm(G * C) * Norm(v)), "submultiplicative"),
        Step("output", equal(y, sympy.sqrt(n) * G * C * v + beta), "expansion", ("y", "centred")),
        Step("outer", least(Norm(y), Norm(sympy.sqrt(n) * G * C * v) + Norm(beta)), "replacement", ("sum", "output")),
        Step("norm", least(Norm(y), sympy.sqrt(n) * Norm(G * C) + Norm(beta)), "arithmetic",
             ("outer", "root", "part", "short")),
    ),
    conclusions=("local", "global", "constant", "scales", "norm"),
    trial=trial,
)  # fmt: skip
