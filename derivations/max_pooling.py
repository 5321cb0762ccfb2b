"""Max pooling has gain at most sqrt(n), where no entry lies in more than n windows."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Expect, Hypothesis, Norm, Proof, Step, equal, least, operator

x, x_copy, y, y_copy, G, C = (operator(name) for name in ("x", "x'", "y", "y'", "G", "C"))
M, n = sympy.Symbol("M", positive=True), sympy.Symbol("n", nonnegative=True)
top, top_copy, here, there = sympy.symbols("m m' x'_j x_j'", real=True)
S = sympy.Symbol("S", nonnegative=True)
change = x - x_copy


def trial(seed: int) -> list[tuple[float, float]]:
    """Pool two images by torch, one a peak in nothing at times, and count windows by the derivative of their means."""
    torch.manual_seed(seed)
    kernel, stride = 2 + seed % 3, 1 + seed % 2
    image = torch.randn(2, 1, 7, 8, dtype=torch.float64)
    image[1] = image[0] + 10.0 ** -(seed % 4) * image[1]
    if seed % 5 == 0:
        image[0], image[1] = 0.0, torch.nn.functional.one_hot(torch.tensor(28), 56).reshape(7, 8)
    ones = torch.ones(1, 1, 7, 8, dtype=torch.float64, requires_grad=True)
    torch.nn.functional.avg_pool2d(ones, kernel, stride, 1).sum().backward()
    assert ones.grad is not None
    windows = float(ones.grad.max()) * kernel**2
    pooled = torch.nn.functional.max_pool2d(image, kernel, stride, 1)
    return [(float((pooled[0] - pooled[1]).square().sum()), windows * float((image[0] - image[1]).square().sum()))]


PROOF = Proof(
    name="MaxPool",
    title="Gain of max pooling",
    words="For `y = pool(x)` and `y' = pool(x')`, `||y - y'||^2 <= n ||x - x'||^2`, if no entry lies in more than "
    "`n` windows.",
    reference=Reference("fimtheory"),
    spaces={
        **dict.fromkeys((x, x_copy), ("1", "entries")), **dict.fromkeys((y, y_copy), ("1", "windows")),
        G: ("entries", "entries of windows"), C: ("entries", "entries"),
    },
    labels={symbol: ("window", symbol) for symbol in (top, top_copy, here, there, S)},
    hypotheses=(
        Hypothesis("counts", least(Norm(C), n), "`C` is diagonal: the numbers of windows that the entries lie in."),
        Hypothesis("G", equal(sympy.transpose(G) * G, C),
                   "`G` lists the entries of every window: it copies each into all windows that it lies in.",
                   definition=True),
        Hypothesis("pools", equal(Norm(y - y_copy) ** 2, M * Expect((top - top_copy) ** 2)),
                   "`m` and `m'` are the maxima of `x` and `x'` in a window, each of the `M` windows drawn equally "
                   "often.",
                   definition=True),
        Hypothesis("first", least(here, top_copy), "`m = x_j`: `x'` has the entry `x'_j` there, at most its "
        "maximum `m'`.",
                   definition=True),
        Hypothesis("second", least(there, top), "`m' = x'_j'`: `x` has the entry `x_j'` there, at most its maximum "
        "`m`.",
                   definition=True),
        Hypothesis("S", equal(Norm(G * change) ** 2, M * Expect(S)),
                   "`S` is the sum of the squares of the entries of `x - x'` in the window.", definition=True),
        Hypothesis("one", least((top - here) ** 2, S), "One of the squares of the sum `S`.", definition=True),
        Hypothesis("other", least((top_copy - there) ** 2, S), "One of the squares of the sum `S`.", definition=True),
    ),
    steps=(
        Step("maxima", least(0, S - (top - top_copy) ** 2), "arithmetic", ("first", "second", "one", "other")),
        Step("mean", least(0, Expect(S - (top - top_copy) ** 2)), "mean of nonnegative", ("maxima",)),
        Step("linear", equal(Expect(S - (top - top_copy) ** 2), Expect(S) - Expect((top - top_copy) ** 2)),
             "expansion"),
        Step("windows", least(Norm(y - y_copy) ** 2, Norm(G * change) ** 2), "arithmetic",
             ("pools", "S", "mean", "linear")),
        Step("diagonal", least(Norm(sympy.transpose(G) * G), n), "replacement", ("counts", "G")),
        Step("gram", equal(Norm(sympy.transpose(G) * G), Norm(G) ** 2), "gram"),
        Step("copies", least(Norm(G * change), Norm(G) * Norm(change)), "submultiplicative"),
        Step("squares", least(Norm(G * change) ** 2, Norm(G) ** 2 * Norm(change) ** 2), "arithmetic", ("copies",)),
        Step("most", least(Norm(G) ** 2 * Norm(change) ** 2, n * Norm(change) ** 2), "arithmetic",
             ("diagonal", "gram")),
        Step("theorem", least(Norm(y - y_copy) ** 2, n * Norm(change) ** 2), "arithmetic",
             ("windows", "squares", "most")),
    ),
    conclusions=("theorem",),
    trial=trial,
)  # fmt: skip
