"""The gain of softmax self-attention on tokens of norm at most R, from the attention weights at a point."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Hypothesis, Norm, Proof, Step, equal, least, operator

J, A, U, O, V, X, B, B1, s, G, H, K, C, u = (  # noqa: E741
    operator(name) for name in ("J", "A", "U", "W_O", "V", "X", "B", "b", "s", "G", "H", "Y", "C", "u")
)
R, beta, c, omega = sympy.symbols("R beta c omega", nonnegative=True)
T = sympy.transpose
spread, mixed = X * G - s * T(s) * X * G, G + B * K
first, rest = U * T(K) * K * A, O * V * T(mixed) * H
direct, gain = R**2 * Norm(U) * Norm(A), sympy.sqrt(c * omega * (1 + R**2 * beta**2)) * Norm(O)


def trial(seed: int) -> list[tuple[float, float]]:
    """Take the Jacobian of torch's attention with two heads by autograd, with tokens of several sizes and any t_h."""
    torch.manual_seed(seed)
    x = torch.randn(5, 4, dtype=torch.float64) * 3.0 ** (seed % 3 - 1)
    query, key, value = torch.randn(3, 2, 3, 4, dtype=torch.float64) * 0.7
    bias, out = torch.randn(2, 1, 3, dtype=torch.float64), torch.randn(4, 2, 3, dtype=torch.float64)

    def attention(x: torch.Tensor) -> torch.Tensor:
        heads = torch.nn.functional.scaled_dot_product_attention(x @ query.mT + bias, x @ key.mT, x @ value.mT)
        return torch.einsum("dhv,hnv->nd", out, heads)

    norm = lambda matrix: torch.linalg.matrix_norm(matrix, 2)  # noqa: E731
    forms, slopes = key.mT @ query / 3**0.5, (x @ query.mT + bias) @ key / 3**0.5
    t = torch.rand(2, 1, 1, dtype=torch.float64) + 0.5
    weights, radius = (slopes @ x.T).softmax(2), x.norm(dim=1).max()
    joint = norm(torch.einsum("dhv,hve->dhe", out, value / t).flatten(1)) * norm((t * forms).flatten(0, 1))
    rows = weights.sum(1).max() * norm(value).square().sum() * (1 + (radius * slopes.norm(dim=2).max()) ** 2)
    jacobian = torch.func.jacrev(attention)(x).reshape(20, 20)
    return [(float(norm(jacobian)), float(radius**2 * joint + rows.sqrt() * norm(out.flatten(1))))]


