"""C5: a matrix of 2 x 2 blocks has at most the norm of the matrix of the norms of its blocks."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Hypothesis, Norm, Proof, Stack, Step, equal, least, operator

A, B, C, D = (operator(name) for name in "ABCD")
P, Q, u = operator("P"), operator("Q"), operator("u")
e, f, N, w = (operator(name) for name in ("e", "f", "N", "w"))
T = sympy.transpose
whole = Stack(A * P + B * Q, C * P + D * Q)
norms = Norm(A) * e * T(e) + Norm(B) * e * T(f) + Norm(C) * f * T(e) + Norm(D) * f * T(f)
sizes = Norm(P * u) * e + Norm(Q * u) * f
upper = Norm(A) * Norm(P * u) + Norm(B) * Norm(Q * u)
lower = Norm(C) * Norm(P * u) + Norm(D) * Norm(Q * u)


def trial(seed: int) -> list[tuple[float, float]]:
    """Compare norms of random matrices, every third time with blocks of rank one that attain the bound."""
    torch.manual_seed(seed)
    left, right = torch.rand(2, 5, 1, dtype=torch.float64)
    matrix = left @ right.T if seed % 3 == 0 else torch.randn(5, 5, dtype=torch.float64)
    norm = lambda matrix: torch.linalg.matrix_norm(matrix, 2)  # noqa: E731
    blocks = [[norm(block) for block in row.split([2, 3], 1)] for row in matrix.split([3, 2])]
    return [(float(norm(matrix)), float(norm(torch.tensor(blocks, dtype=torch.float64))))]


PROOF = Proof(
    name="C5",
    title="Block matrix",
    words="||[A, B; C, D]|| <= ||N||, where N is the matrix of the norms of the blocks, two rows and two columns.",
    reference=Reference("horn2013", "section 5.6"),
    spaces={
        A: ("x1", "y1"), B: ("x2", "y1"), C: ("x1", "y2"), D: ("x2", "y2"), P: ("x1 + x2", "x1"),
        Q: ("x1 + x2", "x2"), u: ("1", "x1 + x2"), N: ("2", "2"),
        **dict.fromkeys((e, f, w), ("1", "2")),
    },
    unit=(u,),
    dependent=(w,),
    hypotheses=(
        Hypothesis("parts", equal(T(P) * P, 1 - T(Q) * Q), "P and Q take the two parts of a vector.", definition=True),
        Hypothesis("e", equal(T(e) * e, 1), "e and f are the unit vectors of the axes of the plane.", definition=True),
        Hypothesis("f", equal(T(f) * f, 1), "e and f are the unit vectors of the axes of the plane.", definition=True),
        Hypothesis("ef", equal(T(e) * f, 0), "The axes are orthogonal.", definition=True),
        Hypothesis("fe", equal(T(f) * e, 0), "The axes are orthogonal.", definition=True),
        Hypothesis("N", equal(N, norms), "N has the entries ||A||, ||B||; ||C||, ||D||.", definition=True),
        Hypothesis("w", equal(w, sizes), "w has the entries ||P u||, ||Q u||.", definition=True),
        Hypothesis("unit", equal(Norm(u), 1), "u is any unit vector.", definition=True),
    ),
    steps=(
        Step("rows", equal(Norm(whole * u) ** 2, Norm((A * P + B * Q) * u) ** 2 + Norm((C * P + D * Q) * u) ** 2),
             "stacking"),
        Step("A", least(Norm(A * P * u), Norm(A) * Norm(P * u)), "submultiplicative"),
        Step("B", least(Norm(B * Q * u), Norm(B) * Norm(Q * u)), "submultiplicative"),
        Step("C", least(Norm(C * P * u), Norm(C) * Norm(P * u)), "submultiplicative"),
        Step("D", least(Norm(D * Q * u), Norm(D) * Norm(Q * u)), "submultiplicative"),
        Step("first", least(Norm((A * P + B * Q) * u), Norm(A * P * u) + Norm(B * Q * u)), "triangle"),
        Step("second", least(Norm((C * P + D * Q) * u), Norm(C * P * u) + Norm(D * Q * u)), "triangle"),
        Step("upper", least(Norm((A * P + B * Q) * u), upper), "arithmetic", ("first", "A", "B")),
        Step("lower", least(Norm((C * P + D * Q) * u), lower), "arithmetic", ("second", "C", "D")),
        Step("written", equal(N * w, norms * sizes), "expansion", ("N", "w")),
        Step("applied", equal(norms * sizes, upper * e + lower * f), "expansion", ("e", "f", "ef", "fe")),
        Step("vector", equal(N * w, upper * e + lower * f), "replacement", ("applied", "written")),
        Step("plane", equal(Norm(upper * e + lower * f) ** 2, upper**2 + lower**2), "expansion",
             ("e", "f", "ef", "fe")),
        Step("image", equal(Norm(N * w) ** 2, upper**2 + lower**2), "replacement", ("plane", "vector")),
        Step("length", equal(Norm(P * u) ** 2, Norm(u) ** 2 - Norm(Q * u) ** 2), "expansion", ("parts",)),
        Step("entries", equal(Norm(sizes) ** 2, Norm(P * u) ** 2 + Norm(Q * u) ** 2), "expansion",
             ("e", "f", "ef", "fe")),
        Step("short", equal(Norm(w) ** 2, Norm(P * u) ** 2 + Norm(Q * u) ** 2), "replacement", ("entries", "w")),
        Step("one", equal(Norm(w), 1), "arithmetic", ("length", "short", "unit")),
        Step("product", least(Norm(N * w), Norm(N) * Norm(w)), "submultiplicative"),
        Step("bounded", least(upper**2 + lower**2, Norm(N) ** 2), "arithmetic", ("image", "product", "one")),
        Step("larger", least(Norm((A * P + B * Q) * u) ** 2 + Norm((C * P + D * Q) * u) ** 2, upper**2 + lower**2),
             "arithmetic", ("upper", "lower")),
        Step("along", least(Norm(whole * u), Norm(N)), "arithmetic", ("rows", "larger", "bounded")),
        Step("theorem", least(Norm(whole), Norm(N)), "supremum", ("along",)),
    ),
    conclusions=("theorem",),
    trial=trial,
)  # fmt: skip
