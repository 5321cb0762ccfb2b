"""The gain of softmax(z / tau) is 1 / (2 tau)."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Expect, Form, Hypothesis, Norm, Proof, Step, Top, equal, least, operator

T = sympy.transpose
tau = sympy.Symbol("tau", positive=True)
q, U, low, high = sympy.symbols("q U u_- u_+", real=True)
J, S, A, D, p, u, w = (operator(name) for name in ("J", "S_p", "A", "D", "p", "u", "w"))
half, form, spread = sympy.Rational(1, 2), Form(T(u) * S * u), (high - U) * (U - low)


def trial(seed: int) -> list[tuple[float, float]]:
    """Compare the norm of the Jacobian, by autograd, with both sides, for probabilities of which two are equal."""
    torch.manual_seed(seed)
    tau, n = 0.5 + seed % 3, 2 + seed % 5
    z = torch.randn(n, dtype=torch.float64) * 10.0 ** (seed % 4 - 2)
    z[:2] = z.max() + seed % 7
    jacobian = torch.func.jacrev(lambda z: (z / tau).softmax(0))(z)
    norm, p = float(torch.linalg.matrix_norm(jacobian, 2)), (z / tau).softmax(0)
    return [(norm, 0.5 / tau), (float(p[0]) / tau, norm)]


PROOF = Proof(
    name="Softmax",
    title="Gain of softmax",
    words="||J|| <= 1 / (2 tau) for the Jacobian J of softmax(z / tau) over two entries or more; where two "
    "probabilities are q, q / tau <= ||J||, and q comes near 1/2 as their entries exceed all others.",
    reference=Reference("nair2025", "theorem 1"),
    spaces={**dict.fromkeys((J, S, D), ("K", "K")), A: ("K", "m"), **dict.fromkeys((p, u, w), ("1", "K"))},
    labels={U: ("label", U)},
    unit=(u,),
    dependent=(U, low, high),
    hypotheses=(
        Hypothesis("J", equal(J, S / tau), "The chain rule.", definition=True),
        Hypothesis("S", equal(S, D - p * T(p)), "D = diag(p), p the probabilities.", definition=True),
        Hypothesis("root", equal(S, T(A) * A), "S_p is a covariance, so it has a square root A.", definition=True),
        Hypothesis("variance", equal(form, Expect(U**2) - Expect(U) ** 2), "U = u_y is the entry of u at y ~ p.",
                   definition=True),
        Hypothesis("from", least(low, U), "u_- is the least entry of u.", definition=True),
        Hypothesis("to", least(U, high), "u_+ is the largest entry of u.", definition=True),
        Hypothesis("two", least(low**2 + high**2, Norm(u) ** 2), "They are two of at least two entries of u.",
                   definition=True),
        Hypothesis("unit", equal(Norm(u), 1), "u is any unit vector.", definition=True),
        Hypothesis("q", equal(D * w, q * w), "Two probabilities are q; w is 1 and -1 there, over sqrt 2."),
        Hypothesis("balanced", equal(Form(T(p) * w), 0), "The two are equal.", definition=True),
        Hypothesis("w", equal(Norm(w), 1), "w is taken of length 1.", definition=True),
    ),
    steps=(
        Step("inside", least(0, spread), "arithmetic", ("from", "to")),
        Step("mean", least(0, Expect(spread)), "mean of nonnegative", ("inside",)),
        Step("linear", equal(Expect(spread), (high + low) * Expect(U) - Expect(U**2) - high * low * Expect(1)),
             "expansion"),
        Step("one", equal(Expect(1), 1), "mean of constant"),
        Step("form", least(form, half), "arithmetic", ("mean", "linear", "one", "variance", "two", "unit")),
        Step("top", least(Top(S), half), "supremum", ("form",)),
        Step("gram", equal(Top(T(A) * A), Norm(A) ** 2), "gram"),
        Step("gram norm", equal(Norm(T(A) * A), Norm(A) ** 2), "gram"),
        Step("top of S", equal(Top(S), Norm(A) ** 2), "replacement", ("gram", "root")),
        Step("norm of S", equal(Norm(S), Norm(A) ** 2), "replacement", ("gram norm", "root")),
        Step("scale", equal(Norm(S / tau), Norm(S) / tau), "scaling"),
        Step("J norm", equal(Norm(J), Norm(S) / tau), "replacement", ("scale", "J")),
        Step("theorem", least(Norm(J), 1 / (2 * tau)), "arithmetic", ("J norm", "norm of S", "top of S", "top")),
        Step("split", equal(Form(T(w) * S * w), Form(T(w) * D * w) - Form(T(p) * w) ** 2), "expansion", ("S",)),
        Step("diagonal", equal(Form(T(w) * D * w), q * Norm(w) ** 2), "expansion", ("q",)),
        Step("along", equal(Form(T(w) * S * w), q * Norm(w) ** 2), "arithmetic", ("split", "diagonal", "balanced")),
        Step("below", least(Form(T(w) * S * w), Top(S) * Norm(w) ** 2), "rayleigh"),
        Step("near", least(q / tau, Norm(J)), "arithmetic", ("along", "below", "w", "J norm", "norm of S", "top of S")),
    ),
    conclusions=("theorem", "near"),
    trial=trial,
)  # fmt: skip
