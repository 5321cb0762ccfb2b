"""C12: zero padding is one more admissible diagonal, so two convolutions are centred on the torus."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Form, Hypothesis, Norm, Proof, Step, equal, least, operator

A1, A2, C1, C2, D, mask, u = (operator(name) for name in ("A_1", "A_2", "C_1", "C_2", "D", "D'", "u"))
E0, E1, E2 = (operator(name) for name in ("E_0", "E_1", "E_2"))
c, r = sympy.Symbol("c", real=True), sympy.Symbol("r", nonnegative=True)
T = sympy.transpose
inside, whole = T(E1) * u, E1 * D * T(E1)
squared = Form(T(inside) * T(D) * D * inside) - 2 * c * Form(T(inside) * D * inside)
bound = sympy.Abs(c) * Norm(C2 * C1) + r * Norm(C2) * Norm(C1)
rest = C2 * (mask - c) * C1


def trial(seed: int) -> list[tuple[float, float]]:
    """Take dense matrices of torch's padded convolutions, and of its circular ones on a larger ring."""
    torch.manual_seed(seed)
    first, second = torch.randn(3, 2, 3, dtype=torch.float64), torch.randn(2, 3, 3, dtype=torch.float64)
    low, high = -(seed % 3) * torch.rand(1).item(), 1 + torch.rand(1).item()
    slopes = low + (high - low) * torch.rand(18, dtype=torch.float64).round(decimals=seed % 2)
    conv, pad = torch.nn.functional.conv1d, torch.nn.functional.pad
    dense = lambda map, *size: torch.func.jacrev(map)(torch.zeros(*size).double()).flatten(2).flatten(0, 1)  # noqa: E731
    zeros = [dense(lambda x, k=k: conv(x, k, padding=1), k.shape[1], 6) for k in (first, second)]
    rings = [dense(lambda x, k=k: conv(pad(x, (1, 1), "circular"), k), k.shape[1], 8) for k in (first, second)]
    norm = lambda matrix: float(torch.linalg.matrix_norm(matrix, 2))  # noqa: E731
    middle, radius = (low + high) / 2, (high - low) / 2
    extended = pad(slopes.reshape(3, 6), (0, 2)).flatten()
    centred = abs(middle) * norm(rings[1] @ rings[0]) + radius * norm(rings[1]) * norm(rings[0])
    return [(float((extended - middle).abs().max()), radius), (norm(zeros[1] * slopes @ zeros[0]), centred)]


