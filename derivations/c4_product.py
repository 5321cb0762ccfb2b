"""C4: a product of two branches, entry by entry, where their entries are bounded."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Hypothesis, Norm, Proof, Step, equal, least, operator

J, U, V, A, B = (operator(name) for name in ("J", "D_u", "D_v", "J_u", "J_v"))
R_u, R_v = sympy.symbols("R_u R_v", nonnegative=True)
bound = R_u * Norm(B) + R_v * Norm(A)


def trial(seed: int) -> list[tuple[float, float]]:
    """Compare the Jacobian of a gate, by autograd, with the bound at the same point."""
    torch.manual_seed(seed)
    one, other = torch.randn(2, 4, 3, dtype=torch.float64)
    x = torch.randn(3, dtype=torch.float64)
    norm = lambda matrix: float(torch.linalg.matrix_norm(matrix, 2))  # noqa: E731
    jacobian = torch.func.jacrev(lambda x: (one @ x) * (other @ x))(x)
    return [(norm(jacobian), float((one @ x).abs().max()) * norm(other) + float((other @ x).abs().max()) * norm(one))]


PROOF = Proof(
    name="C4",
    title="Product of branches",
    words="`L(u v) <= R_u L(v) + R_v L(u)`, where no entry of `u`, `v` exceeds `R_u`, `R_v`.",
    reference=Reference("fimtheory"),
    spaces={J: ("x", "y"), U: ("y", "y"), V: ("y", "y"), A: ("x", "y"), B: ("x", "y")},
    hypotheses=(
        Hypothesis(
            "rule", equal(J, V * A + U * B), "The product rule; `D_u = diag(u)` and `D_v = diag(v)`.", definition=True
        ),
        Hypothesis("u", least(Norm(U), R_u), "No entry of `u` exceeds `R_u` in absolute value: `||diag(u)|| <= R_u`."),
        Hypothesis("v", least(Norm(V), R_v), "No entry of `v` exceeds `R_v` in absolute value: `||diag(v)|| <= R_v`."),
    ),
    steps=(
        Step("sum", least(Norm(V * A + U * B), Norm(V * A) + Norm(U * B)), "triangle"),
        Step("one", least(Norm(V * A), Norm(V) * Norm(A)), "submultiplicative"),
        Step("other", least(Norm(U * B), Norm(U) * Norm(B)), "submultiplicative"),
        Step("first", least(Norm(V) * Norm(A), R_v * Norm(A)), "arithmetic", ("v",)),
        Step("second", least(Norm(U) * Norm(B), R_u * Norm(B)), "arithmetic", ("u",)),
        Step("gate", least(Norm(V * A + U * B), bound), "arithmetic", ("sum", "one", "other", "first", "second")),
        Step("theorem", least(Norm(J), bound), "replacement", ("gate", "rule")),
    ),
    conclusions=("theorem",),
    trial=trial,
)
