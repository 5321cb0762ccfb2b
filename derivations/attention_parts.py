"""The gain of softmax self-attention in three parts: covariances, attention, and the tokens attended to."""

import sympy
import torch

from fimtheory.claims import Reference
from fimtheory.proofs import Hypothesis, Norm, Proof, Step, equal, least, operator

J, A, U, O, V, X, B, s, G = (operator(name) for name in ("J", "A", "U", "W_O", "W_V", "X", "B", "s", "G"))  # noqa: E741
K, L, H, Q, E, C, S, u = (operator(name) for name in ("Y", "L", "H", "Q", "E", "C", "S", "u"))
R, beta, c, lam = sympy.symbols("R beta c lambda", nonnegative=True)
N = sympy.Symbol("N", positive=True)
T = sympy.transpose
spread = X * G - s * T(s) * X * G
first, second, third = U * T(K) * K * A, O * T(Q) * H * V, U * T(K) * L * T(B) * E
bounds = R**2 * Norm(U) * Norm(A), sympy.sqrt(c) * Norm(O) * Norm(V), sympy.sqrt(lam * N) * R * beta * Norm(U)


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
    joined, stacked = norm(torch.einsum("dhv,hve->dhe", out, value / t).flatten(1)), norm((t * forms).flatten(0, 1))
    flat = norm(weights.diag_embed() - weights[..., None] * weights[..., None, :]).max()
    direct = weights.sum(1).max().sqrt() * norm(out.flatten(1)) * norm(value.flatten(0, 1))
    routed = (5 * flat).sqrt() * radius * norm((t * slopes).transpose(0, 1)).max() * joined
    jacobian = torch.func.jacrev(attention)(x).reshape(20, 20)
    return [(float(norm(jacobian)), float(radius**2 * joined * stacked + direct + routed))]


def isometric(each: sympy.Expr, name: str, square: sympy.Expr) -> tuple[Step, ...]:
    """The steps from a bound of a Gram matrix to one of the operator."""
    return (
        Step(f"gram {name}", equal(Norm(T(each) * each), Norm(each) ** 2), "gram"),
        Step(f"norm {name}", least(Norm(each), sympy.sqrt(square)), "arithmetic", (f"square {name}", f"gram {name}")),
    )


