"""Average pooling over windows of k entries has gain at most sqrt(n / k), no entry lying in more than n windows."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Hypothesis, Norm, Proof, Step, equal, least, operator

P, B, G, C = (operator(name) for name in ("P", "B", "G", "C"))
k, n = sympy.Symbol("k", positive=True), sympy.Symbol("n", nonnegative=True)
gain = sympy.sqrt(n / k)


def trial(seed: int) -> list[tuple[float, float]]:
    """Take the Jacobian of torch's pooling by autograd, whose column sums times k are the numbers of windows."""
    kernel, stride, padding = 2 + seed % 3, 1 + seed % 4, seed % 2
    pool = torch.nn.AvgPool2d(kernel, stride, padding)
    image = torch.randn(1, 6, 5 + seed % 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    jacobian = torch.func.jacrev(pool)(image).reshape(-1, image.numel())
    windows = float(jacobian.sum(0).max()) * kernel**2
    return [(float(torch.linalg.matrix_norm(jacobian, 2)), (windows / kernel**2) ** 0.5)]


PROOF = Proof(
    name="AvgPool",
    title="Gain of average pooling",
    words="`||P|| <= sqrt(n / k)` for average pooling `P` over windows of `k` entries, zeros of a padding among "
    "them, if no entry lies in more than `n` windows.",
    reference=Reference("fimtheory"),
    spaces={
        P: ("entries", "windows"), B: ("entries of windows", "windows"),
        G: ("entries", "entries of windows"), C: ("entries", "entries"),
    },
    hypotheses=(
        Hypothesis("counts", least(Norm(C), n), "`C` is diagonal: the numbers of windows that the entries lie in."),
        Hypothesis("G", equal(sympy.transpose(G) * G, C),
                   "`G` lists the entries of every window: it copies each into all windows that it lies in.",
                   definition=True),
        Hypothesis("B", equal(B * sympy.transpose(B), k), "`B` adds the `k` entries of each window: its rows are "
        "ones.",
                   definition=True),
        Hypothesis("P", equal(P, B * G / k), "Pooling takes the mean of each window.", definition=True),
    ),
    steps=(
        Step("diagonal", least(Norm(sympy.transpose(G) * G), n), "replacement", ("counts", "G")),
        Step("copies", equal(Norm(sympy.transpose(G) * G), Norm(G) ** 2), "gram"),
        Step("gram", equal(Norm(B * sympy.transpose(B)), Norm(sympy.transpose(B)) ** 2), "gram"),
        Step("turned", equal(Norm(sympy.transpose(B)), Norm(B)), "transposition"),
        Step("identity", equal(Norm(k), k * Norm(1)), "scaling"),
        Step("one", least(Norm(1), 1), "unit identity"),
        Step("ones", least(Norm(k), k), "arithmetic", ("identity", "one")),
        Step("rows", least(Norm(B * sympy.transpose(B)), k), "replacement", ("ones", "B")),
        Step("sums", least(Norm(B) ** 2, k), "arithmetic", ("rows", "gram", "turned")),
        Step("product", least(Norm(B * G), Norm(B) * Norm(G)), "submultiplicative"),
        Step("squares", least(Norm(B * G) ** 2, Norm(B) ** 2 * Norm(G) ** 2), "arithmetic", ("product",)),
        Step("bound", least(Norm(B * G) ** 2, k * n), "arithmetic", ("squares", "diagonal", "copies", "sums")),
        Step("scale", equal(Norm(B * G / k), Norm(B * G) / k), "scaling"),
        Step("means", least(Norm(B * G / k), gain), "arithmetic", ("bound", "scale")),
        Step("theorem", least(Norm(P), gain), "replacement", ("means", "P")),
    ),
    conclusions=("theorem",),
    trial=trial,
)  # fmt: skip
