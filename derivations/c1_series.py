"""C1: the Jacobian of a composition has at most the product of the norms."""

import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Hypothesis, Norm, Proof, Step, equal, least, operator

J, A, B = operator("J"), operator("A"), operator("B")


def trial(seed: int) -> list[tuple[float, float]]:
    """Compare the norm of the Jacobian of a composition, by autograd, with the product of norms."""
    torch.manual_seed(seed)
    inner, outer = torch.randn(4, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda x: torch.sin(outer @ torch.sin(inner @ x)))
    x = torch.randn(3, dtype=torch.float64)
    first = torch.cos(inner @ x).diag() @ inner
    second = torch.cos(outer @ torch.sin(inner @ x)).diag() @ outer
    norms = [float(torch.linalg.matrix_norm(each, 2)) for each in (jacobian(x), second, first)]
    return [(norms[0], norms[1] * norms[2])]


PROOF = Proof(
    name="C1",
    title="Series",
    words="`L(g o f) <= L(g) L(f)`.",
    reference=Reference("horn2013", "section 5.6"),
    spaces={J: ("x", "z"), A: ("x", "y"), B: ("y", "z")},
    hypotheses=(
        Hypothesis(
            "chain", equal(J, B * A), "The chain rule: `A` is the Jacobian of `f`, `B` of `g`.", definition=True
        ),
    ),
    steps=(
        Step("product", least(Norm(B * A), Norm(B) * Norm(A)), "submultiplicative"),
        Step("theorem", least(Norm(J), Norm(B) * Norm(A)), "replacement", ("product", "chain")),
    ),
    conclusions=("theorem",),
    trial=trial,
)
