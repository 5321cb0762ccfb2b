"""C2: a sum has at most the sum of the gains; a residual block at most one more than its branch."""

import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Norm, Proof, Step, least, operator

A, B = operator("A"), operator("B")


def trial(seed: int) -> list[tuple[float, float]]:
    """Compare norms of random matrices."""
    torch.manual_seed(seed)
    one, other = torch.randn(2, 4, 4, dtype=torch.float64)
    norm = lambda matrix: float(torch.linalg.matrix_norm(matrix, 2))  # noqa: E731
    return [(norm(one + other), norm(one) + norm(other)), (norm(torch.eye(4) + one), 1 + norm(one))]


PROOF = Proof(
    name="C2",
    title="Sum",
    words="`L(f + g) <= L(f) + L(g)`, and `L(id + f) <= 1 + L(f)`.",
    reference=Reference("horn2013", "section 5.6"),
    hypotheses=(),
    spaces={A: ("x", "x"), B: ("x", "x")},
    steps=(
        Step("sum", least(Norm(A + B), Norm(A) + Norm(B)), "triangle"),
        Step("shortcut", least(Norm(1 + A), Norm(1) + Norm(A)), "triangle"),
        Step("one", least(Norm(1), 1), "unit identity"),
        Step("residual", least(Norm(1 + A), 1 + Norm(A)), "arithmetic", ("shortcut", "one")),
    ),
    conclusions=("sum", "residual"),
    trial=trial,
)