PROOF = Proof(
    name="Attention",
    title="Gain of self-attention",
    words="||J|| <= R^2 ||U|| ||A|| + sqrt(c omega (1 + R^2 beta^2)) ||W_O|| at a point: N tokens x_j of norm at "
    "most R, heads h with attention P_h, logits x_j . b_hi, b_hi = A_h x_i + q_h of norm at most beta; c the "
    "largest column sum of a P_h, omega = sum_h ||W_V,h||^2, A = [t_h A_h] one above the other, U = [W_O,h "
    "W_V,h / t_h] side by side.",
    reference=Reference("fimtheory", "after castin2024"),
    spaces={
        A: ("x", "heads"), U: ("heads", "y"), O: ("values", "y"), V: ("heads", "values"), J: ("x", "y"),
        G: ("heads", "pairs of tokens"), H: ("x", "pairs of tokens"), X: ("pairs of tokens", "pairs"),
        B: ("pairs", "pairs of tokens"), B1: ("rows", "heads"), s: ("rows", "pairs"), K: ("heads", "pairs"),
        C: ("x", "x"), u: ("1", "heads"),
    },
    unit=(u,),
    hypotheses=(
        Hypothesis("tokens", least(Norm(X), R), "No token has a norm above R: X takes each y_hij to x_j . y_hij."),
        Hypothesis("slopes", least(Norm(B), beta), "No b_hi has a norm above beta: B takes each y_hij to y_hij b_hi."),
        Hypothesis("columns", least(Norm(C), c * omega),
                   "C multiplies token j by sum_h ||W_V,h||^2 sum_i P_hij, where sum_i P_hij <= c."),
        Hypothesis("values", least(Norm(V), 1), "V applies W_V,h / ||W_V,h|| in head h."),
        Hypothesis("G", equal(T(G) * G, 1), "G has the entries sqrt(P_hij): it takes v_hi to all sqrt(P_hij) v_hi.",
                   definition=True),
        Hypothesis("s", equal(T(s) * s, 1), "s does the same to numbers, and the rows P_hi sum to 1.",
                   definition=True),
        Hypothesis("b", equal(T(G) * B, B1 * T(s)), "Both take y_hij to sum_j sqrt(P_hij) y_hij b_hi.",
                   definition=True),
        Hypothesis("Y", equal(K, spread), "Y takes v_hi to sqrt(P_hij) (x_j - m_hi) . v_hi, m_hi = sum_j P_hij x_j.",
                   definition=True),
        Hypothesis("H", equal(T(H) * H, C), "H takes d_j to ||W_V,h|| sqrt(P_hij) d_j.", definition=True),
        Hypothesis("J", equal(J, first + rest),
                   "Chain rule: row i is the sum over heads of W_O,h W_V,h applied to Cov_hi A_h d_i + sum_j P_hij "
                   "(d_j + (x_j - m_hi) b_hi . d_j), where Y^T Y consists of the covariances Cov_hi.", definition=True),
        Hypothesis("unit", equal(Norm(u), 1), "u is any unit vector.", definition=True),
    ),
    steps=(
        Step("centred", equal(Norm(spread * u) ** 2, Norm(X * G * u) ** 2 - Norm(T(s) * X * G * u) ** 2), "expansion",
             ("s",)),
        Step("listed", equal(Norm(G * u) ** 2, Norm(u) ** 2), "expansion", ("G",)),
        Step("product", least(Norm(X * G * u), Norm(X) * Norm(G * u)), "submultiplicative"),
        Step("near", least(Norm(spread * u), R), "arithmetic", ("centred", "listed", "product", "tokens", "unit")),
        Step("deviation", least(Norm(spread), R), "supremum", ("near",)),
        Step("Y at most R", least(Norm(K), R), "replacement", ("deviation", "Y")),
        Step("orthogonal", equal(Norm((G + B * spread) * u) ** 2, Norm(u) ** 2 + Norm(B * spread * u) ** 2),
             "expansion", ("G", "b", "s")),
        Step("moved", least(Norm(B * spread * u), Norm(B) * Norm(spread * u)), "submultiplicative"),
        Step("small", least(Norm(B) * Norm(spread * u), R * beta), "arithmetic", ("slopes", "near")),
        Step("along", least(Norm((G + B * spread) * u), sympy.sqrt(1 + R**2 * beta**2)), "arithmetic",
             ("orthogonal", "moved", "small", "unit")),
        Step("both", least(Norm(G + B * spread), sympy.sqrt(1 + R**2 * beta**2)), "supremum", ("along",)),
        Step("mixed", least(Norm(mixed), sympy.sqrt(1 + R**2 * beta**2)), "replacement", ("both", "Y")),
        Step("weights", least(Norm(T(H) * H), c * omega), "replacement", ("columns", "H")),
        Step("gram", equal(Norm(T(H) * H), Norm(H) ** 2), "gram"),
        Step("H at most", least(Norm(H), sympy.sqrt(c * omega)), "arithmetic", ("weights", "gram")),
        Step("Y^T", equal(Norm(T(K)), Norm(K)), "transposition"),
        Step("mixed^T", equal(Norm(T(mixed)), Norm(mixed)), "transposition"),
        Step("squares", least(Norm(T(K)) * Norm(K), R**2), "arithmetic", ("Y^T", "Y at most R")),
        Step("first factors", least(Norm(first), Norm(U) * Norm(T(K)) * Norm(K) * Norm(A)), "submultiplicative"),
        Step("first", least(Norm(U) * Norm(T(K)) * Norm(K) * Norm(A), direct), "arithmetic", ("squares",)),
        Step("rest factors", least(Norm(rest), Norm(O) * Norm(V) * Norm(T(mixed)) * Norm(H)), "submultiplicative"),
        Step("two", least(Norm(T(mixed)) * Norm(H), sympy.sqrt(c * omega * (1 + R**2 * beta**2))), "arithmetic",
             ("mixed^T", "mixed", "H at most")),
        Step("three", least(Norm(V) * Norm(T(mixed)) * Norm(H), sympy.sqrt(c * omega * (1 + R**2 * beta**2))),
             "arithmetic", ("two", "values")),
        Step("rest", least(Norm(O) * Norm(V) * Norm(T(mixed)) * Norm(H), gain), "arithmetic", ("three",)),
        Step("triangle", least(Norm(first + rest), Norm(first) + Norm(rest)), "triangle"),
        Step("sum", least(Norm(first + rest), direct + gain), "arithmetic",
             ("triangle", "first factors", "first", "rest factors", "rest")),
        Step("theorem", least(Norm(J), direct + gain), "replacement", ("sum", "J")),
    ),
    conclusions=("theorem",),
    trial=trial,
)  # fmt: skip
