"""No weight of softmax attention over N tokens of norm at most R exceeds 1 / (1 + (N - 1) exp(-2 R beta))."""

import math

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Expect, Form, Hypothesis, Norm, Proof, Step, equal, least, operator

b, own, other, some = (operator(name) for name in ("b", "x_j", "x_k", "x_i"))
R, beta, others = sympy.symbols("R beta M", nonnegative=True)
p, Y = sympy.Symbol("p", real=True), sympy.Symbol("Y", positive=True)
gap = Form(sympy.transpose(b) * (other - own))
lowest = sympy.exp(-2 * R * beta)
bound = 1 / (1 + others * lowest)


def trial(seed: int) -> list[tuple[float, float]]:
    """Take the largest of the weights, at times for a token against the logits' gradient of all others."""
    torch.manual_seed(seed)
    tokens, b = torch.randn(5, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    if seed % 3 == 0:
        tokens = torch.tensor([1.0, -1.0, -1.0, -1.0, -1.0]).double().outer(b)
    b = b * 3.0 ** (seed % 5 - 3)
    spread = float(tokens.norm(dim=1).max() * b.norm())
    return [(float((tokens @ b).softmax(0).max()), 1 / (1 + 4 * math.exp(-2 * spread)))]


PROOF = Proof(
    name="Attention weights",
    title="Largest attention weight",
    words="`p <= 1 / (1 + M exp(-2 R beta))` for the weight `p` of a token `x_j` among `M + 1 = N`, all of norm at "
    "most `R`, in a softmax of logits `b . x_k`, `||b|| <= beta`.",
    reference=Reference("fimtheory", "after castin2024"),
    spaces=dict.fromkeys((b, own, other, some), ("1", "D")),
    labels={symbol: ("other token", symbol) for symbol in (other, Y)},
    ranges=dict.fromkeys((own, other, some), "tokens"),
    hypotheses=(
        Hypothesis("tokens", least(Norm(some), R), "No token has a norm above `R`.", for_all=(some,)),
        Hypothesis("slope", least(Norm(b), beta), "The gradient `b` of the logits has norm at most `beta`."),
        Hypothesis("Y", equal(Y, sympy.exp(gap)), "`x_k` is one of the `M` other tokens, each drawn equally often.",
                   definition=True),
        Hypothesis("p", equal(p, 1 / (1 + others * Expect(Y))),
                   "`p = exp(b . x_j) / (exp(b . x_j) + sum_k exp(b . x_k))`, the softmax.", definition=True),
    ),
    steps=(
        Step("own", least(Norm(own), R), "instance", ("tokens",)),
        Step("other", least(Norm(other), R), "instance", ("tokens",)),
        Step("triangle", least(Norm(own - other), Norm(own) + Norm(-other)), "triangle"),
        Step("turned", equal(Norm(-other), Norm(other)), "scaling"),
        Step("far", least(Norm(own - other), 2 * R), "arithmetic", ("own", "other", "triangle", "turned")),
        Step("cauchy", least(Form(sympy.transpose(b) * (own - other)), Norm(b) * Norm(own - other)), "cauchy schwarz"),
        Step("sign", equal(gap, -Form(sympy.transpose(b) * (own - other))), "expansion"),
        Step("gap", least(-2 * R * beta, gap), "arithmetic", ("far", "cauchy", "sign", "slope")),
        Step("increases", least(lowest, sympy.exp(gap)), "exponential", ("gap",)),
        Step("each", least(0, Y - lowest), "arithmetic", ("increases", "Y")),
        Step("mean", least(0, Expect(Y - lowest)), "mean of nonnegative", ("each",)),
        Step("linear", equal(Expect(Y - lowest), Expect(Y) - lowest * Expect(1)), "expansion"),
        Step("one", equal(Expect(1), 1), "mean of constant"),
        Step("least", least(lowest, Expect(Y)), "arithmetic", ("mean", "linear", "one")),
        Step("all", least(1 + others * lowest, 1 + others * Expect(Y)), "arithmetic", ("least",)),
        Step("theorem", least(p, bound), "arithmetic", ("all", "p")),
    ),
    conclusions=("theorem",),
    trial=trial,
)  # fmt: skip
