"""T8: in other units x = A u + c, lam changes by at most the squared norm of A."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Form, Hypothesis, Norm, Proof, Step, Top, equal, least, operator

F, G, A, R, w = operator("F_x"), operator("F_u"), operator("A"), operator("R"), operator("w")
root = sympy.transpose(R) * R
form = Form(sympy.transpose(w) * G * w)


def trial(seed: int) -> list[tuple[float, float]]:
    """Compare the largest eigenvalues in both units."""
    generator = torch.Generator().manual_seed(seed)
    half, change = (torch.randn(4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    fisher = half.T @ half
    if seed % 3 == 0:  # A leads along the top direction, so that the bound is met
        change = torch.linalg.eigh(fisher)[1][:, -1:] @ change[:1]
    top = lambda matrix: torch.linalg.eigvalsh(matrix)[-1]  # noqa: E731
    norm = torch.linalg.matrix_norm(change, 2)
    return [(float(top(change.T @ fisher @ change)), float(top(fisher) * norm**2))]


PROOF = Proof(
    name="T8",
    title="Change of variables",
    words="For `x = A u + c`, `F_u = A^T F_x A`, so `lam` in the units of `u` is at most `||A||^2` times `lam` in "
    "those of `x`.",
    reference=Reference("fimtheory"),
    spaces={F: ("d", "d"), R: ("d", "K"), G: ("e", "e"), A: ("e", "d"), w: ("1", "e")},
    unit=(w,),
    hypotheses=(
        Hypothesis("chain", equal(G, sympy.transpose(A) * F * A), "The Jacobian by `u` is `J A` (chain rule).",
                   definition=True),
        Hypothesis("unit", equal(Norm(w), 1), "`w` is any unit vector.", definition=True),
        Hypothesis("root", equal(F, root), "`R = diag(sqrt p) (I - 1 p^T) J / tau`, a root of `F_x`.", definition=True),
    ),
    steps=(
        Step("gram", equal(Top(root), Norm(R) ** 2), "gram"),
        Step("square of a root", least(0, Top(root)), "arithmetic", ("gram",)),
        Step("semidefinite", least(0, Top(F)), "replacement", ("square of a root", "root")),
        Step("form", equal(form, Form(sympy.transpose(A * w) * F * A * w)), "expansion", ("chain",)),
        Step("rayleigh", least(Form(sympy.transpose(A * w) * F * A * w), Top(F) * Norm(A * w) ** 2), "rayleigh"),
        Step("image", least(Norm(A * w), Norm(A) * Norm(w)), "submultiplicative"),
        Step("square", least(Norm(A * w) ** 2, Norm(A) ** 2), "arithmetic", ("image", "unit")),
        Step("along", least(form, Top(F) * Norm(A) ** 2), "arithmetic", ("form", "rayleigh", "square", "semidefinite")),
        Step("theorem", least(Top(G), Top(F) * Norm(A) ** 2), "supremum", ("along",)),
    ),
    conclusions=("theorem",),
    trial=trial,
)  # fmt: skip