PROOF = Proof(
    name="Attention parts",
    title="Gain of self-attention in three parts",
    words="||J|| <= R^2 ||U|| ||A|| + sqrt(c) ||W_O|| ||W_V|| + sqrt(lambda N) R beta ||U|| at a point: N tokens "
    "x_j of norm at most R, heads h with attention P_h, logits x_j . b_hi, b_hi = A_h x_i + q_h; beta bounds "
    "the norm of [t_h b_hi] over heads for each i, c the column sums of P_h, lambda the covariances of "
    "softmax, diag(P_hi) - P_hi P_hi^T (T4: at most 1/2 and max P); A = [t_h A_h] one above the other, U = "
    "[W_O,h W_V,h / t_h] side by side.",
    reference=Reference("fimtheory", "after castin2024"),
    spaces={
        A: ("x", "heads"), U: ("heads", "y"), V: ("x", "values"), O: ("values", "y"), J: ("x", "y"),
        G: ("heads", "pairs of tokens"), **dict.fromkeys((Q, H), ("values", "pairs of values")),
        X: ("pairs of tokens", "pairs"), E: ("x", "copies"), B: ("pairs", "copies"), L: ("pairs", "pairs"),
        s: ("rows", "pairs"), K: ("heads", "pairs"), C: ("values", "values"), S: ("pairs", "pairs"), u: ("1", "heads"),
    },
    unit=(u,),
    hypotheses=(
        Hypothesis("tokens", least(Norm(X), R), "No token has a norm above R: X takes each y_hij to x_j . y_hij."),
        Hypothesis("slopes", least(Norm(B), beta),
                   "No [t_h b_hi] has a norm above beta: B takes each y_hij to sum_h y_hij t_h b_hi."),
        Hypothesis("columns", least(Norm(C), c), "C multiplies value v_hj by sum_i P_hij, which is at most c."),
        Hypothesis("softmax", least(Norm(S), lam), "S has the blocks diag(P_hi) - P_hi P_hi^T, none above lambda."),
        Hypothesis("G", equal(T(G) * G, 1), "G has the entries sqrt(P_hij): it takes v_hi to all sqrt(P_hij) v_hi.",
                   definition=True),
        Hypothesis("Q", equal(T(Q) * Q, 1), "Q does the same to values, and the rows P_hi sum to 1.", definition=True),
        Hypothesis("s", equal(T(s) * s, 1), "s does the same to numbers.", definition=True),
        Hypothesis("Y", equal(K, spread), "Y takes v_hi to sqrt(P_hij) (x_j - m_hi) . v_hi, m_hi = sum_j P_hij x_j.",
                   definition=True),
        Hypothesis("L", equal(T(L) * L, S), "L takes f_hij to sqrt(P_hij) (f_hij - sum_k P_hik f_hik).",
                   definition=True),
        Hypothesis("H", equal(T(H) * H, C), "H takes v_hj to sqrt(P_hij) v_hj.", definition=True),
        Hypothesis("E", equal(T(E) * E, N), "E copies all d_j for each of the N tokens i.", definition=True),
        Hypothesis("J", equal(J, first + second + third),
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
        Step("norm Y", least(Norm(K), R), "replacement", ("deviation", "Y")),
        Step("one", least(Norm(1), 1), "unit identity"),
        Step("square Q", least(Norm(T(Q) * Q), 1), "replacement", ("one", "Q")),
        *isometric(Q, "Q", sympy.Integer(1)),
        Step("square H", least(Norm(T(H) * H), c), "replacement", ("columns", "H")),
        *isometric(H, "H", c),
        Step("square L", least(Norm(T(L) * L), lam), "replacement", ("softmax", "L")),
        *isometric(L, "L", lam),
        Step("scale", equal(Norm(N), N * Norm(1)), "scaling"),
        Step("copies", least(Norm(N), N), "arithmetic", ("scale", "one")),
        Step("square E", least(Norm(T(E) * E), N), "replacement", ("copies", "E")),
        *isometric(E, "E", N),
        *(Step(f"{name}^T", equal(Norm(T(each)), Norm(each)), "transposition")
          for each, name in ((K, "Y"), (Q, "Q"), (B, "B"))),
        Step("first factors", least(Norm(first), Norm(U) * Norm(T(K)) * Norm(K) * Norm(A)), "submultiplicative"),
        Step("squared", least(Norm(T(K)) * Norm(K), R**2), "arithmetic", ("norm Y", "Y^T")),
        Step("first", least(Norm(U) * Norm(T(K)) * Norm(K) * Norm(A), bounds[0]), "arithmetic", ("squared",)),
        Step("second factors", least(Norm(second), Norm(O) * Norm(T(Q)) * Norm(H) * Norm(V)), "submultiplicative"),
        Step("attended", least(Norm(T(Q)) * Norm(H), sympy.sqrt(c)), "arithmetic", ("Q^T", "norm Q", "norm H")),
        Step("second", least(Norm(O) * Norm(T(Q)) * Norm(H) * Norm(V), bounds[1]), "arithmetic", ("attended",)),
        Step("third factors", least(Norm(third), Norm(U) * Norm(T(K)) * Norm(L) * Norm(T(B)) * Norm(E)),
             "submultiplicative"),
        Step("outer", least(Norm(T(K)) * Norm(T(B)), R * beta), "arithmetic", ("Y^T", "norm Y", "B^T", "slopes")),
        Step("inner", least(Norm(L) * Norm(E), sympy.sqrt(lam * N)), "arithmetic", ("norm L", "norm E")),
        Step("routed", least(Norm(T(K)) * Norm(L) * Norm(T(B)) * Norm(E), sympy.sqrt(lam * N) * R * beta), "arithmetic",
             ("outer", "inner")),
        Step("third", least(Norm(U) * Norm(T(K)) * Norm(L) * Norm(T(B)) * Norm(E), bounds[2]), "arithmetic",
             ("routed",)),
        Step("triangle", least(Norm(first + second + third), Norm(first) + Norm(second) + Norm(third)), "triangle"),
        Step("sum", least(Norm(first + second + third), sum(bounds)), "arithmetic",
             ("triangle", "first factors", "first", "second factors", "second", "third factors", "third")),
        Step("theorem", least(Norm(J), sum(bounds)), "replacement", ("sum", "J")),
    ),
    conclusions=("theorem",),
    trial=trial,
)  # fmt: skip
