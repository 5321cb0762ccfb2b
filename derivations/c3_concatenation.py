"""C3: a concatenation has at most the root of the sum of the squared gains."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Hypothesis, Norm, Proof, Stack, Step, equal, least, operator

A, B, u = operator("A"), operator("B"), operator("u")
whole = sympy.sqrt(Norm(A) ** 2 + Norm(B) ** 2)


def trial(seed: int) -> list[tuple[float, float]]:
    """Compare norms of random matrices."""
    torch.manual_seed(seed)
    one, other = torch.randn(3, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    norm = lambda matrix: float(torch.linalg.matrix_norm(matrix, 2))  # noqa: E731
    return [(norm(torch.cat([one, other])), (norm(one) ** 2 + norm(other) ** 2) ** 0.5)]


PROOF = Proof(
    name="C3",
    title="Concatenation",
    words="`L([f, g]) <= sqrt(L(f)^2 + L(g)^2)`.",
    reference=Reference("horn2013", "section 5.6"),
    spaces={A: ("x", "y"), B: ("x", "z"), u: ("1", "x")},
    unit=(u,),
    hypotheses=(Hypothesis("unit", equal(Norm(u), 1), "`u` is any unit vector.", definition=True),),
    steps=(
        Step("parts", equal(Norm(Stack(A, B) * u) ** 2, Norm(A * u) ** 2 + Norm(B * u) ** 2), "stacking"),
        Step("first", least(Norm(A * u), Norm(A) * Norm(u)), "submultiplicative"),
        Step("second", least(Norm(B * u), Norm(B) * Norm(u)), "submultiplicative"),
        Step("along", least(Norm(Stack(A, B) * u), whole), "arithmetic", ("parts", "first", "second", "unit")),
        Step("theorem", least(Norm(Stack(A, B)), whole), "supremum", ("along",)),
    ),
    conclusions=("theorem",),
    trial=trial,
)
