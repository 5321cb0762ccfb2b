"""Norms inside an attention layer against exact products, whatever the size of the weights and the denormal mode."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import log10_lam
from test_norms_oracles import KINDS, bounds_exactly, flushing, norm_of, rational, weights

import fimtheory as ft
from fimtheory import layers
from fimtheory.balls import upper_float
from fimtheory.measures import Place, measured_value

FACTORS = st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS))


def measured(kind, query, key, bias):
    """Measure ``kind`` of a layer with one head for each matrix of ``query`` and ``key``, (heads, d_h, heads * d_h)."""
    heads, _, dim = query.shape
    layer = layers.MultiHeadSelfAttention(dim, heads)
    projections = torch.cat([query.flatten(0, 1), key.flatten(0, 1), torch.zeros(dim, dim, dtype=query.dtype)])
    shifts = torch.cat([bias.flatten(), torch.zeros(2 * dim, dtype=query.dtype)])
    tensors = {"in_proj_weight": projections, "in_proj_bias": shifts}
    return measured_value(kind, Place((layer,), (tensors,), (3, dim), ("mha",)))[0]


def product(left, right):
    """Exact left^T right of matrices of rationals."""
    columns = [list(zip(*matrix, strict=True)) for matrix in (left, right)]
    return [[sum(a * b for a, b in zip(p, q, strict=True)) for q in columns[1]] for p in columns[0]]


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 2), st.sampled_from([1, 4]), FACTORS, st.integers(0, 2**32), st.booleans())
def test_products_per_head_bound_the_exact_ones(heads, size, kinds, seed, flush):
    shape = (heads, size, heads * size)
    query, key = (
        torch.stack([weights(kind, shape[1:], seed + 7 * k + h) for h in range(heads)]) for k, kind in enumerate(kinds)
    )
    bias = query[..., 0].clone()
    with flushing(flush):
        logit, shift = measured("logit norm", query, key, bias), measured("query shift", query, key, bias)
        uppers = [upper_float(value * math.isqrt(size)) for value in (logit, shift)]
    for head in range(heads):
        q, k, b = rational(query[head]), rational(key[head]), rational(bias[head][:, None])
        assert bounds_exactly(uppers[0], product(q, k))
        assert bounds_exactly(uppers[1], product(k, b))


def test_products_of_ordinary_weights_are_tight():
    query, key = torch.randn(2, 3, 8, 24, dtype=torch.float64)
    bias = torch.randn(3, 8, dtype=torch.float64)
    logit = max(norm_of(q.T @ k) for q, k in zip(query, key, strict=True)) / 8**0.5
    shift = max(norm_of(k.T @ b[:, None]) for k, b in zip(key, bias, strict=True)) / 8**0.5
    assert logit <= upper_float(measured("logit norm", query, key, bias)) <= logit * (1 + 1e-7)
    assert shift <= upper_float(measured("query shift", query, key, bias)) <= shift * (1 + 1e-7)


def test_products_beyond_float64_have_a_logarithm():
    huge = torch.full((1, 2, 2), 1e300, dtype=torch.float64)
    found = measured("logit norm", huge, huge, huge[..., 0])
    assert upper_float(found) is None
    assert ft.balls.log10_upper(found) == pytest.approx(math.log10(4 / 2**0.5) + 600)


def test_a_head_without_bias_has_no_query_shift():
    query, key = torch.randn(2, 1, 4, 4)
    assert measured("query shift", query, key, torch.zeros(1, 4)) == 0


@pytest.mark.parametrize("flush", [True, False])
def test_a_flushed_projection_times_a_huge_one_stays_in_the_bound(flush):
    builder = ft.Builder("attention")
    here = builder.add("x", layers.Input((2, 4)))
    here = builder.add("ln", layers.LayerNorm(4, eps=1.0), here)
    here = builder.add("mha", layers.MultiHeadSelfAttention(4, 1, bias=False), here)
    here = builder.add("select", layers.SelectToken(), here)
    builder.add("fc", layers.Linear(4, 2, bias=False), here)
    graph = builder.graph()
    first, second, unit = torch.eye(4, dtype=torch.float64)[0], torch.eye(4, dtype=torch.float64)[1], torch.eye(4)
    with flushing(False):
        projections = torch.zeros(12, 4, dtype=torch.float64)
        projections[0], projections[4], projections[8:] = first * 1e-200 * 1e-110, second * 1e280, unit * 1e-20
        state = {
            "ln.weight": torch.full((4,), 1e20, dtype=torch.float64),
            "ln.bias": torch.zeros(4, dtype=torch.float64),
            "mha.in_proj_weight": projections,
            "mha.out_proj.weight": unit.double(),
            "fc.weight": torch.stack([second, -second]),
        }
        module = ft.instantiate(graph, weights=state, dtype=torch.float64)
        x = torch.tensor([[0.0, 3.0, -3.0, 0.0], [0.0, -3.0, 3.0, 0.0]], dtype=torch.float64)
        lam = log10_lam(module, x)
    assert lam > 18
    with flushing(flush):
        assert ft.evaluate(ft.derive(graph), module).log10 >= lam


def test_a_coupling_behind_a_norm_of_two_features_is_at_most_that_without_balancing():
    attention, norm = layers.MultiHeadSelfAttention(2, 2, bias=False), layers.LayerNorm(2, 1e-5)
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        scale, rows, output = (torch.randn(n, 2, generator=generator, dtype=torch.float64) for n in (1, 6, 2))
        tensors = {"in_proj_weight": rows, "out_proj.weight": output}
        of_norm = {"weight": scale[0], "bias": torch.zeros(2, dtype=torch.float64)}
        place = Place((norm, attention), (of_norm, tensors), (3, 2), ("n", "mha"))
        centred = rows * scale @ (torch.eye(2, dtype=torch.float64) - 0.5)  # all rows are multiples of (1, -1)
        query, key, value = centred.split(2)
        left = torch.cat([output[:, [h]] @ value[[h]] for h in range(2)], 1)
        right = torch.cat([key[[h]].T @ query[[h]] for h in range(2)])
        found = upper_float(measured_value("logit coupling", place)[0])
        assert found <= norm_of(left) * norm_of(right) * (1 + 1e-7)
