"""Confidence limits of lam from the top eigenvalue of a Gaussian sketch."""

import math

import sympy
import torch
from scipy.stats import chi2

from fimtheory.claims import Reference
from fimtheory.proofs import Expect, Hypothesis, Norm, Proof, Step, Top, equal, least, operator

G, M, Y, Z, w = (operator(name) for name in ("G", "M", "Y", "Z", "w"))
lam, m, q, length = (sympy.Symbol(name, positive=True) for name in ("lambda", "m", "q", "l"))
a = sympy.Symbol("a", real=True)
top, X = sympy.symbols("lamhat X", nonnegative=True)
large, short, upper, lower = sympy.symbols("I_X I_Z U L", real=True)
excess, lack = sympy.symbols("D_U D_L", positive=True)
T = sympy.transpose


def trial(seed: int) -> list[tuple[float, float]]:
    """Count how often the limits hold in 500 samples, with five standard deviations of such a count added."""
    torch.manual_seed(seed)
    rank, probes, failure, samples = 1 + seed % 4, 3 + seed % 7, (0.3, 0.1)[seed % 2], 500
    root = torch.randn(6, rank, dtype=torch.float64)
    lam = float(torch.linalg.eigvalsh(root @ root.T)[-1])
    tops = torch.linalg.svdvals(root @ torch.randn(samples, rank, probes, dtype=torch.float64))[:, 0] ** 2 / probes
    length = math.sqrt(probes) + math.sqrt(rank) + math.sqrt(2 * math.log(1 / failure))
    slack = 5 * math.sqrt(failure * (1 - failure) / samples)
    above = float((lam <= probes * tops / chi2.ppf(failure, probes)).double().mean())
    below = float((probes * tops / length**2 <= lam).double().mean())
    return [(1 - failure, above + slack), (1 - failure, below + slack)]


