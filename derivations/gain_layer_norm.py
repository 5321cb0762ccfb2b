"""The gain of layer norm without weights is at most 1 / sqrt(eps)."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Form, Hypothesis, Norm, Proof, Step, equal, least, operator

s, eps = sympy.symbols("s eps", positive=True)
J, C, v, u = (operator(name) for name in ("J", "C", "v", "u"))
along, length = Form(sympy.transpose(v) * u), Form(sympy.transpose(v) * v)
projected = Form(sympy.transpose(u) * C * u)
inner = C - v * sympy.transpose(v)
product = sympy.transpose(inner * u) * (inner * u)


def trial(seed: int) -> list[tuple[float, float]]:
    """Compare the norm of the Jacobian, by autograd, with the bound, near and far from constant inputs."""
    torch.manual_seed(seed)
    x = torch.randn(5, dtype=torch.float64) * 10 ** (seed % 5 - 3)
    jacobian = torch.func.jacrev(lambda x: torch.nn.functional.layer_norm(x, (5,), eps=1e-3))(x)
    return [(float(torch.linalg.matrix_norm(jacobian, 2)), 1e-3**-0.5)]


PROOF = Proof(
    name="LayerNorm",
    title="Gain of layer norm",
    words="L(layer norm) <= 1 / sqrt(eps), without weights.",
    reference=Reference("fimtheory", "theory, section 4"),
    spaces={J: ("n", "n"), C: ("n", "n"), v: ("1", "n"), u: ("1", "n")},
    unit=(u,),
    hypotheses=(
        Hypothesis("J", equal(J, inner / s), "C subtracts the mean, s^2 = |C x|^2 / n + eps, v = C x / (sqrt(n) s).",
                   definition=True),
        Hypothesis("symmetric", equal(sympy.transpose(C), C), "C is a projection.", definition=True),
        Hypothesis("projection", equal(C * C, C), "C is a projection.", definition=True),
        Hypothesis("centred", equal(C * v, v), "v has mean zero.", definition=True),
        Hypothesis("turned", equal(sympy.transpose(v) * C, sympy.transpose(v)), "v has mean zero.", definition=True),
        Hypothesis("short", least(Norm(v), 1), "|C x|^2 / n <= s^2.", definition=True),
        Hypothesis("eps", least(sympy.sqrt(eps), s), "s^2 >= eps.", definition=True),
        Hypothesis("unit", equal(Norm(u), 1), "u is any unit vector.", definition=True),
    ),
    steps=(
        Step("square", equal(Norm(inner * u) ** 2, Form(product)), "expansion"),
        Step("expand", equal(Form(product), projected - (2 - length) * along**2), "expansion",
             ("symmetric", "projection", "centred", "turned")),
        Step("length", equal(Norm(v) ** 2, length), "expansion"),
        Step("mean", equal(Norm(u - C * u) ** 2, Norm(u) ** 2 - projected), "expansion", ("symmetric", "projection")),
        Step("inside", least(Norm(inner * u), 1), "arithmetic",
             ("square", "expand", "length", "mean", "short", "unit")),
        Step("supremum", least(Norm(inner), 1), "supremum", ("inside",)),
        Step("scale", equal(Norm(inner / s), Norm(inner) / s), "scaling"),
        Step("bound", least(Norm(inner / s), 1 / sympy.sqrt(eps)), "arithmetic", ("scale", "supremum", "eps")),
        Step("theorem", least(Norm(J), 1 / sympy.sqrt(eps)), "replacement", ("bound", "J")),
    ),
    conclusions=("theorem",),
    trial=trial,
)  # fmt: skip
