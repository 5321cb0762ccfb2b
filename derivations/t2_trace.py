"""T2: lam is at most the trace of F, and at least the trace over the rank that F can have."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Hypothesis, Norm, Proof, Step, Top, Trace, equal, least, operator

F, R, Q = operator("F"), operator("R"), operator("Q")
d, m = sympy.Symbol("d", positive=True), sympy.Symbol("m", positive=True)
root = sympy.transpose(R) * R
S = sympy.transpose(Q) * R
reduced = sympy.transpose(R) * Q * sympy.transpose(Q) * R


def trial(seed: int) -> list[tuple[float, float]]:
    """Compare the largest eigenvalue of a random F with its trace, where K - 1 or d is the smaller number."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(2 + seed % 5, 4, generator=generator, dtype=torch.float64)
    p = torch.randn(len(rows), generator=generator, dtype=torch.float64).softmax(0)
    if seed % 5 == 2:  # all directions alike, so that the lower half is an equality
        rows, p = torch.eye(4, dtype=torch.float64) * 3, torch.full((4,), 0.25, dtype=torch.float64)
    fisher = rows.T @ (p.diag() - p.outer(p)) @ rows
    lam, trace = float(torch.linalg.eigvalsh(fisher)[-1]), float(fisher.trace())
    return [(lam, trace), (trace, min(len(rows) - 1, 4) * lam)]


PROOF = Proof(
    name="T2",
    title="Trace bounds",
    words="`lam <= tr F <= min(K - 1, d) lam`, for `K` labels and `d` inputs.",
    reference=Reference("fimtheory"),
    spaces={F: ("d", "d"), R: ("d", "K"), Q: ("K-1", "K")},
    dimensions={"d": d, "K-1": m},
    hypotheses=(
        Hypothesis("root", equal(F, root), "`R = diag(sqrt p) (I - 1 p^T) J / tau`, a root of `F`.", definition=True),
        Hypothesis(
            "centred", equal(reduced, root),
            "`sqrt(p)^T R = 0`, and the `m = K - 1` columns of `Q` are an orthonormal basis of all that is "
            "orthogonal to it.",
            definition=True,
        ),
    ),
    steps=(
        Step("product", least(Top(root), Trace(root)), "trace of semidefinite"),
        Step("upper", least(Top(F), Trace(F)), "replacement", ("product", "root")),
        Step("inputs", least(Trace(F), d * Top(F)), "trace and dimension"),
        Step("turned", equal(Trace(reduced), Trace(S * sympy.transpose(S))), "cyclic trace"),
        Step("labels", least(Trace(S * sympy.transpose(S)), m * Top(S * sympy.transpose(S))), "trace and dimension"),
        Step("outer", equal(Top(S * sympy.transpose(S)), Norm(sympy.transpose(S)) ** 2), "gram"),
        Step("transposed", equal(Norm(sympy.transpose(S)), Norm(S)), "transposition"),
        Step("inner", equal(Top(reduced), Norm(S) ** 2), "gram"),
        Step("reduced", least(Trace(reduced), m * Top(reduced)), "arithmetic",
             ("turned", "labels", "outer", "transposed", "inner")),
        Step("whole", equal(Trace(root), Trace(reduced)), "expansion", ("centred",)),
        Step("same", equal(Top(root), Top(reduced)), "expansion", ("centred",)),
        Step("rank", least(Trace(root), m * Top(root)), "arithmetic", ("whole", "same", "reduced")),
        Step("classes", least(Trace(F), m * Top(F)), "replacement", ("rank", "root")),
        Step("lower", least(Trace(F), sympy.Min(d, m) * Top(F)), "arithmetic", ("inputs", "classes")),
    ),
    conclusions=("upper", "lower"),
    trial=trial,
)  # fmt: skip
