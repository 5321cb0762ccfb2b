"""Multi-head self-attention on bounded tokens: in a ball, or normalised by the layer before."""

from __future__ import annotations

from dataclasses import replace

import sympy

from fimtheory.claims import Claim, Condition, Quantity, Reference, Relation, Status
from fimtheory.layers import LayerNorm, MultiHeadSelfAttention, RMSNorm
from fimtheory.registry import Site, measure, rule
from fimtheory.steepness import steepness
from fimtheory.symmetry import Symmetry

__all__ = ["attention_gain", "attention_jacobian_variance", "normalised_attention_gain"]

LOGIT_NORM = measure(
    "logit norm",
    suffix="A",
    latex=r"\max_h \lVert W_{{K,h}}^\top W_{{Q,h}} \rVert_2 / \sqrt{{d_h}}",
    meaning="largest norm over heads of the bilinear form of the attention logits; a norm before it is folded in",
)
QUERY_SHIFT = measure(
    "query shift",
    suffix="q",
    latex=r"\max_h \lVert W_{{K,h}}^\top b_{{Q,h}} \rVert_2 / \sqrt{{d_h}}",
    meaning="largest norm over heads of the logit gradient that the query bias adds; a norm before it is folded in",
)
VALUE_NORM = measure(
    "value norm",
    suffix="V",
    latex=r"\bigl(\sum_h \lVert W_{{V,h}} \rVert_2^2\bigr)^{{1/2}}",
    meaning="norms of the value projections of all heads",
)
JOINT_VALUE_NORM = measure(
    "joint value norm",
    suffix="U",
    latex=r"\lVert W_V \rVert_2",
    meaning="norm of the value projection of all heads; a norm before it is folded in",
)
OUTPUT_NORM = measure(
    "output projection norm", suffix="O", latex=r"\lVert W_O \rVert_2", meaning="norm of the output projection"
)
LOGIT_COUPLING = measure(
    "logit coupling",
    suffix="H",
    latex=r"\lVert [U_h / t_h]_h \rVert_2 \, \lVert [t_h A_h]_h \rVert_2",
    meaning="the heads' products U of output and value projection side by side, times the bilinear forms A of their "
    "logits one above the other, balanced by some positive t; a norm before it is folded in",
)
SHIFT_COUPLING = measure(
    "shift coupling",
    suffix="T",
    latex=r"\lVert [U_h / t_h]_h \rVert_2 \, \lVert [t_h q_h]_h \rVert_2",
    meaning="the same with the gradients q of the logits that the query biases add; a norm before it is folded in",
)
_BALL = Reference("fimtheory", "after castin2024")


def _column_sum(tokens: sympy.Expr, spread: sympy.Expr) -> sympy.Expr:
    """Return the largest column sum of N rows of a softmax whose logits differ by at most twice the spread."""
    return tokens / (1 + (tokens - 1) * sympy.exp(-2 * spread))


