"""Products of values that depend on the data: gains from bounds on the values, as no such product has one by itself.

Throughout, L_x bounds the Jacobian of input x by one common node, E_x its entries, R_x its tokens (vectors along the
last dimension) and N_x the whole of it.
"""

from __future__ import annotations

import sympy

from fimtheory import layers
from fimtheory.claims import Claim, Quantity, Reference, Relation
from fimtheory.ensemble import Initial, Parameter, Parameters, no_parameters
from fimtheory.errors import ShapeError
from fimtheory.layers import Shape
from fimtheory.registry import Need, Site, rule
from fimtheory.sizes import checked_number, checked_size, equal, repeats_to, same_shape

__all__ = ["attention_gain", "gate_gain", "matmul_gain", "multiply_gain"]

_PRODUCT_RULE = Reference("horn2013", "section 5.6")
_BALL = Reference("fimtheory", "after castin2024")


def _torch(where: str) -> Reference:
    return Reference("torch", where)


# ---- shapes and tensors -----------------------------------------------------------------------------------------


@rule(layers.Multiply, quantity=Quantity.SHAPE, reference=_torch("aten.mul"))
def _multiply(site: Site) -> Shape:
    first, second = site.inputs
    if not same_shape(first, second):
        raise ShapeError(f"cannot multiply shapes {first} and {second} entry by entry; expected equal ones, or a Gate")
    return first


@rule(layers.Gate, quantity=Quantity.SHAPE, reference=_torch("aten.mul"))
def _gate(site: Site) -> Shape:
    shape, gate = site.inputs
    if not repeats_to(gate, shape):
        raise ShapeError(f"a gate of shape {gate} would enlarge an input of shape {shape}; put an Expand before it")
    return shape


@rule(layers.MatMul, quantity=Quantity.SHAPE, reference=_torch("aten.matmul"))
def _matmul(site: Site) -> Shape:
    first, second = site.inputs
    if min(len(first), len(second)) < 2 or not same_shape(first[:-2], second[:-2]):
        raise ShapeError(f"cannot multiply {first} and {second}: expected matrices with equal leading dimensions")
    (*leading, rows, given), (*_, inner, columns) = first, second
    if site.layer.transpose_second:
        inner, columns = columns, inner
    if not equal(given, inner):
        raise ShapeError(f"cannot multiply {first} and {second}: {given} columns of the first meet {inner} rows")
    return (*leading, rows, columns)


@rule(
    layers.ScaledDotProductAttention,
    quantity=Quantity.SHAPE,
    reference=_torch("nn.functional.scaled_dot_product_attention"),
)
def _attention(site: Site) -> Shape:
    (query, key, value), layer = site.inputs, site.layer
    checked_number("scale", layer.scale)
    matched = min(len(shape) for shape in site.inputs) >= 2 and all(
        same_shape(query[:-2], shape[:-2]) for shape in (key, value)
    )
    if not matched or not equal(query[-1], key[-1]) or not equal(key[-2], value[-2]):
        raise ShapeError(
            f"q, k and v have shapes {query}, {key} and {value}; expected (..., N, d), (..., M, d) and (..., M, e) "
            "with equal leading dimensions"
        )
    if not isinstance(layer.bias, tuple):
        raise ShapeError(f"bias is {layer.bias!r}; expected the shape of the constant, or () for none")
    bias, scores = tuple(checked_size("a dimension of the bias", n) for n in layer.bias), (*query[:-1], key[-2])
    if not repeats_to(bias, (1, *scores)):
        raise ShapeError(f"a bias of shape {bias} does not fit the scores, which have shape {scores}")
    if bias and layer.causal:
        raise ShapeError("attention is causal and has a bias; put the causal mask into the bias, as minus infinity")
    return (*query[:-1], value[-1])


for _kind in (layers.Multiply, layers.Gate, layers.MatMul):
    rule(_kind, quantity=Quantity.PARAMETERS, reference=_torch("Tensor"))(no_parameters)


