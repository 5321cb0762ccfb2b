"""T7: where lam is at most Lam, the prediction keeps its class within a radius 2 arcsin(gap) / sqrt(Lam)."""

import math

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Form, Hypothesis, Norm, Proof, Step, Top, equal, least, operator

T = sympy.transpose
t, Lam, k = sympy.symbols("t Lam k", nonnegative=True)
c = sympy.Symbol("c", positive=True)
gap, gap_slope, angle, angle_slope = (sympy.Function(name, real=True) for name in ("a", "a'", "alpha", "alpha'"))
F, v, e, r, s = (operator(name) for name in ("F", "v", "e", "r", "s"))
a = gap(t)
across, speed = a * r - e, sympy.sqrt(Lam) * Norm(v) / 2


def trial(seed: int) -> list[tuple[float, float]]:
    """Follow a softmax along a line, with the largest lam on a fine grid of it as Lam."""
    torch.manual_seed(seed)
    inner, outer = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    start, v = torch.randn(2, 3, dtype=torch.float64)
    logits = lambda x: outer @ torch.sin(inner @ x)  # noqa: E731
    end = 0.2 * (1 + seed % 5)
    line = start + torch.linspace(0, end, 200, dtype=torch.float64)[:, None] * v
    jacobians, p = torch.func.vmap(torch.func.jacrev(logits))(line), torch.func.vmap(logits)(line).softmax(1)
    covariances = p.diag_embed() - p[:, :, None] * p[:, None, :]
    lam = float(torch.linalg.eigvalsh(jacobians.mT @ covariances @ jacobians).max())
    first, last = (logits(start + step * v).softmax(0).sqrt() for step in (0, end))
    top, other = first.topk(2).indices.tolist()
    angles = [math.asin(float(root[top] - root[other]) / math.sqrt(2)) for root in (first, last)]
    most = 1.01 * lam  # for what lies between two points of the grid
    return [(2 * (angles[0] - angles[1]), math.sqrt(most) * end * float(v.norm()))]


PROOF = Proof(
    name="T7",
    title="Fisher-Rao radius",
    words="Where `p` is differentiable along `x + t v`, `alpha = arcsin((sqrt p_1 - sqrt p_j) / sqrt 2)` falls by "
    "at most `sqrt(Lam) ||t v|| / 2`: `p_1` stays above `p_j` where `sqrt(Lam) ||t v|| < 2 alpha(0)`.",
    reference=Reference("fimtheory"),
    spaces={F: ("d", "d"), v: ("1", "d"), **dict.fromkeys((e, r, s), ("1", "K"))},
    dependent=(F, r, s, c),
    derivatives={gap: gap_slope, angle: angle_slope},
    hypotheses=(
        Hypothesis("Lam", least(Top(F), Lam), "`F` is the Fisher information at `x + t v`; `Lam` bounds `lam` on "
        "the line.",
                   for_all=(t,)),
        Hypothesis("sphere", equal(Norm(r), 1), "`r` is the vector of the `sqrt(p_i)` at `x + t v`.", definition=True,
                   for_all=(t,)),
        Hypothesis("tangent", equal(Form(T(r) * s), 0), "`s` is the derivative of `r` in `t`.", definition=True,
                   for_all=(t,)),
        Hypothesis("speed", equal(Norm(s) ** 2, Form(T(v) * F * v) / 4),
                   "`s_i = sqrt(p_i) v^T grad log p_i / 2`, and `F = E[grad log p_y grad log p_y^T]`.", definition=True,
                   for_all=(t,)),
        Hypothesis("e", equal(Norm(e), 1), "`e` has the entries `1/sqrt(2)` at the top label 1 and `-1/sqrt(2)` at "
        "`j`.",
                   definition=True),
        Hypothesis("gap", equal(Form(T(e) * r), a), "`a(t) = (sqrt p_1 - sqrt p_j) / sqrt 2` at `x + t v`.",
                   definition=True, for_all=(t,)),
        Hypothesis("gap slope", equal(Form(T(e) * s), gap_slope(t)), "The derivative of a.", definition=True,
                   for_all=(t,)),
        Hypothesis("cosine", equal(c**2, 1 - a**2), "`c = cos(alpha(t))`, `alpha = arcsin a`; `a^2 <= 1/2`.",
                   definition=True, for_all=(t,)),
        Hypothesis("angle", equal(angle_slope(t) * c, gap_slope(t)), "The chain rule for `a = sin(alpha)`.",
                   definition=True, for_all=(t,)),
        Hypothesis("k", equal(k, speed), "A name.", definition=True),
    ),
    steps=(
        Step("rayleigh", least(Form(T(v) * F * v), Top(F) * Norm(v) ** 2), "rayleigh"),
        Step("largest", least(Top(F) * Norm(v) ** 2, Lam * Norm(v) ** 2), "arithmetic", ("Lam",)),
        Step("slow", least(Norm(s), k), "arithmetic", ("speed", "rayleigh", "largest", "k")),
        Step("split", equal(Form(T(across) * s), a * Form(T(r) * s) - Form(T(e) * s)), "expansion"),
        Step("cauchy", least(Form(T(across) * s), Norm(across) * Norm(s)), "cauchy schwarz"),
        Step("square", equal(Norm(across) ** 2, a**2 * Norm(r) ** 2 - 2 * a * Form(T(e) * r) + Norm(e) ** 2),
             "expansion"),
        Step("length", equal(Norm(across), c), "arithmetic", ("square", "sphere", "e", "gap", "cosine")),
        Step("falls", least(-gap_slope(t), c * k), "arithmetic",
             ("split", "tangent", "gap slope", "cauchy", "length", "slow")),
        Step("turns", least(0, angle_slope(t) + k), "arithmetic", ("falls", "angle")),
        Step("start", least(0, 0), "arithmetic"),
        Step("grows", least(0, angle(t) - angle(0) + k * t), "growth", ("turns", "start")),
        Step("theorem", least(2 * (angle(0) - angle(t)), sympy.sqrt(Lam) * Norm(v) * t), "arithmetic", ("grows", "k")),
    ),
    conclusions=("theorem",),
    trial=trial,
)  # fmt: skip
