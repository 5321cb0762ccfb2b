"""T3: lam is at most a quarter of the squared diameter of the rows of J (Popoviciu's inequality)."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Expect, Form, Hypothesis, Norm, Proof, Step, Top, equal, least, operator

tau, D = sympy.Symbol("tau", positive=True), sympy.Symbol("D", nonnegative=True)
X = sympy.Symbol("X", real=True)
F, u = operator("F"), operator("u")
low, high, one, other = (operator(name) for name in ("J_l", "J_h", "J_i", "J_j"))
F_along_u = Form(sympy.transpose(u) * F * u)
least_value, largest_value = Form(low * u), Form(high * u)
variance = Expect(X**2) - Expect(X) ** 2


def trial(seed: int) -> list[tuple[float, float]]:
    """Compare lam of a random F with a quarter of the squared diameter, which two equal probabilities attain."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    p = torch.rand(5, generator=generator, dtype=torch.float64).pow(seed % 5).softmax(0)
    if seed % 4 == 0:
        rows, p = rows[:2], torch.full((2,), 0.5, dtype=torch.float64)
    lam = torch.linalg.eigvalsh(rows.T @ (p.diag() - p.outer(p)) @ rows / 0.7**2)[-1]
    return [(float(lam), float(torch.cdist(rows, rows).max() ** 2 / (4 * 0.7**2)))]


PROOF = Proof(
    name="T3",
    title="Diameter bound",
    words="`lam` is at most `D^2 / (4 tau^2)`, where `D` is the largest distance of two rows of the Jacobian `J`.",
    reference=Reference("fimtheory"),
    spaces={F: ("d", "d"), u: ("1", "d"), **dict.fromkeys((low, high, one, other), ("d", "1"))},
    labels={X: ("y", X)},
    unit=(u,),
    dependent=(X, low, high),
    ranges=dict.fromkeys((low, high, one, other), "rows of J"),
    hypotheses=(
        Hypothesis("diameter", least(Norm(one - other), D), "`D` bounds all distances of rows.", for_all=(one, other)),
        Hypothesis("unit", equal(Norm(u), 1), "`u` is any unit vector.", definition=True),
        Hypothesis("F", equal(F_along_u, variance / tau**2), "`X = J_y u`, `y ~ p` (T1).", definition=True),
        Hypothesis("low", least(least_value, X), "`J_l` is the row with the least product with `u`.", definition=True),
        Hypothesis("high", least(X, largest_value), "`J_h` is the row with the largest.", definition=True),
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
        Step(
            "popoviciu",
            least(variance, (largest_value - least_value) ** 2 / 4),
            "arithmetic",
            ("mean", "moments", "one"),
        ),
        Step("difference", equal(largest_value - least_value, Form((high - low) * u)), "expansion"),
        Step("cauchy", least(Form((high - low) * u), Norm(high - low) * Norm(u)), "cauchy schwarz"),
        Step("distance", least(Norm(high - low), D), "instance", ("diameter",)),
        Step("below", least(least_value, largest_value), "arithmetic", ("low", "high")),
        Step("range", least((largest_value - least_value) ** 2, D**2), "arithmetic",
             ("difference", "cauchy", "distance", "unit", "below")),
        Step("along", least(F_along_u, D**2 / (4 * tau**2)), "arithmetic", ("F", "popoviciu", "range")),
        Step("theorem", least(Top(F), D**2 / (4 * tau**2)), "supremum", ("along",)),
    ),
    conclusions=("theorem",),
    trial=trial,
)  # fmt: skip