PROOF = Proof(
    name="Sketch",
    title="Limits of a Gaussian sketch",
    words="The columns of `Y` are `m` independent samples of `N(0, G)`, `lam > 0` is the largest eigenvalue of `G`, "
    "`lamhat` that of `Y Y^T / m`. `lam <= m lamhat / q` with probability `E[U]` at least `1 - a`, `q` the "
    "a-quantile of chi-square with `m` degrees of freedom; `m lamhat / l^2 <= lam` with probability `E[L]` at "
    "least `1 - a`, where `||Z|| <= l` with probability at least `1 - a`.",
    reference=Reference("fimtheory"),
    spaces={G: ("K", "K"), M: ("r", "K"), Y: ("m", "K"), Z: ("m", "r"), w: ("1", "K")},
    labels={each: ("sample", each) for each in (Y, Z, top, X, large, short, upper, lower, excess, lack)},
    hypotheses=(
        Hypothesis("quantile", equal(Expect(large), 1 - a),
                   "`X` is chi-square with `m` degrees of freedom, as the sum of the squares of `m` "
                   "independent `w . Y_i / sqrt(lam)`, standard normal; `q` is its quantile at a."),
        Hypothesis("largest", least(1 - a, Expect(short)),
                   "`||Z|| <= l` with probability at least `1 - a` for a standard normal matrix `Z` of `r x m`, as "
                   "where `l = sqrt(m) + sqrt(r) + sqrt(2 ln(1 / a))` (Davidson and Szarek)."),
        Hypothesis("lam", equal(lam, Top(G)), "`lam` is the largest eigenvalue of `G`.", definition=True),
        Hypothesis("M", equal(G, M * T(M)), "`M` is a root of `G`, with `r` columns, `r` its rank.", definition=True),
        Hypothesis("Y", equal(Y, M * Z), "Samples are `M` times standard normal vectors, the columns of `Z`.",
                   definition=True),
        Hypothesis("lamhat", equal(m * top, Norm(Y) ** 2), "`lamhat` is the largest eigenvalue of `Y Y^T / m`.",
                   definition=True),
        Hypothesis("w", equal(Norm(w), 1), "`w` is a unit eigenvector of `G` for `lam`.", definition=True),
        Hypothesis("X", equal(lam * X, Norm(T(Y) * w) ** 2), "`X = ||Y^T w||^2 / lam`.", definition=True),
        Hypothesis("I_X", equal(large**2, large), "`I_X` is 1 where `X >= q`, else 0.", definition=True),
        Hypothesis("X large", least(0, large * (X - q)), "Where `I_X` is 1, `X >= q`.", definition=True),
        Hypothesis("I_Z", equal(short**2, short), "`I_Z` is 1 where `||Z|| <= l`, else 0.", definition=True),
        Hypothesis("Z short", least(0, short * (length - Norm(Z))), "Where `I_Z` is 1, `||Z|| <= l`.", definition=True),
        Hypothesis("U", equal(upper**2, upper), "`U` is 1 where `lam <= m lamhat / q`, else 0.", definition=True),
        Hypothesis("U fails", equal((1 - upper) * (q * lam - m * top - excess), 0),
                   "Where `U` is 0, `q lam` exceeds `m lamhat` by `D_U > 0`.", definition=True),
        Hypothesis("L", equal(lower**2, lower), "`L` is 1 where `m lamhat / l^2 <= lam`, else 0.", definition=True),
        Hypothesis("L fails", equal((1 - lower) * (m * top - length**2 * lam - lack), 0),
                   "Where `L` is 0, `m lamhat` exceeds `l^2 lam` by `D_L > 0`.", definition=True),
    ),
    steps=(
        Step("along w", least(Norm(T(Y) * w), Norm(T(Y)) * Norm(w)), "submultiplicative"),
        Step("turned", equal(Norm(T(Y)), Norm(Y)), "transposition"),
        Step("above", least(lam * X, m * top), "arithmetic", ("along w", "turned", "w", "X", "lamhat")),
        Step("scaled", least(0, lam * large * (X - q)), "arithmetic", ("X large",)),
        Step("weighted", least(0, large * (m * top - lam * X)), "arithmetic", ("above", "I_X")),
        Step("large", least(0, large * (m * top - q * lam)), "arithmetic", ("scaled", "weighted")),
        Step("X then U", least(0, upper - large), "arithmetic", ("large", "I_X", "U", "U fails")),
        Step("mean U", least(0, Expect(upper - large)), "mean of nonnegative", ("X then U",)),
        Step("linear U", equal(Expect(upper - large), Expect(upper) - Expect(large)), "expansion"),
        Step("upper", least(1 - a, Expect(upper)), "arithmetic", ("mean U", "linear U", "quantile")),
        Step("root", equal(Top(M * T(M)), Norm(T(M)) ** 2), "gram"),
        Step("G", equal(Top(G), Norm(T(M)) ** 2), "replacement", ("root", "M")),
        Step("M^T", equal(Norm(T(M)), Norm(M)), "transposition"),
        Step("product", least(Norm(M * Z), Norm(M) * Norm(Z)), "submultiplicative"),
        Step("sample", least(Norm(Y), Norm(M) * Norm(Z)), "replacement", ("product", "Y")),
        Step("size", equal(Norm(M) ** 2, lam), "arithmetic", ("lam", "G", "M^T")),
        Step("squares", least(Norm(Y) ** 2, Norm(M) ** 2 * Norm(Z) ** 2), "arithmetic", ("sample",)),
        Step("below", least(m * top, lam * Norm(Z) ** 2), "arithmetic", ("squares", "lamhat", "size")),
        Step("within", least(0, short * (length**2 - Norm(Z) ** 2)), "arithmetic", ("Z short", "I_Z")),
        Step("times", least(0, lam * short * (length**2 - Norm(Z) ** 2)), "arithmetic", ("within",)),
        Step("counted", least(0, short * (lam * Norm(Z) ** 2 - m * top)), "arithmetic", ("below", "I_Z")),
        Step("short", least(0, short * (length**2 * lam - m * top)), "arithmetic", ("times", "counted")),
        Step("Z then L", least(0, lower - short), "arithmetic", ("short", "I_Z", "L", "L fails")),
        Step("mean L", least(0, Expect(lower - short)), "mean of nonnegative", ("Z then L",)),
        Step("linear L", equal(Expect(lower - short), Expect(lower) - Expect(short)), "expansion"),
        Step("lower", least(1 - a, Expect(lower)), "arithmetic", ("mean L", "linear L", "largest")),
    ),
    conclusions=("upper", "lower"),
    trial=trial,
)  # fmt: skip
