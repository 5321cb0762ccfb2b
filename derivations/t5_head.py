"""T5: behind a linear head, lam is at most a quarter of the squared diameter of its rows times the squared gain."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Expect, Form, Hypothesis, Norm, Proof, Step, Top, equal, least, operator

tau, D = sympy.Symbol("tau", positive=True), sympy.Symbol("D_W", nonnegative=True)
X = sympy.Symbol("X", real=True)
F, J, u = operator("F"), operator("J_g"), operator("u")
low, high, one, other = (operator(name) for name in ("w_l", "w_h", "w_i", "w_j"))
F_along_u = Form(sympy.transpose(u) * F * u)
least_value, largest_value = Form(low * J * u), Form(high * J * u)
variance = Expect(X**2) - Expect(X) ** 2
bound = D**2 * Norm(J) ** 2 / (4 * tau**2)


def trial(seed: int) -> list[tuple[float, float]]:
    """Compare lam of a random head and Jacobian with the bound, which two equal labels attain on their difference."""
    generator = torch.Generator().manual_seed(seed)
    head = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    inner = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    p = torch.randn(5, generator=generator, dtype=torch.float64).mul(seed % 3).softmax(0)
    if seed % 4 == 0:
        head, p = head[:2], torch.full((2,), 0.5, dtype=torch.float64)
        inner = (head[0] - head[1]).outer(inner[0])
    lam = torch.linalg.eigvalsh((head @ inner).T @ (p.diag() - p.outer(p)) @ head @ inner / 0.7**2)[-1]
    gain = torch.linalg.matrix_norm(inner, 2)
    return [(float(lam), float((torch.cdist(head, head).max() * gain) ** 2 / (4 * 0.7**2)))]


PROOF = Proof(
    name="T5",
    title="Linear head",
    words="For logits `W g(x) + b`, `lam <= D_W^2 ||J_g||^2 / (4 tau^2)`, `D_W` the largest distance of two rows of "
    "`W`.",
    reference=Reference("fimtheory"),
    spaces={F: ("d", "d"), u: ("1", "d"), J: ("d", "m"), **dict.fromkeys((low, high, one, other), ("m", "1"))},
    labels={X: ("y", X)},
    unit=(u,),
    dependent=(X, low, high),
    ranges=dict.fromkeys((low, high, one, other), "rows of W"),
    hypotheses=(
        Hypothesis("diameter", least(Norm(one - other), D), "`D_W` bounds all distances of rows.",
                   for_all=(one, other)),
        Hypothesis("unit", equal(Norm(u), 1), "`u` is any unit vector.", definition=True),
        Hypothesis("F", equal(F_along_u, variance / tau**2), "`X = w_y J_g u`, `y ~ p` (T1).", definition=True),
        Hypothesis("low", least(least_value, X), "`w_l` is the row with the least product with `J_g u`.",
                   definition=True),
        Hypothesis("high", least(X, largest_value), "`w_h` is the row with the largest.", definition=True),
    ),
    steps=(
        Step("between", least(0, (X - least_value) * (largest_value - X)), "arithmetic", ("low", "high")),
        Step("mean", least(0, Expect((X - least_value) * (largest_value - X))), "mean of nonnegative", ("between",)),
        Step(
            "moments",
            equal(
                Expect((X - least_value) * (largest_value - X)),
                (least_value + largest_value) * Expect(X) - Expect(X**2) - least_value * largest_value * Expect(1),
            ),
            "expansion",
        ),
        Step("one", equal(Expect(1), 1), "mean of constant"),
        Step("popoviciu", least(variance, (largest_value - least_value) ** 2 / 4), "arithmetic",
             ("mean", "moments", "one")),
        Step("difference", equal(largest_value - least_value, Form((high - low) * J * u)), "expansion"),
        Step("cauchy", least(Form((high - low) * J * u), Norm(high - low) * Norm(J) * Norm(u)), "cauchy schwarz"),
        Step("distance", least(Norm(high - low), D), "instance", ("diameter",)),
        Step("growth", least(Norm(high - low) * Norm(J), D * Norm(J)), "arithmetic", ("distance",)),
        Step("below", least(least_value, largest_value), "arithmetic", ("low", "high")),
        Step("range", least((largest_value - least_value) ** 2, D**2 * Norm(J) ** 2), "arithmetic",
             ("difference", "cauchy", "growth", "unit", "below")),
        Step("along", least(F_along_u, bound), "arithmetic", ("F", "popoviciu", "range")),
        Step("theorem", least(Top(F), bound), "supremum", ("along",)),
    ),
    conclusions=("theorem",),
    trial=trial,
)  # fmt: skip