@rule(layers.ScaledDotProductAttention, quantity=Quantity.PARAMETERS, reference=_torch("attn_mask"))
def _score_bias(site: Site) -> Parameters:
    return (Parameter("", site.layer.bias, Initial.MASK),) if site.layer.bias else ()


# ---- gains ------------------------------------------------------------------------------------------------------


@rule(
    layers.Multiply,
    quantity=Quantity.GAIN,
    reference=_PRODUCT_RULE,
    needs=(Need(Quantity.ENTRY_BOUND, 0), Need(Quantity.ENTRY_BOUND, 1)),
)
def multiply_gain(site: Site) -> Claim:
    """Gain of a product entry by entry: ``L <= E_y L_x + E_x L_y``.

    Conditions: entries of x and y at most E_x and E_y; there is no bound without them.  Proof:
    ``d(x y) = diag(y) dx + diag(x) dy``, and the norm of a diagonal matrix is its largest magnitude.  Equality for
    x = y constant.

    >>> E_x, E_y, L_x, L_y = sympy.symbols("E_x E_y L_x L_y", nonnegative=True)
    >>> site = Site.of(layers.Multiply(), inputs=((4,), (4,)), premises=(E_x, E_y), gains=(L_x, L_y))
    >>> multiply_gain(site).expression
    E_x*L_y + E_y*L_x
    """
    (first, second), (first_gain, second_gain) = site.premises, site.gains
    return Claim(Relation.LE, second * first_gain + first * second_gain, _PRODUCT_RULE)


@rule(
    layers.Gate,
    quantity=Quantity.GAIN,
    reference=_PRODUCT_RULE,
    needs=(Need(Quantity.ENTRY_BOUND, 0), Need(Quantity.NORM_BOUND, 0), Need(Quantity.ENTRY_BOUND, 1)),
)
def gate_gain(site: Site) -> Claim:
    """Gain of a gate: ``L <= E_g L_x + min(N_x, sqrt(m) E_x) L_g``, m entries of x for each entry of g.

    Conditions: entries of x and g at most E_x and E_g, x of norm at most N_x.  Proof: ``d(x g) = diag(g) dx + A dg``
    with g repeated; column k of A holds the m entries of x that g_k multiplies, and different columns have no row in
    common, so ``||A||`` is the largest norm of a column, at most N_x and at most ``sqrt(m) E_x``.

    >>> E_x, N_x, E_g, L_x, L_g = sympy.symbols("E_x N_x E_g L_x L_g", nonnegative=True)
    >>> values, gains = (E_x, N_x, E_g), (L_x, L_g)
    >>> site = Site.of(layers.Gate(), inputs=((8, 3, 3), (8, 1, 1)), premises=values, gains=gains)
    >>> gate_gain(site).expression
    E_g*L_x + L_g*Min(3*E_x, N_x)
    """
    (entry, norm, gate), (gain, gate_gain) = site.premises, site.gains
    shared = sympy.sympify(sympy.prod(site.inputs[0])) / sympy.prod(site.inputs[1])
    column = sympy.Min(norm, sympy.sqrt(shared) * entry)
    return Claim(Relation.LE, gate * gain + column * gate_gain, _PRODUCT_RULE)


@rule(
    layers.MatMul,
    quantity=Quantity.GAIN,
    reference=_PRODUCT_RULE,
    needs=tuple(Need(q, slot) for slot in (0, 1) for q in (Quantity.TOKEN_NORM, Quantity.NORM_BOUND)),
)
def matmul_gain(site: Site) -> Claim:
    """Gain of a product of matrices: ``L <= b L_A + a L_B`` with ``a = min(N_A, sqrt(rows) R_A)``, and b likewise.

    Conditions: rows of A and B of norm at most R_A and R_B, the whole of each of norm at most N_A and N_B.  Proof:
    ``d(A B) = dA B + A dB`` for each pair of matrices, and ``||dA B||_F <= ||dA||_F ||B||_2`` where ``||B||_2`` is
    at most the Frobenius norm of B, hence at most N_B and at most ``sqrt(rows of B) R_B``.  Squares add over the
    leading dimensions.  The same for B^T, whose norm is that of B.

    >>> R_A, N_A, R_B, N_B, L_A, L_B = sympy.symbols("R_A N_A R_B N_B L_A L_B", nonnegative=True)
    >>> values, gains = (R_A, N_A, R_B, N_B), (L_A, L_B)
    >>> matmul_gain(Site.of(layers.MatMul(), inputs=((4, 9), (9, 5)), premises=values, gains=gains)).expression
    L_A*Min(N_B, 3*R_B) + L_B*Min(N_A, 2*R_A)
    """
    (row, norm, other_row, other_norm), (gain, other_gain) = site.premises, site.gains
    rows, other_rows = (sympy.sqrt(shape[-2]) for shape in site.inputs)
    left, right = sympy.Min(norm, rows * row), sympy.Min(other_norm, other_rows * other_row)
    return Claim(Relation.LE, right * gain + left * other_gain, _PRODUCT_RULE)