@rule(
    MultiHeadSelfAttention,
    quantity=Quantity.GAIN,
    reference=_BALL,
    needs=(Quantity.TOKEN_NORM,),
)
def attention_gain(site: Site) -> Claim:
    """Gain of softmax self-attention on tokens of norm at most R.

    Statement: with the bilinear forms ``A_h = W_K,h^T W_Q,h / sqrt(d_h)`` and shifts ``q_h = W_K,h^T b_Q,h /
    sqrt(d_h)`` of the heads' logits, ``b = R max_h ||A_h|| + max_h ||q_h||``, N tokens, ``c = N / (1 + (N - 1)
    e^(-2 R b))``, ``l = min(N/2, c)``, and for any positive t_h (their own for A and for q)
    ``H = ||[W_O,h W_V,h / t_h]|| ||[t_h A_h]||`` and ``T = ||[W_O,h W_V,h / t_h]|| ||[t_h q_h]||``::

        Lip <= R^2 H + min(sqrt(c (1 + (R b)^2)) ||W_O|| (sum_h ||W_V,h||^2)^(1/2),
                           sqrt(c) ||W_O|| ||W_V|| + sqrt(l) R (R H + T))

    Conditions: every token has norm at most R; there is no bound without one (kim2021).  Biases of keys cancel in
    the softmax, those of values and outputs are shifts.

    Proof: per head, before W_V, ``d o_i = Cov_i A dx_i + sum_j P_ij (dx_j + (x_j - m_i) b_i . dx_j)`` with
    ``b_i = A x_i + q``, m_i and Cov_i the mean and covariance of the tokens under row i of the attention P.

    The first part is block diagonal: ``sum_h (W_O,h W_V,h / t_h) Cov_i,h (t_h A_h)``, with ``||Cov_i|| <= R^2``.
    In the second, P_h acts on tokens and W_V,h on features, so ``sum_h ||P_h X W_V,h^T||_F^2 <= c ||X W_V^T||_F^2``
    where c is the largest column sum of P, as ``||P||^2`` is at most that, and at most the c above because the
    logits of a row differ by at most 2 R b.  In the third, row i is ``sum_h (W_O,h W_V,h / t_h) X^T S_(P_i) (t_h
    b_i . dx_j)_j``, where ``||X^T S_(P_i)||^2 <= ||Cov_i|| ||S_(P_i)|| <= R^2 min(1/2, max_j P_ij)`` and ``max_j
    P_ij <= c / N``; b_i is the sum of A x_i and q, and the rows' squares add.

    Or keep the last two together and test a head with a unit w: Cauchy-Schwarz under P_i gives
    ``sqrt(1 + b^2 Var_i(w . x)) (sum_j P_ij ||dx_j||^2)^(1/2)``, and summing over i costs c; heads are stacked.

    >>> R = sympy.Symbol("R", nonnegative=True)
    >>> site = Site.of(MultiHeadSelfAttention(4, 2), inputs=((3, 4),), node="mha", premises=(R,))
    >>> attention_gain(site).expression.subs(R, 0)
    Min(mha_O*mha_U, mha_O*mha_V)
    """
    logit, shift = site.measured("logit norm"), site.measured("query shift")
    value, joint, output = (
        site.measured(kind) for kind in ("value norm", "joint value norm", "output projection norm")
    )
    coupling, offset = site.measured("logit coupling"), site.measured("shift coupling")
    (radius,) = site.premises
    tokens = sympy.sympify(site.inputs[0][0])
    spread = radius * (radius * logit.symbol + shift.symbol)
    column = _column_sum(tokens, spread)
    together = sympy.sqrt(column) * sympy.sqrt(1 + spread**2) * output.symbol * value.symbol
    routed = radius * (radius * coupling.symbol + offset.symbol)
    apart = sympy.sqrt(column) * output.symbol * joint.symbol + sympy.sqrt(sympy.Min(tokens / 2, column)) * routed
    gain = radius**2 * coupling.symbol + sympy.Min(together, apart)
    return Claim(Relation.LE, gain, _BALL, measured=(logit, shift, value, joint, output, coupling, offset))


