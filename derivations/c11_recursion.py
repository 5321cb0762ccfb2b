"""C11: the inductive step of the closed form of LipSDP, and its end."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Form, Hypothesis, Norm, Proof, Step, equal, least, operator

W, D, M, R, R_inverse, Q, Q_inverse, B, H, d, y, e = (
    operator(name) for name in ("W", "D", "M", "R", "R^-1", "Q", "Q^-1", "B", "H", "d", "y", "e")
)
(a, b), l = sympy.symbols("a b", real=True), sympy.Symbol("l", positive=True)  # noqa: E741
T = sympy.transpose
v, middle, radius = W * d, (a + b) / 2, (b - a) / 2
X, X_inverse, G_inverse = T(R) * R, R_inverse * T(R_inverse), Q_inverse * T(Q_inverse)
N = W * G_inverse * T(W)
following = 2 * l - (a + b) ** 2 * l**2 * B * H
before, after = Form(T(d) * X * d), Form(T(y) * following * y)
yy, yv, vv, back = Form(T(y) * y), Form(T(y) * v), Form(T(v) * v), Form(T(y) * N * y)
rest = Q * d - l * (a + b) * T(Q_inverse) * T(W) * y
through = W * X_inverse * X * G_inverse * T(W) + W * X_inverse * T(W) - W * X_inverse * T(Q) * Q * G_inverse * T(W)
size = Norm(M * X_inverse * T(M))


def trial(seed: int) -> list[tuple[float, float]]:
    """Take random matrices and slopes, every second time along the worst d; the inverse is a solve."""
    torch.manual_seed(seed)
    weight, root, last = torch.randn(4, 5).double(), torch.randn(5, 5).double(), torch.randn(3, 5).double()
    X = root.T @ root + 0.1 * torch.eye(5)
    low, high = (0.0, 1.0) if seed % 3 == 0 else (-0.5, 1.5 + seed % 4)
    slopes = low + (high - low) * torch.rand(4, dtype=torch.float64).round(decimals=seed % 2)
    B = weight @ torch.linalg.solve(X, weight.T)
    scale = 1 / (high * (high - low) * torch.linalg.matrix_norm(B, 2))
    inner = torch.eye(4) + 2 * low * high * scale * B
    mixed = 2 * scale * low * high * weight.T
    H = torch.eye(4) - weight @ torch.linalg.solve(X + mixed @ weight, mixed)
    following = 2 * scale * torch.eye(4) - (low + high) ** 2 * scale**2 * torch.linalg.solve(inner, B)
    layer = slopes[:, None] * weight
    half = torch.linalg.inv(torch.linalg.cholesky(X)).T
    top = half @ torch.linalg.eigh(half.T @ layer.T @ following @ layer @ half)[1][:, -1]
    change = top if seed % 2 else torch.randn(5).double()
    output, other = layer @ change, torch.randn(4).double()
    size = torch.linalg.matrix_norm(last @ torch.linalg.solve(X, last.T), 2) * (change @ X @ change)
    return [
        (float(other @ inner @ H @ output), float(other @ output)),
        (float(output @ following @ output), float(change @ X @ change)),
        (float((last @ change).square().sum()), float(size)),
    ]


PROOF = Proof(
    name="C11",
    title="Closed form of LipSDP",
    words="For a layer `y = D W d` of slopes in `[a, b]` and `X = R^T R`, `y^T X' y <= d^T X d`, where `X' = 2 l - "
    "(a + b)^2 l^2 B H`, `B = W X^-1 W^T`, `H = (1 + 2 a b l B)^-1`. For a last matrix `M`, `||M d||^2 <= ||M X^-1 "
    "M^T|| d^T X d`.",
    reference=Reference("fimtheory"),
    spaces={
        W: ("x", "y"), M: ("x", "z"), d: ("1", "x"), **dict.fromkeys((y, e), ("1", "y")),
        **dict.fromkeys((D, B, H), ("y", "y")), **dict.fromkeys((R, R_inverse, Q, Q_inverse), ("x", "x")),
    },
    hypotheses=(
        Hypothesis("slopes", least(Norm(D - middle), radius), "The entries of the diagonal `D` lie in `[a, b]`."),
        Hypothesis("R", equal(R_inverse * R, 1), "`X = R^T R` is positive definite, so `R` is invertible."),
        Hypothesis("R^T", equal(T(R_inverse) * T(R), 1), "`R` is invertible: `R R^-1 = 1`, transposed."),
        Hypothesis("Q", equal(T(Q) * Q, X + 2 * l * a * b * T(W) * W),
                   "`X + 2 l a b W^T W` is positive definite too, as it is where `0 <= a b` or `2 l |a b| ||B|| < "
                   "1`."),
        Hypothesis("outside", equal(Q * Q_inverse, 1), "`Q` is invertible."),
        Hypothesis("Q^T", equal(T(Q) * T(Q_inverse), 1), "`Q` is invertible: `Q^-1 Q = 1`, transposed."),
        Hypothesis("y", equal(y, D * W * d), "`y` is the output of the layer.", definition=True),
        Hypothesis("B", equal(B, W * X_inverse * T(W)), "`B = W X^-1 W^T`.", definition=True),
        Hypothesis("H", equal(H, 1 - 2 * l * a * b * N), "It is the inverse of `1 + 2 a b l B`, see [both sides].",
                   definition=True),
    ),
    steps=(
        Step("chain", equal(y - middle * v, (D - middle) * v), "expansion", ("y",)),
        Step("product", least(Norm((D - middle) * v), Norm(D - middle) * Norm(v)), "submultiplicative"),
        Step("near", least(Norm(y - middle * v), Norm(D - middle) * Norm(v)), "replacement", ("product", "chain")),
        Step("close", least(Norm(y - middle * v), radius * Norm(v)), "arithmetic", ("near", "slopes")),
        Step("square", equal(Norm(y - middle * v) ** 2, yy - (a + b) * yv + middle**2 * vv), "expansion"),
        Step("length", equal(Norm(v) ** 2, vv), "expansion"),
        Step("sector", least(yy - (a + b) * yv + a * b * vv, 0), "arithmetic", ("close", "square", "length")),
        Step("rest", equal(Norm(rest) ** 2,
                           before + 2 * l * a * b * vv - 2 * l * (a + b) * yv + l**2 * (a + b) ** 2 * back),
             "expansion", ("Q^T", "Q")),
        Step("nonnegative", least(0, Norm(rest) ** 2), "arithmetic"),
        Step("weighted", least(2 * l * yy - 2 * l * (a + b) * yv + 2 * l * a * b * vv, 0), "arithmetic", ("sector",)),
        Step("sum", least(2 * l * yy - l**2 * (a + b) ** 2 * back, before), "arithmetic",
             ("weighted", "rest", "nonnegative")),
        Step("X", equal(X, T(Q) * Q - 2 * l * a * b * T(W) * W), "expansion", ("Q",)),
        Step("first", equal(B - 2 * l * a * b * B * N, through), "expansion", ("B", "X")),
        Step("second", equal(through, N), "expansion", ("outside", "Q^T", "R^T", "R")),
        Step("both", equal(B - 2 * l * a * b * B * N, N), "replacement", ("second", "first")),
        Step("product H", equal(B * H, B - 2 * l * a * b * B * N), "expansion", ("H",)),
        Step("push", equal(B * H, N), "replacement", ("both", "product H")),
        Step("both sides", equal(Form(T(e) * (1 + 2 * a * b * l * B) * H * y), Form(T(e) * y)), "expansion",
             ("push", "H")),
        Step("after", equal(after, 2 * l * yy - (a + b) ** 2 * l**2 * back), "expansion", ("push",)),
        Step("theorem", least(after, before), "arithmetic", ("after", "sum")),
        Step("last", equal(M * d, M * R_inverse * R * d), "expansion", ("R",)),
        Step("factors", least(Norm(M * R_inverse * R * d), Norm(M * R_inverse) * Norm(R * d)), "submultiplicative"),
        Step("bound", least(Norm(M * d), Norm(M * R_inverse) * Norm(R * d)), "replacement", ("factors", "last")),
        Step("gram", equal(size, Norm(T(R_inverse) * T(M)) ** 2), "gram"),
        Step("turned", equal(Norm(T(R_inverse) * T(M)), Norm(M * R_inverse)), "transposition"),
        Step("weight", equal(Norm(R * d) ** 2, before), "expansion"),
        Step("squared", least(Norm(M * d) ** 2, Norm(M * R_inverse) ** 2 * Norm(R * d) ** 2), "arithmetic", ("bound",)),
        Step("end", least(Norm(M * d) ** 2, size * before), "arithmetic", ("squared", "gram", "turned", "weight")),
    ),
    conclusions=("both sides", "theorem", "end"),
    trial=trial,
)  # fmt: skip
