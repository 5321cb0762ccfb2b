"""T7: how far p is from every distribution in which another class is as likely as the top one."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Form, Hypothesis, Norm, Proof, Step, equal, least, operator

T = sympy.transpose
e, r, s = operator("e"), operator("r"), operator("s")
h = Form(T(e) * r)


def trial(seed: int) -> list[tuple[float, float]]:
    """Compare with random distributions that favour another class, some of them the nearest one."""
    generator = torch.Generator().manual_seed(seed)
    p, q = (2 * torch.randn(2, 5, generator=generator, dtype=torch.float64)).softmax(1)
    p = p.sort(descending=True).values
    gap = float(p[0].sqrt() - p[1].sqrt()) / 2**0.5
    if seed % 2:  # the nearest one: both classes at the mean of the roots
        root = torch.cat([p[:2].sqrt().mean().expand(2), p[2:].sqrt()])
        q = (root / root.norm()) ** 2
    q[0], q[1] = min(q[0], q[1]), max(q[0], q[1])
    return [(float((p.sqrt() * q.sqrt()).sum()), (1 - gap**2) ** 0.5)]


PROOF = Proof(
    name="T7b",
    title="Distance to the decision boundary",
    words="If `q_j >= q_1` but `p_1 >= p_j`, `sum_i sqrt(p_i q_i) <= sqrt(1 - h^2)` with `h = (sqrt p_1 - sqrt "
    "p_j) / sqrt 2`: `d_FR(p, q) = 2 arccos(sum_i sqrt(p_i q_i)) >= 2 arcsin h`.",
    reference=Reference("fimtheory"),
    spaces=dict.fromkeys((e, r, s), ("1", "K")),
    hypotheses=(
        Hypothesis("e", equal(Norm(e), 1), "`e` has the entries `1/sqrt(2)` at label 1 and `-1/sqrt(2)` at label "
        "`j`.",
                   definition=True),
        Hypothesis("r", equal(Norm(r), 1), "`r_i = sqrt(p_i)`.", definition=True),
        Hypothesis("s", equal(Norm(s), 1), "`s_i = sqrt(q_i)`.", definition=True),
        Hypothesis("p", least(0, h), "`p_1 >= p_j`: `h = e^T r` is not negative."),
        Hypothesis("q", least(Form(T(e) * s), 0), "`q_j >= q_1`: `e^T s` is not positive."),
    ),
    steps=(
        Step("split", equal(Form(T(r - h * e) * s), Form(T(r) * s) - h * Form(T(e) * s)), "expansion"),
        Step("cauchy", least(Form(T(r - h * e) * s), Norm(r - h * e) * Norm(s)), "cauchy schwarz"),
        Step("square", equal(Norm(r - h * e) ** 2, Norm(r) ** 2 - 2 * h**2 + h**2 * Norm(e) ** 2), "expansion"),
        Step("sign", least(h * Form(T(e) * s), 0), "arithmetic", ("p", "q")),
        Step("along", least(Form(T(r) * s), Norm(r - h * e)), "arithmetic", ("split", "cauchy", "sign", "s")),
        Step("length", equal(Norm(r - h * e) ** 2, 1 - h**2), "arithmetic", ("square", "r", "e")),
        Step("theorem", least(Form(T(r) * s), sympy.sqrt(1 - h**2)), "arithmetic", ("along", "length")),
    ),
    conclusions=("theorem",),
    trial=trial,
)  # fmt: skip
