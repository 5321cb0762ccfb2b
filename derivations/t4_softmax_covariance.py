"""T4: the covariance of the softmax has norm at most p_1 (1 - p_1 + p_2), p_1 and p_2 the largest probabilities."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Expect, Form, Hypothesis, Norm, Proof, Step, Top, equal, least, operator

p1, p2 = sympy.symbols("p_1 p_2", positive=True)
top = sympy.Symbol("v_1", real=True)
P, V, Z = sympy.Symbol("P", positive=True), sympy.Symbol("V", real=True), sympy.Symbol("Z", nonnegative=True)
S, v = operator("S_p"), operator("v")
form, rest = Form(sympy.transpose(v) * S * v), 1 - p1
bound = p1 * (1 - p1 + p2)


def trial(seed: int) -> list[tuple[float, float]]:
    """Compare the largest eigenvalue with the bound, for flat and for peaked p."""
    generator = torch.Generator().manual_seed(seed)
    p = (torch.randn(2 + seed % 7, generator=generator, dtype=torch.float64) * 10 ** (seed % 4 - 2)).softmax(0)
    first, second = p.sort(descending=True).values[:2].tolist()
    norm = float(torch.linalg.eigvalsh(p.diag() - p.outer(p))[-1])
    return [(norm, first * (1 - first + second)), (norm, 0.5)]


PROOF = Proof(
    name="T4",
    title="Softmax covariance",
    words="`lam(diag(p) - p p^T) <= p_1 (1 - p_1 + p_2)`, `p_1 >= p_2` the two largest probabilities; so at most "
    "1/2.",
    reference=Reference("fimtheory"),
    spaces={S: ("K", "K"), v: ("1", "K")},
    labels={symbol: ("other label", symbol) for symbol in (P, V, Z)},
    unit=(v,),
    dependent=(top, P, V, Z),
    hypotheses=(
        Hypothesis("order", least(p2, p1), "`p_1` is the largest probability."),
        Hypothesis("simplex", least(p1 + p2, 1), "`p_1` and `p_2` belong to one distribution."),
        Hypothesis("second", least(P, p2), "`P` is the probability of a label other than the top one, `p_2` the "
        "largest.",
                   definition=True),
        Hypothesis("unit", equal(Norm(v), 1), "`v` is any unit vector.", definition=True),
        Hypothesis(
            "split", equal(form, p1 * top**2 + rest * Expect(V**2) - (p1 * top + rest * Expect(V)) ** 2),
            "`v_1` is the entry of `v` at the top label, `V` that at another, drawn with probability `P / (1 - "
            "p_1)`.",
            definition=True,
        ),
        Hypothesis("length", equal(Norm(v) ** 2, top**2 + rest * Expect(Z)),
                   "`Z = V^2 / P`: the sum of the squares of the other entries is `(1 - p_1) E Z`.", definition=True),
        Hypothesis("weight", equal(P * Z, V**2), "`Z = V^2 / P`.", definition=True),
    ),
    steps=(
        Step("smaller", least(0, p2 * Z - V**2), "arithmetic", ("second", "weight")),
        Step("weighted", least(0, Expect(p2 * Z - V**2)), "mean of nonnegative", ("smaller",)),
        Step("linear", equal(Expect(p2 * Z - V**2), p2 * Expect(Z) - Expect(V**2)), "expansion"),
        Step("square", least(0, (V - Expect(V)) ** 2), "arithmetic"),
        Step("spread", least(0, Expect((V - Expect(V)) ** 2)), "mean of nonnegative", ("square",)),
        Step("expand", equal(Expect((V - Expect(V)) ** 2),
                             Expect(V**2) - 2 * Expect(V) ** 2 + Expect(V) ** 2 * Expect(1)), "expansion"),
        Step("one", equal(Expect(1), 1), "mean of constant"),
        Step("jensen", least(Expect(V) ** 2, Expect(V**2)), "arithmetic", ("spread", "expand", "one")),
        Step("moments", least(Expect(V**2), p2 * Expect(Z)), "arithmetic", ("weighted", "linear")),
        Step("others", least(rest * (p1 - p2) / p2 * Expect(V) ** 2, bound * Expect(Z) - Expect(V**2)), "arithmetic",
             ("jensen", "moments", "order", "simplex")),
        Step("complete", least(0, p1 / p2 * (p2 * top + rest * Expect(V)) ** 2), "arithmetic"),
        Step("scaled", least(form, bound * (top**2 + rest * Expect(Z))), "arithmetic",
             ("split", "others", "complete", "simplex")),
        Step("along", least(form, bound), "arithmetic", ("scaled", "length", "unit")),
        Step("theorem", least(Top(S), bound), "supremum", ("along",)),
        Step("half", least(Top(S), sympy.Rational(1, 2)), "arithmetic", ("theorem", "simplex")),
    ),
    conclusions=("theorem", "half"),
    trial=trial,
)  # fmt: skip
