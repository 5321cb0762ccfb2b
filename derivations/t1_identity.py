"""T1: F is the variance over labels of the rows of J, so also half the mean squared distance of two rows."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Expect, Form, Hypothesis, Proof, Step, equal, operator

tau = sympy.Symbol("tau", positive=True)
X, X_copy = sympy.symbols("X X'", real=True)
F, u = operator("F"), operator("u")
F_along_u = Form(sympy.transpose(u) * F * u)
variance = Expect(X**2) - Expect(X) ** 2
pairs = Expect((X - X_copy) ** 2) / 2


def trial(seed: int) -> list[tuple[float, float]]:
    """Take the gradients of log p by autograd, the variance and the pairs by sums."""
    torch.manual_seed(seed)
    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    weight, direction = torch.randn(3, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    log_p = (torch.tanh(weight @ x) / 0.7).log_softmax(0)
    p = log_p.exp().detach()
    scores = torch.stack([torch.autograd.grad(each, x, retain_graph=True)[0] for each in log_p])
    fisher = float((p * (scores @ direction) ** 2).sum())
    rows = torch.func.jacrev(lambda x: torch.tanh(weight @ x))(x.detach()) @ direction
    mean = (p * rows).sum()
    by_pairs = float((p.outer(p) * (rows[:, None] - rows) ** 2).sum()) / 2 / 0.7**2
    return [(fisher, float((p * rows**2).sum() - mean**2) / 0.7**2), (fisher, by_pairs)]


PROOF = Proof(
    name="T1",
    title="Fisher information is a variance over labels",
    words="`F = E[grad log p_y grad log p_y^T]` is the covariance over `y ~ p` of the rows `J_y` of `J`, over "
    "`tau^2`.",
    reference=Reference("fimtheory"),
    spaces={F: ("d", "d"), u: ("1", "d")},
    labels={X: ("y", X), X_copy: ("y'", X)},
    unit=(u,),
    hypotheses=(
        Hypothesis(
            "score", equal(F_along_u, Expect(((X - Expect(X)) / tau) ** 2)),
            "`grad log p_y = (J_y - sum_i p_i J_i) / tau`, and `X = J_y u` for the label `y ~ p`.", definition=True,
        ),
    ),
    steps=(
        Step("expand", equal(Expect(((X - Expect(X)) / tau) ** 2),
                             (Expect(X**2) - 2 * Expect(X) ** 2 + Expect(X) ** 2 * Expect(1)) / tau**2), "expansion"),
        Step("one", equal(Expect(1), 1), "mean of constant"),
        Step("variance", equal(F_along_u, variance / tau**2), "arithmetic", ("score", "expand", "one")),
        Step("independent", equal(pairs, Expect(X**2) * Expect(1) - Expect(X) ** 2), "expansion"),
        Step("pairs", equal(F_along_u, pairs / tau**2), "arithmetic", ("variance", "independent", "one")),
    ),
    conclusions=("variance", "pairs"),
    trial=trial,
)  # fmt: skip
