"""T2: lam is at most the trace of F."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Hypothesis, Proof, Step, Top, Trace, equal, least, operator

F, R = operator("F"), operator("R")
product = sympy.transpose(R) * R


def trial(seed: int) -> list[tuple[float, float]]:
    """Compare the largest eigenvalue of a random F with its trace."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(1 + seed % 4, 4, generator=generator, dtype=torch.float64)
    p = torch.randn(len(rows), generator=generator, dtype=torch.float64).softmax(0)
    fisher = rows.T @ (p.diag() - p.outer(p)) @ rows
    return [(float(torch.linalg.eigvalsh(fisher)[-1]), float(fisher.trace()))]


PROOF = Proof(
    name="T2",
    title="Trace bound",
    words="lam <= tr F.",
    reference=Reference("fimtheory", "theory, T2"),
    spaces={F: ("d", "d"), R: ("d", "K")},
    hypotheses=(
        Hypothesis("root", equal(F, product), "R = diag(sqrt p) (I - 1 p^T) J / tau, a root of F.", definition=True),
    ),
    steps=(
        Step("product", least(Top(product), Trace(product)), "trace of semidefinite"),
        Step("theorem", least(Top(F), Trace(F)), "replacement", ("product", "root")),
    ),
    conclusions=("theorem",),
    trial=trial,
)
