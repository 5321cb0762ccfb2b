"""The gain of batch norm is max |gamma_c| / sqrt(var_c + eps): a diagonal has the norm of its largest entry."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Expect, Hypothesis, Norm, Proof, Step, equal, least, operator

eps, n = sympy.symbols("eps n", positive=True)
gamma, f, F, U = sympy.symbols("gamma f F U", real=True)
variance = sympy.Symbol("var", nonnegative=True)
J, u, e = (operator(name) for name in ("J", "u", "e"))
excess = f**2 * U**2 - F**2 * U**2
gain = sympy.Abs(gamma) / sympy.sqrt(variance + eps)


def trial(seed: int) -> list[tuple[float, float]]:
    """Compare the norm of the Jacobian, by autograd, with the largest factor."""
    torch.manual_seed(seed)
    gamma, beta, mean, variance = torch.randn(4, 3, dtype=torch.float64)
    variance, x = variance**4, torch.randn(1, 3, 2, dtype=torch.float64)
    f = lambda x: torch.nn.functional.batch_norm(x, mean, variance, gamma, beta, eps=1e-3)  # noqa: E731
    jacobian = torch.func.jacrev(f)(x).reshape(6, 6)
    return [(float(torch.linalg.matrix_norm(jacobian, 2)), float((gamma.abs() / (variance + 1e-3).sqrt()).max()))]


PROOF = Proof(
    name="BatchNorm",
    title="Gain of batch norm in evaluation, and norm of a diagonal",
    words="`L(batch norm) = max_c |gamma_c| / sqrt(var_c + eps)`.",
    reference=Reference("fimtheory"),
    spaces={J: ("n", "n"), u: ("1", "n"), e: ("1", "n")},
    labels={symbol: ("entry", symbol) for symbol in (F, U)},
    unit=(u,),
    dependent=(U,),
    hypotheses=(
        Hypothesis("f", equal(f, gamma / sympy.sqrt(variance + eps)),
                   "`f` is the factor `gamma_c / sqrt(var_c + eps)` of largest size.", definition=True),
        Hypothesis("largest", least(sympy.Abs(F), sympy.Abs(f)), "`F` is the factor of an entry.", definition=True),
        Hypothesis("length", equal(Norm(u) ** 2, n * Expect(U**2)),
                   "`U` is the entry of `u` at one of `n` places, drawn uniformly.", definition=True),
        Hypothesis("image", equal(Norm(J * u) ** 2, n * Expect(F**2 * U**2)), "`J` multiplies each entry by its "
        "factor.",
                   definition=True),
        Hypothesis("basis", equal(J * e, f * e), "`e` is the basis vector at an entry with factor `f`.",
                   definition=True),
        Hypothesis("e", equal(Norm(e), 1), "Basis vectors have length 1.", definition=True),
        Hypothesis("unit", equal(Norm(u), 1), "`u` is any unit vector.", definition=True),
    ),
    steps=(
        Step("each", least(0, excess), "arithmetic", ("largest",)),
        Step("mean", least(0, Expect(excess)), "mean of nonnegative", ("each",)),
        Step("linear", equal(Expect(excess), f**2 * Expect(U**2) - Expect(F**2 * U**2)), "expansion"),
        Step("vector", least(Norm(J * u), sympy.Abs(f)), "arithmetic", ("mean", "linear", "length", "image", "unit")),
        Step("at most", least(Norm(J), sympy.Abs(f)), "supremum", ("vector",)),
        Step("product", least(Norm(J * e), Norm(J) * Norm(e)), "submultiplicative"),
        Step("factor", equal(Norm(f * e), sympy.Abs(f) * Norm(e)), "scaling"),
        Step("along", equal(Norm(J * e), sympy.Abs(f) * Norm(e)), "replacement", ("factor", "basis")),
        Step("exact", equal(Norm(J), sympy.Abs(f)), "arithmetic", ("at most", "product", "along", "e")),
        Step("theorem", equal(Norm(J), gain), "arithmetic", ("exact", "f")),
    ),
    conclusions=("theorem",),
    trial=trial,
)  # fmt: skip
