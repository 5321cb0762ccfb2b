"""The slopes of Softplus, LogSigmoid, Softsign, ELU, CELU, SELU, Tanhshrink, Erf and Atan."""

import sympy
import torch
from sympy import Abs, Max, Min, erf, exp
from torch.nn import functional

from fimtheory.claims import Reference
from fimtheory.proofs import Hypothesis, Proof, Step, equal, least

x, origin, scale, alpha = sympy.symbols("x o s alpha", real=True)
t, c = sympy.Symbol("t", nonnegative=True), sympy.Symbol("c", positive=True)
sharpest = 2 / sympy.sqrt(sympy.pi)


def softsign(point: sympy.Expr) -> sympy.Expr:
    """Return x / (1 + |x|)."""
    return point / (1 + Abs(point))


softplus = sympy.diff(sympy.log(1 + exp(x)), x)
log_sigmoid = sympy.diff(-sympy.log(1 + exp(-x)), x)
tanhshrink = sympy.diff(x - (1 - exp(-2 * x)) / (1 + exp(-2 * x)), x)
elu = sympy.diff(scale * alpha * (exp(x) - 1), x).subs(x, -t)
celu = sympy.diff(c * (exp(x / c) - 1), x).subs(x, -c * t)
erf_slope, atan = sympy.diff(erf(x), x), sympy.diff(sympy.atan(x), x)
rise = softsign(x + t) - softsign(x)
elu_ends = (0, scale, scale * alpha)
decay = exp(-t)


def trial(seed: int) -> list[tuple[float, float]]:
    """Take the slopes of torch's functions by autograd, and a rise of Softsign."""
    generator = torch.Generator().manual_seed(seed)
    x, t, alpha, c = (3 * torch.randn(4, generator=generator, dtype=torch.float64)).tolist()
    t, c = abs(t) + 1e-3, abs(c) + 0.1
    slope = lambda f, point: torch.func.grad(f)(torch.tensor(point, dtype=torch.float64)).item()  # noqa: E731
    e, tops = torch.e, 2 / torch.pi**0.5
    plus, log_sigmoid = slope(functional.softplus, x), slope(functional.logsigmoid, x)
    elu = slope(lambda p: functional.elu(p, alpha), -t)
    celu, shrink = slope(lambda p: functional.celu(p, c), -c * t), slope(functional.tanhshrink, x)
    erf, atan = slope(torch.erf, x), slope(torch.atan, x)
    begin, end = functional.softsign(torch.tensor([x, x + t], dtype=torch.float64)).tolist()
    soft = [(0, end - begin), (end - begin, t), ((1 - t) * t, t / (1 + t))]
    ends = (0, 1, alpha)
    return [
        (0, plus), (plus, 1), (1 - e**-x, plus),
        (0, log_sigmoid), (log_sigmoid, 1), (1 - e**x, log_sigmoid),
        *soft,
        (min(ends), elu), (elu, max(ends)), (abs(elu), abs(alpha)), (abs(alpha) * (1 - t), abs(elu)),
        (0, celu), (celu, 1), (1 - t, celu),
        (0, shrink), (shrink, 1), (1 - 4 * e ** (-2 * x), shrink),
        (0, erf), (erf, tops), (slope(torch.erf, 0.0), tops),
        (0, atan), (atan, 1), (slope(torch.atan, 0.0), 1),
    ]  # fmt: skip


STEPS = (
    Step("softplus low", least(0, softplus), "arithmetic"),
    Step("softplus high", least(softplus, 1), "arithmetic"),
    Step("softplus near", least(1 - exp(-x), softplus), "arithmetic"),
    Step("log sigmoid low", least(0, log_sigmoid), "arithmetic"),
    Step("log sigmoid high", least(log_sigmoid, 1), "arithmetic"),
    Step("log sigmoid near", least(1 - exp(x), log_sigmoid), "arithmetic"),
    Step("softsign low", least(0, rise), "arithmetic"),
    Step("softsign high", least(rise, t), "arithmetic"),
    Step("softsign near", least((1 - t) * t, softsign(t) - softsign(sympy.Integer(0))), "arithmetic"),
    Step("start", least(0, 0), "arithmetic"),
    Step("positive", least(0, decay), "arithmetic"),
    Step("falls", least(0, 1 - decay), "growth", ("positive", "start")),
    Step("slowly", least(0, decay - 1 + t), "growth", ("falls", "start")),
    Step("elu low", least(Min(*elu_ends), elu), "arithmetic", ("positive", "falls")),
    Step("elu high", least(elu, Max(*elu_ends)), "arithmetic", ("positive", "falls")),
    Step("elu", least(Abs(elu), Abs(scale * alpha)), "arithmetic", ("positive", "falls")),
    Step("elu near", least(Abs(scale * alpha) * (1 - t), Abs(elu)), "arithmetic", ("positive", "slowly")),
    Step("celu low", least(0, celu), "arithmetic"),
    Step("celu high", least(celu, 1), "arithmetic", ("falls",)),
    Step("celu near", least(1 - t, celu), "arithmetic", ("slowly",)),
    Step("tanhshrink low", least(0, tanhshrink), "arithmetic"),
    Step("tanhshrink high", least(tanhshrink, 1), "arithmetic"),
    Step("tanhshrink near", least(1 - 4 * exp(-2 * x), tanhshrink), "arithmetic"),
    Step("erf low", least(0, erf_slope), "arithmetic"),
    Step("sign", least(0, sympy.expand((origin - x) * sympy.diff(erf_slope, x))), "arithmetic", ("origin",)),
    Step("peak", least(erf_slope, erf_slope.subs(x, origin)), "peak", ("sign",)),
    Step("erf met", equal(erf_slope.subs(x, origin), sharpest), "expansion", ("origin",)),
    Step("erf high", least(erf_slope, sharpest), "arithmetic", ("peak", "erf met")),
    Step("atan low", least(0, atan), "arithmetic"),
    Step("atan high", least(atan, 1), "arithmetic"),
    Step("atan met", equal(atan.subs(x, origin), 1), "arithmetic", ("origin",)),
)

PROOF = Proof(
    name="Smooth",
    title="Slopes of Softplus, LogSigmoid, Softsign, ELU, CELU(c), Tanhshrink, Erf and Atan",
    words="The slopes of each lie between the ends given, and come near or meet that of larger size. For Softsign "
    "these are rises over a step `t`; for `s` ELU(alpha), which is SELU with its two constants, and CELU(c) they "
    "are slopes at `-t` and `-c t`, as those on the right are `s` and 1.",
    reference=Reference("fimtheory"),
    hypotheses=(Hypothesis("origin", equal(origin, 0), "`o` is the origin.", definition=True),),
    steps=STEPS,
    conclusions=(
        *("softplus low", "softplus high", "softplus near"),
        *("log sigmoid low", "log sigmoid high", "log sigmoid near"),
        *("softsign low", "softsign high", "softsign near"),
        *("elu low", "elu high", "elu", "elu near", "celu low", "celu high", "celu near"),
        *("tanhshrink low", "tanhshrink high", "tanhshrink near"),
        *("erf low", "erf high", "erf met", "atan low", "atan high", "atan met"),
    ),
    trial=trial,
)
