"""The Jacobian of log-softmax over K entries has norm sqrt(K) |p|, so the gain is sqrt(K)."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Form, Hypothesis, Norm, Proof, Step, equal, least, operator

T = sympy.transpose
K = sympy.Symbol("K", positive=True)
J, p, one, u = (operator(name) for name in ("J", "p", "e", "u"))
centred, flat = u - one * T(one) * u / K, p - one / K
along, bound = Form(T(flat) * centred), sympy.sqrt(K) * Norm(p)


def squared(v: sympy.Expr) -> sympy.Expr:
    """Return |v - e p^T v|^2, multiplied out."""
    return Norm(v) ** 2 - 2 * Form(T(one) * v) * Form(T(p) * v) + Form(T(one) * one) * Form(T(p) * v) ** 2


def trial(seed: int) -> list[tuple[float, float]]:
    """Compare the norm of the Jacobian, by autograd, with the bound, for flat and for peaked probabilities."""
    torch.manual_seed(seed)
    n = 2 + seed % 5
    z = torch.randn(n, dtype=torch.float64) * 10.0 ** (seed % 4 - 2)
    jacobian, p = torch.func.jacrev(lambda z: z.log_softmax(0))(z), z.softmax(0)
    norm, w = float(torch.linalg.matrix_norm(jacobian, 2)), p - 1 / n
    bound = n**0.5 * float(p.norm())
    return [(norm, bound), (norm, n**0.5), (float((jacobian @ w).norm()), bound * float(w.norm()))]


PROOF = Proof(
    name="LogSoftmax",
    title="Gain of log-softmax",
    words="`||J|| <= sqrt(K) ||p|| <= sqrt(K)` for the Jacobian `J` of log-softmax over `K` entries with "
    "probabilities `p`; it stretches `p - 1/K` by `sqrt(K) ||p||`, which comes near `sqrt(K)` as one entry exceeds "
    "all others.",
    reference=Reference("fimtheory"),
    spaces={J: ("K", "K"), **dict.fromkeys((p, one, u), ("1", "K"))},
    unit=(u,),
    hypotheses=(
        Hypothesis("J", equal(J, 1 - one * T(p)), "`e` is the vector of ones.", definition=True),
        Hypothesis("ones", equal(Form(T(one) * one), K), "It has `K` entries.", definition=True),
        Hypothesis("sum", equal(Form(T(one) * p), 1), "Probabilities add up to 1.", definition=True),
        Hypothesis("short", least(Norm(p), 1), "So their squares add up to at most 1.", definition=True),
        Hypothesis("unit", equal(Norm(u), 1), "`u` is any unit vector.", definition=True),
    ),
    steps=(
        Step("squares", equal(Norm(J * u) ** 2, squared(u)), "expansion", ("J",)),
        Step("parts", equal(squared(u), Norm(centred) ** 2 + K * along**2), "expansion", ("ones", "sum")),
        Step("product", least(Norm(T(flat) * centred), Norm(T(flat)) * Norm(centred)), "submultiplicative"),
        Step("turned", equal(Norm(T(flat)), Norm(flat)), "transposition"),
        Step("number", equal(Norm(T(flat) * centred) ** 2, along**2), "expansion"),
        Step("flat", equal(Norm(flat) ** 2, Norm(p) ** 2 - 1 / K), "expansion", ("ones", "sum")),
        Step("centred", equal(Norm(centred) ** 2, Norm(u) ** 2 - Form(T(one) * u) ** 2 / K), "expansion", ("ones",)),
        Step("part", least(along**2, Norm(flat) ** 2 * Norm(centred) ** 2), "arithmetic",
             ("number", "product", "turned")),
        Step("square", least(Norm(J * u) ** 2, K * Norm(p) ** 2 * Norm(centred) ** 2), "arithmetic",
             ("squares", "parts", "part", "flat")),
        Step("less", least(Norm(centred) ** 2, 1), "arithmetic", ("centred", "unit")),
        Step("vector", least(Norm(J * u), bound), "arithmetic", ("square", "less")),
        Step("theorem", least(Norm(J), bound), "supremum", ("vector",)),
        Step("gain", least(Norm(J), sympy.sqrt(K)), "arithmetic", ("theorem", "short")),
        Step("flat squares", equal(Norm(J * flat) ** 2, squared(flat)), "expansion", ("J",)),
        Step("flat parts", equal(squared(flat), K * Norm(p) ** 2 * Norm(flat) ** 2), "expansion", ("ones", "sum")),
        Step("met", equal(Norm(J * flat), bound * Norm(flat)), "arithmetic", ("flat squares", "flat parts")),
    ),
    conclusions=("theorem", "gain", "met"),
    trial=trial,
)  # fmt: skip
