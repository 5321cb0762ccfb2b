"""A map that acts on each block by itself has the largest gain of a block: group norm and instance norm."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Expect, Hypothesis, Norm, Proof, Step, equal, least, operator

m = sympy.Symbol("m", positive=True)
gamma = sympy.Symbol("gamma", real=True)
N, U, L = sympy.symbols("N U L", nonnegative=True)
J, K, E, G, C, u, w, d = (operator(name) for name in "JKEGCuwd")
excess = Norm(K) ** 2 * U**2 - N**2


def trial(seed: int) -> list[tuple[float, float]]:
    """Compare the norm of the Jacobian, by autograd, with those of its blocks; channels have one entry or two."""
    torch.manual_seed(seed)
    length = 1 + seed % 2
    gamma = torch.randn(6, dtype=torch.float64)
    x = 10 ** (seed % 3 - 2) * torch.randn(6, length, dtype=torch.float64)
    f = lambda x, g: torch.nn.functional.group_norm(x[None], len(g) // 3, g, eps=1e-3)[0]  # noqa: E731
    norm = lambda x, g: float(  # noqa: E731
        torch.linalg.matrix_norm(torch.func.jacrev(f)(x, g).reshape(x.numel(), x.numel()), 2)
    )
    largest = max(norm(x[:3], gamma[:3]), norm(x[3:], gamma[3:]))
    twice = gamma.repeat_interleave(2)
    centred = float(torch.linalg.matrix_norm(twice.diag() - twice[:, None] / len(twice), 2))
    return [(norm(x, gamma), largest), (float(gamma.abs().max()), centred)]


PROOF = Proof(
    name="GroupNorm",
    title="Gain of blocks: group norm and instance norm",
    words="The norm of a block diagonal `J` is the largest norm of a block. The blocks of group norm are layer "
    "norms, so its gain is `max_g ||G_g C|| / sqrt(eps)` (theorem LayerNorm). If two entries of a group have the "
    "scale `gamma`, `|gamma| <= ||G_g C||`.",
    reference=Reference("fimtheory"),
    spaces={J: ("x", "x"), E: ("g", "x"), u: ("1", "x"), **dict.fromkeys((K, G, C), ("g", "g")),
            **dict.fromkeys((w, d), ("1", "g"))},
    labels={symbol: ("group", symbol) for symbol in (N, U, L)},
    unit=(u, w),
    dependent=(N, U),
    hypotheses=(
        Hypothesis("length", equal(Norm(u) ** 2, m * Expect(U**2)),
                   "`U` is the norm of the part of `u` in one of `m` groups, drawn uniformly.", definition=True),
        Hypothesis("image", equal(Norm(J * u) ** 2, m * Expect(N**2)), "`N` is the norm of the same part of `J u`.",
                   definition=True),
        Hypothesis("block", least(N, L * U), "The part of `J u` is the block of the group, of norm `L`, times that "
        "of `u`.",
                   definition=True),
        Hypothesis("largest", least(L, Norm(K)), "`K` is the block of the largest norm.", definition=True),
        Hypothesis("place", equal(J * E, E * K), "`E` fills up the group of `K` with zeros.", definition=True),
        Hypothesis("isometry", equal(sympy.transpose(E) * E, 1), "`E` fills up the group of `K` with zeros.",
                   definition=True),
        Hypothesis("scale", equal(G * d, gamma * d), "Two entries have the scale `gamma`; `d` is their difference."),
        Hypothesis("centred", equal(C * d, d), "Differences have mean zero, so centring keeps them.", definition=True),
        Hypothesis("d", equal(Norm(d), 1), "`d` is taken of length 1.", definition=True),
        Hypothesis("unit", equal(Norm(u), 1), "`u` is any unit vector.", definition=True),
        Hypothesis("w", equal(Norm(w), 1), "`w` is any unit vector.", definition=True),
    ),
    steps=(
        Step("bounded", least(N, Norm(K) * U), "arithmetic", ("block", "largest")),
        Step("each", least(0, excess), "arithmetic", ("bounded",)),
        Step("mean", least(0, Expect(excess)), "mean of nonnegative", ("each",)),
        Step("linear", equal(Expect(excess), Norm(K) ** 2 * Expect(U**2) - Expect(N**2)), "expansion"),
        Step("vector", least(Norm(J * u), Norm(K)), "arithmetic", ("mean", "linear", "length", "image", "unit")),
        Step("at most", least(Norm(J), Norm(K)), "supremum", ("vector",)),
        Step("placed", equal(Norm(E * K * w) ** 2, Norm(K * w) ** 2), "expansion", ("isometry",)),
        Step("same", equal(J * E * w, E * K * w), "expansion", ("place",)),
        Step("moved", equal(Norm(J * E * w) ** 2, Norm(K * w) ** 2), "replacement", ("placed", "same")),
        Step("kept", equal(Norm(E * w) ** 2, Norm(w) ** 2), "expansion", ("isometry",)),
        Step("product", least(Norm(J * E * w), Norm(J) * Norm(E * w)), "submultiplicative"),
        Step("inside", least(Norm(K * w), Norm(J)), "arithmetic", ("moved", "kept", "product", "w")),
        Step("at least", least(Norm(K), Norm(J)), "supremum", ("inside",)),
        Step("blocks", equal(Norm(J), Norm(K)), "arithmetic", ("at most", "at least")),
        Step("factor", equal(Norm(gamma * d), sympy.Abs(gamma) * Norm(d)), "scaling"),
        Step("kept d", equal(G * C * d, gamma * d), "expansion", ("centred", "scale")),
        Step("along", equal(Norm(G * C * d), sympy.Abs(gamma) * Norm(d)), "replacement", ("factor", "kept d")),
        Step("size", least(Norm(G * C * d), Norm(G * C) * Norm(d)), "submultiplicative"),
        Step("scales", least(sympy.Abs(gamma), Norm(G * C)), "arithmetic", ("along", "size", "d")),
    ),
    conclusions=("blocks", "scales"),
    trial=trial,
)  # fmt: skip