@rule(
    layers.ScaledDotProductAttention,
    quantity=Quantity.GAIN,
    reference=_BALL,
    needs=tuple(Need(Quantity.TOKEN_NORM, slot) for slot in (0, 1, 2)),
)
def attention_gain(site: Site) -> Claim:
    """Gain of softmax attention of N queries to M keys, in each of its heads.

    Statement: with s the magnitude of the scale, ``t = s R_q R_k``, ``c = N / (1 + (M - 1) e^(-2 t))`` and
    ``l = min(N/2, c)``::

        L <= sqrt(c) L_v + s R_v R_k L_q + s sqrt(l) R_v R_q L_k

    and c = N where attention is causal or has a bias.  Conditions: queries, keys and values of norm at most R_q, R_k
    and R_v (by head); every query sees a key.

    Proof: row i of the attention P is a distribution p over the keys, and
    ``d o_i = sum_j p_j dv_j + s Cov_p(v, k) dq_i + s V^T S_p (dK q_i)`` with ``S_p = diag(p) - p p^T``.
    (v) ``||P||_2^2 <= ||P||_inf ||P||_1``: rows add up to 1 and columns to at most c, because scores of a row
    differ by at most 2 t, so that no entry is above c / N.  A mask or a bias leaves entries of at most 1.
    (q) ``a^T Cov_p(v, k) b`` is a covariance of numbers in [-R_v, R_v] and [-R_k, R_k], whose variances are at most
    R_v^2 and R_k^2 (Popoviciu); the part is block diagonal over queries.
    (k) ``||V^T S_p||^2 <= ||Cov_p(v, v)|| ||S_p|| <= R_v^2 min(1/2, max p)`` and ``||dK q_i|| <= R_q ||dK||_F``;
    squares add over the N queries.  Squares of the outputs of different heads add, so the bounds hold for all
    heads together.

    >>> R_q, R_k, R_v, L_q, L_k, L_v = sympy.symbols("R_q R_k R_v L_q L_k L_v", nonnegative=True)
    >>> shapes, values, gains = ((8, 2), (5, 2), (5, 3)), (R_q, R_k, R_v), (L_q, L_k, L_v)
    >>> causal = layers.ScaledDotProductAttention(0.5, causal=True)
    >>> attention_gain(Site.of(causal, inputs=shapes, premises=values, gains=gains)).expression
    L_k*R_q*R_v + L_q*R_k*R_v/2 + 2*sqrt(2)*L_v
    """
    (query, key, value), (query_gain, key_gain, value_gain) = site.premises, site.gains
    layer, queries, keys = site.layer, sympy.sympify(site.inputs[0][-2]), site.inputs[1][-2]
    scale = abs(sympy.Rational(layer.scale))
    column = queries
    if not layer.causal and not layer.bias:
        column = queries / (1 + (keys - 1) * sympy.exp(-2 * scale * query * key))
    limited = sympy.Min(queries / 2, column)
    through_queries = scale * value * key * query_gain
    through_keys = scale * sympy.sqrt(limited) * value * query * key_gain
    return Claim(Relation.LE, sympy.sqrt(column) * value_gain + through_queries + through_keys, _BALL)