PROOF = Proof(
    name="C12",
    title="Zero padding on a torus",
    words="`||A_2 D A_1|| <= |c| ||C_2 C_1|| + r ||C_2|| ||C_1||` for convolutions `A` with zero padding, `C` on a "
    "torus, and a diagonal `D` of slopes in `[c - r, c + r]`, 0 being one of these. So are the entries of `D' = "
    "E_1 D E_1^T` on the torus.",
    reference=Reference("fimtheory"),
    spaces={
        A1: ("x", "y"), A2: ("y", "z"), C1: ("X", "Y"), C2: ("Y", "Z"), D: ("y", "y"), mask: ("Y", "Y"),
        E0: ("x", "X"), E1: ("y", "Y"), E2: ("z", "Z"), u: ("1", "Y"),
    },
    unit=(u,),
    hypotheses=(
        Hypothesis("slopes", least(Norm(D - c), r), "The entries of the diagonal `D` lie in `[c - r, c + r]`."),
        Hypothesis("zero", least(sympy.Abs(c), r), "So does 0."),
        Hypothesis("A_1", equal(A1, T(E1) * C1 * E0),
                   "The torus is so large that `A_1` extends by zeros, convolves on the torus and crops."),
        Hypothesis("A_2", equal(A2, T(E2) * C2 * E1),
                   "The torus is so large that `A_2` extends by zeros, convolves on the torus and crops."),
        Hypothesis("E_0", equal(T(E0) * E0, 1), "To extend by zeros and to crop changes nothing.", definition=True),
        Hypothesis("E_1", equal(T(E1) * E1, 1), "To extend by zeros and to crop changes nothing.", definition=True),
        Hypothesis("E_2", equal(T(E2) * E2, 1), "To extend by zeros and to crop changes nothing.", definition=True),
        Hypothesis("D'", equal(mask, whole), "`D'` has the slopes `D` inside and zeros outside.", definition=True),
        Hypothesis("unit", equal(Norm(u), 1), "`u` is any unit vector.", definition=True),
    ),
    steps=(
        Step("torus", equal(Norm((whole - c) * u) ** 2, squared + c**2 * Norm(u) ** 2), "expansion", ("E_1",)),
        Step("image", equal(Norm((D - c) * inside) ** 2, squared + c**2 * Norm(inside) ** 2), "expansion"),
        Step("outside", equal(Norm(u - E1 * inside) ** 2, Norm(u) ** 2 - Norm(inside) ** 2), "expansion", ("E_1",)),
        Step("product", least(Norm((D - c) * inside), Norm(D - c) * Norm(inside)), "submultiplicative"),
        Step("near", least(Norm((D - c) * inside), r * Norm(inside)), "arithmetic", ("product", "slopes")),
        Step("square", least(Norm((D - c) * inside) ** 2, r**2 * Norm(inside) ** 2), "arithmetic", ("near",)),
        Step("squares", least(c**2, r**2), "arithmetic", ("zero",)),
        Step("short", least(0, 1 - Norm(inside) ** 2), "arithmetic", ("outside", "unit")),
        Step("weighted", least(c**2 * (1 - Norm(inside) ** 2), r**2 * (1 - Norm(inside) ** 2)), "arithmetic",
             ("squares", "short")),
        Step("along", least(Norm((whole - c) * u), r), "arithmetic",
             ("torus", "image", "square", "weighted", "unit")),
        Step("masked", least(Norm(whole - c), r), "supremum", ("along",)),
        Step("admissible", least(Norm(mask - c), r), "replacement", ("masked", "D'")),
        Step("written", equal(A2 * D * A1, T(E2) * C2 * whole * C1 * E0), "expansion", ("A_1", "A_2")),
        Step("on the torus", equal(T(E2) * C2 * whole * C1 * E0, T(E2) * (c * C2 * C1 + rest) * E0), "expansion",
             ("D'",)),
        Step("crops", least(Norm(T(E2) * (c * C2 * C1 + rest) * E0), Norm(T(E2)) * Norm(c * C2 * C1 + rest) * Norm(E0)),
             "submultiplicative"),
        Step("one", least(Norm(1), 1), "unit identity"),
        Step("E_0^T E_0", least(Norm(T(E0) * E0), 1), "replacement", ("one", "E_0")),
        Step("E_2^T E_2", least(Norm(T(E2) * E2), 1), "replacement", ("one", "E_2")),
        Step("extension", equal(Norm(T(E0) * E0), Norm(E0) ** 2), "gram"),
        Step("crop", equal(Norm(T(E2) * E2), Norm(E2) ** 2), "gram"),
        Step("turned", equal(Norm(T(E2)), Norm(E2)), "transposition"),
        Step("no longer", least(Norm(E0), 1), "arithmetic", ("extension", "E_0^T E_0")),
        Step("no more", least(Norm(T(E2)), 1), "arithmetic", ("crop", "E_2^T E_2", "turned")),
        Step("sum", least(Norm(c * C2 * C1 + rest), Norm(c * C2 * C1) + Norm(rest)), "triangle"),
        Step("scale", equal(Norm(c * C2 * C1), sympy.Abs(c) * Norm(C2 * C1)), "scaling"),
        Step("factors", least(Norm(rest), Norm(C2) * Norm(mask - c) * Norm(C1)), "submultiplicative"),
        Step("small", least(Norm(C2) * Norm(mask - c) * Norm(C1), r * Norm(C2) * Norm(C1)), "arithmetic",
             ("admissible",)),
        Step("centred", least(Norm(c * C2 * C1 + rest), bound), "arithmetic", ("sum", "scale", "factors", "small")),
        Step("ends", least(Norm(T(E2)) * Norm(E0), 1), "arithmetic", ("no longer", "no more")),
        Step("scaled", least(Norm(T(E2)) * Norm(c * C2 * C1 + rest) * Norm(E0), bound), "arithmetic",
             ("ends", "centred")),
        Step("whole", least(Norm(T(E2) * (c * C2 * C1 + rest) * E0), bound), "arithmetic", ("crops", "scaled")),
        Step("both", least(Norm(T(E2) * C2 * whole * C1 * E0), bound), "replacement", ("whole", "on the torus")),
        Step("theorem", least(Norm(A2 * D * A1), bound), "replacement", ("both", "written")),
    ),
    conclusions=("admissible", "theorem"),
    trial=trial,
)  # fmt: skip
