"""A block diagonal operator, as a grouped or a circular convolution, has at most the largest norm of its blocks."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Expect, Hypothesis, Norm, Proof, Step, equal, least, operator

A, U, V, K, u = (operator(name) for name in ("A", "U", "V", "K", "u"))
block, part, some = operator("K_f"), operator("w_f"), operator("K_i")
n, g = sympy.Symbol("n", positive=True), sympy.Symbol("g", nonnegative=True)
Y, Z = sympy.symbols("Y Z", nonnegative=True)
w, turned = sympy.transpose(V) * u, K * sympy.transpose(V) * u


def trial(seed: int) -> list[tuple[float, float]]:
    """Take a circular or a grouped convolution of torch as a dense matrix, and its blocks from its kernel."""
    torch.manual_seed(seed)
    norm = torch.linalg.matrix_norm
    if seed % 2:
        kernel, image = torch.randn(3, 2, 3, dtype=torch.float64), torch.zeros(2, 7, dtype=torch.float64)
        wrapped = lambda x: torch.nn.functional.conv1d(torch.nn.functional.pad(x, (1, 1), "circular"), kernel)  # noqa: E731
        blocks = torch.fft.fft(kernel, n=7).permute(2, 0, 1)
    else:
        kernel, image = torch.randn(6, 2, 1, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)
        wrapped = lambda x: torch.nn.functional.conv1d(x, kernel, groups=2)  # noqa: E731
        blocks = kernel.reshape(2, 3, 2)
    matrix = torch.func.jacrev(wrapped)(image).reshape(-1, image.numel())
    return [(float(norm(matrix, 2)), float(norm(blocks, 2).max()))]


PROOF = Proof(
    name="Blocks",
    title="Block diagonal operators",
    words="||U K V^T|| <= g for U^T U = 1, V V^T = 1 and K block diagonal, its n blocks of norm at most g. U and V "
    "may sort the channels of a convolution by groups, or be real Fourier transforms: a circular convolution "
    "has a block for each frequency.",
    reference=Reference("sedghi2019", ""),
    spaces={
        A: ("x", "y"), U: ("b", "y"), V: ("a", "x"), K: ("a", "b"), u: ("1", "x"),
        block: ("a_f", "b_f"), some: ("a_f", "b_f"), part: ("1", "a_f"),
    },
    labels={symbol: ("block", symbol) for symbol in (Y, Z, block, part)},
    unit=(u,),
    ranges=dict.fromkeys((block, some), "blocks of K"),
    hypotheses=(
        Hypothesis("blocks", least(Norm(some), g), "No block has a norm above g.", for_all=(some,)),
        Hypothesis("A", equal(A, U * K * sympy.transpose(V)), "A is block diagonal in the bases U and V."),
        Hypothesis("U", equal(sympy.transpose(U) * U, 1), "U has orthonormal columns."),
        Hypothesis("V", equal(V * sympy.transpose(V), 1), "V has orthonormal rows."),
        Hypothesis("unit", equal(Norm(u), 1), "u is any unit vector.", definition=True),
        Hypothesis("w", equal(Norm(w) ** 2, n * Expect(Z)), "V^T u has a part w_f for each of the n blocks.",
                   definition=True),
        Hypothesis("K", equal(Norm(turned) ** 2, n * Expect(Y)), "K takes each part to K_f w_f.", definition=True),
        Hypothesis("Z", equal(Z, Norm(part) ** 2), "f is drawn from the n blocks, each equally often.",
                   definition=True),
        Hypothesis("Y", equal(Y, Norm(block * part) ** 2), "f is drawn from the n blocks, each equally often.",
                   definition=True),
    ),
    steps=(
        Step("block", least(Norm(block), g), "instance", ("blocks",)),
        Step("product", least(Norm(block * part), Norm(block) * Norm(part)), "submultiplicative"),
        Step("part", least(0, g**2 * Z - Y), "arithmetic", ("block", "product", "Z", "Y")),
        Step("mean", least(0, Expect(g**2 * Z - Y)), "mean of nonnegative", ("part",)),
        Step("linear", equal(Expect(g**2 * Z - Y), g**2 * Expect(Z) - Expect(Y)), "expansion"),
        Step("sum", least(Norm(turned) ** 2, g**2 * Norm(w) ** 2), "arithmetic", ("mean", "linear", "w", "K")),
        Step("first", equal(Norm(w) ** 2, Norm(u) ** 2), "expansion", ("V",)),
        Step("last", equal(Norm(U * turned) ** 2, Norm(turned) ** 2), "expansion", ("U",)),
        Step("along", least(Norm(U * turned), g), "arithmetic", ("sum", "first", "last", "unit")),
        Step("supremum", least(Norm(U * K * sympy.transpose(V)), g), "supremum", ("along",)),
        Step("theorem", least(Norm(A), g), "replacement", ("supremum", "A")),
    ),
    conclusions=("theorem",),
    trial=trial,
)  # fmt: skip