@rule(LayerNorm, MultiHeadSelfAttention, quantity=Quantity.GAIN, reference=_BALL)
@rule(RMSNorm, MultiHeadSelfAttention, quantity=Quantity.GAIN, reference=_BALL)
def normalised_attention_gain(site: Site) -> Claim:
    """Gain of a layer norm, or an RMS norm, and the softmax self-attention that reads it, taken as one map.

    Statement: with n features, ``R = sqrt(n)``, the scale and the centring of the norm folded into the projections
    (``W diag(gamma) P`` instead of W, with P = I - 11^T/n for a layer norm and I for an RMS norm), its shift into the
    query bias (``b_Q + W_Q beta``), and A_h, q_h, b, c, l, H and T as for attention on tokens of norm at most R::

        Lip <= (R^2 H + sqrt(c) ||W_O|| ||W_V||) / sqrt(v + eps)
               + sqrt(l) R (R H + T) min(1 / sqrt(v + eps), 1 / (2 sqrt(eps)))

    Conditions: token variance (RMS norm: mean square) at least v, if v > 0 is assumed.

    Proof: as a function of the normalised tokens u_j, where ``||u_j|| = R r_j`` and ``r_j^2 = 1 - eps / s_j^2 < 1``
    with ``s_j^2 = var_j + eps``, attention is that of the folded weights; the norm's own Jacobian is at most 1/s_j.
    That bounds the first two parts by those of attention on the ball, over the root of v + eps.  For the third a
    token cannot be both far out and sensitive: ``1/s_j^2 = (1 - r_j^2) / eps``.  For a unit w put z_j = w . u_j /
    R, so |z_j| <= r_j, let p be a row of P, with mean m = sum_j p_j z_j, and h_j = z_j - m.  Then ``||w^T U^T S_p
    diag(1/s)||^2 <= (R^2 / eps) sum_j p_j^2 f_j`` with ``f_j = (1 - z_j^2) h_j^2``, and the sum is at most min(1/8,
    max p / 4), that is, a quarter of the usual min(1/2, max p): with g_j = z_j h_j,

        f_j <= 1/4 - m h_j - max(0, g_j - 1/2)^2,        a concave function of z_j, as g_j is convex in z_j,

    so ``sum p_j f_j <= 1/4``.  That settles it unless some p, say p_1, exceeds 1/2.  Then the sum is at most ``p^2
    f_1 + (1 - p)^2 F``, F the concave function at the mean y of the other z_j.  Put k = z_1 - y, so that h_1 = (1 -
    p) k and y - m = -p k.  If -y p k >= 1/2, F is (1 - y^2) (p k)^2, and the sum p^2 (1 - p)^2 k^2 (2 - z_1^2 -
    y^2) <= (1/16) 2 s (2 - s) <= 1/8 with s = z_1^2 + y^2 >= k^2 / 2.  Otherwise F = 1/4 + m p k, and the sum is
    ``(1 - p)^2 (1/2 + (2 p - 1) e - (p z_1 k - 1/2)^2)`` with e = p k^2 and p z_1 k - 1/2 > e - 1: if e <= 1, at
    most (1 - p)^2 (2 p - 1/2) <= 1/8; else at most (1 - x)^2 (2 + 4 x + x^2) / 16 <= 1/8 with x = 2 p - 1.

    >>> site = Site.of(RMSNorm(4, 1e-6), MultiHeadSelfAttention(4, 2), inputs=((1, 4),), node="f")
    >>> normalised_attention_gain(site).expression
    sqrt(2)*(2*f2∘f1_H + f2∘f1_T)/(2*sqrt(f1_eps)) + (f2_O*f2∘f1_U + 4*f2∘f1_H)/sqrt(f1_eps)
    """
    norm = replace(site, layers=site.layers[:1], nodes=site.nodes[:1])
    logit, shift = site.measured("logit norm"), site.measured("query shift")
    joint = site.measured("joint value norm")
    output = replace(site, layers=site.layers[1:], nodes=site.nodes[1:]).measured("output projection norm")
    coupling, offset = site.measured("logit coupling"), site.measured("shift coupling")
    tokens, radius = sympy.sympify(site.inputs[0][-2]), sympy.sqrt(site.inputs[0][-1])
    column = _column_sum(tokens, radius * (radius * logit.symbol + shift.symbol))
    steepest, epsilon, conditions = steepness(norm)
    sensitive = sympy.Min(steepest, 1 / (2 * sympy.sqrt(epsilon.symbol))) if conditions else steepest / 2
    direct = radius**2 * coupling.symbol + sympy.sqrt(column) * output.symbol * joint.symbol
    routed = sympy.sqrt(sympy.Min(tokens / 2, column)) * radius * (radius * coupling.symbol + offset.symbol)
    measured = (logit, shift, joint, output, coupling, offset, epsilon)
    return Claim(Relation.LE, direct * steepest + routed * sensitive, _BALL, conditions, measured)


@rule(
    MultiHeadSelfAttention,
    quantity=Quantity.JACOBIAN_VARIANCE,
    reference=Reference("fimtheory", "heuristic"),
    status=Status.HEURISTIC,
)
def attention_jacobian_variance(site: Site) -> Claim:
    """Growth of the Jacobian through attention at random initialisation, a heuristic.

    Statement: with projections of entries N(0, 1/D) and N tokens of mean square 1 the logits have variance 1 and
    ``E ||J_out||_F^2 / E ||J_in||_F^2`` is about ``2 e / N + 1 / D``.  Conditions: tokens independent, with mean
    square 1 (as after layer norm).  Status heuristic: it is within a few per cent for small logits and 25 to 40 %
    low at variance 1, so it never enters a certified number.

    >>> attention_jacobian_variance(Site.of(MultiHeadSelfAttention(4, 2), inputs=((3, 4),))).expression
    1/4 + 2*E/3
    """
    tokens, dim = site.inputs[0]
    condition = Condition("Tokens entering attention are independent, with mean square 1 (a heuristic).")
    growth = 2 * sympy.E / tokens + sympy.Integer(1) / dim
    return Claim(Relation.LE, growth, Reference("fimtheory", "heuristic"), (condition,), status=Status.HEURISTIC)


@rule(MultiHeadSelfAttention, quantity=Quantity.SYMMETRY, reference=Reference("hanin2020", "section 2"))
def attention_symmetry(site: Site) -> Symmetry:
    """Flipping the output projection flips the output (biases are zero at random init)."""
    return Symmetry.FRESH
