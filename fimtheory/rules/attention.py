"""Multi-head self-attention on bounded tokens."""

from __future__ import annotations

import sympy

from fimtheory.claims import Claim, Condition, Quantity, Reference, Relation, Status
from fimtheory.layers import MultiHeadSelfAttention
from fimtheory.registry import Site, measure, rule
from fimtheory.symmetry import Symmetry

__all__ = ["attention_gain", "attention_jacobian_variance"]

LOGIT_NORM = measure(
    "logit norm",
    suffix="A",
    latex=r"\max_h \lVert W_{{Q,h}}^\top W_{{K,h}} \rVert_2 / \sqrt{{d_h}}",
    meaning="largest norm over heads of the bilinear form of the attention logits",
)
QUERY_SHIFT = measure(
    "query shift",
    suffix="q",
    latex=r"\max_h \lVert W_{{K,h}}^\top b_{{Q,h}} \rVert_2 / \sqrt{{d_h}}",
    meaning="largest norm over heads of the logit gradient that the query bias adds",
)
VALUE_NORM = measure(
    "value norm",
    suffix="V",
    latex=r"\bigl(\sum_h \lVert W_{{V,h}} \rVert_2^2\bigr)^{{1/2}}",
    meaning="norms of the value projections of all heads",
)
OUTPUT_NORM = measure(
    "output projection norm", suffix="O", latex=r"\lVert W_O \rVert_2", meaning="norm of the output projection"
)
_BALL = Reference("fimtheory", "after castin2024")


@rule(
    MultiHeadSelfAttention,
    quantity=Quantity.GAIN,
    reference=_BALL,
    needs=(Quantity.TOKEN_NORM,),
)
def attention_gain(site: Site) -> Claim:
    """Gain of softmax self-attention on tokens of norm at most R.

    Statement: with a = max_h ||W_Q^T W_K|| / sqrt(d_h), b = R a + max_h ||W_K^T b_Q|| / sqrt(d_h), N tokens,
    ``c = N / (1 + (N - 1) e^(-2 R b))`` and ``l = min(N/2, c)``::

        Lip <= ||W_O|| (sum_h ||W_V,h||^2)^(1/2) (a R^2 + min(sqrt(c (1 + (R b)^2)), sqrt(c) + sqrt(l) R b))

    Conditions: every token has norm at most R; there is no bound without one (kim2021).  Biases of keys cancel in
    the softmax, those of values and outputs are shifts.

    Proof: per head, before W_V, ``d o_i = Cov_i A dx_i + sum_j P_ij (dx_j + (x_j - m_i) b_i . dx_j)`` with
    ``||b_i|| <= b``, m_i and Cov_i the mean and covariance of the tokens under row i of the attention P.  The first
    part is block diagonal with ``||Cov_i|| <= R^2``.  For the second, test with a unit w: Cauchy-Schwarz under P_i
    gives ``sqrt(1 + b^2 Var_i(w . x)) (sum_j P_ij ||dx_j||^2)^(1/2)``; summing over i costs the largest column sum
    of P, at most c because the logits of a row differ by at most 2 R b.  Alternatively split it: ||P|| <= sqrt(c),
    and ``||X^T S_(P_i)||^2 <= ||Cov_i|| ||S_(P_i)|| <= R^2 min(1/2, max_j P_ij)``.  Heads are stacked.

    >>> R = sympy.Symbol("R", nonnegative=True)
    >>> site = Site.of(MultiHeadSelfAttention(4, 2), inputs=((3, 4),), node="mha", premises=(R,))
    >>> attention_gain(site).expression.subs(R, 0)
    mha_O*mha_V
    """
    logit, shift = site.measured("logit norm"), site.measured("query shift")
    value, output = site.measured("value norm"), site.measured("output projection norm")
    (radius,) = site.premises
    tokens = site.inputs[0][0]
    spread = radius * (radius * logit.symbol + shift.symbol)
    column = tokens / (1 + (tokens - 1) * sympy.exp(-2 * spread))
    limited = sympy.Min(sympy.sympify(tokens) / 2, column)
    routing = sympy.Min(
        sympy.sqrt(column) * sympy.sqrt(1 + spread**2), sympy.sqrt(column) + sympy.sqrt(limited) * spread
    )
    gain = output.symbol * value.symbol * (logit.symbol * radius**2 + routing)
    return Claim(Relation.LE, gain, _BALL, measured=(logit, shift, value, output))


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
